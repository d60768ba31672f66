//! Machines, the processes that run on them, and the [`Env`] that such a process sees.
//!
//! A machine has a node number, an address, a disk and a calendar clock, and outlives its processes. A process has
//! tasks, sockets, open files and a stream of entropy, and ends as a whole. Once dead it can do nothing more: it
//! starts no task, its sockets are gone, its files refuse.

use super::{World, clock, disk::SimDisk, executor::TaskId, lock, quic, tls, trace::Event};
use crate::env::{Backend, BoxFuture, Disk, Env, Rng, TaskHandle};
use quinn::AsyncUdpSocket;
use std::{
    fmt, io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How long blocking work waits for a thread of the pool.
const WORK_DELAY: (Duration, Duration) = (Duration::from_micros(5), Duration::from_micros(80));

/// What stays when a process ends.
pub(super) struct Machine {
    pub(super) node: u32,
    pub(super) disk: SimDisk,
    pub(super) state: Mutex<MachineState>,
    paused: AtomicBool,
    parked: Mutex<Vec<TaskId>>,
}

#[derive(Default)]
pub(super) struct MachineState {
    pub(super) processes: Vec<Arc<Process>>,
    pub(super) boot: Option<Boot>,
    pub(super) starts: u64,
    /// The calendar clock at virtual time zero, in nanoseconds since 1970.
    pub(super) unix_epoch_nanos: i128,
}

/// How the software of a node is started.
pub(super) type Boot = Arc<dyn Fn(Env) -> BoxFuture + Send + Sync>;

impl Machine {
    pub(super) fn new(node: u32, disk: SimDisk, unix_epoch_nanos: i128) -> Self {
        let state = Mutex::new(MachineState { unix_epoch_nanos, ..MachineState::default() });
        Self { node, disk, state, paused: AtomicBool::new(false), parked: Mutex::default() }
    }

    pub(super) fn is_running(&self) -> bool {
        !lock(&self.state).processes.is_empty()
    }

    pub(super) fn pause(&self) {
        self.paused.store(true, Ordering::Relaxed);
    }

    /// Lets tasks run again, and gives those that were set aside.
    pub(super) fn resume(&self) -> Vec<TaskId> {
        self.paused.store(false, Ordering::Relaxed);
        std::mem::take(&mut lock(&self.parked))
    }

    /// Sets a task aside if the machine is paused.
    pub(super) fn park(&self, task: TaskId) -> bool {
        let paused = self.paused.load(Ordering::Relaxed);
        if paused {
            lock(&self.parked).push(task);
        }
        paused
    }
}

/// One run of the software on a machine.
pub(super) struct Process {
    pub(super) id: u64,
    pub(super) machine: Arc<Machine>,
    alive: AtomicBool,
    entropy: Mutex<Rng>,
    /// What its disk operations have cost and no blocking work has waited for yet.
    disk_debt_nanos: AtomicU64,
}

impl Process {
    pub(super) fn new(id: u64, machine: Arc<Machine>, entropy: Rng) -> Self {
        let entropy = Mutex::new(entropy);
        Self { id, machine, alive: AtomicBool::new(true), entropy, disk_debt_nanos: AtomicU64::new(0) }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    pub(super) fn end(&self) {
        self.alive.store(false, Ordering::Relaxed);
    }

    pub(super) fn owe(&self, cost: Duration) {
        self.disk_debt_nanos.fetch_add(clock::nanos(cost), Ordering::Relaxed);
    }

    fn take_debt(&self) -> Duration {
        Duration::from_nanos(self.disk_debt_nanos.swap(0, Ordering::Relaxed))
    }

    fn work_delay(&self) -> Duration {
        lock(&self.entropy).between(WORK_DELAY.0, WORK_DELAY.1)
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Process")
            .field("node", &self.machine.node)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The world as a process sees it.
pub(super) struct ProcessEnv {
    pub(super) world: Arc<World>,
    pub(super) process: Arc<Process>,
}

impl Backend for ProcessEnv {
    fn now(&self) -> Instant {
        self.world.clock.now()
    }

    fn unix_time(&self) -> Duration {
        let epoch = lock(&self.process.machine.state).unix_epoch_nanos;
        let now = epoch + i128::from(self.world.clock.nanos());
        Duration::from_nanos(u64::try_from(now.max(0)).unwrap_or(u64::MAX))
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture {
        Box::pin(self.world.sleep_until(at))
    }

    fn entropy(&self, out: &mut [u8]) {
        let mut entropy = lock(&self.process.entropy);
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&entropy.u64().to_le_bytes()[..chunk.len()]);
        }
    }

    fn spawn(&self, name: &'static str, task: BoxFuture) -> TaskHandle {
        self.world.spawn(name, Some(&self.process), task)
    }

    fn spawn_thread(&self, name: String, task: BoxFuture) -> TaskHandle {
        self.world.spawn(name, Some(&self.process), task)
    }

    /// The work waits a little, happens at one instant, and is known to be done only after the time that its disk
    /// operations take. A crash before finds nothing done; one after, everything done and nobody told; one in the
    /// middle is [`Control::cut_power_after`](super::Control::cut_power_after).
    fn block(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture {
        let (done, finished) = tokio::sync::oneshot::channel();
        let (world, process) = (self.world.clone(), self.process.clone());
        let task = async move {
            world.sleep(process.work_delay()).await;
            if catch_unwind(AssertUnwindSafe(work)).is_err() && process.is_alive() {
                world.note_panicked_work(process.machine.node);
            }
            world.sleep(process.take_debt()).await;
            let _ = done.send(());
        };
        self.world.spawn("block", Some(&self.process), Box::pin(task));
        Box::pin(async move {
            let _ = finished.await;
        })
    }

    fn quic_runtime(&self) -> Arc<dyn quinn::Runtime> {
        Arc::new(quic::Runtime { world: self.world.clone(), process: self.process.clone() })
    }

    fn quic_endpoint_config(&self) -> quinn::EndpointConfig {
        quic::endpoint_config(|out| self.entropy(out))
    }

    fn crypto_provider(&self) -> rustls::crypto::CryptoProvider {
        let mut seed = [0; 8];
        self.entropy(&mut seed);
        tls::provider(Rng::from_seed(u64::from_le_bytes(seed)))
    }

    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Arc::new(quic::Socket::bind(&self.world, &self.process, addr)?))
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.process.machine.disk.mount(self.process.clone()))
    }
}

impl World {
    /// Ends a process: no more tasks, sockets or files.
    pub(super) fn end_process(&self, process: &Process) {
        process.end();
        let waiting = lock(&self.network).close_all(process.id);
        drop(waiting);
        process.machine.disk.release(process.id);
        let tasks = self.tasks.kill(process);
        self.record(&Event::Kill { node: process.machine.node, tasks });
    }
}
