use super::*;
use crate::store::{
    LogConfig, TableId,
    conformance::{self, CrashReport, OpenIn, Script, crash, settle},
    row::{Body, Row, RowTag},
};
use crate::testing::{CrashMode, Sim, Spoil};
use futures_util::future::join_all;
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
        compact_file_bytes_min: 0,
        garbage_bytes_min: 12 << 10,
        ..LogConfig::default()
    };
    StoreConfig {
        cache_bytes: 64 << 10,
        page_cache_bytes: 1 << 20,
        // Small: it is kept whole after a few flushes, and stale before long.
        filter_bytes: 256 << (store_files - 1).min(2),
        backlog_bytes_max: 40 << 10,
        log,
        ..StoreConfig::default()
    }
}

/// The same, with all values in the files of rows.
fn with_values_in_files(store_files: u32) -> StoreConfig {
    let mut config = tight(store_files);
    config.log.value_bytes_min = usize::MAX;
    config
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
    assert!(report.rolled_back > 5, "{report:?}");
}

#[test]
#[ignore = "a long run: minutes"]
fn many_crashes_leave_whole_batches_and_all_that_were_durable() {
    let report = crash_in_every_mode(100..700, None);
    assert!(report.crashes() >= 20_000 && report.rolled_back > 100, "{report:?}");
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
    for mutant in [
        Mutant::UnsealedGroup,
        Mutant::EarlyTrim,
        Mutant::EarlyReply,
        Mutant::SkippedSync,
        Mutant::ForgottenJoint,
        Mutant::HastyOpening,
        Mutant::UnmarkedFlush,
        Mutant::ForgottenFilter,
        Mutant::ForgottenValues,
    ] {
        assert!(caught(mutant, 0..60).is_some(), "{mutant:?} goes unnoticed");
    }
}

#[test]
fn a_killed_store_serves_before_its_rows_are_in_the_tables_again() {
    let sim = Sim::new(14);
    let config = || StoreConfig { backlog_bytes_max: 1 << 20, ..tight(4) };
    let rows = |numbers: Range<u64>| numbers.map(|number| numbered(number, Some("a value")).at).collect();
    let open = |sim: &Sim| {
        let env = sim.node_env(0);
        async move { LogStore::open(&env, Path::new("/data"), config()).await.unwrap() }
    };
    sim.run_until(async {
        let store = open(&sim).await;
        let batch = (0..300).map(|number| numbered(number, Some("a value"))).collect();
        settle(&store, store.apply(batch).unwrap()).await;
    });
    sim.kill(0);
    sim.run_until(async {
        let store = open(&sim).await;
        assert_eq!(store.recovery().batches, 1);
        assert!(store.stats().backlog_bytes > 0 && store.stats().log_bytes > 0, "{:?}", store.stats());
        assert_eq!(not_denied(&store, 0..300), 300);
        settle(&store, store.apply(vec![numbered(7, None)]).unwrap()).await;
        // What it has left goes into the tables though it is not much; what came after it does not yet.
        while store.stats().backlog_bytes > 1000 {
            sim.sleep(Duration::from_millis(1)).await;
        }
        assert!(store.stats().log_bytes < 1000, "the segments of the life before are not needed any more");
        let read = store.read(rows(0..300)).await.unwrap();
        assert_eq!(read.iter().flatten().count(), 299);
    });
    sim.kill(0);
    sim.run_until(async {
        let store = open(&sim).await;
        assert_eq!((store.recovery().batches, store.recovery().segments), (1, 1));
        let read = store.read(rows(0..300)).await.unwrap();
        assert_eq!(read.iter().flatten().count(), 299);
        store.close().await.unwrap();
    });
}

#[test]
fn rows_that_are_too_many_for_the_memory_of_a_start_are_in_the_tables_before_it() {
    let sim = Sim::new(15);
    let value = Bytes::from(vec![7; 2000]);
    let put = |number| Write { value: Some(value.clone()), ..numbered(number, None) };
    let mut wide = StoreConfig { backlog_bytes_max: 8 << 20, ..with_values_in_files(2) };
    wide.log.log_bytes_max = 8 << 20;
    sim.run_until(async {
        let store = LogStore::open(&sim.node_env(0), Path::new("/data"), wide.clone()).await.unwrap();
        for number in 0..40 {
            settle(&store, store.apply(vec![put(number)]).unwrap()).await;
        }
        assert!(store.stats().backlog_bytes > 80_000, "{:?}", store.stats());
    });
    sim.kill(0);
    sim.run_until(async {
        let store =
            LogStore::open(&sim.node_env(0), Path::new("/data"), with_values_in_files(2)).await.unwrap();
        assert_eq!((store.recovery().batches, store.stats().backlog_bytes), (40, 0));
        let rows = store.read((0..40).map(|number| put(number).at).collect()).await.unwrap();
        assert!(rows.iter().all(|row| row.as_ref() == Some(&value)));
        store.close().await.unwrap();
    });
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
fn a_lone_writer_has_each_sync_at_once_and_many_share_one() {
    let sim = Sim::new(17);
    let env = sim.node_env(0);
    sim.run_until(async {
        // Without a flush in between, whose work on the disk the simulator puts on whoever comes next.
        let config = StoreConfig { backlog_bytes_max: 4 << 20, ..tight(1) };
        let store = LogStore::open(&env, Path::new("/data"), config).await.unwrap();
        let write = async |numbers: Range<u64>| {
            for number in numbers {
                settle(&store, store.apply(vec![numbered(number, Some("a value"))]).unwrap()).await;
            }
        };
        let began = sim.elapsed();
        write(0..50).await;
        let alone = sim.elapsed() - began;
        assert_eq!(store.stats().commits, 50);
        let began = sim.elapsed();
        join_all((1..65).map(|writer| write(writer * 100..writer * 100 + 20))).await;
        let together = sim.elapsed() - began;
        assert_eq!(store.stats().batches, 50 + 64 * 20);
        assert!(store.stats().commits < 50 + 2 * 20, "{:?}", store.stats());
        assert!(together < alone, "1280 writes together take {together:?}, 50 alone {alone:?}");
        store.close().await.unwrap();
    });
}

#[test]
fn what_nobody_waits_for_rests_until_somebody_does_or_its_time_is_up() {
    let sim = Sim::new(16);
    let env = sim.node_env(0);
    let rest = tight(1).lazy_sync_within;
    let soon = Duration::from_millis(100);
    sim.run_until(async {
        let store = LogStore::open(&env, Path::new("/data"), tight(1)).await.unwrap();
        let put = |number| vec![numbered(number, Some("a value"))];
        let lazily =
            |numbers: Range<u64>| numbers.fold(Lsn(0), |_, number| store.apply_lazily(put(number)).unwrap());
        let durable = async |lsn| {
            let began = sim.elapsed();
            store.progress().wait_for(|now| now.durable >= lsn).await.unwrap();
            sim.elapsed() - began
        };

        let last = lazily(0..20);
        assert_eq!(
            store.peek(&numbered(7, None).at),
            Peek::Known(Some("a value".into())),
            "it is seen at once"
        );
        sim.sleep(rest - Duration::from_millis(1)).await;
        assert_eq!((store.progress().borrow().durable, store.stats().commits), (Lsn(0), 0));
        assert!(durable(last).await < soon);
        assert_eq!((store.stats().commits, store.stats().batches), (1, 20), "all with one sync");

        let before = lazily(20..40);
        assert!(before < store.apply(put(40)).unwrap());
        assert!(durable(before).await < soon, "the next that somebody waits for takes them along");

        let before = lazily(41..60);
        assert_eq!(store.apply(Vec::new()).unwrap(), before);
        assert!(durable(before).await < soon, "an empty batch says that somebody waits");

        let last = lazily(60..80);
        let began = sim.elapsed();
        store.close().await.unwrap();
        assert!(sim.elapsed() - began < soon, "closing waits for no time to be up");
        assert_eq!(store.progress().borrow().durable, last);
    });
}

#[test]
fn the_log_stays_bounded_while_one_row_is_written_over_and_over() {
    let sim = Sim::new(7);
    let env = sim.node_env(0);
    sim.run_until(async {
        let store = LogStore::open(&env, Path::new("/data"), tight(1)).await.unwrap();
        let at = RowKey { table: TableId(0), position: Position(9), key: Bytes::new() };
        for round in 0..1200_u32 {
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
        assert!(files.len() <= 12, "{} files", files.len());
        store.close().await.unwrap();
    });
}

fn numbered(number: u64, value: Option<&'static str>) -> Write {
    let position = Position(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let key = Bytes::from(format!("key {number:06}"));
    Write {
        at: RowKey { table: TableId(0), position, key },
        value: value.map(|value| Bytes::from_static(value.as_bytes())),
    }
}

/// How many of these rows memory does not know to be absent.
fn not_denied(store: &LogStore, numbers: Range<u64>) -> usize {
    numbers.filter(|number| store.peek(&numbered(*number, None).at) != Peek::Known(None)).count()
}

/// Waits until the filters answer.
async fn until_filters_answer(sim: &Sim, store: &LogStore) {
    for _ in 0..1000 {
        if not_denied(store, 1_000_000..1_000_100) < 20 {
            return;
        }
        sim.sleep(Duration::from_millis(10)).await;
    }
    panic!("the filters are never filled");
}

fn with_filter(files: u32, filter_bytes: usize) -> StoreConfig {
    StoreConfig { filter_bytes, cache_bytes: 0, ..tight(files) }
}

#[test]
fn a_key_that_was_never_written_costs_no_read() {
    for files in [1, 4] {
        let sim = Sim::new(8);
        let env = sim.node_env(0);
        sim.run_until(async {
            let open = || LogStore::open(&env, Path::new("/data"), with_filter(files, 16 << 10));
            let store = open().await.unwrap();
            for first in (0..3000).step_by(50) {
                let batch = (first..first + 50).map(|number| numbered(number, Some("a value"))).collect();
                settle(&store, store.apply(batch).unwrap()).await;
                assert_eq!(not_denied(&store, 0..first + 50), usize::try_from(first).unwrap() + 50);
                assert!(not_denied(&store, 1_000_000..1_001_000) < 20);
            }
            assert!(store.stats().denied > 900, "{:?}", store.stats());
            store.close().await.unwrap();
            let store = open().await.unwrap();
            assert_eq!(not_denied(&store, 0..3000), 3000);
            assert!(not_denied(&store, 1_000_000..1_001_000) < 20, "what the filter knows is kept");
            store.close().await.unwrap();
        });
    }
}

#[test]
fn rows_that_were_written_without_the_filter_are_never_denied() {
    let sim = Sim::new(9);
    let env = sim.node_env(0);
    sim.run_until(async {
        let open = |bytes| LogStore::open(&env, Path::new("/data"), with_filter(2, bytes));
        // With a filter, without one, with the first again, and with one of another size.
        for (round, bytes) in [(0, 8 << 10), (1, 0), (2, 8 << 10), (3, 16 << 10)] {
            let store = open(bytes).await.unwrap();
            for first in (0..500).step_by(50) {
                let batch = (first..first + 50).map(|number| numbered(round * 500 + number, Some("a value")));
                settle(&store, store.apply(batch.collect()).unwrap()).await;
            }
            let all = usize::try_from((round + 1) * 500).unwrap();
            assert_eq!(not_denied(&store, 0..all as u64), all);
            if bytes > 0 {
                until_filters_answer(&sim, &store).await;
                assert_eq!(not_denied(&store, 0..all as u64), all);
            }
            store.close().await.unwrap();
        }
    });
}

#[test]
fn a_filter_that_is_dense_with_removed_rows_is_made_anew() {
    let sim = Sim::new(10);
    let env = sim.node_env(0);
    sim.run_until(async {
        let store = LogStore::open(&env, Path::new("/data"), with_filter(1, 1 << 10)).await.unwrap();
        // So many keys that a filter with all of them would deny nothing; it grows dense again and again.
        let answers = || not_denied(&store, 1_000_000..1_000_100) < 20;
        let mut first = 0;
        while first < 20_000 || (first < 60_000 && !answers()) {
            let came = (first..first + 50).map(|number| numbered(number, Some("a value")));
            let went =
                (first.saturating_sub(100)..first.saturating_sub(50)).map(|number| numbered(number, None));
            settle(&store, store.apply(came.chain(went).collect()).unwrap()).await;
            // A filter is filled while no flush is due.
            sim.sleep(Duration::from_millis(5)).await;
            first += 50;
        }
        assert!(answers(), "it has never been made anew");
        assert_eq!(not_denied(&store, first - 100..first), 100);
        store.close().await.unwrap();
    });
}

#[test]
fn the_room_of_removed_rows_is_given_back_while_writes_go_on() {
    for files in [1, 2] {
        let sim = Sim::new(11);
        let env = sim.node_env(0);
        sim.run_until(async {
            let mut config =
                StoreConfig { cache_bytes: 0, page_cache_bytes: 4 << 20, ..with_values_in_files(files) };
            config.log.compact_file_bytes_min = 256 << 10;
            let open = |config: &StoreConfig| LogStore::open(&env, Path::new("/data"), config.clone());
            let mut store = open(&config).await.unwrap();
            let value = Bytes::from(vec![7; 1000]);
            let put = |number| Write { value: Some(value.clone()), ..numbered(number, None) };
            for first in (0..4000).step_by(20) {
                settle(&store, store.apply((first..first + 20).map(put).collect()).unwrap()).await;
            }
            store.close().await.unwrap();
            store = open(&config).await.unwrap();
            let full = store.stats().file_bytes;
            let mut round = 0;
            while store.stats().compactions < u64::from(files) || round < 200 {
                // One in twenty stays; it is written over and over meanwhile.
                let at = round * 20 % 4000;
                let gone = (at + 1..at + 20).map(|number| numbered(number, None));
                settle(&store, store.apply(gone.chain([put(at)]).collect()).unwrap()).await;
                round += 1;
                assert!(round < 20_000, "the files are never compacted: {:?}", store.stats());
            }
            let stats = store.stats();
            // Of two files it may be one that has been compacted, twice.
            assert!(stats.file_bytes * 4 < full * 3 && stats.compacted_bytes > 0, "{full}, {stats:?}");
            let check = async |store: &LogStore| {
                let rows =
                    store.read((0..4000).map(|number| numbered(number, None).at).collect()).await.unwrap();
                for (number, row) in rows.iter().enumerate() {
                    assert_eq!(row.is_some(), number % 20 == 0, "row {number}");
                }
            };
            check(&store).await;
            store.close().await.unwrap();
            drop(store);
            // What a compaction under way had left is gone.
            config.log.compact_file_bytes_min = u64::MAX;
            let store = open(&config).await.unwrap();
            check(&store).await;
            let files = env.disk().list(Path::new("/data")).unwrap();
            assert!(files.iter().all(|path| path.extension().unwrap() == "redb"), "{files:?}");
            store.close().await.unwrap();
        });
    }
}

#[test]
fn a_compaction_that_closing_cuts_off_leaves_nothing_behind() {
    let sim = Sim::new(16);
    let env = sim.node_env(0);
    sim.run_until(async {
        let mut config = StoreConfig { cache_bytes: 0, page_cache_bytes: 4 << 20, ..with_values_in_files(1) };
        config.log.compact_file_bytes_min = 256 << 10;
        let store = LogStore::open(&env, Path::new("/data"), config).await.unwrap();
        let value = Bytes::from(vec![7; 1000]);
        let put = |number| Write { value: Some(value.clone()), ..numbered(number, None) };
        let mut batches = (0..4000).step_by(20).map(|first| (first..first + 20).map(put).collect::<Vec<_>>());
        let removed = |first: u64| (first..first + 20).map(|number| numbered(number % 4000, None)).collect();
        let mut removals = (0..).step_by(20).map(removed);
        let files = || env.disk().list(Path::new("/data")).unwrap();
        let is_under_way = || files().iter().any(|path| path.extension().unwrap() == "compact");
        while !is_under_way() {
            let batch = batches.next().or_else(|| removals.next()).unwrap();
            settle(&store, store.apply(batch).unwrap()).await;
            assert_eq!(store.stats().compactions, 0, "none has come to its end");
        }
        store.close().await.unwrap();
        assert!(!is_under_way(), "{:?}", files());
    });
}

#[test]
fn without_room_on_the_disk_a_compaction_is_put_off() {
    let sim = Sim::new(12);
    let env = sim.node_env(0);
    sim.run_until(async {
        let mut config = StoreConfig { cache_bytes: 0, ..tight(1) };
        config.disk_reserve_bytes = u64::MAX;
        let store = LogStore::open(&env, Path::new("/data"), config).await.unwrap();
        for number in 0..200 {
            settle(&store, store.apply(vec![numbered(number, Some("a value"))]).unwrap()).await;
        }
        assert_eq!(store.stats().compactions, 0);
        store.close().await.unwrap();
    });
}

#[test]
fn the_scrubber_finds_a_row_that_has_rotted_and_the_store_goes_on() {
    for (files, in_log) in [(1, false), (4, false), (1, true), (4, true)] {
        let sim = Sim::new(13);
        let env = sim.node_env(0);
        sim.run_until(async {
            let base = if in_log { tight(files) } else { with_values_in_files(files) };
            let config = StoreConfig { scrub_pause: Duration::from_secs(1), cache_bytes: 0, ..base };
            let store = LogStore::open(&env, Path::new("/data"), config.clone()).await.unwrap();
            let row = |number: u64| {
                let at = numbered(number, None).at;
                let item =
                    Bytes::from(format!("the item of row {number:06}, which is long enough to be found"));
                let row = Row { tag: RowTag::ITEM, n_val: 3, mine: None, body: Body::Item(item) };
                Write { value: Some(row.encode(&at)), at }
            };
            settle(&store, store.apply((0..3000).map(row).collect()).unwrap()).await;
            store.close().await.unwrap();
            drop(store);
            let rounds = async |store: &LogStore, more: u64| {
                let until = store.stats().scrub_rounds + more;
                while store.stats().scrub_rounds < until {
                    sim.sleep(Duration::from_millis(100)).await;
                }
                store.stats()
            };
            let store = LogStore::open(&env, Path::new("/data"), config.clone()).await.unwrap();
            let stats = rounds(&store, 1).await;
            assert_eq!((stats.scrubbed_rows, stats.damaged_rows), (3000, 0));
            store.close().await.unwrap();
            drop(store);
            assert!(
                sim.disk(0)
                    .flip_bits_of(b"the item of row 001234", |path| path.extension().is_some() != in_log)
                    > 0
            );
            let store = LogStore::open(&env, Path::new("/data"), config.clone()).await.unwrap();
            let stats = rounds(&store, 1).await;
            assert_eq!((stats.scrubbed_rows, stats.damaged_rows), (3000, 1));
            // Written anew, as a repair does, it is sound again.
            settle(&store, store.apply(vec![row(1234)]).unwrap()).await;
            store.close().await.unwrap();
            drop(store);
            let store = LogStore::open(&env, Path::new("/data"), config).await.unwrap();
            assert_eq!(rounds(&store, 2).await.damaged_rows, 0);
            store.close().await.unwrap();
        });
    }
}

mod lost_files;
mod values;
