//! A disk in memory for tests: it can lose power after any byte, refuse, and be looked into.

use crate::env::{Backend, BoxFuture, Disk, Env, File, TaskHandle};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

/// Files by name. What was written and not synced is lost at [`TestDisk::restart`] after a crash, except that of
/// the write in which the crash fell a prefix stays: the worst that a disk does without lying.
#[derive(Debug, Clone, Default)]
pub(crate) struct TestDisk(Arc<Mutex<Disks>>);

#[derive(Debug, Default)]
struct Disks {
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    files: Vec<Content>,
    locked: BTreeSet<PathBuf>,
    bytes_left: Option<u64>,
    refusal: Option<io::ErrorKind>,
}

#[derive(Debug, Default, Clone)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
}

impl TestDisk {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn arc(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// The power goes after so many more bytes; each operation that is not a write counts as one.
    pub(crate) fn crash_after_bytes(&self, bytes: u64) {
        self.inner().bytes_left = Some(bytes);
    }

    /// Everything that would write is refused with this.
    pub(crate) fn refuse(&self, kind: io::ErrorKind) {
        self.inner().refusal = Some(kind);
    }

    /// Power is back: what was not durable is gone.
    pub(crate) fn restart(&self) {
        let mut disks = self.inner();
        disks.names = disks.durable_names.clone();
        for file in &mut disks.files {
            file.now = file.durable.clone();
        }
        disks.locked.clear();
        (disks.bytes_left, disks.refusal) = (None, None);
    }

    pub(crate) fn content(&self, path: &Path) -> Vec<u8> {
        let disks = self.inner();
        disks.files[disks.names[path]].now.clone()
    }

    pub(crate) fn set_content(&self, path: &Path, bytes: Vec<u8>) {
        let mut disks = self.inner();
        let next = disks.files.len();
        let index = *disks.names.entry(path.to_owned()).or_insert(next);
        disks.durable_names.insert(path.to_owned(), index);
        if index == next {
            disks.files.push(Content::default());
        }
        disks.files[index] = Content { now: bytes.clone(), durable: bytes };
    }

    pub(crate) fn erase(&self, path: &Path) {
        let mut disks = self.inner();
        disks.names.remove(path);
        disks.durable_names.remove(path);
    }

    fn inner(&self) -> MutexGuard<'_, Disks> {
        self.0.lock().unwrap()
    }
}

impl Disks {
    /// Pays for an operation: how many of its bytes still reach the disk.
    fn spend(&mut self, cost: u64) -> io::Result<()> {
        if let Some(kind) = self.refusal {
            return Err(kind.into());
        }
        match &mut self.bytes_left {
            Some(left) if *left < cost => {
                *left = 0;
                Err(io::Error::other("the power went"))
            }
            Some(left) => {
                *left -= cost;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

#[derive(Debug)]
struct Handle {
    disk: TestDisk,
    index: usize,
}

impl Disk for TestDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn File>> {
        let mut disks = self.inner();
        let index = match (disks.names.get(path), create) {
            (Some(index), _) => *index,
            (None, false) => return Err(io::ErrorKind::NotFound.into()),
            (None, true) => {
                disks.spend(1)?;
                let index = disks.files.len();
                disks.files.push(Content::default());
                disks.names.insert(path.to_owned(), index);
                index
            }
        };
        Ok(Arc::new(Handle { disk: self.clone(), index }))
    }

    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        self.inner().spend(1)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self.inner().names.keys().filter(|name| name.parent() == Some(path)).cloned().collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disks = self.inner();
        disks.spend(1)?;
        let index = disks.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disks.names.insert(to.to_owned(), index);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disks = self.inner();
        disks.spend(1)?;
        disks.names.remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut disks = self.inner();
        disks.spend(1)?;
        disks.durable_names.retain(|name, _| name.parent() != Some(path));
        let names: Vec<_> = disks.names.iter().filter(|(name, _)| name.parent() == Some(path)).collect();
        let names: Vec<_> = names.into_iter().map(|(name, index)| (name.clone(), *index)).collect();
        disks.durable_names.extend(names);
        Ok(())
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut disks = self.inner();
        disks.spend(1)?;
        if !disks.locked.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Unlock { disk: self.clone(), path: path.to_owned() }))
    }
}

struct Unlock {
    disk: TestDisk,
    path: PathBuf,
}

impl Drop for Unlock {
    fn drop(&mut self) {
        self.disk.inner().locked.remove(&self.path);
    }
}

impl File for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.inner().files[self.index].now.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let disks = self.disk.inner();
        let from = usize::try_from(offset).unwrap();
        let bytes = disks.files[self.index].now.get(from..from + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disks = self.disk.inner();
        let reach = disks.bytes_left.unwrap_or(u64::MAX).min(bytes.len() as u64);
        let outcome = disks.spend(bytes.len() as u64);
        let from = usize::try_from(offset).unwrap();
        let file = &mut disks.files[self.index];
        if outcome.is_ok() {
            put(&mut file.now, from, bytes);
        } else {
            put(&mut file.durable, from, &bytes[..usize::try_from(reach).unwrap()]);
        }
        outcome
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disks = self.disk.inner();
        disks.spend(1)?;
        disks.files[self.index].now.resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut disks = self.disk.inner();
        disks.spend(1)?;
        let file = &mut disks.files[self.index];
        file.durable = file.now.clone();
        Ok(())
    }
}

fn put(content: &mut Vec<u8>, from: usize, bytes: &[u8]) {
    let end = from + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[from..end].copy_from_slice(bytes);
}

/// An [`Env`] of this disk, seeded randomness and a calendar; nothing else of it is there.
pub(crate) fn test_env(disk: &TestDisk, seed: u64) -> Env {
    Env::new(Arc::new(TestBackend { disk: disk.clone(), rng: Mutex::new(fastrand::Rng::with_seed(seed)) }))
}

struct TestBackend {
    disk: TestDisk,
    rng: Mutex<fastrand::Rng>,
}

impl Backend for TestBackend {
    fn entropy(&self, out: &mut [u8]) {
        self.rng.lock().unwrap().fill(out);
    }

    fn disk(&self) -> Arc<dyn Disk> {
        self.disk.arc()
    }

    fn now(&self) -> Instant {
        unreachable!("no clock in this test")
    }

    /// The calendar stands still.
    fn unix_time(&self) -> Duration {
        Duration::from_secs(1_700_000_000)
    }

    fn sleep_until(&self, _: Instant) -> BoxFuture {
        unreachable!("no clock in this test")
    }

    fn spawn(&self, _: &'static str, _: BoxFuture) -> TaskHandle {
        unreachable!("no tasks in this test")
    }

    fn spawn_thread(&self, _: String, _: BoxFuture) -> TaskHandle {
        unreachable!("no tasks in this test")
    }

    fn block(&self, _: Box<dyn FnOnce() + Send>) -> BoxFuture {
        unreachable!("no tasks in this test")
    }

    fn quic_runtime(&self) -> Arc<dyn quinn::Runtime> {
        unreachable!("no network in this test")
    }

    fn quic_endpoint_config(&self) -> quinn::EndpointConfig {
        unreachable!("no network in this test")
    }

    fn bind(&self, _: SocketAddr) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        unreachable!("no network in this test")
    }
}
