//! The client of counters: what it asks, and what its errors mean.
//!
//! To count is not idempotent: once more is one more. So the question after an error is whether anything was counted,
//! and [`CountError`] answers it with "no" or "unknown", never with "no" where it is unknown (PROTOCOLS §7).

use super::{Counter, Decrement, Increment, Value};
use rondel_core::{
    Cluster,
    proto::Message,
    request::{Options, RequestError, Table},
    table::{Keyed, Update},
    vnode::Handle,
};

/// Counters, by key. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Counters {
    table: Table<Counter>,
    options: Options,
}

/// Why it is not known to have been counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CountError {
    /// Nothing was counted, and nothing will be: to ask again does no harm.
    #[error("nothing was counted: {0}")]
    NotCounted(#[source] RequestError),
    /// It may have been counted, on some replicas or on all; or may yet be. To ask again may count twice: read the
    /// value first, or live with the difference.
    #[error("it is unknown whether it was counted: {0}")]
    Unknown(#[source] RequestError),
}

impl Counters {
    /// The counters of a cluster whose builder was given `.table::<Counter>(…)`.
    ///
    /// # Panics
    /// If it was not: a mistake of the application, shown by its first start.
    #[must_use]
    pub fn of(cluster: &Cluster) -> Self {
        Self { table: cluster.table(), options: Options::default() }
    }

    /// The same counters, asked with other options. A request id in them is not used: each request has its own.
    #[must_use]
    pub fn with_options(self, options: Options) -> Self {
        Self { options: Options { request_id: None, retry_elsewhere: false, ..options }, ..self }
    }

    /// Counts up, and gives what the counter then stands at on the replica that counted.
    ///
    /// # Errors
    /// [`CountError`], which says whether anything was counted.
    pub async fn increment(&self, key: impl AsRef<[u8]>, by: u64) -> Result<i128, CountError> {
        self.count(key, Increment { by }).await
    }

    /// Counts down, and gives what the counter then stands at on the replica that counted.
    ///
    /// # Errors
    /// [`CountError`], which says whether anything was counted.
    pub async fn decrement(&self, key: impl AsRef<[u8]>, by: u64) -> Result<i128, CountError> {
        self.count(key, Decrement { by }).await
    }

    /// What a counter stands at: the merge of as many replicas as the options need, a quorum by default. It holds all
    /// that was acknowledged before if reads and counts overlap (`need` of both together more than n) and no stand-in
    /// was needed; with `owners` too, also if one was. A key that was never counted on stands at 0.
    ///
    /// # Errors
    /// [`RequestError`]; to ask again does no harm.
    pub async fn value(&self, key: impl AsRef<[u8]>) -> Result<i128, RequestError> {
        self.table.get(key, Value).options(self.options.clone()).await
    }

    async fn count<M>(&self, key: impl AsRef<[u8]>, message: M) -> Result<i128, CountError>
    where
        M: Message<Reply = i128> + Update<Counter>,
        Keyed<Counter>: Handle<M>,
    {
        let counted = self.table.update(key, message).options(self.options.clone()).await;
        counted.map_err(|error| match error.nothing_was_done() {
            true => CountError::NotCounted(error),
            false => CountError::Unknown(error),
        })
    }
}
