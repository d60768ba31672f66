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
//! Inside: `link` is a connection that this node has dialled, `caller` one that it has accepted, `peers` knows who may
//! be either, `shared` holds them together.

mod budget;
mod caller;
mod config;
mod congestion;
mod greeting;
mod in_flight;
mod lane;
mod link;
mod peers;
mod quic;
mod shared;
mod sweep;
#[cfg(test)]
mod tests;
mod tls;

pub use config::{Identity, TransportConfig};
pub use peers::{Peer, PeerStats};
pub use tls::Fingerprint;

use crate::{
    env::{Env, TaskHandle},
    reply::{Failure, FailureCode, Outcome, ReplyTo},
};
use bytes::Bytes;
use link::{Class, Target};
use rondel_proto::{
    frame::Head,
    hello::Hello,
    id::{Lineage, NodeId, StoreId},
};
use shared::Shared;
use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tls::Tls;

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

    /// What to say on new connections. If it names another lineage than one before, or other messages, all
    /// connections are closed: who is a member, or which messages both sides know, must be judged anew.
    pub fn set_hello(&self, hello: Hello) {
        self.0.shared.set_hello(hello);
    }

    /// Another certificate for this node, without a restart: decide its fingerprint first, then call this. Peers end
    /// the connections that were made with the old one when they hear of the decision.
    ///
    /// # Errors
    /// [`StartError::Identity`]: nothing has changed.
    pub fn set_certificate(&self, certificate_der: &[u8], key_pkcs8_der: &[u8]) -> Result<(), StartError> {
        self.0.shared.set_certificate(certificate_der, key_pkcs8_der)
    }

    /// Sends a request; the key is copied. Connects if there is no connection. A refusal is answered before this
    /// returns: an answer that asks again at once may never come to an end.
    ///
    /// The outcome is the peer's, or `Expired` when `head.deadline_us` have passed, `Disconnected` as soon as the
    /// connection is known to be lost, `Unreachable` if none can be made or the node is no member, `Overloaded` at
    /// once when too much is queued, `Unsupported` when the peer knows the message differently, `NoRoom` when it is
    /// longer than a frame may be.
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

/// A panic under one of these locks leaves plain data behind, so poison says nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
