//! `rondel kv export`: the objects of a bucket as JSON Lines, one line for each sibling.

use super::{
    Connection, bucket_type,
    get::distinct,
    record::Record,
    servers::{Persistence, Servers},
};
use crate::{
    failure::{Advise, failure},
    output::Output,
};
use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::HumanCount;
use rondel_proto::riak::{
    QuorumArg,
    messages::{RpbGetReq, RpbGetResp, RpbListKeysReq},
};
use std::{
    cell::RefCell,
    fs::File,
    io::{self, BufWriter, Write},
    path::PathBuf,
};

/// How often one object is tried, over all servers.
const ATTEMPTS: u32 = 20;

/// What to export, and where to.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The bucket
    bucket: String,
    /// The bucket type [default: default]
    #[arg(long = "type", value_name = "TYPE")]
    bucket_type: Option<String>,
    /// Write to a file [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Objects that are being read at once, each over a connection of its own
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// Replicas that must answer: a number, one, quorum, all
    #[arg(long)]
    r: Option<QuorumArg>,
    #[command(flatten)]
    connection: Connection,
}

/// Writes every object; one that can't be read ends the export with an error.
pub(super) async fn run(options: &Options, output: Output) -> anyhow::Result<()> {
    let hosts = options.connection.hosts.resolve()?;
    let mut writer: Box<dyn Write> = match &options.output {
        Some(path) => {
            let file = File::create(path).with_context(|| format!("cannot write {}", path.display()));
            Box::new(BufWriter::new(file.advise(|| "choose another --output".into())?))
        }
        None => Box::new(BufWriter::new(io::stdout())),
    };
    let keys = keys(options, &hosts).await?;
    let idle = (0..usize::from(options.concurrency))
        .map(|index| Servers::new(&hosts, index, options.connection.timeout()));
    let idle = RefCell::new(idle.collect::<Vec<_>>());
    let (mut objects, mut lines) = (0_u64, 0_u64);
    let mut answers = stream::iter(keys)
        .map(|key| async {
            let mut servers = idle.borrow_mut().pop().context("as many connections as reads at once")?;
            let answer = read(options, &mut servers, &key).await;
            idle.borrow_mut().push(servers);
            anyhow::Ok((key, answer?))
        })
        .buffer_unordered(usize::from(options.concurrency));
    while let Some((key, answer)) = answers.try_next().await? {
        let contents = distinct(&answer.content);
        for content in &contents {
            serde_json::to_writer(&mut writer, &Record::of(options.bucket.as_bytes(), &key, content))
                .map_err(io::Error::from)?;
            writer.write_all(b"\n")?;
        }
        objects += u64::from(!contents.is_empty());
        lines += contents.len() as u64;
    }
    writer.flush()?;
    output.note(match lines - objects {
        0 => format!("exported {} objects", HumanCount(objects)),
        more => format!(
            "exported {} objects in {} lines: {} are further siblings",
            HumanCount(objects),
            HumanCount(lines),
            HumanCount(more)
        ),
    });
    Ok(())
}

async fn keys(options: &Options, hosts: &[String]) -> anyhow::Result<Vec<Bytes>> {
    let request = RpbListKeysReq {
        bucket: Bytes::copy_from_slice(options.bucket.as_bytes()),
        timeout: options.connection.timeout_ms(),
        r#type: bucket_type(options.bucket_type.as_ref()),
    };
    let mut servers = Servers::new(hosts, 0, options.connection.timeout());
    let listed = servers
        .call(persistence(), async |client, _| client.list_keys(&request).await?.collect().await)
        .await;
    listed.map_err(anyhow::Error::from).context("cannot list the keys")
}

async fn read(options: &Options, servers: &mut Servers<'_>, key: &Bytes) -> anyhow::Result<RpbGetResp> {
    let request = RpbGetReq {
        bucket: Bytes::copy_from_slice(options.bucket.as_bytes()),
        key: key.clone(),
        r#type: bucket_type(options.bucket_type.as_ref()),
        r: options.r.map(QuorumArg::to_wire),
        timeout: options.connection.timeout_ms(),
        ..RpbGetReq::default()
    };
    let answer: Result<_, _> =
        servers.call(persistence(), async |client, _| client.get(&request).await).await;
    answer.map_err(|gave_up| {
        let key = String::from_utf8_lossy(key);
        failure(
            format!("cannot read {}/{key}: {}", options.bucket, gave_up.error),
            "the export is not whole; run it again",
        )
    })
}

fn persistence() -> Persistence {
    Persistence { attempts: ATTEMPTS, despite_refusals: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{commands::kv::test_server::TestServer, output::Format, rt};
    use clap::Parser;
    use std::fs;

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn every_value_of_the_bucket_becomes_a_line() {
        let server = TestServer::start_in_background();
        server.store("b", "one", &["1"]);
        server.store("b", "two", &["2", "deux"]);
        server.store("other", "three", &["3"]);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("out.jsonl");
        let words = ["export", "b", "--hosts", &server.address(), "--output", file.to_str().unwrap()];
        let options = CommandLine::parse_from(words).options;
        rt::single_threaded().unwrap().block_on(run(&options, Output::new(Format::Json))).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let mut lines = text.lines().collect::<Vec<_>>();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                r#"{"bucket":"b","key":"one","value":"1"}"#,
                r#"{"bucket":"b","key":"two","value":"2"}"#,
                r#"{"bucket":"b","key":"two","value":"deux"}"#
            ]
        );
    }
}
