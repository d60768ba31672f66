//! The suite that every [`Store`] passes: random histories against a model that is an ordered map.
//!
//! [`Script::random`] makes a history from a seed, and [`Script::run`] plays it: batches, peeks, reads, walks in
//! slices, waits for durability, reopening. [`race`] has several tasks write at once while others walk. [`crash`]
//! kills a store on disk again and again. All panic at the first answer that the model does not give, so run them
//! inside a test.

#![expect(clippy::unwrap_used, reason = "a suite fails by panicking, as the test that runs it does")]

mod crash;

pub use crash::{CrashReport, OpenIn, crash};

use super::{Lsn, Peek, RangeQuery, RowKey, Store, StoreError, TableId, Write};
use crate::env::{BoxFuture, Env, Rng};
use bytes::Bytes;
use rondel_proto::id::Position;
use std::{collections::BTreeMap, sync::Arc};

/// Opens the store under test: anew each time, on the files that the one before it left.
pub type Open = dyn Fn() -> BoxFuture<Arc<dyn Store>> + Send + Sync;

/// What a store should hold.
pub type Model = BTreeMap<RowKey, Bytes>;

const TABLES: u32 = 2;
const POSITIONS: [u64; 6] = [0, 1, 77, 1 << 63, u64::MAX - 1, u64::MAX];
const KEYS: u64 = 12;

/// One step of a history.
#[derive(Debug, Clone)]
pub enum Step {
    /// Applies a batch.
    Apply(Vec<Write>),
    /// Looks a row up in memory, and on disk if memory does not know it.
    Look(RowKey),
    /// Reads rows.
    Read(Vec<RowKey>),
    /// Walks a range in slices and applies a batch after the first.
    Walk(RangeQuery, Vec<Write>),
    /// Waits until everything applied is durable.
    Settle,
    /// Closes the store and opens it again.
    Reopen,
}

/// A history.
#[derive(Debug, Clone)]
pub struct Script(pub Vec<Step>);

impl Script {
    /// The history of a seed. With the same seed, a shorter one is the beginning of a longer one.
    #[must_use]
    pub fn random(seed: u64, steps: usize) -> Self {
        let mut rng = Rng::from_seed(seed);
        Self((0..steps).map(|_| random_step(&mut rng)).collect())
    }

    /// Plays the history. `persistent` says whether rows outlive the store that holds them.
    ///
    /// # Panics
    /// If the store is not what [`Store`] says.
    pub async fn run(self, open: &Open, persistent: bool) {
        let mut play = Play { store: open().await, model: Model::new(), last: Lsn(0), persistent };
        for step in self.0 {
            play.step(step, open).await;
        }
        play.step(Step::Reopen, open).await;
        assert_eq!(dump(&*play.store).await, play.model, "rows differ after the last opening");
        play.store.close().await.unwrap();
    }
}

/// Everything that a store holds, by slices of every size.
///
/// # Panics
/// If the store fails, or repeats or disorders a row.
pub async fn dump(store: &dyn Store) -> Model {
    collect(store).await.unwrap()
}

async fn collect(store: &dyn Store) -> Result<Model, StoreError> {
    let mut rows = Model::new();
    for table in 0..TABLES {
        let mut query = whole(TableId(table));
        for rows_max in (1..).map(|size| size % 7 + 1) {
            query.rows_max = rows_max;
            let end = extend(store, &mut query, &mut rows).await?;
            if end {
                break;
            }
        }
    }
    Ok(rows)
}

/// Several tasks write at once, each a pair of rows per batch; others walk, and must never see half a batch.
///
/// # Panics
/// If the store is not what [`Store`] says.
pub async fn race(env: &Env, open: &Open, seed: u64, writers: u64, batches: u64) {
    let store = open().await;
    let tasks = (0..writers).map(|writer| {
        let (store, rng) = (Arc::clone(&store), Rng::from_seed(seed ^ (writer << 32)));
        joined(env, async move { write_pairs(&*store, rng, writer, batches).await })
    });
    let tasks: Vec<_> = tasks.collect();
    let walker = {
        let store = Arc::clone(&store);
        joined(env, async move {
            for _ in 0..batches {
                assert_pairs(&*store).await;
            }
        })
    };
    let mut lsns = Vec::new();
    for task in tasks {
        lsns.extend(task.await);
    }
    walker.await;
    lsns.sort_unstable();
    let count = lsns.len();
    lsns.dedup();
    assert_eq!(lsns.len(), count, "numbers are unique");
    settle(&*store, lsns.last().copied().unwrap_or_default()).await;
    assert_pairs(&*store).await;
    store.close().await.unwrap();
}

struct Play {
    store: Arc<dyn Store>,
    model: Model,
    last: Lsn,
    persistent: bool,
}

impl Play {
    async fn step(&mut self, step: Step, open: &Open) {
        match step {
            Step::Apply(batch) => self.apply(batch),
            Step::Look(at) => self.look(at).await,
            Step::Read(rows) => {
                let expected: Vec<_> = rows.iter().map(|at| self.model.get(at).cloned()).collect();
                assert_eq!(self.store.read(rows.clone()).await.unwrap(), expected, "read {rows:?}");
            }
            Step::Walk(query, batch) => self.walk(query, batch).await,
            Step::Settle => settle(&*self.store, self.last).await,
            Step::Reopen => self.reopen(open).await,
        }
    }

    fn apply(&mut self, batch: Vec<Write>) {
        for write in &batch {
            match &write.value {
                Some(value) => self.model.insert(write.at.clone(), value.clone()),
                None => self.model.remove(&write.at),
            };
        }
        let (before, is_empty) = (self.last, batch.is_empty());
        self.last = apply(&*self.store, batch).unwrap();
        assert!(self.last > before || is_empty && self.last == before, "batches are numbered in order");
    }

    async fn look(&self, at: RowKey) {
        let expected = self.model.get(&at).cloned();
        match self.store.peek(&at) {
            Peek::Known(row) => assert_eq!(row, expected, "peek {at:?}"),
            Peek::Unknown => {
                assert_eq!(self.store.read(vec![at.clone()]).await.unwrap(), [expected], "read {at:?}");
            }
        }
    }

    async fn walk(&mut self, mut query: RangeQuery, batch: Vec<Write>) {
        let (before, wanted) = (self.model.clone(), query.clone());
        let mut rows = Model::new();
        let mut end = extend(&*self.store, &mut query, &mut rows).await.unwrap();
        let first: Vec<_> = rows.iter().map(|(at, row)| (at.clone(), row.clone())).collect();
        let expected = before.iter().filter(|(at, _)| within(&wanted, at)).take(first.len());
        assert!(expected.eq(first.iter().map(|(at, row)| (at, row))), "first slice of {wanted:?}: {first:?}");
        self.apply(batch);
        while !end {
            end = extend(&*self.store, &mut query, &mut rows).await.unwrap();
        }
        for (at, row) in before.iter().filter(|(at, _)| within(&wanted, at)) {
            let untouched = self.model.get(at) == Some(row);
            assert!(!untouched || rows.get(at) == Some(row), "{at:?} is missing from the walk of {wanted:?}");
        }
        for (at, row) in &rows {
            assert!(within(&wanted, at), "{at:?} is not within {wanted:?}");
            let known = [&before, &self.model].iter().any(|model| model.get(at) == Some(row));
            assert!(known, "the walk of {wanted:?} shows {at:?} as it never was");
        }
    }

    async fn reopen(&mut self, open: &Open) {
        self.store.close().await.unwrap();
        let progress = self.store.progress();
        assert!(progress.borrow().durable >= self.last, "closing makes everything durable");
        drop(progress);
        let refused = self.store.apply(vec![random_write(&mut Rng::from_seed(0))]);
        assert!(matches!(refused, Err(StoreError::Closed)), "a closed store refuses");
        let refused = self.store.read(vec![random_key(&mut Rng::from_seed(0))]).await;
        assert!(matches!(refused, Err(StoreError::Closed)), "a closed store refuses: {refused:?}");
        self.store = open().await;
        self.last = Lsn(0);
        if !self.persistent {
            self.model.clear();
        }
    }
}

/// Waits until a batch is durable.
///
/// # Panics
/// If the store fails.
pub async fn settle(store: &dyn Store, lsn: Lsn) {
    // Somebody waits now for what may have been applied lazily. A store that has stopped says so below.
    let _ = store.apply(Vec::new());
    let mut progress = store.progress();
    let reached = progress.wait_for(|now| now.durable >= lsn || now.failed.is_some()).await.unwrap();
    assert!(reached.failed.is_none(), "the store has failed: {:?}", reached.failed);
}

/// Fetches the next slice into `rows` and moves the query on. True at the end.
async fn extend(store: &dyn Store, query: &mut RangeQuery, rows: &mut Model) -> Result<bool, StoreError> {
    let slice = store.range(query.clone()).await?;
    assert!(slice.rows.len() <= query.rows_max, "more rows than asked for");
    assert!(slice.end || !slice.rows.is_empty(), "an empty slice must be the end");
    assert!(slice.rows.is_sorted_by(|one, two| one.0 < two.0), "rows are out of order");
    let sizes = slice.rows.iter().map(|(at, row)| at.key.len() + row.len());
    let without_last: usize = sizes.rev().skip(1).sum();
    assert!(without_last < query.bytes_max, "more bytes than asked for");
    for (at, row) in slice.rows {
        query.after = Some((at.position, at.key.clone()));
        assert!(rows.insert(at.clone(), row).is_none(), "{at:?} came twice");
    }
    Ok(slice.end)
}

fn within(query: &RangeQuery, at: &RowKey) -> bool {
    let after = query.after.as_ref().is_none_or(|after| (at.position, &at.key) > (after.0, &after.1));
    at.table == query.table && (query.first..=query.last).contains(&at.position) && after
}

fn whole(table: TableId) -> RangeQuery {
    let (first, last) = (Position(0), Position(u64::MAX));
    RangeQuery { table, first, last, after: None, rows_max: 100, bytes_max: 1 << 20 }
}

fn random_step(rng: &mut Rng) -> Step {
    match rng.below(20) {
        0..8 => Step::Apply(random_batch(rng)),
        8..12 => Step::Look(random_key(rng)),
        12..15 => Step::Read((0..rng.below(6)).map(|_| random_key(rng)).collect()),
        15..18 => Step::Walk(random_query(rng), random_batch(rng)),
        18 => Step::Settle,
        _ => Step::Reopen,
    }
}

/// Applies a batch, one in three lazily: that must not make any difference to what is seen or kept.
fn apply(store: &dyn Store, batch: Vec<Write>) -> Result<Lsn, StoreError> {
    if batch.len() % 3 == 1 { store.apply_lazily(batch) } else { store.apply(batch) }
}

fn random_batch(rng: &mut Rng) -> Vec<Write> {
    (0..rng.below(9)).map(|_| random_write(rng)).collect()
}

fn random_write(rng: &mut Rng) -> Write {
    let at = random_key(rng);
    if rng.chance(0.3) {
        return Write { at, value: None };
    }
    let len = if rng.chance(0.02) { 70_000 } else { rng.index(300) };
    let fill = rng.u64().to_le_bytes();
    Write { at, value: Some(fill.iter().copied().cycle().take(len).collect()) }
}

fn random_key(rng: &mut Rng) -> RowKey {
    let position = POSITIONS[rng.index(POSITIONS.len())];
    // Of varied length, some of them prefixes of others, the empty one among them.
    let key = vec![b'k'; rng.index(usize::try_from(KEYS).unwrap_or(1))];
    let table = TableId(u32::try_from(rng.below(u64::from(TABLES))).unwrap_or(0));
    RowKey { table, position: Position(position), key: key.into() }
}

fn random_query(rng: &mut Rng) -> RangeQuery {
    let (one, two) = (random_key(rng), random_key(rng));
    let after = rng.chance(0.3).then(|| random_key(rng)).map(|at| (at.position, at.key));
    let (first, last) = (one.position.min(two.position), one.position.max(two.position));
    let (rows_max, bytes_max) = (1 + rng.index(12), 1 + rng.index(2000));
    RangeQuery { table: one.table, first, last, after, rows_max, bytes_max }
}

/// The two rows of a pair stand next to each other.
fn pair(writer: u64, slot: u64) -> [RowKey; 2] {
    let position = Position(writer << 56 | slot);
    [0, 1].map(|half| RowKey { table: TableId(0), position, key: Bytes::copy_from_slice(&[half]) })
}

async fn write_pairs(store: &dyn Store, mut rng: Rng, writer: u64, batches: u64) -> Vec<Lsn> {
    let mut lsns = Vec::new();
    let mut own = BTreeMap::new();
    for number in 0..batches {
        let slot = rng.below(8);
        let value = (!rng.chance(0.2)).then(|| Bytes::from(number.to_string()));
        let batch = pair(writer, slot).map(|at| Write { at, value: value.clone() });
        own.insert(slot, value);
        let lsn = store.apply(batch.into()).unwrap();
        assert!(lsns.last() < Some(&lsn), "numbers grow in the order of apply");
        lsns.push(lsn);
        for at in pair(writer, rng.below(8)) {
            let expected = own.get(&(at.position.0 & 0xff)).cloned().flatten();
            match store.peek(&at) {
                Peek::Known(row) => assert_eq!(row, expected, "a writer sees its own writes: peek {at:?}"),
                Peek::Unknown => {
                    let read = store.read(vec![at.clone()]).await.unwrap();
                    assert_eq!(read, [expected], "a writer sees its own writes: read {at:?}");
                }
            }
        }
        if rng.chance(0.3) {
            settle(store, lsn).await;
        }
    }
    lsns
}

async fn assert_pairs(store: &dyn Store) {
    let mut query = whole(TableId(0));
    loop {
        let slice = store.range(query.clone()).await.unwrap();
        for pair in slice.rows.chunk_by(|one, two| one.0.position == two.0.position) {
            let at_edge = pair.last() == slice.rows.last() || pair.first() == slice.rows.first();
            let whole = pair.len() == 2 && pair[0].1 == pair[1].1;
            assert!(whole || (at_edge && pair.len() == 1), "half a batch shows: {pair:?}");
        }
        let Some((at, _)) = slice.rows.last() else { return };
        query.after = Some((at.position, at.key.clone()));
        if slice.end {
            return;
        }
    }
}

/// Runs a task and gives its value.
fn joined<T: Send + 'static>(
    env: &Env,
    task: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = T> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    env.spawn("conformance", async move {
        let _ = sender.send(task.await);
    });
    async move { receiver.await.expect("the task panicked: its message is above") }
}
