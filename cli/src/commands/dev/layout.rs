//! What a local cluster's folder holds, and which addresses its nodes have.
//!
//! `DIR/dev.json` keeps what the cluster was made with, so that a later `rondel dev` starts the same one;
//! `DIR/cluster.json` tells other programs what runs now; `DIR/NODE/data` is a node's data directory and
//! `DIR/NODE/log` its log.

use crate::{
    commands::start::TOKEN_FILE,
    failure::{Advise, failure},
    files::replace,
};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
};

/// Nodes of a cluster, if the user does not say.
pub(super) const NODES_DEFAULT: u16 = 3;
/// More than this many processes belong on more than one machine.
pub(super) const NODES_MAX: u16 = 32;
/// The first port, if the user does not say: below the ports that systems give out by themselves.
pub(super) const BASE_PORT_DEFAULT: u16 = 18_000;
/// Ports from one node to the next.
const PORTS_PER_NODE: u16 = 10;
/// The ports of a node, from its first: Protocol Buffers, admin, cluster, bulk.
const PORTS_USED: u16 = 4;

/// What a cluster was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// How many nodes.
    pub(super) nodes: u16,
    /// The first node's first port.
    pub(super) base_port: u16,
}

/// A cluster's folder.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    dir: PathBuf,
    plan: Plan,
}

/// One node's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seat {
    /// `node1`, `node2`, …
    pub(super) name: String,
    /// Its data directory.
    pub(super) data: PathBuf,
    /// Its log.
    pub(super) log: PathBuf,
    /// Where Protocol Buffers clients connect.
    pub(super) pb: SocketAddr,
    /// Where administrators connect.
    pub(super) admin: SocketAddr,
    /// Where nodes connect for requests.
    pub(super) cluster: SocketAddr,
    /// Where nodes connect for handoff.
    pub(super) bulk: SocketAddr,
}

/// What `cluster.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClusterFile {
    /// The nodes in order.
    pub(crate) nodes: Vec<ClusterFileNode>,
}

/// What `cluster.json` says of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClusterFileNode {
    /// Its name.
    pub(crate) name: String,
    /// Its process, unless it is stopped.
    pub(crate) pid: Option<u32>,
    /// Its data directory.
    pub(crate) dir: PathBuf,
    /// Where Protocol Buffers clients connect, as `host:port`.
    pub(crate) pb: String,
    /// Where administrators connect, as `host:port`.
    pub(crate) admin: String,
}

impl Layout {
    /// The folder of an earlier cluster, or of a new one, which is made.
    ///
    /// # Errors
    /// It can't be made, holds something else, or an earlier cluster of another plan.
    pub(super) fn open(dir: &Path, nodes: Option<u16>, base_port: Option<u16>) -> anyhow::Result<Self> {
        let file = dir.join("dev.json");
        let plan = match fs::read(&file) {
            Ok(bytes) => {
                let plan = serde_json::from_slice::<Plan>(&bytes)
                    .with_context(|| format!("{} is damaged", file.display()))
                    .advise(|| format!("choose another --dir, or remove {}", dir.display()))?;
                agree(dir, plan, nodes, base_port)?;
                plan
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let plan = Plan {
                    nodes: nodes.unwrap_or(NODES_DEFAULT),
                    base_port: base_port.unwrap_or(BASE_PORT_DEFAULT),
                };
                check_ports(plan)?;
                make(dir)?;
                replace(&file, &serde_json::to_vec(&plan)?)
                    .with_context(|| format!("cannot write {}", file.display()))?;
                plan
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot read {}", file.display()))
                    .advise(|| "make the folder readable for this user, or choose another --dir".into());
            }
        };
        // Children are given paths, and must find them from wherever they run.
        let dir = fs::canonicalize(dir).with_context(|| format!("cannot resolve {}", dir.display()))?;
        Ok(Self { dir, plan })
    }

    /// The folder.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the token that lets nodes in is kept once the cluster has been formed.
    pub(super) fn token_file(&self) -> PathBuf {
        self.dir.join(TOKEN_FILE)
    }

    /// The places of the nodes, in order.
    pub(super) fn seats(&self) -> Vec<Seat> {
        (0..self.plan.nodes).map(|index| self.seat(index)).collect()
    }

    /// Writes `cluster.json`, whole or not at all.
    pub(super) fn publish(&self, cluster: &ClusterFile) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(cluster)?;
        text.push(b'\n');
        replace(&cluster_file(&self.dir), &text)
    }

    fn seat(&self, index: u16) -> Seat {
        let name = format!("node{}", index + 1);
        let first = self.plan.base_port + index * PORTS_PER_NODE;
        let at = |offset: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, first + offset));
        let home = self.dir.join(&name);
        Seat {
            data: home.join("data"),
            log: home.join("log"),
            pb: at(0),
            admin: at(1),
            cluster: at(2),
            bulk: at(3),
            name,
        }
    }
}

impl Seat {
    /// Every port of the node that somebody else has taken, with what it is for.
    pub(super) fn taken_ports(&self) -> Vec<String> {
        let tcp = [("pb", self.pb), ("admin", self.admin)]
            .map(|(what, at)| (what, at, TcpListener::bind(at).err()));
        let udp = [("cluster", self.cluster), ("bulk", self.bulk)]
            .map(|(what, at)| (what, at, UdpSocket::bind(at).err()));
        let taken = tcp.into_iter().chain(udp).filter_map(|(what, at, error)| Some((what, at, error?)));
        taken.map(|(what, at, error)| format!("{at} ({what} of {}): {error}", self.name)).collect()
    }
}

/// Where `cluster.json` is.
pub(crate) fn cluster_file(dir: &Path) -> PathBuf {
    dir.join("cluster.json")
}

/// What `cluster.json` says, if there is one.
///
/// # Errors
/// It can't be read, or is none.
pub(crate) fn read_cluster_file(dir: &Path) -> anyhow::Result<Option<ClusterFile>> {
    let path = cluster_file(dir);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(
            serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))?,
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn agree(dir: &Path, plan: Plan, nodes: Option<u16>, base_port: Option<u16>) -> anyhow::Result<()> {
    let differs = |flag: &str, has: u16, wanted: Option<u16>| match wanted {
        Some(wanted) if wanted != has => Err(failure(
            format!("the cluster in {} was made with {flag} {has}, not {wanted}", dir.display()),
            format!("leave {flag} out to start it again, or choose another --dir for a new one"),
        )),
        _ => Ok(()),
    };
    differs("--nodes", plan.nodes, nodes)?;
    differs("--base-port", plan.base_port, base_port)
}

fn check_ports(plan: Plan) -> anyhow::Result<()> {
    let span = (plan.nodes - 1) * PORTS_PER_NODE + PORTS_USED;
    if plan.base_port == 0 || plan.base_port.checked_add(span - 1).is_none() {
        return Err(failure(
            format!(
                "{} nodes need {span} ports from {} on, and there are none above 65535",
                plan.nodes, plan.base_port
            ),
            format!("choose a --base-port from 1024 to {}", u16::MAX - span + 1),
        ));
    }
    Ok(())
}

fn make(dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(dir)
        .with_context(|| format!("cannot make the folder {}", dir.display()))
        .advise(|| "choose another --dir".into())?;
    let mut entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    if let Some(entry) = entries.next() {
        let found = entry.map(|entry| entry.file_name().to_string_lossy().into_owned()).unwrap_or_default();
        return Err(failure(
            format!("{} holds something else than a local cluster (for one, `{found}`)", dir.display()),
            "choose a --dir that is empty or does not exist",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::advice;

    #[test]
    fn nodes_have_ports_of_their_own_counted_from_the_base() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open(&folder.path().join("c"), Some(2), Some(20_000)).unwrap();
        let seats = layout.seats();
        let ports =
            |seat: &Seat| [seat.pb, seat.admin, seat.cluster, seat.bulk].map(|address| address.port());
        assert_eq!(ports(&seats[0]), [20_000, 20_001, 20_002, 20_003]);
        assert_eq!(ports(&seats[1]), [20_010, 20_011, 20_012, 20_013]);
        assert_eq!(seats[1].name, "node2");
    }

    #[test]
    fn an_earlier_cluster_keeps_its_plan_and_refuses_another() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("c");
        let made = Layout::open(&dir, Some(5), Some(20_000)).unwrap().seats();
        assert_eq!(Layout::open(&dir, None, None).unwrap().seats(), made);
        let error = Layout::open(&dir, Some(3), None).unwrap_err();
        assert!(error.to_string().contains("--nodes 5, not 3"), "{error}");
        assert!(advice(&error).unwrap().contains("leave --nodes out"));
    }

    #[test]
    fn a_folder_that_holds_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.tex"), "").unwrap();
        let error = Layout::open(folder.path(), None, None).unwrap_err();
        assert!(error.to_string().contains("`thesis.tex`"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn ports_beyond_the_last_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = Layout::open(&folder.path().join("c"), Some(3), Some(65_520)).unwrap_err();
        assert!(error.to_string().contains("24 ports from 65520"), "{error}");
        assert!(!folder.path().join("c").exists());
    }

    #[test]
    fn a_taken_port_is_named_with_what_it_is_for() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let seat = Seat {
            name: "node1".into(),
            data: PathBuf::new(),
            log: PathBuf::new(),
            pb: free,
            admin: address,
            cluster: free,
            bulk: free,
        };
        let told = seat.taken_ports();
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with(&format!("{address} (admin of node1)")), "{told:?}");
    }

    #[test]
    fn the_cluster_file_has_the_shape_that_other_programs_read() {
        let node = ClusterFileNode {
            name: "node1".into(),
            pid: Some(7),
            dir: "d".into(),
            pb: "127.0.0.1:1".into(),
            admin: "127.0.0.1:2".into(),
        };
        let text = serde_json::to_string(&ClusterFile { nodes: vec![node] }).unwrap();
        assert_eq!(
            text,
            r#"{"nodes":[{"name":"node1","pid":7,"dir":"d","pb":"127.0.0.1:1","admin":"127.0.0.1:2"}]}"#
        );
    }
}
