//! `rondel kv import`: the objects of a JSON Lines file, many at once, over the failure of nodes.
//!
//! A record whose write fails is tried again at the next server. From the second attempt on it is read first: a write
//! whose answer was lost may have been done, and a second one would leave two equal siblings. For the same reason a file
//! may be imported twice.

use super::{
    Connection, bucket_type,
    record::{Item, Record},
    servers::{GaveUp, Persistence, Servers},
};
use crate::{
    failure::{Advise, failure},
    output::{Output, Report},
    pb_client::{PbClient, PbError},
    rt,
};
use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use futures_util::future::join_all;
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use rondel_proto::riak::{
    QuorumArg,
    messages::{RpbContent, RpbGetReq, RpbPutReq},
};
use serde::Serialize;
use std::{
    cell::{Cell, RefCell},
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

/// The longest line: no server takes a larger object.
const LINE_BYTES_MAX: u64 = 128 << 20;
/// How much is read from the file at once.
const READ_BYTES: usize = 1 << 20;
/// How many failed records are told one by one.
const FAILURES_SHOWN: u64 = 20;

/// What to import, and how.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// A JSON Lines file, or `-` for standard input: {"bucket"?, "key", "value" or "value_base64", "content_type"?}
    file: PathBuf,
    /// The bucket of records that name none
    #[arg(long)]
    bucket: Option<String>,
    /// The bucket type [default: default]
    #[arg(long = "type", value_name = "TYPE")]
    bucket_type: Option<String>,
    /// Records that are being written at once, each over a connection of its own
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// How often one record is tried, over all servers
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    attempts: u32,
    /// Replicas that must acknowledge: a number, one, quorum, all
    #[arg(long, conflicts_with = "verify")]
    w: Option<QuorumArg>,
    /// Write nothing: read every record and compare; one that is missing or has other values fails
    #[arg(long)]
    verify: bool,
    /// With --verify, replicas that must answer
    #[arg(long, requires = "verify")]
    r: Option<QuorumArg>,
    #[command(flatten)]
    connection: Connection,
}

/// Writes every record; any that failed makes the command fail, after all of them were tried.
pub(super) async fn run(options: &Options, output: Output) -> anyhow::Result<()> {
    let hosts = options.connection.hosts.resolve()?;
    let (source, bytes) = open(&options.file).await?;
    let import = Import {
        options,
        output,
        source: tokio::sync::Mutex::new(Lines { source, number: 0 }),
        progress: progress(bytes, output),
        stopped: RefCell::new(None),
        imported: Cell::new(0),
        failed: Cell::new(0),
        shown: RefCell::default(),
        bytes: Cell::new(0),
    };
    let began = rt::now();
    join_all((0..usize::from(options.concurrency)).map(|index| import.work(&hosts, index))).await;
    import.progress.finish_and_clear();
    let report = Imported {
        verified: options.verify,
        imported: import.imported.get(),
        failed: import.failed.get(),
        bytes: import.bytes.get(),
        seconds: rt::now().saturating_duration_since(began).as_secs_f64(),
        failures: import.shown.take(),
    };
    output.report(&report)?;
    if let Some(error) = import.stopped.take() {
        return Err(error);
    }
    if report.failed > 0 {
        let all = report.failed + report.imported;
        return Err(failure(
            format!("{} of {} records were not {}", report.failed, all, report.verb()),
            "the lines are named; correct or import them again",
        ));
    }
    Ok(())
}

type Source = BufReader<tokio::fs::File>;

/// The records, and how many bytes they are if that is known.
async fn open(path: &Path) -> anyhow::Result<(Source, Option<u64>)> {
    let opened = async {
        let file = match path == Path::new("-") {
            true => tokio::fs::File::from_std(File::from(io::stdin().as_fd().try_clone_to_owned()?)),
            false => tokio::fs::File::open(path).await?,
        };
        let metadata = file.metadata().await?;
        anyhow::Ok((file, metadata.is_file().then_some(metadata.len())))
    };
    let opened = opened.await.with_context(|| format!("cannot read {}", path.display()));
    let (file, bytes) =
        opened.advise(|| "give a JSON Lines file that this user can read, or - for standard input".into())?;
    Ok((BufReader::with_capacity(READ_BYTES, file), bytes))
}

fn progress(bytes: Option<u64>, output: Output) -> ProgressBar {
    let target = if output.is_json() { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let (bar, template) = match bytes {
        Some(bytes) => {
            (ProgressBar::new(bytes), "{bar:30} {percent:>3}%  {msg}  {bytes_per_sec}  {eta} left")
        }
        None => (ProgressBar::new_spinner(), "{spinner} {msg}  {bytes}  {bytes_per_sec}"),
    };
    bar.set_draw_target(target);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

struct Import<'a> {
    options: &'a Options,
    output: Output,
    source: tokio::sync::Mutex<Lines>,
    progress: ProgressBar,
    /// Why no more lines are to be taken.
    stopped: RefCell<Option<anyhow::Error>>,
    imported: Cell<u64>,
    failed: Cell<u64>,
    /// The first lines that failed.
    shown: RefCell<Vec<FailedLine>>,
    bytes: Cell<u64>,
}

impl Import<'_> {
    /// Takes line after line until there are none, or until something stops the whole import.
    async fn work(&self, hosts: &[String], index: usize) {
        let mut servers = Servers::new(hosts, index, self.options.connection.timeout());
        while self.stopped.borrow().is_none() {
            let next = self.source.lock().await.next().await;
            let line = match next {
                Ok(Some(line)) => line,
                Ok(None) => return,
                Err(error) => return self.stop(error),
            };
            self.progress.inc(line.text.len() as u64);
            if line.text.trim_ascii().is_empty() {
                continue;
            }
            match self.import(&mut servers, &line).await {
                Ok(bytes) => {
                    self.imported.set(self.imported.get() + 1);
                    self.bytes.set(self.bytes.get() + bytes);
                    self.progress.set_message(format!("{} records", HumanCount(self.imported.get())));
                }
                Err(Failed::Record(why)) => self.fail(line.number, &why),
                Err(Failed::Servers(gave_up)) => {
                    self.fail(line.number, &format!("{}: {}", gave_up.host, gave_up.error));
                    return self.stop(anyhow::Error::from(gave_up).context("no server can be reached"));
                }
            }
        }
    }

    async fn import(&self, servers: &mut Servers<'_>, line: &Line) -> Result<u64, Failed> {
        let item = Record::parse(&line.text).map_err(|error| Failed::Record(error.to_string()))?;
        let named = self.options.bucket.as_ref().map(|bucket| Bytes::copy_from_slice(bucket.as_bytes()));
        let Some(bucket) = item.bucket.clone().or(named) else {
            return Err(Failed::Record("it names no bucket, and --bucket is not given".into()));
        };
        let put = self.put(bucket, &item);
        let persistence = Persistence { attempts: self.options.attempts, despite_refusals: true };
        let r = self.options.r.map(QuorumArg::to_wire);
        let done = match self.options.verify {
            true => {
                servers
                    .call(persistence, async |client, _| client.get(&read_of(&put, r)).await.map(Some))
                    .await
            }
            false => {
                servers
                    .call(persistence, async |client, attempt| {
                        write(client, &put, attempt).await.map(|()| None)
                    })
                    .await
            }
        };
        match done {
            Ok(None) => Ok(item.value.len() as u64),
            Ok(Some(found)) => compare(&put, &found.content).map(|()| item.value.len() as u64),
            Err(gave_up) if gave_up.is_refusal() => {
                Err(Failed::Record(format!("{}: {}", gave_up.host, gave_up.error)))
            }
            Err(gave_up) => Err(Failed::Servers(gave_up)),
        }
    }

    fn put(&self, bucket: Bytes, item: &Item) -> RpbPutReq {
        RpbPutReq {
            bucket,
            key: Some(item.key.clone()),
            r#type: bucket_type(self.options.bucket_type.as_ref()),
            content: RpbContent {
                value: item.value.clone(),
                content_type: Some(item.content_type.clone()),
                ..RpbContent::default()
            },
            w: self.options.w.map(QuorumArg::to_wire),
            return_head: Some(true),
            timeout: self.options.connection.timeout_ms(),
            ..RpbPutReq::default()
        }
    }

    fn fail(&self, line: u64, why: &str) {
        self.failed.set(self.failed.get() + 1);
        let told = self.failed.get();
        self.progress.suspend(|| match told {
            1..=FAILURES_SHOWN => {
                self.output.note(format!("line {line}: {why}"));
                self.shown.borrow_mut().push(FailedLine { line, why: why.to_owned() });
            }
            told if told == FAILURES_SHOWN + 1 => self.output.note("more lines failed, which are not shown"),
            _ => {}
        });
    }

    fn stop(&self, error: anyhow::Error) {
        self.stopped.borrow_mut().get_or_insert(error);
    }
}

/// Writes once, and sees to it that the same value written twice stays one value: by an attempt whose answer was lost,
/// or by an earlier import.
async fn write(client: &mut PbClient, put: &RpbPutReq, attempt: u32) -> Result<(), PbError> {
    if attempt == 1 && client.put(put).await?.content.len() < 2 {
        return Ok(());
    }
    let found = client.get(&read_of(put, None)).await?;
    if found.content.iter().all(|content| says_the_same(content, put)) {
        return client.put(&RpbPutReq { vclock: found.vclock, ..put.clone() }).await.map(drop);
    }
    // What somebody else wrote is not ours to replace, and what the first attempt wrote is there beside it.
    if attempt == 1 { Ok(()) } else { client.put(put).await.map(drop) }
}

fn read_of(put: &RpbPutReq, r: Option<u32>) -> RpbGetReq {
    RpbGetReq {
        bucket: put.bucket.clone(),
        key: put.key.clone().unwrap_or_default(),
        r#type: put.r#type.clone(),
        timeout: put.timeout,
        r,
        ..RpbGetReq::default()
    }
}

fn says_the_same(content: &RpbContent, put: &RpbPutReq) -> bool {
    content.value == put.content.value && content.content_type == put.content.content_type
}

/// Whether what was found is the record and nothing else.
fn compare(put: &RpbPutReq, found: &[RpbContent]) -> Result<(), Failed> {
    let key = String::from_utf8_lossy(put.key.as_deref().unwrap_or_default()).into_owned();
    match found {
        [] => Err(Failed::Record(format!("`{key}` is not found"))),
        found if found.iter().all(|content| says_the_same(content, put)) => Ok(()),
        [found] if found.value == put.content.value => {
            Err(Failed::Record(format!("`{key}` has this value, and another content type")))
        }
        [_] => Err(Failed::Record(format!("`{key}` has another value"))),
        found => {
            Err(Failed::Record(format!("`{key}` has {} siblings, not all of them this record", found.len())))
        }
    }
}

enum Failed {
    /// This record alone.
    Record(String),
    /// Nobody answers.
    Servers(GaveUp),
}

struct Lines {
    source: Source,
    number: u64,
}

struct Line {
    number: u64,
    text: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> anyhow::Result<Option<Line>> {
        let mut text = Vec::new();
        let read = (&mut self.source).take(LINE_BYTES_MAX).read_until(b'\n', &mut text).await;
        self.number += 1;
        match read.with_context(|| format!("cannot read line {}", self.number))? {
            0 => Ok(None),
            bytes if bytes as u64 == LINE_BYTES_MAX => {
                bail!("line {} is longer than {} MiB", self.number, LINE_BYTES_MAX >> 20)
            }
            _ => Ok(Some(Line { number: self.number, text })),
        }
    }
}

#[derive(Serialize)]
struct Imported {
    /// Whether the records were compared instead of written.
    verified: bool,
    #[serde(rename = "records")]
    imported: u64,
    failed: u64,
    bytes: u64,
    seconds: f64,
    /// The first of them; people are told at once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failures: Vec<FailedLine>,
}

#[derive(Serialize)]
struct FailedLine {
    line: u64,
    why: String,
}

impl Imported {
    fn verb(&self) -> &'static str {
        if self.verified { "verified" } else { "imported" }
    }
}

impl Report for Imported {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let time = indicatif::HumanDuration(Duration::from_secs_f64(self.seconds));
        let bytes = indicatif::HumanBytes(self.bytes);
        writeln!(
            out,
            "{} {} records ({bytes}) in {time}; {} failed",
            self.verb(),
            HumanCount(self.imported),
            HumanCount(self.failed)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{commands::kv::test_server::TestServer, output::Format};
    use clap::Parser;
    use std::{fs, ops::ControlFlow};

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        options: Options,
    }

    /// Imports `lines` into the test server and gives what the command ends with.
    fn import(server: &TestServer, lines: &str, more: &[&str]) -> anyhow::Result<()> {
        import_into(&[server.address()], lines, more)
    }

    fn import_into(hosts: &[String], lines: &str, more: &[&str]) -> anyhow::Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("records.jsonl");
        fs::write(&file, lines).unwrap();
        let hosts = hosts.join(",");
        let words = ["import", file.to_str().unwrap(), "--hosts", &hosts, "--timeout", "2"];
        let options = CommandLine::parse_from(words.iter().chain(more)).options;
        rt::single_threaded().unwrap().block_on(run(&options, Output::new(Format::Json)))
    }

    fn lines(count: u32) -> String {
        (0..count).map(|index| format!("{{\"key\":\"k{index}\",\"value\":\"v{index}\"}}\n")).collect()
    }

    #[test]
    fn every_record_is_written_once_where_its_line_says() {
        let server = TestServer::start_in_background();
        import(
            &server,
            &format!("{}{{\"bucket\":\"c\",\"key\":\"x\",\"value\":1}}", lines(200)),
            &["--bucket", "b"],
        )
        .unwrap();
        assert_eq!(server.count(), 201);
        assert_eq!(server.values("b", "k199"), ["v199"]);
        assert_eq!(server.values("c", "x"), ["1"]);
    }

    #[test]
    fn a_bad_line_is_counted_and_the_others_are_imported() {
        let server = TestServer::start_in_background();
        let text = format!("{}nonsense\n\n{{\"key\":\"y\",\"value\":\"z\"}}\n", lines(2));
        let error = import(&server, &text, &["--bucket", "b"]).unwrap_err();
        assert_eq!(error.to_string(), "1 of 4 records were not imported");
        assert_eq!(server.count(), 3);
    }

    #[test]
    fn a_record_without_a_bucket_needs_one_from_the_command_line() {
        let server = TestServer::start_in_background();
        assert!(import(&server, &lines(1), &[]).is_err());
        assert_eq!(server.count(), 0);
    }

    #[test]
    fn a_refusal_for_a_moment_is_outlived() {
        let server = TestServer::start_in_background();
        server.on_put(
            |puts| if puts % 3 == 0 { ControlFlow::Break("overload") } else { ControlFlow::Continue(()) },
        );
        import(&server, &lines(50), &["--bucket", "b"]).unwrap();
        assert_eq!(server.count(), 50);
    }

    #[test]
    fn a_write_whose_answer_was_lost_leaves_no_second_sibling() {
        let server = TestServer::start_in_background();
        server.lose_answers_of_puts(5);
        import(&server, &lines(50), &["--bucket", "b"]).unwrap();
        assert_eq!(server.count(), 50);
        assert_eq!(server.siblings_max(), 1);
    }

    #[test]
    fn a_file_imported_twice_leaves_one_value_of_each() {
        let server = TestServer::start_in_background();
        server.store("b", "k0", &["of somebody else"]);
        import(&server, &lines(3), &["--bucket", "b"]).unwrap();
        import(&server, &lines(3), &["--bucket", "b"]).unwrap();
        assert_eq!(server.values("b", "k1"), ["v1"]);
        assert!(server.values("b", "k0").contains(&"of somebody else".to_owned()));
    }

    #[test]
    fn a_record_that_is_missing_or_other_fails_to_verify() {
        let server = TestServer::start_in_background();
        import(&server, &lines(3), &["--bucket", "b"]).unwrap();
        import(&server, &lines(3), &["--bucket", "b", "--verify"]).unwrap();
        server.store("b", "k1", &["of somebody else"]);
        let error = import(&server, &lines(4), &["--bucket", "b", "--verify"]).unwrap_err();
        assert_eq!(error.to_string(), "2 of 4 records were not verified");
        assert_eq!(server.count(), 3);
    }

    #[test]
    fn a_dead_server_beside_a_live_one_costs_nothing() {
        let server = TestServer::start_in_background();
        let dead = rt::single_threaded().unwrap().block_on(TestServer::dead_address());
        import_into(&[dead, server.address()], &lines(50), &["--bucket", "b"]).unwrap();
        assert_eq!(server.count(), 50);
    }

    #[test]
    fn with_no_server_at_all_the_import_ends_and_says_so() {
        let dead = rt::single_threaded().unwrap().block_on(TestServer::dead_address());
        let error = import_into(&[dead], &lines(50), &["--bucket", "b", "--attempts", "1"]).unwrap_err();
        assert!(error.to_string().contains("no server can be reached"), "{error}");
    }
}
