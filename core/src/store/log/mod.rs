//! The commit log: what makes batches durable before they reach the tables.
//!
//! Batches are numbered over all openings of the store, without gaps. They are written in groups, each ended by a
//! seal and made durable by one sync, to segments that are written over when their batches have reached the tables and
//! no row has its value there any more ([`Segments`](segment::Segments)). An opening reads what the tables do not have yet ([`recovery`]), leaves it to the
//! flush or puts it into the tables, and begins a segment of its own: nothing is ever appended to a segment of an earlier
//! opening (PROTOCOLS §8).

mod inspect;
pub(super) mod mutant;
mod needed;
mod record;
pub(super) mod recovery;
pub(super) mod segment;
pub(super) mod values;
mod walk;
pub(super) mod writer;

pub(super) use inspect::{InspectedSegment, segments_of};
#[doc(hidden)]
pub use mutant::Mutant;
pub(super) use needed::Needed;
pub(super) use record::{change_bytes, record_bytes};
pub(super) use recovery::io_error;
pub use recovery::{Loss, Recovery};

/// How a commit log is kept.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// Length of a segment. Default 32 MiB.
    pub segment_bytes: u64,
    /// Bytes of log that an opening may have to read, from which on no new client write is welcome. Default 512 MiB.
    pub log_bytes_max: u64,
    /// In how many files, by position, the rows are kept; a power of two, fixed when the store is made: one
    /// that is damaged is replaced and filled again by itself. Default 16.
    pub store_files: u32,
    /// Bytes of rows moved into the tables at a time. Default 1 MiB.
    pub flush_slice_bytes: u64,
    /// A file of rows that is smaller than this is not compacted, however much of it is free. Default 16 MiB.
    pub compact_file_bytes_min: u64,
    /// A row's value of so many bytes or more stays in the log, where it is written once; shorter ones are kept with
    /// their keys. Default 64.
    pub value_bytes_min: usize,
    /// Bytes of values in the log that no row has any more, below which none of them is cleared away; above, it is as soon
    /// as they are more than those that rows have. Default 256 MiB.
    pub garbage_bytes_min: u64,
    /// A mistake to make on purpose, for a test to catch.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub mutant: Option<Mutant>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 32 << 20,
            log_bytes_max: 512 << 20,
            store_files: 16,
            flush_slice_bytes: 1 << 20,
            compact_file_bytes_min: 16 << 20,
            value_bytes_min: 64,
            garbage_bytes_min: 256 << 20,
            #[cfg(feature = "testing")]
            mutant: None,
        }
    }
}
