//! A cluster framework: ring, vnodes, quorum requests, hinted handoff, liveness, and a simulator that runs it all.

pub mod causal;
pub mod durable;
pub mod env;
mod handoff;
pub mod liveness;
pub mod membership;
pub mod metrics;
pub mod mutant;
pub mod node;
pub mod quorum;
pub mod reply;
pub mod request;
pub mod ring;
pub mod sequence;
pub mod store;
pub mod table;
#[cfg(feature = "testing")]
pub mod testing;
pub mod topology;
pub mod transport;
pub mod vnode;

pub use node::Cluster;
pub use rondel_proto as proto;
pub use rondel_proto::{message, wire};

/// The programs in the book for builders compile, and run where they can.
#[cfg(doctest)]
#[doc = include_str!("../../docs/building-on-core.md")]
mod building_on_core {}
