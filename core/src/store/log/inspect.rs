//! Segments as they lie there, for whoever looks at a log that no node writes.

use super::{
    record::{self, Body},
    recovery::io_error,
    segment::{Header, RECORDS_AT, SegmentFile, Segments},
    walk::Walk,
};
use crate::{
    env::Disk,
    store::{
        StoreError,
        inspect::{LogRecord, Recorded, place},
    },
};
use std::{ops::ControlFlow, path::Path, sync::Arc};

/// A segment, and what its header says.
pub(in crate::store) struct InspectedSegment {
    file: SegmentFile,
    header: Option<Header>,
}

/// Where reading a segment ended.
pub(in crate::store) struct SegmentEnd {
    /// Behind its last whole group.
    pub(in crate::store) offset: u64,
    /// What anything behind that says to be durable.
    pub(in crate::store) claim: Option<u64>,
}

/// All files of a log.
pub(in crate::store) fn segments_of(
    disk: &Arc<dyn Disk>,
    directory: &Path,
) -> Result<Vec<InspectedSegment>, StoreError> {
    let segments =
        Segments::find(Arc::clone(disk), directory, 0, 0, |_| false, |_| true).map_err(io_error)?;
    let inspect = |file: &SegmentFile| {
        Ok(InspectedSegment { header: file.header().map_err(io_error)?, file: file.clone() })
    };
    segments.free().iter().map(inspect).collect()
}

impl InspectedSegment {
    /// Which log it belongs to, and its number.
    pub(in crate::store) fn header(&self) -> Option<(u128, u64)> {
        self.header.map(|header| (header.log, header.number))
    }

    /// The batch that comes first in it.
    pub(in crate::store) fn first(&self) -> u64 {
        self.header.map_or(0, |header| header.first)
    }

    pub(in crate::store) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(in crate::store) fn bytes(&self) -> Result<u64, StoreError> {
        self.file.bytes.len().map_err(io_error)
    }

    /// How many copies of its header hold something that is none. One that was never written to holds nothing.
    pub(in crate::store) fn damaged_headers(&self) -> Result<usize, StoreError> {
        self.file.damaged_headers().map_err(io_error)
    }

    /// Shows its records until `seen` breaks off.
    pub(in crate::store) fn walk(
        &self,
        seen: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
    ) -> Result<SegmentEnd, StoreError> {
        let Some(header) = self.header else { return Ok(SegmentEnd { offset: 0, claim: None }) };
        let (bytes, seed) = (self.file.records().map_err(io_error)?, header.seed());
        let mut end = 0;
        for (at, found) in Walk::new(&bytes, seed, header.first) {
            let recorded = match found.body {
                Body::Change { key, value: Some(value) } => {
                    Recorded::Put { at: place(key), value_bytes: value.len() }
                }
                Body::Change { key, value: None } => Recorded::Removed { at: place(key) },
                Body::Seal { durable } => {
                    end = at + found.bytes;
                    Recorded::Sealed { durable }
                }
            };
            let (segment, offset) = (self.path().to_owned(), RECORDS_AT + at as u64);
            if seen(LogRecord { segment, offset, number: found.number, recorded }).is_break() {
                break;
            }
        }
        let claim = record::greatest_claim(bytes.get(end..).unwrap_or_default(), seed);
        Ok(SegmentEnd { offset: RECORDS_AT + end as u64, claim })
    }
}
