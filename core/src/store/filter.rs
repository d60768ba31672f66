//! What a store file does not hold, known without the disk: a blocked Bloom filter over the keys of its rows.
//!
//! It may take an absent row for a present one, never the other way round: a row that it denied would be lost. So a
//! key is added before the transaction that brings its row is committed, and the same transaction keeps what was
//! added: the keys' hashes one flush after the other, and all of the bits once those hashes are many. What is kept
//! names the batch up to which it is complete; if the rows have moved on without it (an older release wrote them, or
//! its size has changed) it is made anew by a walk over the rows, and denies nothing until that is done.
//!
//! Removed rows stay in it. When they have come to be more than the rows that are there, and it has grown dense, it is
//! made anew, too. Its size is fixed: with more keys than it was made for it is wrong more often, and no larger.
//! ([Bloom], [Blocked Bloom])

mod kept;

pub(super) use kept::KeptFilter;

use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
    fence,
};

/// One cache line: a look-up touches a single one.
const WORDS_PER_BLOCK: usize = 8;
const BLOCK_BYTES: usize = WORDS_PER_BLOCK * 8;
/// Bits set for a key, nine bits of its hash each.
const PROBES: u32 = 7;
/// More than half of the bits set: from here on one answer in a hundred and more is a needless read.
const DENSE_FILL: f64 = 0.5;

/// What the filter knows a key by. On disk: how it comes from the key's bytes, and which bits it sets, never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KeyHash(u64);

impl KeyHash {
    /// Of an encoded key.
    fn of(key: &[u8]) -> Self {
        let hash = blake3::hash(key);
        Self(hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)))
    }

    /// The bits within a block. The block is told by the hash itself: these come from a product of it, so that keys
    /// of one block differ.
    fn bits(self) -> impl Iterator<Item = (usize, u64)> {
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = mixed ^ (mixed >> 29);
        (0..PROBES).map(move |probe| {
            let bit = (mixed >> (probe * 9)) & 511;
            // Below eight, whatever the width of `usize`.
            (usize::try_from(bit >> 6).unwrap_or(0), 1 << (bit & 63))
        })
    }
}

/// The filter of one store file. One thread adds; any may ask.
#[derive(Debug)]
struct Filter {
    words: Box<[AtomicU64]>,
    /// How many of the bits are set.
    ones: AtomicU64,
    /// Odd while it is being made anew and denies nothing.
    generation: AtomicU64,
}

impl Filter {
    /// An empty one, for a file without rows. It takes this many bytes, rounded up to a block.
    fn new(bytes: usize) -> Self {
        let words = bytes.div_ceil(BLOCK_BYTES).max(1) * WORDS_PER_BLOCK;
        let words = (0..words).map(|_| AtomicU64::new(0)).collect();
        Self { words, ones: AtomicU64::new(0), generation: AtomicU64::new(0) }
    }

    fn bytes(&self) -> usize {
        self.words.len() * 8
    }

    /// Whether it holds all keys of the file.
    fn is_complete(&self) -> bool {
        self.generation.load(Acquire).is_multiple_of(2)
    }

    /// Whether there is certainly no row of this key.
    fn denies(&self, key: KeyHash) -> bool {
        let generation = self.generation.load(Acquire);
        if !generation.is_multiple_of(2) {
            return false;
        }
        let block = self.block(key);
        let denied = key.bits().any(|(word, bit)| block[word].load(Relaxed) & bit == 0);
        // It may have been emptied while it was looked at.
        fence(Acquire);
        denied && self.generation.load(Relaxed) == generation
    }

    /// Adds a key; whether that changed anything.
    fn add(&self, key: KeyHash) -> bool {
        let block = self.block(key);
        let mut added = 0;
        for (word, bit) in key.bits() {
            added += u64::from(block[word].fetch_or(bit, Relaxed) & bit == 0);
        }
        self.ones.fetch_add(added, Relaxed);
        added > 0
    }

    /// Empties it, to be made anew.
    fn begin_anew(&self) {
        if self.is_complete() {
            self.generation.fetch_add(1, Relaxed);
        }
        // Whoever sees an emptied word sees the generation, too.
        fence(AcqRel);
        self.words.iter().for_each(|word| word.store(0, Release));
        self.ones.store(0, Relaxed);
    }

    /// It holds all keys of the file now.
    fn finish_anew(&self) {
        if !self.is_complete() {
            self.generation.fetch_add(1, Release);
        }
    }

    /// The share of its bits that are set.
    fn fill(&self) -> f64 {
        self.ones.load(Relaxed) as f64 / (self.bytes() * 8) as f64
    }

    /// Whether it is dense with keys of rows that are gone: of those it holds, `rows` are left.
    fn is_stale(&self, rows: u64) -> bool {
        let fill = self.fill();
        if fill < DENSE_FILL {
            return false;
        }
        // From [Bloom]: what share of the bits n keys leave unset.
        let bits = (self.bytes() * 8) as f64;
        let keys = -(1.0 - fill.min(0.999_999)).ln() * bits / f64::from(PROBES);
        keys > 2.0 * rows as f64
    }

    /// A piece of its bits, to be kept; `None` behind the end, and empty if no bit of it is set.
    fn piece(&self, number: usize, bytes: usize) -> Option<Vec<u8>> {
        let words = bytes / 8;
        let piece = self.words.get(number * words..)?;
        let piece = &piece[..words.min(piece.len())];
        if piece.is_empty() {
            return None;
        }
        if piece.iter().all(|word| word.load(Relaxed) == 0) {
            return Some(Vec::new());
        }
        Some(piece.iter().flat_map(|word| word.load(Relaxed).to_le_bytes()).collect())
    }

    /// Puts a kept piece back; whether it fits.
    fn restore(&self, number: usize, bytes: usize, piece: &[u8]) -> bool {
        let (kept, rest) = piece.as_chunks::<8>();
        let Some(words) = self.words.get(number * (bytes / 8)..) else { return false };
        if !rest.is_empty() || kept.len() > words.len() {
            return false;
        }
        for (word, kept) in words.iter().zip(kept) {
            let kept = u64::from_le_bytes(*kept);
            let before = word.fetch_or(kept, Relaxed);
            self.ones.fetch_add(u64::from((kept & !before).count_ones()), Relaxed);
        }
        true
    }

    fn block(&self, key: KeyHash) -> &[AtomicU64] {
        let blocks = (self.words.len() / WORDS_PER_BLOCK) as u128;
        // Below the number of blocks: the upper half of a product with it.
        let block = usize::try_from((u128::from(key.0) * blocks) >> 64).unwrap_or(0);
        &self.words[block * WORDS_PER_BLOCK..][..WORDS_PER_BLOCK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(number: u64) -> KeyHash {
        KeyHash::of(&number.to_be_bytes())
    }

    proptest! {
        #[test]
        fn no_key_that_was_added_is_denied(keys in proptest::collection::vec(any::<u64>(), 0..400), bytes in 1..5000_usize) {
            let filter = Filter::new(bytes);
            for (index, number) in keys.iter().enumerate() {
                filter.add(key(*number));
                prop_assert!(keys[..=index].iter().all(|known| !filter.denies(key(*known))));
            }
            let copy = Filter::new(bytes);
            for number in 0.. {
                let Some(piece) = filter.piece(number, 1024) else { break };
                prop_assert!(copy.restore(number, 1024, &piece));
            }
            prop_assert!(keys.iter().all(|known| !copy.denies(key(*known))));
            prop_assert_eq!(copy.fill(), filter.fill());
        }
    }

    #[test]
    fn bits_on_disk_are_where_they_have_always_been() {
        let hash = KeyHash::of(b"a key");
        assert_eq!(hash, KeyHash(1_627_439_356_792_098_181));
        let bits: Vec<_> = hash
            .bits()
            .map(|(word, bit)| word * 64 + usize::try_from(bit.trailing_zeros()).unwrap())
            .collect();
        assert_eq!(bits, [381, 212, 479, 137, 127, 460, 491]);
    }

    #[test]
    fn with_ten_bits_for_each_key_it_denies_nearly_every_other_key() {
        let filter = Filter::new(100_000 * 10 / 8);
        (0..100_000).for_each(|number| {
            filter.add(key(number));
        });
        let mistaken = (1_000_000..1_100_000).filter(|number| !filter.denies(key(*number))).count();
        assert!(mistaken < 2_000, "{mistaken} of 100000");
    }

    #[test]
    fn while_it_is_made_anew_it_denies_nothing() {
        let filter = Filter::new(1024);
        assert!(filter.denies(key(1)));
        filter.begin_anew();
        assert!(!filter.denies(key(1)));
        filter.add(key(2));
        filter.finish_anew();
        assert!(filter.denies(key(1)));
        assert!(!filter.denies(key(2)));
    }

    #[test]
    fn it_is_stale_when_it_is_dense_with_keys_that_are_gone() {
        let filter = Filter::new(1024);
        (0..2000).for_each(|number| {
            filter.add(key(number));
        });
        assert!(filter.is_stale(500), "{}", filter.fill());
        assert!(!filter.is_stale(2000), "{}", filter.fill());
        assert!(!Filter::new(1024).is_stale(0));
    }
}
