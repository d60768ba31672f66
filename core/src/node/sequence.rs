//! Drives this node's part in the decided sequence: carries out the replica's effects in order, persists before
//! anything that rests on it leaves, and tells the node of each new state.

use super::Node;
use crate::{
    env::Rng,
    membership::DataDirError,
    reply::{Failure, FailureCode, Outcome},
    sequence::{
        ChangeId, DecidedFile, Delta, Effect, Proposal, Replica, Reply, Report, Request, State, StatePull,
        StatePullReply,
    },
};
use rondel_proto::{Wire, id::NodeId};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{Mutex as AsyncMutex, oneshot};

/// How long an attempt may take before it is made again.
const ATTEMPT_MAX: Duration = Duration::from_secs(1);
/// How long a change may take before its proposer gives up waiting; it may still be decided.
const CHANGE_MAX: Duration = Duration::from_secs(20);

pub(super) struct Sequence {
    driver: AsyncMutex<Driver>,
    waiting: Mutex<BTreeMap<ChangeId, oneshot::Sender<Result<(), ChangeError>>>>,
    rng: Mutex<Rng>,
}

struct Driver {
    replica: Replica,
    file: Arc<Mutex<DecidedFile>>,
}

/// Why a change was not made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ChangeError {
    /// The state does not allow it.
    #[error("{0}")]
    Refused(String),
    /// Too many changes wait, or no majority of the voters answers.
    #[error("the change could not be decided in time; it may still be: {0}")]
    Undecided(String),
}

impl Sequence {
    pub(super) fn new(replica: Replica, file: DecidedFile, rng: Rng) -> Self {
        let file = Arc::new(Mutex::new(file));
        Self {
            driver: AsyncMutex::new(Driver { replica, file }),
            waiting: Mutex::default(),
            rng: Mutex::new(rng),
        }
    }

    pub(super) async fn state(&self) -> Arc<State> {
        self.driver.lock().await.replica.state().clone()
    }

    /// Gets a change decided; it is durable on a majority of the voters when this returns.
    pub(super) async fn change(
        &self,
        node: &Arc<Node>,
        id: ChangeId,
        deltas: Vec<Delta>,
    ) -> Result<(), ChangeError> {
        let (sender, decided) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
        let began = {
            let mut driver = self.driver.lock().await;
            match driver.replica.propose(Proposal { change: id, deltas }) {
                Ok(effects) => {
                    self.carry_out(node, &mut driver, effects).await.map_err(|error| error.to_string())
                }
                Err(busy) => Err(busy.to_string()),
            }
        };
        let outcome = match began {
            Ok(()) => self.until_decided(node, decided).await,
            Err(why) => Err(ChangeError::Undecided(why)),
        };
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        outcome
    }

    async fn until_decided(
        &self,
        node: &Arc<Node>,
        mut decided: oneshot::Receiver<Result<(), ChangeError>>,
    ) -> Result<(), ChangeError> {
        let env = &node.shared.env;
        let until = env.now() + CHANGE_MAX;
        while env.now() < until {
            let jitter =
                self.rng.lock().unwrap_or_else(PoisonError::into_inner).between(ATTEMPT_MAX, ATTEMPT_MAX * 2);
            match env.timeout(jitter, &mut decided).await {
                Ok(Ok(outcome)) => return outcome,
                Ok(Err(_)) => break,
                Err(_) => {
                    let mut driver = self.driver.lock().await;
                    let effects = driver.replica.retry();
                    if let Err(error) = self.carry_out(node, &mut driver, effects).await {
                        return Err(ChangeError::Undecided(error.to_string()));
                    }
                }
            }
        }
        Err(ChangeError::Undecided("no majority of the voters answered".into()))
    }

    pub(super) async fn serve(&self, node: &Arc<Node>, request: Request) -> Outcome {
        let mut driver = self.driver.lock().await;
        let (effects, reply) = driver.replica.on_request(request);
        let carried = self.carry_out(node, &mut driver, effects).await;
        carried.map_err(|error| Failure::because(FailureCode::StoreFailed, error))?;
        Ok(match reply {
            Reply::Prepare(reply) => reply.encode(),
            Reply::Accept(reply) => reply.encode(),
            Reply::Decided(reply) => reply.encode(),
        })
    }

    pub(super) async fn serve_pull(&self, pull: &StatePull) -> Outcome {
        Ok(self.driver.lock().await.replica.on_pull(pull).encode())
    }

    /// Fetches what a peer knows of the sequence and this node does not.
    pub(super) async fn pull(&self, node: &Arc<Node>, from: NodeId) {
        let pull = self.driver.lock().await.replica.pull();
        let Ok(StatePullReply::Catchup(catchup)) = node.ask(from, &pull).await else { return };
        let mut driver = self.driver.lock().await;
        let effects = driver.replica.learn(catchup);
        if let Err(error) = self.carry_out(node, &mut driver, effects).await {
            tracing::error!(%error, "the decided sequence can't be persisted");
        }
    }

    /// Carries effects out in order. The driver stays locked: what is persisted is persisted in the order of the steps.
    async fn carry_out(
        &self,
        node: &Arc<Node>,
        driver: &mut Driver,
        effects: Vec<Effect>,
    ) -> Result<(), DataDirError> {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Persist(record) => {
                    let file = driver.file.clone();
                    let written = node
                        .shared
                        .env
                        .block(move || file.lock().unwrap_or_else(PoisonError::into_inner).write(&record));
                    match written.await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => {
                            node.fail(&format!("the decided sequence can't be persisted: {error}"));
                            return Err(error);
                        }
                        Err(_) => {
                            node.fail("the decided sequence can't be persisted: the write was lost");
                            return Ok(());
                        }
                    }
                }
                Effect::Send { to, request } => self.send(node, to, request),
                Effect::Report(report) => self.report(node, driver, report),
            }
        }
        Ok(())
    }

    fn send(&self, node: &Arc<Node>, to: NodeId, request: Request) {
        let node = node.clone();
        node.shared.env.clone().spawn("sequence-ask", async move {
            let reply = match &request {
                Request::Prepare(prepare) => node.ask(to, prepare).await.map(Reply::Prepare),
                Request::Accept(accept) => node.ask(to, accept).await.map(Reply::Accept),
                Request::Decided(decided) => node.ask(to, decided).await.map(Reply::Decided),
            };
            let Ok(reply) = reply else { return };
            let mut driver = node.sequence.driver.lock().await;
            let effects = driver.replica.on_reply(to, reply);
            // A failure has stopped the node already.
            let _ = node.sequence.carry_out(&node, &mut driver, effects).await;
        });
    }

    fn report(&self, node: &Arc<Node>, driver: &Driver, report: Report) {
        match report {
            Report::Learnt(_) => node.learnt(driver.replica.state(), driver.replica.root()),
            Report::Decided { change, .. } => self.tell(change, Ok(())),
            Report::Refused { change, why } => self.tell(change, Err(ChangeError::Refused(why.to_string()))),
            Report::Read { .. } | Report::Outbid => {}
            Report::Stopped(error) => node.fail(&error.to_string()),
        }
    }

    fn tell(&self, change: ChangeId, outcome: Result<(), ChangeError>) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&change);
        if let Some(sender) = waiting {
            let _ = sender.send(outcome);
        }
    }
}
