//! The ways in which a user ends a task that has to end other processes before it does.

use anyhow::Context;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

/// The ways in which a user ends a program.
pub(crate) struct Ends {
    interrupt: Signals,
    terminate: Signals,
    hang_up: Signals,
}

impl Ends {
    /// From now on they do not end this process by themselves.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// Ready when the user wants the task to end.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
