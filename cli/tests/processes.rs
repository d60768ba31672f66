//! What only real processes can show: signals, restarts, and what the command line says when something is wrong.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
};
use tempfile::TempDir;

const RONDEL: &str = env!("CARGO_BIN_EXE_rondel");
/// Ports of three nodes, from the first.
const PORTS: u16 = 24;
/// Commands after which something that should have happened has not. Each takes milliseconds at least.
const POLLS_MAX: usize = 20_000;

/// A `rondel` command that knows nothing of the machine's own cluster.
fn rondel(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(RONDEL);
    command.args(words).current_dir(folder).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RONDEL_") {
            command.env_remove(name);
        }
    }
    command
}

fn run(folder: &Path, words: &[&str]) -> Output {
    rondel(folder, words).output().unwrap()
}

/// Standard output of a command that must succeed.
fn ok(folder: &Path, words: &[&str]) -> String {
    let output = run(folder, words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Standard error of a command that must fail, with its exit code.
fn refused(folder: &Path, words: &[&str]) -> (String, Option<i32>) {
    let output = run(folder, words);
    assert!(!output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stdout));
    (String::from_utf8(output.stderr).unwrap(), output.status.code())
}

/// The first of a row of ports that nobody uses at the moment.
fn free_ports() -> u16 {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let free = |port| {
            TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok()
        };
        if first < u16::MAX - PORTS && (first..first + PORTS).all(free) {
            return first;
        }
    }
}

/// A running `rondel dev`, killed with its nodes if a test fails.
struct Dev {
    folder: TempDir,
    process: Option<(Child, BufReader<ChildStdout>)>,
}

impl Dev {
    fn start() -> Self {
        let mut dev = Self { folder: tempfile::tempdir().unwrap(), process: None };
        dev.run(&["--base-port", &free_ports().to_string()]);
        dev
    }

    /// Starts the cluster and waits until all nodes serve.
    fn run(&mut self, flags: &[&str]) {
        let words = [&["dev", "--format", "json"], flags].concat();
        let mut child =
            rondel(self.folder(), &words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        if line.is_empty() {
            let mut why = String::new();
            child.stderr.take().unwrap().read_to_string(&mut why).unwrap();
            panic!("rondel dev does not start: {why}");
        }
        self.process = Some((child, stdout));
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn ok(&self, words: &[&str]) -> String {
        ok(self.folder(), words)
    }

    /// What `cluster.json` says of a node.
    fn node(&self, index: usize) -> Value {
        let text = fs::read_to_string(self.folder().join("rondel-dev/cluster.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["nodes"][index].clone()
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.ok(&["status", "--format", "json"])).unwrap()
    }

    /// Asks again and again until the answer is yes.
    fn until(&self, what: &str, yes: impl Fn(&Self) -> bool) {
        assert!((0..POLLS_MAX).any(|_| yes(self)), "{what}: {:#}", self.status());
    }

    /// Ends it with a signal and gives its exit code.
    fn end(&mut self, signal: &str) -> Option<i32> {
        let (mut child, _) = self.process.take().unwrap();
        signal_to(child.id(), signal);
        child.wait().unwrap().code()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.end("TERM");
        }
    }
}

fn signal_to(pid: u32, signal: &str) {
    let sent = Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

fn records(folder: &Path, count: usize) -> PathBuf {
    let path = folder.join("records.jsonl");
    let lines =
        (0..count).map(|index| format!("{{\"bucket\":\"b\",\"key\":\"k{index}\",\"value\":\"v{index}\"}}\n"));
    fs::write(&path, lines.collect::<String>()).unwrap();
    path
}

#[test]
fn records_outlive_every_node_that_is_killed() {
    let mut dev = Dev::start();
    let file = records(dev.folder(), 400);
    let file = file.to_str().unwrap();
    let verify = ["kv", "import", file, "--verify"];

    dev.ok(&["dev", "kill", "node2"]);
    assert_eq!(dev.node(1)["pid"], Value::Null);
    dev.ok(&["kv", "import", file]);
    dev.ok(&verify);
    dev.ok(&["dev", "start", "node2"]);
    assert!(dev.node(1)["pid"].is_u64());
    let no_hints = |dev: &Dev| {
        let status = dev.status();
        let all_up = status["members"].as_array().unwrap().iter().all(|member| member["state"] == "up");
        all_up && status["cluster"]["hints_outstanding"] == 0
    };
    dev.until("the hints are delivered", no_hints);

    dev.ok(&["dev", "kill", "node1"]);
    dev.ok(&["dev", "kill", "node3"]);
    dev.ok(&[&verify[..], &["--r", "1"]].concat());
    dev.ok(&["dev", "kill", "node2"]);

    assert_eq!(dev.end("INT"), Some(0));
    dev.run(&[]);
    dev.ok(&verify);
}

#[test]
fn a_node_can_be_frozen_stopped_and_started_again_from_another_terminal() {
    let dev = Dev::start();
    let down = |name: &'static str| {
        move |dev: &Dev| {
            let status = dev.status();
            let members = status["members"].as_array().unwrap();
            members.iter().any(|member| member["name"] == name && member["state"] == "down")
        }
    };
    dev.ok(&["dev", "pause", "node3"]);
    dev.until("a frozen node is found out", down("node3"));
    dev.ok(&["dev", "resume", "node3"]);
    dev.until("it is seen again", |dev| !down("node3")(dev));
    let before = dev.node(0)["pid"].clone();
    dev.ok(&["dev", "stop", "node1"]);
    let (told, _) = refused(dev.folder(), &["dev", "kill", "node1"]);
    assert!(told.contains("node1 does not run"), "{told}");
    dev.ok(&["dev", "start", "node1"]);
    assert_ne!(dev.node(0)["pid"], before);
    let (told, _) = refused(dev.folder(), &["dev", "stop", "node9"]);
    assert!(told.contains("`node9`") && told.contains("node1, node2, node3"), "{told}");
}

#[test]
fn no_node_outlives_the_process_that_started_it() {
    let mut dev = Dev::start();
    let admins = [0, 1, 2].map(|index| dev.node(index)["admin"].as_str().unwrap().to_owned());
    dev.end("KILL");
    for admin in admins {
        let mut polls = std::iter::repeat_with(|| TcpStream::connect(&admin));
        let gone = polls.by_ref().take(1_000_000).any(|connected| connected.is_err());
        assert!(gone, "{admin} still listens");
    }
}

#[test]
fn a_second_cluster_in_the_same_folder_or_on_the_same_ports_is_refused() {
    let dev = Dev::start();
    let (told, _) = refused(dev.folder(), &["dev"]);
    assert!(told.contains("another `rondel dev` runs on"), "{told}");
    let pb = dev.node(0)["pb"].as_str().unwrap().to_owned();
    let port = pb.rsplit(':').next().unwrap();
    let (told, _) = refused(dev.folder(), &["dev", "--dir", "other", "--base-port", port]);
    assert!(told.contains(&format!("{pb} (pb of node1)")), "{told}");
}

#[test]
fn the_files_of_a_node_that_was_killed_can_be_looked_at() {
    let dev = Dev::start();
    let file = records(dev.folder(), 100);
    dev.ok(&["kv", "import", file.to_str().unwrap()]);
    let directory = dev.node(1)["dir"].as_str().unwrap().to_owned();
    for command in ["log", "verify"] {
        let (told, code) = refused(dev.folder(), &["store", command, &directory]);
        assert!(told.contains("a node runs on") && code == Some(1), "{told}");
    }
    let logs: Vec<Vec<Value>> = (0..3)
        .map(|index| {
            dev.ok(&["dev", "kill", &format!("node{}", index + 1)]);
            let directory = dev.node(index)["dir"].as_str().unwrap().to_owned();
            assert!(dev.ok(&["store", "verify", &directory]).contains("sound"));
            let lines = dev.ok(&["store", "log", &directory, "--format", "json"]);
            lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        })
        .collect();
    for log in &logs {
        let (end, records) = log.split_last().unwrap();
        assert_eq!(end["end"]["records"], records.len());
        assert_eq!(end["end"]["lost_from"], Value::Null);
    }
    let of_key = |line: &Value, key: &str| {
        line["kind"] == "put" && line["key"].as_str().is_some_and(|found| found.ends_with(key))
    };
    let copies = |key: &str| logs.iter().filter(|log| log.iter().any(|line| of_key(line, key))).count();
    for index in 0..100 {
        assert!(copies(&format!("bk{index}")) >= 2, "k{index} was acknowledged by two nodes");
    }
    assert!(dev.ok(&["store", "log", &directory, "--limit", "3"]).lines().count() == 3);

    let first = logs[1][0].clone();
    let segment = Path::new(&directory).join("store/log").join(first["segment"].as_str().unwrap());
    let mut bytes = fs::read(&segment).unwrap();
    bytes[usize::try_from(first["offset"].as_u64().unwrap()).unwrap() + 20] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let output = run(dev.folder(), &["store", "verify", &directory, "--format", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let reports = String::from_utf8(output.stdout).unwrap();
    let reports = reports.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let damaged: Vec<_> = reports.filter(|report| report["sound"] == false).collect();
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    assert!(damaged[0]["findings"][0].as_str().unwrap().contains("acknowledged"), "{damaged:?}");
}

#[test]
fn what_is_wrong_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let address_udp = taken_udp.local_addr().unwrap().to_string();
    let free = [
        "--pb",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--bulk",
        "127.0.0.1:0",
        "--cluster",
        "127.0.0.1:0",
    ];
    fs::write(folder.join("file"), "").unwrap();
    fs::create_dir(folder.join("thesis")).unwrap();
    fs::write(folder.join("thesis/chapter"), "").unwrap();
    fs::write(folder.join("bad.toml"), "[listen]\nadminn = \"127.0.0.1:1\"\n").unwrap();
    let start = |more: &[&'static str]| [&["start"], &free[..], more].concat();
    for (words, code, told) in [
        (vec!["start", "--bogus"], 2, "unexpected argument '--bogus'"),
        (vec!["strat"], 2, "start"),
        (
            start(&["--config", "bad.toml"]),
            1,
            "bad.toml:2: unknown key `listen.adminn`; did you mean `listen.admin`?",
        ),
        (start(&["--config", "none.toml"]), 1, "cannot read the configuration file none.toml"),
        (start(&["--dir", "file"]), 1, "not a directory"),
        (start(&["--dir", "thesis"]), 1, "it holds `chapter`"),
        (start(&["--join", "nonsense"]), 1, "not a join token"),
        (start(&["--join", "@nowhere"]), 1, "cannot read the join token from nowhere"),
        (vec!["start", "--pb", "127.0.0.1:0", "--admin", &address], 1, "(listen.admin)"),
        (vec!["start", "--admin", "127.0.0.1:0", "--pb", &address], 1, "(listen.pb)"),
        (
            ["start", "--admin", "127.0.0.1:0", "--pb", "127.0.0.1:0", "--bulk", "127.0.0.1:0", "--cluster"]
                .into_iter()
                .chain([address_udp.as_str()])
                .collect(),
            1,
            "listen.cluster",
        ),
        (vec!["kv", "get", "b", "k", "--hosts", "nowhere"], 1, "HOST:PORT"),
        (vec!["status", "--admin", &address_udp], 1, "no node answers"),
        (vec!["store", "verify", "thesis"], 1, "there is no store in"),
    ] {
        let (stderr, exit) = refused(folder, &words);
        assert!(stderr.contains(told), "{words:?}: {stderr}");
        assert_eq!(exit, Some(code), "{words:?}");
        let json = refused(folder, &[&words[..], &["--format", "json"]].concat()).0;
        let error: Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
        assert!(error["error"]["message"].is_string(), "{json}");
    }
    assert!(folder.join("thesis/chapter").exists(), "what was there is left alone");
}
