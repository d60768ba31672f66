//! Whole nodes in simulation, with the smallest application there is: a counter table.

#![expect(clippy::unwrap_used, reason = "in a test, what must be there must be there")]

mod counter;
mod messages;
mod schedules;
mod single;
mod three;
