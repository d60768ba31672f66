//! Random schedules of a whole sequence: several proposers, voters that change, crashes, lost stores, a network that
//! drops, repeats and reorders. The invariants hold in all of them, and with one clause of the protocol switched off
//! some schedule breaks one: otherwise this test could not see what the clause is for.

use super::{
    AcceptReply, ChangeId, Decided, DecidedReply, Delta, Effect, PrepareReply, Proposal, Record, Reply,
    Report, Request, Root, SetStore, State,
    state::tests::{genesis, member},
};
use crate::{env::Rng, ring::Occupant};
use proptest::prelude::*;
use rondel_proto::id::{Epoch, StoreId};
use std::collections::{BTreeMap, BTreeSet};

type Replica = super::Replica;

const NODES: usize = 5;
/// Packets beyond these are lost, oldest first.
const PACKETS_MAX: usize = 60;

/// A clause of the protocol that a run does without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Off {
    Nothing,
    /// A crash takes the promise and what was accepted.
    DurableVotes,
    /// A crash takes what was accepted.
    DurableAccepted,
    /// Promises do not tell what was accepted.
    FinishAccepted,
    /// A voter accepts below its promise.
    PromiseBinds,
    /// A store that lost everything keeps its name.
    StoreInName,
    /// Success is reported before the new voters have persisted the entry.
    PersistBeforeSuccess,
}

#[derive(Debug)]
enum Packet {
    Ask { from: usize, to: usize, request: Request },
    Answer { from: usize, to: usize, reply: Reply },
}

struct Node {
    record: Record,
    /// None while it is down.
    replica: Option<Replica>,
}

/// What a run came to, when an invariant broke.
type Broken = String;

struct World {
    rng: Rng,
    off: Off,
    nodes: Vec<Node>,
    packets: Vec<Packet>,
    roots: BTreeMap<Epoch, Root>,
    /// The last two states that anybody has learnt.
    last: BTreeMap<Epoch, State>,
    /// Every read begun, with what had been reported as decided by then.
    reads: BTreeMap<ChangeId, Epoch>,
    succeeded: Epoch,
    recent: Vec<Proposal>,
    next_id: u128,
    voters_wanted: usize,
    decided: usize,
}

impl World {
    fn new(seed: u64, off: Off) -> Self {
        let mut rng = Rng::from_seed(seed);
        let mut state = genesis(1);
        state.topology.members = (1..=5).map(member).collect();
        state.voters = vec![member(1).occupant()];
        let record = |number: u8| Record::new(member(number).occupant(), state.clone());
        let nodes = (1..=5).map(|number| Node { record: record(number), replica: None }).collect();
        let voters_wanted = [3, 3, 3, 1, 4][rng.index(5)];
        let mut world = Self {
            rng,
            off,
            nodes,
            packets: Vec::new(),
            roots: BTreeMap::from([(Epoch(1), state.root())]),
            last: BTreeMap::from([(Epoch(1), state)]),
            reads: BTreeMap::new(),
            succeeded: Epoch(1),
            recent: Vec::new(),
            next_id: 100_000,
            voters_wanted,
            decided: 0,
        };
        (0..NODES).for_each(|node| world.start(node));
        world
    }

    fn id(&mut self) -> ChangeId {
        self.next_id += 1;
        ChangeId(self.next_id)
    }

    fn start(&mut self, node: usize) {
        let nonce = self.rng.u64();
        let node = &mut self.nodes[node];
        node.replica = Some(Replica::new(node.record.clone(), nonce));
    }

    fn crash(&mut self, node: usize) {
        let Node { record, replica } = &mut self.nodes[node];
        *replica = None;
        if self.off == Off::DurableVotes {
            record.promised = None;
        }
        if matches!(self.off, Off::DurableVotes | Off::DurableAccepted) {
            record.accepted = None;
        }
    }

    fn occupant(&self, node: usize) -> Occupant {
        self.nodes[node].record.owner
    }

    fn index(occupant_node: u128) -> usize {
        usize::try_from(occupant_node).unwrap() - 1
    }

    /// Carries out effects in order; a crash may fall between any two.
    fn carry_out(&mut self, node: usize, effects: Vec<Effect>) -> Result<bool, Broken> {
        let me = self.occupant(node);
        for effect in effects {
            if self.occupant(node) != me {
                return Ok(false);
            }
            if self.rng.chance(0.004) {
                self.crash(node);
                return Ok(false);
            }
            match effect {
                Effect::Persist(record) => self.persist(node, *record)?,
                Effect::Send { to, request } => {
                    if let (Off::PersistBeforeSuccess, Request::Decided(_)) = (self.off, &request) {
                        self.forge_persisted(node, Self::index(to.0));
                    }
                    self.packets.push(Packet::Ask { from: node, to: Self::index(to.0), request });
                }
                Effect::Report(report) => self.take_report(report)?,
            }
        }
        Ok(true)
    }

    fn persist(&mut self, node: usize, record: Record) -> Result<(), Broken> {
        let state = &record.state;
        let root = *self.roots.entry(state.epoch).or_insert(record.root);
        if root != record.root {
            return Err(format!("two states at epoch {}", state.epoch));
        }
        let distinct: BTreeSet<_> = state.recent_changes.iter().collect();
        if distinct.len() != state.recent_changes.len() {
            return Err("a change took place twice".to_owned());
        }
        if self.last.insert(state.epoch, state.clone()).is_none() {
            self.decided += 1;
        }
        while self.last.len() > 2 {
            self.last.pop_first();
        }
        self.nodes[node].record = record;
        Ok(())
    }

    fn forge_persisted(&mut self, node: usize, by: usize) {
        let reply = DecidedReply::Persisted { store: self.occupant(by).store, epoch: Epoch(u64::MAX) };
        self.packets.push(Packet::Answer { from: by, to: node, reply: Reply::Decided(reply) });
    }

    fn take_report(&mut self, report: Report) -> Result<(), Broken> {
        match report {
            Report::Decided { epoch, .. } => {
                self.succeeded = self.succeeded.max(epoch);
                self.retire();
            }
            Report::Read { id, epoch } if epoch < self.reads[&id] => return Err("a stale read".to_owned()),
            Report::Stopped(why) => return Err(format!("stopped: {why}")),
            Report::Read { .. } | Report::Learnt(_) | Report::Refused { .. } | Report::Outbid => {}
        }
        Ok(())
    }

    /// After success, those who voted before and do not any more may be wiped.
    fn retire(&mut self) {
        let mut last = self.last.values().rev();
        let (Some(now), Some(before)) = (last.next(), last.next()) else { return };
        if now.epoch != self.succeeded {
            return;
        }
        let retired: Vec<_> =
            before.voters.iter().filter(|voter| !now.voters.contains(voter)).copied().collect();
        for voter in retired {
            let node = Self::index(voter.node.0);
            if self.occupant(node) == voter && self.may_be_wiped(node, self.succeeded) && self.rng.chance(0.6)
            {
                self.wipe(node);
            }
        }
    }

    fn wipe(&mut self, node: usize) {
        let first = {
            let mut state = genesis(1);
            state.topology.members = (1..=5).map(member).collect();
            state.voters = vec![member(1).occupant()];
            state
        };
        let mut owner = self.occupant(node);
        if self.off != Off::StoreInName {
            self.next_id += 1;
            owner.store = StoreId(self.next_id);
        }
        self.nodes[node].record = Record::new(owner, first);
        self.start(node);
    }

    /// Whether every set of voters since that epoch that may still matter keeps a majority of its stores without
    /// this one.
    fn may_be_wiped(&self, node: usize, since: Epoch) -> bool {
        let accepted = self.nodes.iter().filter_map(|node| {
            let accepted = node.record.accepted.as_ref()?;
            node.record.state.apply(&accepted.entry).ok()
        });
        let states: Vec<State> = self.last.values().cloned().chain(accepted).collect();
        states.iter().filter(|state| state.epoch >= since).all(|state| {
            let votes = |at: &usize| state.is_voter(self.occupant(*at));
            let left = (0..NODES).filter(|at| *at != node).filter(votes).count();
            !state.voters.iter().any(|voter| Self::index(voter.node.0) == node) || state.is_majority(left)
        })
    }

    fn deltas(&mut self, node: usize) -> Vec<Delta> {
        let Some(replica) = &self.nodes[node].replica else { return Vec::new() };
        if self.rng.chance(0.3) {
            return vec![Delta::SetJoinSecret(None)];
        }
        let state = std::sync::Arc::clone(replica.state());
        let mut voters = state.voters.clone();
        let all: Vec<Occupant> = (0..NODES).map(|node| self.occupant(node)).collect();
        let free: Vec<Occupant> =
            all.iter().filter(|it| voters.iter().all(|voter| voter.node != it.node)).copied().collect();
        let lost = voters.iter().position(|voter| !all.contains(voter));
        let roll = self.rng.below(100);
        match (lost, self.rng.choose(&free).copied()) {
            (Some(at), taken) if roll < 80 => {
                let same = all[Self::index(voters[at].node.0)];
                voters[at] = taken.filter(|_| self.rng.chance(0.7)).unwrap_or(same);
            }
            (_, Some(free)) if voters.len() < self.voters_wanted && roll < 70 => voters.push(free),
            (_, Some(free)) if roll < 85 => {
                let at = self.rng.index(voters.len());
                voters[at] = free;
            }
            _ => {}
        }
        let renewed =
            voters.iter().filter(|voter| state.member(voter.node).is_some_and(|it| it.store != voter.store));
        let renew =
            |voter: &Occupant| Delta::SetMemberStore(SetStore { node: voter.node, store: voter.store });
        renewed.map(renew).chain([Delta::SetVoters(voters.clone())]).collect()
    }

    fn propose(&mut self, node: usize) -> Result<(), Broken> {
        let retried = self.rng.chance(0.4).then(|| self.rng.choose(&self.recent).cloned()).flatten();
        let proposal = match retried {
            Some(proposal) => proposal,
            None => Proposal { change: self.id(), deltas: self.deltas(node) },
        };
        self.recent.push(proposal.clone());
        if self.recent.len() > 4 {
            self.recent.remove(0);
        }
        let Some(replica) = &mut self.nodes[node].replica else { return Ok(()) };
        let effects = match replica.working_at() {
            Some(_) => replica.retry(),
            None => replica.propose(proposal).unwrap(),
        };
        self.carry_out(node, effects).map(drop)
    }

    fn read(&mut self, node: usize) -> Result<(), Broken> {
        let id = self.id();
        self.reads.insert(id, self.succeeded);
        let Some(replica) = &mut self.nodes[node].replica else { return Ok(()) };
        let Ok(effects) = replica.read(id) else { return Ok(()) };
        self.carry_out(node, effects).map(drop)
    }

    fn deliver(&mut self, packet: Packet) -> Result<(), Broken> {
        match packet {
            Packet::Ask { from, to, request } => {
                if let (Off::PromiseBinds, Request::Accept(_), Some(_)) =
                    (self.off, &request, &self.nodes[to].replica)
                {
                    self.nodes[to].record.promised = None;
                    self.start(to);
                }
                let Some(replica) = &mut self.nodes[to].replica else { return Ok(()) };
                let (effects, mut reply) = replica.on_request(request);
                if let (Off::FinishAccepted, Reply::Prepare(PrepareReply::Promise { accepted, .. })) =
                    (self.off, &mut reply)
                {
                    *accepted = None;
                }
                if self.carry_out(to, effects)? {
                    self.packets.push(Packet::Answer { from: to, to: from, reply });
                }
                Ok(())
            }
            Packet::Answer { from, to, reply } => {
                let sender = self.occupant(from).node;
                let Some(replica) = &mut self.nodes[to].replica else { return Ok(()) };
                let effects = replica.on_reply(sender, reply);
                self.carry_out(to, effects).map(drop)
            }
        }
    }

    fn some_packet(&mut self) -> Result<(), Broken> {
        if self.packets.is_empty() {
            return Ok(());
        }
        let newest = self.packets.len() - 1;
        let at = if self.rng.chance(0.6) { self.rng.index(self.packets.len()) } else { newest };
        let packet = self.packets.remove(at);
        if self.rng.chance(0.07) {
            self.packets.push(copy(&packet));
        }
        if self.rng.chance(0.93) {
            self.deliver(packet)?;
        }
        let lost = self.packets.len().saturating_sub(PACKETS_MAX);
        self.packets.drain(..lost);
        Ok(())
    }

    fn step(&mut self) -> Result<(), Broken> {
        let node = self.rng.index(NODES);
        match self.rng.below(1000) {
            0..100 if self.decided < 14 => self.propose(node)?,
            100..130 => self.read(node)?,
            130..900 => self.some_packet()?,
            900..940 => self.crash(node),
            940..985 => {
                for node in 0..NODES {
                    if self.nodes[node].replica.is_none() && self.rng.chance(0.6) {
                        self.start(node);
                    }
                }
            }
            985..995 if self.may_be_wiped(node, Epoch(0)) => self.wipe(node),
            _ => {}
        }
        Ok(())
    }

    /// All nodes up and the network whole: somebody gets a change decided, if a majority of the voters is left.
    fn heal(&mut self) -> Result<(), Broken> {
        self.packets.clear();
        let before = self.succeeded;
        if !self.has_majority() {
            return Ok(());
        }
        for round in 0..40 {
            let node = round % NODES;
            (0..NODES).for_each(|node| self.start(node));
            let change = self.id();
            let Some(replica) = &mut self.nodes[node].replica else { continue };
            let effects = replica.propose(Proposal { change, deltas: vec![] }).unwrap();
            self.carry_out(node, effects)?;
            for _ in 0..400 {
                if self.packets.is_empty() {
                    break;
                }
                let packet = self.packets.remove(0);
                self.deliver(packet)?;
            }
            if self.succeeded > before || !self.has_majority() {
                return Ok(());
            }
        }
        Err("stuck".to_owned())
    }

    /// Whether enough of the last voters have the stores that they were named with.
    fn has_majority(&self) -> bool {
        let (_, last) = self.last.last_key_value().expect("there is a first state");
        last.is_majority((0..NODES).filter(|node| last.is_voter(self.occupant(*node))).count())
    }

    /// How many entries were decided.
    fn run(mut self) -> Result<usize, Broken> {
        for _ in 0..80 + self.rng.below(420) {
            self.step()?;
        }
        self.heal()?;
        Ok(self.decided)
    }
}

fn copy(packet: &Packet) -> Packet {
    match packet {
        Packet::Ask { from, to, request } => Packet::Ask { from: *from, to: *to, request: request.clone() },
        Packet::Answer { from, to, reply } => Packet::Answer { from: *from, to: *to, reply: reply.clone() },
    }
}

fn broken_within(off: Off, runs: u64) -> Option<(u64, Broken)> {
    (0..runs).find_map(|seed| World::new(seed, off).run().err().map(|broken| (seed, broken)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn no_schedule_forks_repeats_a_change_reads_stale_or_gets_stuck(seed: u64) {
        let outcome = World::new(seed, Off::Nothing).run();
        prop_assert!(outcome.is_ok(), "seed {seed}: {outcome:?}");
    }
}

#[test]
fn schedules_decide_entries_and_change_voters() {
    let decided: usize = (0..40).map(|seed| World::new(seed, Off::Nothing).run().unwrap()).sum();
    assert!(decided > 40 * 3, "{decided} entries in 40 runs test nothing");
}

#[test]
fn without_any_one_clause_some_schedule_breaks_the_sequence() {
    let clauses = [
        Off::DurableVotes,
        Off::DurableAccepted,
        Off::FinishAccepted,
        Off::PromiseBinds,
        Off::StoreInName,
        Off::PersistBeforeSuccess,
    ];
    for off in clauses {
        let broken = broken_within(off, 6_000);
        assert!(broken.is_some(), "{off:?} makes no difference to these schedules");
    }
}

#[test]
fn one_voter_alone_decides_at_once_and_a_repeated_change_takes_place_once() {
    let state = genesis(1);
    let mut replica = Replica::new(Record::new(state.voters[0], state), 1);
    let proposal = Proposal { change: ChangeId(50), deltas: vec![Delta::RaiseFormat(2)] };
    for _ in 0..2 {
        let effects = replica.propose(proposal.clone()).unwrap();
        let decided = Effect::Report(Report::Decided { change: ChangeId(50), epoch: Epoch(2) });
        let persisted = effects.iter().position(|effect| matches!(effect, Effect::Persist(_)));
        assert!(persisted < effects.iter().position(|effect| *effect == decided));
        assert!(effects.contains(&decided));
        assert_eq!((replica.state().epoch, replica.state().format), (Epoch(2), 2));
    }
    let refused =
        replica.propose(Proposal { change: ChangeId(51), deltas: vec![Delta::RaiseFormat(1)] }).unwrap();
    assert!(refused.iter().any(|effect| matches!(effect, Effect::Report(Report::Refused { .. }))));
    assert_eq!(replica.working_at(), None);
}

#[test]
fn a_fork_stops_the_replica_for_good() {
    let state = genesis(1);
    let (ours, _) = state.next(ChangeId(2), &[]).unwrap();
    let (theirs, _) = state.next(ChangeId(3), &[]).unwrap();
    let mut replica = Replica::new(Record::new(state.voters[0], state.clone()), 1);
    let decided = |entry| {
        Request::Decided(Decided { lineage: state.lineage, catchup: super::Catchup::Entries(vec![entry]) })
    };
    replica.on_request(decided(ours));
    let (effects, reply) = replica.on_request(decided(theirs));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Report(Report::Stopped(_)))));
    assert!(matches!(reply, Reply::Decided(DecidedReply::Refused(super::Refused::Fork { .. }))));
    let effects = replica.propose(Proposal { change: ChangeId(4), deltas: vec![] }).unwrap();
    assert_eq!(effects, []);
    let (entry, _) = replica.state().next(ChangeId(9), &[]).unwrap();
    let ballot = super::Ballot { round: 9, node: member(2).node, nonce: 1 };
    let (effects, reply) = replica.on_request(Request::Accept(super::Accept { ballot, entry }));
    assert!(effects.is_empty() && matches!(reply, Reply::Accept(AcceptReply::Refused(_))));
}
