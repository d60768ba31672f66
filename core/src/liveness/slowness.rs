//! Who is slow: smoothed latencies, each compared with the median of the others.
//!
//! A slow member is alive. It keeps its writes and is asked last for reads; what to do about it is the caller's.
//! There is a gap between becoming slow and ceasing to be, and a report that nobody renews is forgotten, so a
//! member that is no longer asked gets its next chance.

use super::config::Config;
use rondel_proto::id::NodeId;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// The weight of a new report in the smoothed latency.
const WEIGHT: f64 = 0.1;

#[derive(Debug, Default)]
pub(super) struct Slowness {
    peers: BTreeMap<NodeId, Smoothed>,
}

#[derive(Debug)]
struct Smoothed {
    seconds: f64,
    reported: Instant,
    slow: bool,
}

impl Slowness {
    pub(super) fn report(&mut self, node: NodeId, latency: Duration, now: Instant) {
        let new = latency.as_secs_f64();
        let smoothed =
            self.peers.entry(node).or_insert(Smoothed { seconds: new, reported: now, slow: false });
        smoothed.seconds += WEIGHT * (new - smoothed.seconds);
        smoothed.reported = now;
    }

    pub(super) fn latency(&self, node: NodeId) -> Option<Duration> {
        self.peers.get(&node).map(|smoothed| Duration::from_secs_f64(smoothed.seconds))
    }

    pub(super) fn is_slow(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|smoothed| smoothed.slow)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(NodeId) -> bool) {
        self.peers.retain(|node, _| keep(*node));
    }

    /// Who has become slow (`true`) or ceased to be.
    pub(super) fn judge(&mut self, config: &Config, now: Instant) -> Vec<(NodeId, bool)> {
        let mut changed = self.forget(config, now);
        let limits: Vec<Option<f64>> = self.peers.keys().map(|node| self.limit(*node, config)).collect();
        for ((node, smoothed), limit) in self.peers.iter_mut().zip(limits) {
            let limit = limit.map_or(f64::INFINITY, |limit| if smoothed.slow { limit / 2.0 } else { limit });
            let slow = smoothed.seconds > limit;
            if slow != smoothed.slow {
                smoothed.slow = slow;
                changed.push((*node, slow));
            }
        }
        changed
    }

    fn forget(&mut self, config: &Config, now: Instant) -> Vec<(NodeId, bool)> {
        let old = |smoothed: &Smoothed| now.saturating_duration_since(smoothed.reported) > config.slow_memory;
        let was_slow = self.peers.iter().filter(|(_, smoothed)| old(smoothed) && smoothed.slow);
        let forgiven = was_slow.map(|(node, _)| (*node, false)).collect();
        self.peers.retain(|_, smoothed| !old(smoothed));
        forgiven
    }

    /// The latency from which `node` is slow; none if there is nobody to compare it with.
    fn limit(&self, node: NodeId, config: &Config) -> Option<f64> {
        let mut others: Vec<f64> = self
            .peers
            .iter()
            .filter(|(peer, _)| **peer != node)
            .map(|(_, smoothed)| smoothed.seconds)
            .collect();
        others.sort_unstable_by(f64::total_cmp);
        let median = others.get(others.len().checked_sub(1)? / 2)?;
        Some((median * f64::from(config.slow_factor)).max(config.slow_floor.as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::epoch, *};

    const MS: Duration = Duration::from_millis(1);

    fn report(slowness: &mut Slowness, millis: &[u32], now: Instant) {
        for (node, latency) in millis.iter().enumerate() {
            for _ in 0..100 {
                slowness.report(NodeId(node as u128), *latency * MS, now);
            }
        }
    }

    #[test]
    fn a_member_far_above_the_others_is_slow_until_it_is_near_them_again() {
        let (mut slowness, config, now) = (Slowness::default(), Config::default(), epoch());
        report(&mut slowness, &[10, 12, 100], now);
        assert_eq!(slowness.judge(&config, now), [(NodeId(2), true)]);
        report(&mut slowness, &[10, 12, 30], now);
        assert_eq!(slowness.judge(&config, now), [], "30 ms would not make it slow, but does not redeem it");
        report(&mut slowness, &[10, 12, 15], now);
        assert_eq!(slowness.judge(&config, now), [(NodeId(2), false)]);
    }

    #[test]
    fn nobody_is_slow_below_the_floor_or_without_company() {
        let (mut slowness, config, now) = (Slowness::default(), Config::default(), epoch());
        report(&mut slowness, &[900], now);
        assert_eq!(slowness.judge(&config, now), []);
        let mut fast = Slowness::default();
        report(&mut fast, &[1, 1, 19], now);
        assert_eq!(fast.judge(&config, now), []);
    }

    #[test]
    fn a_slow_member_that_nobody_asks_is_forgiven() {
        let (mut slowness, config, now) = (Slowness::default(), Config::default(), epoch());
        report(&mut slowness, &[10, 10, 900], now);
        slowness.judge(&config, now);
        let later = now + config.slow_memory + MS;
        report(&mut slowness, &[10, 10], later);
        assert_eq!(slowness.judge(&config, later), [(NodeId(2), false)]);
        assert_eq!(slowness.latency(NodeId(2)), None);
    }
}
