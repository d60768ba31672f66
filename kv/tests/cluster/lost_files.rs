//! Files of rows that are lost: what they held is unknown until it has come back from the other owners, and never "not
//! found".

use crate::harness::{Nodes, all, bucket, texts, with_mutants, with_stores};
use rondel_core::{
    mutant::{Mutant, Mutants},
    store::StoreConfig,
    testing::Spoil,
};
use rondel_kv::{Client, Content, Fetched, GetError, GetOptions, ListError, ListOptions, Need, PutOptions};
use std::{path::Path, time::Duration};

const KEYS: u32 = 60;
/// Longer than it takes to give up a node that is not heard.
const GIVEN_UP: Duration = Duration::from_secs(12);

fn key(number: u32) -> String {
    format!("key {number}")
}

fn value(number: u32) -> String {
    format!("value of {number:04}")
}

fn keys() -> Vec<String> {
    let mut keys: Vec<_> = (0..KEYS).map(key).collect();
    keys.sort();
    keys
}

async fn write(client: &Client, number: u32, text: &str) {
    let (bucket, key) = (bucket(), key(number));
    let content = Content::text(text);
    client.put(&bucket, Some(key.as_bytes()), content, PutOptions::default()).await.unwrap();
}

async fn load(nodes: &Nodes) {
    let client = nodes.client(0).await;
    for number in 0..KEYS {
        write(&client, number, &value(number)).await;
    }
    nodes.come_to_rest().await;
}

/// Reads as one replica has it, whichever is asked first.
async fn read_one(client: &Client, number: u32) -> Result<Option<Fetched>, GetError> {
    let one = GetOptions { r: Some(Need::Count(1)), ..GetOptions::default() };
    client.get(&bucket(), key(number).as_bytes(), one).await
}

/// Ends a node in order, so that all that it has is in its tables; and once more, so that its log has it no more.
async fn stop(nodes: &Nodes, node: u32) {
    nodes.node(node).await.shutdown().await;
    nodes.restart(node);
    nodes.node(node).await.shutdown().await;
    nodes.kill(node);
}

fn is_file(number: u32) -> impl Fn(&Path) -> bool {
    let name = format!("rows-{number:03}.redb");
    move |path| path.file_name().is_some_and(|file| file == name.as_str())
}

fn spoil(nodes: &Nodes, node: u32, number: u32, how: Spoil) {
    let spoilt = nodes.control().disk(node).spoil(how, is_file(number));
    assert_eq!(spoilt.len(), 1, "file {number} of node {node} is there");
}

async fn lose(nodes: &Nodes, node: u32, number: u32, how: Spoil) {
    stop(nodes, node).await;
    spoil(nodes, node, number, how);
}

fn lacks(nodes: &Nodes, node: u32) -> u64 {
    nodes.running(node).map_or(0, |cluster| cluster.status().store.stats.gap_ppm)
}

async fn start(nodes: &Nodes, node: u32) -> Client {
    nodes.start(node);
    nodes.client(node).await
}

/// Every node has every key again, and nothing else.
async fn assert_all_have_all(nodes: &Nodes) {
    nodes.come_to_rest().await;
    for node in nodes.nodes() {
        assert_eq!(nodes.rows(node).await.unwrap().len(), keys().len(), "node {node}");
    }
}

/// What a node has by itself.
async fn assert_has_alone(nodes: &Nodes, node: u32, expected: impl Fn(u32) -> Vec<String>) {
    nodes.nodes().into_iter().filter(|other| *other != node).for_each(|other| nodes.kill(other));
    nodes.control().sleep(GIVEN_UP).await;
    let client = nodes.client(node).await;
    for number in 0..KEYS {
        assert_eq!(texts(read_one(&client, number).await.unwrap().as_ref()), expected(number));
    }
}

/// A store that takes its time with refilling.
fn slow(refill_bytes_per_s: u64) -> impl Fn(&mut StoreConfig) + Send + Sync {
    move |config| config.refill_bytes_per_s = refill_bytes_per_s
}

#[test]
fn a_file_that_is_lost_comes_back_from_the_other_owners() {
    for (how, number) in Spoil::ALL.into_iter().flat_map(|how| [(how, 0), (how, 1)]) {
        with_stores(61, 3, Mutants::default(), slow(2_000), |nodes| async move {
            load(&nodes).await;
            lose(&nodes, 0, number, how).await;
            let client = start(&nodes, 0).await;
            assert!(lacks(&nodes, 0) > 0, "{how:?} of file {number}");
            for key_number in 0..KEYS {
                let read = read_one(&client, key_number).await.unwrap();
                assert_eq!(texts(read.as_ref()), [value(key_number)]);
            }
            let listed = all(client.list_keys(&bucket(), ListOptions::default())).await.unwrap();
            assert_eq!(listed, keys());
            nodes.come_to_rest().await;
            assert_eq!(lacks(&nodes, 0), 0);
            let aside = nodes.running(0).unwrap().status().store.set_aside;
            assert_eq!(aside.len(), usize::from(how != Spoil::Remove), "{aside:?}");
            assert_has_alone(&nodes, 0, |number| vec![value(number)]).await;
        });
    }
}

/// How many keys a node that has lost a file, and hears nobody, calls absent; and how many it does not tell of.
fn alone(mutants: Mutants) -> (usize, usize) {
    let mut answers = (0, 0);
    with_mutants(62, 3, mutants, |nodes| async {
        let nodes = nodes;
        load(&nodes).await;
        lose(&nodes, 0, 1, Spoil::Cut).await;
        nodes.kill(1);
        nodes.kill(2);
        let client = start(&nodes, 0).await;
        nodes.control().sleep(GIVEN_UP).await;
        for number in 0..KEYS {
            match read_one(&client, number).await {
                Ok(Some(read)) => assert_eq!(texts(Some(&read)), [value(number)]),
                Ok(None) => answers.0 += 1,
                Err(_) => answers.1 += 1,
            }
        }
        let listed = all(client.list_keys(&bucket(), ListOptions::default())).await;
        assert_eq!(matches!(listed, Err(ListError::Request(_))), mutants == Mutants::default(), "{listed:?}");
    });
    answers
}

#[test]
fn what_is_absent_in_a_gap_is_unknown() {
    let (absent, unknown) = alone(Mutants::default());
    assert_eq!(absent, 0);
    assert!(unknown > 10, "{unknown}");
    let (absent, _) = alone(Mutants::only(Mutant::GapAsEmpty));
    assert!(absent > 10, "{absent}");
}

/// Written while the file is being filled: what was there stays beside it.
#[test]
fn nobody_coordinates_on_what_is_lost_before_it_has_come_back() {
    with_stores(63, 3, Mutants::default(), slow(200), |nodes| async move {
        load(&nodes).await;
        lose(&nodes, 0, 1, Spoil::Garble).await;
        let client = start(&nodes, 0).await;
        for number in 0..KEYS {
            write(&client, number, "later").await;
        }
        assert!(lacks(&nodes, 0) > 0, "it is still being filled");
        assert_all_have_all(&nodes).await;
        assert_has_alone(&nodes, 0, |number| vec!["later".to_owned(), value(number)]).await;
    });
}

#[test]
fn a_restart_goes_on_filling_where_it_was() {
    with_stores(64, 3, Mutants::default(), slow(400), |nodes| async move {
        load(&nodes).await;
        lose(&nodes, 0, 1, Spoil::Remove).await;
        start(&nodes, 0).await;
        while lacks(&nodes, 0) > 300_000 {
            nodes.control().sleep(Duration::from_millis(100)).await;
        }
        let before = lacks(&nodes, 0);
        assert!(before > 0);
        nodes.kill(0);
        start(&nodes, 0).await;
        let after = lacks(&nodes, 0);
        assert!(0 < after && after <= before, "{after} after {before}");
        assert_all_have_all(&nodes).await;
    });
}

/// One owner knows alone what was acknowledged by it and by the one that has lost it: until it is back nothing is filled.
#[test]
fn an_owner_that_is_down_is_waited_for() {
    with_mutants(65, 3, Mutants::default(), |nodes| async move {
        load(&nodes).await;
        nodes.kill(1);
        nodes.control().sleep(GIVEN_UP).await;
        let client = nodes.client(0).await;
        for number in 0..KEYS {
            write(&client, number, "later").await;
        }
        nodes.kill(2);
        lose(&nodes, 0, 1, Spoil::Cut).await;
        start(&nodes, 0).await;
        start(&nodes, 1).await;
        nodes.control().sleep(Duration::from_secs(100)).await;
        assert_eq!(lacks(&nodes, 0), 500_000, "the third owner has not been asked");
        start(&nodes, 2).await;
        assert_all_have_all(&nodes).await;
        assert_has_alone(&nodes, 0, |number| vec!["later".to_owned(), value(number)]).await;
    });
}

/// What the owner that has lost a file gets back first is older than what it had acknowledged. Whoever asks for two owners
/// is not answered by it and by the one that was away.
#[test]
fn a_read_of_owners_does_not_count_one_that_has_lost_rows() {
    with_stores(70, 3, Mutants::default(), slow(1), |nodes| async move {
        load(&nodes).await;
        nodes.kill(2);
        nodes.control().sleep(GIVEN_UP).await;
        let client = nodes.client(0).await;
        for number in 0..KEYS {
            write(&client, number, "later").await;
        }
        nodes.kill(1);
        lose(&nodes, 0, 1, Spoil::Cut).await;
        start(&nodes, 2).await;
        let client = start(&nodes, 0).await;
        for number in 0..KEYS {
            // It repairs what it finds unequal.
            let _ = read_one(&client, number).await;
        }
        nodes.control().sleep(GIVEN_UP).await;
        let two_owners = GetOptions { pr: Some(Need::Count(2)), ..GetOptions::default() };
        let mut unmet = 0;
        for number in 0..KEYS {
            match client.get(&bucket(), key(number).as_bytes(), two_owners.clone()).await {
                Ok(read) => assert!(texts(read.as_ref()).contains(&"later".to_owned()), "{number}"),
                Err(_) => unmet += 1,
            }
        }
        assert!((10..50).contains(&unmet), "{unmet}");
    });
}

#[test]
fn one_node_after_the_other_loses_files() {
    with_mutants(66, 3, Mutants::default(), |nodes| async move {
        load(&nodes).await;
        for (node, number) in [(0, 0), (1, 0), (2, 1), (0, 1)] {
            lose(&nodes, node, number, Spoil::Garble).await;
            start(&nodes, node).await;
            assert_all_have_all(&nodes).await;
        }
    });
}

/// Nothing shows that the file is damaged until something is read from it.
#[test]
fn a_file_that_is_damaged_while_its_node_serves_is_replaced_and_filled() {
    let forgetful = |config: &mut StoreConfig| {
        (config.cache_bytes, config.page_cache_bytes, config.filter_bytes) = (0, 0, 0);
    };
    with_stores(67, 3, Mutants::default(), forgetful, |nodes| async move {
        load(&nodes).await;
        stop(&nodes, 0).await;
        let client = start(&nodes, 0).await;
        spoil(&nodes, 0, 1, Spoil::Garble);
        let all_owners = GetOptions { r: Some(Need::All), pr: Some(Need::All), ..GetOptions::default() };
        for number in 0..KEYS {
            // It fails until the node has got the key back.
            if let Ok(read) = client.get(&bucket(), key(number).as_bytes(), all_owners.clone()).await {
                assert_eq!(texts(read.as_ref()), [value(number)]);
            }
        }
        assert_eq!(nodes.refusal(0), None);
        assert_all_have_all(&nodes).await;
        assert_eq!(nodes.running(0).unwrap().status().store.set_aside.len(), 1);
        nodes.restart(0);
        assert_all_have_all(&nodes).await;
    });
}

/// A store that has lost all of its files is none, and fills nothing by itself.
#[test]
fn a_node_that_has_lost_every_file_stays_out() {
    for how in Spoil::ALL {
        with_mutants(68, 3, Mutants::default(), |nodes| async move {
            load(&nodes).await;
            stop(&nodes, 0).await;
            for number in [0, 1] {
                spoil(&nodes, 0, number, how);
            }
            for _ in 0..2 {
                nodes.start(0);
                nodes.control().sleep(GIVEN_UP).await;
                assert!(nodes.refusal(0).is_some(), "{how:?}");
            }
        });
    }
}

/// Nobody reads the row but the scrubber.
#[test]
fn a_row_that_rots_unread_is_found_and_filled() {
    let diligent = |config: &mut StoreConfig| config.scrub_pause = Duration::from_secs(60);
    with_stores(69, 3, Mutants::default(), diligent, |nodes| async move {
        load(&nodes).await;
        stop(&nodes, 0).await;
        let flipped = nodes.control().disk(0).flip_bits_of(value(7).as_bytes(), is_of_store);
        assert!(flipped > 0, "the store has it");
        start(&nodes, 0).await;
        nodes.control().sleep(Duration::from_secs(90)).await;
        assert_eq!(nodes.running(0).unwrap().status().store.stats.damaged_rows, 0);
        assert_has_alone(&nodes, 0, |number| vec![value(number)]).await;
    });
}

/// The row is read before it rots, and stays in memory: nobody would notice before it has left it.
#[test]
fn a_row_that_rots_while_memory_has_it_is_written_anew() {
    let forgetful = |config: &mut StoreConfig| {
        config.scrub_pause = Duration::from_secs(60);
        config.page_cache_bytes = 0;
    };
    with_stores(70, 3, Mutants::default(), forgetful, |nodes| async move {
        load(&nodes).await;
        stop(&nodes, 0).await;
        start(&nodes, 0).await;
        let (client, one) = (nodes.client(0).await, Some(Need::Count(1)));
        let options = GetOptions { r: one, ..GetOptions::default() };
        client.get(&bucket(), key(7).as_bytes(), options).await.unwrap();
        assert!(
            nodes.control().disk(0).flip_bits_of(value(7).as_bytes(), is_of_store) > 0,
            "the store has it"
        );
        nodes.control().sleep(Duration::from_secs(90)).await;
        stop(&nodes, 0).await;
        start(&nodes, 0).await;
        assert_has_alone(&nodes, 0, |number| vec![value(number)]).await;
    });
}

/// A file of the log goes that no start reads, and with it the values of rows whose keys are in the tables: the node that
/// has lost it and hears nobody calls none of them absent, and gets all of them back from the others.
#[test]
fn values_that_are_lost_with_a_file_of_the_log_are_unknown_until_they_have_come_back() {
    for how in Spoil::ALL {
        // The scrubber is at once there for a file that is missing, and in its turn for one that is damaged.
        let short_log = |config: &mut StoreConfig| {
            config.log.segment_bytes = 16 << 10;
            config.scrub_pause = Duration::from_secs(60);
        };
        with_stores(71, 3, Mutants::default(), short_log, |nodes| async move {
            load(&nodes).await;
            stop(&nodes, 0).await;
            let one_of_the_log = |path: &Path| path.file_name().is_some_and(|file| file == "log-000001");
            assert_eq!(nodes.control().disk(0).spoil(how, one_of_the_log).len(), 1);
            [1, 2].into_iter().for_each(|other| nodes.kill(other));
            nodes.start(0);
            nodes.control().sleep(GIVEN_UP).await;
            let client = nodes.client(0).await;
            let mut unknown = 0;
            for number in 0..KEYS {
                match read_one(&client, number).await {
                    Ok(read) => assert_eq!(texts(read.as_ref()), [value(number)], "{how:?}, key {number}"),
                    Err(_) => unknown += 1,
                }
            }
            assert!((1..KEYS).contains(&unknown), "{how:?}: {unknown} of {KEYS}");
            [1, 2].into_iter().for_each(|other| nodes.start(other));
            nodes.come_to_rest().await;
            nodes.control().sleep(Duration::from_secs(90)).await;
            assert_eq!(nodes.running(0).unwrap().status().store.stats.damaged_rows, 0, "{how:?}");
            assert_has_alone(&nodes, 0, |number| vec![value(number)]).await;
        });
    }
}

/// Tables and log: a value is in either.
fn is_of_store(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "store")
}
