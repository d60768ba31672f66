//! What a store on disk holds after it has lost power, or was killed, at any moment.
//!
//! A run goes through several lives of one store on a simulated disk. In each, batches are applied until the power is
//! cut in the middle of some change of the disk, or at some time, or the process is killed, or the disk fails, or the
//! store is closed.
//! It may die while it opens, too, or its directory may be put back to what it was some time before. Whenever it opens, it must hold exactly what some batch of the life before left,
//! none before the last that was reported durable, and that batch whole.

use super::{Model, apply, collect, random_key, random_write, whole};
use crate::{
    env::{BoxFuture, Env, Rng},
    store::{Lsn, OpenError, Peek, Progress, Store, StoreError, Write},
    testing::{CrashMode, DiskImage, Sim},
};
use bytes::Bytes;
use std::{sync::Arc, task::Poll, time::Duration};
use tokio::sync::watch;

/// Opens the store under test in a process of its own.
pub type OpenIn = dyn Fn(Env) -> BoxFuture<Result<Arc<dyn Store>, OpenError>>;

const NODE: u32 = 0;
const LIVES: u64 = 8;

/// What a run has come across: a suite of runs in which nothing was ever at stake proves nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CrashReport {
    /// Lives that ended by a cut of the power or by being killed.
    pub deaths: u64,
    /// Openings that did not finish.
    pub died_opening: u64,
    /// Openings that found batches which had not been reported durable.
    pub found_more: u64,
    /// Openings that found less than what had been applied.
    pub found_less: u64,
    /// Lives in which an error of the disk stopped the store.
    pub failed: u64,
    /// Lives after which the disk was put back to an earlier state.
    pub rolled_back: u64,
}

impl CrashReport {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            deaths: self.deaths + other.deaths,
            died_opening: self.died_opening + other.died_opening,
            found_more: self.found_more + other.found_more,
            found_less: self.found_less + other.found_less,
            failed: self.failed + other.failed,
            rolled_back: self.rolled_back + other.rolled_back,
        }
    }

    /// Lives that ended otherwise than in order, and openings among them.
    #[must_use]
    pub fn crashes(&self) -> u64 {
        self.deaths + self.died_opening
    }
}

/// One run, decided by its seed. `mode` says what a cut of the power leaves of the unsynced.
///
/// # Panics
/// If the store does not hold what it should.
pub fn crash(seed: u64, mode: CrashMode, open: &OpenIn) -> CrashReport {
    let sim = Sim::new(seed);
    let rng = sim.rng("crash");
    let mut lives = Lives {
        sim: &sim,
        mode,
        open,
        states: vec![Model::new()],
        numbers: vec![Lsn(0)],
        durable: 0,
        kept: None,
        uniform: seed.is_multiple_of(2),
        rng,
        report: CrashReport::default(),
    };
    sim.run_until(async {
        for _ in 0..LIVES {
            lives.live().await;
        }
        lives.sim.cut_power_after(NODE, u64::MAX, mode);
        assert!(lives.reopen().await.is_some(), "with the power on, the store opens");
    });
    lives.report
}

struct Lives<'a> {
    sim: &'a Sim,
    mode: CrashMode,
    open: &'a OpenIn,
    /// What the store held at the beginning of the last life, and after each of its batches.
    states: Vec<Model>,
    /// Of the batch that each of them came with.
    numbers: Vec<Lsn>,
    /// The first of the states that the store may come back with.
    durable: usize,
    /// The disk of an earlier moment, and what a store may hold that is opened on it.
    kept: Option<(DiskImage, Vec<Model>, usize)>,
    /// Rows differ in length by that of a seal: what is written over a group then often ends where one of its rows did.
    uniform: bool,
    rng: Rng,
    report: CrashReport,
}

impl Lives<'_> {
    async fn live(&mut self) {
        let armed = self.rng.chance(0.4);
        // Without one to come, whatever cut the life before had left to come is put off for ever.
        let cut_after = if armed { self.rng.below(120) } else { u64::MAX };
        self.sim.cut_power_after(NODE, cut_after, self.mode);
        let Some(store) = self.reopen().await else {
            assert!(armed, "the store does not open though the power is on");
            return;
        };
        if !armed && self.rng.chance(0.5) {
            self.sim.cut_power_after(NODE, self.rng.below(400), self.mode);
        }
        let faulty = !armed && self.rng.chance(0.25);
        if faulty {
            let disk = self.sim.disk(NODE);
            disk.set_write_error_chance(0.02);
            disk.set_read_error_chance(0.002);
        }
        let progress = store.progress();
        self.work(&*store, &progress).await;
        if faulty {
            self.assert_stopped(&*store, &progress).await;
            let disk = self.sim.disk(NODE);
            disk.set_write_error_chance(0.0);
            disk.set_read_error_chance(0.0);
        }
        if self.sim.is_running(NODE) {
            self.end(&*store).await;
        }
        self.report.deaths += 1;
        // What was reported before it died counts, and nothing after.
        self.durable = self.reported(&progress);
        if self.rng.chance(0.2)
            && let Some((image, states, durable)) = self.kept.take()
        {
            self.sim.disk(NODE).restore(&image);
            (self.states, self.durable) = (states, durable);
            self.report.rolled_back += 1;
        }
    }

    /// Opens the store and checks what it holds. `None` if it died over that.
    async fn reopen(&mut self) -> Option<Arc<dyn Store>> {
        let env = self.sim.node_env(NODE);
        let opened = self.unless_died(async {
            let store = (self.open)(env).await.map_err(|error| error.to_string())?;
            let rows = collect(&*store).await.map_err(|error| error.to_string())?;
            let keys: Vec<_> = rows.keys().cloned().collect();
            let read = store.read(keys.clone()).await.map_err(|error| error.to_string())?;
            assert!(rows.values().eq(read.iter().flatten()), "each row that a walk shows can be read");
            let denied = keys.iter().find(|at| store.peek(at) == Peek::Known(None));
            assert_eq!(denied, None, "memory denies a row that is there");
            Ok((store, rows))
        });
        let opened = opened.await.unwrap_or_else(|| Err("died".to_owned()));
        let (store, rows) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                assert!(self.is_dying().await, "{error}");
                self.report.died_opening += 1;
                return None;
            }
        };
        let found = self.states.iter().rposition(|state| *state == rows);
        let Some(found) = found.filter(|found| *found >= self.durable) else {
            panic!(
                "after {} of {} batches were durable, the store holds {}",
                self.durable,
                self.states.len() - 1,
                found.map_or("what it never held".to_owned(), |found| format!("only {found}")),
            );
        };
        self.report.found_more += u64::from(found > self.durable);
        self.report.found_less += u64::from(found + 1 < self.states.len());
        (self.states, self.numbers) = (vec![rows], vec![Lsn(0)]);
        self.durable = 0;
        Some(store)
    }

    /// Applies batches and looks at rows until the store dies or enough is done.
    async fn work(&mut self, store: &dyn Store, progress: &watch::Receiver<Progress>) {
        // Short lives are many: what the one before left half written is then not yet written over.
        let batches = if self.rng.chance(0.3) { self.rng.below(3) } else { self.rng.below(120) };
        for _ in 0..batches {
            if !self.sim.is_running(NODE) {
                return;
            }
            let batch = self.batch();
            let mut model = self.states.last().cloned().unwrap_or_default();
            for write in &batch {
                match &write.value {
                    Some(value) => model.insert(write.at.clone(), value.clone()),
                    None => model.remove(&write.at),
                };
            }
            let Ok(lsn) = apply(store, batch) else { return };
            assert!(self.numbers.last().is_some_and(|last| *last < lsn), "batches are numbered in order");
            self.states.push(model);
            self.numbers.push(lsn);
            match self.rng.below(10) {
                0..3 => self.sim.sleep(Duration::from_micros(self.rng.below(4000))).await,
                3 => {
                    let mut progress = progress.clone();
                    let settled = async move {
                        let _ = progress.wait_for(|now| now.durable >= lsn || now.failed.is_some()).await;
                    };
                    self.unless_died(settled).await;
                }
                4 => self.look(store).await,
                5 if self.rng.chance(0.1) => {
                    let image = self.sim.disk(NODE).snapshot();
                    self.kept = Some((image, self.states.clone(), self.reported(progress)));
                }
                _ => {}
            }
        }
    }

    /// If the disk has failed the store, it has stopped for good.
    async fn assert_stopped(&mut self, store: &dyn Store, progress: &watch::Receiver<Progress>) {
        let stopped = progress.borrow().clone();
        if stopped.failed.is_none() || !self.sim.is_running(NODE) {
            return;
        }
        self.report.failed += 1;
        let at = random_key(&mut self.rng);
        let batch = self.batch();
        assert!(
            matches!(store.apply(batch), Err(StoreError::Stopped)),
            "a store that has stopped takes nothing"
        );
        let range = whole(at.table);
        assert!(self.unless_died(store.range(range)).await.is_none_or(|slice| slice.is_err()));
        assert!(self.unless_died(store.close()).await.is_none_or(|closed| closed.is_err()));
        assert_eq!(progress.borrow().durable, stopped.durable, "nothing becomes durable any more");
    }

    async fn look(&mut self, store: &dyn Store) {
        let at = random_key(&mut self.rng);
        let expected = self.states.last().and_then(|state| state.get(&at)).cloned();
        let row = match store.peek(&at) {
            Peek::Known(row) => row,
            Peek::Unknown => match self.unless_died(store.read(vec![at.clone()])).await {
                Some(Ok(mut rows)) => rows.pop().flatten(),
                Some(Err(_)) | None => return,
            },
        };
        assert_eq!(row, expected, "{at:?}");
    }

    fn batch(&mut self) -> Vec<Write> {
        let rows = if self.uniform { 2 } else { 1 + self.rng.below(6) };
        let mut batch: Vec<_> = (0..rows).map(|_| random_write(&mut self.rng)).collect();
        if self.uniform {
            let state = self.states.len();
            for (number, write) in batch.iter_mut().enumerate() {
                let len = if self.rng.chance(0.5) { 25 } else { 50 };
                write.at.key = Bytes::from(format!("key {:04} {number}", self.rng.below(20)));
                write.value = Some(Bytes::from(format!("{state:08} {:016x}{:len$}", self.rng.u64(), "")));
            }
        }
        batch
    }

    /// Ends a life that has not ended by itself.
    async fn end(&mut self, store: &dyn Store) {
        match self.rng.below(6) {
            0 => {
                if let Some(Ok(())) = self.unless_died(store.close()).await {
                    let durable = store.progress().borrow().durable;
                    assert!(self.numbers.last() <= Some(&durable), "closing makes everything durable");
                }
                self.sim.kill(NODE);
            }
            1 => self.sim.kill(NODE),
            _ => self.sim.crash(NODE, self.mode),
        }
    }

    /// The last of the states that were reported durable.
    fn reported(&self, progress: &watch::Receiver<Progress>) -> usize {
        let durable = progress.borrow().durable;
        self.numbers.partition_point(|number| *number <= durable).saturating_sub(1)
    }

    /// The future's value, unless the node dies first.
    async fn unless_died<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = std::pin::pin!(future);
        let mut died = std::pin::pin!(self.sim.died(NODE));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(value));
            }
            died.as_mut().poll(cx).map(|()| None)
        })
        .await
    }

    /// Whether the node is dead, or soon will be: the simulator deals with a power cut a little later.
    async fn is_dying(&self) -> bool {
        self.unless_died(self.sim.sleep(Duration::from_secs(60))).await.is_none()
    }
}
