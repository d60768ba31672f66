//! Requests: what an application asks of its service, and the coordinators behind it.
//!
//! A [`Service`] is a handle; its methods make [`Request`]s, which are futures once their options are set:
//!
//! | method | asks | gives |
//! |---|---|---|
//! | [`one`](Service::one) | the best replica | its reply |
//! | [`all`](Service::all) | every replica | every reply or failure |
//! | [`quorum`](Service::quorum) | every replica | the merge of enough replies |
//! | [`read`](Service::read) | as few as must agree | the merged item; replicas that are behind are repaired |
//! | [`update`](Service::update) | one replica, which sends its item to the others | its reply, once enough have it, durably unless the request says less |
//! | [`scan`](Service::scan) | one replica of every partition | a stream of rows |

pub(crate) mod edge;
mod many;
mod options;
pub(crate) mod read;
pub(crate) mod scan;
pub(crate) mod score;
pub(crate) mod write;

pub use crate::quorum::Achieved;
pub use options::{DEADLINE_DEFAULT, DEADLINE_MAX, Need, Options, RequestError, Requirement};

use crate::{
    env::BoxFuture,
    node::Shared,
    quorum::{Quorum, ReadRule},
    reply::Failure,
    table::{Entry, Keyed, Read},
    topology::Topology,
    vnode::{Handle, Scan, Vnode},
};
use bytes::Bytes;
use rondel_proto::{
    Message, Msg, Wire,
    frame::KEY_BYTES_MAX,
    id::{NodeId, RequestId},
};
use std::{
    fmt,
    future::IntoFuture,
    marker::PhantomData,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// The largest message or item.
pub const ITEM_BYTES_MAX: usize = 48 << 20;
/// Slots per key of a request that does not say.
const N_DEFAULT: u8 = 3;

/// How replies of several replicas to one message make one.
#[diagnostic::on_unimplemented(
    message = "core does not know how to merge replies to `{Self}`",
    note = "implement `Merge` for `{Self}`, or ask one replica with `.one(..)`, or take all replies with `.all(..)`"
)]
pub trait Merge: Message {
    /// One reply from at least one.
    fn merge(replies: Vec<Msg<Self::Reply>>) -> Self::Reply;
}

/// A handle to a service of this node's cluster. Cheap to clone.
pub struct Service<V: Vnode> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) index: usize,
    of: PhantomData<fn() -> V>,
}

/// A handle to a table: a service of its vnode [`Keyed`].
pub type Table<E> = Service<Keyed<E>>;

impl<V: Vnode> Clone for Service<V> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), index: self.index, of: PhantomData }
    }
}

impl<V: Vnode> fmt::Debug for Service<V> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Service({})", V::NAME)
    }
}

/// A request that can still be given options; await it to send it.
#[must_use = "a request is sent when it is awaited"]
pub struct Request<V: Vnode, K> {
    service: Service<V>,
    key: Bytes,
    options: Options,
    kind: K,
}

/// See [`Service::one`].
#[derive(Debug)]
pub struct One<M>(M);
/// See [`Service::all`].
#[derive(Debug)]
pub struct All<M>(M);
/// See [`Service::quorum`].
#[derive(Debug)]
pub struct OfQuorum<M>(M);
/// See [`Service::update`].
#[derive(Debug)]
pub struct Update<M>(M);
/// See [`Service::read`].
#[derive(Debug)]
pub struct ReadItem;
/// See [`Table::get`].
#[derive(Debug)]
pub struct ReadEntry<R>(R);

/// What one replica answered.
#[derive(Debug)]
pub struct Replica<R: Wire> {
    /// The node.
    pub node: NodeId,
    /// Its reply, or why there is none.
    pub reply: Result<Msg<R>, Failure>,
}

/// An item as a quorum of replicas has it.
#[derive(Debug, Clone)]
pub struct Found<I: Wire> {
    /// The merge of what they hold; none if they hold nothing.
    pub item: Option<Msg<I>>,
    /// Who answered.
    pub achieved: Achieved,
}

impl<V: Vnode> Service<V> {
    pub(crate) fn new(shared: Arc<Shared>, index: usize) -> Self {
        Self { shared, index, of: PhantomData }
    }

    /// Asks the best replica of a key.
    pub fn one<M: Message>(&self, key: impl AsRef<[u8]>, message: M) -> Request<V, One<M>>
    where
        V: Handle<M>,
    {
        self.request(key, One(message))
    }

    /// Asks every replica of a key and gives every answer.
    pub fn all<M: Message>(&self, key: impl AsRef<[u8]>, message: M) -> Request<V, All<M>>
    where
        V: Handle<M>,
    {
        self.request(key, All(message))
    }

    /// Asks every replica of a key and merges the replies as soon as there are enough.
    pub fn quorum<M: Merge>(&self, key: impl AsRef<[u8]>, message: M) -> Request<V, OfQuorum<M>>
    where
        V: Handle<M>,
    {
        self.request(key, OfQuorum(message))
    }

    /// Runs a message on one replica, its coordinator, which sends the resulting item to the others; answered when
    /// enough have it, durably unless [`Request::durable`] says less.
    pub fn update<M: Message>(&self, key: impl AsRef<[u8]>, message: M) -> Request<V, Update<M>>
    where
        V: Handle<M>,
    {
        self.request(key, Update(message))
    }

    /// The item of a key: in full from the best replica, digests from as many others as must agree.
    pub fn read(&self, key: impl AsRef<[u8]>) -> Request<V, ReadItem> {
        self.request(key, ReadItem)
    }

    /// Asks a question of every item of the service. Order is that of the ring within a partition, and no order
    /// between partitions. A row that is present throughout is met exactly once.
    ///
    /// # Errors
    /// [`RequestError::NotServing`] if this node takes no requests.
    pub fn scan<Q: Scan<V>>(&self, query: &Q) -> Result<Rows<Q::Reply>, RequestError> {
        let topology = self.topology()?;
        let pages = scan::start(&self.shared, &topology, self.index, Q::ID, query.encode());
        Ok(Rows { pages, of: PhantomData })
    }

    /// How many slots each partition has: the largest n.
    ///
    /// # Errors
    /// [`RequestError::NotServing`] if this node takes no requests.
    pub fn replicas(&self) -> Result<u8, RequestError> {
        Ok(self.topology()?.replicas())
    }

    fn request<K>(&self, key: impl AsRef<[u8]>, kind: K) -> Request<V, K> {
        let key = Bytes::copy_from_slice(key.as_ref());
        Request { service: self.clone(), key, options: Options::default(), kind }
    }

    fn topology(&self) -> Result<Arc<Topology>, RequestError> {
        self.shared.topology_for_requests().map_err(RequestError::NotServing)
    }
}

impl<E: Entry> Service<Keyed<E>> {
    /// Asks something of the entry of a key, as a quorum of replicas has it.
    pub fn get<R: Read<E>>(&self, key: impl AsRef<[u8]>, read: R) -> Request<Keyed<E>, ReadEntry<R>> {
        self.request(key, ReadEntry(read))
    }
}

impl<V: Vnode, K> Request<V, K> {
    /// Replaces all options.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// How many slots hold the key.
    pub fn n(mut self, n: u8) -> Self {
        self.options.n = Some(n);
        self
    }

    /// How many slots must answer.
    pub fn need(mut self, need: Need) -> Self {
        self.options.need = need;
        self
    }

    /// Updates: how many slots must have it durably, if fewer than [`need`](Self::need) or more.
    /// See [`Options::durable`].
    pub fn durable(mut self, durable: Need) -> Self {
        self.options.durable = Some(durable);
        self
    }

    /// How many slots must be answered for by their owners.
    pub fn owners(mut self, owners: Need) -> Self {
        self.options.owners = owners;
        self
    }

    /// How many distinct nodes must answer.
    pub fn nodes(mut self, nodes: u8) -> Self {
        self.options.nodes = nodes;
        self
    }

    /// Only owners: no stand-in is asked.
    pub fn strict(mut self) -> Self {
        self.options.strict = true;
        self
    }

    /// When the answer is of no more use, from now; at most [`DEADLINE_MAX`].
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.options.deadline = deadline;
        self
    }

    /// The client's request, kept over its retries.
    pub fn request_id(mut self, id: RequestId) -> Self {
        self.options.request_id = Some(id);
        self
    }

    fn plan(&self) -> Result<Plan, RequestError> {
        if self.key.len() > KEY_BYTES_MAX {
            return Err(RequestError::KeyTooLong { len: self.key.len(), max: KEY_BYTES_MAX });
        }
        let topology = self.service.topology()?;
        let (options, replicas) = (&self.options, topology.replicas());
        let n = options.n.unwrap_or(N_DEFAULT.min(replicas));
        if n == 0 || n > replicas {
            return Err(RequestError::TooFewReplicas { n, replicas });
        }
        let need = options.need.of(n).max(1);
        let quorum = Quorum {
            n,
            need,
            durable: options.durable.map_or(need, |durable| durable.of(n)),
            owners: options.owners.of(n),
            nodes: options.nodes,
            strict: options.strict,
        };
        let asked = [quorum.need, quorum.durable, quorum.owners, quorum.nodes];
        if let Some(asked) = asked.into_iter().find(|asked| *asked > n) {
            return Err(RequestError::Unsatisfiable { asked, n });
        }
        let position = V::position(&self.key);
        let at = self.service.shared.host.row(self.service.index, position, self.key.clone());
        let deadline = self.service.shared.env.now() + options.deadline.min(DEADLINE_MAX);
        let request_id = options.request_id.unwrap_or_else(|| RequestId(self.service.shared.random_u128()));
        Ok(Plan { topology, at, quorum, deadline, request_id })
    }
}

/// A request whose options have been checked.
struct Plan {
    topology: Arc<Topology>,
    at: crate::store::RowKey,
    quorum: Quorum,
    deadline: Instant,
    request_id: RequestId,
}

fn checked(body: Bytes) -> Result<Bytes, RequestError> {
    if body.len() > ITEM_BYTES_MAX {
        return Err(RequestError::TooLarge { len: body.len(), max: ITEM_BYTES_MAX });
    }
    Ok(body)
}

fn decode<T: Wire>(body: Bytes) -> Result<Msg<T>, RequestError> {
    Msg::from_bytes(body).map_err(|bad| RequestError::BadAnswer(bad.to_string()))
}

impl<V: Handle<M>, M: Message> IntoFuture for Request<V, One<M>> {
    type Output = Result<M::Reply, RequestError>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let plan = self.plan()?;
            let body = checked(self.kind.0.encode())?;
            let asked = many::one(&self.service.shared, &plan, self.service.index, (M::ID, M::WRITE), body);
            Ok(decode::<M::Reply>(self.timed(asked).await?)?.to_owned())
        })
    }
}

impl<V: Handle<M>, M: Message> IntoFuture for Request<V, All<M>> {
    type Output = Result<Vec<Replica<M::Reply>>, RequestError>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let plan = self.plan()?;
            let body = checked(self.kind.0.encode())?;
            let asked = many::all(&self.service.shared, &plan, self.service.index, M::ID, body);
            let answers = self.timed(asked).await?;
            let replica = |(node, outcome): (NodeId, Result<Bytes, Failure>)| Replica {
                node,
                reply: outcome.and_then(|body| {
                    Msg::from_bytes(body)
                        .map_err(|bad| Failure::because(crate::reply::FailureCode::BadRequest, bad))
                }),
            };
            Ok(answers.into_iter().map(replica).collect())
        })
    }
}

impl<V: Handle<M>, M: Merge> IntoFuture for Request<V, OfQuorum<M>> {
    type Output = Result<M::Reply, RequestError>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let plan = self.plan()?;
            let body = checked(self.kind.0.encode())?;
            let asked = many::quorum(&self.service.shared, &plan, self.service.index, M::ID, body);
            let replies: Result<Vec<_>, _> =
                self.timed(asked).await?.into_iter().map(decode::<M::Reply>).collect();
            Ok(M::merge(replies?))
        })
    }
}

impl<V: Handle<M>, M: Message> IntoFuture for Request<V, Update<M>> {
    type Output = Result<M::Reply, RequestError>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let plan = self.plan()?;
            let body = checked(self.kind.0.encode())?;
            let (shared, index) = (&self.service.shared, self.service.index);
            let started = shared.env.now();
            let spec = write::WriteSpec {
                service: index,
                at: plan.at,
                quorum: plan.quorum,
                deadline: plan.deadline,
                request_id: plan.request_id,
                retry: false,
            };
            let retry = self.options.retry_elsewhere;
            let written = edge::update(shared, &plan.topology, spec, M::ID, body, retry).await;
            shared.metrics.services[index].update.finished(written.is_ok(), shared.env.now() - started);
            let reply = written?.reply;
            if reply.is_empty() && M::Reply::check(&reply).is_err() {
                return Err(RequestError::Repeated);
            }
            Ok(decode::<M::Reply>(reply)?.to_owned())
        })
    }
}

impl<V: Vnode, K> Request<V, K> {
    async fn timed<T>(
        &self,
        asked: impl Future<Output = Result<T, RequestError>>,
    ) -> Result<T, RequestError> {
        let (shared, index) = (&self.service.shared, self.service.index);
        let started = shared.env.now();
        let outcome = asked.await;
        shared.metrics.services[index].other.finished(outcome.is_ok(), shared.env.now() - started);
        outcome
    }

    async fn found(&self) -> Result<Found<V::Item>, RequestError> {
        let plan = self.plan()?;
        let (shared, index) = (&self.service.shared, self.service.index);
        let started = shared.env.now();
        let spec = read::ReadSpec {
            service: index,
            at: plan.at,
            quorum: plan.quorum,
            rule: ReadRule { notfound_ok: self.options.notfound_ok, basic_quorum: self.options.basic_quorum },
            deadline: plan.deadline,
        };
        let found = read::read(shared, &plan.topology, spec).await;
        shared.metrics.services[index].read.finished(found.is_ok(), shared.env.now() - started);
        let found = found?;
        Ok(Found { item: found.item.map(decode).transpose()?, achieved: found.achieved })
    }
}

impl<V: Vnode> IntoFuture for Request<V, ReadItem> {
    type Output = Result<Found<V::Item>, RequestError>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.found().await })
    }
}

impl<E: Entry, R: Read<E> + Sync> IntoFuture for Request<Keyed<E>, ReadEntry<R>>
where
    R::Reply: Send,
{
    type Output = Result<R::Reply, RequestError>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let found = self.found().await?;
            let entry = found.item.map_or_else(E::default, |item| item.to_owned());
            Ok(self.kind.0.read(&entry))
        })
    }
}

/// The rows of a scan, in pages.
#[derive(Debug)]
pub struct Rows<R> {
    pages: mpsc::Receiver<Result<Vec<scan::RawRow>, RequestError>>,
    of: PhantomData<fn() -> R>,
}

impl<R: Wire> Rows<R> {
    /// The next page of keys and answers; `None` once all partitions are done.
    ///
    /// # Errors
    /// [`RequestError`]: a partition could not be answered for. The other partitions go on.
    pub async fn next(&mut self) -> Option<Result<Vec<(Bytes, Msg<R>)>, RequestError>> {
        let page = match self.pages.recv().await? {
            Ok(page) => page,
            Err(error) => return Some(Err(error)),
        };
        Some(page.into_iter().map(|(key, reply)| Ok((key, decode(reply)?))).collect())
    }
}
