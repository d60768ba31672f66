//! One member under suspicion: who accuses it, since when, and when that becomes its death [Lifeguard §IV-B].
//!
//! A lone accuser waits for the longest time; every independent one after it brings the wait down towards the
//! minimum, logarithmically. A suspicion ripens only while this node itself can't reach the member: nobody is
//! declared dead on hearsay alone, so a node that has gone deaf cannot talk the others into burying the living.

use super::config::Config;
use rondel_proto::id::NodeId;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

#[derive(Debug)]
pub(super) struct Suspicion {
    began: Instant,
    by: BTreeSet<NodeId>,
    /// This node's own last probe of the member failed.
    seen: bool,
    /// Somebody has declared it dead already.
    condemned: bool,
}

impl Suspicion {
    pub(super) fn new(by: NodeId, now: Instant) -> Self {
        Self { began: now, by: BTreeSet::from([by]), seen: false, condemned: false }
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// Whether this accuser is news; no more are counted than can shorten the wait.
    pub(super) fn accuse(&mut self, by: NodeId, config: &Config) -> bool {
        self.by.len() <= config.confirmations && self.by.insert(by)
    }

    pub(super) fn condemn(&mut self) {
        self.condemned = true;
    }

    pub(super) fn see(&mut self) {
        self.seen = true;
    }

    /// The member has answered us: what we saw before no longer counts.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.seen = false;
        self.condemned = false;
        self.began = now;
    }

    /// Somebody who accuses it.
    pub(super) fn accuser(&self) -> NodeId {
        *self.by.first().expect("a suspicion has an accuser from the start")
    }

    /// When the member is to be declared dead; none while we have not seen its silence ourselves.
    pub(super) fn deadline(&self, members: usize, config: &Config) -> Option<Instant> {
        match (self.seen, self.condemned) {
            (false, _) => None,
            (true, true) => Some(self.began),
            (true, false) => Some(self.began + timeout(self.by.len() - 1, members, config)),
        }
    }
}

/// How long a suspicion lasts that so many have confirmed, in a cluster of so many members.
#[expect(clippy::cast_precision_loss, reason = "cluster sizes are small numbers")]
pub(super) fn timeout(confirmed: usize, members: usize, config: &Config) -> Duration {
    let min = config.suspicion_min.mul_f64((members as f64).log10().max(1.0));
    let max = min * config.suspicion_factor.max(1);
    // The member itself and its first accuser do not confirm.
    let possible = config.confirmations.min(members.saturating_sub(2));
    if confirmed >= possible {
        return min;
    }
    let share = (confirmed as f64 + 1.0).ln() / (possible as f64 + 1.0).ln();
    max - (max - min).mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn every_confirmation_shortens_a_suspicion_down_to_the_minimum() {
        let config = Config::default();
        let waits: Vec<_> = (0..5).map(|confirmed| timeout(confirmed, 9, &config)).collect();
        assert_eq!((waits[0], waits[3], waits[4]), (2 * SECOND, SECOND, SECOND));
        assert!(waits[0] > waits[1] && waits[1] > waits[2] && waits[2] > waits[3]);
    }

    #[test]
    fn the_wait_grows_with_the_logarithm_of_the_cluster() {
        let config = Config::default();
        assert_eq!(timeout(3, 100, &config), 2 * SECOND);
        assert_eq!(timeout(3, 1000, &config), 3 * SECOND);
    }

    #[test]
    fn two_members_do_not_wait_for_a_third_to_confirm() {
        assert_eq!(timeout(0, 2, &Config::default()), SECOND);
    }
}
