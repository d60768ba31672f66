//! A redb file on the node's disk.

use crate::env::File;
use redb::StorageBackend;
use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

/// Pieces in which an untouched file's changes are kept.
const PIECE_BYTES: u64 = 4096;

/// So much is written to a file before the disk has to take it: a sync of the log waits behind all that the disk has been
/// given before it, and these are pages from all over the file.
const BURST_BYTES: u64 = 128 << 10;

/// What redb writes to the files of a store.
#[derive(Debug, Clone, Default)]
pub(super) struct Writing(Arc<Writes>);

#[derive(Debug, Default)]
struct Writes {
    bytes: AtomicU64,
    /// Whose file the disk is taking.
    turn: Mutex<()>,
}

impl Writing {
    /// Bytes written so far.
    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes.load(Relaxed)
    }
}

/// Passes redb's accesses to a file. The node's directory lock keeps other processes out, so redb's own is not needed.
///
/// After a failed sync, whoever has asked for it, nothing is written any more. redb, when it is closed, would lead to pages
/// that the sync has lost.
#[derive(Debug, Clone)]
pub(super) struct RedbFile(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    file: Arc<dyn File>,
    writing: Writing,
    /// Bytes written since the disk last took what there was.
    burst: AtomicU64,
    /// Whether a sync has failed: what was written before may be gone, and another one would say nothing of it.
    failed: AtomicBool,
}

impl RedbFile {
    pub(super) fn new(file: Arc<dyn File>, writing: Writing) -> Self {
        Self(Arc::new(Shared { file, writing, burst: AtomicU64::new(0), failed: AtomicBool::new(false) }))
    }

    /// Has the disk take what has been written, one file of the store after the other.
    fn write_back(&self) -> io::Result<()> {
        let _turn = self.0.writing.0.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.taken(|file| file.write_back())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.taken(|file| file.sync())
    }

    fn taken(&self, take: impl FnOnce(&dyn File) -> io::Result<()>) -> io::Result<()> {
        self.check()?;
        self.0.burst.store(0, Relaxed);
        let taken = take(&*self.0.file);
        if taken.is_err() {
            self.0.failed.store(true, Relaxed);
        }
        taken
    }

    fn check(&self) -> io::Result<()> {
        if self.0.failed.load(Relaxed) { Err(io::Error::other("an earlier sync has failed")) } else { Ok(()) }
    }
}

impl StorageBackend for RedbFile {
    fn len(&self) -> io::Result<u64> {
        self.0.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.file.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.0.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        let bytes = data.len() as u64;
        self.0.writing.0.bytes.fetch_add(bytes, Relaxed);
        self.0.file.write_at(offset, data)?;
        if self.0.burst.fetch_add(bytes, Relaxed) + bytes < BURST_BYTES { Ok(()) } else { self.write_back() }
    }
}

/// A file that redb may believe to write to: its changes stay in memory, and go with it.
#[derive(Debug)]
pub(super) struct Untouched {
    file: Arc<dyn File>,
    file_bytes: u64,
    changes: Mutex<Changes>,
}

#[derive(Debug)]
struct Changes {
    len: u64,
    /// Whole pieces, by their number.
    pieces: BTreeMap<u64, Vec<u8>>,
}

impl Untouched {
    pub(super) fn new(file: Arc<dyn File>) -> io::Result<Self> {
        let len = file.len()?;
        Ok(Self { file, file_bytes: len, changes: Mutex::new(Changes { len, pieces: BTreeMap::new() }) })
    }

    /// The piece as it is now; zeroes behind the end of the file.
    fn piece(&self, changes: &Changes, number: u64) -> io::Result<Vec<u8>> {
        if let Some(piece) = changes.pieces.get(&number) {
            return Ok(piece.clone());
        }
        let mut piece = vec![0; as_len(PIECE_BYTES)?];
        let there = self.file_bytes.saturating_sub(number * PIECE_BYTES).min(PIECE_BYTES);
        if there > 0 {
            self.file.read_at(number * PIECE_BYTES, &mut piece[..as_len(there)?])?;
        }
        Ok(piece)
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Piece by piece: its number, where the access begins in it, and how many bytes of the access it has.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let (mut at, end) = (offset, offset + len as u64);
    std::iter::from_fn(move || {
        let number = at / PIECE_BYTES;
        let step = ((number + 1) * PIECE_BYTES).min(end).saturating_sub(at);
        let begin = at % PIECE_BYTES;
        at += step;
        // Both are at most the bytes of a piece.
        (step > 0).then(|| (number, usize::try_from(begin).unwrap_or(0), usize::try_from(step).unwrap_or(0)))
    })
}

fn as_len(bytes: u64) -> io::Result<usize> {
    usize::try_from(bytes).map_err(io::Error::other)
}

impl StorageBackend for Untouched {
    fn len(&self) -> io::Result<u64> {
        Ok(self.changes().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let changes = self.changes();
        if offset + out.len() as u64 > changes.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if changes.pieces.is_empty() && offset + out.len() as u64 <= self.file_bytes {
            return self.file.read_at(offset, out);
        }
        let mut done = 0;
        for (number, begin, step) in pieces(offset, out.len()) {
            let piece = self.piece(&changes, number)?;
            out[done..done + step].copy_from_slice(&piece[begin..begin + step]);
            done += step;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut changes = self.changes();
        if len < changes.len {
            // What is cut off would be zeroes if the file grew again.
            for number in len / PIECE_BYTES..changes.len.div_ceil(PIECE_BYTES) {
                let mut piece = self.piece(&changes, number)?;
                let kept = as_len(len.saturating_sub(number * PIECE_BYTES).min(PIECE_BYTES))?;
                piece[kept..].fill(0);
                changes.pieces.insert(number, piece);
            }
        }
        changes.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut changes = self.changes();
        let mut done = 0;
        for (number, begin, step) in pieces(offset, data.len()) {
            let mut piece = self.piece(&changes, number)?;
            piece[begin..begin + step].copy_from_slice(&data[done..done + step]);
            changes.pieces.insert(number, piece);
            done += step;
        }
        changes.len = changes.len.max(offset + data.len() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{env::Rng, testing::Sim};
    use std::path::Path;

    /// Forgets what is written to it, and knows how much of it the disk has not taken.
    #[derive(Debug, Default)]
    struct Counting {
        waiting: AtomicU64,
        most: AtomicU64,
        refuses: AtomicBool,
    }

    impl File for Counting {
        fn len(&self) -> io::Result<u64> {
            Ok(0)
        }

        fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
            Ok(())
        }

        fn write_at(&self, _: u64, bytes: &[u8]) -> io::Result<()> {
            let waiting = self.waiting.fetch_add(bytes.len() as u64, Relaxed) + bytes.len() as u64;
            self.most.fetch_max(waiting, Relaxed);
            Ok(())
        }

        fn set_len(&self, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn write_back(&self) -> io::Result<()> {
            if self.refuses.load(Relaxed) {
                return Err(io::Error::other("the disk takes nothing"));
            }
            self.waiting.store(0, Relaxed);
            Ok(())
        }

        fn sync(&self) -> io::Result<()> {
            self.waiting.store(0, Relaxed);
            Ok(())
        }
    }

    #[test]
    fn the_disk_is_never_given_more_than_a_burst_at_a_time() {
        let (counting, writing) = (Arc::new(Counting::default()), Writing::default());
        let file = RedbFile::new(counting.clone(), writing.clone());
        for page in 0..1000 {
            file.write(page * PIECE_BYTES, &[0; 4096]).unwrap();
        }
        assert_eq!(writing.bytes(), 1000 * PIECE_BYTES);
        assert_eq!(counting.most.load(Relaxed), BURST_BYTES);
    }

    #[test]
    fn what_the_disk_did_not_take_ends_all_writing_as_a_failed_sync_does() {
        let counting = Arc::new(Counting::default());
        let file = RedbFile::new(counting.clone(), Writing::default());
        counting.refuses.store(true, Relaxed);
        assert!((0..1000).any(|page| file.write(page * PIECE_BYTES, &[0; 4096]).is_err()));
        counting.refuses.store(false, Relaxed);
        file.write(0, &[0; 4096]).unwrap_err();
        file.set_len(0).unwrap_err();
        file.sync_data().unwrap_err();
    }

    #[test]
    fn an_untouched_file_reads_as_it_was_written_and_stays_as_it_is() {
        let sim = Sim::new(1);
        let file = sim.node_env(0).disk().open(Path::new("/file"), true).unwrap();
        let whole: Vec<u8> = (0..20_000_u32).map(|byte| byte.to_le_bytes()[0]).collect();
        file.write_at(0, &whole).unwrap();
        let (untouched, mut model) = (Untouched::new(Arc::clone(&file)).unwrap(), whole.clone());
        let mut rng = Rng::from_seed(3);
        for _ in 0..2000 {
            let (at, len) = (rng.index(model.len().max(1)), rng.index(9000));
            match rng.below(8) {
                0 => {
                    let len = rng.index(40_000);
                    untouched.set_len(len as u64).unwrap();
                    model.resize(len, 0);
                }
                1..4 => {
                    let data = vec![rng.u64().to_le_bytes()[0]; len];
                    untouched.write(at as u64, &data).unwrap();
                    model.resize(model.len().max(at + len), 0);
                    model[at..at + len].copy_from_slice(&data);
                }
                _ => {
                    let mut out = vec![0; len.min(model.len() - at.min(model.len()))];
                    untouched.read(at as u64, &mut out).unwrap();
                    assert_eq!(out, model[at.min(model.len())..][..out.len()]);
                }
            }
            assert_eq!(untouched.len().unwrap(), model.len() as u64);
        }
        let mut now = vec![0; whole.len()];
        file.read_at(0, &mut now).unwrap();
        assert!(now == whole);
    }
}
