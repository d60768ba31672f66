//! The collector: clears segments away that are kept though few rows have their values in them still.
//!
//! It writes those rows anew as they are, like anybody who writes, but only where nobody has changed the row since it was
//! looked at. A segment is free when the flush has moved the new places into the tables, which then count no value in it
//! any more: the count alone decides, and is in the same transaction as the rows.
//!
//! The segment with the least left is taken first, which costs least for what it gives. [LFS §3.5] It waits until garbage
//! is much, and for the flush that comes anyhow; on a full disk for neither.

use super::{Log, Taking};
use crate::store::{
    Lsn, StoreError,
    log::{mutant::Mutant, segment::LiveValues, values::Content},
    space::bytes_of_rows,
};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

/// Rows looked up, and written anew, at a time: a bound on how long that holds the view's lock.
const ROWS_AT_ONCE: usize = 64;
/// Rows looked up between two pauses.
const ROWS_LOOKED_UP: usize = 512;
/// Bytes of rows that may be in the log's queue whatever others write.
const QUEUED_BYTES_MIN: u64 = 64 << 10;
/// How often rows of a segment are looked up again that somebody may have changed just then.
const PASSES_MAX: usize = 8;
/// How long it waits while memory is full.
const FULL_PAUSE: Duration = Duration::from_millis(2);
/// How often a segment is tried in which rows are left: they can't be read, or change all the time.
const TRIES_MAX: u32 = 3;

/// What the collector goes by.
pub(super) struct Collector(Mutex<State>);

struct State {
    /// As of the last flush, which has moved all batches up to this one.
    live: LiveValues,
    flushed: Lsn,
    /// Segments whose rows have been written anew: by batches up to which one, and how often.
    collected: BTreeMap<u64, (Lsn, u32)>,
}

/// What there is to do.
#[derive(Default)]
struct Outlook {
    victim: Option<Victim>,
    /// Bytes of segments that have been collected, and that the next flush frees.
    waiting_bytes: u64,
}

/// A segment to collect.
struct Victim {
    number: u64,
    path: PathBuf,
    live_bytes: u64,
    bytes: u64,
}

impl Victim {
    fn has_less_left(&self, other: &Self) -> bool {
        let share = |one: &Self, other: &Self| u128::from(one.live_bytes) * u128::from(other.bytes);
        share(self, other) < share(other, self)
    }
}

impl Collector {
    pub(super) fn new(live: LiveValues) -> Self {
        Self(Mutex::new(State { live, flushed: Lsn(0), collected: BTreeMap::new() }))
    }

    /// The tables have all batches up to `last`, and these values.
    pub(super) fn flushed(&self, last: Lsn, live: LiveValues) {
        let mut state = self.lock();
        state.collected.retain(|segment, _| live.contains_key(segment));
        (state.live, state.flushed) = (live, last);
    }

    /// Bytes of values that rows have in the log, as of the last flush.
    pub(super) fn live_bytes(&self) -> u64 {
        self.lock().live.values().sum()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Collects as long as there is a segment that is worth it.
    pub(super) async fn collect(self: Arc<Self>) {
        while self.serving.view.taking() == Taking::Yes {
            let is_full = self.serving.space.is_full();
            let Outlook { victim, waiting_bytes } = self.outlook(is_full);
            // On a full disk one after the other: what is written anew takes room before it gives any.
            let Some(victim) = victim.filter(|_| !is_full || waiting_bytes == 0) else {
                let worth = if is_full { 1 } else { self.serving.config.log.garbage_bytes_min };
                if waiting_bytes >= worth {
                    self.flush_asked.store(true, Relaxed);
                    self.flush.notify_one();
                }
                // The disk may be full by then, without anything having been flushed.
                let every = self.serving.config.disk_check_every;
                let _ = self.serving.env.timeout(every, self.collect.notified()).await;
                continue;
            };
            let (number, collecting) = (victim.number, self.collecting.lock().await);
            let collected = self.collect_segment(victim).await;
            drop(collecting);
            match collected {
                Ok(()) => {
                    self.serving.counts.collected_segments.fetch_add(1, Relaxed);
                }
                // A file of rows, which is replaced; the segment's turn comes again.
                Err(error @ StoreError::Damaged(_)) => self.serving.report(&error, false),
                Err(error @ StoreError::Io(_)) => return self.serving.fail(error),
                // It is closed, or has stopped.
                Err(_) => return,
            }
            let last = self.serving.view.last();
            let mut state = self.collector.lock();
            // What an earlier opening has left may yet be flushed before anything is written.
            let last = last.max(Lsn(state.flushed.0 + 1));
            let (collected, tries) = state.collected.entry(number).or_default();
            (*collected, *tries) = (last, *tries + 1);
        }
    }

    /// The segment with the least left, if there is too much garbage, or on a full disk if it is mostly garbage.
    fn outlook(&self, is_full: bool) -> Outlook {
        let state = self.collector.lock();
        let segments = self.segments();
        let (mut live_bytes, mut garbage_bytes, mut waiting_bytes) = (0, 0, 0);
        let mut best = None::<Victim>;
        for (number, kept) in segments.kept() {
            // Of one without any there is nothing to collect.
            let Some(&live) = state.live.get(number) else { continue };
            live_bytes += live;
            match state.collected.get(number) {
                Some((last, _)) if *last > state.flushed => {
                    waiting_bytes += kept.bytes;
                    continue;
                }
                Some((_, tries)) if *tries >= TRIES_MAX => continue,
                _ => {}
            }
            let (path, bytes) = (kept.path.clone(), kept.bytes.max(1));
            garbage_bytes += bytes.saturating_sub(live);
            let victim = Victim { number: *number, path, live_bytes: live, bytes };
            if best.as_ref().is_none_or(|best| victim.has_less_left(best)) {
                best = Some(victim);
            }
        }
        let is_much = garbage_bytes > live_bytes.max(self.serving.config.log.garbage_bytes_min);
        let is_worth = |victim: &Victim| is_much || is_full && victim.live_bytes <= victim.bytes / 2;
        Outlook { victim: best.filter(is_worth), waiting_bytes }
    }

    async fn collect_segment(self: &Arc<Self>, victim: Victim) -> Result<(), StoreError> {
        let (disk, config) = (self.serving.env.disk(), self.serving.config.log.clone());
        let read = move || Content::read(&*disk, &victim.path, victim.number, &config);
        let content = self.serving.block(read).await?;
        let content = Arc::new(content);
        let mut left: Vec<usize> = (0..content.len()).collect();
        let mut room = self.room_in_queue();
        for _ in 0..PASSES_MAX {
            if left.is_empty() {
                break;
            }
            let mut changing = Vec::new();
            for some in left.chunks(ROWS_LOOKED_UP) {
                self.until_room().await?;
                let began = self.serving.env.now();
                let (log, of, some) = (Arc::clone(self), Arc::clone(&content), some.to_vec());
                let look = move || log.still_there(&of, &some);
                for (there, since) in self.serving.block(look).await? {
                    let mut there = &there[..];
                    while !there.is_empty() {
                        let (some, rest) = content.split_at_bytes(there, room);
                        changing.extend(self.rewrite(&content, some, since)?);
                        (there, room) = (rest, room.saturating_sub(content.bytes_of(some)));
                        if room == 0 {
                            self.hurry();
                            self.until_durable(self.serving.view.last()).await?;
                            room = self.room_in_queue();
                        }
                    }
                }
                self.pause(self.serving.env.now() - began).await;
            }
            left = changing;
        }
        Ok(())
    }

    /// Bytes of rows that may go to the log at a time: as many as others have had in the last group, which keeps up with the
    /// garbage that they make, and no more, for whose batches would wait longer by it.
    fn room_in_queue(&self) -> u64 {
        (self.group_bytes.load(Relaxed) / 2).max(QUEUED_BYTES_MIN)
    }

    /// Those of some rows of a segment that still have their values there, in groups of one moment each. Blocks.
    fn still_there(&self, content: &Content, some: &[usize]) -> Result<Vec<(Vec<usize>, Lsn)>, StoreError> {
        let look = |some: &[usize]| {
            let rows: Vec<_> = some.iter().map(|index| content.place(*index)).collect();
            let (there, since) = self.serving.view.still_there(&rows)?;
            Ok((there.into_iter().map(|index| some[index]).collect(), since))
        };
        some.chunks(ROWS_AT_ONCE).map(look).collect()
    }

    /// Writes rows of a segment anew; gives those that somebody may have changed since.
    fn rewrite(&self, content: &Content, there: &[usize], since: Lsn) -> Result<Vec<usize>, StoreError> {
        let rows: Vec<_> = there.iter().map(|index| content.copy(*index)).collect();
        let blind = self.serving.config.log.breaks(Mutant::BlindCollector);
        let since = if blind { Lsn(u64::MAX) } else { since };
        self.serving.space.took(bytes_of_rows(&rows));
        let (now, mut look) = (self.serving.env.now(), false);
        let changing = self.serving.view.apply_unchanged(rows, since, |lsn, queued, changes| {
            look = self.queue().push_lazily(self.batch(lsn, queued, changes), now);
        })?;
        if look {
            self.write.notify_one();
        }
        if self.is_fold_due() {
            self.fold.notify_one();
        }
        let is_changing = |index: &usize| changing.iter().any(|(key, _)| *key == content.place(*index).0);
        Ok(there.iter().copied().filter(is_changing).collect())
    }

    /// Waits while memory is full.
    async fn until_room(&self) -> Result<(), StoreError> {
        while self.serving.view.memtable_bytes() >= self.serving.config.backlog_bytes_max {
            if self.serving.view.taking() != Taking::Yes {
                return Err(StoreError::Closed);
            }
            self.serving.env.sleep(FULL_PAUSE).await;
        }
        Ok(())
    }
}
