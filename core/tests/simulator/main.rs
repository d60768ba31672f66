//! The simulator itself: that it is deterministic, that its faults are real, and that real QUIC and redb run on it.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod determinism;
mod disk;
mod executor;
mod network;
mod quic;
mod redb_crash;
