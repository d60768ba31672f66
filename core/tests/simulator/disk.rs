//! Disks: what is durable, what is not, and what goes wrong on purpose.

use rondel_core::{
    env::{Env, File},
    testing::{CrashMode, Sim},
};
use std::{io::ErrorKind, path::Path, sync::Arc, time::Duration};

const FILE: &str = "/data/file";

fn path(name: &str) -> &Path {
    Path::new(name)
}

/// A node with a file whose name is durable.
fn node(sim: &Sim) -> (Env, Arc<dyn File>) {
    let env = sim.node_env(0);
    let disk = env.disk();
    disk.create_dir_all(path("/data")).unwrap();
    let file = disk.open(path(FILE), true).unwrap();
    disk.sync_dir(path("/data")).unwrap();
    (env, file)
}

/// What a new process finds in the file.
fn reopen(sim: &Sim) -> Vec<u8> {
    let file = sim.node_env(0).disk().open(path(FILE), false).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_crash_keeps_what_was_synced_in_every_mode() {
    for mode in CrashMode::ALL {
        for seed in 0..20 {
            let sim = Sim::new(seed);
            let (_env, file) = node(&sim);
            file.write_at(0, &[1; 10_000]).unwrap();
            file.sync().unwrap();
            sim.crash(0, mode);
            assert_eq!(reopen(&sim), [1; 10_000], "{mode:?}, seed {seed}");
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_and_its_files_refuse() {
    let sim = Sim::new(1);
    let (_env, file) = node(&sim);
    file.write_at(0, b"unsynced").unwrap();
    sim.kill(0);
    assert!(file.write_at(0, b"too late").is_err());
    assert!(file.sync().is_err());
    assert_eq!(reopen(&sim), b"unsynced");
    assert_eq!(sim.disk(0).unsynced(), 1);
}

/// What crashes leave of three unsynced writes, over many seeds: which of the writes are seen to be whole.
fn survivors(mode: CrashMode) -> Vec<[bool; 3]> {
    let survived = |seed| {
        let sim = Sim::new(seed);
        let (_env, file) = node(&sim);
        file.set_len(3 * 4096).unwrap();
        file.sync().unwrap();
        for write in 0..3_u8 {
            file.write_at(u64::from(write) * 4096, &[write + 1; 4096]).unwrap();
        }
        sim.crash(0, mode);
        let bytes = reopen(&sim);
        [0, 1, 2_u8].map(|write| bytes[usize::from(write) * 4096..][..4096] == [write + 1; 4096])
    };
    let mut outcomes: Vec<_> = (0..100).map(survived).collect();
    outcomes.sort_unstable();
    outcomes.dedup();
    outcomes
}

#[test]
fn each_crash_mode_leaves_what_it_says_of_the_unsynced() {
    assert_eq!(survivors(CrashMode::LoseAll), [[false; 3]]);
    assert_eq!(survivors(CrashMode::KeepAll), [[true; 3]]);
    let prefixes = [[false, false, false], [true, false, false], [true, true, false], [true, true, true]];
    assert_eq!(survivors(CrashMode::KeepSome), prefixes);
    assert_eq!(survivors(CrashMode::Sectors).len(), 8, "every subset");
    assert!(survivors(CrashMode::TornSectors).contains(&[false; 3]), "torn pages are not whole");
}

#[test]
fn a_torn_write_is_there_in_sectors_of_512_bytes() {
    let sim = Sim::new(2);
    let (_env, file) = node(&sim);
    file.write_at(0, &[1; 64 * 512]).unwrap();
    file.sync().unwrap();
    file.write_at(0, &[2; 64 * 512]).unwrap();
    sim.crash(0, CrashMode::TornSectors);
    let bytes = reopen(&sim);
    let sectors: Vec<_> = bytes.chunks(512).collect();
    assert!(sectors.iter().all(|sector| sector.iter().all(|byte| *byte == sector[0])), "a sector is whole");
    assert!(sectors.iter().any(|sector| sector[0] == 1) && sectors.iter().any(|sector| sector[0] == 2));
}

#[test]
fn a_name_is_durable_only_after_a_sync_of_its_directory() {
    let sim = Sim::new(1);
    let (env, _) = node(&sim);
    let disk = env.disk();
    let file = disk.open(path("/data/new"), true).unwrap();
    file.write_at(0, b"data").unwrap();
    file.sync().unwrap();
    disk.rename(path(FILE), path("/data/renamed")).unwrap();
    sim.crash(0, CrashMode::LoseAll);
    let disk = sim.node_env(0).disk();
    assert_eq!(disk.list(path("/data")).unwrap(), [path(FILE)]);

    disk.rename(path(FILE), path("/data/renamed")).unwrap();
    disk.sync_dir(path("/data")).unwrap();
    disk.remove(path("/data/renamed")).unwrap();
    assert!(disk.list(path("/data")).unwrap().is_empty());
    sim.crash(0, CrashMode::LoseAll);
    assert_eq!(sim.node_env(0).disk().list(path("/data")).unwrap(), [path("/data/renamed")]);
}

#[test]
fn names_follow_the_rules_of_a_file_system() {
    let sim = Sim::new(1);
    let disk = sim.node_env(0).disk();
    let kind = |result: std::io::Result<()>| result.unwrap_err().kind();
    assert_eq!(disk.open(path("/none/file"), true).unwrap_err().kind(), ErrorKind::NotFound);
    disk.create_dir_all(path("/a/b")).unwrap();
    disk.create_dir_all(path("/a/b")).unwrap();
    assert_eq!(disk.open(path("/a/b"), true).unwrap_err().kind(), ErrorKind::IsADirectory);
    let one = disk.open(path("/a/b/one"), true).unwrap();
    one.write_at(0, b"1").unwrap();
    disk.open(path("/a/b/two"), true).unwrap();
    disk.rename(path("/a/b/one"), path("/a/b/two")).unwrap();
    assert_eq!(disk.open(path("/a/b/two"), false).unwrap().len().unwrap(), 1);
    assert_eq!(kind(disk.rename(path("/a/b/one"), path("/a/b/three"))), ErrorKind::NotFound);
    assert_eq!(kind(disk.remove(path("/a/b/one"))), ErrorKind::NotFound);
    assert_eq!(kind(disk.create_dir_all(path("/a/b/two/c"))), ErrorKind::NotADirectory);
    assert_eq!(kind(disk.sync_dir(path("/x"))), ErrorKind::NotFound);
    assert!(disk.list(path("/a")).unwrap().is_empty());
}

#[test]
fn a_file_reads_like_a_file() {
    let sim = Sim::new(1);
    let (_env, file) = node(&sim);
    assert!(file.is_empty().unwrap());
    file.write_at(5000, b"abc").unwrap();
    assert_eq!(file.len().unwrap(), 5003);
    let mut bytes = [7; 4];
    file.read_at(4999, &mut bytes).unwrap();
    assert_eq!(&bytes, b"\0abc");
    assert_eq!(file.read_at(5000, &mut bytes).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    file.set_len(5001).unwrap();
    file.set_len(5003).unwrap();
    file.read_at(4999, &mut bytes).unwrap();
    assert_eq!(&bytes, b"\0a\0\0");
}

#[test]
fn a_full_disk_takes_no_more_until_something_is_removed() {
    let sim = Sim::new(1);
    let (env, file) = node(&sim);
    sim.disk(0).set_capacity(10_000);
    file.write_at(0, &[1; 10_000]).unwrap();
    assert_eq!(env.disk().free_bytes(path("/data")).unwrap(), 0);
    assert_eq!(file.write_at(10_000, &[1]).unwrap_err().kind(), ErrorKind::StorageFull);
    file.write_at(0, &[2; 100]).unwrap();
    file.set_len(9_000).unwrap();
    assert_eq!(env.disk().free_bytes(path("/data")).unwrap(), 1_000);
}

#[test]
fn a_failing_disk_reports_eio_and_a_failed_sync_may_lose_what_came_before() {
    let lost = |seed| {
        let sim = Sim::new(seed);
        let (_env, file) = node(&sim);
        file.write_at(0, b"data").unwrap();
        sim.disk(0).set_write_error_chance(1.0);
        assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(5));
        sim.disk(0).set_write_error_chance(0.0);
        file.sync().unwrap();
        sim.crash(0, CrashMode::LoseAll);
        reopen(&sim) != b"data"
    };
    let lost = (0..40).filter(|seed| lost(*seed)).count();
    assert!((5..35).contains(&lost), "the second sync lied in {lost} of 40 runs");

    let sim = Sim::new(1);
    let (_env, file) = node(&sim);
    file.write_at(0, b"data").unwrap();
    sim.disk(0).set_read_error_chance(1.0);
    assert_eq!(file.read_at(0, &mut [0; 4]).unwrap_err().raw_os_error(), Some(5));
}

#[test]
fn a_directory_is_locked_until_its_process_ends() {
    let sim = Sim::new(1);
    let (env, _) = node(&sim);
    let (disk, second) = (env.disk(), sim.node_env(0).disk());
    let guard = disk.lock(path("/data")).unwrap();
    assert_eq!(second.lock(path("/data")).err().unwrap().kind(), ErrorKind::WouldBlock);
    drop(guard);
    let killed = second.lock(path("/data")).unwrap();
    sim.kill(0);
    let guard = sim.node_env(0).disk().lock(path("/data")).unwrap();
    drop(killed);
    assert!(
        sim.node_env(0).disk().lock(path("/data")).is_err(),
        "a dead guard does not release another's lock"
    );
    drop(guard);
}

#[test]
fn a_flipped_bit_is_read_back_flipped() {
    let sim = Sim::new(1);
    let (_env, file) = node(&sim);
    assert_eq!(sim.disk(0).flip_bit(), None);
    file.write_at(8192, &[1; 4096]).unwrap();
    file.sync().unwrap();
    assert_eq!(sim.disk(0).flip_bit_where(|path| path.ends_with("other")), None);
    let (flipped, offset) = sim.disk(0).flip_bit().unwrap();
    assert_eq!(flipped, path(FILE));
    for read in [reopen(&sim), {
        sim.crash(0, CrashMode::LoseAll);
        reopen(&sim)
    }] {
        let wrong: Vec<_> = read[8192..].iter().enumerate().filter(|(_, byte)| **byte != 1).collect();
        assert_eq!(wrong.len(), 1);
        assert_eq!(8192 + wrong[0].0 as u64, offset);
        assert_eq!((wrong[0].1 ^ 1).count_ones(), 1);
    }
}

#[test]
fn bytes_rot_wherever_they_stand_and_nothing_else_does() {
    let sim = Sim::new(1);
    let (_env, file) = node(&sim);
    // Across the boundary of a page, at the end, and nearly.
    let mut written = vec![7; 9_000];
    for (at, bytes) in [(4_090, b"0123456789"), (8_990, b"0123456789"), (100, b"012345678_")] {
        written[at..at + 10].copy_from_slice(bytes);
    }
    file.write_at(0, &written).unwrap();
    file.sync().unwrap();
    assert_eq!(sim.disk(0).flip_bits_of(b"0123456789", |path| path.ends_with("other")), 0);
    assert_eq!(sim.disk(0).flip_bits_of(b"not there", |_| true), 0);
    assert_eq!(sim.disk(0).flip_bits_of(b"0123456789", |_| true), 2);
    sim.crash(0, CrashMode::LoseAll);
    let read = reopen(&sim);
    let wrong: Vec<_> = (0..9_000).filter(|at| read[*at] != written[*at]).collect();
    let [one, two] = wrong[..] else { panic!("{wrong:?}") };
    assert!((4_090..4_100).contains(&one) && (8_990..9_000).contains(&two), "{wrong:?}");
}

#[test]
fn a_disk_is_rolled_back_cloned_and_wiped() {
    let sim = Sim::new(1);
    let (_env, file) = node(&sim);
    file.write_at(0, b"old").unwrap();
    let image = sim.disk(0).snapshot();
    file.write_at(0, b"new").unwrap();
    file.sync().unwrap();
    let before = sim.disk(0).image_hash();

    sim.kill(0);
    sim.disk(0).restore(&image);
    assert_eq!(reopen(&sim), b"old");
    assert_ne!(sim.disk(0).image_hash(), before);

    sim.disk(1).restore(&image);
    assert_eq!(sim.disk(1).image_hash(), sim.disk(0).image_hash());
    let clone = sim.node_env(1).disk().open(path(FILE), false).unwrap();
    clone.write_at(0, b"two").unwrap();
    clone.sync().unwrap();
    assert_eq!(reopen(&sim), b"old", "a clone has bytes of its own");

    let env = sim.node_env(0);
    let file = env.disk().open(path(FILE), false).unwrap();
    sim.disk(0).wipe();
    assert_eq!(file.len().unwrap_err().raw_os_error(), Some(5), "an open file on an exchanged disk");
    assert_eq!(sim.node_env(0).disk().list(path("/data")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_disk_that_ignores_syncs_loses_what_was_synced() {
    let sim = Sim::new(1);
    let (_env, file) = node(&sim);
    sim.disk(0).set_ignore_sync(true);
    file.write_at(0, b"data").unwrap();
    file.sync().unwrap();
    sim.crash(0, CrashMode::LoseAll);
    assert!(reopen(&sim).is_empty());
}

#[test]
fn power_that_fails_in_the_middle_stops_the_machine_at_once() {
    let sim = Sim::new(1);
    let (env, file) = node(&sim);
    let disk = env.disk();
    sim.cut_power_after(0, 3, CrashMode::KeepAll);
    let inner = env.clone();
    env.spawn("writer", async move {
        for at in 0..10 {
            let file = file.clone();
            inner.block(move || file.write_at(at, &[1])).await.unwrap().unwrap();
        }
        panic!("the power did not fail");
    });
    sim.run_until(sim.died(0));
    assert!(sim.elapsed() < Duration::from_secs(1));
    assert!(disk.list(path("/data")).is_err(), "the process is dead");
    assert_eq!(reopen(&sim).len(), 4, "three writes, and the one in which the power failed");
}

#[test]
fn software_that_panics_as_the_power_fails_is_no_failure_of_its_own() {
    let sim = Sim::new(1);
    let (env, file) = node(&sim);
    sim.cut_power_after(0, 0, CrashMode::LoseAll);
    env.spawn("writer", async move { file.write_at(0, &[1]).unwrap() });
    sim.run_until(sim.died(0));

    let (env, file) = node(&sim);
    sim.cut_power_after(0, 0, CrashMode::LoseAll);
    let inner = env.clone();
    env.spawn("writer", async move {
        let _ = inner.block(move || file.write_at(0, &[1]).unwrap()).await;
    });
    sim.run_until(sim.died(0));
    assert_eq!(sim.panicked_work(), 0);
}
