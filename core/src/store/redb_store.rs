//! A store of one redb file, with group commit.
//!
//! One task commits: whatever has been applied since the last commit began goes into the next one, whole, so a lone
//! writer waits for one sync and many writers share it. Nothing is timed. After any error of the disk the store has
//! stopped for good: what was reported durable is, and what was applied above that may or may not be.

use super::{
    Admission, Lsn, OpenError, Peek, Progress, RangeQuery, RowKey, Slice, Store, StoreConfig, StoreError,
    StoreStats, Write,
    memtable::Memtable,
    readers::Readers,
    space::Space,
    tables::{Snapshot, Tables},
    view::{Taking, View},
};
use crate::env::{BoxFuture, Env};
use bytes::Bytes;
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::{Notify, watch};

/// Rows in one redb file, committed in groups.
#[derive(Debug)]
pub struct RedbStore {
    shared: Arc<Shared>,
    space: Space,
}

struct Shared {
    env: Env,
    config: StoreConfig,
    view: Arc<View>,
    readers: Arc<Readers>,
    progress: watch::Sender<Progress>,
    /// There is something to commit, or the store is being closed.
    wake: Notify,
    /// The file is closed; everything applied is durable, unless the store has failed.
    closed: watch::Sender<bool>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    commits: AtomicU64,
    batches: AtomicU64,
    written_bytes: AtomicU64,
    file_bytes: AtomicU64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Shared").field("progress", &*self.progress.borrow()).finish_non_exhaustive()
    }
}

impl RedbStore {
    /// Opens the store's file, or makes it.
    ///
    /// # Errors
    /// [`OpenError`]: nothing was changed but what redb's own recovery did.
    pub async fn open(env: &Env, path: &Path, config: StoreConfig) -> Result<Self, OpenError> {
        let (disk, at, page_cache_bytes) = (env.disk(), path.to_owned(), config.page_cache_bytes);
        let opened = env.block(move || {
            let tables = Tables::open(&*disk, &at, page_cache_bytes)?;
            let snapshot = tables.snapshot().map_err(|error| OpenError::from_store(&at, error))?;
            Ok((tables, snapshot))
        });
        let (tables, snapshot) = opened.await.map_err(|lost| OpenError::lost(path, lost))??;
        let view = Arc::new(View::new(snapshot, config.cache_bytes));
        let shared = Arc::new(Shared {
            env: env.clone(),
            readers: Readers::new(env.clone(), Arc::clone(&view), config.readers_max),
            view,
            progress: watch::Sender::new(Progress::default()),
            wake: Notify::new(),
            closed: watch::Sender::new(false),
            counts: Counts::default(),
            config: config.clone(),
        });
        shared.counts.file_bytes.store(tables.file_bytes(), Relaxed);
        let space = Space::watch(env, path, &config).await;
        env.spawn("store-commit", Arc::clone(&shared).commit(Arc::new(tables)));
        Ok(Self { shared, space })
    }
}

impl Shared {
    /// Commits until the store is closed or fails, and then closes the file.
    async fn commit(self: Arc<Self>, tables: Arc<Tables>) {
        loop {
            // Asked before the memtable is: a batch applied in between leaves its wake-up behind.
            let taking = self.view.taking();
            if taking == Taking::Stopped {
                break;
            }
            let Some(frozen) = self.view.freeze() else {
                if taking == Taking::Closed {
                    break;
                }
                self.wake.notified().await;
                continue;
            };
            if let Err(error) = self.commit_group(&tables, frozen).await {
                self.fail(error);
                break;
            }
        }
        self.readers.close().await;
        self.view.release_tables();
        // Closing redb writes to the disk. Lost work means that the node is going down: its file recovers.
        let _ = self.env.block(move || drop(tables)).await;
        self.closed.send_replace(true);
    }

    async fn commit_group(&self, tables: &Arc<Tables>, frozen: Arc<Memtable>) -> Result<(), StoreError> {
        let (group, file) = (Arc::clone(&frozen), Arc::clone(tables));
        let work = move || -> Result<(Snapshot, u64), StoreError> {
            file.commit(group.iter())?;
            Ok((file.snapshot()?, file.file_bytes()))
        };
        let (snapshot, file_bytes) = self.env.block(work).await.map_err(|_| StoreError::Stopped)??;
        self.view.retire(&frozen, snapshot);
        self.counts.commits.fetch_add(1, Relaxed);
        self.counts.batches.fetch_add(frozen.batches, Relaxed);
        self.counts.written_bytes.fetch_add(frozen.bytes, Relaxed);
        self.counts.file_bytes.store(file_bytes, Relaxed);
        self.progress.send_if_modified(|progress| {
            let going = progress.failed.is_none();
            if going {
                progress.durable = frozen.last;
            }
            going
        });
        Ok(())
    }

    fn fail(&self, error: StoreError) {
        tracing::error!(%error, "the store has stopped: this node serves nothing from it until it is restarted");
        self.view.stop();
        self.progress.send_modify(|progress| {
            progress.failed.get_or_insert(error);
        });
    }

    /// An error of a read stops the store like one of a write: what else the disk lost is not known.
    fn judge<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error @ (StoreError::Io(_) | StoreError::Damaged(_))) = &result {
            self.fail(error.clone());
            self.wake.notify_one();
        }
        result
    }
}

impl Store for RedbStore {
    fn apply(&self, batch: Vec<Write>) -> Result<Lsn, StoreError> {
        let lsn = self.shared.view.apply(batch, |_, _| {})?;
        self.shared.wake.notify_one();
        Ok(lsn)
    }

    fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    fn peek(&self, at: &RowKey) -> Peek {
        self.shared.view.peek(at)
    }

    fn read(&self, rows: Vec<RowKey>) -> BoxFuture<Result<Vec<Option<Bytes>>, StoreError>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let read = Arc::clone(&shared.readers).run(move |view| view.read(&rows)).await;
            shared.judge(read)
        })
    }

    fn range(&self, query: RangeQuery) -> BoxFuture<Result<Slice, StoreError>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let read = Arc::clone(&shared.readers).run(move |view| view.range(&query)).await;
            shared.judge(read)
        })
    }

    fn admission(&self) -> Admission {
        self.space.admission(self.shared.view.memtable_bytes(), self.shared.config.backlog_bytes_max)
    }

    fn stats(&self) -> StoreStats {
        let (cache_bytes, hits, misses) = self.shared.view.figures();
        let counts = &self.shared.counts;
        StoreStats {
            backlog_bytes: self.shared.view.memtable_bytes(),
            cache_bytes,
            hits,
            misses,
            commits: counts.commits.load(Relaxed),
            batches: counts.batches.load(Relaxed),
            written_bytes: counts.written_bytes.load(Relaxed),
            file_bytes: counts.file_bytes.load(Relaxed),
        }
    }

    fn close(&self) -> BoxFuture<Result<(), StoreError>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            shared.view.close();
            shared.wake.notify_one();
            let mut closed = shared.closed.subscribe();
            // The sender is in `shared`: it outlives the wait.
            let _ = closed.wait_for(|closed| *closed).await;
            shared.progress.borrow().failed.clone().map_or(Ok(()), Err)
        })
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        // The commit task makes what was applied durable and closes the file, if there is a node left to run it.
        self.shared.view.close();
        self.shared.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        TableId,
        conformance::{self, Script, settle},
    };
    use proptest::prelude::*;
    use rondel_proto::id::Position;
    use std::future::Future;

    /// Small bounds, so that rows leave memory and are read back.
    fn tight() -> StoreConfig {
        StoreConfig { cache_bytes: 64 << 10, page_cache_bytes: 256 << 10, ..StoreConfig::default() }
    }

    fn opener(env: Env, path: std::path::PathBuf) -> impl Fn() -> BoxFuture<Arc<dyn Store>> + Send + Sync {
        move || {
            let (env, path) = (env.clone(), path.clone());
            Box::pin(async move {
                Arc::new(RedbStore::open(&env, &path, tight()).await.unwrap()) as Arc<dyn Store>
            })
        }
    }

    fn block_on<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
            .block_on(test)
    }

    fn row(n: u64, value: Option<&'static str>) -> Write {
        let at = RowKey { table: TableId(1), position: Position(n), key: Bytes::from_static(b"key") };
        Write { at, value: value.map(|value| Bytes::from_static(value.as_bytes())) }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn answers_as_the_model_does(seed: u64, steps in 0..120_usize) {
            block_on(async {
                let directory = tempfile::tempdir().unwrap();
                let open = opener(Env::production(), directory.path().join("store/rows.redb"));
                Script::random(seed, steps).run(&open, true).await;
            });
        }
    }

    #[test]
    fn writers_and_walkers_at_once_see_whole_batches() {
        block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let env = Env::production();
            let open = opener(env.clone(), directory.path().join("rows.redb"));
            conformance::race(&env, &open, 2, 4, 100).await;
        });
    }

    #[test]
    fn what_was_applied_is_there_after_a_drop_without_close() {
        block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let (env, path) = (Env::production(), directory.path().join("rows.redb"));
            let store = RedbStore::open(&env, &path, tight()).await.unwrap();
            let mut closed = store.shared.closed.subscribe();
            store.apply(vec![row(1, Some("a")), row(2, Some("b"))]).unwrap();
            drop(store);
            closed.wait_for(|closed| *closed).await.unwrap();
            let store = RedbStore::open(&env, &path, tight()).await.unwrap();
            let rows = store.read(vec![row(1, None).at, row(2, None).at, row(3, None).at]).await.unwrap();
            assert_eq!(rows, [row(1, Some("a")).value, row(2, Some("b")).value, None]);
        });
    }

    #[test]
    fn a_damaged_file_says_where_it_is_and_what_to_do() {
        block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let (env, path) = (Env::production(), directory.path().join("rows.redb"));
            let store = RedbStore::open(&env, &path, tight()).await.unwrap();
            store.apply((0..500).map(|n| row(n, Some("value"))).collect()).unwrap();
            store.close().await.unwrap();
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[..4096].fill(0x5a);
            std::fs::write(&path, bytes).unwrap();
            let error = RedbStore::open(&env, &path, tight()).await.unwrap_err();
            assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains("rows.redb") && text.contains("data directory"), "{text}");
        });
    }

    #[test]
    fn a_read_that_was_overtaken_does_not_bring_the_old_row_back() {
        block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let store =
                RedbStore::open(&Env::production(), &directory.path().join("rows.redb"), tight()).await;
            let store = store.unwrap();
            let view = Arc::clone(&store.shared.view);
            settle(&store, store.apply(vec![row(1, Some("old"))]).unwrap()).await;
            // The read stands between its look at the disk and its filling of the cache …
            let since = view.last();
            settle(&store, store.apply(vec![row(1, Some("new"))]).unwrap()).await;
            view.fill(super::super::key::encode(&row(1, None).at), &row(1, Some("old")).value, since);
            assert_eq!(store.peek(&row(1, None).at), Peek::Known(row(1, Some("new")).value));
            // … and one that began after the change does fill it.
            view.fill(super::super::key::encode(&row(1, None).at), &row(1, Some("new")).value, view.last());
            assert_eq!(store.peek(&row(1, None).at), Peek::Known(row(1, Some("new")).value));
        });
    }

    #[test]
    fn admission_follows_the_backlog_and_the_room_on_the_disk() {
        block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let env = Env::production();
            let full = StoreConfig { disk_reserve_bytes: u64::MAX, ..tight() };
            let store = RedbStore::open(&env, &directory.path().join("one.redb"), full).await.unwrap();
            assert_eq!(store.admission(), Admission::DiskFull);
            let store = RedbStore::open(&env, &directory.path().join("two.redb"), tight()).await.unwrap();
            assert_eq!(store.admission(), Admission::Open);
            assert_eq!(store.space.admission(79, 100), Admission::Open);
            assert_eq!(store.space.admission(80, 100), Admission::Slow);
            assert_eq!(store.space.admission(100, 100), Admission::Full);
        });
    }
}
