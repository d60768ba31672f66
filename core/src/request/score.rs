//! How fast a peer answers: a smoothed mean and deviation of its answer times, as TCP estimates its round trip
//! ([RFC 6298]). Reads prefer fast peers; a write that a peer has not answered by its hedge delay goes to a
//! stand-in as well.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

/// The least time that a peer is given before a hedge: below it, hedging would only double the load.
const HEDGE_DELAY_MIN: Duration = Duration::from_millis(5);
/// The time that a peer is given before anything is known of it.
const HEDGE_DELAY_FIRST: Duration = Duration::from_millis(50);
/// The longest time that a peer is given.
const HEDGE_DELAY_MAX: Duration = Duration::from_secs(1);

/// What is known of one peer's answer times.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Score {
    mean_us: f32,
    deviation_us: f32,
    answers: u32,
    in_flight: u32,
}

impl Score {
    pub(crate) fn sent(&mut self) {
        self.in_flight = self.in_flight.saturating_add(1);
    }

    /// Takes in one answer, or the lack of one as `None`.
    pub(crate) fn answered(&mut self, after: Option<Duration>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let Some(after) = after else { return };
        let sample_us = after.as_secs_f32() * 1e6;
        if self.answers == 0 {
            (self.mean_us, self.deviation_us) = (sample_us, sample_us / 2.0);
        } else {
            self.deviation_us += ((sample_us - self.mean_us).abs() - self.deviation_us) / 16.0;
            self.mean_us += (sample_us - self.mean_us) / 32.0;
        }
        self.answers = self.answers.saturating_add(1);
    }

    /// Smaller is better: the mean answer time, weighted by what waits there.
    pub(crate) fn cost(&self) -> u64 {
        let mean = Duration::try_from_secs_f32(self.mean_us / 1e6).unwrap_or(HEDGE_DELAY_MAX);
        let cost = mean.as_nanos().saturating_mul(u128::from(self.in_flight) + 1);
        u64::try_from(cost).unwrap_or(u64::MAX)
    }

    /// About the peer's 99th percentile: the mean and four deviations.
    pub(crate) fn hedge_delay(&self) -> Duration {
        if self.answers < 8 {
            return HEDGE_DELAY_FIRST;
        }
        let delay = Duration::from_secs_f32((self.mean_us + 4.0 * self.deviation_us) / 1e6);
        delay.clamp(HEDGE_DELAY_MIN, HEDGE_DELAY_MAX)
    }
}

/// Hedging by delay alone is allowed for one write in fifty, and for a burst of this many.
const WRITES_PER_HEDGE: i64 = 50;
const HEDGE_BURST: i64 = 100;

/// How many writes may still be hedged because a replica is slow.
#[derive(Debug)]
pub(crate) struct HedgeBudget(AtomicI64);

impl Default for HedgeBudget {
    fn default() -> Self {
        Self(AtomicI64::new(HEDGE_BURST * WRITES_PER_HEDGE))
    }
}

impl HedgeBudget {
    /// A write has begun.
    pub(crate) fn earn(&self) {
        let earned = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        if earned > HEDGE_BURST * WRITES_PER_HEDGE {
            self.0.store(HEDGE_BURST * WRITES_PER_HEDGE, Ordering::Relaxed);
        }
    }

    pub(crate) fn left(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= WRITES_PER_HEDGE
    }

    pub(crate) fn spend(&self) {
        self.0.fetch_sub(WRITES_PER_HEDGE, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_gets_a_fair_chance_before_anything_is_known_of_it() {
        assert_eq!(Score::default().hedge_delay(), HEDGE_DELAY_FIRST);
    }

    #[test]
    fn the_hedge_delay_follows_the_peer_within_its_bounds() {
        let mut fast = Score::default();
        let mut slow = Score::default();
        let mut stuck = Score::default();
        for _ in 0..100 {
            fast.answered(Some(Duration::from_micros(200)));
            slow.answered(Some(Duration::from_millis(40)));
            stuck.answered(Some(Duration::from_secs(9)));
        }
        assert_eq!(fast.hedge_delay(), HEDGE_DELAY_MIN);
        assert!(
            slow.hedge_delay() > Duration::from_millis(35) && slow.hedge_delay() < Duration::from_millis(200)
        );
        assert_eq!(stuck.hedge_delay(), HEDGE_DELAY_MAX);
    }

    #[test]
    fn requests_that_wait_make_a_peer_dearer() {
        let mut score = Score::default();
        score.answered(Some(Duration::from_millis(1)));
        let idle = score.cost();
        score.sent();
        assert!(score.cost() > idle);
    }
}
