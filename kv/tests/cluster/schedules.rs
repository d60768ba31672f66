//! The schedules that a rule is there for, one by one: each keeps everything that was acknowledged, and loses some of it
//! as soon as its rule is broken. The random faults of `cargo xtask sim` meet them only by chance.

use crate::harness::{Nodes, all_texts, alone_texts, bucket, get, insist, put, texts, try_put, with_mutants};
use futures_util::future::join_all;
use rondel_core::{
    mutant::{Mutant, Mutants},
    node::MemberState,
    proto::id::NodeId,
    ring::{Position, position_of},
    store::row::Body,
    testing::{CrashMode, Link, RowKind},
};
use rondel_kv::{Condition, Content, GetOptions, Need, PutError, PutOptions, RequestError};
use std::time::Duration;

/// Longer than it takes to give up a node that is not heard.
const GIVEN_UP: Duration = Duration::from_secs(12);

/// What a schedule leaves, with all rules and with one of them broken.
fn outcomes<F: Future<Output = Vec<String>>>(
    nodes: u32,
    broken: Mutant,
    schedule: impl Fn(Nodes) -> F,
) -> [Vec<String>; 2] {
    [Mutants::default(), Mutants::only(broken)].map(|mutants| {
        let mut left = Vec::new();
        with_mutants(51, nodes, mutants, |nodes| async { left = schedule(nodes).await });
        left
    })
}

/// Where the key stands on the ring.
fn position() -> Position {
    let bucket = bucket();
    position_of(&[bucket.kind(), bucket.name(), b"k"])
}

/// Lets a node write alone, as a stand-in for everybody else.
async fn write_alone(nodes: &Nodes, node: u32, text: &str) {
    nodes.isolate(node);
    nodes.control().sleep(GIVEN_UP).await;
    put(&nodes.client(node).await, text, None).await.unwrap();
    nodes.heal();
}

/// The node coordinates, hands its copy back, forgets it, and coordinates again: its new dot must not claim the old one.
async fn a_stand_in_drains_and_writes_blindly(nodes: Nodes) -> Vec<String> {
    let outsider = nodes.outsiders_of(position())[0];
    for text in ["a", "b"] {
        write_alone(&nodes, outsider, text).await;
        nodes.come_to_rest().await;
    }
    all_texts(&nodes).await
}

#[test]
fn a_row_that_was_handed_back_begins_a_birth() {
    let [kept, broken] = outcomes(4, Mutant::NoBirth, a_stand_in_drains_and_writes_blindly);
    assert_eq!((kept, broken), (vec!["a".into(), "b".into()], vec!["b".into()]));
}

#[test]
fn mine_goes_with_its_row() {
    let [kept, broken] = outcomes(4, Mutant::KeepMine, a_stand_in_drains_and_writes_blindly);
    assert_eq!((kept, broken), (vec!["a".into(), "b".into()], vec!["b".into()]));
}

/// The power goes after the item was sent to the others and before it was synced here: what the others acknowledged is
/// nothing that this store remembers.
#[test]
fn a_store_that_was_opened_anew_has_an_incarnation_of_its_own() {
    let [kept, broken] = outcomes(3, Mutant::KeepIncarnation, |nodes| async move {
        nodes.control().disk(0).set_ignore_sync(true);
        put(&nodes.client(0).await, "a", None).await.unwrap();
        nodes.crash(0, CrashMode::LoseAll);
        nodes.control().disk(0).set_ignore_sync(false);
        nodes.control().sleep(GIVEN_UP).await;
        nodes.isolate(0);
        nodes.start(0);
        // Nobody has told it yet of what it has lost.
        let client = nodes.client(0).await;
        nodes.control().sleep(GIVEN_UP).await;
        put(&client, "b", None).await.unwrap();
        nodes.heal();
        nodes.come_to_rest().await;
        all_texts(&nodes).await
    });
    assert_eq!(kept, ["a", "b"]);
    assert_eq!(broken.len(), 1, "two writes under one name: {broken:?}");
}

/// Two replicas that hold the same copy write without hearing of each other.
#[test]
fn an_absorbed_copy_does_not_bring_the_senders_mine() {
    let [kept, broken] = outcomes(3, Mutant::AbsorbMine, |nodes| async move {
        let [one, two] = [nodes.client(0).await, nodes.client(1).await];
        // What else the second has written puts its numbers ahead of the first's.
        for number in 0..9 {
            let (key, content) = (format!("other-{number}"), Content::text("-"));
            two.put(&bucket(), Some(key.as_bytes()), content, PutOptions::default()).await.unwrap();
        }
        put(&one, "a", None).await.unwrap();
        nodes.isolate(0);
        let _ = try_put(&two, "c").await;
        insist(&nodes, &one, "b", None).await;
        nodes.heal();
        nodes.come_to_rest().await;
        all_texts(&nodes).await
    });
    assert_eq!(kept, ["a", "b", "c"]);
    assert_ne!(broken, ["a", "b", "c"]);
}

/// The coordinator has not seen what the client has: the client's context supersedes it all the same.
#[test]
fn what_a_client_has_seen_is_superseded_where_the_coordinator_has_not_seen_it() {
    with_mutants(52, 3, Mutants::default(), |nodes| async move {
        let [one, three] = [nodes.client(0).await, nodes.client(2).await];
        nodes.isolate(2);
        insist(&nodes, &one, "a", None).await;
        let read = get(&one).await.unwrap();
        insist(&nodes, &three, "b", Some(&read)).await;
        nodes.heal();
        nodes.come_to_rest().await;
        assert_eq!(all_texts(&nodes).await, ["b"]);
    });
}

/// All nodes have just begun, and their disks are slow: whoever writes owes the others something all the time. That a key is
/// not there can be said all the same.
fn a_young_cluster_under_load_says_of_a_key_that_it_is_not_there(count: u32) {
    with_mutants(58, count, Mutants::default(), |nodes| async move {
        for node in nodes.nodes() {
            nodes.control().disk(node).set_slowness(40.0);
        }
        let mut clients = Vec::new();
        for node in nodes.nodes() {
            clients.push(nodes.client(node).await);
        }
        for (writer, client) in clients.iter().cycle().take(24).enumerate() {
            let client = client.clone();
            nodes.control().spawn("writer", async move {
                for number in 0.. {
                    let (key, content) = (format!("{writer}-{number}"), Content::text("-"));
                    let _ = client.put(&bucket(), Some(key.as_bytes()), content, PutOptions::default()).await;
                }
            });
        }
        let owner = nodes.owners_of(position())[0];
        let mut all_behind = 0;
        for round in 0..40 {
            nodes.control().sleep(Duration::from_millis(100)).await;
            let status = nodes.running(owner).unwrap().status();
            all_behind += usize::from(status.members.iter().all(|member| member.behind));
            let read = clients[round % clients.len()].get(&bucket(), b"k", GetOptions::default()).await;
            assert_eq!(read.unwrap(), None, "round {round}");
        }
        assert!(all_behind > 0, "it is another schedule: somebody always had all that there is");
    });
}

/// The owners are the only ones that owe anybody anything.
#[test]
fn owners_that_owe_each_other_writes_can_say_of_a_key_that_it_is_not_there() {
    a_young_cluster_under_load_says_of_a_key_that_it_is_not_there(3);
}

/// Others owe them something, too, and are asked.
#[test]
fn owners_that_others_owe_writes_can_say_of_a_key_that_it_is_not_there() {
    a_young_cluster_under_load_says_of_a_key_that_it_is_not_there(6);
}

/// A stand-in that is no owner takes a write, and `others`, while everybody else is out of its sight. Then they see each
/// other again, and the owners have been away not long ago.
async fn a_stand_in_owes_the_owners(nodes: &Nodes, stand_in: u32, others: u32) {
    nodes.isolate(stand_in);
    nodes.control().sleep(GIVEN_UP).await;
    let alone = nodes.client(stand_in).await;
    put(&alone, "a", None).await.unwrap();
    for number in 0..others {
        let (key, content) = (format!("other-{number}"), Content::text("-".repeat(20_000)));
        alone.put(&bucket(), Some(key.as_bytes()), content, PutOptions::default()).await.unwrap();
    }
    // Its writes are done with: nobody is to be found for them any more.
    nodes.control().sleep(GIVEN_UP).await;
    nodes.heal();
    for owner in nodes.owners_of(position()) {
        nodes.restart(owner);
    }
}

/// Whether a node knows of another, which is up, that it keeps hints.
fn knows_of_hints(nodes: &Nodes, node: u32, of: NodeId) -> bool {
    let status = nodes.running(node).unwrap().status();
    let mut members = status.members.iter();
    members.any(|member| member.node == of && member.state == MemberState::Up && member.hints > 0)
}

/// Waits until a node knows that another keeps hints.
async fn learn_of_hints(nodes: &Nodes, node: u32, of: NodeId) {
    let began = nodes.control().now();
    while !knows_of_hints(nodes, node, of) {
        assert!(nodes.control().now() - began < GIVEN_UP, "it is not said who keeps hints");
        nodes.control().sleep(Duration::from_millis(5)).await;
    }
}

/// What a stand-in may still have for the owners, none of these may deny, not even all together. What it has counts.
#[test]
fn owners_do_not_deny_what_a_stand_in_is_known_to_keep_for_them() {
    with_mutants(59, 4, Mutants::default(), |nodes| async move {
        let stand_in = nodes.outsiders_of(position())[0];
        let owner = nodes.owners_of(position())[0];
        let name = nodes.node(stand_in).await.node();
        a_stand_in_owes_the_owners(&nodes, stand_in, 100).await;
        // What it keeps takes seconds to deliver; that it keeps something is said at once.
        nodes.control().net().set_links(Link {
            bandwidth: Some(500_000),
            queue_max: Duration::from_secs(1),
            ..Link::perfect()
        });
        let client = nodes.client(owner).await;
        let mut found_early = 0;
        for _ in 0..2000 {
            let is_known = knows_of_hints(&nodes, owner, name);
            match client.get(&bucket(), b"k", GetOptions::default()).await {
                Ok(None) => assert!(!is_known, "it was acknowledged, and kept where everybody knew"),
                Ok(Some(_)) => found_early += usize::from(is_known),
                Err(error) => assert!(!is_known, "one more was to be asked: {error}"),
            }
            nodes.control().sleep(Duration::from_millis(5)).await;
        }
        assert!(found_early > 0, "it is another schedule: it was delivered before anybody knew of it");
        nodes.come_to_rest().await;
        assert_eq!(all_texts(&nodes).await, ["a"]);
    });
}

/// The stand-in is long in hearing the question. Meanwhile it has brought the owners what they had not when they were asked,
/// and has nothing itself any more.
#[test]
fn owners_are_asked_once_more_after_those_that_kept_something_for_them() {
    with_mutants(60, 5, Mutants::default(), |nodes| async move {
        let [stand_in, reader] = *nodes.outsiders_of(position()) else { panic!("two of five own nothing") };
        let (name, owners) = (nodes.node(stand_in).await.node(), nodes.owners_of(position()));
        a_stand_in_owes_the_owners(&nodes, stand_in, 0).await;
        let net = nodes.control().net();
        owners.iter().for_each(|owner| net.cut(stand_in, *owner));
        for owner in &owners {
            nodes.client(*owner).await;
        }
        let client = nodes.client(reader).await;
        learn_of_hints(&nodes, reader, name).await;
        let late = Duration::from_secs(3);
        net.set_link(reader, stand_in, Link { latency_min: late, latency_max: late, ..Link::perfect() });
        owners.iter().for_each(|owner| net.mend(stand_in, *owner));
        let reads = (0..200).map(|read| {
            let (client, control) = (client.clone(), nodes.control().clone());
            async move {
                control.sleep(Duration::from_millis(10 * read)).await;
                let asked = control.now();
                let read = client.get(&bucket(), b"k", GetOptions::default()).await;
                (read, control.now() - asked)
            }
        });
        let mut waited = 0;
        for (read, took) in join_all(reads).await {
            assert!(!matches!(read, Ok(None)), "it was acknowledged, and the owners have it by now");
            waited += usize::from(read.is_ok() && took >= late);
        }
        assert!(waited > 0, "it is another schedule: nobody had to ask the stand-in");
    });
}

/// Two stand-ins keep writes for the owners. The one that has the item dies before it could bring it: the other one, and the
/// owners, can't say of the key that it is not there.
#[test]
fn owners_do_not_deny_what_a_stand_in_took_with_it() {
    with_mutants(61, 6, Mutants::default(), |nodes| async move {
        let [gone, other, reader] = *nodes.outsiders_of(position()) else {
            panic!("three of six own nothing")
        };
        let (net, owners) = (nodes.control().net(), nodes.owners_of(position()));
        let names = [nodes.node(gone).await.node(), nodes.node(other).await.node()];
        nodes.partition(&[&[gone], &[other], &[&owners[..], &[reader]].concat()]);
        nodes.control().sleep(GIVEN_UP).await;
        put(&nodes.client(gone).await, "a", None).await.unwrap();
        let alone = nodes.client(other).await;
        for number in 0..50 {
            let (key, content) = (format!("other-{number}"), Content::text("-"));
            alone.put(&bucket(), Some(key.as_bytes()), content, PutOptions::default()).await.unwrap();
        }
        // Their writes are done with: nobody is to be found for them any more.
        nodes.control().sleep(GIVEN_UP).await;
        nodes.heal();
        for owner in &owners {
            net.cut(gone, *owner);
            net.cut(other, *owner);
            nodes.restart(*owner);
        }
        for owner in &owners {
            nodes.client(*owner).await;
        }
        let client = nodes.client(reader).await;
        for name in names {
            learn_of_hints(&nodes, reader, name).await;
        }
        nodes.kill(gone);
        nodes.control().sleep(GIVEN_UP).await;
        assert!(!knows_of_hints(&nodes, reader, names[0]), "it is not known to be down");
        assert!(knows_of_hints(&nodes, reader, names[1]), "it is another schedule: nothing is owed any more");
        let read = client.get(&bucket(), b"k", GetOptions::default()).await;
        assert!(read.is_err(), "it was acknowledged, and nobody can know: {read:?}");
        nodes.heal();
        nodes.start(gone);
        nodes.come_to_rest().await;
        assert_eq!(all_texts(&nodes).await, ["a"]);
    });
}

/// The owner that is asked can't read its row: it may not write on it as if it were empty.
#[test]
fn a_row_that_rots_is_not_written_on_until_it_is_filled() {
    with_mutants(53, 3, Mutants::default(), |nodes| async move {
        put(&nodes.client(0).await, "a", None).await.unwrap();
        nodes.come_to_rest().await;
        rot(&nodes, 0).await;
        for text in ["b", "c"] {
            insist(&nodes, &nodes.client(0).await, text, None).await;
        }
        nodes.come_to_rest().await;
        for node in nodes.nodes() {
            assert_eq!(alone_texts(&nodes, node).await, ["a", "b", "c"], "node {node}");
        }
    });
}

/// The item rots on the only node that has a hint for it. Its place gets what the others have.
#[test]
fn a_hint_whose_item_rots_is_not_kept_for_ever() {
    with_mutants(54, 3, Mutants::default(), |nodes| async move {
        nodes.kill(2);
        nodes.control().sleep(GIVEN_UP).await;
        put(&nodes.client(0).await, "a", None).await.unwrap();
        let mut holder = 0;
        for node in [0, 1] {
            let rows = nodes.rows(node).await.unwrap();
            if rows.iter().any(|row| matches!(row.kind, RowKind::Hint { .. })) {
                holder = node;
            }
        }
        rot(&nodes, holder).await;
        nodes.start(2);
        nodes.come_to_rest().await;
        assert_eq!(alone_texts(&nodes, 2).await, ["a"]);
    });
}

/// A stray copy rots while it waits for an owner to return: it goes once all owners are there, as a sound one does.
#[test]
fn a_stray_copy_that_rots_is_not_kept_for_ever() {
    with_mutants(55, 4, Mutants::default(), |nodes| async move {
        let (outsider, owners) = (nodes.outsiders_of(position())[0], nodes.owners_of(position()));
        nodes.kill(owners[0]);
        write_alone(&nodes, outsider, "a").await;
        nodes.control().sleep(Duration::from_secs(30)).await;
        rot(&nodes, outsider).await;
        nodes.start(owners[0]);
        nodes.come_to_rest().await;
        assert_eq!(nodes.rows(outsider).await.unwrap().len(), 0);
        assert_eq!(alone_texts(&nodes, owners[0]).await, ["a"]);
    });
}

/// Lets what a node's store holds of the key rot. No start reads it from the log any more, and its memory is that of a new
/// process.
async fn rot(nodes: &Nodes, node: u32) {
    nodes.restart(node);
    nodes.client(node).await;
    let rows = nodes.rows(node).await.unwrap();
    let items = rows.into_iter().filter_map(|row| match row.kind {
        RowKind::Item { row: Ok(row), .. } => Some(row.body),
        _ => None,
    });
    nodes.kill(node);
    for body in items {
        let Body::Item(item) = body else { continue };
        let of_store = |path: &std::path::Path| path.components().any(|part| part.as_os_str() == "store");
        assert!(nodes.control().disk(node).flip_bits_of(&item, of_store) > 0, "the store has it");
    }
    nodes.start(node);
    nodes.client(node).await;
}

/// The owner comes back for a moment, and loses its power while it takes what it has missed.
#[test]
fn a_hint_stays_while_its_owner_has_not_made_its_item_durable() {
    let [kept, broken] = outcomes(3, Mutant::AcknowledgeBeforeDurable, |nodes| async move {
        nodes.kill(2);
        nodes.control().sleep(GIVEN_UP).await;
        put(&nodes.client(0).await, "a", None).await.unwrap();
        nodes.start(2);
        nodes.client(2).await;
        // What it writes next is the item that it has missed.
        nodes.control().cut_power_after(2, 0, CrashMode::LoseAll);
        nodes.control().sleep(GIVEN_UP).await;
        assert!(!nodes.control().is_running(2));
        nodes.start(2);
        nodes.come_to_rest().await;
        alone_texts(&nodes, 2).await
    });
    assert_eq!((kept, broken), (vec!["a".into()], vec![]));
}

/// A node that owns no slot wrote alone; then one owner is down, and it must not forget its copy before that one has it:
/// when that one comes, the others may be down.
#[test]
fn a_stray_copy_stays_until_every_owner_has_it() {
    let [kept, broken] = outcomes(4, Mutant::DropStrayUnlicensed, |nodes| async move {
        let (outsider, owners) = (nodes.outsiders_of(position())[0], nodes.owners_of(position()));
        let [first, second, last] = owners[..] else { unreachable!("three own the key") };
        nodes.isolate(outsider);
        nodes.control().sleep(GIVEN_UP).await;
        put(&nodes.client(outsider).await, "a", None).await.unwrap();
        nodes.kill(last);
        nodes.heal();
        nodes.control().sleep(Duration::from_secs(30)).await;
        assert_eq!(alone_texts(&nodes, first).await, ["a"]);
        nodes.kill(first);
        nodes.kill(second);
        nodes.start(last);
        nodes.client(last).await;
        nodes.control().sleep(Duration::from_secs(30)).await;
        alone_texts(&nodes, last).await
    });
    assert_eq!((kept, broken), (vec!["a".into()], vec![]));
}

/// The only copy of an acknowledged write is large and slow to come; its digest comes at once, and disagrees.
#[test]
fn a_read_waits_for_an_item_that_is_known_to_differ() {
    let [kept, broken] = outcomes(3, Mutant::IgnoreDigests, |nodes| async move {
        put(&nodes.client(0).await, "a", None).await.unwrap();
        nodes.come_to_rest().await;
        let narrow = Link { bandwidth: Some(200_000), ..Link::default() };
        for other in [0, 2] {
            nodes.control().net().set_link(1, other, narrow.clone());
        }
        let one = Some(Need::Count(1));
        let one = PutOptions { w: one, dw: one, ..PutOptions::default() };
        let content = Content::text("b".repeat(1 << 20));
        nodes.client(1).await.put(&bucket(), Some(b"k"), content, one).await.unwrap();
        let all = GetOptions { r: Some(Need::All), pr: Some(Need::All), ..GetOptions::default() };
        let read = nodes.client(0).await.get(&bucket(), b"k", all).await.unwrap();
        texts(read.as_ref()).into_iter().map(|text| text[..1].to_owned()).collect()
    });
    assert_eq!((kept, broken), (vec!["a".into(), "b".into()], vec!["a".into()]));
}

/// The first coordinator writes and can't say so; the second has another's write by then, and refuses.
#[test]
fn a_refusal_after_a_coordinator_was_lost_does_not_say_that_nothing_was_done() {
    with_mutants(52, 4, Mutants::default(), |nodes| async move {
        let [first, second, ..] = nodes.owners_of(position())[..] else { unreachable!("three own the key") };
        let edge = nodes.outsiders_of(position())[0];
        // By then everybody has a connection to everybody.
        nodes.control().sleep(GIVEN_UP).await;
        for other in nodes.nodes().into_iter().filter(|other| *other != first) {
            nodes.control().net().cut(first, other);
        }
        let (asking, writing) = (nodes.client(edge).await, nodes.client(second).await);
        let put_if_absent = async {
            let absent = PutOptions { condition: Condition::Absent, ..PutOptions::default() };
            asking.put(&bucket(), Some(b"k"), Content::text("a"), absent).await
        };
        let meanwhile = async {
            // The condition holds when it is tried first.
            nodes.control().sleep(Duration::from_millis(500)).await;
            put(&writing, "b", None).await.unwrap();
        };
        let (told, ()) = futures_util::future::join(put_if_absent, meanwhile).await;
        assert_eq!(told, Err(PutError::Request(RequestError::Unknown)));
        nodes.heal();
        nodes.come_to_rest().await;
        assert_eq!(all_texts(&nodes).await, ["a", "b"], "the first did write");
    });
}
