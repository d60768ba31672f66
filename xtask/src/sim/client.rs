//! The clients of a run: each asks random nodes, remembers what it read, and writes with that as context, or without.

use super::{
    history::{Key, Operation, Outcome, Seen, What, WriteId},
    plan::Plan,
    value,
};
use rondel_core::{
    Cluster,
    env::Rng,
    testing::{Control, TestCluster},
};
use rondel_kv::{
    Bucket, Client, Condition, Config, Context, Fetched, GetOptions, Need, PutError, PutOptions,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::oneshot;

/// What all clients of a run write down, in the order in which operations ended.
#[derive(Clone, Default)]
pub(crate) struct Record(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    operations: Vec<Operation>,
    writes: WriteId,
}

impl Record {
    fn note(&self, control: &Control, operation: Operation) {
        control.note(&operation.to_string());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).operations.push(operation);
    }

    /// The number of a write: of one whose value is small, where many of them come together.
    fn new_write(&self, small: bool) -> WriteId {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.writes += 1;
        if value::is_small(book.writes) != small {
            book.writes += 1;
        }
        book.writes
    }

    /// What was written down so far.
    pub(crate) fn peek(&self) -> Vec<Operation> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).operations.clone()
    }

    /// Whether the last operation that ended did what it was to do.
    pub(crate) fn last_is_done(&self) -> bool {
        let book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.operations.last().is_some_and(Operation::is_done)
    }

    pub(crate) fn take(&self) -> Vec<Operation> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).operations)
    }
}

/// The bucket of a run.
pub(crate) fn bucket() -> Bucket {
    Bucket::new("run").expect("a short name is a good one")
}

pub(crate) fn key_bytes(key: Key) -> Vec<u8> {
    format!("key-{key}").into_bytes()
}

/// With more siblings than this a client makes one of them.
const JOURNAL_SIBLINGS_MAX: usize = 40;

/// One client.
pub(crate) struct Worker {
    pub(crate) cluster: TestCluster,
    pub(crate) record: Record,
    number: u32,
    rng: Rng,
    plan: Arc<Plan>,
    /// The node that it asks rather than others.
    home: Option<u32>,
    began: Duration,
    /// What it last read of each key.
    known: BTreeMap<Key, (Context, Vec<Seen>)>,
}

/// A write as it is sent, perhaps more than once.
#[derive(Clone)]
struct Attempt {
    key: Key,
    id: WriteId,
    deletes: bool,
    context: (Context, Vec<Seen>),
    options: PutOptions,
    copies: u8,
    owners: u8,
    again: bool,
}

impl Worker {
    pub(crate) fn new(cluster: &TestCluster, record: &Record, plan: &Arc<Plan>, number: u32) -> Self {
        Self {
            cluster: cluster.clone(),
            record: record.clone(),
            number,
            rng: cluster.control().rng(&format!("client {number}")),
            plan: plan.clone(),
            home: Some(number % plan.homes).filter(|_| number < plan.clients),
            began: cluster.control().elapsed(),
            known: BTreeMap::new(),
        }
    }

    /// Works until a time, counted from the beginning of the simulation.
    pub(crate) async fn run(mut self, until: Duration) {
        while self.cluster.control().elapsed() < until {
            self.step().await;
            let pause = self.rng.between(Duration::ZERO, self.plan.pause_max);
            self.cluster.control().sleep(pause).await;
        }
    }

    async fn step(&mut self) {
        if self.plan.journals > 0 && self.rng.chance(self.plan.journal_share) {
            return self.step_in_journal().await;
        }
        let key = self.pick_key();
        let dice = f64::from(u32::try_from(self.rng.below(1 << 20)).unwrap_or_default()) / f64::from(1 << 20);
        let mix = self.plan.mix;
        if dice < mix.modify {
            if !self.known.contains_key(&key) || self.rng.chance(0.5) {
                self.read(key).await;
            }
            self.write(key, false, false).await;
        } else if dice < mix.modify + mix.blind {
            self.write(key, false, true).await;
        } else if dice < mix.modify + mix.blind + mix.delete {
            self.write(key, true, false).await;
        } else {
            self.read(key).await;
        }
    }

    /// Adds to what is there, or looks at it, and makes one of it when it has grown long.
    async fn step_in_journal(&mut self) {
        let journals = self.plan.journals;
        let number = self.below(journals);
        let key = self.plan.journal_key(number);
        let long = self.known.get(&key).is_some_and(|(_, seen)| seen.len() > JOURNAL_SIBLINGS_MAX);
        if long {
            self.read(key).await;
            self.write(key, false, false).await;
        } else if self.rng.chance(0.6) {
            self.write(key, false, true).await;
        } else {
            self.read(key).await;
        }
    }

    fn pick_key(&mut self) -> Key {
        let plan = self.plan.clone();
        if !self.rng.chance(plan.heat) {
            return plan.keys_hot + self.below(plan.keys_cold);
        }
        let ran = self.cluster.control().elapsed() - self.began;
        let heat = u32::try_from(ran.as_millis() / plan.heat_lasts.as_millis().max(1)).unwrap_or_default();
        let heat = heat.min(plan.heats() - 1);
        // Now and then somebody comes back to what was hot before.
        let heat = if self.rng.chance(0.2) { self.below(heat + 1) } else { heat };
        plan.hot_key(heat, self.below(plan.keys_hot))
    }

    fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(self.rng.below(u64::from(bound))).unwrap_or_default()
    }

    /// A node that runs, if there is one: its own, or any.
    fn pick_node(&mut self) -> Option<(u32, Cluster)> {
        let loyal = self.rng.chance(self.plan.loyalty);
        if let Some(home) = self.home.filter(|home| loyal && self.cluster.is_serving(*home)) {
            return Some((home, self.cluster.running(home)?));
        }
        let up: Vec<_> =
            self.cluster.nodes().into_iter().filter(|node| self.cluster.is_serving(*node)).collect();
        let node = *self.rng.choose(&up)?;
        Some((node, self.cluster.running(node)?))
    }

    fn timeout(&mut self) -> Duration {
        Duration::from_millis([500, 2_000, 2_000, 8_000][self.rng.index(4)])
    }

    async fn read(&mut self, key: Key) {
        let (mut owners, mut r) = (0, Need::Quorum);
        if self.rng.chance(self.plan.one_for_all) {
            (owners, r) = (1, Need::Count(1));
        } else if !self.rng.chance(self.plan.plain) {
            owners = [0, 0, 0, 1, 2, 2, 3][self.rng.index(7)];
            r = [Need::Quorum, Need::Quorum, Need::Count(1), Need::All][self.rng.index(4)];
        }
        let options = GetOptions {
            r: Some(r),
            pr: Some(Need::Count(owners)),
            timeout: Some(self.timeout()),
            ..GetOptions::default()
        };
        self.get(key, owners, options).await;
    }

    async fn get(&mut self, key: Key, owners: u8, options: GetOptions) {
        let Some((node, cluster)) = self.pick_node() else { return };
        let patience = options.timeout.unwrap_or_default() + PATIENCE;
        let client = Client::new(&cluster, Config::default());
        let get = async move { client.get(&bucket(), &key_bytes(key), options).await };
        let began = self.cluster.control().elapsed();
        let outcome = match self.at_node(&cluster, patience, get).await {
            None => Outcome::Unknown("the node is gone".into()),
            Some(Ok(fetched)) => match value::found(fetched.as_ref()) {
                Ok(seen) => {
                    self.learn(key, fetched, &seen);
                    Outcome::Done(Some(seen))
                }
                Err(what) => Outcome::Wrong(what),
            },
            Some(Err(error)) => Outcome::NotDone(error.to_string()),
        };
        self.note(node, key, What::Read { owners }, began, outcome);
    }

    fn learn(&mut self, key: Key, fetched: Option<Fetched>, seen: &[Seen]) {
        if let Some(fetched) = fetched {
            self.known.insert(key, (fetched.context, seen.to_vec()));
        }
    }

    async fn write(&mut self, key: Key, deletes: bool, blind: bool) {
        let context = match blind {
            true => (Context::default(), Vec::new()),
            false => self.known.get(&key).cloned().unwrap_or_default(),
        };
        let (mut owners, mut confirms, mut w) = (0, 0, Need::Quorum);
        if self.rng.chance(self.plan.one_for_all) {
            owners = 3;
        } else if !self.rng.chance(self.plan.plain) {
            owners = [0, 0, 0, 1, 2, 2, 3][self.rng.index(7)];
            confirms = [0, 0, 2, 3][self.rng.index(4)];
            w = [Need::Quorum, Need::Quorum, Need::Count(1), Need::All][self.rng.index(4)];
        }
        let few = self.plan.few_durable > 0.0 && self.rng.chance(self.plan.few_durable);
        let durable = few.then(|| 1 + u8::try_from(self.rng.below(2)).unwrap_or_default());
        if few && self.rng.chance(0.7) {
            // Owners and nodes are durable ones: where they are asked for too, memory counts for little.
            (owners, confirms, w) = (0, 0, Need::All);
        }
        let condition = match self.rng.chance(CONDITION_CHANCE) {
            true if context.1.is_empty() => Condition::Absent,
            true => Condition::Unchanged,
            false => Condition::Always,
        };
        let id = self.record.new_write(key >= self.plan.journal_key(0));
        let options = PutOptions {
            context: context.0.clone(),
            condition,
            w: Some(w),
            pw: Some(Need::Count(owners)),
            dw: durable.map(Need::Count),
            node_confirms: Some(confirms),
            timeout: Some(self.timeout()),
            return_body: self.rng.chance(0.4),
            request_id: Some(value::request(id)),
            ..PutOptions::default()
        };
        // Of W and DW only one copy is certain to be on a node of its own: one node can stand in for all others.
        let copies = confirms.max(owners).max(1);
        let mut attempt = Attempt { key, id, deletes, context, options, copies, owners, again: false };
        // A client that is told nothing tries again, as it should, with the same request.
        for _ in 0..=self.rng.below(3) {
            if self.put(attempt.clone()).await {
                break;
            }
            attempt.again = true;
            self.cluster.control().sleep(Duration::from_millis(50)).await;
        }
    }

    /// Says whether there is no reason to try again.
    async fn put(&mut self, attempt: Attempt) -> bool {
        let Some((node, cluster)) = self.pick_node() else { return false };
        self.put_at((node, cluster), attempt).await
    }

    async fn put_at(&mut self, (node, cluster): (u32, Cluster), attempt: Attempt) -> bool {
        let Attempt { key, id, deletes, context, options, copies, owners, again } = attempt;
        let durable = options.dw;
        let patience = options.timeout.unwrap_or_default() + PATIENCE;
        let client = Client::new(&cluster, Config::default());
        let content = value::content(id, deletes);
        let put = async move { client.put(&bucket(), Some(&key_bytes(key)), content, options).await };
        let began = self.cluster.control().elapsed();
        let outcome = match self.at_node(&cluster, patience, put).await {
            None => Outcome::Unknown("the node is gone".into()),
            Some(Ok(stored)) => match value::found(stored.object.as_ref()) {
                Ok(seen) => {
                    let given = stored.object.is_some();
                    self.learn(key, stored.object, &seen);
                    Outcome::Done(given.then_some(seen))
                }
                Err(what) => Outcome::Wrong(what),
            },
            // Every context of a run is one that the cluster gave.
            Some(Err(error @ PutError::Context(_))) => Outcome::Wrong(error.to_string()),
            Some(Err(error)) if nothing_was_done(&error) => Outcome::NotDone(error.to_string()),
            Some(Err(error)) => Outcome::Unknown(error.to_string()),
        };
        let over = !matches!(outcome, Outcome::Unknown(_));
        let what = What::Write { id, deletes, context: context.1, copies, owners, durable, again };
        self.note(node, key, what, began, outcome);
        over
    }

    /// Has a node do something, as its own task: it ends with the node.
    async fn at_node<T: Send + 'static>(
        &self,
        cluster: &Cluster,
        patience: Duration,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (sender, answer) = oneshot::channel();
        cluster.env().spawn("client", async move {
            let _ = sender.send(work.await);
        });
        let late = self.cluster.control().sleep(patience);
        tokio::select! {
            biased;
            answer = answer => answer.ok(),
            () = late => None,
        }
    }

    fn note(&self, node: u32, key: Key, what: What, began: Duration, outcome: Outcome) {
        let ended = self.cluster.control().elapsed();
        let reached = self.cluster.control().net().in_touch(node, began);
        let operation = Operation { client: self.number, node, key, what, began, ended, outcome, reached };
        self.record.note(self.cluster.control(), operation);
    }
}

/// How much longer than a request's own timeout a client waits: a paused node answers late.
const PATIENCE: Duration = Duration::from_secs(1);

fn nothing_was_done(error: &PutError) -> bool {
    match error {
        PutError::Request(error) => error.nothing_was_done(),
        _ => true,
    }
}

/// How many writes depend on what is there.
const CONDITION_CHANCE: f64 = 0.05;

/// A plain write of a key through one node.
pub(crate) async fn write_through(worker: &mut Worker, node: u32, key: Key) {
    let Some(cluster) = worker.cluster.running(node) else { return };
    let id = worker.record.new_write(false);
    let (request_id, timeout) = (Some(value::request(id)), Some(Duration::from_secs(5)));
    let options = PutOptions { request_id, timeout, ..PutOptions::default() };
    let context = (Context::default(), Vec::new());
    let attempt = Attempt { key, id, deletes: false, context, options, copies: 1, owners: 0, again: false };
    worker.put_at((node, cluster), attempt).await;
}

/// A read that every owner that is left answers, until one succeeds; repairs what is behind.
pub(crate) async fn read_all(worker: &mut Worker, key: Key, owners: u8) {
    let options = GetOptions {
        r: Some(Need::Count(owners.max(1))),
        pr: Some(Need::Count(owners)),
        timeout: Some(Duration::from_secs(5)),
        ..GetOptions::default()
    };
    worker.get(key, owners, options).await;
}
