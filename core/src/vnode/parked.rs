//! Jobs that wait for rows which only the disk knows, and the loads that fetch those rows.
//!
//! A job waits under the row that it is about, behind the jobs on that row that came before it; all rows that it needs
//! come with one load, however many they are. While a load is on its way the lane goes on, also with these rows: what
//! it writes meanwhile is newer than what the load will bring, and is what the job is given.

use super::job::Job;
use crate::store::RowKey;
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;

/// Rows that are asked for at once; a job with more of them still gets all in one load.
const LOAD_ROWS_MAX: usize = 256;

/// From so many on, a lane takes up nothing new: its mailbox fills, and says so to those who ask.
const PARKED_JOBS_MAX: usize = 4_096;

/// Rows as they are once a load has come.
pub(super) type Fetched = FxHashMap<RowKey, Option<Bytes>>;

#[derive(Default)]
pub(super) struct Parked {
    /// In the order in which they came.
    jobs: FxHashMap<RowKey, Vec<Job>>,
    /// Rows to be fetched, those of one job together.
    wanted: VecDeque<Vec<RowKey>>,
    loading: FxHashMap<RowKey, Loading>,
    jobs_count: usize,
}

/// A row on its way.
struct Loading {
    loads: usize,
    /// What has been written since it was asked for.
    written: Option<Option<Bytes>>,
}

impl Parked {
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Whether jobs on this row wait.
    pub(super) fn holds(&self, at: &RowKey) -> bool {
        self.jobs.contains_key(at)
    }

    /// Lets a job wait. `staged` is what is about to be written.
    pub(super) fn park(&mut self, job: Job, staged: &Fetched) {
        if !self.holds(&job.at) {
            let rows: Vec<RowKey> = job.rows().cloned().collect();
            for row in &rows {
                let new = || Loading { loads: 0, written: staged.get(row).cloned() };
                self.loading.entry(row.clone()).or_insert_with(new).loads += 1;
            }
            self.wanted.push_back(rows);
        }
        self.jobs.entry(job.at.clone()).or_default().push(job);
        self.jobs_count += 1;
    }

    /// Whether no further job should be taken up before some of these have their rows.
    pub(super) fn is_full(&self) -> bool {
        self.jobs_count >= PARKED_JOBS_MAX
    }

    /// Notes that a row is written.
    pub(super) fn written(&mut self, at: &RowKey, value: &Option<Bytes>) {
        if let Some(loading) = self.loading.get_mut(at) {
            loading.written = Some(value.clone());
        }
    }

    /// The rows of the next load, if any are wanted.
    pub(super) fn next_load(&mut self) -> Option<Vec<RowKey>> {
        let mut rows = self.wanted.pop_front()?;
        while self.wanted.front().is_some_and(|more| rows.len() + more.len() <= LOAD_ROWS_MAX) {
            rows.extend(self.wanted.pop_front().into_iter().flatten());
        }
        Some(rows)
    }

    /// Takes what a load has brought: the rows as they are now, and the jobs that waited for them.
    pub(super) fn arrived(&mut self, rows: &[RowKey], values: Vec<Option<Bytes>>) -> (Fetched, Vec<Job>) {
        let newest = |(row, value): (&RowKey, _)| (row.clone(), self.landed(row).unwrap_or(value));
        let fetched = rows.iter().zip(values).map(newest).collect();
        (fetched, self.released(rows))
    }

    /// Gives up a load: the jobs that waited for it.
    pub(super) fn failed(&mut self, rows: &[RowKey]) -> Vec<Job> {
        for row in rows {
            self.landed(row);
        }
        self.released(rows)
    }

    /// Counts one load of a row out; what has been written meanwhile.
    fn landed(&mut self, row: &RowKey) -> Option<Option<Bytes>> {
        let loading = self.loading.get_mut(row)?;
        loading.loads -= 1;
        let written = loading.written.clone();
        if loading.loads == 0 {
            self.loading.remove(row);
        }
        written
    }

    fn released(&mut self, rows: &[RowKey]) -> Vec<Job> {
        let released: Vec<Job> = rows.iter().filter_map(|row| self.jobs.remove(row)).flatten().collect();
        self.jobs_count -= released.len();
        released
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        env::Env,
        reply::ReplyTo,
        ring::{Bits, Partition},
        store::TableId,
        vnode::job::Op,
    };
    use rondel_proto::id::{Position, RequestId};

    fn row(key: &'static str) -> RowKey {
        RowKey { table: TableId(1), position: Position(0), key: Bytes::from_static(key.as_bytes()) }
    }

    fn job(env: &Env, at: &'static str, op: Op) -> Job {
        Job {
            service: 0,
            partition: Partition::of(Position(0), Bits::DEFAULT),
            at: row(at),
            op,
            request_id: RequestId::default(),
            n: 3,
            deadline: env.now(),
            reply: ReplyTo::new(drop),
        }
    }

    fn value(value: &'static str) -> Option<Bytes> {
        Some(Bytes::from_static(value.as_bytes()))
    }

    #[tokio::test]
    async fn what_is_written_while_a_load_is_on_its_way_is_what_the_job_is_given() {
        let (env, mut parked) = (Env::production(), Parked::default());
        parked.park(job(&env, "a", Op::Fetch { digest: false }), &Fetched::default());
        let rows = parked.next_load().unwrap();
        parked.written(&row("a"), &value("newer"));
        parked.written(&row("b"), &value("nobody waits for it"));
        let (fetched, jobs) = parked.arrived(&rows, vec![value("older")]);
        assert_eq!((fetched.len(), jobs.len()), (1, 1));
        assert_eq!(fetched[&row("a")], value("newer"));
        assert!(parked.is_empty() && parked.loading.is_empty());
    }

    #[tokio::test]
    async fn what_is_about_to_be_written_when_a_load_is_asked_for_is_newer_too() {
        let (env, mut parked) = (Env::production(), Parked::default());
        let staged = Fetched::from_iter([(row("hint"), value("staged"))]);
        let op = Op::RemoveStray { digest: crate::vnode::Digest(0), hints: vec![row("hint")] };
        parked.park(job(&env, "a", op), &staged);
        let rows = parked.next_load().unwrap();
        assert_eq!(rows, [row("a"), row("hint")], "all rows of a job come with one load");
        let (fetched, _) = parked.arrived(&rows, vec![value("a"), None]);
        assert_eq!(fetched[&row("hint")], value("staged"));
    }

    #[tokio::test]
    async fn jobs_on_a_row_keep_their_order_and_load_it_once() {
        let (env, mut parked) = (Env::production(), Parked::default());
        for digest in [true, false, true] {
            parked.park(job(&env, "a", Op::Fetch { digest }), &Fetched::default());
        }
        parked.park(job(&env, "b", Op::Fetch { digest: false }), &Fetched::default());
        let rows = parked.next_load().unwrap();
        assert_eq!(rows, [row("a"), row("b")]);
        assert_eq!(parked.next_load(), None);
        let digests = |jobs: Vec<Job>| -> Vec<_> {
            jobs.iter().map(|job| matches!(job.op, Op::Fetch { digest: true })).collect()
        };
        assert_eq!(digests(parked.failed(&rows)), [true, false, true, false]);
        assert!(parked.loading.is_empty());
    }
}
