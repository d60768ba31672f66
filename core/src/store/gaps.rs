//! Gaps: positions of which a store has lost rows together with one of its files, and has not got them back yet.
//!
//! What is absent in a gap is unknown, never "not found" (PROTOCOLS §2); what is there is as good as anywhere else. Each
//! store file keeps its own gaps beside its rows, in one number: a bit for each of 128 equal parts of its positions. A
//! part is filled, and its bit cleared, by itself, so that filling goes on after a restart where it was.

use super::files::FILES_MAX;
use rondel_proto::id::Position;
use std::sync::{
    PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic::{AtomicBool, Ordering::Relaxed},
};

/// What a file keeps of its gaps; nothing, or 0, if it has none.
pub(super) const GAPS_MARK: &str = "gaps";
/// The mark of a file that has just been made in the place of one that is gone.
pub(super) const ALL_GAPS: u128 = u128::MAX;
const PART_BITS: u32 = 7;

/// Positions of which a store may lack rows that it has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gap {
    /// The first position.
    pub first: Position,
    /// The last position, included.
    pub last: Position,
    file: usize,
    part: u32,
    /// How often the file had been lost since the store was opened.
    losses: u32,
}

/// The gaps of an open store.
pub(super) struct Gaps {
    files: RwLock<Vec<FileGaps>>,
    any: AtomicBool,
}

#[derive(Debug, Clone, Copy, Default)]
struct FileGaps {
    bits: u128,
    losses: u32,
}

impl Gaps {
    /// The gaps of a store's files, as each of them keeps them.
    pub(super) fn new(files: impl IntoIterator<Item = u128>) -> Self {
        let files: Vec<_> = files.into_iter().map(|bits| FileGaps { bits, losses: 0 }).collect();
        let any = AtomicBool::new(is_any(&files));
        Self { files: RwLock::new(files), any }
    }

    /// Whether a row that is absent at this position may only be lost.
    pub(super) fn has(&self, position: Position) -> bool {
        if !self.any.load(Relaxed) {
            return false;
        }
        let files = self.read();
        let (file, part) = place(position, files.len());
        files.get(file).is_some_and(|gaps| gaps.bits >> part & 1 == 1)
    }

    /// Whether there are any.
    pub(super) fn is_any(&self) -> bool {
        self.any.load(Relaxed)
    }

    /// All of them, in order.
    pub(super) fn list(&self) -> Vec<Gap> {
        if !self.any.load(Relaxed) {
            return Vec::new();
        }
        let files = self.read();
        let parts = |(file, gaps): (usize, &FileGaps)| {
            let (bits, losses, count) = (gaps.bits, gaps.losses, files.len());
            (0..1 << PART_BITS)
                .filter(move |part| bits >> part & 1 == 1)
                .map(move |part| gap(file, part, losses, count))
        };
        files.iter().enumerate().flat_map(parts).collect()
    }

    /// How many files there are.
    pub(super) fn files(&self) -> usize {
        self.read().len()
    }

    /// The share of all positions that they are, in millionths.
    pub(super) fn share_ppm(&self) -> u64 {
        let files = self.read();
        let parts: u64 = files.iter().map(|gaps| u64::from(gaps.bits.count_ones())).sum();
        parts * 1_000_000 / ((files.len().max(1) as u64) << PART_BITS)
    }

    /// Everything in a file is lost: to be said before anybody can find the file empty.
    pub(super) fn lose(&self, file: usize) {
        let mut files = self.write();
        if let Some(gaps) = files.get_mut(file) {
            *gaps = FileGaps { bits: ALL_GAPS, losses: gaps.losses + 1 };
        }
        self.any.store(is_any(&files), Relaxed);
    }

    /// What a file has to keep once these of its gaps are filled; nothing if none of them is one (any more).
    pub(super) fn without(&self, file: usize, filled: &[Gap]) -> Option<u128> {
        let files = self.read();
        let gaps = files.get(file)?;
        let of_file = filled.iter().filter(|gap| gap.file == file && gap.losses == gaps.losses);
        let left = of_file.fold(gaps.bits, |bits, gap| bits & !(1 << gap.part));
        (left != gaps.bits).then_some(left)
    }

    /// A file keeps these from now on, durably.
    pub(super) fn set(&self, file: usize, bits: u128) {
        let mut files = self.write();
        if let Some(gaps) = files.get_mut(file) {
            gaps.bits = bits;
        }
        self.any.store(is_any(&files), Relaxed);
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<FileGaps>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<FileGaps>> {
        self.files.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_any(files: &[FileGaps]) -> bool {
    files.iter().any(|gaps| gaps.bits != 0)
}

fn place(position: Position, files: usize) -> (usize, u32) {
    let top = position.0 >> (u64::BITS - part_bits(files));
    // A file's number is below 256, a part's below 128.
    let file = usize::try_from(top >> PART_BITS).unwrap_or(usize::MAX);
    (file, u32::try_from(top & ((1 << PART_BITS) - 1)).unwrap_or(0))
}

fn gap(file: usize, part: u32, losses: u32, files: usize) -> Gap {
    let bits = u64::BITS - part_bits(files);
    let first = ((file as u64) << PART_BITS | u64::from(part)) << bits;
    Gap { first: Position(first), last: Position(first | ((1 << bits) - 1)), file, part, losses }
}

/// How many of a position's bits tell its file and part.
fn part_bits(files: usize) -> u32 {
    files.trailing_zeros() + PART_BITS
}

const _: () = assert!(FILES_MAX.ilog2() + PART_BITS < u64::BITS);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_file_that_is_lost_is_all_gaps_until_each_of_them_is_filled() {
        let gaps = Gaps::new([0, 0, 0, 0]);
        let of_third = Position(0b10 << 62 | 77);
        assert!(gaps.list().is_empty() && !gaps.has(of_third));
        gaps.lose(2);
        assert!(gaps.has(of_third) && !gaps.has(Position(0)));
        assert_eq!(gaps.share_ppm(), 250_000);
        let list = gaps.list();
        assert_eq!(
            (list.len(), list[0].first, list[127].last),
            (128, Position(2 << 62), Position(u64::MAX >> 2 | 2 << 62))
        );
        let left = gaps.without(2, &list[..127]).unwrap();
        assert_eq!((left, gaps.without(1, &list)), (1 << 127, None));
        gaps.set(2, left);
        assert!(!gaps.has(of_third) && gaps.has(list[127].first));
        gaps.set(2, gaps.without(2, &list).unwrap());
        assert!(gaps.list().is_empty() && gaps.share_ppm() == 0);
    }

    #[test]
    fn what_was_found_before_a_file_was_lost_again_fills_nothing() {
        let gaps = Gaps::new([0, 0]);
        gaps.lose(0);
        let before = gaps.list();
        gaps.lose(0);
        assert_eq!(gaps.without(0, &before), None);
        assert_eq!(gaps.without(0, &gaps.list()), Some(0));
    }

    proptest! {
        #[test]
        fn a_position_is_in_the_gap_that_says_so(position: u64, files_bits in 0..8_u32) {
            let gaps = Gaps::new(vec![ALL_GAPS; 1 << files_bits]);
            let held = |gap: &Gap| gap.first.0 <= position && position <= gap.last.0;
            let of: Vec<_> = gaps.list().into_iter().filter(held).collect();
            prop_assert_eq!(of.len(), 1);
            let (file, part) = place(Position(position), 1 << files_bits);
            prop_assert_eq!((of[0].file, of[0].part), (file, part));
        }
    }
}
