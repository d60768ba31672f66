//! Three nodes: writes and reads go on while one is down, and copies become equal again.

use crate::harness::{Nodes, all, bucket, get, put, texts, with_nodes};
use rondel_kv::{
    Client, Condition, Content, DeleteOptions, Deleted, GetError, GetOptions, ListOptions, Need, PutError,
    PutOptions, RequestError, Requirement,
};
use std::time::Duration;

#[test]
fn what_one_node_wrote_every_node_reads() {
    with_nodes(21, 3, |nodes| async move {
        let [one, two, three] = [nodes.client(0).await, nodes.client(1).await, nodes.client(2).await];
        put(&one, "a", None).await.unwrap();
        let read = get(&two).await.unwrap();
        put(&two, "b", Some(&read)).await.unwrap();
        put(&three, "c", Some(&read)).await.unwrap();
        for client in [&one, &two, &three] {
            assert_eq!(texts(get(client).await.as_ref()), ["b", "c"]);
        }
        let both = get(&one).await.unwrap();
        put(&three, "d", Some(&both)).await.unwrap();
        assert_eq!(texts(get(&one).await.as_ref()), ["d"]);
        assert_eq!(two.delete(&bucket(), b"k", DeleteOptions::default()).await, Ok(Deleted::Done));
        assert!(get(&three).await.unwrap().is_deleted());
    });
}

#[test]
fn a_later_write_is_later_whatever_the_clocks_say() {
    with_nodes(22, 3, |nodes| async move {
        let behind = nodes.control().node_env(1).unix_time() - std::time::Duration::from_secs(600);
        nodes.control().set_unix_time(1, behind);
        nodes.control().set_unix_time(2, behind);
        let times =
            async |client: &rondel_kv::Client| get(client).await.unwrap().siblings[0].last_modified_us();
        let [one, two] = [nodes.client(0).await, nodes.client(1).await];
        put(&one, "a", None).await.unwrap();
        let read = get(&two).await.unwrap();
        let first = times(&two).await;
        put(&two, "b", Some(&read)).await.unwrap();
        let second = get(&one).await.unwrap();
        assert_eq!(texts(Some(&second)), ["b"]);
        assert!(second.siblings[0].last_modified_us() > first);
    });
}

#[test]
fn keys_are_written_read_and_listed_while_a_node_is_down() {
    with_nodes(23, 3, |nodes| async move {
        let client = nodes.client(0).await;
        let key = |number: u32| format!("key-{number}");
        let write = async |number| {
            let content = Content::text(key(number));
            client
                .put(&bucket(), Some(key(number).as_bytes()), content, PutOptions::default())
                .await
                .unwrap();
        };
        for number in 0..20 {
            write(number).await;
        }
        nodes.kill(2);
        for number in 20..40 {
            write(number).await;
        }
        for number in 0..40 {
            let read = client.get(&bucket(), key(number).as_bytes(), GetOptions::default()).await.unwrap();
            assert_eq!(texts(read.as_ref()), [key(number)]);
        }
        let mut keys: Vec<_> = (0..40).map(key).collect();
        keys.sort();
        assert_eq!(all(client.list_keys(&bucket(), ListOptions::default())).await.unwrap(), keys);
        nodes.restart(2);
        let third = rest_and_leave_the_third_alone(&nodes).await;
        for number in 0..40 {
            let read = third.get(&bucket(), key(number).as_bytes(), from_one()).await.unwrap();
            assert_eq!(texts(read.as_ref()), [key(number)], "the node that was down has it by itself");
        }
    });
}

/// Waits until the third node has all that it missed, and leaves it alone with that.
async fn rest_and_leave_the_third_alone(nodes: &Nodes) -> Client {
    let third = nodes.client(2).await;
    nodes.come_to_rest().await;
    nodes.kill(0);
    nodes.kill(1);
    third
}

fn from_one() -> GetOptions {
    GetOptions { r: Some(Need::Count(1)), ..GetOptions::default() }
}

/// A client that waits only for a moment has its answer before anybody knows that the third replica hears nothing.
#[test]
fn a_write_in_a_hurry_comes_to_a_replica_that_did_not_hear_of_it() {
    with_nodes(26, 3, |nodes| async move {
        let client = nodes.client(0).await;
        nodes.isolate(2);
        let hurried = PutOptions { timeout: Some(Duration::from_millis(200)), ..PutOptions::default() };
        client.put(&bucket(), Some(b"k"), Content::text("a"), hurried).await.unwrap();
        nodes.control().sleep(Duration::from_secs(3)).await;
        // What was under way to it goes with it.
        nodes.kill(2);
        nodes.heal();
        nodes.restart(2);
        let third = rest_and_leave_the_third_alone(&nodes).await;
        let read = third.get(&bucket(), b"k", from_one()).await.unwrap();
        assert_eq!(texts(read.as_ref()), ["a"]);
    });
}

#[test]
fn quorums_of_owners_fail_when_owners_are_down() {
    with_nodes(24, 3, |nodes| async move {
        let client = nodes.client(0).await;
        put(&client, "a", None).await.unwrap();
        nodes.kill(2);
        let all = Some(Need::All);
        let owners = |error: &RequestError| {
            matches!(error, RequestError::Unmet { requirement: Requirement::Owners, need: 3, .. })
        };
        let read = client.get(&bucket(), b"k", GetOptions { pr: all, ..GetOptions::default() }).await;
        assert!(matches!(&read, Err(GetError::Request(error)) if owners(error)), "{read:?}");
        let options = PutOptions { pw: all, ..PutOptions::default() };
        let write = client.put(&bucket(), Some(b"k"), Content::text("b"), options).await;
        assert!(matches!(&write, Err(PutError::Request(error)) if owners(error)), "{write:?}");
        assert_eq!(texts(get(&client).await.as_ref())[0], "a");
    });
}

#[test]
fn a_conditional_put_on_a_replica_that_lags_is_refused_by_the_quorum() {
    with_nodes(25, 3, |nodes| async move {
        let client = nodes.client(0).await;
        nodes.kill(2);
        put(&client, "a", None).await.unwrap();
        nodes.restart(2);
        let third = nodes.client(2).await;
        let options = PutOptions { condition: Condition::Absent, ..PutOptions::default() };
        let refused = third.put(&bucket(), Some(b"k"), Content::text("b"), options).await;
        assert_eq!(refused, Err(PutError::MatchFound));
    });
}

/// A node that hears from the others only that they do not serve yet would be the only one on its list, and a write to
/// two of three nodes would be acknowledged by itself alone.
#[test]
fn a_node_takes_requests_only_once_most_members_can_answer_it() {
    with_nodes(27, 3, |nodes| async move {
        for node in 0..3 {
            nodes.kill(node);
        }
        for node in 1..3 {
            nodes.control().disk(node).set_slowness(100.0);
        }
        for node in 0..3 {
            nodes.restart(node);
        }
        while !(0..3).all(|node| nodes.is_serving(node)) {
            let serving = (0..3).filter(|node| nodes.is_serving(*node)).count();
            assert!(serving == 0 || (0..3).filter(|node| nodes.answers_members(*node)).count() >= 2);
            nodes.control().sleep(std::time::Duration::from_micros(200)).await;
        }
    });
}

#[test]
fn the_last_node_left_takes_requests_alone() {
    with_nodes(28, 3, |nodes| async move {
        for node in 0..3 {
            nodes.kill(node);
        }
        nodes.restart(1);
        let client = nodes.client(1).await;
        put(&client, "a", None).await.unwrap();
        assert_eq!(texts(get(&client).await.as_ref()), ["a"]);
    });
}

#[test]
fn a_node_whose_clock_is_off_leaves_coordinating_to_others_until_it_is_set() {
    with_nodes(29, 3, |nodes| async move {
        let second = std::time::Duration::from_secs(1);
        let reluctant = |of: u32| {
            let status = nodes.running(of).unwrap().status();
            let own = status.members.iter().find(|member| member.node == status.node).unwrap();
            own.reluctant
        };
        let right = nodes.control().node_env(1).unix_time();
        nodes.control().set_unix_time(0, right + 5 * second);
        nodes.control().sleep(10 * second).await;
        assert_eq!([0, 1, 2].map(reluctant), [true, false, false]);
        let client = nodes.client(0).await;
        put(&client, "a", None).await.unwrap();
        let written = get(&client).await.unwrap().siblings[0].last_modified_us();
        let now = nodes.control().node_env(1).unix_time();
        assert!(u128::from(written) <= now.as_micros(), "it was coordinated by a clock that is right");
        nodes.control().set_unix_time(0, nodes.control().node_env(1).unix_time());
        nodes.control().sleep(10 * second).await;
        assert_eq!([0, 1, 2].map(reluctant), [false, false, false]);
    });
}
