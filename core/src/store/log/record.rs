//! Records of the log: `checksum (4) | length (4) | number (8) | kind (1) | body (length)`, little-endian.
//!
//! A record is a physical change of one row, or a seal. A seal ends a group of batches that were written with one
//! sync: a group without its seal never happened. The checksum starts from the segment's seed, so that the valid
//! records of a segment that is written over are not valid in the new one: CRC-32 of equal bytes from two seeds is
//! never equal.

use crate::store::memtable::Change;
use bytes::Bytes;

/// Bytes before a record's body.
const HEADER_BYTES: usize = 17;
const SEAL_BYTES: usize = HEADER_BYTES + 8;

const PUT: u8 = 1;
const REMOVE: u8 = 2;
const SEAL: u8 = 3;

/// Where the checksums of a segment start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seed(pub(super) u32);

impl Seed {
    /// Of a segment of a log. Segment numbers are never used twice.
    pub(super) fn new(log: u128, segment: u64) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&log.to_le_bytes());
        hasher.update(&segment.to_le_bytes());
        Self(hasher.finalize())
    }

    fn checksum(self, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0);
        hasher.update(bytes);
        hasher.finalize()
    }
}

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body<'a> {
    /// The row has this value now, or none.
    Change { key: &'a [u8], value: Option<&'a [u8]> },
    /// The group ends here. When it was written, every batch up to `durable` was durable.
    Seal { durable: u64 },
}

/// A record, read in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// The number of its batch; of a seal, that of the last batch of its group.
    pub(super) number: u64,
    pub(super) body: Body<'a>,
    /// How many bytes it takes.
    pub(super) bytes: usize,
}

/// Appends the records of a batch.
pub(super) fn write_batch(out: &mut Vec<u8>, seed: Seed, number: u64, changes: &[Change]) {
    for (key, value) in changes {
        let key_len = u32::try_from(key.len()).expect("a key is far below 4 GiB");
        let value_len = value.as_ref().map_or(0, Bytes::len);
        let kind = if value.is_some() { PUT } else { REMOVE };
        write(out, seed, number, kind, 4 + key.len() + value_len, |out| {
            out.extend_from_slice(&key_len.to_le_bytes());
            out.extend_from_slice(key);
            out.extend_from_slice(value.as_deref().unwrap_or_default());
        });
    }
}

/// Appends the seal of a group.
pub(super) fn write_seal(out: &mut Vec<u8>, seed: Seed, last: u64, durable: u64) {
    write(out, seed, last, SEAL, 8, |out| out.extend_from_slice(&durable.to_le_bytes()));
}

/// Bytes that the record of a change takes.
pub(in crate::store) fn change_bytes((key, value): &Change) -> u64 {
    record_bytes(key.len(), value.as_ref().map_or(0, Bytes::len))
}

/// Bytes that the record of a change takes whose key and value have these lengths.
pub(in crate::store) fn record_bytes(key_bytes: usize, value_bytes: usize) -> u64 {
    (HEADER_BYTES + 4 + key_bytes + value_bytes) as u64
}

/// Bytes that a group of batches takes, seal included.
pub(super) fn group_bytes<'a>(batches: impl IntoIterator<Item = &'a [Change]>) -> u64 {
    let records = batches.into_iter().flat_map(|changes| changes.iter().map(change_bytes));
    records.sum::<u64>() + SEAL_BYTES as u64
}

/// The record at the beginning of `bytes`; `None` if there is no whole, valid one.
pub(super) fn read(bytes: &[u8], seed: Seed) -> Option<Record<'_>> {
    let (checksum, checked) = split_u32(bytes)?;
    let (len, rest) = split_u32(checked)?;
    let len = usize::try_from(len).ok()?;
    let (number, rest) = split_u64(rest)?;
    let (&kind, rest) = rest.split_first()?;
    let body = rest.get(..len)?;
    if seed.checksum(&checked[..HEADER_BYTES - 4 + len]) != checksum {
        return None;
    }
    let body = match kind {
        PUT | REMOVE => {
            let (key_len, rest) = split_u32(body)?;
            let (key, value) = rest.split_at_checked(usize::try_from(key_len).ok()?)?;
            Body::Change { key, value: (kind == PUT).then_some(value) }
        }
        SEAL => Body::Seal { durable: split_u64(body)?.0 },
        _ => return None,
    };
    Some(Record { number, body, bytes: HEADER_BYTES + len })
}

/// The greatest number that any seal in `bytes`, at whatever offset, says to be durable.
///
/// Only asked about what follows a record that can't be read, whose length says nothing any more.
pub(super) fn greatest_claim(bytes: &[u8], seed: Seed) -> Option<u64> {
    let claim = |window: &[u8]| {
        // The length and kind of a seal first: nearly every offset ends here.
        if window[4..8] != 8_u32.to_le_bytes() || window[16] != SEAL {
            return None;
        }
        match read(window, seed)?.body {
            Body::Seal { durable } => Some(durable),
            Body::Change { .. } => None,
        }
    };
    bytes.windows(SEAL_BYTES).filter_map(claim).max()
}

fn write(out: &mut Vec<u8>, seed: Seed, number: u64, kind: u8, len: usize, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    let len = u32::try_from(len).expect("a row is far below 4 GiB");
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    out.push(kind);
    body(out);
    let checksum = seed.checksum(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
}

fn split_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    bytes.split_first_chunk().map(|(value, rest)| (u32::from_le_bytes(*value), rest))
}

fn split_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    bytes.split_first_chunk().map(|(value, rest)| (u64::from_le_bytes(*value), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn changes() -> Vec<Change> {
        vec![
            (Bytes::from_static(b"k1"), Some(Bytes::from_static(b"value"))),
            (Bytes::from_static(b"k2"), None),
        ]
    }

    #[test]
    fn bytes_on_disk_are_what_they_have_always_been() {
        let (mut out, seed) = (Vec::new(), Seed::new(7, 1 << 32));
        write_batch(&mut out, seed, 5, &changes());
        write_seal(&mut out, seed, 5, 4);
        assert_eq!(
            hex(&out),
            "851bbabc0b000000050000000000000001020000006b3176616c75651361225706000000050000000000000002020000006b32090590d3080000000500000000000000030400000000000000"
        );
        assert_eq!(out.len() as u64, group_bytes([changes().as_slice()]));
    }

    #[test]
    fn records_read_as_they_were_written() {
        let (mut out, seed) = (Vec::new(), Seed::new(7, 3));
        write_batch(&mut out, seed, 5, &changes());
        write_seal(&mut out, seed, 5, 4);
        let put = read(&out, seed).unwrap();
        assert_eq!((put.number, put.body), (5, Body::Change { key: b"k1", value: Some(b"value") }));
        let remove = read(&out[put.bytes..], seed).unwrap();
        assert_eq!((remove.number, remove.body), (5, Body::Change { key: b"k2", value: None }));
        let seal = read(&out[put.bytes + remove.bytes..], seed).unwrap();
        assert_eq!((seal.number, seal.body), (5, Body::Seal { durable: 4 }));
        assert_eq!(put.bytes + remove.bytes + seal.bytes, out.len());
        assert_eq!(greatest_claim(&out[1..], seed), Some(4));
        assert_eq!(greatest_claim(&out[1..], Seed::new(7, 4)), None);
    }

    proptest! {
        #[test]
        fn a_record_of_another_segment_is_never_valid(one: u64, other: u32, value: Vec<u8>) {
            // Numbers of one opening differ in their lower half only, and CRC-32 tells those apart for certain.
            let (one, other) = (Seed::new(9, one), Seed::new(9, one & !0xffff_ffff | u64::from(other)));
            prop_assume!(one != other);
            let mut out = Vec::new();
            write_batch(&mut out, one, 1, &[(Bytes::from_static(b"k"), Some(value.into()))]);
            prop_assert!(read(&out, one).is_some());
            prop_assert_eq!(read(&out, other), None);
        }

        #[test]
        fn any_flipped_bit_is_seen(value in proptest::collection::vec(any::<u8>(), 0..50), bit: prop::sample::Index) {
            let (mut out, seed) = (Vec::new(), Seed::new(1, 2));
            write_batch(&mut out, seed, 1, &[(Bytes::from_static(b"key"), Some(value.into()))]);
            let bit = bit.index(out.len() * 8);
            out[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(read(&out, seed), None);
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, seed: u32) {
            let _ = (read(&bytes, Seed(seed)), greatest_claim(&bytes, Seed(seed)));
        }
    }
}
