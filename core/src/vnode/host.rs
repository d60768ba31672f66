//! The host of a node (Riak's vnode master): finds the lane of a request, checks that the request is for us, and
//! puts it into the lane's mailbox. It never waits and holds no row.

use super::{
    ctx::Content,
    fetch,
    job::{Job, Op},
    lane::{Lane, LaneContext},
    service::{Service, items_table},
    state::Digest,
};
use crate::{
    mutant::Mutant,
    reply::{Failure, FailureCode, ReplyTo},
    ring::Partition,
    store::{Peek, RowKey},
    topology::Topology,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use rondel_proto::{
    frame::{Head, flags},
    id::{Actor, Incarnation, Position},
};
use rustc_hash::FxHashMap;
use std::{sync::Arc, time::Instant};
use tokio::sync::mpsc;

/// Jobs that wait in one lane's mailbox; more are refused as `Overloaded`.
const MAILBOX_JOBS_MAX: usize = 8_192;

/// Messages of core, the same for every service. They carry items as they are stored.
pub(crate) mod core_message {
    /// Merge an item in: body = n_val class u8, then the item's archive. Reply = the row's digest, u64.
    pub(crate) const ABSORB: u16 = 0xFF00;
    /// The item of a key, or its digest (flag). Reply: 0 | 1 item | 2 digest u64.
    pub(crate) const FETCH: u16 = 0xFF01;
    /// A slice of a scan. See `request::scan`.
    pub(crate) const SCAN: u16 = 0xFF02;
    /// A slice of the items that an owner holds. See `handoff::refill::slice`.
    pub(crate) const RANGE: u16 = 0xFF03;

    pub(crate) const ALL: [(u16, &str); 4] =
        [(ABSORB, "absorb"), (FETCH, "fetch"), (SCAN, "scan"), (RANGE, "range")];
}

pub(crate) struct Host {
    pub(crate) services: Arc<Vec<Service>>,
    by_code: FxHashMap<u32, usize>,
    lanes: Vec<mpsc::Sender<Job>>,
    context: Arc<LaneContext>,
}

impl Host {
    /// Starts the lanes.
    ///
    /// # Panics
    /// If two services have the same name or code: a mistake in the application, shown by its first start.
    pub(crate) fn start(context: LaneContext, lanes: usize) -> Self {
        let mut by_code = FxHashMap::default();
        for (index, service) in context.services.iter().enumerate() {
            if let Some(other) = by_code.insert(service.code, index) {
                let other: &Service = &context.services[other];
                panic!("services `{}` and `{}` have the same code: rename one", service.name, other.name);
            }
        }
        let context = Arc::new(context);
        let lanes = (0..lanes.max(1))
            .map(|index| {
                let (sender, receiver) = mpsc::channel(MAILBOX_JOBS_MAX);
                let lane = Lane::new(context.clone(), receiver);
                context.env.spawn_thread(format!("rondel-lane-{index}"), lane.run());
                sender
            })
            .collect();
        Self { services: context.services.clone(), by_code, lanes, context }
    }

    pub(crate) fn service(&self, code: u32) -> Option<usize> {
        self.by_code.get(&code).copied()
    }

    /// The row of a key of a service.
    pub(crate) fn row(&self, service: usize, position: Position, key: Bytes) -> RowKey {
        RowKey { table: items_table(self.services[service].code), position, key }
    }

    /// Puts a job into its lane's mailbox, or answers `Overloaded` at once.
    pub(crate) fn submit(&self, job: Job) {
        let lane = (job.partition.index() as usize).wrapping_add(job.service) % self.lanes.len();
        if let Err(error) = self.lanes[lane].try_send(job) {
            let (code, job) = match error {
                mpsc::error::TrySendError::Full(job) => (FailureCode::Overloaded, job),
                mpsc::error::TrySendError::Closed(job) => (FailureCode::NotServing, job),
            };
            self.context.metrics.refused_jobs.increment(1);
            job.fail(Failure::new(code));
        }
    }

    /// Takes a request of another node for a row; scans and coordinated writes are not for here.
    pub(crate) fn request(&self, topology: &Topology, service: usize, request: RowRequest) {
        let RowRequest { head, key, mut body, deadline, reply } = request;
        if (self.services[service].position)(&key) != head.position {
            reply.send(Err(Failure::because(
                FailureCode::BadRequest,
                "the key does not stand where the request says",
            )));
            return;
        }
        let partition = topology.partition(head.position);
        if let Err(failure) = fence(topology, partition, &head) {
            reply.send(Err(failure));
            return;
        }
        let (op, n) = match head.message {
            core_message::ABSORB => {
                if body.is_empty() {
                    reply.fail(FailureCode::BadRequest);
                    return;
                }
                let (n, mine) = take_absorb_head(&mut body, self.context.mutants.has(Mutant::AbsorbMine));
                let (stand_in, lazy) = (head.stand_in, head.flags & flags::LAZY != 0);
                (Op::Absorb { item: body, stand_in, mine, lazy }, n)
            }
            core_message::FETCH => (Op::Fetch { digest: head.flags & flags::DIGEST != 0 }, 0),
            message => (Op::Message { message, body }, topology.replicas()),
        };
        let at = self.row(service, head.position, key);
        if let Op::Fetch { digest } = op {
            let service = &self.services[service];
            let store = self.context.store(service.storage);
            let lacked = store.lacks(at.position);
            if let Peek::Known(row) = store.peek(&at) {
                let mut content = Content::of(&at, row.as_ref(), true);
                // Its lane may be filling the gap at this very moment, or the store be losing the file.
                let lacks = lacked || store.lacks(at.position);
                let in_gap = lacks && !self.context.mutants.has(Mutant::GapAsEmpty);
                if in_gap {
                    content = content.where_rows_are_lacking();
                }
                reply.send(fetch::answer(service, &at, &content, digest, in_gap));
                return;
            }
        }
        self.submit(Job { service, partition, at, op, request_id: head.request_id, n, deadline, reply });
    }

    /// Writes a row anew as it is, if it can be read, whatever the disk has of it.
    pub(crate) fn rewrite(
        &self,
        service: usize,
        partition: Partition,
        at: RowKey,
        deadline: Instant,
        reply: ReplyTo,
    ) {
        let (op, request_id) = (Op::Rewrite, Default::default());
        self.submit(Job { service, partition, at, op, request_id, n: 0, deadline, reply });
    }

    /// Removes a hint if it is still the one that was delivered.
    pub(crate) fn remove_hint(&self, removal: HintRemoval) {
        let HintRemoval { service, partition, at, expected, deadline, reply } = removal;
        let op = Op::RemoveHint { expected };
        self.submit(Job {
            service,
            partition,
            at,
            op,
            request_id: Default::default(),
            n: 0,
            deadline,
            reply,
        });
    }

    /// Removes a row that this node holds without owning a slot for it, under the licence of PROTOCOLS §4.
    pub(crate) fn remove_stray(&self, removal: StrayRemoval) {
        let StrayRemoval { service, partition, at, digest, replicas, deadline, reply } = removal;
        let hints = super::job::hint_rows(&self.services[service], &at, replicas);
        let op = Op::RemoveStray { digest, hints };
        self.submit(Job {
            service,
            partition,
            at,
            op,
            request_id: Default::default(),
            n: 0,
            deadline,
            reply,
        });
    }

    /// Jobs that wait in the lanes' mailboxes.
    pub(crate) fn queued(&self) -> usize {
        self.lanes.iter().map(|lane| lane.max_capacity() - lane.capacity()).sum()
    }
}

/// The body of [`core_message::ABSORB`]. An actor goes in only to break the rule that says that it must not.
pub(crate) fn absorb_body(n: u8, item: &[u8], mine: Option<Actor>) -> Bytes {
    let mut body = BytesMut::with_capacity(17 + item.len());
    match mine {
        None => body.put_u8(n),
        Some(actor) => {
            body.put_u8(n | WITH_MINE);
            body.put_u64_le(actor.incarnation.0);
            body.put_u64_le(actor.birth);
        }
    }
    body.put_slice(item);
    body.freeze()
}

const WITH_MINE: u8 = 0x80;

fn take_absorb_head(body: &mut Bytes, absorb_mine: bool) -> (u8, Option<Actor>) {
    let n = body.get_u8();
    if !absorb_mine || n & WITH_MINE == 0 || body.len() < 16 {
        return (n, None);
    }
    let (incarnation, birth) = (Incarnation(body.get_u64_le()), body.get_u64_le());
    (n & !WITH_MINE, Some(Actor { incarnation, birth }))
}

/// A request for one row, as it came.
pub(crate) struct RowRequest {
    pub(crate) head: Head,
    pub(crate) key: Bytes,
    pub(crate) body: Bytes,
    pub(crate) deadline: Instant,
    pub(crate) reply: ReplyTo,
}

pub(crate) struct HintRemoval {
    pub(crate) service: usize,
    pub(crate) partition: Partition,
    pub(crate) at: RowKey,
    pub(crate) expected: Bytes,
    pub(crate) deadline: Instant,
    pub(crate) reply: ReplyTo,
}

pub(crate) struct StrayRemoval {
    pub(crate) service: usize,
    pub(crate) partition: Partition,
    pub(crate) at: RowKey,
    pub(crate) digest: Digest,
    pub(crate) replicas: u8,
    pub(crate) deadline: Instant,
    pub(crate) reply: ReplyTo,
}

/// Owners act only at the partition's `ver`, on slots that are theirs; stand-ins take any (PROTOCOLS §4).
pub(crate) fn fence(topology: &Topology, partition: Partition, head: &Head) -> Result<(), Failure> {
    if head.slots == 0 {
        return Ok(());
    }
    let ver = topology.ver(partition);
    let with_ver = |code| Failure { code, detail: Bytes::copy_from_slice(&ver.0.to_le_bytes()) };
    if head.ver < ver {
        return Err(with_ver(FailureCode::Stale));
    }
    if head.ver > ver {
        return Err(with_ver(FailureCode::NotReady));
    }
    if head.slots & !topology.my_slots(partition) != 0 {
        return Err(with_ver(FailureCode::NotOwner));
    }
    Ok(())
}
