//! Tasks, time and faults of nodes.

use rondel_core::testing::Sim;
use std::{
    future::{Future as _, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// The order in which a seed runs eight tasks that are ready at once.
fn order(seed: u64) -> Vec<u32> {
    let sim = Sim::new(seed);
    let (sender, mut receiver) = mpsc::unbounded_channel();
    for task in 0..8 {
        let sender = sender.clone();
        sim.spawn("task", async move { sender.send(task).unwrap() });
    }
    drop(sender);
    sim.run_until(async {
        let mut order = Vec::new();
        while let Some(task) = receiver.recv().await {
            order.push(task);
        }
        order
    })
}

#[test]
fn ready_tasks_run_in_an_order_that_the_seed_decides() {
    assert_eq!(order(1), order(1));
    let orders: std::collections::BTreeSet<_> = (0..20).map(order).collect();
    assert!(orders.len() > 15, "twenty seeds give {} orders", orders.len());
}

#[test]
fn time_jumps_to_the_next_timer_to_the_nanosecond() {
    let sim = Sim::new(1);
    let env = sim.node_env(0);
    let start = env.now();
    sim.run_until(async {
        let odd = Duration::from_nanos(1_234_567);
        env.sleep(odd).await;
        assert_eq!(env.now() - start, odd);
        assert!(env.timeout(Duration::from_secs(5), std::future::pending::<()>()).await.is_err());
        assert_eq!(env.now() - start, odd + Duration::from_secs(5));
    });
    assert_eq!(sim.elapsed(), env.now() - start);
}

#[test]
fn blocking_work_takes_virtual_time_before_and_after_it() {
    let sim = Sim::new(1);
    let env = sim.node_env(0);
    let done = Arc::new(AtomicBool::new(false));
    let flag = done.clone();
    let disk = env.disk();
    let file = disk.open("/file".as_ref(), true).unwrap();
    sim.run_until(async {
        let control = sim.control();
        let during = env
            .block(move || {
                file.sync().unwrap();
                flag.store(true, Ordering::Relaxed);
                control.elapsed()
            })
            .await
            .unwrap();
        assert!(during > Duration::ZERO);
        assert!(sim.elapsed() >= during + Duration::from_micros(80), "the sync has taken its time");
    });
    assert!(done.load(Ordering::Relaxed));
}

#[test]
fn work_that_panics_is_lost_as_in_production() {
    let sim = Sim::new(1);
    let env = sim.node_env(0);
    sim.run_until(env.block(|| panic!("work that fails"))).unwrap_err();
    assert_eq!(sim.panicked_work(), 1);
}

#[test]
fn work_of_a_killed_node_that_had_not_begun_never_happens() {
    let sim = Sim::new(1);
    let env = sim.node_env(0);
    let happened = Arc::new(AtomicBool::new(false));
    let flag = happened.clone();
    let work = env.block(move || flag.store(true, Ordering::Relaxed));
    sim.run_until(async {
        let mut work = std::pin::pin!(work);
        let first = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx).is_pending()));
        assert!(first.await);
        sim.kill(0);
        work.await.unwrap_err();
        sim.sleep(Duration::from_secs(1)).await;
    });
    assert!(!happened.load(Ordering::Relaxed));
    sim.run_until(env.block(|| ())).unwrap_err();
}

#[test]
fn an_aborted_task_ends_at_its_next_wait_and_runs_its_destructors() {
    struct Ended(Option<oneshot::Sender<()>>);
    impl Drop for Ended {
        fn drop(&mut self) {
            self.0.take().unwrap().send(()).unwrap();
        }
    }
    let sim = Sim::new(1);
    let env = sim.node_env(0);
    let (ended, end) = oneshot::channel();
    let ended = Ended(Some(ended));
    let handle = env.spawn_thread("lane", async move {
        let _ended = ended;
        std::future::pending::<()>().await;
    });
    sim.run_until(async {
        handle.abort();
        end.await.unwrap();
        handle.abort();
    });
    assert_eq!(sim.tasks(0), [""; 0]);
}

#[test]
fn destructors_of_a_killed_node_may_call_back_into_its_world() {
    struct CallsBack(rondel_core::env::Env, Arc<AtomicU64>);
    impl Drop for CallsBack {
        fn drop(&mut self) {
            let count = self.1.clone();
            self.0.spawn("too late", async move { panic!("a dead process runs nothing") });
            assert!(self.0.bind("0.0.0.0:0".parse().unwrap()).is_err());
            assert!(self.0.disk().open("/file".as_ref(), true).is_err());
            let _ = (self.0.now(), self.0.sleep(Duration::ZERO), self.0.random_u64());
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
    let sim = Sim::new(1);
    let env = sim.node_env(0);
    let count = Arc::new(AtomicU64::new(0));
    for _ in 0..3 {
        let guard = CallsBack(env.clone(), count.clone());
        env.spawn("task", async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
    }
    sim.run_for(Duration::from_secs(1));
    sim.kill(0);
    assert_eq!(count.load(Ordering::Relaxed), 3);
    sim.run_for(Duration::from_secs(1));
    assert_eq!(sim.tasks(0), [""; 0]);
}

#[test]
fn a_node_may_kill_itself() {
    let sim = Sim::new(1);
    let env = sim.node_env(0);
    let control = sim.control();
    let inner = env.clone();
    env.spawn("suicide", async move {
        control.kill(0);
        inner.sleep(Duration::from_secs(1)).await;
        panic!("it lives on");
    });
    sim.run_until(sim.died(0));
    sim.run_for(Duration::from_secs(5));
    assert!(!sim.is_running(0));
}

#[test]
fn a_paused_node_does_nothing_and_its_timers_are_late() {
    let sim = Sim::new(1);
    let env = sim.node_env(0);
    let ticks = Arc::new(Mutex::new(Vec::new()));
    let (inner, log, control) = (env.clone(), ticks.clone(), sim.control());
    env.spawn("ticker", async move {
        loop {
            inner.sleep(Duration::from_secs(1)).await;
            log.lock().unwrap().push(control.elapsed().as_millis());
        }
    });
    sim.run_for(Duration::from_millis(2500));
    sim.pause(0);
    sim.run_for(Duration::from_secs(3));
    sim.resume(0);
    sim.run_for(Duration::from_millis(2100));
    assert_eq!(*ticks.lock().unwrap(), [1000, 2000, 5500, 6500, 7500]);
}

#[test]
fn each_process_has_entropy_of_its_own_that_follows_from_the_seed() {
    let draw = |seed| {
        let sim = Sim::new(seed);
        [0, 0, 1].map(|node| sim.node_env(node).random_u128())
    };
    let numbers = draw(1);
    assert_eq!(numbers, draw(1));
    assert_ne!(numbers, draw(2));
    assert!(numbers[0] != numbers[1] && numbers[1] != numbers[2] && numbers[0] != numbers[2]);
}

#[test]
fn a_calendar_clock_jumps_and_the_monotonic_one_does_not() {
    let sim = Sim::new(1);
    let (env, other) = (sim.node_env(0), sim.node_env(1));
    assert_eq!(env.unix_time(), other.unix_time());
    let before = env.now();
    sim.set_unix_time(0, Duration::from_secs(1000));
    sim.run_for(Duration::from_secs(5));
    assert_eq!(env.unix_time(), Duration::from_secs(1005));
    assert!(other.unix_time() > Duration::from_secs(1_700_000_000));
    assert_eq!(env.now() - before, Duration::from_secs(5));
}

/// What a run that fails says.
fn failure(run: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
    *panic.downcast::<String>().unwrap()
}

#[test]
fn a_loop_that_never_waits_fails_with_the_seed() {
    let sim = Sim::new(4711);
    sim.spawn("spinner", async {
        loop {
            let mut polled = false;
            poll_fn(|cx| {
                cx.waker().wake_by_ref();
                if std::mem::replace(&mut polled, true) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    });
    let text = failure(|| sim.run_for(Duration::from_secs(1)));
    assert!(text.contains("4711") && text.contains("spinner"), "{text}");
}

#[test]
fn a_wait_for_nothing_fails_with_the_seed() {
    let sim = Sim::new(4712);
    let text = failure(|| sim.run_until(std::future::pending()));
    assert!(text.contains("4712") && text.contains("stands still"), "{text}");
}

#[test]
fn a_run_that_never_ends_fails_with_the_seed() {
    let sim = Sim::new(4713);
    sim.set_time_max(Duration::from_secs(60));
    let control = sim.control();
    sim.spawn("ticker", async move {
        loop {
            control.sleep(Duration::from_secs(1)).await;
        }
    });
    let text = failure(|| sim.run_until(std::future::pending()));
    assert!(text.contains("4713") && text.contains("longest time"), "{text}");
    assert_eq!(sim.elapsed(), Duration::from_secs(60));
}

#[test]
fn the_log_tells_what_happened() {
    let sim = Sim::new(1);
    sim.keep_log(3);
    for note in ["one", "two", "three", "four"] {
        sim.note(note);
    }
    let log = sim.log();
    assert_eq!(log.len(), 3);
    assert!(log[0].contains("two") && log[2].contains("four"), "{log:?}");
}
