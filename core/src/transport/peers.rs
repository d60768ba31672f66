//! The peers: who they are by the decided membership, how to reach them, and how it has gone so far.

use super::{
    close,
    link::{self, Ended, Link, Target},
    lock,
    shared::Shared,
    tls::Fingerprint,
};
use crate::{
    env::Rng,
    reply::{Failure, FailureCode},
};
use rondel_proto::{
    hello::Hello,
    id::{Lineage, NodeId},
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// A member of the cluster, as decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Who.
    pub node: NodeId,
    /// Where it listens.
    pub addr: SocketAddr,
    /// BLAKE3 of its certificate's DER.
    pub fingerprint: Fingerprint,
}

/// How it goes with one peer. Bytes are those of frames, without QUIC's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerStats {
    /// Who.
    pub node: NodeId,
    /// Whether requests can be sent this moment.
    pub connected: bool,
    /// Which run of the node answers there: the start's number and its nonce.
    pub run: Option<(u64, u64)>,
    /// The smoothed round-trip time of the present connection.
    pub rtt: Option<Duration>,
    /// Requests of this node that the peer has not answered.
    pub in_flight: usize,
    /// Bytes sent to it, ever.
    pub sent_bytes: u64,
    /// Bytes received from it, ever.
    pub received_bytes: u64,
    /// Connections that could not be made or were lost, ever.
    pub failures: u64,
}

/// Bytes of frames, both ways.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Traffic {
    pub(super) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Why a connection is of no use after the hellos.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// This process has dialled itself.
    #[error("a node does not connect to itself")]
    Oneself,
    /// Another process says that it is this node.
    #[error("two processes claim to be node {0}: one of them runs on a copy of the other's data directory")]
    Clash(NodeId),
    /// The certificate belongs to another node than the hello says.
    #[error("node {claimed} uses the certificate of another node")]
    Imposter {
        /// Who it says it is.
        claimed: NodeId,
    },
    /// Somebody else listens at the address.
    #[error("node {found} listens where node {expected} should")]
    OtherNode {
        /// Who was dialled.
        expected: NodeId,
        /// Who answered.
        found: NodeId,
    },
    /// It follows states of another lineage.
    #[error("the peer follows lineage {theirs}, this node {ours}")]
    OtherLineage {
        /// Ours.
        ours: Lineage,
        /// Theirs.
        theirs: Lineage,
    },
}

/// Whether two nodes may follow the same states. A node without a lineage has none to be wrong about.
pub(super) fn same_lineage(ours: &Hello, theirs: &Hello) -> bool {
    let none = Lineage::default();
    ours.lineage == none || theirs.lineage == none || ours.lineage == theirs.lineage
}

pub(super) fn not_a_member() -> Failure {
    Failure::because(FailureCode::Unreachable, "the node is no member of the cluster")
}

/// All peers.
#[derive(Default)]
pub(super) struct Peers(RwLock<BTreeMap<NodeId, Arc<Remote>>>);

impl Peers {
    pub(super) fn get(&self, node: NodeId) -> Option<Arc<Remote>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Remote>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Whose certificate this is.
    pub(super) fn owner_of(&self, fingerprint: &Fingerprint) -> Option<NodeId> {
        let peers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        peers.values().find(|remote| remote.at().fingerprint == *fingerprint).map(|remote| remote.node)
    }

    /// Replaces the membership, and ends the links to those who are no longer in it as they were.
    pub(super) fn set(&self, members: &[Peer], mut rng: impl FnMut() -> Rng) {
        let mut peers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let wanted: BTreeMap<NodeId, Peer> = members.iter().map(|peer| (peer.node, *peer)).collect();
        let mut gone = Vec::new();
        peers.retain(|node, remote| {
            let stays = wanted.contains_key(node);
            if !stays {
                gone.push(remote.clone());
            }
            stays
        });
        for (node, peer) in &wanted {
            match peers.get(node) {
                Some(remote) if remote.moved_to(*peer) => gone.push(remote.clone()),
                Some(_) => {}
                None => {
                    peers.insert(*node, Arc::new(Remote::new(*peer, rng())));
                }
            }
        }
        drop(peers);
        for remote in gone {
            let removed = !wanted.contains_key(&remote.node);
            remote.cut(removed);
        }
    }
}

/// One peer.
pub(super) struct Remote {
    pub(super) node: NodeId,
    pub(super) traffic: Arc<Traffic>,
    failures: AtomicU64,
    state: Mutex<State>,
}

struct State {
    at: Peer,
    link: Option<Arc<Link>>,
    /// No longer a member: whoever still holds this can't connect any more.
    removed: bool,
    /// Links in a row that could not be made or did not last.
    attempts: u32,
    not_before: Option<Instant>,
    why: String,
    /// That somebody else answers at its address has been told.
    told: bool,
    rng: Rng,
}

impl Remote {
    fn new(at: Peer, rng: Rng) -> Self {
        let state = State {
            at,
            link: None,
            removed: false,
            attempts: 0,
            not_before: None,
            why: String::new(),
            told: false,
            rng,
        };
        Self { node: at.node, traffic: Arc::default(), failures: AtomicU64::new(0), state: Mutex::new(state) }
    }

    fn at(&self) -> Peer {
        lock(&self.state).at
    }

    /// Takes over a new address or certificate; true if the certificate is another.
    fn moved_to(&self, at: Peer) -> bool {
        let mut state = lock(&self.state);
        if state.at != at {
            state.attempts = 0;
            state.not_before = None;
        }
        let other = state.at.fingerprint != at.fingerprint;
        state.at = at;
        other
    }

    fn cut(&self, removed: bool) {
        let mut state = lock(&self.state);
        state.removed |= removed;
        let link = state.link.take();
        drop(state);
        if let Some(link) = link {
            link.end(close::REMOVED, "the peer is no longer a member with this certificate");
        }
    }

    /// The live link, made now if there is none.
    ///
    /// # Errors
    /// `Unreachable` while the peer is given a rest after failed connections.
    pub(super) fn link(self: &Arc<Self>, shared: &Arc<Shared>) -> Result<Arc<Link>, Failure> {
        let mut state = lock(&self.state);
        if let Some(link) = &state.link
            && !link.ended()
        {
            return Ok(link.clone());
        }
        if state.removed {
            return Err(not_a_member());
        }
        if state.not_before.is_some_and(|at| shared.env.now() < at) {
            return Err(Failure::because(FailureCode::Unreachable, &state.why));
        }
        let link = Link::new(shared, self.traffic.clone());
        state.link = Some(link.clone());
        let target = Target { node: Some(self.node), addr: state.at.addr, fingerprint: state.at.fingerprint };
        drop(state);
        shared.add_link(&link);
        let (shared, remote, dialled) = (shared.clone(), self.clone(), link::Driven(link.clone()));
        shared.env.clone().spawn("transport link", async move {
            let ended = link::run(&shared, &dialled.0, target).await;
            remote.lost(&shared, &dialled.0, ended);
        });
        Ok(link)
    }

    /// A link has ended: the next one waits a while, the longer the more of them have failed in a row.
    fn lost(&self, shared: &Shared, link: &Arc<Link>, Ended { why, distrust }: Ended) {
        shared.remove_link(link);
        let now = shared.env.now();
        let mut state = lock(&self.state);
        if state.link.as_ref().is_none_or(|current| !Arc::ptr_eq(current, link)) {
            return; // Dropped on purpose, or replaced.
        }
        self.failures.fetch_add(1, Ordering::Relaxed);
        state.link = None;
        state.attempts =
            if link.age(now) >= shared.config.backoff_max { 1 } else { state.attempts.saturating_add(1) };
        let (min, max) = (shared.config.backoff_min, shared.config.backoff_max);
        let backoff = min.saturating_mul(1 << (state.attempts - 1).min(16)).min(max);
        state.not_before = Some(now + state.rng.between(backoff / 2, backoff));
        let told = std::mem::replace(&mut state.told, distrust);
        if distrust && !told {
            tracing::warn!(
                class = shared.config.class,
                node = %self.node,
                addr = %state.at.addr,
                why,
                "a member can't be reached, because somebody else answers at its address: see which process listens \
                 there, and start the member with the data directory that it joined with"
            );
        }
        state.why = why;
    }

    /// The peer has just dialled us as a process with this nonce: it is alive, and a link to another process of it
    /// is dead.
    pub(super) fn alive(&self, nonce: u64) {
        let mut state = lock(&self.state);
        state.not_before = None;
        let stale = state.link.take_if(|link| link.nonce().is_some_and(|other| other != nonce));
        drop(state);
        if let Some(link) = stale {
            link.end(close::NORMAL, "the peer has been restarted");
        }
    }

    pub(super) fn stats(&self) -> PeerStats {
        let link = lock(&self.state).link.clone();
        PeerStats {
            node: self.node,
            connected: link.as_ref().is_some_and(|link| link.connected()),
            run: link.as_ref().filter(|link| link.connected()).and_then(|link| link.run()),
            rtt: link.as_ref().and_then(|link| link.rtt()),
            in_flight: link.as_ref().map_or(0, |link| link.in_flight()),
            sent_bytes: self.traffic.sent.load(Ordering::Relaxed),
            received_bytes: self.traffic.received.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }
}
