//! A local cluster that is steered from another terminal, and that goes with the process that started it.

use crate::harness::{Dev, eventually, member, rondel};
use nix::sys::signal::Signal;
use std::net::TcpStream;

#[test]
fn a_node_can_be_frozen_stopped_killed_and_started_again_from_another_terminal() {
    let dev = Dev::start(3);
    let is_down = |name: &str| member(&dev.status_of("node2"), name)["state"] == "down";
    dev.steer("pause", "node3").ok();
    eventually("a frozen node that is found out", || is_down("node3").then_some(()));
    dev.steer("resume", "node3").ok();
    eventually("a node that is seen again", || (!is_down("node3")).then_some(()));

    let before = dev.pid("node1").unwrap();
    for verb in ["stop", "kill"] {
        dev.steer(verb, "node1").ok();
        assert_eq!(dev.pid("node1"), None, "{verb}");
        dev.steer("kill", "node1").fails(1, &["node1 does not run"]);
        dev.steer("start", "node1").ok();
        assert_ne!(dev.pid("node1").unwrap(), before, "{verb}");
        dev.steer("start", "node1").fails(1, &["node1 runs already"]);
    }
    dev.steer("stop", "node9").fails(1, &["`node9`", "node1, node2, node3"]);
}

#[test]
fn no_node_outlives_the_process_that_started_it() {
    let mut dev = Dev::start(3);
    let admins = ["node1", "node2", "node3"].map(|name| dev.address(name, "admin"));
    dev.end_by(Signal::SIGKILL);
    for admin in admins {
        eventually("the end of a node", || TcpStream::connect(&admin).is_err().then_some(()));
    }
}

#[test]
fn a_second_cluster_in_the_same_folder_or_on_the_same_ports_is_refused() {
    let dev = Dev::start(1);
    let dir = dev.dir();
    rondel(["dev".as_ref(), "--dir".as_ref(), dir.as_os_str()]).fails(1, &["another `rondel dev` runs on"]);
    let pb = dev.address("node1", "pb");
    let (_, port) = pb.rsplit_once(':').unwrap();
    let other = dev.scratch("other");
    let words = ["dev", "--nodes", "1", "--base-port", port, "--dir", other.to_str().unwrap()];
    rondel(words).fails(1, &["ports are taken", &format!("{pb} (pb of node1)")]);
}
