//! Riak's Protocol Buffers messages (proto2), under Riak's names.
//!
//! One struct per message of `riak.proto`, `riak_kv.proto`, `riak_dt.proto`, `riak_search.proto` and
//! `riak_yokozuna.proto` with a code up to 83 or 253; fields, numbers and types are those of basho/riak_pb 7a5e535.
//! An absent optional field is `None` and is not the same as its default. `bytes` are slices of the frame that they
//! were decoded from: who keeps one for long copies it, or it keeps the whole frame alive.
//!
//! Codes and framing are in [`pbc`](crate::riak::pbc).

#![expect(missing_docs, reason = "the fields are those of Riak's .proto files, documented there")]

mod dt;
mod general;
mod kv;
mod query;
mod search;

pub use dt::*;
pub use general::*;
pub use kv::*;
pub use query::*;
pub use search::*;
