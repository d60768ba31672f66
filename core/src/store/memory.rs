//! A store in memory: durable at once, and gone with its process. For tests and for tables that need no disk.

use super::{
    Admission, Lsn, Peek, Progress, RangeQuery, RowKey, Slice, Store, StoreError, StoreStats, Write, key,
};
use crate::env::BoxFuture;
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    future::ready,
    ops::Bound,
    sync::{PoisonError, RwLock, RwLockReadGuard},
};
use tokio::sync::watch;

/// Rows in an ordered map.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: RwLock<State>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Default)]
struct State {
    rows: BTreeMap<Bytes, Bytes>,
    bytes: u64,
    batches: u64,
    written_bytes: u64,
    closed: bool,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn read_state(&self) -> Result<RwLockReadGuard<'_, State>, StoreError> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if state.closed { Err(StoreError::Closed) } else { Ok(state) }
    }

    fn slice(&self, query: &RangeQuery) -> Result<Slice, StoreError> {
        let state = self.read_state()?;
        let mut slice = Slice { rows: Vec::new(), end: true };
        let Some((lower, upper)) = key::bounds(query) else { return Ok(slice) };
        let upper = upper.map_or(Bound::Unbounded, Bound::Excluded);
        let mut bytes = 0;
        for (key, value) in state.rows.range::<Bytes, _>((lower, upper)) {
            if slice.rows.len() >= query.rows_max.max(1) || bytes >= query.bytes_max.max(1) {
                slice.end = false;
                break;
            }
            let at = key::decode(key).expect("every key in the map was encoded here");
            bytes += key.len() + value.len();
            slice.rows.push((at, value.clone()));
        }
        Ok(slice)
    }
}

impl State {
    fn put(&mut self, write: Write) {
        let key = key::encode(&write.at);
        let key_bytes = key.len() as u64;
        let before = match write.value {
            Some(value) => {
                let bytes = key_bytes + value.len() as u64;
                self.bytes += bytes;
                self.written_bytes += bytes;
                self.rows.insert(key, value)
            }
            None => self.rows.remove(&key),
        };
        self.bytes -= before.map_or(0, |before| key_bytes + before.len() as u64);
    }
}

impl Store for MemoryStore {
    fn apply(&self, batch: Vec<Write>) -> Result<Lsn, StoreError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(StoreError::Closed);
        }
        if batch.is_empty() {
            return Ok(Lsn(state.batches));
        }
        state.batches += 1;
        batch.into_iter().for_each(|write| state.put(write));
        let lsn = Lsn(state.batches);
        // Under the lock, so that the numbers are published in order.
        self.progress.send_modify(|progress| progress.durable = lsn);
        Ok(lsn)
    }

    fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    fn peek(&self, at: &RowKey) -> Peek {
        match self.read_state() {
            Ok(state) => Peek::Known(key::with_encoded(at, |key| state.rows.get(key).cloned())),
            Err(_) => Peek::Unknown,
        }
    }

    fn read(&self, rows: Vec<RowKey>) -> BoxFuture<Result<Vec<Option<Bytes>>, StoreError>> {
        let read = self.read_state().map(|state| {
            rows.iter().map(|at| key::with_encoded(at, |key| state.rows.get(key).cloned())).collect()
        });
        Box::pin(ready(read))
    }

    fn range(&self, query: RangeQuery) -> BoxFuture<Result<Slice, StoreError>> {
        Box::pin(ready(self.slice(&query)))
    }

    fn admission(&self) -> Admission {
        Admission::Open
    }

    fn stats(&self) -> StoreStats {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        StoreStats {
            cache_bytes: state.bytes,
            commits: state.batches,
            batches: state.batches,
            written_bytes: state.written_bytes,
            ..StoreStats::default()
        }
    }

    fn close(&self) -> BoxFuture<Result<(), StoreError>> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        *state = State { closed: true, ..State::default() };
        Box::pin(ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        env::Env,
        store::conformance::{self, Script},
    };
    use proptest::prelude::*;
    use std::sync::Arc;

    fn open() -> BoxFuture<Arc<dyn Store>> {
        Box::pin(ready(Arc::new(MemoryStore::new()) as Arc<dyn Store>))
    }

    proptest! {
        #[test]
        fn answers_as_the_model_does(seed: u64, steps in 0..200_usize) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(Script::random(seed, steps).run(&open, false));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn writers_and_walkers_at_once_see_whole_batches() {
        conformance::race(&Env::production(), &open, 1, 4, 200).await;
    }
}
