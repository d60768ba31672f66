//! Batches on their way to the log, and when they go.
//!
//! The log writes as soon as somebody waits for a batch: alone that is one sync without a pause, and under load each
//! sync takes along whatever has come during the one before. Nothing is timed, so nobody pays for others who may not
//! come. Batches that nobody waits for rest until a batch is waited for, until they are many, or until their time is
//! up, whichever comes first: they never cost a sync of their own while others do.

use crate::store::log::writer::Batch;
use bytes::Bytes;
use std::time::{Duration, Instant};

/// Bytes of rows in one group: a bound on the log's buffer, and on what one sync may lose.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// The longest rest: well below the time after which a coordinator takes a replica that is silent for one that hangs.
pub(super) const REST_MAX: Duration = Duration::from_millis(500);

/// What the log is to write, in order.
#[derive(Default)]
pub(super) struct Queue {
    batches: Vec<Batch>,
    /// Somebody waits for one of them.
    waited: bool,
    /// When the first that nobody waits for came, and how many bytes have come since.
    resting: Option<(Instant, usize)>,
}

impl Queue {
    /// Puts a batch in that somebody waits for.
    pub(super) fn push(&mut self, batch: Batch) {
        self.batches.push(batch);
        self.waited = true;
    }

    /// Puts a batch in that nobody waits for. Says whether the log should look after it now.
    pub(super) fn push_lazily(&mut self, batch: Batch, now: Instant) -> bool {
        let (since, before) = self.resting.unwrap_or((now, 0));
        let bytes = before + bytes_of(&batch);
        self.resting = Some((since, bytes));
        self.batches.push(batch);
        before == 0 || (before < GROUP_BYTES_MAX && bytes >= GROUP_BYTES_MAX)
    }

    /// Somebody waits for whatever is in. Says whether anything is.
    pub(super) fn hurry(&mut self) -> bool {
        self.waited |= !self.batches.is_empty();
        self.waited
    }

    /// Until when all that is in may rest.
    pub(super) fn rests_until(&self, rest: Duration) -> Option<Instant> {
        let (since, bytes) = self.resting.filter(|_| !self.waited)?;
        (bytes < GROUP_BYTES_MAX).then_some(since + rest.min(REST_MAX))
    }

    /// The next group: all that is in, or as much as one sync may take along.
    pub(super) fn take_group(&mut self) -> Vec<Batch> {
        let mut bytes = 0;
        let fits = |batch: &Batch| {
            let before = bytes;
            bytes += bytes_of(batch);
            before < GROUP_BYTES_MAX
        };
        let end = self.batches.iter().map(fits).take_while(|fits| *fits).count();
        if end < self.batches.len() {
            // Whether somebody waits for what is left is not known any more.
            self.waited = true;
            return self.batches.drain(..end).collect();
        }
        std::mem::take(self).batches
    }
}

fn bytes_of(batch: &Batch) -> usize {
    batch.changes.iter().map(|(_, value)| value.as_ref().map_or(0, Bytes::len)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_millis(200);

    fn batch(number: u64, bytes: usize) -> Batch {
        Batch { number, queued: 0, changes: vec![(Bytes::from_static(b"key"), Some(vec![0; bytes].into()))] }
    }

    fn now() -> Instant {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async { crate::env::Env::production().now() })
    }

    fn numbers(group: &[Batch]) -> Vec<u64> {
        group.iter().map(|batch| batch.number).collect()
    }

    #[test]
    fn what_somebody_waits_for_goes_at_once_and_takes_all_before_it_along() {
        let (mut queue, now) = (Queue::default(), now());
        assert!(queue.push_lazily(batch(1, 10), now), "the log must know until when it may rest");
        assert!(!queue.push_lazily(batch(2, 10), now + REST / 2));
        assert_eq!(queue.rests_until(REST), Some(now + REST), "the first one's time counts");
        queue.push(batch(3, 10));
        assert_eq!(queue.rests_until(REST), None);
        assert_eq!(numbers(&queue.take_group()), [1, 2, 3]);
        assert!(queue.push_lazily(batch(4, 10), now + REST));
        assert_eq!(queue.rests_until(REST), Some(now + REST * 2), "it is counted anew");
    }

    #[test]
    fn whoever_waits_without_a_batch_of_their_own_wakes_those_that_rest() {
        let (mut queue, now) = (Queue::default(), now());
        assert!(!queue.hurry(), "there is nothing to wait for");
        queue.push_lazily(batch(1, 10), now);
        assert!(queue.hurry());
        assert_eq!(queue.rests_until(REST), None);
        queue.take_group();
        queue.push_lazily(batch(2, 10), now);
        assert!(queue.rests_until(REST).is_some(), "who waited before does not wait for this");
    }

    #[test]
    fn rest_is_bounded_in_time_and_bytes() {
        let (mut queue, now) = (Queue::default(), now());
        queue.push_lazily(batch(1, GROUP_BYTES_MAX - 1), now);
        assert_eq!(queue.rests_until(Duration::MAX), Some(now + REST_MAX));
        assert!(queue.push_lazily(batch(2, 1), now), "the log must not rest any more");
        assert_eq!(queue.rests_until(REST), None);
        assert!(!queue.push_lazily(batch(3, 1), now), "it knows");
        assert_eq!(numbers(&queue.take_group()), [1, 2]);
        assert_eq!(queue.rests_until(REST), None, "the rest of them goes at once");
        assert_eq!(numbers(&queue.take_group()), [3]);
        assert!(queue.take_group().is_empty());
    }
}
