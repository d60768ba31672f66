//! Data directories that are not what they were: each is told apart and kept out, and the others go on.

use crate::{
    bad_start::on_own_file_system,
    harness::{Dev, Ended, Node, Running, copy_dir, eventually, free_addresses, member, rondel, start},
};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

const RECORDS: usize = 200;

/// What befalls a directory, and the words that say so.
type Case = (&'static str, fn(&Path), &'static [&'static str]);

/// What is told where nothing helps but the files themselves.
const PUT_BACK: &str = "keep this node down";

const CASES: &[Case] = &[
    ("without its identity", |data| remove(&data.join("identity")), &["`identity` is missing", PUT_BACK]),
    (
        "with a cut identity",
        |data| cut(&data.join("identity")),
        &["identity is damaged", "it was cut", PUT_BACK],
    ),
    ("with a strange identity", |data| garble(&data.join("identity")), &["identity is damaged", PUT_BACK]),
    ("without its count of starts", |data| remove(&data.join("boot")), &["boot is damaged", "missing"]),
    ("with an emptied count of starts", |data| empty(&data.join("boot")), &["boot is damaged", PUT_BACK]),
    ("without what was decided", |data| remove(&data.join("decided")), &["decided is missing", PUT_BACK]),
    ("with a cut decided file", |data| cut(&data.join("decided")), &["decided is damaged", "it was cut"]),
    ("without its store", |data| remove(&data.join("store")), &["missing or was emptied", PUT_BACK]),
    (
        "without any rows",
        |data| rows(data).for_each(|file| remove(&file)),
        &["missing or was emptied", PUT_BACK],
    ),
    ("with all rows cut", |data| rows(data).for_each(|file| cut(&file)), &["is damaged", PUT_BACK]),
    ("with strange rows only", |data| rows(data).for_each(|file| garble(&file)), &["is damaged", PUT_BACK]),
    ("with emptied rows", |data| rows(data).for_each(|file| empty(&file)), &["is damaged", "it is empty"]),
    ("without its log", |data| remove(&data.join("store/log")), &["log of the store", "is gone", PUT_BACK]),
    ("with emptied logs", |data| logs(data).for_each(|log| empty(&log)), &["log of the store", "is gone"]),
    ("with a log that rotted", |data| logs(data).for_each(|log| rot(&log)), &["log of the store", "is gone"]),
    (
        "with bits of its identity flipped",
        |data| flip_records(&data.join("identity")),
        &["identity is damaged"],
    ),
    (
        "with bits of its count of starts flipped",
        |data| flip_records(&data.join("boot")),
        &["boot is damaged"],
    ),
    (
        "with bits of what was decided flipped",
        |data| flip_records(&data.join("decided")),
        &["decided is damaged"],
    ),
    (
        "with a bit of its log flipped",
        |data| logs(data).for_each(|log| flip(&log)),
        &["log of the store", "is gone"],
    ),
];

#[test]
fn a_directory_that_is_damaged_swapped_or_rolled_back_stays_out_and_says_what_to_do() {
    let mut dev = Dev::start(3);
    load(&dev, "b");
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
    // What its log holds is not in its tables yet.
    load(&dev, "late");
    dev.settle();
    dev.steer("kill", "node2").ok();
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
        let left = rows(&dev.data("node2")).count();
        // It does not come back by itself.
        start().fails(1, words);
        start().fails(1, words);
        assert_eq!(rows(&dev.data("node2")).count(), left, "{what}: no rows in place of those that are gone");
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
    eventually("the others know why", || {
        let knows = |name: &&str| {
            trouble(&dev.status_of(name), "node2")
                .is_some_and(|why| why.contains("restored from an older copy"))
        };
        ["node1", "node2", "node3"].iter().all(knows).then_some(())
    });
    verify(&dev, "b");
    dev.steer("stop", "node2").ok();

    replace(&whole);
    start().ok();
    dev.settle();
    dev.steer("kill", "node1").ok();
    dev.steer("kill", "node3").ok();
    verify(&dev, "b");
    verify(&dev, "late");
}

/// Every fifth row of one node has a flipped bit, in its tables.
#[test]
fn a_row_with_a_flipped_bit_is_never_shown_and_is_repaired_when_it_is_read() {
    let mut dev = Dev::start(3);
    load(&dev, "b");
    dev.settle();
    dev.interrupt();
    let numbers = (0..RECORDS).step_by(5);
    for number in numbers.clone() {
        let data = dev.data("node2");
        flip_in(rows(&data).chain(logs(&data)), format!("value {number} of b").as_bytes());
    }
    dev.start_again();
    dev.settle();
    for number in numbers {
        let key = format!("key {number}");
        let read = dev.kv_at("node2", &["get", "b", &key, "--r", "1"]);
        assert_eq!(read.ok(), format!("value {number} of b"));
    }
    dev.steer("stop", "node1").ok();
    dev.steer("stop", "node3").ok();
    verify(&dev, "b");
}

/// What befalls one file of rows, its number, and whether there is anything to be set aside.
type LostFile = (&'static str, fn(&Path), u32, bool);

const LOST: &[LostFile] = &[
    ("the first is cut", cut, 0, true),
    ("one is noise", garble, 3, true),
    ("one is empty", empty, 9, true),
    ("the last is gone", remove, 15, false),
];

#[test]
fn a_file_of_rows_that_is_damaged_is_set_aside_and_filled_by_the_other_nodes() {
    let dev = Dev::start(3);
    load(&dev, "b");
    dev.settle();
    let file = |number: u32| dev.data("node2").join(format!("store/rows-{number:03}.redb"));
    for (what, damage, number, is_left) in LOST {
        // What its log holds of the rows goes into the tables when it stops, and out of the log when it starts again.
        for _ in 0..2 {
            dev.steer("stop", "node2").ok();
            dev.steer("start", "node2").ok();
        }
        dev.settle();
        dev.steer("stop", "node2").ok();
        damage(&file(*number));
        dev.steer("start", "node2").ok();
        verify(&dev, "b");
        let store = eventually("a store that lacks nothing", || {
            let store = dev.status_of("node2")["node"]["store"].clone();
            (store["lacking_ppm"] == 0).then_some(store)
        });
        let name = file(*number).with_added_extension("damaged");
        let aside = store["set_aside"]
            .as_array()
            .is_some_and(|names| names.iter().any(|at| Path::new(at.as_str().unwrap()) == name));
        assert_eq!((aside, name.exists()), (*is_left, *is_left), "{what}: {store}");
        assert!(dev.log("node2").contains("a file of rows is lost"), "{what}");
    }
    dev.settle();
    dev.steer("kill", "node1").ok();
    dev.steer("kill", "node3").ok();
    verify(&dev, "b");
}

#[test]
fn of_a_node_and_its_copy_everybody_knows_which_is_out_and_why() {
    let dev = Dev::start(3);
    load(&dev, "b");
    dev.settle();
    dev.steer("stop", "node3").ok();
    let copy = dev.scratch("copy");
    copy_dir(&dev.data("node3"), &copy);
    dev.steer("start", "node3").ok();
    dev.settle();

    let [at, bulk_at] = free_addresses();
    let mut elsewhere = start(&copy, &["--cluster", &at, "--bulk", &bulk_at]);
    let told = Running::spawn(&mut elsewhere).ended();
    told.fails(1, &["the cluster knows this node, node3, at 127.0.0.1:", &at, "a node runs once"]);
    assert_eq!(dev.status_of("node3")["node"]["serving"], true);

    // On ports that the system gives it, nothing shows that it is elsewhere. It counts as the later run.
    fs::copy(dev.data("node3").join("boot"), copy.join("boot")).unwrap();
    let clone = Node::start(&copy, &["--name", "copy"]);
    eventually("everybody knows that node3 is out, and why", || {
        let knows = |name: &&str| {
            let status = dev.status_of(name);
            let why = trouble(&status, "node3");
            member(&status, "node3")["state"] == "down"
                && why.is_some_and(|why| why.contains("another process runs on a copy"))
        };
        ["node1", "node2", "node3"].iter().all(knows).then_some(())
    });
    assert!(dev.log("node3").contains("another process runs on a copy of its data directory"));
    let refused = dev.kv_at("node3", &["get", "b", "key 7"]);
    refused.fails(1, &["does not serve", "another process runs on a copy of its data directory"]);
    verify(&dev, "b");

    drop(clone);
    dev.steer("stop", "node3").ok();
    eventually("a run of node3 that counts as later than the copy's", || {
        let started = dev.steer("start", "node3").code == Some(0);
        if !started {
            // The copy counted its starts too.
            dev.steer("stop", "node3");
        }
        started.then_some(())
    });
    dev.settle();
    verify(&dev, "b");
}

#[test]
fn a_node_without_room_refuses_writes_says_so_and_goes_on_reading() {
    let folder = tempfile::tempdir().unwrap();
    let Some(node) = in_little_room(folder.path(), "size=256m", "96MiB") else { return };
    put(&node, "small", &["first"]).ok();
    let (_large, refused) = until_refused(&node);
    refused.fails(1, &["the disk of the node is full", "make room"]);
    assert_eq!(node.status()["node"]["store"]["state"], "disk-full");
    assert_eq!(rondel(["kv", "get", "b", "small", "--hosts", node.pb()]).ok(), "first");
}

/// A file system that has no more files to give than a start needs: the second one of the log is not to be had.
#[test]
fn a_node_whose_disk_fails_a_write_withdraws_and_tells_everybody_the_cause() {
    const CAUSE: &str = "No space left on device";
    let folder = tempfile::tempdir().unwrap();
    let Some(node) = in_little_room(folder.path(), "size=1g,nr_inodes=26", "1MiB") else { return };
    let (_large, refused) = until_refused(&node);
    refused.fails(1, &[CAUSE]);
    for words in [&["put", "b", "k", "v"][..], &["get", "b", "large 1"], &["list", "b"]] {
        let refused = rondel([&["kv"], words, &["--hosts", node.pb()]].concat());
        refused.fails(1, &["this node does not serve requests", CAUSE]);
    }
    assert!(node.log().contains(CAUSE), "{}", node.log());
    let status = node.status();
    assert_eq!(status["node"]["store"]["state"], "failed");
    assert!(status["node"]["reason"].as_str().unwrap().contains(CAUSE), "{status}");
    node.health().fails(1, &["does not serve", CAUSE]);
}

/// A node on a file system of its own; none if this user may not have one.
fn in_little_room(at: &Path, options: &str, reserve: &str) -> Option<Node> {
    let mut command = start(at, &["--set", &format!("store.disk_reserve_bytes={reserve}")]);
    let node = Node::from_command(&mut on_own_file_system(&mut command, at, options)?);
    node.serves();
    Some(node)
}

fn put(node: &Node, key: &str, value: &[&str]) -> Ended {
    rondel([&["kv", "put", "b", key], value, &["--hosts", node.pb()]].concat())
}

/// Writes large values until one is refused for good: how often, and the refusal. A node whose disk is slow asks for
/// patience first.
fn until_refused(node: &Node) -> (u32, Ended) {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(6 << 20).unwrap();
    let large = ["--file", file.path().to_str().unwrap()];
    let mut number = 0;
    eventually("a disk that is full", || {
        number += 1;
        let ended = put(node, &format!("large {number}"), &large);
        let for_now = ended.err.contains("overloaded") || ended.err.contains("the deadline passed");
        (ended.code != Some(0) && !for_now).then_some((number, ended))
    })
}

/// A data directory of a cluster of its own.
fn other_cluster(dev: &Dev) -> std::path::PathBuf {
    let dir = dev.scratch("other cluster");
    let node = Node::start(&dir, &["--name", "elsewhere"]);
    node.serves();
    node.into_process().ended_by(Signal::SIGTERM).ok();
    dir
}

fn load(dev: &Dev, bucket: &str) {
    dev.load(bucket, RECORDS);
}

#[track_caller]
fn verify(dev: &Dev, bucket: &str) {
    dev.kv(&["import", dev.scratch(bucket).to_str().unwrap(), "--verify", "--r", "1"]).ok();
}

fn trouble<'a>(status: &'a Value, name: &str) -> Option<&'a str> {
    member(status, name)["trouble"].as_str()
}

fn rows(data: &Path) -> impl Iterator<Item = PathBuf> {
    let files =
        fs::read_dir(data.join("store")).map(|files| files.map(|entry| entry.unwrap().path()).collect());
    let files: Vec<PathBuf> = files.unwrap_or_default();
    files.into_iter().filter(|path| path.extension().is_some_and(|end| end == "redb"))
}

fn logs(data: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(data.join("store/log")).unwrap().map(|entry| entry.unwrap().path())
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

/// Some bytes in the middle of what is written turn.
fn rot(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
    bytes[written / 2..][..64].iter_mut().for_each(|byte| *byte ^= 0x5A);
    fs::write(path, bytes).unwrap();
}

/// One bit in the middle of what is written.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[written / 2] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// One bit of each of the two copies of a small record, of which the one that was not written last is enough to start.
fn flip_records(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let is_written = |page: &&mut [u8]| page.iter().any(|byte| *byte != 0);
    // Behind the header's page.
    bytes.chunks_mut(4096).skip(1).filter(is_written).for_each(|page| page[20] ^= 1);
    fs::write(path, bytes).unwrap();
}

/// The last bit of every copy of these bytes.
fn flip_in(files: impl Iterator<Item = PathBuf>, wanted: &[u8]) {
    let mut flipped = 0;
    for file in files {
        let mut bytes = fs::read(&file).unwrap();
        let found = bytes.windows(wanted.len()).enumerate().filter(|(_, window)| *window == wanted);
        let ends = found.map(|(at, _)| at + wanted.len() - 1).collect::<Vec<_>>();
        ends.iter().for_each(|end| bytes[*end] ^= 1);
        if !ends.is_empty() {
            fs::write(file, bytes).unwrap();
        }
        flipped += ends.len();
    }
    assert!(flipped > 0, "{} is not there", String::from_utf8_lossy(wanted));
}

fn garble(path: &Path) {
    let noise = std::iter::repeat_with(|| fastrand::u8(..));
    let bytes = fs::read(path).unwrap().len();
    fs::write(path, noise.take(bytes).collect::<Vec<_>>()).unwrap();
}
