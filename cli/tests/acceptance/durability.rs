//! What was acknowledged is there, whatever happens to the nodes.

use crate::harness::{Dev, Ended, RONDEL, Running, Volume, eventually, json, records, rondel};
use std::{
    fs,
    io::Write,
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// Records of an import.
const RECORDS: usize = 4_000;

#[test]
fn an_import_goes_on_while_a_node_is_killed_and_the_node_gets_all_of_it_when_it_returns() {
    let mut dev = Dev::start(3);
    let lines = records("import", RECORDS);
    let (first, second) = lines.split_at(RECORDS / 2);
    let mut command = Command::new(RONDEL);
    command.args(["kv", "import", "-", "--format", "json", "--dir"]).arg(dev.dir());
    let mut import = Running::spawn(&mut command);
    let mut stdin = import.stdin();
    // The second half is not given before the node is dead: that is the middle of the import.
    writeln!(stdin, "{}", first.join("\n")).unwrap();
    eventually("an import under way", || {
        (dev.kv(&["get", "import", "key 100"]).code == Some(0)).then_some(())
    });
    dev.steer("kill", "node2").ok();
    writeln!(stdin, "{}", second.join("\n")).unwrap();
    drop(stdin);
    let report = json(&import.ended().ok());
    assert_eq!((&report["records"], &report["failed"]), (&RECORDS.into(), &0.into()), "{report}");
    verify(&dev, &lines, &[]).ok();

    eventually("hints for node2", || (dev.status()["cluster"]["hints_outstanding"] != 0).then_some(()));
    dev.steer("start", "node2").ok();
    eventually("no hints", || (dev.status()["cluster"]["hints_outstanding"] == 0).then_some(()));
    dev.steer("kill", "node1").ok();
    dev.steer("kill", "node3").ok();
    let alone = json(&verify(&dev, &lines, &["--r", "1"]).ok());
    assert_eq!((&alone["records"], &alone["failed"]), (&RECORDS.into(), &0.into()), "{alone}");
    let never_written = records("import", RECORDS + 1);
    verify(&dev, &never_written, &["--r", "1"]).fails(1, &["1 of 4001 records were not verified"]);

    // A supervisor whose nodes are all dead ends well, and they come back with all that they had.
    dev.steer("kill", "node2").ok();
    dev.interrupt();
    dev.start_again();
    verify(&dev, &lines, &[]).ok();
}

#[test]
fn what_was_acknowledged_before_all_nodes_died_at_once_is_there_after_it() {
    const WRITERS: usize = 4;
    const ACKNOWLEDGED_MIN: usize = 60;
    let mut dev = Dev::start(3);
    let acknowledged = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let hosts = ["node1", "node2", "node3"].map(|name| dev.address(name, "pb"));
    let written = std::thread::scope(|scope| {
        let _stops = StopsWriters(&stop);
        let writers = (0..WRITERS).map(|writer| {
            let (host, acknowledged, stop) = (&hosts[writer % hosts.len()], &acknowledged, &stop);
            scope.spawn(move || write_until_refused(writer, host, acknowledged, stop))
        });
        let writers = writers.collect::<Vec<_>>();
        eventually("writes under way", || {
            (acknowledged.load(Ordering::Relaxed) >= ACKNOWLEDGED_MIN).then_some(())
        });
        dev.cut_power();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(written.len() >= ACKNOWLEDGED_MIN);
    dev.start_again();
    verify(&dev, &written, &[]).ok();
}

/// A file system finds an error in itself, as ext4 does, and takes no more writes: under three writers, one at each node.
#[test]
fn a_node_whose_disk_turns_read_only_says_so_while_the_others_serve_and_has_everything_after_its_repair() {
    // A sync that is under way at that moment fails with the latter.
    const CAUSES: [&str; 2] = ["Read-only file system", "Input/output error"];
    let mut dev = Dev::start(3);
    dev.settle();
    dev.interrupt();
    let Some(volume) = Volume::of(&dev.data("node2"), dev.scratch("disk")) else { return };
    dev.start_again_on(volume);
    dev.settle();
    let acknowledged = [const { AtomicUsize::new(0) }; 3];
    let stop = AtomicBool::new(false);
    let hosts = ["node1", "node2", "node3"].map(|name| dev.address(name, "pb"));
    let counts = || acknowledged.each_ref().map(|writer| writer.load(Ordering::Relaxed));
    let (cause, written, sure) = std::thread::scope(|scope| {
        let stops = StopsWriters(&stop);
        let writers = hosts.iter().zip(&acknowledged).enumerate().map(|(writer, (host, acknowledged))| {
            let stop = &stop;
            scope.spawn(move || write_until_told(writer, host, acknowledged, stop))
        });
        let writers = writers.collect::<Vec<_>>();
        let more = |writers: &[usize], count: usize| {
            let before = counts();
            eventually("more writes", || {
                let now = counts();
                writers.iter().all(|writer| now[*writer] >= before[*writer] + count).then_some(())
            });
        };
        more(&[0, 1, 2], 20);
        let before = counts();
        let (volume, process) = dev.volume();
        volume.turns_read_only(process).unwrap();
        let cause = eventually("a node that withdraws", || {
            let node = &dev.status_of("node2")["node"];
            let why = node["reason"].as_str()?;
            Some(CAUSES.into_iter().find(|cause| why.contains(cause)).expect(why))
        });
        let after = counts();
        more(&[0, 2], 20);
        drop(stops);
        let (mut written, mut sure) = (Vec::new(), Vec::new());
        for (writer, (before, after)) in writers.into_iter().zip(before.into_iter().zip(after)) {
            let records = writer.join().unwrap();
            let outside = |(number, _): &(usize, _)| *number < before || *number > after;
            sure.extend(records.iter().cloned().enumerate().filter(outside).map(|(_, record)| record));
            written.extend(records);
        }
        (cause, written, sure)
    });
    assert!(dev.log("node2").contains(cause), "{}", dev.log("node2"));
    assert_eq!(dev.status_of("node2")["node"]["serving"], false);
    let admin = dev.address("node2", "admin");
    rondel(["status", "--health", "--admin", &admin]).fails(1, &["does not serve", cause]);
    eventually("the others know why", || {
        let knows = |name: &&str| {
            let status = dev.status_of(name);
            let member =
                status["members"].as_array().unwrap().iter().find(|member| member["name"] == "node2");
            member.unwrap()["trouble"].as_str().is_some_and(|why| why.contains(cause))
        };
        ["node1", "node3"].iter().all(knows).then_some(())
    });
    verify(&dev, &written, &[]).ok();

    dev.steer("stop", "node2").ok();
    let (volume, process) = dev.volume();
    volume.is_repaired(process).unwrap();
    dev.steer("start", "node2").ok();
    dev.settle();
    dev.steer("kill", "node1").ok();
    dev.steer("kill", "node3").ok();
    // Not what was written while the disk failed: ext4 says of some syncs that they are done as it gives up its journal.
    verify(&dev, &sure, &["--r", "1"]).ok();
}

/// Tells the writers of a test to stop when it is dropped: a test that fails would wait for them for ever.
struct StopsWriters<'a>(&'a AtomicBool);

impl Drop for StopsWriters<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Puts one key after another at one server, whatever it answers, until it is told to stop; the records that it
/// acknowledged.
fn write_until_told(writer: usize, host: &str, acknowledged: &AtomicUsize, stop: &AtomicBool) -> Vec<String> {
    let mut written = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (key, value) = (format!("{writer}/{number}"), format!("by {writer}"));
        if rondel(["kv", "put", "import", &key, &value, "--hosts", host]).code == Some(0) {
            written.push(format!(r#"{{"bucket":"import","key":"{key}","value":"{value}"}}"#));
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }
    written
}

/// Puts one key after another at one server until it does not answer, or is told to stop; the records that it
/// acknowledged.
fn write_until_refused(
    writer: usize,
    host: &str,
    acknowledged: &AtomicUsize,
    stop: &AtomicBool,
) -> Vec<String> {
    let mut written = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let (key, value) = (format!("{writer}/{}", written.len()), format!("by {writer}"));
        let words = ["kv", "put", "import", &key, &value, "--hosts", host];
        if Running::spawn(Command::new(RONDEL).args(words)).ended().code != Some(0) {
            break;
        }
        written.push(format!(r#"{{"bucket":"import","key":"{key}","value":"{value}"}}"#));
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    written
}

/// Reads every record by its key and compares.
#[track_caller]
fn verify(dev: &Dev, records: &[String], flags: &[&str]) -> Ended {
    let file = dev.scratch("records.jsonl");
    fs::write(&file, records.join("\n")).unwrap();
    // A record that is not there is not looked for again and again.
    let words = ["import", file.to_str().unwrap(), "--verify", "--attempts", "6", "--format", "json"];
    dev.kv(&[&words, flags].concat())
}
