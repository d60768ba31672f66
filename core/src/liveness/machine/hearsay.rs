//! What rumours and evidence make of the members: the only place where a status changes.
//!
//! Claims of a higher generation win; within one generation dead goes before suspect and suspect before alive.

use super::{Liveness, State};
use crate::liveness::{
    Output,
    message::{Claim, Generation, Rumour},
    suspicion::Suspicion,
};
use rondel_proto::id::NodeId;
use std::time::Instant;

impl Liveness {
    pub(super) fn learn(&mut self, rumour: Rumour, now: Instant) {
        if rumour.node == self.me {
            return self.hear_of_myself(rumour);
        }
        let Some(member) = self.members.get_mut(&rumour.node) else { return };
        match rumour.claim {
            Claim::Alive if rumour.generation > member.generation => {
                member.generation = rumour.generation;
                self.rumours.spread(rumour);
                self.revive(rumour.node);
            }
            Claim::Alive => {}
            // An accusation comes from a member, and we know best whom we accuse ourselves.
            _ if rumour.by == self.me || rumour.by == rumour.node => {}
            _ if !self.members.contains_key(&rumour.by) => {}
            Claim::Suspect => self.suspect(rumour, now),
            Claim::Dead => {
                self.suspect(Rumour { claim: Claim::Suspect, ..rumour }, now);
                self.condemn(rumour.node, rumour.generation, now);
            }
        }
    }

    /// Objects to accusations. An accusation that still reaches us also says that we were slow to answer.
    fn hear_of_myself(&mut self, rumour: Rumour) {
        if rumour.is_accusation() && rumour.generation >= self.generation {
            self.generation = rumour.generation.next();
            self.health.worsen(1);
            let node = self.me;
            self.rumours.spread(Rumour { node, by: node, generation: self.generation, claim: Claim::Alive });
        } else if !rumour.is_accusation() {
            // Left over from an earlier run of this node: we go on from there.
            self.generation = self.generation.max(rumour.generation);
        }
    }

    pub(super) fn suspect(&mut self, rumour: Rumour, now: Instant) {
        let Some(member) = self.members.get_mut(&rumour.node) else { return };
        let newer = rumour.generation > member.generation;
        if rumour.generation < member.generation {
            return;
        }
        match &mut member.state {
            State::Dead if !newer => {}
            State::Suspect(suspicion) if !newer => {
                if suspicion.accuse(rumour.by, &self.config) {
                    self.rumours.spread(rumour);
                }
            }
            State::Alive | State::Suspect(_) | State::Dead => {
                member.generation = rumour.generation;
                self.rumours.spread(rumour);
                self.enter(rumour.node, State::Suspect(Suspicion::new(rumour.by, now)));
                self.attend_suspects(now);
            }
        }
    }

    fn condemn(&mut self, node: NodeId, generation: Generation, now: Instant) {
        let Some(member) = self.members.get_mut(&node) else { return };
        if member.generation == generation
            && let State::Suspect(suspicion) = &mut member.state
        {
            suspicion.condemn();
            self.attend_suspects(now);
        }
    }

    fn revive(&mut self, node: NodeId) {
        self.probes.remove(&node);
        self.enter(node, State::Alive);
    }

    pub(super) fn enter(&mut self, node: NodeId, state: State) {
        let Some(member) = self.members.get_mut(&node) else { return };
        let before = member.status();
        member.state = state;
        let status = member.status();
        if status != before {
            self.outputs.push_back(Output::Changed { node, status });
        }
    }
}
