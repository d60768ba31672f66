//! Why a node would rather not coordinate updates while another owner can (PROTOCOLS §1, §6).
//!
//! A node that is restarted over and over adds an entry to the version vector of every key that it coordinates; so it
//! waits until a run has lasted. A node whose calendar clock is wrong would make its writes look newer or older than
//! they are. No update is ever refused for either: if there is nobody else, the node coordinates.

use crate::env::Env;
use rondel_proto::id::NodeId;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long a node that was started often lately must run before it coordinates as others do.
const SETTLED_AFTER: Duration = Duration::from_secs(60);
/// How far a clock may be off the median of its peers' clocks.
const CLOCK_OFFSET_MAX_MS: u64 = 1_000;
/// A reading that is older says nothing of a peer any more: it may be down, and clocks may have been set.
const READING_AGE_MAX: Duration = Duration::from_secs(120);

pub(super) struct Reluctance {
    settled_at: Option<Instant>,
    clocks: Mutex<Clocks>,
}

#[derive(Default)]
struct Clocks {
    /// How far each peer's clock is ahead of this node's, in milliseconds, and when that was read.
    ahead: BTreeMap<NodeId, (i64, Instant)>,
    off: bool,
}

impl Reluctance {
    pub(super) fn new(env: &Env, started_often: bool) -> Self {
        let settled_at = started_often.then(|| env.now() + SETTLED_AFTER);
        if started_often {
            tracing::warn!(
                "this node was started more than three times within an hour: for a minute it leaves coordinating \
                 to others"
            );
        }
        Self { settled_at, clocks: Mutex::default() }
    }

    /// A peer's clock was read: it is so far ahead of this node's.
    pub(super) fn peer_clock(&self, node: NodeId, ahead_ms: i64, now: Instant) {
        let mut clocks = self.clocks();
        clocks.ahead.insert(node, (ahead_ms, now));
        clocks.ahead.retain(|_, (_, read)| now.saturating_duration_since(*read) <= READING_AGE_MAX);
        let behind = clocks.behind_ms();
        let off = behind.unsigned_abs() > CLOCK_OFFSET_MAX_MS;
        if off && !clocks.off {
            tracing::error!(
                behind_ms = behind,
                "this node's clock differs from those of the other members: set it, and keep it set (NTP). Until then \
                 this node leaves coordinating to others"
            );
        }
        clocks.off = off;
    }

    /// Forgets those who are no members any more.
    pub(super) fn set_members(&self, members: &[NodeId]) {
        self.clocks().ahead.retain(|node, _| members.contains(node));
    }

    /// How far this node's clock is behind the median of its peers', in milliseconds.
    pub(super) fn clock_behind_ms(&self) -> i64 {
        self.clocks().behind_ms()
    }

    /// Whether another owner should coordinate instead.
    pub(super) fn is_reluctant(&self, now: Instant) -> bool {
        self.settled_at.is_some_and(|settled| now < settled) || self.clocks().off
    }

    fn clocks(&self) -> MutexGuard<'_, Clocks> {
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clocks {
    fn behind_ms(&self) -> i64 {
        median(self.ahead.values().map(|(ahead_ms, _)| *ahead_ms))
    }
}

/// The middle one; of the two in the middle the one that is nearer to this node's clock, as either may be wrong.
fn median(offsets: impl Iterator<Item = i64>) -> i64 {
    let mut offsets: Vec<i64> = offsets.collect();
    offsets.sort_unstable();
    let Some(last) = offsets.len().checked_sub(1) else { return 0 };
    let (low, high) = (offsets[last / 2], offsets[last.div_ceil(2)]);
    if low.unsigned_abs() <= high.unsigned_abs() { low } else { high }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Sim;

    fn with_reluctance(started_often: bool, test: impl FnOnce(&Env, Reluctance)) {
        let sim = Sim::new(1);
        let env = sim.control().node_env(0);
        let reluctance = Reluctance::new(&env, started_often);
        test(&env, reluctance);
    }

    #[test]
    fn the_median_is_the_nearer_of_the_two_in_the_middle() {
        for (offsets, expected) in
            [(&[][..], 0), (&[7], 7), (&[-600_000, 3], 3), (&[5, 5_000, 9_000], 5_000), (&[-9, -4, 2, 8], 2)]
        {
            assert_eq!(median(offsets.iter().copied()), expected, "{offsets:?}");
        }
    }

    #[test]
    fn one_peer_with_a_wrong_clock_does_not_make_this_one_wrong() {
        with_reluctance(false, |env, reluctance| {
            let now = env.now();
            let reads = |node, ahead_ms| reluctance.peer_clock(NodeId(node), ahead_ms, now);
            reads(1, 10);
            reads(2, -600_000);
            assert!(!reluctance.is_reluctant(now));
            reads(1, -600_000);
            assert!(reluctance.is_reluctant(now));
            assert_eq!(reluctance.clock_behind_ms(), -600_000);
            reluctance.set_members(&[]);
            reads(3, 0);
            assert!(!reluctance.is_reluctant(now), "the clock was set");
        });
    }

    #[test]
    fn what_was_read_long_ago_of_peers_that_are_gone_counts_no_more() {
        with_reluctance(false, |env, reluctance| {
            let then = env.now();
            for node in [1, 2] {
                reluctance.peer_clock(NodeId(node), -600_000, then);
            }
            let reads = |after| {
                reluctance.peer_clock(NodeId(3), 0, then + after);
                reluctance.is_reluctant(then + after)
            };
            assert!(reads(READING_AGE_MAX));
            assert!(!reads(READING_AGE_MAX + Duration::from_nanos(1)));
        });
    }

    #[test]
    fn a_node_that_was_started_often_is_reluctant_until_it_has_run_for_a_while() {
        with_reluctance(true, |env, reluctance| {
            let started = env.now();
            assert!(reluctance.is_reluctant(started + SETTLED_AFTER - Duration::from_nanos(1)));
            assert!(!reluctance.is_reluctant(started + SETTLED_AFTER));
        });
    }
}
