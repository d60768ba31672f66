//! What the parts of a running node share: who is up, where requests go, what is known of the peers.

use super::NodeState;
use crate::{
    env::{Env, Rng},
    handoff::HintLedger,
    metrics::Metrics,
    mutant::Mutants,
    reply::{FailureCode, Outcome, ReplyTo},
    request::score::{HedgeBudget, Score},
    store::{Admission, Store},
    topology::Topology,
    transport::Transport,
    vnode::{
        Storage,
        host::{Host, RowRequest, core_message},
    },
};
use bytes::Bytes;
use dashmap::DashMap;
use rondel_proto::{
    frame::{Head, flags},
    id::NodeId,
};
use rustc_hash::FxBuildHasher;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// What liveness and gossip say of a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PeerStatus {
    /// It answers.
    pub(crate) up: bool,
    /// It answers, but slowly: still written to, asked last.
    pub(crate) demoted: bool,
    /// It would rather not coordinate updates.
    pub(crate) reluctant: bool,
    /// Its store has lost rows that have not come back yet.
    pub(crate) lacking: bool,
    /// The codes of the services that it serves; none while it has not said. It is asked then, and may refuse.
    pub(crate) services: Option<Vec<u32>>,
    /// The hints that it last said it keeps, by the node that they are for.
    pub(crate) hints: BTreeMap<NodeId, u64>,
    /// Which run of it that is.
    pub(crate) run: (u64, u64),
    /// It is as new as this node, and has been up ever since: it has missed only what others say that they keep for it.
    pub(crate) newborn: bool,
    /// When this node last saw it come up, or heard of a new run.
    pub(crate) up_since: Option<Instant>,
    /// When this node last heard what it keeps, or that this is still so.
    pub(crate) heard: Option<Instant>,
}

impl PeerStatus {
    /// Notes that the peer has just said what is known of it. One that serves nothing does not know yet what it keeps.
    pub(super) fn hear(&mut self, now: Instant) {
        if self.services.as_ref().is_some_and(|services| !services.is_empty()) {
            self.heard = Some(now);
        }
    }

    fn serves(&self, service: u32) -> bool {
        self.services.as_ref().is_none_or(|services| services.contains(&service))
    }
}

/// An owner that was down may lack what it missed for at most this long after its return (PROTOCOLS §2).
const BEHIND_MAX: Duration = Duration::from_secs(60);
/// Nodes that are formatted to form a cluster meet within this time.
const BIRTH_MAX: Duration = Duration::from_secs(10);
/// What a peer says of its hints may have been on its way for this long.
const FACTS_AGE_MAX: Duration = Duration::from_secs(5);
/// How long a request waits before it is sent once more over a new connection: longer than the first pause between
/// two attempts to connect.
pub(crate) const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Shards of the maps that many threads look into. Fixed: a simulation runs alike on every machine.
pub(crate) const MAP_SHARDS: usize = 16;

pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) me: NodeId,
    pub(crate) host: Host,
    pub(crate) durable: Arc<dyn Store>,
    pub(crate) memory: Arc<dyn Store>,
    pub(crate) transport: Transport,
    pub(crate) bulk: Transport,
    pub(crate) metrics: Metrics,
    pub(crate) mutants: Mutants,
    /// How much of what the store has lost is fetched from other owners in a second.
    pub(crate) refill_bytes_per_s: u64,
    pub(crate) hints: Arc<HintLedger>,
    pub(crate) hedges: HedgeBudget,
    /// Woken when a peer came up: its hints may go.
    pub(crate) peer_up: tokio::sync::Notify,
    /// Woken when this node has news for the others.
    pub(crate) news: tokio::sync::Notify,
    /// Whether another owner should rather coordinate updates.
    pub(crate) reluctant: AtomicBool,
    /// What state the node is in.
    pub(crate) state: watch::Sender<NodeState>,
    topology: RwLock<Option<Arc<Topology>>>,
    peers: RwLock<Arc<BTreeMap<NodeId, PeerStatus>>>,
    scores: DashMap<NodeId, Score, FxBuildHasher>,
    rng: Mutex<Rng>,
    started: Instant,
    first_run: bool,
}

/// The parts that a node is wired from.
pub(crate) struct Parts {
    pub(crate) env: Env,
    /// Its data directory was never opened before.
    pub(crate) first_run: bool,
    pub(crate) me: NodeId,
    pub(crate) host: Host,
    pub(crate) durable: Arc<dyn Store>,
    pub(crate) memory: Arc<dyn Store>,
    pub(crate) transport: Transport,
    pub(crate) bulk: Transport,
    pub(crate) metrics: Metrics,
    pub(crate) mutants: Mutants,
    pub(crate) refill_bytes_per_s: u64,
    pub(crate) hints: Arc<HintLedger>,
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { env, first_run, me, host, durable, memory, transport, bulk, metrics, .. } = parts;
        let Parts { mutants, refill_bytes_per_s, hints, .. } = parts;
        let (rng, started) = (Mutex::new(env.rng()), env.now());
        Self {
            env,
            me,
            host,
            durable,
            memory,
            transport,
            bulk,
            metrics,
            mutants,
            refill_bytes_per_s,
            hints,
            hedges: HedgeBudget::default(),
            peer_up: tokio::sync::Notify::new(),
            news: tokio::sync::Notify::new(),
            reluctant: AtomicBool::new(false),
            state: watch::Sender::new(NodeState::Starting),
            topology: RwLock::new(None),
            peers: RwLock::default(),
            scores: DashMap::with_capacity_and_hasher_and_shard_amount(64, FxBuildHasher, MAP_SHARDS),
            rng,
            started,
            first_run,
        }
    }

    /// Why the node has withdrawn from service, if it has.
    pub(crate) fn withdrawn(&self) -> Option<String> {
        match &*self.state.borrow() {
            NodeState::Failed(why) => Some(why.clone()),
            _ => None,
        }
    }

    /// The decided topology; none until the cluster is formed.
    pub(crate) fn topology(&self) -> Option<Arc<Topology>> {
        self.topology.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The topology, for a request that begins here.
    ///
    /// # Errors
    /// Why the node takes none.
    pub(crate) fn topology_for_requests(&self) -> Result<Arc<Topology>, String> {
        if let Some(reason) = self.state.borrow().reason() {
            return Err(reason);
        }
        self.topology().ok_or_else(|| "it has no topology".into())
    }

    pub(crate) fn set_topology(&self, topology: Arc<Topology>) {
        *self.topology.write().unwrap_or_else(PoisonError::into_inner) = Some(topology);
    }

    pub(crate) fn peers(&self) -> Arc<BTreeMap<NodeId, PeerStatus>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces what is known of the peers; wakes the hint scheduler when one came up, or is another run of itself.
    pub(crate) fn set_peers(&self, peers: BTreeMap<NodeId, PeerStatus>) {
        let before = std::mem::replace(
            &mut *self.peers.write().unwrap_or_else(PoisonError::into_inner),
            Arc::new(peers),
        );
        let was_since =
            |node: &NodeId| before.get(node).filter(|peer| peer.up).and_then(|peer| peer.up_since);
        if self.peers().iter().any(|(node, peer)| peer.up && peer.up_since != was_since(node)) {
            self.peer_up.notify_one();
        }
    }

    pub(crate) fn store(&self, storage: Storage) -> &Arc<dyn Store> {
        match storage {
            Storage::Durable => &self.durable,
            Storage::Memory => &self.memory,
        }
    }

    /// A random number below `bound`.
    pub(crate) fn random_below(&self, bound: u64) -> u64 {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).below(bound)
    }

    pub(crate) fn random_u128(&self) -> u128 {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        u128::from(rng.u64()) << 64 | u128::from(rng.u64())
    }

    pub(crate) fn score(&self, node: NodeId) -> Score {
        self.scores.get(&node).map(|score| *score).unwrap_or_default()
    }

    /// Sends a request for a row to a node, this one included. Exactly one answer comes, by `reply`.
    pub(crate) fn send(self: &Arc<Self>, to: NodeId, service: usize, message: Outgoing, reply: ReplyTo) {
        if to == self.me {
            return self.send_to_self(service, message, reply);
        }
        let once_more = core_message::ALL.iter().any(|(harmless, _)| *harmless == message.head.message);
        self.send_to_peer(to, message, once_more, reply);
    }

    /// Core's own messages do no harm twice. One that a lost connection took along is sent once more: the peer may have
    /// been restarted, and be there again. One that never left fails at once, and goes to another.
    fn send_to_peer(self: &Arc<Self>, to: NodeId, message: Outgoing, once_more: bool, mut reply: ReplyTo) {
        let accepted = reply.take_accepted();
        let sent = self.env.now();
        let head = Head { deadline_us: micros_until(message.deadline, sent), ..message.head };
        let (key, body) = (message.key.clone(), message.body.clone());
        self.scores.entry(to).or_default().sent();
        let shared = self.clone();
        let reply = ReplyTo::new(move |outcome: Outcome| {
            // A lazy write is durable when others are: that says nothing of how fast the peer is.
            let timed = outcome.is_ok() && message.head.flags & flags::LAZY == 0;
            let after = timed.then(|| shared.env.now().saturating_duration_since(sent));
            shared.scores.entry(to).or_default().answered(after);
            let lost = matches!(&outcome, Err(failure) if failure.code == FailureCode::Disconnected);
            if lost && once_more && shared.env.now() + RECONNECT_PAUSE < message.deadline {
                let env = shared.env.clone();
                env.clone().spawn("send-again", async move {
                    env.sleep(RECONNECT_PAUSE).await;
                    shared.send_to_peer(to, message, false, reply);
                });
            } else {
                reply.send(outcome);
            }
        });
        self.transport.request(to, head, &key, body, reply.or_accepted(accepted));
    }

    /// As [`Shared::send`], on the connections for bulk transfers.
    pub(crate) fn send_bulk(&self, to: NodeId, service: usize, message: Outgoing, reply: ReplyTo) {
        if to == self.me {
            return self.send_to_self(service, message, reply);
        }
        let Outgoing { head, key, body, deadline } = message;
        let head = Head { deadline_us: micros_until(deadline, self.env.now()), ..head };
        self.bulk.request(to, head, &key, body, reply);
    }

    fn send_to_self(&self, service: usize, message: Outgoing, reply: ReplyTo) {
        let Outgoing { head, key, body, deadline } = message;
        match self.topology() {
            Some(topology) => {
                self.host.request(&topology, service, RowRequest { head, key, body, deadline, reply });
            }
            None => reply.fail(FailureCode::NotServing),
        }
    }

    /// Whether a new write for a service is welcome, or why not.
    pub(crate) fn admits_writes(&self, service: usize) -> Result<Admitted, FailureCode> {
        match self.store(self.host.services[service].storage).admission() {
            Admission::Open => Ok(Admitted::Now),
            Admission::Slow => Ok(Admitted::Later),
            Admission::Full => Err(FailureCode::Overloaded),
            Admission::DiskFull => Err(FailureCode::NoRoom),
        }
    }

    /// Whether this node was formatted just now.
    pub(crate) fn is_newborn(&self) -> bool {
        self.first_run && self.env.now().saturating_duration_since(self.started) < BIRTH_MAX
    }

    /// What requests for a service need to know of the peers, looked up once per request.
    pub(crate) fn outlook(&self, service: u32) -> Outlook {
        let reluctant = self.reluctant.load(Ordering::Relaxed);
        let (now, peers) = (self.env.now(), self.peers());
        let (started, first_run) = (self.started, self.first_run);
        // Asked of those that came up lately only; at most times there are none.
        let lately = |peer: &PeerStatus| peer.up_since.is_some_and(|since| now < since + BEHIND_MAX);
        let topology = peers.values().any(lately).then(|| self.topology()).flatten();
        let own_hints = topology.map(|topology| self.hints.by_node(&topology)).unwrap_or_default();
        let (me, lacking) = (self.me, self.durable.has_gaps());
        Outlook { peers, me, reluctant, lacking, service, now, started, first_run, own_hints }
    }
}

/// When a new write may begin.
pub(crate) enum Admitted {
    Now,
    /// The backlog is near its bound: a client's write waits a little.
    Later,
}

/// A request on its way to one node.
#[derive(Clone)]
pub(crate) struct Outgoing {
    pub(crate) head: Head,
    pub(crate) key: Bytes,
    pub(crate) body: Bytes,
    pub(crate) deadline: Instant,
}

/// Microseconds from `now` until `deadline`, at least 1.
pub(crate) fn micros_until(deadline: Instant, now: Instant) -> u32 {
    let left = deadline.saturating_duration_since(now).as_micros();
    u32::try_from(left).unwrap_or(u32::MAX).max(1)
}

/// The peers as one request sees them.
pub(crate) struct Outlook {
    peers: Arc<BTreeMap<NodeId, PeerStatus>>,
    me: NodeId,
    reluctant: bool,
    lacking: bool,
    service: u32,
    now: Instant,
    started: Instant,
    first_run: bool,
    /// The hints that this node keeps, by the node that they are for, where one of them came up lately.
    own_hints: BTreeMap<NodeId, u64>,
}

impl Outlook {
    /// Whether the node is alive and serves the service.
    pub(crate) fn up(&self, node: NodeId) -> bool {
        node == self.me || self.peers.get(&node).is_some_and(|peer| peer.up && peer.serves(self.service))
    }

    /// Whether the node answers slowly.
    pub(crate) fn demoted(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.demoted)
    }

    /// Whether the node would rather not coordinate updates.
    pub(crate) fn reluctant(&self, node: NodeId) -> bool {
        if node == self.me {
            self.reluctant
        } else {
            self.peers.get(&node).is_some_and(|peer| peer.reluctant)
        }
    }

    /// Whether the node's store has lost rows that have not come back yet: it is asked last. What it answers says by
    /// itself what it does not know.
    pub(crate) fn lacking(&self, node: NodeId) -> bool {
        if node == self.me { self.lacking } else { self.peers.get(&node).is_some_and(|peer| peer.lacking) }
    }

    /// Whether a member that is up says that it keeps hints for the node: there is more to come to it.
    pub(crate) fn owed(&self, node: NodeId) -> bool {
        self.peers.values().any(|peer| peer.up && peer.hints.get(&node).is_some_and(|hints| *hints > 0))
    }

    /// Whether a member keeps hints for the node. Of this node's own it is known where the node came up lately.
    pub(crate) fn hinted(&self, node: NodeId) -> bool {
        self.keepers(node).next().is_some()
    }

    /// The members that keep hints for the node.
    pub(crate) fn keepers(&self, node: NodeId) -> impl Iterator<Item = NodeId> {
        let own = some_for(node, &self.own_hints).then_some(self.me);
        let others = self.peers.iter().filter(move |(_, peer)| some_for(node, &peer.hints));
        own.into_iter().chain(others.map(|(keeper, _)| *keeper))
    }

    /// Whether the node came up lately and others still keep hints for it, or have not yet said. A new one can't have
    /// missed more than is said.
    pub(crate) fn behind(&self, node: NodeId) -> bool {
        let (since, newborn) = match node == self.me {
            true => (Some(self.started), self.first_run),
            false => self.peers.get(&node).map_or((None, false), |peer| (peer.up_since, peer.newborn)),
        };
        let Some(since) = since else { return false };
        if self.now.saturating_duration_since(since) >= BEHIND_MAX {
            return false;
        }
        let others = self.peers.iter().filter(|(other, peer)| **other != node && peer.up);
        let may_keep_some = |(_, peer): (_, &PeerStatus)| {
            let unsaid = !newborn && peer.heard.is_none_or(|heard| heard <= since + FACTS_AGE_MAX);
            unsaid || some_for(node, &peer.hints)
        };
        some_for(node, &self.own_hints) || others.into_iter().any(may_keep_some)
    }
}

fn some_for(node: NodeId, hints: &BTreeMap<NodeId, u64>) -> bool {
    hints.get(&node).is_some_and(|hints| *hints > 0)
}
