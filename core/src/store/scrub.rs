//! The scrubber: reads all rows of the tables now and then, at a pace, and tries their checksums.
//!
//! A row that nobody reads may rot unseen until its other copies have, too. What is found is counted and logged with
//! its place, and handed to whoever can ask the other owners for it ([`Findings`]). A file whose pages make no sense is
//! replaced, if the store can do without it; otherwise it is a finding like any other: only a request that needs it
//! stops the store.

use super::{
    RowKey, StoreError,
    files::Snapshots,
    key,
    row::Row,
    serving::Serving,
    stored::{self, InFile},
};
use bytes::Bytes;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

/// Bytes of rows read at once: what a reader of the pool is busy with for some milliseconds.
const SLICE_BYTES: u64 = 256 << 10;
const SLICE_ROWS_MAX: usize = 4096;
/// Damaged rows of one round that the log tells of; further ones are only counted.
const LOGGED_MAX: u64 = 100;
/// Damaged rows that wait to be repaired; further ones are found again by the next round.
const WAITING_MAX: usize = 4096;

/// The damaged rows that the scrubber knows of.
#[derive(Default)]
pub(super) struct Findings(Mutex<Found>);

#[derive(Default)]
struct Found {
    /// Found in the last round, or in this one if that is more, and not repaired since.
    damaged: u64,
    /// Found, and repaired, in this round.
    in_round: u64,
    repaired: u64,
    waiting: Vec<RowKey>,
}

impl Findings {
    /// How many there are.
    pub(super) fn damaged(&self) -> u64 {
        self.lock().damaged
    }

    /// Those found since this was asked last.
    pub(super) fn take(&self) -> Vec<RowKey> {
        std::mem::take(&mut self.lock().waiting)
    }

    /// One of them can be read again.
    pub(super) fn repaired(&self) {
        let mut found = self.lock();
        found.repaired += 1;
        found.damaged = found.damaged.saturating_sub(1);
    }

    /// One more has been found; gives how many that are in this round. Without a place it is only counted.
    fn add(&self, at: Option<RowKey>) -> u64 {
        let mut found = self.lock();
        found.in_round += 1;
        found.damaged = found.damaged.max(found.in_round.saturating_sub(found.repaired));
        if found.waiting.len() < WAITING_MAX {
            found.waiting.extend(at);
        }
        found.in_round
    }

    /// What the rounds before have found may have been repaired since.
    fn round_ends(&self) {
        let mut found = self.lock();
        found.damaged = found.in_round.saturating_sub(found.repaired);
        (found.in_round, found.repaired) = (0, 0);
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far a round has got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The file.
    file: usize,
    /// The last row of it that has been read.
    after: Option<Bytes>,
}

/// What a slice came to.
pub(super) struct Scrubbed {
    rows: u64,
    bytes: u64,
    /// The keys of rows whose checksums do not match.
    pub(super) damaged: Vec<Bytes>,
    /// Where to go on; none at the end.
    next: Option<Place>,
}

/// Whether a row's value is what was written under an encoded key, as far as it has a checksum.
pub(super) fn is_sound(key: &Bytes, row: &[u8]) -> bool {
    key::decode(key).is_some_and(|at| !at.table.holds_rows() || Row::is_sound(&at, row))
}

/// The value in a place of the log, if it can be read there.
type ValueAt<'a> = &'a dyn Fn(&[u8], stored::Place) -> Result<Option<Bytes>, StoreError>;

/// Reads some rows, and with `value_at` those that have their values in the log. Blocks.
pub(super) fn scrub(tables: &Snapshots, place: Place, value_at: ValueAt<'_>) -> Result<Scrubbed, StoreError> {
    let mut scrubbed = Scrubbed { rows: 0, bytes: 0, damaged: Vec::new(), next: None };
    let Some(mut rows) = tables.rows_of_file(place.file, place.after.as_deref())? else {
        return Ok(scrubbed);
    };
    let mut after = None;
    for _ in 0..SLICE_ROWS_MAX {
        let Some((bytes, value)) = rows.next()? else {
            scrubbed.next = Some(Place { file: place.file + 1, after: None });
            return Ok(scrubbed);
        };
        let found = value.with(|stored| match InFile::decode(&bytes, stored) {
            InFile::Here(row) => Ok((is_sound(&bytes, row), row.len())),
            InFile::There(place) => Err(place),
        });
        let (sound, row_bytes) = match found {
            Ok(found) => found,
            Err(place) => {
                value_at(&bytes, place)?.map_or((false, 0), |row| (is_sound(&bytes, &row), row.len()))
            }
        };
        scrubbed.rows += 1;
        scrubbed.bytes += (bytes.len() + row_bytes) as u64;
        if !sound {
            scrubbed.damaged.push(bytes.clone());
        }
        after = Some(bytes);
        if scrubbed.bytes >= SLICE_BYTES {
            break;
        }
    }
    scrubbed.next = Some(Place { file: place.file, after });
    Ok(scrubbed)
}

/// Scrubs round after round until the store ends; with something to find, the first begins at once.
pub(super) async fn run(serving: Arc<Serving>, at_once: bool) {
    let (bytes_per_s, pause) = (serving.config.scrub_bytes_per_s, serving.config.scrub_pause);
    if bytes_per_s == 0 {
        return;
    }
    let mut rests = !at_once;
    loop {
        if rests {
            serving.env.sleep(pause).await;
        }
        rests = true;
        if round(&serving, bytes_per_s).await.is_err() {
            // It has ended.
            return;
        }
    }
}

async fn round(serving: &Arc<Serving>, bytes_per_s: u64) -> Result<(), StoreError> {
    let (counts, findings) = (&serving.counts, &serving.findings);
    let mut place = Some(Place::default());
    while let Some(at) = place.take() {
        let file = at.file;
        let Scrubbed { rows, bytes, damaged: found, next } = match serving.scrub(at).await {
            Ok(scrubbed) => scrubbed,
            Err(StoreError::Damaged(detail)) => {
                tracing::error!(file, %detail, "a file of rows can't be read on");
                findings.add(None);
                place = Some(Place { file: file + 1, after: None });
                continue;
            }
            Err(error) => return Err(error),
        };
        for key in found {
            let at = key::decode(&key);
            if findings.add(at.clone()) <= LOGGED_MAX {
                tracing::error!(file, ?at, "a row is damaged on disk; its other owners are asked for it");
            }
        }
        counts.scrubbed_rows.fetch_add(rows, Relaxed);
        counts.scrubbed_bytes.fetch_add(bytes, Relaxed);
        serving.env.sleep(Duration::from_secs_f64(bytes as f64 / bytes_per_s as f64)).await;
        place = next;
    }
    findings.round_ends();
    counts.scrub_rounds.fetch_add(1, Relaxed);
    Ok(())
}
