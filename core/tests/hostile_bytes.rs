//! Bytes from a peer: every message of core is refused or read, and the machines that read it survive what it says.

use rondel_core::{
    env::Rng,
    liveness::{Ack, AckFor, Claim, Config, Generation, Liveness, Message, Ping, PingFor, Rumour},
    membership::gossip::{Address, Answer, Delta, Digest, Entry, Facts, Gossip, Stamp},
    ring::Occupant,
    sequence::{
        Accept, AcceptReply, Ballot, Catchup, ChangeId, Decided, DecidedReply, DeltaRecord,
        Entry as SequenceEntry, Prepare, PrepareReply, Refused, Root, StatePull, StatePullReply,
    },
    testing::Sim,
};
use rondel_proto::{
    Msg, Wire,
    fuzzing::{Inputs, archive_of},
    id::{Epoch, Lineage, NodeId, StoreId},
};
use std::time::{Duration, Instant};

const ROUNDS: usize = 2000;
const ME: NodeId = NodeId(1);
const PEER: NodeId = NodeId(2);

/// Damaged copies of an archive that still are archives of the same type.
fn still_valid<T: Wire>(value: &T, seed: u64) -> impl Iterator<Item = T> {
    let inputs = Inputs::new(vec![value.encode().to_vec()], seed).take(ROUNDS);
    inputs.filter_map(|input| Msg::<T>::from_bytes(input.into()).ok()).map(|msg| msg.to_owned())
}

fn obeys_the_law<T: Wire>(value: &T) {
    let mut valid = 0;
    for input in Inputs::new(vec![value.encode().to_vec()], 1).take(ROUNDS) {
        valid += usize::from(T::check(&input).is_ok());
        archive_of::<T>(&input);
    }
    assert!(valid > ROUNDS / 20, "{}: {valid} of {ROUNDS} were read at all", std::any::type_name::<T>());
}

fn rumours() -> Vec<Rumour> {
    let rumour = |node, claim| Rumour { node: NodeId(node), by: PEER, generation: Generation(3), claim };
    vec![rumour(1, Claim::Dead), rumour(2, Claim::Suspect), rumour(3, Claim::Alive), rumour(4, Claim::Dead)]
}

fn ping() -> Ping {
    Ping { sequence: 1, generation: Generation(2), rumours: rumours() }
}

fn ack() -> Ack {
    Ack { sequence: 1, generation: Generation(2), rumours: rumours() }
}

fn ping_for() -> PingFor {
    PingFor { sequence: 1, target: NodeId(3), generation: Generation(2), rumours: rumours() }
}

fn ack_for() -> AckFor {
    let answered = Some(Generation(5));
    AckFor { sequence: 1, target: NodeId(3), answered, generation: Generation(2), rumours: rumours() }
}

fn facts() -> Facts {
    Facts {
        boot: 1,
        nonce: 2,
        store: StoreId(3),
        addrs: vec![Address { listener: "node".into(), addr: "[::1]:7000".into() }],
        services: vec![1, 2, 3],
        hints: vec![(PEER, 7)],
        ..Facts::default()
    }
}

fn digest() -> Digest {
    Digest { stamps: (1..6).map(|node| (NodeId(node), Stamp { boot: 1, nonce: 2, version: 3 })).collect() }
}

fn entries() -> Vec<Entry> {
    (1..4).map(|node| Entry { node: NodeId(node), version: 5, facts: facts() }).collect()
}

fn answer() -> Answer {
    Answer { delta: entries(), want: vec![ME, PEER], clock_ms: 9 }
}

fn ballot() -> Ballot {
    Ballot { round: 1, node: PEER, nonce: 3 }
}

fn sequence_entry() -> SequenceEntry {
    SequenceEntry {
        lineage: Lineage(1),
        epoch: Epoch(2),
        parent: Root([3; 32]),
        change: ChangeId(4),
        deltas: vec![DeltaRecord { kind: 1, body: vec![1, 2, 3] }; 3],
        root: Root([5; 32]),
    }
}

#[test]
fn messages_of_the_failure_detector_are_read_or_refused() {
    obeys_the_law(&ping());
    obeys_the_law(&ack());
    obeys_the_law(&ping_for());
    obeys_the_law(&ack_for());
}

#[test]
fn messages_of_gossip_are_read_or_refused() {
    obeys_the_law(&digest());
    obeys_the_law(&answer());
    obeys_the_law(&Delta { entries: entries() });
}

#[test]
fn messages_of_the_decided_sequence_are_read_or_refused() {
    let (lineage, epoch, ballot) = (Lineage(1), Epoch(2), ballot());
    obeys_the_law(&Prepare { lineage, epoch, ballot, parent: Root([3; 32]) });
    obeys_the_law(&PrepareReply::Promise { epoch, ballot, accepted: None });
    obeys_the_law(&PrepareReply::Refused(Refused::Nack { epoch, ballot, promised: ballot }));
    obeys_the_law(&Accept { ballot, entry: sequence_entry() });
    obeys_the_law(&AcceptReply::Accepted { epoch, ballot });
    obeys_the_law(&Decided { lineage, catchup: Catchup::Entries(vec![sequence_entry(); 2]) });
    obeys_the_law(&DecidedReply::Persisted { store: StoreId(1), epoch });
    obeys_the_law(&StatePull { lineage, epoch });
    obeys_the_law(&StatePullReply::Catchup(Catchup::Entries(vec![sequence_entry(); 2])));
    obeys_the_law(&Occupant { node: ME, store: StoreId(2) });
}

#[test]
fn a_failure_detector_survives_whatever_its_peers_claim() {
    let start = Sim::new(1).node_env(0).now();
    let mut detector = Detector::new(start);
    for seed in 0..5 {
        still_valid(&ping(), seed).for_each(|ping| detector.hear(Message::Ping(ping)));
        still_valid(&ack(), seed).for_each(|ack| detector.hear(Message::Ack(ack)));
        still_valid(&ping_for(), seed).for_each(|request| detector.hear(Message::PingFor(request)));
        still_valid(&ack_for(), seed).for_each(|answer| detector.hear(Message::AckFor(answer)));
    }
    assert!(detector.heard > ROUNDS, "{}", detector.heard);
    assert_eq!(detector.machine.statuses().count(), 4, "and no member came or went");
}

struct Detector {
    machine: Liveness,
    now: Instant,
    heard: usize,
}

impl Detector {
    fn new(now: Instant) -> Self {
        let mut machine = Liveness::new(ME, Config::default(), Rng::from_seed(1), now);
        machine.set_members((1..6).map(NodeId));
        Self { machine, now, heard: 0 }
    }

    fn hear(&mut self, message: Message) {
        self.heard += 1;
        self.now += Duration::from_millis(7);
        self.machine.handle(PEER, message, self.now);
        self.machine.tick(self.now);
        while self.machine.poll().is_some() {}
    }
}

#[test]
fn gossip_survives_whatever_its_peers_claim() {
    let mut gossip = Gossip::new(ME, facts()).expect("short");
    gossip.set_members((1..6).map(NodeId));
    for seed in 0..5 {
        for digest in still_valid(&digest(), seed) {
            Msg::<Answer>::from_bytes(gossip.handle_digest(&digest, 9).encode())
                .expect("its answer is well-formed");
        }
        for answer in still_valid(&answer(), seed) {
            gossip.handle_answer(answer);
        }
        for entries in still_valid(&Delta { entries: entries() }, seed) {
            gossip.handle_delta(entries);
        }
        while gossip.poll().is_some() {}
    }
    assert_eq!(gossip.facts(ME), Some(&facts()), "nobody else speaks for this node");
    assert!(gossip.iter().all(|(node, _)| (1..6).contains(&node.0)), "nor for others than members");
}
