//! The way back to whoever asked: one answer per request, always.

use bytes::Bytes;
use std::fmt;

/// What a request came to: the reply's archive, or why there is none.
pub type Outcome = Result<Bytes, Failure>;

/// Why a node did not do what it was asked, as it travels between nodes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}{}{}", if detail.is_empty() { "" } else { ": " }, detail.escape_ascii())]
pub struct Failure {
    /// The kind, kept on the wire for ever.
    pub code: FailureCode,
    /// For people, except where the code says otherwise.
    pub detail: Bytes,
}

impl Failure {
    /// A failure without detail.
    #[must_use]
    pub fn new(code: FailureCode) -> Self {
        Self { code, detail: Bytes::new() }
    }

    /// A failure that says more.
    #[must_use]
    pub fn because(code: FailureCode, detail: impl fmt::Display) -> Self {
        Self { code, detail: Bytes::from(detail.to_string()) }
    }
}

macro_rules! failure_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// The kind of a [`Failure`]. Numbers are kept on the wire for ever; an unknown one reads as `Unknown`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum FailureCode { $($(#[$doc])* $name,)* }

        impl FailureCode {
            /// The number on the wire.
            #[must_use]
            pub fn number(self) -> u16 {
                match self { $(Self::$name => $code,)* }
            }

            /// The kind of a number.
            #[must_use]
            pub fn from_number(number: u16) -> Self {
                match number { $($code => Self::$name,)* _ => Self::Unknown }
            }
        }

        impl fmt::Display for FailureCode {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(match self { $(Self::$name => $text,)* })
            }
        }
    };
}

failure_codes! {
    /// A failure that this release does not know.
    Unknown = 0, "the peer failed in a way that this release does not know";
    /// A queue is full; nothing was done.
    Overloaded = 1, "the node is overloaded";
    /// No answer within the deadline. Whether the request was done is unknown.
    Expired = 2, "there was no answer within the deadline";
    /// The request's `ver` is older than the partition's; the detail is the 4-byte little-endian `ver`. Nothing was done.
    Stale = 3, "the sender's view of the partition is out of date";
    /// The node is not in the slot that it was addressed for; the detail is as in `Stale`. Nothing was done.
    NotOwner = 4, "the node does not own the slot";
    /// The row's checksum fails: present, but unknown.
    Corrupt = 5, "the row is damaged on this replica";
    /// The service is not up on this node (yet, or any more); nothing was done.
    NotServing = 6, "the service is not up on this node";
    /// The node does not know the service or the message; nothing was done.
    Unsupported = 7, "the node does not know this message";
    /// The application's handler refused.
    Refused = 8, "refused";
    /// The handler panicked; the batch it ran in was not applied.
    Panicked = 9, "the handler panicked";
    /// The store has failed or is closed. Whether a write is durable there is unknown.
    StoreFailed = 10, "the node's store has failed";
    /// The connection that the request was given to was lost. Whether the request was done is unknown.
    Disconnected = 11, "the connection to the node was lost";
    /// The responder was dropped without an answer, or the answer can't be sent. Whether the request was done is
    /// unknown.
    Dropped = 12, "the request was dropped without an answer";
    /// The bytes do not decode; nothing was done.
    BadRequest = 13, "the request does not decode";
    /// The sender is not trusted for this; nothing was done.
    NotAllowed = 14, "the sender may not do this";
    /// The node's state is behind what the request needs; nothing was done.
    NotReady = 15, "the node is not ready for this request";
    /// The disk is full or the object too large; nothing was done.
    NoRoom = 16, "the node has no room for this write";
    /// A coordinator did not get what the request asks for; the detail is three bytes: which requirement, how many it
    /// needs, how many it has. The write may have reached some replicas.
    Unmet = 17, "too few replicas answered";
    /// A coordinator's deadline passed; the detail is two bytes: how many are needed, how many there are.
    TimedOut = 18, "the deadline passed before enough replicas answered";
    /// The request had been done before and its reply is no longer known.
    Repeated = 19, "the request had been done before";
    /// A coordinator that was asked what came of a request does not know the request. Whether it was done is unknown.
    Forgotten = 20, "the node does not know whether the request was done";
    /// No connection to the node can be made, or it is no member; nothing was done.
    Unreachable = 21, "the node can't be reached";
}

impl FailureCode {
    /// Whether the request may have been done all the same.
    #[must_use]
    pub fn leaves_unknown(self) -> bool {
        matches!(
            self,
            Self::Unknown
                | Self::Disconnected
                | Self::Dropped
                | Self::StoreFailed
                | Self::Panicked
                | Self::Forgotten
        )
    }
}

/// Takes the word that a write is in memory, which may come before its answer.
pub(crate) type Accepted = Box<dyn FnOnce() + Send>;

/// Takes the answer to one request. Dropped unanswered, it answers [`FailureCode::Dropped`] at once.
pub struct ReplyTo {
    answer: Option<Box<dyn FnOnce(Outcome) + Send>>,
    /// Only with a write whose sender does not wait for every answer.
    accepted: Option<Accepted>,
}

impl ReplyTo {
    /// Answers by calling `answer`, from whatever thread; it must not block.
    #[must_use]
    pub fn new(answer: impl FnOnce(Outcome) + Send + 'static) -> Self {
        Self { answer: Some(Box::new(answer)), accepted: None }
    }

    /// Lets whoever asks hear, before the answer, that its write is in memory.
    pub(crate) fn or_accepted(mut self, accepted: Option<Accepted>) -> Self {
        self.accepted = accepted;
        self
    }

    /// Who is to hear that the write is in memory, if anybody and not yet.
    pub(crate) fn take_accepted(&mut self) -> Option<Accepted> {
        self.accepted.take()
    }

    /// Says that the write is in memory, if somebody wants to hear it: at most once, and never instead of the answer.
    pub(crate) fn accept(&mut self) {
        if let Some(accepted) = self.accepted.take() {
            accepted();
        }
    }

    /// Answers.
    pub fn send(mut self, outcome: Outcome) {
        if let Some(answer) = self.answer.take() {
            answer(outcome);
        }
    }

    /// Answers with a failure.
    pub fn fail(self, code: FailureCode) {
        self.send(Err(Failure::new(code)));
    }
}

impl Drop for ReplyTo {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            answer(Err(Failure::new(FailureCode::Dropped)));
        }
    }
}

impl fmt::Debug for ReplyTo {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("ReplyTo")
    }
}
