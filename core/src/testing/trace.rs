//! What happened in a simulation: a running hash always, lines to read on demand.
//!
//! Two runs that took the same course have the same hash. It covers the schedule (who was polled when), datagrams
//! (ends, sizes, fates), disk operations (files, offsets, sizes, fates) and faults. What decides the course shows in
//! these, so contents are left out.

use super::{clock::Nanos, executor::TaskId, lock};
use std::{
    collections::VecDeque,
    fmt,
    hash::{Hash, Hasher},
    io,
    sync::Mutex,
};

/// Events gather here before they are hashed: blake3 is slow in small pieces.
const BUFFER_BYTES: usize = 16 << 10;

/// Something that happened.
#[derive(Debug, Hash)]
pub(super) enum Event<'a> {
    Spawn { task: TaskId, node: Option<u32>, name: &'a str },
    Poll { task: TaskId },
    Start { node: u32, process: u64 },
    Kill { node: u32, tasks: usize },
    Pause { node: u32 },
    Resume { node: u32 },
    SetClock { node: u32, millis: u128 },
    Bind { node: u32, port: u16 },
    Send { from: (u32, u16), to: (u32, u16), bytes: usize, fate: super::net::Fate },
    Receive { from: (u32, u16), to: (u32, u16), bytes: usize, fate: super::net::Fate },
    Link { change: &'a str, from: u32, to: u32 },
    Disk { node: u32, operation: &'static str, file: u64, offset: u64, bytes: usize, failed: bool },
    DiskFault { node: u32, fault: &'static str, amount: u64 },
    WorkPanicked { node: u32 },
    Note { text: &'a str },
}

/// The record of one simulation.
pub(super) struct Trace(Mutex<Record>);

struct Record {
    hasher: blake3::Hasher,
    buffer: Buffer,
    kept: Option<Kept>,
    writer: Option<Box<dyn io::Write + Send>>,
}

/// The last lines of a run.
struct Kept {
    lines: VecDeque<String>,
    lines_max: usize,
}

impl Trace {
    pub(super) fn new(seed: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        let buffer = Buffer(Vec::with_capacity(2 * BUFFER_BYTES));
        Self(Mutex::new(Record { hasher, buffer, kept: None, writer: None }))
    }

    pub(super) fn record(&self, at: Nanos, event: &Event<'_>) {
        let mut record = lock(&self.0);
        record.buffer.write(&at.to_le_bytes());
        event.hash(&mut record.buffer);
        if record.buffer.0.len() >= BUFFER_BYTES {
            record.flush();
        }
        // Polls are most of all events and say little to a reader.
        if !matches!(event, Event::Poll { .. }) {
            record.log(at, event);
        }
    }

    pub(super) fn hash(&self) -> blake3::Hash {
        let mut record = lock(&self.0);
        record.flush();
        record.hasher.finalize()
    }

    pub(super) fn keep(&self, lines_max: usize) {
        lock(&self.0).kept = Some(Kept { lines: VecDeque::new(), lines_max });
    }

    pub(super) fn kept(&self) -> Vec<String> {
        lock(&self.0).kept.as_ref().map(|kept| kept.lines.iter().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn write_to(&self, writer: Box<dyn io::Write + Send>) {
        lock(&self.0).writer = Some(writer);
    }
}

impl Record {
    fn flush(&mut self) {
        self.hasher.update(&self.buffer.0);
        self.buffer.0.clear();
    }

    fn log(&mut self, at: Nanos, event: &Event<'_>) {
        if let Some(writer) = &mut self.writer
            && writeln!(writer, "{} {event:?}", Seconds(at)).is_err()
        {
            // A log that can't be written must not change the run.
            self.writer = None;
        }
        if let Some(kept) = &mut self.kept {
            if kept.lines.len() >= kept.lines_max {
                kept.lines.pop_front();
            }
            kept.lines.push_back(format!("{} {event:?}", Seconds(at)));
        }
    }
}

/// A derived `Hash` writes itself in here; so an event has one definition for the hash and for the reader.
struct Buffer(Vec<u8>);

impl Hasher for Buffer {
    fn finish(&self) -> u64 {
        unreachable!("the bytes are hashed with blake3, not here")
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

/// Virtual time as a reader wants it.
struct Seconds(Nanos);

impl fmt::Display for Seconds {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}
