//! Gossip: how what each node says of itself reaches all others.
//!
//! [`Gossip`] is a pure machine for the three-message exchange of \[Scuttlebutt\]: a [`Digest`] of what one has, an
//! [`Answer`] with what the asker lacks and a list of what it has to offer, and a [`Delta`] with that. Whole values
//! go only to who lacks them; an exchange between two that agree carries digests alone. Once a second with one
//! random member ([`Gossip::partners`]) brings a change to all of n members in about log n seconds.
//!
//! Only a node itself changes its facts, and numbers the changes; a later run (a higher boot number) wins over any
//! version of an earlier one. The invariant: what is known of a node never goes back. Two copies of one node show
//! as one boot number with two nonces; then everyone who notices says so ([`Event::Clash`]), and both copies hear
//! of each other (PROTOCOLS §1).
//!
//! Bounds: facts about members only, each of at most [`FACTS_BYTES_MAX`]; a message takes what fits into
//! [`GOSSIP_BYTES_MAX`] and goes on behind it next time.

mod facts;
#[cfg(test)]
mod tests;

pub use facts::{Address, Answer, Delta, Digest, Entry, Facts, Load, Stamp};

use crate::env::Rng;
use rondel_proto::{Wire as _, frame::FRAME_INLINE_BYTES_MAX, id::NodeId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The most members that gossip can serve: their stamps fit into one digest.
pub const MEMBERS_MAX: usize = 1024;
/// The longest facts of one node, archived.
pub const FACTS_BYTES_MAX: usize = 16 << 10;
/// The longest message; it fits into one frame of a shared stream.
pub const GOSSIP_BYTES_MAX: usize = FRAME_INLINE_BYTES_MAX - (4 << 10);
/// What an entry adds to its facts: the rest of its fields.
const ENTRY_BYTES: usize = 32;
/// What an id that is wanted takes up.
const WANT_BYTES: usize = 16;

/// Facts that are too long to travel. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("facts of {bytes} bytes, where {FACTS_BYTES_MAX} are allowed: name fewer addresses or services")]
pub struct FactsTooLong {
    /// Their archived length.
    pub bytes: usize,
}

/// What the machine has noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// There are newer facts of a member.
    Learnt {
        /// Whose.
        node: NodeId,
    },
    /// Two runs of one node go by the same boot number, or this node has been seen in a run that it knows nothing
    /// of. If `node` is this node, it is to take a new store id and a boot number above `boot`: until then nobody
    /// hears its facts.
    Clash {
        /// Whose identity is used twice.
        node: NodeId,
        /// The boot number of the other run.
        boot: u64,
        /// Its nonce.
        nonce: u64,
    },
}

/// The facts that one node knows, and its side of all exchanges.
#[derive(Debug)]
pub struct Gossip {
    me: NodeId,
    members: BTreeSet<NodeId>,
    /// Of members, and always of this node.
    known: BTreeMap<NodeId, Known>,
    /// The last clash reported of each node, so that each is reported once.
    clashes: BTreeMap<NodeId, (u64, u64)>,
    /// Where the last message that was too short for everything ended.
    cursor: NodeId,
    events: VecDeque<Event>,
}

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    facts: Facts,
    bytes: usize,
}

impl Gossip {
    /// Gossip that knows this node alone.
    ///
    /// # Errors
    /// [`FactsTooLong`].
    pub fn new(me: NodeId, facts: Facts) -> Result<Self, FactsTooLong> {
        let own = Known::new(1, facts)?;
        Ok(Self {
            me,
            members: BTreeSet::new(),
            known: BTreeMap::from([(me, own)]),
            clashes: BTreeMap::new(),
            cursor: NodeId::default(),
            events: VecDeque::new(),
        })
    }

    /// Takes the members from the decided membership (the first [`MEMBERS_MAX`] by id). Facts of others are dropped
    /// and no longer taken in, so that those who are gone do not live on in gossip.
    pub fn set_members(&mut self, members: impl IntoIterator<Item = NodeId>) {
        let members: BTreeSet<NodeId> = members.into_iter().filter(|node| *node != self.me).collect();
        self.members = members.into_iter().take(MEMBERS_MAX - 1).collect();
        let (me, members) = (self.me, &self.members);
        self.known.retain(|node, _| *node == me || members.contains(node));
        self.clashes.retain(|node, _| *node == me || members.contains(node));
    }

    /// Says something new of this node.
    ///
    /// # Errors
    /// [`FactsTooLong`]: the old facts stand.
    pub fn set_own(&mut self, facts: Facts) -> Result<(), FactsTooLong> {
        let own = self.own();
        if own.facts != facts {
            let new = Known::new(own.stamp.version.saturating_add(1), facts)?;
            self.known.insert(self.me, new);
        }
        Ok(())
    }

    /// What a node last said of itself, as far as it has come here.
    #[must_use]
    pub fn facts(&self, node: NodeId) -> Option<&Facts> {
        self.known.get(&node).map(|known| &known.facts)
    }

    /// All facts known, this node's included, by node.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Facts)> {
        self.known.iter().map(|(node, known)| (*node, &known.facts))
    }

    /// What has been noticed, until there is nothing more.
    pub fn poll(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// With whom to exchange now: a random member that is up and, more rarely the fewer are down, one that is not,
    /// so that the two sides of a healed split find each other.
    #[must_use]
    pub fn partners(&self, is_up: impl Fn(NodeId) -> bool, rng: &mut Rng) -> Vec<NodeId> {
        let (up, down): (Vec<NodeId>, Vec<NodeId>) = self.members.iter().partition(|node| is_up(**node));
        let mut partners: Vec<NodeId> = rng.choose(&up).copied().into_iter().collect();
        if rng.below(up.len() as u64 + 1) < down.len() as u64 {
            partners.extend(rng.choose(&down));
        }
        partners
    }

    /// Begins an exchange.
    #[must_use]
    pub fn begin(&self) -> Digest {
        Digest { stamps: self.known.iter().map(|(node, known)| (*node, known.stamp)).collect() }
    }

    /// Whether what is known of the sender of a digest is what it says of itself.
    #[must_use]
    pub fn is_up_to_date(&self, from: NodeId, digest: &Digest) -> bool {
        let own = digest.stamps.iter().find(|(node, _)| *node == from).map(|(_, stamp)| *stamp);
        own.is_some() && own == self.known.get(&from).map(|known| known.stamp)
    }

    /// Answers a digest, and says what this node's calendar clock shows.
    pub fn handle_digest(&mut self, digest: &Digest, clock_ms: u64) -> Answer {
        let theirs: BTreeMap<NodeId, Stamp> = digest.stamps.iter().take(MEMBERS_MAX).copied().collect();
        for (node, stamp) in &theirs {
            self.look_for_clash(*node, *stamp);
        }
        let lacks = |(node, known): (&NodeId, &Known)| {
            let has = theirs.get(node).copied().unwrap_or_default();
            (known.stamp > has || known.stamp.clashes_with(has)).then_some(*node)
        };
        let lacking: BTreeSet<NodeId> = self.known.iter().filter_map(lacks).collect();
        let wanted = |(node, stamp): (&NodeId, &Stamp)| {
            let newer = self.known.get(node).is_none_or(|known| *stamp > known.stamp);
            (newer && self.members.contains(node)).then_some(*node)
        };
        let want: Vec<NodeId> = theirs.iter().filter_map(wanted).collect();
        let delta = self.entries(lacking, GOSSIP_BYTES_MAX - want.len() * WANT_BYTES);
        Answer { delta, want, clock_ms }
    }

    /// Takes an answer in; gives the third message, if there is anything to say.
    pub fn handle_answer(&mut self, answer: Answer) -> Option<Delta> {
        let wanted = answer.want.iter().take(MEMBERS_MAX).filter(|node| self.known.contains_key(node));
        let wanted = wanted.copied().collect();
        let entries = self.entries(wanted, GOSSIP_BYTES_MAX);
        self.absorb(answer.delta);
        (!entries.is_empty()).then_some(Delta { entries })
    }

    /// Takes the third message in.
    pub fn handle_delta(&mut self, delta: Delta) {
        self.absorb(delta.entries);
    }

    fn own(&self) -> &Known {
        self.known.get(&self.me).expect("a node knows itself from the start")
    }

    /// As many of these nodes' entries as fit, beginning behind those that went last time.
    fn entries(&mut self, nodes: BTreeSet<NodeId>, bytes_max: usize) -> Vec<Entry> {
        let behind = nodes.iter().filter(|node| **node > self.cursor);
        let turns: Vec<NodeId> =
            behind.chain(nodes.iter().filter(|node| **node <= self.cursor)).copied().collect();
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for node in turns {
            let Some(known) = self.known.get(&node) else { continue };
            bytes += known.bytes + ENTRY_BYTES;
            if bytes > bytes_max {
                break;
            }
            entries.push(Entry { node, version: known.stamp.version, facts: known.facts.clone() });
            self.cursor = node;
        }
        entries
    }

    fn absorb(&mut self, entries: Vec<Entry>) {
        for entry in entries.into_iter().take(MEMBERS_MAX) {
            let (node, stamp) = (entry.node, entry.stamp());
            self.look_for_clash(node, stamp);
            let newer = self.known.get(&node).is_none_or(|known| stamp > known.stamp);
            if !newer || !self.members.contains(&node) {
                continue;
            }
            if let Ok(known) = Known::new(entry.version, entry.facts) {
                self.known.insert(node, known);
                self.events.push_back(Event::Learnt { node });
            }
        }
    }

    fn look_for_clash(&mut self, node: NodeId, seen: Stamp) {
        let Some(known) = self.known.get_mut(&node) else { return };
        let clashes = if node == self.me {
            seen.boot >= known.stamp.boot && seen.nonce != known.stamp.nonce
        } else {
            seen.clashes_with(known.stamp)
        };
        if clashes {
            if self.clashes.insert(node, (seen.boot, seen.nonce)) != Some((seen.boot, seen.nonce)) {
                self.events.push_back(Event::Clash { node, boot: seen.boot, nonce: seen.nonce });
            }
        } else if node == self.me && seen.boot == known.stamp.boot && seen.version > known.stamp.version {
            // Said in this very run, before this machine was made: what is said now is newer.
            known.stamp.version = seen.version.saturating_add(1);
        }
    }
}

impl Known {
    fn new(version: u64, facts: Facts) -> Result<Self, FactsTooLong> {
        let bytes = facts.encode().len();
        if bytes > FACTS_BYTES_MAX {
            return Err(FactsTooLong { bytes });
        }
        let stamp = Stamp { boot: facts.boot, nonce: facts.nonce, version };
        Ok(Self { stamp, facts, bytes })
    }
}
