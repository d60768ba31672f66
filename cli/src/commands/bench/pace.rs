//! When the next request of a benchmark is due.
//!
//! Closed loop: now, until the end. Open loop: at fixed times, in order, whoever is free; a request that nobody was
//! free for keeps the time it was due at. The times come from a thread that sleeps to about 50 microseconds, since
//! the runtime's timers round to a millisecond, which is more than the latencies to be measured.

use crate::rt;
use std::{
    cell::Cell,
    io,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// Requests that are due within this are released together.
const TICK: Duration = Duration::from_micros(100);

/// The times at which requests are due.
#[derive(Debug)]
pub(super) struct Pace {
    measure_from: Instant,
    measure_from_unix_ms: u64,
    end: Instant,
    open: Option<OpenLoop>,
}

#[derive(Debug)]
struct OpenLoop {
    timetable: Timetable,
    /// One permit for each request that is due and not taken.
    due: Arc<Semaphore>,
    taken: Cell<u64>,
}

/// Equal distances from `start` on.
#[derive(Debug, Clone, Copy)]
struct Timetable {
    start: Instant,
    rate: f64,
    count: u64,
}

impl Pace {
    /// Starts: the first request is due now.
    ///
    /// # Errors
    /// The operating system has no more threads.
    pub(super) fn start(rate: Option<f64>, warmup_seconds: u64, seconds: u64) -> io::Result<Self> {
        let start = rt::now();
        let measure_from = start + Duration::from_secs(warmup_seconds);
        let measure_from_unix_ms = rt::unix_ms() + 1000 * warmup_seconds;
        let end = measure_from + Duration::from_secs(seconds);
        let open =
            rate.map(|rate| OpenLoop::start(Timetable::new(start, rate, warmup_seconds + seconds), end));
        Ok(Self { measure_from, measure_from_unix_ms, end, open: open.transpose()? })
    }

    /// When that is due which is counted first: milliseconds since 1970.
    pub(super) fn measure_from_unix_ms(&self) -> u64 {
        self.measure_from_unix_ms
    }

    /// When the next request is due: now or in the past. `None` when none will be.
    pub(super) async fn next(&self) -> Option<Instant> {
        match &self.open {
            Some(open) => open.next().await,
            None => Some(rt::now()).filter(|&now| now < self.end),
        }
    }

    /// Whether a request that was due then is counted.
    pub(super) fn is_measured(&self, due: Instant) -> bool {
        due >= self.measure_from
    }

    /// How many requests were due and never begun.
    pub(super) fn not_started(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.timetable.count - open.taken.get())
    }
}

impl OpenLoop {
    fn start(timetable: Timetable, end: Instant) -> io::Result<Self> {
        let due = Arc::new(Semaphore::new(0));
        let released = Arc::downgrade(&due);
        rt::thread("pace", move || release(timetable, end, &released))?;
        Ok(Self { timetable, due, taken: Cell::new(0) })
    }

    async fn next(&self) -> Option<Instant> {
        self.due.acquire().await.ok()?.forget();
        let number = self.taken.replace(self.taken.get() + 1);
        Some(self.timetable.time_of(number))
    }
}

/// Releases requests when they are due, until the end or until nobody waits for them any more.
fn release(timetable: Timetable, end: Instant, due: &Weak<Semaphore>) {
    let mut released = 0;
    while released < timetable.count {
        rt::block_until(timetable.time_of(released).max(rt::now() + TICK));
        let Some(permits) = due.upgrade() else { return };
        let by_now = timetable.due_by(rt::now());
        permits.add_permits(usize::try_from(by_now - released).unwrap_or(usize::MAX));
        released = by_now;
    }
    rt::block_until(end);
    if let Some(permits) = due.upgrade() {
        permits.close();
    }
}

impl Timetable {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the rate is positive and bounded by the arguments"
    )]
    fn new(start: Instant, rate: f64, seconds: u64) -> Self {
        Self { start, rate, count: (rate * seconds as f64) as u64 }
    }

    fn time_of(&self, number: u64) -> Instant {
        self.start + Duration::from_secs_f64(number as f64 / self.rate)
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the rate is positive and bounded by the arguments"
    )]
    fn due_by(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.start).as_secs_f64();
        ((elapsed * self.rate) as u64 + 1).min(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_equal_distances() {
        let start = rt::now();
        let timetable = Timetable::new(start, 1000.0, 2);
        assert_eq!(timetable.count, 2000);
        assert_eq!(timetable.time_of(1500), start + Duration::from_millis(1500));
        assert_eq!(timetable.due_by(start), 1);
        assert_eq!(timetable.due_by(start + Duration::from_micros(999_500)), 1000);
        assert_eq!(timetable.due_by(start + Duration::from_secs(60)), 2000, "no more than there are");
    }

    #[test]
    fn a_request_that_nobody_was_free_for_keeps_its_time() {
        let start = rt::now();
        let timetable = Timetable::new(start, 1000.0, 1);
        let open = OpenLoop { timetable, due: Arc::new(Semaphore::new(3)), taken: Cell::new(0) };
        let pace = Pace {
            measure_from: start + Duration::from_millis(1),
            measure_from_unix_ms: 0,
            end: start,
            open: Some(open),
        };
        rt::single_threaded().unwrap().block_on(async {
            assert_eq!(pace.next().await, Some(start));
            assert_eq!(pace.next().await, Some(start + Duration::from_millis(1)));
            pace.open.as_ref().unwrap().due.close();
            assert_eq!(pace.next().await, None, "what was not begun by the end is not begun");
        });
        assert_eq!(pace.not_started(), 998);
        assert!(!pace.is_measured(start) && pace.is_measured(start + Duration::from_millis(1)));
    }

    #[test]
    fn every_request_is_released_and_then_the_end() {
        let start = rt::now();
        let timetable = Timetable { start, rate: 1_000_000.0, count: 5000 };
        let due = Arc::new(Semaphore::new(0));
        release(timetable, start, &Arc::downgrade(&due));
        assert_eq!(due.available_permits(), 5000);
        assert!(due.is_closed());
    }
}
