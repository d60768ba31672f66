//! Starts nodes with the service in simulation, and finds their clients again after a restart.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use rondel_core::{
    mutant::Mutants,
    node::{Builder, NodeConfig},
    proto::{Msg, id::RequestId},
    store::{StoreConfig, row::Body},
    testing::{RowKind, Shape, Sim, TestCluster},
};
use rondel_kv::{
    Bucket, Client, Config, Content, Fetched, GetError, GetOptions, KvVnode, ListError, Need, Object,
    PutError, PutOptions, Sibling, Stored, VnodeConfig, view,
};
use std::{future::Future, ops::Deref, pin::pin, time::Duration};

const TRY_EVERY: Duration = Duration::from_secs(1);
const TRIES_MAX: u32 = 60;

/// Nodes with the service.
#[derive(Clone)]
pub(crate) struct Nodes(TestCluster);

impl Deref for Nodes {
    type Target = TestCluster;

    fn deref(&self) -> &TestCluster {
        &self.0
    }
}

/// Runs a test on a cluster of so many nodes.
pub(crate) fn with_nodes<F: Future<Output = ()>>(seed: u64, nodes: u32, test: impl FnOnce(Nodes) -> F) {
    with_mutants(seed, nodes, Mutants::default(), test);
}

/// As [`with_nodes`], with rules broken.
pub(crate) fn with_mutants<F: Future<Output = ()>>(
    seed: u64,
    nodes: u32,
    mutants: Mutants,
    test: impl FnOnce(Nodes) -> F,
) {
    with_stores(seed, nodes, mutants, |_| (), test);
}

/// As [`with_mutants`], with stores that are set up as the test wants them.
pub(crate) fn with_stores<F: Future<Output = ()>>(
    seed: u64,
    nodes: u32,
    mutants: Mutants,
    set_up: impl Fn(&mut StoreConfig) + Send + Sync + 'static,
    test: impl FnOnce(Nodes) -> F,
) {
    let sim = Sim::new(seed);
    let application = move |builder: Builder| builder.service::<KvVnode>(VnodeConfig { mutants });
    let configure = move |_, config: &mut NodeConfig| {
        config.mutants = mutants;
        set_up(&mut config.store);
    };
    let cluster = TestCluster::with_config(&sim, Shape::of(nodes), application, configure);
    sim.run_until(async {
        cluster.form().await;
        test(Nodes(cluster.clone())).await;
    });
    assert_eq!(sim.panicked_work(), 0);
}

impl Nodes {
    /// A client on a node, once that serves.
    pub(crate) async fn client(&self, node: u32) -> Client {
        self.client_with(node, Config::default()).await
    }

    pub(crate) async fn client_with(&self, node: u32, config: Config) -> Client {
        let cluster = self.node(node).await;
        cluster.serving().await.unwrap();
        Client::new(&cluster, config)
    }

    /// Waits until all nodes see each other and have handed back what they keep for others.
    pub(crate) async fn come_to_rest(&self) {
        self.settle().await.unwrap();
    }
}

pub(crate) fn bucket() -> Bucket {
    Bucket::new("b").unwrap()
}

/// Writes a text for somebody who has read `read`.
pub(crate) async fn put(client: &Client, text: &str, read: Option<&Fetched>) -> Result<Stored, PutError> {
    let context = read.map(|read| read.context.clone()).unwrap_or_default();
    let options = PutOptions { context, ..PutOptions::default() };
    client.put(&bucket(), Some(b"k"), Content::text(text), options).await
}

/// Writes a text once, however that ends.
pub(crate) async fn try_put(client: &Client, text: &str) -> bool {
    put(client, text, None).await.is_ok()
}

/// What all owners together hold.
pub(crate) async fn all_texts(nodes: &Nodes) -> Vec<String> {
    let all = GetOptions { r: Some(Need::All), ..GetOptions::default() };
    let read = nodes.client(0).await.get(&bucket(), b"k", all).await.unwrap();
    texts(read.as_ref())
}

/// What a node holds by itself: whatever the others hold, nobody is asked.
pub(crate) async fn alone_texts(nodes: &Nodes, node: u32) -> Vec<String> {
    let rows = nodes.rows(node).await.unwrap();
    let item = rows.into_iter().filter(|row| row.key.ends_with(b"k")).find_map(|row| match row.kind {
        RowKind::Item { row: Ok(row), .. } => Some(row.body),
        _ => None,
    });
    let Some(Body::Item(item)) = item else { return Vec::new() };
    texts_of(&view(&Msg::<Object>::from_bytes(item).unwrap(), 0))
}

pub(crate) async fn get(client: &Client) -> Option<Fetched> {
    client.get(&bucket(), b"k", GetOptions::default()).await.unwrap()
}

/// Reads as a client does that tries again until it is answered.
pub(crate) async fn read(nodes: &Nodes, client: &Client) -> Option<Fetched> {
    for _ in 0..TRIES_MAX {
        match client.get(&bucket(), b"k", GetOptions::default()).await {
            Ok(fetched) => return fetched,
            Err(GetError::Request(_)) => nodes.control().sleep(TRY_EVERY).await,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("no read was answered for a minute");
}

/// Writes a text as a client does that tries again until it is told that the write is done. No
/// two writes of a test have the same text.
pub(crate) async fn insist(nodes: &Nodes, client: &Client, text: &str, read: Option<&Fetched>) {
    let hash = blake3::hash(text.as_bytes());
    let request_id = hash.as_bytes().first_chunk().map(|id| RequestId(u128::from_le_bytes(*id)));
    for _ in 0..TRIES_MAX {
        let context = read.map(|read| read.context.clone()).unwrap_or_default();
        let options = PutOptions { context, request_id, ..PutOptions::default() };
        match client.put(&bucket(), Some(b"k"), Content::text(text), options).await {
            Ok(_) => return,
            Err(PutError::Request(_)) => nodes.control().sleep(TRY_EVERY).await,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("no write was accepted for a minute");
}

/// The values that are there, sorted; a tombstone is `-`.
pub(crate) fn texts(fetched: Option<&Fetched>) -> Vec<String> {
    texts_of(fetched.map(|fetched| &fetched.siblings[..]).unwrap_or_default())
}

fn texts_of(siblings: &[Sibling]) -> Vec<String> {
    let text = |content: &Content| String::from_utf8(content.value.clone()).unwrap();
    let mut texts: Vec<_> = siblings
        .iter()
        .map(|sibling| if sibling.is_deleted() { "-".to_owned() } else { text(&sibling.content) })
        .collect();
    texts.sort();
    texts
}

/// All of a listing, sorted.
pub(crate) async fn all(
    listing: impl Stream<Item = Result<Vec<Bytes>, ListError>>,
) -> Result<Vec<Bytes>, ListError> {
    let mut listing = pin!(listing);
    let mut all = Vec::new();
    while let Some(page) = listing.next().await {
        all.extend(page?);
    }
    all.sort();
    Ok(all)
}
