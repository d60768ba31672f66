//! Rows: the header, checksum and body of what a store keeps.
//!
//! A row is `tag (1) | checksum (16) | flags (1) | n_val class (1) | mine (16, if the flag says so) | body`, integers
//! little-endian. The checksum is truncated BLAKE3 over where the row stands and everything else in it, so a row
//! that rotted, or that stands where it was not written, never decodes. It is checked before the tag is looked at:
//! an unknown tag is a newer release's row, never a damaged one (PROTOCOLS §8, "Corrupt is not notfound" §2).
//!
//! A *hole* is a row that is present but unknown: what it held was damaged and has not come back from a replica yet.

use super::RowKey;
use bytes::{BufMut as _, Bytes, BytesMut};
use rondel_proto::id::{Actor, Incarnation};

const CHECKSUM_BYTES: usize = 16;
/// Tag, checksum, flags, n_val class.
const HEADER_BYTES: usize = 1 + CHECKSUM_BYTES + 2;
const ACTOR_BYTES: usize = 16;

const FLAG_MINE: u8 = 1;
const FLAG_HOLE: u8 = 2;

/// How a row's body is to be read. Numbers are kept on disk for ever and never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RowTag(u8);

impl RowTag {
    /// The archive of the service's item, as of format level 1.
    pub const ITEM: Self = Self(1);

    /// Every tag that this release can read.
    pub const KNOWN: &'static [Self] = &[Self::ITEM];

    /// The number on disk.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// What a row holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// The archive of an item.
    Item(Bytes),
    /// Present, but unknown until a replica's copy is absorbed.
    Hole,
}

/// A row, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// How the body is to be read.
    pub tag: RowTag,
    /// The n_val of the row's bucket when it was written.
    pub n_val: u8,
    /// The actor under which this store issues dots for the row; never sent (PROTOCOLS §1).
    pub mine: Option<Actor>,
    /// What it holds.
    pub body: Body,
}

/// Why the bytes of a row are of no use. Neither means that the row is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The bytes are not what was written at this place.
    #[error("the row is damaged: its checksum does not match; it is to be repaired from another replica")]
    Corrupt,
    /// The row is whole, but of a kind that this release does not know.
    #[error("the row has tag {0}, which this release does not know: run a newer one")]
    UnknownTag(u8),
}

impl Row {
    /// The row's bytes, bound to where it stands.
    #[must_use]
    pub fn encode(&self, at: &RowKey) -> Bytes {
        let (flag, body) = match &self.body {
            Body::Item(item) => (0, item.as_ref()),
            Body::Hole => (FLAG_HOLE, [].as_slice()),
        };
        let mine = if self.mine.is_some() { FLAG_MINE } else { 0 };
        let mut out = BytesMut::with_capacity(HEADER_BYTES + ACTOR_BYTES + body.len());
        out.put_u8(self.tag.0);
        out.put_bytes(0, CHECKSUM_BYTES);
        out.put_u8(flag | mine);
        out.put_u8(self.n_val);
        if let Some(actor) = self.mine {
            out.put_u64_le(actor.incarnation.0);
            out.put_u64_le(actor.birth);
        }
        out.put_slice(body);
        let sum = checksum(at, self.tag.0, &out[1 + CHECKSUM_BYTES..]);
        out[1..=CHECKSUM_BYTES].copy_from_slice(&sum);
        out.freeze()
    }

    /// The row that stands at `at`; its body is a slice of `bytes`.
    ///
    /// # Errors
    /// [`RowError`]: the row is present, but not usable.
    pub fn decode(at: &RowKey, bytes: &Bytes) -> Result<Self, RowError> {
        if !Self::is_sound(at, bytes) {
            return Err(RowError::Corrupt);
        }
        Self::decode_sound(bytes)
    }

    /// Whether the bytes are what was written at `at`.
    #[must_use]
    pub fn is_sound(at: &RowKey, bytes: &[u8]) -> bool {
        let Some((&tag, rest)) = bytes.split_first() else { return false };
        rest.split_at_checked(CHECKSUM_BYTES).is_some_and(|(sum, rest)| checksum(at, tag, rest) == *sum)
    }

    /// The row of bytes that are known to be sound: see [`Row::is_sound`]. Its body is a slice of `bytes`.
    ///
    /// # Errors
    /// [`RowError`], as far as the bytes show it without their checksum.
    pub fn decode_sound(bytes: &Bytes) -> Result<Self, RowError> {
        let (&tag, rest) = bytes.split_first().ok_or(RowError::Corrupt)?;
        let (_, rest) = rest.split_at_checked(CHECKSUM_BYTES).ok_or(RowError::Corrupt)?;
        let tag = *RowTag::KNOWN.iter().find(|known| known.0 == tag).ok_or(RowError::UnknownTag(tag))?;
        let &[flags, n_val, ref rest @ ..] = rest else { return Err(RowError::Corrupt) };
        let (mine, body) = match flags & FLAG_MINE {
            0 => (None, rest),
            _ => split_actor(rest).map(|(actor, body)| (Some(actor), body)).ok_or(RowError::Corrupt)?,
        };
        let body = match flags & !FLAG_MINE {
            0 => Body::Item(bytes.slice_ref(body)),
            FLAG_HOLE if body.is_empty() => Body::Hole,
            _ => return Err(RowError::Corrupt),
        };
        Ok(Self { tag, n_val, mine, body })
    }
}

fn split_actor(bytes: &[u8]) -> Option<(Actor, &[u8])> {
    let (incarnation, rest) = bytes.split_first_chunk()?;
    let (birth, rest) = rest.split_first_chunk()?;
    let incarnation = Incarnation(u64::from_le_bytes(*incarnation));
    Some((Actor { incarnation, birth: u64::from_le_bytes(*birth) }, rest))
}

/// Truncated BLAKE3 over the row's place and its fields. The key's length comes first, so that no byte can move from
/// the key into the body unseen.
fn checksum(at: &RowKey, tag: u8, fields: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    let mut place = [0; 21];
    place[..4].copy_from_slice(&at.table.0.to_le_bytes());
    place[4..12].copy_from_slice(&at.position.0.to_le_bytes());
    place[12..20].copy_from_slice(&(at.key.len() as u64).to_le_bytes());
    place[20] = tag;
    hasher.update(&place).update(&at.key).update(fields);
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..CHECKSUM_BYTES]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::TableId;
    use proptest::prelude::*;
    use rondel_proto::id::Position;

    fn at(table: u32, position: u64, key: &[u8]) -> RowKey {
        RowKey { table: TableId(table), position: Position(position), key: Bytes::copy_from_slice(key) }
    }

    fn actor(incarnation: u64, birth: u64) -> Actor {
        Actor { incarnation: Incarnation(incarnation), birth }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    prop_compose! {
        fn any_row()(
            n_val: u8,
            mine in proptest::option::of((any::<u64>(), any::<u64>())),
            body in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..80)),
        ) -> Row {
            let body = body.map_or(Body::Hole, |item| Body::Item(item.into()));
            Row { tag: RowTag::ITEM, n_val, mine: mine.map(|(i, b)| actor(i, b)), body }
        }
    }

    prop_compose! {
        fn any_place()(table: u32, position: u64, key in proptest::collection::vec(any::<u8>(), 0..20)) -> RowKey {
            at(table, position, &key)
        }
    }

    #[test]
    fn bytes_on_disk_are_what_they_have_always_been() {
        let place = at(7, 0x0123_4567_89ab_cdef, b"key");
        let item = Row {
            tag: RowTag::ITEM,
            n_val: 3,
            mine: Some(actor(0x1122_3344_5566_7788, 5)),
            body: Body::Item(Bytes::from_static(b"item")),
        };
        let hole = Row { tag: RowTag::ITEM, n_val: 3, mine: None, body: Body::Hole };
        assert_eq!(
            hex(&item.encode(&place)),
            "011d80f89eb3cd73ab50e3b40b350a25420103887766554433221105000000000000006974656d"
        );
        assert_eq!(hex(&hole.encode(&place)), "0122b2b332eaa8dd784d5a2db0ff4260780203");
    }

    #[test]
    fn a_whole_row_of_a_newer_release_is_unknown_and_not_corrupt() {
        let place = at(1, 2, b"k");
        let fields = [0, 3, 1, 2, 3];
        let bytes = [[200].as_slice(), &checksum(&place, 200, &fields), &fields].concat();
        assert_eq!(Row::decode(&place, &bytes.into()), Err(RowError::UnknownTag(200)));
    }

    #[test]
    fn a_checksum_does_not_excuse_fields_that_mean_nothing() {
        let place = at(1, 2, b"k");
        for fields in [[].as_slice(), &[0], &[4, 3], &[FLAG_HOLE, 3, 9], &[FLAG_MINE, 3, 1, 2, 3]] {
            let bytes = [[1].as_slice(), &checksum(&place, 1, fields), fields].concat();
            assert_eq!(Row::decode(&place, &bytes.into()), Err(RowError::Corrupt), "{fields:?}");
        }
    }

    proptest! {
        #[test]
        fn a_row_decodes_to_itself_without_a_copy(place in any_place(), row in any_row()) {
            let bytes = row.encode(&place);
            let decoded = Row::decode(&place, &bytes).unwrap();
            prop_assert_eq!(&decoded, &row);
            if let Body::Item(item) = decoded.body
                && !item.is_empty()
            {
                prop_assert!(bytes.as_ptr_range().contains(&item.as_ptr()));
            }
        }

        #[test]
        fn any_flipped_bit_is_seen(place in any_place(), row in any_row(), bit: prop::sample::Index) {
            let mut bytes = row.encode(&place).to_vec();
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Row::decode(&place, &bytes.into()), Err(RowError::Corrupt));
        }

        #[test]
        fn any_missing_tail_is_seen(place in any_place(), row in any_row(), len: prop::sample::Index) {
            let bytes = row.encode(&place);
            let bytes = bytes.slice(..len.index(bytes.len()));
            prop_assert_eq!(Row::decode(&place, &bytes), Err(RowError::Corrupt));
        }

        #[test]
        fn a_row_in_the_wrong_place_is_seen(place in any_place(), other in any_place(), row in any_row()) {
            prop_assume!(place != other);
            prop_assert_eq!(Row::decode(&other, &row.encode(&place)), Err(RowError::Corrupt));
        }

        #[test]
        fn no_bytes_panic(place in any_place(), bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            prop_assert!(Row::decode(&place, &bytes.into()).is_err());
        }
    }
}
