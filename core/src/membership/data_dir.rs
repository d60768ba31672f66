//! The identity of a data directory: which node, which store, how often it was opened.
//!
//! [`DataDir::open`] takes the directory for this process and either formats it (if it is empty) or reads who it
//! belongs to. It never guesses: a directory that is anything else than whole is refused with words that say what
//! to do, because a node that runs on half of its files breaks promises that other nodes rely on. The store id is
//! part of every owner's and voter's name, so it lives and dies with the rows: [`DataDir::check_store`] ties the
//! store's file to the directory by a row.
//!
//! Written at each open: the boot number. Drawn at each open and kept in memory only: the start nonce and the
//! incarnation (PROTOCOLS §1).

mod error;

pub use error::DataDirError;

use crate::{
    durable::{Durable, draft_of},
    env::{Disk, Env},
    membership::certificate::{Certificate, KEY_SEED_BYTES},
    store::{RowKey, TableId},
};
use bytes::Bytes;
use rondel_proto::{
    Msg, Wire as _,
    id::{Hlc, Incarnation, NodeId, Position, StoreId},
    wire,
};
use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

const IDENTITY: &str = "identity";
const BOOT: &str = "boot";
/// The file of the decided sequence.
const DECIDED: &str = "decided";
/// The lock of [`Disk::lock`].
const LOCK: &str = "LOCK";
/// Files of the store begin with this.
const STORE_PREFIX: &str = "store";

/// Starts whose times are kept; so many within an hour are often.
const STARTS_KEPT: usize = 4;
const HOUR_MS: u64 = 3_600_000;

/// The table of a store that holds its mark, and nothing else.
pub const MARK_TABLE: TableId = TableId(u32::MAX);

/// What a directory says of itself for as long as it exists.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
struct Identity {
    node: NodeId,
    store: StoreId,
    key_seed: [u8; KEY_SEED_BYTES],
    certificate: Vec<u8>,
}

/// What changes from start to start.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
struct Boot {
    store: StoreId,
    number: u64,
    alive: Hlc,
    clock_bound: Hlc,
    store_marked: bool,
    took_part: bool,
    /// When the last starts were, in milliseconds since 1970.
    starts_ms: Vec<u64>,
}

/// The row that ties a store's file to its directory.
#[wire(crate = rondel_proto)]
struct StoreMark {
    node: NodeId,
    store: StoreId,
}

/// What the store's file turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreCheck {
    /// The one of this directory.
    Ours,
    /// A new one, for a new directory (or the node stopped before it had said so): write [`DataDir::store_mark`],
    /// and when it is durable call [`DataDir::set_store_marked`], before the store takes anything else.
    Unmarked,
}

/// An open data directory. It is taken for this process until the last of it is dropped.
pub struct DataDir {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    identity: Identity,
    certificate: Certificate,
    boot: Mutex<(Durable<Boot>, Boot)>,
    /// As found when the directory was opened.
    alive_at_open: Hlc,
    start_nonce: u64,
    incarnation: Incarnation,
    _lock: Box<dyn Send + Sync>,
}

impl DataDir {
    /// Opens a directory, which is made and formatted if it is missing or empty, and counts the start durably.
    ///
    /// It may wait for the disk: call it before the node serves, or from [`Env::block`].
    ///
    /// # Errors
    /// [`DataDirError`], in words that say what to do. Nothing was changed, except that a start may be counted.
    pub fn open(env: &Env, path: &Path) -> Result<Self, DataDirError> {
        let disk = env.disk();
        disk.create_dir_all(path).map_err(|error| DataDirError::of_io(path, error))?;
        // Before the lock, whose file would be left behind in somebody else's directory; and again under it, below.
        refuse_if_foreign(&disk, path)?;
        let lock = disk.lock(path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => DataDirError::InUse { path: path.to_owned() },
            _ => DataDirError::of_io(path, error),
        })?;
        let identity = match Durable::<Identity>::open(Arc::clone(&disk), &path.join(IDENTITY)) {
            Ok(Some((_, identity))) => identity,
            Ok(None) => format(env, &disk, path)?,
            Err(error) => return Err(DataDirError::of_file(path, error)),
        };
        let certificate = Certificate::of(&identity.key_seed, &identity.certificate)
            .map_err(|error| DataDirError::Damaged { path: path.join(IDENTITY), what: error.to_string() })?;
        let boot = count_start(&disk, path, identity.store, env.unix_ms())?;
        Ok(Self {
            path: path.to_owned(),
            disk,
            certificate,
            alive_at_open: boot.1.alive,
            boot: Mutex::new(boot),
            start_nonce: env.random_u64(),
            incarnation: Incarnation(env.random_u64()),
            identity,
            _lock: lock,
        })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The disk it lies on.
    #[must_use]
    pub fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk)
    }

    /// Where the decided sequence is kept.
    #[must_use]
    pub fn decided_path(&self) -> PathBuf {
        self.path.join(DECIDED)
    }

    /// The node that the directory belongs to.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.identity.node
    }

    /// The store that the directory holds.
    #[must_use]
    pub fn store(&self) -> StoreId {
        self.identity.store
    }

    /// The node's key and certificate.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// How often the directory was opened, this time included.
    #[must_use]
    pub fn boot_number(&self) -> u64 {
        self.boot().1.number
    }

    /// Whether the directory was opened more than three times within an hour, this time included.
    #[must_use]
    pub fn started_often(&self) -> bool {
        is_often(&self.boot().1.starts_ms)
    }

    /// Tells this start from another one of the same number (a copy of the directory, or one rolled back).
    #[must_use]
    pub fn start_nonce(&self) -> u64 {
        self.start_nonce
    }

    /// The incarnation of the store, drawn at this open.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// When the node was last alive before this start; zero if never. A store that was away for long passes the
    /// gate of returning stores (PROTOCOLS §6).
    #[must_use]
    pub fn alive_at_open(&self) -> Hlc {
        self.alive_at_open
    }

    /// The bound below which the node may have issued clock values before this start; zero if none.
    #[must_use]
    pub fn clock_bound(&self) -> Hlc {
        self.boot().1.clock_bound
    }

    /// Records durably that the node is alive at `now`. It never goes back. Waits for the disk.
    ///
    /// # Errors
    /// [`DataDirError`]; final: stop the node.
    pub fn set_alive(&self, now: Hlc) -> Result<(), DataDirError> {
        self.change_boot(|boot| boot.alive = boot.alive.max(now))
    }

    /// Records durably that clock values below `bound` may be issued. It never goes back. Waits for the disk.
    ///
    /// # Errors
    /// [`DataDirError`]; final: stop the node.
    pub fn set_clock_bound(&self, bound: Hlc) -> Result<(), DataDirError> {
        self.change_boot(|boot| boot.clock_bound = boot.clock_bound.max(bound))
    }

    /// Where the store's mark stands: in each of so many equal parts of the positions, a power of two.
    #[must_use]
    pub fn store_mark_keys(parts: usize) -> Vec<RowKey> {
        let bits = u64::BITS - parts.trailing_zeros();
        let at = |part: usize| RowKey {
            table: MARK_TABLE,
            position: Position((part as u64).checked_shl(bits).unwrap_or(0)),
            key: Bytes::from_static(b"store"),
        };
        (0..parts).map(at).collect()
    }

    /// The mark that this directory's store holds.
    #[must_use]
    pub fn store_mark(&self) -> Bytes {
        StoreMark { node: self.identity.node, store: self.identity.store }.encode()
    }

    /// Whether a store with this mark (if any) is the one of this directory.
    ///
    /// # Errors
    /// [`DataDirError::StoreMissing`] if this directory's store is gone, [`DataDirError::Mixed`] if it is that of
    /// another directory. The store must not be used.
    pub fn check_store(&self, mark: Option<&Bytes>) -> Result<StoreCheck, DataDirError> {
        let path = self.path.join(STORE_PREFIX);
        let Some(mark) = mark else {
            return match self.boot().1.store_marked {
                false => Ok(StoreCheck::Unmarked),
                true => Err(DataDirError::StoreMissing { path: self.path.clone() }),
            };
        };
        let mark = Msg::<StoreMark>::from_bytes(mark.clone())
            .map_err(|error| DataDirError::Damaged { path: path.clone(), what: error.to_string() })?
            .to_owned();
        if (mark.node, mark.store) != (self.identity.node, self.identity.store) {
            return Err(DataDirError::Mixed { path, found: mark.store, expected: self.identity.store });
        }
        // A store that is marked while the directory does not know it yet could later be lost unnoticed.
        Ok(if self.boot().1.store_marked { StoreCheck::Ours } else { StoreCheck::Unmarked })
    }

    /// Whether the directory has held a store: one that is missing now was lost, and another must not be made in its
    /// place.
    #[must_use]
    pub fn holds_store(&self) -> bool {
        self.boot().1.store_marked
    }

    /// Records durably that the store holds its mark: from now on a store without one is refused. Waits for the disk.
    ///
    /// # Errors
    /// [`DataDirError`]; final: stop the node.
    pub fn set_store_marked(&self) -> Result<(), DataDirError> {
        self.change_boot(|boot| boot.store_marked = true)
    }

    /// Whether the directory has held the decided sequence: one that is missing now was lost, and to begin another
    /// would be to forget promises and to put old rows into a new cluster.
    #[must_use]
    pub fn took_part(&self) -> bool {
        self.boot().1.took_part
    }

    /// Records durably that the decided sequence is kept here. Waits for the disk.
    ///
    /// # Errors
    /// [`DataDirError`]; final: stop the node.
    pub fn set_took_part(&self) -> Result<(), DataDirError> {
        self.change_boot(|boot| boot.took_part = true)
    }

    fn boot(&self) -> MutexGuard<'_, (Durable<Boot>, Boot)> {
        self.boot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change_boot(&self, change: impl FnOnce(&mut Boot)) -> Result<(), DataDirError> {
        let mut guard = self.boot();
        let (file, boot) = &mut *guard;
        let mut next = boot.clone();
        change(&mut next);
        if next != *boot {
            file.write(&next).map_err(|error| DataDirError::of_file(&self.path, error))?;
            *boot = next;
        }
        Ok(())
    }
}

impl fmt::Debug for DataDir {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = out.debug_struct("DataDir");
        out.field("path", &self.path).field("node", &self.identity.node).field("store", &self.identity.store);
        out.finish_non_exhaustive()
    }
}

/// Gives an empty directory an identity. The identity's file is the last step that counts: until it has its name,
/// the directory is still empty.
fn format(env: &Env, disk: &Arc<dyn Disk>, path: &Path) -> Result<Identity, DataDirError> {
    refuse_if_not_empty(disk, path)?;
    let node = NodeId(env.random_u128());
    let mut key_seed = [0; KEY_SEED_BYTES];
    env.entropy(&mut key_seed);
    let certificate = Certificate::self_signed(&key_seed, node);
    let identity = Identity {
        node,
        store: StoreId(env.random_u128()),
        key_seed,
        certificate: certificate.der().to_vec(),
    };
    Durable::create(Arc::clone(disk), &path.join(IDENTITY), &identity)
        .map_err(|error| DataDirError::of_file(path, error))?;
    Ok(identity)
}

/// Refuses a directory that was never a node's, as far as its names tell.
fn refuse_if_foreign(disk: &Arc<dyn Disk>, path: &Path) -> Result<(), DataDirError> {
    let names = disk.list(path).map_err(|error| DataDirError::of_io(path, error))?;
    match names.contains(&path.join(IDENTITY)) {
        true => Ok(()),
        false => refuse_if_not_empty(disk, path),
    }
}

fn refuse_if_not_empty(disk: &Arc<dyn Disk>, path: &Path) -> Result<(), DataDirError> {
    let draft = draft_of(Path::new(IDENTITY));
    let names = disk.list(path).map_err(|error| DataDirError::of_io(path, error))?;
    let mut names = names.iter().filter_map(|name| name.file_name());
    let Some(name) = names.find(|name| *name != LOCK && *name != draft.as_os_str()) else { return Ok(()) };
    let file = name.to_string_lossy().into_owned();
    let path = path.to_owned();
    match [BOOT, DECIDED].contains(&file.as_str()) || file.starts_with(STORE_PREFIX) {
        true => Err(DataDirError::NoIdentity { path, file }),
        false => Err(DataDirError::Foreign { path, file }),
    }
}

/// Whether these are all the starts that are kept, and within one hour.
fn is_often(starts_ms: &[u64]) -> bool {
    match starts_ms {
        [first, .., last] => starts_ms.len() == STARTS_KEPT && last.abs_diff(*first) < HOUR_MS,
        _ => false,
    }
}

fn count_start(
    disk: &Arc<dyn Disk>,
    path: &Path,
    store: StoreId,
    now_ms: u64,
) -> Result<(Durable<Boot>, Boot), DataDirError> {
    let file_path = path.join(BOOT);
    let of_file = |error| DataDirError::of_file(path, error);
    let Some((mut file, mut boot)) = Durable::<Boot>::open(Arc::clone(disk), &file_path).map_err(of_file)?
    else {
        return first_start(disk, path, store, now_ms);
    };
    if boot.store != store {
        return Err(DataDirError::Mixed { path: file_path, found: boot.store, expected: store });
    }
    boot.number += 1;
    boot.starts_ms.push(now_ms);
    let old = boot.starts_ms.len().saturating_sub(STARTS_KEPT);
    boot.starts_ms.drain(..old);
    file.write(&boot).map_err(of_file)?;
    Ok((file, boot))
}

/// The count of starts is missing: right after formatting, and never once the directory holds anything else.
fn first_start(
    disk: &Arc<dyn Disk>,
    path: &Path,
    store: StoreId,
    now_ms: u64,
) -> Result<(Durable<Boot>, Boot), DataDirError> {
    let files = disk.list(path).map_err(|error| DataDirError::of_io(path, error))?;
    let used = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name == DECIDED || name.starts_with(STORE_PREFIX)
    };
    if files.iter().any(used) {
        return Err(DataDirError::Damaged { path: path.join(BOOT), what: "it is missing".to_owned() });
    }
    let boot = Boot {
        store,
        number: 1,
        alive: Hlc(0),
        clock_bound: Hlc(0),
        store_marked: false,
        took_part: false,
        starts_ms: vec![now_ms],
    };
    let file = Durable::create(Arc::clone(disk), &path.join(BOOT), &boot)
        .map_err(|error| DataDirError::of_file(path, error))?;
    Ok((file, boot))
}

#[cfg(test)]
mod tests;
