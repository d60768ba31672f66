//! What a reader has seen, as opaque bytes that its next write brings back (Riak's vclock).
//!
//! A write supersedes what its context covers and nothing else, so bytes that are not exactly a context are refused
//! before anything is changed. The checksum is against damage, not against forgery: who may write may overwrite.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rondel_core::causal::{Actor, Dot, Entries, Hlc, Incarnation, VersionVector};

/// The first byte: which form the rest has.
const VERSION: u8 = 1;
/// Version, clock and count before the entries; the bytes of an entry; the checksum after them.
const HEAD_BYTES: usize = 1 + 8 + 2;
const ENTRY_BYTES: usize = 3 * 8;
const CHECKSUM_BYTES: usize = 4;

/// What a reader has seen of an object. The empty one has seen nothing: a write with it never overwrites.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context {
    pub(crate) vector: VersionVector,
    /// The latest time among the siblings that were read, so that the next write is later.
    pub(crate) seen: Hlc,
}

/// Bytes that are no context. Nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a causal context: send back exactly what a read has given, or leave it out")]
pub struct BadContext;

impl Context {
    /// Whether it has seen nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.vector.is_empty()
    }

    /// As bytes for a client.
    ///
    /// # Panics
    /// If the object has been coordinated by more than 65,535 incarnations of stores.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let entries = self.vector.iter();
        let mut out = BytesMut::with_capacity(HEAD_BYTES + entries.len() * ENTRY_BYTES + CHECKSUM_BYTES);
        out.put_u8(VERSION);
        out.put_u64_le(self.seen.0);
        out.put_u16_le(u16::try_from(entries.len()).expect("a vector has less than 2^16 actors"));
        for (actor, counter) in entries {
            out.put_u64_le(actor.incarnation.0);
            out.put_u64_le(actor.birth);
            out.put_u64_le(counter);
        }
        let checksum = checksum(&out);
        out.put_slice(&checksum);
        out.freeze()
    }

    /// From a client's bytes; none at all are the empty context.
    ///
    /// # Errors
    /// [`BadContext`] for everything that [`Context::to_bytes`] does not give.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadContext> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let body_len = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(BadContext)?;
        let (mut body, sum) = bytes.split_at(body_len);
        if body.len() < HEAD_BYTES || checksum(body) != sum || body.get_u8() != VERSION {
            return Err(BadContext);
        }
        let (seen, count) = (Hlc(body.get_u64_le()), usize::from(body.get_u16_le()));
        if body.len() != count * ENTRY_BYTES {
            return Err(BadContext);
        }
        let mut vector = VersionVector::new();
        let mut last = None;
        for _ in 0..count {
            let actor = Actor { incarnation: Incarnation(body.get_u64_le()), birth: body.get_u64_le() };
            let dot = Dot { actor, counter: body.get_u64_le() };
            if dot.counter == 0 || last >= Some(actor) {
                return Err(BadContext);
            }
            last = Some(actor);
            vector.add(dot);
        }
        Ok(Self { vector, seen })
    }

    /// Whether two have seen the same.
    #[must_use]
    pub fn has_seen_the_same(&self, other: &Self) -> bool {
        self.vector == other.vector
    }

    /// Whether it has seen all that the other has.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.vector.descends(&other.vector)
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    *blake3::hash(bytes).as_bytes().first_chunk().expect("a BLAKE3 hash has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_context() -> impl Strategy<Value = Context> {
        let entry = (0u64..4, 0u64..4, 1u64..);
        (prop::collection::vec(entry, 0..5), any::<u64>()).prop_map(|(entries, seen)| {
            let entry = |(incarnation, birth, counter)| {
                (Actor { incarnation: Incarnation(incarnation), birth }, counter)
            };
            Context { vector: entries.into_iter().map(entry).collect(), seen: Hlc(seen) }
        })
    }

    #[test]
    fn a_context_given_to_a_client_is_understood_for_ever() {
        let actor = Actor { incarnation: Incarnation(0x0102), birth: 3 };
        let context = Context { vector: [(actor, 4)].into_iter().collect(), seen: Hlc(5) };
        let hex: String = context.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = "0105000000000000000100\
                      020100000000000003000000000000000400000000000000\
                      33d2b8a4";
        assert_eq!(hex, golden);
    }

    #[test]
    fn a_vector_out_of_order_is_refused_though_its_checksum_is_right() {
        let two: VersionVector =
            [1, 2].map(|birth| (Actor { incarnation: Incarnation(1), birth }, 1)).into_iter().collect();
        let good = Context { vector: two, seen: Hlc(0) }.to_bytes();
        let sealed = |body: &[u8]| [body, &checksum(body)[..]].concat();
        let body = &good[..good.len() - CHECKSUM_BYTES];
        assert!(Context::from_bytes(&sealed(body)).is_ok());
        let (head, entries) = body.split_at(HEAD_BYTES);
        let (first, second) = entries.split_at(ENTRY_BYTES);
        assert!(Context::from_bytes(&sealed(&[head, second, first].concat())).is_err(), "falls");
        assert!(Context::from_bytes(&sealed(&[head, first, first].concat())).is_err(), "twice");
        let zero = [first, &second[..16], &[0; 8]].concat();
        assert!(Context::from_bytes(&sealed(&[head, &zero].concat())).is_err(), "zero");
        assert!(Context::from_bytes(&sealed(&[head, first].concat())).is_err(), "too short");
        assert!(Context::from_bytes(&sealed(&[&[2], &body[1..]].concat())).is_err(), "of another version");
    }

    proptest! {
        #[test]
        fn what_was_given_is_understood(context in any_context()) {
            prop_assert_eq!(Context::from_bytes(&context.to_bytes()), Ok(context));
        }

        #[test]
        fn any_damage_is_seen(context in any_context(), place: prop::sample::Index, flip in 1u8.., cut: bool) {
            let mut bytes = context.to_bytes().to_vec();
            let place = place.index(bytes.len());
            if cut && place > 0 { bytes.truncate(place) } else { bytes[place] ^= flip }
            prop_assert_eq!(Context::from_bytes(&bytes), Err(BadContext));
        }

        #[test]
        fn garbage_is_no_context(bytes in prop::collection::vec(any::<u8>(), 1..80)) {
            prop_assert_eq!(Context::from_bytes(&bytes), Err(BadContext));
        }
    }
}
