//! A deterministic simulator: whole clusters in one thread, on virtual time, from one seed.
//!
//! [`Sim`] runs the same code that runs in production. Only what lies behind [`Env`](crate::env::Env) differs: the
//! clock jumps from event to event, the next ready task is picked at random, datagrams are delayed, lost, doubled and
//! overtaken, disks forget what was not synced, and nodes are killed, paused and restarted when the test says so.
//! All of it is decided by the seed: the same seed takes the same course, every time, and
//! [`Control::trace_hash`] proves it. A failing test prints its seed.
//!
//! # A first test
//!
//! ```
//! use rondel_core::testing::Sim;
//! use std::time::Duration;
//!
//! let sim = Sim::new(7);
//! let env = sim.node_env(0);
//! let before = env.now();
//! sim.run_until(env.sleep(Duration::from_secs(3600)));
//! assert_eq!(env.now() - before, Duration::from_secs(3600)); // an hour, in no time
//! ```
//!
//! # How to write one
//!
//! * Start nodes with [`Control::start`], or take an `Env` with [`Control::node_env`] and do as you like with it.
//! * Drive the test with [`Sim::run_until`]: its future is the test's own, which no fault touches. From there call
//!   [`Control::kill`], [`Control::crash`], [`Control::pause`], [`Net::partition`], [`SimDisk::set_capacity`] …
//! * Draw choices from [`Control::rng`], so that they follow from the seed too.
//! * For a seed that fails, [`Control::log_to`] writes all that happened, line by line; the first line that differs
//!   between two runs of one seed names what is not deterministic.
//!
//! # What keeps a simulation deterministic
//!
//! Time, randomness, tasks, sockets and files come from `Env` only. Nothing iterates over a hash map with a random
//! hasher. `select!` is `biased`. Certificates are Ed25519 (the length of an ECDSA signature varies). No thread but
//! the simulator's touches its world.

mod clock;
mod cluster;
mod control;
mod disk;
mod executor;
mod laws;
pub mod nemesis;
mod net;
mod process;
mod quic;
mod rows;
mod tls;
mod trace;

pub use cluster::{DATA_DIR, Shape, TestCluster, Unsettled};
pub use control::Control;
pub use disk::{CrashMode, DiskImage, SimDisk, Spoil};
pub use laws::{check_entry_laws, check_state_laws};
pub use net::{Link, Net, ip, node_of};
pub use rows::{RowKind, StoredRow};

use crate::env::Rng;
use clock::{Clock, Nanos, Sleep, nanos};
use executor::Tasks;
use net::Network;
use process::Machine;
use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    ops::Deref,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use trace::{Event, Trace};

/// How much virtual time one run may take until [`Sim::set_time_max`] says otherwise.
const TIME_MAX: Duration = Duration::from_secs(3600);

/// The state of a simulated world.
struct World {
    seed: u64,
    clock: Arc<Clock>,
    trace: Arc<Trace>,
    tasks: Tasks,
    network: Mutex<Network>,
    machines: Mutex<BTreeMap<u32, Arc<Machine>>>,
    processes: AtomicU64,
    panicked_work: AtomicU64,
    deaths: tokio::sync::Notify,
}

impl World {
    fn record(&self, event: &Event<'_>) {
        self.trace.record(self.clock.nanos(), event);
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        Sleep::until(self.clock.clone(), self.clock.nanos().saturating_add(nanos(duration)))
    }

    fn sleep_until(&self, at: Instant) -> Sleep {
        Sleep::until(self.clock.clone(), self.clock.nanos_of(at))
    }

    fn note_panicked_work(&self, node: u32) {
        self.panicked_work.fetch_add(1, Ordering::Relaxed);
        self.record(&Event::WorkPanicked { node });
    }
}

/// A simulation. It owns its world: when it goes, all tasks go.
///
/// Everything that can be done to the world from within is on [`Control`], which this derefs to.
pub struct Sim {
    control: Control,
    time_max: Mutex<Duration>,
    running: AtomicBool,
}

impl Sim {
    /// A new world. The same seed and the same program take the same course.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let world = World {
            seed,
            clock: Arc::new(Clock::new()),
            trace: Arc::new(Trace::new(seed)),
            tasks: Tasks::new(stream(seed, "schedule", 0)),
            network: Mutex::new(Network::new(stream(seed, "network", 0))),
            machines: Mutex::default(),
            processes: AtomicU64::new(0),
            panicked_work: AtomicU64::new(0),
            deaths: tokio::sync::Notify::new(),
        };
        let control = Control::new(Arc::new(world));
        Self { control, time_max: Mutex::new(TIME_MAX), running: AtomicBool::new(false) }
    }

    /// Runs the world until the future is ready, and gives its value.
    ///
    /// # Panics
    /// With the seed, if nothing is left that could ever make it ready, if it takes more virtual time than
    /// [`Sim::set_time_max`] allows, or if tasks go round without time passing. If called from within itself. Panics
    /// of tasks come through.
    pub fn run_until<F: Future>(&self, future: F) -> F::Output {
        assert!(!self.running.swap(true, Ordering::Relaxed), "a simulation can't be run from within itself");
        let _running = Running(&self.running);
        let world = self.control.world();
        let until: Nanos = world.clock.nanos().saturating_add(nanos(*lock(&self.time_max)));
        world.run(pin!(future), until)
    }

    /// Runs the world for some virtual time.
    ///
    /// # Panics
    /// As [`Sim::run_until`].
    pub fn run_for(&self, duration: Duration) {
        self.run_until(self.control.sleep(duration));
    }

    /// A hand on this world, to move into tasks.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// The longest virtual time that one run may take; an hour until set.
    pub fn set_time_max(&self, time_max: Duration) {
        *lock(&self.time_max) = time_max;
    }
}

impl Deref for Sim {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.control
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.control.fmt(out)
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        let world = self.control.world();
        if thread::panicking() {
            self.say_how_to_repeat();
            // Destructors of tasks that were cut short may panic too, which would hide what happened first.
            world.tasks.clear().into_iter().for_each(std::mem::forget);
            world.clock.clear().into_iter().for_each(std::mem::forget);
            return;
        }
        self.control.kill_all();
        drop(world.tasks.clear());
        drop(world.clock.clear());
    }
}

impl Sim {
    #[expect(clippy::print_stderr, reason = "a failing test must say how to repeat it")]
    fn say_how_to_repeat(&self) {
        let world = self.control.world();
        eprintln!(
            "simulation failed: seed {} at {:?}, trace {}",
            world.seed,
            Duration::from_nanos(world.clock.nanos()),
            world.trace.hash().to_hex(),
        );
    }
}

/// Marks a simulation as running until it is dropped.
struct Running<'a>(&'a AtomicBool);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A stream of random numbers for one purpose, independent of all others.
fn stream(seed: u64, label: &str, number: u64) -> Rng {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(&number.to_le_bytes()).update(label.as_bytes());
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    Rng::from_seed(u64::from_le_bytes(bytes))
}

/// Locks; what a panicking task left half done is no worse than the panic, which ends the simulation.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
