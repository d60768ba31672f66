//! Why requests fail, in words that say what to do; each says whether anything was changed.

use crate::context::BadContext;
use rondel_core::request::RequestError;

/// A name that can't be used. Nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The bucket type is empty.
    #[error("the name of a bucket type is empty")]
    EmptyType,
    /// The bucket is empty.
    #[error("the name of a bucket is empty")]
    EmptyBucket,
    /// The key is empty.
    #[error("a key is empty")]
    EmptyKey,
    /// Type, bucket and key are too long together.
    #[error("bucket type, bucket and key have {len} bytes together; at most {max} are allowed")]
    TooLong {
        /// How long they are.
        len: usize,
        /// What is allowed.
        max: usize,
    },
    /// There is no such bucket type.
    #[error("there is no bucket type `{}`", .0.escape_ascii())]
    UnknownType(Vec<u8>),
}

/// Why a get gives no answer. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GetError {
    /// A name can't be used.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The replicas did not answer as asked.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// Why a put was not done as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// A name can't be used. Nothing was done.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The context is none. Nothing was done.
    #[error(transparent)]
    Context(#[from] BadContext),
    /// The object is too large. Nothing was done.
    #[error(
        "the object would have {bytes} bytes with all its siblings; at most {max} are allowed: resolve its siblings, \
         or split the value"
    )]
    TooLarge {
        /// What it would have.
        bytes: u64,
        /// What is allowed.
        max: u64,
    },
    /// The object has too many siblings. Nothing was done.
    #[error(
        "the object would have more than {max} siblings: read it, and write the resolved value with its context"
    )]
    TooManySiblings {
        /// What is allowed.
        max: u32,
    },
    /// [`Condition::Absent`](crate::Condition::Absent): there is an object. Nothing was done.
    #[error("there is an object under this key already")]
    MatchFound,
    /// [`Condition::Unchanged`](crate::Condition::Unchanged): somebody has written since. Nothing was done.
    #[error("the object has been written since the context was read")]
    Modified,
    /// [`Condition::Unchanged`](crate::Condition::Unchanged): there is no object. Nothing was done.
    #[error("there is no object under this key")]
    NotFound,
    /// The replicas did not answer as asked; the error says what may have been done.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// Why a delete was not done as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeleteError {
    /// What is there could not be read. Nothing was done.
    #[error("what is to be deleted can't be read: {0}")]
    Read(#[source] GetError),
    /// The tombstone could not be written as asked.
    #[error(transparent)]
    Write(#[from] PutError),
}

/// Why a listing ends early. What it gave before is not complete.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// A name can't be used.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A partition could not be answered for.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The time was up.
    #[error("the listing took longer than {seconds} s: allow it more time")]
    Timeout {
        /// What was allowed.
        seconds: u64,
    },
}
