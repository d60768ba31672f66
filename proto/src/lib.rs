//! Everything of Rondel that crosses a wire: bytes in, bytes out.
//!
//! This crate does no I/O and knows no clock and no task. Bytes from outside are checked here, once, before anyone
//! reads them; whatever they hold, the answer is a value or an error, never a panic.
//!
//! * [`mod@message`]: typed messages that are archived once and read in place ([`Wire`], [`Message`], [`Msg`]);
//! * [`frame`]: what surrounds them on a stream;
//! * [`hello`]: what goes first on a connection;
//! * [`id`]: the identifiers that nodes exchange.

// The attributes expand to paths in this crate.
extern crate self as rondel_proto;

pub mod frame;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod hello;
pub mod id;
pub mod message;
pub mod riak;
pub mod schema;

pub use message::{Message, Msg, Wire};
pub use rkyv;
pub use rondel_macros::{message, wire};
pub use schema::Schema;
