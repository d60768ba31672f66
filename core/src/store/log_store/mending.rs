//! Losing one file: the store goes on without what it held, and notes what has come back.
//!
//! Everything that is not yet in the tables is in the memtables and in the log, so an empty file in the place of one
//! that is damaged lacks what was in that file and nothing else. Until its gaps are filled, nobody takes what is absent
//! there for absent; so they are known before the empty file can be read from.

use super::upkeep::Upkeep;
use super::{Filled, Log};
use crate::store::{StoreError, files::StoreFiles, gaps::GAPS_MARK};
use std::sync::{Arc, PoisonError, atomic::Ordering::Relaxed};

impl Log {
    /// Replaces the file that an error is about.
    ///
    /// # Errors
    /// The error itself, if the store can't go on like this.
    pub(super) async fn mend(
        &self,
        files: &mut Arc<StoreFiles>,
        upkeep: &mut Upkeep,
        error: StoreError,
    ) -> Result<(), StoreError> {
        let of = Arc::clone(files);
        let lost = self.serving.block(move || Ok(of.lost())).await?;
        let Some(number) = lost.filter(|_| matches!(error, StoreError::Damaged(_))) else {
            return Err(error);
        };
        let begun = upkeep.forget(number);
        self.gaps.lose(number);
        let (disk, of, view) = (self.serving.env.disk(), Arc::clone(files), Arc::clone(&self.serving.view));
        let replace = move || {
            drop(begun);
            let files = of.lose(&*disk, number, &error)?;
            view.exchange_tables(files.snapshots()?);
            Ok(files)
        };
        let before = std::mem::replace(files, Arc::new(self.serving.block(replace).await?));
        // Closing a file waits for the disk.
        let close = move || {
            drop(before);
            Ok(())
        };
        self.serving.block(close).await?;
        self.serving.counts.file_bytes.store(files.bytes(), Relaxed);
        self.aside.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&files.aside().to_vec());
        Ok(())
    }

    /// Notes in their files that gaps are filled; whether there were any.
    pub(super) async fn note_filled(&self, files: &Arc<StoreFiles>) -> Result<bool, StoreError> {
        let filled = std::mem::take(&mut *self.filled.lock().unwrap_or_else(PoisonError::into_inner));
        if filled.is_empty() {
            return Ok(false);
        }
        let gaps: Vec<_> = filled.iter().flat_map(|filled| filled.gaps.iter().copied()).collect();
        for (number, file) in files.all().iter().enumerate() {
            let Some(left) = self.gaps.without(number, &gaps) else { continue };
            let file = Arc::clone(file);
            let note = move || {
                let transaction = file.begin()?;
                transaction.mark(GAPS_MARK, left)?;
                transaction.commit()
            };
            self.serving.block(note).await?;
            self.gaps.set(number, left);
        }
        for Filled { noted, .. } in filled {
            // Whoever does not wait does not need to know.
            let _ = noted.send(Ok(()));
        }
        Ok(true)
    }
}
