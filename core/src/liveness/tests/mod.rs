//! Detectors in a virtual network. Every test runs over many seeds, and names the one that failed.

mod network;

pub(super) use network::epoch;

use super::{Ack, Claim, Config, Generation, Liveness, Message, Output, Ping, Rumour, Status};
use crate::env::Rng;
use network::Network;
use rondel_proto::id::NodeId;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);

/// The longest a dead member may stay undeclared where no message is lost: every member has its turn within two
/// rounds, the probe takes two timeouts, the suspicion at most its maximum; then the others have to hear of it.
fn detection_bound(size: u32) -> Duration {
    let config = Config::default();
    let suspicion = super::suspicion::timeout(0, size as usize, &config);
    config.probe_interval * 2 * size + config.probe_timeout * 4 + suspicion
}

#[test]
fn nobody_is_ever_suspected_in_a_quiet_network() {
    for seed in 0..20 {
        let mut network = Network::new(7, seed);
        network.run(60 * SECOND);
        assert_eq!(network.changes, [], "seed {seed}");
    }
}

#[test]
fn a_killed_node_is_dead_to_all_within_the_bound() {
    for size in [2, 3, 5, 16, 64] {
        for seed in 0..10 {
            let mut network = Network::new(u128::from(size), seed);
            network.run(5 * SECOND);
            network.crash(B);
            let found = network.run_until(detection_bound(size), |network| network.all_see(B, Status::Dead));
            assert!(found, "size {size}, seed {seed}: {:?} after {:?}", network.views(B), network.elapsed());
            network.run(10 * SECOND);
            assert!(network.all_see(B, Status::Dead), "and stays dead: size {size}, seed {seed}");
            let others_suffer = network.changes.iter().any(|(_, _, node, _)| *node != B);
            assert!(!others_suffer, "nobody else is suspected: size {size}, seed {seed}");
        }
    }
}

#[test]
fn a_killed_node_of_three_is_mostly_dead_to_all_within_two_and_a_half_seconds() {
    let runs = 200;
    let quick = (0..runs).filter(|seed| {
        let mut network = Network::new(3, *seed);
        network.run(5 * SECOND);
        network.crash(B);
        network.run_until(2500 * MS, |network| network.all_see(B, Status::Dead))
    });
    let quick = quick.count();
    assert!(quick * 10 >= usize::try_from(runs).unwrap() * 9, "{quick} of {runs}");
}

#[test]
fn who_finds_a_silent_member_does_not_doubt_itself_while_its_helpers_answer() {
    for seed in 0..10 {
        let mut network = Network::new(5, seed);
        network.run(5 * SECOND);
        network.crash(B);
        assert!(network.run_until(detection_bound(5), |network| !network.changes.is_empty()), "seed {seed}");
        let (_, finder, _, _) = network.changes[0];
        assert_eq!(network.nodes[&finder].health_score(), 0, "seed {seed}");
    }
}

#[test]
fn a_refused_connection_speeds_the_declaration_up() {
    for seed in 0..50 {
        let mut network = Network::new(3, seed);
        network.run(5 * SECOND);
        network.crash(B);
        for observer in [A, C] {
            network.input(observer, |node, now| node.report_unreachable(B, now));
        }
        let found = network.run_until(1500 * MS, |network| network.all_see(B, Status::Dead));
        assert!(found, "seed {seed}: {:?}", network.changes);
    }
}

#[test]
fn a_report_of_unreachability_alone_harms_nobody_who_answers() {
    let mut network = Network::new(3, 1);
    network.run(5 * SECOND);
    for _ in 0..100 {
        network.input(A, |node, now| node.report_unreachable(B, now));
        network.run(50 * MS);
    }
    assert_eq!(network.changes, []);
}

#[test]
fn a_live_node_behind_heavy_loss_is_almost_never_declared_dead_and_always_recovers() {
    let mut declared = 0;
    for seed in 0..10 {
        for size in [3, 5, 9] {
            let mut network = Network::new(size, seed);
            network.loss = 0.2;
            network.run(120 * SECOND);
            declared += network.changes.iter().filter(|(_, _, _, status)| *status == Status::Dead).count();
            assert!(
                !network.changes.is_empty(),
                "loss this heavy must raise suspicions, or the test shows nothing"
            );
            network.loss = 0.0;
            let healed = network.run_until(30 * SECOND, Network::everyone_is_alive);
            assert!(healed, "size {size}, seed {seed}");
        }
    }
    assert!(declared <= 1, "{declared} false deaths in an hour");
}

#[test]
fn a_killed_node_is_found_through_heavy_loss_too() {
    for seed in 0..30 {
        let mut network = Network::new(5, seed);
        network.loss = 0.2;
        network.run(5 * SECOND);
        network.crash(B);
        let found = network.run_until(60 * SECOND, |network| network.all_see(B, Status::Dead));
        assert!(found, "seed {seed}: {:?}", network.views(B));
    }
}

#[test]
fn a_one_way_cut_between_two_nodes_is_bridged_by_a_helper() {
    for seed in 0..20 {
        let mut network = Network::new(3, seed);
        network.cut(A, B);
        network.run(60 * SECOND);
        assert_eq!(network.changes, [], "seed {seed}");
    }
}

#[test]
fn a_deaf_node_cannot_talk_the_others_into_burying_the_living() {
    for seed in 0..20 {
        let mut network = Network::new(5, seed);
        network.run(5 * SECOND);
        for other in 2..=5 {
            network.cut(NodeId(other), A);
        }
        let found = network.run_until(detection_bound(5), |network| network.all_see(A, Status::Dead));
        assert!(found, "seed {seed}: it can't answer, so it is dead");
        network.run(30 * SECOND);
        let wronged = network
            .changes
            .iter()
            .filter(|(_, observer, node, status)| *observer != A && *node != A && *status == Status::Dead);
        assert_eq!(wronged.count(), 0, "seed {seed}");
        network.mend();
        assert!(network.run_until(15 * SECOND, Network::everyone_is_alive), "seed {seed}");
    }
}

#[test]
fn both_sides_of_a_split_bury_each_other_and_come_back_when_it_heals() {
    for seed in 0..20 {
        let mut network = Network::new(5, seed);
        let (left, right) = ([A, B], [C, NodeId(4), NodeId(5)]);
        network.split(&left, &right);
        network.run(30 * SECOND);
        for observer in &left {
            for node in &right {
                assert_eq!(network.nodes[observer].status(*node), Some(Status::Dead), "seed {seed}");
                assert_eq!(network.nodes[node].status(*observer), Some(Status::Dead), "seed {seed}");
            }
        }
        assert_eq!(network.nodes[&A].status(B), Some(Status::Alive), "seed {seed}");
        network.mend();
        assert!(network.run_until(15 * SECOND, Network::everyone_is_alive), "seed {seed}");
    }
}

#[test]
fn a_paused_node_refutes_its_death_and_accuses_nobody() {
    for seed in 0..50 {
        let mut network = Network::new(3, seed);
        network.run(5 * SECOND);
        network.pause(B);
        network.run(10 * SECOND);
        assert!(network.declared_dead(B) > 0, "seed {seed}");
        network.resume(B);
        assert!(
            network.run_until(3 * SECOND, Network::everyone_is_alive),
            "seed {seed}: {:?}",
            network.changes
        );
        assert!(network.nodes[&B].generation() > Generation(0), "seed {seed}");
        let accused = network.changes.iter().any(|(_, observer, _, _)| *observer == B);
        assert!(!accused, "its own absence proves nothing of the others: seed {seed}");
    }
}

#[test]
fn a_restarted_node_is_alive_again_although_it_forgot_its_generation() {
    for seed in 0..20 {
        let mut network = Network::new(5, seed);
        for _ in 0..3 {
            network.crash(B);
            assert!(
                network.run_until(20 * SECOND, |network| network.all_see(B, Status::Dead)),
                "seed {seed}"
            );
            network.restart(B);
            assert!(network.run_until(10 * SECOND, Network::everyone_is_alive), "seed {seed}");
        }
    }
}

#[test]
fn many_deaths_at_once_are_all_found() {
    for seed in 0..5 {
        let mut network = Network::new(20, seed);
        network.run(5 * SECOND);
        let dead: Vec<NodeId> = (12..=20).map(NodeId).collect();
        dead.iter().for_each(|node| network.crash(*node));
        let found = network.run_until(4 * detection_bound(20), |network| {
            dead.iter().all(|node| network.all_see(*node, Status::Dead))
        });
        assert!(found, "seed {seed}");
        let living = (1..=11).map(NodeId);
        assert_eq!(living.map(|node| network.declared_dead(node)).sum::<usize>(), 0, "seed {seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut network = Network::new(5, seed);
        network.loss = 0.3;
        network.run(20 * SECOND);
        network.crash(C);
        network.run(20 * SECOND);
        (network.changes, network.sent)
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn traffic_per_node_does_not_grow_with_the_cluster() {
    let per_node = |size: u32| {
        let mut network = Network::new(u128::from(size), 1);
        network.run(60 * SECOND);
        network.sent / u64::from(size)
    };
    assert_eq!(per_node(4), per_node(64), "a probe and its answer each interval, whatever the size");
}

#[test]
fn the_slowest_is_demoted_but_stays_alive() {
    let mut network = Network::new(4, 1);
    for _ in 0..200 {
        network.run(20 * MS);
        for (node, latency) in [(B, 5 * MS), (C, 6 * MS), (NodeId(4), 200 * MS)] {
            network.input(A, |detector, now| detector.report_latency(node, latency, now));
        }
    }
    assert_eq!(network.slow, [(A, NodeId(4), true)]);
    assert!(network.nodes[&A].is_slow(NodeId(4)) && network.everyone_is_alive());
}

/// A detector among four whose messages go nowhere, ticked when it wants to be.
struct Alone {
    node: Liveness,
    now: std::time::Instant,
}

impl Alone {
    fn new() -> Self {
        let now = epoch();
        let mut node = Liveness::new(A, Config::default(), Rng::from_seed(1), now);
        node.set_members((1..=4).map(NodeId));
        Self { node, now }
    }

    /// Ticks until `node` is held to be `status`; how long that took, or none within a minute.
    fn wait_for(&mut self, node: NodeId, status: Status) -> Option<Duration> {
        let start = self.now;
        while self.node.status(node) != Some(status) {
            self.now = self.node.deadline();
            if self.now > start + 60 * SECOND {
                return None;
            }
            self.node.tick(self.now);
        }
        Some(self.now - start)
    }

    fn hear(&mut self, from: NodeId, rumour: Rumour) {
        let ping = Ping { sequence: 1, generation: Generation(0), rumours: vec![rumour] };
        self.node.handle(from, Message::Ping(ping), self.now);
    }
}

#[test]
fn a_rumour_of_death_kills_only_who_does_not_answer_us_either() {
    let mut alone = Alone::new();
    alone.hear(B, Rumour { node: C, by: B, generation: Generation(0), claim: Claim::Dead });
    assert_eq!(alone.node.status(C), Some(Status::Suspect), "not on hearsay");
    let waited = alone.wait_for(C, Status::Dead).expect("its silence confirms it");
    assert!(waited < Config::default().suspicion_min, "{waited:?}: no need to wait once two agree");

    let mut answered = Alone::new();
    answered.hear(B, Rumour { node: C, by: B, generation: Generation(0), claim: Claim::Dead });
    answered.node.report_contact(C, answered.now);
    for _ in 0..4 {
        answered.now += 250 * MS;
        answered.node.report_contact(C, answered.now);
        answered.node.tick(answered.now);
    }
    assert_eq!(
        answered.node.status(C),
        Some(Status::Suspect),
        "it answers us, so it gets its time to object"
    );
}

#[test]
fn confirmations_of_others_hasten_a_death() {
    let lone = Alone::new().wait_for(C, Status::Dead).expect("silent");
    let mut confirmed = Alone::new();
    let suspected = confirmed.wait_for(C, Status::Suspect).expect("silent");
    for by in [B, NodeId(4)] {
        confirmed.hear(by, Rumour { node: C, by, generation: Generation(0), claim: Claim::Suspect });
    }
    let ripened = confirmed.wait_for(C, Status::Dead).expect("silent");
    assert_eq!(ripened, Config::default().suspicion_min);
    assert!(suspected + ripened < lone);
}

#[test]
fn what_ripened_while_this_node_was_paused_gets_its_time_anew() {
    let mut alone = Alone::new();
    alone.wait_for(C, Status::Suspect).expect("silent");
    alone.now += 60 * SECOND;
    alone.node.tick(alone.now);
    assert_eq!(alone.node.status(C), Some(Status::Suspect));
    assert!(alone.node.health_score() > 0, "a pause is a reason to doubt oneself");
    let waited = alone.wait_for(C, Status::Dead).expect("silent");
    assert!(waited >= Config::default().suspicion_min, "{waited:?}");
}

#[test]
fn a_node_that_had_to_object_to_its_own_death_is_slower_to_accuse() {
    let config = Config::default();
    let accuse = |mut alone: Alone| {
        alone.node.report_unreachable(C, alone.now);
        alone.wait_for(C, Status::Suspect).expect("silent")
    };
    assert_eq!(accuse(Alone::new()), config.probe_timeout);

    let mut doubting = Alone::new();
    for generation in 0..u64::from(config.health_max) {
        doubting
            .hear(B, Rumour { node: A, by: B, generation: Generation(generation), claim: Claim::Suspect });
    }
    assert_eq!(accuse(doubting), config.probe_timeout * (config.health_max + 1));
}

#[test]
fn members_come_and_go_by_decision_only() {
    let now = epoch();
    let mut node = Liveness::new(A, Config::default(), Rng::from_seed(1), now);
    node.set_members([A, B]);
    let gossip = Rumour { node: C, by: B, generation: Generation(3), claim: Claim::Alive };
    let ping = Ping { sequence: 1, generation: Generation(0), rumours: vec![gossip] };
    node.handle(B, Message::Ping(ping), now);
    assert_eq!(node.statuses().collect::<Vec<_>>(), [(B, Status::Alive)]);
    node.set_members([A, C]);
    assert_eq!((node.status(B), node.status(C)), (None, Some(Status::Alive)));
}

#[test]
fn an_accused_node_objects_in_the_very_answer() {
    let now = epoch();
    let mut node = Liveness::new(A, Config::default(), Rng::from_seed(1), now);
    node.set_members([A, B]);
    let accusation = Rumour { node: A, by: B, generation: Generation(4), claim: Claim::Dead };
    node.handle(
        B,
        Message::Ping(Ping { sequence: 9, generation: Generation(0), rumours: vec![accusation] }),
        now,
    );
    let Some(Output::Send { to: B, message: Message::Ack(Ack { sequence: 9, generation, .. }) }) =
        node.poll()
    else {
        panic!("a ping is answered");
    };
    assert_eq!(generation, Generation(5));
}

#[test]
fn a_forged_flood_of_rumours_is_read_only_up_to_the_bound() {
    let now = epoch();
    let mut node = Liveness::new(A, Config::default(), Rng::from_seed(1), now);
    node.set_members((1..100).map(NodeId));
    let rumours = (3..90).map(|id| Rumour {
        node: NodeId(id),
        by: B,
        generation: Generation(0),
        claim: Claim::Suspect,
    });
    let flood = Ping { sequence: 1, generation: Generation(0), rumours: rumours.collect() };
    node.handle(B, Message::Ping(flood), now);
    let suspects = node.statuses().filter(|(_, status)| *status == Status::Suspect).count();
    assert_eq!(suspects, super::RUMOURS_PER_MESSAGE_MAX);
}
