//! A filter that is kept in its store file, in step with the rows.

use super::{BLOCK_BYTES, Filter, KeyHash};
use redb::{Database, ReadableDatabase as _, TableDefinition, WriteTransaction};
use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// The bits, in pieces; a piece without one is left out.
const BITS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("filter");
/// Hashes added since the bits were kept, one flush after the other.
const ADDED: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("filter added");
/// With its key in one page of 64 KiB: redb's pages are powers of two.
const PIECE_BYTES: usize = 60 << 10;
const HASH_BYTES: usize = 8;

/// The filter of one store file. One transaction changes it at a time; any thread may ask.
#[derive(Debug)]
pub(in crate::store) struct KeptFilter {
    filter: Filter,
    /// What the next durable transaction has to keep.
    added: Mutex<Vec<KeyHash>>,
    /// How many lists of added hashes there are, and their bytes.
    lists: AtomicU64,
    list_bytes: AtomicU64,
    /// The next transaction keeps all of the bits.
    whole: AtomicBool,
}

impl KeptFilter {
    /// What the file says of its filter: see [`KeptFilter::mark`].
    pub(in crate::store) const MARK: &'static str = "filter";

    /// The filter of a file that has everything up to `applied`; `mark` is what it says of its filter.
    pub(in crate::store) fn open(
        database: &Database,
        bytes: usize,
        applied: u64,
        mark: Option<u128>,
        is_empty: bool,
    ) -> Result<Self, redb::Error> {
        let kept = Self {
            filter: Filter::new(bytes),
            added: Mutex::default(),
            lists: AtomicU64::new(0),
            list_bytes: AtomicU64::new(0),
            whole: AtomicBool::new(true),
        };
        let matches = mark == Some(kept.mark(applied));
        if matches && kept.load(database)? {
            kept.whole.store(false, Relaxed);
        } else if !is_empty {
            kept.filter.begin_anew();
        }
        Ok(kept)
    }

    /// Names the filter's size, and the batch up to which it is complete: a release that knows of no filter moves the
    /// rows on without it.
    fn mark(&self, applied: u64) -> u128 {
        (self.filter.bytes() as u128) << 64 | u128::from(applied)
    }

    /// Takes what is kept; whether it makes sense.
    fn load(&self, database: &Database) -> Result<bool, redb::Error> {
        let transaction = database.begin_read()?;
        for piece in transaction.open_table(BITS)?.range::<u64>(..)? {
            let (number, bits) = piece?;
            let number = usize::try_from(number.value()).unwrap_or(usize::MAX / PIECE_BYTES);
            if !self.filter.restore(number, PIECE_BYTES, bits.value()) {
                return Ok(false);
            }
        }
        for list in transaction.open_table(ADDED)?.range::<u64>(..)? {
            let (number, hashes) = list?;
            let (hashes, rest) = hashes.value().as_chunks::<HASH_BYTES>();
            if !rest.is_empty() {
                return Ok(false);
            }
            for hash in hashes {
                self.filter.add(KeyHash(u64::from_le_bytes(*hash)));
            }
            self.lists.store(number.value() + 1, Relaxed);
            self.list_bytes.fetch_add(hashes.as_flattened().len() as u64, Relaxed);
        }
        Ok(true)
    }

    /// Whether there is certainly no row of this key.
    pub(in crate::store) fn denies(&self, key: &[u8]) -> bool {
        self.filter.is_complete() && self.filter.denies(KeyHash::of(key))
    }

    /// Adds the key of a row that is about to be committed.
    pub(in crate::store) fn add(&self, key: &[u8]) {
        let hash = KeyHash::of(key);
        if self.filter.add(hash) && self.filter.is_complete() && !self.whole.load(Relaxed) {
            self.added().push(hash);
        }
    }

    /// Loses what the next transaction should keep.
    pub(in crate::store) fn forget_added(&self) {
        self.added().clear();
    }

    fn added(&self) -> MutexGuard<'_, Vec<KeyHash>> {
        self.added.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what was added, in the transaction that brings its rows and the number of the batch up to which the file
    /// has everything; gives the mark to set.
    pub(in crate::store) fn keep(
        &self,
        transaction: &WriteTransaction,
        applied: u64,
    ) -> Result<Option<u128>, redb::Error> {
        let added = std::mem::take(&mut *self.added());
        if !self.filter.is_complete() {
            return Ok(None);
        }
        let list_bytes = self.list_bytes.load(Relaxed) + (added.len() * HASH_BYTES) as u64;
        // Half of its size: then neither the lists nor the bits are most of what a flush writes.
        if self.whole.load(Acquire) || list_bytes > self.filter.bytes() as u64 / 2 {
            self.keep_bits(transaction)?;
            self.lists.store(0, Relaxed);
            self.list_bytes.store(0, Relaxed);
            self.whole.store(false, Relaxed);
        } else if !added.is_empty() {
            let mut lists = transaction.open_table(ADDED)?;
            for part in added.chunks(PIECE_BYTES / HASH_BYTES) {
                let hashes: Vec<u8> = part.iter().flat_map(|hash| hash.0.to_le_bytes()).collect();
                lists.insert(self.lists.fetch_add(1, Relaxed), hashes.as_slice())?;
            }
            self.list_bytes.store(list_bytes, Relaxed);
        }
        Ok(Some(self.mark(applied)))
    }

    fn keep_bits(&self, transaction: &WriteTransaction) -> Result<(), redb::Error> {
        transaction.delete_table(BITS)?;
        transaction.delete_table(ADDED)?;
        transaction.open_table(ADDED)?;
        let mut pieces = transaction.open_table(BITS)?;
        for number in 0.. {
            let Some(piece) = self.filter.piece(number, PIECE_BYTES) else { break };
            if !piece.is_empty() {
                pieces.insert(number as u64, piece.as_slice())?;
            }
        }
        Ok(())
    }

    /// Whether it denies nothing, and waits to be made anew.
    pub(in crate::store) fn is_wanting(&self) -> bool {
        !self.filter.is_complete()
    }

    /// Begins it anew if most of the keys that make it dense are gone: of theirs, `rows` are left.
    pub(in crate::store) fn give_up_if_stale(&self, rows: u64) {
        if self.filter.is_complete() && self.filter.is_stale(rows) {
            self.filter.begin_anew();
        }
    }

    /// All keys of the file have been added.
    pub(in crate::store) fn finish(&self) {
        self.whole.store(true, Release);
        self.filter.finish_anew();
    }

    pub(in crate::store) fn bytes(&self) -> u64 {
        self.filter.bytes() as u64
    }
}

const _: () = assert!(PIECE_BYTES.is_multiple_of(BLOCK_BYTES), "a piece is whole blocks");
