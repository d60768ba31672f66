//! Many seeds, on as many threads as there are cores.

use super::{
    plan::Plan,
    run::{Report, run},
};
use rondel_core::mutant::Mutants;
use std::{
    collections::BTreeMap,
    fmt, fs, io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How often a sweep says how far it has got.
const PROGRESS_EVERY: u64 = 50;

/// How far a sweep goes.
pub(super) struct Limits {
    pub(super) from: u64,
    pub(super) runs: u64,
    pub(super) seconds: Option<u64>,
    /// After so many failures no more runs are begun.
    pub(super) failures_max: usize,
}

/// A run and what it cost.
pub(super) struct Timed {
    pub(super) report: Report,
    cpu: Duration,
}

impl Timed {
    pub(super) fn summary(&self) -> String {
        let Self { report, cpu } = self;
        let done = report.operations.iter().filter(|operation| operation.is_done()).count();
        format!(
            "{} operations, {done} of them done; {:.1} simulated seconds in {:.2} s of CPU: {:.0} a second",
            report.operations.len(),
            report.elapsed.as_secs_f64(),
            cpu.as_secs_f64(),
            report.elapsed.as_secs_f64() / cpu.as_secs_f64().max(1e-9),
        )
    }
}

/// What a sweep came to.
#[derive(Default)]
pub(super) struct Swept {
    pub(super) runs: u64,
    pub(super) failed: Vec<(Plan, Report)>,
    /// Seeds that fail without the mutant too: they tell nothing of it.
    pub(super) unsound: Vec<u64>,
    operations: usize,
    done: usize,
    cost: Cost,
    /// By the number of nodes.
    costs: BTreeMap<u32, Cost>,
}

/// What simulating took.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    runs: u64,
    simulated: Duration,
    cpu: Duration,
}

impl Cost {
    fn add(&mut self, simulated: Duration, cpu: Duration) {
        self.runs += 1;
        self.simulated += simulated;
        self.cpu += cpu;
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (simulated, cpu) = (self.simulated.as_secs_f64(), self.cpu.as_secs_f64());
        write!(
            out,
            "{simulated:.0} simulated seconds in {cpu:.0} s of CPU: {:.0} a second",
            simulated / cpu.max(1e-9)
        )
    }
}

impl Swept {
    /// What simulating took, for each size of cluster.
    pub(super) fn costs(&self) -> impl Iterator<Item = String> {
        self.costs.iter().map(|(nodes, cost)| format!("{} runs of {nodes} nodes: {cost}", cost.runs))
    }
}

impl fmt::Display for Swept {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, failed, operations, done, cost, .. } = self;
        write!(
            out,
            "{runs} runs, {} failed; {operations} operations, {done} of them done; {cost}",
            failed.len()
        )
    }
}

/// Runs a plan, and measures the CPU time of this thread.
pub(super) fn timed(plan: &Plan, mutants: Mutants, log: Option<Box<dyn io::Write + Send>>) -> Timed {
    let before = cpu_time();
    let report = run(plan, mutants, log);
    Timed { report, cpu: cpu_time().saturating_sub(before) }
}

/// What this thread has spent on a processor so far; zero where the kernel does not say.
fn cpu_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}

/// Runs seed after seed. With a mutant, a seed counts as failed only if it does not fail without.
pub(super) fn sweep(limits: &Limits, mutants: Mutants, progress: &(dyn Fn(&Swept) + Sync)) -> Swept {
    #[expect(clippy::disallowed_methods, reason = "a sweep is bounded in real time")]
    let began = Instant::now();
    let (next, swept) = (AtomicU64::new(0), Mutex::new(Swept::default()));
    let go_on = || {
        let failures = swept.lock().unwrap_or_else(PoisonError::into_inner).failed.len();
        let in_time = limits.seconds.is_none_or(|seconds| began.elapsed().as_secs() < seconds);
        failures < limits.failures_max && in_time
    };
    let work = || {
        while go_on() {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= limits.runs {
                return;
            }
            let plan = Plan::draw(limits.from.wrapping_add(index));
            let timed = timed(&plan, mutants, None);
            let sound = || run(&plan, Mutants::default(), None).violations.is_empty();
            let counts = timed.report.violations.is_empty() || mutants == Mutants::default() || sound();
            let mut swept = swept.lock().unwrap_or_else(PoisonError::into_inner);
            swept.add(plan, timed, counts);
            if swept.runs.is_multiple_of(PROGRESS_EVERY) {
                progress(&swept);
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut swept = swept.into_inner().unwrap_or_else(PoisonError::into_inner);
    swept.failed.sort_by_key(|(plan, _)| plan.seed);
    swept.unsound.sort_unstable();
    swept
}

impl Swept {
    fn add(&mut self, plan: Plan, Timed { report, cpu }: Timed, counts: bool) {
        self.runs += 1;
        self.operations += report.operations.len();
        self.done += report.operations.iter().filter(|operation| operation.is_done()).count();
        self.cost.add(report.elapsed, cpu);
        self.costs.entry(plan.shape.nodes).or_default().add(report.elapsed, cpu);
        if !counts {
            self.unsound.push(plan.seed);
        } else if !report.violations.is_empty() {
            self.failed.push((plan, report));
        }
    }
}
