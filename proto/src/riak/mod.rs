//! Riak's client protocols: bytes from clients in, typed requests out, and back.
//!
//! Pure, as all of this crate: listeners and clients own the sockets. What the requests mean is not known here.
//!
//! * [`messages`]: the Protocol Buffers messages;
//! * [`pbc`]: the frames that carry them, and their codes;
//! * [`quorum`]: how many replicas a request asks for;
//! * [`error`]: the texts that clients recognise failures by.
//!
//! Reference: basho/riak_pb 7a5e535, riak_api 1ccf721.

pub mod code;
pub mod error;
pub mod messages;
pub mod pbc;
pub mod quorum;

pub use code::{Code, Coded};
pub use error::{QuorumName, RiakError};
pub use quorum::QuorumArg;
