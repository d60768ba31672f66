//! The flush task: what is folded goes into the tables.

use super::{Log, Taking, upkeep::Upkeep};
use crate::store::{
    StoreError,
    files::StoreFiles,
    log::{
        mutant::Mutant,
        recovery::{FIRST_MARK, io_error},
        segment::{FREE_MAX, LiveValues, remove},
    },
    memtable::{Entry as _, Folded},
    serving::Damage,
};
use bytes::Bytes;
use futures_util::StreamExt;
use std::{
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

/// What is folded is moved into the tables when it is so much of the bound: see `FRESH_SHARE`.
const FOLDED_SHARE: u64 = 3;
/// Files of the log that wait to be written over while the disk is full: the log goes on without making one.
const FREE_MAX_WHEN_FULL: usize = 2;
/// Files that are flushed at the same time.
const FLUSHES_AT_ONCE: usize = 4;
/// Shorter pauses are put together: a timer takes a millisecond at least.
const PAUSE_MIN: Duration = Duration::from_millis(4);
/// The longest pause between two slices of a flush.
const PAUSE_MAX: Duration = Duration::from_millis(20);

impl Log {
    /// `left` is what an earlier opening has left.
    pub(super) async fn flush(self: Arc<Self>, files: Arc<StoreFiles>, mut left: Option<Arc<Folded>>) {
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
                Ok(Some(moving)) => self.flush_and_follow(&mut files, &mut upkeep, moving).await,
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
        // What the collector has begun reads from the files. It ends as soon as it sees that nothing is taken any more.
        let _collecting = self.collecting.lock().await;
        // Lost work means that the node is going down: the next start does it.
        let _ = self.put_down(&files, upkeep).await;
        self.serving.close_files(files).await;
    }

    async fn flush_and_follow(
        &self,
        files: &mut Arc<StoreFiles>,
        upkeep: &mut Upkeep,
        moving: Arc<Folded>,
    ) -> Result<(), StoreError> {
        self.flush_whatever_breaks(files, upkeep, &moving).await?;
        self.follow(files, upkeep, &moving).await?;
        // It takes long to let go of so many rows.
        let let_go = move || {
            drop(moving);
            Ok(())
        };
        self.serving.block(let_go).await
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

    pub(super) fn is_flush_due(&self) -> bool {
        let folded_bytes_max = self.serving.config.backlog_bytes_max / FOLDED_SHARE;
        self.serving.view.folded_bytes() >= folded_bytes_max
            || self.log_bytes() >= self.log_bytes_max() / 2
            || self.flush_asked.load(Relaxed)
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
        // All of them to their end, even if one fails: what goes on behind the next flush would bring old rows back.
        let numbers = futures_util::stream::iter(0..files.all().len());
        let flushed: Vec<_> = numbers.map(flush).buffer_unordered(FLUSHES_AT_ONCE).collect().await;
        flushed.into_iter().collect::<Result<(), _>>()?;
        let (view, of, moved) = (Arc::clone(&self.serving.view), Arc::clone(files), Arc::clone(moving));
        let retire = move || {
            of.all().iter().try_for_each(|file| file.review_filter())?;
            view.retire_folded(&moved, of.snapshots()?);
            Ok(of.bytes())
        };
        let file_bytes = self.serving.block(retire).await?;
        self.serving.counts.file_bytes.store(file_bytes, Relaxed);
        let live = files.live_values();
        // First, so that it takes nothing that the trim keeps for garbage.
        self.collector.flushed(moving.last, live.clone());
        self.trim(first_needed, live).await?;
        self.collect.notify_one();
        Ok(())
    }

    /// Lets segments be written over that neither an opening nor a row needs any more.
    async fn trim(&self, first_needed: u64, live: LiveValues) -> Result<(), StoreError> {
        let (segments, disk) = (Arc::clone(&self.segments), self.serving.env.disk());
        let forgets = self.serving.config.log.breaks(Mutant::ForgottenValues);
        let live = if forgets { LiveValues::new() } else { live };
        let free_max = if self.serving.space.is_full() { FREE_MAX_WHEN_FULL } else { FREE_MAX };
        let trim = move || {
            let too_many = {
                let mut segments = segments.lock().unwrap_or_else(PoisonError::into_inner);
                segments.trim(first_needed, &live, free_max)
            };
            too_many
                .and_then(|paths| paths.iter().try_for_each(|path| remove(&*disk, path)))
                .map_err(io_error)
        };
        self.serving.block(trim).await
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
    pub(super) async fn pause(&self, slice: Duration) {
        let (used, max) = (self.serving.view.memtable_bytes(), self.serving.config.backlog_bytes_max);
        let slow_at = max / 5 * 4;
        if self.serving.view.taking() != Taking::Yes || used >= slow_at {
            return;
        }
        let percent = u32::try_from((slow_at - used) * 200 / slow_at.max(1)).unwrap_or(0);
        let pause = u64::try_from((slice * percent / 100).as_micros()).unwrap_or(u64::MAX);
        let owed = Duration::from_micros(self.pause_owed_us.fetch_add(pause, Relaxed).saturating_add(pause));
        if owed >= PAUSE_MIN {
            self.pause_owed_us.store(0, Relaxed);
            self.serving.env.sleep(owed.min(PAUSE_MAX)).await;
        }
    }

    pub(super) fn log_bytes(&self) -> u64 {
        self.segments().live_bytes()
    }

    pub(super) fn log_bytes_max(&self) -> u64 {
        // Below a few segments the bound could never be met: the newest one is always needed.
        self.serving.config.log.log_bytes_max.max(self.serving.config.log.segment_bytes * 4)
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
