//! Whether a store takes client writes: its backlog, and the room left on its disk.

use super::{Admission, StoreConfig};
use crate::env::{Disk, Env, TaskHandle};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

/// Watches the room on the disk until dropped.
pub(super) struct Space {
    full: Arc<AtomicBool>,
    task: TaskHandle,
}

impl Space {
    /// Looks once before it returns, and then every `disk_check_every`.
    pub(super) async fn watch(env: &Env, path: &Path, config: &StoreConfig) -> Self {
        let full = Arc::new(AtomicBool::new(false));
        let directory = path.parent().unwrap_or(Path::new(".")).to_owned();
        let look =
            Look { env: env.clone(), directory, reserve: config.disk_reserve_bytes, full: full.clone() };
        look.once().await;
        let every = config.disk_check_every;
        let task = env.spawn("store-space", async move {
            loop {
                look.env.sleep(every).await;
                look.once().await;
            }
        });
        Self { full, task }
    }

    /// Slow from four fifths of the bound on.
    pub(super) fn admission(&self, backlog_bytes: u64, backlog_bytes_max: u64) -> Admission {
        if self.full.load(Relaxed) {
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
        out.debug_struct("Space").field("full", &self.full).finish_non_exhaustive()
    }
}

struct Look {
    env: Env,
    directory: PathBuf,
    reserve: u64,
    full: Arc<AtomicBool>,
}

impl Look {
    async fn once(&self) {
        let (disk, directory): (Arc<dyn Disk>, _) = (self.env.disk(), self.directory.clone());
        match self.env.block(move || disk.free_bytes(&directory)).await {
            Ok(Ok(free)) => {
                let full = free < self.reserve;
                if full != self.full.swap(full, Relaxed) {
                    let reserve = self.reserve;
                    tracing::warn!(
                        full,
                        free,
                        reserve,
                        "the room on the store's disk has crossed the reserve"
                    );
                }
            }
            // The disk shows its state in the next commit; a failed look changes nothing.
            Ok(Err(error)) => tracing::warn!(%error, "can't tell how much room the store's disk has"),
            Err(_) => {}
        }
    }
}
