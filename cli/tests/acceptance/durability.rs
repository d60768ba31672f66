//! What was acknowledged is there, whatever happens to the nodes.

use crate::harness::{Dev, Ended, RONDEL, Running, eventually, json, records};
use std::{
    fs,
    io::Write,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
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
    let hosts = ["node1", "node2", "node3"].map(|name| dev.address(name, "pb"));
    let written = std::thread::scope(|scope| {
        let writers = (0..WRITERS).map(|writer| {
            let (host, acknowledged) = (&hosts[writer % hosts.len()], &acknowledged);
            scope.spawn(move || write_until_refused(writer, host, acknowledged))
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

/// Puts one key after another at one server until it does not answer; the records that it acknowledged.
fn write_until_refused(writer: usize, host: &str, acknowledged: &AtomicUsize) -> Vec<String> {
    let mut written = Vec::new();
    loop {
        let (key, value) = (format!("{writer}/{}", written.len()), format!("by {writer}"));
        let words = ["kv", "put", "import", &key, &value, "--hosts", host];
        if Running::spawn(Command::new(RONDEL).args(words)).ended().code != Some(0) {
            return written;
        }
        written.push(format!(r#"{{"bucket":"import","key":"{key}","value":"{value}"}}"#));
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
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
