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
        record_bytes,
        recovery::{FIRST_MARK, Recovered, io_error, recover},
        segment::{LiveValues, Segments},
        values::Values,
        writer::{Batch, Run, Writer, Written},
    },
    memtable::{Change, Entry as _, Folded},
    scrub,
    serving::{Damage, Serving},
    space::{bytes_of, bytes_of_rows},
    stored::{Place, Stored},
    view::Taking,
};
use crate::env::{BoxFuture, Env, TaskHandle};
use bytes::Bytes;
use collector::Collector;
use futures_util::TryStreamExt;
use queue::Queue;
use rondel_proto::id::Position;
use std::{
    collections::VecDeque,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::sync::{Notify, oneshot, watch};
use upkeep::Upkeep;

/// Memtables are folded when they are so much of the bound, and what is folded is moved into the tables when it is so much:
/// two of each fit below the point where writes are slowed down.
const FRESH_SHARE: u64 = 16;
const FOLDED_SHARE: u64 = 3;
/// Files that are flushed at the same time.
const FLUSHES_AT_ONCE: usize = 2;
/// The longest pause between two slices of a flush.
const PAUSE_MAX: Duration = Duration::from_millis(20);

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
    /// One fold at a time.
    folding: tokio::sync::Mutex<()>,
    collector: Collector,
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
        let tables = (snapshots, files.written().clone(), Some(values));
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
            folding: tokio::sync::Mutex::default(),
            collector: Collector::new(files.live_values()),
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
        let scrubber = env.spawn("store-scrub", scrub::run(Arc::clone(&log.serving)));
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

/// The flush task.
impl Log {
    /// `left` is what an earlier opening has left.
    async fn flush(self: Arc<Self>, files: Arc<StoreFiles>, mut left: Option<Arc<Folded>>) {
        let (mut files, mut upkeep) = (files, Upkeep::default());
        loop {
            let taking = self.serving.view.taking();
            if taking == Taking::Stopped {
                break;
            }
            if let Some(Damage { error, is_needed }) = self.serving.take_damage() {
                // Of a file that has been replaced meanwhile somebody may still have read.
                if files.is_damaged()
                    && let Err(error) = self.mend(&mut files, &mut upkeep, error).await
                    && is_needed
                {
                    self.serving.fail(error);
                    break;
                }
                continue;
            }
            if taking == Taking::Yes && left.is_none() && !self.is_flush_due() {
                match self.keep_up(&mut files, &mut upkeep).await {
                    Ok(true) => {}
                    Ok(false) => self.flush.notified().await,
                    Err(error) => {
                        if let Err(error) = self.mend(&mut files, &mut upkeep, error).await {
                            self.serving.fail(error);
                            break;
                        }
                    }
                }
                continue;
            }
            let moving = match left.take() {
                None => self.take_folded().await,
                left => Ok(left),
            };
            let flushed = match moving {
                Ok(Some(moving)) => {
                    match self.flush_whatever_breaks(&mut files, &mut upkeep, &moving).await {
                        Ok(()) => self.follow(&files, &mut upkeep, &moving).await,
                        failed => failed,
                    }
                }
                Ok(None) if taking == Taking::Closed => break,
                Ok(None) => {
                    self.flush.notified().await;
                    continue;
                }
                Err(error) => Err(error),
            };
            if let Err(error) = flushed {
                self.serving.fail(error);
                break;
            }
        }
        // Lost work means that the node is going down: the next start does it.
        let _ = self.put_down(&files, upkeep).await;
        self.serving.close_files(files).await;
    }

    /// Flushes, as often as that shows a file to be damaged that the store can do without.
    async fn flush_whatever_breaks(
        &self,
        files: &mut Arc<StoreFiles>,
        upkeep: &mut Upkeep,
        moving: &Arc<Folded>,
    ) -> Result<(), StoreError> {
        while let Err(error) = self.flush_memtable(files, moving).await {
            self.mend(files, upkeep, error).await?;
        }
        Ok(())
    }

    fn is_flush_due(&self) -> bool {
        let folded_bytes_max = self.serving.config.backlog_bytes_max / FOLDED_SHARE;
        self.serving.view.folded_bytes() >= folded_bytes_max || self.log_bytes() >= self.log_bytes_max() / 2
    }

    async fn flush_memtable(&self, files: &Arc<StoreFiles>, moving: &Arc<Folded>) -> Result<(), StoreError> {
        // What is folded is durable in the log: the tables are never ahead of it.
        let applied = self.base + moving.last.0;
        let first_needed = self.segments().first_needed(applied);
        if self.serving.config.log.breaks(Mutant::EarlyTrim) {
            self.trim(first_needed, files.live_values()).await?;
        }
        // Each says which segments are needed; the oldest that any of them names counts, for all.
        let mark = self.segments().mark_from(first_needed);
        let flush = |number| self.flush_file(files, number, moving, applied, mark);
        let numbers = futures_util::stream::iter((0..files.all().len()).map(Ok));
        numbers.try_for_each_concurrent(FLUSHES_AT_ONCE, flush).await?;
        let (view, of, moved) = (Arc::clone(&self.serving.view), Arc::clone(files), Arc::clone(moving));
        let retire = move || {
            of.all().iter().try_for_each(|file| file.review_filter())?;
            view.retire_folded(&moved, of.snapshots()?);
            Ok(of.bytes())
        };
        let file_bytes = self.serving.block(retire).await?;
        self.serving.counts.file_bytes.store(file_bytes, Relaxed);
        let live = files.live_values();
        let needed_by_rows = if self.serving.config.log.breaks(Mutant::ForgottenValues) {
            LiveValues::new()
        } else {
            live.clone()
        };
        self.trim(first_needed, needed_by_rows).await?;
        self.collector.flushed(moving.last, live);
        self.collect.notify_one();
        Ok(())
    }

    /// Lets segments be written over that neither an opening nor a row needs any more.
    async fn trim(&self, first_needed: u64, live: LiveValues) -> Result<(), StoreError> {
        let (segments, disk) = (Arc::clone(&self.segments), self.serving.env.disk());
        let trim = move || {
            let too_many = {
                let mut segments = segments.lock().unwrap_or_else(PoisonError::into_inner);
                segments.trim(first_needed, &live)
            };
            too_many.and_then(|files| files.iter().try_for_each(|file| file.remove(&*disk))).map_err(io_error)
        };
        self.serving.block(trim).await
    }

    /// Waits for the log. Not on the progress that others watch: whom that wakes first differs from run to run.
    async fn until_durable(&self, lsn: Lsn) -> Result<(), StoreError> {
        loop {
            let written = self.written.notified();
            if self.serving.progress.borrow().durable >= lsn {
                return Ok(());
            }
            if self.serving.view.taking() == Taking::Stopped {
                return Err(StoreError::Stopped);
            }
            written.await;
        }
    }

    /// Moves the rows of one file, and its marks, in one transaction.
    async fn flush_file(
        &self,
        files: &Arc<StoreFiles>,
        number: usize,
        moving: &Arc<Folded>,
        applied: u64,
        needed: u128,
    ) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let slice = FlushSlice {
                files: Arc::clone(files),
                number,
                rows: Arc::clone(moving),
                after,
                bytes_max: self.serving.config.log.flush_slice_bytes,
                rows_max: files.part_rows(),
            };
            let began = self.serving.env.now();
            after = self.serving.block(move || slice.change()).await?;
            if after.is_none() {
                break;
            }
            self.pause(self.serving.env.now() - began).await;
        }
        let file = Arc::clone(&files.all()[number]);
        let unmarked = self.serving.config.log.breaks(Mutant::UnmarkedFlush);
        let forgetful = self.serving.config.log.breaks(Mutant::ForgottenFilter);
        let finish = move || {
            let transaction = file.begin()?;
            if forgetful {
                transaction.forget_added();
            }
            if !unmarked {
                transaction.mark_applied(u128::from(applied))?;
            }
            transaction.mark(FIRST_MARK, needed)?;
            transaction.commit()
        };
        self.serving.block(finish).await
    }

    /// Leaves the processors to requests: twice as long as the slice took while memory is empty, not at all once
    /// writes are about to be slowed down, or the store is to end.
    async fn pause(&self, slice: Duration) {
        let (used, max) = (self.serving.view.memtable_bytes(), self.serving.config.backlog_bytes_max);
        let slow_at = max / 5 * 4;
        if self.serving.view.taking() != Taking::Yes || used >= slow_at {
            return;
        }
        let percent = u32::try_from((slow_at - used) * 200 / slow_at.max(1)).unwrap_or(0);
        self.serving.env.sleep((slice * percent / 100).min(PAUSE_MAX)).await;
    }

    fn log_bytes(&self) -> u64 {
        self.segments().live_bytes()
    }

    fn log_bytes_max(&self) -> u64 {
        // Below a few segments the bound could never be met: the newest one is always needed.
        self.serving.config.log.log_bytes_max.max(self.serving.config.log.segment_bytes * 4)
    }
}

/// The fold task.
impl Log {
    async fn fold(self: Arc<Self>) {
        loop {
            if self.serving.view.taking() != Taking::Yes {
                // What is left is folded by the flush.
                return;
            }
            if !self.is_fold_due() {
                self.fold.notified().await;
                continue;
            }
            let folding = self.folding.lock().await;
            if let Err(error) = self.fold_active().await {
                self.serving.fail(error);
                return;
            }
            drop(folding);
            if self.is_flush_due() {
                self.flush.notify_one();
            }
        }
    }

    fn is_fold_due(&self) -> bool {
        self.serving.view.active_bytes() >= (self.serving.config.backlog_bytes_max / FRESH_SHARE).max(1)
    }

    /// Everything applied so far, folded.
    async fn take_folded(&self) -> Result<Option<Arc<Folded>>, StoreError> {
        let _folding = self.folding.lock().await;
        self.fold_active().await?;
        Ok(self.serving.view.freeze_folded())
    }

    /// Folds everything applied so far.
    async fn fold_active(&self) -> Result<(), StoreError> {
        let Some(frozen) = self.serving.view.freeze() else { return Ok(()) };
        self.hurry();
        self.until_durable(frozen.last).await?;
        let (view, config, runs) =
            (Arc::clone(&self.serving.view), self.serving.config.log.clone(), self.runs().clone());
        let fold = move || {
            view.fold(&frozen, |key, whole| {
                let value = whole.value.as_ref()?;
                let place = place_in(&runs, key, value, whole.queued)
                    .filter(|_| config.keeps_in_log(key, value.len()));
                Some(place.map_or_else(|| Stored::Here(value.clone()), Stored::There))
            });
            Ok(frozen.iter().map(|(_, whole)| whole.queued).max())
        };
        let last = self.serving.block(fold).await?;
        let mut runs = self.runs();
        // The last run of these rows may hold others, which came after.
        while runs.get(1).zip(last).is_some_and(|(next, last)| next.queued <= last) {
            runs.pop_front();
        }
        Ok(())
    }
}

/// Where the log has a row of which it is known how much had been queued before it.
fn place_in(runs: &VecDeque<Run>, key: &[u8], value: &Bytes, queued: u64) -> Option<Place> {
    let run = runs.get(runs.partition_point(|run| run.queued <= queued).checked_sub(1)?)?;
    let offset = u32::try_from(run.at + (queued - run.queued)).ok()?;
    let bytes = u32::try_from(record_bytes(key.len(), value.len())).ok()?;
    Some(Place { segment: run.segment, offset, bytes })
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

/// One step of a flush.
struct FlushSlice {
    files: Arc<StoreFiles>,
    number: usize,
    rows: Arc<Folded>,
    after: Option<Bytes>,
    bytes_max: u64,
    rows_max: usize,
}

impl FlushSlice {
    /// Puts the slice's rows into the file; gives the key after which to go on, or none at the end.
    fn change(self) -> Result<Option<Bytes>, StoreError> {
        let transaction = self.files.all()[self.number].begin_part()?;
        let (mut bytes, mut last) = (0, None);
        let rows = self.rows.of_file(self.number, self.files.all().len(), self.after.as_deref());
        let slice = rows.take(self.rows_max).take_while(|(key, entry)| {
            let room = bytes < self.bytes_max;
            bytes += key.len() as u64 + entry.bytes();
            if room {
                last = Some((*key).clone());
            }
            room
        });
        transaction.change(slice.map(|(key, entry)| (key, entry.encode(key))))?;
        transaction.commit()?;
        Ok(last)
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
        StoreStats {
            log_bytes: self.log.log_bytes(),
            kept_bytes: self.log.segments().kept().values().map(|kept| kept.bytes).sum(),
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
mod mending;
mod queue;
mod upkeep;

#[cfg(test)]
mod tests;
