//! Keys of rows as the store keeps them: `table (4) | position (8) | key`, big-endian, so that the order of the bytes
//! is the order of the rows.

use super::{RangeQuery, RowKey, TableId};
use bytes::{BufMut as _, Bytes, BytesMut};
use rondel_proto::id::Position;
use std::ops::Bound;

const PREFIX_BYTES: usize = 12;
/// Keys up to this length are looked up without an allocation.
const ON_STACK_BYTES: usize = 160;

/// The key's bytes, in a buffer of their own: rows outlive the frames that brought them.
pub(super) fn encode(at: &RowKey) -> Bytes {
    parts(at.table, at.position, &at.key)
}

/// Calls `look_up` with the key's bytes.
pub(super) fn with_encoded<T>(at: &RowKey, look_up: impl FnOnce(&[u8]) -> T) -> T {
    let len = PREFIX_BYTES + at.key.len();
    if len > ON_STACK_BYTES {
        return look_up(&encode(at));
    }
    let mut buffer = [0; ON_STACK_BYTES];
    buffer[..4].copy_from_slice(&at.table.0.to_be_bytes());
    buffer[4..PREFIX_BYTES].copy_from_slice(&at.position.0.to_be_bytes());
    buffer[PREFIX_BYTES..len].copy_from_slice(&at.key);
    look_up(&buffer[..len])
}

/// The row's place; its key is a slice of `bytes`. `None` if they are too short for one.
pub(super) fn decode(bytes: &Bytes) -> Option<RowKey> {
    let (table, rest) = bytes.split_first_chunk()?;
    let (position, _) = rest.split_first_chunk()?;
    Some(RowKey {
        table: TableId(u32::from_be_bytes(*table)),
        position: Position(u64::from_be_bytes(*position)),
        key: bytes.slice(PREFIX_BYTES..),
    })
}

/// The top bits of the position in an encoded key; 0 if it has none.
pub(super) fn position_bits(bytes: &[u8], bits: u32) -> u64 {
    let position =
        bytes.get(4..).and_then(<[u8]>::first_chunk).map_or(0, |position| u64::from_be_bytes(*position));
    position.checked_shr(u64::BITS - bits).unwrap_or(0)
}

/// The keys that a query is about, as a lower bound and an excluded upper one (`None`: no bound). `None` if there can
/// be none.
pub(super) fn bounds(query: &RangeQuery) -> Option<(Bound<Bytes>, Option<Bytes>)> {
    let first = parts(query.table, query.first, &[]);
    let lower = match &query.after {
        Some((position, key)) => {
            let after = parts(query.table, *position, key);
            if after < first { Bound::Included(first) } else { Bound::Excluded(after) }
        }
        None => Bound::Included(first),
    };
    let upper = match (query.last.0.checked_add(1), query.table.0.checked_add(1)) {
        (Some(past), _) => Some(parts(query.table, Position(past), &[])),
        (None, Some(table)) => Some(parts(TableId(table), Position(0), &[])),
        (None, None) => None,
    };
    let (Bound::Included(from) | Bound::Excluded(from)) = &lower else { return None };
    if upper.as_ref().is_some_and(|upper| from >= upper) { None } else { Some((lower, upper)) }
}

fn parts(table: TableId, position: Position, key: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + key.len());
    out.put_u32(table.0);
    out.put_u64(position.0);
    out.put_slice(key);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn any_place()(table in 0..3_u32, position: u64, key in proptest::collection::vec(any::<u8>(), 0..200)) -> RowKey {
            RowKey { table: TableId(table), position: Position(position), key: key.into() }
        }
    }

    proptest! {
        #[test]
        fn the_order_of_bytes_is_the_order_of_rows(one in any_place(), two in any_place()) {
            prop_assert_eq!(encode(&one).cmp(&encode(&two)), one.cmp(&two));
        }

        #[test]
        fn a_key_decodes_to_itself(at in any_place()) {
            prop_assert_eq!(decode(&encode(&at)), Some(at.clone()));
            prop_assert!(with_encoded(&at, |bytes| encode(&at) == bytes));
        }
    }

    fn query(first: u64, last: u64, after: Option<(u64, &'static [u8])>) -> RangeQuery {
        RangeQuery {
            table: TableId(u32::MAX),
            first: Position(first),
            last: Position(last),
            after: after.map(|(position, key)| (Position(position), Bytes::from_static(key))),
            rows_max: 1,
            bytes_max: 1,
        }
    }

    #[test]
    fn bounds_hold_what_the_query_names() {
        let (lower, upper) = bounds(&query(5, 6, None)).unwrap();
        assert_eq!(lower, Bound::Included(parts(TableId(u32::MAX), Position(5), b"")));
        assert_eq!(upper, Some(parts(TableId(u32::MAX), Position(7), b"")));
        assert_eq!(bounds(&query(5, u64::MAX, None)).unwrap().1, None);
        assert_eq!(bounds(&query(5, 6, Some((4, b"z")))).unwrap().0, lower);
        let after = Bound::Excluded(parts(TableId(u32::MAX), Position(5), b"k"));
        assert_eq!(bounds(&query(5, 6, Some((5, b"k")))).unwrap().0, after);
        assert_eq!(bounds(&query(6, 5, None)), None);
        assert_eq!(bounds(&query(5, 6, Some((7, b"k")))), None);
    }
}
