//! The causal contexts that a benchmark has seen.

use bytes::Bytes;
use std::{cell::RefCell, collections::BTreeMap};

/// Keys whose context is remembered. Puts on further ones are blind.
const KEYS_MAX: usize = 1 << 20;

/// The context that was last seen of each key.
#[derive(Debug, Default)]
pub(super) struct Contexts(RefCell<BTreeMap<u64, Bytes>>);

impl Contexts {
    /// What a put on this key should carry.
    pub(super) fn of(&self, key: u64) -> Option<Bytes> {
        self.0.borrow().get(&key).cloned()
    }

    /// Remembers the context of an answer.
    pub(super) fn saw(&self, key: u64, context: &Bytes) {
        let mut seen = self.0.borrow_mut();
        if seen.len() < KEYS_MAX || seen.contains_key(&key) {
            // A slice of the answer would keep all of it.
            seen.insert(key, Bytes::copy_from_slice(context));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_context_counts() {
        let contexts = Contexts::default();
        assert_eq!(contexts.of(1), None);
        contexts.saw(1, &Bytes::from_static(b"a"));
        contexts.saw(1, &Bytes::from_static(b"b"));
        assert_eq!((contexts.of(1), contexts.of(2)), (Some(Bytes::from_static(b"b")), None));
    }
}
