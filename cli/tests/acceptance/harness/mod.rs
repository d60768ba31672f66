//! Processes that are ended when a test ends, however it ends.

mod dev;
mod node;
mod volume;

pub(crate) use dev::Dev;
pub(crate) use node::{Node, start};
pub(crate) use volume::{Volume, ran, skipped_without_mounts};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use std::{
    ffi::OsStr,
    fs::{self, File},
    net::{Ipv4Addr, TcpListener, UdpSocket},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The binary under test.
pub(crate) const RONDEL: &str = env!("CARGO_BIN_EXE_rondel");

/// How long anything may take before the test gives up: far more than it needs, as the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at something that is awaited.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Where test clusters have their ports: below those that systems give out by themselves.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// What `probe` finds, as soon as it finds something.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    match look_for(probe) {
        Some(found) => found,
        None => panic!("{what}: not within {PATIENCE:?}"),
    }
}

#[expect(clippy::disallowed_methods, reason = "real processes take real time")]
fn look_for<T>(mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match probe() {
            None if Instant::now() < give_up => std::thread::sleep(LOOK_EVERY),
            found => return found,
        }
    }
}

/// A process with its output, ended when it is dropped.
pub(crate) struct Running {
    child: Child,
    input: Option<UnixStream>,
    output: TempDir,
}

/// How a process has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code; none if a signal ended it.
    pub(crate) code: Option<i32>,
    /// Its standard output.
    pub(crate) out: String,
    /// Its standard error.
    pub(crate) err: String,
}

impl Running {
    /// Starts it, with nothing from the environment that would configure it.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let output = tempfile::tempdir().unwrap();
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RONDEL_") || name == "RUST_BACKTRACE" {
                command.env_remove(name);
            }
        }
        let (input, end) = UnixStream::pair().unwrap();
        input.set_write_timeout(Some(PATIENCE)).unwrap();
        let child = command
            .stdin(OwnedFd::from(end))
            .stdout(File::create(output.path().join("out")).unwrap())
            .stderr(File::create(output.path().join("err")).unwrap())
            .spawn()
            .unwrap();
        // The command would keep its end open: writing to a process that has ended would not fail.
        command.stdin(Stdio::null());
        Self { child, input: Some(input), output }
    }

    /// Standard output so far.
    pub(crate) fn out(&self) -> String {
        read(&self.output.path().join("out"))
    }

    /// Standard error so far.
    pub(crate) fn err(&self) -> String {
        read(&self.output.path().join("err"))
    }

    /// Where its standard input is written, once; a process that does not read it fails the writer.
    pub(crate) fn stdin(&mut self) -> UnixStream {
        self.input.take().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Signals it and waits until it has ended.
    #[track_caller]
    pub(crate) fn ended_by(self, signal: Signal) -> Ended {
        self.signal(signal);
        self.ended()
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub(crate) fn ended(mut self) -> Ended {
        let status = eventually("the end of a process", || self.child.try_wait().unwrap());
        Ended { code: status.code(), out: self.out(), err: self.err() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do. One that waits for a broken disk does not end.
        let _ = self.child.kill();
        let _ = look_for(|| self.child.try_wait().transpose());
    }
}

impl Ended {
    /// Its output, if all went well.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// Its error, if it failed with this exit code and an error that has all these words.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, words: &[&str]) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        let missing = words.iter().filter(|word| !self.err.contains(**word)).collect::<Vec<_>>();
        assert!(missing.is_empty(), "no {missing:?} in {self:?}");
        assert!(!self.err.lines().any(|line| line.starts_with("thread '")), "it panicked: {self:?}");
        self.err
    }
}

/// Runs the binary to its end.
#[track_caller]
pub(crate) fn rondel<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ended {
    Running::spawn(Command::new(RONDEL).args(arguments)).ended()
}

/// The cluster as the nodes that these flags name tell it, as soon as one of them does: a busy machine may keep one
/// waiting for longer than the command waits.
#[track_caller]
fn status<S: AsRef<OsStr>>(flags: impl IntoIterator<Item = S>) -> Value {
    let mut command = Command::new(RONDEL);
    command.args(["status", "--format", "json"]).args(flags);
    eventually("a node that tells its status", || {
        let ended = Running::spawn(&mut command).ended();
        (ended.code == Some(0)).then(|| json(&ended.out))
    })
}

/// What a status says of a member.
#[track_caller]
pub(crate) fn member<'a>(status: &'a Value, name: &str) -> &'a Value {
    status["members"].as_array().unwrap().iter().find(|member| member["name"] == name).unwrap()
}

/// A signal for a process that this test has started, or that its cluster says it has.
pub(crate) fn send(pid: u32, signal: Signal) {
    // It may have ended a moment ago.
    let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal);
}

/// The first of some ports in a row, of which `count` are free now.
pub(crate) fn free_ports(count: u16) -> u16 {
    eventually("free ports", || {
        let base = fastrand::u16(PORTS.start..PORTS.end - count);
        let free = |port: u16| {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
                && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        };
        (base..base + count).all(free).then_some(base)
    })
}

/// Where a node could take its peers' messages and bulk data: two addresses that nobody uses.
pub(crate) fn free_addresses() -> [String; 2] {
    let base = free_ports(2);
    [0, 1].map(|offset| format!("127.0.0.1:{}", base + offset))
}

/// Copies a folder with everything in it.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// The one JSON value of a command's output.
#[track_caller]
pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

/// `count` records as `import` reads them, in one bucket.
pub(crate) fn records(bucket: &str, count: usize) -> Vec<String> {
    let record = |number: usize| {
        format!(r#"{{"bucket":"{bucket}","key":"key {number}","value":"value {number} of {bucket}"}}"#)
    };
    (0..count).map(record).collect()
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
