//! The bounded pool of readers: whatever waits for the disk to read goes through it.
//!
//! No reader is idle: one is started while fewer than the bound run, takes what waits, and ends when nothing does.

use super::{StoreError, view::View};
use crate::env::Env;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, oneshot};

/// Jobs that one reader takes at once: fewer wake-ups under load, while no job waits for many others.
const JOBS_PER_TURN: usize = 8;

type Job = Box<dyn FnOnce(&View) + Send>;

/// Runs reads of one store.
pub(super) struct Readers {
    env: Env,
    view: Arc<View>,
    readers_max: usize,
    queue: Mutex<Queue>,
    /// Notified when the last reader ends.
    idle: Notify,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    readers: usize,
    closed: bool,
}

impl Readers {
    pub(super) fn new(env: Env, view: Arc<View>, readers_max: usize) -> Arc<Self> {
        let readers_max = readers_max.max(1);
        Arc::new(Self { env, view, readers_max, queue: Mutex::default(), idle: Notify::new() })
    }

    /// Runs `read` on one of the readers, in the order of the calls.
    pub(super) async fn run<T: Send + 'static>(
        self: Arc<Self>,
        read: impl FnOnce(&View) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |view| {
            if !sender.is_closed() {
                let _ = sender.send(read(view));
            }
        });
        self.submit(job)?;
        receiver.await.unwrap_or(Err(StoreError::Stopped))
    }

    fn submit(self: &Arc<Self>, job: Job) -> Result<(), StoreError> {
        let mut queue = self.lock();
        if queue.closed {
            return Err(StoreError::Closed);
        }
        queue.jobs.push_back(job);
        if queue.readers < self.readers_max {
            queue.readers += 1;
            drop(queue);
            self.env.spawn("store-reader", Arc::clone(self).serve());
        }
        Ok(())
    }

    async fn serve(self: Arc<Self>) {
        while let Some(jobs) = self.turn() {
            let view = Arc::clone(&self.view);
            // Lost work drops its jobs, and their callers hear of it.
            let _ = self.env.block(move || jobs.into_iter().for_each(|job| job(&view))).await;
        }
    }

    /// The next jobs; with none, the reader is counted out.
    fn turn(&self) -> Option<Vec<Job>> {
        let mut queue = self.lock();
        if queue.jobs.is_empty() {
            queue.readers -= 1;
            if queue.readers == 0 {
                self.idle.notify_waiters();
            }
            return None;
        }
        // Spread over the readers: a caller should not wait behind seven others while a reader could be started.
        let take = queue.jobs.len().div_ceil(self.readers_max).min(JOBS_PER_TURN);
        Some(queue.jobs.drain(..take).collect())
    }

    /// Takes no more jobs and waits for those taken.
    pub(super) async fn close(&self) {
        self.lock().closed = true;
        loop {
            let idle = self.idle.notified();
            if self.lock().readers == 0 {
                return;
            }
            idle.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
