//! From routing bytes to a place on the ring.
//!
//! The position of a key never changes: rows on disk are ordered by it and every node computes it for itself. So the
//! encoding below is fixed for ever, and golden values hold it.

use rondel_proto::id::Position;

/// The first 8 bytes, big-endian, of BLAKE3 over the parts, each behind its length as 8 big-endian bytes.
///
/// The lengths keep `["ab", "c"]` and `["a", "bc"]` apart.
#[must_use]
pub fn position_of(parts: &[&[u8]]) -> Position {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    Position(leading_u64(&hasher.finalize()))
}

/// The first 8 bytes of a hash as a big-endian number.
pub(super) fn leading_u64(hash: &blake3::Hash) -> u64 {
    hash.as_bytes()[..8].iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn positions_of_known_keys_never_change() {
        assert_eq!(position_of(&[]), Position(0xaf13_49b9_f5f9_a1a6));
        assert_eq!(position_of(&[b"default", b"bucket", b"key"]), Position(0x5658_d90c_68b0_f927));
        assert_eq!(position_of(&[b""]), Position(0x71e0_a991_7356_4931));
    }

    #[test]
    fn bytes_that_move_between_parts_give_another_position() {
        assert_ne!(position_of(&[b"ab", b"c"]), position_of(&[b"a", b"bc"]));
        assert_ne!(position_of(&[b"ab"]), position_of(&[b"ab", b""]));
    }

    proptest! {
        #[test]
        fn the_position_is_the_hash_of_the_length_prefixed_parts(parts: Vec<Vec<u8>>) {
            let mut bytes = Vec::new();
            for part in &parts {
                bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
                bytes.extend_from_slice(part);
            }
            let hash = blake3::hash(&bytes);
            let expected = u64::from_be_bytes(hash.as_bytes()[..8].try_into().unwrap());
            let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(position_of(&slices), Position(expected));
        }
    }
}
