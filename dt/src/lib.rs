//! Replicated data types on `rondel-core`: values that merge by what they mean, so that a conflict never shows.
//!
//! Each type is an [`Entry`](rondel_core::table::Entry) of core's table layer and a client that knows what its errors
//! mean. They use nothing of core that your own application could not use: read [`counter`] as an example.

pub mod counter;

pub use counter::{CountError, Counter, Counters};
