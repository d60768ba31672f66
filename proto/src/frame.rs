//! Frames: what travels on the long-lived streams between nodes.
//!
//! All numbers are little-endian. A frame is its length (`u32`, of what follows) and then
//!
//! ```text
//! request  kind=1 u8 | flags u8 | message u16 | service u32 | correlation u64 | position u64 | request id u128
//!          | ver u32 | deadline µs u32 | owner slots u16 | stand-in slots u16 | key length u16 | key | archive
//! reply    kind=2 u8 | flags u8 | 0 u16       | 0 u32       | correlation u64 | archive
//! failure  kind=3 u8 | flags u8 | code u16    | 0 u32       | correlation u64 | detail
//! ```
//!
//! The archive is one rkyv archive; it is validated by whoever knows its type. The deadline is the time left when
//! the frame was written: clocks of different nodes are never compared.

use crate::id::{Position, RequestId, Ver};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The longest frame on a shared stream. Longer bodies travel on a stream of their own.
pub const FRAME_INLINE_BYTES_MAX: usize = 64 << 10;
/// The longest frame at all.
pub const FRAME_BYTES_MAX: usize = 64 << 20;
/// The longest key.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;

/// A reply's or failure's bytes before its body, without the length.
pub const COMMON_BYTES: usize = 16;
/// A request's bytes before its key, without the length.
pub const REQUEST_BYTES: usize = COMMON_BYTES + 38;

/// Flags of a request.
pub mod flags {
    /// The receiver coordinates the write: it runs the message and sends the result to the other replicas.
    pub const COORDINATE: u8 = 1;
    /// Only the digest of the item is wanted.
    pub const DIGEST: u8 = 2;
    /// The item comes from a repair, not from a client's write.
    pub const REPAIR: u8 = 4;
}

/// What a request says of itself; core routes by it without looking into the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Which service: a hash of its name.
    pub service: u32,
    /// Which message of the service.
    pub message: u16,
    /// See [`flags`].
    pub flags: u8,
    /// The slots that the receiver is addressed for as their occupant, one bit each.
    pub slots: u16,
    /// The slots that the receiver stands in for, one bit each: it keeps a hint for each of them.
    pub stand_in: u16,
    /// The version of the partition that the sender acts on.
    pub ver: Ver,
    /// Where the key stands on the ring.
    pub position: Position,
    /// The client's request, kept over retries.
    pub request_id: RequestId,
    /// Microseconds left until the answer is of no use.
    pub deadline_us: u32,
}

/// A frame as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Somebody asks.
    Request {
        /// Names the answer; the sender's choice.
        correlation: u64,
        /// What it says of itself.
        head: Head,
        /// The key within the service.
        key: Bytes,
        /// The archive of the message.
        body: Bytes,
    },
    /// The answer.
    Reply {
        /// Whose answer.
        correlation: u64,
        /// The archive of the reply.
        body: Bytes,
    },
    /// Why there is no answer.
    Failure {
        /// Whose answer.
        correlation: u64,
        /// The kind.
        code: u16,
        /// More about it.
        detail: Bytes,
    },
}

/// Bytes that are no frame. The connection they came from is of no further use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than the stream allows.
    #[error("a frame of {len} bytes, where {max} are allowed")]
    TooLong {
        /// What it says.
        len: usize,
        /// What is allowed.
        max: usize,
    },
    /// Shorter than its own fields.
    #[error("a frame that is shorter than its own fields")]
    TooShort,
    /// A kind that this release does not know.
    #[error("a frame of unknown kind {0}")]
    UnknownKind(u8),
}

/// Appends a request. The key is at most [`KEY_BYTES_MAX`] long.
///
/// # Panics
/// If the key or the frame is longer than allowed: both are checked where they enter the node.
pub fn put_request(out: &mut BytesMut, correlation: u64, head: &Head, key: &[u8], body: &[u8]) {
    let len = put_length(out, REQUEST_BYTES + key.len() + body.len());
    out.reserve(len);
    out.put_u8(1);
    out.put_u8(head.flags);
    out.put_u16_le(head.message);
    out.put_u32_le(head.service);
    out.put_u64_le(correlation);
    out.put_u64_le(head.position.0);
    out.put_u128_le(head.request_id.0);
    out.put_u32_le(head.ver.0);
    out.put_u32_le(head.deadline_us);
    out.put_u16_le(head.slots);
    out.put_u16_le(head.stand_in);
    out.put_u16_le(u16::try_from(key.len()).expect("keys are bounded where they enter"));
    out.put_slice(key);
    out.put_slice(body);
}

/// Appends a reply.
///
/// # Panics
/// If the frame is longer than allowed.
pub fn put_reply(out: &mut BytesMut, correlation: u64, body: &[u8]) {
    put_common(out, 2, 0, correlation, body);
}

/// Appends a failure.
///
/// # Panics
/// If the frame is longer than allowed.
pub fn put_failure(out: &mut BytesMut, correlation: u64, code: u16, detail: &[u8]) {
    put_common(out, 3, code, correlation, detail);
}

fn put_common(out: &mut BytesMut, kind: u8, code: u16, correlation: u64, body: &[u8]) {
    let len = put_length(out, COMMON_BYTES + body.len());
    out.reserve(len);
    out.put_u8(kind);
    out.put_u8(0);
    out.put_u16_le(code);
    out.put_u32_le(0);
    out.put_u64_le(correlation);
    out.put_slice(body);
}

fn put_length(out: &mut BytesMut, len: usize) -> usize {
    assert!(len <= FRAME_BYTES_MAX, "a frame of {len} bytes; bodies are bounded where they enter");
    out.put_u32_le(u32::try_from(len).expect("bounded above"));
    len
}

/// Takes the next whole frame out of a receive buffer; `None` until one is there.
///
/// # Errors
/// [`FrameError`]: the buffer holds no frame and never will. Nothing has been taken.
pub fn take_frame(buffer: &mut BytesMut, bytes_max: usize) -> Result<Option<Frame>, FrameError> {
    let Some(prefix) = buffer.first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_le_bytes(*prefix) as usize;
    if len > bytes_max {
        return Err(FrameError::TooLong { len, max: bytes_max });
    }
    if len < COMMON_BYTES {
        return Err(FrameError::TooShort);
    }
    if buffer.len() < 4 + len {
        buffer.reserve(4 + len - buffer.len());
        return Ok(None);
    }
    buffer.advance(4);
    parse(buffer.split_to(len).freeze()).map(Some)
}

fn parse(mut bytes: Bytes) -> Result<Frame, FrameError> {
    let kind = bytes.get_u8();
    let flags = bytes.get_u8();
    let code = bytes.get_u16_le();
    let service = bytes.get_u32_le();
    let correlation = bytes.get_u64_le();
    match kind {
        1 => {
            if bytes.len() < REQUEST_BYTES - COMMON_BYTES {
                return Err(FrameError::TooShort);
            }
            let position = Position(bytes.get_u64_le());
            let request_id = RequestId(bytes.get_u128_le());
            let ver = Ver(bytes.get_u32_le());
            let deadline_us = bytes.get_u32_le();
            let slots = bytes.get_u16_le();
            let stand_in = bytes.get_u16_le();
            let key_len = usize::from(bytes.get_u16_le());
            if bytes.len() < key_len {
                return Err(FrameError::TooShort);
            }
            let key = bytes.split_to(key_len);
            let head = Head { service, message: code, flags, slots, stand_in, ver, position, request_id, deadline_us };
            Ok(Frame::Request { correlation, head, key, body: bytes })
        }
        2 => Ok(Frame::Reply { correlation, body: bytes }),
        3 => Ok(Frame::Failure { correlation, code, detail: bytes }),
        other => Err(FrameError::UnknownKind(other)),
    }
}
