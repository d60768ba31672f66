//! The example application as real processes: real sockets, real files, SIGKILL.
//!
//! `cargo test -p rondel-dt` builds examples before it runs tests, also with the name of a test as a filter. With
//! `--test processes` it does not: then this runs the example as it was built last.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use rondel_core::env::Env;
use std::{
    future::Future,
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// No wait of this test takes long on a machine that does anything else; past this it has failed.
const DEADLINE: Duration = Duration::from_secs(120);
/// How often a wait looks again.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const KEYS: [&str; 4] = ["visits", "likes", "stock", "balance"];

/// A process of the example, and how to talk to it. Killed when dropped.
struct Node {
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

/// How a process is started, now and again.
#[derive(Clone)]
struct Start {
    data: PathBuf,
    listen: SocketAddr,
    bulk: SocketAddr,
    origin: [String; 2],
}

impl Node {
    fn start(start: &Start) -> Self {
        let mut command = Command::new(example());
        command.arg("--data").arg(&start.data);
        command.args(["--listen", &start.listen.to_string(), "--bulk", &start.bulk.to_string()]);
        command.args(&start.origin).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, stdin, stdout }
    }

    /// The next line that it prints.
    async fn line(&mut self) -> String {
        let line = within_deadline("a line", self.stdout.next_line()).await.unwrap();
        line.expect("the process has ended; what it says of it is above")
    }

    async fn expect(&mut self, first: &str) -> String {
        let line = self.line().await;
        let rest = line.strip_prefix(first).unwrap_or_else(|| panic!("`{first}` was due, not `{line}`"));
        rest.trim().to_owned()
    }

    async fn ask(&mut self, line: &str) -> String {
        self.stdin.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        self.line().await
    }

    async fn ask_well(&mut self, line: &str) -> String {
        let answer = self.ask(line).await;
        answer.strip_prefix("ok ").unwrap_or_else(|| panic!("`{line}` was answered `{answer}`")).to_owned()
    }

    /// Asks until the answer is as it should be.
    async fn ask_until(&mut self, line: &str, right: impl Fn(&str) -> bool) -> String {
        let env = Env::production();
        let until = env.now() + DEADLINE;
        loop {
            let answer = self.ask(line).await;
            if let Some(right) = answer.strip_prefix("ok ").filter(|answer| right(answer)) {
                return right.to_owned();
            }
            assert!(env.now() < until, "`{line}` is still answered `{answer}`");
            env.sleep(LOOK_EVERY).await;
        }
    }

    /// SIGKILL.
    async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// Where cargo has put the example: beside the directory that this test is in.
fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.parent().and_then(Path::parent).unwrap().join("examples/counter");
    let example = built.with_extension(std::env::consts::EXE_EXTENSION);
    assert!(
        example.exists(),
        "{} is not built: run `cargo test -p rondel-dt`, without `--test`, which builds it",
        example.display()
    );
    example
}

async fn within_deadline<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = Env::production().timeout(DEADLINE, future).await;
    waited.unwrap_or_else(|_| panic!("waited for {what} for {DEADLINE:?}"))
}

/// Addresses that were free a moment ago.
fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let sockets = [(); N].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    sockets.each_ref().map(|socket| socket.local_addr().unwrap())
}

/// What the clients of this test have had acknowledged.
#[derive(Default)]
struct Acknowledged([i128; KEYS.len()]);

impl Acknowledged {
    /// Adds to every key, through each of these nodes in turn.
    async fn add(&mut self, through: &mut [&mut Node], amounts: &[i64]) {
        for (turn, amount) in amounts.iter().enumerate() {
            for (at, key) in KEYS.iter().enumerate() {
                let node = (turn + at) % through.len();
                through[node].ask_well(&format!("add {key} {amount}")).await;
                self.0[at] += i128::from(*amount);
            }
        }
    }

    async fn assert_exact(&self, node: &mut Node) {
        for (key, expected) in KEYS.iter().zip(self.0) {
            assert_eq!(node.ask_well(&format!("get {key}")).await, expected.to_string(), "{key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_count_is_lost_though_each_node_is_killed_once() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, c, d, e, f] = free_addresses();
    let start = |name: &str, listen, bulk, origin: [&str; 2]| Start {
        data: dir.path().join(name),
        listen,
        bulk,
        origin: origin.map(str::to_owned),
    };
    let mut one = Node::start(&start("one", a, b, ["--founders", "3"]));
    let token = one.expect("token").await;
    let mut two = Node::start(&start("two", c, d, ["--join", &token]));
    let third = start("three", e, f, ["--join", &token]);
    let mut three = Node::start(&third);
    for node in [&mut one, &mut two, &mut three] {
        node.expect("serving").await;
    }
    // A node serves once it knows a majority that does; for a member that it does not know yet another would stand in.
    for node in [&mut one, &mut two, &mut three] {
        node.ask_until("status", |status| status == "up=3 down=0 hints=0").await;
    }
    let mut acknowledged = Acknowledged::default();
    acknowledged.add(&mut [&mut one, &mut two, &mut three], &[1, 5, -2, 7]).await;
    for node in [&mut one, &mut two, &mut three] {
        acknowledged.assert_exact(node).await;
    }

    three.kill().await;
    acknowledged.add(&mut [&mut one, &mut two], &[3, -1, 10]).await;
    acknowledged.assert_exact(&mut one).await;
    acknowledged.assert_exact(&mut two).await;
    // Once both know that it is down, what they acknowledge for it is a hint in the same commit.
    one.ask_until("status", |status| status.starts_with("up=2 down=1 ")).await;
    two.ask_until("status", |status| status.starts_with("up=2 down=1 ")).await;
    acknowledged.add(&mut [&mut one, &mut two], &[2, 2]).await;
    let kept = [one.ask_well("status").await, two.ask_well("status").await];
    assert!(kept.iter().any(|status| !status.ends_with(" hints=0")), "hints for the dead node: {kept:?}");

    let mut three = Node::start(&third);
    three.expect("serving").await;
    one.ask_until("status", |status| status == "up=3 down=0 hints=0").await;
    two.ask_until("status", |status| status == "up=3 down=0 hints=0").await;
    one.kill().await;
    two.kill().await;
    for (key, expected) in KEYS.iter().zip(acknowledged.0) {
        let alone = three.ask_until(&format!("get {key} 1"), |_| true).await;
        assert_eq!(alone, expected.to_string(), "{key}, as the one that was down has it");
    }
}
