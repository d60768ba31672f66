//! Answering a fetch: the item of a key, or its digest.
//!
//! A fetch changes nothing and enters no vnode, so a row that memory knows is answered at the door, on whatever
//! thread the request came in; only rows that must come from the disk go through their lane.

use super::{ctx::Content, service::Service};
use crate::{
    reply::{Failure, FailureCode, Outcome},
    store::{
        RowKey,
        row::{Body, Row},
    },
};
use bytes::{BufMut, Bytes, BytesMut};

/// The first byte of an answer.
pub(crate) const ABSENT: u8 = 0;
pub(crate) const ITEM: u8 = 1;
pub(crate) const DIGEST: u8 = 2;
/// The same where the replica has lost rows that have not all come back: what it holds may be less than it acknowledged.
pub(crate) const ITEM_IN_GAP: u8 = 3;
pub(crate) const DIGEST_IN_GAP: u8 = 4;

/// A replica's answer: [`ABSENT`], or [`ITEM`] and the item, or [`DIGEST`] and the digest; or what these are in a gap.
pub(crate) fn answer(
    service: &Service,
    at: &RowKey,
    content: &Content,
    digest: bool,
    in_gap: bool,
) -> Outcome {
    match content {
        Content::Absent => Ok(Bytes::from_static(&[ABSENT])),
        Content::Row(Row { body: Body::Item(item), .. }) if digest => {
            let digest =
                (service.digest)(&at.key, item).map_err(|bad| Failure::because(FailureCode::Corrupt, bad))?;
            let mut out = BytesMut::with_capacity(9);
            out.put_u8(if in_gap { DIGEST_IN_GAP } else { DIGEST });
            out.put_u64_le(digest.0);
            Ok(out.freeze())
        }
        Content::Row(Row { body: Body::Item(item), .. }) => {
            let mut out = BytesMut::with_capacity(1 + item.len());
            out.put_u8(if in_gap { ITEM_IN_GAP } else { ITEM });
            out.put_slice(item);
            Ok(out.freeze())
        }
        Content::Row(Row { body: Body::Hole, .. }) | Content::Unreadable => {
            Err(Failure::new(FailureCode::Corrupt))
        }
    }
}
