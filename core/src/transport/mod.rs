//! Requests between nodes: fire one at a node, get exactly one [`Outcome`], never wait in between.
//!
//! QUIC with mutual TLS (DESIGN §6). Each node dials the connection for its own requests and answers on those that
//! its peers have dialled. On a connection a few long-lived streams carry many requests at once, control has a
//! stream of its own with priority, and frames that are too long for sharing travel on streams of their own.
//!
//! What holds for every request: its [`ReplyTo`] is answered once, by the peer, by its deadline, or by the end of
//! the connection; queues are bounded in entries and bytes and say `Overloaded` at once; only members of the decided
//! membership get anything but a refusal (PROTOCOLS §3); and a message that the peer knows by another schema is
//! never sent.
//!
//! * [`tls`]: certificates and fingerprints;
//! * `link`: a connection that this node dialled; `caller`: one that it accepted; `peers`: who may be either.

mod budget;
mod caller;
mod greeting;
mod in_flight;
mod lane;
mod link;
mod peers;
mod quic;
mod sweep;
#[cfg(test)]
mod tests;
pub mod tls;

pub use peers::{Peer, PeerStats};
pub use tls::{Fingerprint, SelfSigned, fingerprint};

use crate::{
    env::{Env, TaskHandle},
    reply::{Failure, FailureCode, Outcome, ReplyTo},
};
use budget::Budget;
use bytes::Bytes;
use caller::Caller;
use link::{Class, Link, Target};
use peers::{Peers, Refusal, not_a_member, same_lineage};
use quinn::Endpoint;
use rondel_proto::{
    frame::{FRAME_BYTES_MAX, Head},
    hello::Hello,
    id::{Lineage, NodeId, StoreId},
};
use std::{
    collections::BTreeMap,
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use sweep::Sweep;
use tls::Tls;
use tokio::sync::Semaphore;

/// Connections of one node that may be open at a time; a new one ends the oldest. A live peer has one, and a second
/// while it joins or after it has lost the first.
const CALLERS_PER_NODE_MAX: usize = 4;
/// Strangers that may be connected at a time.
const STRANGERS_MAX: usize = 32;
/// How often closing looks whether all is done.
const CLOSE_INTERVAL: Duration = Duration::from_millis(2);
/// What closing takes at least to let answers reach their peers.
const FLUSH_MIN: Duration = Duration::from_millis(250);

/// How a transport behaves. `new` gives the defaults.
#[derive(Debug, Clone)]
pub struct TransportConfig {
    /// What it is for, in logs: `requests` or `bulk`.
    pub class: &'static str,
    /// Where to listen; port 0 takes any.
    pub bind: SocketAddr,
    /// Shared streams per connection, 1 to 8 (2): more lose less to a lost datagram, fewer write more at once.
    pub request_streams: usize,
    /// How long a connection may take until the hellos are exchanged (2 s).
    pub connect_timeout: Duration,
    /// Silence after which a connection is lost (5 s).
    pub idle_timeout: Duration,
    /// How often an idle connection is made use of (1.5 s).
    pub keep_alive: Duration,
    /// The first wait after a lost connection (50 ms); it doubles, with jitter.
    pub backoff_min: Duration,
    /// The longest wait (2 s).
    pub backoff_max: Duration,
    /// Requests in flight to one peer (16,384).
    pub in_flight_max: usize,
    /// Bytes of requests queued to one peer (64 MiB).
    pub queue_bytes_max: usize,
    /// Bytes that requests to all peers, their large replies, requests of all peers, and replies to them may each
    /// hold at a time (256 MiB).
    pub node_bytes_max: usize,
    /// Connections that peers may have open here (1,024).
    pub callers_max: usize,
    /// The (service, message) pairs that somebody outside of the membership may send: the join.
    pub strangers_may: Vec<(u32, u16)>,
    /// The largest datagram to look for, up to 6,500 bytes (6,500).
    pub mtu_max: u16,
}

impl TransportConfig {
    /// The defaults.
    #[must_use]
    pub fn new(bind: SocketAddr) -> Self {
        Self {
            class: "requests",
            bind,
            request_streams: 2,
            connect_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(5),
            keep_alive: Duration::from_millis(1500),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            in_flight_max: 16_384,
            queue_bytes_max: 64 << 20,
            node_bytes_max: 256 << 20,
            callers_max: 1024,
            strangers_may: Vec::new(),
            mtu_max: 6500,
        }
    }
}

/// Who this node is.
#[derive(Clone)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// Its store.
    pub store: StoreId,
    /// How often the store has been opened.
    pub boot: u64,
    /// Drawn anew at this start.
    pub nonce: u64,
    /// Its certificate.
    pub certificate_der: Vec<u8>,
    /// The certificate's private key.
    pub key_pkcs8_der: Vec<u8>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Identity({})", self.node)
    }
}

/// Whether a peer belongs to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its certificate stands in the decided membership, and it follows the same lineage.
    Member,
    /// It holds the key of its certificate, and nothing else is known to be true.
    Stranger,
}

/// Who sends a request. Of a stranger everything but fingerprint and address is only what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerInfo {
    /// The node.
    pub node: NodeId,
    /// Its store.
    pub store: StoreId,
    /// How often that store has been opened.
    pub boot: u64,
    /// Which process.
    pub nonce: u64,
    /// The lineage that it followed when it connected.
    pub lineage: Lineage,
    /// Its certificate.
    pub fingerprint: Fingerprint,
    /// Where the connection comes from.
    pub addr: SocketAddr,
    /// Member or stranger.
    pub standing: Standing,
}

/// Another process that says it is this node: one of the two runs on a copy of the other's data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clash {
    /// Where it is.
    pub addr: SocketAddr,
    /// Its certificate.
    pub fingerprint: Fingerprint,
    /// Its store.
    pub store: StoreId,
    /// The process.
    pub nonce: u64,
}

/// What takes requests in.
///
/// **Must**: return soon and never block, for it is called by the task that reads the stream; answer through `reply`,
/// from wherever, whenever.
pub trait Inbound: Send + Sync + 'static {
    /// A request. Key and body are slices of a receive buffer: what is kept for long should be copied, or it keeps
    /// up to 64 KiB beside it.
    fn request(&self, from: PeerInfo, head: Head, key: Bytes, body: Bytes, received: Instant, reply: ReplyTo);

    /// Somebody else claims to be this node and has been refused.
    fn clash(&self, clash: Clash) {
        tracing::error!(addr = %clash.addr, store = %clash.store, "another process claims to be this node");
    }
}

/// Why a transport does not start. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address can't be bound.
    #[error("can't listen on {addr}: {source}")]
    Bind {
        /// Which.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The QUIC endpoint can't run on the socket.
    #[error("can't serve QUIC on {addr}: {source}")]
    Endpoint {
        /// Which.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The certificate or its key is unusable, or they don't belong together.
    #[error("the node's certificate and key can't be used: {0}")]
    Identity(#[from] rustls::Error),
}

/// Application error codes of closed connections, for those who read packet captures.
mod close {
    pub(super) const NORMAL: u32 = 0;
    pub(super) const FRAME: u32 = 1;
    pub(super) const HELLO: u32 = 2;
    pub(super) const REMOVED: u32 = 3;
    pub(super) const NOT_ALLOWED: u32 = 4;
    pub(super) const CROWDED: u32 = 5;
    pub(super) const SHUTDOWN: u32 = 6;
}

/// This node's connections. Cheap to clone; when the last clone goes, they are closed.
#[derive(Clone)]
pub struct Transport(Arc<Running>);

impl fmt::Debug for Transport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Transport({} on {})", self.0.shared.config.class, self.0.local_addr)
    }
}

struct Running {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
    tasks: [TaskHandle; 2],
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.end();
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Transport {
    /// Binds, and begins to accept. The hello's node, store, boot and nonce are the identity's. There are no peers
    /// before [`Transport::set_peers`].
    ///
    /// # Errors
    /// [`StartError`].
    ///
    /// # Panics
    /// In production, outside of the runtime that `env` was made in.
    pub fn start(
        env: Env,
        config: TransportConfig,
        identity: Identity,
        hello: Hello,
        inbound: Arc<dyn Inbound>,
    ) -> Result<Self, StartError> {
        let tls = Tls::new(env.clone(), &identity.certificate_der, &identity.key_pkcs8_der);
        let endpoint = quic::endpoint(&env, &config, &tls, &identity.key_pkcs8_der)?;
        let local_addr =
            endpoint.local_addr().map_err(|source| StartError::Endpoint { addr: config.bind, source })?;
        let shared = Arc::new(Shared::new(env.clone(), config, identity, endpoint, tls, inbound));
        shared.set_hello(hello);
        let (accepting, sweeping) = (shared.clone(), shared.clone());
        let tasks = [
            env.spawn("transport accept", async move { accepting.accept().await }),
            env.spawn("transport sweep", async move { sweeping.expire().await }),
        ];
        Ok(Self(Arc::new(Running { shared, local_addr, tasks })))
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local_addr
    }

    /// The decided membership. Whoever is no longer in it, or with another certificate, is cut off at once; a
    /// stranger that is in it now is one no longer.
    pub fn set_peers(&self, peers: &[Peer]) {
        self.0.shared.set_peers(peers);
    }

    /// What to say on new connections. If it names another lineage than the one before, all connections are closed:
    /// who is a member must be judged anew.
    pub fn set_hello(&self, hello: Hello) {
        self.0.shared.set_hello(hello);
    }

    /// Sends a request; the key is copied. Connects if there is no connection.
    ///
    /// The outcome is the peer's, or `Expired` when `head.deadline_us` have passed, `Disconnected` as soon as the
    /// connection is known to be lost (or can't be made, or the node is no member), `Overloaded` at once when too
    /// much is queued, `Unsupported` when the peer knows the message differently, `NoRoom` when it is longer than
    /// a frame may be.
    pub fn request(&self, to: NodeId, head: Head, key: &[u8], body: Bytes, reply: ReplyTo) {
        self.0.shared.ask(Class::Request, to, head, key, body, reply);
    }

    /// As [`Transport::request`], on the control stream: for liveness, gossip and the decided sequence, behind no
    /// other request.
    pub fn control(&self, to: NodeId, head: Head, key: &[u8], body: Bytes, reply: ReplyTo) {
        self.0.shared.ask(Class::Control, to, head, key, body, reply);
    }

    /// Sends one request to somebody who is no peer yet, on a connection of its own: whoever proves the certificate
    /// with this fingerprint, which a join token vouches for.
    pub async fn join_request(
        &self,
        addr: SocketAddr,
        fingerprint: Fingerprint,
        head: Head,
        key: &[u8],
        body: Bytes,
    ) -> Outcome {
        let (sender, outcome) = tokio::sync::oneshot::channel();
        let reply = ReplyTo::new(move |outcome| {
            // Nobody listens if the caller has given up.
            let _ = sender.send(outcome);
        });
        self.0.shared.join(Target { node: None, addr, fingerprint }, head, key, body, reply);
        outcome.await.unwrap_or_else(|_| Err(Failure::new(FailureCode::Dropped)))
    }

    /// How it goes with every peer, by node.
    #[must_use]
    pub fn peer_stats(&self) -> Vec<PeerStats> {
        self.0.shared.peers.all().iter().map(|remote| remote.stats()).collect()
    }

    /// Takes no new requests, waits up to `drain` for those in flight, and closes all connections once the answers
    /// have reached the peers (which may take a quarter of a second longer).
    pub async fn close(&self, drain: Duration) {
        self.0.shared.close(drain).await;
    }
}

/// What all tasks of a transport share.
struct Shared {
    env: Env,
    config: TransportConfig,
    identity: Identity,
    own_fingerprint: Fingerprint,
    endpoint: Endpoint,
    tls: Tls,
    inbound: Arc<dyn Inbound>,
    hello: RwLock<Arc<Hello>>,
    peers: Peers,
    callers: Mutex<BTreeMap<u64, Arc<Caller>>>,
    links: Mutex<Vec<Arc<Link>>>,
    sweep: Sweep,
    queued: Arc<Budget>,
    replies_queued: Arc<Budget>,
    request_credit: Semaphore,
    reply_credit: Semaphore,
    ids: AtomicU64,
    closing: AtomicBool,
}

impl Shared {
    fn new(
        env: Env,
        config: TransportConfig,
        identity: Identity,
        endpoint: Endpoint,
        tls: Tls,
        inbound: Arc<dyn Inbound>,
    ) -> Self {
        // Less than one frame could never be received.
        let credit_bytes = config.node_bytes_max.clamp(2 * FRAME_BYTES_MAX, Semaphore::MAX_PERMITS);
        Self {
            sweep: Sweep::new(&env),
            own_fingerprint: fingerprint(&identity.certificate_der),
            queued: Budget::new(config.node_bytes_max),
            replies_queued: Budget::new(config.node_bytes_max),
            request_credit: Semaphore::new(credit_bytes),
            reply_credit: Semaphore::new(credit_bytes),
            hello: RwLock::default(),
            peers: Peers::default(),
            callers: Mutex::default(),
            links: Mutex::default(),
            ids: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            env,
            config,
            identity,
            endpoint,
            tls,
            inbound,
        }
    }

    async fn accept(self: &Arc<Self>) {
        while let Some(incoming) = self.endpoint.accept().await {
            if self.closing() || self.endpoint.open_connections() >= self.config.callers_max {
                incoming.refuse();
                continue;
            }
            self.env.spawn("transport caller", caller::accept(self.clone(), incoming));
        }
    }

    async fn expire(&self) {
        let sweep = |now| {
            let links = lock(&self.links).clone();
            links.iter().filter_map(|link| link.expire(now)).min()
        };
        self.sweep.run(&self.env, sweep).await;
    }

    fn hello(&self) -> Arc<Hello> {
        self.hello.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_hello(&self, hello: Hello) {
        let Identity { node, store, boot, nonce, .. } = self.identity;
        let hello = Arc::new(Hello { node, store, boot, nonce, ..hello });
        let before = {
            let mut current = self.hello.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, hello.clone())
        };
        if before.lineage != hello.lineage {
            self.disconnect(close::REMOVED, "this node follows another lineage now");
        }
    }

    fn set_peers(&self, members: &[Peer]) {
        let others: Vec<Peer> =
            members.iter().filter(|peer| peer.node != self.identity.node).copied().collect();
        self.peers.set(&others, || self.env.rng());
        for caller in self.callers() {
            self.judge_again(&caller);
        }
    }

    /// Follows a change of the membership or of the lineage.
    fn judge_again(&self, caller: &Caller) {
        let theirs = Hello { lineage: caller.info.lineage, ..Hello::default() };
        let member = self.peers.owner_of(&caller.info.fingerprint) == Some(caller.info.node)
            && same_lineage(&self.hello(), &theirs);
        match (caller.member(), member) {
            (false, true) => caller.admit(),
            (true, false) => caller.close(close::REMOVED, "no longer a member with this certificate"),
            _ => {}
        }
    }

    /// Who a caller is.
    fn judge_client(
        &self,
        ours: &Hello,
        theirs: &Hello,
        certificate: &Fingerprint,
    ) -> Result<Standing, Refusal> {
        self.judge_self(theirs)?;
        match self.peers.owner_of(certificate) {
            Some(owner) if owner != theirs.node => Err(Refusal::Imposter { claimed: theirs.node }),
            Some(_) if same_lineage(ours, theirs) => Ok(Standing::Member),
            _ if *certificate == self.own_fingerprint => Err(Refusal::Imposter { claimed: theirs.node }),
            _ => Ok(Standing::Stranger),
        }
    }

    /// Whether the right one has answered. Whoever joins takes what comes: the token vouches for the certificate.
    fn judge_server(&self, ours: &Hello, theirs: &Hello, target: Target) -> Result<(), Refusal> {
        self.judge_self(theirs)?;
        let Some(expected) = target.node else { return Ok(()) };
        if theirs.node != expected {
            return Err(Refusal::OtherNode { expected, found: theirs.node });
        }
        if !same_lineage(ours, theirs) {
            return Err(Refusal::OtherLineage { ours: ours.lineage, theirs: theirs.lineage });
        }
        Ok(())
    }

    fn judge_self(&self, theirs: &Hello) -> Result<(), Refusal> {
        if theirs.node != self.identity.node {
            return Ok(());
        }
        Err(if theirs.nonce == self.identity.nonce { Refusal::Oneself } else { Refusal::Clash(theirs.node) })
    }

    fn ask(self: &Arc<Self>, class: Class, to: NodeId, head: Head, key: &[u8], body: Bytes, reply: ReplyTo) {
        if self.closing() {
            reply.send(Err(Failure::because(FailureCode::Disconnected, "this node is shutting down")));
            return;
        }
        let Some(remote) = self.peers.get(to) else {
            reply.send(Err(not_a_member()));
            return;
        };
        match remote.link(self) {
            Ok(link) => self.ask_link(&link, class, head, key, body, reply),
            Err(failure) => reply.send(Err(failure)),
        }
    }

    fn ask_link(&self, link: &Link, class: Class, head: Head, key: &[u8], body: Bytes, reply: ReplyTo) {
        if let Some(deadline) = link.ask(class, head, key, body, reply) {
            self.sweep.note(deadline);
        }
    }

    fn join(self: &Arc<Self>, target: Target, head: Head, key: &[u8], body: Bytes, reply: ReplyTo) {
        let link = Link::new(self, Arc::default());
        self.add_link(&link);
        let end = link.clone();
        let reply = ReplyTo::new(move |outcome| {
            reply.send(outcome);
            end.end(close::NORMAL, "the join request has been answered");
        });
        self.ask_link(&link, Class::Request, head, key, body, reply);
        let shared = self.clone();
        self.env.spawn("transport join", async move {
            link::run(&shared, &link, target).await;
            shared.remove_link(&link);
        });
    }

    fn add_link(&self, link: &Arc<Link>) {
        lock(&self.links).push(link.clone());
    }

    fn remove_link(&self, link: &Arc<Link>) {
        lock(&self.links).retain(|other| !Arc::ptr_eq(other, link));
    }

    /// Takes a caller in, and ends the oldest of the same node if there are too many; false for a stranger too many.
    fn add_caller(&self, caller: &Arc<Caller>) -> bool {
        let mut callers = lock(&self.callers);
        let strangers = callers.values().filter(|other| !other.member()).count();
        if !caller.member() && strangers >= STRANGERS_MAX {
            return false;
        }
        let same = |other: &&Arc<Caller>| other.info.fingerprint == caller.info.fingerprint;
        let oldest = callers.values().find(same).cloned();
        if callers.values().filter(same).count() >= CALLERS_PER_NODE_MAX
            && let Some(oldest) = oldest
        {
            oldest.close(close::CROWDED, "the same node has connected anew");
            callers.remove(&oldest.id);
        }
        callers.insert(caller.id, caller.clone());
        drop(callers);
        // The membership may have changed since it was judged first, when it could not be found here.
        self.judge_again(caller);
        true
    }

    fn remove_caller(&self, caller: &Caller) {
        lock(&self.callers).remove(&caller.id);
    }

    fn callers(&self) -> Vec<Arc<Caller>> {
        lock(&self.callers).values().cloned().collect()
    }

    fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    fn closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    fn disconnect(&self, code: u32, why: &str) {
        for caller in self.callers() {
            caller.close(code, why);
        }
        let links = lock(&self.links).clone();
        for link in links {
            link.end(code, why);
        }
    }

    async fn close(&self, drain: Duration) {
        self.closing.store(true, Ordering::Relaxed);
        let until = self.env.now() + drain;
        let quiet = || {
            self.callers().iter().all(|caller| caller.quiet())
                && lock(&self.links).iter().all(|link| link.in_flight() == 0)
        };
        self.wait_for(until, quiet).await;
        for caller in self.callers() {
            caller.finish();
        }
        let flushed = || self.callers().iter().all(|caller| caller.flushed());
        self.wait_for(until.max(self.env.now() + FLUSH_MIN), flushed).await;
        self.end();
        // Peers that don't acknowledge the end find out by themselves.
        let _ = self.env.timeout(FLUSH_MIN, self.endpoint.wait_idle()).await;
    }

    async fn wait_for(&self, until: Instant, done: impl Fn() -> bool) {
        while !done() && self.env.now() < until {
            self.env.sleep(CLOSE_INTERVAL).await;
        }
    }

    /// Closes everything at once.
    fn end(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.disconnect(close::SHUTDOWN, "the node is shutting down");
        // Callers and this hold each other: tasks that are aborted don't part them.
        let callers = std::mem::take(&mut *lock(&self.callers));
        for caller in callers.values() {
            caller.abandon();
        }
        self.endpoint.close(close::SHUTDOWN.into(), b"the node is shutting down");
    }
}

/// A panic under one of these locks leaves plain data behind, so poison says nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
