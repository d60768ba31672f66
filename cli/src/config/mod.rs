//! The configuration of a node: one TOML file, environment variables and flags, checked as a whole.
//!
//! [`Config::from_layers`] either gives a configuration that fits together, or every problem at once, each with its place.

mod keys;
mod layers;
mod value;

pub(crate) use keys::{KEYS, Key};
pub(crate) use layers::{Layers, Place, Problem};
pub(crate) use value::{Kind, Value};

use crate::output::Format;
use clap::Args;
use rondel_core::store::Backend;
use std::{
    env, fmt, fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

/// The flags that every command with a configuration takes.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct Flags {
    /// The configuration file (TOML); `rondel config describe` lists its keys
    #[arg(long, value_name = "FILE", env = "RONDEL_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Set any key of the configuration; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

/// A configuration that fits together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// What people call the node.
    pub(crate) name: String,
    /// The data directory.
    pub(crate) dir: PathBuf,
    /// What the node shares its fate with.
    pub(crate) zone: String,
    /// How much of the data it takes.
    pub(crate) capacity: u32,
    /// How many threads run its partitions.
    pub(crate) lanes: usize,
    /// Threads that serve the network.
    pub(crate) workers: usize,
    /// Where Protocol Buffers clients connect.
    pub(crate) pb: SocketAddr,
    /// Where administrators and Prometheus connect.
    pub(crate) admin: SocketAddr,
    /// Where nodes connect for requests and gossip.
    pub(crate) cluster: SocketAddr,
    /// Where nodes connect for handoff and repair.
    pub(crate) bulk: SocketAddr,
    /// Under which address the other nodes reach this one.
    pub(crate) advertise: IpAddr,
    /// The cluster to join.
    pub(crate) join: Option<Join>,
    /// The name of a new cluster.
    pub(crate) cluster_name: String,
    /// Members that a new cluster is formed of.
    pub(crate) founders: u16,
    /// Partitions of a new cluster.
    pub(crate) partitions: u32,
    /// Copies that a new cluster keeps.
    pub(crate) replicas: u8,
    /// What keeps the rows.
    pub(crate) store_backend: Backend,
    /// Files for the rows of a new directory.
    pub(crate) store_files: u32,
    /// What is fetched in a second in place of rows that were lost.
    pub(crate) store_refill_bytes_per_s: u64,
    /// Memory for rows.
    pub(crate) store_cache_bytes: u64,
    /// Memory for pages.
    pub(crate) store_page_cache_bytes: usize,
    /// Memory for what knows which rows the tables do not have; 0 for none.
    pub(crate) store_filter_bytes: usize,
    /// What the scrubber reads in a second; 0 for none.
    pub(crate) store_scrub_bytes_per_s: u64,
    /// Bytes that may wait for the disk.
    pub(crate) store_backlog_bytes_max: u64,
    /// Room on the disk that clients leave alone.
    pub(crate) store_disk_reserve_bytes: u64,
    /// What to log.
    pub(crate) log_filter: String,
    /// How to log.
    pub(crate) log_format: Format,
}

/// Where the token of the cluster to join is. It is read only when it is needed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Join {
    /// The token itself.
    Token(String),
    /// A file that holds it.
    File(PathBuf),
}

impl fmt::Debug for Join {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(_) => out.write_str("Token(…)"),
            Self::File(path) => out.debug_tuple("File").field(path).finish(),
        }
    }
}

impl Join {
    /// The token.
    ///
    /// # Errors
    /// The file can't be read.
    pub(crate) fn token(&self) -> io::Result<String> {
        match self {
            Self::Token(token) => Ok(token.clone()),
            Self::File(path) => Ok(fs::read_to_string(path)?.trim().into()),
        }
    }
}

/// A configuration was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file can't be read.
    #[error("cannot read the configuration file {path}")]
    Unreadable {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Something in it, or in the environment or flags, is wrong.
    #[error("the configuration is wrong:{}", list(.0))]
    Wrong(Vec<Problem>),
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

/// Reads file, environment and `--set`, without judging them.
///
/// # Errors
/// The file can't be read.
pub(crate) fn read(flags: &Flags) -> Result<Layers, ConfigError> {
    let mut layers = Layers::defaults();
    if let Some(path) = &flags.config {
        layers.file(path, &read_file(path)?);
    }
    layers.environment(|name| env::var(name).ok());
    for assignment in &flags.set {
        layers.assignment(assignment);
    }
    Ok(layers)
}

fn read_file(path: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.display().to_string(), source })
}

impl Config {
    /// The configuration that these layers amount to.
    ///
    /// # Errors
    /// [`ConfigError::Wrong`] with every problem.
    pub(crate) fn from_layers(mut layers: Layers) -> Result<Self, ConfigError> {
        check_together(&mut layers);
        if !layers.problems().is_empty() {
            return Err(ConfigError::Wrong(layers.problems().to_vec()));
        }
        let cluster = address(&layers, "listen.cluster");
        Ok(Self {
            name: text(&layers, "node.name").unwrap_or_else(host_name),
            dir: path(&layers, "node.dir"),
            zone: text(&layers, "node.zone").unwrap_or_default(),
            capacity: number(&layers, "node.capacity"),
            lanes: maybe_number(&layers, "node.lanes").unwrap_or_else(cores),
            workers: maybe_number(&layers, "node.workers").unwrap_or_else(cores),
            pb: address(&layers, "listen.pb"),
            admin: address(&layers, "listen.admin"),
            cluster,
            bulk: address(&layers, "listen.bulk"),
            advertise: host(&layers, "advertise.host").unwrap_or(cluster.ip()),
            join: text(&layers, "cluster.join").map(|text| match text.strip_prefix('@') {
                Some(path) => Join::File(PathBuf::from(path)),
                None => Join::Token(text),
            }),
            cluster_name: text(&layers, "cluster.name").unwrap_or_default(),
            founders: number(&layers, "cluster.founders"),
            partitions: number(&layers, "cluster.partitions"),
            replicas: number(&layers, "cluster.replicas"),
            store_backend: match text(&layers, "store.backend").as_deref() {
                Some("redb") => Backend::Redb,
                _ => Backend::Log,
            },
            store_files: number(&layers, "store.files"),
            store_refill_bytes_per_s: number(&layers, "store.refill_bytes_per_s"),
            store_cache_bytes: number(&layers, "store.cache_bytes"),
            store_page_cache_bytes: number(&layers, "store.page_cache_bytes"),
            store_filter_bytes: number(&layers, "store.filter_bytes"),
            store_scrub_bytes_per_s: number(&layers, "store.scrub_bytes_per_s"),
            store_backlog_bytes_max: number(&layers, "store.backlog_bytes_max"),
            store_disk_reserve_bytes: number(&layers, "store.disk_reserve_bytes"),
            log_filter: text(&layers, "log.level").unwrap_or_default(),
            log_format: match text(&layers, "log.format").as_deref() {
                Some("json") => Format::Json,
                _ => Format::Text,
            },
        })
    }
}

/// The listeners, with the transport that two of them may not share a port of.
const LISTENERS: [(&str, &str); 4] =
    [("listen.pb", "TCP"), ("listen.admin", "TCP"), ("listen.cluster", "UDP"), ("listen.bulk", "UDP")];

fn check_together(layers: &mut Layers) {
    if !layers.problems().is_empty() {
        return;
    }
    for (index, (name, transport)) in LISTENERS.iter().enumerate() {
        for (earlier, earlier_transport) in &LISTENERS[..index] {
            let (one, other) = (address(layers, earlier), address(layers, name));
            if transport == earlier_transport && one == other && one.port() != 0 {
                layers.complain_about(
                    name,
                    format!("is {other}, which {earlier} has already; give it another port"),
                );
            }
        }
    }
    let cluster = address(layers, "listen.cluster");
    match host(layers, "advertise.host") {
        None if cluster.ip().is_unspecified() => layers.complain_about(
            "listen.cluster",
            format!(
                "is {cluster}, which others can't connect to; set advertise.host to this machine's address"
            ),
        ),
        Some(host) if host.is_unspecified() => {
            layers.complain_about("advertise.host", format!("is {host}, which others can't connect to"));
        }
        _ => {}
    }
    if text(layers, "cluster.join").is_some() && number::<u64>(layers, "cluster.founders") > 1 {
        let text = "is set, and so is cluster.join; a node either starts a cluster or joins one";
        layers.complain_about("cluster.founders", text.into());
    }
}

fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| Kind::Name.parse(name).is_ok()).unwrap_or_else(|| "rondel".into())
}

fn text(layers: &Layers, name: &str) -> Option<String> {
    match layers.get(name) {
        Some((Value::Text(text), _)) => Some(text.clone()),
        _ => None,
    }
}

fn host(layers: &Layers, name: &str) -> Option<IpAddr> {
    match layers.get(name) {
        Some((Value::Host(host), _)) => Some(*host),
        _ => None,
    }
}

fn path(layers: &Layers, name: &str) -> PathBuf {
    match layers.get(name) {
        Some((Value::Path(path), _)) => path.clone(),
        _ => unreachable!("{name} is a path with a default"),
    }
}

fn address(layers: &Layers, name: &str) -> SocketAddr {
    match layers.get(name) {
        Some((Value::Address(address), _)) => *address,
        _ => unreachable!("{name} is an address with a default"),
    }
}

/// A number, whose bounds in [`KEYS`] fit the type.
fn number<N: TryFrom<u64>>(layers: &Layers, name: &str) -> N {
    maybe_number(layers, name).unwrap_or_else(|| unreachable!("{name} is a number with a default"))
}

fn maybe_number<N: TryFrom<u64>>(layers: &Layers, name: &str) -> Option<N> {
    match layers.get(name) {
        Some((Value::Number(number), _)) => N::try_from(*number).ok(),
        _ => None,
    }
}

/// More lanes or workers than this compete with each other and win nothing.
const THREADS_DEFAULT_MAX: usize = 8;

/// The cores of this machine, as far as one node makes use of them.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(THREADS_DEFAULT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config, ConfigError> {
        let mut layers = Layers::defaults();
        layers.file(Path::new("r.toml"), text);
        Config::from_layers(layers)
    }

    fn refusal(text: &str) -> String {
        config(text).unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_fit_together() {
        let config = config("").unwrap();
        assert_eq!(config.advertise, config.cluster.ip());
        assert_eq!((config.founders, config.partitions, config.replicas), (1, 64, 3));
        assert!(!config.name.is_empty());
    }

    #[test]
    fn two_listeners_on_one_port_are_refused_unless_their_transports_differ() {
        let told = refusal("[listen]\npb = \"127.0.0.1:1\"\nadmin = \"127.0.0.1:1\"\n");
        assert!(
            told.contains("r.toml:3: listen.admin is 127.0.0.1:1, which listen.pb has already"),
            "{told}"
        );
        assert!(config("[listen]\npb = \"127.0.0.1:1\"\ncluster = \"127.0.0.1:1\"\n").is_ok());
        assert!(config("[listen]\npb = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n").is_ok());
    }

    #[test]
    fn an_address_that_others_cannot_reach_is_refused() {
        assert!(refusal("[listen]\ncluster = \"0.0.0.0:1\"\n").contains("set advertise.host"));
        let both = "[listen]\ncluster = \"0.0.0.0:1\"\n[advertise]\nhost = \"192.0.2.7\"\n";
        assert_eq!(config(both).unwrap().advertise.to_string(), "192.0.2.7");
    }

    #[test]
    fn a_node_cannot_both_start_a_cluster_and_join_one() {
        assert!(
            refusal("[cluster]\njoin = \"t\"\nfounders = 3\n")
                .contains("either starts a cluster or joins one")
        );
    }

    #[test]
    fn a_token_may_be_in_a_file_and_is_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, "secret\n").unwrap();
        let join = config(&format!("[cluster]\njoin = \"@{}\"\n", path.display())).unwrap().join.unwrap();
        assert_eq!(join.token().unwrap(), "secret");
        let shown = format!("{:?}", config("[cluster]\njoin = \"secret\"\n").unwrap());
        assert!(!shown.contains("secret"), "{shown}");
    }
}
