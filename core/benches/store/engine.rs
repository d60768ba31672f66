//! What is measured: this store, plain redb, fjall, and a log that does nothing but append and sync.

use bytes::Bytes;
use fjall::PersistMode;
use rondel_core::{
    env::Env,
    proto::id::Position,
    store::{Admission, LogStore, Lsn, Progress, RedbStore, RowKey, Store, StoreConfig, TableId, Write},
};
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{Arc, Mutex},
};
use tokio::sync::{Notify, watch};

/// What a run of everything measures: `logN` is the store with its rows in N files.
pub(crate) const NAMES: [&str; 5] = ["bare", "log1", "log16", "redb", "fjall"];
/// The bare log writes this much before it begins again at the front: as a log whose segments are used again.
const BARE_BYTES: u64 = 256 << 20;

/// Something that takes puts, one after the other.
pub(crate) enum Engine {
    Store(Arc<dyn Store>),
    Grouped(Arc<Grouped>),
}

/// What it has made durable.
pub(crate) enum Watch {
    Store(watch::Receiver<Progress>),
    Grouped(watch::Receiver<u64>),
}

impl Watch {
    /// The next state of it; none if there will be no other.
    pub(crate) async fn next(&mut self) -> Option<u64> {
        match self {
            Self::Store(progress) => {
                progress.changed().await.ok()?;
                let now = progress.borrow_and_update();
                assert!(now.failed.is_none(), "{:?}", now.failed);
                Some(now.durable.0)
            }
            Self::Grouped(durable) => {
                durable.changed().await.ok()?;
                Some(*durable.borrow_and_update())
            }
        }
    }
}

impl Engine {
    pub(crate) async fn open(name: &str, env: &Env, directory: &Path) -> Self {
        match name {
            "bare" => Self::grouped(env, bare(directory)),
            "fjall" => Self::grouped(env, fjall(directory)),
            "redb" => {
                let store = RedbStore::open(env, &directory.join("rows.redb"), StoreConfig::default()).await;
                Self::Store(Arc::new(store.unwrap()))
            }
            other => {
                let files = other.strip_prefix("log").expect("no other engine is known");
                let mut config = StoreConfig::default();
                config.log.store_files = files.parse().unwrap();
                Self::Store(Arc::new(LogStore::open(env, directory, config).await.unwrap()))
            }
        }
    }

    fn grouped(env: &Env, commit: impl FnMut(&[Put]) + Send + 'static) -> Self {
        let grouped = Arc::new(Grouped::default());
        env.spawn_thread("commit", Arc::clone(&grouped).commit(commit));
        Self::Grouped(grouped)
    }

    /// Takes a put; its number is one more than that of the one before.
    pub(crate) fn put(&self, number: u64, value: Bytes) -> u64 {
        match self {
            Self::Store(store) => {
                let Lsn(lsn) = store.apply(vec![Write { at: key(number), value: Some(value) }]).unwrap();
                lsn
            }
            Self::Grouped(grouped) => grouped.put(number, value),
        }
    }

    pub(crate) fn watch(&self) -> Watch {
        match self {
            Self::Store(store) => Watch::Store(store.progress()),
            Self::Grouped(grouped) => Watch::Grouped(grouped.durable.subscribe()),
        }
    }

    /// Whether writers have to wait.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Store(store) => store.admission() >= Admission::Full,
            Self::Grouped(_) => false,
        }
    }

    /// Comes to rest.
    pub(crate) async fn close(self) {
        match self {
            Self::Store(store) => store.close().await.unwrap(),
            Self::Grouped(grouped) => grouped.close().await,
        }
    }
}

/// The store as it is configured when nothing is.
pub(crate) async fn open_log(env: &Env, directory: &Path) -> LogStore {
    LogStore::open(env, directory, StoreConfig::default()).await.unwrap()
}

/// A row's place: spread over the ring as hashes are.
fn key(number: u64) -> RowKey {
    let position = Position(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    RowKey { table: TableId(0), position, key: Bytes::from(format!("bucket/key-{number:020}")) }
}

/// The same bytes for an engine that knows no positions.
fn key_bytes(number: u64) -> Vec<u8> {
    let RowKey { position, key, .. } = key(number);
    [&[0; 4], &position.0.to_be_bytes()[..], &key].concat()
}

pub(crate) type Put = (u64, Bytes);

/// Group commit around an engine that commits on a thread of its own.
pub(crate) struct Grouped {
    queue: Mutex<Queue>,
    wake: Notify,
    durable: watch::Sender<u64>,
    ended: watch::Sender<bool>,
}

#[derive(Default)]
struct Queue {
    last: u64,
    puts: Vec<Put>,
    closed: bool,
}

impl Default for Grouped {
    fn default() -> Self {
        Self {
            queue: Mutex::default(),
            wake: Notify::new(),
            durable: watch::Sender::new(0),
            ended: watch::Sender::new(false),
        }
    }
}

impl Grouped {
    fn put(&self, number: u64, value: Bytes) -> u64 {
        let mut queue = self.queue.lock().unwrap();
        queue.last += 1;
        queue.puts.push((number, value));
        let last = queue.last;
        drop(queue);
        self.wake.notify_one();
        last
    }

    async fn commit(self: Arc<Self>, mut commit: impl FnMut(&[Put])) {
        loop {
            let (puts, last, closed) = {
                let mut queue = self.queue.lock().unwrap();
                (std::mem::take(&mut queue.puts), queue.last, queue.closed)
            };
            if puts.is_empty() {
                if closed {
                    break;
                }
                self.wake.notified().await;
                continue;
            }
            commit(&puts);
            self.durable.send_replace(last);
        }
        drop(commit);
        self.ended.send_replace(true);
    }

    async fn close(&self) {
        self.queue.lock().unwrap().closed = true;
        self.wake.notify_one();
        let mut ended = self.ended.subscribe();
        ended.wait_for(|ended| *ended).await.unwrap();
    }
}

/// Appends and syncs, in a file that has its length already.
fn bare(directory: &Path) -> impl FnMut(&[Put]) + Send + 'static {
    let path = directory.join("log");
    let file: File = OpenOptions::new().write(true).create(true).truncate(true).open(path).unwrap();
    let zeroes = vec![0; 1 << 20];
    (0..BARE_BYTES >> 20).for_each(|piece| file.write_all_at(&zeroes, piece << 20).unwrap());
    file.sync_all().unwrap();
    let (mut at, mut buffer) = (0, Vec::new());
    move |puts| {
        buffer.clear();
        for (number, value) in puts {
            buffer.extend_from_slice(&u32::try_from(value.len()).unwrap().to_le_bytes());
            buffer.extend_from_slice(&key_bytes(*number));
            buffer.extend_from_slice(value);
        }
        if at + buffer.len() as u64 > BARE_BYTES {
            at = 0;
        }
        file.write_all_at(&buffer, at).unwrap();
        file.sync_data().unwrap();
        at += buffer.len() as u64;
    }
}

fn fjall(directory: &Path) -> impl FnMut(&[Put]) + Send + 'static {
    let database = fjall::Database::builder(directory.join("fjall")).open().unwrap();
    let rows = database.keyspace("rows", fjall::KeyspaceCreateOptions::default).unwrap();
    move |puts| {
        let mut batch = database.batch().durability(Some(PersistMode::SyncData));
        for (number, value) in puts {
            batch.insert(&rows, key_bytes(*number), value.as_ref());
        }
        batch.commit().unwrap();
    }
}
