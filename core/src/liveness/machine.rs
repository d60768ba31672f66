//! The machine itself: its state, what callers use, and what falls due.

mod hearsay;
mod messages;
mod probing;

use super::{
    Output, Status,
    config::Config,
    health::LocalHealth,
    message::{Claim, Generation, Message, Rumour},
    probe::{Probe, Relay, Stage},
    rumours::Rumours,
    slowness::Slowness,
    suspicion::Suspicion,
};
use crate::env::Rng;
use rondel_proto::id::NodeId;
use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

/// The most probes on behalf of others at a time; further requests are dropped, and their origins ask elsewhere.
const RELAYS_MAX: usize = 1024;

/// The failure detector of one node. See the [module](super).
#[derive(Debug)]
pub struct Liveness {
    me: NodeId,
    config: Config,
    rng: Rng,
    generation: Generation,
    health: LocalHealth,
    /// All but this node.
    members: BTreeMap<NodeId, Member>,
    /// Whose turn it is in this round, last first.
    turns: Vec<NodeId>,
    probes: BTreeMap<NodeId, Probe>,
    relays: BTreeMap<u64, Relay>,
    rumours: Rumours,
    slowness: Slowness,
    sequence: u64,
    next_turn: Instant,
    next_dead_probe: Instant,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
struct Member {
    generation: Generation,
    state: State,
    /// When the last probe of it out of turn began.
    extra: Option<Instant>,
}

#[derive(Debug)]
enum State {
    Alive,
    Suspect(Suspicion),
    Dead,
}

impl Member {
    fn status(&self) -> Status {
        match self.state {
            State::Alive => Status::Alive,
            State::Suspect(_) => Status::Suspect,
            State::Dead => Status::Dead,
        }
    }

    fn suspicion(&self) -> Option<&Suspicion> {
        match &self.state {
            State::Suspect(suspicion) => Some(suspicion),
            State::Alive | State::Dead => None,
        }
    }
}

impl Liveness {
    /// A detector that knows no members yet.
    #[must_use]
    pub fn new(me: NodeId, config: Config, mut rng: Rng, now: Instant) -> Self {
        Self {
            me,
            generation: Generation::default(),
            health: LocalHealth::new(config.health_max),
            members: BTreeMap::new(),
            turns: Vec::new(),
            probes: BTreeMap::new(),
            relays: BTreeMap::new(),
            rumours: Rumours::default(),
            slowness: Slowness::default(),
            // Answers to an earlier run of this node must not pass for answers to this one.
            sequence: rng.u64() >> 1,
            next_turn: now + rng.between(Duration::ZERO, config.probe_interval),
            next_dead_probe: now + rng.between(Duration::ZERO, config.dead_probe_interval),
            outputs: VecDeque::new(),
            config,
            rng,
        }
    }

    /// Takes the members from the decided membership. New ones count as alive until they fail to answer; what was
    /// known of those that are gone is dropped, without an output.
    pub fn set_members(&mut self, members: impl IntoIterator<Item = NodeId>) {
        let mut known = std::mem::take(&mut self.members);
        for node in members.into_iter().filter(|node| *node != self.me) {
            let member = known.remove(&node).unwrap_or_else(|| {
                let at = self.rng.index(self.turns.len() + 1);
                self.turns.insert(at, node);
                Member { generation: Generation::default(), state: State::Alive, extra: None }
            });
            self.members.insert(node, member);
        }
        let members = &self.members;
        self.turns.retain(|node| members.contains_key(node));
        self.probes.retain(|node, _| members.contains_key(node));
        self.relays.retain(|_, relay| members.contains_key(&relay.target));
        self.rumours.retain(|node| node == self.me || members.contains_key(&node));
        self.slowness.retain(|node| members.contains_key(&node));
    }

    /// What this node holds a member to be; none if it is no member. This node itself is alive.
    #[must_use]
    pub fn status(&self, node: NodeId) -> Option<Status> {
        if node == self.me { Some(Status::Alive) } else { self.members.get(&node).map(Member::status) }
    }

    /// All members but this node, in order, with their statuses.
    pub fn statuses(&self) -> impl Iterator<Item = (NodeId, Status)> {
        self.members.iter().map(|(node, member)| (*node, member.status()))
    }

    /// Whether a member answers far more slowly than the others.
    #[must_use]
    pub fn is_slow(&self, node: NodeId) -> bool {
        self.slowness.is_slow(node)
    }

    /// The smoothed latency that was reported for a member lately.
    #[must_use]
    pub fn latency(&self, node: NodeId) -> Option<Duration> {
        self.slowness.latency(node)
    }

    /// How far this node doubts itself: 0 is well, [`Config::health_max`] the worst.
    #[must_use]
    pub fn health_score(&self) -> u32 {
        self.health.score()
    }

    /// How often this node has refuted its own death.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The next output, until there is none.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Liveness::tick`] is due. It changes with every input.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let probes = self.probes.values().map(|probe| probe.deadline);
        let relays = self.relays.values().map(|relay| relay.deadline);
        let suspects = self.members.iter().filter_map(|(node, member)| self.suspect_deadline(*node, member));
        let timers = [self.next_turn, self.next_dead_probe];
        probes.chain(relays).chain(suspects).fold(timers[0].min(timers[1]), Instant::min)
    }

    /// A message has come in.
    pub fn handle(&mut self, from: NodeId, message: Message, now: Instant) {
        self.notice_pause(now);
        let first_hand =
            Rumour { node: from, by: from, generation: message.generation(), claim: Claim::Alive };
        self.learn(first_hand, now);
        for rumour in message.rumours() {
            self.learn(*rumour, now);
        }
        match message {
            Message::Ping(ping) => self.answer(from, ping.sequence),
            Message::Ack(ack) => self.handle_ack(from, &ack, now),
            Message::PingFor(request) => self.relay(from, &request, now),
            Message::AckFor(answer) => self.handle_ack_for(from, &answer, now),
        }
        self.ask_if_doubted(from, now);
    }

    /// A request to `node` has been answered: as good as an answer to a probe.
    pub fn report_contact(&mut self, node: NodeId, now: Instant) {
        self.answered(node, now);
        self.ask_if_doubted(node, now);
    }

    /// A connection to `node` was refused or lost: it is probed at once, through helpers too.
    pub fn report_unreachable(&mut self, node: NodeId, now: Instant) {
        self.notice_pause(now);
        let asking = matches!(self.probes.get(&node), Some(Probe { stage: Stage::Direct, .. }));
        let dead = self.status(node) == Some(Status::Dead);
        if !dead && (asking || self.probe_out_of_turn(node, now)) {
            self.ask_helpers(node, now);
        }
    }

    /// How long a request to a member took. Costs a look-up; slowness is judged in [`Liveness::tick`].
    pub fn report_latency(&mut self, node: NodeId, latency: Duration, now: Instant) {
        if self.members.contains_key(&node) {
            self.slowness.report(node, latency, now);
        }
    }

    /// Does what is due by `now`.
    pub fn tick(&mut self, now: Instant) {
        self.notice_pause(now);
        self.end_relays(now);
        self.end_probe_stages(now);
        self.attend_suspects(now);
        if now >= self.next_turn {
            self.next_turn = now + self.health.stretch(self.config.probe_interval);
            self.take_turn(now);
            self.judge_slowness(now);
        }
        if now >= self.next_dead_probe {
            self.next_dead_probe = now + self.config.dead_probe_interval;
            self.ask_a_dead_member(now);
        }
    }
}

/// Time.
impl Liveness {
    /// If we were not run when we should have been, what fell due meanwhile says nothing of the others.
    fn notice_pause(&mut self, now: Instant) {
        if now <= self.deadline() + self.config.probe_timeout {
            return;
        }
        self.health.worsen(1);
        self.probes.clear();
        self.relays.clear();
        for member in self.members.values_mut() {
            if let State::Suspect(suspicion) = &mut member.state {
                suspicion.doubt(now);
                member.extra = None;
            }
        }
        self.next_turn = now;
        self.next_dead_probe = now;
    }

    fn end_relays(&mut self, now: Instant) {
        let due =
            self.relays.iter().filter(|(_, relay)| now >= relay.deadline).map(|(sequence, _)| *sequence);
        for sequence in due.collect::<Vec<_>>() {
            self.end_relay(sequence, None);
        }
    }

    fn end_probe_stages(&mut self, now: Instant) {
        let due = self.probes.iter().filter(|(_, probe)| now >= probe.deadline).map(|(node, _)| *node);
        for node in due.collect::<Vec<_>>() {
            let direct = self.probes.get(&node).is_some_and(|probe| matches!(probe.stage, Stage::Direct));
            if direct && self.status(node) != Some(Status::Dead) {
                self.ask_helpers(node, now);
            } else if let Some(probe) = self.probes.remove(&node) {
                self.verdict(node, &probe, now);
            }
        }
    }

    /// Declares dead whose suspicion has ripened, and keeps probing the other suspects.
    fn attend_suspects(&mut self, now: Instant) {
        let due = self.members.iter().filter_map(|(node, member)| {
            let deadline = self.suspect_deadline(*node, member)?;
            (now >= deadline).then_some(*node)
        });
        for node in due.collect::<Vec<_>>() {
            if self.ripe(node, now) {
                self.declare_dead(node);
            } else {
                self.probe_out_of_turn(node, now);
            }
        }
    }

    fn ripe(&self, node: NodeId, now: Instant) -> bool {
        let deadline = self.members.get(&node).and_then(|member| self.ripens(member));
        deadline.is_some_and(|deadline| now >= deadline)
    }

    fn declare_dead(&mut self, node: NodeId) {
        self.probes.remove(&node);
        self.enter(node, State::Dead);
        if let Some(rumour) = self.accusation(node) {
            self.rumours.spread(rumour);
        }
    }

    fn ripens(&self, member: &Member) -> Option<Instant> {
        member.suspicion()?.deadline(self.members.len() + 1, &self.config)
    }

    /// When a suspect is to be looked after: its suspicion ripens, or it is to be probed again.
    fn suspect_deadline(&self, node: NodeId, member: &Member) -> Option<Instant> {
        let suspicion = member.suspicion()?;
        let again = match (self.probes.contains_key(&node), member.extra) {
            (true, _) => None,
            (false, Some(at)) => Some(at + self.config.probe_timeout),
            (false, None) => Some(suspicion.began()),
        };
        again.into_iter().chain(self.ripens(member)).min()
    }

    fn judge_slowness(&mut self, now: Instant) {
        for (node, slow) in self.slowness.judge(&self.config, now) {
            self.outputs.push_back(Output::Slow { node, slow });
        }
    }
}
