//! Refill: what this node's store has lost with a file comes back from the other owners.
//!
//! For each gap ([`Gap`]) every other owner of every slot that this node shares is walked once, begun after the loss was
//! known and while nobody keeps hints for that owner, and what it holds is absorbed here, durably. What was acknowledged
//! on more stores than were lost is on one of those, so then the gap lacks nothing, and is noted as filled. An owner that
//! is down is waited for. Where there is no other owner, the gap stays: nobody knows what was there.
//!
//! Rows that this node kept for others' slots are lost as with a lost disk (PROTOCOLS, fault model).
//!
//! Single rows that the scrubber has found damaged come back in the same way.

pub(crate) mod slice;

use crate::{
    node::{Outgoing, Shared},
    reply::{Failure, FailureCode, ReplyTo},
    ring::{Occupant, Partition},
    store::{Admission, Gap, RowKey, row::Row},
    topology::Topology,
    vnode::{
        Storage,
        host::{absorb_body, core_message},
        service::{Service, items_table},
    },
};
use futures_util::{StreamExt, TryStreamExt, stream};
use rondel_proto::{
    frame::{Head, flags},
    id::{Epoch, Position, RequestId},
};
use slice::{Copy, Slice, Wanted};
use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::sync::oneshot;

/// How often it is looked for gaps, and whether an owner that was missing is there.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Gaps that are noted as filled at once.
const NOTED_AT_ONCE: usize = 16;
/// Items that are being absorbed at once.
const ABSORBED_AT_ONCE: usize = 32;
/// How long that may take for one.
const ABSORB_DEADLINE: Duration = Duration::from_secs(10);
/// Damaged rows that wait for an owner that is down; further ones are found again.
const DAMAGED_MAX: usize = 4096;
/// Damaged rows that are looked after before it is looked for gaps again.
const REPAIRED_AT_ONCE: usize = 64;
/// How long to wait for a store that is busy with other writes.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// Fills gaps for as long as the node runs.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut refill = Refill { shared, walked: BTreeSet::new(), since: Epoch(0), damaged: VecDeque::new() };
    loop {
        if let Some(topology) = refill.shared.topology() {
            if refill.shared.durable.has_gaps() {
                refill.pass(&topology).await;
            }
            refill.repair(&topology).await;
        }
        refill.shared.env.sleep(LOOK_EVERY).await;
    }
}

struct Refill {
    shared: Arc<Shared>,
    /// Whom nothing has to be asked of any more: bounded by the gaps and their owners.
    walked: BTreeSet<(Gap, Position, Occupant)>,
    /// The decided state in which they owned what they were asked for.
    since: Epoch,
    /// Rows that are damaged on disk.
    damaged: VecDeque<RowKey>,
}

/// What a gap has in common with a partition that this node owns a slot of.
struct Piece {
    partition: Partition,
    first: Position,
    last: Position,
    own_slots: u16,
    others: Vec<Occupant>,
}

impl Refill {
    /// Goes through all gaps once, as far as their owners are there.
    async fn pass(&mut self, topology: &Arc<Topology>) {
        if self.since != topology.epoch {
            self.walked.clear();
            self.since = topology.epoch;
        }
        let mut filled = Vec::new();
        for gap in self.shared.durable.gaps() {
            if self.fill(topology, gap).await {
                filled.push(gap);
            }
            if filled.len() >= NOTED_AT_ONCE {
                self.note(&mut filled).await;
            }
        }
        self.note(&mut filled).await;
        if !self.shared.durable.has_gaps() {
            tracing::info!("what was lost with a file of rows has come back from the other replicas");
        }
    }

    async fn note(&mut self, filled: &mut Vec<Gap>) {
        if filled.is_empty() {
            return;
        }
        // A store that ends says so elsewhere; whatever it has not noted is filled again.
        let _ = self.shared.durable.fill(filled.clone()).await;
        self.walked.retain(|(gap, _, _)| !filled.contains(gap));
        filled.clear();
        self.shared.news.notify_one();
    }

    /// Whether nothing is missing in a gap any more.
    async fn fill(&mut self, topology: &Arc<Topology>, gap: Gap) -> bool {
        let mut filled = true;
        for piece in pieces(topology, gap) {
            filled &= !piece.others.is_empty();
            for of in piece.others.iter().copied() {
                let evidence = (gap, piece.first, of);
                if self.walked.contains(&evidence) {
                    continue;
                }
                match self.walk_all(topology, &piece, of).await {
                    Ok(()) => drop(self.walked.insert(evidence)),
                    Err(failure) => {
                        filled = false;
                        tracing::debug!(node = %of.node, %failure, "can't get from there what was lost here; trying again");
                    }
                }
            }
        }
        filled
    }

    /// Asks all other owners for rows that are damaged here.
    async fn repair(&mut self, topology: &Arc<Topology>) {
        let room = DAMAGED_MAX.saturating_sub(self.damaged.len());
        self.damaged.extend(self.shared.durable.found_damaged().into_iter().take(room));
        for _ in 0..self.damaged.len().min(REPAIRED_AT_ONCE) {
            let Some(at) = self.damaged.pop_front() else { return };
            if self.rewrite(topology, &at).await {
                self.shared.durable.note_repaired();
            } else if self.repair_row(topology, &at).await.is_err() {
                self.damaged.push_back(at);
            } else if self.is_sound(&at).await {
                self.shared.durable.note_repaired();
            }
        }
    }

    /// Writes a row anew of which memory has a sound copy: as long as it does, no read sees the damage.
    async fn rewrite(&self, topology: &Arc<Topology>, at: &RowKey) -> bool {
        let Some(service) = self.service_of(at) else { return self.is_sound(at).await };
        let (sender, answer) = oneshot::channel();
        let reply = ReplyTo::new(|outcome| drop(sender.send(outcome)));
        let deadline = self.shared.env.now() + ABSORB_DEADLINE;
        self.shared.host.rewrite(service, topology.partition(at.position), at.clone(), deadline, reply);
        matches!(answer.await, Ok(Ok(written)) if written.first() == Some(&1))
    }

    /// Whose item stands there. Other tables hold no items; what this node keeps for others is filled as it is handed
    /// over.
    fn service_of(&self, at: &RowKey) -> Option<usize> {
        let of =
            |service: &Service| service.storage == Storage::Durable && items_table(service.code) == at.table;
        self.shared.host.services.iter().position(of)
    }

    /// Gets what the other owners hold at the position of a row.
    async fn repair_row(&self, topology: &Arc<Topology>, at: &RowKey) -> Result<(), Failure> {
        let Some(service) = self.service_of(at) else { return Ok(()) };
        let Some(piece) = piece(topology, at.position, at.position) else { return Ok(()) };
        for of in &piece.others {
            self.walk(topology, &piece, *of, service).await?;
        }
        Ok(())
    }

    async fn is_sound(&self, at: &RowKey) -> bool {
        let read = self.shared.durable.read(vec![at.clone()]).await;
        let row = read.ok().and_then(|mut rows| rows.pop().flatten());
        row.is_some_and(|row| Row::is_sound(at, &row))
    }

    /// Brings here what an owner holds of a piece.
    async fn walk_all(&self, topology: &Topology, piece: &Piece, of: Occupant) -> Result<(), Failure> {
        for (service, kind) in self.shared.host.services.iter().enumerate() {
            if kind.storage == Storage::Durable {
                self.walk(topology, piece, of, service).await?;
            }
        }
        Ok(())
    }

    async fn walk(
        &self,
        topology: &Topology,
        piece: &Piece,
        of: Occupant,
        service: usize,
    ) -> Result<(), Failure> {
        let outlook = self.shared.outlook(self.shared.host.services[service].code);
        if !outlook.up(of.node) || outlook.owed(of.node) {
            return Err(Failure::because(
                FailureCode::NotReady,
                "it is down, or hints for it wait elsewhere",
            ));
        }
        let Piece { partition, first, last, own_slots, .. } = *piece;
        let slot = u8::try_from(own_slots.trailing_zeros()).unwrap_or(u8::MAX);
        walk(&self.shared, topology, of, Wanted { service, partition, first, last, slot }, own_slots).await
    }
}

/// Absorbs here what an owner holds of a range of positions.
async fn walk(
    shared: &Arc<Shared>,
    topology: &Topology,
    of: Occupant,
    wanted: Wanted,
    own_slots: u16,
) -> Result<(), Failure> {
    let mut after = None;
    loop {
        while shared.durable.admission() != Admission::Open {
            shared.env.sleep(BUSY_PAUSE).await;
        }
        let Slice { copies, next } = slice::ask(shared, topology, of, wanted, after.as_ref()).await?;
        let bytes: usize = copies.iter().map(|copy| copy.key.len() + copy.item.len()).sum();
        let rows = copies.len() as u64;
        stream::iter(copies)
            .map(Ok)
            .try_for_each_concurrent(ABSORBED_AT_ONCE, |copy| {
                absorb(shared, topology, wanted, own_slots, copy)
            })
            .await?;
        shared.metrics.refilled_rows.increment(rows);
        shared.metrics.refilled_bytes.increment(bytes as u64);
        let pace = Duration::from_secs_f64(bytes as f64 / shared.refill_bytes_per_s.max(1) as f64);
        shared.env.sleep(pace).await;
        after = next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// Merges a copy into what is here; done when that is durable.
async fn absorb(
    shared: &Arc<Shared>,
    topology: &Topology,
    wanted: Wanted,
    own_slots: u16,
    copy: Copy,
) -> Result<(), Failure> {
    let Copy { position, key, n, item } = copy;
    let head = Head {
        service: shared.host.services[wanted.service].code,
        message: core_message::ABSORB,
        flags: flags::REPAIR,
        slots: own_slots,
        stand_in: 0,
        ver: topology.ver(wanted.partition),
        position,
        request_id: RequestId::default(),
        deadline_us: 0,
    };
    let deadline = shared.env.now() + ABSORB_DEADLINE;
    let outgoing = Outgoing { head, key, body: absorb_body(n, &item, None), deadline };
    let (sender, answer) = oneshot::channel();
    let reply = ReplyTo::new(|outcome| drop(sender.send(outcome)));
    shared.send_bulk(shared.me, wanted.service, outgoing, reply);
    answer.await.unwrap_or_else(|_| Err(Failure::new(FailureCode::Dropped))).map(drop)
}

/// What a gap has in common with the partitions that this node owns slots of.
fn pieces(topology: &Topology, gap: Gap) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut next = Some(gap.first);
    while let Some(first) = next.filter(|first| *first <= gap.last) {
        let last = topology.partition(first).last().min(gap.last);
        next = last.0.checked_add(1).map(Position);
        pieces.extend(piece(topology, first, last));
    }
    pieces
}

/// A range of positions of one partition, if this node owns a slot of it.
fn piece(topology: &Topology, first: Position, last: Position) -> Option<Piece> {
    let (partition, me) = (topology.partition(first), topology.me());
    let slots = topology.slots(partition);
    let own_slots = slots.written_slots(me, usize::from(topology.replicas()));
    let mut others: Vec<Occupant> =
        slots.slots.iter().flat_map(|entry| entry.write_set()).filter(|of| *of != me).collect();
    others.sort_unstable();
    others.dedup();
    (own_slots != 0).then_some(Piece { partition, first, last, own_slots, others })
}
