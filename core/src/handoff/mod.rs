//! Handoff: bringing items to the nodes that should hold them.
//!
//! Today there is one kind: [`hints`], the items that this node keeps for slots whose owners were down.

pub(crate) mod hints;
mod ledger;

pub(crate) use ledger::HintLedger;
