use super::*;
use crate::ring::Move;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn member(number: usize, capacity: u32, zone: &str) -> Claimant {
    let (node, store) = (NodeId(number as u128 * 7 + 1), StoreId(number as u128 + 1000));
    Claimant { node, store, capacity, zone: zone.to_owned() }
}

/// Members 0 … `count` − 1 of equal capacity in one zone.
fn equals(count: usize) -> Vec<Claimant> {
    (0..count).map(|number| member(number, 100, "z")).collect()
}

fn in_zones(sizes: &[usize]) -> Vec<Claimant> {
    let zones = sizes.iter().enumerate().flat_map(|(zone, &size)| std::iter::repeat_n(zone, size));
    zones.enumerate().map(|(number, zone)| member(number, 100, &format!("zone {zone}"))).collect()
}

fn bits(count: u32) -> Bits {
    Bits::of_count(count).unwrap()
}

fn counts(placement: &Placement, members: &[Claimant], slots: usize) -> Vec<usize> {
    let owned =
        |node| placement.partitions.iter().flat_map(|it| it.owners(slots)).filter(move |it| it.node == node);
    members.iter().map(|member| owned(member.node).count()).collect()
}

/// How far apart the members' counts are, over every prefix of slots.
fn spread(placement: &Placement, members: &[Claimant]) -> usize {
    let spread_of = |slots| {
        let counts = counts(placement, members, slots);
        counts.iter().max().unwrap() - counts.iter().min().unwrap()
    };
    (1..=placement.replicas()).map(spread_of).max().unwrap()
}

fn zones_of<'a>(slots: &PartitionSlots, members: &'a [Claimant]) -> BTreeSet<&'a str> {
    let zone = |node| members.iter().find(|member| member.node == node).unwrap().zone.as_str();
    slots.owners(REPLICAS_MAX).map(|owner| zone(owner.node)).collect()
}

#[test]
fn one_member_owns_every_slot() {
    let placement = claim(&equals(1), Bits::DEFAULT, 3, None).unwrap();
    assert_eq!(placement.check(), Ok(()));
    assert_eq!(counts(&placement, &equals(1), 3), [192]);
}

#[test]
fn members_get_slots_by_capacity() {
    let members = [member(0, 100, "z"), member(1, 200, "z"), member(2, 100, "z"), member(3, 400, "z")];
    let placement = claim(&members, Bits::DEFAULT, 1, None).unwrap();
    assert_eq!(counts(&placement, &members, 1), [8, 16, 8, 32]);
    let two = claim(&members, Bits::DEFAULT, 2, None).unwrap();
    assert_eq!(counts(&two, &members, 2), [16, 32, 16, 64]);
    let three = claim(&members, Bits::DEFAULT, 3, None).unwrap();
    assert_eq!(counts(&three, &members, 3), [32, 64, 32, 64], "nobody holds a partition twice");
}

#[test]
fn a_member_without_capacity_gets_nothing() {
    let mut members = equals(4);
    members[2].capacity = 0;
    let placement = claim(&members, Bits::DEFAULT, 3, None).unwrap();
    assert_eq!(counts(&placement, &members, 3), [64, 64, 0, 64]);
}

#[test]
fn impossible_wishes_are_refused_with_the_reason() {
    assert_eq!(claim(&[], Bits::DEFAULT, 3, None), Err(ClaimError::NoMembers));
    assert_eq!(claim(&[member(0, 0, "z")], Bits::DEFAULT, 3, None), Err(ClaimError::NoMembers));
    assert_eq!(claim(&equals(3), Bits::DEFAULT, 0, None), Err(ClaimError::Replicas(0)));
    assert_eq!(claim(&equals(3), Bits::DEFAULT, 17, None), Err(ClaimError::Replicas(17)));
    let twice = [member(0, 1, "a"), member(0, 1, "b")];
    assert_eq!(claim(&twice, Bits::DEFAULT, 1, None), Err(ClaimError::Twice(twice[0].node)));
    let small = claim(&equals(3), bits(8), 3, None).unwrap();
    let refused = claim(&equals(3), Bits::DEFAULT, 3, Some(&small));
    assert_eq!(refused, Err(ClaimError::OtherRing { previous: 8, wanted: 64 }));
}

#[test]
fn zones_come_before_balance() {
    let members = in_zones(&[1, 1, 4]);
    let placement = claim(&members, Bits::DEFAULT, 3, None).unwrap();
    assert!(placement.partitions.iter().all(|slots| zones_of(slots, &members).len() == 3));
    assert_eq!(counts(&placement, &members, 3), [64, 64, 16, 16, 16, 16]);
}

#[test]
fn with_two_zones_every_partition_uses_both() {
    let members = in_zones(&[2, 2]);
    let placement = claim(&members, Bits::DEFAULT, 3, None).unwrap();
    assert!(placement.partitions.iter().all(|slots| zones_of(slots, &members).len() == 2));
    assert!(placement.partitions.iter().all(|slots| slots.distinct_owners(3) == 3));
    assert_eq!(counts(&placement, &members, 3), [48; 4]);
}

#[test]
fn a_new_store_of_a_member_takes_over_its_slots() {
    let before = claim(&equals(4), Bits::DEFAULT, 3, None).unwrap();
    let mut members = equals(4);
    members[1].store = StoreId(5);
    let after = claim(&members, Bits::DEFAULT, 3, Some(&before)).unwrap();
    let moves = before.moves_to(&after);
    assert_eq!(moves.len(), 48);
    assert!(moves.iter().all(|change| change.to.is_some_and(|to| to.store == StoreId(5))));
}

#[test]
fn the_destination_of_a_move_counts_and_its_ver_is_kept() {
    let members = equals(4);
    let settled = claim(&members, Bits::DEFAULT, 3, None).unwrap();
    let mut moving = settled.clone();
    let outside = Occupant { node: NodeId(999), store: StoreId(999) };
    let slot = &mut moving.partitions[9].slots[1];
    *slot = SlotEntry { owner: outside, next: Some(slot.owner), phase: crate::ring::Phase::Dual };
    moving.partitions[9].ver = Ver(17);
    let target = claim(&members, Bits::DEFAULT, 3, Some(&moving)).unwrap();
    assert_eq!(moving.moves_to(&target), []);
    assert_eq!(target.partitions[9].ver, Ver(17));
}

#[test]
fn more_replicas_keep_the_lower_slots_and_fewer_drop_the_highest() {
    let members = equals(5);
    let three = claim(&members, Bits::DEFAULT, 3, None).unwrap();
    let four = claim(&members, Bits::DEFAULT, 4, Some(&three)).unwrap();
    assert!(three.moves_to(&four).iter().all(|change| change.slot == 3 && change.from.is_none()));
    let two = claim(&members, Bits::DEFAULT, 2, Some(&three)).unwrap();
    assert!(three.moves_to(&two).iter().all(|change| change.slot == 2 && change.to.is_none()));
}

#[test]
fn a_cluster_grown_one_member_at_a_time_moves_only_what_each_new_one_gets() {
    let mut placement = claim(&equals(3), Bits::DEFAULT, 3, None).unwrap();
    for count in 4..=12 {
        let members = equals(count);
        let next = claim(&members, Bits::DEFAULT, 3, Some(&placement)).unwrap();
        assert!(spread(&next, &members) <= 1, "{count} members");
        let moves = placement.moves_to(&next);
        let newcomer = counts(&next, &members, 3)[count - 1];
        assert_eq!((count, moves.len()), (count, newcomer));
        placement = next;
    }
}

#[test]
fn a_cluster_that_shrinks_moves_little_more_than_each_leaver_had() {
    let mut placement = claim(&equals(12), Bits::DEFAULT, 3, None).unwrap();
    for count in (3..12).rev() {
        let members = equals(count);
        let had = counts(&placement, &equals(count + 1), 3)[count];
        let next = claim(&members, Bits::DEFAULT, 3, Some(&placement)).unwrap();
        assert!(spread(&next, &members) <= 1, "{count} members");
        // Slot by slot is not the whole: with few members to choose from, a later slot may have to follow.
        let moves = placement.moves_to(&next).len();
        assert!((had..=had + had / 4).contains(&moves), "{count} members: {moves} moves for {had} slots");
        placement = next;
    }
}

#[test]
fn the_first_members_share_what_one_had() {
    let mut placement = claim(&equals(1), Bits::DEFAULT, 3, None).unwrap();
    for count in 2..=3 {
        let next = claim(&equals(count), Bits::DEFAULT, 3, Some(&placement)).unwrap();
        let moves = placement.moves_to(&next);
        assert!(next.partitions.iter().all(|slots| slots.distinct_owners(3) == count));
        assert!(spread(&next, &equals(count)) <= 1);
        let fewest = 192 / count;
        assert!((fewest..=fewest + 4).contains(&moves.len()), "{count} members: {} moves", moves.len());
        placement = next;
    }
}

#[test]
fn the_load_of_a_lost_member_goes_to_all_others() {
    let members = equals(8);
    let placement = claim(&members, bits(256), 3, None).unwrap();
    let of_first = placement.partitions.iter().filter(|slots| slots.slots[0].owner.node == members[0].node);
    let seconds: BTreeSet<NodeId> = of_first.map(|slots| slots.slots[1].owner.node).collect();
    assert!(seconds.len() >= 6, "{}", seconds.len());
}

/// Clusters of one to eight members in one to four zones.
fn any_members() -> impl Strategy<Value = Vec<Claimant>> {
    let one = (1u32..5, 0usize..4);
    prop::collection::vec(one, 1..9).prop_map(|members| {
        let members = members.into_iter().enumerate();
        members.map(|(number, (capacity, zone))| member(number, capacity, &format!("z{zone}"))).collect()
    })
}

/// What must hold of every placement, whatever its members.
fn check_separation(
    placement: &Placement,
    members: &[Claimant],
    replicas: usize,
) -> Result<(), TestCaseError> {
    prop_assert_eq!(placement.check(), Ok(()));
    let zones = members.iter().map(|member| &member.zone).collect::<BTreeSet<_>>().len();
    for slots in &placement.partitions {
        for n in 1..=replicas {
            prop_assert_eq!(slots.distinct_owners(n), n.min(members.len()));
        }
        prop_assert_eq!(zones_of(slots, members).len(), replicas.min(zones));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_partition_has_a_node_or_a_zone_twice_while_there_are_others(
        members in any_members(),
        replicas in 1usize..5,
    ) {
        let placement = claim(&members, bits(32), replicas, None).unwrap();
        check_separation(&placement, &members, replicas)?;
    }

    #[test]
    fn equal_members_have_equally_much_of_every_prefix(count in 1usize..12, k in 3u32..8, replicas in 1usize..6) {
        let members = equals(count);
        let placement = claim(&members, bits(1 << k), replicas, None).unwrap();
        prop_assert!(spread(&placement, &members) <= 1);
    }

    #[test]
    fn the_order_of_the_members_does_not_matter_and_a_second_claim_moves_nothing(
        members in any_members(),
        replicas in 1usize..5,
    ) {
        let placement = claim(&members, bits(32), replicas, None).unwrap();
        let mut reversed = members.clone();
        reversed.reverse();
        prop_assert_eq!(&claim(&reversed, bits(32), replicas, None).unwrap(), &placement);
        let again = claim(&members, bits(32), replicas, Some(&placement)).unwrap();
        prop_assert_eq!(placement.moves_to(&again), Vec::<Move>::new());
    }

    #[test]
    fn any_change_of_members_keeps_the_rules(
        before in any_members(),
        after in any_members(),
        replicas in 1usize..4,
    ) {
        let first = claim(&before, bits(32), replicas, None).unwrap();
        let second = claim(&after, bits(32), replicas, Some(&first)).unwrap();
        check_separation(&second, &after, replicas)?;
    }

    #[test]
    fn equal_members_stay_balanced_over_joins_and_leaves(counts in prop::collection::vec(1usize..10, 2..6)) {
        let mut previous: Option<Placement> = None;
        for count in counts {
            let members = equals(count);
            let next = claim(&members, bits(32), 3, previous.as_ref()).unwrap();
            prop_assert!(spread(&next, &members) <= 1, "{} members", count);
            previous = Some(next);
        }
    }
}
