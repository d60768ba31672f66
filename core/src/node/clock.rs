//! This node's hybrid logical clock: the calendar, but later than everything that was given or seen before
//! (\[HLC\], PROTOCOLS §6).

use rondel_proto::id::Hlc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The counter's bits below the milliseconds.
const COUNTER_BITS: u32 = 16;

#[derive(Debug)]
pub(crate) struct NodeClock(AtomicU64);

impl NodeClock {
    /// A clock that gives nothing up to `floor`, which the process before this one may have given.
    pub(crate) fn new(floor: Hlc) -> Self {
        Self(AtomicU64::new(floor.0))
    }

    /// A time later than `seen`, than everything given before, and not earlier than the calendar.
    pub(crate) fn next(&self, unix_ms: u64, seen: Hlc) -> Hlc {
        let calendar = unix_ms << COUNTER_BITS;
        let after = |last: u64| last.max(seen.0).saturating_add(1).max(calendar);
        let step = |last| Some(after(last));
        // Both closures are total, so the update always succeeds.
        let last =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).unwrap_or_else(|last| last);
        Hlc(after(last))
    }

    /// The latest time given.
    pub(crate) fn last(&self) -> Hlc {
        Hlc(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_grow_whatever_the_calendar_does() {
        let clock = NodeClock::new(Hlc(5 << 16));
        let first = clock.next(3, Hlc(0));
        assert_eq!(first, Hlc((5 << 16) + 1), "not below what the process before may have given");
        let ahead = clock.next(9, Hlc(0));
        assert_eq!(ahead, Hlc(9 << 16));
        let back = clock.next(2, Hlc(0));
        assert_eq!(back, Hlc((9 << 16) + 1));
        let beyond = clock.next(2, Hlc(20 << 16));
        assert_eq!(beyond, Hlc((20 << 16) + 1));
        assert_eq!(clock.last(), beyond);
    }
}
