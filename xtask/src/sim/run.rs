//! One run: a cluster is formed, clients work while faults happen, everything is healed, and the checkers look.

use super::{
    check::{self, Evidence, FinalRow, Violation},
    client::{Record, Worker, bucket, key_bytes, read_all, write_through},
    history::{Key, Operation},
    plan::{FAULTS, Plan},
    value,
};
use bytes::Bytes;
use rondel_core::{
    mutant::Mutants,
    proto::{Msg, id::Position},
    ring::position_of,
    store::row::Body,
    testing::{Control, RowKind, Sim, StoredRow, TestCluster},
};
use rondel_kv::{KvVnode, Object, VnodeConfig, view};
use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How often it is noted which nodes answer.
const WATCH_EVERY: Duration = Duration::from_millis(10);
/// How long nodes may take to come back once everything is healed.
const RETURN_MAX: Duration = Duration::from_secs(180);
/// What repairs need at most after a read.
const REPAIR_WAIT: Duration = Duration::from_secs(8);
/// How often all keys are read until all owners are equal.
const ROUNDS_MAX: u32 = 4;
/// How long a key may be unreadable once all is healed: for a minute an owner that was away may not say "nothing".
const UNREADABLE_MAX: Duration = Duration::from_secs(75);

/// What a run came to.
pub(crate) struct Report {
    pub(crate) violations: Vec<Violation>,
    pub(crate) operations: Vec<Operation>,
    pub(crate) trace_hash: [u8; 32],
    /// Virtual time that it took.
    pub(crate) elapsed: Duration,
}

/// Plays a plan. The trace goes to `log`, if there is one.
pub(crate) fn run(plan: &Plan, mutants: Mutants, log: Option<Box<dyn io::Write + Send>>) -> Report {
    let sim = Sim::new(plan.seed);
    if let Some(log) = log {
        sim.log_to(log);
    }
    let record = Record::default();
    let played = catch_unwind(AssertUnwindSafe(|| {
        let run = Run::new(&sim, plan, mutants, &record);
        sim.run_until(run.play())
    }));
    let mut violations = match played {
        Ok(violations) => violations,
        Err(panic) => vec![Violation(format!("something panicked: {}", message(panic.as_ref())))],
    };
    if sim.panicked_work() > 0 {
        violations.push(Violation(format!("{} pieces of blocking work panicked", sim.panicked_work())));
    }
    let (trace_hash, elapsed) = (sim.trace_hash(), sim.elapsed());
    // Destructors of what was cut short may panic too; the panic that counts is in the report.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(sim)));
    Report { violations, operations: record.take(), trace_hash, elapsed }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word").to_owned()
}

/// Which nodes answered when: for each moment at which that changed, those that do from then on.
pub(crate) type Watch = Vec<(Duration, BTreeSet<u32>)>;

struct Run {
    control: Control,
    plan: Arc<Plan>,
    cluster: TestCluster,
    record: Record,
    watch: Arc<Mutex<Watch>>,
}

impl Run {
    fn new(sim: &Sim, plan: &Plan, mutants: Mutants, record: &Record) -> Self {
        let Plan { cache_bytes, page_cache_bytes, backlog_bytes, segment_bytes, .. } = *plan;
        let Plan { value_bytes_min, garbage_bytes_min, .. } = *plan;
        let cluster = TestCluster::with_config(
            sim,
            plan.shape,
            move |builder| builder.service::<KvVnode>(VnodeConfig { mutants }),
            move |_, config| {
                config.mutants = mutants;
                config.store.cache_bytes = cache_bytes;
                config.store.page_cache_bytes = page_cache_bytes;
                // Now and then dense enough to be wrong.
                config.store.filter_bytes = 4 << 10;
                config.store.backlog_bytes_max = backlog_bytes;
                config.store.log.segment_bytes = segment_bytes;
                config.store.log.log_bytes_max = segment_bytes * 8;
                config.store.log.value_bytes_min = value_bytes_min;
                config.store.log.garbage_bytes_min = garbage_bytes_min;
            },
        );
        let (plan, record) = (Arc::new(plan.clone()), record.clone());
        Self { control: sim.control(), plan, cluster, record, watch: Arc::default() }
    }

    async fn play(self) -> Vec<Violation> {
        self.control.net().set_links(self.plan.link.clone());
        self.cluster.form().await;
        let owners = self.owners();
        let watching = self.spawn_watch();
        let until = self.control.elapsed() + FAULTS;
        let mut workers = Vec::new();
        for number in 0..self.plan.clients {
            let worker = Worker::new(&self.cluster, &self.record, &self.plan, number);
            let (done, ended) = tokio::sync::oneshot::channel();
            self.control.spawn("client", async move {
                worker.run(until).await;
                let _ = done.send(());
            });
            workers.push(ended);
        }
        self.plan.schedule.play(&self.cluster, &self.plan.link).await;
        for worker in workers {
            // A worker that panicked has ended the whole simulation.
            let _ = worker.await;
        }
        let mut violations = Vec::new();
        let mut out = match self.heal().await {
            Ok(out) => out,
            Err(violation) => return vec![violation],
        };
        violations.extend(self.write_through_all(&out).await);
        if let Err(unsettled) = self.cluster.settle_without(&out).await {
            violations.push(Violation(unsettled.to_string()));
        }
        out.extend(self.still_refilled(&out));
        let handed_over = match self.rows(&out).await {
            Ok(rows) => rows,
            Err(violation) => {
                violations.push(violation);
                Vec::new()
            }
        };
        let (rows, reads) = self.agree(&owners, &out).await;
        watching.abort();
        violations.extend(reads);
        let evidence = Evidence {
            plan: &self.plan,
            operations: &self.record.peek(),
            owners: &owners,
            watch: &self.watch.lock().unwrap_or_else(PoisonError::into_inner),
            out: &out,
            handed_over: &handed_over,
            rows: &rows,
        };
        violations.extend(check::all(&evidence));
        violations
    }

    /// The owners of each key.
    fn owners(&self) -> BTreeMap<Key, BTreeSet<u32>> {
        let of = |key: Key| (key, self.cluster.owners_of(position(key)).into_iter().collect());
        (0..self.plan.keys()).map(of).collect()
    }

    fn spawn_watch(&self) -> rondel_core::env::TaskHandle {
        let (cluster, watch) = (self.cluster.clone(), self.watch.clone());
        self.control.spawn("watch", async move {
            let mut starts = BTreeMap::new();
            loop {
                // Who is there again since the last look was away in between.
                let mut is_same = |node| {
                    let now = cluster.control().starts(node);
                    starts.insert(node, now).is_none_or(|before| before == now)
                };
                let mut nodes = cluster.nodes();
                nodes.retain(|node| is_same(*node) && cluster.answers_members(*node));
                let serving: BTreeSet<u32> = nodes.into_iter().collect();
                let now = cluster.control().elapsed();
                {
                    let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
                    if watch.last().is_none_or(|(_, before)| *before != serving) {
                        watch.push((now, serving));
                    }
                }
                cluster.control().sleep(WATCH_EVERY).await;
            }
        })
    }

    /// Brings every node back that can come back; gives those that stay out, as they must.
    async fn heal(&self) -> Result<Vec<u32>, Violation> {
        let cluster = &self.cluster;
        let wiped = self.plan.schedule.empties();
        let destroyed = self.plan.schedule.destroys();
        let until = self.control.elapsed() + RETURN_MAX;
        for node in cluster.nodes() {
            if !self.control.is_running(node) || cluster.refusal(node).is_some() {
                cluster.restart(node);
            }
        }
        loop {
            let missing: Vec<u32> =
                cluster.nodes().into_iter().filter(|node| !cluster.is_serving(*node)).collect();
            for node in missing.iter().filter(|node| !destroyed.contains(node)) {
                if let Some(why) = cluster.refusal(*node) {
                    let text = format!("node {node} has lost nothing and does not come back: {why}");
                    return Err(Violation(text));
                }
            }
            let settled = missing.iter().all(|node| {
                destroyed.contains(node) && (wiped.contains(node) || cluster.refusal(*node).is_some())
            });
            if settled {
                break;
            }
            if self.control.elapsed() > until {
                return Err(Violation(format!("nodes {missing:?} do not come back, and do not say why")));
            }
            self.control.sleep(Duration::from_millis(200)).await;
        }
        // A returning node may yet be recognised as what it is.
        self.control.sleep(Duration::from_secs(10)).await;
        if let Some(node) = wiped.into_iter().find(|node| cluster.is_serving(*node)) {
            return Err(Violation(format!("node {node} serves on an emptied disk")));
        }
        let out: Vec<u32> = cluster.nodes().into_iter().filter(|node| !cluster.is_serving(*node)).collect();
        match out.iter().find(|node| !destroyed.contains(node)) {
            Some(node) => Err(Violation(format!("node {node} has lost nothing and has withdrawn"))),
            None => Ok(out),
        }
    }

    /// Every node takes writes again.
    async fn write_through_all(&self, out: &[u32]) -> Vec<Violation> {
        let mut worker = Worker::new(&self.cluster, &self.record, &self.plan, u32::MAX);
        let mut violations = Vec::new();
        for node in self.cluster.nodes().into_iter().filter(|node| !out.contains(node)) {
            let until = self.control.elapsed() + UNREADABLE_MAX;
            let mut done = false;
            while !done && self.control.elapsed() < until {
                write_through(&mut worker, node, 0).await;
                done = self.record.last_is_done();
                self.control.sleep(Duration::from_secs(1)).await;
            }
            if !done {
                violations.push(Violation(format!("node {node} takes no writes though all is healed")));
            }
        }
        violations
    }

    /// Reads every key, with all owners that are left, until all of them are equal.
    async fn agree(
        &self,
        owners: &BTreeMap<Key, BTreeSet<u32>>,
        out: &[u32],
    ) -> (Vec<FinalRow>, Vec<Violation>) {
        let mut worker = Worker::new(&self.cluster, &self.record, &self.plan, u32::MAX);
        let mut keys: BTreeSet<Key> = owners.keys().copied().collect();
        let mut violations = Vec::new();
        for round in 1.. {
            for key in std::mem::take(&mut keys) {
                let left = owners[&key].iter().filter(|owner| !out.contains(owner)).count();
                let left = u8::try_from(left).unwrap_or(u8::MAX);
                if left > 0 && !self.read(&mut worker, key, left).await {
                    violations.push(Violation(format!("key {key} can't be read though all is healed")));
                }
            }
            self.control.sleep(REPAIR_WAIT).await;
            let rows = match self.rows(out).await {
                Ok(rows) => rows,
                Err(violation) => {
                    violations.push(violation);
                    return (Vec::new(), violations);
                }
            };
            keys.extend(check::unequal(&rows, owners, out).into_keys());
            if keys.is_empty() || round >= ROUNDS_MAX || !violations.is_empty() {
                return (rows, violations);
            }
        }
        unreachable!("rounds are bounded")
    }

    async fn read(&self, worker: &mut Worker, key: Key, owners: u8) -> bool {
        let until = self.control.elapsed() + UNREADABLE_MAX;
        while self.control.elapsed() < until {
            read_all(worker, key, owners).await;
            if self.record.last_is_done() {
                return true;
            }
            self.control.sleep(Duration::from_secs(1)).await;
        }
        false
    }

    /// Nodes that wait for owners that stay out, to get back from them what was lost with a file: nothing is certain of what
    /// they hold.
    fn still_refilled(&self, out: &[u32]) -> Vec<u32> {
        let lacks = |node: &u32| {
            let cluster = self.cluster.running(*node);
            cluster.is_some_and(|cluster| cluster.status().store.stats.gap_ppm > 0)
        };
        let waits = |node: &u32| !out.is_empty() && !out.contains(node) && lacks(node);
        self.cluster.nodes().into_iter().filter(waits).collect()
    }

    /// What every node that is left keeps.
    async fn rows(&self, out: &[u32]) -> Result<Vec<FinalRow>, Violation> {
        let mut rows = Vec::new();
        for node in self.cluster.nodes().into_iter().filter(|node| !out.contains(node)) {
            let kept = self.cluster.rows(node).await;
            let kept = kept.map_err(|error| {
                Violation(format!("the rows of node {node} can't be read at the end: {error}"))
            })?;
            for row in kept.iter().filter(|row| !has_damaged_key(row)) {
                rows.push(final_row(node, row)?);
            }
        }
        Ok(rows)
    }
}

/// Whether the key has rotted with its row: then it stands where that key does not belong.
fn has_damaged_key(row: &StoredRow) -> bool {
    let is_unreadable = matches!(row.kind, RowKind::Item { row: Err(_), .. });
    is_unreadable && key_of(row).is_none_or(|key| position(key) != row.position)
}

fn position(key: Key) -> Position {
    let bucket = bucket();
    position_of(&[bucket.kind(), bucket.name(), &key_bytes(key)])
}

fn key_of(row: &StoredRow) -> Option<Key> {
    let digits = row.key.split(|byte| *byte == b'-').next_back()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn final_row(node: u32, row: &StoredRow) -> Result<FinalRow, Violation> {
    let Some(key) = key_of(row) else {
        return Err(Violation(format!("node {node} keeps a row that nobody wrote: {:?}", row.key)));
    };
    let (mut kept, mut siblings, mut context) = (check::Kept::Hint, Vec::new(), None);
    if let RowKind::Item { owned, row: item } = &row.kind {
        kept = if *owned { check::Kept::Owned } else { check::Kept::Stray };
        match item.as_ref().map(|row| &row.body) {
            Ok(Body::Item(bytes)) => {
                let object = object(bytes)
                    .map_err(|what| Violation(format!("node {node} keeps {what} under key {key}")))?;
                siblings = object.0;
                context = Some(object.1);
            }
            Ok(Body::Hole) | Err(_) => kept = check::Kept::Unreadable,
        }
    }
    Ok(FinalRow { node, key, kept, siblings, context })
}

fn object(bytes: &Bytes) -> Result<(Vec<super::history::Seen>, rondel_kv::Context), String> {
    let object = Msg::<Object>::from_bytes(bytes.clone()).map_err(|bad| bad.to_string())?;
    Ok((value::siblings(&view(&object, 0))?, Object::context(&object)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_takes_the_same_course_twice() {
        let plan = Plan::draw(3);
        let (one, two) = (run(&plan, Mutants::default(), None), run(&plan, Mutants::default(), None));
        assert_eq!(one.trace_hash, two.trace_hash);
        assert!(one.operations.len() > 50, "{} operations", one.operations.len());
    }
}
