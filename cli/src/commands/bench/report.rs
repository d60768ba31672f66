//! What a benchmark has measured, for people and for machines.
//!
//! Gets and puts apart. Latencies are those of requests that were answered, notfounds among them; refusals, lost
//! connections and timeouts are counted by their text and have no part in the latencies.

use super::{
    BenchArgs,
    pace::Pace,
    workload::{Distribution, Kind},
};
use crate::{output::Report, pb_client::PbError};
use hdrhistogram::Histogram;
use rondel_proto::riak::messages::{RpbGetResp, RpbPutResp};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    error::Error,
    fmt,
    io::{self, Write},
    time::Duration,
};

/// The longest latency that is told apart: 10 minutes.
const LATENCY_US_MAX: u64 = 600_000_000;
/// How many different errors are told apart; texts may hold numbers without end.
const ERROR_TEXTS_MAX: usize = 50;

/// What a request that was answered has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    NotFound,
    Siblings,
}

impl Answer {
    pub(super) fn of_get(answer: &RpbGetResp) -> Self {
        match answer.content.len() {
            0 => Self::NotFound,
            1 => Self::Done,
            _ => Self::Siblings,
        }
    }

    pub(super) fn of_put(answer: &RpbPutResp) -> Self {
        if answer.content.len() > 1 { Self::Siblings } else { Self::Done }
    }
}

/// Collects outcomes while the load runs.
#[derive(Debug)]
pub(super) struct Recorder {
    gets: Tally,
    puts: Tally,
}

#[derive(Debug)]
struct Tally {
    latency_us: Histogram<u64>,
    notfound: u64,
    siblings: u64,
    errors: BTreeMap<String, u64>,
}

impl Recorder {
    pub(super) fn new() -> Self {
        Self { gets: Tally::new(), puts: Tally::new() }
    }

    pub(super) fn record(&mut self, kind: Kind, latency: Duration, answer: &Result<Answer, PbError>) {
        let tally = match kind {
            Kind::Get => &mut self.gets,
            Kind::Put => &mut self.puts,
        };
        tally.record(latency, answer);
    }

    pub(super) fn report(self, load: Load) -> BenchReport {
        let seconds = f64::from(load.seconds);
        let gets = Measured::of(self.gets, seconds);
        let puts = Measured::of(self.puts, seconds);
        BenchReport { ops_per_s: gets.ops_per_s + puts.ops_per_s, gets, puts, load }
    }
}

impl Tally {
    fn new() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are in order");
        Self { latency_us, notfound: 0, siblings: 0, errors: BTreeMap::new() }
    }

    fn record(&mut self, latency: Duration, answer: &Result<Answer, PbError>) {
        match answer {
            Ok(answer) => {
                let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
                self.latency_us.saturating_record(latency_us);
                self.notfound += u64::from(*answer == Answer::NotFound);
                self.siblings += u64::from(*answer == Answer::Siblings);
            }
            Err(error) => self.count_error(text_of(error)),
        }
    }

    fn count_error(&mut self, text: String) {
        let known = self.errors.contains_key(&text) || self.errors.len() < ERROR_TEXTS_MAX;
        *self.errors.entry(if known { text } else { "other".to_owned() }).or_default() += 1;
    }
}

/// An error and its causes, in a line.
fn text_of(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct BenchReport {
    /// Answered requests of both kinds per second.
    pub(crate) ops_per_s: f64,
    /// Reads.
    pub(crate) gets: Measured,
    /// Writes.
    pub(crate) puts: Measured,
    /// What was asked for.
    pub(crate) load: Load,
}

/// What was measured of one kind of request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Measured {
    /// Answered requests.
    pub(crate) ops: u64,
    /// Answered requests per second.
    pub(crate) ops_per_s: f64,
    /// Those that found nothing.
    pub(crate) notfound: u64,
    /// Those that found siblings, or made them.
    pub(crate) siblings: u64,
    /// Requests without an answer, by the reason.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Of the answered requests; absent if there are none.
    pub(crate) latency_ms: Option<Latency>,
}

/// Latencies in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Latency {
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    #[serde(rename = "p99.9")]
    pub(crate) p99_9: f64,
    pub(crate) max: f64,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Load {
    /// Name and version that the first host gives itself.
    pub(crate) server: String,
    /// How many connections.
    pub(crate) connections: u32,
    /// When that was measured which was due first: milliseconds since 1970.
    pub(crate) measured_from_unix_ms: u64,
    /// How long it was measured.
    pub(crate) seconds: u32,
    /// Requests per second, if the loop was open.
    pub(crate) rate: Option<f64>,
    /// Requests that were due and not begun by the end: the server could not keep up with the rate.
    pub(crate) not_started: u64,
    /// How many keys there are.
    pub(crate) keys: u64,
    /// Which were asked for how often.
    pub(crate) distribution: Distribution,
    /// Bytes of a value.
    pub(crate) value_size: u32,
    /// The share of gets.
    pub(crate) read_share: f64,
    /// How the keys came there, if they were written first.
    pub(crate) preload: Option<Preload>,
}

/// How the preload went.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Preload {
    /// Keys written.
    pub(crate) keys: u64,
    /// In so many seconds.
    pub(crate) seconds: f64,
}

impl Preload {
    pub(super) fn new(keys: u64, took: Duration) -> Self {
        Self { keys, seconds: took.as_secs_f64() }
    }
}

impl Load {
    pub(super) fn of(args: &BenchArgs, server: String, preload: Option<Preload>, pace: &Pace) -> Self {
        Self {
            server,
            connections: args.connections,
            measured_from_unix_ms: pace.measure_from_unix_ms(),
            seconds: args.seconds,
            rate: args.rate,
            not_started: pace.not_started(),
            keys: args.keys,
            distribution: args.distribution,
            value_size: args.value_size,
            read_share: args.read_share,
            preload,
        }
    }
}

impl Measured {
    fn of(tally: Tally, seconds: f64) -> Self {
        let ops = tally.latency_us.len();
        Self {
            ops,
            ops_per_s: ops as f64 / seconds,
            notfound: tally.notfound,
            siblings: tally.siblings,
            errors: tally.errors,
            latency_ms: (ops > 0).then(|| Latency::of(&tally.latency_us)),
        }
    }
}

impl Latency {
    fn of(latency_us: &Histogram<u64>) -> Self {
        let at = |quantile| latency_us.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            mean: latency_us.mean() / 1000.0,
            p50: at(0.50),
            p95: at(0.95),
            p99: at(0.99),
            p99_9: at(0.999),
            max: latency_us.max() as f64 / 1000.0,
        }
    }
}

impl Report for BenchReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(out, "{self}")
    }
}

impl fmt::Display for BenchReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load.fmt(out)?;
        writeln!(out, "total   {:>11.0} ops/s", self.ops_per_s)?;
        writeln!(
            out,
            "{:<7} {:>11} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "", "ops/s", "mean ms", "p50", "p95", "p99", "p99.9", "max", "notfound", "errors"
        )?;
        self.gets.row(out, "get")?;
        self.puts.row(out, "put")?;
        self.gets.write_remarks(out, "get")?;
        self.puts.write_remarks(out, "put")
    }
}

impl fmt::Display for Load {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(preload) = self.preload {
            let per_second = preload.keys as f64 / preload.seconds.max(f64::EPSILON);
            writeln!(
                out,
                "preload {:>11.0} puts/s, {} keys in {:.1} s",
                per_second, preload.keys, preload.seconds
            )?;
        }
        writeln!(out, "server  {}", self.server)?;
        write!(out, "load    {} connections, {} s, ", self.connections, self.seconds)?;
        match self.rate {
            Some(rate) => write!(out, "{rate} ops/s due")?,
            None => write!(out, "always busy")?,
        }
        let gets = self.read_share * 100.0;
        writeln!(out, ", {gets:.0} % gets, {} keys, {} bytes", self.keys, self.value_size)?;
        if self.not_started > 0 {
            writeln!(out, "        {} requests were due and not begun by the end", self.not_started)?;
        }
        Ok(())
    }
}

impl Measured {
    fn row(&self, out: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
        let errors: u64 = self.errors.values().sum();
        write!(out, "{name:<7} {:>11.0}", self.ops_per_s)?;
        match &self.latency_ms {
            Some(l) => {
                for value in [l.mean, l.p50, l.p95, l.p99, l.p99_9, l.max] {
                    write!(out, " {value:>9.3}")?;
                }
            }
            None => write!(out, "{:>60}", "")?,
        }
        writeln!(out, " {:>9} {errors:>9}", self.notfound)
    }

    fn write_remarks(&self, out: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
        if self.siblings > 0 {
            writeln!(out, "{name}: {} answers held siblings", self.siblings)?;
        }
        for (text, count) in &self.errors {
            writeln!(out, "{name}: {count} x {text}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Load {
        let args = crate::commands::bench::tests::args(&["--seconds", "2"]);
        let pace = Pace::start(None, 0, 2).unwrap();
        Load { not_started: 3, ..Load::of(&args, "n 2.2.3".into(), None, &pace) }
    }

    #[test]
    fn a_report_counts_what_was_recorded() {
        let mut recorder = Recorder::new();
        for ms in 1..=1000 {
            recorder.record(Kind::Get, Duration::from_millis(ms), &Ok(Answer::Done));
        }
        recorder.record(Kind::Get, Duration::from_millis(1), &Ok(Answer::NotFound));
        recorder.record(Kind::Put, Duration::from_secs(5), &Err(PbError::Server("overload".into())));
        recorder.record(Kind::Put, Duration::from_secs(5), &Err(PbError::Elapsed(crate::rt::Elapsed)));
        let report = recorder.report(load());
        assert_eq!((report.gets.ops, report.gets.notfound, report.gets.ops_per_s), (1001, 1, 500.5));
        let latency = report.gets.latency_ms.clone().unwrap();
        for (got, expected) in [(latency.p50, 500.0), (latency.p99, 990.0), (latency.p99_9, 999.0)] {
            assert!((got - expected).abs() <= expected / 500.0, "{got} for {expected}");
        }
        assert_eq!((report.puts.ops, &report.puts.latency_ms), (0, &None), "an error has no latency");
        assert_eq!(report.puts.errors["overload"], 1);
        assert_eq!(report.puts.errors["no answer from the server: timeout"], 1);
        let text = report.to_string();
        assert!(text.contains("put: 1 x overload") && text.contains("3 requests were due"), "{text}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["gets"]["latency_ms"]["max"].as_f64().map(f64::floor), Some(1000.0));
    }

    #[test]
    fn texts_without_end_do_not_fill_the_memory() {
        let mut recorder = Recorder::new();
        for number in 0..1000 {
            let error = Err(PbError::Server(format!("error {number}")));
            recorder.record(Kind::Get, Duration::ZERO, &error);
        }
        let report = recorder.report(load());
        assert_eq!(report.gets.errors.len(), ERROR_TEXTS_MAX + 1);
        assert_eq!(report.gets.errors.values().sum::<u64>(), 1000);
    }
}
