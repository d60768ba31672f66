//! Schedules on which stores have lost acknowledged writes: whatever a node forgets, a put without a context never
//! takes anything away (Riak's kv679 family, as far as it goes without moving partitions).

use crate::harness::{bucket, get, insist, put, read, texts, with_mutants, with_nodes};
use rondel_core::{
    mutant::{Mutant, Mutants},
    testing::CrashMode,
};
use rondel_kv::{Context, DeleteOptions, Deleted, GetOptions, Need};

/// A stand-in coordinates, hands its copy back and forgets it, and coordinates again.
#[test]
fn a_stand_in_that_has_handed_back_its_copy_overwrites_nothing_later() {
    with_nodes(31, 4, |nodes| async move {
        for round in 0..3u32 {
            for down in 0..4 {
                let up = (down + 1) % 4;
                nodes.kill(down);
                insist(&nodes, &nodes.client(up).await, &format!("{round}-{down}"), None).await;
                nodes.restart(down);
                nodes.client(down).await;
                nodes.come_to_rest().await;
            }
        }
        let mut expected: Vec<_> =
            (0..3).flat_map(|round| (0..4).map(move |down| format!("{round}-{down}"))).collect();
        expected.sort();
        for node in 0..4 {
            assert_eq!(texts(read(&nodes, &nodes.client(node).await).await.as_ref()), expected);
        }
    });
}

/// Power is cut on the coordinator right after its acknowledgement, over and over.
#[test]
fn a_coordinator_that_loses_power_overwrites_nothing_later() {
    with_nodes(32, 3, |nodes| async move {
        let mut expected = Vec::new();
        for round in 0..9u32 {
            let node = round % 3;
            insist(&nodes, &nodes.client(node).await, &format!("{round}"), None).await;
            nodes.crash(node, CrashMode::LoseAll);
            expected.push(format!("{round}"));
            nodes.restart(node);
            if round % 2 == 0 {
                nodes.come_to_rest().await;
                let reader = nodes.client((node + 1) % 3).await;
                assert_eq!(texts(read(&nodes, &reader).await.as_ref()), expected);
            }
        }
        nodes.come_to_rest().await;
        let all = GetOptions { r: Some(Need::All), ..GetOptions::default() };
        let found = nodes.client(0).await.get(&bucket(), b"k", all).await.unwrap();
        assert_eq!(texts(found.as_ref()), expected);
    });
}

/// Doomstone: a node that was away during a delete comes back with the old value.
#[test]
fn a_deleted_value_does_not_come_back_with_a_node_that_was_away() {
    with_nodes(33, 3, |nodes| async move {
        let client = nodes.client(0).await;
        put(&client, "a", None).await.unwrap();
        let stale = get(&client).await.unwrap();
        nodes.kill(2);
        assert_eq!(client.delete(&bucket(), b"k", DeleteOptions::default()).await, Ok(Deleted::Done));
        nodes.restart(2);
        let third = nodes.client(2).await;
        assert!(read(&nodes, &third).await.unwrap().is_deleted());
        nodes.come_to_rest().await;
        nodes.kill(0);
        nodes.kill(1);
        let one = GetOptions { r: Some(Need::Count(1)), ..GetOptions::default() };
        let alone = third.get(&bucket(), b"k", one).await.unwrap().unwrap();
        assert!(alone.is_deleted());
        assert!(alone.context.covers(&stale.context));
    });
}

/// Both sides of a split network write blindly and with what they have read.
#[test]
fn writes_on_both_sides_of_a_split_network_become_siblings() {
    with_nodes(34, 3, |nodes| async move {
        let [one, three] = [nodes.client(0).await, nodes.client(2).await];
        put(&one, "old", None).await.unwrap();
        let old = get(&one).await.unwrap();
        nodes.isolate(2);
        insist(&nodes, &one, "left", Some(&old)).await;
        insist(&nodes, &three, "right", Some(&old)).await;
        nodes.heal();
        nodes.come_to_rest().await;
        for client in [&one, &three] {
            assert_eq!(texts(read(&nodes, client).await.as_ref()), ["left", "right"]);
        }
    });
}

#[test]
fn the_mutant_that_drops_siblings_would_be_noticed() {
    with_mutants(35, 1, Mutants::only(Mutant::DropSibling), |nodes| async move {
        let client = nodes.client(0).await;
        put(&client, "a", None).await.unwrap();
        put(&client, "b", None).await.unwrap();
        assert_eq!(
            texts(get(&client).await.as_ref()),
            ["b"],
            "the switch works: `a` was acknowledged and is gone"
        );
    });
}

/// A client claims to have seen writes that a node has yet to make. They must not be taken for overwritten when it
/// makes them, and the node goes on writing.
#[test]
fn a_made_up_context_overwrites_nothing_that_is_written_later() {
    with_nodes(38, 3, |nodes| async move {
        let [one, two] = [nodes.client(0).await, nodes.client(1).await];
        put(&one, "a", None).await.unwrap();
        let mut read = get(&two).await.unwrap();
        read.context = ahead(&read.context, 1_000);
        put(&two, "b", Some(&read)).await.unwrap();
        nodes.come_to_rest().await;
        for text in ["c", "d"] {
            put(&one, text, None).await.unwrap();
        }
        nodes.come_to_rest().await;
        for node in 0..3 {
            assert_eq!(texts(get(&nodes.client(node).await).await.as_ref()), ["b", "c", "d"]);
        }
    });
}

/// The context with its first entry so much further.
fn ahead(context: &Context, by: u64) -> Context {
    let mut bytes = context.to_bytes().to_vec();
    let body = bytes.len() - 4;
    let counter = &mut bytes[27..35];
    let further = u64::from_le_bytes(counter.try_into().unwrap()) + by;
    counter.copy_from_slice(&further.to_le_bytes());
    let sum = blake3::hash(&bytes[..body]);
    bytes[body..].copy_from_slice(&sum.as_bytes()[..4]);
    Context::from_bytes(&bytes).unwrap()
}
