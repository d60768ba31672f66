//! Rows that memory knows besides the ones not yet on disk: a bounded, scan-resistant cache, absences included.

use bytes::Bytes;
use quick_cache::{
    OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};
use rustc_hash::FxBuildHasher;

/// What an entry costs besides its key and value: the cache's own slots and two reference counts.
const ENTRY_OVERHEAD_BYTES: u64 = 160;
/// Fixed, because the default follows the machine's cores and would make eviction differ from machine to machine.
const SHARDS: usize = 8;
/// Only sizes the list of recently evicted keys.
const TYPICAL_ROW_BYTES: u64 = 1024;

#[derive(Clone)]
struct Weight;

impl Weighter<Bytes, Option<Bytes>> for Weight {
    fn weight(&self, key: &Bytes, value: &Option<Bytes>) -> u64 {
        (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64 + ENTRY_OVERHEAD_BYTES
    }
}

/// Encoded keys and their rows; `None` is a row known to be absent.
pub(super) struct RowCache(Cache<Bytes, Option<Bytes>, Weight, FxBuildHasher>);

impl RowCache {
    pub(super) fn new(bytes_max: u64) -> Self {
        let items = usize::try_from(bytes_max / TYPICAL_ROW_BYTES).unwrap_or(usize::MAX).max(SHARDS * 32);
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .weight_capacity(bytes_max)
            .estimated_items_capacity(items)
            .build()
            .expect("every required option is set");
        Self(Cache::with_options(options, Weight, FxBuildHasher, DefaultLifecycle::default()))
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.0.get(key)
    }

    /// Keeps the newest version of a row. A row too large for the cache ends the version that it replaces.
    pub(super) fn put(&self, key: Bytes, value: Option<Bytes>) {
        self.0.insert(key, value);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.weight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Bytes {
        Bytes::copy_from_slice(&n.to_be_bytes())
    }

    #[test]
    fn the_bound_holds_and_absences_are_known() {
        let cache = RowCache::new(64 << 10);
        for n in 0..2000 {
            cache.put(key(n), Some(Bytes::from(vec![0; 300])));
        }
        assert!(cache.bytes() <= 64 << 10, "{}", cache.bytes());
        cache.put(key(5000), None);
        assert_eq!(cache.get(&key(5000)), Some(None));
        assert_eq!(cache.get(&key(5001)), None);
    }

    #[test]
    fn a_row_too_large_ends_the_version_that_it_replaces() {
        let cache = RowCache::new(64 << 10);
        cache.put(key(1), Some(Bytes::from_static(b"old")));
        cache.put(key(1), Some(Bytes::from(vec![0; 1 << 20])));
        assert_eq!(cache.get(&key(1)), None);
    }

    #[test]
    fn eviction_is_the_same_every_time() {
        let survivors = || {
            let cache = RowCache::new(64 << 10);
            for n in 0..3000 {
                cache.put(key(n), Some(Bytes::from(vec![0; (n % 700) as usize])));
                cache.get(&key(n / 2));
            }
            (0..3000).filter(|n| cache.get(&key(*n)).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(survivors(), survivors());
    }
}
