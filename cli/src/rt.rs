//! The clock, timers and threads of the client commands.
//!
//! Nodes take all of these from [`rondel_core::env::Env`], so that they can be simulated; a client command is no part
//! of a node and is tested against real sockets. This is the one module of the binary that goes to tokio and the
//! operating system directly for them.

#![expect(clippy::disallowed_methods, reason = "clients are not simulated; nodes never come here")]

use std::{
    future::Future,
    io, thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The time was up first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("timeout")]
pub(crate) struct Elapsed;

/// A clock that never goes back.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since 1970, by a clock that people may set.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Ready after `delay`, to the millisecond.
pub(crate) async fn sleep(delay: Duration) {
    tokio::time::sleep(delay).await;
}

/// The future's value, or [`Elapsed`] if it is not ready in time; the future is dropped then.
pub(crate) async fn timeout<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    tokio::time::timeout(limit, future).await.map_err(|_| Elapsed)
}

/// Blocks this thread until `at`, to about 50 microseconds.
pub(crate) fn block_until(at: Instant) {
    thread::sleep(at.saturating_duration_since(now()));
}

/// Runs `work` on a thread of its own.
///
/// # Errors
/// The operating system has no more threads.
pub(crate) fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// A runtime on the calling thread: what a client command needs, without wakeups across threads.
///
/// # Errors
/// The operating system gives no event queue.
pub(crate) fn single_threaded() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
