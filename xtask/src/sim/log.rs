//! The trace of one run as a file: the simulator's events, and between them what the nodes' own logs say.

use anyhow::Context;
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

#[derive(Clone)]
struct Shared(Arc<Mutex<BufWriter<File>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The log of a run that fails is all the more wanted; an error here has nobody to go to.
        let _ = self.flush();
    }
}

impl<'a> MakeWriter<'a> for Shared {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A file that takes both. The variable `RUST_LOG` says how much of the nodes' logs; by default warnings.
pub(super) fn to_file(path: &Path) -> anyhow::Result<Box<dyn Write + Send>> {
    let file = File::create(path).with_context(|| format!("can't write {}", path.display()))?;
    let shared = Shared(Arc::new(Mutex::new(BufWriter::new(file))));
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        .without_time()
        .with_ansi(false)
        .with_writer(shared.clone())
        .init();
    Ok(Box::new(shared))
}
