//! Schema hashes: a number that changes whenever the archived layout of a type may change.
//!
//! rkyv's validation is no version check: an old reader accepts a new enum as something else (measured). So nodes
//! exchange the hash of every message when they connect, and stored rows carry a tag that names theirs.

use std::collections::BTreeMap;

/// A type whose archived layout has a name. `#[wire]` implements it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot travel between Rondel nodes",
    label = "not a wire type",
    note = "put `#[wire]` on the definition of `{Self}`"
)]
pub trait Schema {
    /// FNV-1a over the definition's tokens, mixed with the hashes of its field types.
    const HASH: u64;
}

/// FNV-1a of a string, at compile time.
#[must_use]
pub const fn hash_str(text: &str) -> u64 {
    let bytes = text.as_bytes();
    let (mut hash, mut at) = (0xcbf2_9ce4_8422_2325_u64, 0);
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}

/// Combines two hashes; the order matters.
#[must_use]
pub const fn mix(left: u64, right: u64) -> u64 {
    (left.rotate_left(13) ^ right).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

macro_rules! primitive {
    ($($type:ty)*) => { $(impl Schema for $type { const HASH: u64 = hash_str(stringify!($type)); })* };
}
primitive!(() u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 bool f32 f64 char String);

impl<T: Schema> Schema for Vec<T> {
    const HASH: u64 = mix(hash_str("Vec"), T::HASH);
}
impl<T: Schema> Schema for Option<T> {
    const HASH: u64 = mix(hash_str("Option"), T::HASH);
}
impl<T: Schema> Schema for Box<T> {
    const HASH: u64 = mix(hash_str("Box"), T::HASH);
}
impl<T: Schema, const N: usize> Schema for [T; N] {
    const HASH: u64 = mix(mix(hash_str("Array"), N as u64), T::HASH);
}
impl<K: Schema, V: Schema> Schema for BTreeMap<K, V> {
    const HASH: u64 = mix(mix(hash_str("BTreeMap"), K::HASH), V::HASH);
}
impl<A: Schema, B: Schema> Schema for (A, B) {
    const HASH: u64 = mix(mix(hash_str("2"), A::HASH), B::HASH);
}
impl<A: Schema, B: Schema, C: Schema> Schema for (A, B, C) {
    const HASH: u64 = mix(mix(mix(hash_str("3"), A::HASH), B::HASH), C::HASH);
}
