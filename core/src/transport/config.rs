//! What a transport is told when it starts.

use rondel_proto::id::{NodeId, StoreId};
use std::{fmt, net::SocketAddr, time::Duration};

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
    /// Connections that may be open, dialled ones included, for a new one to be accepted (1,024).
    pub connections_max: usize,
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
            connections_max: 1024,
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
