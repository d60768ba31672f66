//! Values that stay in the log, and the collector that clears away what they leave.

use super::*;
use std::collections::BTreeMap;

/// A few hundred rows are written over and over, and now and then removed, while the collector clears away what they leave:
/// how a row differs from what was written last, or the figures of the store.
fn churn(seed: u64, mutant: Option<Mutant>) -> Result<StoreStats, String> {
    let sim = Sim::new(seed);
    let mut env = sim.node_env(0);
    sim.run_until(async {
        // Looking a row up takes its time.
        let mut config = StoreConfig { cache_bytes: 0, page_cache_bytes: 0, ..tight(2) };
        config.log.mutant = mutant;
        let open = async |env: &Env| LogStore::open(env, Path::new("/data"), config.clone()).await.unwrap();
        let store = open(&env).await;
        let (mut rng, mut model) = (sim.rng("churn"), BTreeMap::new());
        for round in 0..4000_u64 {
            // Some often, the others seldom: they are what a segment still has when it is cleared away.
            let number = if rng.chance(0.5) { rng.below(20) } else { rng.below(300) };
            let value = (!rng.chance(0.1)).then(|| Bytes::from(format!("{round:0300}")));
            model.insert(number, value.clone());
            store.apply(vec![Write { value, ..numbered(number, None) }]).unwrap();
            if rng.chance(0.3) {
                sim.sleep(Duration::from_micros(rng.below(400))).await;
            }
            while store.admission() == Admission::Full {
                sim.sleep(Duration::from_millis(1)).await;
            }
            if rng.chance(0.8) {
                continue;
            }
            let looked_at = rng.below(300);
            let row = store.read(vec![numbered(looked_at, None).at]).await.unwrap().pop().flatten();
            if row != model.get(&looked_at).cloned().flatten() {
                return Err(format!("row {looked_at} differs in round {round}"));
            }
        }
        let stats = store.stats();
        let differ = async |store: &LogStore| {
            let rows = model.keys().map(|number| numbered(*number, None).at).collect();
            let read = store.read(rows).await.unwrap();
            model.iter().zip(read).filter(|((_, value), read)| **value != *read).count()
        };
        let before = differ(&store).await;
        store.close().await.unwrap();
        sim.kill(0);
        env = sim.node_env(0);
        let store = open(&env).await;
        let after = differ(&store).await;
        assert_eq!(store.recovery().lost_values, 0);
        if before + after == 0 { Ok(stats) } else { Err(format!("{before} and {after} rows differ")) }
    })
}

#[test]
fn garbage_is_cleared_away_while_the_same_rows_are_written() {
    for seed in 0..10 {
        let stats = churn(seed, None).unwrap();
        // A megabyte was written, of rows that are some 100 KiB.
        assert!(stats.applied_bytes > 1 << 20 && stats.collected_segments > 10, "{stats:?}");
        assert!(stats.kept_bytes < 400 << 10, "{stats:?}");
    }
}

#[test]
fn a_collector_that_does_not_look_again_brings_old_rows_back() {
    assert!((0..20).any(|seed| churn(seed, Some(Mutant::BlindCollector)).is_err()));
}

#[test]
fn a_kept_segment_that_is_gone_takes_its_rows_and_no_others_and_they_are_found_at_once() {
    let sim = Sim::new(25);
    let mut env = sim.node_env(0);
    let row = |number: u64| {
        let at = numbered(number, None).at;
        let item = Bytes::from(format!("{number:0300}"));
        let row = Row { tag: RowTag::ITEM, n_val: 3, mine: None, body: Body::Item(item) };
        Write { value: Some(row.encode(&at)), at }
    };
    sim.run_until(async {
        let open = async |env: &Env| LogStore::open(env, Path::new("/data"), tight(2)).await.unwrap();
        let store = open(&env).await;
        for number in 0..200 {
            settle(&store, store.apply(vec![row(number)]).unwrap()).await;
        }
        store.close().await.unwrap();
        sim.kill(0);
        env = sim.node_env(0);
        // One that the next opening does not read: the second of many.
        env.disk().remove(Path::new("/data/log/log-000001")).unwrap();
        let store = open(&env).await;
        assert_eq!((store.recovery().loss, store.recovery().lost_values), (None, 1));
        let mut damaged = Vec::new();
        for number in 0..200 {
            let Write { at, value } = row(number);
            let read = store.read(vec![at.clone()]).await.unwrap().pop().flatten();
            if read != value {
                assert!(Row::decode(&at, &read.unwrap()).is_err(), "it is there, and damaged");
                damaged.push(number);
            }
        }
        assert!((10..150).contains(&damaged.len()), "{damaged:?}");
        while store.stats().scrub_rounds == 0 {
            sim.sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(store.stats().damaged_rows, damaged.len() as u64);
        assert_eq!(store.found_damaged().len(), damaged.len());
        // Written anew, as a repair does.
        settle(&store, store.apply(damaged.into_iter().map(row).collect()).unwrap()).await;
        store.close().await.unwrap();
        sim.kill(0);
        env = sim.node_env(0);
        let store = open(&env).await;
        assert_eq!(store.recovery().lost_values, 0);
        let read = store.read((0..200).map(|number| row(number).at).collect()).await.unwrap();
        assert!(read.into_iter().zip(0..).all(|(read, number)| read == row(number).value));
    });
}

/// Nobody may write, and nothing but garbage can make room.
#[test]
fn on_a_full_disk_garbage_is_cleared_away_however_little_it_is() {
    let sim = Sim::new(26);
    let env = sim.node_env(0);
    sim.run_until(async {
        let mut config = StoreConfig { cache_bytes: 0, disk_reserve_bytes: 256 << 10, ..tight(2) };
        config.log.garbage_bytes_min = u64::MAX;
        let store = LogStore::open(&env, Path::new("/data"), config.clone()).await.unwrap();
        let row = |number: u64, round: u64| Write {
            value: Some(Bytes::from(format!("{number} {round:0300}"))),
            ..numbered(number, None)
        };
        // Nine of ten rows are written over: of each segment there is a little that is needed still.
        let number_in = |round: u64, nth: u64| if nth == 0 { 10 + round } else { nth };
        for round in 0..200 {
            for nth in 0..10 {
                settle(&store, store.apply(vec![row(number_in(round, nth), round)]).unwrap()).await;
            }
        }
        let kept = store.stats().kept_bytes;
        sim.sleep(config.disk_check_every * 4).await;
        assert_eq!((store.stats().collected_segments, store.stats().kept_bytes), (0, kept), "it is not much");

        let disk = env.disk();
        sim.disk(0).set_capacity(1 << 40);
        let used = (1 << 40) - disk.free_bytes(Path::new("/data")).unwrap();
        // More is taken of the reserve than a few segments give back.
        sim.disk(0).set_capacity(used + config.disk_reserve_bytes - (200 << 10));
        let until = async |admission| {
            for _ in 0..1000 {
                if store.admission() == admission {
                    return;
                }
                sim.sleep(Duration::from_millis(100)).await;
            }
            panic!("it is never {admission:?}: {:?}", store.stats());
        };
        until(Admission::DiskFull).await;
        until(Admission::Open).await;
        assert!(store.stats().kept_bytes + (100 << 10) < kept, "{kept}: {:?}", store.stats());
        for number in 1..210 {
            let round = if number < 10 { 199 } else { number - 10 };
            let read = store.read(vec![numbered(number, None).at]).await.unwrap().pop().flatten();
            assert_eq!(read, row(number, round).value, "row {number}");
        }
        store.close().await.unwrap();
    });
}
