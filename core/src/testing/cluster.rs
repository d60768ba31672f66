//! A whole cluster in simulation: production nodes of your application, each with a machine and a disk of its own.
//!
//! A [`TestCluster`] knows how to start each node, finds its handle again after a restart, and says when a cluster has
//! come to rest. What befalls the nodes goes through it, so that nobody is left with the handle of a dead process.
//! It holds the handles; when the last copy of it goes, they go, and nothing of a node outlives the simulation.

use super::{Control, CrashMode, ip, rows::RowKind};
use crate::{
    Cluster,
    membership::JoinToken,
    node::{Builder, Founding, MemberState, NodeConfig, NodeState, Origin, StartError},
    ring::{Bits, Position},
    store::StoreError,
};
use rondel_proto::id::NodeId;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// Every node's data directory, on its own disk.
pub const DATA_DIR: &str = "/data";

const PORT: u16 = 7000;
const BULK_PORT: u16 = 7001;
/// How often a waiting test looks again.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often [`TestCluster::settle`] looks again.
const SETTLE_EVERY: Duration = Duration::from_millis(500);
/// For how long all must be at rest: a write that was just answered leaves its last hint within a second or two.
const QUIET: Duration = Duration::from_secs(3);
/// How long a cluster may take to settle: several of the slowest periods with which anything is tried again.
const SETTLE_MAX: Duration = Duration::from_secs(300);
/// How long a founding may take.
const FORM_MAX: Duration = Duration::from_secs(120);

/// The shape of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// How many nodes found it. They are numbered from 0.
    pub nodes: u32,
    /// How many partitions its ring has.
    pub bits: Bits,
    /// How many slots each partition has.
    pub replicas: u8,
}

impl Shape {
    /// So many nodes, 16 partitions, three slots each.
    ///
    /// # Panics
    /// Never: a ring of 16 partitions is one of those that may be asked for.
    #[must_use]
    pub fn of(nodes: u32) -> Self {
        Self { nodes, bits: Bits::of_count(16).expect("16 partitions are allowed"), replicas: 3 }
    }
}

/// A cluster of simulated nodes. Cheap to clone.
#[derive(Clone)]
pub struct TestCluster(Arc<Inner>);

struct Inner {
    control: Control,
    shape: Shape,
    application: Application,
    configure: Configure,
    started: Mutex<BTreeMap<u32, Started>>,
    token: Mutex<Option<JoinToken>>,
}

type Application = Box<dyn Fn(Builder) -> Builder + Send + Sync>;
type Configure = Box<dyn Fn(u32, &mut NodeConfig) + Send + Sync>;

/// What the last start of a node came to.
enum Started {
    Here(Cluster),
    Refused(String),
}

/// A cluster has not come to rest in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the cluster has not come to rest within {SETTLE_MAX:?}: {}", left.join("; "))]
pub struct Unsettled {
    /// What is left to be done, node by node.
    pub left: Vec<String>,
}

impl TestCluster {
    /// A cluster of nodes that run this application. None of them runs before [`TestCluster::form`].
    pub fn new(
        control: &Control,
        shape: Shape,
        application: impl Fn(Builder) -> Builder + Send + Sync + 'static,
    ) -> Self {
        Self::with_config(control, shape, application, |_, _| ())
    }

    /// As [`TestCluster::new`]; `configure` changes how a node is set up, at each start of it.
    pub fn with_config(
        control: &Control,
        shape: Shape,
        application: impl Fn(Builder) -> Builder + Send + Sync + 'static,
        configure: impl Fn(u32, &mut NodeConfig) + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            control: control.clone(),
            shape,
            application: Box::new(application),
            configure: Box::new(configure),
            started: Mutex::default(),
            token: Mutex::default(),
        }))
    }

    /// The world that the cluster lives in.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.0.control
    }

    /// Its shape.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.0.shape
    }

    /// The numbers of its nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<u32> {
        (0..self.0.shape.nodes).collect()
    }

    /// Starts all nodes and waits until all of them serve and see each other.
    ///
    /// # Panics
    /// If they do not found a cluster: with what each of them says.
    pub async fn form(&self) {
        let until = self.0.control.elapsed() + FORM_MAX;
        self.start(0);
        let token = loop {
            self.assert_forming(until);
            if let Some(token) = self.running(0).and_then(|founder| founder.join_token()) {
                break Some(token.parse().expect("a founder gives a token that can be read"));
            }
            if self.0.shape.nodes == 1 && self.running(0).is_some() {
                break None;
            }
            self.0.control.sleep(LOOK_EVERY).await;
        };
        *lock(&self.0.token) = token;
        self.nodes().into_iter().skip(1).for_each(|node| self.start(node));
        while !self.unrest(&self.nodes()).is_empty() {
            self.assert_forming(until);
            self.0.control.sleep(LOOK_EVERY).await;
        }
    }

    fn assert_forming(&self, until: Duration) {
        let refusals: Vec<_> = self.nodes().into_iter().filter_map(|node| self.refusal(node)).collect();
        assert!(refusals.is_empty(), "a founding member does not start: {}", refusals.join("; "));
        assert!(self.0.control.elapsed() < until, "no cluster has been formed within {FORM_MAX:?}");
    }

    /// The handle of a node, if it has started.
    #[must_use]
    pub fn running(&self, node: u32) -> Option<Cluster> {
        if !self.0.control.is_running(node) {
            return None;
        }
        match lock(&self.0.started).get(&node) {
            Some(Started::Here(cluster)) => Some(cluster.clone()),
            _ => None,
        }
    }

    /// The handle of a node, once it has started.
    ///
    /// # Panics
    /// If its start is refused: with the reason.
    pub async fn node(&self, node: u32) -> Cluster {
        loop {
            if let Some(cluster) = self.running(node) {
                return cluster;
            }
            if let Some(refusal) = self.refusal(node) {
                panic!("node {node} does not start: {refusal}");
            }
            self.0.control.sleep(LOOK_EVERY).await;
        }
    }

    /// Which of the nodes that run own the slots of a position, in the order of the slots.
    #[must_use]
    pub fn owners_of(&self, position: Position) -> Vec<u32> {
        let running = self.running_nodes();
        let Some((_, any)) = running.first() else { return Vec::new() };
        let number_of = |owner: NodeId| running.iter().find(|(_, node)| node.node() == owner);
        any.owners_of(position).into_iter().filter_map(number_of).map(|(number, _)| *number).collect()
    }

    /// Which of the nodes that run own no slot of a position: the stand-ins, should its owners be away.
    #[must_use]
    pub fn outsiders_of(&self, position: Position) -> Vec<u32> {
        let owners = self.owners_of(position);
        let numbers = self.running_nodes().into_iter().map(|(number, _)| number);
        numbers.filter(|number| !owners.contains(number)).collect()
    }

    fn running_nodes(&self) -> Vec<(u32, Cluster)> {
        self.nodes().into_iter().filter_map(|node| Some((node, self.running(node)?))).collect()
    }

    /// Whether a node runs and takes requests.
    #[must_use]
    pub fn is_serving(&self, node: u32) -> bool {
        self.running(node).is_some_and(|cluster| *cluster.state().borrow() == NodeState::Serving)
    }

    /// Whether a node runs and answers the requests of other members: it does so a little earlier than it takes some.
    #[must_use]
    pub fn answers_members(&self, node: u32) -> bool {
        self.running(node).is_some_and(|cluster| cluster.state().borrow().answers_members())
    }

    /// Why a node that was started does not take part, if it says that it will not: its start was refused, or it has
    /// withdrawn from service.
    #[must_use]
    pub fn refusal(&self, node: u32) -> Option<String> {
        if let Some(cluster) = self.running(node) {
            return match &*cluster.state().borrow() {
                NodeState::Failed(why) => Some(why.clone()),
                _ => None,
            };
        }
        match lock(&self.0.started).get(&node) {
            Some(Started::Refused(why)) => Some(why.clone()),
            _ => None,
        }
    }

    // What befalls nodes.

    /// Starts a node that does not run.
    pub fn start(&self, node: u32) {
        self.forget(node);
        self.boot(node, node);
    }

    /// Starts what is on another node's machine: a copy of a node's disk, as that node.
    ///
    /// The machine is one of its own, with an address of its own; give it a number that is no node's.
    pub fn start_copy(&self, machine: u32, of: u32) {
        self.forget(machine);
        self.boot(machine, of);
    }

    fn boot(&self, machine: u32, node: u32) {
        let inner = Arc::downgrade(&self.0);
        self.0.control.start(machine, move |env| {
            let inner = inner.clone();
            async move {
                let Some(builder) = inner.upgrade().map(|inner| {
                    let config = inner.config(machine, node);
                    (inner.application)(Cluster::builder(env, config))
                }) else {
                    return;
                };
                let started = builder.start().await;
                if let Some(inner) = inner.upgrade() {
                    inner.note(machine, started);
                }
            }
        });
    }

    /// Ends a node as SIGKILL does; what it wrote stays.
    pub fn kill(&self, node: u32) {
        self.0.control.kill(node);
        self.forget(node);
    }

    /// Cuts the power of a node; its disk loses of the unsynced what the mode says.
    pub fn crash(&self, node: u32, mode: CrashMode) {
        self.0.control.crash(node, mode);
        self.forget(node);
    }

    /// Kills a node if it runs, and starts it again on the disk that it has.
    pub fn restart(&self, node: u32) {
        self.kill(node);
        self.boot(node, node);
    }

    /// Stops a node as SIGSTOP does.
    pub fn pause(&self, node: u32) {
        self.0.control.pause(node);
    }

    /// Lets a paused node go on.
    pub fn resume(&self, node: u32) {
        self.0.control.resume(node);
    }

    /// Kills a node and empties its disk.
    pub fn wipe(&self, node: u32) {
        self.kill(node);
        self.0.control.disk(node).wipe();
    }

    /// Cuts both directions between all nodes of different groups.
    pub fn partition(&self, groups: &[&[u32]]) {
        self.0.control.net().partition(groups);
    }

    /// Cuts a node off from all others.
    pub fn isolate(&self, node: u32) {
        let others: Vec<u32> = self.nodes().into_iter().filter(|other| *other != node).collect();
        self.partition(&[&[node], &others]);
    }

    /// Mends every cut link.
    pub fn heal(&self) {
        self.0.control.net().heal();
    }

    fn forget(&self, node: u32) {
        // The handle is dropped outside of the lock: it is often the last of its node.
        let last = lock(&self.0.started).remove(&node);
        drop(last);
    }

    // Coming to rest.

    /// Waits until the cluster has come to rest: all nodes serve and see each other, every hint has been delivered,
    /// no node keeps a row of which it owns no slot, and what was lost with files has come back.
    ///
    /// # Errors
    /// [`Unsettled`] with what is left, after a time in which everything has been tried again several times.
    pub async fn settle(&self) -> Result<(), Unsettled> {
        self.settle_without(&[]).await
    }

    /// As [`TestCluster::settle`], in a cluster that has to do without some nodes: what is kept for them stays.
    ///
    /// # Errors
    /// As [`TestCluster::settle`].
    pub async fn settle_without(&self, lost: &[u32]) -> Result<(), Unsettled> {
        let control = &self.0.control;
        let nodes: Vec<u32> = self.nodes().into_iter().filter(|node| !lost.contains(node)).collect();
        let until = control.elapsed() + SETTLE_MAX;
        let mut at_rest_since = None;
        loop {
            let left = match self.unrest(&nodes) {
                left if left.is_empty() => self.strays(&nodes, lost.is_empty()).await,
                left => left,
            };
            if left.is_empty() {
                let since = *at_rest_since.get_or_insert_with(|| control.elapsed());
                if control.elapsed() - since >= QUIET {
                    return Ok(());
                }
            } else {
                at_rest_since = None;
            }
            if control.elapsed() >= until {
                return Err(Unsettled { left });
            }
            control.sleep(SETTLE_EVERY).await;
        }
    }

    /// What these nodes say of themselves and of each other that is not as it will be.
    fn unrest(&self, nodes: &[u32]) -> Vec<String> {
        // What a lost owner knows alone does not come back.
        let all = nodes.len() == self.nodes().len();
        let clusters: Vec<_> = nodes.iter().map(|node| (*node, self.running(*node))).collect();
        let ids: Vec<_> = clusters.iter().flat_map(|(_, cluster)| cluster).map(Cluster::node).collect();
        let mut left = Vec::new();
        for (node, cluster) in clusters {
            let Some(cluster) = cluster.filter(|_| self.is_serving(node)) else {
                let why = self.refusal(node).unwrap_or_else(|| "it has not started yet".into());
                left.push(format!("node {node} does not serve: {why}"));
                continue;
            };
            let status = cluster.status();
            for member in status.members.iter().filter(|member| ids.contains(&member.node)) {
                if member.state != MemberState::Up {
                    left.push(format!("node {node} takes {} for {:?}", member.name, member.state));
                }
            }
            let lacking = status.store.stats.gap_ppm;
            if lacking > 0 && all {
                left.push(format!("node {node} lacks rows at {lacking} millionths of all positions"));
            }
            for (of, hints) in status.hints.iter().filter(|(of, hints)| *hints > 0 && ids.contains(of)) {
                left.push(format!("node {node} keeps {hints} hints for {of}"));
            }
        }
        left
    }

    /// Rows that nodes keep for others. Where an owner is lost they stay, whatever happens.
    async fn strays(&self, nodes: &[u32], all: bool) -> Vec<String> {
        let mut left = Vec::new();
        for node in nodes {
            match self.rows(*node).await {
                Err(error) => left.push(format!("the rows of node {node} can't be read: {error}")),
                Ok(rows) => {
                    let foreign = |kind: &RowKind| matches!(kind, RowKind::Item { owned: false, .. }) && all;
                    let strays = rows.iter().filter(|row| foreign(&row.kind)).count();
                    if strays > 0 {
                        left.push(format!("node {node} keeps {strays} rows that it owns no slot of"));
                    }
                }
            }
        }
        left
    }

    /// Every row of every service that a node keeps.
    ///
    /// # Errors
    /// [`StoreError`]; `Closed` if the node does not run.
    pub async fn rows(&self, node: u32) -> Result<Vec<super::StoredRow>, StoreError> {
        match self.running(node) {
            Some(cluster) => cluster.stored_rows().await,
            None => Err(StoreError::Closed),
        }
    }
}

impl Inner {
    fn config(&self, machine: u32, node: u32) -> NodeConfig {
        let mut config = NodeConfig::new(DATA_DIR, format!("node-{node}"));
        // Enough for the rows of a test, and quickly made.
        config.store.filter_bytes = 32 << 10;
        config.store.log.store_files = 2;
        config.listen = (ip(machine), PORT).into();
        config.bulk_listen = (ip(machine), BULK_PORT).into();
        let token = lock(&self.token).clone().filter(|_| node != 0);
        config.origin = token.map_or_else(|| Origin::Found(self.founding()), Origin::Join);
        (self.configure)(node, &mut config);
        config
    }

    fn founding(&self) -> Founding {
        let Shape { nodes, bits, replicas } = self.shape;
        let founders = u16::try_from(nodes).unwrap_or(u16::MAX);
        Founding { founders, bits, replicas, ..Founding::default() }
    }

    fn note(&self, node: u32, started: Result<Cluster, StartError>) {
        let started = match started {
            Ok(cluster) => Started::Here(cluster),
            Err(error) => {
                self.control.note(&format!("node {node} does not start: {error}"));
                Started::Refused(error.to_string())
            }
        };
        let before = lock(&self.started).insert(node, started);
        drop(before);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if thread::panicking() {
            // The destructors of a cut-short node may panic too, which would hide what happened first.
            let handles = std::mem::take(&mut *lock(&self.started));
            handles.into_values().for_each(std::mem::forget);
        }
    }
}

impl fmt::Debug for TestCluster {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TestCluster").field("shape", &self.0.shape).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
