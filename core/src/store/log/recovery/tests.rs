//! Schedules that random crashes rarely meet, on files that are damaged by hand.

use super::*;
use crate::{
    env::Env,
    store::{
        RowKey, StoreConfig, TableId, key,
        log::{
            record_bytes,
            segment::PAGE_BYTES,
            writer::{Batch, Writer},
        },
        stored::Encoded,
    },
    testing::{CrashMode, Sim},
};
use rondel_proto::id::Position;
use std::{path::PathBuf, sync::Mutex};

/// Bytes that a seal takes: a batch whose row is shorter by this ends, with its seal, where the other's row did.
const SEAL: usize = 25;
const ROW: usize = 60;

struct Machine {
    sim: Sim,
    env: Env,
    config: LogConfig,
    /// Bytes of rows that an opening may leave to the flush.
    backlog_bytes_max: u64,
}

/// One opening of the log.
struct Life {
    files: StoreFiles,
    recovery: Recovery,
    left: Folded,
    writer: Writer,
    segments: Arc<Mutex<Segments>>,
    next: u64,
}

impl Machine {
    fn new(mutant: Option<Mutant>) -> Self {
        let sim = Sim::new(1);
        let env = sim.node_env(0);
        let config = LogConfig { segment_bytes: 16 << 10, mutant, ..LogConfig::default() };
        Self { sim, env, config, backlog_bytes_max: 1 << 20 }
    }

    fn open(&self) -> Life {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<Life, StoreError> {
        let disk = self.env.disk();
        let config = StoreConfig {
            log: self.config.clone(),
            filter_bytes: 1 << 10,
            backlog_bytes_max: self.backlog_bytes_max,
            ..StoreConfig::default()
        };
        let files = StoreFiles::open(&*disk, Path::new("/data"), &config)
            .map_err(|error| StoreError::Damaged(error.to_string()))?;
        let recovered = recover(disk, Path::new("/data/log"), &files, &config, 77)?;
        let Recovered { recovery, last, rows: left, segments, tail, .. } = recovered;
        let segments = Arc::new(Mutex::new(segments));
        let writer = Writer::new(self.env.clone(), Arc::clone(&segments), self.config.clone(), tail, last);
        Ok(Life { files, recovery, left, writer, segments, next: last + 1 })
    }

    /// Ends the process, and begins another.
    fn restart(&mut self, end: impl FnOnce(&Self)) {
        end(self);
        self.env = self.sim.node_env(0);
    }

    /// The log's files, as they were made.
    fn log_files(&self) -> Vec<PathBuf> {
        self.env.disk().list(Path::new("/data/log")).unwrap()
    }

    fn bytes(&self, file: usize) -> Vec<u8> {
        let file = self.env.disk().open(&self.log_files()[file], false).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_at(0, &mut bytes).unwrap();
        bytes
    }

    fn damage(&self, file: usize, offset: u64) {
        let file = self.env.disk().open(&self.log_files()[file], false).unwrap();
        let mut byte = [0];
        file.read_at(offset, &mut byte).unwrap();
        file.write_at(offset, &[!byte[0]]).unwrap();
    }
}

impl Life {
    /// Appends batches as one group: each sets a row, named by a letter, to so many bytes of that letter's capital.
    fn append(&mut self, group: &[(u8, usize)]) {
        let batches: Vec<_> = (self.next..)
            .zip(group)
            .map(|(number, (name, len))| {
                let value = vec![name.to_ascii_uppercase(); *len];
                Batch { number, queued: 0, changes: vec![(key(*name), Some(value.into()))] }
            })
            .collect();
        self.next += group.len() as u64;
        self.writer.append(&batches).unwrap();
    }

    /// The names and lengths of the rows, from the tables and from what was left.
    fn rows(&self) -> Vec<(char, usize)> {
        let tables = self.files.snapshots().unwrap();
        let row = |name: u8| match self.left.get(&key(name)) {
            Some(None) => None,
            Some(Some(Stored::Here(row))) => Some(row.clone()),
            Some(Some(Stored::There(place))) => panic!("a value of a table without rows is at {place:?}"),
            None => tables.get(&key(name)).unwrap(),
        };
        (b'a'..=b'z').filter_map(|name| Some((char::from(name), row(name)?.len()))).collect()
    }

    fn loss(&self) -> Option<Loss> {
        self.recovery.loss
    }
}

/// With openings that leave rows to the flush, and with openings that leave none.
fn both_ways(test: impl Fn(Machine)) {
    for backlog_bytes_max in [1 << 20, 0] {
        test(Machine { backlog_bytes_max, ..Machine::new(None) });
    }
}

fn key(name: u8) -> Bytes {
    // Odd letters stand in the upper half of the ring.
    let (position, key) = (Position(u64::from(name) << 63), Bytes::copy_from_slice(&[name]));
    key::encode(&RowKey { table: TableId(1), position, key })
}

#[test]
fn whole_groups_are_taken_once_and_in_order() {
    let machine = Machine::new(None);
    let mut life = machine.open();
    life.append(&[(b'a', 1), (b'b', 2)]);
    life.append(&[(b'a', 3)]);
    drop(life);
    let life = machine.open();
    assert_eq!(life.recovery, Recovery { batches: 3, segments: 1, ..Recovery::default() });
    assert_eq!(life.rows(), [('a', 3), ('b', 2)]);
    drop(life);
    // Cut off before the flush, it has left them in the log; the next puts them into the tables.
    let life = machine.open();
    assert_eq!(life.recovery, Recovery { batches: 3, segments: 2, ..Recovery::default() });
    assert!(life.left.is_empty());
    assert_eq!(life.rows(), [('a', 3), ('b', 2)]);
    drop(life);
    assert_eq!(machine.open().recovery, Recovery { batches: 0, segments: 1, ..Recovery::default() });
}

#[test]
fn the_log_goes_on_behind_what_an_opening_has_left() {
    let machine = Machine::new(None);
    let mut life = machine.open();
    life.append(&[(b'a', ROW)]);
    let torn = life.writer.position();
    life.append(&[(b'b', ROW)]);
    drop(life);
    machine.damage(0, torn);
    let mut life = machine.open();
    assert_eq!(life.left.iter().count(), 1);
    life.append(&[(b'c', 16 << 10)]);
    life.append(&[(b'd', ROW)]);
    drop(life);
    let life = machine.open();
    assert_eq!((life.rows(), life.loss()), (vec![('a', ROW), ('c', 16 << 10), ('d', ROW)], None));
    assert_eq!(life.recovery.segments, 3);
}

#[test]
fn a_segment_on_either_side_of_a_joint_that_is_gone_is_a_loss() {
    for (gone, from, rows) in [(0, 1, 0), (1, 2, 1)] {
        let machine = Machine::new(None);
        machine.open().append(&[(b'a', ROW)]);
        machine.open().append(&[(b'b', ROW)]);
        machine.env.disk().remove(&machine.log_files()[gone]).unwrap();
        let life = machine.open();
        assert_eq!(life.loss().map(|loss| loss.from), Some(from), "segment {gone}");
        assert_eq!(life.rows().len(), rows);
    }
}

#[test]
fn what_follows_segments_that_were_left_to_the_flush_is_found_behind_them() {
    let rows = |mutant| {
        let machine = Machine::new(mutant);
        machine.open().append(&[(b'a', ROW)]);
        machine.open().append(&[(b'b', ROW)]);
        machine.open().rows()
    };
    assert_eq!(rows(None), [('a', ROW), ('b', ROW)]);
    assert_eq!(rows(Some(Mutant::ForgottenJoint)), [('a', ROW)]);
}

#[test]
fn a_batch_before_a_joint_that_rots_is_a_loss() {
    let machine = Machine::new(None);
    let mut life = machine.open();
    life.append(&[(b'a', ROW)]);
    let rots = life.writer.position();
    life.append(&[(b'b', ROW)]);
    drop(life);
    machine.open().append(&[(b'c', ROW)]);
    machine.damage(0, rots);
    let life = machine.open();
    assert_eq!((life.rows(), life.loss()), (vec![('a', ROW)], Some(Loss { from: 2, durable: 2 })));
}

#[test]
fn a_torn_tail_is_cut_without_a_loss() {
    both_ways(|machine| {
        let mut life = machine.open();
        life.append(&[(b'a', ROW)]);
        let tail = life.writer.position();
        life.append(&[(b'b', ROW), (b'c', ROW)]);
        drop(life);
        machine.damage(0, tail);
        let mut life = machine.open();
        assert_eq!((life.rows(), life.loss()), (vec![('a', ROW)], None));
        // The numbers of what was cut are given out again.
        life.append(&[(b'd', ROW)]);
        drop(life);
        let life = machine.open();
        assert_eq!((life.rows(), life.loss()), (vec![('a', ROW), ('d', ROW)], None));
    });
}

#[test]
fn a_group_without_its_seal_never_happened() {
    let rows = |mutant| {
        let machine = Machine::new(mutant);
        let mut life = machine.open();
        life.append(&[(b'a', ROW), (b'b', ROW)]);
        let end = life.writer.position();
        drop(life);
        machine.damage(0, end - 1);
        machine.open().rows()
    };
    assert_eq!(rows(None), []);
    assert_ne!(rows(Some(Mutant::UnsealedGroup)), []);
}

#[test]
fn a_damaged_group_that_a_later_seal_calls_durable_is_a_loss() {
    both_ways(|machine| {
        let mut life = machine.open();
        life.append(&[(b'a', ROW)]);
        let damaged = life.writer.position();
        life.append(&[(b'b', ROW), (b'c', ROW)]);
        life.append(&[(b'd', ROW)]);
        drop(life);
        machine.damage(0, damaged);
        let life = machine.open();
        assert_eq!(life.loss(), Some(Loss { from: 2, durable: 3 }));
        assert_eq!(life.rows(), [('a', ROW)], "what came after the gap is not shown without what was in it");
    });
}

#[test]
fn a_loss_is_known_at_every_opening_and_what_is_left_of_it_is_kept() {
    both_ways(|machine| {
        let mut life = machine.open();
        let damaged = life.writer.position();
        life.append(&[(b'a', ROW)]);
        life.append(&[(b'b', ROW)]);
        drop(life);
        machine.damage(0, damaged);
        let before = machine.bytes(0);
        for opening in 0..4_u8 {
            let mut life = machine.open();
            assert_eq!(life.loss(), Some(Loss { from: 1, durable: 1 }), "opening {opening}");
            life.append(&[(b'c' + opening, ROW)]);
            assert_eq!(life.rows().len(), usize::from(opening));
        }
        let kept: Vec<_> =
            machine.log_files().into_iter().filter(|path| path.ends_with("log-000000.lost")).collect();
        assert_eq!(kept.len(), 1, "{:?}", machine.log_files());
        let kept = machine.env.disk().open(&kept[0], false).unwrap();
        assert_eq!(kept.len().unwrap(), before.len() as u64);
        let mut bytes = vec![0; before.len()];
        kept.read_at(0, &mut bytes).unwrap();
        assert!(bytes == before);
    });
}

#[test]
fn a_damaged_group_that_a_later_segment_calls_durable_is_a_loss() {
    both_ways(|machine| {
        let mut life = machine.open();
        life.append(&[(b'a', ROW)]);
        let damaged = life.writer.position();
        life.append(&[(b'b', ROW)]);
        life.append(&[(b'c', 16 << 10)]);
        drop(life);
        assert_eq!(machine.log_files().len(), 2);
        machine.damage(0, damaged);
        let life = machine.open();
        assert_eq!((life.rows(), life.loss()), (vec![('a', ROW)], Some(Loss { from: 2, durable: 2 })));
    });
}

#[test]
fn a_segment_that_is_gone_is_a_loss() {
    for (gone, from) in [(0, 1), (1, 2)] {
        let machine = Machine::new(None);
        let mut life = machine.open();
        for name in [b'a', b'b', b'c'] {
            life.append(&[(name, 16 << 10)]);
        }
        drop(life);
        machine.env.disk().remove(&machine.log_files()[gone]).unwrap();
        let life = machine.open();
        assert_eq!(life.loss().map(|loss| loss.from), Some(from), "segment {gone}");
        assert_eq!(life.rows().len(), gone);
    }
}

#[test]
fn one_damaged_copy_of_a_header_hides_nothing() {
    for copy in [0, 4096] {
        let machine = Machine::new(None);
        let mut life = machine.open();
        life.append(&[(b'a', ROW)]);
        drop(life);
        machine.damage(0, copy + 9);
        let life = machine.open();
        assert_eq!((life.rows(), life.loss()), (vec![('a', ROW)], None));
    }
}

#[test]
fn a_file_with_everything_does_not_take_older_versions_again() {
    both_ways(|mut machine| {
        machine.config.store_files = 2;
        let mut life = machine.open();
        life.append(&[(b'a', 1), (b'b', 1)]);
        // A flush that reached the second file and not the first: its row is ahead of what can be read back.
        let ahead = life.files.of(&key(b'a'));
        assert_eq!(ahead, 1);
        let file = &life.files.all()[ahead];
        let transaction = file.begin().unwrap();
        transaction.change([(&key(b'a'), Some(Encoded::Plain(b"newer")))]).unwrap();
        transaction.mark(APPLIED_MARK, 2).unwrap();
        transaction.commit().unwrap();
        drop(life);
        assert_eq!(machine.open().rows(), [('a', 5), ('b', 1)]);
    });
}

/// A row whose record fills a page.
fn page_row() -> usize {
    PAGE_BYTES - usize::try_from(record_bytes(key(b'a').len(), 0)).unwrap()
}

/// The first group of a life is torn so that its second batch can still be read, and a later life writes a batch and
/// seal that end just where that second batch begins, which is where a page does.
fn older_tail(mutant: Option<Mutant>, lives_between: usize) -> Vec<(char, usize)> {
    let machine = Machine::new(mutant);
    let mut life = machine.open();
    life.append(&[(b'a', page_row()), (b'b', ROW)]);
    drop(life);
    machine.damage(0, RECORDS_AT);
    for _ in 0..lives_between {
        assert_eq!(machine.open().rows(), []);
    }
    machine.open().append(&[(b'c', page_row() - SEAL)]);
    let life = machine.open();
    assert_eq!(life.loss(), None);
    life.rows()
}

#[test]
fn a_segment_that_was_cut_is_not_appended_to() {
    assert_eq!(older_tail(None, 0), [('c', page_row() - SEAL)]);
    assert_eq!(older_tail(Some(Mutant::AppendToCut), 0), [('b', ROW), ('c', page_row() - SEAL)]);
}

#[test]
fn records_of_a_segment_that_was_written_over_do_not_come_back() {
    // With one life in between, the file of the first is written over by the third.
    assert_eq!(older_tail(None, 1), [('c', page_row() - SEAL)]);
    assert_eq!(older_tail(Some(Mutant::UnseededChecksum), 1), [('b', ROW), ('c', page_row() - SEAL)]);
}

/// A process is killed before its sync, the next one loses power within its opening, at every point of it: do both
/// rows of the batch share their fate, without a loss?
fn is_whole_after_a_cut_opening(mutant: Option<Mutant>, backlog_bytes_max: u64) -> bool {
    (0..80).all(|operations| {
        let mut machine = Machine { backlog_bytes_max, ..Machine::new(mutant) };
        machine.config.store_files = 2;
        let mut life = machine.open();
        let disk = machine.sim.disk(0);
        disk.set_ignore_sync(true);
        let changes = vec![(key(b'a'), Some(Bytes::new())), (key(b'b'), Some(Bytes::new()))];
        life.writer.append(&[Batch { number: 1, queued: 0, changes }]).unwrap();
        disk.set_ignore_sync(false);
        drop(life);
        machine.restart(|machine| machine.sim.kill(0));
        machine.sim.cut_power_after(0, operations, CrashMode::LoseAll);
        drop(machine.try_open());
        machine.restart(|machine| machine.sim.crash(0, CrashMode::LoseAll));
        machine.sim.cut_power_after(0, u64::MAX, CrashMode::LoseAll);
        let life = machine.open();
        life.loss().is_none() && [0, 2].contains(&life.rows().len())
    })
}

#[test]
fn an_opening_makes_durable_what_it_read_before_it_relies_on_it() {
    for backlog_bytes_max in [1 << 20, 0] {
        assert!(is_whole_after_a_cut_opening(None, backlog_bytes_max));
        assert!(!is_whole_after_a_cut_opening(Some(Mutant::UnprovenTail), backlog_bytes_max));
    }
}

/// What an earlier user of the file has left in it: a page that the page cache does not hold would be read before a part of
/// it is written.
#[test]
fn a_page_that_a_group_begins_is_written_whole() {
    let machine = Machine::new(None);
    let mut life = machine.open();
    let file = machine.env.disk().open(&machine.log_files()[0], false).unwrap();
    file.write_at(RECORDS_AT, &[0xff; 3 * PAGE_BYTES]).unwrap();
    for (row, pages) in [(ROW, 1), (ROW, 1), (PAGE_BYTES, 2)] {
        life.append(&[(b'a', row)]);
        let mut records = [0; 3 * PAGE_BYTES];
        file.read_at(RECORDS_AT, &mut records).unwrap();
        let end = usize::try_from(life.writer.position() - RECORDS_AT).unwrap();
        let (written, left) = records.split_at(pages * PAGE_BYTES);
        assert!(written[end..].iter().all(|byte| *byte == 0), "{end} in {pages} pages");
        assert!(left.iter().all(|byte| *byte == 0xff), "{end} in {pages} pages");
    }
    drop(life);
    assert_eq!(machine.open().rows(), [('a', PAGE_BYTES)]);
}

#[test]
fn a_file_that_grows_is_left_for_one_that_was_prepared() {
    let machine = Machine::new(None);
    let mut life = machine.open();
    let files = || machine.log_files().len();
    life.append(&[(b'a', 600)]);
    life.append(&[(b'b', 600)]);
    assert_eq!(files(), 1, "without another there is nothing to leave it for");
    let spare = life.segments.lock().unwrap().reserve();
    let spare = spare.make().unwrap();
    life.segments.lock().unwrap().give_back(vec![spare]);
    let first = life.writer.position();
    life.append(&[(b'c', 600)]);
    assert!(life.writer.position() < first, "it has gone to the one that was prepared");
    let second = life.writer.position();
    life.append(&[(b'd', 600)]);
    assert!(life.writer.position() > second, "and stays there");
    assert_eq!(files(), 2);
    drop(life);
    let life = machine.open();
    assert_eq!((life.rows().len(), life.loss()), (4, None));
}

/// A store of two files, of which a flush has reached the first: that one names the segments of opening 2, and the other
/// those of opening 1, too. The first segment has so many bytes of records.
fn half_flushed(bytes: usize) -> Machine {
    let mut machine = Machine::new(None);
    machine.config.store_files = 2;
    machine.open().append(&[(b'a', bytes)]);
    let life = machine.open();
    let transaction = life.files.all()[0].begin().unwrap();
    transaction.mark_applied(1).unwrap();
    transaction.mark(FIRST_MARK, Needed::from(2 << 32).mark()).unwrap();
    transaction.commit().unwrap();
    { life }.append(&[(b'b', ROW)]);
    machine.restart(|machine| machine.sim.kill(0));
    machine
}

impl Machine {
    /// Loses power after so many operations of an opening; whether it came to its end.
    fn cut_opening(&mut self, operations: u64) -> bool {
        self.sim.cut_power_after(0, operations, CrashMode::LoseAll);
        let is_done = self.try_open().is_ok();
        self.restart(|machine| machine.sim.crash(0, CrashMode::LoseAll));
        self.sim.cut_power_after(0, u64::MAX, CrashMode::LoseAll);
        is_done
    }

    /// By store file, the first segment that it names.
    fn named(&self) -> Vec<u64> {
        let disk = self.env.disk();
        let config = StoreConfig { log: self.config.clone(), ..StoreConfig::default() };
        let files = StoreFiles::open(&*disk, Path::new("/data"), &config).unwrap();
        let named = Needed::of_marks(files.marks(FIRST_MARK).unwrap()).unwrap();
        named.into_iter().map(Needed::first).collect()
    }

    fn lose_file(&self, number: usize) {
        self.env.disk().remove(Path::new(&format!("/data/rows-{number:03}.redb"))).unwrap();
    }
}

/// Opening 3 puts what it reads into the tables. Cut off between its two files, it leaves one that names its segment,
/// and one that names those of opening 2: opening 4 leaves what these have to the flush, and may choose another file for
/// the segment that it begins. Were it numbered as opening 3's, the log would have two of that number.
#[test]
fn the_number_of_an_opening_that_was_cut_off_is_not_used_again() {
    // The file of the first segment is as long as those that are prepared, and preferred, or not.
    for (bytes, lost) in
        [ROW, 16 << 10].into_iter().flat_map(|bytes| [None, Some(0), Some(1)].map(|lost| (bytes, lost)))
    {
        for operations in 0.. {
            let mut machine = half_flushed(bytes);
            if machine.cut_opening(operations) {
                break;
            }
            lost.into_iter().for_each(|lost| machine.lose_file(lost));
            machine.open().append(&[(b'c', ROW)]);
            let life = machine.open();
            let case = format!("{bytes} bytes, file {lost:?} lost, cut off after {operations} operations");
            assert_eq!(life.loss(), None, "{case}");
            if lost.is_none() {
                assert_eq!(life.rows(), [('a', bytes), ('b', ROW), ('c', ROW)], "{case}");
            }
        }
    }
}

/// What one file names is needed if the other is lost.
#[test]
fn an_opening_that_is_cut_off_has_written_over_nothing_that_any_file_names() {
    let cut = |operations| {
        let mut machine = half_flushed(ROW);
        machine.cut_opening(operations);
        machine
    };
    let between = (0..200).find(|operations| cut(*operations).named() == [2 << 32, 3 << 32]).unwrap();
    for operations in 0.. {
        let mut machine = cut(between);
        if machine.cut_opening(operations) {
            break;
        }
        machine.lose_file(0);
        assert_eq!(machine.open().loss(), None, "cut off after {operations} operations");
    }
}

/// An opening that finds the newest segment to be gone must not begin one of its number.
#[test]
fn a_loss_is_found_again_after_an_opening_that_was_cut_off() {
    for operations in 0.. {
        let mut machine = half_flushed(ROW);
        machine.env.disk().remove(&machine.log_files()[1]).unwrap();
        machine.env.disk().sync_dir(Path::new("/data/log")).unwrap();
        if machine.cut_opening(operations) {
            break;
        }
        assert!(machine.open().loss().is_some(), "cut off after {operations} operations");
    }
}

/// Process 1 is killed between making a file for the log and syncing its name, and process 2 finds the file.
#[test]
fn a_file_that_a_killed_process_has_made_does_not_go_with_the_power() {
    let mut machine = Machine::new(None);
    drop(machine.open());
    machine.env.disk().open(Path::new("/data/log/log-000001"), true).unwrap();
    machine.restart(|machine| machine.sim.kill(0));
    machine.open().append(&[(b'a', ROW)]);
    machine.restart(|machine| machine.sim.crash(0, CrashMode::LoseAll));
    let life = machine.open();
    assert_eq!((life.rows(), life.loss()), (vec![('a', ROW)], None));
}

#[test]
fn only_what_no_store_file_needs_is_written_over() {
    let machine = Machine::new(None);
    let mut life = machine.open();
    for name in [b'a', b'b', b'c'] {
        life.append(&[(name, 16 << 10)]);
    }
    let mut segments = life.segments.lock().unwrap();
    let first = segments.first_needed(0);
    assert_eq!([0, 1, 2, 3].map(|applied| segments.first_needed(applied) - first), [0, 1, 2, 2]);
    assert!(segments.wants_spare());
    let needed = segments.first_needed(1);
    segments.trim(needed, &LiveValues::new(), 32).unwrap();
    assert_eq!(segments.first_needed(0), first + 1);
    assert!(!segments.wants_spare());
}

/// A segment is begun for a group whose sync is under way when a flush ends that has moved all batches before it: the
/// power may go before its header is there. (Seed 292 of the long run.)
#[test]
fn a_segment_is_not_named_before_it_is_certainly_there() {
    let machine = Machine::new(None);
    let mut life = machine.open();
    life.append(&[(b'a', ROW)]);
    let mut segments = life.segments.lock().unwrap();
    let before = segments.first_needed(1);
    let (header, _) = segments.begin(2).unwrap();
    assert_eq!(segments.first_needed(1), before);
    segments.note_written(10);
    assert_eq!(segments.first_needed(1), header.number);
}
