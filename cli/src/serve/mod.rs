//! The listeners of a node.

pub(crate) mod pbc;
