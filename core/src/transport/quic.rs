//! How quinn is set up: sockets, windows, timeouts, MTU, and where its random numbers come from.

use super::{StartError, TransportConfig, congestion::FlooredCubic, tls::Tls};
use crate::env::Env;
use quinn::{Endpoint, VarInt};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// What one stream may hold unread.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// What one connection may hold unread, and what it may hold unacknowledged.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// What a connection may hold unread that is not known to be a member's: anyone may dial.
const STRANGER_WINDOW_BYTES: u32 = 256 << 10;
/// Streams that the dialling side may have open: control, requests, and large requests.
const BIDI_STREAMS_MAX: u32 = 64;
/// Streams that the accepting side may have open: large replies.
const UNI_STREAMS_MAX: u32 = 32;
/// quinn sends in batches of 10 segments and the kernel takes 64 KiB at once: above 6,500 bytes whole batches are
/// lost without an error (measured), so no discovery may go beyond.
const MTU_MAX: u16 = 6500;
/// This many datagrams are acknowledged together, where none is missing; fewer than [`WINDOW_MIN_BYTES`] are. QUIC's own 2
/// make a datagram, and a system call, of acknowledgements that the next answers could take along.
const ACK_AFTER_DATAGRAMS: u32 = 8;
/// Or after this time. It counts in how long a sender waits before it takes a last datagram for lost: QUIC's own 25 ms
/// are for ways that take as long themselves.
const ACK_WITHIN: Duration = Duration::from_millis(2);
/// Bytes that may always be on their way to a peer: ten datagrams of [`MTU_MAX`], or what a link of 100 Mbit/s carries in
/// 5 ms. Four times as much fills such a link with what is lost (`a_slow_link_carries_as_much_as_it_can`).
const WINDOW_MIN_BYTES: u64 = 64 << 10;
/// What every path of QUIC carries.
const MTU_MIN: u16 = 1200;
/// Assumed before the first measurement: three times this is waited before a lost first packet is sent again.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Binds and starts an endpoint that dials and accepts.
pub(super) fn endpoint(
    env: &Env,
    config: &TransportConfig,
    tls: &Tls,
    key_pkcs8_der: &[u8],
) -> Result<Endpoint, StartError> {
    let server = server(env, config, tls)?;
    let socket = env.bind(config.bind).map_err(|source| StartError::Bind { addr: config.bind, source })?;
    let settings = endpoint_config(env, config, key_pkcs8_der);
    Endpoint::new_with_abstract_socket(settings, Some(server), socket, env.quic_runtime())
        .map_err(|source| StartError::Endpoint { addr: config.bind, source })
}

/// How to accept whoever proves a key.
pub(super) fn server(
    env: &Env,
    config: &TransportConfig,
    tls: &Tls,
) -> Result<quinn::ServerConfig, rustls::Error> {
    let mut token_secret = [0; 32];
    env.entropy(&mut token_secret);
    let token_key = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, &[]).extract(&token_secret);
    let mut server = quinn::ServerConfig::new(tls.server()?, Arc::new(token_key));
    server.transport_config(Arc::new(accepting(config))).time_source(Arc::new(Calendar(env.clone())));
    Ok(server)
}

/// The reset key comes from the node's private key, and connection ids carry no key of one process: so a node that
/// was killed and started again can tell its peers at once that their connections are gone.
///
/// What a node takes bounds what its peers may discover: quinn's default would keep them at 1,500 bytes.
fn endpoint_config(env: &Env, config: &TransportConfig, key_pkcs8_der: &[u8]) -> quinn::EndpointConfig {
    let secret = blake3::derive_key("rondel 2026 QUIC stateless reset", key_pkcs8_der);
    let ids = env.clone();
    let mut settings = env.quic_endpoint_config();
    settings
        .max_udp_payload_size(mtu_max(config))
        .expect("at least what QUIC needs")
        .reset_key(Arc::new(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret)))
        .cid_generator(move || Box::new(RandomIds(ids.clone())));
    settings
}

/// How to dial whoever `tls` pins.
pub(super) fn client(
    env: &Env,
    config: &TransportConfig,
    tls: Arc<quinn::crypto::rustls::QuicClientConfig>,
) -> quinn::ClientConfig {
    let ids = env.clone();
    let mut client = quinn::ClientConfig::new(tls);
    client
        .transport_config(Arc::new(dialling(config)))
        .initial_dst_cid_provider(Arc::new(move || connection_id::<16>(&ids)));
    client
}

/// Only the dialling side keeps the connection alive: one ping serves both.
fn dialling(config: &TransportConfig) -> quinn::TransportConfig {
    let mut transport = common(config);
    transport
        .keep_alive_interval(Some(config.keep_alive))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(UNI_STREAMS_MAX));
    transport
}

fn accepting(config: &TransportConfig) -> quinn::TransportConfig {
    let mut transport = common(config);
    transport
        .receive_window(VarInt::from_u32(STRANGER_WINDOW_BYTES))
        .max_concurrent_bidi_streams(VarInt::from_u32(BIDI_STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0));
    transport
}

/// Gives an accepted connection what a member may have.
pub(super) fn widen(connection: &quinn::Connection) {
    connection.set_receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES));
}

fn common(config: &TransportConfig) -> quinn::TransportConfig {
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(mtu_max(config));
    let idle = u32::try_from(config.idle_timeout.as_millis()).unwrap_or(u32::MAX);
    let mut acks = quinn::AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(ACK_AFTER_DATAGRAMS - 1)).max_ack_delay(Some(ACK_WITHIN));
    let congestion = FlooredCubic { floor_bytes: WINDOW_MIN_BYTES, cubic: Arc::default() };
    let mut transport = quinn::TransportConfig::default();
    transport
        .ack_frequency_config(Some(acks))
        .congestion_controller_factory(Arc::new(congestion))
        .max_idle_timeout(Some(VarInt::from_u32(idle).into()))
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(Some(discovery))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        .datagram_receive_buffer_size(None);
    transport
}

fn mtu_max(config: &TransportConfig) -> u16 {
    config.mtu_max.clamp(MTU_MIN, MTU_MAX)
}

fn connection_id<const N: usize>(env: &Env) -> quinn::ConnectionId {
    let mut bytes = [0; N];
    env.entropy(&mut bytes);
    quinn::ConnectionId::new(&bytes)
}

/// Connection ids drawn from the environment.
struct RandomIds(Env);

impl quinn::ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        connection_id::<8>(&self.0)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The environment's calendar, as quinn asks for it.
struct Calendar(Env);

impl fmt::Debug for Calendar {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Calendar")
    }
}

impl quinn::TimeSource for Calendar {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + self.0.unix_time()
    }
}
