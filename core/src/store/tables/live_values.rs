//! What of the log a store file needs, kept in step with its rows.

use redb::{Database, ReadableDatabase as _, TableDefinition};
use std::collections::{BTreeMap, BTreeSet};

/// By segment of the log, bytes of records in it.
const LIVE_VALUES: TableDefinition<'static, u64, u64> = TableDefinition::new("values");
/// What the parts of a transaction that has not come to its end have changed of these: segments, each with its bytes.
const LIVE_VALUES_OF_PARTS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("values of parts");

/// Bytes of records that rows of the file have their values in, by segment of the log.
#[derive(Default)]
pub(super) struct LiveValues {
    bytes: BTreeMap<u64, u64>,
    /// Those that the next durable transaction has to keep, and of them those that the next part of one has to.
    changed: BTreeSet<u64>,
    changed_in_part: BTreeSet<u64>,
    /// How many parts keep theirs beside the others.
    parts: u64,
}

impl LiveValues {
    pub(super) fn change(&mut self, segment: u64, growth: i64) {
        let bytes = self.bytes.entry(segment).or_default();
        *bytes = bytes.saturating_add_signed(growth);
        if *bytes == 0 {
            self.bytes.remove(&segment);
        }
        self.changed.insert(segment);
        self.changed_in_part.insert(segment);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&u64, &u64)> {
        self.bytes.iter()
    }

    fn set(&mut self, segment: u64, bytes: u64) {
        match bytes {
            0 => drop(self.bytes.remove(&segment)),
            bytes => drop(self.bytes.insert(segment, bytes)),
        }
    }

    fn of(&self, segment: u64) -> u64 {
        self.bytes.get(&segment).copied().unwrap_or(0)
    }

    /// With a durable transaction.
    pub(super) fn keep(&mut self, transaction: &redb::WriteTransaction) -> Result<(), redb::Error> {
        self.changed_in_part.clear();
        if self.changed.is_empty() {
            return Ok(());
        }
        let mut kept = transaction.open_table(LIVE_VALUES)?;
        for segment in std::mem::take(&mut self.changed) {
            match self.of(segment) {
                0 => kept.remove(segment)?,
                bytes => kept.insert(segment, bytes)?,
            };
        }
        if std::mem::take(&mut self.parts) > 0 {
            transaction.delete_table(LIVE_VALUES_OF_PARTS)?;
        }
        Ok(())
    }

    /// With a part of one: in one row, as parts are many. It must not be left out, as closing the file makes parts durable
    /// that no transaction has followed.
    pub(super) fn keep_of_part(&mut self, transaction: &redb::WriteTransaction) -> Result<(), redb::Error> {
        let changed = std::mem::take(&mut self.changed_in_part);
        if changed.is_empty() {
            return Ok(());
        }
        let pair = |segment: u64| [segment, self.of(segment)].map(u64::to_le_bytes);
        let pairs = changed.into_iter().map(pair).collect::<Vec<_>>();
        let pairs = pairs.as_flattened().as_flattened();
        transaction.open_table(LIVE_VALUES_OF_PARTS)?.insert(self.parts, pairs)?;
        self.parts += 1;
        Ok(())
    }

    pub(super) fn load(database: &Database) -> Result<Self, redb::Error> {
        let (transaction, mut live) = (database.begin_read()?, Self::default());
        match transaction.open_table(LIVE_VALUES) {
            Err(redb::TableError::TableDoesNotExist(_)) => {}
            kept => {
                for row in kept?.range::<u64>(..)? {
                    let (segment, bytes) = row?;
                    live.set(segment.value(), bytes.value());
                }
            }
        }
        match transaction.open_table(LIVE_VALUES_OF_PARTS) {
            Err(redb::TableError::TableDoesNotExist(_)) => {}
            kept => {
                for row in kept?.range::<u64>(..)? {
                    let (number, pairs) = row?;
                    for pair in pairs.value().as_chunks::<8>().0.as_chunks::<2>().0 {
                        let [segment, bytes] = pair.map(u64::from_le_bytes);
                        live.set(segment, bytes);
                        live.changed.insert(segment);
                    }
                    live.parts = number.value() + 1;
                }
            }
        }
        Ok(live)
    }
}
