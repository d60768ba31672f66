//! What the stores on disk have in common: the view and its readers, progress, and stopping for good.

use super::{
    OpenError, Progress, RangeQuery, RowKey, Slice, StoreConfig, StoreError, StoreStats,
    files::Snapshots,
    log::values::Values,
    readers::Readers,
    redb_file::Writing,
    scrub::{Findings, Place, Scrubbed},
    space::Space,
    view::{Figures, View},
};
use crate::env::{BoxFuture, Env};
use bytes::Bytes;
use std::{
    fmt,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// The side of a store that answers. Its tasks make batches durable and end when the view takes no more of them.
pub(super) struct Serving {
    pub(super) env: Env,
    pub(super) config: StoreConfig,
    pub(super) view: Arc<View>,
    pub(super) space: Space,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) counts: Counts,
    pub(super) findings: Findings,
    readers: Arc<Readers>,
    /// To the files of rows.
    pub(super) writing: Writing,
    /// What has been read that shows damage, for a store that can do without the file: see [`Serving::take_damage`].
    damage: Option<Mutex<Option<Damage>>>,
    /// One for each task of the store: there is something to do, or the store is to end.
    wakes: Vec<Arc<Notify>>,
    /// The files are closed.
    closed: watch::Sender<bool>,
}

/// Damage that a read has met.
pub(super) struct Damage {
    pub(super) error: StoreError,
    /// Somebody needs what could not be read.
    pub(super) is_needed: bool,
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) commits: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) written_bytes: AtomicU64,
    pub(super) file_bytes: AtomicU64,
    pub(super) filter_bytes: AtomicU64,
    pub(super) compactions: AtomicU64,
    pub(super) compacted_bytes: AtomicU64,
    pub(super) collected_segments: AtomicU64,
    pub(super) scrub_rounds: AtomicU64,
    pub(super) scrubbed_rows: AtomicU64,
    pub(super) scrubbed_bytes: AtomicU64,
}

impl fmt::Debug for Serving {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Serving").field("progress", &*self.progress.borrow()).finish_non_exhaustive()
    }
}

impl Serving {
    pub(super) async fn new(
        env: &Env,
        path: &Path,
        config: StoreConfig,
        (snapshots, writing, values): (Snapshots, Writing, Option<Values>),
        wakes: Vec<Arc<Notify>>,
        mends: bool,
    ) -> Arc<Self> {
        let view = Arc::new(View::new(snapshots, config.cache_bytes, values));
        Arc::new(Self {
            env: env.clone(),
            readers: Readers::new(env.clone(), Arc::clone(&view), config.readers_max),
            space: Space::watch(env, path, &config, &view).await,
            view,
            config,
            progress: watch::Sender::new(Progress::default()),
            counts: Counts::default(),
            writing,
            findings: Findings::default(),
            damage: mends.then(Mutex::default),
            wakes,
            closed: watch::Sender::new(false),
        })
    }

    /// Blocking work of the store's own tasks.
    pub(super) async fn block<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.env.block(work).await.unwrap_or(Err(StoreError::Stopped))
    }

    /// Blocking work of a task that has a thread of its own.
    pub(super) async fn block_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.env.block_thread(work).await.unwrap_or(Err(StoreError::Stopped))
    }

    pub(super) fn publish_durable(&self, durable: super::Lsn) {
        self.progress.send_if_modified(|progress| {
            let going = progress.failed.is_none();
            if going {
                progress.durable = durable;
            }
            going
        });
    }

    /// Stops for good.
    pub(super) fn fail(&self, error: StoreError) {
        self.view.stop();
        self.progress.send_if_modified(|progress| {
            let first = progress.failed.is_none();
            if first {
                tracing::error!(%error, "the store has stopped: its node must be restarted");
                progress.failed = Some(error);
            }
            first
        });
        self.wake_all();
    }

    pub(super) fn read(
        self: &Arc<Self>,
        rows: Vec<RowKey>,
    ) -> BoxFuture<Result<Vec<Option<Bytes>>, StoreError>> {
        let this = Arc::clone(self);
        Box::pin(async move { this.judge(Arc::clone(&this.readers).run(move |view| view.read(&rows)).await) })
    }

    pub(super) fn range(self: &Arc<Self>, query: RangeQuery) -> BoxFuture<Result<Slice, StoreError>> {
        let this = Arc::clone(self);
        Box::pin(
            async move { this.judge(Arc::clone(&this.readers).run(move |view| view.range(&query)).await) },
        )
    }

    /// Tries the checksums of some rows. Damage is for the scrubber to tell, and stops nothing; a file that the store can
    /// do without is replaced.
    pub(super) async fn scrub(&self, place: Place) -> Result<Scrubbed, StoreError> {
        let scrubbed = Arc::clone(&self.readers).run(move |view| view.scrub(place)).await;
        match scrubbed {
            Err(StoreError::Io(error)) => self.judge(Err(StoreError::Io(error))),
            Err(error @ StoreError::Damaged(_)) => {
                self.report(&error, false);
                Err(error)
            }
            other => other,
        }
    }

    /// An error of a read stops the store like one of a write: what else the disk has lost is not known. Damage is
    /// that of a file, and for the store's own task to deal with, if it can.
    fn judge<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match (&result, &self.damage) {
            (Err(error @ StoreError::Damaged(_)), Some(_)) => self.report(error, true),
            (Err(error @ (StoreError::Io(_) | StoreError::Damaged(_))), _) => self.fail(error.clone()),
            _ => {}
        }
        result
    }

    /// Has the store's task look at damage, if it can do something about it.
    pub(super) fn report(&self, error: &StoreError, is_needed: bool) {
        let Some(damage) = &self.damage else { return };
        let mut damage = damage.lock().unwrap_or_else(PoisonError::into_inner);
        let is_needed = is_needed || damage.as_ref().is_some_and(|before| before.is_needed);
        *damage = Some(Damage { error: error.clone(), is_needed });
        drop(damage);
        self.wake_all();
    }

    /// Damage that reads have met since this was asked last.
    pub(super) fn take_damage(&self) -> Option<Damage> {
        self.damage.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Takes no more batches; what has been applied becomes durable.
    pub(super) fn end(&self) {
        self.view.close();
        self.wake_all();
    }

    /// Ends, and waits for the files to be closed.
    pub(super) fn close(self: &Arc<Self>) -> BoxFuture<Result<(), StoreError>> {
        let this = Arc::clone(self);
        Box::pin(async move {
            this.end();
            let mut closed = this.closed.subscribe();
            // The sender is in `this`: it outlives the wait.
            let _ = closed.wait_for(|closed| *closed).await;
            this.progress.borrow().failed.clone().map_or(Ok(()), Err)
        })
    }

    /// Closes the files, once the last reader is done with them. The store's tasks must be done with them already.
    pub(super) async fn close_files(&self, files: impl Send + 'static) {
        self.readers.close().await;
        self.view.release_tables();
        // Closing redb writes to the disk. Lost work means that the node is going down: its file recovers.
        let _ = self.env.block(move || drop(files)).await;
        self.closed.send_replace(true);
    }

    pub(super) fn stats(&self) -> StoreStats {
        let Figures { cache_bytes, hits, cache_hits, denied, misses, vain_reads } = self.view.figures();
        StoreStats {
            backlog_bytes: self.view.memtable_bytes(),
            frozen_bytes: self.view.frozen_bytes(),
            log_bytes: 0,
            cache_bytes,
            filter_bytes: self.counts.filter_bytes.load(Relaxed),
            hits,
            cache_hits,
            denied,
            misses,
            vain_reads,
            commits: self.counts.commits.load(Relaxed),
            batches: self.counts.batches.load(Relaxed),
            applied_bytes: self.space.taken_bytes(),
            written_bytes: self.counts.written_bytes.load(Relaxed),
            table_written_bytes: self.writing.bytes(),
            file_bytes: self.counts.file_bytes.load(Relaxed),
            compactions: self.counts.compactions.load(Relaxed),
            compacted_bytes: self.counts.compacted_bytes.load(Relaxed),
            scrub_rounds: self.counts.scrub_rounds.load(Relaxed),
            scrubbed_rows: self.counts.scrubbed_rows.load(Relaxed),
            scrubbed_bytes: self.counts.scrubbed_bytes.load(Relaxed),
            damaged_rows: self.findings.damaged(),
            kept_bytes: 0,
            value_bytes: 0,
            collected_segments: self.counts.collected_segments.load(Relaxed),
            gap_ppm: 0,
            opening: Duration::ZERO,
            recovered_batches: 0,
        }
    }

    fn wake_all(&self) {
        self.wakes.iter().for_each(|wake| wake.notify_one());
    }

    #[cfg(test)]
    pub(super) fn closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }
}

impl OpenError {
    /// Opening work that ended without a value.
    pub(super) fn lost(path: &Path, lost: crate::env::WorkLost) -> Self {
        Self::Io { path: path.to_owned(), source: std::io::Error::other(lost) }
    }
}
