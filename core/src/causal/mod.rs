//! Which writes a copy contains or has superseded: dots, version vectors, siblings.
//!
//! An entry `(actor, n)` of a [`VersionVector`] claims: "I contain or have superseded everything that this actor
//! issued on this key up to `n`." Everything here keeps that claim true, over lost rows, crashes and rolled-back disks
//! (PROTOCOLS §1): [`Siblings`] merges copies so that a sibling goes only when a copy has superseded it, and
//! [`next_dot`] hands out dots that no vector covers yet, whatever the store has forgotten.
//!
//! All of it is pure; the counter of a store, its incarnation and the time are arguments. \[DVV\]

mod hlc;
mod mine;
mod siblings;
mod version_vector;

pub use hlc::{Horizon, later_than};
pub use mine::{Absorbed, IsHole, Issued, RowState, mine_after_absorb, next_dot};
pub use rondel_proto::id::{Actor, Dot, Hlc, Incarnation};
pub use siblings::{Kept, Siblings, kept, survives};
pub use version_vector::{Entries, VersionVector};

#[cfg(test)]
mod model;
