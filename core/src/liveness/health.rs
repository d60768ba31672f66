//! How far this node trusts its own eyes [Lifeguard §IV-A].
//!
//! A node that misses answers it was due, or has to refute its own death, is itself the likeliest reason. It then
//! waits longer and accuses later, in proportion to a score that good probes bring down again.

use std::time::Duration;

#[derive(Debug)]
pub(super) struct LocalHealth {
    score: u32,
    max: u32,
}

impl LocalHealth {
    pub(super) fn new(max: u32) -> Self {
        Self { score: 0, max }
    }

    pub(super) fn improve(&mut self) {
        self.score = self.score.saturating_sub(1);
    }

    pub(super) fn worsen(&mut self, steps: usize) {
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        self.score = self.score.saturating_add(steps).min(self.max);
    }

    pub(super) fn score(&self) -> u32 {
        self.score
    }

    pub(super) fn stretch(&self, duration: Duration) -> Duration {
        duration * (self.score + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_score_stretches_and_good_probes_bring_it_back() {
        let mut health = LocalHealth::new(2);
        health.worsen(9);
        assert_eq!(health.stretch(Duration::from_secs(1)), Duration::from_secs(3), "never beyond its bound");
        health.improve();
        health.improve();
        health.improve();
        assert_eq!(health.stretch(Duration::from_secs(1)), Duration::from_secs(1));
    }
}
