//! Data directories that are not what they were: each is told apart and kept out, and the others go on.

use crate::{
    bad_start::on_own_file_system,
    harness::{Dev, Node, copy_dir, eventually, records, rondel, start},
};
use nix::sys::signal::Signal;
use std::{
    fs::{self, File},
    path::Path,
};

const RECORDS: usize = 200;

/// What befalls a directory, and the words that say so.
type Case = (&'static str, fn(&Path), &'static [&'static str]);

const CASES: &[Case] = &[
    ("without its identity", |data| remove(&data.join("identity")), &["`identity` is missing"]),
    ("without its count of starts", |data| remove(&data.join("boot")), &["boot is damaged", "missing"]),
    (
        "without what was decided",
        |data| remove(&data.join("decided")),
        &["decided is missing", "put that file back"],
    ),
    ("with a cut decided file", |data| cut(&data.join("decided")), &["decided is damaged", "it was cut"]),
    ("with a strange identity", |data| garble(&data.join("identity")), &["identity is damaged"]),
    ("without its store", |data| remove(&data.join("store")), &["missing or was emptied"]),
    ("with a cut store", |data| cut(&data.join("store/rows-000.redb")), &["is damaged", "move"]),
    ("with a strange store", |data| garble(&data.join("store/rows-000.redb")), &["is damaged", "move"]),
    (
        "with an emptied store file",
        |data| empty(&data.join("store/rows-000.redb")),
        &["is damaged", "it is empty"],
    ),
];

#[test]
fn a_directory_that_is_damaged_swapped_or_rolled_back_stays_out_and_says_what_to_do() {
    let mut dev = Dev::start(3);
    load(&dev);
    dev.settle();
    dev.interrupt();
    let (old, whole) = (dev.scratch("old"), dev.scratch("whole"));
    let other_store = dev.scratch("other");
    copy_dir(&dev.data("node2"), &old);
    copy_dir(&dev.data("node3").join("store"), &other_store);
    let other_cluster = other_cluster(&dev);
    dev.start_again();
    // Who has not heard of a run can't tell that another one is older.
    dev.settle();
    dev.steer("stop", "node2").ok();
    copy_dir(&dev.data("node2"), &whole);

    let start = || {
        remove(&dev.dir().join("node2/log"));
        dev.steer("start", "node2")
    };
    let replace = |by: &Path| {
        remove(&dev.data("node2"));
        copy_dir(by, &dev.data("node2"));
    };
    for (what, damage, words) in CASES {
        replace(&whole);
        damage(&dev.data("node2"));
        start().fails(1, words);
        assert_eq!(dev.kv(&["get", "b", "key 7"]).ok(), "value 7 of b", "{what}");
    }
    replace(&whole);
    remove(&dev.data("node2").join("store"));
    copy_dir(&other_store, &dev.data("node2").join("store"));
    start().fails(1, &["belongs to another data directory"]);
    replace(&other_cluster);
    start().fails(1, &["belongs to the cluster", "choose an empty directory"]);

    replace(&old);
    // It may serve for a moment, until another member has told it what it knows.
    start();
    eventually("a rolled back node that withdraws", || {
        dev.log("node2").contains("restored from an older copy").then_some(())
    });
    assert_eq!(dev.status_of("node2")["node"]["serving"], false);
    verify(&dev);
    dev.steer("stop", "node2").ok();

    replace(&whole);
    start().ok();
    dev.settle();
    dev.steer("kill", "node1").ok();
    dev.steer("kill", "node3").ok();
    verify(&dev);
}

#[test]
fn of_a_directory_and_its_copy_one_withdraws_and_the_cluster_goes_on() {
    let dev = Dev::start(3);
    load(&dev);
    dev.settle();
    dev.steer("stop", "node3").ok();
    let copy = dev.scratch("copy");
    copy_dir(&dev.data("node3"), &copy);
    dev.steer("start", "node3").ok();
    let clone = Node::start(&copy, &["--name", "copy"]);
    eventually("one that withdraws", || {
        let withdrawn = |log: &str| log.contains("another process runs on a copy of it");
        (withdrawn(&dev.log("node3")) || withdrawn(&clone.log())).then_some(())
    });
    verify(&dev);
    drop(clone);
    dev.steer("stop", "node3").ok();
    dev.steer("start", "node3").ok();
    dev.settle();
    verify(&dev);
}

#[test]
fn a_node_without_room_refuses_writes_says_so_and_goes_on_reading() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = start(folder.path(), &["--set", "store.disk_reserve_bytes=96MiB"]);
    let Some(mut command) = on_own_file_system(&mut command, folder.path(), "size=256m") else { return };
    let node = Node::from_command(&mut command);
    node.serves();
    let put = |key: &str, value: &[&str]| {
        rondel([&["kv", "put", "b", key], value, &["--hosts", node.pb()]].concat())
    };
    put("small", &["first"]).ok();
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(8 << 20).unwrap();
    let large = ["--file", file.path().to_str().unwrap()];
    let mut number = 0;
    let refused = eventually("a disk that is full", || {
        number += 1;
        let ended = put(&format!("large {number}"), &large);
        (ended.code != Some(0)).then_some(ended)
    });
    refused.fails(1, &["room"]);
    assert_eq!(node.status()["node"]["store"]["state"], "disk-full");
    assert_eq!(rondel(["kv", "get", "b", "small", "--hosts", node.pb()]).ok(), "first");
}

/// A data directory of a cluster of its own.
fn other_cluster(dev: &Dev) -> std::path::PathBuf {
    let dir = dev.scratch("other cluster");
    let node = Node::start(&dir, &["--name", "elsewhere"]);
    node.serves();
    node.into_process().ended_by(Signal::SIGTERM).ok();
    dir
}

fn load(dev: &Dev) {
    let file = dev.scratch("records.jsonl");
    fs::write(&file, records("b", RECORDS).join("\n")).unwrap();
    dev.kv(&["import", file.to_str().unwrap()]).ok();
}

#[track_caller]
fn verify(dev: &Dev) {
    dev.kv(&["import", dev.scratch("records.jsonl").to_str().unwrap(), "--verify", "--r", "1"]).ok();
}

fn remove(path: &Path) {
    if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
}

fn cut(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

fn empty(path: &Path) {
    File::create(path).unwrap();
}

fn garble(path: &Path) {
    let noise = std::iter::repeat_with(|| fastrand::u8(..));
    let bytes = fs::read(path).unwrap().len();
    fs::write(path, noise.take(bytes).collect::<Vec<_>>()).unwrap();
}
