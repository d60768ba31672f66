//! Whole nodes in simulation, with the smallest application there is: a counter table.

mod counter;
mod durable;
mod messages;
mod schedules;
mod single;
mod three;
