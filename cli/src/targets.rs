//! Which servers a client command talks to: those that the user names, or those of a local cluster.

use crate::{
    commands::dev::{ClusterFileNode, DIR_DEFAULT, read_cluster_file},
    failure::failure,
};
use anyhow::Context;
use clap::Args;
use std::path::{Path, PathBuf};

/// Where Protocol Buffers clients connect, if nothing else is known: the default of `listen.pb`.
const PB_DEFAULT: &str = "127.0.0.1:8087";
/// Where administrators connect, if nothing else is known: the default of `listen.admin`.
const ADMIN_DEFAULT: &str = "127.0.0.1:8093";

/// Flags that name a local cluster.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct LocalCluster {
    /// The folder of a local cluster made by `rondel dev` [default: ./rondel-dev, if it is there]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// Flags that name Protocol Buffers servers.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct PbHosts {
    /// Servers to use, in this order of preference [default: those of the local cluster, or 127.0.0.1:8087]
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', env = "RONDEL_HOSTS")]
    hosts: Vec<String>,
    #[command(flatten)]
    local: LocalCluster,
}

/// Flags that name an admin listener.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct AdminHosts {
    /// Admin listeners to ask: each node's word on itself counts; for --health, that of the first that answers [default:
    /// those of the local cluster, or 127.0.0.1:8093]
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', env = "RONDEL_ADMIN")]
    admin: Vec<String>,
    #[command(flatten)]
    local: LocalCluster,
}

impl PbHosts {
    /// The servers, at least one.
    ///
    /// # Errors
    /// An address is none, or the local cluster that was named does not run.
    pub(crate) fn resolve(&self) -> anyhow::Result<Vec<String>> {
        resolve(&self.hosts, &self.local, PB_DEFAULT, |node| &node.pb)
    }
}

impl AdminHosts {
    /// The admin listeners, at least one.
    ///
    /// # Errors
    /// As [`PbHosts::resolve`].
    pub(crate) fn resolve(&self) -> anyhow::Result<Vec<String>> {
        resolve(&self.admin, &self.local, ADMIN_DEFAULT, |node| &node.admin)
    }

    /// The nodes of the local cluster that do not run, unless admin listeners were named.
    ///
    /// # Errors
    /// The local cluster can't be read.
    pub(crate) fn stopped(&self) -> anyhow::Result<Vec<String>> {
        let dir = self.local.dir.as_deref().unwrap_or(Path::new(DIR_DEFAULT));
        let cluster = if self.admin.is_empty() { read_cluster_file(dir)? } else { None };
        let nodes = cluster.map(|cluster| cluster.nodes).unwrap_or_default();
        Ok(nodes.into_iter().filter(|node| node.pid.is_none()).map(|node| node.name).collect())
    }
}

fn resolve(
    named: &[String],
    local: &LocalCluster,
    default: &str,
    address: impl Fn(&ClusterFileNode) -> &String,
) -> anyhow::Result<Vec<String>> {
    if !named.is_empty() {
        named.iter().try_for_each(|host| check(host))?;
        return Ok(named.to_vec());
    }
    let dir = local.dir.as_deref().unwrap_or(Path::new(DIR_DEFAULT));
    let cluster = read_cluster_file(dir)?;
    if cluster.is_none() && local.dir.is_none() {
        return Ok(vec![default.to_owned()]);
    }
    let nodes = cluster.map(|cluster| cluster.nodes).unwrap_or_default();
    let running = nodes.iter().filter(|node| node.pid.is_some()).map(|node| address(node).clone());
    match running.collect::<Vec<_>>() {
        running if !running.is_empty() => Ok(running),
        _ => Err(failure(
            format!("no node of the local cluster in {} runs", dir.display()),
            format!(
                "start it with `rondel dev --dir {}`, or a node of it with `rondel dev start NODE`, or name a server of \
                 another cluster",
                dir.display()
            ),
        )),
    }
}

fn check(host: &str) -> anyhow::Result<()> {
    let (name, port) =
        host.rsplit_once(':').with_context(|| format!("`{host}` has no port; give HOST:PORT"))?;
    if name.is_empty() || port.parse::<u16>().is_err() {
        anyhow::bail!("`{host}` is no address; give HOST:PORT");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn hosts(named: &[&str], dir: Option<&Path>) -> PbHosts {
        let hosts = named.iter().map(ToString::to_string).collect();
        PbHosts { hosts, local: LocalCluster { dir: dir.map(Path::to_path_buf) } }
    }

    #[test]
    fn named_servers_win_and_must_be_addresses() {
        assert_eq!(hosts(&["a:1", "[::1]:2"], None).resolve().unwrap(), ["a:1", "[::1]:2"]);
        for wrong in ["a", "a:", ":1", "a:99999"] {
            assert!(hosts(&[wrong], None).resolve().unwrap_err().to_string().contains(wrong));
        }
    }

    #[test]
    fn a_local_cluster_gives_the_nodes_that_run() {
        let folder = tempfile::tempdir().unwrap();
        let node = |name: &str, pid: &str| {
            format!(r#"{{"name":"{name}","pid":{pid},"dir":"d","pb":"{name}:1","admin":"{name}:2"}}"#)
        };
        let text = format!(r#"{{"nodes":[{},{}]}}"#, node("node1", "null"), node("node2", "7"));
        fs::write(folder.path().join("cluster.json"), text).unwrap();
        assert_eq!(hosts(&[], Some(folder.path())).resolve().unwrap(), ["node2:1"]);
    }

    #[test]
    fn a_named_local_cluster_that_does_not_run_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = hosts(&[], Some(folder.path())).resolve().unwrap_err();
        assert!(error.to_string().contains("no node of the local cluster"), "{error}");
    }
}
