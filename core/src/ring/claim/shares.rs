//! How many slots each member should have: capacities, bounded by how often a partition may use a node or a zone.
//!
//! Shares are exact fractions, so no rounding of floats decides a placement.

use super::layer::Window;

/// How often one partition may use the same node and the same zone: once each, while there are enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) per_node: usize,
    pub(super) per_zone: usize,
}

impl Limits {
    /// For the first `slots` slots of every partition: the lowest limits under which they can be filled.
    pub(super) fn of(slots: usize, zone_of: &[usize], zones: usize) -> Self {
        let per_node = slots.div_ceil(zone_of.len());
        let room = |per_zone: usize| -> usize {
            (0..zones).map(|zone| per_zone.min(per_node * members_of(zone, zone_of).count())).sum()
        };
        let per_zone = (1..slots).find(|&per_zone| room(per_zone) >= slots).unwrap_or(slots);
        Self { per_node, per_zone }
    }
}

/// A number of slots, as an exact fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    over: u128,
    under: u128,
}

impl Share {
    fn whole(number: u128) -> Self {
        Self { over: number, under: 1 }
    }

    fn minus(self, whole: u128) -> Self {
        Self { over: self.over.saturating_sub(whole * self.under), under: self.under }
    }

    /// `part / of` of it.
    fn part(self, part: u128, of: u128) -> Self {
        Self { over: self.over * part, under: self.under * of }
    }

    fn reaches(self, whole: u128) -> bool {
        self.over >= whole * self.under
    }

    /// What a member that has `given` slots may still get so that it ends within one of this share.
    pub(super) fn window_above(self, given: u64) -> Window {
        let above = |total: u128| u64::try_from(total).unwrap_or(u64::MAX).saturating_sub(given);
        Window { at_least: above(self.over / self.under), at_most: above(self.over.div_ceil(self.under)) }
    }
}

/// Each member's share of the first `slots` slots of all partitions.
pub(super) fn shares(
    capacities: &[u32],
    zone_of: &[usize],
    limits: &Limits,
    slots: usize,
    partitions: usize,
) -> Vec<Share> {
    let partitions = partitions as u128;
    let zones = zone_of.iter().max().map_or(0, |zone| zone + 1);
    let per_node = limits.per_node as u128 * partitions;
    let zone_weights: Vec<u128> = (0..zones)
        .map(|zone| members_of(zone, zone_of).map(|member| u128::from(capacities[member])).sum())
        .collect();
    let zone_bounds: Vec<u128> = (0..zones)
        .map(|zone| {
            let nodes = members_of(zone, zone_of).count() as u128;
            (limits.per_zone as u128 * partitions).min(nodes * per_node)
        })
        .collect();
    let of_zones = pour(Share::whole(slots as u128 * partitions), &zone_weights, &zone_bounds);
    let mut shares = vec![Share::whole(0); zone_of.len()];
    for (zone, share) in of_zones.into_iter().enumerate() {
        let members: Vec<usize> = members_of(zone, zone_of).collect();
        let weights: Vec<u128> = members.iter().map(|&member| u128::from(capacities[member])).collect();
        let poured = pour(share, &weights, &vec![per_node; members.len()]);
        for (member, share) in members.into_iter().zip(poured) {
            shares[member] = share;
        }
    }
    shares
}

/// Divides an amount by weight into vessels that hold at most their bounds; what one can't hold goes to the others.
fn pour(mut amount: Share, weights: &[u128], bounds: &[u128]) -> Vec<Share> {
    let mut full = vec![false; weights.len()];
    loop {
        let open = || (0..weights.len()).filter(|&at| !full[at]);
        let weight: u128 = open().map(|at| weights[at]).sum();
        let overflowing: Vec<usize> =
            open().filter(|&at| amount.part(weights[at], weight).reaches(bounds[at])).collect();
        if overflowing.is_empty() {
            let level = |at: usize| match full[at] {
                true => Share::whole(bounds[at]),
                false => amount.part(weights[at], weight),
            };
            return (0..weights.len()).map(level).collect();
        }
        for at in overflowing {
            full[at] = true;
            amount = amount.minus(bounds[at]);
        }
    }
}

fn members_of(zone: usize, zone_of: &[usize]) -> impl Iterator<Item = usize> {
    zone_of.iter().enumerate().filter(move |&(_, &of)| of == zone).map(|(member, _)| member)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shares in hundredths of a slot.
    fn hundredths(capacities: &[u32], zone_of: &[usize], slots: usize) -> Vec<u128> {
        let zones = zone_of.iter().max().unwrap() + 1;
        let limits = Limits::of(slots, zone_of, zones);
        let shares = shares(capacities, zone_of, &limits, slots, 64);
        shares.iter().map(|share| share.over * 100 / share.under).collect()
    }

    #[test]
    fn shares_follow_capacity_until_a_bound_is_met() {
        assert_eq!(hundredths(&[1, 1, 1, 1, 1], &[0; 5], 3), [3840; 5]);
        assert_eq!(hundredths(&[100, 100, 200], &[0; 3], 1), [1600, 1600, 3200]);
        assert_eq!(
            hundredths(&[1, 1, 6], &[0; 3], 2),
            [3200, 3200, 6400],
            "no more than one replica of each"
        );
        assert_eq!(
            hundredths(&[1, 1, 1], &[0, 1, 1], 2),
            [6400, 3200, 3200],
            "each zone has a replica of each"
        );
        assert_eq!(hundredths(&[1, 1], &[0; 2], 3), [9600, 9600], "fewer members than replicas");
        assert_eq!(hundredths(&[5], &[0], 3), [19200]);
    }

    #[test]
    fn limits_are_the_lowest_that_let_all_slots_be_filled() {
        let limits = |slots, zone_of: &[usize]| {
            let zones = zone_of.iter().max().unwrap() + 1;
            let limits = Limits::of(slots, zone_of, zones);
            (limits.per_node, limits.per_zone)
        };
        assert_eq!(limits(3, &[0, 1, 2, 0]), (1, 1));
        assert_eq!(limits(3, &[0, 1, 1, 0]), (1, 2));
        assert_eq!(limits(3, &[0, 1, 1, 1]), (1, 2));
        assert_eq!(limits(4, &[0, 1, 1, 1]), (1, 3), "the zone of one node has one place");
        assert_eq!(limits(3, &[0, 0]), (2, 3));
        assert_eq!(limits(3, &[0]), (3, 3));
    }

    #[test]
    fn a_window_is_what_is_missing_to_the_share_rounded_down_and_up() {
        let share = Share { over: 77, under: 10 };
        assert_eq!(share.window_above(5), Window { at_least: 2, at_most: 3 });
        assert_eq!(share.window_above(9), Window { at_least: 0, at_most: 0 });
        assert_eq!(Share::whole(7).window_above(5), Window { at_least: 2, at_most: 2 });
    }
}
