//! A running node.

mod clock;
mod shared;

pub(crate) use clock::NodeClock;
pub(crate) use shared::{MAP_SHARDS, Outgoing, Outlook, Parts, PeerStatus, Shared, micros_until};
