//! This node's hybrid logical clock: the calendar, but later than everything that was given or seen before
//! (\[HLC\], PROTOCOLS §6).

use crate::causal::later_than;
use rondel_proto::id::Hlc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub(crate) struct NodeClock(AtomicU64);

impl NodeClock {
    /// A clock that gives nothing up to `floor`, which the process before this one may have given.
    pub(crate) fn new(floor: Hlc) -> Self {
        Self(AtomicU64::new(floor.0))
    }

    /// A time later than `seen`, than everything given before, and not earlier than the calendar.
    pub(crate) fn next(&self, unix_ms: u64, seen: Hlc) -> Hlc {
        let after = |last: u64| later_than(Hlc(last), unix_ms, [seen]);
        // The closure is total, so the update always succeeds.
        let step = |last| Some(after(last).0);
        let last =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).unwrap_or_else(|last| last);
        after(last)
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
    }
}
