//! `rondel kv`: the key-value store from the command line, over Riak's Protocol Buffers interface.

mod delete;
mod export;
mod get;
mod import;
mod list;
mod put;
mod record;
mod servers;
#[cfg(test)]
mod test_server;

use crate::{failure::Advise, output::Output, rt, targets::PbHosts};
use anyhow::Context;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use clap::{Args, Subcommand};
use servers::{Persistence, Servers};
use std::time::Duration;

/// What to do with the store.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Read an object, with all its siblings
    Get(get::Options),
    /// Write an object
    Put(put::Options),
    /// Delete an object
    Delete(delete::Options),
    /// List the keys of a bucket, or the buckets
    List(list::Options),
    /// Write the objects of a JSON Lines file
    Import(import::Options),
    /// Write the objects of a bucket as JSON Lines
    Export(export::Options),
}

/// Runs the command.
pub(crate) fn run(command: Command, output: Output) -> anyhow::Result<()> {
    let runtime = rt::single_threaded()?;
    runtime.block_on(async {
        match command {
            Command::Get(options) => get::run(&options, output).await,
            Command::Put(options) => put::run(&options, output).await,
            Command::Delete(options) => delete::run(&options, output).await,
            Command::List(options) => list::run(&options, output).await,
            Command::Import(options) => Box::pin(import::run(&options, output)).await,
            Command::Export(options) => Box::pin(export::run(&options, output)).await,
        }
    })
}

/// Flags that say whom to ask, and how long to wait.
#[derive(Args, Debug, Clone)]
struct Connection {
    #[command(flatten)]
    hosts: PbHosts,
    /// How long a server may take for one answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    timeout: u32,
}

impl Connection {
    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }

    /// As the servers count it: they should give up, with a reason, just before we do.
    fn timeout_ms(&self) -> Option<u32> {
        Some(self.timeout.saturating_mul(1000))
    }
}

/// Flags that name an object.
#[derive(Args, Debug, Clone)]
struct Address {
    /// The bucket
    bucket: String,
    /// The key
    key: String,
    /// The bucket type [default: default]
    #[arg(long = "type", value_name = "TYPE")]
    bucket_type: Option<String>,
}

impl Address {
    fn bucket(&self) -> Bytes {
        Bytes::copy_from_slice(self.bucket.as_bytes())
    }

    fn key(&self) -> Bytes {
        Bytes::copy_from_slice(self.key.as_bytes())
    }

    fn bucket_type(&self) -> Option<Bytes> {
        bucket_type(self.bucket_type.as_ref())
    }

    fn shown(&self) -> String {
        format!("{}/{}", self.bucket, self.key)
    }
}

fn bucket_type(name: Option<&String>) -> Option<Bytes> {
    name.map(|name| Bytes::copy_from_slice(name.as_bytes()))
}

/// One request to whichever server can be reached: each is tried once, and a refusal is an answer.
fn once_each(hosts: &[String]) -> Persistence {
    Persistence { attempts: u32::try_from(hosts.len()).unwrap_or(u32::MAX), despite_refusals: false }
}

fn context_from(text: Option<&String>) -> anyhow::Result<Option<Bytes>> {
    let Some(text) = text else { return Ok(None) };
    let bytes = BASE64
        .decode(text)
        .with_context(|| format!("the context `{text}` is not Base64"))
        .advise(|| "give the context exactly as `rondel kv get` shows it".into())?;
    Ok(Some(Bytes::from(bytes)))
}
