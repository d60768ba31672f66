//! A store with a commit log: durable after one sync of the log, in the tables later.
//!
//! A batch goes to the active memtable and to the log's queue in one step. The log task writes whatever is queued as
//! one group, syncs it, and reports it durable; as long as somebody waits, it waits for nothing else (`queue`). The fold
//! task lets memory go of the values that the log has, and keeps where they are. The flush task moves what is folded,
//! once it is much, into the store files in sorted slices, which become durable in one transaction per file together with
//! the number up to which that file now has everything; then no opening needs their segments any more. It is paced by how
//! full the memtables are: moving rows competes with requests for the processors. Segments in which few rows have their
//! values still are cleared away by the collector.
//!
//! Memory and log are bounded through [`Admission`]; the log itself never waits for the flush.

use super::{
    Admission, Lsn, OpenError, Peek, Progress, RangeQuery, RowKey, Slice, Store, StoreConfig, StoreError,
    StoreStats, Write,
    files::StoreFiles,
    gaps::{Gap, Gaps},
    log::{
        Recovery,
        mutant::Mutant,
        recovery::{Recovered, io_error, recover},
        segment::Segments,
        values::Values,
        writer::{Batch, Run, Writer, Written},
    },
    memtable::Change,
    scrub,
    serving::Serving,
    space::bytes_of,
    view::Taking,
};
use crate::env::{BoxFuture, Env, TaskHandle};
use bytes::Bytes;
use collector::Collector;
use queue::Queue;
use rondel_proto::id::Position;
use std::{
    collections::VecDeque,
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::{Notify, oneshot, watch};

/// Rows in redb files behind a commit log.
#[derive(Debug)]
pub struct LogStore {
    log: Arc<Log>,
    recovery: Recovery,
    opening: Duration,
    scrubber: TaskHandle,
}

struct Log {
    serving: Arc<Serving>,
    segments: Arc<Mutex<Segments>>,
    queue: Mutex<Queue>,
    /// Where the log has written what is not folded yet; oldest first.
    runs: Mutex<VecDeque<Run>>,
    /// Bytes of the last group that was written.
    group_bytes: AtomicU64,
    /// Pauses of the store's tasks that were too short to be taken.
    pause_owed_us: AtomicU64,
    /// One fold at a time.
    folding: tokio::sync::Mutex<()>,
    collector: Collector,
    /// Somebody waits for what a flush frees.
    flush_asked: AtomicBool,
    /// Held while a segment is collected.
    collecting: tokio::sync::Mutex<()>,
    gaps: Gaps,
    /// Gaps that others have filled, to be noted in their files.
    filled: Mutex<Vec<Filled>>,
    /// Files that were set aside.
    aside: Mutex<Vec<PathBuf>>,
    /// Batches of earlier openings: this one's first has the number after it.
    base: u64,
    /// There is a batch to write.
    write: Arc<Notify>,
    /// There may be a memtable to fold.
    fold: Arc<Notify>,
    /// There may be a memtable to move into the tables.
    flush: Arc<Notify>,
    /// There may be a segment to collect.
    collect: Arc<Notify>,
    /// A group has been written, or the log has stopped.
    written: Notify,
    /// The newest segment is half full.
    prepare: Arc<Notify>,
}

/// Gaps that lack nothing any more, and who waits until that is noted.
struct Filled {
    gaps: Vec<Gap>,
    noted: oneshot::Sender<Result<(), StoreError>>,
}

impl fmt::Debug for Log {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Log")
            .field("serving", &self.serving)
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

impl LogStore {
    /// Opens the store in a directory, or makes it. What the log holds and the tables do not is read into memory, and
    /// goes into the tables as what comes after it does.
    ///
    /// # Errors
    /// [`OpenError`]: nothing is lost that was not lost before; it may be tried again.
    pub async fn open(env: &Env, directory: &Path, config: StoreConfig) -> Result<Self, OpenError> {
        let began = env.now();
        let (disk, at, with, new_log) = (env.disk(), directory.to_owned(), config.clone(), env.random_u128());
        let opened = env.block(move || {
            let mut files = StoreFiles::open(&*disk, &at, &with)?;
            loop {
                let opened = recover(Arc::clone(&disk), &at.join("log"), &files, &with, new_log)
                    .and_then(|recovered| Ok((files.snapshots()?, Gaps::new(files.gaps()?), recovered)));
                match (opened, files.lost()) {
                    (Ok((snapshots, gaps, recovered)), _) => {
                        return Ok((Arc::new(files), snapshots, gaps, recovered));
                    }
                    (Err(error @ StoreError::Damaged(_)), Some(lost)) => {
                        files = files.lose(&*disk, lost, &error)?;
                    }
                    (Err(error), _) => return Err(OpenError::from_store(&at, error)),
                }
            }
        });
        let (files, snapshots, gaps, recovered) =
            opened.await.map_err(|lost| OpenError::lost(directory, lost))??;
        let Recovered { recovery, last, rows, segments, log, tail } = recovered;

        let [write, fold, flush, collect, prepare] = [(); 5].map(|()| Arc::new(Notify::new()));
        let wakes = [&write, &fold, &flush, &collect, &prepare].map(Arc::clone).to_vec();
        let segments = Arc::new(Mutex::new(segments));
        let values = Values::new(env.disk(), Arc::clone(&segments), log, config.log.clone());
        let tables = (snapshots, files.writing().clone(), Some(values));
        let mends = files.all().len() > 1;
        let serving = Serving::new(env, &directory.join("log"), config.clone(), tables, wakes, mends).await;
        serving.counts.file_bytes.store(files.bytes(), Relaxed);
        serving.counts.filter_bytes.store(files.filter_bytes(), Relaxed);
        let left = (!rows.is_empty()).then(|| serving.view.take_back(rows));
        let writer = Writer::new(env.clone(), Arc::clone(&segments), config.log, tail, last);
        let log = Arc::new(Log {
            serving,
            segments,
            queue: Mutex::default(),
            runs: Mutex::default(),
            group_bytes: AtomicU64::new(0),
            pause_owed_us: AtomicU64::new(0),
            folding: tokio::sync::Mutex::default(),
            collector: Collector::new(files.live_values()),
            flush_asked: AtomicBool::new(false),
            collecting: tokio::sync::Mutex::default(),
            aside: Mutex::new(files.aside().to_vec()),
            gaps,
            filled: Mutex::default(),
            base: last,
            write,
            fold,
            flush,
            collect,
            written: Notify::new(),
            prepare,
        });
        env.spawn_thread("store-log", Arc::clone(&log).write(writer));
        env.spawn("store-fold", Arc::clone(&log).fold());
        env.spawn("store-flush", Arc::clone(&log).flush(files, left));
        env.spawn("store-collect", Arc::clone(&log).collect());
        env.spawn("store-prepare", Arc::clone(&log).prepare());
        let scrubber =
            env.spawn("store-scrub", scrub::run(Arc::clone(&log.serving), recovery.lost_values > 0));
        Ok(Self { log, recovery, opening: env.now() - began, scrubber })
    }

    /// What opening the store found in its log.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }
}

/// The log task.
impl Log {
    async fn write(self: Arc<Self>, mut writer: Writer) {
        loop {
            // Asked before the queue is: a batch applied in between leaves its wake-up behind.
            let taking = self.serving.view.taking();
            if taking == Taking::Stopped {
                break;
            }
            let rests_until = self.queue().rests_until(self.serving.config.lazy_sync_within);
            if let Some(until) =
                rests_until.filter(|until| taking == Taking::Yes && self.serving.env.now() < *until)
            {
                // Whether it rings or the time is up: both are looked at above.
                let _ = self.serving.env.timeout_at(until, self.write.notified()).await;
                continue;
            }
            let group = self.queue().take_group();
            let Some(last) = group.last().map(|batch| batch.number) else {
                if taking == Taking::Closed {
                    break;
                }
                self.write.notified().await;
                continue;
            };
            let batches = group.len() as u64;
            if self.serving.config.log.breaks(Mutant::EarlyReply) {
                self.serving.publish_durable(Lsn(last - self.base));
            }
            let append = move || {
                let written = writer.append(&group).map_err(io_error)?;
                Ok((writer, written))
            };
            match self.serving.block_thread(append).await {
                Ok((back, written)) => {
                    writer = back;
                    self.note_written(batches, &written);
                    self.serving.publish_durable(Lsn(last - self.base));
                    self.written.notify_waiters();
                }
                Err(error) => {
                    self.serving.fail(error);
                    break;
                }
            }
        }
        self.written.notify_waiters();
    }

    fn note_written(&self, batches: u64, written: &Written) {
        let counts = &self.serving.counts;
        self.runs().push_back(written.run);
        counts.commits.fetch_add(1, Relaxed);
        counts.batches.fetch_add(batches, Relaxed);
        counts.written_bytes.fetch_add(written.bytes, Relaxed);
        self.group_bytes.store(written.bytes, Relaxed);
        self.serving.config.meters.group(batches, written.bytes, written.sync);
        if written.next_wanted {
            self.prepare.notify_one();
        }
        if written.rolled && self.is_flush_due() {
            // The log may have grown enough for a flush, while the same few rows were written over and over.
            self.flush.notify_one();
        }
    }

    fn batch(&self, lsn: Lsn, queued: u64, changes: &[Change]) -> Batch {
        Batch { number: self.base + lsn.0, queued, changes: changes.to_vec() }
    }

    /// Lets nothing rest that has been applied so far.
    fn hurry(&self) {
        if self.queue().hurry() {
            self.write.notify_one();
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn runs(&self) -> MutexGuard<'_, VecDeque<Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn segments(&self) -> MutexGuard<'_, Segments> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task that makes segment files before they are needed.
impl Log {
    async fn prepare(self: Arc<Self>) {
        loop {
            self.prepare.notified().await;
            if self.serving.view.taking() != Taking::Yes {
                return;
            }
            let new = {
                let mut segments = self.segments();
                segments.wants_spare().then(|| segments.reserve())
            };
            if let Some(new) = new {
                match self.serving.block(move || new.make().map_err(io_error)).await {
                    Ok(file) => {
                        let filled = &self.serving.counts.written_bytes;
                        filled.fetch_add(self.serving.config.log.segment_bytes, Relaxed);
                        self.segments().give_back(vec![file]);
                    }
                    // The log makes its own if it must; what is wrong with the disk shows there.
                    Err(error) => tracing::warn!(%error, "can't prepare a file for the log"),
                }
            }
        }
    }
}

impl LogStore {
    /// Makes a batch visible and queues it with `queue`, which says whether the log should look.
    fn take(
        &self,
        batch: Vec<Write>,
        queue: impl FnOnce(&mut Queue, Batch) -> bool,
    ) -> Result<Lsn, StoreError> {
        let (log, bytes, mut look) = (&self.log, bytes_of(&batch), false);
        let lsn = log.serving.view.apply(batch, |lsn, queued, changes| {
            look = queue(&mut log.queue(), log.batch(lsn, queued, changes));
        })?;
        log.serving.space.took(bytes);
        if look {
            log.write.notify_one();
        }
        if log.is_fold_due() {
            log.fold.notify_one();
        }
        Ok(lsn)
    }
}

impl Store for LogStore {
    fn apply(&self, batch: Vec<Write>) -> Result<Lsn, StoreError> {
        let is_empty = batch.is_empty();
        let lsn = self.take(batch, |queue, batch| {
            queue.push(batch);
            true
        })?;
        if is_empty {
            self.log.hurry();
        }
        Ok(lsn)
    }

    fn apply_lazily(&self, batch: Vec<Write>) -> Result<Lsn, StoreError> {
        let now = self.log.serving.env.now();
        self.take(batch, |queue, batch| queue.push_lazily(batch, now))
    }

    fn progress(&self) -> watch::Receiver<Progress> {
        self.log.serving.progress.subscribe()
    }

    fn peek(&self, at: &RowKey) -> Peek {
        self.log.serving.view.peek(at)
    }

    fn read(&self, rows: Vec<RowKey>) -> BoxFuture<Result<Vec<Option<Bytes>>, StoreError>> {
        self.log.serving.read(rows)
    }

    fn range(&self, query: RangeQuery) -> BoxFuture<Result<Slice, StoreError>> {
        self.log.serving.range(query)
    }

    fn admission(&self) -> Admission {
        let serving = &self.log.serving;
        let memory = serving.space.admission(serving.view.memtable_bytes(), serving.config.backlog_bytes_max);
        let log = serving.space.admission(self.log.log_bytes(), self.log.log_bytes_max());
        memory.max(log)
    }

    fn lacks(&self, at: Position) -> bool {
        self.log.gaps.has(at)
    }

    fn has_gaps(&self) -> bool {
        self.log.gaps.is_any()
    }

    fn gaps(&self) -> Vec<Gap> {
        self.log.gaps.list()
    }

    fn fill(&self, gaps: Vec<Gap>) -> BoxFuture<Result<(), StoreError>> {
        let (noted, answer) = oneshot::channel();
        self.log.filled.lock().unwrap_or_else(PoisonError::into_inner).push(Filled { gaps, noted });
        self.log.flush.notify_one();
        // It is dropped unanswered by a store that ends.
        Box::pin(async move { answer.await.unwrap_or(Err(StoreError::Closed)) })
    }

    fn found_damaged(&self) -> Vec<RowKey> {
        self.log.serving.findings.take()
    }

    fn note_repaired(&self) {
        self.log.serving.findings.repaired();
    }

    fn files(&self) -> usize {
        self.log.gaps.files()
    }

    fn set_aside(&self) -> Vec<PathBuf> {
        self.log.aside.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn stats(&self) -> StoreStats {
        // Before the collector is asked, which takes its own lock first.
        let kept_bytes = self.log.segments().kept().values().map(|kept| kept.bytes).sum();
        StoreStats {
            log_bytes: self.log.log_bytes(),
            kept_bytes,
            value_bytes: self.log.collector.live_bytes(),
            gap_ppm: self.log.gaps.share_ppm(),
            opening: self.opening,
            recovered_batches: self.recovery.batches,
            ..self.log.serving.stats()
        }
    }

    fn close(&self) -> BoxFuture<Result<(), StoreError>> {
        self.log.serving.close()
    }
}

impl Drop for LogStore {
    fn drop(&mut self) {
        self.scrubber.abort();
        // The tasks make what was applied durable and close the files, if there is a node left to run them.
        self.log.serving.end();
    }
}

mod collector;
mod flush;
mod fold;
mod mending;
mod queue;
mod upkeep;

#[cfg(test)]
mod tests;
