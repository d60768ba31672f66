//! Who serves a partition: its slots' occupants in order, and who stands in for those that are down.
//!
//! A [`PreferenceList`] is made once per partition and `ver`; an [`ActiveList`] is one look at it with what is known
//! of liveness at that moment. Every node that a request goes to appears once, with all slots that it serves, so one
//! message per node is enough (PROTOCOLS §2). A slot is never left out while any node is up, unless the list is
//! strict.
//!
//! Fallbacks come in the order of PROTOCOLS §5: zones without a live occupant first, then rendezvous, so that all
//! coordinators that agree on who is up choose the same stand-in.

use super::{Occupant, Partition, PartitionSlots, REPLICAS_MAX, SlotEntry, position::leading_u64};
use rondel_proto::id::{NodeId, Ver};
use std::collections::BTreeMap;

/// A member of the cluster as a request sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingMember<'a> {
    /// The node.
    pub node: NodeId,
    /// Where it stands; members of one zone fail together.
    pub zone: &'a str,
    /// Whether it may be a fallback: a valid member that knows the catalog. Others count only for their zones.
    pub may_stand_in: bool,
}

/// What a list is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Every slot's whole write set.
    Write,
    /// Every slot's read node; a slot that is being filled has none.
    Read,
}

/// A place to be covered: one member of one slot's write set, or the slot's read node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seat {
    /// The slot.
    pub slot: u8,
    /// Whose place it is. What this node did with another store does not fill it.
    pub member: Occupant,
}

/// A node of an active list, with the slots that it serves, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serving {
    /// The node.
    pub node: NodeId,
    /// The slots that it serves as a member of their write set (or as their read node).
    pub owned: u16,
    /// The slots that it stands in for: it keeps hints for them.
    pub stand_in: u16,
}

impl Serving {
    /// All slots that it serves.
    #[must_use]
    pub fn slots(&self) -> u16 {
        self.owned | self.stand_in
    }
}

/// The nodes that a request goes to: owners in slot order, then stand-ins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveList {
    partition: Partition,
    ver: Ver,
    n: u8,
    seats: Vec<Seat>,
    entries: Vec<Serving>,
}

impl ActiveList {
    /// The partition.
    #[must_use]
    pub fn partition(&self) -> Partition {
        self.partition
    }

    /// The version of the partition's slots that it was made from.
    #[must_use]
    pub fn ver(&self) -> Ver {
        self.ver
    }

    /// How many slots it is about.
    #[must_use]
    pub fn n(&self) -> u8 {
        self.n
    }

    /// The nodes.
    #[must_use]
    pub fn entries(&self) -> &[Serving] {
        &self.entries
    }

    /// What must be covered, by slot. A moving slot has two seats in a list for writes.
    #[must_use]
    pub fn seats(&self) -> &[Seat] {
        &self.seats
    }

    /// The entry of a node.
    #[must_use]
    pub fn entry(&self, node: NodeId) -> Option<&Serving> {
        self.entries.iter().find(|entry| entry.node == node)
    }

    /// The slots that nobody serves, one bit each.
    #[must_use]
    pub fn unserved(&self) -> u16 {
        let all = self.seats.iter().fold(0, |slots, seat| slots | 1 << seat.slot);
        all & !self.entries.iter().fold(0, |slots, entry| slots | entry.slots())
    }

    fn serve(&mut self, node: NodeId) -> &mut Serving {
        let known = self.entries.iter().position(|entry| entry.node == node);
        let index = known.unwrap_or_else(|| {
            self.entries.push(Serving { node, owned: 0, stand_in: 0 });
            self.entries.len() - 1
        });
        &mut self.entries[index]
    }

    /// The node that serves the fewest slots, best one that does not serve this slot yet.
    fn serves_again(&self, slot: u8, excluding: &[NodeId]) -> Option<NodeId> {
        let free = self.entries.iter().filter(|entry| !excluding.contains(&entry.node));
        let burden = |entry: &&Serving| (entry.slots() >> slot & 1, entry.slots().count_ones());
        free.min_by_key(burden).map(|entry| entry.node)
    }
}

/// A partition's slots with every fallback in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreferenceList {
    partition: Partition,
    ver: Ver,
    slots: Vec<SlotEntry>,
    /// Members that may stand in, by rendezvous.
    fallbacks: Vec<Fallback>,
    /// The zone of every member, by number.
    zones: BTreeMap<NodeId, usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fallback {
    node: NodeId,
    zone: usize,
}

impl PreferenceList {
    /// The list of a partition. Costs a hash per member: keep it while neither the slots nor the members change.
    #[must_use]
    pub fn new(partition: Partition, slots: &PartitionSlots, members: &[RingMember<'_>]) -> Self {
        let mut names: Vec<&str> = members.iter().map(|member| member.zone).collect();
        names.sort_unstable();
        names.dedup();
        let zone_of = |member: &RingMember<'_>| names.partition_point(|name| *name < member.zone);
        let mut fallbacks: Vec<Fallback> = members
            .iter()
            .filter(|member| member.may_stand_in)
            .map(|member| Fallback { node: member.node, zone: zone_of(member) })
            .collect();
        fallbacks.sort_by_cached_key(|fallback| (rendezvous(partition, fallback.node), fallback.node));
        fallbacks.dedup_by_key(|fallback| fallback.node);
        let zones = members.iter().map(|member| (member.node, zone_of(member))).collect();
        Self { partition, ver: slots.ver, slots: slots.slots.clone(), fallbacks, zones }
    }

    /// Who serves the first `n` slots if exactly the nodes of `up` are up.
    ///
    /// For every slot with a member that is down, the next fallback stands in; when no other node is left, one that
    /// already serves does so again.
    #[must_use]
    pub fn active(&self, n: usize, use_: Use, up: impl Fn(NodeId) -> bool) -> ActiveList {
        let mut list = self.strict(n, use_, &up);
        let mut fallbacks = self.fallbacks_beside(&list, &up);
        let mut down: Vec<u8> =
            list.seats.iter().filter(|seat| !up(seat.member.node)).map(|seat| seat.slot).collect();
        down.dedup();
        for slot in down {
            let next = if fallbacks.is_empty() { None } else { Some(fallbacks.remove(0)) };
            if let Some(node) = next.or_else(|| list.serves_again(slot, &[])) {
                list.serve(node).stand_in |= 1 << slot;
            }
        }
        list
    }

    /// The same without fallbacks: only members of the slots themselves, as far as they are up.
    #[must_use]
    pub fn strict(&self, n: usize, use_: Use, up: impl Fn(NodeId) -> bool) -> ActiveList {
        let (seats, n) = self.seats(n, use_);
        let mut list = ActiveList { partition: self.partition, ver: self.ver, n, seats, entries: Vec::new() };
        for seat in list.seats.clone() {
            if up(seat.member.node) {
                list.serve(seat.member.node).owned |= 1 << seat.slot;
            }
        }
        list
    }

    /// Who else may stand in for a slot whose node does not answer, if exactly the nodes of `up` are up.
    ///
    /// It is a node outside the active list and outside `excluding` while there is one; then one that serves
    /// already, but not that slot and not excluded.
    #[must_use]
    pub fn next_fallback(
        &self,
        active: &ActiveList,
        slot: u8,
        excluding: &[NodeId],
        up: impl Fn(NodeId) -> bool,
    ) -> Option<NodeId> {
        let outside = self.fallbacks_beside(active, &up).into_iter().find(|node| !excluding.contains(node));
        outside.or_else(|| {
            let again = active.serves_again(slot, excluding)?;
            let serves = active.entry(again).is_some_and(|entry| entry.slots() >> slot & 1 == 1);
            (!serves).then_some(again)
        })
    }

    fn seats(&self, n: usize, use_: Use) -> (Vec<Seat>, u8) {
        let slots = (0u8..).zip(self.slots.iter().take(n.min(REPLICAS_MAX)));
        let count = slots.clone().count();
        let seats = slots.flat_map(|(slot, entry)| {
            let writes = (use_ == Use::Write).then(|| entry.write_set());
            let reads = (use_ == Use::Read).then(|| entry.read_node()).flatten();
            writes.into_iter().flatten().chain(reads).map(move |member| Seat { slot, member })
        });
        (seats.collect(), u8::try_from(count).expect("a partition has at most 16 slots"))
    }

    /// The nodes that are up and serve nothing yet, best first.
    fn fallbacks_beside(&self, list: &ActiveList, up: &impl Fn(NodeId) -> bool) -> Vec<NodeId> {
        let live_zones: Vec<usize> = list
            .seats
            .iter()
            .filter(|seat| up(seat.member.node))
            .filter_map(|seat| self.zones.get(&seat.member.node).copied())
            .collect();
        let free = self.fallbacks.iter().filter(|fallback| list.entry(fallback.node).is_none());
        let (away, near): (Vec<&Fallback>, Vec<&Fallback>) = free
            .filter(|fallback| up(fallback.node))
            .partition(|fallback| !live_zones.contains(&fallback.zone));
        away.into_iter().chain(near).map(|fallback| fallback.node).collect()
    }
}

/// A number by which every partition orders the nodes in its own way.
///
/// The prefix, not the partition's number, goes in: the lower half of a split partition keeps its fallbacks.
fn rendezvous(partition: Partition, node: NodeId) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&partition.first().0.to_be_bytes());
    hasher.update(&node.0.to_be_bytes());
    leading_u64(&hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{Bits, Phase};
    use proptest::prelude::*;
    use rondel_proto::id::StoreId;

    const ZONES: [&str; 3] = ["a", "b", "c"];

    fn node(number: u8) -> NodeId {
        NodeId(u128::from(number))
    }

    fn occupant(number: u8) -> Occupant {
        Occupant { node: node(number), store: StoreId(u128::from(number)) }
    }

    fn stable(number: u8) -> SlotEntry {
        SlotEntry::stable(occupant(number))
    }

    fn moving(owner: u8, next: u8, phase: Phase) -> SlotEntry {
        SlotEntry { owner: occupant(owner), next: Some(occupant(next)), phase }
    }

    /// Members 0 … `members` − 1, zones given round-robin.
    fn list(slots: &[SlotEntry], members: u8, zones: usize) -> PreferenceList {
        let partition = Partition::at(5, Bits::DEFAULT).unwrap();
        let members: Vec<RingMember<'_>> = (0..members)
            .map(|number| RingMember {
                node: node(number),
                zone: ZONES[usize::from(number) % zones],
                may_stand_in: true,
            })
            .collect();
        PreferenceList::new(partition, &PartitionSlots { ver: Ver(4), slots: slots.to_vec() }, &members)
    }

    fn entries(list: &ActiveList) -> Vec<(u128, u16, u16)> {
        list.entries().iter().map(|entry| (entry.node.0, entry.owned, entry.stand_in)).collect()
    }

    #[test]
    fn owners_that_are_up_serve_in_slot_order() {
        let list = list(&[stable(2), stable(0), stable(1)], 4, 1);
        let active = list.active(3, Use::Write, |_| true);
        assert_eq!(entries(&active), [(2, 1, 0), (0, 2, 0), (1, 4, 0)]);
        assert_eq!((active.n(), active.ver(), active.unserved()), (3, Ver(4), 0));
        assert_eq!(entries(&list.active(2, Use::Read, |_| true)), [(2, 1, 0), (0, 2, 0)]);
    }

    #[test]
    fn a_node_that_owns_several_slots_comes_once() {
        let list = list(&[stable(0), stable(1), stable(0)], 2, 1);
        assert_eq!(entries(&list.active(3, Use::Write, |_| true)), [(0, 0b101, 0), (1, 0b010, 0)]);
    }

    #[test]
    fn a_fallback_stands_in_for_an_owner_that_is_down_unless_the_list_is_strict() {
        let list = list(&[stable(0), stable(1), stable(2)], 4, 1);
        let up = |it: NodeId| it != node(1);
        assert_eq!(entries(&list.active(3, Use::Write, up)), [(0, 1, 0), (2, 4, 0), (3, 0, 2)]);
        let strict = list.strict(3, Use::Write, up);
        assert_eq!(entries(&strict), [(0, 1, 0), (2, 4, 0)]);
        assert_eq!(strict.unserved(), 0b010);
    }

    #[test]
    fn when_no_other_node_is_left_one_that_serves_stands_in_again() {
        let list = list(&[stable(0), stable(1), stable(2)], 3, 1);
        let one_left = list.active(3, Use::Write, |it| it == node(1));
        assert_eq!(entries(&one_left), [(1, 0b010, 0b101)]);
        let two_left = list.active(3, Use::Write, |it| it != node(1));
        assert_eq!(entries(&two_left), [(0, 0b001, 0b010), (2, 0b100, 0)]);
        let none_left = list.active(3, Use::Write, |_| false);
        assert_eq!((entries(&none_left), none_left.unserved()), (vec![], 0b111));
    }

    #[test]
    fn a_zone_without_a_live_occupant_comes_first() {
        // Zones: 0, 3, 6 in a; 1, 4, 7 in b; 2, 5, 8 in c.
        let list = list(&[stable(0), stable(1), stable(2)], 9, 3);
        for down in 0..3 {
            let active = list.active(3, Use::Write, |it| it != node(down));
            let stand_in = active.entries()[2];
            assert_eq!(stand_in.stand_in, 1 << down);
            assert_eq!(stand_in.node.0 % 3, u128::from(down), "the zone of the owner that is down");
        }
    }

    #[test]
    fn members_that_may_not_stand_in_never_do() {
        let slots = PartitionSlots { ver: Ver(0), slots: vec![stable(0), stable(1)] };
        let member = |number, may_stand_in| RingMember { node: node(number), zone: "z", may_stand_in };
        let members = [member(0, true), member(1, true), member(2, false)];
        let list = PreferenceList::new(Partition::at(0, Bits::DEFAULT).unwrap(), &slots, &members);
        let active = list.active(2, Use::Write, |it| it != node(1));
        assert_eq!(entries(&active), [(0, 0b01, 0b10)]);
    }

    #[test]
    fn moving_slots_bring_their_whole_write_set_and_their_read_node() {
        for phase in [Phase::Dual, Phase::Switch, Phase::Back] {
            let list = list(&[moving(0, 3, phase), stable(1)], 5, 1);
            let writes = list.active(2, Use::Write, |_| true);
            assert_eq!(entries(&writes), [(0, 1, 0), (3, 1, 0), (1, 2, 0)], "{phase:?}");
            let reader = if phase == Phase::Switch { 3 } else { 0 };
            let reads = list.active(2, Use::Read, |_| true);
            assert_eq!(entries(&reads), [(reader, 1, 0), (1, 2, 0)], "{phase:?}");
        }
        let filling = list(&[moving(0, 3, Phase::Fill), stable(1)], 5, 1);
        assert_eq!(entries(&filling.active(2, Use::Write, |_| true)), [(3, 1, 0), (1, 2, 0)]);
        assert_eq!(entries(&filling.active(2, Use::Read, |_| true)), [(1, 2, 0)]);
    }

    #[test]
    fn one_stand_in_serves_a_moving_slot_with_both_members_down() {
        let list = list(&[moving(0, 3, Phase::Dual), stable(1)], 5, 1);
        let active = list.active(2, Use::Write, |it| it != node(0) && it != node(3));
        assert_eq!(active.entries().len(), 2);
        assert_eq!(active.entries()[1].stand_in, 1);
        assert_eq!(active.seats().len(), 3);
    }

    #[test]
    fn hedging_goes_outside_the_list_first_and_ends() {
        let list = list(&[stable(0), stable(1), stable(2)], 5, 1);
        let active = list.active(3, Use::Write, |_| true);
        let mut asked = vec![node(1)];
        let mut order = Vec::new();
        while let Some(next) = list.next_fallback(&active, 1, &asked, |_| true) {
            order.push(next.0);
            asked.push(next);
        }
        assert!(order[..2].iter().all(|it| [3, 4].contains(it)), "{order:?}");
        assert_eq!(order[2..], [0, 2], "then those that serve other slots");
    }

    #[test]
    fn the_fallback_order_differs_between_partitions_and_never_changes() {
        let slots = PartitionSlots { ver: Ver(0), slots: vec![stable(0)] };
        let members: Vec<RingMember<'_>> =
            (0..8).map(|number| RingMember { node: node(number), zone: "z", may_stand_in: true }).collect();
        let order = |index| {
            let partition = Partition::at(index, Bits::DEFAULT).unwrap();
            let list = PreferenceList::new(partition, &slots, &members);
            list.fallbacks.iter().map(|fallback| fallback.node.0).collect::<Vec<_>>()
        };
        assert_ne!(order(0), order(1));
        assert_eq!(order(0), [5, 2, 3, 4, 6, 7, 0, 1]);
    }

    fn any_entry() -> impl Strategy<Value = SlotEntry> {
        (0u8..8, 0u8..8, 0u8..5).prop_map(|(owner, next, phase)| match phase {
            1 => moving(owner, next, Phase::Dual),
            2 => moving(owner, next, Phase::Switch),
            3 => moving(owner, next, Phase::Back),
            4 => moving(owner, next, Phase::Fill),
            _ => stable(owner),
        })
    }

    proptest! {
        #[test]
        fn every_slot_is_served_once_per_node_and_only_by_nodes_that_are_up(
            slots in prop::collection::vec(any_entry(), 1..5),
            members in 8u8..12,
            zones in 1usize..4,
            up: u16,
            n in 1usize..6,
            read: bool,
        ) {
            let list = list(&slots, members, zones);
            let is_up = |it: NodeId| it.0 < u128::from(members) && up >> it.0 & 1 == 1;
            let use_ = if read { Use::Read } else { Use::Write };
            let active = list.active(n, use_, is_up);
            let mut nodes: Vec<NodeId> = active.entries().iter().map(|entry| entry.node).collect();
            prop_assert!(nodes.iter().all(|&it| is_up(it)));
            nodes.sort_unstable();
            nodes.dedup();
            prop_assert_eq!(nodes.len(), active.entries().len());
            prop_assert!(active.entries().iter().all(|entry| entry.slots() != 0));
            let any_up = (0..members).map(node).any(is_up);
            prop_assert_eq!(active.unserved() == 0, any_up || active.seats().is_empty());
            for seat in active.seats() {
                let served = |entry: &Serving| entry.owned >> seat.slot & 1 == 1;
                prop_assert_eq!(active.entry(seat.member.node).is_some_and(served), is_up(seat.member.node));
                let standing = |entry: &&Serving| entry.stand_in >> seat.slot & 1 == 1;
                let stand_ins = active.entries().iter().filter(standing).count();
                prop_assert!(stand_ins <= 1);
                prop_assert!(is_up(seat.member.node) || stand_ins == 1 || !any_up);
            }
            let strict = list.strict(n, use_, is_up);
            prop_assert!(strict.entries().iter().all(|entry| entry.stand_in == 0));
        }

        #[test]
        fn no_node_serves_twice_while_another_serves_nothing(
            owners in prop::collection::vec(0u8..8, 1..5),
            up: u8,
        ) {
            let mut owners = owners;
            owners.sort_unstable();
            owners.dedup();
            let slots: Vec<SlotEntry> = owners.iter().copied().map(stable).collect();
            let list = list(&slots, 8, 1);
            let is_up = |it: NodeId| up >> it.0 & 1 == 1;
            let active = list.active(slots.len(), Use::Write, is_up);
            let idle = (0..8).map(node).any(|it| is_up(it) && active.entry(it).is_none());
            if idle {
                prop_assert!(active.entries().iter().all(|entry| entry.slots().count_ones() == 1));
            }
        }
    }
}
