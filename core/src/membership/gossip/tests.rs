//! Gossip between machines side by side: single exchanges, clashes, bounds, and convergence of any history.

use super::*;
use crate::env::Rng;
use proptest::prelude::*;
use rondel_proto::{Msg, Wire, id::Epoch};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);

fn facts(boot: u64, nonce: u64, epoch: u64) -> Facts {
    Facts { boot, nonce, epoch: Epoch(epoch), ..Facts::default() }
}

fn gossip(me: NodeId, facts: Facts) -> Gossip {
    let mut gossip = Gossip::new(me, facts).expect("short");
    gossip.set_members([A, B, C]);
    gossip
}

fn events(gossip: &mut Gossip) -> Vec<Event> {
    std::iter::from_fn(|| gossip.poll()).collect()
}

/// What the other side reads, after a message that has to fit into a frame.
fn travel<T: Wire>(value: &T) -> T {
    let archive = Msg::new(value).bytes().clone();
    assert!(archive.len() <= FRAME_INLINE_BYTES_MAX, "{} bytes", archive.len());
    Msg::<T>::from_bytes(archive).expect("our own archive").to_owned()
}

/// One exchange of which only the first `messages` arrive; gives how many entries travelled.
fn exchange_partly(from: &mut Gossip, to: &mut Gossip, messages: usize) -> usize {
    if messages == 0 {
        return 0;
    }
    let answer = to.handle_digest(&travel(&from.begin()), 0);
    let mut entries = answer.delta.len();
    if messages > 1
        && let Some(delta) = from.handle_answer(travel(&answer))
        && messages > 2
    {
        entries += delta.entries.len();
        to.handle_delta(travel(&delta));
    }
    entries
}

fn exchange(from: &mut Gossip, to: &mut Gossip) -> usize {
    exchange_partly(from, to, 3)
}

/// Two different nodes of a slice.
fn pair(nodes: &mut [Gossip], from: usize, to: usize) -> (&mut Gossip, &mut Gossip) {
    let [from, to] = nodes.get_disjoint_mut([from, to]).expect("different nodes");
    (from, to)
}

#[test]
fn one_exchange_brings_both_sides_what_they_lack() {
    let (mut a, mut b) = (gossip(A, facts(1, 1, 10)), gossip(B, facts(1, 2, 20)));
    assert_eq!(exchange(&mut a, &mut b), 2);
    assert_eq!(a.facts(B).unwrap().epoch, Epoch(20));
    assert_eq!(b.facts(A).unwrap().epoch, Epoch(10));
    assert_eq!(events(&mut a), [Event::Learnt { node: B }]);
}

#[test]
fn those_who_agree_exchange_digests_alone() {
    let (mut a, mut b) = (gossip(A, facts(1, 1, 10)), gossip(B, facts(1, 2, 20)));
    exchange(&mut a, &mut b);
    assert_eq!(exchange(&mut a, &mut b), 0);
    a.set_own(facts(1, 1, 10)).unwrap();
    assert_eq!(exchange(&mut b, &mut a), 0, "saying the same again is no news");
}

#[test]
fn facts_travel_by_way_of_others() {
    let (mut a, mut b, mut c) =
        (gossip(A, facts(1, 1, 10)), gossip(B, facts(1, 2, 20)), gossip(C, facts(1, 3, 30)));
    exchange(&mut a, &mut b);
    exchange(&mut c, &mut b);
    assert_eq!(c.facts(A).unwrap().epoch, Epoch(10));
}

#[test]
fn a_later_run_wins_over_any_version_of_an_earlier_one() {
    let (mut old, mut b) = (gossip(A, facts(1, 1, 0)), gossip(B, facts(1, 2, 0)));
    for epoch in 1..50 {
        old.set_own(facts(1, 1, epoch)).unwrap();
    }
    exchange(&mut old, &mut b);
    let mut new = gossip(A, facts(2, 7, 3));
    exchange(&mut new, &mut b);
    assert_eq!(b.facts(A).unwrap().epoch, Epoch(3));
    exchange(&mut old, &mut b);
    assert_eq!(b.facts(A).unwrap().epoch, Epoch(3), "what the earlier run said stays forgotten");
    assert!(
        events(&mut new).iter().all(|event| matches!(event, Event::Learnt { .. })),
        "a restart is no clash"
    );
}

#[test]
fn a_node_that_others_have_seen_in_a_later_run_learns_so_at_once() {
    let (mut b, mut later) = (gossip(B, facts(1, 2, 0)), gossip(A, facts(5, 50, 0)));
    exchange(&mut later, &mut b);
    let mut rolled_back = gossip(A, facts(3, 33, 0));
    exchange(&mut rolled_back, &mut b);
    assert!(events(&mut rolled_back).contains(&Event::Clash { node: A, boot: 5, nonce: 50 }));
    assert_eq!(b.facts(A).unwrap().boot, 5, "and nobody hears it until its boot number is higher");
    rolled_back.set_own(facts(6, 66, 0)).unwrap();
    exchange(&mut rolled_back, &mut b);
    assert_eq!(b.facts(A).unwrap().boot, 6);
}

#[test]
fn two_copies_of_one_node_both_hear_of_each_other_and_all_notice() {
    for (first, second) in [(10, 20), (20, 10)] {
        let (mut one, mut two) = (gossip(A, facts(4, first, 0)), gossip(A, facts(4, second, 0)));
        let mut b = gossip(B, facts(1, 2, 0));
        exchange(&mut one, &mut b);
        exchange(&mut two, &mut b);
        assert!(events(&mut b).contains(&Event::Clash { node: A, boot: 4, nonce: second }), "the observer");
        assert!(
            events(&mut two).contains(&Event::Clash { node: A, boot: 4, nonce: first }),
            "the second copy"
        );
        // The observer keeps one of the two; the other copy hears of it, the kept one when it meets the other's tale.
        exchange(&mut one, &mut b);
        exchange(&mut one, &mut two);
        assert!(
            events(&mut one).contains(&Event::Clash { node: A, boot: 4, nonce: second }),
            "the first copy"
        );
    }
}

#[test]
fn a_clash_is_reported_once_and_not_at_every_exchange() {
    let (mut one, mut b) = (gossip(A, facts(4, 10, 0)), gossip(B, facts(1, 2, 0)));
    exchange(&mut gossip(A, facts(4, 20, 0)), &mut b);
    for _ in 0..5 {
        exchange(&mut one, &mut b);
    }
    let clashes = events(&mut one).iter().filter(|event| matches!(event, Event::Clash { .. })).count();
    assert_eq!(clashes, 1);
}

#[test]
fn a_machine_made_anew_within_one_run_outbids_what_it_said_before() {
    let (mut before, mut b) = (gossip(A, facts(1, 1, 0)), gossip(B, facts(1, 2, 0)));
    for epoch in 1..9 {
        before.set_own(facts(1, 1, epoch)).unwrap();
    }
    exchange(&mut before, &mut b);
    let mut anew = gossip(A, facts(1, 1, 100));
    exchange(&mut anew, &mut b);
    exchange(&mut anew, &mut b);
    assert_eq!(b.facts(A).unwrap().epoch, Epoch(100));
    assert!(!events(&mut anew).iter().any(|event| matches!(event, Event::Clash { .. })));
}

#[test]
fn those_who_are_gone_do_not_live_on_in_gossip() {
    let (mut a, mut b, mut c) =
        (gossip(A, facts(1, 1, 0)), gossip(B, facts(1, 2, 0)), gossip(C, facts(1, 3, 0)));
    exchange(&mut c, &mut b);
    exchange(&mut a, &mut b);
    a.set_members([A, B]);
    assert!(a.facts(C).is_none());
    exchange(&mut b, &mut a);
    exchange(&mut a, &mut b);
    assert!(a.facts(C).is_none(), "although another member has not heard of the decision");
}

#[test]
fn facts_too_long_to_travel_are_refused_and_the_old_ones_stand() {
    let mut a = gossip(A, facts(1, 1, 5));
    let long = Facts { services: vec![0; FACTS_BYTES_MAX], ..facts(1, 1, 6) };
    let error = a.set_own(long.clone()).unwrap_err();
    assert!(error.bytes > FACTS_BYTES_MAX && Gossip::new(A, long.clone()).is_err());
    assert_eq!(a.facts(A).unwrap().epoch, Epoch(5));
    a.handle_delta(Delta { entries: vec![Entry { node: B, version: 1, facts: long }] });
    assert!(a.facts(B).is_none(), "from outside too");
}

#[test]
fn a_thousand_long_facts_travel_in_messages_that_each_fit_a_frame() {
    let ids: Vec<NodeId> = (1..=MEMBERS_MAX as u128).map(NodeId).collect();
    let member = |id: NodeId| {
        let services = (0..500).collect();
        let mut gossip = Gossip::new(id, Facts { services, ..facts(1, 9, 1) }).expect("short enough");
        gossip.set_members(ids.iter().copied());
        gossip
    };
    let (mut full, mut empty) = (member(A), member(B));
    for id in ids.iter().skip(2) {
        exchange(&mut member(*id), &mut full);
    }
    let mut exchanges = 0;
    while empty.iter().count() < MEMBERS_MAX {
        assert!(exchange(&mut empty, &mut full) > 0, "every exchange makes headway");
        exchanges += 1;
    }
    assert!(exchanges < 60, "{exchanges}: messages are filled");
}

#[test]
fn partners_are_mostly_up_and_sometimes_down() {
    let (gossip, mut rng) = (gossip(A, facts(1, 1, 0)), Rng::from_seed(1));
    let mut asked = BTreeMap::new();
    for _ in 0..1000 {
        for partner in gossip.partners(|node| node == B, &mut rng) {
            *asked.entry(partner).or_insert(0) += 1;
        }
    }
    assert_eq!(asked[&B], 1000, "one that is up, each time");
    assert!((400..600).contains(&asked[&C]), "{}: one down against one up, every other time", asked[&C]);
    assert!(!gossip.partners(|_| false, &mut rng).is_empty(), "if all are down, one of them");
}

/// One step of a history.
#[derive(Debug, Clone)]
enum Step {
    Say(usize, u64),
    Restart(usize),
    Exchange { from: usize, to: usize, messages: usize },
}

const NODES: usize = 5;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..NODES, any::<u64>()).prop_map(|(node, epoch)| Step::Say(node, epoch)),
        1 => (0..NODES).prop_map(Step::Restart),
        6 => (0..NODES, 1..NODES, 0_usize..=3).prop_map(|(from, distance, messages)| {
            Step::Exchange { from, to: (from + distance) % NODES, messages }
        }),
    ]
}

fn member(index: usize, boot: u64) -> Gossip {
    let own = facts(boot, boot * 100 + index as u64, 0);
    let mut gossip = Gossip::new(NodeId(index as u128), own).expect("short");
    gossip.set_members((0..NODES as u128).map(NodeId));
    gossip
}

fn view(gossip: &Gossip) -> BTreeMap<NodeId, Facts> {
    gossip.iter().map(|(node, facts)| (node, facts.clone())).collect()
}

fn stamps(gossip: &Gossip) -> BTreeMap<NodeId, Stamp> {
    gossip.begin().stamps.into_iter().collect()
}

proptest! {
    /// Whatever was said, lost and restarted: knowledge never goes back, and once a ring of exchanges has gone
    /// round twice everybody knows exactly what each says of itself.
    #[test]
    fn everybody_comes_to_know_what_each_last_said(steps in prop::collection::vec(step(), 0..80)) {
        let mut nodes: Vec<Gossip> = (0..NODES).map(|index| member(index, 1)).collect();
        let mut boots = [1; NODES];
        for step in steps {
            match step {
                Step::Say(node, epoch) => {
                    let own = Facts { epoch: Epoch(epoch), ..nodes[node].own().facts.clone() };
                    nodes[node].set_own(own).unwrap();
                }
                Step::Restart(node) => {
                    boots[node] += 1;
                    nodes[node] = member(node, boots[node]);
                }
                Step::Exchange { from, to, messages } => {
                    let before = (stamps(&nodes[from]), stamps(&nodes[to]));
                    let (one, other) = pair(&mut nodes, from, to);
                    exchange_partly(one, other, messages);
                    for (gossip, before) in [(&nodes[from], before.0), (&nodes[to], before.1)] {
                        let after = stamps(gossip);
                        prop_assert!(before.iter().all(|(node, stamp)| after[node] >= *stamp));
                    }
                }
            }
        }
        for at in 0..2 * NODES {
            let (one, other) = pair(&mut nodes, at % NODES, (at + 1) % NODES);
            exchange(one, other);
        }
        let truth: BTreeMap<NodeId, Facts> =
            nodes.iter().map(|gossip| (gossip.me, gossip.own().facts.clone())).collect();
        for gossip in &mut nodes {
            prop_assert_eq!(view(gossip), truth.clone());
            let clash = events(gossip).into_iter().find(|event| matches!(event, Event::Clash { .. }));
            prop_assert_eq!(clash, None);
        }
    }
}
