//! The texts by which Riak's clients recognise why a request failed.
//!
//! Riak prints the Erlang term of the failure and always sends error code 0, so the text is the protocol. It is
//! written here and nowhere else; the listeners choose the variant. Texts: riak_kv_pb_object.erl, riak_api_pb_server.erl.

use std::fmt;

/// A failure as the Protocol Buffers interface words it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RiakError {
    /// A put with `if_none_match` found an object.
    #[error("match_found")]
    MatchFound,
    /// A put with `if_not_modified` found another version.
    #[error("modified")]
    Modified,
    /// What the request needs is not there: a put with `if_not_modified` found nothing, an index is unknown.
    #[error("notfound")]
    NotFound,
    /// The time was up before enough replicas had answered. A write may have been done.
    #[error("timeout")]
    Timeout,
    /// Some node has too much to do. A write may have been done.
    #[error("overload")]
    Overload,
    /// A quorum is larger than n_val.
    #[error("{{n_val_violation,{n_val}}}")]
    NValViolation {
        /// The bucket's.
        n_val: u32,
    },
    /// Too few replicas answered. A write may have been done on some.
    #[error("{{{which}_val_unsatisfied,{need},{got}}}")]
    Unsatisfied {
        /// Which quorum.
        which: QuorumName,
        /// How many were asked for.
        need: u32,
        /// How many there were.
        got: u32,
    },
    /// Fewer vnodes can be reached than the request needs.
    #[error("{{insufficient_vnodes,{got},need,{need}}}")]
    InsufficientVnodes {
        /// How many can be reached.
        got: u32,
        /// How many the request needs.
        need: u32,
    },
    /// Nobody who could serve the request is up.
    #[error("all_nodes_down")]
    AllNodesDown,
    /// The object is larger than objects may be.
    #[error("too_large")]
    TooLarge,
    /// The object has more siblings than objects may have.
    #[error("too_many_siblings")]
    TooManySiblings,
    /// The name of a bucket is empty.
    #[error("Bucket cannot be zero-length")]
    EmptyBucket,
    /// A key is empty.
    #[error("Key cannot be zero-length")]
    EmptyKey,
    /// The name of a bucket type is empty.
    #[error("Type cannot be zero-length")]
    EmptyType,
    /// There is no such bucket type: the answer to reads, writes and listings.
    #[error("No bucket-type named '{}'", lossy(.0))]
    NoBucketType(Vec<u8>),
    /// There is no such bucket type: the answer to the messages of data types.
    #[error("Error no bucket type `{}`", Binary(.0))]
    NoDataBucketType(Vec<u8>),
    /// There is no such bucket type: the answer to questions for its properties.
    #[error("Invalid bucket type: {}", Binary(.0))]
    InvalidBucketType(Vec<u8>),
    /// Properties that can't be set, and why.
    #[error("Invalid bucket properties: {0}")]
    InvalidProps(String),
    /// Nobody serves this code.
    #[error("Unknown message code: {0}")]
    UnknownCode(u8),
    /// The message is Riak's, but not served here.
    #[error("{0} is not supported by this server")]
    NotSupported(super::Code),
    /// A request arrived while a streaming one was being answered. The connection is closed.
    #[error("Cannot send another request while one is in progress")]
    InProgress,
    /// The message does not decode. The connection is closed.
    #[error("Error processing incoming message: {0}")]
    Unprocessable(String),
    /// TLS was asked for where security is off.
    #[error("Security not enabled; STARTTLS not allowed.")]
    SecurityOff,
    /// Any other failure, in words of our own.
    #[error("{0}")]
    Other(String),
}

/// Which quorum was not met, by Riak's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QuorumName {
    /// Replicas that answered a read.
    R,
    /// Owners that answered a read.
    Pr,
    /// Replicas that acknowledged a write.
    W,
    /// Owners that acknowledged a write.
    Pw,
    /// Replicas on which a write is durable.
    Dw,
    /// Distinct nodes.
    NodeConfirms,
}

impl fmt::Display for QuorumName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::R => "r",
            Self::Pr => "pr",
            Self::W => "w",
            Self::Pw => "pw",
            Self::Dw => "dw",
            Self::NodeConfirms => "node_confirms",
        })
    }
}

/// Bytes as Erlang's `~p` prints a binary: as text if all of it is printable, else as numbers.
struct Binary<'a>(&'a [u8]);

impl fmt::Display for Binary<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty() && self.0.iter().all(|&byte| byte == b' ' || byte.is_ascii_graphic()) {
            return write!(out, "<<\"{}\">>", lossy(self.0).replace('\\', "\\\\").replace('"', "\\\""));
        }
        out.write_str("<<")?;
        for (place, byte) in self.0.iter().enumerate() {
            write!(out, "{}{byte}", if place == 0 { "" } else { "," })?;
        }
        out.write_str(">>")
    }
}

fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::riak::Code;

    #[test]
    fn the_texts_are_riaks() {
        let unsatisfied = |which, need, got| RiakError::Unsatisfied { which, need, got };
        let texts = [
            (unsatisfied(QuorumName::R, 2, 1), "{r_val_unsatisfied,2,1}"),
            (unsatisfied(QuorumName::Pr, 3, 2), "{pr_val_unsatisfied,3,2}"),
            (unsatisfied(QuorumName::NodeConfirms, 3, 2), "{node_confirms_val_unsatisfied,3,2}"),
            (RiakError::NValViolation { n_val: 3 }, "{n_val_violation,3}"),
            (RiakError::InsufficientVnodes { got: 1, need: 2 }, "{insufficient_vnodes,1,need,2}"),
            (RiakError::NoBucketType(b"T".to_vec()), "No bucket-type named 'T'"),
            (RiakError::NoDataBucketType(b"T".to_vec()), "Error no bucket type `<<\"T\">>`"),
            (RiakError::InvalidBucketType(vec![0, 255]), "Invalid bucket type: <<0,255>>"),
            (RiakError::UnknownCode(35), "Unknown message code: 35"),
            (RiakError::NotSupported(Code::RpbMapRedReq), "RpbMapRedReq is not supported by this server"),
        ];
        for (error, text) in texts {
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn binaries_print_as_erlang_prints_them() {
        let print = |bytes: &[u8]| Binary(bytes).to_string();
        assert_eq!(print(b"a \"b\\"), r#"<<"a \"b\\">>"#);
        assert_eq!(print(b""), "<<>>");
        assert_eq!(print(b"\n"), "<<10>>");
    }
}
