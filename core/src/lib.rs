//! A cluster framework: ring, vnodes, quorum requests, hinted handoff, liveness, and a simulator that runs it all.

pub mod causal;
pub mod durable;
pub mod env;
pub mod liveness;
pub mod membership;
pub mod quorum;
pub mod reply;
pub mod ring;
pub mod sequence;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod transport;

pub use rondel_proto as proto;
