//! A virtual network of detectors: seeded delay and loss, one-way cuts, crashes, pauses; no clock but its own.

use super::super::{Config, Liveness, Message, Output, RUMOURS_PER_MESSAGE_MAX, Status};
use crate::env::Rng;
use rondel_proto::{Msg, Wire, id::NodeId};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Any instant: only differences matter.
#[cfg(test)]
pub(in super::super) fn epoch() -> Instant {
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant can't be made otherwise, and only differences are used"
    )]
    Instant::now()
}

/// What travels, ordered by arrival and then by departure.
type Flight = BTreeMap<(Instant, u64), (NodeId, NodeId, Message)>;

pub(super) struct Network {
    pub(super) nodes: BTreeMap<NodeId, Liveness>,
    pub(super) loss: f64,
    pub(super) delay: (Duration, Duration),
    pub(super) now: Instant,
    /// Every change of status: when (since the start), seen by whom, of whom, to what.
    pub(super) changes: Vec<(Duration, NodeId, NodeId, Status)>,
    pub(super) slow: Vec<(NodeId, NodeId, bool)>,
    pub(super) sent: u64,
    start: Instant,
    flight: Flight,
    /// When each running node wants its tick.
    ticks: BTreeSet<(Instant, NodeId)>,
    due: BTreeMap<NodeId, Instant>,
    cuts: BTreeSet<(NodeId, NodeId)>,
    paused: BTreeMap<NodeId, Vec<(NodeId, Message)>>,
    crashed: BTreeSet<NodeId>,
    rng: Rng,
}

impl Network {
    pub(super) fn new(size: u128, seed: u64) -> Self {
        let now = epoch();
        let mut rng = Rng::from_seed(seed);
        let ids: Vec<NodeId> = (1..=size).map(NodeId).collect();
        let node = |id: NodeId, rng: &mut Rng| {
            let mut node = Liveness::new(id, Config::default(), rng.fork(), now);
            node.set_members(ids.iter().copied());
            (id, node)
        };
        let mut network = Self {
            nodes: ids.iter().map(|id| node(*id, &mut rng)).collect(),
            loss: 0.0,
            delay: (Duration::from_micros(100), Duration::from_millis(5)),
            now,
            changes: Vec::new(),
            slow: Vec::new(),
            sent: 0,
            start: now,
            flight: Flight::new(),
            ticks: BTreeSet::new(),
            due: BTreeMap::new(),
            cuts: BTreeSet::new(),
            paused: BTreeMap::new(),
            crashed: BTreeSet::new(),
            rng,
        };
        ids.iter().for_each(|id| network.schedule(*id));
        network
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    pub(super) fn crash(&mut self, node: NodeId) {
        self.crashed.insert(node);
        self.schedule(node);
    }

    /// A crashed node comes back and remembers nothing.
    pub(super) fn restart(&mut self, node: NodeId) {
        self.crashed.remove(&node);
        let mut new = Liveness::new(node, Config::default(), self.rng.fork(), self.now);
        new.set_members(self.nodes.keys().copied());
        self.nodes.insert(node, new);
        self.schedule(node);
    }

    /// Nothing runs on a paused node, and what is sent to it waits.
    pub(super) fn pause(&mut self, node: NodeId) {
        self.paused.insert(node, Vec::new());
        self.schedule(node);
    }

    pub(super) fn resume(&mut self, node: NodeId) {
        for (from, message) in self.paused.remove(&node).unwrap_or_default() {
            self.input(node, |node, now| node.handle(from, message, now));
        }
        self.schedule(node);
    }

    /// Drops what `from` sends to `to` from now on.
    pub(super) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cuts.insert((from, to));
    }

    pub(super) fn mend(&mut self) {
        self.cuts.clear();
    }

    /// Drops everything between the two sides.
    pub(super) fn split(&mut self, left: &[NodeId], right: &[NodeId]) {
        for (a, b) in left.iter().flat_map(|a| right.iter().map(move |b| (*a, *b))) {
            self.cut(a, b);
            self.cut(b, a);
        }
    }

    pub(super) fn input(&mut self, id: NodeId, act: impl FnOnce(&mut Liveness, Instant)) {
        let node = self.nodes.get_mut(&id).expect("nodes of a test exist");
        act(node, self.now);
        while let Some(output) = self.nodes.get_mut(&id).and_then(Liveness::poll) {
            match output {
                Output::Send { to, message } => self.send(id, to, message),
                Output::Changed { node, status } => self.changes.push((self.elapsed(), id, node, status)),
                Output::Slow { node, slow } => self.slow.push((id, node, slow)),
            }
        }
        self.schedule(id);
    }

    fn schedule(&mut self, id: NodeId) {
        if let Some(due) = self.due.remove(&id) {
            self.ticks.remove(&(due, id));
        }
        if !self.crashed.contains(&id) && !self.paused.contains_key(&id) {
            let due = self.nodes[&id].deadline();
            self.due.insert(id, due);
            self.ticks.insert((due, id));
        }
    }

    pub(super) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until `done`, at most for `bound`; says whether it came to that.
    pub(super) fn run_until(&mut self, bound: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + bound;
        while !done(self) {
            if !self.step(end) {
                self.now = end;
                return done(self);
            }
        }
        true
    }

    /// What the running nodes (but `of` itself) hold `of` to be.
    pub(super) fn views(&self, of: NodeId) -> BTreeSet<Status> {
        let running = self.nodes.iter().filter(|(id, _)| **id != of && !self.crashed.contains(id));
        running.filter_map(|(_, node)| node.status(of)).collect()
    }

    pub(super) fn all_see(&self, of: NodeId, status: Status) -> bool {
        self.views(of) == BTreeSet::from([status])
    }

    pub(super) fn everyone_is_alive(&self) -> bool {
        self.nodes.keys().all(|id| self.all_see(*id, Status::Alive))
    }

    pub(super) fn declared_dead(&self, of: NodeId) -> usize {
        self.changes.iter().filter(|(_, _, node, status)| *node == of && *status == Status::Dead).count()
    }

    fn step(&mut self, end: Instant) -> bool {
        let tick = self.ticks.first().copied();
        let arrival = self.flight.first_key_value().map(|((at, _), _)| *at);
        match (arrival, tick) {
            (Some(at), tick) if at <= end && tick.is_none_or(|(due, _)| at <= due) => self.arrive(),
            (_, Some((due, id))) if due <= end => {
                self.now = self.now.max(due);
                self.input(id, Liveness::tick);
                assert!(self.due[&id] > self.now, "a tick must move the deadline on, or its driver spins");
            }
            _ => return false,
        }
        true
    }

    fn arrive(&mut self) {
        let Some(((at, _), (from, to, message))) = self.flight.pop_first() else { return };
        self.now = self.now.max(at);
        if let Some(waiting) = self.paused.get_mut(&to) {
            waiting.push((from, message));
        } else if !self.crashed.contains(&to) {
            self.input(to, |node, now| node.handle(from, message, now));
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        self.sent += 1;
        let message = over_the_wire(message);
        let lost = self.rng.chance(self.loss);
        let delay = self.rng.between(self.delay.0, self.delay.1);
        if !lost && !self.cuts.contains(&(from, to)) {
            self.flight.insert((self.now + delay, self.sent), (from, to, message));
        }
    }
}

/// What the receiver reads after archiving, checking and reading.
fn over_the_wire(message: Message) -> Message {
    fn travel<T: Wire>(value: &T) -> T {
        let archive = Msg::new(value).bytes().clone();
        assert!(archive.len() <= 128 + RUMOURS_PER_MESSAGE_MAX * 48, "{} bytes", archive.len());
        Msg::<T>::from_bytes(archive).expect("our own archive").to_owned()
    }
    match message {
        Message::Ping(ping) => Message::Ping(travel(&ping)),
        Message::Ack(ack) => Message::Ack(travel(&ack)),
        Message::PingFor(request) => Message::PingFor(travel(&request)),
        Message::AckFor(answer) => Message::AckFor(travel(&answer)),
    }
}
