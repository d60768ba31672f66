//! The hello: the first bytes of a connection, in each direction, before any frame.
//!
//! It says who speaks, in which life, what it has heard of the decided sequence, and which messages it knows with
//! which schema. Written field by field and not as an archive: it must be readable by every release, and it is what
//! makes archives safe to read. All numbers are little-endian.
//!
//! ```text
//! magic "RNDL" | version u16 | 0 u16 | length u32 (of what follows)
//! node u128 | store u128 | boot u64 | nonce u64 | lineage u128 | epoch u64 | root [u8; 32] | format u32
//! | messages u32 | messages × (service u32 | message u16 | schema u64)
//! ```
//!
//! Bytes after the last message are ignored: a later release of the same version may say more there.

use crate::{
    Message,
    id::{Epoch, Lineage, NodeId, StoreId},
    schema::{Schema, mix},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The version of hello and frames that this release speaks.
pub const PROTOCOL_VERSION: u16 = 1;
/// The longest hello, without its prefix.
pub const HELLO_BYTES_MAX: usize = 64 << 10;
/// The bytes of the prefix, which says how many follow.
pub const PREFIX_BYTES: usize = 12;

const MAGIC: [u8; 4] = *b"RNDL";
const FIXED_BYTES: usize = 16 + 16 + 8 + 8 + 16 + 8 + 32 + 4 + 4;
const ENTRY_BYTES: usize = 4 + 2 + 8;

/// A message that a node sends or answers, and the schema that it knows it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Known {
    /// The service: a hash of its name.
    pub service: u32,
    /// The message's number within the service.
    pub message: u16,
    /// The hash of its schema and of its reply's.
    pub schema: u64,
}

impl Known {
    /// What this build knows of `M`.
    #[must_use]
    pub fn of<M: Message>(service: u32) -> Self {
        Self { service, message: M::ID, schema: mix(M::HASH, <M::Reply as Schema>::HASH) }
    }
}

/// What a node says of itself when a connection begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    /// The node.
    pub node: NodeId,
    /// Its store.
    pub store: StoreId,
    /// How often this store has been opened.
    pub boot: u64,
    /// Drawn anew at every start: tells two processes apart that run on copies of one data directory.
    pub nonce: u64,
    /// The lineage whose states it follows; 0 before it belongs to any.
    pub lineage: Lineage,
    /// The last entry that it has.
    pub epoch: Epoch,
    /// The root hash of the state at `epoch`.
    pub root: [u8; 32],
    /// The newest disk and wire format that it can read.
    pub format: u32,
    /// Every message that it sends or answers.
    pub messages: Vec<Known>,
}

/// Bytes that are no hello. The connection they came from is of no further use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// It does not begin as a hello does.
    #[error("the peer does not speak this protocol")]
    Magic,
    /// A version that this release does not speak.
    #[error("the peer speaks protocol version {theirs}, this node {PROTOCOL_VERSION}: upgrade the older one")]
    Version {
        /// The peer's.
        theirs: u16,
    },
    /// Longer than [`HELLO_BYTES_MAX`].
    #[error("a hello of {len} bytes, where {HELLO_BYTES_MAX} are allowed")]
    TooLong {
        /// What it says.
        len: usize,
    },
    /// Shorter than its own fields.
    #[error("a hello that is shorter than its own fields")]
    TooShort,
}

impl Hello {
    /// The bytes that go first on a connection.
    ///
    /// # Panics
    /// If there are more messages than fit into [`HELLO_BYTES_MAX`] (over 4,600): the table is fixed at build time.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let len = FIXED_BYTES + self.messages.len() * ENTRY_BYTES;
        assert!(len <= HELLO_BYTES_MAX, "{} messages do not fit into a hello", self.messages.len());
        let mut out = BytesMut::with_capacity(PREFIX_BYTES + len);
        out.put_slice(&MAGIC);
        out.put_u16_le(PROTOCOL_VERSION);
        out.put_u16_le(0);
        out.put_u32_le(u32::try_from(len).expect("bounded above"));
        out.put_u128_le(self.node.0);
        out.put_u128_le(self.store.0);
        out.put_u64_le(self.boot);
        out.put_u64_le(self.nonce);
        out.put_u128_le(self.lineage.0);
        out.put_u64_le(self.epoch.0);
        out.put_slice(&self.root);
        out.put_u32_le(self.format);
        out.put_u32_le(u32::try_from(self.messages.len()).expect("bounded above"));
        for known in &self.messages {
            out.put_u32_le(known.service);
            out.put_u16_le(known.message);
            out.put_u64_le(known.schema);
        }
        out.freeze()
    }

    /// How many bytes follow the prefix.
    ///
    /// # Errors
    /// [`HelloError`] if this is no hello, or none that this release can read.
    pub fn body_len(prefix: [u8; PREFIX_BYTES]) -> Result<usize, HelloError> {
        let mut prefix = &prefix[..];
        let mut magic = [0; 4];
        prefix.copy_to_slice(&mut magic);
        if magic != MAGIC {
            return Err(HelloError::Magic);
        }
        let theirs = prefix.get_u16_le();
        if theirs != PROTOCOL_VERSION {
            return Err(HelloError::Version { theirs });
        }
        prefix.advance(2);
        let len = prefix.get_u32_le() as usize;
        if len > HELLO_BYTES_MAX {
            return Err(HelloError::TooLong { len });
        }
        Ok(len)
    }

    /// Reads what follows the prefix.
    ///
    /// # Errors
    /// [`HelloError::TooShort`] if fields are missing.
    pub fn decode(mut body: &[u8]) -> Result<Self, HelloError> {
        if body.len() < FIXED_BYTES {
            return Err(HelloError::TooShort);
        }
        let mut hello = Self {
            node: NodeId(body.get_u128_le()),
            store: StoreId(body.get_u128_le()),
            boot: body.get_u64_le(),
            nonce: body.get_u64_le(),
            lineage: Lineage(body.get_u128_le()),
            epoch: Epoch(body.get_u64_le()),
            ..Self::default()
        };
        body.copy_to_slice(&mut hello.root);
        hello.format = body.get_u32_le();
        let count = body.get_u32_le() as usize;
        if count > body.len() / ENTRY_BYTES {
            return Err(HelloError::TooShort);
        }
        hello.messages = (0..count)
            .map(|_| Known {
                service: body.get_u32_le(),
                message: body.get_u16_le(),
                schema: body.get_u64_le(),
            })
            .collect();
        Ok(hello)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello() -> Hello {
        Hello {
            node: NodeId(1),
            store: StoreId(2),
            boot: 3,
            nonce: 4,
            lineage: Lineage(5),
            epoch: Epoch(6),
            root: [7; 32],
            format: 8,
            messages: vec![Known { service: 9, message: 10, schema: 11 }],
        }
    }

    fn read(bytes: &[u8]) -> Result<Hello, HelloError> {
        let (prefix, body) = bytes.split_first_chunk().ok_or(HelloError::TooShort)?;
        let len = Hello::body_len(*prefix)?;
        Hello::decode(body.get(..len).ok_or(HelloError::TooShort)?)
    }

    #[test]
    fn the_bytes_of_a_hello_never_change() {
        let golden = concat!(
            "524e444c01000000",
            "7e000000",
            "01000000000000000000000000000000",
            "02000000000000000000000000000000",
            "0300000000000000",
            "0400000000000000",
            "05000000000000000000000000000000",
            "0600000000000000",
            "0707070707070707070707070707070707070707070707070707070707070707",
            "08000000",
            "01000000",
            "09000000",
            "0a00",
            "0b00000000000000",
        );
        let hex: String = hello().encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, golden);
        assert_eq!(read(&hello().encode()), Ok(hello()));
    }

    #[test]
    fn what_a_later_release_adds_is_ignored() {
        let mut bytes = hello().encode().to_vec();
        bytes.extend_from_slice(b"more");
        bytes[8] += 4;
        assert_eq!(read(&bytes), Ok(hello()));
    }

    #[test]
    fn a_stranger_is_told_apart() {
        let bytes = hello().encode().to_vec();
        let with = |at: usize, byte: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            read(&bytes)
        };
        assert_eq!(with(0, b'H'), Err(HelloError::Magic));
        assert_eq!(with(4, 9), Err(HelloError::Version { theirs: 9 }));
        assert_eq!(with(11, 1), Err(HelloError::TooLong { len: 0x0100_007e }));
        assert_eq!(with(8, 0x7d), Err(HelloError::TooShort));
        assert_eq!(with(8, 3), Err(HelloError::TooShort));
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_an_error_or_a_hello(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
            let _ = Hello::decode(&bytes);
        }

        #[test]
        fn every_cut_of_a_hello_is_an_error(cut in 0_usize..138) {
            prop_assert!(read(&hello().encode()[..cut]).is_err());
        }
    }
}
