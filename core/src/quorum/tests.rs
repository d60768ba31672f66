use super::*;
use crate::mutant::{Mutant, Mutants};
use crate::ring::{
    ActiveList, Bits, Occupant, Partition, PartitionSlots, Phase, PreferenceList, RingMember, Seat,
    SlotEntry, Use,
};
use proptest::prelude::*;
use rondel_proto::id::{NodeId, StoreId, Ver};
use std::collections::BTreeSet;

const MEMBERS: u8 = 7;

fn node(number: u8) -> NodeId {
    NodeId(u128::from(number))
}

fn occupant(number: u8) -> Occupant {
    Occupant { node: node(number), store: StoreId(u128::from(number) + 100) }
}

fn stable(number: u8) -> SlotEntry {
    SlotEntry::stable(occupant(number))
}

fn moving(owner: u8, next: u8, phase: Phase) -> SlotEntry {
    SlotEntry { owner: occupant(owner), next: Some(occupant(next)), phase }
}

fn preferences(slots: &[SlotEntry]) -> PreferenceList {
    let members: Vec<RingMember<'_>> =
        (0..MEMBERS).map(|number| RingMember { node: node(number), zone: "z", may_stand_in: true }).collect();
    let slots = PartitionSlots { ver: Ver(1), slots: slots.to_vec() };
    PreferenceList::new(Partition::at(0, Bits::DEFAULT).unwrap(), &slots, &members)
}

fn list(slots: &[SlotEntry], down: &[u8]) -> ActiveList {
    let up = |it: NodeId| !down.iter().any(|&number| node(number) == it);
    preferences(slots).active(slots.len(), Use::Write, up)
}

/// All members are down but these.
fn only(slots: &[SlotEntry], use_: Use, up: &[u8]) -> ActiveList {
    let up = |it: NodeId| up.iter().any(|&number| node(number) == it);
    preferences(slots).active(slots.len(), use_, up)
}

fn ask_of(tally: &Tally, number: u8) -> AskId {
    tally.asks().find(|(_, ask)| ask.node == node(number)).expect("it was asked").0
}

fn acked(mut tally: Tally, numbers: &[u8]) -> Tally {
    for &number in numbers {
        let id = ask_of(&tally, number);
        tally.acked(id);
    }
    tally
}

fn achieved(slots: u8, owners: u8, nodes: u8) -> Verdict {
    Verdict::Satisfied(Achieved { slots, owners, nodes })
}

fn three() -> Vec<SlotEntry> {
    vec![stable(0), stable(1), stable(2)]
}

#[test]
fn writes_wait_are_satisfied_or_impossible() {
    let w2 = Quorum::of(2, 3);
    let table: [(&[u8], &[u8], Verdict); 6] = [
        (&[], &[], Verdict::Waiting),
        (&[0], &[], Verdict::Waiting),
        (&[0], &[1], Verdict::Waiting),
        (&[0, 2], &[], achieved(2, 2, 2)),
        (&[0, 2, 1], &[], achieved(3, 3, 3)),
        (&[0], &[1, 2], Verdict::Impossible(Unmet::Slots { need: 2, have: 1 })),
    ];
    for (acks, failures, expected) in table {
        let mut tally = acked(Tally::new(w2, &list(&three(), &[])).unwrap(), acks);
        for &number in failures {
            tally.failed(ask_of(&tally, number));
        }
        assert_eq!(tally.verdict(), expected, "{acks:?} {failures:?}");
    }
}

#[test]
fn an_ack_is_never_taken_back() {
    let mut tally = acked(Tally::new(Quorum::of(1, 3), &list(&three(), &[])).unwrap(), &[0]);
    tally.failed(ask_of(&tally, 0));
    assert_eq!(tally.verdict(), achieved(1, 1, 1));
}

#[test]
fn memory_counts_for_w_and_for_nothing_else() {
    let w3 = Quorum::of(3, 3);
    let waits = |need, have| Some(Unmet::Durable { need, have });
    let lacks = |need, have| Some(Unmet::Slots { need, have });
    let owners = |need, have| Some(Unmet::Owners { need, have });
    let nodes = |need, have| Some(Unmet::Nodes { need, have });
    type Case<'a> = (Quorum, &'a [u8], &'a [u8], Option<Unmet>);
    let table: [Case<'_>; 10] = [
        (w3, &[0, 1, 2], &[0, 1], waits(3, 2)),
        (w3, &[0, 1, 2], &[0, 1, 2], None),
        (Quorum { durable: 1, ..w3 }, &[0, 1], &[0], lacks(3, 2)),
        (Quorum { durable: 1, ..w3 }, &[0, 1, 2], &[], waits(1, 0)),
        (Quorum { durable: 1, ..w3 }, &[0, 1, 2], &[1], None),
        (Quorum { durable: 2, ..w3 }, &[0, 1, 2], &[1], waits(2, 1)),
        (Quorum { durable: 0, ..w3 }, &[0, 1, 2], &[], None),
        (Quorum { durable: 0, owners: 2, ..w3 }, &[0, 1, 2], &[2], owners(2, 1)),
        (Quorum { durable: 0, nodes: 1, ..w3 }, &[0, 1, 2], &[], nodes(1, 0)),
        (Quorum { durable: 3, ..Quorum::of(1, 3) }, &[0, 1, 2], &[0, 1], waits(3, 2)),
    ];
    for (quorum, accepted, acks, expected) in table {
        let mut tally = Tally::new(quorum, &list(&three(), &[])).unwrap();
        for &number in accepted {
            tally.accepted(ask_of(&tally, number));
        }
        let tally = acked(tally, acks);
        assert_eq!(tally.shortfall(), expected, "{quorum:?} {accepted:?} {acks:?}");
        let verdict = if expected.is_none() { achieved(3, 3, 3) } else { Verdict::Waiting };
        assert_eq!(tally.verdict(), verdict, "{quorum:?} {accepted:?} {acks:?}");
        assert_eq!(usize::from(tally.durable().slots), acks.len());
    }
}

#[test]
fn what_was_in_memory_and_is_lost_counts_no_more() {
    let quorum = Quorum { durable: 1, ..Quorum::of(2, 3) };
    let mut tally = Tally::new(quorum, &list(&three(), &[])).unwrap();
    for number in [0, 1, 2] {
        tally.accepted(ask_of(&tally, number));
    }
    for number in [0, 1] {
        tally.failed(ask_of(&tally, number));
        tally.accepted(ask_of(&tally, number));
    }
    assert_eq!(tally.verdict(), Verdict::Impossible(Unmet::Slots { need: 2, have: 1 }));
    let hedge = tally.hedge(0, node(3)).unwrap();
    tally.acked(hedge);
    assert_eq!(tally.verdict(), achieved(2, 1, 2), "a stand-in has it durably, and the third in memory");
}

#[test]
fn a_coordinator_that_counts_memory_as_durable_is_the_mutant_that_it_is_meant_to_be() {
    let quorum = Quorum { durable: 1, ..Quorum::of(2, 3) };
    let lies = Mutants::only(Mutant::CountMemoryAsDurable);
    let mut tally = Tally::with_mutants(quorum, &list(&three(), &[]), lies).unwrap();
    for number in [0, 1] {
        tally.accepted(ask_of(&tally, number));
    }
    assert_eq!(tally.verdict(), achieved(2, 2, 2));
}

#[test]
fn two_slots_on_one_node_are_not_two_copies_while_there_is_another_node() {
    let slots = [stable(0), stable(1), stable(0)];
    let tally = acked(Tally::new(Quorum::of(2, 3), &list(&slots, &[])).unwrap(), &[0]);
    assert_eq!(tally.achieved().slots, 2);
    assert_eq!(tally.verdict(), Verdict::Waiting);
    assert_eq!(acked(tally, &[1]).verdict(), achieved(3, 3, 2));
}

#[test]
fn one_node_alone_satisfies_any_sloppy_write() {
    let tally = Tally::new(Quorum::of(3, 3), &only(&three(), Use::Write, &[1])).unwrap();
    assert_eq!(acked(tally, &[1]).verdict(), achieved(3, 1, 1));
}

#[test]
fn owners_count_only_in_person() {
    let quorum = Quorum { owners: 2, ..Quorum::of(2, 3) };
    let down_one = list(&three(), &[1]);
    let stand_in = down_one.entries().iter().find(|entry| entry.stand_in != 0).unwrap().node;
    let mut tally = acked(Tally::new(quorum, &down_one).unwrap(), &[0]);
    let id = tally.asks().find(|(_, ask)| ask.node == stand_in).unwrap().0;
    tally.acked(id);
    assert_eq!(tally.achieved(), Achieved { slots: 2, owners: 1, nodes: 2 });
    assert_eq!(tally.verdict(), Verdict::Waiting);
    tally.failed(ask_of(&tally, 2));
    assert_eq!(tally.verdict(), Verdict::Impossible(Unmet::Owners { need: 2, have: 1 }));
}

#[test]
fn what_the_list_can_not_give_is_refused_at_once() {
    let owners = Quorum { owners: 3, ..Quorum::of(3, 3) };
    let refused = Tally::new(owners, &list(&three(), &[1])).map(|_| ());
    assert_eq!(refused, Err(Unmet::Owners { need: 3, have: 2 }));
    let confirms = Quorum { nodes: 3, ..Quorum::of(1, 3) };
    let refused = Tally::new(confirms, &list(&[stable(0), stable(1), stable(0)], &[])).map(|_| ());
    assert_eq!(refused, Err(Unmet::Nodes { need: 3, have: 2 }));
    let strict = preferences(&three()).strict(3, Use::Write, |it| it == node(0));
    let refused = Tally::new(Quorum { strict: true, ..Quorum::of(2, 3) }, &strict).map(|_| ());
    assert_eq!(refused, Err(Unmet::Slots { need: 2, have: 1 }));
}

#[test]
fn a_moving_slot_needs_both_sides_and_counts_as_the_side_that_gives_fewer_nodes() {
    // Node 1 takes slot 0 over and owns slot 1 already.
    let slots = [moving(0, 1, Phase::Dual), stable(1), stable(2)];
    let tally = Tally::new(Quorum::of(2, 3), &list(&slots, &[])).unwrap();
    let tally = acked(tally, &[1]);
    assert_eq!(tally.achieved(), Achieved { slots: 1, owners: 1, nodes: 1 });
    let tally = acked(tally, &[0]);
    assert_eq!(tally.achieved(), Achieved { slots: 2, owners: 2, nodes: 1 });
    assert_eq!(tally.verdict(), Verdict::Waiting, "after the move both slots are on node 1");
    assert_eq!(acked(tally, &[2]).verdict(), achieved(3, 3, 2));
}

#[test]
fn a_slot_being_filled_is_written_through_next_and_not_read() {
    let slots = [moving(0, 3, Phase::Fill), stable(1), stable(2)];
    let writes = acked(Tally::new(Quorum::of(2, 3), &list(&slots, &[])).unwrap(), &[3, 1]);
    assert_eq!(writes.verdict(), achieved(2, 2, 2));
    let reads = preferences(&slots).active(3, Use::Read, |_| true);
    assert!(Tally::new(Quorum::of(2, 3), &reads).is_ok());
    assert_eq!(Tally::new(Quorum::of(3, 3), &reads).map(|_| ()), Err(Unmet::Slots { need: 3, have: 2 }));
}

#[test]
fn a_hedge_lets_whoever_acks_first_count() {
    let mut tally = acked(Tally::new(Quorum::of(3, 3), &list(&three(), &[])).unwrap(), &[0, 1]);
    assert_eq!(tally.open_slots(), 0b100);
    assert_eq!(tally.hedge(0, node(5)), None, "that slot has succeeded");
    let hedge = tally.hedge(2, node(5)).unwrap();
    assert_eq!((tally.ask(hedge).owned, tally.ask(hedge).stand_in), (0, 0b100));
    tally.acked(hedge);
    assert_eq!(tally.verdict(), achieved(3, 2, 3));
    tally.acked(ask_of(&tally, 2));
    assert_eq!(tally.verdict(), achieved(3, 3, 4));
}

#[test]
fn a_hedge_of_a_moving_slot_stands_only_for_the_side_that_has_not_answered() {
    let slots = [moving(0, 3, Phase::Dual), stable(1)];
    let mut tally = acked(Tally::new(Quorum::of(2, 2), &list(&slots, &[])).unwrap(), &[0, 1]);
    tally.failed(ask_of(&tally, 3));
    assert_eq!((tally.open_slots(), tally.lost_slots()), (0b01, 0b01));
    let hedge = tally.hedge(0, node(4)).unwrap();
    assert_eq!(tally.verdict(), Verdict::Waiting);
    tally.acked(hedge);
    assert_eq!(tally.verdict(), achieved(2, 1, 2));
}

#[test]
fn strict_operations_are_not_hedged() {
    let list = preferences(&three()).strict(3, Use::Write, |_| true);
    let mut tally = Tally::new(Quorum { strict: true, ..Quorum::of(2, 3) }, &list).unwrap();
    assert_eq!(tally.hedge(0, node(5)), None);
}

#[test]
fn a_newer_list_keeps_what_covers_it_and_asks_those_it_lacks() {
    let mut tally = acked(Tally::new(Quorum::of(3, 3), &list(&three(), &[])).unwrap(), &[0, 1, 2]);
    assert_eq!(tally.verdict(), achieved(3, 3, 3));
    let newer = list(&[moving(0, 3, Phase::Dual), stable(1), stable(2)], &[]);
    tally.follow(&newer).unwrap();
    assert_eq!(tally.verdict(), Verdict::Waiting, "slot 0 is covered only with node 3");
    let unsent: Vec<(NodeId, u16)> = tally.unsent().map(|(_, ask)| (ask.node, ask.owned)).collect();
    assert_eq!(unsent, [(node(3), 0b001)]);
    assert_eq!(acked(tally, &[3]).verdict(), achieved(3, 3, 3));
}

#[test]
fn an_ack_of_a_store_that_is_gone_does_not_cover_the_one_that_replaces_it() {
    let mut tally = acked(Tally::new(Quorum::of(1, 1), &list(&[stable(0)], &[])).unwrap(), &[0]);
    let refilled = Occupant { store: StoreId(7), ..occupant(0) };
    let filling = SlotEntry { next: Some(refilled), phase: Phase::Fill, ..stable(0) };
    tally.follow(&list(&[filling], &[])).unwrap();
    assert_eq!(tally.verdict(), Verdict::Waiting);
    assert_eq!(tally.unsent().count(), 1);
}

#[test]
fn a_stand_in_that_becomes_the_next_owner_is_asked_as_such() {
    let mut tally = Tally::new(Quorum::of(3, 3), &list(&three(), &[])).unwrap();
    let hedge = tally.hedge(0, node(3)).unwrap();
    tally.acked(hedge);
    tally.follow(&list(&[moving(0, 3, Phase::Dual), stable(1), stable(2)], &[])).unwrap();
    let asked = tally.unsent().filter(|(_, ask)| ask.node == node(3)).map(|(_, ask)| ask.owned);
    assert_eq!(asked.collect::<Vec<_>>(), [0b001]);
}

#[test]
fn a_read_asks_the_fewest_that_would_do() {
    let list = list(&three(), &[]);
    let mut tally = Tally::new(Quorum::of(2, 3), &list).unwrap();
    let slowest_first = |ask: &Ask| u128::MAX - ask.node.0;
    let first = tally.choose(slowest_first);
    let nodes: Vec<u128> = first.iter().map(|&id| tally.ask(id).node.0).collect();
    assert_eq!(nodes, [2, 1]);
    assert_eq!(tally.choose(slowest_first), []);
    tally.failed(first[0]);
    let more = tally.choose(slowest_first);
    assert_eq!(more.iter().map(|&id| tally.ask(id).node.0).collect::<Vec<_>>(), [0]);
    assert_eq!(tally.choose_one(slowest_first), None);
}

#[test]
fn asks_that_turn_out_not_to_be_needed_are_not_sent() {
    let slots = [stable(0), stable(1), stable(2)];
    let quorum = Quorum { owners: 2, ..Quorum::of(2, 3) };
    let list = list(&slots, &[1]);
    let mut tally = Tally::new(quorum, &list).unwrap();
    let stand_ins_first = |ask: &Ask| ask.owned.count_ones();
    let chosen = tally.choose(stand_ins_first);
    assert!(chosen.iter().all(|&id| tally.ask(id).stand_in == 0), "a stand-in adds nothing to two owners");
    assert_eq!(chosen.len(), 2);
}

const FOUND: Answer = Answer::Found;
const NONE: Answer = Answer::NotFound(Absence::Sure);
const BEHIND: Answer = Answer::NotFound(Absence::Unsure);
const HINTED: Answer = Answer::NotFound(Absence::Lacking);
const FAILED: Answer = Answer::Failed;

/// Nodes 0, 1, 2 answer in this order.
fn read(quorum: Quorum, rule: ReadRule, answers: &[Answer]) -> ReadVerdict {
    let mut tally = ReadTally::new(quorum, rule, &only(&three(), Use::Read, &[0, 1, 2])).unwrap();
    for (number, &answer) in (0..).zip(answers) {
        tally.answered(ask_of(tally.tally(), number), answer);
    }
    tally.verdict()
}

#[test]
fn an_owner_that_may_lack_what_it_acknowledged_is_as_good_as_a_stand_in() {
    let rule = ReadRule { notfound_ok: true, basic_quorum: false };
    let strict = Quorum { owners: 2, ..Quorum::of(2, 3) };
    let gap = Answer::FoundInGap;
    let ReadVerdict::Found(achieved) = read(Quorum::of(2, 3), rule, &[gap, FOUND]) else {
        panic!("two have it")
    };
    assert_eq!((achieved.slots, achieved.nodes, achieved.owners), (2, 2, 1));
    assert_eq!(read(strict, rule, &[gap, FOUND]), ReadVerdict::Waiting);
    assert!(matches!(read(strict, rule, &[gap, FOUND, FOUND]), ReadVerdict::Found(_)));
    let unmet = Unmet::Owners { need: 2, have: 1 };
    assert_eq!(read(strict, rule, &[gap, FOUND, FAILED]), ReadVerdict::Unmet(unmet));
}

#[test]
fn reads_end_as_riaks_do() {
    let ok = ReadRule { notfound_ok: true, basic_quorum: false };
    let not_ok = ReadRule { notfound_ok: false, basic_quorum: false };
    let basic = ReadRule { notfound_ok: false, basic_quorum: true };
    let (r1, r2, r3) = (Quorum::of(1, 3), Quorum::of(2, 3), Quorum::of(3, 3));
    let pr2 = Quorum { owners: 2, ..r1 };
    let found = |count| ReadVerdict::Found(Achieved { slots: count, owners: count, nodes: count });
    let unmet = |need, have| ReadVerdict::Unmet(Unmet::Slots { need, have });
    let table: [(Quorum, ReadRule, &[Answer], ReadVerdict); 32] = [
        (r2, ok, &[], ReadVerdict::Waiting),
        (r2, ok, &[FOUND], ReadVerdict::Waiting),
        (r2, ok, &[FOUND, FOUND], found(2)),
        (r2, ok, &[FOUND, NONE], found(2)),
        (r2, ok, &[NONE, NONE], ReadVerdict::NotFound),
        (r2, ok, &[NONE, BEHIND], ReadVerdict::Waiting),
        (r2, ok, &[BEHIND, NONE, NONE], ReadVerdict::NotFound),
        (r2, ok, &[BEHIND, BEHIND], ReadVerdict::Waiting),
        (r2, ok, &[BEHIND, BEHIND, FAILED], unmet(2, 0)),
        (r2, ok, &[BEHIND, BEHIND, FOUND], found(3)),
        (r2, ok, &[BEHIND, FOUND, FAILED], unmet(2, 1)),
        (r2, not_ok, &[BEHIND, BEHIND, FOUND], unmet(2, 1)),
        (r2, ok, &[HINTED, NONE, NONE], ReadVerdict::NotFound),
        (r2, ok, &[HINTED, HINTED, NONE], unmet(2, 1)),
        (r2, ok, &[HINTED, BEHIND, BEHIND], unmet(2, 0)),
        (r2, ok, &[HINTED, HINTED, FOUND], unmet(2, 1)),
        (r1, ok, &[HINTED, HINTED, FOUND], found(1)),
        (r3, ok, &[BEHIND, NONE, NONE], ReadVerdict::NotFound),
        (r2, ok, &[FAILED, FAILED], unmet(2, 0)),
        (r2, ok, &[FAILED, NONE, FAILED], unmet(2, 1)),
        (r3, ok, &[FAILED], unmet(3, 0)),
        (r2, not_ok, &[NONE, FOUND, FOUND], found(2)),
        (r2, not_ok, &[NONE, NONE], ReadVerdict::NotFound),
        (r2, not_ok, &[FOUND, NONE, NONE], unmet(2, 1)),
        (r2, not_ok, &[NONE, FAILED], unmet(2, 0)),
        (r1, not_ok, &[NONE, NONE], ReadVerdict::Waiting),
        (r1, not_ok, &[NONE, NONE, NONE], ReadVerdict::NotFound),
        (r1, basic, &[NONE, NONE], ReadVerdict::NotFound),
        (r1, basic, &[NONE, FAILED], unmet(1, 0)),
        (pr2, ok, &[NONE, BEHIND, BEHIND], ReadVerdict::NotFound),
        (pr2, ok, &[NONE, BEHIND, FAILED], ReadVerdict::Unmet(Unmet::Owners { need: 2, have: 1 })),
        (pr2, ok, &[FOUND, FAILED, FAILED], ReadVerdict::Unmet(Unmet::Owners { need: 2, have: 1 })),
    ];
    for (quorum, rule, answers, expected) in table {
        assert_eq!(read(quorum, rule, answers), expected, "{quorum:?} {rule:?} {answers:?}");
    }
}

#[test]
fn slots_without_a_reader_do_not_end_a_basic_quorum_read_early() {
    let slots = [moving(0, 3, Phase::Fill), moving(1, 4, Phase::Fill), stable(2)];
    let basic = ReadRule { notfound_ok: false, basic_quorum: true };
    let list = preferences(&slots).active(3, Use::Read, |_| true);
    let mut tally = ReadTally::new(Quorum::of(1, 3), basic, &list).unwrap();
    assert_eq!(tally.verdict(), ReadVerdict::Waiting);
    tally.answered(ask_of(tally.tally(), 2), FOUND);
    assert_eq!(tally.verdict(), ReadVerdict::Found(Achieved { slots: 1, owners: 1, nodes: 1 }));
}

/// The rules of PROTOCOLS §2 word by word, over sets and without any cleverness.
mod reference {
    use super::*;

    pub(super) type Asked = (NodeId, Option<Occupant>, BTreeSet<Seat>);

    /// The asks of a list: who, as whom, standing in for what.
    pub(super) fn asks(list: &ActiveList) -> Vec<Asked> {
        let up = |seat: &Seat| list.entries().iter().any(|it| it.node == seat.member.node && it.owned != 0);
        let of = |entry: &crate::ring::Serving| {
            let member = list.seats().iter().map(|seat| seat.member).find(|member| member.node == entry.node);
            let stood = list.seats().iter().filter(|seat| entry.stand_in >> seat.slot & 1 == 1 && !up(seat));
            (entry.node, member.filter(|_| entry.owned != 0), stood.copied().collect())
        };
        list.entries().iter().map(of).collect()
    }

    pub(super) fn count(seats: &[Seat], asks: &[&Asked]) -> Achieved {
        let fills = |seat: &Seat, ask: &Asked| ask.1 == Some(seat.member) || ask.2.contains(seat);
        let nodes_of = |seat: &Seat| -> BTreeSet<NodeId> {
            asks.iter().filter(|ask| fills(seat, ask)).map(|ask| ask.0).collect()
        };
        let numbers: BTreeSet<u8> = seats.iter().map(|seat| seat.slot).collect();
        let of_slot = |slot: u8| seats.iter().filter(move |seat| seat.slot == slot);
        let acked: Vec<u8> = numbers
            .into_iter()
            .filter(|&slot| of_slot(slot).all(|seat| !nodes_of(seat).is_empty()))
            .collect();
        let by_owner =
            |slot: &&u8| of_slot(**slot).all(|seat| asks.iter().any(|ask| ask.1 == Some(seat.member)));
        // Every way to choose one side of each slot; a slot that is not moving has one side.
        let mut choices: Vec<BTreeSet<NodeId>> = vec![BTreeSet::new()];
        for &slot in &acked {
            choices = choices
                .iter()
                .flat_map(|chosen| of_slot(slot).map(move |seat| chosen | &nodes_of(seat)))
                .collect();
        }
        let small = |count: usize| u8::try_from(count).unwrap();
        Achieved {
            slots: small(acked.len()),
            owners: small(acked.iter().filter(by_owner).count()),
            nodes: small(choices.iter().map(BTreeSet::len).min().unwrap()),
        }
    }

    pub(super) fn satisfied(quorum: Quorum, in_list: u8, have: Achieved, durable: Achieved) -> bool {
        have.slots >= quorum.need
            && have.nodes >= quorum.need.min(in_list)
            && durable.slots >= quorum.durable
            && durable.nodes >= quorum.durable.min(in_list)
            && durable.owners >= quorum.owners
            && durable.nodes >= quorum.nodes
    }
}

fn any_slots() -> impl Strategy<Value = Vec<SlotEntry>> {
    let slot = (0..MEMBERS, 1..MEMBERS, 0u8..8).prop_map(|(owner, other, phase)| {
        let next = (owner + other) % MEMBERS;
        match phase {
            0 => moving(owner, next, Phase::Dual),
            1 => moving(owner, next, Phase::Switch),
            2 => moving(owner, next, Phase::Back),
            3 => moving(owner, next, Phase::Fill),
            _ => stable(owner),
        }
    });
    prop::collection::vec(slot, 1..4)
}

/// One thing that happens to a tally: the ask at a place of the list succeeds or fails, or a slot is hedged.
#[derive(Debug, Clone)]
enum Event {
    Accepted(usize),
    Acked(usize),
    Failed(usize),
    Hedge(u8, u8),
}

fn any_events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => (0usize..8).prop_map(Event::Accepted),
        4 => (0usize..8).prop_map(Event::Acked),
        3 => (0usize..8).prop_map(Event::Failed),
        1 => (0u8..3, 0..MEMBERS).prop_map(|(slot, node)| Event::Hedge(slot, node)),
    ];
    prop::collection::vec(event, 0..10)
}

prop_compose! {
    fn any_quorum()(need in 1u8..4, durable in 0u8..4, owners in 0u8..3, nodes in 0u8..4) -> Quorum {
        Quorum { n: 3, need, durable, owners, nodes, strict: false }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_tally_equals_the_rules_word_by_word(
        slots in any_slots(),
        up: u8,
        quorum in any_quorum(),
        events in any_events(),
    ) {
        let list = preferences(&slots).active(slots.len(), Use::Write, |it| up >> it.0 & 1 == 1);
        let mut asked = reference::asks(&list);
        let all: Vec<_> = asked.iter().collect();
        let in_list = reference::count(list.seats(), &all);
        let tally = Tally::new(quorum, &list);
        prop_assert_eq!(tally.is_ok(), reference::satisfied(quorum, in_list.nodes, in_list, in_list));
        let Ok(mut tally) = tally else { return Ok(()) };
        let mut states = vec![AskState::Sent; asked.len()];
        let (mut was_satisfied, mut was_impossible) = (false, false);
        for event in events {
            let ids: Vec<AskId> = tally.asks().map(|(id, _)| id).collect();
            match event {
                Event::Acked(at) if at < ids.len() => {
                    // An ask that was given up may still succeed.
                    was_impossible &= states[at] != AskState::Failed;
                    tally.acked(ids[at]);
                    states[at] = AskState::Acked;
                }
                Event::Accepted(at) if at < ids.len() => {
                    tally.accepted(ids[at]);
                    if states[at] == AskState::Sent {
                        states[at] = AskState::Accepted;
                    }
                }
                Event::Failed(at) if at < ids.len() && states[at] != AskState::Acked => {
                    // What was only in memory is lost.
                    was_satisfied &= states[at] != AskState::Accepted;
                    tally.failed(ids[at]);
                    states[at] = AskState::Failed;
                }
                Event::Hedge(slot, number) => {
                    let acked: Vec<_> = asked.iter().zip(&states).filter(|(_, it)| **it == AskState::Acked).collect();
                    let filled = |seat: &&Seat| {
                        acked.iter().any(|(ask, _)| ask.1 == Some(seat.member) || ask.2.contains(seat))
                    };
                    let open: BTreeSet<Seat> =
                        list.seats().iter().filter(|seat| seat.slot == slot && !filled(seat)).copied().collect();
                    let hedged = tally.hedge(slot, node(number));
                    prop_assert_eq!(hedged.is_some(), !open.is_empty());
                    if hedged.is_some() {
                        asked.push((node(number), None, open));
                        states.push(AskState::Sent);
                        was_impossible = false;
                    }
                }
                Event::Accepted(_) | Event::Acked(_) | Event::Failed(_) => {}
            }
            let only = |wanted: &[AskState]| -> Vec<&reference::Asked> {
                asked.iter().zip(&states).filter(|(_, it)| wanted.contains(it)).map(|(ask, _)| ask).collect()
            };
            let acked = only(&[AskState::Acked]);
            let durable = reference::count(list.seats(), &acked);
            prop_assert_eq!(tally.durable(), durable);
            let have = reference::count(list.seats(), &only(&[AskState::Acked, AskState::Accepted]));
            prop_assert_eq!(tally.achieved(), have);
            let satisfied = reference::satisfied(quorum, in_list.nodes, have, durable);
            let open = only(&[AskState::Sent, AskState::Accepted]);
            let possible = (0..1u32 << open.len()).any(|some| {
                let mut then = acked.clone();
                then.extend(open.iter().enumerate().filter(|(at, _)| some >> at & 1 == 1).map(|(_, ask)| *ask));
                let then = reference::count(list.seats(), &then);
                reference::satisfied(quorum, in_list.nodes, then, then)
            });
            match tally.verdict() {
                Verdict::Satisfied(achieved) => prop_assert!(satisfied && achieved == have),
                Verdict::Waiting => prop_assert!(!satisfied && possible),
                Verdict::Impossible(_) => prop_assert!(!satisfied && !possible),
            }
            prop_assert!(satisfied || !was_satisfied, "satisfied once, satisfied for ever");
            prop_assert!(!possible || !was_impossible, "impossible stays impossible while nobody else succeeds");
            (was_satisfied, was_impossible) = (satisfied, !possible);
        }
    }

    #[test]
    fn what_is_chosen_would_do_and_nothing_of_it_can_be_left_out(
        slots in any_slots(),
        up: u8,
        quorum in any_quorum(),
        ranks: [u8; 8],
    ) {
        let list = preferences(&slots).active(slots.len(), Use::Read, |it| up >> it.0 & 1 == 1);
        let Ok(mut tally) = Tally::new(quorum, &list) else { return Ok(()) };
        let chosen = tally.choose(|ask| ranks[usize::try_from(ask.node.0).unwrap()]);
        for left_out in std::iter::once(None).chain(chosen.iter().copied().map(Some)) {
            let mut answered = tally.clone();
            for &id in chosen.iter().filter(|id| Some(**id) != left_out) {
                answered.acked(id);
            }
            prop_assert_eq!(matches!(answered.verdict(), Verdict::Satisfied(_)), left_out.is_none());
        }
    }

    #[test]
    fn a_newer_list_is_satisfied_once_everybody_it_asks_has_acked(
        first in any_slots(),
        second in any_slots(),
        acks: u8,
        need in 1u8..4,
    ) {
        let quorum = Quorum::of(need, 3);
        let all_up = |slots: &[SlotEntry]| preferences(slots).active(slots.len(), Use::Write, |_| true);
        let Ok(mut tally) = Tally::new(quorum, &all_up(&first)) else { return Ok(()) };
        let ids: Vec<AskId> = tally.asks().map(|(id, _)| id).collect();
        for (at, &id) in ids.iter().enumerate() {
            if acks >> at & 1 == 1 { tally.acked(id) } else { tally.failed(id) }
        }
        let followed = tally.follow(&all_up(&second));
        prop_assert_eq!(followed.is_ok(), Tally::new(quorum, &all_up(&second)).is_ok());
        let asked: Vec<(AskId, NodeId)> = tally.unsent().map(|(id, ask)| (id, ask.node)).collect();
        let acked: BTreeSet<NodeId> =
            tally.asks().filter(|(_, ask)| ask.state == AskState::Acked).map(|(_, ask)| ask.node).collect();
        prop_assert!(asked.iter().all(|(_, node)| !acked.contains(node)), "nobody who has it is asked again");
        asked.iter().for_each(|(id, _)| tally.acked(*id));
        prop_assert_eq!(followed.is_ok(), matches!(tally.verdict(), Verdict::Satisfied(_)));
    }
}
