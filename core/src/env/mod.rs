//! The one door to the outside world: clock, randomness, tasks, blocking work, sockets, disks.
//!
//! Everything in this crate that is not deterministic comes through an [`Env`]. [`Env::production`] wires tokio,
//! the operating system and real sockets; the simulator (feature `testing`) wires a virtual clock, seeded
//! randomness, a seeded network and a volatile disk, and then the same code runs the same way every time.
//! Nothing else reads time, spawns, opens files or draws random numbers: clippy's `disallowed_methods` sees to it.

mod disk;
mod production;
mod rng;

pub use disk::{Disk, File};
pub use rng::Rng;

use quinn::AsyncUdpSocket;
use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

/// A future that owns all it needs.
pub type BoxFuture<T = ()> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What an [`Env`] is made of. Implemented twice: by production and by the simulator.
pub trait Backend: Send + Sync + 'static {
    /// A clock that never goes back. It says nothing about the date.
    fn now(&self) -> Instant;

    /// Time since 1970 by the machine's calendar clock, which may jump.
    fn unix_time(&self) -> Duration;

    /// Ready at `at`, or soon after.
    fn sleep_until(&self, at: Instant) -> BoxFuture;

    /// Fills `out` with randomness fit for identities and keys.
    fn entropy(&self, out: &mut [u8]);

    /// Runs a task until it ends, or until the handle aborts it. Dropping the handle leaves the task alone.
    fn spawn(&self, name: &'static str, task: BoxFuture) -> TaskHandle;

    /// Like [`Backend::spawn`], for a task that is never idle: in production it has a thread of its own.
    fn spawn_thread(&self, name: String, task: BoxFuture) -> TaskHandle;

    /// Runs work that may wait for a disk, away from the tasks. The future is ready when the work is done.
    fn block(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture;

    /// As [`Backend::block`], asked for by a task of [`Backend::spawn_thread`]: it may be the thread itself that waits.
    fn block_thread(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture {
        self.block(work)
    }

    /// The runtime that quinn's drivers run on.
    fn quic_runtime(&self) -> Arc<dyn quinn::Runtime>;

    /// QUIC settings whose randomness comes from here.
    fn quic_endpoint_config(&self) -> quinn::EndpointConfig;

    /// The cryptography of TLS.
    fn crypto_provider(&self) -> rustls::crypto::CryptoProvider {
        rustls::crypto::ring::default_provider()
    }

    /// A datagram socket bound to `addr`; port 0 takes any.
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>>;

    /// The disk that holds this node's data directory.
    fn disk(&self) -> Arc<dyn Disk>;
}

/// The one door to the outside world. Cheap to clone; one per node.
#[derive(Clone)]
pub struct Env(Arc<dyn Backend>);

impl fmt::Debug for Env {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Env")
    }
}

impl Env {
    /// An environment over any backend.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self(backend)
    }

    /// The real world: must be called within a tokio runtime, whose tasks it will use.
    #[must_use]
    pub fn production() -> Self {
        Self(Arc::new(production::Production::new()))
    }

    /// A clock that never goes back.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.0.now()
    }

    /// Time since 1970 by the machine's calendar clock, which may jump.
    #[must_use]
    pub fn unix_time(&self) -> Duration {
        self.0.unix_time()
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        u64::try_from(self.unix_time().as_millis()).unwrap_or(u64::MAX)
    }

    /// Ready at `at`, or soon after.
    pub fn sleep_until(&self, at: Instant) -> BoxFuture {
        self.0.sleep_until(at)
    }

    /// Ready after `delay`.
    pub fn sleep(&self, delay: Duration) -> BoxFuture {
        self.0.sleep_until(self.0.now() + delay)
    }

    /// The future's value, or [`Elapsed`] if it is not ready by `at`. The future is dropped then.
    ///
    /// # Errors
    /// [`Elapsed`].
    pub async fn timeout_at<F: Future>(&self, at: Instant, future: F) -> Result<F::Output, Elapsed> {
        let mut future = std::pin::pin!(future);
        let mut timer = self.0.sleep_until(at);
        std::future::poll_fn(move |cx| {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(value));
            }
            timer.as_mut().poll(cx).map(|()| Err(Elapsed))
        })
        .await
    }

    /// As [`Env::timeout_at`], counted from now.
    ///
    /// # Errors
    /// [`Elapsed`].
    pub async fn timeout<F: Future>(&self, delay: Duration, future: F) -> Result<F::Output, Elapsed> {
        self.timeout_at(self.0.now() + delay, future).await
    }

    /// Fills `out` with randomness fit for identities and keys.
    pub fn entropy(&self, out: &mut [u8]) {
        self.0.entropy(out);
    }

    /// 128 random bits, fit for an identity.
    #[must_use]
    pub fn random_u128(&self) -> u128 {
        let mut bytes = [0; 16];
        self.entropy(&mut bytes);
        u128::from_le_bytes(bytes)
    }

    /// 64 random bits, fit for an incarnation.
    #[must_use]
    pub fn random_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.entropy(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A fast stream of random numbers of its own, for choices (never for keys).
    #[must_use]
    pub fn rng(&self) -> Rng {
        Rng::from_seed(self.random_u64())
    }

    /// Runs a task; it goes on if the handle is dropped.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> TaskHandle {
        self.0.spawn(name, Box::pin(task))
    }

    /// Runs a task that is never idle: in production on a thread of its own.
    pub fn spawn_thread(
        &self,
        name: impl Into<String>,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> TaskHandle {
        self.0.spawn_thread(name.into(), Box::pin(task))
    }

    /// Runs work that may wait for a disk away from the tasks, and gives its value.
    ///
    /// # Errors
    /// [`WorkLost`] if the work panicked or the node is shutting down; its effects are then unknown.
    pub async fn block<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkLost> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let run = self.0.block(Box::new(move || {
            let _ = sender.send(work());
        }));
        run.await;
        receiver.await.map_err(|_| WorkLost)
    }

    /// As [`Env::block`], for a task that [`Env::spawn_thread`] runs, and for no other: its thread does the work, which
    /// spares two changes of threads.
    ///
    /// # Errors
    /// [`WorkLost`] if the work panicked or the node is shutting down; its effects are then unknown.
    pub async fn block_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkLost> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let run = self.0.block_thread(Box::new(move || {
            let _ = sender.send(work());
        }));
        run.await;
        receiver.await.map_err(|_| WorkLost)
    }

    /// The runtime that quinn's drivers run on.
    #[must_use]
    pub fn quic_runtime(&self) -> Arc<dyn quinn::Runtime> {
        self.0.quic_runtime()
    }

    /// QUIC settings whose randomness comes from here.
    #[must_use]
    pub fn quic_endpoint_config(&self) -> quinn::EndpointConfig {
        self.0.quic_endpoint_config()
    }

    /// The cryptography of TLS.
    #[must_use]
    pub fn crypto_provider(&self) -> rustls::crypto::CryptoProvider {
        self.0.crypto_provider()
    }

    /// A datagram socket bound to `addr`; port 0 takes any.
    ///
    /// # Errors
    /// Those of the operating system: the address is taken, not ours, or not allowed.
    pub fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        self.0.bind(addr)
    }

    /// The disk that holds this node's data directory.
    #[must_use]
    pub fn disk(&self) -> Arc<dyn Disk> {
        self.0.disk()
    }
}

/// Lets threads go first that wait for a processor. Long work in the background does this every some tens of microseconds:
/// a kernel that lets a thread use up its slice would keep the log, or whoever waits for it, for milliseconds each time.
pub(crate) fn give_way() {
    std::thread::yield_now();
}

/// The time was up first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the time was up")]
pub struct Elapsed;

/// Blocking work ended without a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("blocking work ended without a value")]
pub struct WorkLost;

/// A running task. Dropping it leaves the task running.
pub struct TaskHandle(Arc<dyn Fn() + Send + Sync>);

impl TaskHandle {
    /// A handle whose abort runs `abort`.
    #[must_use]
    pub fn new(abort: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(abort))
    }

    /// Ends the task at its next wait. Its destructors run.
    pub fn abort(&self) {
        (self.0)();
    }
}

impl fmt::Debug for TaskHandle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("TaskHandle")
    }
}
