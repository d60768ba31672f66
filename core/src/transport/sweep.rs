//! Deadlines: one task for all requests in flight, asleep until the earliest of them is due.
//!
//! A sweep looks at every request in flight, which is cheap because they are few; what makes it rare is that a
//! request's deadline is usually later than the earliest one known, and then nobody is woken.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

use crate::env::Env;

/// Deadlines closer together than this are met by one sweep.
const SWEEP_INTERVAL: Duration = Duration::from_millis(5);
const NEVER: u64 = u64::MAX;

/// The earliest deadline.
pub(super) struct Sweep {
    origin: Instant,
    next_us: AtomicU64,
    bell: Notify,
}

impl Sweep {
    pub(super) fn new(env: &Env) -> Self {
        Self { origin: env.now(), next_us: AtomicU64::new(NEVER), bell: Notify::new() }
    }

    /// Makes sure of a sweep soon after `deadline`. Call it when the request can be found by a sweep.
    pub(super) fn note(&self, deadline: Instant) {
        let at = self.micros(deadline);
        if self.next_us.load(Ordering::SeqCst) > at && self.next_us.fetch_min(at, Ordering::SeqCst) > at {
            self.bell.notify_one();
        }
    }

    /// Sweeps for ever. `expire` answers what is due at an instant and says when the next deadline is.
    pub(super) async fn run(&self, env: &Env, expire: impl Fn(Instant) -> Option<Instant>) {
        let mut earliest = self.origin;
        loop {
            let next = self.next_us.load(Ordering::SeqCst);
            if next == NEVER {
                self.bell.notified().await;
                continue;
            }
            let due = earliest.max(self.origin + Duration::from_micros(next));
            if env.now() < due {
                // An earlier deadline rings the bell; either way, look again.
                let _ = env.timeout_at(due, self.bell.notified()).await;
                continue;
            }
            // Forget first, then look: a request noted in between is either seen or rings.
            self.next_us.store(NEVER, Ordering::SeqCst);
            let now = env.now();
            if let Some(next) = expire(now) {
                self.next_us.fetch_min(self.micros(next), Ordering::SeqCst);
            }
            earliest = now + SWEEP_INTERVAL;
        }
    }

    /// Rounded up: a sweep is never too early.
    fn micros(&self, at: Instant) -> u64 {
        let micros = at.saturating_duration_since(self.origin).as_micros() + 1;
        u64::try_from(micros).unwrap_or(NEVER - 1)
    }
}
