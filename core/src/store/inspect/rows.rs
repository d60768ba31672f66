//! One file of rows, of a store that no node runs on.

use super::{FileKind, FileReport};
use crate::{
    env::Disk,
    store::{
        StoreError,
        files::file_of,
        key,
        log::{io_error, values::Values},
        redb_file::Untouched,
        row::Row,
        stored::{InFile, Stored},
        tables::{Rows, Tables},
    },
};
use std::{ops::Bound, path::Path, sync::Arc};

/// Tries the checksums of the file's pages, and of every row in it. `place` is which of how many files it is, `values` where
/// rows have their values that do not have them in the file.
pub(super) fn verify(
    disk: &dyn Disk,
    path: &Path,
    place: Option<(usize, usize)>,
    values: Option<&Values>,
) -> Result<FileReport, StoreError> {
    let file = disk.open(path, false).map_err(io_error)?;
    let mut report = FileReport::new(path, FileKind::Rows, file.len().map_err(io_error)?);
    let untouched = Untouched::new(Arc::clone(&file)).map_err(io_error)?;
    match check_pages(untouched, &mut report) {
        Ok(()) => {}
        Err(StoreError::Io(error)) => return Err(StoreError::Io(error)),
        Err(other) => report.find(format!("its pages are not sound: {other}")),
    }
    // Anew: what the check of the pages repaired in memory is not what a node would read.
    let untouched = Untouched::new(file).map_err(io_error)?;
    match check_rows(untouched, place, values, &mut report) {
        Err(StoreError::Io(error)) => return Err(StoreError::Io(error)),
        Err(other) => report.find(other.to_string()),
        Ok(()) => {}
    }
    Ok(report)
}

fn check_pages(file: Untouched, report: &mut FileReport) -> Result<(), StoreError> {
    if !Tables::inspect(file)?.check_pages()? {
        report.find("its pages are not sound: a checksum does not match");
    }
    Ok(())
}

fn check_rows(
    file: Untouched,
    place: Option<(usize, usize)>,
    values: Option<&Values>,
    report: &mut FileReport,
) -> Result<(), StoreError> {
    let tables = Tables::inspect(file)?;
    let snapshot = tables.snapshot()?;
    let mut rows = Rows::new(&snapshot, Bound::Unbounded, Bound::Unbounded)?;
    while let Some((bytes, value)) = rows.next()? {
        report.checked += 1;
        let Some(at) = key::decode(&bytes) else {
            report.find(format!("a row's key is too short: {}", bytes.escape_ascii()));
            continue;
        };
        let stored = value.with(|stored| InFile::decode(&bytes, stored).copy());
        let row = match (stored, values) {
            (Stored::Here(row), _) => Some(row),
            (Stored::There(place), Some(values)) => values.read(&bytes, place)?,
            (Stored::There(_), None) => None,
        };
        match row {
            None => report.find(format!("the value of row {at:?} can't be read in the log")),
            Some(row) if at.table.holds_rows() && !Row::is_sound(&at, &row) => {
                report.find(format!("the checksum of row {at:?} does not match"));
            }
            Some(_) => {}
        }
        if place.is_some_and(|(number, count)| file_of(&bytes, count) != number) {
            report.find(format!("row {at:?} belongs to another file"));
        }
    }
    Ok(())
}
