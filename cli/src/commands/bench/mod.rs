//! `rondel bench`: load for any server that speaks Riak's Protocol Buffers interface, and what it costs in latency.
//!
//! Closed loop by default: each connection sends its next request when it has its answer, which finds the peak. With
//! `--rate` the loop is open: requests are due at fixed times, whether or not the server keeps up, and a latency is
//! counted from when the request was due. A server that stalls then shows the stall in every request that waited for
//! it, where a closed loop would just have sent fewer (coordinated omission).
//!
//! Puts carry the causal context that this run last saw of their key, as an application's would: blind ones would pile
//! up siblings, and measure those. Two connections that write one key at once still make siblings, which the next
//! put of that key replaces.
//!
//! All connections are driven by the calling task, so that on a machine shared with the nodes the load costs little.

mod contexts;
mod pace;
mod report;
mod workload;

use crate::{
    failure::failure,
    output::{Output, message},
    pb_client::{PbClient, PbError},
    rt,
};
use anyhow::{Context as _, ensure};
use bytes::Bytes;
use contexts::Contexts;
use futures_util::{StreamExt as _, future::try_join_all, stream::FuturesUnordered};
use pace::Pace;
use report::{Answer, BenchReport, Load, Preload, Recorder};
use rondel_proto::riak::QuorumArg;
use std::{cell::Cell, cell::RefCell, time::Duration};
use workload::{Distribution, Operation, Workload};

/// A connection that could not be made is tried again, at the next host, after this.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);
/// How often one key of the preload is tried.
const PRELOAD_ATTEMPTS: u32 = 20;

/// What load to make.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct BenchArgs {
    /// Servers, as host:port; connections are spread over them
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:8087")]
    pub(crate) hosts: Vec<String>,
    /// Connections, over all hosts
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) connections: u32,
    /// How long is measured, in seconds
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) seconds: u32,
    /// How long the load runs before it is measured, in seconds
    #[arg(long, default_value_t = 5)]
    pub(crate) warmup: u32,
    /// Bytes of a value
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(0..=50_000_000))]
    pub(crate) value_size: u32,
    /// How many keys there are
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) keys: u64,
    /// Which keys are asked for how often
    #[arg(long, value_enum, default_value_t = Distribution::Uniform)]
    pub(crate) distribution: Distribution,
    /// The share of gets, 0 to 1; the rest are puts
    #[arg(long, default_value_t = 0.5)]
    pub(crate) read_share: f64,
    /// Bucket
    #[arg(long, default_value = "bench")]
    pub(crate) bucket: String,
    /// Bucket type
    #[arg(long)]
    pub(crate) bucket_type: Option<String>,
    /// Replicas that must answer a get: a number, one, quorum, all
    #[arg(long)]
    pub(crate) r: Option<QuorumArg>,
    /// Replicas that must acknowledge a put: a number, one, quorum, all
    #[arg(long)]
    pub(crate) w: Option<QuorumArg>,
    /// Replicas among them that must have it on disk, at least one [default: all of them]
    #[arg(long)]
    pub(crate) dw: Option<QuorumArg>,
    /// Requests per second, due at fixed times (open loop); without it every connection is always busy
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Write every key once before the load, replacing what is there
    #[arg(long)]
    pub(crate) preload: bool,
    /// Puts carry no causal context: in a bucket that keeps siblings, each adds one
    #[arg(long)]
    pub(crate) blind: bool,
    /// How long a request may take, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) timeout: u32,
    /// Seed of the choice of keys and operations
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// Runs the load and writes what was measured.
pub(crate) fn run(args: BenchArgs, output: Output) -> anyhow::Result<()> {
    let report = rt::single_threaded()?.block_on(measure(args))?;
    Ok(output.report(&report)?)
}

/// Runs the load.
///
/// # Errors
/// An argument out of range, no server at the first host, or a preload that can't be finished. Errors during the
/// load are counted in the report instead.
async fn measure(args: BenchArgs) -> anyhow::Result<BenchReport> {
    check(&args)?;
    let server = server_name(&args).await?;
    let workload = Workload::new(&args);
    let contexts = Contexts::default();
    let preload = if args.preload { Some(preload(&args, &workload, &contexts).await?) } else { None };

    let pace = Pace::start(args.rate, u64::from(args.warmup), u64::from(args.seconds))?;
    let recorder = RefCell::new(Recorder::new());
    let drivers: FuturesUnordered<_> = (0..args.connections)
        .map(|index| drive(Link::new(&args, index, &contexts), &workload, &pace, &recorder))
        .collect();
    drivers.collect::<()>().await;

    let load = Load::of(&args, server, preload, &pace);
    Ok(recorder.into_inner().report(load))
}

fn check(args: &BenchArgs) -> anyhow::Result<()> {
    ensure!(
        (0.0..=1.0).contains(&args.read_share),
        "--read-share is between 0 and 1, not {}",
        args.read_share
    );
    ensure!(!args.hosts.is_empty(), "--hosts names no server");
    if let Some(rate) = args.rate {
        ensure!((0.001..=10_000_000.0).contains(&rate), "--rate is between 0.001 and 10000000, not {rate}");
    }
    Ok(())
}

/// What the first host says it is: a benchmark of nothing should end before it begins.
async fn server_name(args: &BenchArgs) -> anyhow::Result<String> {
    let host = args.hosts.first().context("--hosts names no server")?;
    let asked = async { PbClient::connect(host, timeout(args)).await?.server_info().await };
    let server = asked.await.map_err(|error| {
        let advice = error.advice();
        failure(message(&error.into()), advice)
    })?;
    let text = |bytes: &Option<bytes::Bytes>| {
        String::from_utf8_lossy(bytes.as_deref().unwrap_or_default()).into_owned()
    };
    Ok(format!("{} {}", text(&server.node), text(&server.server_version)))
}

fn timeout(args: &BenchArgs) -> Duration {
    Duration::from_secs(args.timeout.into())
}

/// One connection: takes what is due, asks, records, until nothing more will be due.
async fn drive(mut link: Link<'_>, workload: &Workload, pace: &Pace, recorder: &RefCell<Recorder>) {
    let mut choices = workload.choices(link.args.seed, link.index.into());
    while let Some(due) = pace.next().await {
        let operation = choices.next(link.contexts);
        let kind = operation.kind();
        let answer = link.perform(operation).await;
        if pace.is_measured(due) {
            recorder.borrow_mut().record(kind, rt::now().saturating_duration_since(due), &answer);
        }
        if let Err(PbError::Connect { .. }) = answer {
            rt::sleep(RECONNECT_DELAY).await;
        }
    }
}

/// Replaces what is under every key, on all connections.
async fn preload(args: &BenchArgs, workload: &Workload, contexts: &Contexts) -> anyhow::Result<Preload> {
    let started = rt::now();
    let progress = indicatif::ProgressBar::new(args.keys);
    let next_key = Cell::new(0);
    let writers = (0..args.connections).map(|index| {
        let (next_key, progress) = (&next_key, &progress);
        async move {
            let mut link = Link::new(args, index, contexts);
            let mut choices = workload.choices(args.seed, index.into());
            while next_key.get() < args.keys {
                let key = next_key.replace(next_key.get() + 1);
                if !args.blind {
                    let looked = do_surely(&mut link, choices.look(key)).await;
                    looked.with_context(|| format!("look for key {key}"))?;
                }
                let written = do_surely(&mut link, choices.put(key, contexts)).await;
                written.with_context(|| format!("preload key {key}"))?;
                progress.inc(1);
            }
            anyhow::Ok(())
        }
    });
    try_join_all(writers).await?;
    progress.finish_and_clear();
    Ok(Preload::new(args.keys, started.elapsed()))
}

/// Asks until it has worked: a cluster under load may refuse for a while.
async fn do_surely(link: &mut Link<'_>, operation: Operation<'_>) -> Result<(), PbError> {
    let mut attempt = 1;
    loop {
        match link.perform(operation).await {
            Ok(_) => return Ok(()),
            Err(error) if attempt == PRELOAD_ATTEMPTS => return Err(error),
            Err(_) => rt::sleep(RECONNECT_DELAY * attempt).await,
        }
        attempt += 1;
    }
}

/// A connection that is made when it is needed and made anew, to the next host, after it broke.
struct Link<'a> {
    args: &'a BenchArgs,
    index: u32,
    contexts: &'a Contexts,
    host: usize,
    client: Option<PbClient>,
}

impl<'a> Link<'a> {
    fn new(args: &'a BenchArgs, index: u32, contexts: &'a Contexts) -> Self {
        Self { args, index, contexts, host: index as usize % args.hosts.len(), client: None }
    }

    async fn perform(&mut self, operation: Operation<'_>) -> Result<Answer, PbError> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => self.connect().await?,
        };
        let answer = match operation {
            Operation::Get(key, request) => client.get(request).await.map(|answer| {
                self.saw(key, answer.vclock.as_ref());
                Answer::of_get(&answer)
            }),
            Operation::Put(key, request) => client.put(request).await.map(|answer| {
                self.saw(key, answer.vclock.as_ref());
                Answer::of_put(&answer)
            }),
        };
        match answer {
            // The server's refusal leaves the connection as it was.
            Ok(_) | Err(PbError::Server(_)) => self.client = Some(client),
            Err(_) => self.move_on(),
        }
        answer
    }

    /// Remembers a context for the puts to come, if there will be any.
    fn saw(&self, key: u64, context: Option<&Bytes>) {
        let writes = self.args.read_share < 1.0 || self.args.preload;
        if let Some(context) = context.filter(|_| writes && !self.args.blind) {
            self.contexts.saw(key, context);
        }
    }

    async fn connect(&mut self) -> Result<PbClient, PbError> {
        let connected = PbClient::connect(&self.args.hosts[self.host], timeout(self.args)).await;
        if connected.is_err() {
            self.move_on();
        }
        connected
    }

    fn move_on(&mut self) {
        self.host = (self.host + 1) % self.args.hosts.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use clap::Parser as _;
    use rondel_proto::riak::{Code, RiakError, messages::*, pbc};
    use std::collections::BTreeMap;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    pub(super) fn args(given: &[&str]) -> BenchArgs {
        Line::parse_from(std::iter::once("bench").chain(given.iter().copied())).args
    }

    /// A server in a map; every seventh put is refused. A value's context is the number of its write, and a put that
    /// carries another one is refused, too.
    async fn serve(listener: TcpListener) {
        let objects = RefCell::new(BTreeMap::new());
        let mut connections = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(()) = connections.next() => {}
                accepted = listener.accept() => connections.push(answer(accepted.unwrap().0, &objects)),
            }
        }
    }

    async fn answer(mut stream: TcpStream, objects: &RefCell<BTreeMap<Bytes, (u64, Bytes)>>) {
        let (mut received, mut out) = (BytesMut::new(), BytesMut::new());
        let mut puts = 0;
        while stream.read_buf(&mut received).await.unwrap() > 0 {
            while let Some(frame) = pbc::take_frame(&mut received, 1 << 20).unwrap() {
                match Code::from_number(frame.code) {
                    Some(Code::RpbGetReq) => {
                        let get: RpbGetReq = pbc::decode(frame.payload).unwrap();
                        let held = objects.borrow().get(&get.key).cloned();
                        let answer = held.map(|(version, value)| RpbGetResp {
                            content: vec![RpbContent { value, ..RpbContent::default() }],
                            vclock: Some(version.to_string().into()),
                            ..RpbGetResp::default()
                        });
                        pbc::put(&mut out, &answer.unwrap_or_default()).unwrap();
                    }
                    Some(Code::RpbPutReq) => {
                        let put: RpbPutReq = pbc::decode(frame.payload).unwrap();
                        puts += 1;
                        let mut objects = objects.borrow_mut();
                        let (version, value) = objects.entry(put.key.unwrap()).or_default();
                        let expected = (*version > 0).then(|| Bytes::from(version.to_string()));
                        if puts % 7 == 0 {
                            pbc::put_error(&mut out, &RiakError::Overload);
                        } else if put.vclock.is_some() && put.vclock != expected {
                            pbc::put_error(&mut out, &RiakError::Other("an old context".into()));
                        } else {
                            *version += 1;
                            *value = put.content.value;
                            let content =
                                vec![RpbContent::default(); if put.vclock == expected { 1 } else { 2 }];
                            let vclock = put.return_head.map(|_| version.to_string().into());
                            pbc::put(&mut out, &RpbPutResp { content, vclock, key: None }).unwrap();
                        }
                    }
                    Some(Code::RpbGetServerInfoReq) => pbc::put_empty(&mut out, Code::RpbGetServerInfoResp),
                    other => panic!("{other:?}"),
                }
            }
            stream.write_all(&out).await.unwrap();
            out.clear();
        }
    }

    fn bench(given: &[&str]) -> BenchReport {
        rt::single_threaded().unwrap().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut args = args(given);
            args.hosts = vec![listener.local_addr().unwrap().to_string()];
            tokio::select! {
                biased;
                report = measure(args) => report.unwrap(),
                () = serve(listener) => unreachable!("the server never ends"),
            }
        })
    }

    #[test]
    fn a_preloaded_key_is_found() {
        let load =
            ["--connections", "4", "--keys", "50", "--warmup", "0", "--seconds", "1", "--read-share", "0.8"];
        let report = bench(&[&load[..], &["--preload"]].concat());
        assert!(report.gets.ops > 0 && report.puts.ops > 0, "{report}");
        assert_eq!((report.gets.notfound, report.gets.errors.len()), (0, 0), "{report}");
        assert!(report.puts.errors["overload"] > 0, "{report}");
        let gets = report.gets.ops as f64 / (report.gets.ops + report.puts.ops) as f64;
        assert!((0.7..0.9).contains(&gets), "{report}");
    }

    #[test]
    fn puts_replace_what_this_run_has_seen_and_blind_ones_do_not() {
        let load =
            ["--connections", "1", "--keys", "3", "--warmup", "0", "--seconds", "1", "--read-share", "0"];
        let seen = bench(&load);
        assert!(seen.puts.ops > 10 && seen.puts.siblings == 0, "{seen}");
        assert!(!seen.puts.errors.contains_key("an old context"), "{seen}");
        let blind = bench(&[&load[..], &["--blind"]].concat());
        assert_eq!(blind.puts.siblings, blind.puts.ops - 3, "{blind}");
    }

    #[test]
    fn an_open_loop_asks_as_often_as_it_is_told() {
        let report = bench(&["--connections", "4", "--rate", "200", "--warmup", "0", "--seconds", "1"]);
        let errors: u64 = report.puts.errors.values().sum();
        assert_eq!(report.gets.ops + report.puts.ops + errors + report.load.not_started, 200, "{report}");
        assert!(report.gets.notfound > 0, "nothing was there at first: {report}");
    }

    #[test]
    fn arguments_out_of_range_are_refused() {
        for given in [["--read-share", "1.5"], ["--rate", "0"]] {
            let outcome = rt::single_threaded().unwrap().block_on(measure(args(&given)));
            assert!(outcome.is_err_and(|error| error.to_string().contains(given[0])));
        }
        assert!(Line::try_parse_from(["bench", "--connections", "0"]).is_err());
        assert!(Line::try_parse_from(["bench", "--r", "some"]).is_err());
    }
}
