//! One run of `rondel bench`: which load it makes, and what it says.

use anyhow::{Context, bail};
use serde::Deserialize;
use std::{collections::BTreeMap, path::Path, process::Stdio, time::Duration};
use tokio::process::{Child, Command};

/// What every run has in common.
pub(crate) const CONNECTIONS: u32 = 64;
pub(crate) const VALUE_BYTES: u32 = 1024;

/// What one run asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Load {
    /// The share of gets, 0 to 1.
    pub(crate) read_share: f64,
    /// Requests per second; none for as many as are answered.
    pub(crate) rate: Option<f64>,
    /// How long it runs before it is measured, and then.
    pub(crate) warmup: u32,
    pub(crate) seconds: u32,
    /// How many keys there are.
    pub(crate) keys: u64,
    /// Runs with different seeds ask for different keys.
    pub(crate) seed: u64,
}

/// What `rondel bench` reports, as far as it is needed here.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Report {
    pub(crate) ops_per_s: f64,
    pub(crate) gets: Measured,
    pub(crate) puts: Measured,
    pub(crate) load: Asked,
}

/// Of one kind of request.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Measured {
    pub(crate) ops: u64,
    pub(crate) notfound: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) latency_ms: Option<Latency>,
}

/// In milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    #[serde(rename = "p99.9")]
    pub(crate) p99_9: f64,
}

/// What was asked for, when, and how much of it could not be begun.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Asked {
    pub(crate) measured_from_unix_ms: u64,
    pub(crate) seconds: u32,
    pub(crate) not_started: u64,
}

impl Report {
    /// Answered requests.
    pub(crate) fn ops(&self) -> u64 {
        self.gets.ops + self.puts.ops
    }

    /// Latencies, of gets first, of those kinds that were asked for.
    pub(crate) fn latencies(&self) -> impl Iterator<Item = Latency> {
        [self.gets.latency_ms, self.puts.latency_ms].into_iter().flatten()
    }

    /// When measuring began and ended: since 1970.
    pub(crate) fn window(&self) -> (Duration, Duration) {
        let from = Duration::from_millis(self.load.measured_from_unix_ms);
        (from, from + Duration::from_secs(self.load.seconds.into()))
    }

    /// What should not have happened, each with its number: errors, keys that were written and not found, requests that
    /// were due and not begun when the time was up. Of those, one for each connection may just have missed the end.
    pub(crate) fn faults(&self) -> BTreeMap<String, u64> {
        let mut faults = BTreeMap::new();
        for kind in [&self.gets, &self.puts] {
            for (text, count) in &kind.errors {
                *faults.entry(text.clone()).or_default() += count;
            }
            *faults.entry("not found".to_owned()).or_default() += kind.notfound;
        }
        faults
            .insert("due and not begun".to_owned(), self.load.not_started.saturating_sub(CONNECTIONS.into()));
        faults.retain(|_, count| *count > 0);
        faults
    }
}

/// A run that is under way. Dropped, it is killed.
pub(crate) struct Run {
    child: Child,
    pub(crate) pid: u32,
}

impl Run {
    /// Starts the load.
    ///
    /// # Errors
    /// The program can't be started.
    pub(crate) fn start(program: &Path, hosts: &[String], load: Load) -> anyhow::Result<Self> {
        let child = Command::new(program)
            .args(["--format", "json", "bench"])
            .args(arguments(hosts, load))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            // Ctrl-C is for this process, which ends the others in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let pid = child.id().context("the client has ended before it was started")?;
        Ok(Self { child, pid })
    }

    /// What it reports at its end.
    ///
    /// # Errors
    /// It fails, or says something else than a report.
    pub(crate) async fn report(self) -> anyhow::Result<Report> {
        let output = self.child.wait_with_output().await.context("cannot await `rondel bench`")?;
        if !output.status.success() {
            bail!("`rondel bench` failed ({}); what it says stands above", output.status);
        }
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!("`rondel bench` says no report: {}", String::from_utf8_lossy(&output.stdout))
        })
    }
}

fn arguments(hosts: &[String], load: Load) -> Vec<String> {
    let mut arguments = vec![format!("--hosts={}", hosts.join(","))];
    // Its puts need to know what is there already, to replace it.
    arguments.extend((load.read_share < 1.0).then(|| "--preload".to_owned()));
    arguments.push(format!("--warmup={}", load.warmup));
    arguments.push(format!("--connections={CONNECTIONS}"));
    arguments.push(format!("--value-size={VALUE_BYTES}"));
    arguments.push(format!("--seconds={}", load.seconds));
    arguments.push(format!("--keys={}", load.keys));
    arguments.push(format!("--read-share={}", load.read_share));
    arguments.push(format!("--seed={}", load.seed));
    arguments.extend(load.rate.map(|rate| format!("--rate={rate:.3}")));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Load {
        Load { read_share: 1.0, rate: None, warmup: 1, seconds: 3, keys: 10, seed: 7 }
    }

    const REPORT: &str = r#"{"ops_per_s":1500.5,
        "gets":{"ops":3000,"ops_per_s":1000.0,"notfound":2,"siblings":0,"errors":{"timeout":1},
            "latency_ms":{"mean":1.0,"p50":0.9,"p95":2.0,"p99":3.0,"p99.9":4.0,"max":9.0}},
        "puts":{"ops":0,"ops_per_s":0.0,"notfound":0,"siblings":0,"errors":{"timeout":2},"latency_ms":null},
        "load":{"server":"n 1","connections":64,"measured_from_unix_ms":5000,"seconds":3,"rate":null,"not_started":69,"keys":10,
            "distribution":"uniform","value_size":1024,"read_share":0.5,"preload":null}}"#;

    #[test]
    fn a_report_is_read_with_all_that_went_wrong() {
        let report = serde_json::from_str::<Report>(REPORT).unwrap();
        assert_eq!((report.ops(), report.ops_per_s), (3000, 1500.5));
        assert_eq!(report.window(), (Duration::from_secs(5), Duration::from_secs(8)));
        assert_eq!(report.latencies().map(|latency| latency.p99_9).collect::<Vec<_>>(), [4.0]);
        let faults = report.faults();
        assert_eq!((faults["timeout"], faults["not found"], faults["due and not begun"]), (3, 2, 5));
        assert_eq!(faults.len(), 3);
    }

    #[test]
    fn a_rate_makes_an_open_loop_and_puts_a_preload() {
        let hosts = ["a:1".to_owned(), "b:2".to_owned()];
        let closed = arguments(&hosts, load());
        assert!(closed.contains(&"--hosts=a:1,b:2".to_owned()) && closed.contains(&"--seed=7".to_owned()));
        assert!(!closed.iter().any(|argument| argument.starts_with("--rate") || argument == "--preload"));
        let open = arguments(&hosts, Load { rate: Some(1234.5), read_share: 0.5, ..load() });
        assert!(open.contains(&"--rate=1234.500".to_owned()) && open.contains(&"--preload".to_owned()));
    }
}
