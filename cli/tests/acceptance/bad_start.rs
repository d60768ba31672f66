//! Starts and other commands that can't be: what is told, and that nothing is left behind.

use crate::harness::{Node, RONDEL, Running, free_ports, ran, rondel, skipped_without_mounts};
use std::{
    fs,
    net::{TcpListener, UdpSocket},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::Command,
};

/// Whom a test runs a process as that must not be let in, if the test itself may go everywhere.
const NOBODY: u32 = 65_534;

#[test]
fn wrong_words_on_the_command_line_are_answered_with_the_right_ones() {
    rondel(["dev", "--nodez", "4"]).fails(2, &["unexpected argument '--nodez'", "'--nodes'"]);
    rondel(["kv", "putt", "b", "k"]).fails(2, &["unrecognized subcommand 'putt'", "'put'"]);
    rondel(["kv", "put", "b"]).fails(2, &["<KEY>", "Usage"]);
    rondel(["kv", "get", "b", "k", "--r", "most"]).fails(2, &["--r", "most"]);
    let json = rondel(["kv", "get", "b", "--format", "json"]).fails(2, &[]);
    assert!(crate::harness::json(&json)["error"]["advice"].is_string(), "{json}");
}

#[test]
fn what_is_not_there_is_named_in_text_and_in_json() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let nobody = udp.local_addr().unwrap().to_string();
    for (words, told) in [
        (&["start", "--config", "none.toml"][..], "cannot read the configuration file none.toml"),
        (&["kv", "get", "b", "k", "--hosts", "nowhere"], "HOST:PORT"),
        (&["status", "--admin", &nobody], "no node answers"),
        (&["store", "verify", folder], "there is no store in"),
    ] {
        rondel(words).fails(1, &[told]);
        let error = rondel([words, &["--format", "json"]].concat()).fails(1, &[told]);
        assert!(crate::harness::json(&error)["error"]["message"].is_string(), "{error}");
    }
}

#[test]
fn every_mistake_of_a_configuration_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("data");
    let file = folder.path().join("rondel.toml");
    fs::write(&file, "[listen]\npbb = \"127.0.0.1:1\"\n\n[cluster]\npartitions = 100\n").unwrap();
    let config =
        |file: &Path| rondel([Path::new("start"), "--dir".as_ref(), &dir, "--config".as_ref(), file]);
    config(&file)
        .fails(1, &["rondel.toml:2", "`listen.pbb`", "`listen.pb`?", "rondel.toml:5", "power of two"]);
    fs::write(&file, "not toml").unwrap();
    config(&file).fails(1, &["rondel.toml:1", "not TOML"]);
    config(&folder.path().join("none.toml")).fails(1, &["none.toml", "No such file", "what to do"]);
    let set = |assignment: &str| rondel(["start", "--dir", dir.to_str().unwrap(), "--set", assignment]);
    set("node.nme=x").fails(1, &["`node.nme`", "`node.name`?", "what to do"]);
    set("node.lanes=lots").fails(1, &["node.lanes", "lots"]);
    set("listen.admin=nowhere").fails(1, &["listen.admin", "nowhere"]);
    set("log.level=inf").fails(1, &["log.level", "`inf`", "info, debug"]);
    assert!(!dir.exists(), "nothing was made");
}

#[test]
fn an_occupied_port_is_named_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("data");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = tcp.local_addr().unwrap().to_string();
    for listener in ["pb", "admin"] {
        let words = ["start", "--dir", dir.to_str().unwrap(), &format!("--{listener}"), &taken];
        let free =
            if listener == "pb" { "--set=listen.admin=127.0.0.1:0" } else { "--set=listen.pb=127.0.0.1:0" };
        let failed = rondel(words.into_iter().chain([free]));
        failed.fails(1, &[&taken, &format!("listen.{listener}"), "in use", "what to do"]);
        assert!(!dir.exists(), "nothing was made");
    }
    let taken = udp.local_addr().unwrap().to_string();
    refused(&dir, &["--cluster", &taken]).fails(1, &[&taken, "in use", "what to do"]);

    let base = free_ports(10);
    let _pb = TcpListener::bind(("127.0.0.1", base)).unwrap();
    let cluster = folder.path().join("cluster");
    let words = ["dev", "--nodes", "1", "--base-port", &base.to_string(), "--dir", cluster.to_str().unwrap()];
    rondel(words).fails(1, &["ports are taken", &format!("127.0.0.1:{base} (pb of node1)"), "--base-port"]);
}

#[test]
fn somebody_elses_folder_is_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.tex"), "chapter").unwrap();
    refused(folder.path(), &[])
        .fails(1, &["not empty", "`thesis.tex`", "choose an empty or a new directory"]);
    rondel(["dev".as_ref(), "--dir".as_ref(), folder.path().as_os_str()])
        .fails(1, &["`thesis.tex`", "choose a --dir"]);
    refused(&folder.path().join("thesis.tex"), &[]).fails(1, &["is not a directory"]);
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["thesis.tex"]);
}

#[test]
fn a_folder_may_be_named_relative_to_where_one_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = crate::harness::start(Path::new("rondel-data"), &[] as &[&str]);
    let node = Node::from_command(command.current_dir(folder.path()));
    node.serves();
    assert!(folder.path().join("rondel-data/identity").exists());
}

#[test]
fn a_folder_that_this_user_may_not_enter_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("data");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = crate::harness::start(&dir, &[] as &[&str]);
    if fs::read_dir(&dir).is_ok() {
        // Permissions do not bind this user: let the process run as one whom they do, from where that one may look.
        let program = folder.path().join("rondel");
        fs::copy(RONDEL, &program).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let arguments = command.get_args().map(ToOwned::to_owned).collect::<Vec<_>>();
        command = Command::new(program);
        command.args(arguments).uid(NOBODY).gid(NOBODY).current_dir("/");
    }
    let failed = Running::spawn(&mut command).ended();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    failed.fails(1, &[dir.to_str().unwrap(), "may not be read and written", "permissions"]);
}

#[test]
fn a_read_only_and_a_full_file_system_are_told_apart() {
    for (options, words) in [("ro", "read-only file system"), ("size=64k", "make room on the disk")] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = crate::harness::start(folder.path(), &[] as &[&str]);
        let Some(mut command) = on_own_file_system(&mut command, folder.path(), options) else { return };
        Running::spawn(&mut command).ended().fails(1, &[folder.path().to_str().unwrap(), words]);
    }
}

/// The same command, with a file system of its own in a folder; it goes when the process ends. None, with a word about
/// it, if this user may not do that.
///
/// # Panics
/// Then, if `RONDEL_TEST_MOUNTS` is `required`.
pub(crate) fn on_own_file_system(command: &mut Command, at: &Path, options: &str) -> Option<Command> {
    let within = |script: &str| {
        let mut within = Command::new("unshare");
        within.args(["--user", "--map-root-user", "--mount", "sh", "-ec", script, "sh"]).arg(at).arg(options);
        within
    };
    let mount = "mount -t tmpfs -o \"$2\" tmpfs \"$1\"";
    if let Err(why) = ran("unshare --user --mount", &within(mount)) {
        skipped_without_mounts(&format!("this user may not mount file systems of its own: {why}"));
        return None;
    }
    let mut within = within(&format!("{mount}; shift 2; exec \"$@\""));
    within.arg(command.get_program()).args(command.get_args());
    Some(within)
}

/// How a start that is refused ends.
fn refused(dir: &Path, flags: &[&str]) -> crate::harness::Ended {
    Running::spawn(&mut crate::harness::start(dir, flags)).ended()
}
