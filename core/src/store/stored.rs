//! Where a row's value is: with its key, or in the log, where it was written first.
//!
//! A value of a row that is not small stays in the log's segment that made it durable, and memory and tables keep its
//! [`Place`]: so a flush moves keys and places, which are small and many to a page, and no value is written twice unless
//! its segment is collected ([`collector`](super::log_store)). [WiscKey]
//!
//! In a store file a value of a table of rows stands as it is, unless it begins with [`ESCAPE`], which no row's tag is:
//! then the next byte says what follows. Other tables' values always stand as they are.

use super::TableId;
use bytes::Bytes;

/// Begins what is not a value as it is. Never the number of a [`RowTag`](super::row::RowTag).
const ESCAPE: u8 = 0;
/// A value that begins with [`ESCAPE`] itself follows.
const VALUE: u8 = 0;
/// A place follows: segment (8), offset (4), length (4), little-endian.
const PLACE: u8 = 1;
const PLACE_BYTES: usize = 18;

/// A record of the log that holds a row's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The segment's number, never used again.
    pub(super) segment: u64,
    /// Where in the segment's file the record begins.
    pub(super) offset: u32,
    /// How long the record is, key and header included.
    pub(super) bytes: u32,
}

/// A row that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stored {
    /// Its value.
    Here(Bytes),
    /// Where its value is.
    There(Place),
}

/// What a store file has of a row, read in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InFile<'a> {
    Here(&'a [u8]),
    There(Place),
}

/// The bytes for a store file.
pub(super) enum Encoded<'a> {
    Plain(&'a [u8]),
    Escaped(Vec<u8>),
    Place([u8; PLACE_BYTES]),
}

impl AsRef<[u8]> for Encoded<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Plain(value) => value,
            Self::Escaped(value) => value,
            Self::Place(place) => place,
        }
    }
}

impl Stored {
    /// For the table that an encoded key names.
    pub(super) fn encode(&self, key: &[u8]) -> Encoded<'_> {
        match self {
            Self::Here(value) => encode_value(key, value),
            Self::There(place) => {
                let mut out = [0; PLACE_BYTES];
                (out[0], out[1]) = (ESCAPE, PLACE);
                out[2..10].copy_from_slice(&place.segment.to_le_bytes());
                out[10..14].copy_from_slice(&place.offset.to_le_bytes());
                out[14..].copy_from_slice(&place.bytes.to_le_bytes());
                Encoded::Place(out)
            }
        }
    }

    /// Bytes of the value that are kept with the key.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Here(value) => value.len() as u64,
            Self::There(_) => 0,
        }
    }
}

/// A value that is kept with its key.
pub(super) fn encode_value<'a>(key: &[u8], value: &'a [u8]) -> Encoded<'a> {
    if is_of_rows(key) && value.first() == Some(&ESCAPE) {
        return Encoded::Escaped([&[ESCAPE, VALUE], value].concat());
    }
    Encoded::Plain(value)
}

impl<'a> InFile<'a> {
    /// What stands in a store file under an encoded key. Bytes that make no sense are taken for a value, which has a
    /// checksum of its own.
    pub(super) fn decode(key: &[u8], bytes: &'a [u8]) -> Self {
        match *bytes {
            [ESCAPE, VALUE, ref value @ ..] if is_of_rows(key) => Self::Here(value),
            [ESCAPE, PLACE, ref place @ ..] if is_of_rows(key) => {
                decode_place(place).map_or(Self::Here(bytes), Self::There)
            }
            _ => Self::Here(bytes),
        }
    }

    pub(super) fn copy(self) -> Stored {
        match self {
            Self::Here(value) => Stored::Here(Bytes::copy_from_slice(value)),
            Self::There(place) => Stored::There(place),
        }
    }

    pub(super) fn place(self) -> Option<Place> {
        match self {
            Self::Here(_) => None,
            Self::There(place) => Some(place),
        }
    }
}

fn decode_place(bytes: &[u8]) -> Option<Place> {
    let (segment, rest) = bytes.split_first_chunk()?;
    let (offset, rest) = rest.split_first_chunk()?;
    let bytes = rest.try_into().ok()?;
    Some(Place {
        segment: u64::from_le_bytes(*segment),
        offset: u32::from_le_bytes(*offset),
        bytes: u32::from_le_bytes(bytes),
    })
}

/// Whether an encoded key is one of a table whose values are rows.
pub(super) fn is_of_rows(key: &[u8]) -> bool {
    key.first_chunk().is_some_and(|table| TableId(u32::from_be_bytes(*table)).holds_rows())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OF_ROWS: &[u8] = &[0, 0, 0, 16, 1];
    const OF_OTHERS: &[u8] = &[0, 0, 0, 17, 1];
    const PLACE_OF_ONE: Place = Place { segment: (3 << 32) | 5, offset: 0x0102_0304, bytes: 77 };

    #[test]
    fn bytes_on_disk_are_what_they_have_always_been() {
        let there = Stored::There(PLACE_OF_ONE);
        let bytes = there.encode(OF_ROWS);
        assert_eq!(bytes.as_ref(), [0, 1, 5, 0, 0, 0, 3, 0, 0, 0, 4, 3, 2, 1, 77, 0, 0, 0]);
        assert_eq!(InFile::decode(OF_ROWS, bytes.as_ref()), InFile::There(PLACE_OF_ONE));
        assert_eq!(encode_value(OF_ROWS, &[0, 9]).as_ref(), [0, 0, 0, 9]);
    }

    #[test]
    fn a_value_of_another_table_stands_as_it_is_whatever_it_begins_with() {
        let there = Stored::There(PLACE_OF_ONE);
        let bytes = there.encode(OF_ROWS);
        assert_eq!(InFile::decode(OF_OTHERS, bytes.as_ref()), InFile::Here(bytes.as_ref()));
        assert_eq!(encode_value(OF_OTHERS, &[0, 9]).as_ref(), [0, 9]);
    }

    proptest! {
        #[test]
        fn a_value_decodes_to_itself(value in proptest::collection::vec(0..3_u8, 0..30)) {
            for key in [OF_ROWS, OF_OTHERS, &[]] {
                let encoded = encode_value(key, &value);
                prop_assert_eq!(InFile::decode(key, encoded.as_ref()), InFile::Here(&value));
            }
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = InFile::decode(OF_ROWS, &bytes);
        }
    }
}
