//! Scans: a question asked of every item of a service, partition by partition, slice by slice.
//!
//! Each partition is answered by one owner that is up and not behind; when it fails, the next owner goes on after
//! the last row. Pages stream with back-pressure: a reader that stops, stops the scan. A partition that nobody can
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
use std::{sync::Arc, time::Duration};
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
        let mut cursor = Cursor::default();
        let mut owners = self.owners(partition).into_iter();
        let mut owner = owners.next();
        let mut last = Failure::because(FailureCode::NotServing, "none of its owners is up");
        loop {
            let Some((node, slots)) = owner else {
                let error = format!("partition {partition} can't be answered for: {last}");
                let _ = sender.send(Err(RequestError::NotServing(error))).await;
                return;
            };
            if sender.is_closed() {
                return;
            }
            let started = self.shared.env.now();
            let page = self.page(partition, node, slots, &cursor).await;
            let took = self.shared.env.now() - started;
            self.shared.metrics.services[self.service].scan.finished(page.is_ok(), took);
            match page {
                Ok(page) => {
                    cursor = page.cursor;
                    if !page.rows.is_empty() && sender.send(Ok(page.rows)).await.is_err() {
                        return;
                    }
                    if page.end {
                        return;
                    }
                }
                Err(failure) => {
                    last = failure;
                    owner = owners.next();
                }
            }
        }
    }

    /// Who can answer for a partition, best first: those that are not behind, in slot order, as the first slots hold
    /// the items of every n_val.
    fn owners(&self, partition: Partition) -> Vec<(NodeId, u16)> {
        let outlook = self.shared.outlook(self.shared.host.services[self.service].code);
        let preferences = self.topology.preference_list(partition);
        let list =
            preferences.strict(usize::from(self.topology.replicas()), Use::Read, |node| outlook.up(node));
        let mut owners: Vec<_> = list.entries().iter().map(|entry| (entry.node, entry.owned)).collect();
        owners.sort_by_key(|(node, _)| (outlook.behind(*node), outlook.demoted(*node)));
        owners
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
