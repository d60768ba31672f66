//! The listeners of a node.

pub(crate) mod admin;
pub(crate) mod pbc;
