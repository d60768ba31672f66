//! A connection to whichever server answers: made when it is needed, and made anew to the next one when it breaks.

use crate::{
    failure::failure,
    output::message,
    pb_client::{PbClient, PbError},
    rt,
};
use std::time::Duration;

/// The wait before the second attempt; it doubles from attempt to attempt.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest wait between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A connection to one of several servers.
pub(super) struct Servers<'a> {
    hosts: &'a [String],
    current: usize,
    timeout: Duration,
    client: Option<PbClient>,
}

/// How often a request is tried, and after which failures.
#[derive(Debug, Clone, Copy)]
pub(super) struct Persistence {
    /// Attempts in all, at least 1.
    pub(super) attempts: u32,
    /// Whether a server's refusal is tried again too: it may be over in a moment, when a node has just failed.
    pub(super) despite_refusals: bool,
}

/// What the last attempt ended with.
#[derive(Debug)]
pub(super) struct GaveUp {
    /// Of how many.
    pub(super) attempts: u32,
    /// Whom it concerned.
    pub(super) host: String,
    /// What it was.
    pub(super) error: PbError,
}

impl GaveUp {
    /// Whether there was an answer, which refused.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self.error, PbError::Server(_))
    }
}

impl From<GaveUp> for anyhow::Error {
    fn from(gave_up: GaveUp) -> Self {
        let GaveUp { attempts, host, error } = gave_up;
        let whom = if let PbError::Connect { .. } = error { String::new() } else { format!("{host}: ") };
        let times = if attempts > 1 { format!(" (the last of {attempts} attempts)") } else { String::new() };
        let advice = error.advice();
        failure(format!("{whom}{}{times}", message(&error.into())), advice)
    }
}

impl<'a> Servers<'a> {
    /// Prefers the server with this index, counted around.
    ///
    /// # Panics
    /// There are no servers.
    pub(super) fn new(hosts: &'a [String], preferred: usize, timeout: Duration) -> Self {
        assert!(!hosts.is_empty(), "resolved hosts are never empty");
        Self { hosts, current: preferred % hosts.len(), timeout, client: None }
    }

    /// The answer to one request, from the first server that gives one. `ask` is told the attempt, from 1.
    ///
    /// # Errors
    /// [`GaveUp`] after the last attempt, or after a refusal that is not to be tried again.
    pub(super) async fn call<T>(
        &mut self,
        persistence: Persistence,
        mut ask: impl AsyncFnMut(&mut PbClient, u32) -> Result<T, PbError>,
    ) -> Result<T, GaveUp> {
        let mut attempt = 1;
        loop {
            let error = match self.attempt(&mut ask, attempt).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let host = self.hosts[self.current].clone();
            let is_refusal = matches!(error, PbError::Server(_));
            if !is_refusal {
                self.client = None;
            }
            if attempt >= persistence.attempts || (is_refusal && !persistence.despite_refusals) {
                return Err(GaveUp { attempts: attempt, host, error });
            }
            self.current = (self.current + 1) % self.hosts.len();
            self.client = None;
            // Every server is tried once before the first wait.
            if attempt as usize >= self.hosts.len() {
                let doublings = (attempt - 1).min(10);
                rt::sleep((PAUSE_MIN * 2_u32.pow(doublings)).min(PAUSE_MAX)).await;
            }
            attempt += 1;
        }
    }

    async fn attempt<T>(
        &mut self,
        ask: &mut impl AsyncFnMut(&mut PbClient, u32) -> Result<T, PbError>,
        attempt: u32,
    ) -> Result<T, PbError> {
        let client = match &mut self.client {
            Some(client) => client,
            None => self.client.insert(PbClient::connect(&self.hosts[self.current], self.timeout).await?),
        };
        ask(client, attempt).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::kv::test_server::TestServer;
    use std::cell::Cell;

    const ONCE: Persistence = Persistence { attempts: 1, despite_refusals: false };

    fn run<F: Future>(test: F) -> F::Output {
        rt::single_threaded().unwrap().block_on(test)
    }

    #[test]
    fn a_server_that_is_gone_is_passed_over() {
        run(async {
            let server = TestServer::start().await;
            let hosts = [TestServer::dead_address().await, server.address()];
            let mut servers = Servers::new(&hosts, 0, Duration::from_secs(5));
            let two = Persistence { attempts: 2, despite_refusals: false };
            servers.call(two, async |client, _| client.ping().await).await.unwrap();
            servers
                .call(ONCE, async |client, _| client.ping().await)
                .await
                .expect("it stays with the one that answered");
        });
    }

    #[test]
    fn a_refusal_is_tried_again_only_if_asked_to() {
        run(async {
            let server = TestServer::start().await;
            let hosts = [server.address()];
            let mut servers = Servers::new(&hosts, 0, Duration::from_secs(5));
            let asked = Cell::new(0);
            let refuse = async |_: &mut PbClient, attempt| {
                asked.set(attempt);
                Err::<(), _>(PbError::Server("overload".into()))
            };
            let three = Persistence { attempts: 3, despite_refusals: false };
            let gave_up = servers.call(three, refuse).await.unwrap_err();
            assert!(gave_up.is_refusal() && asked.get() == 1);
            let gave_up =
                servers.call(Persistence { despite_refusals: true, ..three }, refuse).await.unwrap_err();
            assert!(gave_up.attempts == 3 && asked.get() == 3);
        });
    }
}
