//! Whether the answers so far are enough, whether they can still become enough, and who to ask next.
//!
//! A [`Tally`] counts an operation over the slots of one [`ActiveList`]; a [`ReadTally`] adds what reads mean by
//! success. Both are pure: a driver sends the asks that they list and tells them what came back. The rules are those
//! of PROTOCOLS §2:
//!
//! * a slot counts once, and only when its whole write set is covered, at the newest `ver` known;
//! * an owner counts only in person, never through a stand-in;
//! * what is only in memory counts where the operation says so, and never as durable, as an owner or as a node;
//! * nodes are counted as copies that will last: of a moving slot, whichever side of the move gives fewer.
//!
//! More answers never make a satisfied operation unsatisfied, unless what was in memory turns out to be lost; and none
//! is satisfied and impossible at once.

mod read;
mod tally;

pub use read::{Absence, Answer, ReadRule, ReadTally, ReadVerdict};
pub use tally::{Ask, AskId, AskState, Tally, Verdict};

use rondel_proto::wire;

#[cfg(doc)]
use crate::ring::ActiveList;

/// What an operation asks for.
#[wire(crate = rondel_proto)]
#[derive(Copy, PartialEq, Eq)]
pub struct Quorum {
    /// Over how many slots it goes: N.
    pub n: u8,
    /// How many slots must succeed: R or W.
    pub need: u8,
    /// How many slots must have a write durably: DW. Where it is less than `need`, what a replica has only in memory
    /// counts for the rest. Owners and nodes always count durably.
    pub durable: u8,
    /// How many of them through their owners: PR or PW.
    pub owners: u8,
    /// How many distinct nodes must take part: Riak's `node_confirms`.
    pub nodes: u8,
    /// Whether only owners may serve: no stand-ins, no hints.
    pub strict: bool,
}

impl Quorum {
    /// So many of `n` slots, durably, sloppily and without further wishes.
    #[must_use]
    pub fn of(need: u8, n: u8) -> Self {
        Self { n, need, durable: need, owners: 0, nodes: 0, strict: false }
    }

    /// More than half of `n` slots.
    #[must_use]
    pub fn majority(n: u8) -> Self {
        Self::of(n / 2 + 1, n)
    }

    /// Whether anybody waits for a write to be durable anywhere.
    #[must_use]
    pub fn waits_for_a_disk(&self) -> bool {
        self.durable > 0 || self.owners > 0 || self.nodes > 0
    }

    /// Whether what a replica has only in memory may count.
    #[must_use]
    pub fn counts_memory(&self) -> bool {
        self.durable < self.need
    }
}

/// What an operation has achieved; its reply carries it.
#[wire(crate = rondel_proto)]
#[derive(Copy, PartialEq, Eq, Default)]
pub struct Achieved {
    /// Slots that succeeded.
    pub slots: u8,
    /// Slots that succeeded through their owners alone.
    pub owners: u8,
    /// Distinct nodes among them, as copies that will last.
    pub nodes: u8,
}

impl Achieved {
    /// How many copies are certain to outlast moves and the loss of slots that share a node.
    #[must_use]
    pub fn copies(&self) -> u8 {
        self.slots.min(self.nodes)
    }
}

/// What is missing. `have` counts what has succeeded; where an operation was refused before it began, what could.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    /// Too few owners (Riak's `pr_val_unsatisfied` and `pw_val_unsatisfied`).
    #[error("{have} of {need} owners: wait until more owners are up, or ask for fewer")]
    Owners {
        /// How many were asked for.
        need: u8,
        /// How many there are.
        have: u8,
    },
    /// Too few distinct nodes (Riak's `node_confirms`).
    #[error("{have} of {need} distinct nodes: wait until more nodes are up, or ask for fewer")]
    Nodes {
        /// How many were asked for.
        need: u8,
        /// How many there are.
        have: u8,
    },
    /// Too few slots that have it durably, or these on too few nodes (Riak's `dw_val_unsatisfied`).
    #[error("{have} of {need} durable replicas: wait until more nodes are up, or ask for fewer")]
    Durable {
        /// How many were asked for.
        need: u8,
        /// How many there are.
        have: u8,
    },
    /// Too few slots, or these on too few nodes (Riak's `r_val_unsatisfied`, `w_val_unsatisfied`).
    #[error("{have} of {need} replicas: wait until more nodes are up, or ask for fewer")]
    Slots {
        /// How many were asked for.
        need: u8,
        /// How many there are.
        have: u8,
    },
}

#[cfg(test)]
mod tests;
