//! Frames: what travels on the long-lived streams between nodes.
//!
//! All numbers are little-endian. A frame is its length (`u32`, of what follows) and then
//!
//! ```text
//! request  kind=1 u8 | flags u8 | message u16 | service u32 | correlation u64 | position u64 | request id u128
//!          | ver u32 | deadline µs u32 | owner slots u16 | stand-in slots u16 | key length u16 | key | archive
//! reply    kind=2 u8 | flags u8 | 0 u16       | 0 u32       | correlation u64 | archive
//! failure  kind=3 u8 | flags u8 | code u16    | 0 u32       | correlation u64 | detail
//! accepted kind=4 u8 | flags u8 | 0 u16       | 0 u32       | correlation u64
//! ```
//!
//! Every request has one reply or failure. One that asks for it ([`flags::ACCEPT`]) may have `accepted` before that.
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
    /// Besides the answer, which comes when the write is durable, the sender wants to be told when it is in memory.
    pub const ACCEPT: u8 = 8;
    /// The receiver may have coordinated this write already: it says what came of it, and never runs it.
    pub const RETRY: u8 = 16;
    /// Nobody waits for the write to be durable: it may become so together with others.
    pub const LAZY: u8 = 32;
    /// Others answer for what the receiver's store has lost: what it has is enough.
    pub const PARTIAL: u8 = 64;
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
    /// The write is in memory; the answer follows when it is durable, or has failed.
    Accepted {
        /// Whose answer.
        correlation: u64,
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
    out.reserve(4 + REQUEST_BYTES + key.len() + body.len());
    put_request_head(out, correlation, head, key, body.len());
    out.put_slice(body);
}

/// Appends a request but for its archive: `body_len` bytes of it must follow.
///
/// # Panics
/// As [`put_request`].
pub fn put_request_head(out: &mut BytesMut, correlation: u64, head: &Head, key: &[u8], body_len: usize) {
    put_length(out, REQUEST_BYTES + key.len() + body_len);
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
}

/// Appends a reply.
///
/// # Panics
/// If the frame is longer than allowed.
pub fn put_reply(out: &mut BytesMut, correlation: u64, body: &[u8]) {
    out.reserve(4 + COMMON_BYTES + body.len());
    put_reply_head(out, correlation, body.len());
    out.put_slice(body);
}

/// Appends a reply but for its archive: `body_len` bytes of it must follow.
///
/// # Panics
/// If the frame is longer than allowed.
pub fn put_reply_head(out: &mut BytesMut, correlation: u64, body_len: usize) {
    put_common(out, 2, 0, correlation, body_len);
}

/// Appends a failure.
///
/// # Panics
/// If the frame is longer than allowed.
pub fn put_failure(out: &mut BytesMut, correlation: u64, code: u16, detail: &[u8]) {
    put_common(out, 3, code, correlation, detail.len());
    out.put_slice(detail);
}

/// Appends the word that a write is in memory.
pub fn put_accepted(out: &mut BytesMut, correlation: u64) {
    put_common(out, 4, 0, correlation, 0);
}

fn put_common(out: &mut BytesMut, kind: u8, code: u16, correlation: u64, body_len: usize) {
    put_length(out, COMMON_BYTES + body_len);
    out.put_u8(kind);
    out.put_u8(0);
    out.put_u16_le(code);
    out.put_u32_le(0);
    out.put_u64_le(correlation);
}

fn put_length(out: &mut BytesMut, len: usize) {
    assert!(len <= FRAME_BYTES_MAX, "a frame of {len} bytes; bodies are bounded where they enter");
    out.put_u32_le(u32::try_from(len).expect("bounded above"));
}

/// Takes the next whole frame out of a receive buffer; `None` until one is there.
///
/// # Errors
/// [`FrameError`]: the buffer holds no frame and never will; it is of no further use.
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
            let head = Head {
                service,
                message: code,
                flags,
                slots,
                stand_in,
                ver,
                position,
                request_id,
                deadline_us,
            };
            Ok(Frame::Request { correlation, head, key, body: bytes })
        }
        2 => Ok(Frame::Reply { correlation, body: bytes }),
        3 => Ok(Frame::Failure { correlation, code, detail: bytes }),
        4 => Ok(Frame::Accepted { correlation }),
        other => Err(FrameError::UnknownKind(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Head = Head {
        service: 0x0403_0201,
        message: 0x0605,
        flags: 0x07,
        slots: 0x0908,
        stand_in: 0x0B0A,
        ver: Ver(0x0F0E_0D0C),
        position: Position(0x1716_1514_1312_1110),
        request_id: RequestId(0x2726_2524_2322_2120_1F1E_1D1C_1B1A_1918),
        deadline_us: 0x2B2A_2928,
    };

    fn take_all(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
        take_frame(&mut BytesMut::from(bytes), FRAME_INLINE_BYTES_MAX)
    }

    /// These bytes are what every release reads: if this test has to change, the wire has changed.
    #[test]
    fn a_request_has_these_bytes_for_ever() {
        let mut out = BytesMut::new();
        put_request(&mut out, 0x3736_3534_3332_3130, &HEAD, b"key", b"body");
        let expected = [
            &[61, 0, 0, 0][..],
            &[1, 0x07, 0x05, 0x06, 0x01, 0x02, 0x03, 0x04],
            &[0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37],
            &[0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17],
            &[0x18, 0x19, 0x1A, 0x1B, 0x1C, 0x1D, 0x1E, 0x1F, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27],
            &[0x0C, 0x0D, 0x0E, 0x0F, 0x28, 0x29, 0x2A, 0x2B],
            &[0x08, 0x09, 0x0A, 0x0B, 3, 0],
            b"keybody",
        ];
        assert_eq!(out[..], expected.concat());
        let (key, body) = (Bytes::from_static(b"key"), Bytes::from_static(b"body"));
        let request = Frame::Request { correlation: 0x3736_3534_3332_3130, head: HEAD, key, body };
        assert_eq!(take_all(&out), Ok(Some(request)));
    }

    #[test]
    fn answers_have_these_bytes_for_ever() {
        let mut out = BytesMut::new();
        put_reply(&mut out, 1, b"ok");
        assert_eq!(out[..], [18, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, b'o', b'k']);
        assert_eq!(take_all(&out), Ok(Some(Frame::Reply { correlation: 1, body: "ok".into() })));
        out.clear();
        put_failure(&mut out, 2, 0x0304, b"no");
        assert_eq!(out[..], [18, 0, 0, 0, 3, 0, 4, 3, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, b'n', b'o']);
        assert_eq!(
            take_all(&out),
            Ok(Some(Frame::Failure { correlation: 2, code: 0x0304, detail: "no".into() }))
        );
        out.clear();
        put_accepted(&mut out, 3);
        assert_eq!(out[..], [16, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(take_all(&out), Ok(Some(Frame::Accepted { correlation: 3 })));
    }

    #[test]
    fn a_frame_is_taken_when_it_is_whole_and_what_follows_stays() {
        let mut sent = BytesMut::new();
        put_request(&mut sent, 1, &HEAD, b"k", b"v");
        let mut buffer = BytesMut::new();
        for byte in &sent[..sent.len() - 1] {
            buffer.put_u8(*byte);
            assert_eq!(take_frame(&mut buffer, FRAME_INLINE_BYTES_MAX), Ok(None));
        }
        buffer.put_slice(&[sent[sent.len() - 1], 0xAA, 0xBB]);
        assert!(matches!(take_frame(&mut buffer, FRAME_INLINE_BYTES_MAX), Ok(Some(Frame::Request { .. }))));
        assert_eq!(buffer[..], [0xAA, 0xBB]);
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_before_anything_else_arrives() {
        let mut buffer = BytesMut::from(&101_u32.to_le_bytes()[..]);
        assert_eq!(take_frame(&mut buffer, 100), Err(FrameError::TooLong { len: 101, max: 100 }));
        let mut exact = BytesMut::from(&100_u32.to_le_bytes()[..]);
        assert_eq!(take_frame(&mut exact, 100), Ok(None));
    }

    #[test]
    fn a_frame_shorter_than_its_fields_or_of_another_kind_is_refused() {
        assert_eq!(take_all(&15_u32.to_le_bytes()), Err(FrameError::TooShort));
        let short_request = [&16_u32.to_le_bytes()[..], &[1], &[0; 15]].concat();
        assert_eq!(take_all(&short_request), Err(FrameError::TooShort));
        let other_kind = [&16_u32.to_le_bytes()[..], &[5], &[0; 15]].concat();
        assert_eq!(take_all(&other_kind), Err(FrameError::UnknownKind(5)));

        let mut key_too_long = BytesMut::new();
        put_request(&mut key_too_long, 1, &HEAD, b"key", b"");
        let key_length = key_too_long.len() - 5;
        key_too_long[key_length] = 4;
        assert_eq!(take_all(&key_too_long), Err(FrameError::TooShort));
    }

    #[test]
    fn the_longest_key_travels() {
        let key = vec![7; KEY_BYTES_MAX];
        let mut out = BytesMut::new();
        put_request(&mut out, 1, &HEAD, &key, b"");
        let Ok(Some(Frame::Request { key: received, .. })) = take_frame(&mut out, FRAME_BYTES_MAX) else {
            panic!("a request");
        };
        assert_eq!(received, key);
    }
}
