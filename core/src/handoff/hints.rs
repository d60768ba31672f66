//! Hinted handoff: a hint names a slot; its item goes to whoever occupies that slot now (PROTOCOLS §5).
//!
//! A hint row is removed by comparison, after the item is durable on the slot's whole write set: only if the row
//! still has the value that was read before the item was. The copy of the item is another matter: a node that owns
//! no slot for it deletes it only under the one licence of PROTOCOLS §4, after every owner durably holds at least
//! that row. Walks run when a peer comes up, at start, and at an easy pace for as long as anything is left.

use super::{
    ledger::SlotOf,
    refill::slice::{self, Wanted},
};
use crate::{
    mutant::Mutant,
    node::{Outgoing, Outlook, Shared},
    quorum::{Quorum, ReadRule},
    reply::{Outcome, ReplyTo},
    request::read::{self, ReadSpec},
    ring::{Occupant, Partition},
    store::{
        RangeQuery, RowKey, StoreError, TableId,
        row::{Body, Row},
    },
    topology::Topology,
    vnode::{
        Digest,
        host::{HintRemoval, StrayRemoval, absorb_body, core_message},
        service::{hints_table, items_table},
    },
};
use bytes::Bytes;
use futures_util::StreamExt;
use rondel_proto::{
    frame::{Head, flags},
    id::{Position, RequestId},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// Between walks, while hints or stray copies are left.
const WALK_PERIOD: Duration = Duration::from_secs(5);
/// Between walks that look only for what was left without anybody noticing.
const IDLE_WALK_PERIOD: Duration = Duration::from_secs(60);
const SLICE_ROWS_MAX: usize = 256;
const SLICE_BYTES_MAX: usize = 1 << 20;
/// Deliveries under way at once.
const DELIVERIES_MAX: usize = 32;
/// How long one delivery may take.
const DELIVERY_DEADLINE: Duration = Duration::from_secs(10);

/// Walks for as long as the node runs.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        let left = match shared.topology() {
            Some(topology) => walk(&shared, &topology).await,
            None => true,
        };
        rest(&shared, left).await;
    }
}

/// Waits until a walk may be of use. A hint may be for a node that nobody takes for down, only for slow: it never comes
/// up, so what was written since the last walk is looked for too.
async fn rest(shared: &Arc<Shared>, left: bool) {
    let idle_until = shared.env.now() + if left { WALK_PERIOD } else { IDLE_WALK_PERIOD };
    loop {
        let woken = shared.env.timeout(WALK_PERIOD, shared.peer_up.notified()).await.is_ok();
        if woken || !shared.hints.is_empty() || shared.env.now() >= idle_until {
            return;
        }
    }
}

/// Counts what this node keeps for others, before it tells anybody. Tries again until the store answers.
pub(crate) async fn count(shared: &Arc<Shared>, topology: &Arc<Topology>) {
    loop {
        shared.hints.walk_begins();
        let mut left = BTreeMap::new();
        let mut counted = true;
        for service in 0..shared.host.services.len() {
            let walk = Walk { shared: shared.clone(), topology: topology.clone(), service };
            counted &= walk.count(&mut left).await.is_ok();
        }
        if counted {
            shared.hints.walk_ends(left);
            return;
        }
        shared.hints.walk_fails();
        shared.env.sleep(WALK_PERIOD).await;
    }
}

/// Delivers what can be delivered. Says whether anything is left.
pub(crate) async fn walk(shared: &Arc<Shared>, topology: &Arc<Topology>) -> bool {
    shared.hints.walk_begins();
    let mut left = BTreeMap::new();
    for service in 0..shared.host.services.len() {
        let walk = Walk { shared: shared.clone(), topology: topology.clone(), service };
        let walked = async {
            walk.hints(&mut left).await?;
            walk.strays().await
        };
        if let Err(error) = walked.await {
            // Of a node that has withdrawn it is known why.
            if shared.withdrawn().is_none() {
                tracing::warn!(%error, "the hints can't be read");
            }
            shared.hints.walk_fails();
            return true;
        }
    }
    shared.metrics.hints_kept.set(left.values().sum::<u64>() as f64);
    shared.hints.walk_ends(left);
    !shared.hints.is_empty()
}

struct Walk {
    shared: Arc<Shared>,
    topology: Arc<Topology>,
    service: usize,
}

/// A hint as it was read: where it stands, and its value.
struct Hint {
    row: RowKey,
    value: Bytes,
    slot: u8,
    item: RowKey,
}

/// A row as a delivery needs it.
struct Copy {
    n: u8,
    item: Bytes,
    digest: Digest,
}

impl Walk {
    async fn hints(&self, left: &mut BTreeMap<SlotOf, u64>) -> Result<(), StoreError> {
        let outlook = self.outlook();
        let table = hints_table(self.code());
        let mut after = None;
        loop {
            let slice = self.slice(table, (Position(0), Position(u64::MAX)), after.take()).await?;
            after = slice.rows.last().map(|(at, _)| (at.position, at.key.clone()));
            let hints: Vec<Hint> =
                slice.rows.into_iter().filter_map(|(row, value)| self.hint(row, value)).collect();
            let outcomes: Vec<(SlotOf, bool)> = futures_util::stream::iter(hints)
                .map(|hint| self.deliver(&outlook, hint))
                .buffered(DELIVERIES_MAX)
                .collect()
                .await;
            for (slot, _) in outcomes.into_iter().filter(|(_, delivered)| !delivered) {
                *left.entry(slot).or_default() += 1;
            }
            if slice.end {
                return Ok(());
            }
        }
    }

    async fn count(&self, left: &mut BTreeMap<SlotOf, u64>) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let everywhere = (Position(0), Position(u64::MAX));
            let slice = self.slice(hints_table(self.code()), everywhere, after.take()).await?;
            after = slice.rows.last().map(|(at, _)| (at.position, at.key.clone()));
            for hint in slice.rows.into_iter().filter_map(|(row, value)| self.hint(row, value)) {
                let partition = self.topology.partition(hint.item.position);
                *left.entry((partition.index(), hint.slot)).or_default() += 1;
            }
            if slice.end {
                return Ok(());
            }
        }
    }

    fn hint(&self, row: RowKey, value: Bytes) -> Option<Hint> {
        let (&slot, _) = row.key.split_first()?;
        let item =
            RowKey { table: items_table(self.code()), position: row.position, key: row.key.slice(1..) };
        Some(Hint { row, value, slot, item })
    }

    /// Brings one item to its slot. Says whether the hint is gone.
    async fn deliver(&self, outlook: &Outlook, hint: Hint) -> (SlotOf, bool) {
        let partition = self.topology.partition(hint.item.position);
        let slot_of = (partition.index(), hint.slot);
        let slots = &self.topology.slots(partition).slots;
        let Some(entry) = slots.get(usize::from(hint.slot)) else { return (slot_of, false) };
        let targets: Vec<Occupant> =
            entry.write_set().filter(|member| *member != self.topology.me()).collect();
        if !targets.iter().all(|target| outlook.up(target.node)) {
            return (slot_of, false);
        }
        // The hint was read before the item: whatever is hinted after this changes the hint row.
        let Some(copy) = self.copy(&hint.item, hint.slot).await else { return (slot_of, false) };
        for target in targets {
            if self.push(partition, target, &hint.item, &copy).await.is_none() {
                return (slot_of, false);
            }
        }
        (slot_of, self.remove_hint(partition, hint).await)
    }

    async fn remove_hint(&self, partition: Partition, hint: Hint) -> bool {
        let (reply, answer) = self.answer();
        self.shared.host.remove_hint(HintRemoval {
            service: self.service,
            partition,
            at: hint.row,
            expected: hint.value,
            deadline: self.shared.env.now() + DELIVERY_DEADLINE,
            reply,
        });
        let removed = matches!(answer.await, Ok(Ok(body)) if body.first() == Some(&1));
        if removed {
            self.shared.metrics.hints_delivered.increment(1);
        }
        removed
    }

    /// Looks for rows of partitions that this node owns no slot of, and deletes those that all owners hold.
    async fn strays(&self) -> Result<(), StoreError> {
        let foreign: Vec<Partition> = self.topology.placement().iter().map(|(at, _)| at).collect();
        for partition in foreign.into_iter().filter(|at| self.topology.my_slots(*at) == 0) {
            let (first, last) = (partition.first(), partition.last());
            let mut after = None;
            loop {
                let slice = self.slice(items_table(self.code()), (first, last), after.take()).await?;
                after = slice.rows.last().map(|(at, _)| (at.position, at.key.clone()));
                futures_util::stream::iter(slice.rows)
                    .for_each_concurrent(DELIVERIES_MAX, |(at, bytes)| self.retire(partition, at, bytes))
                    .await;
                if slice.end {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn retire(&self, partition: Partition, at: RowKey, bytes: Bytes) {
        let Some(copy) = self.decode(&at, &bytes) else {
            // It is filled as any row that can't be read, and retired by the next walk.
            if let Some(copy) = self.copy_of_others(&at, &bytes).await {
                self.push(partition, self.topology.me(), &at, &copy).await;
            }
            return;
        };
        let outlook = self.outlook();
        let slots = self.topology.slots(partition).slots.iter().take(usize::from(copy.n));
        let mut owners: Vec<Occupant> = slots.flat_map(|entry| entry.write_set()).collect();
        owners.sort_unstable();
        owners.dedup();
        let licensed = !self.shared.mutants.has(Mutant::DropStrayUnlicensed);
        if licensed {
            if !owners.iter().all(|owner| outlook.up(owner.node)) {
                return;
            }
            for owner in owners {
                if self.push(partition, owner, &at, &copy).await.is_none() {
                    return;
                }
            }
        }
        let (reply, answer) = self.answer();
        self.shared.host.remove_stray(StrayRemoval {
            service: self.service,
            partition,
            at,
            digest: copy.digest,
            // Without a replica there is no slot to keep a hint for.
            replicas: if licensed { self.topology.replicas() } else { 0 },
            deadline: self.shared.env.now() + DELIVERY_DEADLINE,
            reply,
        });
        if matches!(answer.await, Ok(Ok(body)) if body.first() == Some(&1)) {
            self.shared.metrics.strays_removed.increment(1);
        }
    }

    /// Sends an item to an occupant; the digest of what it then holds, durably.
    async fn push(&self, partition: Partition, to: Occupant, at: &RowKey, copy: &Copy) -> Option<Digest> {
        let body = absorb_body(copy.n, &copy.item, None);
        let slots = self.topology.slots(partition);
        let head = Head {
            service: self.code(),
            message: core_message::ABSORB,
            flags: flags::REPAIR,
            slots: slots.written_slots(to, usize::from(self.topology.replicas())),
            stand_in: 0,
            ver: slots.ver,
            position: at.position,
            request_id: RequestId::default(),
            deadline_us: 0,
        };
        let deadline = self.shared.env.now() + DELIVERY_DEADLINE;
        let (reply, answer) = self.answer();
        let outgoing = Outgoing { head, key: at.key.clone(), body, deadline };
        self.shared.send_bulk(to.node, self.service, outgoing, reply);
        let answer = self.shared.env.timeout_at(deadline, answer).await.ok()?.ok()?.ok()?;
        let digest = answer.first_chunk()?;
        Some(Digest(u64::from_le_bytes(*digest)))
    }

    async fn copy(&self, at: &RowKey, slot: u8) -> Option<Copy> {
        let store = self.shared.store(self.shared.host.services[self.service].storage);
        let bytes = match store.peek(at) {
            crate::store::Peek::Known(bytes) => bytes,
            crate::store::Peek::Unknown => store.read(vec![at.clone()]).await.ok()?.pop()?,
        };
        // A hint that is newer than its item may be left alone when the item is lost with a file.
        let Some(bytes) = bytes else { return self.copy_of_an_owner(at, slot).await };
        match self.decode(at, &bytes) {
            Some(copy) => Some(copy),
            None => self.copy_of_others(at, &bytes).await,
        }
    }

    /// What an owner holds of an item that a slot is to have, with its class.
    async fn copy_of_an_owner(&self, at: &RowKey, slot: u8) -> Option<Copy> {
        let (service, partition) = (self.service, self.topology.partition(at.position));
        let wanted = Wanted { service, partition, first: at.position, last: at.position, slot };
        let owners = self.topology.slots(partition).slots.iter().flat_map(|entry| entry.write_set());
        for of in owners.filter(|of| *of != self.topology.me()) {
            let Ok(slice) = slice::ask(&self.shared, &self.topology, of, wanted, None).await else {
                continue;
            };
            if let Some(found) = slice.copies.into_iter().find(|copy| copy.key == at.key) {
                let (n, item) = (found.n, found.item);
                let digest = (self.shared.host.services[service].digest)(&at.key, &item).ok()?;
                return Some(Copy { n, item, digest });
            }
        }
        None
    }

    /// What other replicas hold of an item that can't be read here: its hint would stand for ever for want of it. The
    /// read brings this node's own row up to it as well, if it owns one.
    async fn copy_of_others(&self, at: &RowKey, unreadable: &Bytes) -> Option<Copy> {
        let replicas = self.topology.replicas();
        // Rather what a damaged row says of its class than a copy on owners that the key does not have.
        let said = Row::decode_sound(unreadable).ok().map(|row| row.n_val);
        let n = said.filter(|n| (1..=replicas).contains(n)).unwrap_or(replicas);
        let spec = ReadSpec {
            service: self.service,
            at: at.clone(),
            quorum: Quorum::majority(n),
            rule: ReadRule { notfound_ok: true, basic_quorum: false },
            deadline: self.shared.env.now() + DELIVERY_DEADLINE,
        };
        let item = read::read(&self.shared, &self.topology, spec).await.ok()?.item?;
        let digest = (self.shared.host.services[self.service].digest)(&at.key, &item).ok()?;
        Some(Copy { n, item, digest })
    }

    fn decode(&self, at: &RowKey, bytes: &Bytes) -> Option<Copy> {
        match Row::decode(at, bytes) {
            Ok(Row { n_val, body: Body::Item(item), .. }) => {
                let digest = (self.shared.host.services[self.service].digest)(&at.key, &item).ok()?;
                Some(Copy { n: n_val, item, digest })
            }
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(row = ?at, %error, "a row that this node keeps for another can't be read");
                None
            }
        }
    }

    async fn slice(
        &self,
        table: TableId,
        (first, last): (Position, Position),
        after: Option<(Position, Bytes)>,
    ) -> Result<crate::store::Slice, StoreError> {
        let store = self.shared.store(self.shared.host.services[self.service].storage);
        let query =
            RangeQuery { table, first, last, after, rows_max: SLICE_ROWS_MAX, bytes_max: SLICE_BYTES_MAX };
        store.range(query).await
    }

    fn answer(&self) -> (ReplyTo, oneshot::Receiver<Outcome>) {
        let (sender, answer) = oneshot::channel();
        (ReplyTo::new(|outcome| drop(sender.send(outcome))), answer)
    }

    fn outlook(&self) -> Outlook {
        self.shared.outlook(self.code())
    }

    fn code(&self) -> u32 {
        self.shared.host.services[self.service].code
    }
}

#[cfg(test)]
mod tests;
