//! Frames of Riak's Protocol Buffers interface.
//!
//! A frame is `length u32 big-endian | code u8 | payload`, where the length counts the code; see [`Code`]. A frame
//! without a code is fatal, as in Riak, where nothing bounds a frame: here the reader says how long one may be. The
//! receive buffer grows with what has arrived, never with what a length claims, so a peer pays for the memory it
//! takes. Payloads are decoded without copying: `bytes` fields are slices of the frame.
//!
//! Reference: riak_api_pb_server.erl, riak_pb_codec.erl; <https://protobuf.dev/programming-guides/encoding>.

use super::{Code, Coded, messages::RpbErrorResp};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The port that clients expect.
pub const PORT: u16 = 8087;
/// The longest frame that is read unless configured otherwise: Riak's largest object (50 MB) and room for what
/// surrounds it.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

const LENGTH_BYTES: usize = 4;

/// A frame as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The code; it need not be one that Riak knows.
    pub code: u8,
    /// The message, or nothing.
    pub payload: Bytes,
}

/// Bytes that are no frame. The connection they came from is of no further use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It has no code.
    #[error("a frame without a message code")]
    Empty,
    /// It is longer than allowed.
    #[error("a frame of {len} bytes, where {max} are allowed")]
    TooLong {
        /// How long it is.
        len: usize,
        /// How long it may be.
        max: usize,
    },
}

/// Why a payload is not the message that its code says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not Protocol Buffers, or fields of other types.
    #[error("malformed {code}: {reason}")]
    Malformed {
        /// What was expected.
        code: Code,
        /// What prost found.
        reason: prost::DecodeError,
    },
    /// A required field is absent.
    #[error("{code} without its required field {field}")]
    Missing {
        /// What was expected.
        code: Code,
        /// The number of the field.
        field: u32,
    },
}

/// Takes the next whole frame out of a receive buffer; `None` until one is there.
///
/// # Errors
/// [`FrameError`]: the buffer holds no frame and never will. Nothing has been taken.
pub fn take_frame(buffer: &mut BytesMut, bytes_max: usize) -> Result<Option<Frame>, FrameError> {
    let Some(len) = claimed_bytes(buffer) else { return Ok(None) };
    if len == 0 {
        return Err(FrameError::Empty);
    }
    if len > bytes_max {
        return Err(FrameError::TooLong { len, max: bytes_max });
    }
    let arrived = buffer.len() - LENGTH_BYTES;
    if arrived < len {
        // At most doubles what is there already.
        buffer.reserve((len - arrived).min(buffer.len()));
        return Ok(None);
    }
    buffer.advance(LENGTH_BYTES);
    let mut payload = buffer.split_to(len).freeze();
    let code = payload.get_u8();
    Ok(Some(Frame { code, payload }))
}

/// How long the frame at the front of a receive buffer says it is, without its length field; `None` until that is
/// known. Nothing has been checked.
#[must_use]
pub fn claimed_bytes(buffer: &[u8]) -> Option<usize> {
    buffer.first_chunk::<LENGTH_BYTES>().map(|prefix| u32::from_be_bytes(*prefix) as usize)
}

/// Appends a message.
///
/// # Errors
/// [`FrameError::TooLong`] if its length can't be written in 32 bits. Nothing has been appended.
pub fn put<M: Coded>(out: &mut BytesMut, message: &M) -> Result<(), FrameError> {
    let len = 1 + message.encoded_len();
    let prefix = u32::try_from(len).map_err(|_| FrameError::TooLong { len, max: u32::MAX as usize })?;
    out.reserve(LENGTH_BYTES + len);
    out.put_u32(prefix);
    out.put_u8(M::CODE.number());
    message.encode(out).expect("a BytesMut grows");
    Ok(())
}

/// Appends a message that has no fields, or none that are set.
pub fn put_empty(out: &mut BytesMut, code: Code) {
    out.reserve(LENGTH_BYTES + 1);
    out.put_u32(1);
    out.put_u8(code.number());
}

/// Appends the answer to a request that failed, with error code 0 as Riak has it.
pub fn put_error(out: &mut BytesMut, error: &super::RiakError) {
    let answer = RpbErrorResp { errmsg: Bytes::from(error.to_string()), errcode: 0 };
    put(out, &answer).expect("an error's text is short");
}

/// Reads a message. Its `bytes` fields are slices of `payload`.
///
/// # Errors
/// [`DecodeError`]. Riak crashes on such a payload, answers with an error and closes the connection.
pub fn decode<M: Coded>(payload: Bytes) -> Result<M, DecodeError> {
    let present = present_fields(&payload);
    let message = M::decode(payload).map_err(|reason| DecodeError::Malformed { code: M::CODE, reason })?;
    match M::REQUIRED.iter().find(|&&field| present & field_bit(field) == 0) {
        Some(&field) => Err(DecodeError::Missing { code: M::CODE, field }),
        None => Ok(message),
    }
}

/// The numbers of the fields in an encoded message, in the order they stand in; `None` if it is malformed.
#[cfg(test)]
pub(crate) fn field_numbers(payload: &[u8]) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    scan_fields(payload, |number| numbers.push(number))?;
    Some(numbers)
}

/// Which fields below 64 a message holds, one bit each; those before the fault if it is malformed.
fn present_fields(payload: &[u8]) -> u64 {
    let mut present = 0;
    scan_fields(payload, |number| present |= field_bit(number));
    present
}

fn field_bit(number: u32) -> u64 {
    1u64.checked_shl(number).unwrap_or(0)
}

/// Visits the outer fields of an encoded message; `None` if it is malformed.
fn scan_fields(mut payload: &[u8], mut visit: impl FnMut(u32)) -> Option<()> {
    let mut groups_open = 0usize;
    while !payload.is_empty() {
        let key = take_varint(&mut payload)?;
        let number = u32::try_from(key >> 3).ok()?;
        if groups_open == 0 {
            visit(number);
        }
        let skip = match key & 7 {
            0 => take_varint(&mut payload).map(|_| 0)?,
            1 => 8,
            2 => usize::try_from(take_varint(&mut payload)?).ok()?,
            3 => {
                groups_open += 1;
                0
            }
            4 => {
                groups_open = groups_open.checked_sub(1)?;
                0
            }
            5 => 4,
            _ => return None,
        };
        payload = payload.get(skip..)?;
    }
    Some(())
}

fn take_varint(payload: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (place, &byte) in payload.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7F).wrapping_shl(7 * u32::try_from(place).ok()?);
        if byte & 0x80 == 0 {
            *payload = payload.get(place + 1..)?;
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::riak::{QuorumArg, RiakError, code::each::each_coded, messages::*};
    use proptest::prelude::*;
    use prost::Message;

    fn frame_of<M: Coded>(message: &M) -> Vec<u8> {
        let mut out = BytesMut::new();
        put(&mut out, message).unwrap();
        out.to_vec()
    }

    fn take_one<M: Coded>(bytes: &[u8]) -> M {
        let mut buffer = BytesMut::from(bytes);
        let frame = take_frame(&mut buffer, FRAME_BYTES_MAX).unwrap().expect("whole");
        assert!(buffer.is_empty());
        assert_eq!(frame.code, M::CODE.number());
        decode(frame.payload).unwrap()
    }

    #[test]
    fn a_get_has_these_bytes() {
        let get = RpbGetReq {
            bucket: "b".into(),
            key: "k".into(),
            r: Some(QuorumArg::Quorum.to_wire()),
            notfound_ok: Some(false),
            r#type: Some("t".into()),
            ..RpbGetReq::default()
        };
        let bytes = [
            0, 0, 0, 18, 9, // length, code
            0x0A, 1, b'b', 0x12, 1, b'k', // 1: bucket, 2: key
            0x18, 0xFD, 0xFF, 0xFF, 0xFF, 0x0F, // 3: r = 4294967293
            0x30, 0, // 6: notfound_ok = false, which is not the same as absent
            0x6A, 1, b't', // 13: type
        ];
        assert_eq!(frame_of(&get), bytes);
        assert_eq!(take_one::<RpbGetReq>(&bytes), get);
    }

    #[test]
    fn a_put_has_these_bytes() {
        let put = RpbPutReq {
            bucket: "b".into(),
            vclock: Some("\u{1}".into()),
            content: RpbContent {
                value: Bytes::new(),
                usermeta: vec![RpbPair { key: "m".into(), value: None }],
                ..RpbContent::default()
            },
            w: Some(300),
            return_body: Some(true),
            ..RpbPutReq::default()
        };
        let bytes = [
            0, 0, 0, 21, 11, // length, code
            0x0A, 1, b'b', // 1: bucket; no key: the server makes one
            0x1A, 1, 1, // 3: vclock
            0x22, 7, // 4: content
            0x0A, 0, // 1: value, required and so present though empty
            0x4A, 3, 0x0A, 1, b'm', // 9: usermeta {1: key}
            0x28, 0xAC, 2, // 5: w = 300
            0x38, 1, // 7: return_body
        ];
        assert_eq!(frame_of(&put), bytes);
        assert_eq!(take_one::<RpbPutReq>(&bytes), put);
    }

    #[test]
    fn counters_are_zigzag_and_partitions_are_not() {
        let update = RpbCounterUpdateReq {
            bucket: "b".into(),
            key: "k".into(),
            amount: -2,
            ..RpbCounterUpdateReq::default()
        };
        assert_eq!(frame_of(&update), [0, 0, 0, 9, 50, 0x0A, 1, b'b', 0x12, 1, b'k', 0x18, 3]);
        let item = RpbBucketKeyPreflistItem { partition: -1, node: "n".into(), primary: true };
        let preflist = RpbGetBucketKeyPreflistResp { preflist: vec![item] };
        let bytes = [
            0, 0, 0, 19, 34, 0x0A, 16, // 1: item
            0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255,
            1, // 1: partition, ten bytes of two's complement
            0x12, 1, b'n', 0x18, 1, // 2: node, 3: primary
        ];
        assert_eq!(frame_of(&preflist), bytes);
    }

    #[test]
    fn an_error_has_code_0() {
        let mut out = BytesMut::new();
        put_error(&mut out, &RiakError::MatchFound);
        let bytes = b"\0\0\0\x10\0\x0A\x0Bmatch_found\x10\0";
        assert_eq!(out, bytes[..]);
        assert_eq!(take_one::<RpbErrorResp>(bytes).errcode, 0);
    }

    #[test]
    fn an_empty_message_is_five_bytes() {
        let mut out = BytesMut::new();
        put_empty(&mut out, Code::RpbPingReq);
        assert_eq!(out, [0, 0, 0, 1, 1][..]);
        assert_eq!(frame_of(&RpbGetResp::default()), [0, 0, 0, 1, 10]);
    }

    #[test]
    fn defaults_of_the_protocol_apply_to_absent_fields_only() {
        let absent = DtFetchReq::default();
        assert!(absent.include_context.is_none() && absent.include_context());
        let refused = DtFetchReq { include_context: Some(false), ..DtFetchReq::default() };
        assert!(!refused.include_context());
        let fold = RpbCSBucketReq::default();
        assert!(fold.start_incl() && !fold.end_incl());
    }

    #[test]
    fn a_frame_without_a_code_is_fatal() {
        let mut buffer = BytesMut::from(&[0, 0, 0, 0, 1][..]);
        assert_eq!(take_frame(&mut buffer, 10), Err(FrameError::Empty));
    }

    #[test]
    fn a_frame_is_as_long_as_allowed_and_no_longer() {
        let mut buffer = BytesMut::from(&[0, 0, 0, 3, 2, 8, 9][..]);
        assert_eq!(take_frame(&mut buffer.clone(), 2), Err(FrameError::TooLong { len: 3, max: 2 }));
        let frame = Frame { code: 2, payload: Bytes::from_static(&[8, 9]) };
        assert_eq!(take_frame(&mut buffer, 3), Ok(Some(frame)));
    }

    #[test]
    fn a_claimed_length_takes_no_memory() {
        let mut buffer = BytesMut::from(&[0x03, 0xFF, 0xFF, 0xFF, 11][..]);
        assert_eq!(claimed_bytes(&buffer), Some(0x03FF_FFFF));
        assert_eq!(take_frame(&mut buffer, FRAME_BYTES_MAX), Ok(None));
        assert!(buffer.capacity() < 1024, "{}", buffer.capacity());
    }

    #[test]
    fn a_message_without_a_required_field_is_refused() {
        let lacks_content = decode::<RpbPutReq>(Bytes::from_static(&[0x0A, 1, b'b']));
        assert_eq!(lacks_content, Err(DecodeError::Missing { code: Code::RpbPutReq, field: 4 }));
        assert!(decode::<RpbGetReq>(Bytes::new()).is_err());
        assert!(decode::<RpbListBucketsReq>(Bytes::new()).is_ok(), "nothing in it is required");
    }

    #[test]
    fn unknown_fields_and_groups_are_passed_over() {
        // 20: a varint; 21: a group that holds a field 2, which is not the message's own.
        let payload = [0x0A, 1, b'b', 0xA0, 1, 5, 0xAB, 1, 0x12, 1, b'k', 0xAC, 1];
        let missing = decode::<RpbGetReq>(Bytes::copy_from_slice(&payload));
        assert_eq!(missing, Err(DecodeError::Missing { code: Code::RpbGetReq, field: 2 }));
        assert_eq!(field_numbers(&payload), Some(vec![1, 20, 21]));
    }

    #[test]
    fn a_map_that_nests_without_end_is_an_error() {
        let nested = |depth| {
            let op = (0..depth).fold(MapOp::default(), |inner, _| {
                let update = MapUpdate { map_op: Some(Box::new(inner)), ..MapUpdate::default() };
                MapOp { updates: vec![update], ..MapOp::default() }
            });
            let op = DtOp { map_op: Some(op), ..DtOp::default() };
            decode::<DtUpdateReq>(DtUpdateReq { op, ..DtUpdateReq::default() }.encode_to_vec().into())
        };
        assert!(nested(20).is_ok());
        let outcome = nested(200);
        assert!(matches!(outcome, Err(DecodeError::Malformed { .. })), "{outcome:?}");
    }

    #[test]
    fn bytes_are_slices_of_the_frame() {
        let frame = Bytes::from(frame_of(&RpbSetClientIdReq { client_id: "an id".into() }));
        let message: RpbSetClientIdReq = decode(frame.slice(5..)).unwrap();
        assert!(frame.as_ptr_range().contains(&message.client_id.as_ptr()));
    }

    fn decode_as_everything(payload: &Bytes) {
        fn any<M: Coded>(payload: &Bytes) {
            if let Ok(message) = decode::<M>(payload.clone()) {
                let again = Bytes::from(message.encode_to_vec());
                let twice = decode::<M>(again.clone()).expect("what was written is read");
                assert_eq!(twice.encode_to_vec(), again, "writing is stable");
            }
        }
        macro_rules! all {
            ($($message:ident)*) => { $(any::<$message>(payload);)* };
        }
        all!(RpbErrorResp RpbGetServerInfoResp RpbGetReq RpbGetResp RpbPutReq RpbPutResp RpbDelReq RpbIndexReq
            RpbListKeysResp RpbSetBucketReq RpbMapRedResp DtFetchResp DtUpdateReq DtUpdateResp RpbSearchQueryResp);
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(frame)) = take_frame(&mut buffer, 100) {
                decode_as_everything(&frame.payload);
            }
            decode_as_everything(&Bytes::from(bytes));
        }

        #[test]
        fn a_damaged_put_is_an_answer(value: Vec<u8>, at: prop::sample::Index, byte: u8) {
            let content = RpbContent { value: value.into(), links: vec![RpbLink::default()], ..Default::default() };
            let put = RpbPutReq { bucket: "b".into(), content, ..RpbPutReq::default() };
            let mut payload = put.encode_to_vec();
            let at = at.index(payload.len());
            payload[at] = byte;
            decode_as_everything(&Bytes::from(payload));
        }

        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..6),
            cut in 1usize..20,
        ) {
            let sent: Vec<_> =
                values.into_iter().map(|value| RpbSetClientIdReq { client_id: value.into() }).collect();
            let mut wire = BytesMut::new();
            for message in &sent {
                put(&mut wire, message).unwrap();
            }
            let mut buffer = BytesMut::new();
            let mut received = Vec::new();
            for piece in wire.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = take_frame(&mut buffer, 100).unwrap() {
                    prop_assert_eq!(frame.code, Code::RpbSetClientIdReq.number());
                    received.push(decode::<RpbSetClientIdReq>(frame.payload).unwrap());
                }
            }
            prop_assert_eq!(received, sent);
        }

        #[test]
        fn the_scan_agrees_with_the_decoder(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if RpbListBucketsReq::decode(&bytes[..]).is_ok() {
                prop_assert!(field_numbers(&bytes).is_some());
            }
        }
    }

    #[test]
    fn every_message_survives_its_own_frame() {
        fn check<M: Coded + PartialEq + std::fmt::Debug>() {
            let message = M::default();
            assert_eq!(take_one::<M>(&frame_of(&message)), message);
        }
        each_coded!(check);
    }
}
