//! Asking replicas with a message of the application: one, all, or a quorum of them.

use super::{Plan, RequestError};
use crate::{
    node::{Outgoing, Shared},
    quorum::{AskId, Tally, Verdict},
    reply::{Failure, FailureCode, Outcome, ReplyTo},
    ring::{ActiveList, Use},
};
use bytes::Bytes;
use rondel_proto::{frame::Head, id::NodeId};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Asks the replicas of a key one after the other, best first, until one answers or the application refuses. A message
/// that writes is not asked of another once it may have been done.
pub(super) async fn one(
    shared: &Arc<Shared>,
    plan: &Plan,
    service: usize,
    (message, writes): (u16, bool),
    body: Bytes,
) -> Result<Bytes, RequestError> {
    let mut asking = Asking::new(shared, plan, service, message, body);
    let mut last = Failure::because(FailureCode::NotServing, "no replica is up");
    for index in 0..asking.list.entries().len() {
        asking.ask(index);
        match asking.next().await? {
            (_, Ok(reply)) => return Ok(reply),
            (_, Err(failure)) if failure.code == FailureCode::Refused => {
                return Err(RequestError::of(failure));
            }
            (_, Err(failure)) if writes && failure.code.leaves_unknown() => {
                return Err(RequestError::Unknown);
            }
            (_, Err(failure)) => last = failure,
        }
    }
    Err(RequestError::of(last))
}

/// Asks every replica that is up and waits for all of them.
pub(super) async fn all(
    shared: &Arc<Shared>,
    plan: &Plan,
    service: usize,
    message: u16,
    body: Bytes,
) -> Result<Vec<(NodeId, Outcome)>, RequestError> {
    let mut asking = Asking::new(shared, plan, service, message, body);
    asking.ask_all();
    let mut answers = Vec::with_capacity(asking.list.entries().len());
    while answers.len() < asking.list.entries().len() {
        let (index, outcome) = asking.next().await?;
        answers.push((asking.list.entries()[index].node, outcome));
    }
    Ok(answers)
}

/// Asks every replica that is up and gives the replies once there are enough.
pub(super) async fn quorum(
    shared: &Arc<Shared>,
    plan: &Plan,
    service: usize,
    message: u16,
    body: Bytes,
) -> Result<Vec<Bytes>, RequestError> {
    let mut asking = Asking::new(shared, plan, service, message, body);
    let mut tally =
        Tally::new(plan.quorum, &asking.list).map_err(|unmet| RequestError::unmet(unmet, Vec::new()))?;
    asking.ask_all();
    let asks: Vec<AskId> = tally.asks().map(|(id, _)| id).collect();
    let (mut replies, mut failures) = (Vec::new(), Vec::new());
    loop {
        match tally.verdict() {
            Verdict::Satisfied(_) => return Ok(replies),
            Verdict::Impossible(unmet) => return Err(RequestError::unmet(unmet, failures)),
            Verdict::Waiting => {}
        }
        let Ok((index, outcome)) = asking.next().await else {
            let (need, have) = (plan.quorum.need, tally.achieved().copies());
            return Err(RequestError::Timeout { need, have });
        };
        match outcome {
            Ok(reply) => {
                replies.push(reply);
                tally.acked(asks[index]);
            }
            Err(failure) => {
                failures.push((asking.list.entries()[index].node, failure));
                tally.failed(asks[index]);
            }
        }
    }
}

struct Asking<'a> {
    shared: &'a Arc<Shared>,
    plan: &'a Plan,
    service: usize,
    message: u16,
    body: Bytes,
    list: ActiveList,
    sender: mpsc::UnboundedSender<(usize, Outcome)>,
    answers: mpsc::UnboundedReceiver<(usize, Outcome)>,
}

impl<'a> Asking<'a> {
    fn new(shared: &'a Arc<Shared>, plan: &'a Plan, service: usize, message: u16, body: Bytes) -> Self {
        let outlook = shared.outlook(shared.host.services[service].code);
        let preferences = plan.topology.preference_list(plan.topology.partition(plan.at.position));
        let n = usize::from(plan.quorum.n);
        let list = if plan.quorum.strict {
            preferences.strict(n, Use::Read, |node| outlook.up(node))
        } else {
            preferences.active(n, Use::Read, |node| outlook.up(node))
        };
        let (sender, answers) = mpsc::unbounded_channel();
        Self { shared, plan, service, message, body, list, sender, answers }
    }

    fn ask_all(&self) {
        for index in 0..self.list.entries().len() {
            self.ask(index);
        }
    }

    fn ask(&self, index: usize) {
        let entry = self.list.entries()[index];
        let head = Head {
            service: self.shared.host.services[self.service].code,
            message: self.message,
            flags: 0,
            slots: entry.owned,
            stand_in: entry.stand_in,
            ver: self.list.ver(),
            position: self.plan.at.position,
            request_id: self.plan.request_id,
            deadline_us: 0,
        };
        let (key, body) = (self.plan.at.key.clone(), self.body.clone());
        let outgoing = Outgoing { head, key, body, deadline: self.plan.deadline };
        let sender = self.sender.clone();
        let reply = ReplyTo::new(move |outcome| drop(sender.send((index, outcome))));
        self.shared.send(entry.node, self.service, outgoing, reply);
    }

    async fn next(&mut self) -> Result<(usize, Outcome), RequestError> {
        let answer = self.shared.env.timeout_at(self.plan.deadline, self.answers.recv()).await;
        answer.ok().flatten().ok_or(RequestError::Timeout { need: self.plan.quorum.need, have: 0 })
    }
}
