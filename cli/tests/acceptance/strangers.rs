//! Bytes, certificates and tokens that nobody should be taken in by: what strangers are told, and that the cluster goes
//! on.

use crate::harness::{Node, Running, eventually, free_addresses, free_ports, start};
use nix::sys::signal::Signal;
use rondel_core::{
    env::Env,
    membership::{JoinSecret, JoinToken},
};
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    time::Duration,
};

/// The code of Riak's error answer.
const ERROR: u8 = 0;

#[test]
fn garbage_and_oversized_frames_get_an_error_and_the_node_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(&folder.path().join("data"), &[]);
    node.serves();
    let frame = |code: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len() + 1).unwrap();
        [&length.to_be_bytes(), &[code][..], payload].concat()
    };
    let get = 9;
    for (what, bytes, says) in [
        ("a frame without a code", vec![0; 4], "without a message code"),
        ("a frame of 4 GiB", vec![0xff; 64], "bytes, where"),
        ("a code that nobody knows", frame(250, b""), "250"),
        ("a request that is no message", frame(get, &[0xff; 40]), "malformed"),
        ("a request without its key", frame(get, b"\x0a\x01b"), "required field"),
        ("the words of another protocol", b"GET / HTTP/1.1\r\nHost: rondel\r\n\r\n".to_vec(), "bytes, where"),
    ] {
        let (code, text) = exchange(node.pb(), &bytes);
        assert_eq!(code, ERROR, "{what}");
        assert!(text.contains(says), "{what}: {text}");
    }
    // A frame that never ends costs nothing but its connection.
    let mut open = TcpStream::connect(node.pb()).unwrap();
    open.write_all(&[0, 0, 0, 200, get]).unwrap();
    let put = crate::harness::rondel(["kv", "put", "b", "k", "v", "--hosts", node.pb()]);
    put.ok();
    assert_eq!(crate::harness::rondel(["kv", "get", "b", "k", "--hosts", node.pb()]).ok(), "v");
    drop(open);
}

#[test]
fn a_token_must_be_whole_and_of_this_cluster_and_a_formed_cluster_takes_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let dir = |name: &str| folder.path().join(name);
    let [at, bulk_at] = free_addresses();
    let founder = ["--founders", "2", "--name", "first", "--cluster", &at, "--bulk", &bulk_at];
    let mut first = Node::start(&dir("first"), &founder);
    let token_file = dir("first").join("join-token");
    let token = fs::read_to_string(&token_file).unwrap().trim().to_owned();

    join(&dir("new"), "no token at all").fails(1, &["not a join token", "what to do"]);
    join(&dir("new"), &token[..token.len() - 3]).fails(1, &["incomplete or mistyped", "what to do"]);
    join(&dir("new"), &format!("@{}", dir("nowhere").display())).fails(1, &["nowhere", "join-token"]);
    let real = token.parse::<JoinToken>().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let guessed = runtime.block_on(async { JoinSecret::draw(&Env::production()) });
    let forged = JoinToken::new(real.lineage(), guessed, real.doors().to_vec()).unwrap().to_text();
    join(&dir("new"), &forged).fails(1, &["does not let this node in"]);
    assert_eq!(first.status()["cluster"]["present"], 1, "nobody was let in");

    let from_file = format!("@{}", token_file.display());
    let second = Node::start(&dir("second"), &["--join", &from_file, "--name", "second"]);
    second.serves();
    first.serves();
    join(&dir("late"), &token).fails(1, &["does not let this node in", "formed"]);
    crate::harness::rondel(["kv", "put", "b", "k", "v", "--hosts", second.pb()]).ok();
    assert_eq!(crate::harness::rondel(["kv", "get", "b", "k", "--hosts", first.pb()]).ok(), "v");
    assert!(first.process().runs());
}

#[test]
fn a_member_of_another_cluster_is_kept_out_by_its_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let dir = |name: &str| folder.path().join(name);
    let [at, bulk_at] = free_addresses();
    let founder = ["--founders", "2", "--cluster", &at, "--bulk", &bulk_at];
    // The cluster of `theirs` is at this address …
    let theirs = Node::start(&dir("theirs"), &[&founder[..], &["--name", "theirs"]].concat());
    let token = fs::read_to_string(dir("theirs").join("join-token")).unwrap();
    let stranger = Node::start(&dir("stranger"), &["--join", token.trim(), "--name", "stranger"]);
    stranger.serves();
    theirs.into_process().ended_by(Signal::SIGTERM).ok();
    // … where one node of `ours` is now: the stranger knocks at the wrong door.
    let ours = Node::start(&dir("ours"), &["--cluster", &at, "--bulk", &bulk_at, "--name", "ours"]);
    ours.serves();
    crate::harness::rondel(["kv", "put", "b", "k", "ours", "--hosts", ours.pb()]).ok();
    eventually("a stranger that is turned away", || {
        let status = stranger.status();
        let peer = &status["node"]["connections"][0];
        (peer["connected"] == false && peer["failures"].as_u64()? >= 2).then_some(())
    });
    for (node, told) in [(&stranger, "somebody else answers at its address"), (&ours, "does not belong here")]
    {
        eventually(told, || {
            node.log().lines().any(|line| line.contains(" WARN ") && line.contains(told)).then_some(())
        });
    }
    let warnings = stranger.log().matches("somebody else answers at its address").count();
    assert_eq!(warnings, 1, "it is told once, however often it is tried");
    assert_eq!(ours.status()["cluster"]["present"], 1);
    assert_eq!(ours.status()["node"]["connections"].as_array().unwrap().len(), 0);
    assert_eq!(crate::harness::rondel(["kv", "get", "b", "k", "--hosts", ours.pb()]).ok(), "ours");

    // A joining node with the token of a cluster that is not at its address waits, says why, and can be told to stop.
    let admin = format!("127.0.0.1:{}", free_ports(1));
    let mut lost = Running::spawn(&mut start(&dir("lost"), &["--join", token.trim(), "--admin", &admin]));
    eventually("the reason why it waits", || {
        assert!(lost.runs(), "{}", lost.err());
        lost.err().contains("the cluster does not answer; trying again").then_some(())
    });
    let waits = |words: &[&str]| crate::harness::rondel([&["status", "--admin", &admin], words].concat());
    let why = ["it waits to be let into its cluster", "another certificate"];
    waits(&["--health"]).fails(1, &["does not serve: it is starting", why[0], why[1]]);
    waits(&[]).fails(1, &["the node is starting", why[0], why[1]]);
    lost.ended_by(Signal::SIGTERM).ok();
}

/// How a start with this token ends.
fn join(dir: &Path, token: &str) -> crate::harness::Ended {
    Running::spawn(&mut start(dir, &["--join", token])).ended()
}

/// The answer to some bytes: its code, and its text as far as it is one.
fn exchange(host: &str, bytes: &[u8]) -> (u8, String) {
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut frame = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
    stream.read_exact(&mut frame).unwrap();
    (frame[0], String::from_utf8_lossy(&frame[1..]).into_owned())
}
