//! Handoff: bringing items to the nodes that should hold them.
//!
//! There are two kinds: [`hints`], the items that this node keeps for slots whose owners were down, and [`refill`], the
//! items that its own store has lost and gets back from the other owners.

pub(crate) mod hints;
mod ledger;
pub(crate) mod refill;

pub(crate) use ledger::HintLedger;
