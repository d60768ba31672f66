use super::*;
use crate::store::{
    LogConfig, TableId,
    conformance::{self, CrashReport, OpenIn, Script, crash, settle},
};
use crate::testing::{CrashMode, Sim};
use proptest::prelude::*;
use rondel_proto::id::Position;
use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Small bounds: memtables are moved, segments begun and written over within a short history.
fn tight(store_files: u32) -> StoreConfig {
    let log = LogConfig {
        segment_bytes: 24 << 10,
        log_bytes_max: 96 << 10,
        store_files,
        flush_slice_bytes: 2 << 10,
        ..LogConfig::default()
    };
    StoreConfig {
        cache_bytes: 64 << 10,
        page_cache_bytes: 1 << 20,
        backlog_bytes_max: 40 << 10,
        log,
        ..StoreConfig::default()
    }
}

fn opener(
    env: Env,
    path: std::path::PathBuf,
    files: u32,
) -> impl Fn() -> BoxFuture<Arc<dyn Store>> + Send + Sync {
    move || {
        let (env, path) = (env.clone(), path.clone());
        Box::pin(async move {
            let store = LogStore::open(&env, &path, tight(files)).await.unwrap();
            assert_eq!(store.recovery().loss, None);
            Arc::new(store) as Arc<dyn Store>
        })
    }
}

fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn answers_as_the_model_does(seed: u64, steps in 0..200_usize, files in 0..3_u32) {
        block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let open = opener(Env::production(), directory.path().join("store"), 1 << files);
            Script::random(seed, steps).run(&open, true).await;
        });
    }
}

#[test]
fn writers_and_walkers_at_once_see_whole_batches() {
    block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let env = Env::production();
        let open = opener(env.clone(), directory.path().join("store"), 2);
        conformance::race(&env, &open, 2, 4, 300).await;
    });
}

#[test]
fn a_crash_leaves_whole_batches_and_all_that_were_durable() {
    let report = crash_in_every_mode(0..12, None);
    assert!(report.deaths > 200 && report.died_opening > 20, "{report:?}");
    assert!(report.found_more > 20 && report.found_less > 20 && report.failed > 20, "{report:?}");
}

#[test]
#[ignore = "a long run: minutes"]
fn many_crashes_leave_whole_batches_and_all_that_were_durable() {
    crash_in_every_mode(100..700, None);
}

fn crash_in_every_mode(seeds: Range<u64>, mutant: Option<Mutant>) -> CrashReport {
    let runs = seeds.flat_map(|seed| CrashMode::ALL.iter().map(move |mode| (seed, *mode)));
    runs.map(|(seed, mode)| {
        let open: &OpenIn = &move |env| {
            Box::pin(async move {
                let mut config = tight(1 << (seed % 3));
                config.log.segment_bytes = 12 << 10;
                config.backlog_bytes_max = 16 << 10;
                config.log.mutant = mutant;
                let store = LogStore::open(&env, Path::new("/data"), config).await?;
                assert_eq!(store.recovery().loss, None);
                Ok(Arc::new(store) as Arc<dyn Store>)
            })
        };
        crash(seed, mode, open)
    })
    .fold(CrashReport::default(), CrashReport::and)
}

/// The first seed whose run fails with this rule broken.
fn caught(mutant: Mutant, seeds: Range<u64>) -> Option<u64> {
    seeds.into_iter().find(|seed| {
        catch_unwind(AssertUnwindSafe(|| crash_in_every_mode(*seed..seed + 1, Some(mutant)))).is_err()
    })
}

#[test]
fn each_broken_rule_is_caught() {
    for mutant in [Mutant::UnsealedGroup, Mutant::EarlyTrim, Mutant::EarlyReply, Mutant::UnmarkedFlush] {
        assert!(caught(mutant, 0..30).is_some(), "{mutant:?} goes unnoticed");
    }
}

#[test]
fn the_same_seed_takes_the_same_course() {
    let hash = || {
        let sim = Sim::new(5);
        let env = sim.node_env(0);
        let open = opener(env.clone(), "/data".into(), 2);
        sim.run_until(Script::random(9, 300).run(&open, true));
        sim.trace_hash()
    };
    assert_eq!(hash(), hash());
}

#[test]
fn a_full_disk_closes_admission_until_there_is_room() {
    let sim = Sim::new(6);
    let env = sim.node_env(0);
    sim.run_until(async {
        let store = LogStore::open(&env, Path::new("/data"), tight(1)).await.unwrap();
        assert_eq!(store.admission(), Admission::Open);
        sim.disk(0).set_capacity(tight(1).disk_reserve_bytes);
        sim.sleep(tight(1).disk_check_every * 2).await;
        assert_eq!(store.admission(), Admission::DiskFull);
        sim.disk(0).set_capacity(1 << 40);
        sim.sleep(tight(1).disk_check_every * 2).await;
        assert_eq!(store.admission(), Admission::Open);
    });
}

#[test]
fn the_log_stays_bounded_while_one_row_is_written_over_and_over() {
    let sim = Sim::new(7);
    let env = sim.node_env(0);
    sim.run_until(async {
        let store = LogStore::open(&env, Path::new("/data"), tight(1)).await.unwrap();
        let at = RowKey { table: TableId(0), position: Position(9), key: Bytes::new() };
        for round in 0..300_u32 {
            let value = Bytes::from(vec![round.to_le_bytes()[0]; 4 << 10]);
            let lsn = store.apply(vec![Write { at: at.clone(), value: Some(value) }]).unwrap();
            settle(&store, lsn).await;
            while store.admission() == Admission::Full {
                sim.sleep(Duration::from_millis(1)).await;
            }
            assert!(store.stats().log_bytes <= 96 << 10, "round {round}: {:?}", store.stats());
        }
        // Written: a megabyte and more. The memtable was never full.
        assert!(store.stats().written_bytes > 1 << 20);
        let files = env.disk().list(Path::new("/data/log")).unwrap();
        assert!(files.len() <= 10, "{} files", files.len());
        store.close().await.unwrap();
    });
}
