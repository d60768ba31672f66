//! The law of Riak's Protocol Buffers frames and messages.

use super::chunks::frames_of;
use crate::riak::{
    Code, Coded,
    messages::{
        DtFetchReq, DtFetchResp, DtUpdateReq, DtUpdateResp, RpbAuthReq, RpbDelReq, RpbErrorResp,
        RpbGetBucketReq, RpbGetBucketResp, RpbGetReq, RpbGetResp, RpbIndexReq, RpbIndexResp, RpbListKeysReq,
        RpbMapRedReq, RpbPutReq, RpbPutResp, RpbSetBucketReq,
    },
    pbc::{self, take_frame},
};
use bytes::{Bytes, BytesMut};

const BYTES_MAX: usize = 1 << 20;

/// The first byte chooses the chunks in which the rest arrives.
///
/// # Panics
/// If a law of the decoders is broken.
pub fn pbc(bytes: &[u8]) {
    for frame in frames_of(bytes, |buffer| take_frame(buffer, BYTES_MAX)) {
        DECODERS
            .iter()
            .filter(|(code, _)| *code == frame.code)
            .for_each(|(_, decode)| decode(&frame.payload));
    }
}

type Decoder = (u8, fn(&Bytes));

macro_rules! decoders {
    ($($name:ident)*) => { [$((Code::$name as u8, reads_back::<$name>)),*] };
}

const DECODERS: [Decoder; 18] = decoders! {
    RpbErrorResp RpbGetReq RpbGetResp RpbPutReq RpbPutResp RpbDelReq RpbListKeysReq RpbGetBucketReq RpbGetBucketResp
    RpbSetBucketReq RpbMapRedReq RpbIndexReq RpbIndexResp DtFetchReq DtFetchResp DtUpdateReq DtUpdateResp RpbAuthReq
};

/// A payload is refused, or it gives a message that can be written and read back unchanged.
fn reads_back<M: Coded + PartialEq + std::fmt::Debug>(payload: &Bytes) {
    let Ok(message) = pbc::decode::<M>(payload.clone()) else { return };
    let mut out = BytesMut::new();
    pbc::put(&mut out, &message).expect("no longer than what was read");
    let frame = take_frame(&mut out, usize::MAX).expect("our own frame").expect("whole");
    assert_eq!(pbc::decode::<M>(frame.payload), Ok(message), "what was read can be written and read again");
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let get = RpbGetReq { bucket: "bucket".into(), key: "key".into(), r: Some(2), ..RpbGetReq::default() };
    let list = RpbListKeysReq { bucket: "bucket".into(), ..RpbListKeysReq::default() };
    let fetch = DtFetchReq {
        bucket: "bucket".into(),
        key: "key".into(),
        r#type: "sets".into(),
        ..DtFetchReq::default()
    };
    let mut put = RpbPutReq { bucket: "bucket".into(), key: Some("key".into()), ..RpbPutReq::default() };
    put.content.value = vec![7; 100].into();
    let mut seeds = vec![Vec::new()];
    let mut all = BytesMut::from(&[3][..]);
    for one in [framed(&get), framed(&list), framed(&fetch), framed(&put)] {
        all.extend_from_slice(&one);
        seeds.push([&[9], &one[..]].concat());
    }
    seeds.push(all.to_vec());
    seeds
}

fn framed<M: Coded>(message: &M) -> BytesMut {
    let mut out = BytesMut::new();
    pbc::put(&mut out, message).expect("short");
    out
}
