//! What a vnode keeps: one mergeable item per key, in rows that core owns.
//!
//! Replica writes, hinted handoff, ownership handoff, read repair and anti-entropy all end in one place: the item
//! that arrives is merged with the item that is there. So there is one law to obey, and one property test that
//! shows it: [`State::merge`] is commutative, associative and idempotent.

use rondel_proto::{
    Msg, Wire,
    id::{Actor, RequestId},
};

/// A hash of what an item means. Equal items have equal digests; unequal ones differ but for 1 in 2^64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub u64);

impl Digest {
    /// The digest of bytes: the first 8 bytes of BLAKE3 over the length-prefixed parts.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let hash = hasher.finalize();
        let prefix = hash.as_bytes().first_chunk().expect("a BLAKE3 hash has 32 bytes");
        Self(u64::from_le_bytes(*prefix))
    }
}

/// What merging two items gave.
#[derive(Debug)]
pub enum Merged<I> {
    /// The item that was there says all that the incoming one says.
    Held,
    /// The incoming item says all that the one that was there says.
    Incoming,
    /// Neither; this is both.
    Both(I),
}

/// What a replica holds for a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Held<I: Wire> {
    /// Nothing.
    Absent,
    /// An item.
    Item(Msg<I>),
    /// Something, but its checksum fails or it is a hole: a failure of this replica, never "not found".
    Unreadable,
}

/// What becomes of a vnode's data. Core keeps one item per key, in rows of the node's store, and moves, repairs and
/// compares them; the application says how two items of a key merge.
///
/// A vnode that keeps nothing says so: `impl Stateless for Echo {}`.
#[diagnostic::on_unimplemented(
    message = "core does not know what becomes of the data of `{Self}` when a partition moves to another node",
    label = "neither `State` nor `Stateless`",
    note = "implement `State` for `{Self}`, or, if it keeps nothing worth moving, `impl Stateless for {Self} {{}}`"
)]
pub trait State: Send + 'static {
    /// What is kept for one key.
    type Item: Wire;

    /// Merges two items of one key.
    ///
    /// **Must** be a pure function of the two that is
    /// * commutative: `merge(a, b)` and `merge(b, a)` mean the same;
    /// * associative: the order in which three or more arrive makes no difference;
    /// * idempotent: an item that arrives again changes nothing. Handoff and repair send items again.
    ///
    /// `testing::check_state_laws` tries all of it.
    fn merge(held: &Msg<Self::Item>, incoming: &Msg<Self::Item>) -> Merged<Self::Item>;

    /// A hash of what the item means, which replicas compare instead of items.
    ///
    /// **Must** be equal on replicas whose items mean the same, whatever their encoding. The default hashes the
    /// archive, which is right where equal merges encode equally (ordered maps, no caches).
    fn digest(key: &[u8], item: &Msg<Self::Item>) -> Digest {
        Digest::of(&[key, item.bytes()])
    }

    /// The number of the last dot that the item knows of this actor: its entry in the item's version vector, or
    /// whatever else of the actor's only grows. An arriving item that knows more of this replica's own actor than the
    /// row does tells that the row was rolled back, that two stores share an identity, or that a client has made up a
    /// context; the replica then goes on as a new actor. The default knows nothing, and finds none of these.
    fn issued(item: &Msg<Self::Item>, actor: Actor) -> u64 {
        let _ = (item, actor);
        0
    }

    /// Whether this item already holds what a client's request wrote. A coordinator that is asked again then sends
    /// the item to the replicas anew, instead of running the message twice (PROTOCOLS §7). The default knows nothing.
    fn has_request(item: &Msg<Self::Item>, request: RequestId) -> bool {
        let _ = (item, request);
        false
    }
}

/// A vnode that keeps nothing worth moving.
pub trait Stateless: Send + 'static {}

impl<T: Stateless> State for T {
    type Item = ();

    fn merge(_: &Msg<()>, _: &Msg<()>) -> Merged<()> {
        Merged::Held
    }
}
