//! Whom to ask next, and what a missing answer means.

use super::{Liveness, Member, State};
use crate::liveness::{
    Status,
    message::{Claim, Message, PingFor, Rumour},
    probe::{Probe, Stage},
};
use rondel_proto::id::NodeId;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

impl Liveness {
    pub(super) fn take_turn(&mut self, now: Instant) {
        let mut refilled = false;
        loop {
            match self.turns.pop() {
                Some(node) if self.wants_turn(node) => return self.probe(node, now),
                Some(_) => {}
                None if refilled => return,
                None => {
                    self.turns = self.members.keys().copied().collect();
                    self.rng.shuffle(&mut self.turns);
                    refilled = true;
                }
            }
        }
    }

    /// Suspects and the dead are looked after by themselves.
    fn wants_turn(&self, node: NodeId) -> bool {
        self.status(node) == Some(Status::Alive) && !self.probes.contains_key(&node)
    }

    pub(super) fn probe(&mut self, node: NodeId, now: Instant) {
        let sequence = self.next_sequence();
        let deadline = now + self.probe_timeout(node);
        self.probes.insert(node, Probe { sequence, stage: Stage::Direct, deadline });
        self.ping(node, sequence);
    }

    /// The second stage of a probe: helpers, and the member itself once more.
    pub(super) fn ask_helpers(&mut self, node: NodeId, now: Instant) {
        let helpers = self.helpers(node);
        let timeout = self.probe_timeout(node);
        let Some(probe) = self.probes.get_mut(&node) else { return };
        probe.stage = Stage::Indirect { asked: helpers.len(), silent: BTreeSet::new() };
        probe.deadline = now + timeout;
        let sequence = probe.sequence;
        self.ping(node, sequence);
        for helper in helpers {
            let rumours = self.rumours_for(helper, &[helper, node]);
            let request = PingFor { sequence, target: node, generation: self.generation, rumours };
            self.send(helper, Message::PingFor(request));
        }
    }

    /// A node in doubt of itself is slow to accuse, but not slow to give the accused their chances.
    fn probe_timeout(&self, node: NodeId) -> Duration {
        match self.status(node) {
            Some(Status::Suspect) => self.config.probe_timeout,
            _ => self.health.stretch(self.config.probe_timeout),
        }
    }

    fn helpers(&mut self, target: NodeId) -> Vec<NodeId> {
        let alive = |(node, status)| (status == Status::Alive && node != target).then_some(node);
        let mut helpers: Vec<NodeId> = self.statuses().filter_map(alive).collect();
        self.rng.shuffle(&mut helpers);
        helpers.truncate(self.config.helpers);
        helpers
    }

    /// The member has answered a probe or a request.
    pub(super) fn answered(&mut self, node: NodeId, now: Instant) {
        let probed = self.probes.remove(&node).is_some();
        let Some(member) = self.members.get_mut(&node) else { return };
        match &mut member.state {
            State::Alive if probed => self.health.improve(),
            State::Suspect(suspicion) => suspicion.doubt(now),
            State::Alive | State::Dead => {}
        }
    }

    /// A sign of life from somebody who is not alive here: ask, with the accusation on the question.
    pub(super) fn ask_if_doubted(&mut self, node: NodeId, now: Instant) {
        let doubted = self.members.get(&node).is_some_and(|member| member.status() != Status::Alive);
        if doubted {
            self.probe_out_of_turn(node, now);
        }
    }

    /// Begins a probe, unless there is one or the last one out of turn is less than a timeout ago.
    pub(super) fn probe_out_of_turn(&mut self, node: NodeId, now: Instant) -> bool {
        let Some(member) = self.members.get_mut(&node) else { return false };
        let too_soon = member.extra.is_some_and(|at| now < at + self.config.probe_timeout);
        if too_soon || self.probes.contains_key(&node) {
            return false;
        }
        member.extra = Some(now);
        self.probe(node, now);
        true
    }

    pub(super) fn verdict(&mut self, node: NodeId, probe: &Probe, now: Instant) {
        let Some(member) = self.members.get_mut(&node) else { return };
        let generation = member.generation;
        match member.state {
            State::Alive => self.health.worsen(probe.blame()),
            State::Suspect(_) => {}
            State::Dead => return,
        }
        self.suspect(Rumour { node, by: self.me, generation, claim: Claim::Suspect }, now);
        if let Some(Member { state: State::Suspect(suspicion), .. }) = self.members.get_mut(&node) {
            suspicion.see();
        }
    }

    pub(super) fn ask_a_dead_member(&mut self, now: Instant) {
        let dead = |(node, status)| (status == Status::Dead).then_some(node);
        let dead: Vec<NodeId> = self.statuses().filter_map(dead).collect();
        if let Some(node) = self.rng.choose(&dead).copied()
            && !self.probes.contains_key(&node)
        {
            self.probe(node, now);
        }
    }
}
