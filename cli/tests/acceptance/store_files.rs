//! What the files of a node hold, seen while no node runs on them.

use crate::harness::{Dev, Ended, json, rondel};
use serde_json::Value;
use std::{
    fs::{self, File},
    path::Path,
};

const NODES: [&str; 3] = ["node1", "node2", "node3"];
const RECORDS: usize = 100;

#[test]
fn every_acknowledged_record_is_in_the_logs_of_two_nodes_that_were_killed() {
    let dev = Dev::start(3);
    dev.load("b", RECORDS);
    for command in ["log", "verify"] {
        store(command, &dev.data("node1"), &[]).fails(1, &["a node runs on"]);
    }
    let logs = NODES.map(|name| {
        dev.steer("kill", name).ok();
        let data = dev.data(name);
        assert!(store("verify", &data, &[]).ok().contains("sound"));
        let lines = store("log", &data, &["--format", "json"]).ok();
        lines.lines().map(json).collect::<Vec<_>>()
    });
    for log in &logs {
        let (end, records) = log.split_last().unwrap();
        assert_eq!(end["end"]["records"], records.len());
        assert_eq!(end["end"]["lost_from"], Value::Null);
    }
    let of_key = |line: &Value, key: &str| {
        line["kind"] == "put" && line["key"].as_str().is_some_and(|found| found.ends_with(key))
    };
    for number in 0..RECORDS {
        // A row's key is the bucket's name and the object's key.
        let key = format!("bkey {number}");
        let copies = logs.iter().filter(|log| log.iter().any(|line| of_key(line, &key))).count();
        assert!(copies >= 2, "{key} was acknowledged by two nodes");
    }
    let limited = store("log", &dev.data("node1"), &["--limit", "3"]).ok();
    assert_eq!(limited.lines().count(), 3);
}

#[test]
fn a_bit_that_turned_in_the_log_is_found_and_told() {
    let dev = Dev::start(1);
    dev.load("b", RECORDS);
    dev.steer("kill", "node1").ok();
    let data = dev.data("node1");
    let lines = store("log", &data, &["--format", "json"]).ok();
    let first = json(lines.lines().next().unwrap());
    let segment = data.join("store/log").join(first["segment"].as_str().unwrap());
    let mut bytes = fs::read(&segment).unwrap();
    bytes[usize::try_from(first["offset"].as_u64().unwrap()).unwrap() + 20] ^= 1;
    fs::write(&segment, bytes).unwrap();

    let verified = store("verify", &data, &["--format", "json"]);
    let reports = verified.out.lines().map(json).collect::<Vec<_>>();
    verified.fails(1, &["1 file of the store is damaged", "keep the node down"]);
    let damaged = reports.iter().filter(|report| report["sound"] == false).collect::<Vec<_>>();
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    assert!(damaged[0]["findings"][0].as_str().unwrap().contains("acknowledged"), "{damaged:?}");
}

#[test]
fn a_cut_file_of_rows_is_found_and_the_advice_is_to_start_the_node() {
    let dev = Dev::start(1);
    dev.load("b", RECORDS);
    dev.steer("stop", "node1").ok();
    let data = dev.data("node1");
    let rows = File::options().write(true).open(data.join("store/rows-000.redb")).unwrap();
    rows.set_len(rows.metadata().unwrap().len() / 2).unwrap();
    store("verify", &data, &[]).fails(1, &["1 file of the store is damaged", "start the node"]);
}

/// `rondel store COMMAND` on a data directory.
#[track_caller]
fn store(command: &str, data: &Path, flags: &[&str]) -> Ended {
    rondel(["store", command, data.to_str().unwrap()].iter().chain(flags))
}
