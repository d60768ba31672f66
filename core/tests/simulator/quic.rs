//! Real quinn between simulated nodes.

use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, ServerConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, SerialNumber};
use rondel_core::{
    env::Env,
    testing::{CrashMode, Link, Sim, ip},
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::oneshot;

pub(crate) const PORT: u16 = 4433;
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// TLS for all nodes of a test: one certificate, which they all trust. Ed25519, because its signatures all have the
/// same length.
#[derive(Clone)]
pub(crate) struct Tls {
    certificate: CertificateDer<'static>,
    key: Arc<PrivateKeyDer<'static>>,
}

impl Tls {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::new(["node".to_owned()]).unwrap();
        // Drawn from the key otherwise, and then sometimes a byte shorter.
        params.serial_number = Some(SerialNumber::from(7));
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { certificate, key: Arc::new(PrivateKeyDer::try_from(key.serialize_der()).unwrap()) }
    }

    fn server(&self) -> Arc<QuicServerConfig> {
        let tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())
            .unwrap();
        Arc::new(tls.try_into().unwrap())
    }

    fn client(&self) -> Arc<QuicClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let tls = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(tls.try_into().unwrap())
    }

    /// An endpoint of a node that serves and calls.
    pub(crate) fn endpoint(&self, env: &Env, addr: SocketAddr) -> Endpoint {
        let mut token_key = [0; 64];
        env.entropy(&mut token_key);
        let token_key = Arc::new(ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, &[]).extract(&token_key));
        let mut transport = quinn::TransportConfig::default();
        // Longer than a client needs that lost its first flight: it takes the second it waited for the round trip.
        transport.max_idle_timeout(Some(IDLE_TIMEOUT.try_into().unwrap()));
        transport.keep_alive_interval(Some(Duration::from_secs(1)));
        let transport = Arc::new(transport);
        let mut server = ServerConfig::new(self.server(), token_key);
        server.transport_config(transport.clone());
        let mut client = ClientConfig::new(self.client());
        client.transport_config(transport);
        let socket = env.bind(addr).unwrap();
        let config = env.quic_endpoint_config();
        let runtime = env.quic_runtime();
        let mut endpoint = Endpoint::new_with_abstract_socket(config, Some(server), socket, runtime).unwrap();
        endpoint.set_default_client_config(client);
        endpoint
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(crate) fn addr(node: u32) -> SocketAddr {
    SocketAddr::new(ip(node), PORT)
}

/// Answers every stream with what it sent.
pub(crate) async fn echo(env: Env, endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        let inner = env.clone();
        env.spawn("connection", async move {
            let Ok(connection) = incoming.await else { return };
            while let Ok((mut sender, mut receiver)) = connection.accept_bi().await {
                inner.spawn("stream", async move {
                    let Ok(bytes) = receiver.read_to_end(1 << 24).await else { return };
                    if sender.write_all(&bytes).await.is_ok() && sender.finish().is_ok() {
                        let _ = sender.stopped().await;
                    }
                });
            }
        });
    }
}

/// Sends bytes to an echo, and gives what comes back.
pub(crate) async fn call(connection: &Connection, bytes: &[u8]) -> Option<Vec<u8>> {
    let (mut sender, mut receiver) = connection.open_bi().await.ok()?;
    sender.write_all(bytes).await.ok()?;
    sender.finish().ok()?;
    receiver.read_to_end(1 << 24).await.ok()
}

/// Starts an echo on a node.
fn serve(sim: &Sim, tls: &Tls, node: u32) {
    let tls = tls.clone();
    sim.start(node, move |env| {
        let endpoint = tls.endpoint(&env, addr(node));
        echo(env, endpoint)
    });
}

#[test]
fn a_message_arrives_whole_over_a_network_that_loses_doubles_and_reorders() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        let tls = Tls::new();
        sim.net().set_links(Link { loss: 0.1, duplication: 0.1, spike_chance: 0.1, ..Link::default() });
        serve(&sim, &tls, 0);
        let env = sim.node_env(1);
        let endpoint = tls.endpoint(&env, addr(1));
        let message: Vec<u8> = (0..200_000_u32).map(|at| at.to_le_bytes()[1]).collect();
        let answer = sim.run_until(async {
            let connection = endpoint.connect(addr(0), "node").unwrap().await.unwrap();
            call(&connection, &message).await
        });
        assert!(answer.as_ref() == Some(&message), "seed {seed}: not what was sent");
    }
}

#[test]
fn a_kill_drops_all_tasks_and_the_peer_notices_and_a_restart_serves_again() {
    struct Counted(Arc<AtomicU64>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    let sim = Sim::new(3);
    let tls = Tls::new();
    let dropped = Arc::new(AtomicU64::new(0));
    let (booted, counter) = (tls.clone(), dropped.clone());
    sim.start(0, move |env| {
        let (endpoint, counted) = (booted.endpoint(&env, addr(0)), Counted(counter.clone()));
        async move {
            let _counted = counted;
            echo(env, endpoint).await;
        }
    });
    let env = sim.node_env(1);
    let endpoint = tls.endpoint(&env, addr(1));
    sim.run_until(async {
        let connection = endpoint.connect(addr(0), "node").unwrap().await.unwrap();
        assert_eq!(call(&connection, b"one").await.unwrap(), b"one");

        sim.kill(0);
        assert_eq!(dropped.load(Ordering::Relaxed), 1, "destructors have run");
        assert_eq!(sim.tasks(0), [""; 0], "no task is left");
        let before = sim.elapsed();
        assert_eq!(connection.closed().await, ConnectionError::TimedOut);
        assert!(sim.elapsed() - before <= IDLE_TIMEOUT + Duration::from_secs(1));

        sim.restart(0);
        let connection = endpoint.connect(addr(0), "node").unwrap().await.unwrap();
        assert_eq!(call(&connection, b"two").await.unwrap(), b"two");
    });
}

#[test]
fn a_restarted_peer_resets_connections_of_its_former_self() {
    let sim = Sim::new(4);
    let tls = Tls::new();
    serve(&sim, &tls, 0);
    let env = sim.node_env(1);
    let endpoint = tls.endpoint(&env, addr(1));
    sim.run_until(async {
        let connection = endpoint.connect(addr(0), "node").unwrap().await.unwrap();
        assert!(call(&connection, b"one").await.is_some());
        sim.crash(0, CrashMode::LoseAll);
        sim.restart(0);
        assert_eq!(call(&connection, b"two").await, None);
        assert!(connection.close_reason().is_some());
    });
}

#[test]
fn a_pause_delays_the_answer_and_loses_nothing() {
    let sim = Sim::new(5);
    let tls = Tls::new();
    serve(&sim, &tls, 0);
    let env = sim.node_env(1);
    let endpoint = tls.endpoint(&env, addr(1));
    sim.run_until(async {
        let connection = endpoint.connect(addr(0), "node").unwrap().await.unwrap();
        sim.pause(0);
        let (started, control) = (sim.elapsed(), sim.control());
        let (resumed, resume) = oneshot::channel();
        sim.spawn("nemesis", async move {
            control.sleep(Duration::from_secs(2)).await;
            control.resume(0);
            resumed.send(()).unwrap();
        });
        assert_eq!(call(&connection, b"late").await.unwrap(), b"late");
        assert!(sim.elapsed() - started >= Duration::from_secs(2));
        resume.await.unwrap();
    });
}

#[test]
fn a_partition_ends_a_connection_and_its_healing_allows_another() {
    let sim = Sim::new(6);
    let tls = Tls::new();
    serve(&sim, &tls, 0);
    let env = sim.node_env(1);
    let endpoint = tls.endpoint(&env, addr(1));
    sim.run_until(async {
        let connection = endpoint.connect(addr(0), "node").unwrap().await.unwrap();
        sim.net().partition(&[&[0], &[1]]);
        assert_eq!(connection.closed().await, ConnectionError::TimedOut);
        sim.net().heal();
        let connection = endpoint.connect(addr(0), "node").unwrap().await.unwrap();
        assert!(call(&connection, b"again").await.is_some());
    });
}

#[test]
fn a_second_socket_of_a_node_works_beside_the_first() {
    let sim = Sim::new(7);
    let tls = Tls::new();
    serve(&sim, &tls, 0);
    let bulk = SocketAddr::new(ip(0), PORT + 1);
    let server = sim.node_env(0);
    let endpoint = tls.endpoint(&server, bulk);
    server.spawn("bulk", echo(server.clone(), endpoint));
    let env = sim.node_env(1);
    let endpoint = tls.endpoint(&env, "0.0.0.0:0".parse().unwrap());
    sim.run_until(async {
        for to in [addr(0), bulk] {
            let connection = endpoint.connect(to, "node").unwrap().await.unwrap();
            assert_eq!(connection.remote_address(), to);
            assert!(call(&connection, b"hello").await.is_some());
        }
    });
}
