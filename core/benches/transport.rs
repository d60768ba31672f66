//! What a request costs on loopback: CPU of both ends, throughput and latency by concurrency.
//!
//! `cargo bench -p rondel-core --bench transport [-- <seconds per row>]`

use bytes::Bytes;
use rondel_core::{
    env::Env,
    membership::Certificate,
    proto::{
        frame::Head,
        hello::{Hello, Known},
        id::{NodeId, Position, RequestId, StoreId, Ver},
    },
    reply::ReplyTo,
    transport::{Identity, Inbound, Peer, PeerInfo, Transport, TransportConfig},
};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

const SERVICE: u32 = 1;
const ECHO: u16 = 1;

struct Echo;

impl Inbound for Echo {
    fn request(
        &self,
        _from: PeerInfo,
        _head: Head,
        _key: Bytes,
        body: Bytes,
        _received: Instant,
        reply: ReplyTo,
    ) {
        reply.send(Ok(body));
    }
}

fn start(env: &Env, node: u128, streams: usize) -> (Transport, Peer) {
    let mut seed = [0; 32];
    env.entropy(&mut seed);
    let node = NodeId(node);
    let certificate = Certificate::self_signed(&seed, node);
    let mut config = TransportConfig::new("127.0.0.1:0".parse().expect("an address"));
    config.request_streams = streams;
    let identity = Identity {
        node,
        store: StoreId(1),
        boot: 1,
        nonce: env.random_u64(),
        certificate_der: certificate.der().to_vec(),
        key_pkcs8_der: certificate.key_pkcs8().to_vec(),
    };
    let hello =
        Hello { messages: vec![Known { service: SERVICE, message: ECHO, schema: 1 }], ..Hello::default() };
    let transport = Transport::start(env.clone(), config, identity, hello, Arc::new(Echo)).expect("loopback");
    let peer = Peer { node, addr: transport.local_addr(), fingerprint: certificate.fingerprint() };
    (transport, peer)
}

/// One of the many that ask, wait and ask again.
struct Asker {
    env: Env,
    transport: Transport,
    to: NodeId,
    body: Bytes,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    latencies_us: Arc<Mutex<Vec<u64>>>,
}

fn ask(asker: Arc<Asker>) {
    if asker.stop.load(Ordering::Relaxed) {
        return;
    }
    let head = Head {
        service: SERVICE,
        message: ECHO,
        flags: 0,
        slots: 1,
        stand_in: 0,
        ver: Ver(1),
        position: Position(1),
        request_id: RequestId(1),
        deadline_us: 30_000_000,
    };
    let (again, since) = (asker.clone(), asker.env.now());
    let reply = ReplyTo::new(move |outcome| {
        outcome.expect("loopback answers");
        let took = again.env.now().saturating_duration_since(since).as_micros();
        again.done.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut latencies) = again.latencies_us.lock() {
            latencies.push(u64::try_from(took).unwrap_or(u64::MAX));
        }
        ask(again);
    });
    asker.transport.request(
        asker.to,
        head,
        b"a key of forty bytes, as they often are.",
        asker.body.clone(),
        reply,
    );
}

/// User and system time of this process.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

#[expect(clippy::print_stdout, reason = "a benchmark's result")]
async fn row(env: &Env, streams: usize, concurrency: usize, body_bytes: usize, time: Duration) {
    let ((one, at_one), (two, at_two)) = (start(env, 1, streams), start(env, 2, streams));
    one.set_peers(&[at_two]);
    two.set_peers(&[at_one]);
    let asker = Arc::new(Asker {
        env: env.clone(),
        transport: one.clone(),
        to: at_two.node,
        body: Bytes::from(vec![7; body_bytes]),
        stop: Arc::default(),
        done: Arc::default(),
        latencies_us: Arc::default(),
    });
    for _ in 0..concurrency {
        ask(asker.clone());
    }
    env.sleep(time / 4).await;
    let (cpu_before, done_before) = (cpu(), asker.done.load(Ordering::Relaxed));
    env.sleep(time).await;
    let done = asker.done.load(Ordering::Relaxed) - done_before;
    let spent = cpu() - cpu_before;
    asker.stop.store(true, Ordering::Relaxed);
    let mut latencies = asker.latencies_us.lock().expect("no panic").clone();
    latencies.sort_unstable();
    let at = |permille: usize| latencies[(latencies.len() - 1) * permille / 1000];
    println!(
        "{streams} streams, {concurrency:4} at once, {body_bytes:6} bytes: {:8.0}/s  p50 {:6} us  p99 {:6} us  p99.9 {:6} us  cpu {:6.2} us each",
        done as f64 / time.as_secs_f64(),
        at(500),
        at(990),
        at(999),
        spent.as_secs_f64() * 1e6 / done as f64,
    );
    one.close(Duration::from_secs(1)).await;
    two.close(Duration::from_secs(1)).await;
}

fn main() {
    let seconds = std::env::args().filter_map(|word| word.parse().ok()).next().unwrap_or(2);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("threads").block_on(async {
        let env = Env::production();
        for (streams, concurrency, body_bytes) in [
            (2, 1, 1024),
            (2, 16, 1024),
            (1, 64, 1024),
            (2, 64, 1024),
            (4, 64, 1024),
            (2, 256, 1024),
            (2, 16, 65_000),
            (2, 8, 1 << 20),
        ] {
            row(&env, streams, concurrency, body_bytes, Duration::from_secs(seconds)).await;
        }
    });
}
