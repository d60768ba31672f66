//! `rondel kv list`: the keys of a bucket, or the buckets, as they come.

use super::{Connection, Servers, bucket_type, once_each, record::text_or_base64};
use crate::{
    output::{Output, Report},
    pb_client::PbError,
};
use bytes::Bytes;
use clap::Args;
use rondel_proto::riak::messages::{RpbListBucketsReq, RpbListKeysReq};
use serde::Serialize;
use std::io::{self, Write};

/// What to list.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The bucket whose keys are listed; without it, the buckets are
    bucket: Option<String>,
    /// The bucket type [default: default]
    #[arg(long = "type", value_name = "TYPE")]
    bucket_type: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

/// Writes one name a line, in no order; an error in between means that some are missing.
pub(super) async fn run(options: &Options, output: Output) -> anyhow::Result<()> {
    let hosts = options.connection.hosts.resolve()?;
    let mut servers = Servers::new(&hosts, 0, options.connection.timeout());
    let bucket_type = bucket_type(options.bucket_type.as_ref());
    // A server that breaks off is not asked again elsewhere: what has been written can't be taken back.
    let mut printed = Ok(());
    let listed = servers
        .call(once_each(&hosts), async |client, _| {
            let mut listing = match &options.bucket {
                Some(bucket) => {
                    let bucket = Bytes::copy_from_slice(bucket.as_bytes());
                    let timeout = options.connection.timeout_ms();
                    client.list_keys(&RpbListKeysReq { bucket, timeout, r#type: bucket_type.clone() }).await?
                }
                None => {
                    let timeout = options.connection.timeout_ms();
                    let request =
                        RpbListBucketsReq { timeout, stream: Some(true), r#type: bucket_type.clone() };
                    client.list_buckets(&request).await?
                }
            };
            let mut begun = false;
            loop {
                match listing.next().await {
                    Ok(Some(names)) => {
                        printed = names.iter().try_for_each(|name| output.report(&Name::new(name)))
                    }
                    Ok(None) => return Ok(Ok(())),
                    Err(error) if begun => return Ok(Err(error)),
                    Err(error) => return Err(error),
                }
                begun = true;
                if printed.is_err() {
                    return Ok(Ok(()));
                }
            }
        })
        .await?;
    printed?;
    listed.map_err(incomplete)
}

fn incomplete(error: PbError) -> anyhow::Error {
    crate::failure::failure(format!("the listing broke off: {error}"), "some names are missing; list again")
}

#[derive(Serialize)]
struct Name {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_base64: Option<String>,
    #[serde(skip)]
    bytes: Bytes,
}

impl Name {
    fn new(bytes: &Bytes) -> Self {
        let (name, name_base64) = text_or_base64(bytes);
        Self { name, name_base64, bytes: bytes.clone() }
    }
}

impl Report for Name {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.bytes)?;
        writeln!(out)
    }
}
