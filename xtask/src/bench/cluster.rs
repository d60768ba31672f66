//! A local cluster for a benchmark: `rondel dev` in a folder that is removed afterwards, ended in any case.
//!
//! `rondel dev` ends its nodes when it is told to, and a node ends when `rondel dev` is gone, so nothing is left behind
//! whatever ends this process.

use crate::ends::Ends;
use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
};

/// How long the nodes may take to end before they are killed: more than `rondel dev` gives them.
const STOP_WITHIN: Duration = Duration::from_secs(40);

/// How a cluster is started.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The binary.
    pub(crate) program: PathBuf,
    /// Where its folder is made.
    pub(crate) parent: PathBuf,
    pub(crate) nodes: u16,
    pub(crate) base_port: u16,
    /// `KEY=VALUE` of every node's configuration.
    pub(crate) settings: Vec<String>,
}

/// What runs, as `rondel dev` reports it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Ready {
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Node {
    name: String,
    pid: Option<u32>,
    pb: String,
}

/// A cluster whose nodes all serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cluster {
    /// The nodes' processes.
    pub(crate) pids: Vec<u32>,
    /// Where Protocol Buffers clients connect.
    pub(crate) hosts: Vec<String>,
}

/// Starts a cluster, does `work` with it, and ends it.
///
/// # Errors
/// It does not start (a port is taken, for example), it ends under the work, the work fails, or the user ends it.
pub(crate) async fn with_cluster<T>(
    plan: &Plan,
    ends: &mut Ends,
    work: impl AsyncFnOnce(Cluster) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let folder = tempfile::Builder::new().prefix("cluster-").tempdir_in(&plan.parent);
    let folder = folder.with_context(|| format!("cannot make a folder in {}", plan.parent.display()))?;
    let (mut dev, reports) = spawn(plan, folder.path())?;
    let run = async { work(ready(reports).await?).await };
    let done = tokio::select! {
        biased;
        () = ends.next() => Err(anyhow::anyhow!("ended by the user")),
        ended = dev.wait() => Err(match ended {
            Ok(status) => anyhow::anyhow!("`rondel dev` ended ({status}); what it says stands above"),
            Err(error) => anyhow::Error::new(error).context("cannot await `rondel dev`"),
        }),
        done = run => done,
    };
    stop(&mut dev, ends).await?;
    done
}

fn spawn(plan: &Plan, folder: &Path) -> anyhow::Result<(Child, ChildStdout)> {
    let mut command = Command::new(&plan.program);
    command
        .args(["--format", "json", "dev", "--dir"])
        .arg(folder.join("dev"))
        .arg(format!("--nodes={}", plan.nodes))
        .arg(format!("--base-port={}", plan.base_port));
    for setting in &plan.settings {
        command.args(["--set", setting]);
    }
    let mut dev = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        // Ctrl-C is for this process, which ends the others in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", plan.program.display()))?;
    let reports = dev.stdout.take().context("the output of `rondel dev` is piped")?;
    Ok((dev, reports))
}

/// Ready when all nodes serve.
async fn ready(reports: ChildStdout) -> anyhow::Result<Cluster> {
    let mut line = String::new();
    BufReader::new(reports).read_line(&mut line).await.context("cannot read what `rondel dev` says")?;
    if line.is_empty() {
        // It has ended, which says more than this; whoever awaits its end has the word.
        return std::future::pending().await;
    }
    cluster(&line)
}

fn cluster(report: &str) -> anyhow::Result<Cluster> {
    let Ready { nodes } =
        serde_json::from_str(report).with_context(|| format!("`rondel dev` says no cluster: {report}"))?;
    let mut cluster = Cluster { pids: Vec::new(), hosts: Vec::new() };
    for Node { name, pid, pb } in nodes {
        cluster.pids.push(pid.with_context(|| format!("{name} does not run"))?);
        cluster.hosts.push(pb);
    }
    Ok(cluster)
}

/// Asks `rondel dev` to end its nodes and itself; kills it if that takes too long or the user insists.
async fn stop(dev: &mut Child, ends: &mut Ends) -> anyhow::Result<()> {
    let Some(pid) = dev.id() else { return Ok(()) };
    let pid = Pid::from_raw(i32::try_from(pid).context("a process id beyond the system's range")?);
    kill(pid, Signal::SIGTERM).context("cannot signal `rondel dev`")?;
    tokio::select! {
        biased;
        ended = dev.wait() => return ended.map(drop).context("cannot await `rondel dev`"),
        () = super::clock::sleep(STOP_WITHIN) => {}
        () = ends.next() => {}
    }
    dev.kill().await.context("cannot kill `rondel dev`")?;
    bail!("`rondel dev` did not end in time and was killed; its nodes end by themselves")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const REPORT: &str = r#"{"nodes":[{"name":"node1","pid":12,"dir":"d","pb":"127.0.0.1:1","admin":"127.0.0.1:2"},
        {"name":"node2","pid":34,"dir":"d","pb":"127.0.0.1:3","admin":"127.0.0.1:4"}],"dir":"d"}"#;

    /// A program that acts as `rondel dev` would.
    fn plan(folder: &Path, script: &str) -> Plan {
        let program = folder.join("program");
        // Another process writes it: a test that forks meanwhile would keep this one's file open for writing, and then
        // it can't be run ("text file busy").
        let write = r#"printf '#!/bin/sh\n%s\n' "$1" > "$2" && chmod 700 "$2""#;
        let written =
            std::process::Command::new("sh").args(["-c", write, "sh", script]).arg(&program).status();
        assert!(written.unwrap().success());
        let parent = folder.join("parent");
        fs::create_dir(&parent).unwrap();
        Plan { program, parent, nodes: 2, base_port: 1, settings: vec!["a=b".to_owned()] }
    }

    fn run<T>(
        script: &str,
        work: impl AsyncFnOnce(Cluster) -> anyhow::Result<T>,
    ) -> (anyhow::Result<T>, String) {
        let folder = tempfile::tempdir().unwrap();
        let plan = plan(folder.path(), script);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let done = runtime.block_on(async {
            let mut ends = Ends::listen().unwrap();
            with_cluster(&plan, &mut ends, work).await
        });
        assert_eq!(fs::read_dir(&plan.parent).unwrap().count(), 0, "the cluster's folder is removed");
        (done, fs::read_to_string(folder.path().join("said")).unwrap_or_default())
    }

    /// Reports a cluster, and notes how it was called and that it was asked to end.
    fn dev() -> String {
        let report = REPORT.replace('\n', " ");
        format!(
            r#"said="$(dirname "$0")/said"; echo "$@" > "$said"
            sleep 600 > "$said.idle" & trap "kill $!; echo ended >> $said; exit 0" TERM
            echo '{report}'; wait"#
        )
    }

    #[test]
    fn a_report_names_processes_and_addresses() {
        let cluster = cluster(REPORT).unwrap();
        assert_eq!(
            (cluster.pids, cluster.hosts),
            (vec![12, 34], vec!["127.0.0.1:1".into(), "127.0.0.1:3".into()])
        );
        assert!(super::cluster("{}").is_err());
        let error = super::cluster(&REPORT.replace("34", "null")).unwrap_err();
        assert_eq!(error.to_string(), "node2 does not run");
    }

    #[test]
    fn the_cluster_is_asked_to_end_after_the_work_whether_it_succeeds_or_fails() {
        let (done, said) = run(&dev(), async |cluster| Ok(cluster.hosts.len()));
        assert_eq!(done.unwrap(), 2);
        assert!(said.contains("--nodes=2 --base-port=1 --set a=b") && said.ends_with("ended\n"), "{said}");
        let (done, said) = run::<()>(&dev(), async |_| bail!("the work fails"));
        assert_eq!(done.unwrap_err().to_string(), "the work fails");
        assert!(said.ends_with("ended\n"), "{said}");
    }

    #[test]
    fn a_cluster_that_does_not_start_says_how_it_ended() {
        let (done, _) = run("exit 3", async |_| Ok(()));
        assert!(done.unwrap_err().to_string().contains("exit status: 3"));
        let (done, _) = run(&dev().replace("\"nodes\"", "\"no\""), async |_| Ok(()));
        assert!(done.unwrap_err().to_string().contains("says no cluster"));
    }
}
