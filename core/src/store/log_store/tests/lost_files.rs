//! Files of rows that are lost: the store goes on without them.

use super::*;

fn is_file(number: u32) -> impl Fn(&Path) -> bool {
    let name = format!("rows-{number:03}.redb");
    move |path| path.file_name().is_some_and(|file| file == name.as_str())
}

/// Rows all over the ring.
async fn fill_evenly(store: &LogStore, value: &'static str) {
    for number in 0..40 {
        let lsn = store.apply(vec![numbered(number, Some(value))]).unwrap();
        settle(store, lsn).await;
    }
}

/// The numbers of the rows that have this value, and of those that are absent where nothing is lacking.
async fn look(store: &LogStore, value: &str) -> (Vec<u64>, Vec<u64>) {
    let (mut held, mut absent) = (Vec::new(), Vec::new());
    for number in 0..40 {
        let at = numbered(number, None).at;
        let row = store.read(vec![at.clone()]).await.unwrap().pop().flatten();
        match row {
            Some(row) if row == value.as_bytes() => held.push(number),
            None if !store.lacks(at.position) => absent.push(number),
            _ => {}
        }
    }
    (held, absent)
}

#[test]
fn any_file_can_be_lost_and_what_the_log_has_of_it_is_there_at_once() {
    for (lost, how) in (0..4).flat_map(|lost| Spoil::ALL.map(|how| (lost, how))) {
        let sim = Sim::new(21);
        let mut env = sim.node_env(0);
        let restart = || {
            sim.kill(0);
            sim.node_env(0)
        };
        sim.run_until(async {
            let open = async |env: &Env| LogStore::open(env, Path::new("/data"), tight(4)).await.unwrap();
            let store = open(&env).await;
            fill_evenly(&store, "old").await;
            store.close().await.unwrap();
            env = restart();
            // What the log has is of the opening before.
            let store = open(&env).await;
            settle(&store, store.apply(vec![numbered(3, Some("new"))]).unwrap()).await;
            env = restart();
            assert_eq!(sim.disk(0).spoil(how, is_file(lost)).len(), 1);
            for opening in 0..2 {
                let store = open(&env).await;
                assert_eq!(store.recovery().loss, None);
                assert_eq!((store.stats().gap_ppm, store.gaps().len()), (250_000, 128), "opening {opening}");
                assert_eq!(look(&store, "new").await, (vec![3], vec![]), "file {lost}, opening {opening}");
                let (held, _) = look(&store, "old").await;
                assert!((20..40).contains(&held.len()), "{held:?}");
                assert_eq!(store.set_aside().len(), usize::from(how != Spoil::Remove));
                env = restart();
            }
            let store = open(&env).await;
            store.fill(store.gaps()).await.unwrap();
            assert!(!store.has_gaps());
            env = restart();
            let store = open(&env).await;
            assert!(!store.has_gaps(), "it is known for good");
            let (held, absent) = look(&store, "old").await;
            assert!(held.len() + absent.len() >= 39 && !absent.is_empty());
        });
    }
}

#[test]
fn a_store_that_has_no_whole_file_left_does_not_open() {
    let sim = Sim::new(22);
    let mut env = sim.node_env(0);
    sim.run_until(async {
        let store = LogStore::open(&env, Path::new("/data"), tight(2)).await.unwrap();
        fill_evenly(&store, "old").await;
        store.close().await.unwrap();
        for file in [0, 1] {
            sim.kill(0);
            env = sim.node_env(0);
            sim.disk(0).spoil(Spoil::Cut, is_file(file));
            let opened = LogStore::open(&env, Path::new("/data"), tight(2)).await;
            // The first is all gaps when the second is lost.
            assert_eq!(opened.is_ok(), file == 0, "{:?}", opened.err());
        }
        let names = env.disk().list(Path::new("/data")).unwrap();
        assert!(names.iter().any(|name| is_file(1)(name)), "it is left as it is");
    });
}

#[test]
fn a_file_of_another_store_is_no_file_of_this_one() {
    let sim = Sim::new(23);
    let mut env = sim.node_env(0);
    sim.run_until(async {
        for directory in ["/data", "/other"] {
            let store = LogStore::open(&env, Path::new(directory), tight(2)).await.unwrap();
            store.close().await.unwrap();
        }
        sim.kill(0);
        env = sim.node_env(0);
        env.disk().rename(Path::new("/other/rows-001.redb"), Path::new("/data/rows-001.redb")).unwrap();
        let refused = LogStore::open(&env, Path::new("/data"), tight(2)).await.unwrap_err();
        assert!(refused.to_string().contains("several stores"), "{refused}");
        env.disk().rename(Path::new("/data/rows-000.redb"), Path::new("/data/rows-001.redb")).unwrap();
        let refused = LogStore::open(&env, Path::new("/data"), tight(2)).await.unwrap_err();
        assert!(refused.to_string().contains("another one's name"), "{refused}");
    });
}

/// Nothing of what is acknowledged after the loss depends on the file.
#[test]
fn a_file_that_breaks_while_it_is_in_use_is_replaced() {
    let sim = Sim::new(24);
    let mut env = sim.node_env(0);
    sim.run_until(async {
        let forgetful =
            StoreConfig { cache_bytes: 0, page_cache_bytes: 0, filter_bytes: 0, ..with_values_in_files(4) };
        let open =
            async |env: &Env| LogStore::open(env, Path::new("/data"), forgetful.clone()).await.unwrap();
        let store = open(&env).await;
        // More than one page of each file: the topmost one is in memory.
        let (old, new) = (&*"old".repeat(900).leak(), &*"new".repeat(900).leak());
        fill_evenly(&store, old).await;
        store.close().await.unwrap();
        sim.kill(0);
        env = sim.node_env(0);
        let store = open(&env).await;
        sim.disk(0).spoil(Spoil::Garble, is_file(2));
        for number in 0..40 {
            let _ = store.read(vec![numbered(number, None).at]).await;
        }
        sim.sleep(Duration::from_secs(1)).await;
        assert_eq!(store.progress().borrow().failed.as_ref().map(ToString::to_string), None);
        assert_eq!((store.stats().gap_ppm, store.set_aside().len()), (250_000, 1));
        let (held, absent) = look(&store, old).await;
        assert!((20..40).contains(&held.len()) && absent.is_empty());
        fill_evenly(&store, new).await;
        store.close().await.unwrap();
        sim.kill(0);
        env = sim.node_env(0);
        let store = open(&env).await;
        assert_eq!(look(&store, new).await.0.len(), 40);
        assert_eq!(store.stats().gap_ppm, 250_000);
    });
}
