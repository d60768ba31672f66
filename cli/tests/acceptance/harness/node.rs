//! One node of `rondel start`.

use super::{Ended, PATIENCE, RONDEL, Running, eventually, rondel};
use serde_json::Value;
use std::{
    ffi::OsStr,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
};

/// A node that runs by itself; it is ended when it is dropped.
pub(crate) struct Node {
    process: Running,
    pb: String,
    admin: String,
}

impl Node {
    /// `rondel start` in a directory, on ports that the system gives it unless the flags say otherwise; waits until it
    /// listens.
    #[track_caller]
    pub(crate) fn start(dir: &Path, flags: &[&str]) -> Self {
        Self::from_command(&mut start(dir, flags))
    }

    /// A command that starts a node; waits until it listens.
    #[track_caller]
    pub(crate) fn from_command(command: &mut Command) -> Self {
        let mut process = Running::spawn(command);
        let (pb, admin) = eventually("a node that listens", || {
            assert!(process.runs(), "{}", process.err());
            let log = process.err();
            let line = log.lines().find(|line| line.contains(" listening "))?;
            Some((field(line, "pb=")?, field(line, "admin=")?))
        });
        Self { process, pb, admin }
    }

    /// Where Protocol Buffers clients connect.
    pub(crate) fn pb(&self) -> &str {
        &self.pb
    }

    pub(crate) fn process(&mut self) -> &mut Running {
        &mut self.process
    }

    pub(crate) fn into_process(self) -> Running {
        self.process
    }

    pub(crate) fn log(&self) -> String {
        self.process.err()
    }

    pub(crate) fn status(&self) -> Value {
        super::status(["--admin", &self.admin])
    }

    /// What it tells Prometheus.
    pub(crate) fn metrics(&self) -> String {
        let mut connection = TcpStream::connect(&self.admin).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(connection, "GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    }

    /// `rondel status --health` of it.
    #[track_caller]
    pub(crate) fn health(&self) -> Ended {
        rondel(["status", "--health", "--admin", &self.admin])
    }

    /// Waits until it serves.
    #[track_caller]
    pub(crate) fn serves(&self) {
        eventually("a node that serves", || (self.health().code == Some(0)).then_some(()));
    }
}

/// `rondel start` in a directory, on ports that the system gives it unless the flags say otherwise.
pub(crate) fn start(dir: &Path, flags: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(RONDEL);
    command.args(["start", "--dir"]).arg(dir);
    for listener in ["pb", "admin", "cluster", "bulk"] {
        command.args(["--set", &format!("listen.{listener}=127.0.0.1:0")]);
    }
    command.args(flags);
    command
}

fn field(line: &str, name: &str) -> Option<String> {
    let (_, rest) = line.split_once(name)?;
    Some(rest.split_whitespace().next()?.to_owned())
}
