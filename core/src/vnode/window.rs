//! The requests that a lane has coordinated lately: a retry of one of them runs nothing (PROTOCOLS §7).
//!
//! Bounded in time, number and bytes. A request that was forgotten is still known from the row, if what it wrote is
//! the row's newest; only its reply is gone then.

use bytes::Bytes;
use rondel_proto::id::{Actor, RequestId};
use rustc_hash::FxHashMap;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How long a request is remembered: twice the longest deadline of a request.
const WINDOW: Duration = Duration::from_secs(120);
/// Requests that a lane remembers at most; the oldest go first.
const WINDOW_REQUESTS_MAX: usize = 65_536;
/// A longer reply is not remembered, only that the request has run.
const REPLY_BYTES_MAX: usize = 512;

/// Requests, and as whom the lane coordinated them.
#[derive(Default)]
pub(crate) struct Window {
    requests: FxHashMap<RequestId, (Actor, Bytes)>,
    order: VecDeque<(Instant, RequestId)>,
}

impl Window {
    /// The reply of a request, if the row is still of the birth that ran it; empty if it was too long to be kept.
    pub(crate) fn find(&self, id: RequestId, mine: Option<Actor>) -> Option<Bytes> {
        let (actor, reply) = self.requests.get(&id)?;
        (mine == Some(*actor)).then(|| reply.clone())
    }

    /// Remembers that a request has run.
    pub(crate) fn remember(&mut self, id: RequestId, actor: Actor, reply: Bytes, now: Instant) {
        while self.order.front().is_some_and(|(at, _)| *at + WINDOW < now)
            || self.order.len() >= WINDOW_REQUESTS_MAX
        {
            if let Some((_, old)) = self.order.pop_front() {
                self.requests.remove(&old);
            }
        }
        let kept = if reply.len() <= REPLY_BYTES_MAX { reply } else { Bytes::new() };
        if self.requests.insert(id, (actor, kept)).is_none() {
            self.order.push_back((now, id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rondel_proto::id::Incarnation;

    fn actor(birth: u64) -> Actor {
        Actor { incarnation: Incarnation(1), birth }
    }

    fn now() -> Instant {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async { crate::env::Env::production().now() })
    }

    #[test]
    fn a_request_is_known_to_the_birth_that_ran_it_and_to_no_other() {
        let mut window = Window::default();
        window.remember(RequestId(1), actor(1), Bytes::from_static(b"reply"), now());
        assert_eq!(window.find(RequestId(1), Some(actor(1))).as_deref(), Some(&b"reply"[..]));
        assert_eq!(window.find(RequestId(1), Some(actor(2))), None);
        assert_eq!(window.find(RequestId(1), None), None);
        assert_eq!(window.find(RequestId(2), Some(actor(1))), None);
    }

    #[test]
    fn of_a_long_reply_only_that_the_request_ran_is_remembered() {
        let mut window = Window::default();
        window.remember(RequestId(1), actor(1), vec![7; REPLY_BYTES_MAX].into(), now());
        window.remember(RequestId(2), actor(1), vec![7; REPLY_BYTES_MAX + 1].into(), now());
        let kept = |id| window.find(RequestId(id), Some(actor(1))).map(|reply| reply.len());
        assert_eq!((kept(1), kept(2)), (Some(REPLY_BYTES_MAX), Some(0)));
    }

    #[test]
    fn time_and_number_bound_what_is_remembered() {
        let (mut window, start) = (Window::default(), now());
        window.remember(RequestId(0), actor(1), Bytes::new(), start);
        window.remember(RequestId(1), actor(1), Bytes::new(), start + WINDOW);
        assert!(window.find(RequestId(0), Some(actor(1))).is_some());
        let later = start + WINDOW + Duration::from_nanos(1);
        for id in 2..=WINDOW_REQUESTS_MAX as u128 {
            window.remember(RequestId(id), actor(1), Bytes::new(), later);
        }
        assert!(window.find(RequestId(0), Some(actor(1))).is_none(), "its time was up");
        assert!(window.find(RequestId(1), Some(actor(1))).is_some());
        window.remember(RequestId(u128::MAX), actor(1), Bytes::new(), later);
        assert!(window.find(RequestId(1), Some(actor(1))).is_none(), "it was the oldest of too many");
        assert_eq!((window.requests.len(), window.order.len()), (WINDOW_REQUESTS_MAX, WINDOW_REQUESTS_MAX));
    }
}
