//! `rondel dev`: a local cluster of real processes, and commands that steer one from another terminal.

mod control;
mod layout;
mod supervisor;

pub(crate) use layout::{ClusterFile, ClusterFileNode, read_cluster_file};

use crate::{
    failure::failure,
    output::{Output, Report, Table},
    rt,
};
use anyhow::Context;
use clap::{Args, Subcommand};
use control::{Control, Done, Verb};
use layout::{BASE_PORT_DEFAULT, Layout, NODES_DEFAULT, NODES_MAX};
use rondel_core::env::Env;
use serde::Serialize;
use std::{
    env,
    fs::{File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};
use supervisor::Supervisor;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Where the cluster is, unless the user says otherwise.
pub(crate) const DIR_DEFAULT: &str = "rondel-dev";

/// The flags of `rondel dev`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = false, subcommand_negates_reqs = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    steer: Option<Steer>,
    /// The folder of the cluster; what it stores stays there
    #[arg(long, global = true, value_name = "DIR", default_value = DIR_DEFAULT)]
    dir: PathBuf,
    /// How many nodes [default: 3, or as many as the folder's cluster has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(NODES_MAX)))]
    nodes: Option<u16>,
    /// The first port [default: 18000]: node i, from 0, has P + 10 i for Protocol Buffers, and the next three for admin,
    /// cluster and bulk
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    base_port: Option<u16>,
    /// Set a key of every node's configuration; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Commands for a cluster that runs.
#[derive(Subcommand, Debug)]
enum Steer {
    /// End a node at once (SIGKILL)
    Kill(Which),
    /// Freeze a node (SIGSTOP)
    Pause(Which),
    /// Let a frozen node go on (SIGCONT)
    Resume(Which),
    /// End a node gracefully (SIGTERM)
    Stop(Which),
    /// Start a node again, with the same data and ports
    Start(Which),
}

/// Which node.
#[derive(Args, Debug)]
struct Which {
    /// Its name: node1, node2, …
    node: String,
}

/// Runs a cluster until the user ends it, or steers one.
pub(crate) fn run(options: Options, output: Output) -> anyhow::Result<()> {
    debug_assert_eq!((NODES_DEFAULT, BASE_PORT_DEFAULT), (3, 18_000), "the help texts say so");
    let runtime = rt::single_threaded()?;
    runtime.block_on(async {
        match options.steer {
            Some(steer) => Box::pin(steer_one(&options.dir, steer, output)).await,
            None => Box::pin(supervise(&options, output)).await,
        }
    })
}

async fn steer_one(dir: &Path, steer: Steer, output: Output) -> anyhow::Result<()> {
    let (verb, which) = match steer {
        Steer::Kill(which) => (Verb::Kill, which),
        Steer::Pause(which) => (Verb::Pause, which),
        Steer::Resume(which) => (Verb::Resume, which),
        Steer::Stop(which) => (Verb::Stop, which),
        Steer::Start(which) => (Verb::Start, which),
    };
    let done = control::command(dir, verb, &which.node).await?;
    Ok(output.report(&Steered { done, verb })?)
}

async fn supervise(options: &Options, output: Output) -> anyhow::Result<()> {
    // Handlers first: an early Ctrl-C must find nodes that can be stopped, not a process that dies above them.
    let mut ends = Ends::listen()?;
    let layout = Layout::open(&options.dir, options.nodes, options.base_port)?;
    let _lock = lock(layout.dir())?;
    let supervisor = Supervisor::new(layout.clone(), options.set.clone(), output)?;
    let control = Control::open(layout.dir(), Env::production().random_u128()).await?;
    let run = async {
        supervisor.start_all().await?;
        output.report(&Ready { cluster: supervisor.cluster(), dir: options.dir.clone() })?;
        std::future::pending::<anyhow::Result<()>>().await
    };
    let ended = tokio::select! {
        biased;
        () = ends.next() => Ok(()),
        failed = run => failed,
        failed = control.serve(supervisor.clone()) => failed.context("the control port failed"),
    };
    output.note("stopping the nodes; their data stays");
    tokio::select! {
        biased;
        () = supervisor.stop_all() => {}
        () = ends.next() => supervisor.kill_all().await,
    }
    ended
}

/// Takes the folder for this process.
fn lock(dir: &Path) -> anyhow::Result<File> {
    let path = dir.join("dev.lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(failure(
            format!("another `rondel dev` runs on {}", dir.display()),
            "end it first (Ctrl-C in its terminal), or choose another --dir and --base-port",
        )),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// The ways in which a user ends a program.
struct Ends {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Ends {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

#[derive(Serialize)]
struct Ready {
    #[serde(flatten)]
    cluster: ClusterFile,
    dir: PathBuf,
}

impl Report for Ready {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let program = env::args().next().unwrap_or_else(|| "rondel".into());
        let mut table = Table::new(["NODE", "PB", "ADMIN", "PROCESS"]);
        for node in &self.cluster.nodes {
            let pid = node.pid.map_or_else(|| "-".into(), |pid| pid.to_string());
            table.row([node.name.clone(), node.pb.clone(), node.admin.clone(), pid]);
        }
        table.write(out)?;
        let is_default = self.dir == Path::new(DIR_DEFAULT);
        let dir = if is_default { String::new() } else { format!(" --dir {}", self.dir.display()) };
        writeln!(out)?;
        writeln!(
            out,
            "All nodes serve. Ctrl-C stops them; what they store stays in {}.",
            self.dir.display()
        )?;
        writeln!(out, "Try in another terminal:")?;
        for line in ["kv put greetings hello 'Hello, ring'", "kv get greetings hello", "status"] {
            writeln!(out, "  {program} {line}{dir}")?;
        }
        writeln!(out, "  {program} dev kill node2{dir}")
    }
}

#[derive(Serialize)]
struct Steered {
    #[serde(flatten)]
    done: Done,
    #[serde(skip)]
    verb: Verb,
}

impl Report for Steered {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let pid = self.done.pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
        writeln!(out, "{} {}{pid}", self.done.node, self.verb.done())
    }
}
