//! The rumours that this node still passes on: each a bounded number of times, the least told ones first [SWIM §4.1].

use super::message::{Claim, RUMOURS_PER_MESSAGE_MAX, Rumour};
use rondel_proto::id::NodeId;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Rumours {
    told: BTreeMap<Rumour, u32>,
}

impl Rumours {
    /// Starts to pass on a rumour, and drops what it supersedes.
    pub(super) fn spread(&mut self, new: Rumour) {
        let rank = |rumour: &Rumour| (rumour.generation, rumour.claim);
        self.told.retain(|old, _| old.node != new.node || rank(old) == rank(&new));
        self.told.insert(new, 0);
    }

    /// Drops everything about nodes that are no members.
    pub(super) fn retain(&mut self, keep: impl Fn(NodeId) -> bool) {
        self.told.retain(|rumour, _| keep(rumour.node));
    }

    /// Adds what `to` should hear next to `out`, up to the bound of a message; each is told `times` times in all.
    pub(super) fn tell(&mut self, to: NodeId, times: u32, out: &mut Vec<Rumour>) {
        let mut fresh: Vec<(u32, Rumour)> = self
            .told
            .iter()
            .filter(|(rumour, _)| rumour.node != to && !out.contains(rumour))
            .map(|(rumour, told)| (*told, *rumour))
            .collect();
        fresh.sort_unstable();
        fresh.truncate(RUMOURS_PER_MESSAGE_MAX.saturating_sub(out.len()));
        for (told, rumour) in fresh {
            out.push(rumour);
            if told + 1 >= times {
                self.told.remove(&rumour);
            } else {
                self.told.insert(rumour, told + 1);
            }
        }
    }
}

/// How often a rumour is passed on among so many members.
pub(super) fn times(members: usize, factor: u32) -> u32 {
    factor.saturating_mul((members + 1).next_power_of_two().trailing_zeros()).max(1)
}

impl Rumour {
    pub(super) fn is_accusation(&self) -> bool {
        self.claim != Claim::Alive
    }
}

#[cfg(test)]
mod tests {
    use super::{super::message::Generation, *};

    fn rumour(node: u128, generation: u64, claim: Claim, by: u128) -> Rumour {
        Rumour { node: NodeId(node), by: NodeId(by), generation: Generation(generation), claim }
    }

    fn told(rumours: &mut Rumours, times: u32) -> Vec<Rumour> {
        let mut out = Vec::new();
        rumours.tell(NodeId(99), times, &mut out);
        out
    }

    #[test]
    fn a_newer_claim_drops_the_older_but_a_second_accuser_does_not() {
        let mut rumours = Rumours::default();
        rumours.spread(rumour(1, 0, Claim::Suspect, 2));
        rumours.spread(rumour(1, 0, Claim::Suspect, 3));
        assert_eq!(told(&mut rumours, 9).len(), 2);
        rumours.spread(rumour(1, 1, Claim::Alive, 1));
        assert_eq!(told(&mut rumours, 9), [rumour(1, 1, Claim::Alive, 1)]);
    }

    #[test]
    fn the_least_told_go_first_and_none_goes_for_ever() {
        let mut rumours = Rumours::default();
        let count = RUMOURS_PER_MESSAGE_MAX + 4;
        for node in 0..count {
            rumours.spread(rumour(node as u128, 0, Claim::Suspect, 50));
        }
        let first = told(&mut rumours, 2);
        assert_eq!(first.len(), RUMOURS_PER_MESSAGE_MAX);
        let second = told(&mut rumours, 2);
        assert!(!first.contains(&second[0]), "what nobody heard yet comes before repetitions");
        let mut total = first.len() + second.len();
        loop {
            match told(&mut rumours, 2).len() {
                0 => break,
                more => total += more,
            }
        }
        assert_eq!(total, 2 * count);
    }

    #[test]
    fn nobody_hears_rumours_about_itself() {
        let mut rumours = Rumours::default();
        rumours.spread(rumour(99, 1, Claim::Alive, 99));
        assert!(told(&mut rumours, 9).is_empty());
    }
}
