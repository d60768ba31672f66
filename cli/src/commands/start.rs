//! `rondel start`: one node, from its configuration to its end.
//!
//! The order of a start: the listeners are taken first, so that an occupied port is told before anything is written;
//! then the admin listener answers, unhealthy until the node serves, so that who waits for it can see why; then the node
//! starts; clients are let in last. The order of an end is the reverse.

use crate::{
    config::{self, Config, Flags, Join, Layers},
    failure::{Advise, failure},
    files::write_private,
    logging,
    output::message,
    serve::{
        admin,
        node::NodeAdmin,
        pbc::{self, KvService, PbLimits, PbMetrics},
    },
};
use anyhow::Context;
use clap::Args;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use rondel_core::{
    env::Env,
    membership::JoinToken,
    node::{Builder, Cluster, Founding, NodeConfig, Origin, StartError},
    ring::Bits,
    store::{LogConfig, OpenError, StoreConfig},
};
use rondel_kv::{Client, KvVnode, VnodeConfig};
use std::{io, net::SocketAddr, path::Path, pin::pin, sync::Arc, time::Duration};
use tokio::{
    io::AsyncReadExt,
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
};

/// The file of the data directory in which a founding node leaves the token that lets others in.
pub(crate) const TOKEN_FILE: &str = "join-token";
/// How long requests that have begun may take when the node is told to stop.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// From 100 µs to 30 s: the bounds of every latency histogram, in seconds.
const LATENCY_BOUNDS: [f64; 17] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0,
];
/// The bounds of every histogram of counts.
const COUNT_BOUNDS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
/// From 256 bytes to 16 MiB: the bounds of every histogram of sizes.
const BYTES_BOUNDS: [f64; 9] =
    [256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];

/// The flags of `rondel start`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    flags: Flags,
    /// The data directory [key: node.dir]
    #[arg(long, value_name = "DIR")]
    dir: Option<String>,
    /// What people call the node [key: node.name]
    #[arg(long)]
    name: Option<String>,
    /// The token of the cluster to join, or @FILE [key: cluster.join]
    #[arg(long, value_name = "TOKEN", conflicts_with = "founders")]
    join: Option<String>,
    /// Members that a new cluster is formed of [key: cluster.founders]
    #[arg(long, value_name = "N")]
    founders: Option<String>,
    /// Where Protocol Buffers clients connect [key: listen.pb]
    #[arg(long, value_name = "ADDRESS")]
    pb: Option<String>,
    /// Where administrators and Prometheus connect [key: listen.admin]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// Where nodes connect for requests [key: listen.cluster]
    #[arg(long, value_name = "ADDRESS")]
    cluster: Option<String>,
    /// Where nodes connect for handoff and repair [key: listen.bulk]
    #[arg(long, value_name = "ADDRESS")]
    bulk: Option<String>,
    /// What to log [key: log.level]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How to log: text or json [key: log.format]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Stop when standard input is closed: a node that another program runs does not outlive it
    #[arg(long)]
    until_stdin_closes: bool,
}

impl Options {
    fn layers(&self) -> anyhow::Result<Layers> {
        let mut layers = config::read(&self.flags)
            .advise(|| "name a file that this user can read, or none: every key has a default".into())?;
        let flags = [
            ("--dir", "node.dir", &self.dir),
            ("--name", "node.name", &self.name),
            ("--join", "cluster.join", &self.join),
            ("--founders", "cluster.founders", &self.founders),
            ("--pb", "listen.pb", &self.pb),
            ("--admin", "listen.admin", &self.admin),
            ("--cluster", "listen.cluster", &self.cluster),
            ("--bulk", "listen.bulk", &self.bulk),
            ("--log-level", "log.level", &self.log_level),
            ("--log-format", "log.format", &self.log_format),
        ];
        for (flag, key, value) in flags {
            if let Some(value) = value {
                layers.flag(flag, key, value);
            }
        }
        Ok(layers)
    }
}

/// Runs the node until a signal, or until its standard input is closed if that was asked for.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let config = Config::from_layers(options.layers()?)
        .advise(|| "correct these places; `rondel config describe` tells what each key takes".into())?;
    logging::start(config.log_format, &config.log_filter)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(config.workers).enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(serve(&config, options.until_stdin_closes))
}

async fn serve(config: &Config, until_stdin_closes: bool) -> anyhow::Result<()> {
    let mut ended = pin!(end(until_stdin_closes)?);
    let admin_listener = listen("listen.admin", config.admin).await?;
    let pb_listener = listen("listen.pb", config.pb).await?;
    let (admin_at, pb_at) = (admin_listener.local_addr()?, pb_listener.local_addr()?);
    let (recorder, metrics) = recorder()?;
    let pb_metrics = PbMetrics::new(&recorder);
    let env = Env::production();
    let builder = Cluster::builder(env.clone(), node_config(config)?)
        .service::<KvVnode>(VnodeConfig::default())
        .recorder(Arc::new(recorder));
    let (stop_admin, admin_stopped) = watch::channel(false);
    let told = Arc::new(NodeAdmin::new(builder.phase(), metrics));
    let service = Arc::clone(&told);
    env.spawn("admin", async move {
        if let Err(error) = admin::serve(admin_listener, service, admin_stopped).await {
            tracing::error!(%error, "the admin listener has failed");
        }
    });
    // A start may take long: a node that joins a cluster waits for it.
    let cluster = tokio::select! {
        biased;
        () = &mut ended => {
            tracing::info!("stopped before the node had started");
            return Ok(());
        }
        started = start_node(config, builder) => started?,
    };
    told.started(cluster.clone());
    if let Some(token) = cluster.join_token() {
        leave_token(&config.dir, &token)?;
    }
    let (stop_pb, pb_stopped) = watch::channel(false);
    let kv = KvService::new(&cluster, Client::new(&cluster, rondel_kv::Config::default()));
    let (served, pb_served) = oneshot::channel();
    let pb_env = env.clone();
    env.spawn("pb", async move {
        pbc::serve(pb_env, pb_listener, kv, PbLimits::default(), pb_metrics, pb_stopped).await;
        // Nobody waits any more if the node has ended by itself.
        let _ = served.send(());
    });
    tracing::info!(node = cluster.name(), pb = %pb_at, admin = %admin_at, cluster = %cluster.listen_addr(), "listening");
    ended.await;
    tracing::info!("stopping");
    stop_pb.send_replace(true);
    if env.timeout(DRAIN_MAX, pb_served).await.is_err() {
        tracing::warn!("clients' requests are cut off: they took longer than {DRAIN_MAX:?}");
    }
    cluster.shutdown().await;
    stop_admin.send_replace(true);
    Ok(())
}

async fn start_node(config: &Config, builder: Builder) -> anyhow::Result<Cluster> {
    let started = builder.start().await.map_err(|error| match error {
        StartError::Transport(error) => {
            failure(error, "stop what uses that address, or choose another for listen.cluster or listen.bulk")
        }
        StartError::StoreFailed(_) | StartError::Store(OpenError::Io { .. }) => {
            failure(message(&error.into()), "make room on the disk, or mend it, and start the node again")
        }
        // The others say themselves what to do.
        error => error.into(),
    });
    started.with_context(|| format!("cannot start the node in {}", config.dir.display()))
}

fn node_config(config: &Config) -> anyhow::Result<NodeConfig> {
    let advertised = |listen: SocketAddr| SocketAddr::new(config.advertise, listen.port());
    let any_port = |listen: SocketAddr| listen.port() == 0;
    let dir = std::path::absolute(&config.dir).context("cannot tell the working directory")?;
    let mut node = NodeConfig::new(dir, &config.name);
    node.listen = config.cluster;
    node.bulk_listen = config.bulk;
    node.advertise = (!any_port(config.cluster)).then(|| advertised(config.cluster));
    node.bulk_advertise = (!any_port(config.bulk)).then(|| advertised(config.bulk));
    node.zone.clone_from(&config.zone);
    node.capacity = config.capacity;
    node.lanes = config.lanes;
    node.origin = origin(config)?;
    node.store = StoreConfig {
        backend: config.store_backend,
        cache_bytes: config.store_cache_bytes,
        page_cache_bytes: config.store_page_cache_bytes,
        filter_bytes: config.store_filter_bytes,
        scrub_bytes_per_s: config.store_scrub_bytes_per_s,
        backlog_bytes_max: config.store_backlog_bytes_max,
        disk_reserve_bytes: config.store_disk_reserve_bytes,
        refill_bytes_per_s: config.store_refill_bytes_per_s,
        log: LogConfig { store_files: config.store_files, ..LogConfig::default() },
        ..StoreConfig::default()
    };
    Ok(node)
}

fn origin(config: &Config) -> anyhow::Result<Origin> {
    let Some(join) = &config.join else {
        return Ok(Origin::Found(Founding {
            cluster: config.cluster_name.clone(),
            founders: config.founders,
            bits: Bits::of_count(config.partitions)?,
            replicas: config.replicas,
        }));
    };
    let from = match join {
        Join::Token(_) => "cluster.join".to_owned(),
        Join::File(path) => path.display().to_string(),
    };
    let text =
        join.token().with_context(|| format!("cannot read the join token from {from}")).advise(|| {
            format!("the node that started the cluster leaves it in its data directory, as {TOKEN_FILE}")
        })?;
    let token = text.parse::<JoinToken>().with_context(|| format!("the text of {from} can't be used"));
    Ok(Origin::Join(token.advise(|| "copy the whole token, in one line".into())?))
}

async fn listen(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener
        .with_context(|| format!("cannot listen on {address} ({key})"))
        .advise(|| format!("stop what uses that address, or choose another with --set {key}=ADDRESS:PORT"))
}

fn recorder() -> anyhow::Result<(PrometheusRecorder, PrometheusHandle)> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &LATENCY_BOUNDS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES_BOUNDS)
        })
        .and_then(|builder| builder.set_buckets(&COUNT_BOUNDS))
        .context("the bounds of the histograms")?;
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    Ok((recorder, handle))
}

/// Leaves the token where only this user can read it, whole or not at all.
fn leave_token(dir: &Path, token: &str) -> anyhow::Result<()> {
    let path = dir.join(TOKEN_FILE);
    write_private(&path, format!("{token}\n").as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    tracing::info!(file = %path.display(), "other founders join with `rondel start --join @FILE`");
    Ok(())
}

/// Ready when the node is to end.
fn end(until_stdin_closes: bool) -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            biased;
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = stdin_closed(), if until_stdin_closes => {}
        }
    })
}

async fn stdin_closed() {
    let stdin = std::os::fd::AsFd::as_fd(&io::stdin()).try_clone_to_owned();
    let Ok(stdin) = stdin.and_then(tokio::net::unix::pipe::Receiver::from_owned_fd) else {
        tracing::warn!("standard input is no pipe; the node runs until a signal");
        return std::future::pending().await;
    };
    let mut stdin = stdin;
    let mut ignored = [0; 64];
    // Whatever is written there means nothing; an error is an end too.
    while stdin.read(&mut ignored).await.is_ok_and(|bytes| bytes > 0) {}
}
