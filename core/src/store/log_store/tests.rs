use super::*;
use crate::store::{
    LogConfig,
    conformance::{self, CrashReport, OpenIn, Script, crash},
};
use crate::testing::CrashMode;
use proptest::prelude::*;
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
    let report = crash_in_every_mode(0..10, None);
    assert!(report.deaths > 200 && report.died_opening > 20, "{report:?}");
    assert!(report.found_more > 20 && report.found_less > 20, "{report:?}");
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
