//! Starting a node: from a directory and an application to a node that serves.

use super::{
    Cluster, Node, NodeClock, NodeConfig, Origin, Shared, StartPhase,
    control::{self},
    health::Health,
    inbound::Door,
    joining,
    reluctance::Reluctance,
    sequence::Sequence,
    shared::Parts,
};
use crate::{
    env::{Env, WorkLost},
    handoff::HintLedger,
    liveness::Liveness,
    membership::{
        DataDir, DataDirError,
        data_dir::StoreCheck,
        forming::{FORMAT, JoinRequest},
        gossip::{Facts, FactsTooLong, Gossip},
    },
    metrics::{Metrics, SharedRecorder},
    mutant::Mutant,
    ring::Occupant,
    sequence::{DecidedFile, Record, Replica, State},
    store::{
        Backend, KEEP_DOWN, LogStore, Lsn, MemoryStore, OpenError, Recovery, RedbStore, Store, StoreConfig,
        StoreError, StoreMeters, Write,
    },
    table::{Entry, Keyed},
    transport::{self, Identity, Transport, TransportConfig},
    vnode::{DotSource, Service, Storage, Vnode, host::Host, lane::LaneContext},
};
use rondel_proto::{
    Message,
    hello::{Hello, Known},
    id::{Incarnation, Lineage},
};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use tokio::sync::watch;

/// What a node is made of.
pub struct Builder {
    env: Env,
    config: NodeConfig,
    recorder: SharedRecorder,
    services: Vec<Service>,
    phase: watch::Sender<StartPhase>,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.services.iter().map(|service| service.name).collect();
        out.debug_struct("Builder").field("config", &self.config).field("services", &names).finish()
    }
}

/// Why a node does not start. Nothing of it is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory can't be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The store can't be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The store was opened and failed at once.
    #[error("the store failed: {0}")]
    StoreFailed(#[from] StoreError),
    /// The directory's rows are kept by another backend.
    #[error(
        "the data directory {} was made with the store backend `{}`: start it with that one (`store.backend`)",
        path.display(),
        if *found == Backend::Log { "log" } else { "redb" }
    )]
    OtherBackend {
        /// The directory.
        path: PathBuf,
        /// What it was made with.
        found: Backend,
    },
    /// The log is damaged where it had been acknowledged.
    #[error(
        "the log of the store at {} is damaged or was removed: what this node had acknowledged {} is gone. Put the \
         log's files back{KEEP_DOWN}",
        path.display(), batches(*from, *durable)
    )]
    Lost {
        /// The store.
        path: PathBuf,
        /// The first batch that is gone.
        from: u64,
        /// The last one that is known to have been acknowledged; 0 if nothing tells.
        durable: u64,
    },
    /// The other members would not find it.
    #[error(
        "the cluster knows this node, {name}, at {known}, and it was started at {told}, where the others would not look \
         for it: start it at {known}. If this directory is a copy of that node's, leave it: a node runs once"
    )]
    Elsewhere {
        /// Its name.
        name: String,
        /// Where the others look for it.
        known: SocketAddr,
        /// Where it would be.
        told: SocketAddr,
    },
    /// It can't listen.
    #[error(transparent)]
    Transport(#[from] transport::StartError),
    /// The cluster can't be founded or joined.
    #[error(transparent)]
    Join(#[from] joining::JoinError),
    /// The node says more of itself than fits into gossip.
    #[error(transparent)]
    Facts(#[from] FactsTooLong),
    /// Blocking work was lost: the process is ending.
    #[error(transparent)]
    Ended(#[from] WorkLost),
}

fn batches(from: u64, durable: u64) -> String {
    match durable {
        0 => format!("from batch {from} on"),
        durable => format!("in batches {from} to {durable}"),
    }
}

impl Cluster {
    /// A node in this environment. In production it is started within a tokio runtime.
    #[must_use]
    pub fn builder(env: Env, config: NodeConfig) -> Builder {
        let recorder = Arc::new(metrics::NoopRecorder);
        Builder { env, config, recorder, services: Vec::new(), phase: watch::Sender::default() }
    }
}

impl Builder {
    /// Adds a service.
    #[must_use]
    pub fn service<V: Vnode>(mut self, config: V::Config) -> Self {
        self.services.push(Service::new::<V>(config, V::STORAGE));
        self
    }

    /// Adds a table.
    #[must_use]
    pub fn table<E: Entry>(mut self, storage: Storage) -> Self {
        self.services.push(Service::new::<Keyed<E>>((), storage));
        self
    }

    /// Where the node's metrics go. By default nowhere.
    #[must_use]
    pub fn recorder(mut self, recorder: SharedRecorder) -> Self {
        self.recorder = recorder;
        self
    }

    /// How far [`Builder::start`] has got: for who has to wait.
    #[must_use]
    pub fn phase(&self) -> watch::Receiver<StartPhase> {
        self.phase.subscribe()
    }

    /// Starts the node. It serves once its cluster is formed: see [`Cluster::serving`].
    ///
    /// # Errors
    /// [`StartError`], in words that say what to do.
    ///
    /// # Panics
    /// If two services or two messages of one service have the same name or number: a mistake in the application.
    pub async fn start(self) -> Result<Cluster, StartError> {
        let Self { env, config, recorder, services, phase } = self;
        let data = open_data_dir(&env, &config.data_dir).await?;
        phase.send_replace(StartPhase::Store);
        let services = Arc::new(services);
        let names: Vec<&'static str> = services.iter().map(|service| service.name).collect();
        let metrics = Metrics::new(&recorder, &names);
        let durable = open_store(&env, &config, &data, metrics.store.clone()).await?;
        tie_store(&env, &data, &durable).await?;
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let clock = Arc::new(NodeClock::new(data.clock_bound().max(data.alive_at_open())));
        let (door, hello) = (Arc::new(Door::default()), hello(&data, &services));
        let transport = listen(&env, &config, &data, &hello, &door, false)?;
        let bulk = listen(&env, &config, &data, &hello, &door, true)?;
        let me = Occupant { node: data.node(), store: data.store() };
        let (replica, file) = take_part(&env, &config, &data, me, [&transport, &bulk], &phase).await?;
        let token = joining::token_of(&env, &data, replica.state()).await?;
        let hints = Arc::new(HintLedger::default());
        let host = Host::start(
            LaneContext {
                env: env.clone(),
                node: me.node,
                services,
                dots: Arc::new(DotSource::new(incarnation(&config, &data), clock.clone(), config.mutants)),
                durable: durable.clone(),
                memory: memory.clone(),
                metrics: metrics.lane.clone(),
                hints: hints.clone(),
                mutants: config.mutants,
            },
            config.lanes,
        );
        let liveness = Liveness::new(me.node, config.liveness.clone(), env.rng(), env.now());
        let facts = Facts {
            boot: data.boot_number(),
            nonce: data.start_nonce(),
            store: me.store,
            format: FORMAT,
            ..Facts::default()
        };
        let (state, root) = (replica.state().clone(), replica.root());
        let parts = Parts {
            env: env.clone(),
            first_run: data.boot_number() == 1,
            me: me.node,
            host,
            durable,
            memory,
            transport,
            bulk,
            metrics,
            mutants: config.mutants,
            refill_bytes_per_s: config.store.refill_bytes_per_s,
            hints,
        };
        let node = Arc::new(Node {
            shared: Arc::new(Shared::new(parts)),
            reluctance: Reluctance::new(&env, data.started_often()),
            health: Health::new(liveness, Gossip::new(me.node, facts)?, env.rng()),
            sequence: Sequence::new(replica, file, env.rng()),
            data,
            clock,
            name: config.name,
            founder_token: Mutex::new(token),
            hello,
            tasks: Mutex::default(),
        });
        door.open_for(&node);
        node.learnt(&state, root);
        node.keep(env.spawn("alive", node.clone().run_alive()));
        node.keep(env.spawn("store-watch", node.clone().run_store_watch()));
        node.keep(env.spawn("liveness", node.clone().run_liveness()));
        node.keep(env.spawn("gossip", node.clone().run_gossip()));
        Ok(Cluster(node))
    }
}

async fn open_data_dir(env: &Env, path: &Path) -> Result<Arc<DataDir>, StartError> {
    let (inner, path) = (env.clone(), path.to_owned());
    Ok(Arc::new(env.block(move || DataDir::open(&inner, &path)).await??))
}

async fn open_store(
    env: &Env,
    config: &NodeConfig,
    data: &DataDir,
    meters: StoreMeters,
) -> Result<Arc<dyn Store>, StartError> {
    let (backend, settings) = (config.store.backend, StoreConfig { meters, ..store_config(config) });
    let path = config.data_dir.join(backend.name_in_directory());
    let (disk, directory) = (env.disk(), config.data_dir.clone());
    match env.block(move || Backend::found_in(&*disk, &directory)).await? {
        // Before a new one is made in its place.
        None if data.holds_store() => {
            return Err(DataDirError::StoreMissing { path: config.data_dir.clone() }.into());
        }
        Some(found) if found != backend => {
            return Err(StartError::OtherBackend { path: config.data_dir.clone(), found });
        }
        _ => {}
    }
    match backend {
        Backend::Redb => Ok(Arc::new(RedbStore::open(env, &path, settings).await?)),
        Backend::Log => {
            let store = LogStore::open(env, &path, settings).await?;
            let Recovery { batches, loss, .. } = *store.recovery();
            if let Some(loss) = loss {
                return Err(StartError::Lost { path, from: loss.from, durable: loss.durable });
            }
            tracing::info!(batches, "the store is open; so many batches came from its log");
            Ok(Arc::new(store))
        }
    }
}

/// How the store is kept; without its syncs, where a test says so.
fn store_config(config: &NodeConfig) -> StoreConfig {
    let settings = config.store.clone();
    #[cfg(feature = "testing")]
    if config.mutants.has(Mutant::SkipSync) {
        let mutant = Some(crate::store::Mutant::SkippedSync);
        return StoreConfig { log: crate::store::LogConfig { mutant, ..settings.log }, ..settings };
    }
    settings
}

/// Makes sure that the store is the one of the directory, and marks a new one.
async fn tie_store(env: &Env, data: &Arc<DataDir>, store: &Arc<dyn Store>) -> Result<(), StartError> {
    // A mark in every file, as they can be lost.
    let wanted = DataDir::store_mark_keys(store.files());
    let found = store.read(wanted.clone()).await?;
    let mut check = data.check_store(found.iter().flatten().next())?;
    for mark in found.iter().flatten() {
        check = data.check_store(Some(mark))?;
    }
    if check == StoreCheck::Ours && found.iter().all(Option::is_some) {
        return Ok(());
    }
    let mark = |at| Write { at, value: Some(data.store_mark()) };
    let lsn = store.apply(wanted.into_iter().map(mark).collect())?;
    until_durable(store, lsn).await?;
    let data = data.clone();
    Ok(env.block(move || data.set_store_marked()).await??)
}

async fn until_durable(store: &Arc<dyn Store>, lsn: Lsn) -> Result<(), StoreError> {
    let mut progress = store.progress();
    loop {
        let (durable, failed) = {
            let progress = progress.borrow_and_update();
            (progress.durable, progress.failed.clone())
        };
        if durable >= lsn {
            return Ok(());
        }
        if let Some(error) = failed {
            return Err(error);
        }
        progress.changed().await.map_err(|_| StoreError::Closed)?;
    }
}

fn incarnation(config: &NodeConfig, data: &DataDir) -> Incarnation {
    if config.mutants.has(Mutant::KeepIncarnation) {
        return Incarnation(u64::try_from(data.store().0 & u128::from(u64::MAX)).unwrap_or_default());
    }
    data.incarnation()
}

fn hello(data: &DataDir, services: &[Service]) -> Hello {
    let of = |service: &Service| {
        let code = service.code;
        let known = move |(message, _, schema): &(u16, &'static str, u64)| Known {
            service: code,
            message: *message,
            schema: *schema,
        };
        service.table.iter().map(known).collect::<Vec<_>>()
    };
    Hello {
        node: data.node(),
        store: data.store(),
        boot: data.boot_number(),
        nonce: data.start_nonce(),
        format: FORMAT,
        messages: services.iter().flat_map(of).chain(control::known()).collect(),
        ..Hello::default()
    }
}

fn listen(
    env: &Env,
    config: &NodeConfig,
    data: &DataDir,
    hello: &Hello,
    door: &Arc<Door>,
    bulk: bool,
) -> Result<Transport, StartError> {
    let certificate = data.certificate();
    let identity = Identity {
        node: data.node(),
        store: data.store(),
        boot: data.boot_number(),
        nonce: data.start_nonce(),
        certificate_der: certificate.der().to_vec(),
        key_pkcs8_der: certificate.key_pkcs8().to_vec(),
    };
    let listen = if bulk { config.bulk_listen } else { config.listen };
    let mut settings = TransportConfig::new(listen);
    if bulk {
        settings.class = "bulk";
    } else {
        settings.strangers_may = vec![(control::control_code(), JoinRequest::ID)];
    }
    Ok(Transport::start(env.clone(), settings, identity, hello.clone(), door.clone())?)
}

/// Reads this node's part in the sequence, or founds or joins a cluster.
async fn take_part(
    env: &Env,
    config: &NodeConfig,
    data: &Arc<DataDir>,
    me: Occupant,
    [transport, bulk]: [&Transport; 2],
    phase: &watch::Sender<StartPhase>,
) -> Result<(Replica, DecidedFile), StartError> {
    let (disk, path): (_, PathBuf) = (data.disk(), data.decided_path());
    let open = {
        let (disk, path) = (disk.clone(), path.clone());
        env.block(move || DecidedFile::open(disk, &path, me)).await??
    };
    if let Some((file, record)) = open {
        check_cluster(config, data, record.state.lineage)?;
        check_address(config, &record.state, me)?;
        took_part(env, data).await?;
        return Ok((Replica::new(record, data.start_nonce()), file));
    }
    if data.took_part() {
        return Err(DataDirError::DecidedMissing { path }.into());
    }
    let at = joining::Addresses::of(config, transport, bulk);
    let record = match &config.origin {
        Origin::Found(founding) => Record::new(me, joining::found(env, config, founding, data, &at).await?),
        Origin::Join(token) => joining::join(env, config, token, data, &at, transport, phase).await?,
    };
    let written = record.clone();
    let file = env.block(move || DecidedFile::create(disk, &path, &written)).await??;
    took_part(env, data).await?;
    Ok((Replica::new(record, data.start_nonce()), file))
}

/// A node that is told to join one cluster does not go on in another.
fn check_cluster(config: &NodeConfig, data: &DataDir, found: Lineage) -> Result<(), DataDirError> {
    match &config.origin {
        Origin::Join(token) if token.lineage() != found => Err(DataDirError::OtherCluster {
            path: data.path().to_owned(),
            found: found.to_string(),
            expected: token.lineage().to_string(),
        }),
        _ => Ok(()),
    }
}

/// The others look for a member where the cluster has decided that it is, and find whoever is there.
fn check_address(config: &NodeConfig, state: &State, me: Occupant) -> Result<(), StartError> {
    let Some(member) = state.member(me.node).filter(|_| state.topology.members.len() > 1) else {
        return Ok(());
    };
    let known = [&member.addr, &member.bulk_addr];
    let told = [config.advertise, config.bulk_advertise];
    for (known, told) in known.into_iter().zip(told) {
        if let (Ok(known), Some(told)) = (known.parse::<SocketAddr>(), told)
            && known != told
        {
            return Err(StartError::Elsewhere { name: member.name.clone(), known, told });
        }
    }
    Ok(())
}

async fn took_part(env: &Env, data: &Arc<DataDir>) -> Result<(), StartError> {
    let data = data.clone();
    Ok(env.block(move || data.set_took_part()).await??)
}
