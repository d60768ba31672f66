//! Typed messages: archived once, checked once, read in place.
//!
//! All rkyv generics and all of its unsafe code are confined to this file. A [`Msg`] owns a slice of a receive
//! buffer (or of a stored row) that has passed validation and derefs to the archived view; archives are unaligned,
//! so nothing is copied to read it.

use bytes::Bytes;
use rkyv::{
    Archive, Archived, Deserialize, Portable, Serialize,
    api::high::{HighDeserializer, HighSerializer, HighValidator},
    bytecheck::CheckBytes,
    rancor::Error as RkyvError,
    ser::allocator::ArenaHandle,
    util::AlignedVec,
};
use std::{fmt, marker::PhantomData, ops::Deref};

use crate::schema::Schema;

/// Bytes that are no valid archive of the type they were taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bytes are no valid {name}: {reason}")]
pub struct BadArchive {
    /// The type that was expected.
    pub name: &'static str,
    /// What the validator found.
    pub reason: String,
}

/// Anything that may travel between nodes or rest on disk. `#[wire]` gives it; it is never implemented by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot travel between Rondel nodes",
    label = "not a wire type",
    note = "put `#[wire]` on the definition of `{Self}`, or `#[message(..)]` if it is a request"
)]
pub trait Wire: Schema + Sized + Send + Sync + 'static {
    /// The archived form, read in place.
    type View: Portable + fmt::Debug + Send + Sync + 'static;

    /// The archive of this value.
    fn encode(&self) -> Bytes;

    /// Whether the bytes are a valid archive of this type.
    ///
    /// # Errors
    /// [`BadArchive`] with what the validator found. Every byte string gives an answer; none panics.
    fn check(bytes: &[u8]) -> Result<(), BadArchive>;

    /// The archived view of bytes.
    ///
    /// # Safety
    /// The bytes have passed [`Wire::check`] of the same type and have not changed since.
    unsafe fn view(bytes: &[u8]) -> &Self::View;

    /// An owned value from its view.
    fn decode(view: &Self::View) -> Self;
}

impl<T> Wire for T
where
    T: Schema + Archive + Send + Sync + 'static,
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, RkyvError>>,
    T::Archived: fmt::Debug + Send + Sync + 'static,
    T::Archived:
        for<'a> CheckBytes<HighValidator<'a, RkyvError>> + Deserialize<T, HighDeserializer<RkyvError>>,
{
    type View = Archived<T>;

    fn encode(&self) -> Bytes {
        let archive = rkyv::to_bytes::<RkyvError>(self).expect("archiving into memory does not fail");
        Bytes::from_owner(archive)
    }

    fn check(bytes: &[u8]) -> Result<(), BadArchive> {
        match rkyv::access::<Archived<T>, RkyvError>(bytes) {
            Ok(_) => Ok(()),
            Err(error) => Err(BadArchive { name: std::any::type_name::<T>(), reason: error.to_string() }),
        }
    }

    unsafe fn view(bytes: &[u8]) -> &Archived<T> {
        // SAFETY: the caller has checked these bytes as this type; archives have no alignment (feature `unaligned`).
        unsafe { rkyv::access_unchecked::<Archived<T>>(bytes) }
    }

    fn decode(view: &Archived<T>) -> T {
        rkyv::deserialize::<T, RkyvError>(view).expect("a checked archive deserialises")
    }
}

/// A checked, immutable, cheaply cloned archive of `T` that derefs to its view.
pub struct Msg<T: Wire> {
    bytes: Bytes,
    of: PhantomData<fn() -> T>,
}

impl<T: Wire> Msg<T> {
    /// Archives a value.
    #[must_use]
    pub fn new(value: &T) -> Self {
        Self { bytes: value.encode(), of: PhantomData }
    }

    /// Takes bytes from outside: checks them once.
    ///
    /// # Errors
    /// [`BadArchive`] if they are no archive of `T`.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, BadArchive> {
        T::check(&bytes)?;
        Ok(Self { bytes, of: PhantomData })
    }

    /// The archive itself, to be sent or stored as it is.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// An owned value.
    #[must_use]
    pub fn to_owned(&self) -> T {
        T::decode(self)
    }
}

impl<T: Wire> Clone for Msg<T> {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes.clone(), of: PhantomData }
    }
}

impl<T: Wire> Deref for Msg<T> {
    type Target = T::View;

    fn deref(&self) -> &T::View {
        // SAFETY: both constructors make sure that the bytes are a valid archive of `T`; `Bytes` are immutable.
        unsafe { T::view(&self.bytes) }
    }
}

impl<T: Wire> fmt::Debug for Msg<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(out)
    }
}

impl<T: Wire> PartialEq for Msg<T> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

/// A request with a typed reply and a number that it keeps on the wire for ever.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a Rondel message",
    note = "put `#[message(id = .., reply = ..)]` on the definition of `{Self}`"
)]
pub trait Message: Wire {
    /// Its number within the service, below 0xFF00.
    const ID: u16;
    /// Its name, for logs, metrics and errors.
    const NAME: &'static str;
    /// Whether it may change the item of its key.
    const WRITE: bool = false;
    /// What answers it.
    type Reply: Wire;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{message, wire};

    #[wire(crate = rondel_proto)]
    #[derive(PartialEq)]
    struct Pair {
        name: String,
        values: Vec<u64>,
    }

    #[message(id = 7, reply = Pair, write, crate = rondel_proto)]
    struct Ask {
        depth: u32,
    }

    #[test]
    fn a_message_reads_in_place_at_any_alignment() {
        let pair = Pair { name: "n".into(), values: vec![1, u64::MAX] };
        let encoded = pair.encode();
        for shift in 0..8 {
            let mut shifted = vec![0; shift];
            shifted.extend_from_slice(&encoded);
            let msg = Msg::<Pair>::from_bytes(Bytes::from(shifted).slice(shift..)).expect("valid");
            assert_eq!(msg.name.as_str(), "n");
            assert_eq!(msg.to_owned(), pair);
        }
    }

    #[test]
    fn an_attribute_gives_number_name_and_schema() {
        assert_eq!((Ask::ID, Ask::NAME, Ask::WRITE), (7, "Ask", true));
        assert_ne!(Ask::HASH, Pair::HASH);
        assert_eq!(Msg::new(&Ask { depth: 3 }).depth, 3);
    }

    #[test]
    fn hostile_bytes_are_an_error() {
        assert!(Msg::<Pair>::from_bytes(Bytes::from_static(&[0xFF; 40])).is_err());
        assert!(Msg::<Pair>::from_bytes(Bytes::new()).is_err());
    }
}
