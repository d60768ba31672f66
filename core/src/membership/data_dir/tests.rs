use super::*;
use crate::durable::test_disk::{TestDisk, test_env};

fn dir() -> &'static Path {
    Path::new("/data")
}

fn open(disk: &TestDisk, seed: u64) -> Result<DataDir, DataDirError> {
    DataDir::open(&test_env(disk, seed), dir())
}

fn file(name: &str) -> PathBuf {
    dir().join(name)
}

#[test]
fn an_empty_directory_is_formatted_once_and_keeps_its_identity() {
    let disk = TestDisk::new();
    let first = open(&disk, 1).unwrap();
    let (node, store, print) = (first.node(), first.store(), first.certificate().fingerprint());
    drop(first);
    let second = open(&disk, 2).unwrap();
    assert_eq!((second.node(), second.store(), second.certificate().fingerprint()), (node, store, print));
}

#[test]
fn every_open_counts_and_draws_a_new_nonce_and_incarnation() {
    let disk = TestDisk::new();
    let mut drawn = std::collections::BTreeSet::new();
    for number in 1..5 {
        let open = open(&disk, number).unwrap();
        assert_eq!(open.boot_number(), number);
        assert!(drawn.insert(open.start_nonce()) && drawn.insert(open.incarnation().0));
        drop(open);
        disk.restart();
    }
}

#[test]
fn more_than_three_starts_within_an_hour_are_often() {
    let often = |minutes: &[u64]| is_often(&minutes.iter().map(|minute| minute * 60_000).collect::<Vec<_>>());
    assert!(!often(&[0, 1, 2]));
    assert!(often(&[0, 1, 2, 59]));
    assert!(!often(&[0, 1, 2, 60]));
    let disk = TestDisk::new();
    for number in 1..7 {
        let open = open(&disk, number).unwrap();
        assert_eq!(open.started_often(), number > 3, "start {number}, right after the one before");
        drop(open);
        disk.restart();
    }
}

#[test]
fn the_same_seed_gives_the_same_identity() {
    let of = |seed| open(&TestDisk::new(), seed).unwrap();
    assert_eq!(of(3).certificate().der(), of(3).certificate().der());
    assert_eq!((of(3).node(), of(3).incarnation()), (of(3).node(), of(3).incarnation()));
    assert_ne!(of(3).store(), of(4).store());
}

#[test]
fn a_crash_anywhere_in_formatting_leaves_a_directory_that_opens() {
    for budget in 0.. {
        let disk = TestDisk::new();
        disk.crash_after_bytes(budget);
        let done = open(&disk, 1).is_ok();
        disk.restart();
        let again = open(&disk, 2).unwrap();
        assert!(again.boot_number() <= 2 && !(done && again.boot_number() == 1));
        if done {
            return;
        }
    }
}

#[test]
fn a_second_process_is_refused_and_a_later_one_is_not() {
    let disk = TestDisk::new();
    let first = open(&disk, 1).unwrap();
    assert!(matches!(open(&disk, 2), Err(DataDirError::InUse { .. })));
    drop(first);
    open(&disk, 3).unwrap();
}

#[test]
fn somebody_elses_directory_is_left_alone() {
    let disk = TestDisk::new();
    disk.set_content(&file("thesis.tex"), b"chapter".to_vec());
    let error = open(&disk, 1).unwrap_err();
    assert!(error.to_string().contains("`thesis.tex`"), "{error}");
    assert!(matches!(error, DataDirError::Foreign { .. }));
    assert_eq!(disk.content(&file("thesis.tex")), b"chapter");
}

#[test]
fn a_directory_remembers_that_it_has_held_the_decided_sequence() {
    let disk = TestDisk::new();
    let first = open(&disk, 1).unwrap();
    assert!(!first.took_part());
    first.set_took_part().unwrap();
    drop(first);
    disk.restart();
    assert!(open(&disk, 2).unwrap().took_part());
}

#[test]
fn data_without_an_identity_is_never_formatted_over() {
    for name in ["boot", "decided", "store.redb"] {
        let disk = TestDisk::new();
        disk.set_content(&file(name), vec![1]);
        assert!(matches!(open(&disk, 1), Err(DataDirError::NoIdentity { .. })), "{name}");
    }
}

#[test]
fn a_lost_count_of_starts_is_noticed_once_there_is_data() {
    let disk = TestDisk::new();
    drop(open(&disk, 1).unwrap());
    disk.set_content(&file("decided"), vec![1]);
    disk.erase(&file("boot"));
    assert!(matches!(open(&disk, 1), Err(DataDirError::Damaged { .. })));
}

#[test]
fn files_of_two_directories_are_told_apart() {
    let (one, two) = (TestDisk::new(), TestDisk::new());
    drop(open(&one, 1).unwrap());
    drop(open(&two, 2).unwrap());
    one.set_content(&file("boot"), two.content(&file("boot")));
    assert!(matches!(open(&one, 1), Err(DataDirError::Mixed { .. })));
}

#[test]
fn a_cut_a_flipped_and_a_replaced_identity_are_refused() {
    let disk = TestDisk::new();
    drop(open(&disk, 1).unwrap());
    let whole = disk.content(&file("identity"));
    let second = 4096 + (whole.len() - 4096) / 2;
    let mut flipped = whole.clone();
    for slot in [4096, second] {
        flipped[slot + 60] ^= 1;
    }
    for bytes in [vec![], whole[..100].to_vec(), whole[..whole.len() / 2].to_vec(), flipped, vec![b'?'; 300]]
    {
        disk.set_content(&file("identity"), bytes);
        assert!(matches!(open(&disk, 1), Err(DataDirError::Damaged { .. })));
    }
    // The record is there twice.
    for slot in [4096, second] {
        let mut flipped = whole.clone();
        flipped[slot + 60] ^= 1;
        disk.set_content(&file("identity"), flipped);
        drop(open(&disk, 1).unwrap());
        assert_eq!(disk.content(&file("identity")), whole);
    }
}

#[test]
fn what_the_system_refuses_is_named_with_its_remedy() {
    let cases = [
        (io::ErrorKind::PermissionDenied, "permissions"),
        (io::ErrorKind::ReadOnlyFilesystem, "read-only"),
        (io::ErrorKind::StorageFull, "free some space"),
        (io::ErrorKind::NotADirectory, "choose another path"),
        (io::ErrorKind::Other, "system log"),
    ];
    for (kind, words) in cases {
        for opened_before in [false, true] {
            let disk = TestDisk::new();
            if opened_before {
                drop(open(&disk, 1).unwrap());
            }
            disk.refuse(kind);
            let text = open(&disk, 1).unwrap_err().to_string();
            assert!(text.contains(words) && text.contains("/data"), "{text}");
        }
    }
}

#[test]
fn the_store_is_the_one_of_its_directory_or_refused() {
    let disk = TestDisk::new();
    let dir = open(&disk, 1).unwrap();
    let other = open(&TestDisk::new(), 2).unwrap();
    assert_eq!(dir.check_store(None).unwrap(), StoreCheck::Unmarked);
    assert_eq!(dir.check_store(Some(&dir.store_mark())).unwrap(), StoreCheck::Unmarked, "not recorded yet");
    dir.set_store_marked().unwrap();
    assert_eq!(dir.check_store(Some(&dir.store_mark())).unwrap(), StoreCheck::Ours);
    assert!(matches!(dir.check_store(Some(&other.store_mark())), Err(DataDirError::Mixed { .. })));
    assert!(matches!(dir.check_store(Some(&Bytes::from_static(b"?"))), Err(DataDirError::Damaged { .. })));
    drop(dir);
    let again = open(&disk, 3).unwrap();
    assert!(matches!(again.check_store(None), Err(DataDirError::StoreMissing { .. })));
}

#[test]
fn the_last_sign_of_life_survives_and_never_goes_back() {
    let disk = TestDisk::new();
    let dir = open(&disk, 1).unwrap();
    assert_eq!(dir.alive_at_open(), Hlc(0));
    dir.set_alive(Hlc(70)).unwrap();
    dir.set_alive(Hlc(60)).unwrap();
    dir.set_clock_bound(Hlc(90)).unwrap();
    drop(dir);
    disk.restart();
    let again = open(&disk, 2).unwrap();
    assert_eq!((again.alive_at_open(), again.clock_bound(), again.boot_number()), (Hlc(70), Hlc(90), 2));
}

#[tokio::test]
async fn a_real_directory_opens_twice_and_is_locked_meanwhile() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("a/b");
    let env = Env::production();
    let first = DataDir::open(&env, &path).unwrap();
    assert!(matches!(DataDir::open(&env, &path), Err(DataDirError::InUse { .. })));
    drop(first);
    assert_eq!(DataDir::open(&env, &path).unwrap().boot_number(), 2);
    std::fs::write(temp.path().join("plain"), b"x").unwrap();
    let error = DataDir::open(&env, &temp.path().join("plain")).unwrap_err();
    assert!(matches!(error, DataDirError::NotADirectory { .. }), "{error}");
}
