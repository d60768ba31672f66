//! The store of a node: one per node, behind every stateful vnode.
//!
//! Writes are asynchronous: [`Store::apply`] makes a batch visible at once and gives its [`Lsn`];
//! [`Store::progress`] says up to which LSN everything is durable. So one sync serves all vnodes of the node, and
//! nobody who writes waits. Reads never wait either: [`Store::peek`] answers from memory or says that the row must
//! be fetched with [`Store::read`].
//!
//! Rows are ordered by table, ring position and key; never by partition number (PROTOCOLS §8). What a row's bytes
//! mean is [`row`]'s: the store keeps them as they are.

mod cache;
mod compaction;
#[cfg(feature = "testing")]
pub mod conformance;
mod files;
mod filter;
mod gaps;
pub mod inspect;
mod key;
mod log;
mod log_store;
mod memory;
mod memtable;
mod merge;
mod meters;
mod readers;
mod redb_file;
mod redb_store;
pub mod row;
mod scrub;
mod serving;
mod space;
mod stored;
mod tables;
mod view;

pub use gaps::Gap;
#[doc(hidden)]
pub use log::Mutant;
pub use log::{LogConfig, Loss, Recovery};
pub use log_store::LogStore;
pub use memory::MemoryStore;
pub use meters::StoreMeters;
pub use redb_store::RedbStore;

use crate::env::{BoxFuture, Disk};
use bytes::Bytes;
use rondel_proto::id::Position;
use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// A log sequence number: batches of a store are numbered from 1 on in the order of their `apply`, anew at each open. A
/// store may have batches of its own in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

/// A table of a store: the items of a service, its hints, its marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u32);

impl TableId {
    /// Whether its values are [`row::Row`]s. The low four bits of a table's number say what it holds, and 0 says that.
    #[must_use]
    pub const fn holds_rows(self) -> bool {
        self.0 & 0xF == 0
    }
}

/// Where a row stands. The order of these is the order of the rows.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    /// The table.
    pub table: TableId,
    /// The ring position of the key.
    pub position: Position,
    /// The key within its service.
    pub key: Bytes,
}

impl fmt::Debug for RowKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:08x}/{}/{}", self.table.0, self.position, self.key.escape_ascii())
    }
}

/// A physical change of one row: its new bytes, or its end. Never an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Which row.
    pub at: RowKey,
    /// What it becomes; `None` removes it.
    pub value: Option<Bytes>,
}

/// What memory knows of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peek {
    /// The row as it is, or that there is none. It was written here, or its checksum was tried when it was read.
    Known(Option<Bytes>),
    /// Only the disk knows.
    Unknown,
}

/// Where a slice of rows begins and ends, and how much of it is wanted at once.
#[derive(Debug, Clone)]
pub struct RangeQuery {
    /// The table.
    pub table: TableId,
    /// The first position.
    pub first: Position,
    /// The last position, included.
    pub last: Position,
    /// Where the slice before this one ended: rows up to this one are left out.
    pub after: Option<(Position, Bytes)>,
    /// At most this many rows.
    pub rows_max: usize,
    /// No further row once their bytes (keys and values) have reached this.
    pub bytes_max: usize,
}

/// Rows in order; a row that is present throughout a walk is returned exactly once.
#[derive(Debug, Clone, Default)]
pub struct Slice {
    /// The rows.
    pub rows: Vec<(RowKey, Bytes)>,
    /// Whether the range ends here; otherwise the next slice goes on after the last row.
    pub end: bool,
}

/// How far a store has got.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Every batch up to this one is durable.
    pub durable: Lsn,
    /// Why the store has stopped for good, if it has. Batches above `durable` may be lost.
    pub failed: Option<StoreError>,
}

/// Whether a store takes writes. What forbids more is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Admission {
    /// It does.
    Open,
    /// It does, but the backlog grows: new client writes should wait a little.
    Slow,
    /// No new client write: the backlog has reached its bound.
    Full,
    /// No new client write: the disk has less room than the reserve. Removing things still works.
    DiskFull,
}

/// Figures of a store, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes of rows in memory that the tables do not hold yet.
    pub backlog_bytes: u64,
    /// Those among them that are on their way into the tables.
    pub frozen_bytes: u64,
    /// Bytes of log that an opening after a crash would read. 0 for a store without a log.
    pub log_bytes: u64,
    /// Bytes of rows held in the cache.
    pub cache_bytes: u64,
    /// Bytes of what knows which rows the tables do not have.
    pub filter_bytes: u64,
    /// Peeks that memory answered.
    pub hits: u64,
    /// Those among them that the cache answered.
    pub cache_hits: u64,
    /// Those among them that were about rows which the filter knew to be absent.
    pub denied: u64,
    /// Reads of the disk that found no row: the filter was wrong, or not ready.
    pub vain_reads: u64,
    /// Peeks that only the disk can answer.
    pub misses: u64,
    /// Groups of batches made durable together.
    pub commits: u64,
    /// Batches made durable.
    pub batches: u64,
    /// Bytes of keys and values of the batches applied. What was written for each of them is the sum of the next two.
    pub applied_bytes: u64,
    /// Bytes written to the log, new segments included, which are filled with zeroes.
    pub written_bytes: u64,
    /// Bytes written to the files of rows.
    pub table_written_bytes: u64,
    /// Bytes that the files of rows occupy.
    pub file_bytes: u64,
    /// Files that have been replaced by smaller ones.
    pub compactions: u64,
    /// Bytes that these gave back.
    pub compacted_bytes: u64,
    /// Bytes of log that is kept for the values in it, though no opening would read it.
    pub kept_bytes: u64,
    /// Bytes of values that rows have in the log, keys and checksums included.
    pub value_bytes: u64,
    /// Segments of the log whose values have been written anew, as few of them were needed still.
    pub collected_segments: u64,
    /// How often the scrubber has come to the end of the rows.
    pub scrub_rounds: u64,
    /// Rows whose checksums it has tried.
    pub scrubbed_rows: u64,
    /// Their bytes.
    pub scrubbed_bytes: u64,
    /// Rows (or files that can't be read on) that it found damaged in its last round, or in this one if that is more, and
    /// that have not been repaired since.
    pub damaged_rows: u64,
    /// How long it took to open.
    pub opening: Duration,
    /// Batches that came from the log then.
    pub recovered_batches: u64,
    /// The share of all positions at which rows may be missing, in millionths: see [`Store::gaps`].
    pub gap_ppm: u64,
}

/// Why a store does not answer. After any of the first three it has stopped for good (fail-stop).
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The disk reported an error. What was not yet durable may be lost.
    #[error("the disk failed: {0}")]
    Io(Arc<std::io::Error>),
    /// The files are not what was written.
    #[error("the store's files are damaged: {0}")]
    Damaged(String),
    /// The store has stopped after an earlier error.
    #[error("the store has stopped after an earlier error")]
    Stopped,
    /// The store is being closed.
    #[error("the store is closed")]
    Closed,
}

/// What keeps a node's rows on disk. A data directory stays with the one that it was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// A commit log, memtables and redb files behind it: a write is durable after one sync of the log.
    #[default]
    Log,
    /// One redb file: a write is durable after a transaction of it. The reference that the other is compared with.
    Redb,
}

impl Backend {
    /// Where it stands in a data directory.
    #[must_use]
    pub const fn name_in_directory(self) -> &'static str {
        match self {
            Self::Log => "store",
            Self::Redb => "store.redb",
        }
    }

    /// What keeps the rows of a data directory, if it has any. Blocks.
    #[must_use]
    pub fn found_in(disk: &dyn Disk, data_dir: &Path) -> Option<Self> {
        if disk.open(&data_dir.join(Self::Redb.name_in_directory()), false).is_ok() {
            return Some(Self::Redb);
        }
        let files = disk.list(&data_dir.join(Self::Log.name_in_directory()));
        files.is_ok_and(|files| !files.is_empty()).then_some(Self::Log)
    }
}

/// How a store on disk is set up.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// What keeps the rows.
    pub backend: Backend,
    /// Bytes of rows kept in memory for reading. Default 64 MiB.
    pub cache_bytes: u64,
    /// Bytes of pages that the tables keep in memory. Default 64 MiB.
    pub page_cache_bytes: usize,
    /// Bytes of memory that know which rows the tables do not have, so that a key's first write reads no disk; ten bits
    /// for each row make it right 99 times in 100. Only with [`Backend::Log`]; 0 for none. Default 16 MiB.
    pub filter_bytes: usize,
    /// Bytes of rows in memory that the tables do not hold yet, from which on no new client write is welcome; from four
    /// fifths of it on they are slowed down. An opening may have to read so much from the log. Default 64 MiB.
    pub backlog_bytes_max: u64,
    /// How long a batch that nobody waits for may stay in memory alone, if no other is made durable meanwhile: what a
    /// crash may take of those. Only with [`Backend::Log`]; at most half a second. Default 200 ms.
    pub lazy_sync_within: Duration,
    /// Room on the disk that client writes leave alone, for what makes room again. Default 256 MiB.
    pub disk_reserve_bytes: u64,
    /// How often the room on the disk is looked at. Default 5 s.
    pub disk_check_every: Duration,
    /// Bytes of rows whose checksums the scrubber tries in a second; 0 for no scrubber. Only with [`Backend::Log`].
    /// Default 4 MiB.
    pub scrub_bytes_per_s: u64,
    /// How long it rests before each round. Default 1 h.
    pub scrub_pause: Duration,
    /// Bytes of rows that are fetched in a second from other owners, in place of those that were lost with a file.
    /// Default 16 MiB.
    pub refill_bytes_per_s: u64,
    /// How many reads of the disk run at once. Default 4.
    pub readers_max: usize,
    /// How a store with a commit log keeps it.
    pub log: LogConfig,
    /// Where it reports what it does, as it does it.
    pub meters: StoreMeters,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            backend: Backend::default(),
            cache_bytes: 64 << 20,
            page_cache_bytes: 64 << 20,
            filter_bytes: 16 << 20,
            backlog_bytes_max: 64 << 20,
            lazy_sync_within: Duration::from_millis(200),
            disk_reserve_bytes: 256 << 20,
            disk_check_every: Duration::from_secs(5),
            scrub_bytes_per_s: 4 << 20,
            scrub_pause: Duration::from_secs(3600),
            refill_bytes_per_s: 16 << 20,
            readers_max: 4,
            log: LogConfig::default(),
            meters: StoreMeters::default(),
        }
    }
}

/// What to do about a store that is gone for good as a whole, or about the identity that it goes with.
pub(crate) const KEEP_DOWN: &str = "; if they are lost, keep this node down: the others serve without it and have what \
                                    they acknowledged, and a later release can fill its store from them";

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk reported an error.
    #[error("can't open the store at {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error(
        "the store at {} is damaged ({detail}): put the node's files back as they were when it last ran{KEEP_DOWN}",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

impl From<OpenError> for StoreError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Io { source, .. } => Self::Io(Arc::new(source)),
            OpenError::Damaged { detail, .. } => Self::Damaged(detail),
        }
    }
}

impl OpenError {
    fn from_store(path: &Path, error: StoreError) -> Self {
        let path = path.to_owned();
        match error {
            StoreError::Damaged(detail) => Self::Damaged { path, detail },
            StoreError::Io(source) => {
                let source = Arc::try_unwrap(source).unwrap_or_else(io::Error::other);
                Self::Io { path, source }
            }
            StoreError::Stopped | StoreError::Closed => Self::Io { path, source: io::Error::other(error) },
        }
    }
}

/// What keeps the rows of a node.
///
/// **Must**, for every implementor (the conformance suite checks all of it):
/// * number batches in the order of `apply` and make them durable in that order, each whole or not at all;
/// * after a crash hold exactly the batches up to some LSN that is at least the last `durable` ever reported;
/// * show a batch to `peek`, `read` and `range` from the moment `apply` returns;
/// * after an I/O error report `failed` once, make nothing durable any more, and answer `Stopped`.
pub trait Store: Send + Sync + 'static {
    /// Takes a batch: visible at once, durable later. An empty batch gives the LSN of the one before it. Of several
    /// writes of one row the last counts. Values are kept as they are: a slice of a large buffer keeps all of it.
    ///
    /// # Errors
    /// [`StoreError`] if the store has stopped or is closed: nothing was taken.
    fn apply(&self, batch: Vec<Write>) -> Result<Lsn, StoreError>;

    /// As [`Store::apply`], where nobody waits for the batch to be durable. It becomes so in its order, no later than the
    /// next batch of [`Store::apply`] (an empty one will do), and soon in any case.
    ///
    /// # Errors
    /// As [`Store::apply`].
    fn apply_lazily(&self, batch: Vec<Write>) -> Result<Lsn, StoreError> {
        self.apply(batch)
    }

    /// How far the store has got, and every change of it.
    fn progress(&self) -> watch::Receiver<Progress>;

    /// The row, if memory knows it. Never waits.
    fn peek(&self, at: &RowKey) -> Peek;

    /// The rows, in the order asked for, fetched by a bounded pool of readers.
    ///
    /// The answer may be older than a batch applied while it was on its way: after it, `peek` again first.
    fn read(&self, rows: Vec<RowKey>) -> BoxFuture<Result<Vec<Option<Bytes>>, StoreError>>;

    /// A slice of rows in order, as of some moment of the call.
    fn range(&self, query: RangeQuery) -> BoxFuture<Result<Slice, StoreError>>;

    /// Whether new client writes are welcome.
    fn admission(&self) -> Admission;

    /// Whether a row that is absent at this position may only be lost: then its absence says nothing. Ask before the row
    /// is looked up and after it: a store may lose rows, or get them back, in between.
    fn lacks(&self, at: Position) -> bool {
        let _ = at;
        false
    }

    /// Whether rows may be missing anywhere.
    fn has_gaps(&self) -> bool {
        false
    }

    /// Where rows may be missing, in parts that are filled one by one.
    fn gaps(&self) -> Vec<Gap> {
        Vec::new()
    }

    /// Notes durably that everything that these gaps lacked is back, and durable. Gaps that rows have been lost in
    /// since they were asked for stay.
    fn fill(&self, gaps: Vec<Gap>) -> BoxFuture<Result<(), StoreError>> {
        drop(gaps);
        Box::pin(async { Ok(()) })
    }

    /// Rows whose checksums were found to be wrong since this was asked last. Their keys are as the disk has them.
    fn found_damaged(&self) -> Vec<RowKey> {
        Vec::new()
    }

    /// Notes that one of them can be read again.
    fn note_repaired(&self) {}

    /// In how many files it keeps rows, by the leading bits of their positions: a power of two. Each can be lost alone.
    fn files(&self) -> usize {
        1
    }

    /// The files that could not be read any more and lie beside the store's.
    fn set_aside(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Figures for metrics.
    fn stats(&self) -> StoreStats;

    /// Makes everything applied durable and closes the files. Later calls answer [`StoreError::Closed`].
    fn close(&self) -> BoxFuture<Result<(), StoreError>>;
}
