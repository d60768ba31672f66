//! Whether a store takes client writes: its backlog, and the room left on its disk.

use super::{Admission, StoreConfig, Write, memtable::Change, view::View};
use crate::env::{Disk, Env, TaskHandle};
use bytes::Bytes;
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::Notify;

/// After so many bytes of writes the last look at the disk is too old. A quick disk fills a small reserve in less than
/// a second.
const LOOK_AFTER_BYTES: u64 = 8 << 20;

/// Watches the room on the disk until dropped.
pub(super) struct Space {
    room: Arc<Room>,
    task: TaskHandle,
}

/// What the last look at the disk allows.
struct Room {
    /// Bytes of writes that were taken since the store was opened.
    taken: AtomicU64,
    /// So many may be taken before the reserve is touched.
    full_at: AtomicU64,
    /// From so many on it is to be looked at again.
    look_at: AtomicU64,
    look: Notify,
}

impl Space {
    /// Looks once before it returns, and then every `disk_check_every`, or sooner where much is written.
    pub(super) async fn watch(env: &Env, path: &Path, config: &StoreConfig, view: &Arc<View>) -> Self {
        // A disk that can't be looked at is not taken for a full one.
        let (taken, open) = (AtomicU64::new(0), || AtomicU64::new(u64::MAX));
        let room = Arc::new(Room { taken, full_at: open(), look_at: open(), look: Notify::new() });
        let directory = path.parent().unwrap_or(Path::new(".")).to_owned();
        let look = Look {
            env: env.clone(),
            directory,
            reserve: config.disk_reserve_bytes,
            view: Arc::clone(view),
            room: Arc::clone(&room),
        };
        let mut full = look.once(false).await;
        let every = config.disk_check_every;
        let task = env.spawn("store-space", async move {
            loop {
                let _ = look.env.timeout(every, look.room.look.notified()).await;
                full = look.once(full).await;
            }
        });
        Self { room, task }
    }

    /// Writes have been taken.
    pub(super) fn took(&self, bytes: u64) {
        let taken = self.room.taken.fetch_add(bytes, Relaxed) + bytes;
        if taken >= self.room.look_at.load(Relaxed) {
            self.room.look.notify_one();
        }
    }

    /// Bytes of writes that were taken since the store was opened.
    pub(super) fn taken_bytes(&self) -> u64 {
        self.room.taken.load(Relaxed)
    }

    /// Whether no more client writes fit.
    pub(super) fn is_full(&self) -> bool {
        self.room.taken.load(Relaxed) >= self.room.full_at.load(Relaxed)
    }

    /// Slow from four fifths of the bound on.
    pub(super) fn admission(&self, backlog_bytes: u64, backlog_bytes_max: u64) -> Admission {
        if self.is_full() {
            Admission::DiskFull
        } else if backlog_bytes >= backlog_bytes_max {
            Admission::Full
        } else if backlog_bytes >= backlog_bytes_max / 5 * 4 {
            Admission::Slow
        } else {
            Admission::Open
        }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Space {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Space").field("full_at", &self.room.full_at).finish_non_exhaustive()
    }
}

/// The bytes of a batch of writes.
pub(super) fn bytes_of(batch: &[Write]) -> u64 {
    batch.iter().map(|write| (write.at.key.len() + write.value.as_ref().map_or(0, Bytes::len)) as u64).sum()
}

/// The same, of rows whose keys are encoded.
pub(super) fn bytes_of_rows(rows: &[Change]) -> u64 {
    rows.iter().map(|(key, value)| (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64).sum()
}

struct Look {
    env: Env,
    directory: PathBuf,
    reserve: u64,
    view: Arc<View>,
    room: Arc<Room>,
}

impl Look {
    /// Whether the disk is full, which it was before or not.
    async fn once(&self, was_full: bool) -> bool {
        let (disk, directory): (Arc<dyn Disk>, _) = (self.env.disk(), self.directory.clone());
        // What is taken meanwhile counts twice rather than never.
        let taken = self.room.taken.load(Relaxed);
        match self.env.block(move || disk.free_bytes(&directory)).await {
            Ok(Ok(free)) => self.allow(taken, free, was_full),
            // The disk shows its state in the next commit; a failed look changes nothing.
            Ok(Err(error)) => {
                tracing::warn!(%error, "can't tell how much room the store's disk has");
                was_full
            }
            Err(_) => was_full,
        }
    }

    fn allow(&self, taken: u64, free: u64, was_full: bool) -> bool {
        // What is in memory has yet to go into the tables; what comes goes into the log, and then there too.
        let left = free.saturating_sub(self.reserve).saturating_sub(self.view.memtable_bytes());
        let full = left == 0;
        self.room.full_at.store(if full { 0 } else { taken + left / 2 }, Relaxed);
        self.room.look_at.store(taken + LOOK_AFTER_BYTES.min(left / 4 + 1), Relaxed);
        if full != was_full {
            tracing::warn!(full, free, self.reserve, "the room on the store's disk has crossed the reserve");
        }
        full
    }
}
