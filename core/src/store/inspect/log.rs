//! The log of a store that no node runs on.

use super::{FileKind, FileReport};
use crate::{
    env::Disk,
    store::{
        Loss, RowKey, StoreError,
        log::{
            InspectedSegment, Needed, io_error,
            recovery::{FIRST_MARK, LOG_MARK},
            segment::LiveValues,
            segments_of,
            values::Values,
        },
        redb_file::Untouched,
        tables::{APPLIED_MARK, Tables},
    },
};
use bytes::Bytes;
use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

/// One record of the log.
#[derive(Debug, Clone)]
pub struct LogRecord {
    /// The segment's file.
    pub segment: PathBuf,
    /// Where in the file it begins.
    pub offset: u64,
    /// The number of its batch, over all openings of the store; of a seal, that of the last batch before it.
    pub number: u64,
    /// What it says.
    pub recorded: Recorded,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// The row has a new value.
    Put {
        /// Which row; none if its key makes no sense.
        at: Option<RowKey>,
        /// How long the value is.
        value_bytes: usize,
    },
    /// The row is gone.
    Removed {
        /// Which row; none if its key makes no sense.
        at: Option<RowKey>,
    },
    /// A group of batches ends; when it was written, all up to this number were durable.
    Sealed {
        /// That number.
        durable: u64,
    },
}

/// What was found in the log.
#[derive(Debug, Clone, Default)]
pub struct LogSummary {
    /// Segments that an opening would read.
    pub segments: u64,
    /// Records in them.
    pub records: u64,
    /// The last batch that is whole; none if there is none.
    pub last: Option<u64>,
    /// Where the last group ends: the file, and the offset in it.
    pub end: Option<(PathBuf, u64)>,
    /// What was acknowledged and can't be read.
    pub loss: Option<Loss>,
}

/// The segments of a store.
pub(super) struct Log {
    log: Option<u128>,
    needed: Vec<InspectedSegment>,
    spare: Vec<InspectedSegment>,
    /// Those that rows have their values in.
    live: LiveValues,
    /// Which segments should be there, and the batch that comes next, if the store's files say so.
    expected: Option<(Needed, u64)>,
}

impl Log {
    pub(super) fn find(disk: &Arc<dyn Disk>, store: &Path) -> Result<Self, StoreError> {
        let all = segments_of(disk, &store.join("log"))?;
        let marks = Marks::read(&**disk, store)?;
        // Without the marks: the newest opening's.
        let newest = all.iter().filter_map(|segment| segment.header()).max_by_key(|(_, number)| *number);
        let (log, segments) = match (&marks, newest) {
            (Some(marks), _) => (Some(marks.log), marks.needed),
            (None, Some((log, number))) => (Some(log), Needed::from(number >> 32 << 32)),
            (None, None) => (None, Needed::from(0)),
        };
        let is_needed = |segment: &InspectedSegment| {
            segment.header().is_some_and(|(of, number)| Some(of) == log && segments.has(number))
        };
        let (mut needed, spare): (Vec<_>, Vec<_>) = all.into_iter().partition(is_needed);
        needed.sort_unstable_by_key(InspectedSegment::header);
        let expected = marks.as_ref().map(|marks| (marks.needed, marks.next));
        let live = marks.map(|marks| marks.live).unwrap_or_default();
        Ok(Self { log, needed, spare, live, expected })
    }

    /// Shows every record that follows the one before it.
    pub(super) fn walk(
        &self,
        seen: &mut dyn FnMut(usize, LogRecord) -> ControlFlow<()>,
    ) -> Result<LogSummary, StoreError> {
        let mut summary = LogSummary::default();
        let needed = self.expected.map(|(needed, _)| needed);
        let (mut number, mut next) = (needed.map(Needed::first), self.expected.map(|(_, next)| next));
        for (index, segment) in self.needed.iter().enumerate() {
            let Some((_, own)) = segment.header() else { continue };
            let first = segment.first();
            if number.is_some_and(|number| number != own) || next.is_some_and(|next| first > next) {
                let from = next.unwrap_or(first);
                summary.loss = Some(Loss { from, durable: first.saturating_sub(1) });
                break;
            }
            summary.segments += 1;
            let mut broken_off = false;
            let end = segment.walk(&mut |record| {
                summary.records += 1;
                if matches!(record.recorded, Recorded::Sealed { .. }) {
                    summary.last = Some(record.number);
                }
                let go_on = seen(index, record);
                broken_off = go_on.is_break();
                go_on
            })?;
            summary.end = Some((segment.path().to_owned(), end.offset));
            if broken_off {
                break;
            }
            let reached =
                summary.last.unwrap_or(0).max(next.map_or(0, |next| next - 1)).max(first.saturating_sub(1));
            if let Some(durable) = end.claim.filter(|claim| *claim > reached) {
                summary.loss = Some(Loss { from: reached + 1, durable });
                break;
            }
            number = Some(needed.map_or(own + 1, |needed| needed.after(own)));
            next = Some(reached + 1);
        }
        let is_there =
            |number| self.needed.iter().any(|segment| segment.header().is_some_and(|of| of.1 == number));
        if summary.loss.is_none() && needed.is_some_and(|needed| !is_there(needed.newest())) {
            summary.loss = next.map(|from| Loss { from, durable: 0 });
        }
        Ok(summary)
    }

    /// Where rows have their values, if it is known which log it is.
    pub(super) fn values(&self, disk: &Arc<dyn Disk>, store: &Path) -> Result<Option<Values>, StoreError> {
        let values = |log| Values::of_stopped(disk, &store.join("log"), log);
        self.log.map(values).transpose()
    }

    /// Reports every segment.
    pub(super) fn verify(&self, done: &mut dyn FnMut(FileReport)) -> Result<(), StoreError> {
        let mut reports = self.reports(&self.needed, FileKind::Log)?;
        let summary = self.walk(&mut |index, _| {
            reports[index].checked += 1;
            ControlFlow::Continue(())
        })?;
        if let Some(loss) = summary.loss {
            let text = format!(
                "batches from {} on were acknowledged and can't be read{}",
                loss.from,
                if loss.durable > 0 { format!(", up to {} at least", loss.durable) } else { String::new() }
            );
            // The one in which reading ended, or the first.
            let at = usize::try_from(summary.segments.saturating_sub(1)).unwrap_or(0);
            match reports.get_mut(at) {
                Some(report) => report.find(text),
                None => reports.push(missing(text)),
            }
        }
        let has_values = |segment: &&InspectedSegment| {
            let own = segment.header().filter(|(log, _)| Some(*log) == self.log);
            own.is_some_and(|(_, number)| self.live.contains_key(&number))
        };
        let (values, spare): (Vec<_>, Vec<_>) = self.spare.iter().partition(has_values);
        reports.extend(self.reports(values, FileKind::Values)?);
        reports.extend(self.reports(spare, FileKind::SpareLog)?);
        reports.into_iter().for_each(done);
        Ok(())
    }

    fn reports<'a>(
        &self,
        segments: impl IntoIterator<Item = &'a InspectedSegment>,
        kind: FileKind,
    ) -> Result<Vec<FileReport>, StoreError> {
        let report = |segment: &InspectedSegment| {
            let mut report = FileReport::new(segment.path(), kind, segment.bytes()?);
            let damaged = segment.damaged_headers()?;
            if damaged > 0 {
                report.find(format!("{damaged} of the 2 copies of its header can't be read"));
            }
            Ok(report)
        };
        segments.into_iter().map(report).collect()
    }
}

fn missing(text: String) -> FileReport {
    let mut report = FileReport::new(Path::new("log"), FileKind::Log, 0);
    report.find(text);
    report
}

/// What the store's files say of the log.
struct Marks {
    log: u128,
    needed: Needed,
    /// The batch that comes next.
    next: u64,
    live: LiveValues,
}

impl Marks {
    /// None if no file says anything. One that can't be read is reported where its rows are.
    fn read(disk: &dyn Disk, store: &Path) -> Result<Option<Self>, StoreError> {
        let mut files = Vec::new();
        for path in disk.list(store).map_err(io_error)? {
            if path.extension().is_some_and(|end| end == "redb")
                && let Ok(file) = disk.open(&path, false)
            {
                files.extend(Tables::inspect(Untouched::new(file).map_err(io_error)?));
            }
        }
        let marks = |name| files.iter().filter_map(move |file| file.mark(name).ok().flatten());
        let needed =
            Needed::of_marks(marks(FIRST_MARK).collect()).ok().and_then(|named| Needed::oldest(&named));
        let mut live = LiveValues::new();
        files.iter().for_each(|file| file.add_live_values(&mut live));
        // A file that has just taken the place of another one says nothing of this.
        let applied = marks(APPLIED_MARK).min().and_then(|applied| u64::try_from(applied).ok());
        Ok(marks(LOG_MARK).next().zip(needed).map(|(log, needed)| Self {
            log,
            needed,
            next: applied.unwrap_or(0) + 1,
            live,
        }))
    }
}

/// The row that an encoded key names.
pub(in crate::store) fn place(key: &[u8]) -> Option<RowKey> {
    crate::store::key::decode(&Bytes::copy_from_slice(key))
}
