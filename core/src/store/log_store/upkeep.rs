//! What the flush task does while no flush is due: it notes gaps that are filled, fills filters, and compacts files that
//! are mostly free.

use super::Log;
use crate::store::{
    StoreError,
    compaction::{Compaction, CompactionError, is_sparse},
    files::StoreFiles,
    log::{Mutant, io_error},
    memtable::Folded,
    tables::Tables,
};
use bytes::Bytes;
use std::sync::{Arc, atomic::Ordering::Relaxed};

/// Rows whose keys are added to a filter at a time.
const FILTER_ROWS: usize = 4096;

/// How far it has got.
#[derive(Default)]
pub(super) struct Upkeep {
    /// The file whose filter is being filled, and the last row that is in it.
    filling: Option<(Arc<Tables>, Bytes)>,
    compaction: Option<Compaction>,
    /// By file: it is not compacted before it is larger than this, as the last time has shown.
    floors: Vec<u64>,
}

impl Upkeep {
    /// A file is gone; gives what has been begun with it. What there is of its successor is removed before there can be
    /// another.
    pub(super) fn forget(&mut self, number: usize) -> impl Send + use<> {
        self.floors.clear();
        (self.filling.take(), self.compaction.take_if(|compaction| compaction.number == number))
    }
}

impl Log {
    /// One step; whether there was something to do. An error is one of the store's own files.
    pub(super) async fn keep_up(
        &self,
        files: &mut Arc<StoreFiles>,
        upkeep: &mut Upkeep,
    ) -> Result<bool, StoreError> {
        Ok(self.note_filled(files).await?
            || self.fill_filter(files, &mut upkeep.filling).await?
            || self.compact(files, upkeep).await?)
    }

    /// Adds some keys to a filter that is not complete, while no flush is due; whether there was something to do.
    async fn fill_filter(
        &self,
        files: &StoreFiles,
        filling: &mut Option<(Arc<Tables>, Bytes)>,
    ) -> Result<bool, StoreError> {
        let wanting =
            || files.all().iter().find(|file| file.filter().is_some_and(|filter| filter.is_wanting()));
        let (file, after) = match filling.take() {
            Some((file, after)) => (file, Some(after)),
            None => match wanting() {
                Some(file) => (Arc::clone(file), None),
                None => return Ok(false),
            },
        };
        let began = self.serving.env.now();
        let step = move || {
            let last = file.add_to_filter(after.as_deref(), FILTER_ROWS)?;
            if last.is_none() {
                file.finish_filter()?;
            }
            Ok(last.map(|last| (file, last)))
        };
        *filling = self.serving.block(step).await?;
        self.pause(self.serving.env.now() - began).await;
        Ok(true)
    }

    /// Copies some rows of a file that is mostly free.
    async fn compact(&self, files: &mut Arc<StoreFiles>, upkeep: &mut Upkeep) -> Result<bool, StoreError> {
        upkeep.floors.resize(files.all().len(), self.serving.config.log.compact_file_bytes_min);
        let Some(mut compaction) = upkeep.compaction.take() else { return self.begin(files, upkeep).await };
        let number = compaction.number;
        let (rows_max, bytes_max) = (files.part_rows(), self.serving.config.log.flush_slice_bytes);
        let began = self.serving.env.now();
        let step = move || {
            let more = compaction.copy(rows_max, bytes_max);
            Ok(more.map(|more| (compaction, more)))
        };
        match self.serving.block(step).await? {
            Ok((compaction, true)) => upkeep.compaction = Some(compaction),
            Ok((compaction, false)) => self.exchange(files, upkeep, compaction).await?,
            Err(error) => self.give_up(files, upkeep, number, &error.into()).await?,
        }
        self.pause(self.serving.env.now() - began).await;
        Ok(true)
    }

    /// Begins with the first file for which it is worth it; whether there is one.
    async fn begin(&self, files: &Arc<StoreFiles>, upkeep: &mut Upkeep) -> Result<bool, StoreError> {
        let worth = |number: &usize| is_sparse(&files.all()[*number], upkeep.floors[*number]);
        let Some(number) = (0..files.all().len()).find(worth) else { return Ok(false) };
        let (disk, of) = (self.serving.env.disk(), Arc::clone(files));
        let reserve = self.serving.config.disk_reserve_bytes;
        match self.serving.block(move || Ok(Compaction::begin(&*disk, &of, number, reserve))).await? {
            Ok(compaction) => upkeep.compaction = compaction,
            Err(error) => self.give_up(files, upkeep, number, &error).await?,
        }
        Ok(upkeep.compaction.is_some())
    }

    /// The new file takes the place of the old one.
    async fn exchange(
        &self,
        files: &mut Arc<StoreFiles>,
        upkeep: &mut Upkeep,
        compaction: Compaction,
    ) -> Result<(), StoreError> {
        let number = compaction.number;
        let (disk, of) = (self.serving.env.disk(), Arc::clone(files));
        let finished = self.serving.block(move || Ok(compaction.finish(&*disk, &of))).await?;
        let new = match finished {
            Ok(new) => new,
            Err(error) => return self.give_up(files, upkeep, number, &error).await,
        };
        let (before, after) = (files.all()[number].file_bytes(), new.file_bytes());
        let (disk, of, view) = (self.serving.env.disk(), Arc::clone(files), Arc::clone(&self.serving.view));
        // From the rename on, which of the two an opening would find is not known before the names are durable.
        let exchange = move || {
            let files = of.succeed(&*disk, number, new).map_err(io_error)?;
            view.exchange_tables(files.snapshots()?);
            Ok(files)
        };
        *files = Arc::new(self.serving.block(exchange).await?);
        upkeep.floors[number] = (2 * after).max(self.serving.config.log.compact_file_bytes_min);
        let counts = &self.serving.counts;
        counts.compactions.fetch_add(1, Relaxed);
        counts.compacted_bytes.fetch_add(before.saturating_sub(after), Relaxed);
        counts.file_bytes.store(files.bytes(), Relaxed);
        tracing::info!(number, before, after, "a file of rows has been compacted");
        Ok(())
    }

    /// What a flush has changed is changed in the new file, too.
    pub(super) async fn follow(
        &self,
        files: &Arc<StoreFiles>,
        upkeep: &mut Upkeep,
        moved: &Arc<Folded>,
    ) -> Result<(), StoreError> {
        if self.serving.config.log.breaks(Mutant::DeafCompaction) {
            return Ok(());
        }
        let Some(compaction) = upkeep.compaction.take() else { return Ok(()) };
        let (number, of, moved) = (compaction.number, Arc::clone(files), Arc::clone(moved));
        let follow = move || Ok(compaction.follow(&of, &moved).map(|()| compaction));
        match self.serving.block(follow).await? {
            Ok(compaction) => upkeep.compaction = Some(compaction),
            Err(error) => self.give_up(files, upkeep, number, &error.into()).await?,
        }
        Ok(())
    }

    /// Nothing rests on the new file: without it the store goes on as before, only larger.
    async fn give_up(
        &self,
        files: &Arc<StoreFiles>,
        upkeep: &mut Upkeep,
        number: usize,
        error: &CompactionError,
    ) -> Result<(), StoreError> {
        tracing::warn!(number, %error, "a file of rows can't be compacted; the next start tries again");
        upkeep.floors[number] = u64::MAX;
        self.remove_unfinished(files, number, || ()).await
    }

    /// Ends what is under way: the store is closed.
    pub(super) async fn put_down(&self, files: &Arc<StoreFiles>, upkeep: Upkeep) -> Result<(), StoreError> {
        let Some(compaction) = upkeep.compaction else { return Ok(()) };
        // Closing the new file writes to it.
        self.remove_unfinished(files, compaction.number, || drop(compaction)).await
    }

    /// Removes what there is of a new file, once it is closed.
    async fn remove_unfinished(
        &self,
        files: &Arc<StoreFiles>,
        number: usize,
        close: impl FnOnce() + Send + 'static,
    ) -> Result<(), StoreError> {
        let (disk, of) = (self.serving.env.disk(), Arc::clone(files));
        let remove = move || {
            close();
            Ok(of.remove_unfinished(&*disk, number))
        };
        if let Err(error) = self.serving.block(remove).await? {
            tracing::warn!(%error, "what there is of the new file can't be removed; the next start tries again");
        }
        Ok(())
    }
}
