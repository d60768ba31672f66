//! Finding the files of a store: those that are there, those that should be, and those that are not what they were.

use super::{ASIDE, COUNT_MARK, FILES_MAX, NUMBER_MARK, StoreFiles};
use crate::{
    env::Disk,
    store::{
        OpenError, StoreConfig, StoreError,
        gaps::{ALL_GAPS, GAPS_MARK},
        log::recovery::{LOG_MARK, marks_of},
        tables::{APPLIED_MARK, Tables},
    },
};
use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

const PREFIX: &str = "rows-";
const SUFFIX: &str = ".redb";

impl StoreFiles {
    /// Opens the files in a directory, or makes as many as configured (rounded up to a power of two). Files that are
    /// missing or damaged are replaced by empty ones, all of which is a gap. Blocks.
    ///
    /// # Errors
    /// [`OpenError`]. Nothing is replaced unless a file that is whole is left, and what is left is of one store.
    pub(in crate::store) fn open(
        disk: &dyn Disk,
        directory: &Path,
        config: &StoreConfig,
    ) -> Result<Self, OpenError> {
        let names = Names::in_directory(disk, directory)?;
        let asked = config.log.store_files.clamp(1, FILES_MAX).next_power_of_two();
        // So many there are, unless those with the highest numbers are missing.
        let guess = names.numbers.last().map_or(asked, |last| (last + 1).next_power_of_two());
        let mut found = Found::open(disk, Self::unopened(directory, guess, config), &names)?;
        let count = found.count()?.unwrap_or(asked);
        if count != guess {
            drop(found);
            found = Found::open(disk, Self::unopened(directory, count, config), &names)?;
        }
        found.complete(disk, count as usize, names.aside)
    }

    /// Sets a file aside, if there is one, and makes an empty one in its place, all of which is a gap. Blocks.
    ///
    /// The new one keeps of the store what the others do. The name alone being gone is enough for an opening to do this.
    pub(super) fn replace(
        &mut self,
        disk: &dyn Disk,
        number: usize,
        identity: Vec<(&'static str, u128)>,
        why: &dyn fmt::Display,
    ) -> Result<Tables, OpenError> {
        let aside = self.move_aside(disk, number)?;
        let name = aside.as_deref().map(Path::display);
        tracing::error!(
            file = %self.path(number).display(),
            %why,
            set_aside = name.as_ref().map(tracing::field::display),
            "a file of rows is lost: what it held comes back from the other replicas"
        );
        self.set_aside.extend(aside);
        let marks = [identity, vec![(GAPS_MARK, ALL_GAPS)]].concat();
        Tables::make(disk, &self.path(number), &marks, &self.writing)?;
        self.open_file(disk, &self.path(number))
    }

    /// Gives a file a name that is no store file's; the new name, if there was a file.
    fn move_aside(&self, disk: &dyn Disk, number: usize) -> Result<Option<PathBuf>, OpenError> {
        let path = self.path(number);
        let failed = |source| OpenError::Io { path: path.clone(), source };
        let names = disk.list(&self.directory).map_err(failed)?;
        if !names.contains(&path) {
            return Ok(None);
        }
        let name = |time: usize| match time {
            0 => path.with_added_extension(ASIDE),
            time => path.with_added_extension(format!("{ASIDE}-{time}")),
        };
        let aside = (0..).map(name).find(|name| !names.contains(name)).unwrap_or_else(|| name(0));
        disk.rename(&path, &aside).and_then(|()| disk.sync_dir(&self.directory)).map_err(failed)?;
        Ok(Some(aside))
    }

    fn missing(&self, number: usize) -> OpenError {
        OpenError::Damaged { path: self.path(number), detail: "it is missing".to_owned() }
    }

    /// Has every file keep what an older release kept in the first one only. Blocks.
    fn introduce(&self) -> Result<(), StoreError> {
        for (number, file) in self.files.iter().enumerate() {
            if file.mark(NUMBER_MARK)?.is_none() {
                let transaction = file.begin()?;
                for (name, mark) in identity(number, self.files.len()) {
                    transaction.mark(name, mark)?;
                }
                transaction.commit()?;
            }
        }
        Ok(())
    }
}

/// What tells a file from the others of its store.
fn identity(number: usize, count: usize) -> [(&'static str, u128); 2] {
    [(COUNT_MARK, count as u128), (NUMBER_MARK, number as u128)]
}

/// What a file keeps that replaces another, where these are left.
pub(super) fn identity_beside<'a>(
    number: usize,
    count: usize,
    others: impl Iterator<Item = &'a Tables> + Clone,
) -> Result<Vec<(&'static str, u128)>, StoreError> {
    let mut marks = identity(number, count).to_vec();
    marks.extend(marks_of(others)?);
    Ok(marks)
}

/// What a directory has, by its names.
struct Names {
    /// The numbers of store files, in order.
    numbers: Vec<u32>,
    aside: Vec<PathBuf>,
}

impl Names {
    fn in_directory(disk: &dyn Disk, directory: &Path) -> Result<Self, OpenError> {
        let paths = match disk.list(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed.map_err(|source| OpenError::Io { path: directory.to_owned(), source })?,
        };
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut numbers: Vec<u32> = paths.iter().filter_map(|path| number_of(path)).collect();
        numbers.sort_unstable();
        let is_aside = |path: &PathBuf| {
            name(path).split_once(SUFFIX).is_some_and(|(_, end)| end[1.min(end.len())..].starts_with(ASIDE))
        };
        Ok(Self { numbers, aside: paths.into_iter().filter(is_aside).collect() })
    }
}

/// The number of a store file, by its name.
pub(in crate::store) fn number_of(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?;
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    digits.parse().ok().filter(|number| *number < FILES_MAX)
}

/// Store files as they were found.
struct Found {
    files: StoreFiles,
    sound: BTreeMap<usize, Tables>,
    damaged: BTreeMap<usize, OpenError>,
}

impl Found {
    fn open(disk: &dyn Disk, files: StoreFiles, names: &Names) -> Result<Self, OpenError> {
        let (mut sound, mut damaged) = (BTreeMap::new(), BTreeMap::new());
        for number in names.numbers.iter().map(|number| *number as usize) {
            let path = files.path(number);
            match Tables::open_existing(
                disk,
                &path,
                files.page_cache_bytes,
                files.filter_bytes,
                &files.writing,
            ) {
                Ok(Some(file)) => drop(sound.insert(number, file)),
                Ok(None) => {}
                Err(error @ OpenError::Damaged { .. }) => drop(damaged.insert(number, error)),
                Err(error) => return Err(error),
            }
        }
        if names.numbers.is_empty() && !names.aside.is_empty() {
            damaged.insert(0, files.missing(0));
        }
        Ok(Self { files, sound, damaged })
    }

    /// How many files the store has, if any of them says so.
    fn count(&mut self) -> Result<Option<u32>, OpenError> {
        let counts = self.marks(COUNT_MARK)?;
        if counts.is_empty()
            && let Some((_, damaged)) = self.damaged.pop_first()
        {
            return Err(damaged);
        }
        let fits = |count: &u32| count.is_power_of_two() && *count <= FILES_MAX;
        let Some(count) = counts.first() else { return Ok(None) };
        match u32::try_from(*count).ok().filter(fits) {
            Some(count) if counts.iter().all(|other| *other == u128::from(count)) => Ok(Some(count)),
            _ => Err(self.nonsense("its files do not agree on how many they are")),
        }
    }

    /// The number that each sound file keeps under a name, if it does.
    fn marks(&self, name: &str) -> Result<Vec<u128>, OpenError> {
        let mark = |(number, file): (&usize, &Tables)| {
            file.mark(name).map_err(|error| OpenError::from_store(&self.files.path(*number), error))
        };
        self.sound.iter().map(mark).filter_map(Result::transpose).collect()
    }

    fn nonsense(&self, what: &str) -> OpenError {
        OpenError::Damaged { path: self.files.directory.clone(), detail: what.to_owned() }
    }

    /// Makes the files that a new store has yet to get, and replaces those that another store has lost.
    fn complete(
        mut self,
        disk: &dyn Disk,
        count: usize,
        aside: Vec<PathBuf>,
    ) -> Result<StoreFiles, OpenError> {
        self.check(count)?;
        // Written once all files have been made.
        let was_complete = !self.marks(APPLIED_MARK)?.is_empty() || !self.marks(GAPS_MARK)?.is_empty();
        self.files.set_aside = aside;
        let lost: Vec<usize> = (0..count).filter(|number| !self.sound.contains_key(number)).collect();
        if was_complete {
            self.lose(disk, &lost, count)?;
        } else if let Some((_, damaged)) = self.damaged.pop_first() {
            return Err(damaged);
        }
        let Self { mut files, mut sound, .. } = self;
        for number in 0..count {
            let file = match sound.remove(&number) {
                Some(file) => file,
                None => {
                    Tables::make(disk, &files.path(number), &identity(number, count), &files.writing)?;
                    files.open_file(disk, &files.path(number))?
                }
            };
            files.files.push(Arc::new(file));
            files.remove_unfinished(disk, number)?;
        }
        files.introduce().map_err(|error| OpenError::from_store(&files.directory, error))?;
        Ok(files)
    }

    /// Whether what is there can be one store.
    fn check(&self, count: usize) -> Result<(), OpenError> {
        let mut logs = self.marks(LOG_MARK)?;
        logs.dedup();
        if logs.len() > 1 {
            return Err(self.nonsense("its files are of several stores"));
        }
        for (number, file) in &self.sound {
            let path = self.files.path(*number);
            let own = file.mark(NUMBER_MARK).map_err(|error| OpenError::from_store(&path, error))?;
            if *number >= count || own.is_some_and(|own| own != *number as u128) {
                return Err(OpenError::Damaged {
                    path,
                    detail: "it stands under another one's name".to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Replaces what is lost, if that leaves a file that is whole.
    fn lose(&mut self, disk: &dyn Disk, lost: &[usize], count: usize) -> Result<(), OpenError> {
        let Some(first) = lost.first() else { return Ok(()) };
        let path = self.files.directory.clone();
        let gaps = |file: &Tables| file.mark(GAPS_MARK).map_err(|error| OpenError::from_store(&path, error));
        let whole = self.sound.values().map(gaps).collect::<Result<Vec<_>, _>>()?;
        if whole.iter().all(|gaps| gaps.is_some_and(|gaps| gaps != 0)) {
            return Err(self.damaged.remove(first).unwrap_or_else(|| self.files.missing(*first)));
        }
        for number in lost {
            let why = self.damaged.remove(number).unwrap_or_else(|| self.files.missing(*number));
            let identity = identity_beside(*number, count, self.sound.values())
                .map_err(|error| OpenError::from_store(&path, error))?;
            let file = self.files.replace(disk, *number, identity, &why)?;
            self.sound.insert(*number, file);
        }
        Ok(())
    }
}
