//! What the processes had used at any moment of a run, from samples that are taken all the while.
//!
//! The client says afterwards from when on it measured; what the processes used before, to fill the store and to warm
//! up, is not a part of what an operation costs. What they still do after the last answer is.

use super::process::{self, Usage};
use std::time::Duration;

/// How often a sample is taken.
pub(crate) const EVERY: Duration = Duration::from_millis(50);

/// The state of things at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sample {
    /// Since 1970.
    pub(crate) at: Duration,
    /// All nodes together.
    pub(crate) nodes: Usage,
    /// The client.
    pub(crate) client: Duration,
    /// All that runs on this machine.
    pub(crate) machine: Duration,
}

/// Samples in order of time.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<Sample>);

impl Samples {
    /// Takes one.
    ///
    /// # Errors
    /// A node has ended.
    pub(crate) fn take(&mut self, at: Duration, nodes: &[u32], client: u32) -> anyhow::Result<()> {
        let nodes = Usage::of_all(nodes)?;
        // The client may end between two samples; then it has used what it had used at the last.
        let before = self.0.last().map_or(Duration::ZERO, |last| last.client);
        let client = Usage::of(client).map_or(before, |usage| usage.cpu.max(before));
        self.0.push(Sample { at, nodes, client, machine: process::machine_busy()? });
        Ok(())
    }

    /// How things stood at a moment, by the samples around it: at the first or last one if it lies outside.
    pub(crate) fn at(&self, moment: Duration) -> Option<Sample> {
        let after = self.0.partition_point(|sample| sample.at < moment);
        let (before, after) = (self.0.get(after.saturating_sub(1)), self.0.get(after));
        let (Some(before), Some(after)) = (before.or(after), after.or(before)) else { return None };
        let span = after.at.saturating_sub(before.at);
        let part = moment.saturating_sub(before.at).min(span);
        let share = if span.is_zero() { 0.0 } else { part.as_secs_f64() / span.as_secs_f64() };
        Some(before.towards(after, share))
    }
}

impl Sample {
    fn towards(&self, later: &Self, share: f64) -> Self {
        let time = |from: Duration, to: Duration| from + to.saturating_sub(from).mul_f64(share);
        let nodes = Usage {
            cpu: time(self.nodes.cpu, later.nodes.cpu),
            ..if share < 0.5 { self.nodes } else { later.nodes }
        };
        Self {
            at: time(self.at, later.at),
            nodes,
            client: time(self.client, later.client),
            machine: time(self.machine, later.machine),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: u64, cpu: u64) -> Sample {
        let second = Duration::from_secs;
        let nodes = Usage { cpu: second(cpu), written_bytes: cpu, resident_bytes: cpu };
        Sample { at: second(at), nodes, client: second(2 * cpu), machine: second(4 * cpu) }
    }

    #[test]
    fn a_moment_between_two_samples_lies_between_them() {
        let samples = Samples(vec![sample(10, 0), sample(20, 10), sample(30, 10)]);
        let at = |seconds| samples.at(Duration::from_secs_f64(seconds)).unwrap();
        assert_eq!(at(10.0), sample(10, 0));
        assert_eq!(at(20.0), sample(20, 10));
        let quarter = at(12.5);
        assert_eq!((quarter.nodes.cpu, quarter.nodes.written_bytes), (Duration::from_millis(2500), 0));
        assert_eq!((quarter.client, quarter.machine), (Duration::from_secs(5), Duration::from_secs(10)));
        assert_eq!(at(25.0), sample(25, 10));
    }

    #[test]
    fn a_moment_outside_is_that_of_the_nearest_sample() {
        let samples = Samples(vec![sample(10, 1), sample(20, 2)]);
        assert_eq!(samples.at(Duration::ZERO), Some(sample(10, 1)));
        assert_eq!(samples.at(Duration::MAX), Some(sample(20, 2)));
        assert_eq!(Samples::default().at(Duration::ZERO), None);
    }

    #[test]
    fn a_client_that_has_ended_keeps_what_it_used() {
        let mut samples = Samples(vec![sample(10, 100)]);
        samples.take(Duration::from_secs(11), &[std::process::id()], u32::MAX).unwrap();
        assert_eq!(samples.at(Duration::MAX).unwrap().client, Duration::from_secs(200));
        assert!(samples.take(Duration::from_secs(12), &[u32::MAX], u32::MAX).is_err());
    }
}
