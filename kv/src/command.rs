//! What is asked of a partition: the service's messages. Numbers and layouts are fixed once released.

use crate::{content::Content, object::Object};
use rondel_core::{causal::VersionVector, message, proto::id::Hlc, wire};

/// Writes a value, or the tombstone of a delete. Coordinated: sent with `update`.
#[message(id = 1, reply = PutReply, write)]
pub struct Put {
    /// What the client has seen, and so replaces.
    pub context: VersionVector,
    /// The latest time that it has seen.
    pub seen: Hlc,
    /// What to write.
    pub content: Content,
    /// When to write it.
    pub condition: Condition,
    /// Keep siblings that the client has not seen. If not, they are dropped.
    pub allow_mult: bool,
    /// Answer with the object.
    pub return_body: bool,
    /// The most siblings that the object may have afterwards.
    pub siblings_max: u32,
    /// The most bytes that it may have afterwards.
    pub object_bytes_max: u64,
}

/// On which condition a put is done. Tried against a quorum of replicas, and again by the coordinator in the same
/// step as the write. Two coordinators may still agree to two writes at once; then both become siblings.
#[wire]
#[derive(Copy, PartialEq, Eq, Default)]
pub enum Condition {
    /// None.
    #[default]
    Always,
    /// If there is no object, or only a deleted one.
    Absent,
    /// If there is an object, and the context has seen all of it.
    Unchanged,
}

/// What became of a put.
#[wire]
#[derive(PartialEq, Eq)]
pub enum PutReply {
    /// It was done.
    Done,
    /// It was done, and this is the object now.
    Object(Object),
    /// It was not done, and nothing was changed.
    Refused(PutRefusal),
}

/// Why a put was not done.
#[wire]
#[derive(Copy, PartialEq, Eq)]
pub enum PutRefusal {
    /// [`Condition::Absent`] does not hold.
    MatchFound,
    /// [`Condition::Unchanged`] does not hold: there is something that the context has not seen.
    Modified,
    /// The object would have too many siblings.
    TooManySiblings,
    /// The object would have so many bytes.
    TooLarge(u64),
    /// The context claims to have seen writes that have not been issued.
    ContextAhead,
}

/// Asks for every row that begins so and is not deleted. Scanned.
#[message(id = 2, reply = ())]
pub struct List {
    /// What the row begins with: see [`Bucket`](crate::Bucket).
    pub prefix: Vec<u8>,
    /// The time by which expiry is judged, the same for the whole listing: milliseconds since 1970.
    pub now_ms: u64,
    /// Whether siblings are kept.
    pub allow_mult: bool,
}
