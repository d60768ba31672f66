//! The real clock: a development task is not simulated.

#![expect(clippy::disallowed_methods, reason = "a development task runs in the real world")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Since 1970.
pub(crate) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A clock that never goes back.
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) async fn sleep(delay: Duration) {
    tokio::time::sleep(delay).await;
}
