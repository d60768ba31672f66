//! What one store takes, and what it costs, beside a bare log and other stores.
//!
//! `cargo xtask bench store` runs this program once for each row of its table: `run ENGINE WRITERS VALUE_BYTES SECONDS
//! KEYS DIRECTORY` measures durable puts, `fill ENGINE ROWS DIRECTORY` writes rows of 1 KiB until it is killed, and
//! `open DIRECTORY` times an opening. Each prints one line of JSON. `cargo bench -p rondel-core --bench store` runs all
//! engines for a moment.
//!
//! Writers are a closed loop: each has one put on its way, of a random key. They share a lane, as vnodes do, and one
//! task watches what has become durable for all of them. Processor time, memory and bytes are those of the whole process,
//! writers included, until everything is at rest.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a benchmark ends at the first error")]

mod engine;
mod load;

use engine::Engine;
use load::{Load, Measured};
use rondel_core::{env::Env, store::Store as _};
use std::path::{Path, PathBuf};

/// As in the binary that is released.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let words: Vec<_> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        match words[..] {
            ["run", engine, writers, value_bytes, seconds, keys, directory] => {
                let number = |word: &str| word.parse::<u64>().unwrap();
                let [writers, seconds, keys] = [writers, seconds, keys].map(number);
                let load = Load { writers, value_bytes: value_bytes.parse().unwrap(), seconds, keys };
                println!("{}", run(engine, load, Path::new(directory)).await.json());
            }
            ["fill", engine, rows, directory] => {
                fill(engine, rows.parse().unwrap(), Path::new(directory)).await;
            }
            ["open", directory] => open(Path::new(directory)).await,
            _ => {
                for engine in engine::NAMES {
                    let load = Load { writers: 64, value_bytes: 1024, seconds: 4, keys: 200_000 };
                    let directory = tempfile::tempdir().unwrap();
                    println!("{engine:8} {}", run(engine, load, directory.path()).await.json());
                }
            }
        }
    });
}

async fn run(name: &str, load: Load, directory: &Path) -> Measured {
    let env = Env::production();
    let engine = Engine::open(name, &env, directory).await;
    load.run(&env, engine).await
}

/// Writes so many rows, says so, and goes on writing over them until it is killed.
async fn fill(name: &str, rows: u64, directory: &Path) {
    let env = Env::production();
    let engine = Engine::open(name, &env, directory).await;
    let load = Load { writers: 64, value_bytes: 1024, seconds: 0, keys: rows };
    load.fill(&env, &engine).await;
    println!("{{\"filled\":true}}");
    Load { seconds: 3600, ..load }.run(&env, engine).await;
}

async fn open(directory: &Path) {
    let env = Env::production();
    let (began, directory) = (env.now(), PathBuf::from(directory));
    let store = engine::open_log(&env, &directory).await;
    let opened = env.now() - began;
    println!("{{\"open_ms\":{},\"batches\":{}}}", opened.as_millis(), store.recovery().batches);
    store.close().await.unwrap();
}
