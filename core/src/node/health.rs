//! What this node believes of its peers, from liveness and gossip together: who answers, what they serve, which hints
//! they keep. Both machines are pure; this file drives them and tells the rest of the node what has changed.

use super::shared::{PeerStatus, Shared};
use crate::{
    env::Rng,
    liveness::{Liveness, Message, Output, Status},
    membership::gossip::{Answer, Delta, Digest, Event, Facts, Gossip},
};
use rondel_proto::id::NodeId;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

pub(super) struct Health(Mutex<Machines>);

struct Machines {
    liveness: Liveness,
    gossip: Gossip,
    rng: Rng,
    peers: BTreeMap<NodeId, PeerStatus>,
    members: Vec<NodeId>,
}

/// What a call of one of the machines wants done.
#[derive(Default)]
pub(super) struct Wanted {
    pub(super) messages: Vec<(NodeId, Message)>,
    /// A member has a newer decided state than this node.
    pub(super) behind: Option<NodeId>,
    /// Whose identity is used twice.
    pub(super) clashes: Vec<NodeId>,
}

impl Health {
    pub(super) fn new(liveness: Liveness, gossip: Gossip, rng: Rng) -> Self {
        let machines = Machines { liveness, gossip, rng, peers: BTreeMap::new(), members: Vec::new() };
        Self(Mutex::new(machines))
    }

    pub(super) fn set_members(&self, shared: &Shared, members: Vec<NodeId>) {
        let mut machines = self.lock();
        machines.members.clone_from(&members);
        machines.liveness.set_members(members.iter().copied());
        machines.gossip.set_members(members.iter().copied());
        machines.peers.retain(|node, _| members.contains(node));
        machines.publish(shared);
    }

    pub(super) fn set_own(&self, facts: Facts) {
        if let Err(error) = self.lock().gossip.set_own(facts) {
            tracing::error!(%error, "this node's facts can't be told to the others");
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.lock().liveness.deadline()
    }

    pub(super) fn tick(&self, shared: &Shared) -> Wanted {
        self.with(shared, |machines, now| machines.liveness.tick(now))
    }

    pub(super) fn heard(&self, shared: &Shared, from: NodeId, message: Message) -> Wanted {
        self.with(shared, |machines, now| machines.liveness.handle(from, message, now))
    }

    pub(super) fn contact(&self, shared: &Shared, node: NodeId) -> Wanted {
        self.with(shared, |machines, now| machines.liveness.report_contact(node, now))
    }

    pub(super) fn unreachable(&self, shared: &Shared, node: NodeId) -> Wanted {
        self.with(shared, |machines, now| machines.liveness.report_unreachable(node, now))
    }

    pub(super) fn gossip_partners(&self) -> Vec<(NodeId, Digest)> {
        let mut machines = self.lock();
        let Machines { gossip, rng, peers, .. } = &mut *machines;
        let up = |node: NodeId| peers.get(&node).is_some_and(|peer| peer.up);
        let partners = gossip.partners(up, rng);
        partners.into_iter().map(|node| (node, gossip.begin())).collect()
    }

    pub(super) fn on_digest(&self, shared: &Shared, from: NodeId, digest: &Digest) -> (Answer, Wanted) {
        let (mut answer, clock_ms) = (None, shared.env.unix_ms());
        let wanted = self.with(shared, |machines, now| {
            answer = Some(machines.gossip.handle_digest(digest, clock_ms));
            if machines.gossip.is_up_to_date(from, digest) {
                machines.heard(shared, from, now);
            }
        });
        (answer.expect("set by the closure, which runs"), wanted)
    }

    pub(super) fn on_answer(&self, shared: &Shared, answer: Answer) -> (Option<Delta>, Wanted) {
        let mut delta = None;
        let wanted = self.with(shared, |machines, _| delta = machines.gossip.handle_answer(answer));
        (delta, wanted)
    }

    pub(super) fn on_delta(&self, shared: &Shared, delta: Delta) -> Wanted {
        self.with(shared, |machines, _| machines.gossip.handle_delta(delta))
    }

    /// Whether a member knows, or may know, decided states that this node does not.
    pub(super) fn is_ahead(&self, shared: &Shared, node: NodeId) -> bool {
        self.lock().is_ahead(shared, node)
    }

    /// The facts of every member that is known, this node included.
    pub(super) fn facts(&self) -> BTreeMap<NodeId, Facts> {
        self.lock().gossip.iter().map(|(node, facts)| (node, facts.clone())).collect()
    }

    pub(super) fn statuses(&self) -> BTreeMap<NodeId, Status> {
        self.lock().liveness.statuses().collect()
    }

    fn with(&self, shared: &Shared, step: impl FnOnce(&mut Machines, Instant)) -> Wanted {
        let now = shared.env.now();
        let mut machines = self.lock();
        step(&mut machines, now);
        machines.drain(shared, now)
    }

    fn lock(&self) -> MutexGuard<'_, Machines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Machines {
    fn drain(&mut self, shared: &Shared, now: Instant) -> Wanted {
        let mut wanted = Wanted::default();
        let mut changed = false;
        while let Some(output) = self.liveness.poll() {
            match output {
                Output::Send { to, message } => wanted.messages.push((to, message)),
                Output::Changed { node, status } => {
                    tracing::info!(%node, ?status, "a peer's status has changed");
                    changed = true;
                }
                Output::Slow { node, slow } => {
                    tracing::info!(%node, slow, "a peer's speed has changed");
                    changed = true;
                }
            }
        }
        while let Some(event) = self.gossip.poll() {
            match event {
                Event::Learnt { node } => {
                    changed = true;
                    self.learnt(shared, node, now, &mut wanted);
                }
                Event::Clash { node, .. } => wanted.clashes.push(node),
            }
        }
        if changed {
            self.publish(shared);
        }
        wanted
    }

    fn learnt(&mut self, shared: &Shared, node: NodeId, now: Instant, wanted: &mut Wanted) {
        let Some(facts) = self.gossip.facts(node) else { return };
        let peer = self.peers.entry(node).or_default();
        peer.services = Some(facts.services.clone());
        peer.reluctant = facts.reluctant;
        peer.lacking = facts.lacking_ppm > 0;
        peer.hints = facts.hints.iter().copied().collect();
        peer.hear(now);
        if peer.run != (facts.boot, facts.nonce) {
            let is_first = peer.run == PeerStatus::default().run;
            peer.newborn = is_first && facts.boot == 1 && shared.is_newborn();
            // A restart so quick that nobody missed it: what it did not get while it was away, it lacks all the same.
            peer.run = (facts.boot, facts.nonce);
            peer.up_since = Some(now);
        }
        if self.is_ahead(shared, node) {
            wanted.behind = Some(node);
        }
    }

    /// Whether a member knows, or may know, decided states that this node does not.
    fn is_ahead(&self, shared: &Shared, node: NodeId) -> bool {
        let Some(facts) = self.gossip.facts(node) else { return false };
        let ours = shared.topology().map(|topology| (topology.lineage, topology.epoch));
        ours.is_none_or(|(lineage, epoch)| facts.lineage == lineage && facts.epoch > epoch)
    }

    /// What is known of a peer is what it says now.
    fn heard(&mut self, shared: &Shared, node: NodeId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.hear(now);
            self.publish(shared);
        }
    }

    fn publish(&mut self, shared: &Shared) {
        let now = shared.env.now();
        for node in self.members.iter().filter(|node| **node != shared.me) {
            let alive = self.liveness.status(*node) != Some(Status::Dead);
            let peer = self.peers.entry(*node).or_default();
            let up = alive && peer.services.as_ref().is_none_or(|services| !services.is_empty());
            if up && !peer.up {
                peer.up_since = Some(now);
            }
            // Before it has served, to serve nothing is no absence.
            peer.newborn &= up || peer.heard.is_none();
            peer.up = up;
            peer.demoted =
                self.liveness.is_slow(*node) || self.liveness.status(*node) == Some(Status::Suspect);
        }
        shared.set_peers(self.peers.clone());
    }
}

/// How often facts are exchanged with another member.
pub(super) const GOSSIP_PERIOD: Duration = Duration::from_secs(1);
