//! `rondel kv put`: writes one object, from an argument, a file or standard input.

use super::{Address, Connection, Servers, context_from, get::distinct, once_each};
use crate::{
    failure::Advise,
    output::{Output, Report},
};
use anyhow::Context;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use clap::Args;
use rondel_proto::riak::{
    QuorumArg,
    messages::{RpbContent, RpbPutReq},
};
use serde::Serialize;
use std::{
    fs,
    io::{self, IsTerminal, Read, Write},
    path::PathBuf,
};

/// What to write.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    address: Address,
    /// The value [default: standard input]
    #[arg(conflicts_with = "file")]
    value: Option<String>,
    /// Take the value from a file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The value's type
    #[arg(long, value_name = "TYPE", default_value = "text/plain")]
    content_type: String,
    /// Replace what was read with this context; without it the value is written beside what is there
    #[arg(long, value_name = "BASE64")]
    context: Option<String>,
    /// Replicas that must acknowledge: a number, one, quorum, all
    #[arg(long)]
    w: Option<QuorumArg>,
    /// Owners among them that must acknowledge
    #[arg(long)]
    pw: Option<QuorumArg>,
    /// Replicas among them that must have it on disk, at least one [default: all of them]
    #[arg(long)]
    dw: Option<QuorumArg>,
    #[command(flatten)]
    connection: Connection,
}

/// Writes the object and tells how many siblings it has now.
pub(super) async fn run(options: &Options, output: Output) -> anyhow::Result<()> {
    let value = value(options, output)?;
    let bytes = value.len();
    let hosts = options.connection.hosts.resolve()?;
    let request = RpbPutReq {
        bucket: options.address.bucket(),
        key: Some(options.address.key()),
        r#type: options.address.bucket_type(),
        vclock: context_from(options.context.as_ref())?,
        content: RpbContent {
            value,
            content_type: Some(Bytes::copy_from_slice(options.content_type.as_bytes())),
            ..RpbContent::default()
        },
        w: options.w.map(QuorumArg::to_wire),
        pw: options.pw.map(QuorumArg::to_wire),
        dw: options.dw.map(QuorumArg::to_wire),
        return_body: Some(true),
        timeout: options.connection.timeout_ms(),
        ..RpbPutReq::default()
    };
    let mut servers = Servers::new(&hosts, 0, options.connection.timeout());
    let answer = servers.call(once_each(&hosts), async |client, _| client.put(&request).await).await?;
    Ok(output.report(&Stored {
        bucket: options.address.bucket.clone(),
        key: options.address.key.clone(),
        bytes,
        siblings: distinct(&answer.content).len(),
        context: answer.vclock.map(|bytes| BASE64.encode(bytes)),
    })?)
}

fn value(options: &Options, output: Output) -> anyhow::Result<Bytes> {
    if let Some(value) = &options.value {
        return Ok(Bytes::copy_from_slice(value.as_bytes()));
    }
    if let Some(path) = &options.file {
        let read = fs::read(path).with_context(|| format!("cannot read the value from {}", path.display()));
        return Ok(Bytes::from(read.advise(|| "give a file that this user can read".into())?));
    }
    if io::stdin().is_terminal() {
        output.note("reading the value from standard input; end it with Ctrl-D");
    }
    let mut value = Vec::new();
    io::stdin().lock().read_to_end(&mut value).context("cannot read the value from standard input")?;
    Ok(Bytes::from(value))
}

#[derive(Serialize)]
struct Stored {
    bucket: String,
    key: String,
    bytes: usize,
    siblings: usize,
    context: Option<String>,
}

impl Report for Stored {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { bucket, key, bytes, siblings, .. } = self;
        writeln!(out, "stored {bucket}/{key} ({})", indicatif::HumanBytes(*bytes as u64))?;
        if *siblings > 1 {
            writeln!(
                out,
                "it has {siblings} siblings now; `rondel kv get {bucket} {key}` shows them and how to replace them"
            )?;
        }
        Ok(())
    }
}
