//! Names: bucket types, buckets and keys; how they make the key of a row; and what a bucket type asks for.
//!
//! A row's key is type and bucket, each behind its length, and then the key. So all rows of a bucket, and all of a
//! type, share a prefix. The position on the ring is that of the three parts, by the whole key.

use crate::error::NameError;
use bytes::{BufMut, Bytes, BytesMut};
use rondel_core::{
    proto::{frame::KEY_BYTES_MAX, id::Position},
    request::Need,
    ring::position_of,
};

/// The type of a bucket that names none.
pub const DEFAULT_TYPE: &[u8] = b"default";
/// What is kept free in a row's key for rows beside it: hints, and index entries in time.
const RESERVED_BYTES: usize = 2_048;
/// The longest type, bucket and key together, in bytes.
pub const NAME_BYTES_MAX: usize = KEY_BYTES_MAX - RESERVED_BYTES - 2 * LENGTH_BYTES;
const LENGTH_BYTES: usize = 2;

/// A bucket: its type and its name, neither of them empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket {
    kind: Bytes,
    name: Bytes,
}

impl Bucket {
    /// A bucket of the default type.
    ///
    /// # Errors
    /// [`NameError::EmptyBucket`] or [`NameError::TooLong`].
    pub fn new(name: impl Into<Bytes>) -> Result<Self, NameError> {
        Self::typed(Bytes::from_static(DEFAULT_TYPE), name)
    }

    /// A bucket of a type.
    ///
    /// # Errors
    /// [`NameError::EmptyType`], [`NameError::EmptyBucket`] or [`NameError::TooLong`].
    pub fn typed(kind: impl Into<Bytes>, name: impl Into<Bytes>) -> Result<Self, NameError> {
        let (kind, name) = (kind.into(), name.into());
        if kind.is_empty() {
            return Err(NameError::EmptyType);
        }
        if name.is_empty() {
            return Err(NameError::EmptyBucket);
        }
        check_length(kind.len() + name.len())?;
        Ok(Self { kind, name })
    }

    /// Its type.
    #[must_use]
    pub fn kind(&self) -> &Bytes {
        &self.kind
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Bytes {
        &self.name
    }

    /// What all its rows begin with.
    pub(crate) fn prefix(&self) -> Vec<u8> {
        let mut prefix = type_prefix(&self.kind);
        put_part(&mut prefix, &self.name);
        prefix
    }

    /// The row of a key in it.
    ///
    /// # Errors
    /// [`NameError::EmptyKey`] or [`NameError::TooLong`].
    pub(crate) fn row(&self, key: &[u8]) -> Result<Bytes, NameError> {
        if key.is_empty() {
            return Err(NameError::EmptyKey);
        }
        check_length(self.kind.len() + self.name.len() + key.len())?;
        let mut row =
            BytesMut::with_capacity(2 * LENGTH_BYTES + self.kind.len() + self.name.len() + key.len());
        put_part(&mut row, &self.kind);
        put_part(&mut row, &self.name);
        row.put_slice(key);
        Ok(row.freeze())
    }
}

/// What all rows of a type begin with.
pub(crate) fn type_prefix(kind: &[u8]) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(LENGTH_BYTES + kind.len());
    put_part(&mut prefix, kind);
    prefix
}

/// Type, bucket and key of a row.
pub(crate) fn parts(row: &[u8]) -> Option<[&[u8]; 3]> {
    let (kind, rest) = take_part(row)?;
    let (bucket, key) = take_part(rest)?;
    Some([kind, bucket, key])
}

/// Where a row stands on the ring.
pub(crate) fn position(row: &[u8]) -> Position {
    parts(row).map_or_else(|| position_of(&[row]), |parts| position_of(&parts))
}

fn check_length(len: usize) -> Result<(), NameError> {
    if len > NAME_BYTES_MAX {
        return Err(NameError::TooLong { len, max: NAME_BYTES_MAX });
    }
    Ok(())
}

fn put_part(out: &mut impl BufMut, part: &[u8]) {
    out.put_u16(u16::try_from(part.len()).expect("names are bounded where they enter"));
    out.put_slice(part);
}

fn take_part(row: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = row.split_first_chunk::<LENGTH_BYTES>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// What a bucket type asks of its requests, where they do not say themselves.
///
/// The default type keeps siblings, as the types do that are created in Riak; Riak's own default type instead drops
/// all but the newest. Here nothing that was acknowledged is dropped unless somebody has asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Props {
    /// How many slots hold a key; never more than the cluster's `replicas`.
    pub n_val: u8,
    /// Keep siblings. If not, a put replaces whatever its coordinator holds and a read shows the newest sibling by
    /// hybrid logical clock: of concurrent writes all but one are lost, though each was acknowledged.
    pub allow_mult: bool,
    /// Replicas that must answer a read.
    pub r: Need,
    /// Owners that must answer a read.
    pub pr: Need,
    /// Replicas that must have a write: durably, unless the request asks for fewer durable ones.
    pub w: Need,
    /// Owners that must have a write durably.
    pub pw: Need,
    /// Replicas that must have a write durably, if that is more than W. Only a request can ask for fewer than its W:
    /// see [`PutOptions::dw`](crate::PutOptions::dw).
    pub dw: Need,
    /// R and W of a delete that says neither.
    pub rw: Need,
    /// Distinct nodes that must answer.
    pub node_confirms: u8,
    /// A read fails as soon as a quorum of replicas has failed or has nothing.
    pub basic_quorum: bool,
    /// A replica that has nothing counts as an answer.
    pub notfound_ok: bool,
}

impl Default for Props {
    fn default() -> Self {
        Self {
            n_val: 3,
            allow_mult: true,
            r: Need::Quorum,
            pr: Need::Count(0),
            w: Need::Quorum,
            pw: Need::Count(0),
            dw: Need::Quorum,
            rw: Need::Quorum,
            node_confirms: 0,
            basic_quorum: false,
            notfound_ok: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rows_and_positions_never_change() {
        let row = Bucket::new("bucket").unwrap().row(b"key").unwrap();
        assert_eq!(&row[..], b"\x00\x07default\x00\x06bucketkey");
        assert_eq!(position(&row), Position(0x5658_d90c_68b0_f927));
    }

    #[test]
    fn names_have_bounds() {
        assert_eq!(Bucket::new(""), Err(NameError::EmptyBucket));
        assert_eq!(Bucket::typed("", "b"), Err(NameError::EmptyType));
        let bucket = Bucket::typed("t", "b").unwrap();
        assert_eq!(bucket.row(b""), Err(NameError::EmptyKey));
        assert!(bucket.row(&vec![0; NAME_BYTES_MAX - 2]).is_ok());
        let too_long = Err(NameError::TooLong { len: NAME_BYTES_MAX + 1, max: NAME_BYTES_MAX });
        assert_eq!(bucket.row(&vec![0; NAME_BYTES_MAX - 1]), too_long);
    }

    proptest! {
        #[test]
        fn a_row_gives_back_its_parts(
            kind in prop::collection::vec(any::<u8>(), 1..40),
            name in prop::collection::vec(any::<u8>(), 1..300),
            key in prop::collection::vec(any::<u8>(), 1..300),
        ) {
            let bucket = Bucket::typed(kind.clone(), name.clone()).unwrap();
            let row = bucket.row(&key).unwrap();
            prop_assert_eq!(parts(&row), Some([&kind[..], &name[..], &key[..]]));
            prop_assert!(row.starts_with(&bucket.prefix()) && row.starts_with(&type_prefix(&kind)));
            prop_assert_eq!(position(&row), position_of(&[&kind, &name, &key]));
        }

        #[test]
        fn any_row_has_a_position(row: Vec<u8>) {
            let _ = (parts(&row), position(&row));
        }
    }
}
