//! Lanes: a few tasks (threads in production), each of which owns many vnodes and drains its mailbox in batches.
//!
//! All writes of a batch go to the store as one unit, and the replies of a batch leave when it is durable; the lane
//! meanwhile goes on with the next. Who asked for it is told before that, once the store has the batch in memory. A lane never waits for a disk: a job whose row only the disk knows is parked
//! until the readers have fetched it, and jobs on other keys overtake it. Jobs on one key keep their order.
//!
//! Invariant: exactly one lane touches the rows of a partition of a service, so a row that was read here is the row
//! until this lane writes it.

use super::{
    ctx::{Absorbed, Call, Content, DotSource, RowCell},
    fetch,
    handle::Storage,
    job::{Executed, Job, Op},
    parked::{Fetched, Parked},
    service::{Seat, Service, hints_table},
    state::Digest,
    window::Window,
};
use crate::{
    env::{BoxFuture, Env},
    handoff::HintLedger,
    mutant::{Mutant, Mutants},
    reply::{Failure, FailureCode, Outcome, ReplyTo},
    ring::Partition,
    store::{
        Lsn, Peek, Progress, RowKey, Store, StoreError, Write,
        row::{Body, Row, RowTag},
    },
};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, stream::FuturesUnordered};
use rondel_proto::id::{Actor, NodeId};
use rustc_hash::FxHashMap;
use std::{
    collections::{BTreeMap, VecDeque},
    panic::AssertUnwindSafe,
    sync::Arc,
};
use tokio::sync::{mpsc, watch};

/// Jobs that a lane takes up at once.
const BATCH_JOBS_MAX: usize = 256;

/// What all lanes of a node share.
pub(crate) struct LaneContext {
    pub(crate) env: Env,
    pub(crate) node: NodeId,
    pub(crate) services: Arc<Vec<Service>>,
    pub(crate) dots: Arc<DotSource>,
    pub(crate) durable: Arc<dyn Store>,
    pub(crate) memory: Arc<dyn Store>,
    pub(crate) metrics: crate::metrics::LaneMetrics,
    pub(crate) hints: Arc<HintLedger>,
    pub(crate) mutants: Mutants,
}

impl LaneContext {
    /// Whether the store may lack rows there. What is written to a row passes its lane, so there it is enough to ask
    /// after the row was looked up.
    fn is_gap(&self, service: &Service, at: &RowKey) -> bool {
        self.store(service.storage).lacks(at.position) && !self.mutants.has(Mutant::GapAsEmpty)
    }

    pub(crate) fn store(&self, storage: Storage) -> &Arc<dyn Store> {
        match storage {
            Storage::Durable => &self.durable,
            Storage::Memory => &self.memory,
        }
    }
}

pub(crate) struct Lane {
    context: Arc<LaneContext>,
    jobs: mpsc::Receiver<Job>,
    seats: BTreeMap<(usize, u16), Box<dyn Seat>>,
    durable: Side,
    memory: Side,
    window: Window,
    /// The actors of rows that are gone, kept only by a mutant.
    ghosts: FxHashMap<RowKey, Actor>,
}

/// One store as a lane uses it.
struct Side {
    store: Arc<dyn Store>,
    progress: watch::Receiver<Progress>,
    /// Writes of the batch at hand, and what they make of their rows.
    batch: Vec<Write>,
    staged: Fetched,
    /// Replies of the batch at hand, and of batches that are not yet durable.
    answers: Vec<(ReplyTo, Outcome)>,
    /// Somebody waits for the batch at hand to be durable.
    waited: bool,
    waiting: VecDeque<(Lsn, Vec<(ReplyTo, Outcome)>)>,
    last: Lsn,
    /// Jobs whose rows are being fetched.
    parked: Parked,
    loads: FuturesUnordered<BoxFuture<Loaded>>,
}

struct Loaded {
    rows: Vec<RowKey>,
    values: Result<Vec<Option<Bytes>>, StoreError>,
}

enum Event {
    Jobs,
    Progress(Storage),
    Loaded(Storage, Loaded),
    Closed,
}

impl Lane {
    pub(crate) fn new(context: Arc<LaneContext>, jobs: mpsc::Receiver<Job>) -> Self {
        let (durable, memory) = (Side::new(&context.durable), Side::new(&context.memory));
        Self {
            context,
            jobs,
            seats: BTreeMap::new(),
            durable,
            memory,
            window: Window::default(),
            ghosts: FxHashMap::default(),
        }
    }

    /// Runs until the mailbox is closed and everything taken from it is durable or has failed.
    pub(crate) async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_JOBS_MAX);
        loop {
            match self.next(&mut batch).await {
                Event::Jobs => {
                    self.context.metrics.batch_jobs.record(batch.len() as f64);
                    for job in batch.drain(..) {
                        self.take(job, None);
                    }
                }
                Event::Progress(storage) => self.side(storage).release(),
                Event::Loaded(storage, loaded) => self.resume(storage, loaded),
                Event::Closed => return,
            }
            let early = self.context.mutants.has(Mutant::AcknowledgeBeforeDurable);
            self.durable.submit(early);
            self.memory.submit(early);
        }
    }

    async fn next(&mut self, batch: &mut Vec<Job>) -> Event {
        let (durable, memory) = (&mut self.durable, &mut self.memory);
        let idle = durable.is_idle() && memory.is_idle();
        let room = !durable.parked.is_full() && !memory.parked.is_full();
        let open = room && (!self.jobs.is_closed() || !self.jobs.is_empty());
        tokio::select! { biased;
            changed = durable.progress.changed(), if !durable.waiting.is_empty() => {
                if changed.is_err() { durable.fail(&StoreError::Closed); }
                Event::Progress(Storage::Durable)
            }
            changed = memory.progress.changed(), if !memory.waiting.is_empty() => {
                if changed.is_err() { memory.fail(&StoreError::Closed); }
                Event::Progress(Storage::Memory)
            }
            Some(loaded) = durable.loads.next(), if !durable.loads.is_empty() => {
                Event::Loaded(Storage::Durable, loaded)
            }
            Some(loaded) = memory.loads.next(), if !memory.loads.is_empty() => {
                Event::Loaded(Storage::Memory, loaded)
            }
            count = self.jobs.recv_many(batch, BATCH_JOBS_MAX), if open || idle => {
                if count == 0 { Event::Closed } else { Event::Jobs }
            }
        }
    }

    fn side(&mut self, storage: Storage) -> &mut Side {
        match storage {
            Storage::Durable => &mut self.durable,
            Storage::Memory => &mut self.memory,
        }
    }

    /// Runs a job, or parks it until its rows are here. `fetched` is what a load has just brought.
    fn take(&mut self, job: Job, fetched: Option<&Fetched>) {
        let context = self.context.clone();
        if job.deadline <= context.env.now() {
            job.fail(Failure::new(FailureCode::Expired));
            return;
        }
        let storage = context.services[job.service].storage;
        let side = self.side(storage);
        if side.parked.holds(&job.at) {
            side.park(job);
            return;
        }
        match side.rows_of(&job, fetched) {
            Some((rows, trusted)) => self.run_job(job, rows, trusted),
            None => side.park(job),
        }
    }

    /// `row` is the row of the job; `hint` is any hint row of its key, where the job asked for those. A trusted row
    /// came from memory, where only sound rows are.
    fn run_job(&mut self, job: Job, [row, hint]: [Option<Bytes>; 2], trusted: bool) {
        let context = self.context.clone();
        let service = &context.services[job.service];
        if let Op::RemoveHint { expected } = &job.op {
            let removed =
                row.is_some_and(|row| row == *expected || context.mutants.has(Mutant::RemoveHintUncompared));
            let side = self.side(service.storage);
            if removed {
                side.stage(job.at.clone(), None);
            }
            side.answer(job.reply, Ok(Bytes::copy_from_slice(&[u8::from(removed)])), false);
            return;
        }
        let mut content = Content::of(&job.at, row.as_ref(), trusted);
        let in_gap = context.is_gap(service, &job.at);
        if in_gap {
            content = content.where_rows_are_lacking();
        }
        if matches!(content, Content::Unreadable) {
            context.metrics.unreadable_rows.increment(1);
            tracing::warn!(service = service.name, row = ?job.at, "a row can't be read; a replica will fill it");
        }
        let Job { service: index, partition, at, op, request_id, n, deadline: _, reply } = job;
        let call = Call {
            key: &at.key,
            position: at.position,
            partition,
            node: context.node,
            request_id,
            unix_ms: context.env.unix_ms(),
            n,
            write: false,
        };
        match op {
            Op::Fetch { digest } => {
                let outcome = match content {
                    Content::Unreadable if context.mutants.has(Mutant::CorruptAsNotFound) => {
                        Ok(Bytes::from_static(&[0]))
                    }
                    content => fetch::answer(service, &at, &content, digest, in_gap),
                };
                reply.send(outcome);
            }
            Op::Message { message, body } => {
                let mut cell = RowCell { content, put: None, actor: None };
                let outcome = self.call(index, message, body, call, &mut cell, false);
                if let (Ok(_), Some(item)) = (&outcome, cell.put.take()) {
                    let mine = self.mine_of(&cell.content, &at);
                    let side = self.side(service.storage);
                    side.write(at, Some((item, n, mine)));
                    side.answer(reply, outcome, false);
                } else {
                    reply.send(outcome);
                }
            }
            Op::Coordinate { message, body, stand_in, retry, early, lazy } => {
                let run = Run { message, body, stand_in, retry };
                let executed = self.coordinate(index, run, call, content, &at);
                let side = self.side(service.storage);
                match executed {
                    Ok(executed) => {
                        early(Ok(executed));
                        side.answer(reply, Ok(Bytes::new()), lazy);
                    }
                    Err(failure) => {
                        early(Err(failure.clone()));
                        reply.send(Err(failure));
                    }
                }
            }
            Op::Absorb { item, stand_in, mine, lazy } => {
                let outcome =
                    self.absorb(index, partition, &at, n, &content, Incoming { item, stand_in, mine });
                match outcome {
                    Ok(digest) => {
                        let body = Bytes::copy_from_slice(&digest.0.to_le_bytes());
                        self.side(service.storage).answer(reply, Ok(body), lazy);
                    }
                    Err(failure) => reply.send(Err(failure)),
                }
            }
            Op::Rewrite => {
                let side = self.side(service.storage);
                let written = match content {
                    Content::Row(row) => {
                        side.stage(at.clone(), Some(row.encode(&at)));
                        true
                    }
                    Content::Absent | Content::Unreadable => false,
                };
                side.answers.push((reply, Ok(Bytes::copy_from_slice(&[u8::from(written)]))));
            }
            Op::RemoveHint { .. } => unreachable!("answered above, before the row is decoded"),
            Op::RemoveStray { digest, .. } => {
                let same = match &content {
                    Content::Row(Row { body: Body::Item(item), .. }) => {
                        (service.digest)(&at.key, item).is_ok_and(|held| held == digest)
                    }
                    _ => false,
                };
                let removed = same && hint.is_none();
                let side = self.side(service.storage);
                if removed {
                    side.write(at, None);
                }
                side.answer(reply, Ok(Bytes::copy_from_slice(&[u8::from(removed)])), false);
            }
        }
    }

    /// Runs a message as its coordinator, or finds that it has run before.
    fn coordinate(
        &mut self,
        service: usize,
        run: Run,
        call: Call<'_>,
        content: Content,
        at: &RowKey,
    ) -> Result<Executed, Failure> {
        let Run { message, body, stand_in, retry } = run;
        let context = self.context.clone();
        let (n, request_id, partition) = (call.n, call.request_id, call.partition);
        let of = &context.services[service];
        let digest = |item: &Bytes| {
            (of.digest)(&at.key, item).map_err(|bad| Failure::because(FailureCode::BadRequest, bad))
        };
        if let Content::Row(row) = &content
            && let Body::Item(item) = &row.body
        {
            let remembered = self.window.find(request_id, row.mine);
            if remembered.is_some() || (of.has_request)(item, request_id) {
                self.hint(of, partition, at, stand_in, digest(item)?);
                let (reply, item) = (remembered.unwrap_or_default(), Some(item.clone()));
                return Ok(Executed { reply, item, again: true, mine: row.mine });
            }
        }
        if retry && !context.mutants.has(Mutant::RunForgottenRetry) {
            return Err(Failure::new(FailureCode::Forgotten));
        }
        let actor = self.ghost_of(&content, at);
        let mut cell = RowCell { content, put: None, actor };
        let reply = self.call(service, message, body, call, &mut cell, true)?;
        let Some(item) = cell.put.take() else {
            return Ok(Executed { reply, item: None, again: false, mine: None });
        };
        let mine = cell.actor.or_else(|| self.mine_of(&cell.content, at));
        self.remember_ghost(at, mine);
        if let Some(actor) = cell.actor {
            self.window.remember(request_id, actor, reply.clone(), context.env.now());
        }
        let digest = digest(&item)?;
        self.side(of.storage).write(at.clone(), Some((item.clone(), n, mine)));
        self.hint(of, partition, at, stand_in, digest);
        Ok(Executed { reply, item: Some(item), again: false, mine })
    }

    fn absorb(
        &mut self,
        service: usize,
        partition: Partition,
        at: &RowKey,
        n: u8,
        content: &Content,
        incoming: Incoming,
    ) -> Result<Digest, Failure> {
        let Incoming { item, stand_in, mine } = incoming;
        let context = self.context.clone();
        let service = &context.services[service];
        let bad = |bad| Failure::because(FailureCode::BadRequest, bad);
        let (held, changed) = match content {
            Content::Row(Row { body: Body::Item(held), .. }) => {
                match (service.merge)(held, &item).map_err(bad)? {
                    Absorbed::Unchanged => (held.clone(), false),
                    Absorbed::Changed(item) => (item, true),
                }
            }
            Content::Absent | Content::Row(_) | Content::Unreadable => {
                (service.check)(&item).map_err(bad)?;
                (item.clone(), true)
            }
        };
        let digest = (service.digest)(&at.key, &held).map_err(bad)?;
        if changed {
            // `mine` is this replica's own, never the sender's, and lives no longer than its row.
            let own = self.mine_of(content, at).filter(|own| !self.knows_more(service, &item, content, *own));
            self.side(service.storage).write(at.clone(), Some((held, n, mine.or(own))));
        }
        self.hint(service, partition, at, stand_in, digest);
        Ok(digest)
    }

    /// Whether an arriving item knows of more dots of this replica's own actor than the row from which they are issued.
    fn knows_more(&self, service: &Service, incoming: &Bytes, content: &Content, own: Actor) -> bool {
        let Content::Row(Row { body: Body::Item(held), .. }) = content else { return false };
        if !self.context.dots.bore(own) {
            return false;
        }
        let more = (service.issued)(incoming, own) > (service.issued)(held, own);
        if more {
            self.context.metrics.foreign_dots.increment(1);
            tracing::error!(
                service = service.name,
                "a replica knows of writes under this node's name that this node has not issued: a row was rolled back, \
                 a copy of this node runs, or a client sent a context that it was not given; going on under a new name"
            );
        }
        more
    }

    /// Keeps a hint for each of these slots, in the commit that holds the item.
    fn hint(&mut self, service: &Service, partition: Partition, at: &RowKey, stand_in: u16, digest: Digest) {
        if self.context.mutants.has(Mutant::LoseHint) {
            return;
        }
        for slot in (0..16u8).filter(|slot| stand_in >> slot & 1 == 1) {
            self.side(service.storage).write_hint(hint_key(service.code, at, slot), digest);
            self.context.hints.written((partition.index(), slot));
            self.context.metrics.hints_written.increment(1);
        }
    }

    /// Who this replica is for a row that it holds and can read; nobody for any other.
    fn mine_of(&self, content: &Content, at: &RowKey) -> Option<Actor> {
        match content {
            Content::Row(row) if row.body != Body::Hole => row.mine,
            content => self.ghost_of(content, at),
        }
    }

    /// Who this replica was for a row that is gone: nobody, but with a mutant.
    fn ghost_of(&self, content: &Content, at: &RowKey) -> Option<Actor> {
        match content {
            Content::Row(row) if row.body != Body::Hole => None,
            _ => self.ghosts.get(at).copied(),
        }
    }

    /// Breaks the rule that `mine` goes with its row, where a test says so.
    fn remember_ghost(&mut self, at: &RowKey, mine: Option<Actor>) {
        if let Some(mine) = mine.filter(|_| self.context.mutants.has(Mutant::KeepMine)) {
            self.ghosts.insert(at.clone(), mine);
        }
    }

    /// Calls a handler; a panic ends the vnode, not the lane, and nothing of the call is kept.
    fn call(
        &mut self,
        service: usize,
        message: u16,
        body: Bytes,
        call: Call<'_>,
        cell: &mut RowCell,
        coordinating: bool,
    ) -> Result<Bytes, Failure> {
        let context = self.context.clone();
        let seat = (service, call.partition.index());
        let mut vnode = match self.seats.remove(&seat) {
            Some(vnode) => vnode,
            None => context.services[service]
                .open(call.partition)
                .map_err(|error| Failure::because(FailureCode::NotServing, error))?,
        };
        let run = AssertUnwindSafe(|| vnode.run(message, body, call, cell, &context.dots, coordinating));
        match std::panic::catch_unwind(run) {
            Ok(outcome) => {
                self.seats.insert(seat, vnode);
                outcome
            }
            Err(_) => {
                cell.put = None;
                tracing::error!(
                    service = context.services[service].name,
                    message,
                    "a handler panicked; its vnode is made anew"
                );
                Err(Failure::new(FailureCode::Panicked))
            }
        }
    }

    /// Goes on with the jobs that waited for these rows.
    fn resume(&mut self, storage: Storage, loaded: Loaded) {
        let parked = &mut self.side(storage).parked;
        match loaded.values {
            Ok(values) => {
                let (fetched, jobs) = parked.arrived(&loaded.rows, values);
                jobs.into_iter().for_each(|job| self.take(job, Some(&fetched)));
            }
            Err(error) => {
                let jobs = parked.failed(&loaded.rows);
                jobs.into_iter().for_each(|job| job.fail(Failure::because(FailureCode::StoreFailed, &error)));
            }
        }
    }
}

/// A message to be coordinated.
struct Run {
    message: u16,
    body: Bytes,
    stand_in: u16,
    retry: bool,
}

/// An item that arrives.
struct Incoming {
    item: Bytes,
    stand_in: u16,
    /// The sender's actor: always none, but for a mutant.
    mine: Option<Actor>,
}

/// Where the hint of a slot stands: beside the position, then the slot, then the key.
pub(crate) fn hint_key(service: u32, item: &RowKey, slot: u8) -> RowKey {
    let mut key = BytesMut::with_capacity(1 + item.key.len());
    key.put_u8(slot);
    key.put_slice(&item.key);
    RowKey { table: hints_table(service), position: item.position, key: key.freeze() }
}

impl Side {
    fn new(store: &Arc<dyn Store>) -> Self {
        Self {
            store: store.clone(),
            progress: store.progress(),
            batch: Vec::new(),
            staged: FxHashMap::default(),
            answers: Vec::new(),
            waited: false,
            waiting: VecDeque::new(),
            last: Lsn(0),
            parked: Parked::default(),
            loads: FuturesUnordered::new(),
        }
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.parked.is_empty() && self.loads.is_empty()
    }

    fn peek(&self, at: &RowKey) -> Peek {
        match self.staged.get(at) {
            Some(value) => Peek::Known(value.clone()),
            None => self.store.peek(at),
        }
    }

    /// The row of a job and any other row of its key that it asks for, if all of them are known; and whether the first
    /// came from memory.
    fn rows_of(&self, job: &Job, fetched: Option<&Fetched>) -> Option<([Option<Bytes>; 2], bool)> {
        let mut rows = [None, None];
        let mut trusted = true;
        for at in job.rows() {
            let value = match self.peek(at) {
                Peek::Known(value) => value,
                Peek::Unknown => {
                    trusted &= *at != job.at;
                    fetched?.get(at)?.clone()
                }
            };
            let place = &mut rows[usize::from(*at != job.at)];
            *place = place.take().or(value);
        }
        Some((rows, trusted))
    }

    fn park(&mut self, job: Job) {
        self.parked.park(job, &self.staged);
    }

    fn write(&mut self, at: RowKey, item: Option<(Bytes, u8, Option<Actor>)>) {
        let value = item.map(|(item, n_val, mine)| {
            Row { tag: RowTag::ITEM, n_val, mine, body: Body::Item(item) }.encode(&at)
        });
        self.stage(at, value);
    }

    /// Every hinted write rewrites the hint, with a value of its own: a delivery removes only what it delivered.
    fn write_hint(&mut self, at: RowKey, digest: Digest) {
        let mut value = BytesMut::with_capacity(24);
        value.put_u64_le(digest.0);
        value.put_u64_le(self.last.0);
        value.put_u64_le(self.batch.len() as u64);
        self.stage(at, Some(value.freeze()));
    }

    fn stage(&mut self, at: RowKey, value: Option<Bytes>) {
        self.parked.written(&at, &value);
        self.staged.insert(at.clone(), value.clone());
        self.batch.push(Write { at, value });
    }

    /// Answers once the batch at hand is durable.
    fn answer(&mut self, reply: ReplyTo, outcome: Outcome, lazy: bool) {
        self.waited |= !lazy;
        self.answers.push((reply, outcome));
    }

    /// Hands the batch to the store and asks for the rows that jobs wait for.
    fn submit(&mut self, answer_early: bool) {
        if !self.batch.is_empty() || !self.answers.is_empty() {
            let mut answers = std::mem::take(&mut self.answers);
            let batch = std::mem::take(&mut self.batch);
            let applied = match std::mem::take(&mut self.waited) {
                true => self.store.apply(batch),
                false => self.store.apply_lazily(batch),
            };
            match applied {
                Ok(lsn) => {
                    self.last = lsn;
                    answers
                        .iter_mut()
                        .filter(|(_, outcome)| outcome.is_ok())
                        .for_each(|(reply, _)| reply.accept());
                    let wait_for = if answer_early { Lsn(0) } else { lsn };
                    self.waiting.push_back((wait_for, answers));
                    self.release();
                }
                Err(error) => {
                    for (reply, _) in answers {
                        reply.send(Err(Failure::because(FailureCode::StoreFailed, &error)));
                    }
                }
            }
            self.staged.clear();
        }
        while let Some(rows) = self.parked.next_load() {
            let read = self.store.read(rows.clone());
            self.loads.push(Box::pin(async move { Loaded { rows, values: read.await } }));
        }
    }

    /// Lets the replies go whose batches are durable.
    fn release(&mut self) {
        let progress = self.progress.borrow_and_update().clone();
        while self.waiting.front().is_some_and(|(lsn, _)| *lsn <= progress.durable) {
            for (reply, outcome) in self.waiting.pop_front().into_iter().flat_map(|(_, answers)| answers) {
                reply.send(outcome);
            }
        }
        if let Some(error) = progress.failed {
            self.fail(&error);
        }
    }

    fn fail(&mut self, error: &StoreError) {
        for (reply, _) in self.waiting.drain(..).flat_map(|(_, answers)| answers) {
            reply.send(Err(Failure::because(FailureCode::StoreFailed, error)));
        }
    }
}
