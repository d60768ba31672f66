//! The listeners of a node.

pub(crate) mod admin;
pub(crate) mod node;
pub(crate) mod pbc;
