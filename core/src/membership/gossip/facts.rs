//! What a node says of itself, and the three messages that carry it.

use rondel_proto::{
    id::{Epoch, Lineage, NodeId, StoreId},
    message, wire,
};

/// What one node says of itself to all others. Only that node ever changes it.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq, Default)]
pub struct Facts {
    /// How often its data directory was opened: a higher one is a later run.
    pub boot: u64,
    /// Drawn at that opening: two runs with one boot number and two nonces are two copies of one node.
    pub nonce: u64,
    /// The store in its data directory.
    pub store: StoreId,
    /// Where it listens.
    pub addrs: Vec<Address>,
    /// The services whose vnodes there can answer, by the hash of their names.
    pub services: Vec<u32>,
    /// The line of decided states that it follows.
    pub lineage: Lineage,
    /// How far it has got in it: who is behind pulls what it lacks.
    pub epoch: Epoch,
    /// The hash of its decided state.
    pub root: [u8; 32],
    /// The highest format on wire and disk that it can read.
    pub format: u32,
    /// How busy and how full it is.
    pub load: Load,
    /// For how many rows it keeps hints, by the owner that they wait for.
    pub hints: Vec<(NodeId, u64)>,
    /// It would rather not coordinate updates while another owner can.
    pub reluctant: bool,
    /// The share of all positions at which its store has lost rows that have not come back yet, in millionths.
    pub lacking_ppm: u32,
    /// Why it has withdrawn from service, for people; empty while it has not.
    pub withdrawn: String,
}

/// One place where a node listens.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// What answers there, such as `node`, `bulk` or the name of a listener for clients.
    pub listener: String,
    /// Host and port.
    pub addr: String,
}

/// How busy and how full a node is.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq, Default)]
pub struct Load {
    /// Requests that wait in its lanes.
    pub queued_requests: u64,
    /// Bytes in its store.
    pub stored_bytes: u64,
    /// Bytes that its disk has left.
    pub free_bytes: u64,
}

/// Which facts of a node one has. The greater is the newer: a later run wins over any version of an earlier one.
#[wire(crate = rondel_proto)]
#[derive(Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Stamp {
    /// See [`Facts::boot`].
    pub boot: u64,
    /// See [`Facts::nonce`].
    pub nonce: u64,
    /// Counts the changes within a run.
    pub version: u64,
}

impl Stamp {
    /// Whether the two tell of two live copies of one node: the same run number, different runs.
    #[must_use]
    pub fn clashes_with(self, other: Self) -> bool {
        self.boot == other.boot && self.nonce != other.nonce
    }
}

/// The facts of a node on their way to somebody who lacks them.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct Entry {
    /// Whose.
    pub node: NodeId,
    /// See [`Stamp::version`].
    pub version: u64,
    /// The facts, whole.
    pub facts: Facts,
}

impl Entry {
    pub(super) fn stamp(&self) -> Stamp {
        Stamp { boot: self.facts.boot, nonce: self.facts.nonce, version: self.version }
    }
}

/// The first message: what the sender has.
#[message(id = 24, reply = Answer, crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct Digest {
    /// One for each node whose facts it has, itself included.
    pub stamps: Vec<(NodeId, Stamp)>,
}

/// The second: what the sender of the digest lacks, and what it has that the answering node lacks.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct Answer {
    /// What the other lacks.
    pub delta: Vec<Entry>,
    /// Whose facts are wanted in return.
    pub want: Vec<NodeId>,
    /// The calendar clock of the node that answers, in milliseconds since 1970.
    pub clock_ms: u64,
}

/// The third: what was wanted.
#[message(id = 25, crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct Delta {
    /// The facts wanted, as far as they fit into one message; the rest goes with a later exchange.
    pub entries: Vec<Entry>,
}
