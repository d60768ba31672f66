//! What replicas of the sequence say to each other. Each request has exactly one reply.

use super::{
    acceptor::{Accepted, Ballot},
    entry::Entry,
    learner::Catchup,
    state::Root,
};
use rondel_proto::{
    id::{Epoch, Lineage, StoreId},
    message, wire,
};

/// Asks a voter to promise that it accepts nothing below this ballot, and to tell what it has accepted.
#[message(id = 32, reply = PrepareReply, crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct Prepare {
    /// Which sequence.
    pub lineage: Lineage,
    /// The entry to decide.
    pub epoch: Epoch,
    /// In whose name.
    pub ballot: Ballot,
    /// The root of the state before it.
    pub parent: Root,
}

/// What a voter says to a [`Prepare`].
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub enum PrepareReply {
    /// Promised, durably.
    Promise {
        /// The entry to decide.
        epoch: Epoch,
        /// In whose name.
        ballot: Ballot,
        /// What it has accepted for that entry, in the highest ballot.
        accepted: Option<Accepted>,
    },
    /// No.
    Refused(Refused),
}

/// Asks a voter to accept an entry.
#[message(id = 33, reply = AcceptReply, crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct Accept {
    /// In whose name.
    pub ballot: Ballot,
    /// The entry.
    pub entry: Entry,
}

/// What a voter says to an [`Accept`].
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub enum AcceptReply {
    /// Accepted, durably.
    Accepted {
        /// Which entry.
        epoch: Epoch,
        /// In whose name.
        ballot: Ballot,
    },
    /// No.
    Refused(Refused),
}

/// Why a replica does not vote.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub enum Refused {
    /// A higher ballot has its promise.
    Nack {
        /// The entry to decide.
        epoch: Epoch,
        /// The ballot that was refused.
        ballot: Ballot,
        /// The one that has its promise.
        promised: Ballot,
    },
    /// The entry has been decided: here is what came of it.
    Decided(Catchup),
    /// It lacks entries before that one: send them, and ask again.
    Behind {
        /// The last that it has.
        have: Epoch,
    },
    /// It belongs to another sequence.
    WrongLineage {
        /// Its.
        lineage: Lineage,
    },
    /// It is no voter, or not with the store that it has now.
    NotVoter,
    /// It has another state at the epoch before: somebody's history is not true.
    Fork {
        /// Which epoch.
        epoch: Epoch,
        /// Its state there.
        root: Root,
    },
    /// It is of a release that does not understand an entry.
    CannotFollow {
        /// The last that it has.
        have: Epoch,
    },
}

/// Tells what has been decided.
#[message(id = 34, reply = DecidedReply, crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct Decided {
    /// Which sequence.
    pub lineage: Lineage,
    /// What leads there.
    pub catchup: Catchup,
}

/// What a replica says to [`Decided`].
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub enum DecidedReply {
    /// It has all of it, durably.
    Persisted {
        /// The store that holds it.
        store: StoreId,
        /// The last entry that it has.
        epoch: Epoch,
    },
    /// Not learnt.
    Refused(Refused),
}

/// Asks for what has been decided since.
#[message(id = 35, reply = StatePullReply, crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct StatePull {
    /// Which sequence.
    pub lineage: Lineage,
    /// The last entry that the sender has.
    pub epoch: Epoch,
}

/// What a replica says to a [`StatePull`].
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub enum StatePullReply {
    /// What the sender lacks; no entries if that is nothing.
    Catchup(Catchup),
    /// The replica belongs to another sequence.
    WrongLineage {
        /// Its.
        lineage: Lineage,
    },
}

/// What a replica asks of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// See [`Prepare`].
    Prepare(Prepare),
    /// See [`Accept`].
    Accept(Accept),
    /// See [`Decided`].
    Decided(Decided),
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To [`Prepare`].
    Prepare(PrepareReply),
    /// To [`Accept`].
    Accept(AcceptReply),
    /// To [`Decided`].
    Decided(DecidedReply),
}
