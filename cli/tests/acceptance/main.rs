//! The binary as people use it: real processes, sockets and disks, and what only they can show.
//!
//! Every test has clusters, folders and ports of its own, waits for what it needs instead of for a time, and leaves no
//! process behind. The rules of the system itself are tried in simulation, under far more faults.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod bad_start;
mod cluster;
mod data_dir;
mod durability;
mod harness;
mod metrics;
mod steering;
mod store_files;
mod strangers;
