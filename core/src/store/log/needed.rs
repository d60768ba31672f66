//! Which segments an opening has to read: what the store's files say of the log.

use crate::store::StoreError;

/// The segments that an opening reads: those of one opening, and those of the next if that one has left what it read
/// to the flush.
///
/// On disk it is one number: the oldest segment in the lower half, and in the upper half, which is 0 without a joint,
/// the lower half of the segment before the joint, and the opening behind it. A release that knows of no joint takes
/// such a number for damage, and so does not miss what is behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Needed {
    /// The oldest.
    first: u64,
    joint: Option<Joint>,
}

/// Where the log goes on from the segments of one opening to those of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Joint {
    /// The last one of the earlier opening.
    last: u64,
    /// The first one of the later.
    next: u64,
}

impl Needed {
    /// Those of one opening, from this one on.
    pub(in crate::store) fn from(first: u64) -> Self {
        Self { first, joint: None }
    }

    /// These up to `last`, and then those from `next` on; `None` if there is a joint already.
    pub(super) fn joined(self, last: u64, next: u64) -> Option<Self> {
        self.joint.is_none().then_some(Self { joint: Some(Joint { last, next }), ..self })
    }

    /// What is left of these when the ones before `first` are not needed any more.
    pub(super) fn without_before(self, first: u64) -> Self {
        Self { first, joint: self.joint.filter(|joint| first <= joint.last) }
    }

    pub(in crate::store) fn first(self) -> u64 {
        self.first
    }

    pub(super) fn is_joined(self) -> bool {
        self.joint.is_some()
    }

    /// The one that comes after another.
    pub(in crate::store) fn after(self, number: u64) -> u64 {
        self.joint.filter(|joint| joint.last == number).map_or(number + 1, |joint| joint.next)
    }

    pub(in crate::store) fn has(self, number: u64) -> bool {
        let of_opening = |first: u64| number >= first && opening(number) == opening(first);
        match self.joint {
            Some(joint) => of_opening(joint.next) || (of_opening(self.first) && number <= joint.last),
            None => of_opening(self.first),
        }
    }

    /// The newest one that is certainly there: its header was durable before it was said to be needed.
    pub(in crate::store) fn newest(self) -> u64 {
        self.joint.map_or(self.first, |joint| joint.next)
    }

    /// The oldest of those that store files name: one of them may have been brought up to date, and others not yet.
    pub(in crate::store) fn oldest(named: &[Self]) -> Option<Self> {
        // An opening that joins its segments to those before them has begun its own.
        named.iter().copied().min_by_key(|needed| (needed.first, !needed.is_joined()))
    }

    /// What each store file names.
    pub(in crate::store) fn of_marks(marks: Vec<u128>) -> Result<Vec<Self>, StoreError> {
        marks.into_iter().map(Self::of_mark).collect()
    }

    pub(super) fn mark(self) -> u128 {
        let upper = self.joint.map_or(0, |joint| (joint.last << 32) | opening(joint.next));
        u128::from(upper) << 64 | u128::from(self.first)
    }

    pub(in crate::store) fn of_mark(mark: u128) -> Result<Self, StoreError> {
        let [upper, first] = [mark >> 64, mark & u128::from(u64::MAX)]
            .map(|half| u64::try_from(half).expect("half of the bits"));
        let needed = Self::from(first);
        if upper == 0 {
            return Ok(needed);
        }
        let (last, next) = (opening(first) << 32 | upper >> 32, upper << 32);
        let makes_sense = first <= last && last < next;
        let needed = needed.joined(last, next).filter(|_| makes_sense);
        needed.ok_or_else(|| StoreError::Damaged("a mark of the log makes no sense".to_owned()))
    }
}

/// The opening that a segment is of.
pub(super) fn opening(segment: u64) -> u64 {
    segment >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined() -> Needed {
        Needed::from((3 << 32) | 5).joined((3 << 32) | 7, 4 << 32).unwrap()
    }

    #[test]
    fn numbers_on_disk_are_what_they_have_always_been() {
        assert_eq!(Needed::from((3 << 32) | 5).mark(), 0x3_0000_0005);
        assert_eq!(joined().mark(), 0x0000_0007_0000_0004_0000_0003_0000_0005);
        for needed in [Needed::from(1 << 32), joined()] {
            assert_eq!(Needed::of_mark(needed.mark()).unwrap(), needed);
        }
        for mark in [4_u128 << 96 | joined().mark() & u128::from(u64::MAX), joined().mark() - (4 << 64)] {
            assert!(Needed::of_mark(mark).is_err(), "{mark:x}");
        }
    }

    #[test]
    fn the_oldest_counts_and_of_these_the_one_that_goes_on_farther() {
        let (before, after) = (Needed::from(joined().first()), Needed::from(4 << 32));
        assert_eq!(Needed::oldest(&[after, before, joined()]), Some(joined()));
        assert_eq!(Needed::oldest(&[joined().without_before((3 << 32) | 6), before]), Some(before));
        assert_eq!(Needed::oldest(&[]), None);
    }

    #[test]
    fn the_segments_of_both_openings_follow_one_another() {
        let numbers: Vec<_> =
            std::iter::successors(Some(joined().first()), |number| Some(joined().after(*number)))
                .take(5)
                .collect();
        let (of_3, of_4) = (3 << 32, 4 << 32);
        assert_eq!(numbers, [of_3 | 5, of_3 | 6, of_3 | 7, of_4, of_4 | 1]);
        assert!(numbers.iter().all(|number| joined().has(*number)));
        assert!([of_3 | 4, of_3 | 8, 5 << 32].iter().all(|number| !joined().has(*number)));
    }

    #[test]
    fn a_joint_goes_with_the_segments_before_it() {
        assert_eq!(joined().without_before((3 << 32) | 7).newest(), 4 << 32);
        assert_eq!(joined().without_before(4 << 32), Needed::from(4 << 32));
        assert_eq!(joined().joined((4 << 32) | 1, 5 << 32), None, "there is one joint at most");
    }
}
