//! Slices of rows on their way from one owner to another: items as they are kept, with their n_val classes.
//!
//! A request names a range of positions within a partition, where to go on in it, and the lowest slot of whoever asks:
//! that one holds the items with a greater n_val, and gets no others.

use crate::{
    node::{Outgoing, Shared},
    reply::{Failure, FailureCode, Outcome, ReplyTo},
    ring::{Occupant, Partition},
    store::{
        RangeQuery,
        row::{Body, Row},
    },
    topology::Topology,
    vnode::{
        Storage,
        host::{core_message, fence},
        service::items_table,
    },
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use rondel_proto::{
    frame::Head,
    id::{Position, RequestId},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// Rows of one slice, and the bytes of them after which it ends.
const ROWS_MAX: usize = 256;
const BYTES_MAX: usize = 1 << 20;
/// How long a slice may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Whether there is a place to go on from, that place, the range, the lowest slot.
const HEAD_BYTES: usize = 1 + 8 + 8 + 8 + 1;

/// A part of a partition, as one slot's owner needs it.
#[derive(Debug, Clone, Copy)]
pub(in crate::handoff) struct Wanted {
    pub(in crate::handoff) service: usize,
    pub(in crate::handoff) partition: Partition,
    pub(in crate::handoff) first: Position,
    pub(in crate::handoff) last: Position,
    /// The lowest slot of whoever asks.
    pub(in crate::handoff) slot: u8,
}

/// One item.
pub(in crate::handoff) struct Copy {
    pub(in crate::handoff) position: Position,
    pub(in crate::handoff) key: Bytes,
    pub(in crate::handoff) n: u8,
    pub(in crate::handoff) item: Bytes,
}

pub(in crate::handoff) struct Slice {
    pub(in crate::handoff) copies: Vec<Copy>,
    /// Where to go on; none at the end.
    pub(in crate::handoff) next: Option<(Position, Bytes)>,
}

/// Asks an owner for a slice.
pub(in crate::handoff) async fn ask(
    shared: &Arc<Shared>,
    topology: &Topology,
    of: Occupant,
    wanted: Wanted,
    after: Option<&(Position, Bytes)>,
) -> Result<Slice, Failure> {
    let mut body = BytesMut::with_capacity(HEAD_BYTES);
    body.put_u8(u8::from(after.is_some()));
    body.put_u64_le(after.map_or(0, |(position, _)| position.0));
    body.put_u64_le(wanted.first.0);
    body.put_u64_le(wanted.last.0);
    body.put_u8(wanted.slot);
    let slots = topology.slots(wanted.partition);
    let head = Head {
        service: shared.host.services[wanted.service].code,
        message: core_message::RANGE,
        flags: 0,
        slots: slots.written_slots(of, usize::from(topology.replicas())),
        stand_in: 0,
        ver: slots.ver,
        position: wanted.partition.first(),
        request_id: RequestId::default(),
        deadline_us: 0,
    };
    let key = after.map_or_else(Bytes::new, |(_, key)| key.clone());
    let deadline = shared.env.now() + DEADLINE;
    let (sender, answer) = oneshot::channel();
    let reply = ReplyTo::new(|outcome: Outcome| drop(sender.send(outcome)));
    shared.send_bulk(of.node, wanted.service, Outgoing { head, key, body: body.freeze(), deadline }, reply);
    match shared.env.timeout_at(deadline, answer).await {
        Ok(Ok(outcome)) => parse(outcome?),
        _ => Err(Failure::new(FailureCode::Expired)),
    }
}

/// Answers a slice from this node's rows.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    topology: &Topology,
    service: usize,
    head: &Head,
    key: Bytes,
    mut body: Bytes,
) -> Outcome {
    if body.len() < HEAD_BYTES {
        return Err(Failure::new(FailureCode::BadRequest));
    }
    let (has_after, position) = (body.get_u8() != 0, Position(body.get_u64_le()));
    let (first, last, slot) = (Position(body.get_u64_le()), Position(body.get_u64_le()), body.get_u8());
    let (of, partition) = (&shared.host.services[service], topology.partition(head.position));
    fence(topology, partition, head)?;
    if of.storage != Storage::Durable || first < partition.first() || last > partition.last() {
        return Err(Failure::new(FailureCode::BadRequest));
    }
    let query = RangeQuery {
        table: items_table(of.code),
        first,
        last,
        after: has_after.then_some((position, key)),
        rows_max: ROWS_MAX,
        bytes_max: BYTES_MAX,
    };
    let slice = shared.store(of.storage).range(query).await;
    let slice = slice.map_err(|error| Failure::because(FailureCode::StoreFailed, error))?;
    let mut out = BytesMut::with_capacity(4_096);
    out.put_u8(u8::from(slice.end));
    let (position, key) = slice.rows.last().map_or((last, &[][..]), |(at, _)| (at.position, &at.key));
    put_place(&mut out, position, key);
    for (at, bytes) in &slice.rows {
        // What can't be read here is read by another owner, or filled.
        let Ok(Row { n_val, body: Body::Item(item), .. }) = Row::decode(at, bytes) else { continue };
        if n_val > slot {
            put_place(&mut out, at.position, &at.key);
            out.put_u8(n_val);
            out.put_u32_le(u32::try_from(item.len()).expect("items are bounded where they enter"));
            out.put_slice(&item);
        }
    }
    Ok(out.freeze())
}

fn put_place(out: &mut BytesMut, position: Position, key: &[u8]) {
    out.put_u64_le(position.0);
    out.put_u16_le(u16::try_from(key.len()).expect("keys are bounded where they enter"));
    out.put_slice(key);
}

fn parse(mut body: Bytes) -> Result<Slice, Failure> {
    let bad = || Failure::because(FailureCode::BadRequest, "a slice of rows that does not decode");
    let end = body.try_get_u8().map_err(|_| bad())? != 0;
    let reached = take_place(&mut body).ok_or_else(bad)?;
    let mut copies = Vec::new();
    while !body.is_empty() {
        copies.push(take_copy(&mut body).ok_or_else(bad)?);
    }
    Ok(Slice { copies, next: (!end).then_some(reached) })
}

fn take_place(body: &mut Bytes) -> Option<(Position, Bytes)> {
    let position = Position(body.try_get_u64_le().ok()?);
    let key_len = usize::from(body.try_get_u16_le().ok()?);
    let key = (body.len() >= key_len).then(|| body.split_to(key_len))?;
    // It outlives the slice, which is large.
    Some((position, Bytes::copy_from_slice(&key)))
}

fn take_copy(body: &mut Bytes) -> Option<Copy> {
    let (position, key) = take_place(body)?;
    let n = body.try_get_u8().ok()?;
    let item_len = usize::try_from(body.try_get_u32_le().ok()?).ok()?;
    let item = (body.len() >= item_len).then(|| body.split_to(item_len))?;
    Some(Copy { position, key, n, item })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_that_was_cut_short_is_refused_and_never_taken_for_a_shorter_one() {
        let mut whole = BytesMut::new();
        whole.put_u8(0);
        put_place(&mut whole, Position(9), b"last");
        for (key, item) in [(&b"a"[..], &b"one"[..]), (b"last", b"two")] {
            put_place(&mut whole, Position(9), key);
            whole.put_u8(3);
            whole.put_u32_le(u32::try_from(item.len()).unwrap());
            whole.put_slice(item);
        }
        let whole = whole.freeze();
        let slice = parse(whole.clone()).unwrap();
        assert_eq!(slice.next, Some((Position(9), Bytes::from_static(b"last"))));
        let copies: Vec<_> =
            slice.copies.iter().map(|copy| (&copy.key[..], copy.n, &copy.item[..])).collect();
        assert_eq!(copies, [(&b"a"[..], 3, &b"one"[..]), (b"last", 3, b"two")]);
        let first = 1 + 10 + 4 + 10 + 1 + 5 + 3;
        let cuts = (0..whole.len()).filter(|len| parse(whole.slice(..*len)).is_ok());
        assert_eq!(cuts.collect::<Vec<_>>(), [1 + 10 + 4, first], "between copies nothing tells");
    }
}
