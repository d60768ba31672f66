//! The law of the frames between nodes.

use super::chunks::frames_of;
use crate::{
    frame::{
        FRAME_INLINE_BYTES_MAX, Frame, Head, put_accepted, put_failure, put_reply, put_request, take_frame,
    },
    id::{Position, RequestId, Ver},
};
use bytes::BytesMut;

/// The first byte chooses the chunks in which the rest arrives.
///
/// # Panics
/// If a law of the decoder is broken.
pub fn frame(bytes: &[u8]) {
    frames_of(bytes, |buffer| take_frame(buffer, FRAME_INLINE_BYTES_MAX)).iter().for_each(reads_back);
}

fn reads_back(frame: &Frame) {
    let mut out = BytesMut::new();
    put(&mut out, frame);
    let again = take_frame(&mut out, FRAME_INLINE_BYTES_MAX);
    assert_eq!(again.as_ref(), Ok(&Some(frame.clone())), "what was read can be written and read again");
    assert!(out.is_empty(), "and nothing is left over");
}

fn put(out: &mut BytesMut, frame: &Frame) {
    match frame {
        Frame::Request { correlation, head, key, body } => put_request(out, *correlation, head, key, body),
        Frame::Reply { correlation, body } => put_reply(out, *correlation, body),
        Frame::Failure { correlation, code, detail } => put_failure(out, *correlation, *code, detail),
        Frame::Accepted { correlation } => put_accepted(out, *correlation),
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let head = Head {
        service: 0xDEAD_BEEF,
        message: 7,
        flags: 1,
        slots: 0b101,
        stand_in: 0b010,
        ver: Ver(9),
        position: Position(u64::MAX / 3),
        request_id: RequestId(u128::MAX / 5),
        deadline_us: 1_000_000,
    };
    let mut all = BytesMut::new();
    let mut seeds = vec![Vec::new()];
    for frame in [
        Frame::Request { correlation: 1, head, key: "key".into(), body: "body".into() },
        Frame::Request { correlation: 2, head, key: vec![7; 300].into(), body: bytes::Bytes::new() },
        Frame::Reply { correlation: 3, body: vec![1; 1000].into() },
        Frame::Failure { correlation: 4, code: 3, detail: "why".into() },
        Frame::Accepted { correlation: 5 },
    ] {
        // The byte that chooses the chunks.
        let mut one = BytesMut::from(&[9][..]);
        put(&mut one, &frame);
        seeds.push(one.to_vec());
        put(&mut all, &frame);
    }
    seeds.push([&[2], &all[..]].concat());
    seeds
}
