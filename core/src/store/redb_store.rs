//! A store of one redb file, with group commit.
//!
//! One task commits: whatever has been applied since the last commit began goes into the next one, whole, so a lone
//! writer waits for one sync and many writers share it. Nothing is timed. After any error of the disk the store has
//! stopped for good: what was reported durable is, and what was applied above that may or may not be.

use super::{
    Admission, Lsn, OpenError, Peek, Progress, RangeQuery, RowKey, Slice, Store, StoreConfig, StoreError,
    StoreStats, Write,
    files::Snapshots,
    memtable::Fresh,
    redb_file::Writing,
    serving::Serving,
    space::bytes_of,
    tables::{Tables, make_directory},
    view::Taking,
};
use crate::env::{BoxFuture, Env};
use bytes::Bytes;
use std::{
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// Rows in one redb file, committed in groups.
#[derive(Debug)]
pub struct RedbStore {
    serving: Arc<Serving>,
    /// There is something to commit.
    wake: Arc<Notify>,
    opening: Duration,
}

impl RedbStore {
    /// Opens the store's file, or makes it.
    ///
    /// # Errors
    /// [`OpenError`]: nothing was changed but what redb's own recovery did.
    pub async fn open(env: &Env, path: &Path, config: StoreConfig) -> Result<Self, OpenError> {
        let began = env.now();
        let (disk, at, page_cache_bytes) = (env.disk(), path.to_owned(), config.page_cache_bytes);
        let writing = Writing::default();
        let count = writing.clone();
        let opened = env.block(move || {
            // A process that was killed may have given the file its name, and not have made that durable.
            let failed = |source| OpenError::Io { path: at.clone(), source };
            let directory = at.parent().unwrap_or(Path::new("."));
            make_directory(&*disk, directory).and_then(|()| disk.sync_dir(directory)).map_err(failed)?;
            let tables = Tables::open(&*disk, &at, page_cache_bytes, 0, &count)?;
            let tables = Arc::new(tables);
            let snapshots = Snapshots::one(&tables).map_err(|error| OpenError::from_store(&at, error))?;
            Ok((tables, snapshots))
        });
        let (tables, snapshots) = opened.await.map_err(|lost| OpenError::lost(path, lost))??;
        let wake = Arc::new(Notify::new());
        let serving =
            Serving::new(env, path, config, (snapshots, writing, None), vec![Arc::clone(&wake)], false).await;
        serving.counts.file_bytes.store(tables.file_bytes(), Relaxed);
        env.spawn("store-commit", commit(Arc::clone(&serving), tables, Arc::clone(&wake)));
        Ok(Self { opening: env.now() - began, serving, wake })
    }
}

/// Commits until the store is closed or fails, and then closes the file.
async fn commit(serving: Arc<Serving>, tables: Arc<Tables>, wake: Arc<Notify>) {
    loop {
        // Asked before the memtable is: a batch applied in between leaves its wake-up behind.
        let taking = serving.view.taking();
        if taking == Taking::Stopped {
            break;
        }
        let Some(frozen) = serving.view.freeze() else {
            if taking == Taking::Closed {
                break;
            }
            wake.notified().await;
            continue;
        };
        if let Err(error) = commit_group(&serving, &tables, frozen).await {
            serving.fail(error);
            break;
        }
    }
    serving.close_files(tables).await;
}

async fn commit_group(serving: &Serving, tables: &Arc<Tables>, frozen: Arc<Fresh>) -> Result<(), StoreError> {
    let (group, file, view) = (Arc::clone(&frozen), Arc::clone(tables), Arc::clone(&serving.view));
    let (env, writing, meters) =
        (serving.env.clone(), serving.writing.clone(), serving.config.meters.clone());
    let work = move || {
        let (began, before) = (env.now(), writing.bytes());
        file.commit(group.encoded())?;
        meters.group(group.batches, writing.bytes() - before, env.now() - began);
        view.retire(&group, Snapshots::one(&file)?);
        Ok(file.file_bytes())
    };
    let file_bytes = serving.block(work).await?;
    let counts = &serving.counts;
    counts.commits.fetch_add(1, Relaxed);
    counts.batches.fetch_add(frozen.batches, Relaxed);
    counts.file_bytes.store(file_bytes, Relaxed);
    serving.publish_durable(frozen.last);
    Ok(())
}

impl Store for RedbStore {
    fn apply(&self, batch: Vec<Write>) -> Result<Lsn, StoreError> {
        let bytes = bytes_of(&batch);
        let lsn = self.serving.view.apply(batch, |_, _, _| {})?;
        self.serving.space.took(bytes);
        self.wake.notify_one();
        Ok(lsn)
    }

    fn progress(&self) -> watch::Receiver<Progress> {
        self.serving.progress.subscribe()
    }

    fn peek(&self, at: &RowKey) -> Peek {
        self.serving.view.peek(at)
    }

    fn read(&self, rows: Vec<RowKey>) -> BoxFuture<Result<Vec<Option<Bytes>>, StoreError>> {
        self.serving.read(rows)
    }

    fn range(&self, query: RangeQuery) -> BoxFuture<Result<Slice, StoreError>> {
        self.serving.range(query)
    }

    fn admission(&self) -> Admission {
        self.serving
            .space
            .admission(self.serving.view.memtable_bytes(), self.serving.config.backlog_bytes_max)
    }

    fn stats(&self) -> StoreStats {
        StoreStats { opening: self.opening, ..self.serving.stats() }
    }

    fn close(&self) -> BoxFuture<Result<(), StoreError>> {
        self.serving.close()
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        // The commit task makes what was applied durable and closes the file, if there is a node left to run it.
        self.serving.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        TableId,
        conformance::{self, CrashReport, OpenIn, Script, crash, settle},
    };
    use crate::testing::CrashMode;
    use proptest::prelude::*;
    use rondel_proto::id::Position;
    use std::{future::Future, ops::Range};

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
            let mut closed = store.serving.closed();
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
            let whole = std::fs::read(&path).unwrap();
            let headless = [&[0x5a; 4096], &whole[4096..]].concat();
            for bytes in [headless, whole[..whole.len() / 2].to_vec(), vec![]] {
                std::fs::write(&path, &bytes).unwrap();
                let error = RedbStore::open(&env, &path, tight()).await.unwrap_err();
                assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
                let text = error.to_string();
                assert!(text.contains("rows.redb") && text.contains("put the node's files back"), "{text}");
                assert_eq!(std::fs::read(&path).unwrap(), bytes, "a damaged file is evidence");
            }
        });
    }

    #[test]
    fn a_read_that_was_overtaken_does_not_bring_the_old_row_back() {
        block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let store =
                RedbStore::open(&Env::production(), &directory.path().join("rows.redb"), tight()).await;
            let store = store.unwrap();
            let view = Arc::clone(&store.serving.view);
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
            assert_eq!(store.serving.space.admission(79, 100), Admission::Open);
            assert_eq!(store.serving.space.admission(80, 100), Admission::Slow);
            assert_eq!(store.serving.space.admission(100, 100), Admission::Full);
        });
    }

    #[test]
    fn a_crash_leaves_whole_batches_and_all_that_were_durable() {
        let report = crash_in_every_mode(0..12);
        assert!(report.deaths > 200 && report.died_opening > 20, "{report:?}");
        assert!(report.found_more > 20 && report.found_less > 20 && report.failed > 20, "{report:?}");
    }

    #[test]
    #[ignore = "a long run: minutes"]
    fn many_crashes_leave_whole_batches_and_all_that_were_durable() {
        crash_in_every_mode(100..700);
    }

    fn crash_in_every_mode(seeds: Range<u64>) -> CrashReport {
        let open: &OpenIn = &|env| {
            Box::pin(async move {
                let store = RedbStore::open(&env, Path::new("/data/rows.redb"), tight()).await?;
                Ok(Arc::new(store) as Arc<dyn Store>)
            })
        };
        let runs = CrashMode::ALL.iter().flat_map(|mode| seeds.clone().map(|seed| crash(seed, *mode, open)));
        runs.fold(CrashReport::default(), CrashReport::and)
    }
}
