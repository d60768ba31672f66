//! Counters that outlive the loss of a node: one process of this program on each of three machines, or three on one.
//!
//! ```text
//! counter --data one   --listen 127.0.0.1:7401 --bulk 127.0.0.1:7411 --founders 3
//! counter --data two   --listen 127.0.0.1:7402 --bulk 127.0.0.1:7412 --join TOKEN
//! counter --data three --listen 127.0.0.1:7403 --bulk 127.0.0.1:7413 --join TOKEN
//! ```
//!
//! The first prints the token for the others. Each prints `serving` once all of them are there, and then answers the
//! lines that it reads: `add visits 3`, `add visits -1`, `get visits`, `get visits 1` (ask one replica), `status`.
//! Kill any of them, at any time, and go on with the others; start it again as it was started before, and it gets what
//! it missed.

use rondel_core::{
    Cluster,
    env::Env,
    node::{Founding, MemberState, NodeConfig, Origin},
    request::{Need, Options},
    vnode::{BoxError, Storage},
};
use rondel_dt::{Counter, Counters};
use std::io::Write;
use tokio::io::{AsyncBufReadExt, BufReader};

// The application.

/// Does what a line says.
async fn answer(cluster: &Cluster, line: &str) -> Result<String, BoxError> {
    let counters = Counters::of(cluster);
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["add", key, by] => {
            let by: i64 = by.parse()?;
            let value = match by < 0 {
                true => counters.decrement(key, by.unsigned_abs()).await?,
                false => counters.increment(key, by.unsigned_abs()).await?,
            };
            Ok(value.to_string())
        }
        ["get", key] => Ok(counters.value(key).await?.to_string()),
        ["get", key, replicas] => {
            let options = Options { need: Need::Count(replicas.parse()?), ..Options::default() };
            Ok(counters.with_options(options).value(key).await?.to_string())
        }
        ["status"] => {
            let status = cluster.status();
            let are = |state| status.members.iter().filter(|member| member.state == state).count();
            let hints: u64 = status.hints.iter().map(|(_, hints)| hints).sum();
            Ok(format!("up={} down={} hints={hints}", are(MemberState::Up), are(MemberState::Down)))
        }
        _ => Err("say `add KEY NUMBER`, `get KEY`, `get KEY REPLICAS` or `status`".into()),
    }
}

// The process around it.

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let config = config_from(std::env::args().skip(1))?;
    let cluster =
        Cluster::builder(Env::production(), config).table::<Counter>(Storage::Durable).start().await?;
    if let Some(token) = cluster.join_token() {
        say(&format!("token {token}"))?;
    }
    cluster.serving().await?;
    say("serving")?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        match answer(&cluster, &line).await {
            Ok(value) => say(&format!("ok {value}"))?,
            Err(error) => say(&format!("error {error}"))?,
        }
    }
    cluster.shutdown().await;
    Ok(())
}

fn config_from(mut args: impl Iterator<Item = String>) -> Result<NodeConfig, BoxError> {
    let mut config = NodeConfig::new("data", "node");
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--data" => (config.data_dir, config.name) = (value.clone().into(), value),
            "--listen" => config.listen = value.parse()?,
            "--bulk" => config.bulk_listen = value.parse()?,
            "--join" => config.origin = Origin::Join(value.parse()?),
            "--founders" => {
                config.origin = Origin::Found(Founding { founders: value.parse()?, ..Founding::default() });
            }
            _ => return Err(format!("{name} is not known: see the head of this program").into()),
        }
    }
    Ok(config)
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
