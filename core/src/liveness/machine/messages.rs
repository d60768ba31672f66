//! What is said and answered: pings, acknowledgements, and both on behalf of others.

use super::{Liveness, RELAYS_MAX, State};
use crate::liveness::{
    Output,
    message::{Ack, AckFor, Claim, Generation, Message, Ping, PingFor, Rumour},
    probe::Relay,
    rumours,
};
use rondel_proto::id::NodeId;
use std::time::Instant;

impl Liveness {
    pub(super) fn answer(&mut self, to: NodeId, sequence: u64) {
        let rumours = self.rumours_for(to, &[to]);
        self.send(to, Message::Ack(Ack { sequence, generation: self.generation, rumours }));
    }

    pub(super) fn handle_ack(&mut self, from: NodeId, ack: &Ack, now: Instant) {
        if self.relays.get(&ack.sequence).is_some_and(|relay| relay.target == from) {
            self.end_relay(ack.sequence, Some(ack.generation));
        } else if self.probes.get(&from).is_some_and(|probe| probe.sequence == ack.sequence) {
            self.answered(from, now);
        }
    }

    pub(super) fn relay(&mut self, origin: NodeId, request: &PingFor, now: Instant) {
        if !self.members.contains_key(&request.target) || self.relays.len() >= RELAYS_MAX {
            return;
        }
        let sequence = self.next_sequence();
        // A little earlier than the origin gives up, so that it hears at least that we are here.
        let deadline = now + self.config.probe_timeout.mul_f64(0.8);
        let relay = Relay { origin, origin_sequence: request.sequence, target: request.target, deadline };
        self.relays.insert(sequence, relay);
        self.ping(request.target, sequence);
    }

    pub(super) fn end_relay(&mut self, sequence: u64, answered: Option<Generation>) {
        let Some(relay) = self.relays.remove(&sequence) else { return };
        let rumours = self.rumours_for(relay.origin, &[relay.origin]);
        let answer = AckFor {
            sequence: relay.origin_sequence,
            target: relay.target,
            answered,
            generation: self.generation,
            rumours,
        };
        self.send(relay.origin, Message::AckFor(answer));
    }

    pub(super) fn handle_ack_for(&mut self, helper: NodeId, answer: &AckFor, now: Instant) {
        let Some(probe) = self.probes.get_mut(&answer.target) else { return };
        if probe.sequence != answer.sequence {
            return;
        }
        match answer.answered {
            None => probe.silent_for(helper),
            Some(generation) => {
                let node = answer.target;
                self.learn(Rumour { node, by: node, generation, claim: Claim::Alive }, now);
                self.answered(node, now);
            }
        }
    }

    pub(super) fn ping(&mut self, to: NodeId, sequence: u64) {
        let rumours = self.rumours_for(to, &[to]);
        self.send(to, Message::Ping(Ping { sequence, generation: self.generation, rumours }));
    }

    /// What `to` is to hear: first what `about` are accused of, so that they can object, then the rest.
    pub(super) fn rumours_for(&mut self, to: NodeId, about: &[NodeId]) -> Vec<Rumour> {
        let mut rumours: Vec<Rumour> = about.iter().filter_map(|node| self.accusation(*node)).collect();
        let times = rumours::times(self.members.len() + 1, self.config.rumour_factor);
        self.rumours.tell(to, times, &mut rumours);
        rumours
    }

    pub(super) fn accusation(&self, node: NodeId) -> Option<Rumour> {
        let member = self.members.get(&node)?;
        let (claim, by) = match &member.state {
            State::Alive => return None,
            State::Suspect(suspicion) => (Claim::Suspect, suspicion.accuser()),
            State::Dead => (Claim::Dead, self.me),
        };
        Some(Rumour { node, by, generation: member.generation, claim })
    }

    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        self.outputs.push_back(Output::Send { to, message });
    }

    pub(super) fn next_sequence(&mut self) -> u64 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}
