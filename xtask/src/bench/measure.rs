//! One run against one cluster: the load, what it cost until the nodes came to rest, and how long its answers took.

use super::{
    client::{Latency, Load, Report, Run},
    clock,
    cluster::Cluster,
    process::Usage,
    samples::{self, Sample, Samples},
};
use anyhow::{Context, ensure};
use std::{collections::BTreeMap, path::Path, time::Duration};

/// Nodes that together use less than this share of a processor are at rest.
const REST_SHARE: f64 = 0.1;
/// Over how long.
const REST_WINDOW: Duration = Duration::from_millis(500);
/// Nodes that have not come to rest by then are measured as they are.
const REST_WITHIN: Duration = Duration::from_secs(20);

/// What one run has shown.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Figures {
    pub(crate) ops_per_s: f64,
    /// Of gets first, then of puts; of those that were asked for.
    pub(crate) latency_ms: Vec<Latency>,
    /// Processor time of all nodes for an operation, from the first one that was measured until they were at rest.
    pub(crate) nodes_cpu_us: f64,
    /// The same, of the client.
    pub(crate) client_cpu_us: f64,
    /// What all nodes sent to their disks for an operation.
    pub(crate) written_bytes: f64,
    /// What a node held in memory at the end, on average.
    pub(crate) resident_bytes: f64,
    /// The share of the machine's processors that went to neither nodes nor client: 0 to 1.
    pub(crate) others_share: f64,
    /// What should not have happened.
    pub(crate) faults: BTreeMap<String, u64>,
}

/// Runs a load to its end and waits until the nodes are at rest.
///
/// # Errors
/// The client fails, a node ends, or nothing was answered.
pub(crate) async fn measure(program: &Path, cluster: &Cluster, load: Load) -> anyhow::Result<Figures> {
    let run = Run::start(program, &cluster.hosts, load)?;
    let (mut samples, client) = (Samples::default(), run.pid);
    let report = tokio::select! {
        biased;
        report = run.report() => report?,
        failed = keep_sampling(&mut samples, &cluster.pids, client) => return Err(failed),
    };
    rest(&cluster.pids).await?;
    let nodes_at_rest = Usage::of_all(&cluster.pids)?;
    let (from, to) = report.window();
    let processors = std::thread::available_parallelism()?.get();
    let (from, to) = (samples.at(from), samples.at(to));
    let (from, to) = from.zip(to).context("the run was too short for a sample of its processes")?;
    ensure!(report.ops() > 0, "not one request was answered: {:?}", report.faults());
    Ok(figures(&report, [from, to], nodes_at_rest, cluster.pids.len(), processors))
}

/// Samples until something fails.
async fn keep_sampling(samples: &mut Samples, nodes: &[u32], client: u32) -> anyhow::Error {
    loop {
        if let Err(error) = samples.take(clock::unix_time(), nodes, client) {
            return error.context("a node has ended under the load");
        }
        clock::sleep(samples::EVERY).await;
    }
}

/// Waits until the nodes have done what the load has left them to do.
async fn rest(nodes: &[u32]) -> anyhow::Result<()> {
    let give_up = clock::now() + REST_WITHIN;
    let (mut at, mut cpu) = (clock::now(), Usage::of_all(nodes)?.cpu);
    while at < give_up {
        clock::sleep(REST_WINDOW).await;
        let (before, used_before) = (at, cpu);
        (at, cpu) = (clock::now(), Usage::of_all(nodes)?.cpu);
        let used = cpu.saturating_sub(used_before);
        if used < at.saturating_duration_since(before).mul_f64(REST_SHARE) {
            return Ok(());
        }
    }
    Ok(())
}

fn figures(
    report: &Report,
    [from, to]: [Sample; 2],
    at_rest: Usage,
    nodes: usize,
    processors: usize,
) -> Figures {
    let ops = report.ops() as f64;
    let us_per_op = |time: Duration| time.as_secs_f64() * 1e6 / ops;
    let machine = to.machine.saturating_sub(from.machine);
    let client = to.client.saturating_sub(from.client);
    let others = machine.saturating_sub(client).saturating_sub(to.nodes.cpu.saturating_sub(from.nodes.cpu));
    let capacity = to.at.saturating_sub(from.at).as_secs_f64() * processors as f64;
    Figures {
        ops_per_s: report.ops_per_s,
        latency_ms: report.latencies().collect(),
        nodes_cpu_us: us_per_op(at_rest.cpu.saturating_sub(from.nodes.cpu)),
        client_cpu_us: us_per_op(client),
        written_bytes: at_rest.written_bytes.saturating_sub(from.nodes.written_bytes) as f64 / ops,
        resident_bytes: at_rest.resident_bytes as f64 / nodes as f64,
        others_share: others.as_secs_f64() / capacity.max(f64::EPSILON),
        faults: report.faults(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::client::{Asked, Measured};

    #[test]
    fn what_the_nodes_do_after_the_last_answer_is_a_part_of_its_cost() {
        let latency_ms = Some(Latency { p50: 1.0, p99: 2.0, p99_9: 3.0 });
        let kind = |ops, latency_ms| Measured { ops, notfound: 0, errors: BTreeMap::new(), latency_ms };
        let report = Report {
            ops_per_s: 500.0,
            gets: kind(0, None),
            puts: kind(1000, latency_ms),
            load: Asked { measured_from_unix_ms: 10_000, seconds: 2, not_started: 0 },
        };
        let sample = |at, cpu_ms, client_ms, machine_ms| Sample {
            at: Duration::from_secs(at),
            nodes: Usage { cpu: Duration::from_millis(cpu_ms), written_bytes: cpu_ms, resident_bytes: 0 },
            client: Duration::from_millis(client_ms),
            machine: Duration::from_millis(machine_ms),
        };
        let window = [sample(10, 100, 50, 1000), sample(12, 300, 100, 2250)];
        let at_rest = Usage { cpu: Duration::from_millis(400), written_bytes: 5100, resident_bytes: 600 };
        let figures = figures(&report, window, at_rest, 3, 2);
        assert_eq!((figures.nodes_cpu_us, figures.client_cpu_us), (300.0, 50.0));
        assert_eq!((figures.written_bytes, figures.resident_bytes), (5.0, 200.0));
        assert_eq!(figures.others_share, 0.25);
        assert_eq!((figures.latency_ms.len(), figures.faults.len()), (1, 0));
    }
}
