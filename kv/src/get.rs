//! Reading an object. Reference: riak_kv_get_fsm.erl; where replicas disagree, core merges and repairs them.

use crate::{
    bucket::{Bucket, Props},
    client::{Client, n_val, options},
    context::Context,
    error::GetError,
    object::{self, Object, Sibling, view, view_newest},
};
use rondel_core::{
    proto::{Msg, id::RequestId},
    request::{Need, Options},
};
use std::time::Duration;

/// How to read. What is not said is as the bucket type has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GetOptions {
    /// Replicas that must answer.
    pub r: Option<Need>,
    /// Owners that must answer.
    pub pr: Option<Need>,
    /// Distinct nodes that must answer.
    pub node_confirms: Option<u8>,
    /// Ask only the first so many slots of the key.
    pub n_val: Option<u8>,
    /// Fail as soon as a quorum of replicas has failed or has nothing.
    pub basic_quorum: Option<bool>,
    /// A replica that has nothing counts as an answer.
    pub notfound_ok: Option<bool>,
    /// Ask owners only, no stand-ins.
    pub strict: bool,
    /// Only the metadata: values are empty.
    pub head: bool,
    /// When the answer is of no more use, from now. Default and limit: 60 s.
    pub timeout: Option<Duration>,
}

/// What was found under a key.
#[derive(Debug, Clone, PartialEq)]
pub struct Fetched {
    /// The siblings in the order of their writes; never none. Some or all may be tombstones.
    pub siblings: Vec<Sibling>,
    /// What a write needs to replace all of it.
    pub context: Context,
}

impl Fetched {
    /// Whether there are only tombstones: the key was deleted.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.siblings.iter().all(Sibling::is_deleted)
    }

    pub(crate) fn of(object: &Msg<Object>, now_ms: u64, allow_mult: bool, head: bool) -> Self {
        let mut siblings = if allow_mult { view(object, now_ms) } else { view_newest(object, now_ms) };
        if head {
            siblings.iter_mut().for_each(|sibling| sibling.content.value.clear());
        }
        Self { siblings, context: Object::context(object) }
    }
}

/// An object as it is held, and how a reader of its bucket sees it.
pub(crate) struct Read {
    object: Option<Msg<Object>>,
    props: Props,
    now_ms: u64,
}

impl Read {
    /// Its siblings, if there is anything to see.
    pub(crate) fn fetched(&self, head: bool) -> Option<Fetched> {
        let object = self.object.as_ref()?;
        let fetched = Fetched::of(object, self.now_ms, self.props.allow_mult, head);
        (!fetched.siblings.is_empty()).then_some(fetched)
    }

    /// Whether it was written by this request.
    pub(crate) fn has_request(&self, request: RequestId) -> bool {
        self.object.as_ref().is_some_and(|object| object::has_request(object, request))
    }
}

impl Client {
    /// Reads an object: `None` if nobody has written it. One that was deleted is found, as tombstones, until they are
    /// reaped: see [`Fetched::is_deleted`].
    ///
    /// # Errors
    /// [`GetError`]. Nothing was changed; trying again is harmless.
    pub async fn get(
        &self,
        bucket: &Bucket,
        key: &[u8],
        options: GetOptions,
    ) -> Result<Option<Fetched>, GetError> {
        Ok(self.read(bucket, key, &options).await?.fetched(options.head))
    }

    pub(crate) async fn read(
        &self,
        bucket: &Bucket,
        key: &[u8],
        asked: &GetOptions,
    ) -> Result<Read, GetError> {
        let row = bucket.row(key)?;
        let props = self.props(bucket.kind())?;
        let options = Options {
            n: Some(n_val(asked.n_val, &props)?),
            need: asked.r.unwrap_or(props.r),
            owners: asked.pr.unwrap_or(props.pr),
            nodes: asked.node_confirms.unwrap_or(props.node_confirms),
            basic_quorum: asked.basic_quorum.unwrap_or(props.basic_quorum),
            notfound_ok: asked.notfound_ok.unwrap_or(props.notfound_ok),
            ..options(&props, asked.timeout, asked.strict)
        };
        let object = self.service.read(row).options(options).await?.item;
        Ok(Read { object, props, now_ms: self.now_ms() })
    }
}
