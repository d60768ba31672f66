//! The network between simulated nodes: what becomes of each datagram, decided by the seed.
//!
//! Node `n` has the address [`ip`]`(n)`. Every datagram is delayed by a random time (so they overtake each other) and
//! may be lost, doubled, too big for its link or eaten by a partition, also one that begins while it is under way.
//! Whoever sends never learns which.

use super::{
    Control, World,
    clock::{Due, Nanos, nanos},
    lock,
    process::Process,
    trace::Event,
};
use crate::env::Rng;
use quinn::udp::EcnCodepoint;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    task::Waker,
    time::Duration,
};

/// Datagrams that wait at a socket; more are dropped, as a kernel does.
const INBOX_DATAGRAMS_MAX: usize = 4096;

/// The first of the ports that are given out when a socket asks for any.
const ANY_PORT_FIRST: u16 = 49_152;

/// Node 0 has the address after this one.
const NETWORK: u32 = u32::from_be_bytes([10, 0, 0, 0]);

/// Nodes that have an address.
const NODES_MAX: u32 = (1 << 24) - 2;

/// A way between two nodes, in one direction.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// The shortest time that a datagram takes.
    pub latency_min: Duration,
    /// The longest, spikes aside. Datagrams between them overtake each other.
    pub latency_max: Duration,
    /// How likely a datagram is late (0 to 1).
    pub spike_chance: f64,
    /// By how much at most it is late then.
    pub spike_max: Duration,
    /// How likely a datagram is lost (0 to 1).
    pub loss: f64,
    /// How likely a datagram arrives twice (0 to 1).
    pub duplication: f64,
    /// Larger datagrams are dropped. Bytes of payload; QUIC needs 1,200.
    pub datagram_bytes_max: usize,
    /// Bytes a second that fit through, if that is bounded.
    pub bandwidth: Option<u64>,
    /// With a bandwidth: datagrams that would wait longer than this for their turn are dropped.
    pub queue_max: Duration,
}

impl Link {
    /// A link that does nothing but take half a millisecond.
    #[must_use]
    pub fn perfect() -> Self {
        let latency = Duration::from_micros(500);
        Self {
            latency_min: latency,
            latency_max: latency,
            spike_chance: 0.0,
            spike_max: Duration::ZERO,
            loss: 0.0,
            duplication: 0.0,
            datagram_bytes_max: 1472,
            bandwidth: None,
            queue_max: Duration::from_millis(100),
        }
    }

    /// What a node's datagrams to itself take.
    fn loopback() -> Self {
        let latency = Duration::from_micros(20);
        Self { latency_min: latency, latency_max: latency, datagram_bytes_max: 65_507, ..Self::perfect() }
    }
}

impl Default for Link {
    /// A local network on an ordinary day: mostly a millisecond, now and then a spike, a loss, a double.
    fn default() -> Self {
        Self {
            latency_min: Duration::from_micros(200),
            latency_max: Duration::from_micros(2500),
            spike_chance: 0.005,
            spike_max: Duration::from_millis(60),
            loss: 0.001,
            duplication: 0.001,
            ..Self::perfect()
        }
    }
}

/// What became of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Fate {
    /// On its way, or there.
    Delivered,
    /// On its way, twice.
    Doubled,
    /// Dropped by chance.
    Lost,
    /// Eaten by a partition.
    Cut,
    /// Bigger than the link carries.
    TooBig,
    /// The link's queue or the socket's inbox is full.
    Full,
    /// Nobody has that address, or nobody listens there.
    Nobody,
}

/// Where a datagram comes from and goes to: node and port.
pub(super) type End = (u32, u16);

/// A datagram under way.
pub(super) struct Packet {
    from: End,
    to: End,
    datagram: Datagram,
}

/// A datagram as its receiver sees it.
#[derive(Clone)]
pub(super) struct Datagram {
    pub(super) from: SocketAddr,
    pub(super) bytes: Vec<u8>,
    pub(super) ecn: Option<EcnCodepoint>,
}

/// The datagrams that have reached a socket.
struct Inbox {
    socket: u64,
    process: u64,
    datagrams: VecDeque<Datagram>,
    waker: Option<Waker>,
}

/// A link that is up and down by turns.
struct Flapping {
    since: Nanos,
    up: Nanos,
    down: Nanos,
}

/// The state of the network.
pub(super) struct Network {
    rng: Rng,
    link: Link,
    links: BTreeMap<(u32, u32), Link>,
    cut: BTreeSet<(u32, u32)>,
    flapping: BTreeMap<(u32, u32), Flapping>,
    busy_until: BTreeMap<(u32, u32), Nanos>,
    /// When a datagram last arrived, by the way that it came.
    arrived: BTreeMap<(u32, u32), Nanos>,
    inboxes: BTreeMap<End, Inbox>,
    ports: BTreeMap<u32, u16>,
    sockets: u64,
}

impl Network {
    pub(super) fn new(rng: Rng) -> Self {
        Self {
            rng,
            link: Link::default(),
            links: BTreeMap::new(),
            cut: BTreeSet::new(),
            flapping: BTreeMap::new(),
            busy_until: BTreeMap::new(),
            arrived: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            ports: BTreeMap::new(),
            sockets: 0,
        }
    }

    /// Opens a socket, and gives its number and port.
    pub(super) fn bind(&mut self, process: &Process, port: u16) -> io::Result<(u64, u16)> {
        let node = process.machine.node;
        let port = if port == 0 { self.any_port(node)? } else { port };
        if self.inboxes.contains_key(&(node, port)) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        self.sockets += 1;
        let inbox =
            Inbox { socket: self.sockets, process: process.id, datagrams: VecDeque::new(), waker: None };
        self.inboxes.insert((node, port), inbox);
        Ok((self.sockets, port))
    }

    fn any_port(&mut self, node: u32) -> io::Result<u16> {
        let next = self.ports.entry(node).or_insert(ANY_PORT_FIRST);
        for _ in ANY_PORT_FIRST..u16::MAX {
            let port = *next;
            *next = port.checked_add(1).unwrap_or(ANY_PORT_FIRST);
            if !self.inboxes.contains_key(&(node, port)) {
                return Ok(port);
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    /// Closes one socket; gives the waker of whoever read from it, to be dropped outside of the lock.
    pub(super) fn close(&mut self, end: End, socket: u64) -> Option<Waker> {
        self.inbox(end, socket)?;
        self.inboxes.remove(&end)?.waker
    }

    /// Closes the sockets of a process; gives the wakers, to be dropped outside of the lock.
    pub(super) fn close_all(&mut self, process: u64) -> Vec<Waker> {
        let closed = self.inboxes.extract_if(.., |_, inbox| inbox.process == process);
        closed.filter_map(|(_, inbox)| inbox.waker).collect()
    }

    fn inbox(&mut self, end: End, socket: u64) -> Option<&mut Inbox> {
        self.inboxes.get_mut(&end).filter(|inbox| inbox.socket == socket)
    }

    /// Takes the next datagram of a socket.
    pub(super) fn take(&mut self, end: End, socket: u64) -> Option<Datagram> {
        self.inbox(end, socket)?.datagrams.pop_front()
    }

    /// Wakes this waker when a datagram comes; gives the one it replaces.
    pub(super) fn wait(&mut self, end: End, socket: u64, waker: &Waker) -> Option<Waker> {
        self.inbox(end, socket)?.waker.replace(waker.clone())
    }

    fn is_cut(&self, from: u32, to: u32, now: Nanos) -> bool {
        let way = (from, to);
        let down =
            |flapping: &Flapping| (now - flapping.since) % (flapping.up + flapping.down) >= flapping.up;
        self.cut.contains(&way) || self.flapping.get(&way).is_some_and(down)
    }

    /// What becomes of a datagram, and when it (and its double) arrives.
    fn fate(&mut self, from: u32, to: u32, bytes: usize, now: Nanos) -> (Fate, Vec<Nanos>) {
        let link = match from == to {
            true => Link::loopback(),
            false => self.links.get(&(from, to)).unwrap_or(&self.link).clone(),
        };
        if bytes > link.datagram_bytes_max {
            return (Fate::TooBig, Vec::new());
        }
        if self.is_cut(from, to, now) {
            return (Fate::Cut, Vec::new());
        }
        if self.rng.chance(link.loss) {
            return (Fate::Lost, Vec::new());
        }
        let Some(queued) = self.queue(&link, (from, to), bytes, now) else { return (Fate::Full, Vec::new()) };
        let first = queued + self.latency(&link);
        if self.rng.chance(link.duplication) {
            let second = queued + self.latency(&link);
            return (Fate::Doubled, vec![first, second]);
        }
        (Fate::Delivered, vec![first])
    }

    /// When a datagram has left a link of bounded bandwidth; `None` if its queue is too long.
    fn queue(&mut self, link: &Link, way: (u32, u32), bytes: usize, now: Nanos) -> Option<Nanos> {
        let Some(bandwidth) = link.bandwidth else { return Some(now) };
        let busy = self.busy_until.entry(way).or_default();
        let start = now.max(*busy);
        if start - now > nanos(link.queue_max) {
            return None;
        }
        *busy = start + (bytes as u64).saturating_mul(1_000_000_000) / bandwidth.max(1);
        Some(*busy)
    }

    fn latency(&mut self, link: &Link) -> Nanos {
        let mut latency = self.rng.between(link.latency_min, link.latency_max);
        if self.rng.chance(link.spike_chance) {
            latency += self.rng.between(Duration::ZERO, link.spike_max);
        }
        nanos(latency)
    }

    fn deliver(&mut self, packet: Packet, now: Nanos) -> (Fate, Option<Waker>) {
        if self.is_cut(packet.from.0, packet.to.0, now) {
            return (Fate::Cut, None);
        }
        let Some(inbox) = self.inboxes.get_mut(&packet.to) else { return (Fate::Nobody, None) };
        if inbox.datagrams.len() >= INBOX_DATAGRAMS_MAX {
            return (Fate::Full, None);
        }
        inbox.datagrams.push_back(packet.datagram);
        let waker = inbox.waker.take();
        self.arrived.insert((packet.from.0, packet.to.0), now);
        (Fate::Delivered, waker)
    }

    /// The nodes that have exchanged datagrams with a node since a time, perhaps by way of others; it itself too.
    fn in_touch(&self, node: u32, since: Nanos) -> BTreeSet<u32> {
        let heard = |from, to| self.arrived.get(&(from, to)).is_some_and(|at| *at >= since);
        let (mut nodes, mut open) = (BTreeSet::from([node]), vec![node]);
        while let Some(one) = open.pop() {
            let others = self.arrived.range((one, 0)..=(one, u32::MAX)).map(|((_, other), _)| *other);
            for other in others.filter(|other| heard(one, *other) && heard(*other, one)) {
                if nodes.insert(other) {
                    open.push(other);
                }
            }
        }
        nodes
    }
}

impl World {
    /// Sends a datagram on its way.
    pub(super) fn send(&self, from: End, to: SocketAddr, datagram: &Datagram) {
        let now = self.clock.nanos();
        let bytes = datagram.bytes.len();
        let node = if to.ip().to_canonical().is_loopback() { Some(from.0) } else { node_of(to.ip()) };
        let end = (node.unwrap_or(u32::MAX), to.port());
        let (fate, arrivals) = match node {
            Some(node) => lock(&self.network).fate(from.0, node, bytes, now),
            None => (Fate::Nobody, Vec::new()),
        };
        self.record(&Event::Send { from, to: end, bytes, fate });
        for at in arrivals {
            self.clock.schedule(at, Due::Deliver(Packet { from, to: end, datagram: datagram.clone() }));
        }
    }

    /// Hands a datagram to the socket it is for.
    pub(super) fn deliver(&self, packet: Packet) {
        let (from, to, bytes) = (packet.from, packet.to, packet.datagram.bytes.len());
        let (fate, waker) = lock(&self.network).deliver(packet, self.clock.nanos());
        self.record(&Event::Receive { from, to, bytes, fate });
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The address of a node: 10.0.0.1 for node 0, and so on.
///
/// # Panics
/// For nodes beyond 16 million.
#[must_use]
pub fn ip(node: u32) -> IpAddr {
    assert!(node <= NODES_MAX, "node {node} has no address: there are {NODES_MAX} of them");
    IpAddr::V4(Ipv4Addr::from(NETWORK + 1 + node))
}

/// The node that has an address, if any could.
#[must_use]
pub fn node_of(ip: IpAddr) -> Option<u32> {
    let IpAddr::V4(ip) = ip.to_canonical() else { return None };
    u32::from(ip).checked_sub(NETWORK + 1).filter(|node| *node <= NODES_MAX)
}

/// The network of a simulation, to be tampered with. Cheap to clone.
#[derive(Clone)]
pub struct Net(pub(super) Control);

impl Net {
    /// Sets what links are like, except those that [`Net::set_link`] has set.
    pub fn set_links(&self, link: Link) {
        lock(&self.0.world().network).link = link;
    }

    /// Sets what the link from one node to another is like, in this direction.
    pub fn set_link(&self, from: u32, to: u32, link: Link) {
        lock(&self.0.world().network).links.insert((from, to), link);
    }

    /// Undoes every [`Net::set_link`].
    pub fn reset_links(&self) {
        lock(&self.0.world().network).links.clear();
    }

    /// Drops everything from one node to another, in this direction only, also what is under way.
    pub fn cut(&self, from: u32, to: u32) {
        lock(&self.0.world().network).cut.insert((from, to));
        self.changed("cut", from, to);
    }

    /// Undoes [`Net::cut`].
    pub fn mend(&self, from: u32, to: u32) {
        let mut network = lock(&self.0.world().network);
        network.cut.remove(&(from, to));
        network.flapping.remove(&(from, to));
        drop(network);
        self.changed("mend", from, to);
    }

    /// Cuts both directions between all nodes of different groups. Nodes that are in no group keep all their links.
    pub fn partition(&self, groups: &[&[u32]]) {
        for (at, group) in groups.iter().enumerate() {
            let others =
                groups.iter().enumerate().filter(|(other, _)| *other != at).flat_map(|(_, nodes)| *nodes);
            for other in others {
                group.iter().for_each(|node| self.cut(*node, *other));
            }
        }
    }

    /// Cuts a node off from these others, in both directions.
    pub fn isolate(&self, node: u32, others: impl IntoIterator<Item = u32>) {
        for other in others.into_iter().filter(|other| *other != node) {
            self.cut(node, other);
            self.cut(other, node);
        }
    }

    /// Lets the link from one node to another be up and down by turns, in this direction, from now on.
    ///
    /// # Panics
    /// If both times are zero.
    pub fn flap(&self, from: u32, to: u32, up: Duration, down: Duration) {
        assert!(up + down > Duration::ZERO, "a link that flaps needs a time to be up or down");
        let since = self.0.world().clock.nanos();
        let flapping = Flapping { since, up: nanos(up), down: nanos(down) };
        lock(&self.0.world().network).flapping.insert((from, to), flapping);
        self.changed("flap", from, to);
    }

    /// Mends every cut and every flapping link. What links are like stays.
    pub fn heal(&self) {
        let mut network = lock(&self.0.world().network);
        network.cut.clear();
        network.flapping.clear();
        drop(network);
        self.changed("heal", u32::MAX, u32::MAX);
    }

    /// Whether a datagram from one node to another would be eaten now.
    #[must_use]
    pub fn is_cut(&self, from: u32, to: u32) -> bool {
        lock(&self.0.world().network).is_cut(from, to, self.0.world().clock.nanos())
    }

    /// The nodes that can have told a node anything since a time, or have been told anything by it: datagrams went
    /// both ways since then, perhaps by way of others. The node itself is one of them.
    #[must_use]
    pub fn in_touch(&self, node: u32, since: Duration) -> BTreeSet<u32> {
        lock(&self.0.world().network).in_touch(node, nanos(since))
    }

    fn changed(&self, change: &str, from: u32, to: u32) {
        self.0.world().record(&Event::Link { change, from, to });
    }
}

impl fmt::Debug for Net {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Net")
    }
}
