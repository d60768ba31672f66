//! The requests of one connection that wait for an answer. Each gets exactly one: the peer's, `Expired`, or
//! why there is none when the connection ends. A write may hear before that, once, that it is in the peer's memory.

use super::lock;
use crate::reply::{Failure, FailureCode, ReplyTo};
use rustc_hash::FxHashMap;
use std::{sync::Mutex, time::Instant};

/// Requests by correlation.
pub(super) struct InFlight {
    state: Mutex<State>,
    entries_max: usize,
}

struct State {
    next: u64,
    waiting: FxHashMap<u64, Waiting>,
    closed: Option<Failure>,
}

struct Waiting {
    reply: ReplyTo,
    deadline: Instant,
}

impl InFlight {
    /// Correlations count up from `first`.
    pub(super) fn new(first: u64, entries_max: usize) -> Self {
        let state = State { next: first, waiting: FxHashMap::default(), closed: None };
        Self { state: Mutex::new(state), entries_max }
    }

    /// Takes a request in and names it; a refused one has been answered already.
    pub(super) fn insert(&self, reply: ReplyTo, deadline: Instant) -> Option<u64> {
        let mut state = lock(&self.state);
        let refusal = match &state.closed {
            Some(failure) => Some(failure.clone()),
            None if state.waiting.len() >= self.entries_max => {
                Some(Failure::because(FailureCode::Overloaded, "too many requests in flight to this peer"))
            }
            None => None,
        };
        if let Some(failure) = refusal {
            drop(state);
            reply.send(Err(failure));
            return None;
        }
        let correlation = state.next;
        state.next += 1;
        state.waiting.insert(correlation, Waiting { reply, deadline });
        Some(correlation)
    }

    /// Whoever waits for this answer, if the time was not up before.
    pub(super) fn take(&self, correlation: u64) -> Option<ReplyTo> {
        lock(&self.state).waiting.remove(&correlation).map(|waiting| waiting.reply)
    }

    /// Tells whoever waits for this answer that its write is in memory. The answer is still to come.
    pub(super) fn accepted(&self, correlation: u64) {
        let accepted =
            lock(&self.state).waiting.get_mut(&correlation).and_then(|it| it.reply.take_accepted());
        if let Some(accepted) = accepted {
            accepted();
        }
    }

    /// Answers those whose time is up, and says when the next one's is.
    pub(super) fn expire(&self, now: Instant) -> Option<Instant> {
        let mut state = lock(&self.state);
        let due = |(_, waiting): &(&u64, &Waiting)| waiting.deadline <= now;
        let mut expired: Vec<u64> =
            state.waiting.iter().filter(due).map(|(correlation, _)| *correlation).collect();
        expired.sort_unstable();
        let expired: Vec<Waiting> = expired.iter().filter_map(|at| state.waiting.remove(at)).collect();
        let next = state.waiting.values().map(|waiting| waiting.deadline).min();
        drop(state);
        for waiting in expired {
            waiting.reply.send(Err(Failure::because(FailureCode::Expired, "no answer within the deadline")));
        }
        next
    }

    /// Answers all with `why`, in the order they were asked, and everyone who comes later.
    pub(super) fn close(&self, why: &Failure) {
        let mut state = lock(&self.state);
        state.closed.get_or_insert_with(|| why.clone());
        let mut lost: Vec<(u64, Waiting)> = state.waiting.drain().collect();
        drop(state);
        lost.sort_unstable_by_key(|(correlation, _)| *correlation);
        for (_, waiting) in lost {
            waiting.reply.send(Err(why.clone()));
        }
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.state).waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::Outcome;
    use std::{
        sync::{Arc, mpsc},
        time::Duration,
    };

    fn asker() -> (impl Fn() -> ReplyTo, mpsc::Receiver<Outcome>) {
        let (sender, receiver) = mpsc::channel();
        let make = move || {
            let sender = sender.clone();
            ReplyTo::new(move |outcome| sender.send(outcome).unwrap())
        };
        (make, receiver)
    }

    fn code(outcome: Outcome) -> FailureCode {
        outcome.unwrap_err().code
    }

    #[tokio::test]
    async fn a_deadline_answers_once_and_a_late_reply_finds_nobody() {
        let start = crate::env::Env::production().now();
        let (reply, outcomes) = asker();
        let table = InFlight::new(0, 8);
        let second = Duration::from_secs(1);
        let early = table.insert(reply(), start + second).unwrap();
        let late = table.insert(reply(), start + 2 * second).unwrap();
        assert_eq!(table.expire(start), Some(start + second));
        assert_eq!(table.expire(start + second), Some(start + 2 * second));
        assert_eq!(code(outcomes.try_recv().unwrap()), FailureCode::Expired);
        assert!(table.take(early).is_none());
        table.take(late).unwrap().send(Ok(bytes::Bytes::new()));
        outcomes.try_recv().unwrap().unwrap();
        assert!(outcomes.try_recv().is_err());
    }

    #[tokio::test]
    async fn that_a_write_is_in_memory_is_told_once_and_is_not_its_answer() {
        let at = crate::env::Env::production().now();
        let (reply, outcomes) = asker();
        let (told, hears) = mpsc::channel();
        let table = InFlight::new(0, 8);
        let accepted = move || told.send(()).unwrap();
        let eager = table.insert(reply().or_accepted(Some(Box::new(accepted))), at).unwrap();
        let plain = table.insert(reply(), at).unwrap();
        for correlation in [plain, eager, eager, 77] {
            table.accepted(correlation);
        }
        assert_eq!((hears.try_iter().count(), outcomes.try_iter().count()), (1, 0));
        table.take(eager).unwrap().send(Ok(bytes::Bytes::new()));
        assert_eq!(outcomes.try_iter().count(), 1);
        table.accepted(eager);
        assert_eq!(table.len(), 1);
    }

    #[tokio::test]
    async fn a_full_table_and_a_closed_one_refuse_at_once() {
        let at = crate::env::Env::production().now();
        let (reply, outcomes) = asker();
        let table = Arc::new(InFlight::new(0, 1));
        table.insert(reply(), at).unwrap();
        assert_eq!(table.insert(reply(), at), None);
        assert_eq!(code(outcomes.try_recv().unwrap()), FailureCode::Overloaded);
        table.close(&Failure::new(FailureCode::Disconnected));
        assert_eq!(code(outcomes.try_recv().unwrap()), FailureCode::Disconnected);
        assert_eq!(table.insert(reply(), at), None);
        assert_eq!(code(outcomes.try_recv().unwrap()), FailureCode::Disconnected);
        assert_eq!(table.len(), 0);
    }
}
