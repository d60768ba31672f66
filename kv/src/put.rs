//! Writing an object. Reference: riak_kv_put_fsm.erl. The coordinator's vnode makes the sibling; core sends the
//! resulting object to all replicas at once and waits for enough of them to have it durably.

use crate::{
    base62::base62,
    bucket::{Bucket, Props},
    client::{Client, OBJECT_BYTES_MAX, n_val, options},
    command::{Condition, Put, PutRefusal, PutReply},
    content::Content,
    context::{BadContext, Context},
    error::{GetError, PutError},
    get::{Fetched, GetOptions},
};
use bytes::Bytes;
use rondel_core::{
    proto::{Msg, id::RequestId},
    request::{Need, Options, RequestError},
};
use std::time::Duration;

/// How to write. What is not said is as the bucket type has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// What the writer has seen, and so replaces. The empty context replaces nothing: the value becomes a sibling of
    /// whatever is there.
    pub context: Context,
    /// On which condition it is done.
    pub condition: Condition,
    /// Replicas that must have it; all acknowledgements are durable.
    pub w: Option<Need>,
    /// Owners that must have it.
    pub pw: Option<Need>,
    /// Replicas that must have it durably.
    pub dw: Option<Need>,
    /// Distinct nodes that must have it.
    pub node_confirms: Option<u8>,
    /// Of how many replicas `quorum` and `all` speak, at most the bucket's n_val. The write goes to all of those in
    /// any case.
    pub n_val: Option<u8>,
    /// Owners only, no stand-ins.
    pub strict: bool,
    /// Give back the object as the coordinator has it afterwards.
    pub return_body: bool,
    /// When the answer is of no more use, from now. Default and limit: 60 s.
    pub timeout: Option<Duration>,
    /// The same over all tries of one write, so that it is done once by each coordinator and shown once to readers.
    pub request_id: Option<RequestId>,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The key, made by this node if the request had none.
    pub key: Bytes,
    /// The object, if it was asked for.
    pub object: Option<Fetched>,
}

impl Client {
    /// Writes a value. Without a key, one is made.
    ///
    /// # Errors
    /// [`PutError`]; it says whether anything may have been written. A write that failed half-way is not undone.
    /// Trying again is harmless with the same `request_id`.
    pub async fn put(
        &self,
        bucket: &Bucket,
        key: Option<&[u8]>,
        content: Content,
        asked: PutOptions,
    ) -> Result<Stored, PutError> {
        let key = key.map_or_else(|| self.make_key(), Bytes::copy_from_slice);
        let row = bucket.row(&key)?;
        let props = self.props(bucket.kind())?;
        let object_bytes_max = self.config.limits.object_bytes_max.min(OBJECT_BYTES_MAX);
        if content.bytes() as u64 > object_bytes_max {
            return Err(PutError::TooLarge { bytes: content.bytes() as u64, max: object_bytes_max });
        }
        let request_id = asked.request_id.unwrap_or_else(|| self.new_request_id());
        let deadline = self.deadline(asked.timeout);
        self.try_condition(bucket, &key, &asked, request_id).await?;
        let options = Options {
            request_id: Some(request_id),
            retry_elsewhere: true,
            ..write_options(&asked, &props, Some(self.left(deadline)))?
        };
        let put = Put {
            context: asked.context.vector,
            seen: asked.context.seen,
            content,
            condition: asked.condition,
            allow_mult: props.allow_mult,
            return_body: asked.return_body,
            siblings_max: self.config.limits.siblings_max,
            object_bytes_max,
        };
        let object = match self.service.update(row, put).options(options).await {
            Ok(PutReply::Done) => None,
            Ok(PutReply::Object(object)) => {
                Some(Fetched::of(&Msg::new(&object), self.now_ms(), props.allow_mult, false))
            }
            Ok(PutReply::Refused(refusal)) => return Err(self.refused(refusal)),
            // It was done by an earlier try, and has been made sure of; only the answer is gone.
            Err(RequestError::Repeated) if !asked.return_body => None,
            Err(RequestError::Repeated) => {
                let timeout = Some(self.left(deadline));
                let read = self.get(bucket, &key, GetOptions { timeout, ..GetOptions::default() }).await;
                // Whatever ails the read, the put is done: its error must not say that nothing was.
                read.map_err(|_| PutError::Request(RequestError::Repeated))?
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Stored { key, object })
    }

    /// Asks a quorum whether the condition holds: the coordinator, which is asked again, may lag behind it.
    async fn try_condition(
        &self,
        bucket: &Bucket,
        key: &[u8],
        asked: &PutOptions,
        request_id: RequestId,
    ) -> Result<(), PutError> {
        if asked.condition == Condition::Always {
            return Ok(());
        }
        let get =
            GetOptions { head: true, timeout: asked.timeout, strict: asked.strict, ..GetOptions::default() };
        let read = self.read(bucket, key, &get).await.map_err(read_failed)?;
        if read.has_request(request_id) {
            return Ok(());
        }
        let live = read.fetched(true).filter(|fetched| !fetched.is_deleted());
        match (asked.condition, live) {
            (Condition::Absent, Some(_)) => Err(PutError::MatchFound),
            (Condition::Unchanged, None) => Err(PutError::NotFound),
            (Condition::Unchanged, Some(fetched)) if !asked.context.covers(&fetched.context) => {
                Err(PutError::Modified)
            }
            _ => Ok(()),
        }
    }

    fn refused(&self, refusal: PutRefusal) -> PutError {
        let limits = &self.config.limits;
        match refusal {
            PutRefusal::MatchFound => PutError::MatchFound,
            PutRefusal::Modified => PutError::Modified,
            PutRefusal::TooManySiblings => PutError::TooManySiblings { max: limits.siblings_max },
            PutRefusal::TooLarge(bytes) => {
                PutError::TooLarge { bytes, max: limits.object_bytes_max.min(OBJECT_BYTES_MAX) }
            }
            PutRefusal::ContextAhead => PutError::Context(BadContext),
        }
    }

    fn make_key(&self) -> Bytes {
        base62(self.env.random_u128()).into()
    }
}

fn read_failed(error: GetError) -> PutError {
    match error {
        GetError::Name(name) => PutError::Name(name),
        GetError::Request(request) => PutError::Request(request),
    }
}

/// What W, PW and DW come to. The symbols are resolved against the n_val of the request, and asked of all replicas.
fn write_options(
    asked: &PutOptions,
    props: &Props,
    timeout: Option<Duration>,
) -> Result<Options, RequestError> {
    let of = n_val(asked.n_val, props)?;
    let count = |asked: Option<Need>, default: Need| Need::Count(asked.unwrap_or(default).of(of));
    Ok(Options {
        need: count(asked.w, props.w),
        owners: count(asked.pw, props.pw),
        durable: count(asked.dw, props.dw),
        nodes: asked.node_confirms.unwrap_or(props.node_confirms),
        ..options(props, timeout, asked.strict)
    })
}
