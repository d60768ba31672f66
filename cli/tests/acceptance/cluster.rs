//! A local cluster in daily use.

use crate::harness::{Dev, eventually, json, member, rondel};
use std::{collections::BTreeSet, path::Path};

#[test]
fn a_new_cluster_stores_reads_lists_and_deletes_at_any_node() {
    let dev = Dev::start(3);
    let status = dev.status();
    assert_eq!(status["cluster"]["present"], 3);
    assert_eq!(status["cluster"]["partitions_under_replicated"], 0);
    assert_eq!(status["node"]["serving"], true);

    dev.kv_at("node1", &["put", "greetings", "hello", "Hello, ring"]).ok();
    for node in ["node1", "node2", "node3"] {
        assert_eq!(dev.kv_at(node, &["get", "greetings", "hello"]).ok(), "Hello, ring");
    }
    dev.kv_at("node2", &["put", "greetings", "hello", "Bonjour, ring"]).ok();
    let both = json(&dev.kv_at("node3", &["get", "greetings", "hello", "--format", "json"]).ok());
    let values = both["values"].as_array().unwrap().iter().map(|value| value["value"].as_str().unwrap());
    let values = values.collect::<BTreeSet<_>>();
    assert_eq!(values, BTreeSet::from(["Hello, ring", "Bonjour, ring"]));
    let context = both["context"].as_str().unwrap();
    dev.kv_at("node3", &["put", "greetings", "hello", "both", "--context", context]).ok();
    assert_eq!(dev.kv_at("node1", &["get", "greetings", "hello"]).ok(), "both");

    dev.kv_at("node1", &["put", "greetings", "bye", "Bye"]).ok();
    assert_eq!(dev.kv_at("node2", &["list"]).ok(), "greetings\n");
    let keys = dev.kv_at("node2", &["list", "greetings"]).ok();
    let mut keys = keys.lines().collect::<Vec<_>>();
    keys.sort_unstable();
    assert_eq!(keys, ["bye", "hello"]);

    dev.kv_at("node2", &["put", "greetings", "bye", "Soon", "--w", "all", "--dw", "5"])
        .fails(1, &["n_val_violation,3"]);
    dev.kv_at("node2", &["put", "quick", "one", "Soon", "--w", "all", "--dw", "one"]).ok();
    for node in ["node1", "node2", "node3"] {
        assert_eq!(dev.kv_at(node, &["get", "quick", "one", "--r", "1"]).ok(), "Soon");
    }
    dev.kv_at("node1", &["delete", "quick", "one", "--w", "all", "--dw", "1"]).ok();

    dev.kv_at("node3", &["delete", "greetings", "hello"]).ok();
    dev.kv_at("node1", &["get", "greetings", "hello"]).fails(1, &["not found: greetings/hello"]);
    assert_eq!(dev.kv_at("node2", &["list", "greetings"]).ok(), "bye\n");
}

#[test]
fn status_tells_at_once_which_nodes_do_not_run_and_which_do_not_answer() {
    let dev = Dev::start(3);
    dev.settle();
    eventually("the word of every node on itself", || {
        (dev.status()["others"].as_array()?.len() == 2).then_some(())
    });
    dev.steer("kill", "node3").ok();
    // Who started it knows at once; the others need a moment to find out.
    assert_eq!(member(&dev.status(), "node3")["state"], "down");
    dev.steer("pause", "node2").ok();
    let silent = eventually("a status in which the frozen node alone is missing", || {
        let status = dev.status();
        let [silent] = &status["unanswered"].as_array()?[..] else { return None };
        Some(silent.as_str().unwrap().to_owned())
    });
    assert!(silent.contains(&dev.address("node2", "admin")) && silent.contains("did not answer"), "{silent}");
    dev.steer("resume", "node2").ok();
    dev.steer("kill", "node1").ok();
    dev.steer("kill", "node2").ok();
    let words = ["status", "--dir"].map(Path::new);
    let nobody = rondel(words.into_iter().chain([&*dev.dir()]));
    nobody.fails(1, &["no node of the local cluster", "rondel dev start NODE"]);
    for name in ["node1", "node2", "node3"] {
        dev.steer("start", name).ok();
    }
    dev.settle();
}
