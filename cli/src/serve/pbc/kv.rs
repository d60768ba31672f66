//! What the requests of Riak's Protocol Buffers interface mean to the key-value store.
//!
//! References: riak_kv_pb_object.erl, riak_kv_pb_bucket.erl. Differences: the default bucket type keeps siblings, and
//! says so in its properties; `asis` is refused, and the client's own vtag and modification time are not taken over, as
//! only the store issues them.

use super::PbService;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use rondel_core::{
    Cluster,
    reply::{Failure, FailureCode},
};
use rondel_kv::{
    Bucket, Client, Condition, Content, Context, DEFAULT_TYPE, DeleteError, DeleteOptions, Fetched, GetError,
    GetOptions, Link, ListError, ListOptions, NameError, Need, Props, PutError, PutOptions, RequestError,
    Requirement, Sibling,
};
use rondel_proto::riak::{QuorumArg, QuorumName, RiakError, messages::*};
use std::time::Duration;

/// What clients gate their features on: everything that this server speaks is in it, and clients of every age know it.
const SERVER_VERSION: &[u8] = b"2.2.3";

/// The store behind the listener.
pub(crate) struct KvService {
    client: Client,
    node: Bytes,
}

impl KvService {
    /// Serves what this node serves.
    pub(crate) fn new(cluster: &Cluster, client: Client) -> Self {
        Self { client, node: Bytes::copy_from_slice(cluster.name().as_bytes()) }
    }

    fn props(&self, kind: &Bytes) -> Result<Props, RiakError> {
        self.client.props(kind).map_err(name_error)
    }
}

impl PbService for KvService {
    fn server_info(&self) -> RpbGetServerInfoResp {
        RpbGetServerInfoResp {
            node: Some(self.node.clone()),
            server_version: Some(Bytes::from_static(SERVER_VERSION)),
        }
    }

    async fn get(&self, request: RpbGetReq) -> Result<RpbGetResp, RiakError> {
        let bucket = bucket(request.r#type, request.bucket)?;
        let props = self.props(bucket.kind())?;
        let quorum = Quorums::of(request.n_val, &props)?;
        let options = GetOptions {
            r: quorum.need(request.r)?,
            pr: quorum.need(request.pr)?,
            node_confirms: quorum.count(request.node_confirms)?,
            n_val: quorum.asked,
            basic_quorum: request.basic_quorum,
            notfound_ok: request.notfound_ok,
            strict: request.sloppy_quorum == Some(false),
            head: request.head == Some(true),
            timeout: timeout(request.timeout),
        };
        let fetched = self
            .client
            .get(&bucket, &request.key, options)
            .await
            .map_err(|error| get_error(error, Side::Read))?;
        let Some(fetched) = fetched else { return Ok(RpbGetResp::default()) };
        let vclock = fetched.context.to_bytes();
        if request.if_modified.is_some_and(|known| known == vclock) {
            return Ok(RpbGetResp { unchanged: Some(true), ..RpbGetResp::default() });
        }
        if fetched.is_deleted() {
            let vclock = (request.deletedvclock == Some(true)).then_some(vclock);
            return Ok(RpbGetResp { vclock, ..RpbGetResp::default() });
        }
        Ok(RpbGetResp { content: contents(fetched), vclock: Some(vclock), unchanged: None })
    }

    async fn put(&self, request: RpbPutReq) -> Result<RpbPutResp, RiakError> {
        if request.asis == Some(true) {
            // It would let a client write a causal history that the store has not issued.
            return Err(RiakError::Other("asis is not supported by this server".to_owned()));
        }
        let bucket = bucket(request.r#type, request.bucket)?;
        let props = self.props(bucket.kind())?;
        let quorum = Quorums::of(request.n_val, &props)?;
        let head = request.return_head == Some(true);
        let options = PutOptions {
            context: context(request.vclock.as_deref())?,
            condition: condition(request.if_none_match, request.if_not_modified),
            w: quorum.need(request.w)?,
            pw: quorum.need(request.pw)?,
            dw: quorum.need(request.dw)?,
            node_confirms: quorum.count(request.node_confirms)?,
            n_val: quorum.asked,
            strict: request.sloppy_quorum == Some(false),
            return_body: head || request.return_body == Some(true),
            timeout: timeout(request.timeout),
            request_id: None,
        };
        let generated = request.key.is_none();
        let content = content_of(request.content);
        let stored =
            self.client.put(&bucket, request.key.as_deref(), content, options).await.map_err(put_error)?;
        let mut response = RpbPutResp { key: generated.then_some(stored.key), ..RpbPutResp::default() };
        if let Some(mut fetched) = stored.object {
            if head {
                fetched.siblings.iter_mut().for_each(|sibling| sibling.content.value.clear());
            }
            response.vclock = Some(fetched.context.to_bytes());
            response.content = contents(fetched);
        }
        Ok(response)
    }

    async fn delete(&self, request: RpbDelReq) -> Result<(), RiakError> {
        let bucket = bucket(request.r#type, request.bucket)?;
        let props = self.props(bucket.kind())?;
        let quorum = Quorums::of(request.n_val, &props)?;
        let options = DeleteOptions {
            context: request.vclock.as_deref().map(|bytes| context(Some(bytes))).transpose()?,
            rw: quorum.need(request.rw)?,
            r: quorum.need(request.r)?,
            pr: quorum.need(request.pr)?,
            w: quorum.need(request.w)?,
            pw: quorum.need(request.pw)?,
            dw: quorum.need(request.dw)?,
            n_val: quorum.asked,
            strict: request.sloppy_quorum == Some(false),
            timeout: timeout(request.timeout),
            request_id: None,
        };
        // Deleting what is not there succeeds, as in Riak.
        match self.client.delete(&bucket, &request.key, options).await {
            Ok(_) => Ok(()),
            Err(DeleteError::Read(error)) => Err(get_error(error, Side::Read)),
            Err(DeleteError::Write(error)) => Err(put_error(error)),
        }
    }

    fn list_keys(&self, request: RpbListKeysReq) -> impl Stream<Item = Result<Vec<Bytes>, RiakError>> + Send {
        let options = ListOptions { timeout: timeout(request.timeout) };
        match bucket(request.r#type, request.bucket) {
            Ok(bucket) => {
                self.client.list_keys(&bucket, options).map(|batch| batch.map_err(list_error)).left_stream()
            }
            Err(error) => stream::iter([Err(error)]).right_stream(),
        }
    }

    fn list_buckets(
        &self,
        request: RpbListBucketsReq,
    ) -> impl Stream<Item = Result<Vec<Bytes>, RiakError>> + Send {
        let options = ListOptions { timeout: timeout(request.timeout) };
        let kind = request.r#type.unwrap_or_else(default_type);
        self.client.list_buckets(&kind, options).map(|batch| batch.map_err(list_error))
    }

    async fn bucket_props(&self, request: RpbGetBucketReq) -> Result<RpbBucketProps, RiakError> {
        let bucket = bucket(request.r#type, request.bucket)?;
        self.client.props(bucket.kind()).map(|props| riak_props(&props)).map_err(props_error)
    }

    async fn type_props(&self, request: RpbGetBucketTypeReq) -> Result<RpbBucketProps, RiakError> {
        self.client.props(&request.r#type).map(|props| riak_props(&props)).map_err(props_error)
    }
}

fn default_type() -> Bytes {
    Bytes::from_static(DEFAULT_TYPE)
}

fn bucket(kind: Option<Bytes>, name: Bytes) -> Result<Bucket, RiakError> {
    Bucket::typed(kind.unwrap_or_else(default_type), name).map_err(name_error)
}

fn context(vclock: Option<&[u8]>) -> Result<Context, RiakError> {
    match vclock {
        None | Some([]) => Ok(Context::default()),
        Some(bytes) => Context::from_bytes(bytes).map_err(|bad| RiakError::Other(bad.to_string())),
    }
}

fn condition(if_none_match: Option<bool>, if_not_modified: Option<bool>) -> Condition {
    match (if_none_match, if_not_modified) {
        (Some(true), _) => Condition::Absent,
        (_, Some(true)) => Condition::Unchanged,
        _ => Condition::Always,
    }
}

fn timeout(ms: Option<u32>) -> Option<Duration> {
    ms.map(|ms| Duration::from_millis(ms.into()))
}

/// How the quorums of one request are to be read.
struct Quorums {
    n: u8,
    asked: Option<u8>,
}

impl Quorums {
    fn of(asked: Option<u32>, props: &Props) -> Result<Self, RiakError> {
        let violation = || RiakError::NValViolation { n_val: props.n_val.into() };
        let narrowed = asked.map(|n| u8::try_from(n).ok().filter(|n| (1..=props.n_val).contains(n)));
        match narrowed {
            Some(None) => Err(violation()),
            Some(Some(n)) => Ok(Self { n, asked: Some(n) }),
            None => Ok(Self { n: props.n_val, asked: None }),
        }
    }

    fn need(&self, wire: Option<u32>) -> Result<Option<Need>, RiakError> {
        Ok(self.count(wire)?.map(Need::Count))
    }

    fn count(&self, wire: Option<u32>) -> Result<Option<u8>, RiakError> {
        let Some(count) = wire.and_then(|wire| QuorumArg::from_wire(wire).count(self.n.into())) else {
            return Ok(None);
        };
        let within = u8::try_from(count).ok().filter(|count| *count <= self.n);
        within.map(Some).ok_or(RiakError::NValViolation { n_val: self.n.into() })
    }
}

fn contents(fetched: Fetched) -> Vec<RpbContent> {
    fetched.siblings.into_iter().map(content).collect()
}

fn content(sibling: Sibling) -> RpbContent {
    let (modified_us, vtag, deleted) = (sibling.last_modified_us(), sibling.vtag(), sibling.is_deleted());
    let Content { value, content_type, charset, content_encoding, user_metadata, indexes, links, .. } =
        sibling.content;
    let second = 1_000_000;
    RpbContent {
        value: value.into(),
        content_type: content_type.map(Bytes::from),
        charset: charset.map(Bytes::from),
        content_encoding: content_encoding.map(Bytes::from),
        vtag: Some(vtag.into()),
        links: links.into_iter().map(link).collect(),
        last_mod: u32::try_from(modified_us / second).ok(),
        last_mod_usecs: u32::try_from(modified_us % second).ok(),
        usermeta: user_metadata.into_iter().map(pair).collect(),
        indexes: indexes.into_iter().map(pair).collect(),
        deleted: deleted.then_some(true),
    }
}

fn link(Link { bucket, key, tag }: Link) -> RpbLink {
    RpbLink { bucket: bucket.map(Bytes::from), key: key.map(Bytes::from), tag: tag.map(Bytes::from) }
}

fn pair((key, value): (Vec<u8>, Option<Vec<u8>>)) -> RpbPair {
    RpbPair { key: key.into(), value: value.map(Bytes::from) }
}

fn content_of(content: RpbContent) -> Content {
    let bytes = |field: Option<Bytes>| field.map(|bytes| bytes.to_vec());
    let pairs = |pairs: Vec<RpbPair>| -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        pairs.into_iter().map(|pair| (pair.key.to_vec(), bytes(pair.value))).collect()
    };
    let link =
        |link: RpbLink| Link { bucket: bytes(link.bucket), key: bytes(link.key), tag: bytes(link.tag) };
    Content {
        value: content.value.to_vec(),
        content_type: bytes(content.content_type),
        charset: bytes(content.charset),
        content_encoding: bytes(content.content_encoding),
        user_metadata: pairs(content.usermeta),
        indexes: pairs(content.indexes),
        links: content.links.into_iter().map(link).collect(),
        expires_at_ms: None,
        tombstone: content.deleted == Some(true),
    }
}

/// Riak's properties; what has no counterpart here has the value that Riak has by default.
fn riak_props(props: &Props) -> RpbBucketProps {
    let need = |need: Need| match need {
        Need::Quorum => Some(QuorumArg::Quorum.to_wire()),
        Need::All => Some(QuorumArg::All.to_wire()),
        Need::Count(count) => Some(count.into()),
    };
    let function = |module: &'static str, function: &'static str| {
        Some(RpbModFun { module: module.into(), function: function.into() })
    };
    RpbBucketProps {
        n_val: Some(props.n_val.into()),
        allow_mult: Some(props.allow_mult),
        last_write_wins: Some(false),
        has_precommit: Some(false),
        has_postcommit: Some(false),
        chash_keyfun: function("riak_core_util", "chash_std_keyfun"),
        linkfun: function("riak_kv_wm_link_walker", "mapreduce_linkfun"),
        old_vclock: Some(86_400),
        young_vclock: Some(20),
        big_vclock: Some(50),
        small_vclock: Some(50),
        pr: need(props.pr),
        r: need(props.r),
        w: need(props.w),
        pw: need(props.pw),
        dw: need(props.dw),
        rw: need(props.rw),
        basic_quorum: Some(props.basic_quorum),
        notfound_ok: Some(props.notfound_ok),
        search: Some(false),
        consistent: Some(false),
        write_once: Some(false),
        ..RpbBucketProps::default()
    }
}

/// Which names a request's quorums have.
#[derive(Clone, Copy)]
enum Side {
    Read,
    Write,
}

fn name_error(error: NameError) -> RiakError {
    match error {
        NameError::EmptyType => RiakError::EmptyType,
        NameError::EmptyBucket => RiakError::EmptyBucket,
        NameError::EmptyKey => RiakError::EmptyKey,
        NameError::UnknownType(name) => RiakError::NoBucketType(name),
        NameError::TooLong { .. } => RiakError::Other(error.to_string()),
    }
}

/// Riak words an unknown type differently where its properties are asked for.
fn props_error(error: NameError) -> RiakError {
    match error {
        NameError::UnknownType(name) => RiakError::InvalidBucketType(name),
        other => name_error(other),
    }
}

fn get_error(error: GetError, side: Side) -> RiakError {
    match error {
        GetError::Name(name) => name_error(name),
        GetError::Request(request) => request_error(request, side),
    }
}

fn put_error(error: PutError) -> RiakError {
    match error {
        PutError::Name(name) => name_error(name),
        PutError::Context(bad) => RiakError::Other(bad.to_string()),
        PutError::TooLarge { .. } => RiakError::TooLarge,
        PutError::TooManySiblings { .. } => RiakError::TooManySiblings,
        PutError::MatchFound => RiakError::MatchFound,
        PutError::Modified => RiakError::Modified,
        PutError::NotFound => RiakError::NotFound,
        PutError::Request(request) => request_error(request, Side::Write),
    }
}

fn list_error(error: ListError) -> RiakError {
    match error {
        ListError::Name(name) => name_error(name),
        ListError::Request(request) => request_error(request, Side::Read),
        ListError::Timeout { .. } => RiakError::Timeout,
    }
}

fn is_of_store(failure: &Failure) -> bool {
    failure.code == FailureCode::StoreFailed
}

fn request_error(error: RequestError, side: Side) -> RiakError {
    match error {
        // Riak's words would hide that somebody must act.
        RequestError::Unmet { ref failures, .. }
            if failures.iter().any(|(_, failure)| is_of_store(failure)) =>
        {
            RiakError::Other(error.to_string())
        }
        RequestError::Unmet { requirement, need, have, .. } => {
            let which = match (requirement, side) {
                (Requirement::Need, Side::Read) => QuorumName::R,
                (Requirement::Need, Side::Write) => QuorumName::W,
                (Requirement::Owners, Side::Read) => QuorumName::Pr,
                (Requirement::Owners, Side::Write) => QuorumName::Pw,
                (Requirement::Durable, _) => QuorumName::Dw,
                (Requirement::Nodes, _) => QuorumName::NodeConfirms,
            };
            RiakError::Unsatisfied { which, need: need.into(), got: have.into() }
        }
        RequestError::Unsatisfiable { n, .. } => RiakError::NValViolation { n_val: n.into() },
        RequestError::Timeout { .. } => RiakError::Timeout,
        RequestError::Overloaded => RiakError::Overload,
        other => RiakError::Other(other.to_string()),
    }
}
