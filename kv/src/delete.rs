//! Deleting an object: a put of a tombstone that has seen what it deletes. Reference: riak_kv_delete.erl; tombstones
//! are kept.

use crate::{
    bucket::Bucket,
    client::Client,
    content::Content,
    context::Context,
    error::DeleteError,
    get::{Fetched, GetOptions},
    put::PutOptions,
};
use rondel_core::{proto::id::RequestId, request::Need};
use std::time::Duration;

/// How to delete. What is not said is as the bucket type has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// What the writer has seen, and so deletes. Without it, what a read finds is deleted.
    pub context: Option<Context>,
    /// R and W, where those are not said; and DW, where neither that nor W is.
    pub rw: Option<Need>,
    /// Replicas that must answer the read.
    pub r: Option<Need>,
    /// Owners that must answer the read.
    pub pr: Option<Need>,
    /// Replicas that must have the tombstone: durably, unless `dw` asks for fewer durable ones.
    pub w: Option<Need>,
    /// Owners that must have the tombstone durably.
    pub pw: Option<Need>,
    /// Replicas that must have the tombstone durably: see [`PutOptions::dw`].
    pub dw: Option<Need>,
    /// Of how many replicas `quorum` and `all` speak, at most the bucket's n_val.
    pub n_val: Option<u8>,
    /// Owners only, no stand-ins.
    pub strict: bool,
    /// When the answer is of no more use, from now. Default and limit: 60 s.
    pub timeout: Option<Duration>,
    /// The same over all tries of one delete.
    pub request_id: Option<RequestId>,
}

/// What became of a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// The tombstone is written. Siblings that the context has not seen stay.
    Done,
    /// There was nothing to delete, and nothing was written.
    Absent,
}

impl Client {
    /// Deletes an object.
    ///
    /// # Errors
    /// [`DeleteError`]; it says whether anything may have been written.
    pub async fn delete(
        &self,
        bucket: &Bucket,
        key: &[u8],
        asked: DeleteOptions,
    ) -> Result<Deleted, DeleteError> {
        let deadline = self.deadline(asked.timeout);
        let context = match &asked.context {
            Some(context) if !context.is_empty() => context.clone(),
            _ => match self.to_delete(bucket, key, &asked).await? {
                Some(fetched) => fetched.context,
                None => return Ok(Deleted::Absent),
            },
        };
        let put = PutOptions {
            context,
            w: asked.w.or(asked.rw),
            pw: asked.pw,
            // Beside a W of its own, RW is no wish for fewer durable ones.
            dw: asked.dw.or(asked.rw.filter(|_| asked.w.is_none())),
            n_val: asked.n_val,
            strict: asked.strict,
            timeout: Some(self.left(deadline)),
            request_id: asked.request_id,
            ..PutOptions::default()
        };
        self.put(bucket, Some(key), Content::tombstone(), put).await?;
        Ok(Deleted::Done)
    }

    async fn to_delete(
        &self,
        bucket: &Bucket,
        key: &[u8],
        asked: &DeleteOptions,
    ) -> Result<Option<Fetched>, DeleteError> {
        let get = GetOptions {
            r: asked.r.or(asked.rw),
            pr: asked.pr,
            n_val: asked.n_val,
            strict: asked.strict,
            head: true,
            timeout: asked.timeout,
            ..GetOptions::default()
        };
        let fetched = self.get(bucket, key, get).await.map_err(DeleteError::Read)?;
        Ok(fetched.filter(|fetched| !fetched.is_deleted()))
    }
}
