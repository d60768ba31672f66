//! The scrubber: reads all rows of the tables now and then, at a pace, and tries their checksums.
//!
//! A row that nobody reads may rot unseen until its other copies have, too. What is found is counted and logged with
//! its place; the row is repaired from its replicas when it is read, as every damaged row is. A file whose pages make no
//! sense is a finding like any other: only a request that needs it stops the store.

use super::{StoreError, files::Snapshots, key, row::Row, serving::Serving};
use bytes::Bytes;
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

/// Bytes of rows read at once: what a reader of the pool is busy with for some milliseconds.
const SLICE_BYTES: u64 = 256 << 10;
const SLICE_ROWS_MAX: usize = 4096;
/// Damaged rows of one round that the log tells of; further ones are only counted.
const LOGGED_MAX: u64 = 100;

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
    damaged: Vec<Bytes>,
    /// Where to go on; none at the end.
    next: Option<Place>,
}

/// Reads some rows. Blocks.
pub(super) fn scrub(tables: &Snapshots, place: Place) -> Result<Scrubbed, StoreError> {
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
        let sound = key::decode(&bytes)
            .is_some_and(|at| !at.table.holds_rows() || value.with(|row| Row::is_sound(&at, row)));
        scrubbed.rows += 1;
        scrubbed.bytes += (bytes.len() + value.len()) as u64;
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

/// Scrubs round after round until the store ends.
pub(super) async fn run(serving: Arc<Serving>) {
    let (bytes_per_s, pause) = (serving.config.scrub_bytes_per_s, serving.config.scrub_pause);
    if bytes_per_s == 0 {
        return;
    }
    loop {
        serving.env.sleep(pause).await;
        if round(&serving, bytes_per_s).await.is_err() {
            // It has ended.
            return;
        }
    }
}

async fn round(serving: &Arc<Serving>, bytes_per_s: u64) -> Result<(), StoreError> {
    let counts = &serving.counts;
    let (mut place, mut damaged) = (Some(Place::default()), 0_u64);
    while let Some(at) = place.take() {
        let file = at.file;
        let Scrubbed { rows, bytes, damaged: found, next } = match serving.scrub(at).await {
            Ok(scrubbed) => scrubbed,
            Err(StoreError::Damaged(detail)) => {
                tracing::error!(file, %detail, "a file of rows can't be read on");
                damaged += 1;
                counts.damaged_rows.fetch_max(damaged, Relaxed);
                place = Some(Place { file: file + 1, after: None });
                continue;
            }
            Err(error) => return Err(error),
        };
        for key in found {
            damaged += 1;
            if damaged <= LOGGED_MAX {
                let at = key::decode(&key);
                tracing::error!(
                    file,
                    ?at,
                    "a row is damaged on disk; a read of it repairs it from its replicas"
                );
            }
        }
        counts.scrubbed_rows.fetch_add(rows, Relaxed);
        counts.scrubbed_bytes.fetch_add(bytes, Relaxed);
        counts.damaged_rows.fetch_max(damaged, Relaxed);
        serving.env.sleep(Duration::from_secs_f64(bytes as f64 / bytes_per_s as f64)).await;
        place = next;
    }
    // What the rounds before have found may have been repaired since.
    counts.damaged_rows.store(damaged, Relaxed);
    counts.scrub_rounds.fetch_add(1, Relaxed);
    Ok(())
}
