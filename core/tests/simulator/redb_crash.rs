//! Real redb on simulated disks: it survives every crash, and a disk that ignores syncs is found out.

use redb::{
    Builder, Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    TableError,
};
use rondel_core::{
    env::{Env, File, Rng},
    testing::{CrashMode, Sim},
};
use std::{
    collections::BTreeMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("rows");

type Rows = BTreeMap<u64, Vec<u8>>;

#[derive(Debug)]
struct Backend(Arc<dyn File>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
}

fn open(env: &Env) -> Result<Database, redb::Error> {
    let disk = env.disk();
    let directory = Path::new("/data");
    disk.create_dir_all(directory).unwrap();
    let file = disk.open(&directory.join("rows.redb"), true).unwrap();
    disk.sync_dir(directory).unwrap();
    Ok(Builder::new().set_cache_size(1 << 20).create_with_backend(Backend(file))?)
}

fn rows(database: &Database) -> Result<Rows, redb::Error> {
    let read = database.begin_read()?;
    let table = match read.open_table(TABLE) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(Rows::new()),
        table => table?,
    };
    let mut rows = Rows::new();
    for row in table.iter()? {
        let (key, value) = row?;
        rows.insert(key.value(), value.value().to_vec());
    }
    Ok(rows)
}

/// The states in which a database may be found: the last durable one, and any that was begun since.
struct Legal(Vec<Rows>);

impl Legal {
    fn current(&self) -> Rows {
        self.0.last().cloned().unwrap_or_default()
    }
}

/// Commits until the disk fails or the rounds are done.
fn work(database: &Database, rng: &mut Rng, legal: &mut Legal) -> Result<(), redb::Error> {
    for _ in 0..1 + rng.below(30) {
        let mut next = legal.current();
        let durable = rng.chance(0.7);
        let mut write = database.begin_write()?;
        write.set_durability(if durable { Durability::Immediate } else { Durability::None }).unwrap();
        write.set_quick_repair(rng.chance(0.5));
        {
            let mut table = write.open_table(TABLE)?;
            for _ in 0..1 + rng.below(8) {
                let key = rng.below(60);
                let value = vec![rng.u64().to_le_bytes()[0]; rng.index(2000)];
                table.insert(key, &value[..])?;
                next.insert(key, value);
            }
        }
        legal.0.push(next);
        write.commit()?;
        if durable {
            legal.0.drain(..legal.0.len() - 1);
        }
    }
    Ok(())
}

/// Crashes a database again and again; gives how many crashes had something to decide on, or what went wrong.
fn crash_again_and_again(seed: u64, mode: CrashMode, ignore_sync: bool) -> Result<u32, String> {
    let sim = Sim::new(seed);
    let mut rng = sim.rng("work");
    let mut legal = Legal(vec![Rows::new()]);
    let mut undecided = 0;
    sim.disk(0).set_ignore_sync(ignore_sync);
    for _ in 0..10 {
        let env = sim.node_env(0);
        let database = match catch_unwind(AssertUnwindSafe(|| open(&env))) {
            Ok(opened) => opened.map_err(|error| format!("opening: {error}"))?,
            Err(_) => return Err("opening panicked".into()),
        };
        let found = rows(&database).map_err(|error| format!("reading: {error}"))?;
        if !legal.0.contains(&found) {
            return Err(format!("{} rows that are none of {} legal states", found.len(), legal.0.len()));
        }
        legal = Legal(vec![found]);
        sim.cut_power_after(0, rng.below(300), mode);
        // Whatever it is that stops it, a crash follows.
        let _ = work(&database, &mut rng, &mut legal);
        undecided += u32::from(sim.disk(0).unsynced() > 0);
        sim.crash(0, mode);
    }
    Ok(undecided)
}

#[test]
fn redb_survives_two_hundred_crashes_of_each_mode() {
    for mode in CrashMode::ALL {
        let mut undecided = 0;
        for seed in 0..20 {
            undecided += crash_again_and_again(seed, mode, false).unwrap_or_else(|error| {
                panic!("{mode:?}, seed {seed}: {error}");
            });
        }
        assert!(undecided > 100, "{mode:?}: only {undecided} of 200 crashes came at a bad time");
    }
}

#[test]
fn a_disk_that_ignores_syncs_is_found_out() {
    for mode in [CrashMode::LoseAll, CrashMode::KeepSome, CrashMode::Sectors, CrashMode::TornSectors] {
        let caught = (0..10).filter(|seed| crash_again_and_again(*seed, mode, true).is_err()).count();
        assert!(caught >= 9, "{mode:?}: found out in {caught} of 10 runs");
    }
}
