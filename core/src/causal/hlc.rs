//! Hybrid logical clocks: times that follow the calendar and never contradict causality (\[HLC\], PROTOCOLS §6).
//!
//! The upper 48 bits are milliseconds since 1970, the lower 16 a counter that runs over into them. A node gives no
//! time twice, also over restarts: it gives none above a [`Horizon`] that is durable, and begins above the last one.

use rondel_proto::id::Hlc;

/// The counter's bits below the milliseconds.
const COUNTER_BITS: u32 = 16;

/// The first time that is later than `last` and all of `seen`, and not before the calendar.
///
/// Times end in the year 10889; of the last one there is none later, and it is given again.
#[must_use]
pub fn later_than(last: Hlc, now_ms: u64, seen: impl IntoIterator<Item = Hlc>) -> Hlc {
    let latest = seen.into_iter().fold(last, Hlc::max);
    Hlc(latest.0.saturating_add(1).max(calendar(now_ms).0))
}

fn calendar(now_ms: u64) -> Hlc {
    Hlc(now_ms.min(u64::MAX >> COUNTER_BITS) << COUNTER_BITS)
}

/// The bound below which a node gives times: each is durable before a time below it leaves the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    durable: Hlc,
}

impl Horizon {
    /// How far ahead of the calendar it is set, in milliseconds: at a restart the clock may lead by this much.
    pub const LEAD_MS: u64 = 2_000;

    /// The horizon that was read at start: times go on above it.
    #[must_use]
    pub fn resume(durable: Hlc) -> Self {
        Self { durable }
    }

    /// The last horizon that is known to be durable; a clock that begins anew begins after it.
    #[must_use]
    pub fn durable(&self) -> Hlc {
        self.durable
    }

    /// Whether a time may leave the node.
    #[must_use]
    pub fn allows(&self, time: Hlc) -> bool {
        time <= self.durable
    }

    /// The horizon to make durable next, if less than half of the lead is left over `last`, the last time given.
    #[must_use]
    pub fn due(&self, last: Hlc, now_ms: u64) -> Option<Hlc> {
        let ahead = |lead_ms| Hlc(last.max(calendar(now_ms)).0.saturating_add(lead_ms << COUNTER_BITS));
        (self.durable < ahead(Self::LEAD_MS / 2))
            .then(|| ahead(Self::LEAD_MS))
            .filter(|next| *next > self.durable)
    }

    /// A horizon has become durable.
    pub fn made_durable(&mut self, horizon: Hlc) {
        self.durable = self.durable.max(horizon);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_counter_runs_while_the_calendar_stands() {
        let first = later_than(Hlc(0), 1_000, []);
        assert_eq!(first, Hlc(1_000 << 16));
        assert_eq!(later_than(first, 1_000, []), Hlc((1_000 << 16) + 1));
        assert_eq!(later_than(first, 999, []), Hlc((1_000 << 16) + 1), "the calendar went back");
        assert_eq!(later_than(first, 1_001, []), Hlc(1_001 << 16));
        assert_eq!(later_than(first, 1_000, [Hlc(5), Hlc(2_000 << 16)]), Hlc((2_000 << 16) + 1));
        assert_eq!(later_than(Hlc((7 << 16) + 0xFFFF), 7, []), Hlc(8 << 16), "the counter runs over");
    }

    #[test]
    fn the_end_of_time_is_no_panic() {
        assert_eq!(later_than(Hlc(u64::MAX), u64::MAX, [Hlc(u64::MAX)]), Hlc(u64::MAX));
        assert_eq!(Horizon::resume(Hlc(u64::MAX)).due(Hlc(u64::MAX), u64::MAX), None);
    }

    proptest! {
        #[test]
        fn a_time_is_later_than_everything_seen_and_no_earlier_than_the_calendar(
            last in 0..u64::MAX,
            now_ms in 0u64..1 << 48,
            seen in prop::collection::vec(0..u64::MAX, 0..5),
        ) {
            let time = later_than(Hlc(last), now_ms, seen.iter().copied().map(Hlc));
            prop_assert!(time > Hlc(last) && seen.iter().all(|&it| time > Hlc(it)));
            prop_assert!(time.0 >> 16 >= now_ms);
            let causes = seen.iter().copied().chain([last]).max().unwrap();
            prop_assert!(time.0 == causes + 1 || time.0 == now_ms << 16, "not later than it need be");
        }

        #[test]
        fn no_time_is_given_twice_over_crashes(
            steps in prop::collection::vec((0u64..3_000, 0u8..8), 1..60),
        ) {
            let mut horizon = Horizon::resume(Hlc(0));
            let (mut last, mut latest, mut now_ms, mut writing) = (Hlc(0), Hlc(0), 1 << 40, None);
            for (passed, what) in steps {
                now_ms += passed;
                match what {
                    0 => {
                        (horizon, last, writing) = (Horizon::resume(horizon.durable()), horizon.durable(), None);
                        now_ms -= 2_500;
                    }
                    1..3 => writing.take().into_iter().for_each(|next| horizon.made_durable(next)),
                    _ => {
                        let time = later_than(last, now_ms, []);
                        if horizon.allows(time) {
                            prop_assert!(time > latest);
                            (last, latest) = (time, time);
                        }
                        writing = writing.or_else(|| horizon.due(last, now_ms));
                    }
                }
            }
        }
    }
}
