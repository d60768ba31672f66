//! A store in a process of its own that is killed under load, again and again: what it acknowledged is there.
//!
//! The child is this program, run for one test that does nothing unless it is told where its store is. It says on its
//! standard output what has become durable; whatever it had said when it was killed must be found by the next opening.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]
#![expect(clippy::print_stdout, reason = "how the child tells what is durable")]

use bytes::Bytes;
use rondel_core::{
    env::{Env, Rng},
    proto::id::Position,
    store::{LogConfig, LogStore, RowKey, Store, StoreConfig, TableId, Write},
};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

const DIRECTORY: &str = "RONDEL_TEST_KILLED_DIRECTORY";
const SEED: &str = "RONDEL_TEST_KILLED_SEED";
const KEYS: u64 = 500;
/// Far longer than a store is open here, in the child or in the test: past this it hangs.
const OPEN_MAX: Duration = Duration::from_secs(120);
/// Before a line of the child's that says what is durable.
const MARK: &str = "durable: ";

fn config() -> StoreConfig {
    // Small bounds: memtables are flushed and segments written over while it is killed.
    let log = LogConfig {
        segment_bytes: 256 << 10,
        log_bytes_max: 1 << 20,
        store_files: 4,
        flush_slice_bytes: 16 << 10,
        ..LogConfig::default()
    };
    StoreConfig {
        cache_bytes: 64 << 10,
        page_cache_bytes: 1 << 20,
        filter_bytes: 4 << 10,
        backlog_bytes_max: 256 << 10,
        log,
        ..StoreConfig::default()
    }
}

fn key(number: u64) -> RowKey {
    let position = Position(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    RowKey { table: TableId(0), position, key: Bytes::from(format!("key {number}")) }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let done = runtime.block_on(async { Env::production().timeout(OPEN_MAX, work).await });
    done.unwrap_or_else(|_| {
        // Dropped, it would wait for what hangs.
        runtime.shutdown_background();
        panic!("not done within {OPEN_MAX:?}")
    })
}

/// The version of every row that is there; each value says which it is, and fills the rest with it.
async fn versions(store: &LogStore) -> BTreeMap<u64, u64> {
    let rows = store.read((0..KEYS).map(key).collect()).await.unwrap();
    let version = |(number, row): (u64, Option<Bytes>)| {
        let row = row?;
        let version = u64::from_le_bytes(*row.first_chunk().unwrap());
        let filling = version.to_le_bytes()[0];
        assert!(row[8..].iter().all(|byte| *byte == filling), "a value is whole");
        Some((number, version))
    };
    (0..).zip(rows).filter_map(version).collect()
}

/// The child: writes for ever, two rows of one version at a time.
#[test]
#[ignore = "only for the test that kills it"]
fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let seed: u64 = std::env::var(SEED).unwrap().parse().unwrap();
    block_on(async {
        let env = Env::production();
        let store = LogStore::open(&env, Path::new(&directory), config()).await.unwrap();
        assert_eq!(store.recovery().loss, None);
        let mut rng = Rng::from_seed(seed);
        let mut progress = store.progress();
        let mut version = versions(&store).await.values().max().copied().unwrap_or(0);
        println!();
        loop {
            let mut batches = Vec::new();
            for _ in 0..1 + rng.below(20) {
                version += 1;
                let mut value = version.to_le_bytes().to_vec();
                value.resize(8 + rng.index(2000), version.to_le_bytes()[0]);
                let first = rng.below(KEYS);
                let numbers = [first, (first + 1) % KEYS];
                let rows = numbers.map(|number| Write { at: key(number), value: Some(value.clone().into()) });
                batches.push((numbers, version, store.apply(rows.into()).unwrap()));
            }
            let last = batches.last().unwrap().2;
            let now = progress.wait_for(|now| now.durable >= last || now.failed.is_some()).await.unwrap();
            assert!(now.failed.is_none(), "{:?}", now.failed);
            drop(now);
            let lines: String = batches
                .iter()
                .map(|([one, other], version, _)| format!("{MARK}{one} {other} {version}\n"))
                .collect();
            std::io::stdout().write_all(lines.as_bytes()).unwrap();
        }
    });
}

fn rounds(count: u64) {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::<u64, u64>::new();
    let mut rng = Rng::from_seed(7);
    let mut told = 0_u64;
    for round in 0..count {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--ignored", "--nocapture"])
            .env(DIRECTORY, directory.path().join("store"))
            .env(SEED, round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Some are killed while they open.
        let lines_until_killed = if rng.chance(0.1) { 0 } else { rng.below(600) };
        let mut seen = 0;
        let mut killed = lines_until_killed == 0;
        if killed {
            child.kill().unwrap();
        }
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let Some(line) = line.strip_prefix(MARK) else { continue };
            let numbers: Vec<u64> = line.split(' ').filter_map(|number| number.parse().ok()).collect();
            // The last line may be cut.
            let [one, other, version] = numbers[..] else { continue };
            seen += 1;
            for number in [one, other] {
                let known = acknowledged.entry(number).or_default();
                *known = version.max(*known);
            }
            if seen >= lines_until_killed && !killed {
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        assert!(killed, "round {round}: the child ended by itself");
        told += seen;
        block_on(async {
            let store =
                LogStore::open(&Env::production(), &directory.path().join("store"), config()).await.unwrap();
            assert_eq!(store.recovery().loss, None, "round {round}");
            let found = versions(&store).await;
            for (number, version) in &acknowledged {
                let there = found.get(number).copied().unwrap_or(0);
                assert!(
                    there >= *version,
                    "round {round}: row {number} is of version {there}, and {version} was durable"
                );
            }
            // What was found counts from now on: it may not go away again.
            acknowledged = found;
            store.close().await.unwrap();
        });
    }
    assert!(told > count * 50, "so few acknowledgements put nothing at stake: {told}");
}

#[test]
fn what_a_killed_process_had_acknowledged_is_there() {
    rounds(6);
}

#[test]
#[ignore = "a long run: a minute or two"]
fn what_a_process_killed_a_hundred_times_had_acknowledged_is_there() {
    rounds(100);
}
