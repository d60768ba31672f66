//! Durable writes and reads of the stores on disk: `cargo bench -p rondel-core --bench store -- [directory]`.
//!
//! A closed loop of clients, each with one write on its way, whose answers leave as a lane's do: one task watches the
//! store's progress for all of them. CPU is that of the whole process, clients included.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a benchmark ends at the first error")]

use bytes::Bytes;
use rondel_core::{
    env::{Env, Rng},
    proto::id::Position,
    store::{LogStore, Lsn, Peek, RedbStore, RowKey, Store, StoreConfig, TableId, Write},
};
use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::oneshot;

const ROWS: u64 = 200_000;
const VALUE_BYTES: usize = 1024;
const RUN: Duration = Duration::from_secs(4);

type Acks = Arc<Mutex<VecDeque<(Lsn, oneshot::Sender<()>)>>>;

fn main() {
    let directory = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let directory = directory.map_or_else(std::env::temp_dir, PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        for engine in ["redb", "log", "log x16"] {
            run(engine, tempfile::tempdir_in(&directory).unwrap()).await;
        }
    });
}

async fn run(engine: &str, directory: tempfile::TempDir) {
    let env = Env::production();
    let store = open(engine, &env, &directory).await;
    load(&*store).await;
    for clients in [1, 8, 64, 256] {
        let label = format!("{engine:8} put {clients:4} clients");
        measure(&env, &label, || puts(&env, &store, clients)).await;
    }
    for clients in [1, 64] {
        let label = format!("{engine:8} get {clients:4} clients");
        measure(&env, &label, || gets(&env, &store, clients)).await;
    }
    println!("{engine:8} {:?}", store.stats());
    let began = env.now();
    store.close().await.unwrap();
    let closed = env.now();
    drop(store);
    let store = open(engine, &env, &directory).await;
    println!("{engine:8} close {:?} open {:?}", closed - began, env.now() - closed);
    store.close().await.unwrap();
}

async fn open(engine: &str, env: &Env, directory: &tempfile::TempDir) -> Arc<dyn Store> {
    let mut config = StoreConfig::default();
    match engine {
        "redb" => Arc::new(RedbStore::open(env, &directory.path().join("rows.redb"), config).await.unwrap()),
        _ => {
            config.log.store_files = if engine.ends_with("x16") { 16 } else { 1 };
            Arc::new(LogStore::open(env, directory.path(), config).await.unwrap())
        }
    }
}

async fn load(store: &dyn Store) {
    let mut progress = store.progress();
    for first in (0..ROWS).step_by(500) {
        let lsn = store.apply((first..first + 500).map(row).collect()).unwrap();
        progress.wait_for(|now| now.durable >= lsn).await.unwrap();
    }
}

fn row(number: u64) -> Write {
    Write { at: key(number), value: Some(Bytes::from(vec![b'v'; VALUE_BYTES])) }
}

fn key(number: u64) -> RowKey {
    // Spread over the ring as hashes are.
    let position = Position(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    RowKey { table: TableId(0), position, key: Bytes::from(format!("bucket/key-{number:020}")) }
}

/// Latencies of every operation, and what they cost.
async fn measure<F: Future<Output = Vec<u32>>>(env: &Env, label: &str, work: impl FnOnce() -> F) {
    let (began, cpu) = (env.now(), cpu_time());
    let mut micros = work().await;
    let (elapsed, cpu) = (env.now() - began, cpu_time() - cpu);
    micros.sort_unstable();
    let at = |per_mille: usize| micros[(micros.len() - 1) * per_mille / 1000];
    println!(
        "{label} | {:8.0} op/s | p50 {:6} p99 {:6} p99.9 {:6} us | cpu {:6.1} us/op",
        micros.len() as f64 / elapsed.as_secs_f64(),
        at(500),
        at(990),
        at(999),
        cpu.as_secs_f64() * 1e6 / micros.len() as f64,
    );
}

async fn puts(env: &Env, store: &Arc<dyn Store>, clients: u64) -> Vec<u32> {
    let acks = Acks::default();
    let answering = env.spawn("answer", answer(Arc::clone(store), Arc::clone(&acks)));
    let lane = Arc::new(tokio::sync::Mutex::new(()));
    let latencies = clients_do(env, clients, |mut rng| {
        let (store, acks, lane) = (Arc::clone(store), Arc::clone(&acks), Arc::clone(&lane));
        move || {
            let write = row(rng.below(ROWS));
            let (store, acks, lane) = (Arc::clone(&store), Arc::clone(&acks), Arc::clone(&lane));
            async move {
                let (sender, receiver) = oneshot::channel();
                let turn = lane.lock().await;
                let lsn = store.apply(vec![write]).unwrap();
                acks.lock().unwrap().push_back((lsn, sender));
                drop(turn);
                receiver.await.unwrap();
            }
        }
    })
    .await;
    answering.abort();
    latencies
}

/// Answers what has become durable.
async fn answer(store: Arc<dyn Store>, acks: Acks) {
    let mut progress = store.progress();
    while progress.changed().await.is_ok() {
        let durable = progress.borrow_and_update().durable;
        let mut acks = acks.lock().unwrap();
        while acks.front().is_some_and(|(lsn, _)| *lsn <= durable) {
            let _ = acks.pop_front().unwrap().1.send(());
        }
    }
}

async fn gets(env: &Env, store: &Arc<dyn Store>, clients: u64) -> Vec<u32> {
    clients_do(env, clients, |mut rng| {
        let store = Arc::clone(store);
        move || {
            let (store, at) = (Arc::clone(&store), key(rng.below(ROWS)));
            async move {
                if store.peek(&at) == Peek::Unknown {
                    assert!(store.read(vec![at]).await.unwrap()[0].is_some());
                } else {
                    tokio::task::yield_now().await;
                }
            }
        }
    })
    .await
}

/// Runs clients in a closed loop; gives the latencies of their operations in microseconds.
async fn clients_do<C, F>(env: &Env, clients: u64, client: impl Fn(Rng) -> C) -> Vec<u32>
where
    C: FnMut() -> F + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let until = env.now() + RUN;
    let number = AtomicU64::new(0);
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let mut operation = client(Rng::from_seed(number.fetch_add(1, Relaxed)));
            let (sender, receiver) = oneshot::channel();
            let clock = env.clone();
            env.spawn("client", async move {
                let mut latencies = Vec::new();
                loop {
                    let began = clock.now();
                    if began >= until {
                        break;
                    }
                    operation().await;
                    latencies.push(u32::try_from((clock.now() - began).as_micros()).unwrap());
                }
                let _ = sender.send(latencies);
            });
            receiver
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    all
}

/// CPU that this process has used.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    // A tick is a hundredth of a second on every Linux.
    Duration::from_millis(ticks * 10)
}
