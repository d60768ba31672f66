//! Writers in a closed loop, and what they came to.

use crate::engine::Engine;
use bytes::Bytes;
use hdrhistogram::Histogram;
use rondel_core::env::{Env, Rng};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::oneshot;

/// Bytes of a key as the store keeps it.
const KEY_BYTES: usize = 12 + 31;
/// How long a writer waits before it looks again whether the engine takes puts.
const FULL_PAUSE: Duration = Duration::from_millis(1);
/// A put that takes longer counts as if it had taken this long.
const LATENCY_US_MAX: u64 = 60_000_000;

type Acks = Arc<Mutex<VecDeque<(u64, oneshot::Sender<()>)>>>;

/// What the writers do.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) writers: u64,
    pub(crate) value_bytes: usize,
    pub(crate) seconds: u64,
    /// Of so many keys, each as often as another.
    pub(crate) keys: u64,
}

/// What a run came to.
pub(crate) struct Measured {
    load: Load,
    latencies: Histogram<u32>,
    elapsed: Duration,
    cpu: Duration,
    written_bytes: u64,
    resident_bytes: u64,
}

impl Load {
    /// Runs the writers, and lets the engine come to rest.
    pub(crate) async fn run(self, env: &Env, engine: Engine) -> Measured {
        let engine = Arc::new(engine);
        let acks = Acks::default();
        let answering = env.spawn("answer", answer(Arc::clone(&engine), Arc::clone(&acks)));
        let (before, began) = (Usage::now(), env.now());
        let until = began + Duration::from_secs(self.seconds);
        let writers: Vec<_> = (0..self.writers)
            .map(|writer| {
                let (sender, receiver) = oneshot::channel();
                let (env, clock) = (env.clone(), env.clone());
                let (engine, acks) = (Arc::clone(&engine), Arc::clone(&acks));
                env.spawn("writer", async move {
                    let mut rng = Rng::from_seed(writer + 1);
                    let mut latencies = histogram();
                    while clock.now() < until {
                        let began = clock.now();
                        self.put(&clock, &engine, &acks, &mut rng).await;
                        let micros = u64::try_from((clock.now() - began).as_micros()).unwrap();
                        latencies.saturating_record(micros);
                    }
                    let _ = sender.send(latencies);
                });
                receiver
            })
            .collect();
        let mut latencies = histogram();
        for writer in writers {
            latencies.add(writer.await.unwrap()).unwrap();
        }
        let elapsed = env.now() - began;
        let resident_bytes = Usage::now().resident_bytes;
        answering.abort();
        // The task lets go of the engine at its next turn.
        let engine = loop {
            match Arc::strong_count(&engine) {
                1 => break Arc::into_inner(engine).unwrap(),
                _ => tokio::task::yield_now().await,
            }
        };
        engine.close().await;
        let after = Usage::now();
        Measured {
            load: self,
            latencies,
            elapsed,
            cpu: after.cpu.saturating_sub(before.cpu),
            written_bytes: after.written_bytes - before.written_bytes,
            resident_bytes,
        }
    }

    /// Writes every key once.
    pub(crate) async fn fill(self, env: &Env, engine: &Engine) {
        let mut watch = engine.watch();
        let mut rng = Rng::from_seed(0);
        for first in (0..self.keys).step_by(1000) {
            let last = (first..first + 1000).map(|key| engine.put(key, self.value(&mut rng))).last();
            while watch.next().await.expect("the engine takes what fits") < last.expect("a thousand puts") {}
            while engine.is_full() {
                env.sleep(FULL_PAUSE).await;
            }
        }
    }

    async fn put(self, env: &Env, engine: &Engine, acks: &Acks, rng: &mut Rng) {
        let (key, value) = (rng.below(self.keys), self.value(rng));
        while engine.is_full() {
            env.sleep(FULL_PAUSE).await;
        }
        let (sender, receiver) = oneshot::channel();
        {
            // One step: what is durable is answered only once its writer stands in the list.
            let mut acks = acks.lock().unwrap();
            acks.push_back((engine.put(key, value), sender));
        }
        receiver.await.unwrap();
    }

    /// Bytes that no engine can make less of.
    fn value(self, rng: &mut Rng) -> Bytes {
        let mut value = Vec::with_capacity(self.value_bytes + 8);
        while value.len() < self.value_bytes {
            value.extend_from_slice(&rng.u64().to_le_bytes());
        }
        value.truncate(self.value_bytes);
        value.into()
    }
}

/// Answers what has become durable.
async fn answer(engine: Arc<Engine>, acks: Acks) {
    let mut watch = engine.watch();
    while let Some(durable) = watch.next().await {
        let mut acks = acks.lock().unwrap();
        while acks.front().is_some_and(|(number, _)| *number <= durable) {
            let _ = acks.pop_front().unwrap().1.send(());
        }
    }
}

fn histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 2).unwrap()
}

impl Measured {
    /// One line.
    pub(crate) fn json(&self) -> String {
        let ops = self.latencies.len().max(1) as f64;
        let user_bytes = ops * (KEY_BYTES + self.load.value_bytes) as f64;
        format!(
            "{{\"ops_per_s\":{:.1},\"p50_us\":{},\"p99_us\":{},\"p99_9_us\":{},\"cpu_us\":{:.3},\"amplification\":{:.3},\"resident_bytes\":{}}}",
            ops / self.elapsed.as_secs_f64(),
            self.latencies.value_at_quantile(0.5),
            self.latencies.value_at_quantile(0.99),
            self.latencies.value_at_quantile(0.999),
            self.cpu.as_secs_f64() * 1e6 / ops,
            self.written_bytes as f64 / user_bytes,
            self.resident_bytes,
        )
    }
}

/// What this process has used.
struct Usage {
    cpu: Duration,
    /// Bytes handed to the operating system to be written.
    written_bytes: u64,
    /// The most that it has held in memory.
    resident_bytes: u64,
}

impl Usage {
    fn now() -> Self {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/self/{file}")).unwrap();
        let labelled = |text: &str, label: &str| -> u64 {
            let value = text.lines().find_map(|line| line.strip_prefix(label)).unwrap();
            value.split_whitespace().next().unwrap().parse().unwrap()
        };
        let stat = read("stat");
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Self {
            // A tick is a hundredth of a second on every Linux.
            cpu: Duration::from_millis(ticks * 10),
            written_bytes: labelled(&read("io"), "wchar:"),
            resident_bytes: labelled(&read("status"), "VmHWM:") << 10,
        }
    }
}
