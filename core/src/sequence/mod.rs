//! The decided sequence: the one history of a cluster's topology and catalog (PROTOCOLS §3).
//!
//! Each [`Entry`] turns a [`State`] into the next one and is decided by a majority of the voters that the state
//! before it names: chained single-decree Paxos. So no two parts of a split network ever change the ring in two
//! ways, and reads and writes of data never wait for any of it.
//!
//! Everything here is pure but [`mod@file`]: a [`Replica`] takes requests and replies and gives effects, to be carried
//! out in order. The invariants: at one epoch of one lineage there is one root, every change takes place at most
//! once, and what is reported as decided survives as long as a majority of the voters' stores does.

mod acceptor;
mod entry;
pub mod file;
mod learner;
mod message;
mod proposer;
mod replica;
mod state;

#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(crate) use state::tests as state_tests;

pub use acceptor::{Accepted, Ballot, Record};
pub use entry::{Delta, DeltaRecord, Entry, Refusal, SetAddress, SetStore};
pub use file::DecidedFile;
pub use learner::{CATCHUP_ENTRIES_MAX, Catchup, LearnError};
pub use message::{
    Accept, AcceptReply, Decided, DecidedReply, Prepare, PrepareReply, Refused, Reply, Request, StatePull,
    StatePullReply,
};
pub use proposer::Proposal;
pub use replica::{Effect, Replica, Report};
pub use state::{
    Ancestor, ChangeId, KeyRouting, Member, MemberStatus, PropertySet, RECENT_CHANGES_MAX, Root, Staged,
    State, Topology, VOTERS_MAX,
};
