//! `rondel kv delete`: deletes what the context has seen, or what is there now.

use super::{Address, Connection, Servers, context_from, once_each};
use crate::output::{Output, Report};
use clap::Args;
use rondel_proto::riak::{
    QuorumArg,
    messages::{RpbDelReq, RpbGetReq},
};
use serde::Serialize;
use std::io::{self, Write};

/// What to delete.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    address: Address,
    /// Delete what was read with this context; without it, what is there now
    #[arg(long, value_name = "BASE64")]
    context: Option<String>,
    /// Replicas that must acknowledge: a number, one, quorum, all
    #[arg(long)]
    w: Option<QuorumArg>,
    /// Replicas among them that must have it on disk, at least one [default: all of them]
    #[arg(long)]
    dw: Option<QuorumArg>,
    #[command(flatten)]
    connection: Connection,
}

/// Deletes the object; that there is none is no error.
pub(super) async fn run(options: &Options, output: Output) -> anyhow::Result<()> {
    let hosts = options.connection.hosts.resolve()?;
    let mut servers = Servers::new(&hosts, 0, options.connection.timeout());
    let (bucket, key, bucket_type) =
        (options.address.bucket(), options.address.key(), options.address.bucket_type());
    let read = RpbGetReq {
        bucket: bucket.clone(),
        key: key.clone(),
        r#type: bucket_type.clone(),
        head: Some(true),
        timeout: options.connection.timeout_ms(),
        ..RpbGetReq::default()
    };
    let vclock = match context_from(options.context.as_ref())? {
        Some(context) => Some(context),
        None => servers.call(once_each(&hosts), async |client, _| client.get(&read).await).await?.vclock,
    };
    let request = RpbDelReq {
        bucket,
        key,
        r#type: bucket_type,
        vclock,
        w: options.w.map(QuorumArg::to_wire),
        dw: options.dw.map(QuorumArg::to_wire),
        timeout: options.connection.timeout_ms(),
        ..RpbDelReq::default()
    };
    servers.call(once_each(&hosts), async |client, _| client.delete(&request).await).await?;
    Ok(output
        .report(&Deleted { bucket: options.address.bucket.clone(), key: options.address.key.clone() })?)
}

#[derive(Serialize)]
struct Deleted {
    bucket: String,
    key: String,
}

impl Report for Deleted {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "deleted {}/{}", self.bucket, self.key)
    }
}
