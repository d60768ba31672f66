//! Scans: a question asked of every item of a service, partition by partition, slice by slice.
//!
//! Each partition is answered by one owner that lacks nothing; when it fails, the next owner goes on after the last
//! row. While a member is down or hints are under way, all its owners that are up answer, and a row is given once, as
//! the first of them has it. Pages stream with back-pressure: a reader that stops, stops the scan. A partition that nobody can
//! answer for is an error in the stream, never a silent gap.

use super::options::RequestError;
use crate::{
    node::{Outgoing, Shared},
    reply::{Failure, FailureCode, Outcome, ReplyTo},
    ring::{Partition, Use},
    store::{
        RangeQuery,
        row::{Body, Row},
    },
    topology::Topology,
    vnode::{host::core_message, service::items_table},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use rondel_proto::{
    frame::Head,
    id::{NodeId, Position, RequestId},
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
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

/// Where a scan of a partition has got to.
#[derive(Debug, Clone, Default)]
struct Cursor(Option<(Position, Bytes)>);

/// Who answers for a partition.
struct Cover {
    owners: Vec<(NodeId, u16)>,
    /// The others are asked only if the first one fails.
    one_is_enough: bool,
}

/// How a walk over one owner's rows ended.
enum Walked {
    ToTheEnd,
    ReaderGone,
}

/// The keys of a partition that have been given already, where several owners are asked.
struct Met {
    keys: BTreeSet<Bytes>,
    several: bool,
}

impl Met {
    fn new_ones(&mut self, mut rows: Vec<RawRow>) -> Vec<RawRow> {
        if self.several {
            // Copies: a key of a page would keep the page.
            rows.retain(|(key, _)| self.keys.insert(Bytes::copy_from_slice(key)));
        }
        rows
    }
}

struct Page {
    rows: Vec<RawRow>,
    cursor: Cursor,
    end: bool,
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
        let mut met = Met { keys: BTreeSet::new(), several: !one_is_enough };
        let mut last = Failure::because(FailureCode::NotServing, "none of its owners is up");
        let mut answered = false;
        let mut cursor = Cursor::default();
        for owner in owners {
            if !one_is_enough {
                cursor = Cursor::default();
            }
            match self.walk(partition, owner, &mut cursor, &mut met, &sender).await {
                Ok(Walked::ReaderGone) => return,
                Ok(Walked::ToTheEnd) if one_is_enough => return,
                Ok(Walked::ToTheEnd) => answered = true,
                Err(failure) => last = failure,
            }
        }
        if !answered {
            let error = format!("partition {partition} can't be answered for: {last}");
            let _ = sender.send(Err(RequestError::NotServing(error))).await;
        }
    }

    /// Goes through the rows that one owner has, from the cursor on.
    async fn walk(
        &self,
        partition: Partition,
        (node, slots): (NodeId, u16),
        cursor: &mut Cursor,
        met: &mut Met,
        sender: &mpsc::Sender<Result<Vec<RawRow>, RequestError>>,
    ) -> Result<Walked, Failure> {
        loop {
            if sender.is_closed() {
                return Ok(Walked::ReaderGone);
            }
            let started = self.shared.env.now();
            let page = self.page(partition, node, slots, cursor).await;
            let took = self.shared.env.now() - started;
            self.shared.metrics.services[self.service].scan.finished(page.is_ok(), took);
            let Page { rows, cursor: reached, end } = page?;
            *cursor = reached;
            let rows = met.new_ones(rows);
            if !rows.is_empty() && sender.send(Ok(rows)).await.is_err() {
                return Ok(Walked::ReaderGone);
            }
            if end {
                return Ok(Walked::ToTheEnd);
            }
        }
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
        owners.sort_by_key(|(node, _)| (outlook.behind(*node), outlook.demoted(*node)));
        let everybody_up = self.topology.members.keys().all(|node| outlook.up(*node));
        let own_hints = self.shared.hints.by_node(&self.topology);
        let lacks =
            |node: NodeId| outlook.behind(node) || outlook.hinted(node) || own_hints.contains_key(&node);
        let one_is_enough = everybody_up && owners.first().is_some_and(|(node, _)| !lacks(*node));
        Cover { owners, one_is_enough }
    }

    async fn page(
        &self,
        partition: Partition,
        node: NodeId,
        slots: u16,
        cursor: &Cursor,
    ) -> Result<Page, Failure> {
        let mut body = BytesMut::with_capacity(9 + self.query.len());
        let after = cursor.0.as_ref();
        body.put_u8(u8::from(after.is_some()));
        body.put_u64_le(after.map_or(0, |(position, _)| position.0));
        body.put_u16_le(self.message);
        body.put_slice(&self.query);
        let head = Head {
            service: self.shared.host.services[self.service].code,
            message: core_message::SCAN,
            flags: 0,
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
    let mut out = BytesMut::with_capacity(4_096);
    out.put_u8(u8::from(slice.end));
    match slice.rows.last() {
        Some((at, _)) => put_row(&mut out, at.position, &at.key, &[]),
        None => put_row(&mut out, partition.last(), &[], &[]),
    }
    for (at, bytes) in &slice.rows {
        let Ok(Row { body: Body::Item(item), .. }) = Row::decode(at, bytes) else {
            shared.metrics.lane.unreadable_rows.increment(1);
            continue;
        };
        if let Some(reply) = scan(&body, at, &item)? {
            put_row(&mut out, at.position, &at.key, &reply);
        }
    }
    Ok(out.freeze())
}

fn put_row(out: &mut BytesMut, position: Position, key: &[u8], reply: &[u8]) {
    out.put_u64_le(position.0);
    out.put_u16_le(u16::try_from(key.len()).expect("keys are bounded where they enter"));
    out.put_slice(key);
    out.put_u32_le(u32::try_from(reply.len()).expect("replies are bounded by their frame"));
    out.put_slice(reply);
}

fn parse(mut body: Bytes) -> Result<Page, Failure> {
    let bad = || Failure::because(FailureCode::BadRequest, "a page of a scan that does not decode");
    let end = body.try_get_u8().map_err(|_| bad())? != 0;
    let (position, key, _) = take_row(&mut body).ok_or_else(bad)?;
    let mut rows = Vec::new();
    while !body.is_empty() {
        let (_, key, reply) = take_row(&mut body).ok_or_else(bad)?;
        rows.push((key, reply));
    }
    Ok(Page { rows, cursor: Cursor(Some((position, key))), end })
}

fn take_row(body: &mut Bytes) -> Option<(Position, Bytes, Bytes)> {
    let position = Position(body.try_get_u64_le().ok()?);
    let key_len = usize::from(body.try_get_u16_le().ok()?);
    let key = (body.len() >= key_len).then(|| body.split_to(key_len))?;
    let reply_len = usize::try_from(body.try_get_u32_le().ok()?).ok()?;
    let reply = (body.len() >= reply_len).then(|| body.split_to(reply_len))?;
    Some((position, key, reply))
}
