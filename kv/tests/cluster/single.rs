//! One node: what the operations mean.

use crate::harness::{all, bucket, get, put, texts, with_nodes};
use rondel_core::{proto::id::RequestId, testing::CrashMode};
use rondel_kv::{
    Bucket, Condition, Config, Content, DeleteOptions, Deleted, GetError, GetOptions, Limits, ListOptions,
    NameError, Need, Props, PutError, PutOptions, RequestError, Stored,
};
use std::time::Duration;

#[test]
fn a_blind_put_never_overwrites_and_one_with_context_replaces_what_was_read() {
    with_nodes(1, 1, |nodes| async move {
        let client = nodes.client(0).await;
        assert_eq!(get(&client).await, None);
        put(&client, "a", None).await.unwrap();
        put(&client, "b", None).await.unwrap();
        let read = get(&client).await.unwrap();
        assert_eq!(texts(Some(&read)), ["a", "b"]);
        put(&client, "c", None).await.unwrap();
        put(&client, "d", Some(&read)).await.unwrap();
        let resolved = get(&client).await.unwrap();
        assert_eq!(texts(Some(&resolved)), ["c", "d"]);
        assert!(resolved.context.covers(&read.context) && !read.context.covers(&resolved.context));
        put(&client, "e", Some(&resolved)).await.unwrap();
        assert_eq!(texts(get(&client).await.as_ref()), ["e"]);
    });
}

#[test]
fn what_is_read_is_what_was_written_with_all_its_metadata() {
    let bytes = |text: &str| text.as_bytes().to_vec();
    let content = Content {
        value: vec![0, 255, 7],
        content_type: Some(bytes("image/png")),
        charset: Some(bytes("utf-8")),
        content_encoding: Some(bytes("gzip")),
        user_metadata: vec![(bytes("a"), Some(bytes("1"))), (bytes("b"), None)],
        indexes: vec![(bytes("age_int"), Some(bytes("42")))],
        links: vec![rondel_kv::Link { tag: Some(bytes("friend")), ..Default::default() }],
        expires_at_ms: None,
        tombstone: false,
    };
    with_nodes(2, 1, |nodes| async move {
        let client = nodes.client(0).await;
        let options = PutOptions { return_body: true, ..PutOptions::default() };
        let stored = client.put(&bucket(), None, content.clone(), options).await.unwrap();
        let read = client.get(&bucket(), &stored.key, GetOptions::default()).await.unwrap();
        assert_eq!(read, stored.object, "the body that is returned is the object");
        let mut read = read.unwrap();
        assert_eq!(read.siblings[0].content, content);
        assert_eq!(read.siblings[0].last_modified_us() / 1_000_000, client_seconds(&nodes));
        let head = GetOptions { head: true, ..GetOptions::default() };
        let head = client.get(&bucket(), &stored.key, head).await.unwrap().unwrap();
        read.siblings[0].content.value.clear();
        assert_eq!(head, read, "only the value is missing");
        let other = client.put(&bucket(), None, content, PutOptions::default()).await.unwrap();
        assert!(other.key != stored.key && other.object.is_none());
    });
}

fn client_seconds(nodes: &crate::harness::Nodes) -> u64 {
    nodes.control().node_env(0).unix_time().as_secs()
}

#[test]
fn a_delete_leaves_a_tombstone_that_a_put_with_its_context_replaces() {
    with_nodes(3, 1, |nodes| async move {
        let client = nodes.client(0).await;
        let delete = |options| {
            let client = client.clone();
            async move { client.delete(&bucket(), b"k", options).await.unwrap() }
        };
        assert_eq!(delete(DeleteOptions::default()).await, Deleted::Absent);
        assert_eq!(get(&client).await, None, "nothing was written");
        put(&client, "a", None).await.unwrap();
        assert_eq!(delete(DeleteOptions::default()).await, Deleted::Done);
        let tombstone = get(&client).await.unwrap();
        assert!(tombstone.is_deleted());
        assert_eq!(texts(Some(&tombstone)), ["-"]);
        assert_eq!(delete(DeleteOptions::default()).await, Deleted::Absent, "deleted already");
        put(&client, "b", Some(&tombstone)).await.unwrap();
        let read = get(&client).await.unwrap();
        assert_eq!(texts(Some(&read)), ["b"]);
        put(&client, "c", None).await.unwrap();
        let blind = DeleteOptions { context: Some(read.context), ..DeleteOptions::default() };
        assert_eq!(delete(blind).await, Deleted::Done);
        assert_eq!(texts(get(&client).await.as_ref()), ["-", "c"], "what was not seen is not deleted");
    });
}

#[test]
fn conditions_hold_or_nothing_is_changed() {
    with_nodes(4, 1, |nodes| async move {
        let client = nodes.client(0).await;
        let put_if = |condition, context, text| {
            let client = client.clone();
            let options = PutOptions { condition, context, ..PutOptions::default() };
            async move { client.put(&bucket(), Some(b"k"), Content::text(text), options).await }
        };
        let none = rondel_kv::Context::default;
        let outcome = |stored: Result<Stored, PutError>| stored.map(drop);
        assert_eq!(outcome(put_if(Condition::Unchanged, none(), "x").await), Err(PutError::NotFound));
        assert_eq!(outcome(put_if(Condition::Absent, none(), "a").await), Ok(()));
        assert_eq!(outcome(put_if(Condition::Absent, none(), "x").await), Err(PutError::MatchFound));
        assert_eq!(outcome(put_if(Condition::Unchanged, none(), "x").await), Err(PutError::Modified));
        let read = get(&client).await.unwrap();
        assert_eq!(outcome(put_if(Condition::Unchanged, read.context.clone(), "b").await), Ok(()));
        assert_eq!(outcome(put_if(Condition::Unchanged, read.context, "x").await), Err(PutError::Modified));
        assert_eq!(texts(get(&client).await.as_ref()), ["b"]);
        client.delete(&bucket(), b"k", DeleteOptions::default()).await.unwrap();
        assert_eq!(outcome(put_if(Condition::Unchanged, none(), "x").await), Err(PutError::NotFound));
        assert_eq!(outcome(put_if(Condition::Absent, none(), "c").await), Ok(()), "deleted is absent");
    });
}

#[test]
fn a_try_that_is_repeated_is_done_once() {
    with_nodes(5, 1, |nodes| async move {
        let client = nodes.client(0).await;
        let again = |condition| PutOptions {
            request_id: Some(RequestId(77)),
            condition,
            return_body: true,
            ..PutOptions::default()
        };
        let content = || Content::text("a");
        let first = client.put(&bucket(), Some(b"k"), content(), again(Condition::Absent)).await.unwrap();
        for _ in 0..2 {
            let next = client.put(&bucket(), Some(b"k"), content(), again(Condition::Absent)).await.unwrap();
            assert_eq!(next, first, "its own write is no reason to refuse it");
        }
        nodes.kill(0);
        nodes.restart(0);
        let client = nodes.client(0).await;
        let after = client.put(&bucket(), Some(b"k"), content(), again(Condition::Always)).await.unwrap();
        assert_eq!(after, first, "also when only the row remembers it");
        assert_eq!(texts(get(&client).await.as_ref()), ["a"]);
    });
}

#[test]
fn what_was_acknowledged_is_there_after_a_power_cut() {
    with_nodes(6, 1, |nodes| async move {
        let client = nodes.client(0).await;
        put(&client, "a", None).await.unwrap();
        drop(client);
        nodes.crash(0, CrashMode::LoseAll);
        nodes.restart(0);
        let client = nodes.client(0).await;
        let read = get(&client).await.unwrap();
        assert_eq!(texts(Some(&read)), ["a"]);
        put(&client, "b", None).await.unwrap();
        assert_eq!(texts(get(&client).await.as_ref()), ["a", "b"], "a new incarnation overwrites nothing");
        put(&client, "c", Some(&read)).await.unwrap();
        assert_eq!(texts(get(&client).await.as_ref()), ["b", "c"], "an old context covers what it has seen");
    });
}

#[test]
fn listings_give_each_live_key_and_bucket_once() {
    with_nodes(7, 1, |nodes| async move {
        let client = nodes.client(0).await;
        let list = |bucket: &Bucket| all(client.list_keys(bucket, ListOptions::default()));
        let other = Bucket::new("bb").unwrap();
        assert!(list(&bucket()).await.unwrap().is_empty());
        let mut keys: Vec<_> = (0..300).map(|number| format!("key-{number}")).collect();
        for key in &keys {
            client
                .put(&bucket(), Some(key.as_bytes()), Content::text("v"), PutOptions::default())
                .await
                .unwrap();
        }
        client.put(&other, Some(b"one"), Content::text("v"), PutOptions::default()).await.unwrap();
        keys.sort();
        assert_eq!(list(&bucket()).await.unwrap(), keys);
        assert_eq!(list(&other).await.unwrap(), ["one"]);
        let buckets = || all(client.list_buckets(b"default", ListOptions::default()));
        assert_eq!(buckets().await.unwrap(), ["b", "bb"]);
        client.delete(&other, b"one", DeleteOptions::default()).await.unwrap();
        assert!(list(&other).await.unwrap().is_empty());
        assert_eq!(buckets().await.unwrap(), ["b"], "a bucket is there as long as it holds keys");
        let unknown = all(client.list_buckets(b"none", ListOptions::default())).await;
        assert_eq!(unknown, Err(NameError::UnknownType(b"none".to_vec()).into()));
    });
}

#[test]
fn an_expired_object_reads_as_deleted() {
    with_nodes(8, 1, |nodes| async move {
        let client = nodes.client(0).await;
        let now_ms = u64::try_from(nodes.control().node_env(0).unix_time().as_millis()).unwrap();
        let content = Content { expires_at_ms: Some(now_ms + 60_000), ..Content::text("brief") };
        client.put(&bucket(), Some(b"k"), content, PutOptions::default()).await.unwrap();
        assert_eq!(texts(get(&client).await.as_ref()), ["brief"]);
        nodes.control().sleep(Duration::from_secs(61)).await;
        assert!(get(&client).await.unwrap().is_deleted());
        assert!(all(client.list_keys(&bucket(), ListOptions::default())).await.unwrap().is_empty());
        let absent = PutOptions { condition: Condition::Absent, ..PutOptions::default() };
        client.put(&bucket(), Some(b"k"), Content::text("new"), absent).await.unwrap();
    });
}

#[test]
fn objects_have_limits() {
    with_nodes(9, 1, |nodes| async move {
        let limits = Limits { object_bytes_max: 2_000, siblings_max: 3 };
        let client = nodes.client_with(0, Config { limits, ..Config::default() }).await;
        let large = put(&client, &"x".repeat(2_001), None).await;
        assert!(matches!(large, Err(PutError::TooLarge { bytes: 2_001.., max: 2_000 })));
        assert_eq!(get(&client).await, None);
        for text in ["a", "b", "c"] {
            put(&client, text, None).await.unwrap();
        }
        assert_eq!(put(&client, "d", None).await, Err(PutError::TooManySiblings { max: 3 }));
        let read = get(&client).await.unwrap();
        assert_eq!(texts(Some(&read)), ["a", "b", "c"]);
        put(&client, &"y".repeat(1_000), Some(&read)).await.unwrap();
        let grown = put(&client, &"z".repeat(1_000), None).await;
        assert!(matches!(grown, Err(PutError::TooLarge { bytes: 2_001.., .. })), "with all its siblings");
    });
}

#[test]
fn a_context_that_this_cluster_never_gave_changes_nothing() {
    with_nodes(10, 1, |nodes| async move {
        let client = nodes.client(0).await;
        put(&client, "a", None).await.unwrap();
        let mut bytes = get(&client).await.unwrap().context.to_bytes().to_vec();
        // The counter of the only entry, as far ahead as it goes, under a checksum that is right.
        let counter = bytes.len() - 12..bytes.len() - 4;
        bytes[counter].copy_from_slice(&u64::MAX.to_le_bytes());
        let end = bytes.len() - 4;
        let checksum = blake3::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(&checksum.as_bytes()[..4]);
        let context = rondel_kv::Context::from_bytes(&bytes).unwrap();
        let options = PutOptions { context, ..PutOptions::default() };
        let forged = client.put(&bucket(), Some(b"k"), Content::text("x"), options).await;
        assert!(matches!(forged, Err(PutError::Context(_))));
        assert_eq!(texts(get(&client).await.as_ref()), ["a"]);
    });
}

#[test]
fn where_siblings_are_not_kept_the_newest_is_read() {
    with_nodes(11, 1, |nodes| async move {
        let default_type = Props { allow_mult: false, ..Props::default() };
        let newest = nodes.client_with(0, Config { default_type, ..Config::default() }).await;
        let keeping = nodes.client(0).await;
        put(&keeping, "a", None).await.unwrap();
        put(&keeping, "b", None).await.unwrap();
        assert_eq!(texts(get(&newest).await.as_ref()), ["b"], "siblings from elsewhere are resolved by time");
        put(&newest, "c", None).await.unwrap();
        assert_eq!(texts(get(&keeping).await.as_ref()), ["c"]);
        newest.delete(&bucket(), b"k", DeleteOptions::default()).await.unwrap();
        assert!(get(&newest).await.unwrap().is_deleted());
    });
}

#[test]
fn what_can_t_be_met_is_refused_before_anything_is_done() {
    with_nodes(12, 1, |nodes| async move {
        let client = nodes.client(0).await;
        let unsatisfiable = RequestError::Unsatisfiable { asked: 4, n: 3 };
        let four = Some(Need::Count(4));
        let get = client.get(&bucket(), b"k", GetOptions { r: four, ..GetOptions::default() }).await;
        assert_eq!(get, Err(GetError::Request(unsatisfiable.clone())));
        let options = PutOptions { w: four, ..PutOptions::default() };
        let put = client.put(&bucket(), Some(b"k"), Content::text("v"), options).await;
        assert_eq!(put, Err(PutError::Request(unsatisfiable.clone())));
        let options = PutOptions { dw: four, ..PutOptions::default() };
        let put = client.put(&bucket(), Some(b"k"), Content::text("v"), options).await;
        assert_eq!(put, Err(PutError::Request(unsatisfiable.clone())));
        let get = client.get(&bucket(), b"k", GetOptions { n_val: Some(4), ..GetOptions::default() }).await;
        assert_eq!(get, Err(GetError::Request(unsatisfiable)));
        let typed = Bucket::typed("unknown", "b").unwrap();
        let get = client.get(&typed, b"k", GetOptions::default()).await;
        assert_eq!(get, Err(NameError::UnknownType(b"unknown".to_vec()).into()));
        assert_eq!(client.get(&bucket(), b"", GetOptions::default()).await, Err(NameError::EmptyKey.into()));
    });
}
