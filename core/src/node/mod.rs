//! A running node: the one place where everything is wired.
//!
//! [`Cluster::builder`] takes what the application is made of; [`Builder::start`] opens the data directory and the
//! store, founds or joins a cluster, and starts the lanes and the tasks. What it gives is a [`Cluster`]: this node's
//! handle to the cluster, from which the application takes its [`Service`]s.
//!
//! The order of a start is the order of trust: nothing is answered before the directory is known to be ours, whole,
//! and of this cluster; services are announced only once the hints that this node keeps have been counted.

mod clock;
mod config;
mod control;
mod health;
mod inbound;
mod joining;
mod reluctance;
mod sequence;
mod shared;
mod start;
mod status;

pub(crate) use clock::NodeClock;
pub use config::{Founding, NodeConfig, Origin, REPLICAS_DEFAULT};
pub use joining::JoinError;
pub use sequence::ChangeError;
pub(crate) use shared::{Admitted, Outgoing, Outlook, RECONNECT_PAUSE, Shared};
pub use start::{Builder, StartError};
pub use status::{MemberState, MemberStatus, NodeState, NodeStatus, StartPhase, StoreState};

use crate::{
    env::TaskHandle,
    handoff::{hints, refill},
    membership::{
        DataDir,
        forming::FORMAT,
        gossip::{Facts, Load},
    },
    request::{Service, Table},
    ring::Occupant,
    sequence::{Root, State},
    table::{Entry, Keyed},
    topology::{Member, Topology},
    transport::Peer,
    vnode::Vnode,
};
use health::Health;
use reluctance::Reluctance;
use rondel_proto::{
    hello::Hello,
    id::{Hlc, NodeId},
};
use sequence::Sequence;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};
use tokio::sync::watch;

/// How often the node records that it is alive, and how far ahead of its clock it may give times until then.
const ALIVE_PERIOD: Duration = Duration::from_secs(60);
/// How long a node that is ready waits for a majority of the members before it takes requests without them.
const MEETING_MAX: Duration = Duration::from_secs(5);
/// How often it looks, and tells the others that it is there.
const MEETING_STEP: Duration = Duration::from_millis(100);
/// How much the others are told of why a node has withdrawn.
const REASON_CHARS_MAX: usize = 1000;

/// A node's handle to its cluster. Cheap to clone.
#[derive(Clone)]
pub struct Cluster(Arc<Node>);

impl std::fmt::Debug for Cluster {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Cluster(node {})", self.0.shared.me)
    }
}

pub(crate) struct Node {
    pub(crate) shared: Arc<Shared>,
    health: Health,
    reluctance: Reluctance,
    sequence: Sequence,
    data: Arc<DataDir>,
    clock: Arc<NodeClock>,
    name: String,
    founder_token: Mutex<Option<String>>,
    hello: Hello,
    tasks: Mutex<Vec<TaskHandle>>,
}

impl Cluster {
    /// The service of a vnode that was given to the builder.
    ///
    /// # Panics
    /// If it was not: a mistake of the application, shown by its first start.
    #[must_use]
    pub fn service<V: Vnode>(&self) -> Service<V> {
        let services = &self.0.shared.host.services;
        let index = services.iter().position(|service| service.name == V::NAME);
        let Some(index) = index else {
            panic!("service `{}` was not given to the builder: add `.service::<…>(config)`", V::NAME)
        };
        Service::new(self.0.shared.clone(), index)
    }

    /// The table of an entry that was given to the builder.
    ///
    /// # Panics
    /// As [`Cluster::service`].
    #[must_use]
    pub fn table<E: Entry>(&self) -> Table<E> {
        self.service::<Keyed<E>>()
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.0.shared.me
    }

    /// This node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Where it listens for other nodes.
    #[must_use]
    pub fn listen_addr(&self) -> SocketAddr {
        self.0.shared.transport.local_addr()
    }

    /// The environment that the node runs in.
    #[must_use]
    pub fn env(&self) -> &crate::env::Env {
        &self.0.shared.env
    }

    /// The token that lets founding members in; none unless this node founded the cluster.
    #[must_use]
    pub fn join_token(&self) -> Option<String> {
        self.0.founder_token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What state the node is in, and every change of it.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<NodeState> {
        self.0.shared.state.subscribe()
    }

    /// Waits until the node serves.
    ///
    /// # Errors
    /// Why it never will, if it has failed.
    pub async fn serving(&self) -> Result<(), String> {
        let mut state = self.state();
        loop {
            match &*state.borrow_and_update() {
                NodeState::Serving => return Ok(()),
                NodeState::Failed(why) => return Err(why.clone()),
                NodeState::Stopped => return Err("the node has been stopped".into()),
                NodeState::Starting | NodeState::Forming { .. } | NodeState::Meeting { .. } => {}
            }
            if state.changed().await.is_err() {
                return Err("the node has been stopped".into());
            }
        }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// What the node knows of itself and of the others.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        self.0.status()
    }

    /// Brings the gauges up to date, for a scrape.
    pub fn refresh_metrics(&self) {
        self.0.publish_metrics();
    }

    /// Ends the node: takes no new requests, answers those under way, makes everything durable, closes the store.
    pub async fn shutdown(&self) {
        self.0.shutdown().await;
    }
}

impl Node {
    fn answers_members(&self) -> bool {
        self.shared.state.borrow().answers_members()
    }

    fn occupant(&self) -> Occupant {
        Occupant { node: self.shared.me, store: self.data.store() }
    }

    /// Takes in a newly decided state.
    fn learnt(self: &Arc<Self>, state: &Arc<State>, root: Root) {
        let me = self.occupant();
        let peers = |bulk: bool| -> Vec<Peer> {
            let others = state.topology.members.iter().filter(|member| member.node != me.node);
            let peer = |member: &crate::sequence::Member| {
                let addr = if bulk { &member.bulk_addr } else { &member.addr };
                Some(Peer { node: member.node, addr: addr.parse().ok()?, fingerprint: member.fingerprint })
            };
            others.filter_map(peer).collect()
        };
        let hello = Hello { lineage: state.lineage, epoch: state.epoch, root: root.0, ..self.hello.clone() };
        for (transport, bulk) in [(&self.shared.transport, false), (&self.shared.bulk, true)] {
            transport.set_hello(hello.clone());
            transport.set_peers(&peers(bulk));
        }
        match topology_of(state, root, me) {
            Some(topology) => self.shared.set_topology(Arc::new(topology)),
            None => self.go_on_forming(state),
        }
        let members: Vec<NodeId> = state.topology.members.iter().map(|member| member.node).collect();
        self.reluctance.set_members(&members);
        self.health.set_members(&self.shared, members);
        self.step();
    }

    /// Goes on to the next state that the node is ready for.
    fn step(self: &Arc<Self>) {
        let before = self.shared.state.borrow().clone();
        if !matches!(before, NodeState::Starting | NodeState::Forming { .. }) {
            return;
        }
        let Some(topology) = self.shared.topology() else { return };
        let me = topology.members.get(&self.shared.me);
        match me {
            Some(member) if member.occupant == topology.me() => {
                let node = self.clone();
                self.shared.env.spawn("begin-serving", async move { node.begin_serving(topology).await });
            }
            Some(_) => self.fail(
                "this node's store is not the one that the cluster knows: it was emptied or replaced. Its slots must \
                 be filled from the replicas; until a release that can do that, restore the data directory or found \
                 the cluster anew",
            ),
            None => self.fail("this node is no member of the cluster any more: give it an empty data directory"),
        }
    }

    /// Counts the hints that are kept here before anybody relies on the count, and announces the services.
    async fn begin_serving(self: Arc<Self>, topology: Arc<Topology>) {
        hints::count(&self.shared, &topology).await;
        let needed = topology.members.len() / 2 + 1;
        let ready = |state: &mut NodeState| {
            let waited = matches!(state, NodeState::Starting | NodeState::Forming { .. });
            if waited {
                *state = NodeState::Meeting { present: 1, needed };
            }
            waited
        };
        if !self.shared.state.send_if_modified(ready) {
            return;
        }
        self.keep(self.shared.env.spawn("hints", hints::run(self.shared.clone())));
        self.keep(self.shared.env.spawn("refill", refill::run(self.shared.clone())));
        self.shared.news.notify_one();
        self.meet(&topology, needed).await;
        let serve = |state: &mut NodeState| {
            let met = matches!(state, NodeState::Meeting { .. });
            if met {
                *state = NodeState::Serving;
            }
            met
        };
        if self.shared.state.send_if_modified(serve) {
            tracing::info!(node = %self.shared.me, name = self.name, epoch = %topology.epoch, "the node serves");
        }
    }

    /// Waits until most members are known to serve, so that no write is acknowledged by this node alone only because
    /// it has not heard of the others; but not for long, as they may be down.
    async fn meet(&self, topology: &Topology, needed: usize) {
        let until = self.shared.env.now() + MEETING_MAX;
        while self.shared.env.now() < until {
            let peers = self.shared.peers();
            let serves = |node: &NodeId| {
                *node == self.shared.me || peers.get(node).is_some_and(|peer| peer.up && peer.heard.is_some())
            };
            let present = topology.members.keys().filter(|node| serves(node)).count();
            if present >= needed || !self.answers_members() {
                return;
            }
            self.shared.state.send_if_modified(|state| {
                let news = NodeState::Meeting { present, needed };
                let changed = matches!(state, NodeState::Meeting { .. }) && *state != news;
                if changed {
                    *state = news;
                }
                changed
            });
            self.shared.env.sleep(MEETING_STEP).await;
        }
        tracing::warn!(node = %self.shared.me, "too few members answer: serving without them");
    }

    /// Withdraws from service for good: something durable can't be relied on any more.
    pub(crate) fn fail(&self, why: &str) {
        let failed = |state: &mut NodeState| {
            let first = !matches!(state, NodeState::Failed(_) | NodeState::Stopped);
            if first {
                *state = NodeState::Failed(why.to_owned());
            }
            first
        };
        if self.shared.state.send_if_modified(failed) {
            tracing::error!(node = %self.shared.me, why, "the node withdraws from service");
            self.shared.news.notify_one();
        }
    }

    fn on_clash(&self, whose: NodeId) {
        if whose == self.shared.me {
            self.fail(
                "the other members know a later run of this node. Either another process runs on a copy of its data \
                 directory: stop both, and start the one whose data is to stay. Or the directory was restored from an \
                 older copy: put the newer one back, or keep this node down",
            );
        } else {
            let name =
                self.shared.topology().and_then(|topology| Some(topology.members.get(&whose)?.name.clone()));
            tracing::error!(
                node = %whose,
                name,
                "two processes claim to be this member: one of them runs on a copy of the other's data directory; stop \
                 both, and start the one whose data is to stay"
            );
        }
    }

    /// Whether another owner should coordinate, as requests here and the other nodes are told.
    fn is_reluctant(&self) -> bool {
        let reluctant = self.reluctance.is_reluctant(self.shared.env.now());
        self.shared.reluctant.store(reluctant, Ordering::Relaxed);
        reluctant
    }

    fn own_facts(&self) -> Facts {
        let serving = self.answers_members();
        let codes = self.shared.host.services.iter().map(|service| service.code);
        let topology = self.shared.topology();
        let hints = topology.as_ref().map(|topology| self.shared.hints.by_node(topology)).unwrap_or_default();
        let (lineage, epoch, root) =
            topology.map(|topology| (topology.lineage, topology.epoch, topology.root)).unwrap_or_default();
        Facts {
            boot: self.hello.boot,
            nonce: self.hello.nonce,
            store: self.data.store(),
            addrs: Vec::new(),
            services: if serving { codes.collect() } else { Vec::new() },
            lineage,
            epoch,
            root,
            format: FORMAT,
            load: Load {
                queued_requests: self.shared.host.queued() as u64,
                stored_bytes: self.shared.durable.stats().file_bytes,
                free_bytes: 0,
            },
            hints: hints.into_iter().collect(),
            reluctant: self.is_reluctant(),
            lacking_ppm: u32::try_from(self.shared.durable.stats().gap_ppm).unwrap_or(u32::MAX),
            withdrawn: self.shared.withdrawn().as_deref().map(cut).unwrap_or_default(),
        }
    }

    /// Records now and then that the node is alive, and how far its clock may have gone.
    async fn run_alive(self: Arc<Self>) {
        loop {
            let now = self.clock.next(self.shared.env.unix_ms(), Hlc(0));
            let ahead = u64::try_from(2 * ALIVE_PERIOD.as_millis()).unwrap_or(u64::MAX);
            let bound = Hlc(now.0.saturating_add(ahead << 16));
            let data = self.data.clone();
            let recorded =
                self.shared.env.block(move || data.set_alive(now).and_then(|()| data.set_clock_bound(bound)));
            if let Ok(Err(error)) = recorded.await {
                self.fail(&format!("the data directory can't be written: {error}"));
                return;
            }
            self.shared.env.sleep(ALIVE_PERIOD).await;
        }
    }

    /// Withdraws when the store stops.
    async fn run_store_watch(self: Arc<Self>) {
        let mut progress = self.shared.durable.progress();
        loop {
            let failed = progress.borrow_and_update().failed.clone();
            if let Some(error) = failed {
                self.fail(&format!("the store has stopped: {error}"));
                return;
            }
            if progress.changed().await.is_err() {
                return;
            }
        }
    }

    fn keep(&self, task: TaskHandle) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }

    async fn shutdown(self: &Arc<Self>) {
        let stop = |state: &mut NodeState| std::mem::replace(state, NodeState::Stopped) != NodeState::Stopped;
        if !self.shared.state.send_if_modified(stop) {
            return;
        }
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        self.shared.transport.close(Duration::from_secs(2)).await;
        self.shared.bulk.close(Duration::from_millis(100)).await;
        if let Err(error) = self.shared.durable.close().await {
            tracing::error!(%error, "the store did not close cleanly; what was acknowledged is durable all the same");
        }
        tracing::info!(node = %self.shared.me, "the node has stopped");
    }
}

/// What others are told of a reason.
fn cut(why: &str) -> String {
    why.chars().take(REASON_CHARS_MAX).collect()
}

fn topology_of(state: &State, root: Root, me: Occupant) -> Option<Topology> {
    let placement = state.topology.placement.clone()?;
    let member = |member: &crate::sequence::Member| {
        let addr = member.addr.parse().ok()?;
        let bulk_addr = member.bulk_addr.parse().ok()?;
        let of = Member {
            occupant: member.occupant(),
            name: member.name.clone(),
            addr,
            bulk_addr,
            fingerprint: member.fingerprint,
            zone: member.zone.clone(),
            valid: member.status == crate::sequence::MemberStatus::Valid,
        };
        Some((member.node, of))
    };
    let members: BTreeMap<NodeId, Member> = state.topology.members.iter().filter_map(member).collect();
    let decided = (state.lineage, state.epoch, root.0);
    Some(Topology::new(decided, state.topology.name.clone(), members, placement, me))
}
