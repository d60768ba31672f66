//! An object: siblings, each with the dot of the write that made it, under one version vector. The item of a row.
//!
//! The layout is on disk for ever; a golden archive holds it. Two objects merge by their dots alone
//! ([`rondel_core::causal`]), so values are not decoded unless both sides have something to give. Replicas compare
//! what an object means, not its bytes: key, vector, and each dot with the hash of its content, which the coordinator
//! has computed once (PROTOCOLS §9).
//!
//! What Riak calls last-modified and vtag follow from the write's clock and dot, so no two replicas differ in them.

use crate::{base62::base62, content::Content, context::Context};
use rondel_core::{
    causal::{Dot, Entries, Hlc, VersionVector, kept},
    proto::{Msg, Wire, id::RequestId},
    vnode::{Digest, Merged},
    wire,
};

/// Everything stored under a key: one value, or several siblings, and their version vector.
#[wire]
#[derive(PartialEq, Eq, Default)]
pub struct Object {
    /// Everything that it contains or has superseded.
    pub(crate) vector: VersionVector,
    /// In the order of their dots, each covered by the vector.
    pub(crate) siblings: Vec<Sibling>,
}

/// One of several values of a key, none of which has seen the others.
#[wire]
#[derive(PartialEq, Eq)]
pub struct Sibling {
    /// The write that made it.
    pub(crate) dot: Dot,
    /// The hash of its content.
    pub(crate) content_hash: [u8; 16],
    /// The client's request that wrote it.
    pub(crate) request: RequestId,
    /// When it was written: later than everything that its writer had seen.
    pub(crate) hlc: Hlc,
    /// What was written.
    pub content: Content,
}

/// What an archive takes besides the bytes of contents, at most: an object; a sibling; an entry of the vector.
const OBJECT_BYTES: usize = 16;
const SIBLING_BYTES: usize = 176;
const ENTRY_BYTES: usize = 24;

impl Sibling {
    /// The sibling that a write makes.
    pub(crate) fn new(dot: Dot, request: RequestId, hlc: Hlc, content: Content) -> Self {
        Self { dot, content_hash: content.hash(), request, hlc, content }
    }

    /// When it was written: microseconds since 1970. Of two writes of which one has seen the other, the other is
    /// earlier, whatever the clocks of their nodes said.
    #[must_use]
    pub fn last_modified_us(&self) -> u64 {
        let (ms, counter) = (self.hlc.0 >> 16, self.hlc.0 & 0xFFFF);
        ms * 1_000 + counter.min(999)
    }

    /// Names the write, as text for entity tags.
    #[must_use]
    pub fn vtag(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for number in [self.dot.actor.incarnation.0, self.dot.actor.birth, self.dot.counter] {
            hasher.update(&number.to_le_bytes());
        }
        let hash = hasher.finalize();
        base62(u128::from_le_bytes(*hash.as_bytes().first_chunk().expect("a BLAKE3 hash has 32 bytes")))
    }

    /// The client's request that wrote it.
    #[must_use]
    pub fn request(&self) -> RequestId {
        self.request
    }

    /// Whether it is the mark of a delete.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.content.tombstone
    }

    /// By what the newest of several is chosen.
    pub(crate) fn age(&self) -> impl Ord + use<> {
        (self.hlc, self.dot.actor, self.content_hash)
    }
}

impl ArchivedSibling {
    fn dot(&self) -> Dot {
        (&self.dot).into()
    }
}

impl Object {
    /// About how many bytes its archive has; never less.
    pub(crate) fn bytes(&self) -> usize {
        let siblings: usize =
            self.siblings.iter().map(|sibling| sibling.content.bytes() + SIBLING_BYTES).sum();
        OBJECT_BYTES + self.vector.count() * ENTRY_BYTES + siblings
    }

    /// The object that a write makes of what is held: what the writer has seen is superseded, the rest stays beside
    /// it, unless siblings are not kept.
    ///
    /// The dot is new: covered neither by what is held nor by the context.
    pub(crate) fn written(
        held: Option<&Msg<Self>>,
        context: &impl Entries,
        sibling: Sibling,
        keep_siblings: bool,
    ) -> Self {
        let mut vector = held.map_or_else(VersionVector::new, |held| held.vector.to_vector());
        vector.merge(context);
        vector.add(sibling.dot);
        let held = held.map_or(&[][..], |held| held.siblings.as_slice());
        let stays = |held: &&ArchivedSibling| keep_siblings && !context.covers(held.dot());
        let mut siblings: Vec<Sibling> = held.iter().filter(stays).map(Sibling::decode).collect();
        let place = siblings.partition_point(|other| other.dot < sibling.dot);
        siblings.insert(place, sibling);
        Self { vector, siblings }
    }

    /// What a reader who has seen all of it has seen.
    #[must_use]
    pub fn context(object: &Msg<Self>) -> Context {
        Context { vector: object.vector.to_vector(), seen: latest(object) }
    }
}

/// The latest time among the siblings.
pub(crate) fn latest(object: &Msg<Object>) -> Hlc {
    object.siblings.iter().map(|sibling| (&sibling.hlc).into()).max().unwrap_or_default()
}

/// What a reader sees of an object at a time: siblings that one request wrote twice are one, and what has expired is
/// a tombstone. Pure; the object stays as it is, and what it sees is the same on every node.
#[must_use]
pub fn view(object: &Msg<Object>, now_ms: u64) -> Vec<Sibling> {
    let mut siblings: Vec<Sibling> = Vec::with_capacity(object.siblings.len());
    for held in object.siblings.iter() {
        let request = RequestId::from(&held.request);
        if siblings.iter().any(|seen| seen.request == request) {
            continue;
        }
        let mut sibling = Sibling::decode(held);
        if is_deleted(held, now_ms) {
            sibling.content = Content::tombstone();
        }
        siblings.push(sibling);
    }
    siblings
}

/// As [`view`], where siblings are not kept: only the newest.
pub(crate) fn view_newest(object: &Msg<Object>, now_ms: u64) -> Vec<Sibling> {
    view(object, now_ms).into_iter().max_by_key(Sibling::age).into_iter().collect()
}

/// Whether a reader sees nothing but tombstones.
pub(crate) fn reads_as_deleted(object: &Msg<Object>, now_ms: u64, allow_mult: bool) -> bool {
    if allow_mult {
        object.siblings.iter().all(|sibling| is_deleted(sibling, now_ms))
    } else {
        view_newest(object, now_ms).iter().all(Sibling::is_deleted)
    }
}

fn is_deleted(sibling: &ArchivedSibling, now_ms: u64) -> bool {
    let expires_at_ms = sibling.content.expires_at_ms.as_ref().map(|at| at.to_native());
    sibling.content.tombstone || expires_at_ms.is_some_and(|at| at <= now_ms)
}

/// Merges two copies. Values are copied only if neither side has all that the result has.
pub(crate) fn merge(held: &Msg<Object>, incoming: &Msg<Object>) -> Merged<Object> {
    let (ours, theirs) = (dots(held), dots(incoming));
    let kept = kept((&held.vector, &ours), (&incoming.vector, &theirs));
    if kept.right.is_empty() && kept.left.len() == ours.len() && held.vector.descends(&incoming.vector) {
        return Merged::Held;
    }
    let all_theirs = kept.left.iter().all(|&place| theirs.binary_search(&ours[place]).is_ok());
    let none_lost = kept.left.len() + kept.right.len() == theirs.len();
    if all_theirs && none_lost && incoming.vector.descends(&held.vector) {
        return Merged::Incoming;
    }
    let left = kept.left.iter().map(|&place| &held.siblings[place]);
    let right = kept.right.iter().map(|&place| &incoming.siblings[place]);
    let mut siblings: Vec<Sibling> = left.chain(right).map(Sibling::decode).collect();
    siblings.sort_unstable_by_key(|sibling| sibling.dot);
    let mut vector = held.vector.to_vector();
    vector.merge(&incoming.vector);
    Merged::Both(Object { vector, siblings })
}

fn dots(object: &Msg<Object>) -> Vec<Dot> {
    object.siblings.iter().map(ArchivedSibling::dot).collect()
}

/// A hash of what an object means.
pub(crate) fn digest(key: &[u8], object: &Msg<Object>) -> Digest {
    let mut vector = Vec::with_capacity(object.vector.count() * 24);
    for index in 0..object.vector.count() {
        let (actor, counter) = object.vector.entry(index);
        put_dot(&mut vector, Dot { actor, counter });
    }
    let mut siblings = Vec::with_capacity(object.siblings.len() * 40);
    for sibling in object.siblings.iter() {
        put_dot(&mut siblings, sibling.dot());
        siblings.extend_from_slice(&sibling.content_hash);
    }
    Digest::of(&[key, &vector, &siblings])
}

fn put_dot(out: &mut Vec<u8>, dot: Dot) {
    for number in [dot.actor.incarnation.0, dot.actor.birth, dot.counter] {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

/// Whether one of the siblings was written by this request.
pub(crate) fn has_request(object: &Msg<Object>, request: RequestId) -> bool {
    object.siblings.iter().any(|sibling| RequestId::from(&sibling.request) == request)
}

#[cfg(test)]
mod tests;
