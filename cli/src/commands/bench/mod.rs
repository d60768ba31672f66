//! `rondel bench`: load for any server that speaks Riak's Protocol Buffers interface, and what it costs in latency.
//!
//! Closed loop by default: each connection sends its next request when it has its answer, which finds the peak. With
//! `--rate` the loop is open: requests are due at fixed times, whether or not the server keeps up, and a latency is
//! counted from when the request was due. A server that stalls then shows the stall in every request that waited for
//! it, where a closed loop would just have sent fewer (coordinated omission).
//!
//! All connections are driven by the calling task, so that on a machine shared with the nodes the load costs little.

mod pace;
mod report;
mod workload;

use crate::{
    output::Output,
    pb_client::{PbClient, PbError},
    rt,
};
use anyhow::{Context as _, ensure};
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
    /// Bucket; puts carry no causal context, so one that keeps siblings will collect them
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
    /// Requests per second, due at fixed times (open loop); without it every connection is always busy
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Write every key once before the load
    #[arg(long)]
    pub(crate) preload: bool,
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
    let preload = if args.preload { Some(preload(&args, &workload).await?) } else { None };

    let pace = Pace::start(args.rate, u64::from(args.warmup), u64::from(args.seconds))?;
    let recorder = RefCell::new(Recorder::new());
    let drivers: FuturesUnordered<_> =
        (0..args.connections).map(|index| drive(&args, index, &workload, &pace, &recorder)).collect();
    drivers.collect::<()>().await;

    let load = Load::of(&args, server, preload, pace.not_started());
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
    let mut client = PbClient::connect(host, timeout(args)).await?;
    let server = client.server_info().await.with_context(|| format!("ask {host} who it is"))?;
    let text = |bytes: &Option<bytes::Bytes>| {
        String::from_utf8_lossy(bytes.as_deref().unwrap_or_default()).into_owned()
    };
    Ok(format!("{} {}", text(&server.node), text(&server.server_version)))
}

fn timeout(args: &BenchArgs) -> Duration {
    Duration::from_secs(args.timeout.into())
}

/// One connection: takes what is due, asks, records, until nothing more will be due.
async fn drive(args: &BenchArgs, index: u32, workload: &Workload, pace: &Pace, recorder: &RefCell<Recorder>) {
    let mut link = Link::new(args, index);
    let mut choices = workload.choices(args.seed, index.into());
    while let Some(due) = pace.next().await {
        let operation = choices.next();
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

/// Writes every key once, on all connections.
async fn preload(args: &BenchArgs, workload: &Workload) -> anyhow::Result<Preload> {
    let started = rt::now();
    let progress = indicatif::ProgressBar::new(args.keys);
    let next_key = Cell::new(0);
    let writers = (0..args.connections).map(|index| {
        let (next_key, progress) = (&next_key, &progress);
        async move {
            let mut link = Link::new(args, index);
            let mut choices = workload.choices(args.seed, index.into());
            while next_key.get() < args.keys {
                let key = next_key.replace(next_key.get() + 1);
                write_surely(&mut link, choices.put(key))
                    .await
                    .with_context(|| format!("preload key {key}"))?;
                progress.inc(1);
            }
            anyhow::Ok(())
        }
    });
    try_join_all(writers).await?;
    progress.finish_and_clear();
    Ok(Preload::new(args.keys, started.elapsed()))
}

/// Writes until it has worked: a cluster under load may refuse for a while.
async fn write_surely(link: &mut Link<'_>, put: Operation<'_>) -> Result<(), PbError> {
    let mut attempt = 1;
    loop {
        match link.perform(put).await {
            Ok(_) => return Ok(()),
            Err(error) if attempt == PRELOAD_ATTEMPTS => return Err(error),
            Err(_) => rt::sleep(RECONNECT_DELAY * attempt).await,
        }
        attempt += 1;
    }
}

/// A connection that is made when it is needed and made anew, to the next host, after it broke.
struct Link<'a> {
    hosts: &'a [String],
    host: usize,
    timeout: Duration,
    client: Option<PbClient>,
}

impl<'a> Link<'a> {
    fn new(args: &'a BenchArgs, index: u32) -> Self {
        Self {
            hosts: &args.hosts,
            host: index as usize % args.hosts.len(),
            timeout: timeout(args),
            client: None,
        }
    }

    async fn perform(&mut self, operation: Operation<'_>) -> Result<Answer, PbError> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => self.connect().await?,
        };
        let answer = match operation {
            Operation::Get(request) => client.get(request).await.map(|answer| Answer::of_get(&answer)),
            Operation::Put(request) => client.put(request).await.map(|_| Answer::Done),
        };
        match answer {
            // The server's refusal leaves the connection as it was.
            Ok(_) | Err(PbError::Server(_)) => self.client = Some(client),
            Err(_) => self.move_on(),
        }
        answer
    }

    async fn connect(&mut self) -> Result<PbClient, PbError> {
        let connected = PbClient::connect(&self.hosts[self.host], self.timeout).await;
        if connected.is_err() {
            self.move_on();
        }
        connected
    }

    fn move_on(&mut self) {
        self.host = (self.host + 1) % self.hosts.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{Bytes, BytesMut};
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

    /// A server in a map; every seventh put is refused.
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

    async fn answer(mut stream: TcpStream, objects: &RefCell<BTreeMap<Bytes, Bytes>>) {
        let (mut received, mut out) = (BytesMut::new(), BytesMut::new());
        let mut puts = 0;
        while stream.read_buf(&mut received).await.unwrap() > 0 {
            while let Some(frame) = pbc::take_frame(&mut received, 1 << 20).unwrap() {
                match Code::from_number(frame.code) {
                    Some(Code::RpbGetReq) => {
                        let get: RpbGetReq = pbc::decode(frame.payload).unwrap();
                        let content = objects.borrow().get(&get.key).map(|value: &Bytes| RpbContent {
                            value: value.clone(),
                            ..RpbContent::default()
                        });
                        let answer =
                            RpbGetResp { content: content.into_iter().collect(), ..RpbGetResp::default() };
                        pbc::put(&mut out, &answer).unwrap();
                    }
                    Some(Code::RpbPutReq) => {
                        let put: RpbPutReq = pbc::decode(frame.payload).unwrap();
                        puts += 1;
                        if puts % 7 == 0 {
                            pbc::put_error(&mut out, &RiakError::Overload);
                        } else {
                            objects.borrow_mut().insert(put.key.unwrap(), put.content.value);
                            pbc::put_empty(&mut out, Code::RpbPutResp);
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
