//! Writing an object. Reference: riak_kv_put_fsm.erl. The coordinator's vnode makes the sibling; core sends the
//! resulting object to all replicas at once and waits for enough of them to have it, as durably as is asked for.

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
    /// Replicas that must have it: durably, unless `dw` asks for fewer durable ones.
    pub w: Option<Need>,
    /// Owners that must have it durably.
    pub pw: Option<Need>,
    /// Replicas that must have it durably, at least one. What is said here counts even if it is less than `w`: for the
    /// rest it is then enough that a replica has it in memory, and the write survives only as long as fewer than `dw`
    /// stores are lost. If nothing is said, as many as `w`, and no fewer than the bucket type asks for.
    pub dw: Option<Need>,
    /// Distinct nodes that must have it durably.
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
///
/// In Riak W counts replicas that have received the write and DW those whose backend has taken it, whether or not that
/// has synced it; both are a quorum by default. Here what counts is durable unless the request itself says less: a W
/// above the bucket type's DW raises the DW with it, where Riak would wait for receipts. DW is at least 1, as in Riak
/// (riak_kv_put_fsm).
fn write_options(
    asked: &PutOptions,
    props: &Props,
    timeout: Option<Duration>,
) -> Result<Options, RequestError> {
    let of = n_val(asked.n_val, props)?;
    let count = |asked: Option<Need>, default: Need| asked.unwrap_or(default).of(of);
    let w = count(asked.w, props.w);
    let dw = asked.dw.map_or_else(|| props.dw.of(of).max(w), |dw| dw.of(of)).max(1);
    Ok(Options {
        need: Need::Count(w),
        owners: Need::Count(count(asked.pw, props.pw)),
        durable: Some(Need::Count(dw)),
        nodes: asked.node_confirms.unwrap_or(props.node_confirms),
        ..options(props, timeout, asked.strict)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// W and DW of core for what a request and its bucket type say.
    fn counts(w: Option<Need>, dw: Option<Need>, props: &Props) -> (Need, Option<Need>) {
        let asked = PutOptions { w, dw, ..PutOptions::default() };
        let options = write_options(&asked, props, None).unwrap();
        (options.need, options.durable)
    }

    fn both(w: u8, dw: u8) -> (Need, Option<Need>) {
        (Need::Count(w), Some(Need::Count(dw)))
    }

    #[test]
    fn only_a_request_that_says_so_waits_for_fewer_durable_copies_than_copies() {
        let usual = Props::default();
        let [one, two, three] = [1, 2, 3].map(|count| Some(Need::Count(count)));
        assert_eq!(counts(None, None, &usual), both(2, 2), "Riak's defaults are a quorum on disk");
        assert_eq!(counts(three, None, &usual), both(3, 3));
        assert_eq!(counts(one, None, &usual), both(1, 2), "the bucket type's DW stands");
        assert_eq!(counts(None, one, &usual), both(2, 1));
        assert_eq!(counts(three, two, &usual), both(3, 2));
        assert_eq!(counts(Some(Need::All), Some(Need::Quorum), &usual), both(3, 2));
        assert_eq!(counts(one, Some(Need::All), &usual), both(1, 3));
        assert_eq!(counts(None, Some(Need::Count(0)), &usual), both(2, 1), "one is on disk, as in Riak");

        let lax = Props { w: Need::All, dw: Need::Count(1), ..Props::default() };
        assert_eq!(counts(None, None, &lax), both(3, 3), "a bucket type only asks for more");
        assert_eq!(counts(None, one, &lax), both(3, 1));
        let strict = Props { dw: Need::All, ..Props::default() };
        assert_eq!(counts(None, None, &strict), both(2, 3));
    }

    #[test]
    fn symbols_speak_of_the_n_val_of_the_request() {
        let asked = PutOptions { n_val: Some(1), dw: Some(Need::Quorum), ..PutOptions::default() };
        let options = write_options(&asked, &Props::default(), None).unwrap();
        assert_eq!((options.need, options.durable), both(1, 1));
    }
}
