//! Starts, signals and awaits the processes of a local cluster, and keeps `cluster.json` true.
//!
//! Every node is a child of this process, and this process runs on one thread: the task that reaps a child withdraws
//! its id before any other task runs, so a signal never reaches a stranger who was given the same id.

use super::layout::{ClusterFile, ClusterFileNode, Layout, Seat};
use crate::{
    admin_api::Health,
    admin_client,
    commands::start::TOKEN_FILE,
    failure::failure,
    files::write_private,
    output::{Output, message},
    rt,
};
use anyhow::Context;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rondel_core::env::Env;
use std::{
    env, fs, io,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    process::{Child, Command},
    sync::watch,
};

/// How long a node may take from its start until it serves.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a node may take to stop when asked to.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// How often a node that is starting is asked.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How much of a log is shown when its node fails.
const LOG_LINES_SHOWN: usize = 12;

/// The processes of one cluster.
pub(super) struct Supervisor {
    layout: Layout,
    nodes: Vec<Node>,
    env: Env,
    output: Output,
    program: PathBuf,
    extra: Vec<String>,
    stopping: AtomicBool,
}

struct Node {
    seat: Seat,
    process: watch::Sender<Process>,
}

/// What a node's process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Process {
    Running { pid: u32 },
    Ended { status: Option<ExitStatus> },
}

/// What a node is asked for is not there.
enum NotReady {
    /// It may come; this is why it has not.
    Yet(String),
    /// It will not come.
    Ever,
}

impl Process {
    fn pid(self) -> Option<u32> {
        match self {
            Self::Running { pid } => Some(pid),
            Self::Ended { .. } => None,
        }
    }
}

impl Supervisor {
    /// No process yet. `extra` arguments go to every node. Must be called within a runtime.
    pub(super) fn new(layout: Layout, extra: Vec<String>, output: Output) -> anyhow::Result<Arc<Self>> {
        let ended = Process::Ended { status: None };
        let nodes = layout.seats().into_iter().map(|seat| Node { seat, process: watch::channel(ended).0 });
        Ok(Arc::new(Self {
            nodes: nodes.collect(),
            layout,
            env: Env::production(),
            output,
            program: env::current_exe().context("cannot tell where this program is")?,
            extra,
            stopping: AtomicBool::new(false),
        }))
    }

    /// Starts every node and waits until all of them serve.
    ///
    /// # Errors
    /// A port is taken, or a node ended or does not serve in time; the end of its log is in the error.
    pub(super) async fn start_all(self: &Arc<Self>) -> anyhow::Result<()> {
        self.check_ports(&self.nodes)?;
        let (first, others) = self.nodes.split_first().context("a cluster has at least one node")?;
        self.spawn(first)?;
        if !others.is_empty() && !self.layout.token_file().exists() {
            self.token_written(first).await?;
        }
        for node in others {
            self.spawn(node)?;
        }
        for node in &self.nodes {
            self.ready(node).await?;
        }
        self.keep_token(first)
    }

    /// Keeps the token outside of every data directory: a node whose directory is wiped later must come back as one that
    /// asks to join, not as one that starts another cluster.
    fn keep_token(&self, first: &Node) -> anyhow::Result<()> {
        let kept = self.layout.token_file();
        if kept.exists() || !token_file(&first.seat).exists() {
            return Ok(());
        }
        let keep = fs::read(token_file(&first.seat)).and_then(|token| write_private(&kept, &token));
        keep.with_context(|| format!("cannot write {}", kept.display()))
    }

    /// Starts one node again and waits until it serves.
    ///
    /// # Errors
    /// There is no such node, it runs already, or as [`Supervisor::start_all`].
    pub(super) async fn start(self: &Arc<Self>, name: &str) -> anyhow::Result<()> {
        let node = self.node(name)?;
        if let Some(pid) = node.process.borrow().pid() {
            return Err(failure(format!("{name} runs already (process {pid})"), "stop it first"));
        }
        self.check_ports(std::slice::from_ref(node))?;
        self.spawn(node)?;
        self.ready(node).await
    }

    /// Ends a node as a power cut would, as far as a process can tell.
    ///
    /// # Errors
    /// There is no such node, or it does not run.
    pub(super) async fn kill(&self, name: &str) -> anyhow::Result<()> {
        let node = self.node(name)?;
        self.signal(node, Signal::SIGKILL)?;
        node.ended().await;
        Ok(())
    }

    /// Freezes a node.
    ///
    /// # Errors
    /// As [`Supervisor::kill`].
    pub(super) fn pause(&self, name: &str) -> anyhow::Result<()> {
        let node = self.node(name)?;
        self.signal(node, Signal::SIGSTOP)
    }

    /// Lets a frozen node go on.
    ///
    /// # Errors
    /// As [`Supervisor::kill`].
    pub(super) fn resume(&self, name: &str) -> anyhow::Result<()> {
        let node = self.node(name)?;
        self.signal(node, Signal::SIGCONT)
    }

    /// Asks a node to end, and waits until it has.
    ///
    /// # Errors
    /// As [`Supervisor::kill`], or it does not end in time.
    pub(super) async fn stop(&self, name: &str) -> anyhow::Result<()> {
        let node = self.node(name)?;
        self.ask_to_end(node)?;
        match rt::timeout(STOP_WITHIN, node.ended()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(failure(
                format!("{name} has not ended within {} s", STOP_WITHIN.as_secs()),
                format!("look into {}; `rondel dev kill {name}` ends it at once", node.seat.log.display()),
            )),
        }
    }

    /// Ends every node: asks them all, and kills those that have not ended in time.
    pub(super) async fn stop_all(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        for node in &self.nodes {
            // A node that has just ended by itself needs no signal.
            let _ = self.ask_to_end(node);
        }
        let all_ended = async {
            for node in &self.nodes {
                node.ended().await;
            }
        };
        if rt::timeout(STOP_WITHIN, all_ended).await.is_err() {
            self.output
                .note(format!("some nodes have not ended within {} s; killing them", STOP_WITHIN.as_secs()));
            self.kill_all().await;
        }
    }

    /// Ends every node at once.
    pub(super) async fn kill_all(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        for node in &self.nodes {
            let _ = self.signal(node, Signal::SIGKILL);
        }
        for node in &self.nodes {
            node.ended().await;
        }
    }

    /// What runs now.
    pub(super) fn cluster(&self) -> ClusterFile {
        let nodes = self.nodes.iter().map(|node| ClusterFileNode {
            name: node.seat.name.clone(),
            pid: node.process.borrow().pid(),
            dir: node.seat.data.clone(),
            pb: node.seat.pb.to_string(),
            admin: node.seat.admin.to_string(),
        });
        ClusterFile { nodes: nodes.collect() }
    }

    fn node(&self, name: &str) -> anyhow::Result<&Node> {
        self.nodes.iter().find(|node| node.seat.name == name).ok_or_else(|| {
            let names = self.nodes.iter().map(|node| node.seat.name.as_str()).collect::<Vec<_>>();
            failure(format!("there is no node `{name}`"), format!("give one of {}", names.join(", ")))
        })
    }

    fn check_ports(&self, nodes: &[Node]) -> anyhow::Result<()> {
        let taken = nodes.iter().flat_map(|node| node.seat.taken_ports()).collect::<Vec<_>>();
        if taken.is_empty() {
            return Ok(());
        }
        Err(failure(
            format!("ports are taken:\n  {}", taken.join("\n  ")),
            "stop what uses them, or choose another --base-port (with another --dir if this one has a cluster)",
        ))
    }

    fn spawn(self: &Arc<Self>, node: &Node) -> anyhow::Result<()> {
        let seat = &node.seat;
        fs::create_dir_all(&seat.data).with_context(|| format!("cannot make {}", seat.data.display()))?;
        let log = fs::File::options().create(true).append(true).open(&seat.log);
        let log = log.with_context(|| format!("cannot open {}", seat.log.display()))?;
        let mut child = Command::new(&self.program)
            .args(self.arguments(seat))
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for this process; the nodes are told to end one by one.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let pid = child.id().context("the child has ended before it was started")?;
        node.process.send_replace(Process::Running { pid });
        self.publish();
        let (this, name) = (Arc::clone(self), seat.name.clone());
        self.env.spawn("await a node's process", async move {
            let status = reap(&mut child).await;
            this.note_end(&name, status);
        });
        Ok(())
    }

    fn arguments(&self, seat: &Seat) -> Vec<String> {
        let kept = self.layout.token_file();
        let join = match self.nodes.first() {
            _ if kept.exists() => format!("@{}", kept.display()),
            Some(first) if first.seat != *seat => format!("@{}", token_file(&first.seat).display()),
            _ => String::new(),
        };
        let founders = if join.is_empty() { self.nodes.len() } else { 1 };
        let settings = [
            ("node.name", seat.name.clone()),
            ("node.dir", seat.data.display().to_string()),
            ("listen.pb", seat.pb.to_string()),
            ("listen.admin", seat.admin.to_string()),
            ("listen.cluster", seat.cluster.to_string()),
            ("listen.bulk", seat.bulk.to_string()),
            ("advertise.host", String::new()),
            ("cluster.join", join),
            ("cluster.founders", founders.to_string()),
        ];
        // All nodes share this machine's cores.
        let share = (crate::config::cores() / self.nodes.len().max(1)).max(1);
        let shares = ["node.workers", "node.lanes"].map(|key| format!("{key}={share}"));
        let settings = settings.map(|(key, value)| format!("{key}={value}"));
        let mut arguments = vec!["start".to_owned(), "--until-stdin-closes".to_owned()];
        for assignment in shares.into_iter().chain(self.extra.iter().cloned()).chain(settings) {
            arguments.extend(["--set".to_owned(), assignment]);
        }
        arguments
    }

    /// The node's first act in a new cluster is to write the token that lets the others in.
    async fn token_written(&self, node: &Node) -> anyhow::Result<()> {
        let token = token_file(&node.seat);
        let not_yet = || NotReady::Yet("it is not there".into());
        let written = || std::future::ready(if token.exists() { Ok(()) } else { Err(not_yet()) });
        self.until(node, "has not written its join token", written).await
    }

    async fn ready(&self, node: &Node) -> anyhow::Result<()> {
        let admin = node.seat.admin.to_string();
        let serves = || async {
            match admin_client::get(&admin, "/health").await {
                Ok(answer) if answer.status.is_success() => Ok(()),
                Ok(answer) => match answer.json::<Health>(&admin, "/health") {
                    Ok(Health { withdrawn: true, .. }) => Err(NotReady::Ever),
                    Ok(Health { reason: Some(reason), .. }) => Err(NotReady::Yet(reason)),
                    _ => Err(NotReady::Yet(answer.text())),
                },
                Err(error) => Err(NotReady::Yet(message(&error))),
            }
        };
        self.until(node, "does not serve", serves).await
    }

    /// Asks again and again until the answer is good, the process has ended, or the time is up.
    async fn until<F: Future<Output = Result<(), NotReady>>>(
        &self,
        node: &Node,
        what: &str,
        ask: impl Fn() -> F,
    ) -> anyhow::Result<()> {
        let give_up = rt::now() + READY_WITHIN;
        loop {
            if let Process::Ended { status } = *node.process.borrow() {
                let how = status.map_or_else(|| "in an unknown way".to_owned(), |status| status.to_string());
                return Err(self.failed(node, &format!("ended ({how})")));
            }
            match ask().await {
                Ok(()) => return Ok(()),
                Err(NotReady::Ever) => return Err(self.failed(node, "has withdrawn from service")),
                Err(NotReady::Yet(why)) if rt::now() >= give_up => {
                    let within = READY_WITHIN.as_secs();
                    return Err(self.failed(node, &format!("{what} within {within} s: {why}")));
                }
                Err(NotReady::Yet(_)) => rt::sleep(ASK_EVERY).await,
            }
        }
    }

    fn failed(&self, node: &Node, what: &str) -> anyhow::Error {
        let log = fs::read(&node.seat.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines = log.lines().collect::<Vec<_>>();
        let shown = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n  ");
        failure(
            format!("{} {what}; its log ends:\n  {shown}", node.seat.name),
            format!("the whole log is {}", node.seat.log.display()),
        )
    }

    fn ask_to_end(&self, node: &Node) -> anyhow::Result<()> {
        self.signal(node, Signal::SIGTERM)?;
        // A frozen process does not see the request before it goes on.
        self.signal(node, Signal::SIGCONT)
    }

    fn signal(&self, node: &Node, signal: Signal) -> anyhow::Result<()> {
        let name = &node.seat.name;
        let Some(pid) = node.process.borrow().pid() else {
            return Err(failure(
                format!("{name} does not run"),
                format!("`rondel dev start {name}` starts it"),
            ));
        };
        let pid = i32::try_from(pid).context("a process id beyond the system's range")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot signal {name} (process {pid})"))
    }

    fn note_end(&self, name: &str, status: Option<ExitStatus>) {
        if let Ok(node) = self.node(name) {
            node.process.send_replace(Process::Ended { status });
        }
        self.publish();
        if !self.stopping.load(Ordering::Relaxed) {
            let how = status.map_or_else(|| "in an unknown way".to_owned(), |status| status.to_string());
            self.output.note(format!("{name} ended ({how})"));
        }
    }

    fn publish(&self) {
        if let Err(error) = self.layout.publish(&self.cluster()) {
            self.output
                .note(format!("cannot write cluster.json in {}: {error}", self.layout.dir().display()));
        }
    }
}

impl Node {
    /// Ready when the process has ended, or if none runs.
    async fn ended(&self) {
        let mut process = self.process.subscribe();
        // The sender lives as long as this node.
        let _ = process.wait_for(|process| process.pid().is_none()).await;
    }
}

/// Where a node that starts a cluster writes the token that lets others in.
fn token_file(seat: &Seat) -> PathBuf {
    seat.data.join(TOKEN_FILE)
}

async fn reap(child: &mut Child) -> Option<ExitStatus> {
    // Held to the end: to wait for a child closes its standard input, which tells a node to stop.
    let _stdin = child.stdin.take();
    let status: io::Result<ExitStatus> = child.wait().await;
    status.ok()
}
