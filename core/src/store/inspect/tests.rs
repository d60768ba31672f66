use super::*;
use crate::{
    env::Env,
    store::{
        LogConfig, LogStore, RedbStore, RowKey, Store, StoreConfig, TableId, Write,
        conformance::settle,
        row::{Body, Row, RowTag},
    },
    testing::Sim,
};
use bytes::Bytes;
use rondel_proto::id::Position;
use std::ops::ControlFlow;

const DATA: &str = "/data";
const ROWS: u64 = 200;

fn row(number: u64) -> Write {
    let position = Position(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let at = RowKey { table: TableId(0), position, key: Bytes::from(format!("key {number}")) };
    let item = Bytes::from(vec![0x5a; 300]);
    let row = Row { tag: RowTag::ITEM, n_val: 3, mine: None, body: Body::Item(item) };
    let value = row.encode(&at);
    Write { at, value: Some(value) }
}

fn config() -> StoreConfig {
    StoreConfig {
        log: LogConfig { segment_bytes: 24 << 10, store_files: 2, ..LogConfig::default() },
        filter_bytes: 1 << 10,
        ..StoreConfig::default()
    }
}

/// A store with rows in its tables, which have their values in the log, and rows that are in its log only. The process is
/// gone.
fn filled(sim: &Sim) -> Env {
    filled_with(sim, config())
}

fn filled_with(sim: &Sim, config: StoreConfig) -> Env {
    let config = || config.clone();
    let env = sim.node_env(0);
    sim.run_until(async {
        let store = LogStore::open(&env, Path::new("/data/store"), config()).await.unwrap();
        for number in 0..ROWS {
            settle(&store, store.apply(vec![row(number)]).unwrap()).await;
        }
        store.close().await.unwrap();
        let store = LogStore::open(&env, Path::new("/data/store"), config()).await.unwrap();
        for number in 0..ROWS {
            let removed = Write { value: None, ..row(number + 1) };
            settle(&store, store.apply(vec![row(number), removed]).unwrap()).await;
        }
    });
    sim.kill(0);
    sim.node_env(0)
}

fn look(env: &Env) -> Inspection {
    Inspection::open(env.disk(), Path::new(DATA)).unwrap()
}

fn reports(env: &Env) -> Vec<FileReport> {
    let mut reports = Vec::new();
    look(env).verify(|report| reports.push(report)).unwrap();
    reports
}

fn bytes_of(env: &Env, path: &Path) -> Vec<u8> {
    let file = env.disk().open(path, false).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

fn find(bytes: &[u8], what: &[u8]) -> u64 {
    bytes.windows(what.len()).position(|window| window == what).unwrap() as u64
}

fn flip(env: &Env, path: &Path, offset: u64) {
    let file = env.disk().open(path, false).unwrap();
    let mut byte = [0];
    file.read_at(offset, &mut byte).unwrap();
    file.write_at(offset, &[byte[0] ^ 1]).unwrap();
}

#[test]
fn a_whole_store_is_found_sound_and_left_as_it_is() {
    let sim = Sim::new(1);
    let env = filled(&sim);
    let files = || {
        let (disk, store) = (env.disk(), Path::new("/data/store"));
        let paths = [disk.list(store).unwrap(), disk.list(&store.join("log")).unwrap()].concat();
        paths.into_iter().map(|path| (bytes_of(&env, &path), path)).collect::<Vec<_>>()
    };
    let before = files();
    let reports = reports(&env);
    assert!(reports.iter().all(FileReport::is_sound), "{reports:?}");
    let checked =
        |kind| reports.iter().filter(|report| report.kind == kind).map(|report| report.checked).sum::<u64>();
    assert_eq!(checked(FileKind::Rows), ROWS);
    // Each batch: a row, a row removed, and the seal of its group.
    assert_eq!(checked(FileKind::Log), ROWS * 3);
    assert!(files() == before, "nothing is written");
}

#[test]
fn the_log_is_shown_in_order() {
    let sim = Sim::new(2);
    let env = filled(&sim);
    let mut records = Vec::new();
    let summary = look(&env)
        .log(|record| {
            records.push(record);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!((summary.records, summary.last, summary.loss), (ROWS * 3, Some(2 * ROWS), None));
    for (number, batch) in (0..).zip(records.chunks(3)) {
        let lsn = ROWS + 1 + number;
        assert!(batch.iter().all(|record| record.number == lsn), "{batch:?}");
        let value_bytes = row(number).value.unwrap().len();
        assert_eq!(batch[0].recorded, Recorded::Put { at: Some(row(number).at), value_bytes });
        assert_eq!(batch[1].recorded, Recorded::Removed { at: Some(row(number + 1).at) });
        assert_eq!(batch[2].recorded, Recorded::Sealed { durable: lsn - 1 });
    }
    let mut seen = 0;
    look(&env)
        .log(|_| {
            seen += 1;
            if seen == 7 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!(seen, 7);
}

#[test]
fn what_an_opening_has_left_in_the_log_is_shown_with_what_it_wrote_itself() {
    let sim = Sim::new(7);
    let env = filled(&sim);
    sim.run_until(async {
        // Slice by slice, with a pause after each: the flush has long to go.
        let slow = StoreConfig { log: LogConfig { flush_slice_bytes: 1, ..config().log }, ..config() };
        let store = LogStore::open(&env, Path::new("/data/store"), slow).await.unwrap();
        settle(&store, store.apply(vec![row(1)]).unwrap()).await;
        assert!(store.stats().frozen_bytes > 0, "killed before the flush is done");
    });
    sim.kill(0);
    let env = sim.node_env(0);
    let mut last = 0;
    let look_through = |last: &mut u64| {
        look(&env).log(|record| {
            assert!(record.number == *last || record.number == *last + 1 || *last == 0);
            *last = record.number;
            ControlFlow::Continue(())
        })
    };
    let summary = look_through(&mut last).unwrap();
    // Of its one batch: a row, and the seal of its group.
    assert_eq!((summary.records, summary.last, summary.loss), (ROWS * 3 + 2, Some(2 * ROWS + 1), None));
    assert_eq!(last, 2 * ROWS + 1);
    env.disk().remove(&summary.end.unwrap().0).unwrap();
    let without_its_own = look_through(&mut 0).unwrap();
    assert_eq!(without_its_own.loss.map(|loss| loss.from), Some(2 * ROWS + 1));
}

#[test]
fn a_flipped_bit_is_found_in_every_kind_of_file() {
    let sim = Sim::new(3);
    let damaged = |env: &Env, path: &Path| {
        let reports = reports(env);
        let damaged: Vec<_> = reports.iter().filter(|report| !report.is_sound()).collect();
        assert_eq!(damaged.len(), 1, "{reports:?}");
        assert_eq!(damaged[0].path, path);
        damaged[0].findings.join("; ")
    };
    let mut config = config();
    config.log.value_bytes_min = usize::MAX;
    let env = filled_with(&sim, config);
    // A row's value, found by what every value holds. Flipped back before the next.
    let rows = Path::new("/data/store/rows-001.redb");
    let offset = find(&bytes_of(&env, rows), &[0x5a; 100]) + 50;
    flip(&env, rows, offset);
    let text = damaged(&env, rows);
    assert!(text.contains("pages are not sound") && text.contains("checksum of row 00000000/"), "{text}");
    flip(&env, rows, offset);

    let mut first = None;
    look(&env)
        .log(|record| {
            first = Some(record);
            ControlFlow::Break(())
        })
        .unwrap();
    let LogRecord { segment, offset, number, .. } = first.unwrap();
    flip(&env, &segment, offset + 60);
    let text = damaged(&env, &segment);
    assert!(text.contains(&format!("batches from {number} on")), "{text}");
    flip(&env, &segment, offset + 60);

    flip(&env, &segment, 4096 + 30);
    assert!(damaged(&env, &segment).contains("1 of the 2 copies"));
}

#[test]
fn a_value_that_has_rotted_in_the_log_is_found_with_its_row() {
    let sim = Sim::new(7);
    let env = filled(&sim);
    let summary = look(&env).log(|_| ControlFlow::Continue(())).unwrap();
    let (newest, _) = summary.end.unwrap();
    let kept = env.disk().list(Path::new("/data/store/log")).unwrap().into_iter().find(|path| {
        *path != newest && bytes_of(&env, path).windows(100).any(|window| window == [0x5a; 100])
    });
    let kept = kept.unwrap();
    flip(&env, &kept, find(&bytes_of(&env, &kept), &[0x5a; 100]) + 50);
    let reports = reports(&env);
    let findings: Vec<_> = reports.iter().flat_map(|report| &report.findings).collect();
    assert!(findings.len() == 1 && findings[0].contains("can't be read in the log"), "{findings:?}");
}

#[test]
fn a_file_that_is_no_store_at_all_is_reported() {
    let sim = Sim::new(4);
    let env = filled(&sim);
    env.disk().open(Path::new("/data/store/rows-000.redb"), false).unwrap().write_at(0, &[7; 4096]).unwrap();
    let reports = reports(&env);
    let rows = reports.iter().find(|report| report.path.ends_with("rows-000.redb")).unwrap();
    assert!(!rows.is_sound());
    assert!(reports.iter().filter(|report| report.kind == FileKind::Log).all(FileReport::is_sound));
}

#[test]
fn a_directory_in_use_or_without_a_store_is_refused() {
    let sim = Sim::new(5);
    let env = filled(&sim);
    let guard = env.disk().lock(Path::new(DATA)).unwrap();
    assert!(matches!(Inspection::open(env.disk(), Path::new(DATA)), Err(InspectError::InUse { .. })));
    drop(guard);
    assert!(Inspection::open(env.disk(), Path::new(DATA)).is_ok());
    assert!(matches!(Inspection::open(env.disk(), Path::new("/other")), Err(InspectError::NoStore { .. })));
}

#[test]
fn the_store_of_one_file_is_verified_and_has_no_log() {
    let sim = Sim::new(6);
    let env = sim.node_env(0);
    sim.run_until(async {
        let store =
            RedbStore::open(&env, Path::new("/data/store.redb"), StoreConfig::default()).await.unwrap();
        settle(&store, store.apply((0..ROWS).map(row).collect()).unwrap()).await;
        store.close().await.unwrap();
    });
    let reports = reports(&env);
    assert_eq!(reports.len(), 1);
    assert!(reports[0].is_sound() && reports[0].checked == ROWS, "{reports:?}");
    assert!(matches!(look(&env).log(|_| ControlFlow::Continue(())), Err(InspectError::NoLog { .. })));
}
