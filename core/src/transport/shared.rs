//! What all tasks of a transport share, and how they find each other: peers, links and callers.

use super::{
    Fingerprint, Identity, Inbound, Peer, Standing, StartError, TransportConfig,
    budget::Budget,
    caller::{self, Caller},
    close,
    link::{self, Class, Link, Target},
    lock,
    peers::{Peers, Refusal, not_a_member, same_lineage},
    quic,
    sweep::Sweep,
    tls::Tls,
};
use crate::{
    env::Env,
    reply::{Failure, FailureCode, ReplyTo},
};
use bytes::Bytes;
use quinn::Endpoint;
use rondel_proto::{
    frame::{FRAME_BYTES_MAX, Head},
    hello::Hello,
    id::{Lineage, NodeId},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// Connections of one node that may be open at a time; a new one ends the oldest. A live peer has one, and a second
/// while it joins or after it has lost the first.
const CALLERS_PER_NODE_MAX: usize = 4;
/// Handshakes at a time from which on a caller must first prove its address: forged ones can't crowd out members.
const UNPROVEN_MAX: usize = 64;
/// Strangers that may be connected at a time.
const STRANGERS_MAX: usize = 32;
/// How often callers who do not belong here are told of at most.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// How often closing looks whether all is done.
const CLOSE_INTERVAL: Duration = Duration::from_millis(2);
/// What closing takes at least to let answers reach their peers.
const FLUSH_MIN: Duration = Duration::from_millis(250);

/// What all tasks of a transport share.
pub(super) struct Shared {
    pub(super) env: Env,
    pub(super) config: TransportConfig,
    identity: Identity,
    pub(super) endpoint: Endpoint,
    tls: RwLock<Arc<Tls>>,
    pub(super) inbound: Arc<dyn Inbound>,
    hello: RwLock<Arc<Hello>>,
    pub(super) peers: Peers,
    pub(super) callers: Mutex<BTreeMap<u64, Arc<Caller>>>,
    links: Mutex<Vec<Arc<Link>>>,
    sweep: Sweep,
    pub(super) queued: Arc<Budget>,
    pub(super) replies_queued: Arc<Budget>,
    pub(super) request_credit: Semaphore,
    pub(super) reply_credit: Semaphore,
    ids: AtomicU64,
    /// Accepted connections that have not said who they are.
    pub(super) greeting: AtomicUsize,
    closing: AtomicBool,
    /// When a caller who does not belong here was last told of.
    warned: Mutex<Option<Instant>>,
}

impl Shared {
    pub(super) fn new(
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
            queued: Budget::new(config.node_bytes_max),
            replies_queued: Budget::new(config.node_bytes_max),
            request_credit: Semaphore::new(credit_bytes),
            reply_credit: Semaphore::new(credit_bytes),
            hello: RwLock::default(),
            peers: Peers::default(),
            callers: Mutex::default(),
            links: Mutex::default(),
            ids: AtomicU64::new(0),
            greeting: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            warned: Mutex::default(),
            env,
            config,
            identity,
            endpoint,
            tls: RwLock::new(Arc::new(tls)),
            inbound,
        }
    }

    pub(super) async fn accept(self: &Arc<Self>) {
        while let Some(incoming) = self.endpoint.accept().await {
            if self.closing() || self.endpoint.open_connections() >= self.config.connections_max {
                incoming.refuse();
            } else if self.greeting.load(Ordering::Relaxed) >= UNPROVEN_MAX && incoming.may_retry() {
                // Refused only if an answer was made to this address already.
                let _ = incoming.retry();
            } else {
                let shared = self.clone();
                self.env.spawn("transport caller", caller::accept(shared, incoming));
            }
        }
    }

    pub(super) async fn expire(&self) {
        let sweep = |now| {
            let links = lock(&self.links).clone();
            links.iter().filter_map(|link| link.expire(now)).min()
        };
        self.sweep.run(&self.env, sweep).await;
    }

    pub(super) fn hello(&self) -> Arc<Hello> {
        self.hello.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn tls(&self) -> Arc<Tls> {
        self.tls.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on, this is the certificate on new connections.
    pub(super) fn set_certificate(
        &self,
        certificate_der: &[u8],
        key_pkcs8_der: &[u8],
    ) -> Result<(), StartError> {
        let tls = Tls::new(self.env.clone(), certificate_der, key_pkcs8_der);
        self.endpoint.set_server_config(Some(quic::server(&self.env, &self.config, &tls)?));
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tls);
        Ok(())
    }

    pub(super) fn set_hello(&self, hello: Hello) {
        let Identity { node, store, boot, nonce, .. } = self.identity;
        let hello = Arc::new(Hello { node, store, boot, nonce, ..hello });
        let before = {
            let mut current = self.hello.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, hello.clone())
        };
        // Who had no lineage has said nothing wrong: the cluster that is just being formed keeps its connections.
        if before.lineage != hello.lineage && before.lineage != Lineage::default() {
            self.disconnect(close::REMOVED, "this node follows another lineage now");
        } else if before.messages != hello.messages {
            self.disconnect(close::NORMAL, "this node knows other messages now");
        }
    }

    pub(super) fn set_peers(&self, members: &[Peer]) {
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
    pub(super) fn judge_client(
        &self,
        ours: &Hello,
        theirs: &Hello,
        certificate: &Fingerprint,
    ) -> Result<Standing, Refusal> {
        self.judge_self(theirs)?;
        match self.peers.owner_of(certificate) {
            Some(owner) if owner != theirs.node => Err(Refusal::Imposter { claimed: theirs.node }),
            Some(_) if same_lineage(ours, theirs) => Ok(Standing::Member),
            _ if *certificate == self.tls().fingerprint() => Err(Refusal::Imposter { claimed: theirs.node }),
            _ => Ok(Standing::Stranger),
        }
    }

    /// Whether the right one has answered. Whoever joins takes what comes: the token vouches for the certificate.
    pub(super) fn judge_server(&self, ours: &Hello, theirs: &Hello, target: Target) -> Result<(), Refusal> {
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

    pub(super) fn ask(
        self: &Arc<Self>,
        class: Class,
        to: NodeId,
        head: Head,
        key: &[u8],
        body: Bytes,
        reply: ReplyTo,
    ) {
        if self.closing() {
            reply.send(Err(Failure::because(FailureCode::Unreachable, "this node is shutting down")));
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

    pub(super) fn join(
        self: &Arc<Self>,
        target: Target,
        head: Head,
        key: &[u8],
        body: Bytes,
        reply: ReplyTo,
    ) {
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

    pub(super) fn add_link(&self, link: &Arc<Link>) {
        lock(&self.links).push(link.clone());
    }

    pub(super) fn remove_link(&self, link: &Arc<Link>) {
        lock(&self.links).retain(|other| !Arc::ptr_eq(other, link));
    }

    /// Takes a caller in, and ends the oldest of the same node if there are too many; false for a stranger too many.
    pub(super) fn add_caller(&self, caller: &Arc<Caller>) -> bool {
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

    pub(super) fn remove_caller(&self, caller: &Caller) {
        lock(&self.callers).remove(&caller.id);
    }

    fn callers(&self) -> Vec<Arc<Caller>> {
        lock(&self.callers).values().cloned().collect()
    }

    pub(super) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether a caller who does not belong here may be told of: whoever knocks must not fill the log.
    pub(super) fn may_warn(&self) -> bool {
        let (mut warned, now) = (lock(&self.warned), self.env.now());
        let may = warned.is_none_or(|at| now.saturating_duration_since(at) >= WARN_EVERY);
        if may {
            *warned = Some(now);
        }
        may
    }

    pub(super) fn closing(&self) -> bool {
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

    pub(super) async fn close(&self, drain: Duration) {
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
    pub(super) fn end(&self) {
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
