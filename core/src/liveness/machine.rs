//! The machine itself. Top to bottom: what callers use, then how messages, rumours, probes and time are handled.

use super::{
    Output, Status,
    config::Config,
    health::LocalHealth,
    message::{Ack, AckFor, Claim, Generation, Message, Ping, PingFor, Rumour},
    probe::{Probe, Relay, Stage},
    rumours::{self, Rumours},
    slowness::Slowness,
    suspicion::Suspicion,
};
use crate::env::Rng;
use rondel_proto::id::NodeId;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
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

/// Messages.
impl Liveness {
    fn answer(&mut self, to: NodeId, sequence: u64) {
        let rumours = self.rumours_for(to, &[to]);
        self.send(to, Message::Ack(Ack { sequence, generation: self.generation, rumours }));
    }

    fn handle_ack(&mut self, from: NodeId, ack: &Ack, now: Instant) {
        if self.relays.get(&ack.sequence).is_some_and(|relay| relay.target == from) {
            self.end_relay(ack.sequence, Some(ack.generation));
        } else if self.probes.get(&from).is_some_and(|probe| probe.sequence == ack.sequence) {
            self.answered(from, now);
        }
    }

    fn relay(&mut self, origin: NodeId, request: &PingFor, now: Instant) {
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

    fn end_relay(&mut self, sequence: u64, answered: Option<Generation>) {
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

    fn handle_ack_for(&mut self, helper: NodeId, answer: &AckFor, now: Instant) {
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

    fn ping(&mut self, to: NodeId, sequence: u64) {
        let rumours = self.rumours_for(to, &[to]);
        self.send(to, Message::Ping(Ping { sequence, generation: self.generation, rumours }));
    }

    /// What `to` is to hear: first what `about` are accused of, so that they can object, then the rest.
    fn rumours_for(&mut self, to: NodeId, about: &[NodeId]) -> Vec<Rumour> {
        let mut rumours: Vec<Rumour> = about.iter().filter_map(|node| self.accusation(*node)).collect();
        let times = rumours::times(self.members.len() + 1, self.config.rumour_factor);
        self.rumours.tell(to, times, &mut rumours);
        rumours
    }

    fn accusation(&self, node: NodeId) -> Option<Rumour> {
        let member = self.members.get(&node)?;
        let (claim, by) = match &member.state {
            State::Alive => return None,
            State::Suspect(suspicion) => (Claim::Suspect, suspicion.accuser()),
            State::Dead => (Claim::Dead, self.me),
        };
        Some(Rumour { node, by, generation: member.generation, claim })
    }

    fn send(&mut self, to: NodeId, message: Message) {
        self.outputs.push_back(Output::Send { to, message });
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}

/// Rumours.
impl Liveness {
    fn learn(&mut self, rumour: Rumour, now: Instant) {
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

    fn suspect(&mut self, rumour: Rumour, now: Instant) {
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

    fn enter(&mut self, node: NodeId, state: State) {
        let Some(member) = self.members.get_mut(&node) else { return };
        let before = member.status();
        member.state = state;
        let status = member.status();
        if status != before {
            self.outputs.push_back(Output::Changed { node, status });
        }
    }
}

/// Probes.
impl Liveness {
    fn take_turn(&mut self, now: Instant) {
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

    fn probe(&mut self, node: NodeId, now: Instant) {
        let sequence = self.next_sequence();
        let deadline = now + self.probe_timeout(node);
        self.probes.insert(node, Probe { sequence, stage: Stage::Direct, deadline });
        self.ping(node, sequence);
    }

    /// The second stage of a probe: helpers, and the member itself once more.
    fn ask_helpers(&mut self, node: NodeId, now: Instant) {
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
    fn answered(&mut self, node: NodeId, now: Instant) {
        let probed = self.probes.remove(&node).is_some();
        let Some(member) = self.members.get_mut(&node) else { return };
        match &mut member.state {
            State::Alive if probed => self.health.improve(),
            State::Suspect(suspicion) => suspicion.doubt(now),
            State::Alive | State::Dead => {}
        }
    }

    /// A sign of life from somebody who is not alive here: ask, with the accusation on the question.
    fn ask_if_doubted(&mut self, node: NodeId, now: Instant) {
        let doubted = self.members.get(&node).is_some_and(|member| member.status() != Status::Alive);
        if doubted {
            self.probe_out_of_turn(node, now);
        }
    }

    /// Begins a probe, unless there is one or the last one out of turn is less than a timeout ago.
    fn probe_out_of_turn(&mut self, node: NodeId, now: Instant) -> bool {
        let Some(member) = self.members.get_mut(&node) else { return false };
        let too_soon = member.extra.is_some_and(|at| now < at + self.config.probe_timeout);
        if too_soon || self.probes.contains_key(&node) {
            return false;
        }
        member.extra = Some(now);
        self.probe(node, now);
        true
    }

    fn verdict(&mut self, node: NodeId, probe: &Probe, now: Instant) {
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

    fn ask_a_dead_member(&mut self, now: Instant) {
        let dead = |(node, status)| (status == Status::Dead).then_some(node);
        let dead: Vec<NodeId> = self.statuses().filter_map(dead).collect();
        if let Some(node) = self.rng.choose(&dead).copied()
            && !self.probes.contains_key(&node)
        {
            self.probe(node, now);
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
