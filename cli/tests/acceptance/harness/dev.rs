//! A cluster of `rondel dev`.

use super::{Ended, RONDEL, Running, Volume, eventually, free_ports, json, records, rondel, send, status};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// A cluster of real processes; they are ended when it is dropped.
pub(crate) struct Dev {
    supervisor: Option<Running>,
    folder: TempDir,
    names: Vec<String>,
    extra: Vec<String>,
    volume: Option<Volume>,
}

impl Dev {
    /// A new cluster, which serves.
    #[track_caller]
    pub(crate) fn start(nodes: u16) -> Self {
        Self::with(nodes, &[])
    }

    /// A new cluster whose nodes have these keys set.
    #[track_caller]
    pub(crate) fn with(nodes: u16, settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let names = (1..=nodes).map(|number| format!("node{number}")).collect();
        let extra = settings.iter().flat_map(|setting| ["--set".to_owned(), (*setting).to_owned()]).collect();
        let mut dev = Self { supervisor: None, folder, names, extra, volume: None };
        // Somebody may take a port between the look and the start.
        eventually("a cluster on free ports", || {
            let base = free_ports(10 * nodes);
            match dev.launch(&["--nodes", &nodes.to_string(), "--base-port", &base.to_string()]) {
                None => Some(()),
                Some(ended) => {
                    assert!(ended.err.contains("ports are taken"), "{ended:?}");
                    fs::remove_dir_all(dev.dir()).unwrap();
                    None
                }
            }
        });
        dev
    }

    /// Starts the cluster of the folder again, once its supervisor has ended.
    #[track_caller]
    pub(crate) fn start_again(&mut self) {
        if let Some(ended) = self.launch(&[]) {
            panic!("the cluster does not start again: {ended:?}");
        }
    }

    /// The same, with a disk of its own for one of the nodes.
    #[track_caller]
    pub(crate) fn start_again_on(&mut self, volume: Volume) {
        self.volume = Some(volume);
        self.start_again();
    }

    /// The disk of that node, and the process whose mount namespace it is in.
    pub(crate) fn volume(&self) -> (&Volume, u32) {
        (self.volume.as_ref().unwrap(), self.supervisor.as_ref().unwrap().pid())
    }

    /// How `rondel dev` has ended, unless all nodes serve.
    #[track_caller]
    fn launch(&mut self, flags: &[&str]) -> Option<Ended> {
        let mut command = Command::new(RONDEL);
        command.args(["dev", "--format", "json", "--dir"]).arg(self.dir()).args(flags).args(&self.extra);
        if let Some(volume) = &self.volume {
            command = volume.within(&command);
        }
        let mut supervisor = Running::spawn(&mut command);
        let serves = eventually("a cluster that serves", || {
            let serves = supervisor.out().ends_with('\n');
            (serves || !supervisor.runs()).then_some(serves)
        });
        if !serves {
            return Some(supervisor.ended());
        }
        self.supervisor = Some(supervisor);
        None
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.folder.path().join("cluster")
    }

    /// A node's data directory.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.dir().join(name).join("data")
    }

    pub(crate) fn log(&self, name: &str) -> String {
        super::read(&self.dir().join(name).join("log"))
    }

    /// A file for this test.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Imports so many records into a bucket; their file is that of [`Dev::scratch`] with the bucket's name.
    #[track_caller]
    pub(crate) fn load(&self, bucket: &str, count: usize) {
        let file = self.scratch(bucket);
        fs::write(&file, records(bucket, count).join("\n")).unwrap();
        self.kv(&["import", file.to_str().unwrap()]).ok();
    }

    /// `rondel kv …` with whatever nodes run.
    #[track_caller]
    pub(crate) fn kv(&self, arguments: &[&str]) -> Ended {
        rondel(["kv"].iter().chain(arguments).map(Path::new).chain([Path::new("--dir"), &self.dir()]))
    }

    /// `rondel kv …` with one node.
    #[track_caller]
    pub(crate) fn kv_at(&self, name: &str, arguments: &[&str]) -> Ended {
        let host = self.address(name, "pb");
        rondel(["kv"].iter().chain(arguments).chain(&["--hosts", &host]))
    }

    /// `rondel dev VERB NODE`.
    #[track_caller]
    pub(crate) fn steer(&self, verb: &str, name: &str) -> Ended {
        rondel(["dev", verb, name, "--dir"].map(Path::new).into_iter().chain([&*self.dir()]))
    }

    /// The cluster as `rondel status` tells it.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        status([Path::new("--dir"), &self.dir()])
    }

    /// The cluster as one node sees it.
    #[track_caller]
    pub(crate) fn status_of(&self, name: &str) -> Value {
        status(["--admin", &self.address(name, "admin")])
    }

    /// Waits until every node says that all are up, that none lacks anything, and that no hint waits.
    #[track_caller]
    pub(crate) fn settle(&self) {
        let whole = |status: Value| {
            let members = status["members"].as_array().unwrap();
            let well = |member: &Value| member["state"] == "up" && member["behind"] == false;
            status["cluster"]["hints_outstanding"] == 0 && members.iter().all(well)
        };
        eventually("a cluster that is whole", || {
            self.names.iter().all(|name| whole(self.status_of(name))).then_some(())
        });
    }

    /// What `cluster.json` says of a node.
    fn node(&self, name: &str) -> Value {
        let cluster = json(&fs::read_to_string(self.dir().join("cluster.json")).unwrap());
        let node = cluster["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name);
        node.unwrap().clone()
    }

    /// `host:port` of a node's `pb` or `admin` listener.
    pub(crate) fn address(&self, name: &str, listener: &str) -> String {
        self.node(name)[listener].as_str().unwrap().to_owned()
    }

    /// Its process, if it runs.
    pub(crate) fn pid(&self, name: &str) -> Option<u32> {
        self.node(name)["pid"].as_u64().map(|pid| u32::try_from(pid).unwrap())
    }

    /// Kills all nodes at once, as a power cut would, and then `rondel dev`.
    pub(crate) fn cut_power(&mut self) {
        self.kill_nodes();
        eventually("the end of every node", || {
            self.names.iter().all(|name| self.pid(name).is_none()).then_some(())
        });
        self.supervisor = None;
    }

    /// Ends the cluster as Ctrl-C does.
    #[track_caller]
    pub(crate) fn interrupt(&mut self) {
        self.end_by(Signal::SIGINT).ok();
    }

    /// Signals `rondel dev` itself and waits until it has ended.
    #[track_caller]
    pub(crate) fn end_by(&mut self, signal: Signal) -> Ended {
        self.supervisor.take().unwrap().ended_by(signal)
    }

    fn kill_nodes(&self) {
        for pid in self.names.iter().filter_map(|name| self.pid(name)).collect::<Vec<_>>() {
            send(pid, Signal::SIGKILL);
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // While the supervisor runs, what it says of its children is true.
        if self.supervisor.as_mut().is_some_and(Running::runs) {
            self.kill_nodes();
        }
    }
}
