//! The service on whole nodes in simulation.

#![expect(clippy::unwrap_used, reason = "in a test, what must be there must be there")]

mod causality;
mod harness;
mod lost_files;
mod schedules;
mod single;
mod three;
