use super::*;
use crate::{
    store::stored::{Place, Stored},
    testing::{CrashMode, Sim},
};

/// Closing a file makes parts durable that no transaction has followed: what they say of the log's segments must be
/// there, too, or a segment would be written over that rows have their values in. (Seed 127 of the long run: the disk
/// fails during a flush, the store stops and closes its files, and the next flush frees the segment.)
#[test]
fn what_a_part_says_of_the_log_is_as_durable_as_its_rows() {
    let sim = Sim::new(1);
    let mut env = sim.node_env(0);
    let open = |env: &crate::env::Env| {
        Tables::open(&*env.disk(), Path::new("/data/rows"), 1 << 20, 1 << 10, &Writing::default()).unwrap()
    };
    let key = |number: u8| Bytes::from(vec![0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, number]);
    let put = |file: &Tables, rows: &[(u8, u64)], is_part: bool| {
        let stored: Vec<_> = rows
            .iter()
            .map(|(number, segment)| {
                (key(*number), Stored::There(Place { segment: *segment, offset: 0, bytes: 10 }))
            })
            .collect();
        let transaction = if is_part { file.begin_part() } else { file.begin() }.unwrap();
        transaction.change(stored.iter().map(|(key, stored)| (key, Some(stored.encode(key))))).unwrap();
        transaction.commit().unwrap();
    };
    let live = |file: &Tables| {
        let mut live = BTreeMap::new();
        file.add_live_values(&mut live);
        live.into_iter().collect::<Vec<_>>()
    };
    let file = open(&env);
    put(&file, &[(1, 5), (2, 5), (3, 6)], false);
    put(&file, &[(1, 7)], true);
    put(&file, &[(3, 7)], true);
    drop(file);
    sim.crash(0, CrashMode::LoseAll);
    env = sim.node_env(0);
    let file = open(&env);
    assert!(get(&file.snapshot().unwrap(), &key(3)).unwrap().is_some());
    assert_eq!(live(&file), [(5, 10), (7, 20)]);
    // What parts have kept goes into the whole with the next transaction.
    put(&file, &[(2, 7)], false);
    put(&file, &[(2, 8)], true);
    drop(file);
    assert_eq!(live(&open(&env)), [(7, 20), (8, 10)]);
}

/// A sync that fails may lose what was written before it, and closing would make durable what leads there: parts that
/// no transaction has followed. (Seed 491 of the long run.)
#[test]
fn after_a_sync_that_failed_closing_writes_nothing() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        let mut env = sim.node_env(0);
        let open = |env: &crate::env::Env| {
            // Without room in memory for what it writes.
            Tables::open(&*env.disk(), Path::new("/data/rows"), 0, 1 << 10, &Writing::default())
        };
        let key = |number: u64| Bytes::from([[0, 0, 0, 17].as_slice(), &number.to_be_bytes()].concat());
        let put = |file: &Tables, numbers: std::ops::Range<u64>, is_part: bool| {
            let rows: Vec<_> = numbers.map(|number| (key(number), vec![7; 300])).collect();
            let transaction = if is_part { file.begin_part() } else { file.begin() }.unwrap();
            transaction.change(rows.iter().map(|(key, row)| (key, Some(Encoded::Plain(row))))).unwrap();
            transaction.commit().unwrap();
        };
        let file = open(&env).unwrap();
        put(&file, 0..200, false);
        put(&file, 100..400, true);
        sim.disk(0).set_write_error_chance(1.0);
        file.file.as_ref().unwrap().sync().unwrap_err();
        sim.disk(0).set_write_error_chance(0.0);
        drop(file);
        sim.crash(0, CrashMode::LoseAll);
        env = sim.node_env(0);
        let file = open(&env).unwrap();
        let snapshot = file.snapshot().unwrap();
        assert!((0..200).all(|number| get(&snapshot, &key(number)).unwrap().is_some()), "seed {seed}");
    }
}

struct Poisoned;

impl Drop for Poisoned {
    fn drop(&mut self) {
        panic!("as redb does when it rolls back what it can't make sense of");
    }
}

#[test]
fn what_panics_when_it_is_let_go_harms_nobody() {
    drop(Closing::new(Poisoned));
}

#[test]
fn a_file_of_the_layout_before_is_read_as_it_is_and_never_again_by_the_release_that_wrote_it() {
    let sim = Sim::new(2);
    let env = sim.node_env(0);
    let open = || {
        Tables::open(&*env.disk(), Path::new("/data/rows"), 1 << 20, 1 << 10, &Writing::default()).unwrap()
    };
    let (key, row) = (Bytes::from_static(&[0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 1]), b"\x01a row, as it stands");
    let file = open();
    let transaction = file.begin().unwrap();
    transaction.change([(&key, Some(Encoded::Plain(row)))]).unwrap();
    transaction.mark(FORMAT_KEY, FORMAT_OF_VALUES_ONLY).unwrap();
    transaction.commit().unwrap();
    drop(file);
    let file = open();
    let stored = get(&file.snapshot().unwrap(), &key).unwrap().unwrap();
    assert_eq!(InFile::decode(&key, &stored), InFile::Here(row));
    assert_eq!(file.mark(FORMAT_KEY).unwrap(), Some(FORMAT));
    drop(file);
    let file = open();
    let transaction = file.begin().unwrap();
    transaction.mark(FORMAT_KEY, FORMAT + 1).unwrap();
    transaction.commit().unwrap();
    drop(file);
    let newer = Tables::open(&*env.disk(), Path::new("/data/rows"), 1 << 20, 1 << 10, &Writing::default());
    assert!(newer.err().unwrap().to_string().contains("run the release that wrote it"));
}
