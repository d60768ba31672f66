//! Messages of an application of its own, sent in each of the ways that a service offers.

use rondel_core::{
    message,
    proto::{Msg, id::NodeId},
    request::{Merge, Need, RequestError, Requirement, Service},
    ring::Partition,
    testing::{Shape, Sim, TestCluster},
    vnode::{BoxError, Ctx, Handle, Held, Merged, Refusal, Registry, Scan, State, Vnode},
    wire,
};
use std::{collections::BTreeSet, future::IntoFuture, time::Duration};

/// Keeps the longest note of each key.
struct Notes;

#[wire]
#[derive(Default, PartialEq)]
struct Note {
    text: String,
}

/// Writes where it arrives.
#[message(id = 1, reply = NodeId, write)]
struct Scribble {
    text: String,
}

/// How many bytes a replica holds.
#[message(id = 2, reply = u64)]
struct Measure {
    at_least: u64,
}

/// The keys whose notes are so long.
#[message(id = 3, reply = u64)]
struct Long {
    bytes: u64,
}

impl State for Notes {
    type Item = Note;

    fn merge(held: &Msg<Note>, incoming: &Msg<Note>) -> Merged<Note> {
        let rank = |note: &Msg<Note>| (note.text.len(), note.text.to_string());
        if rank(held) >= rank(incoming) { Merged::Held } else { Merged::Incoming }
    }
}

impl Vnode for Notes {
    const NAME: &'static str = "notes";
    type Config = ();

    fn open((): &(), _: Partition) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn messages(on: &mut Registry<Self>) {
        on.on::<Scribble>().on::<Measure>().scan::<Long>();
    }
}

impl Handle<Scribble> for Notes {
    fn handle(&mut self, scribble: &Msg<Scribble>, ctx: &mut Ctx<'_, Note>) -> Result<NodeId, Refusal> {
        ctx.put(&Note { text: scribble.text.to_string() });
        Ok(ctx.node())
    }
}

impl Handle<Measure> for Notes {
    fn handle(&mut self, measure: &Msg<Measure>, ctx: &mut Ctx<'_, Note>) -> Result<u64, Refusal> {
        let bytes = match ctx.held() {
            Held::Item(note) => note.text.len() as u64,
            Held::Absent => 0,
            Held::Unreadable => return Err(Refusal::Unreadable),
        };
        match bytes >= measure.at_least.to_native() {
            true => Ok(bytes),
            false => Err(Refusal::Because(format!("only {bytes} bytes"))),
        }
    }
}

impl Merge for Measure {
    fn merge(replies: Vec<Msg<u64>>) -> u64 {
        replies.iter().map(Msg::to_owned).sum()
    }
}

impl Scan<Notes> for Long {
    fn row(query: &Msg<Self>, _: &[u8], note: &Msg<Note>) -> Option<u64> {
        let bytes = note.text.len() as u64;
        (bytes >= query.bytes.to_native()).then_some(bytes)
    }
}

fn scribble(text: &str) -> Scribble {
    Scribble { text: text.into() }
}

fn with_notes<F: Future<Output = ()>>(seed: u64, test: impl FnOnce(TestCluster, Service<Notes>) -> F) {
    let sim = Sim::new(seed);
    let cluster = TestCluster::new(&sim, Shape::of(3), |node| node.service::<Notes>(()));
    sim.run_until(async {
        cluster.form().await;
        let notes = cluster.node(0).await.service::<Notes>();
        test(cluster.clone(), notes).await;
    });
    assert_eq!(sim.panicked_work(), 0);
}

/// How many nodes hold the key.
async fn copies(cluster: &TestCluster, key: &str) -> usize {
    let mut copies = 0;
    for node in cluster.nodes() {
        let rows = cluster.rows(node).await.unwrap_or_default();
        copies += rows.iter().filter(|row| row.key == key.as_bytes()).count();
    }
    copies
}

#[test]
fn one_replica_answers_all_do_and_a_quorum_s_replies_become_one() {
    with_notes(41, |cluster, notes| async move {
        notes.one("k", scribble("seven 7")).await.unwrap();
        assert_eq!(copies(&cluster, "k").await, 1, "a message that writes does so where it arrives");
        let all = notes.all("k", Measure { at_least: 0 }).await.unwrap();
        let mut bytes: Vec<u64> = all.into_iter().map(|replica| replica.reply.unwrap().to_owned()).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, [0, 0, 7]);
        let asked = notes.quorum("k", Measure { at_least: 0 }).need(Need::All).await;
        assert_eq!(asked.unwrap(), 7);
        let refused = notes.quorum("k", Measure { at_least: 7 }).await.unwrap_err();
        // Two refusals are enough to know, whether the third has answered or not.
        let RequestError::Unmet { requirement: Requirement::Need, need: 2, have: 0 | 1, failures } = refused
        else {
            panic!("{refused}");
        };
        assert_eq!(failures.len(), 2);
        let refused = notes.one("k", Measure { at_least: 99 }).await.unwrap_err();
        assert!(matches!(refused, RequestError::Refused(why) if why.starts_with("only ")));
    });
}

#[test]
fn a_question_goes_to_the_next_replica_when_one_is_gone() {
    with_notes(42, |cluster, notes| async move {
        for round in 0..9 {
            cluster.kill(1 + round % 2);
            notes.one(format!("key {round}"), Measure { at_least: 0 }).await.unwrap();
            cluster.restart(1 + round % 2);
            cluster.settle().await.unwrap();
        }
    });
}

/// The replica dies with the write in its hands. Whether it is done nobody can tell; it must not be done twice.
#[test]
fn a_message_that_writes_is_not_asked_of_another_replica_once_it_may_have_been_done() {
    with_notes(43, |cluster, notes| async move {
        let (mut writers, mut unknown) = (BTreeSet::new(), 0);
        for round in 0..12 {
            let key = format!("key {round}");
            for node in 1..3 {
                cluster.control().disk(node).set_slowness(50_000.0);
            }
            let asked =
                notes.one(key.as_str(), scribble("text")).deadline(Duration::from_secs(8)).into_future();
            let (sender, answer) = tokio::sync::oneshot::channel();
            cluster.control().spawn("ask", async move { drop(sender.send(asked.await)) });
            cluster.control().sleep(Duration::from_millis(40)).await;
            for node in 1..3 {
                cluster.kill(node);
                cluster.control().disk(node).set_slowness(1.0);
            }
            match answer.await.unwrap() {
                Ok(node) => drop(writers.insert(node)),
                Err(error) => {
                    assert_eq!(error, RequestError::Unknown, "{key}");
                    unknown += 1;
                }
            }
            for node in 1..3 {
                cluster.restart(node);
            }
            cluster.settle().await.unwrap();
            assert!(copies(&cluster, &key).await <= 1, "{key} was written twice");
        }
        assert!(writers.len() <= 1, "only the node that lived can have answered");
        assert!(unknown > 0, "some message was lost with the node that it went to");
    });
}

#[test]
fn a_scan_meets_every_row_once() {
    with_notes(44, |_, notes| async move {
        for number in 0..50 {
            notes.update(format!("{number}"), scribble(&"x".repeat(number))).await.unwrap();
        }
        let mut rows = notes.scan(&Long { bytes: 20 }).unwrap();
        let mut lengths = Vec::new();
        while let Some(page) = rows.next().await {
            lengths.extend(page.unwrap().into_iter().map(|(_, bytes)| bytes.to_owned()));
        }
        lengths.sort_unstable();
        assert_eq!(lengths, (20..50).collect::<Vec<u64>>());
    });
}
