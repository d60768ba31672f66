//! Scans: a question asked of every item of a service, partition by partition, slice by slice.
//!
//! Each partition is answered by one owner that lacks nothing. While a member is down or hints are under way, or once
//! that owner has failed, all owners that are up answer: their rows are merged in ring order, and a row is given once, as
//! the best of those that give it has it. So a delete that has not reached an owner may show. An owner whose store has lost
//! rows gives what it has, beside one that gives all. Pages stream with back-pressure: a reader that stops, stops the scan. What can't be answered for, a row that nobody can read included,
//! is an error in the stream, never a silent gap.

use super::options::RequestError;
use crate::{
    mutant::Mutant,
    node::{Outgoing, Shared},
    reply::{Failure, FailureCode, Outcome, ReplyTo},
    ring::{Partition, Use},
    store::{
        Gap, RangeQuery, Store,
        row::{Body, Row},
    },
    topology::Topology,
    vnode::{host::core_message, service::items_table},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use rondel_proto::{
    frame::{Head, flags},
    id::{NodeId, Position, RequestId},
};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};

/// Rows that one page looks at, and the bytes after which it ends.
const PAGE_ROWS_MAX: usize = 1_024;
const PAGE_BYTES_MAX: usize = 1 << 20;
/// Partitions that are scanned at once, and pages that wait for the reader.
const PARTITIONS_AT_ONCE: usize = 4;
const PAGES_AHEAD: usize = 4;
/// How long one page may take.
const PAGE_DEADLINE: Duration = Duration::from_secs(10);

/// One answered row: its key and the archive of the reply.
pub(crate) type RawRow = (Bytes, Bytes);

/// Where a scan of a partition has got to: the last row that was looked at.
type Cursor = Option<(Position, Bytes)>;

/// Who answers for a partition, the best first.
struct Cover {
    owners: Vec<(NodeId, u16)>,
    /// The first of them lacks nothing.
    one_is_enough: bool,
}

/// How a walk ended.
enum Walked {
    ToTheEnd,
    ReaderGone,
}

/// A row of one owner; no reply if it can't be read there.
struct ScannedRow {
    at: (Position, Bytes),
    reply: Option<Bytes>,
}

struct Page {
    rows: Vec<ScannedRow>,
    reached: (Position, Bytes),
    end: bool,
}

/// The rows of one owner, page by page.
struct Walk {
    node: NodeId,
    slots: u16,
    rows: VecDeque<ScannedRow>,
    reached: Cursor,
    end: bool,
    /// It has lost rows of the partition, and gives those that it has.
    partial: bool,
}

/// Starts a scan; its pages come through the channel, each with an error where a partition could not be answered.
pub(crate) fn start(
    shared: &Arc<Shared>,
    topology: &Arc<Topology>,
    service: usize,
    message: u16,
    query: Bytes,
) -> mpsc::Receiver<Result<Vec<RawRow>, RequestError>> {
    let (sender, pages) = mpsc::channel(PAGES_AHEAD);
    let scan = Arc::new(Scan { shared: shared.clone(), topology: topology.clone(), service, message, query });
    shared.env.spawn("scan", async move {
        let partitions: Vec<Partition> = scan.topology.placement().iter().map(|(at, _)| at).collect();
        futures_util::stream::iter(partitions)
            .for_each_concurrent(PARTITIONS_AT_ONCE, |partition| {
                let (scan, sender) = (scan.clone(), sender.clone());
                async move { scan.partition(partition, sender).await }
            })
            .await;
    });
    pages
}

struct Scan {
    shared: Arc<Shared>,
    topology: Arc<Topology>,
    service: usize,
    message: u16,
    query: Bytes,
}

impl Scan {
    async fn partition(&self, partition: Partition, sender: mpsc::Sender<Result<Vec<RawRow>, RequestError>>) {
        let Cover { owners, one_is_enough } = self.cover(partition);
        let mut given = None;
        let mut walked = Err(Failure::because(FailureCode::NotServing, "none of its owners is up"));
        if one_is_enough {
            walked = self.walk(partition, &owners[..1], &mut given, &sender).await;
        }
        let others = if one_is_enough { &owners[1..] } else { &owners[..] };
        if walked.is_err() && !others.is_empty() {
            walked = self.walk(partition, others, &mut given, &sender).await;
        }
        if let Err(failure) = walked {
            let _ = sender.send(Err(RequestError::Uncovered { partition: partition.index(), failure })).await;
        }
    }

    /// Merges the rows of these owners, from behind the last row given. All of them are needed: what one that fails on
    /// the way has alone would be missed.
    async fn walk(
        &self,
        partition: Partition,
        owners: &[(NodeId, u16)],
        given: &mut Cursor,
        sender: &mpsc::Sender<Result<Vec<RawRow>, RequestError>>,
    ) -> Result<Walked, Failure> {
        let walk = |&(node, slots): &(NodeId, u16)| Walk {
            node,
            slots,
            rows: VecDeque::new(),
            reached: given.clone(),
            end: false,
            partial: false,
        };
        let mut walks: Vec<Walk> = owners.iter().map(walk).collect();
        loop {
            if sender.is_closed() {
                return Ok(Walked::ReaderGone);
            }
            for index in 0..walks.len() {
                while walks[index].rows.is_empty() && !walks[index].end {
                    self.next_page(partition, &mut walks, index).await?;
                }
            }
            let (rows, merged) = merge(&mut walks, given);
            let is_end = rows.is_empty();
            if !is_end && sender.send(Ok(rows)).await.is_err() {
                return Ok(Walked::ReaderGone);
            }
            merged?;
            if is_end {
                return Ok(Walked::ToTheEnd);
            }
        }
    }

    /// Takes the next page of one owner. One whose store has lost rows gives what it has, as long as another gives all.
    async fn next_page(&self, partition: Partition, walks: &mut [Walk], index: usize) -> Result<(), Failure> {
        let started = self.shared.env.now();
        let mut page = self.page(partition, &walks[index]).await;
        let lacks = matches!(&page, Err(failure) if failure.code == FailureCode::NotReady);
        let whole = walks.iter().enumerate().any(|(other, walk)| other != index && !walk.partial);
        if lacks && whole && !walks[index].partial {
            walks[index].partial = true;
            page = self.page(partition, &walks[index]).await;
        }
        let took = self.shared.env.now() - started;
        self.shared.metrics.services[self.service].scan.finished(page.is_ok(), took);
        let (Page { rows, reached, end }, walk) = (page?, &mut walks[index]);
        walk.rows.extend(rows);
        walk.reached = Some(reached);
        walk.end = end;
        Ok(())
    }

    /// Who is to answer for a partition, best first: those that are not behind, in slot order, as the first slots hold
    /// the items of every n_val.
    ///
    /// One owner is enough while it can lack nothing. Otherwise an acknowledged write may have passed it by: the hint
    /// for it waits elsewhere, maybe on a member that is down. Then all owners that are up are asked.
    fn cover(&self, partition: Partition) -> Cover {
        let outlook = self.shared.outlook(self.shared.host.services[self.service].code);
        let preferences = self.topology.preference_list(partition);
        let list =
            preferences.strict(usize::from(self.topology.replicas()), Use::Read, |node| outlook.up(node));
        let mut owners: Vec<_> = list.entries().iter().map(|entry| (entry.node, entry.owned)).collect();
        let behind = |node: NodeId| outlook.behind(node) || outlook.lacking(node);
        owners.sort_by_key(|(node, _)| (behind(*node), outlook.demoted(*node)));
        let everybody_up = self.topology.members.keys().all(|node| outlook.up(*node));
        let own_hints = self.shared.hints.by_node(&self.topology);
        let lacks = |node: NodeId| behind(node) || outlook.hinted(node) || own_hints.contains_key(&node);
        let one_is_enough = everybody_up && owners.first().is_some_and(|(node, _)| !lacks(*node));
        Cover { owners, one_is_enough }
    }

    async fn page(&self, partition: Partition, walk: &Walk) -> Result<Page, Failure> {
        let &Walk { node, slots, partial, .. } = walk;
        let mut body = BytesMut::with_capacity(9 + self.query.len());
        let after = walk.reached.as_ref();
        body.put_u8(u8::from(after.is_some()));
        body.put_u64_le(after.map_or(0, |(position, _)| position.0));
        body.put_u16_le(self.message);
        body.put_slice(&self.query);
        let head = Head {
            service: self.shared.host.services[self.service].code,
            message: core_message::SCAN,
            flags: if partial { flags::PARTIAL } else { 0 },
            slots,
            stand_in: 0,
            ver: self.topology.ver(partition),
            position: partition.first(),
            request_id: RequestId::default(),
            deadline_us: 0,
        };
        let key = after.map_or_else(Bytes::new, |(_, key)| key.clone());
        if node == self.shared.me {
            return parse(
                serve(&self.shared, &self.topology, self.service, &head, key, body.freeze()).await?,
            );
        }
        let deadline = self.shared.env.now() + PAGE_DEADLINE;
        let (sender, answer) = oneshot::channel();
        let outgoing = Outgoing { head, key, body: body.freeze(), deadline };
        let reply = ReplyTo::new(|outcome: Outcome| drop(sender.send(outcome)));
        self.shared.send(node, self.service, outgoing, reply);
        match self.shared.env.timeout_at(deadline, answer).await {
            Ok(Ok(outcome)) => parse(outcome?),
            _ => Err(Failure::new(FailureCode::Expired)),
        }
    }
}

/// Answers one page from this node's rows.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    topology: &Topology,
    service: usize,
    head: &Head,
    key: Bytes,
    mut body: Bytes,
) -> Outcome {
    if body.len() < 11 {
        return Err(Failure::new(FailureCode::BadRequest));
    }
    let (has_after, position, message) = (body.get_u8() != 0, Position(body.get_u64_le()), body.get_u16_le());
    let of = &shared.host.services[service];
    let scan = of.scans.get(&message).ok_or_else(|| Failure::new(FailureCode::Unsupported))?;
    let partition = topology.partition(head.position);
    crate::vnode::host::fence(topology, partition, head)?;
    // A listing must not take what is absent there for absent.
    let tolerant = head.flags & flags::PARTIAL != 0 || shared.mutants.has(Mutant::GapAsEmpty);
    let lacks = || !tolerant && lacks_any(&**shared.store(of.storage), partition);
    if lacks() {
        return Err(lacking());
    }
    let query = RangeQuery {
        table: items_table(of.code),
        first: partition.first(),
        last: partition.last(),
        after: has_after.then_some((position, key)),
        rows_max: PAGE_ROWS_MAX,
        bytes_max: PAGE_BYTES_MAX,
    };
    let slice = shared.store(of.storage).range(query).await;
    let slice = slice.map_err(|error| Failure::because(FailureCode::StoreFailed, error))?;
    if lacks() {
        return Err(lacking());
    }
    let mut out = BytesMut::with_capacity(4_096);
    out.put_u8(u8::from(slice.end));
    match slice.rows.last() {
        Some((at, _)) => put_row(&mut out, at.position, &at.key, None),
        None => put_row(&mut out, partition.last(), &[], None),
    }
    for (at, bytes) in &slice.rows {
        let Ok(Row { body: Body::Item(item), .. }) = Row::decode(at, bytes) else {
            shared.metrics.lane.unreadable_rows.increment(1);
            // With a damaged key it is nobody's row; whose it was is missing elsewhere, and comes back there.
            if (of.position)(&at.key) == at.position {
                put_row(&mut out, at.position, &at.key, None);
            }
            continue;
        };
        if let Some(reply) = scan(&body, at, &item)? {
            put_row(&mut out, at.position, &at.key, Some(&reply));
        }
    }
    Ok(out.freeze())
}

/// In place of a reply's length: the row can't be read.
const UNREADABLE: u32 = u32::MAX;

fn lacks_any(store: &dyn Store, partition: Partition) -> bool {
    let overlaps = |gap: &Gap| gap.first <= partition.last() && partition.first() <= gap.last;
    store.gaps().iter().any(overlaps)
}

fn lacking() -> Failure {
    Failure::because(FailureCode::NotReady, "its store lacks rows that come back from its replicas")
}

fn put_row(out: &mut BytesMut, position: Position, key: &[u8], reply: Option<&[u8]>) {
    out.put_u64_le(position.0);
    out.put_u16_le(u16::try_from(key.len()).expect("keys are bounded where they enter"));
    out.put_slice(key);
    let Some(reply) = reply else { return out.put_u32_le(UNREADABLE) };
    out.put_u32_le(u32::try_from(reply.len()).expect("replies are bounded by their frame"));
    out.put_slice(reply);
}

fn parse(mut body: Bytes) -> Result<Page, Failure> {
    let bad = || Failure::because(FailureCode::BadRequest, "a page of a scan that does not decode");
    let end = body.try_get_u8().map_err(|_| bad())? != 0;
    let ScannedRow { at: reached, .. } = take_row(&mut body).ok_or_else(bad)?;
    let mut rows = Vec::new();
    while !body.is_empty() {
        rows.push(take_row(&mut body).ok_or_else(bad)?);
    }
    Ok(Page { rows, reached, end })
}

fn take_row(body: &mut Bytes) -> Option<ScannedRow> {
    let position = Position(body.try_get_u64_le().ok()?);
    let key_len = usize::from(body.try_get_u16_le().ok()?);
    let key = (body.len() >= key_len).then(|| body.split_to(key_len))?;
    let at = (position, key);
    let reply_len = body.try_get_u32_le().ok()?;
    if reply_len == UNREADABLE {
        return Some(ScannedRow { at, reply: None });
    }
    let reply_len = usize::try_from(reply_len).ok()?;
    let reply = (body.len() >= reply_len).then(|| body.split_to(reply_len))?;
    Some(ScannedRow { at, reply: Some(reply) })
}

/// The next rows, as far as the pages at hand reach: of rows that stand alike, the best owner's that can be read.
/// Before a row that nobody can read it stops, and says so.
fn merge(walks: &mut [Walk], given: &mut Cursor) -> (Vec<RawRow>, Result<(), Failure>) {
    let mut merged = Vec::new();
    while walks.iter().all(|walk| walk.end || !walk.rows.is_empty()) {
        let Some(at) = walks.iter().filter_map(|walk| walk.rows.front()).map(|row| &row.at).min().cloned()
        else {
            break;
        };
        let mut reply = None;
        for walk in walks.iter_mut() {
            if walk.rows.front().is_some_and(|row| row.at == at) {
                reply = reply.or(walk.rows.pop_front().and_then(|row| row.reply));
            }
        }
        let Some(reply) = reply else {
            let which = format!("the row {}/{} can't be read", at.0, at.1.escape_ascii());
            return (merged, Err(Failure::because(FailureCode::Corrupt, which)));
        };
        merged.push((at.1.clone(), reply));
        *given = Some(at);
    }
    (merged, Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An owner's rows: position and key, reply or unreadable.
    fn walk(end: bool, rows: &[(u64, &'static str, Option<&'static str>)]) -> Walk {
        let row = |&(position, key, reply): &(u64, &'static str, Option<&'static str>)| ScannedRow {
            at: (Position(position), Bytes::from_static(key.as_bytes())),
            reply: reply.map(|reply| Bytes::from_static(reply.as_bytes())),
        };
        Walk {
            node: NodeId(0),
            slots: 1,
            rows: rows.iter().map(row).collect(),
            reached: None,
            end,
            partial: false,
        }
    }

    fn texts(rows: &[RawRow]) -> Vec<String> {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        rows.iter().map(|(key, reply)| format!("{}={}", text(key), text(reply))).collect()
    }

    #[test]
    fn rows_of_several_owners_come_once_in_ring_order_as_the_best_has_them() {
        let mut walks = [
            walk(true, &[(1, "b", Some("best")), (3, "a", Some("3"))]),
            walk(true, &[(1, "a", Some("1")), (1, "b", Some("other")), (2, "z", Some("2"))]),
        ];
        let mut given = None;
        let (rows, merged) = merge(&mut walks, &mut given);
        assert!(merged.is_ok());
        assert_eq!(texts(&rows), ["a=1", "b=best", "z=2", "a=3"]);
        assert_eq!(given, Some((Position(3), Bytes::from_static(b"a"))));
        assert!(merge(&mut walks, &mut given).0.is_empty(), "that was the end");
    }

    #[test]
    fn nothing_is_given_past_what_every_owner_has_shown() {
        let mut walks = [walk(false, &[(1, "a", Some("1"))]), walk(false, &[(5, "a", Some("5"))])];
        let (rows, merged) = merge(&mut walks, &mut None);
        assert!(merged.is_ok());
        assert_eq!(texts(&rows), ["a=1"], "the first owner may have more before the fifth");
    }

    #[test]
    fn a_row_that_one_owner_can_read_is_given_and_one_that_nobody_can_is_an_error() {
        let damaged = &[(1, "a", None), (2, "a", Some("2")), (3, "a", None), (4, "a", Some("4"))];
        let mut walks = [walk(true, damaged), walk(true, &[(1, "a", Some("1"))])];
        let mut given = None;
        let (rows, merged) = merge(&mut walks, &mut given);
        assert_eq!(texts(&rows), ["a=1", "a=2"]);
        assert_eq!(merged.unwrap_err().code, FailureCode::Corrupt);
        assert_eq!(given.unwrap().0, Position(2), "a walk over other owners goes on behind what was given");
    }

    #[test]
    fn a_page_is_read_as_it_was_written() {
        let mut out = BytesMut::from(&[0_u8][..]);
        put_row(&mut out, Position(9), b"last", None);
        put_row(&mut out, Position(7), b"k", Some(b"reply"));
        put_row(&mut out, Position(8), b"damaged", None);
        let page = parse(out.clone().freeze()).unwrap();
        assert_eq!((page.reached, page.end), ((Position(9), Bytes::from_static(b"last")), false));
        let replies: Vec<_> = page.rows.into_iter().map(|row| row.reply).collect();
        assert_eq!(replies, [Some(Bytes::from_static(b"reply")), None]);
        out.truncate(out.len() - 1);
        assert!(parse(out.freeze()).is_err());
    }
}
