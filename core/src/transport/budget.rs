//! Budgets of bytes: what may be queued to one peer, and to all of them together.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Bytes that may be held at once, here and in the budget that this one is part of.
pub(super) struct Budget {
    used: AtomicUsize,
    bytes_max: usize,
    whole: Option<Arc<Budget>>,
}

impl Budget {
    pub(super) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), bytes_max, whole: None })
    }

    pub(super) fn part_of(whole: &Arc<Self>, bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), bytes_max, whole: Some(whole.clone()) })
    }

    /// Holds `bytes` until the guard goes; `None` if they don't fit. An empty budget takes anything: what may be
    /// sent at all must not be refused for ever.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        if !self.reserve(bytes) {
            return None;
        }
        if let Some(whole) = &self.whole
            && !whole.reserve(bytes)
        {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        Some(Held { budget: self.clone(), bytes })
    }

    fn reserve(&self, bytes: usize) -> bool {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        let fits = before == 0 || before + bytes <= self.bytes_max;
        if !fits {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }
}

/// A part of a budget, given back when dropped.
pub(super) struct Held {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
        if let Some(whole) = &self.budget.whole {
            whole.used.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_free_again_in_both() {
        let whole = Budget::new(10);
        let (left, right) = (Budget::part_of(&whole, 8), Budget::part_of(&whole, 8));
        let held = left.take(6).unwrap();
        assert!(left.take(3).is_none());
        assert!(right.take(5).is_none());
        let other = right.take(4).unwrap();
        drop(held);
        drop(left.take(6).unwrap());
        drop(other);
        assert_eq!(whole.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_empty_budget_takes_what_is_larger_than_itself() {
        let budget = Budget::new(10);
        let held = budget.take(11).unwrap();
        assert!(budget.take(1).is_none());
        drop(held);
        assert!(budget.take(1).is_some());
    }
}
