//! Virtual time: a clock that stands still while anything is ready, and then jumps to the next thing that is due.
//!
//! Whatever is due later stands in one timeline, ordered by time and then by when it was put there. Times count
//! nanoseconds from one real instant, taken once: `Instant` can't be made of nothing.

use super::{lock, net::Packet};
use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// Nanoseconds since the simulation began.
pub(super) type Nanos = u64;

/// A place in the timeline: the time, and a number that makes it unique.
type Slot = (Nanos, u64);

/// What happens when its time comes.
pub(super) enum Due {
    Wake(Waker),
    Deliver(Packet),
}

/// The clock of a simulation and all that is due on it.
pub(super) struct Clock {
    base: Instant,
    now: AtomicU64,
    timeline: Mutex<Timeline>,
}

#[derive(Default)]
struct Timeline {
    due: BTreeMap<Slot, Due>,
    count: u64,
}

impl Clock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one real instant of a simulation, which all others count from"
    )]
    pub(super) fn new() -> Self {
        Self { base: Instant::now(), now: AtomicU64::new(0), timeline: Mutex::default() }
    }

    pub(super) fn nanos(&self) -> Nanos {
        self.now.load(Ordering::Relaxed)
    }

    pub(super) fn now(&self) -> Instant {
        self.base + Duration::from_nanos(self.nanos())
    }

    /// When an instant is, in virtual time. Instants before the beginning are the beginning.
    pub(super) fn nanos_of(&self, at: Instant) -> Nanos {
        nanos(at.saturating_duration_since(self.base))
    }

    /// Puts something into the timeline.
    pub(super) fn schedule(&self, at: Nanos, due: Due) -> Slot {
        let mut timeline = lock(&self.timeline);
        timeline.count += 1;
        let slot = (at.max(self.nanos()), timeline.count);
        timeline.due.insert(slot, due);
        slot
    }

    fn unschedule(&self, slot: Slot) -> Option<Due> {
        lock(&self.timeline).due.remove(&slot)
    }

    /// When the next thing is due.
    pub(super) fn next(&self) -> Option<Nanos> {
        lock(&self.timeline).due.first_key_value().map(|(slot, _)| slot.0)
    }

    /// Jumps to `at`, and takes all that is due then.
    pub(super) fn advance(&self, at: Nanos, out: &mut Vec<Due>) {
        self.now.store(at, Ordering::Relaxed);
        let mut timeline = lock(&self.timeline);
        while let Some(entry) = timeline.due.first_entry()
            && entry.key().0 <= at
        {
            out.push(entry.remove());
        }
    }

    /// Forgets all that is due. The caller drops it, outside of the lock: wakers may run code of others.
    pub(super) fn clear(&self) -> Vec<Due> {
        std::mem::take(&mut lock(&self.timeline).due).into_values().collect()
    }
}

/// A duration in nanoseconds; 584 years is for ever.
pub(super) fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX)
}

/// Ready at a time.
pub(super) struct Sleep {
    clock: Arc<Clock>,
    at: Nanos,
    slot: Option<Slot>,
}

impl Sleep {
    pub(super) fn until(clock: Arc<Clock>, at: Nanos) -> Self {
        Self { clock, at, slot: None }
    }

    /// Moves it to another time.
    pub(super) fn reset(&mut self, at: Instant) {
        self.cancel();
        self.at = self.clock.nanos_of(at);
    }

    fn cancel(&mut self) {
        if let Some(slot) = self.slot.take() {
            drop(self.clock.unschedule(slot));
        }
    }

    /// Waits with this waker; the one it replaces is dropped outside of the lock.
    fn wait(&mut self, waker: &Waker) {
        if let Some(slot) = self.slot {
            let mut timeline = lock(&self.clock.timeline);
            if let Some(Due::Wake(known)) = timeline.due.get_mut(&slot) {
                let replaced = (!known.will_wake(waker)).then(|| std::mem::replace(known, waker.clone()));
                drop(timeline);
                drop(replaced);
                return;
            }
        }
        self.slot = Some(self.clock.schedule(self.at, Due::Wake(waker.clone())));
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.clock.nanos() >= self.at {
            self.cancel();
            return Poll::Ready(());
        }
        self.wait(cx.waker());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Sleep").field("at", &self.at).finish_non_exhaustive()
    }
}
