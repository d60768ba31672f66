//! What a test, or a task of it, can do to the world.

use super::{
    CrashMode, Net, SimDisk, World, lock,
    process::{Machine, Process, ProcessEnv},
    stream,
    trace::Event,
};
use crate::env::{BoxFuture, Env, Rng, TaskHandle};
use std::{
    fmt,
    future::Future,
    io,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// What the calendar clocks of all machines say when a simulation begins: 2027-01-15.
const UNIX_EPOCH: Duration = Duration::from_secs(1_800_000_000);

/// A hand on the world. Cheap to clone; may be moved into tasks.
#[derive(Clone)]
pub struct Control(Arc<World>);

impl Control {
    pub(super) fn new(world: Arc<World>) -> Self {
        Self(world)
    }

    pub(super) fn world(&self) -> &Arc<World> {
        &self.0
    }

    /// The seed that all of this follows from.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// The time, as every node's monotonic clock has it.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.0.clock.now()
    }

    /// Virtual time since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.0.clock.nanos())
    }

    /// Ready after some virtual time.
    pub fn sleep(&self, duration: Duration) -> BoxFuture {
        Box::pin(self.0.sleep(duration))
    }

    /// Runs a task of the test's own, which belongs to no node: a client, a nemesis.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> TaskHandle {
        self.0.spawn(name, None, Box::pin(task))
    }

    /// A stream of random numbers for one purpose. The same seed and label give the same numbers.
    #[must_use]
    pub fn rng(&self, label: &str) -> Rng {
        stream(self.0.seed, label, 1)
    }

    /// The network.
    #[must_use]
    pub fn net(&self) -> Net {
        Net(self.clone())
    }

    /// The disk of a node. It is there from the beginning and outlives every process.
    #[must_use]
    pub fn disk(&self, node: u32) -> SimDisk {
        self.machine(node).disk.clone()
    }

    // Processes.

    /// Starts a new process on a node, and gives the world as it sees it.
    ///
    /// Earlier processes of the node go on, as two processes on one machine would: [`Control::kill`] them first if
    /// that is not the point.
    #[must_use]
    pub fn node_env(&self, node: u32) -> Env {
        let machine = self.machine(node);
        let id = self.0.processes.fetch_add(1, Ordering::Relaxed);
        let process = Arc::new(Process::new(id, machine.clone(), stream(self.0.seed, "entropy", id)));
        lock(&machine.state).processes.push(process.clone());
        self.0.record(&Event::Start { node, process: id });
        Env::new(Arc::new(ProcessEnv { world: self.0.clone(), process }))
    }

    /// Starts a process on a node that runs `boot`, now and after each [`Control::restart`].
    pub fn start<F>(&self, node: u32, boot: impl Fn(Env) -> F + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        lock(&self.machine(node).state).boot = Some(Arc::new(move |env| Box::pin(boot(env))));
        self.boot(node);
    }

    /// Kills what runs on a node, if anything does, and starts anew what [`Control::start`] was given.
    ///
    /// # Panics
    /// If the node was never started.
    pub fn restart(&self, node: u32) {
        self.kill(node);
        self.boot(node);
    }

    fn boot(&self, node: u32) {
        let machine = self.machine(node);
        let mut state = lock(&machine.state);
        state.starts += 1;
        let boot = state.boot.clone();
        drop(state);
        let boot = boot.expect("a node is restarted after it was started");
        let env = self.node_env(node);
        env.spawn("boot", boot(env.clone()));
    }

    /// Ends the processes of a node as SIGKILL does: tasks are dropped, sockets vanish, what was written stays.
    pub fn kill(&self, node: u32) {
        self.kill_machine(&self.machine(node));
    }

    /// Cuts the power of a node: as [`Control::kill`], and its disk loses of the unsynced what the mode says.
    pub fn crash(&self, node: u32, mode: CrashMode) {
        let machine = self.machine(node);
        self.kill_machine(&machine);
        machine.disk.crash(mode);
    }

    /// Cuts the power of a node in the middle: its next `operations` changes of the disk happen, and with the one
    /// after them all is dark. [`Control::died`] tells when.
    pub fn cut_power_after(&self, node: u32, operations: u64, mode: CrashMode) {
        self.machine(node).disk.cut_after(operations, mode);
    }

    /// Stops the tasks of a node as SIGSTOP does: nothing of it runs, datagrams pile up, timers are late.
    pub fn pause(&self, node: u32) {
        self.machine(node).pause();
        self.0.record(&Event::Pause { node });
    }

    /// Lets the tasks of a node go on.
    pub fn resume(&self, node: u32) {
        let parked = self.machine(node).resume();
        self.0.record(&Event::Resume { node });
        self.0.tasks.unpark(parked);
    }

    /// How often the software of a node has been started: it may have ended and be there again before anybody looks.
    #[must_use]
    pub fn starts(&self, node: u32) -> u64 {
        lock(&self.machine(node).state).starts
    }

    /// Whether any process lives on a node.
    #[must_use]
    pub fn is_running(&self, node: u32) -> bool {
        self.machine(node).is_running()
    }

    /// Ready when no process lives on a node.
    pub async fn died(&self, node: u32) {
        loop {
            let death = self.0.deaths.notified();
            if !self.is_running(node) {
                return;
            }
            death.await;
        }
    }

    /// Sets the calendar clock of a node, forwards or back. It goes on from there.
    pub fn set_unix_time(&self, node: u32, time: Duration) {
        let elapsed = i128::from(self.0.clock.nanos());
        let epoch = i128::try_from(time.as_nanos()).unwrap_or(i128::MAX).saturating_sub(elapsed);
        lock(&self.machine(node).state).unix_epoch_nanos = epoch;
        self.0.record(&Event::SetClock { node, millis: time.as_millis() });
    }

    /// The names of the tasks that live on a node, to find leaks.
    #[must_use]
    pub fn tasks(&self, node: u32) -> Vec<String> {
        self.0.tasks.names(node)
    }

    /// How many pieces of blocking work have panicked. In production nobody else would notice.
    #[must_use]
    pub fn panicked_work(&self) -> u64 {
        self.0.panicked_work.load(Ordering::Relaxed)
    }

    // The trace.

    /// A hash of all that has happened so far. Equal for equal runs.
    #[must_use]
    pub fn trace_hash(&self) -> [u8; 32] {
        *self.0.trace.hash().as_bytes()
    }

    /// Adds an event of the test's own to the trace: an acknowledged write, a check that passed.
    pub fn note(&self, text: &str) {
        self.0.record(&Event::Note { text });
    }

    /// Keeps the last lines of what happens from now on, for [`Control::log`].
    pub fn keep_log(&self, lines_max: usize) {
        self.0.trace.keep(lines_max);
    }

    /// The lines that were kept.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.0.trace.kept()
    }

    /// Writes a line for everything that happens from now on.
    pub fn log_to(&self, writer: impl io::Write + Send + 'static) {
        self.0.trace.write_to(Box::new(writer));
    }

    /// Ends everything; forgets how nodes are started, since that may hold on to this world.
    pub(super) fn kill_all(&self) {
        let machines: Vec<_> = lock(&self.0.machines).values().cloned().collect();
        for machine in machines {
            self.kill_machine(&machine);
            let boot = lock(&machine.state).boot.take();
            drop(boot);
        }
    }

    fn kill_machine(&self, machine: &Machine) {
        self.0.kill_machine(machine);
    }

    fn machine(&self, node: u32) -> Arc<Machine> {
        let world = &self.0;
        let mut machines = lock(&world.machines);
        let new = || {
            let rng = stream(world.seed, "disk", u64::from(node));
            let disk = SimDisk::new(node, rng, world.clock.clone(), world.trace.clone());
            Arc::new(Machine::new(node, disk, i128::try_from(UNIX_EPOCH.as_nanos()).unwrap_or(i128::MAX)))
        };
        machines.entry(node).or_insert_with(new).clone()
    }
}

impl World {
    fn kill_machine(&self, machine: &Machine) {
        // A paused machine that is killed and started again is not paused.
        let parked = machine.resume();
        let processes = std::mem::take(&mut lock(&machine.state).processes);
        processes.iter().for_each(|process| self.end_process(process));
        self.tasks.unpark(parked);
        self.deaths.notify_waiters();
    }

    /// Deals with a power cut that came in the middle of a disk operation.
    pub(super) fn finish_power_cut(&self, machine: &Machine) {
        if let Some(mode) = machine.disk.cut_mode() {
            self.kill_machine(machine);
            machine.disk.crash(mode);
        }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Control").field("seed", &self.seed()).field("elapsed", &self.elapsed()).finish()
    }
}
