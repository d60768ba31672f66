//! The equal parts of the ring: a partition is the top `k` bits of its positions.
//!
//! A partition's number means nothing without its [`Bits`], and nothing durable is keyed by it: splitting every
//! partition in two changes the numbers and moves no key (DESIGN §4).

use rondel_proto::{id::Position, wire};
use std::{fmt, ops::RangeInclusive};

/// How many top bits of a position name its partition: the ring has `2^k` of them, 8 … 32,768.
#[wire(crate = rondel_proto)]
#[derive(Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bits(u8);

/// A number of partitions that a ring can't have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a ring has 8 to 32768 partitions, a power of two; {0} is not")]
pub struct BitsError(pub u64);

impl Bits {
    /// 64 partitions: the default ring.
    pub const DEFAULT: Self = Self(6);
    const MIN: u8 = 3;
    const MAX: u8 = 15;

    /// A ring of so many partitions.
    ///
    /// # Errors
    /// [`BitsError`] if that is no power of two or not within 8 … 32,768.
    pub fn of_count(count: u32) -> Result<Self, BitsError> {
        (Self::MIN..=Self::MAX)
            .map(Self)
            .find(|bits| u32::from(bits.last_index()) + 1 == count)
            .ok_or(BitsError(u64::from(count)))
    }

    /// The number as it was archived, if that is none that [`Bits::of_count`] makes.
    pub(super) fn out_of_bounds(self) -> Option<u8> {
        (!(Self::MIN..=Self::MAX).contains(&self.0)).then_some(self.0)
    }

    /// `k` itself, in bits. An archive from outside may hold anything; it is bounded here so that no shift overflows.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0.clamp(Self::MIN, Self::MAX)
    }

    /// How many partitions the ring has.
    #[must_use]
    pub fn count(self) -> usize {
        1 << self.get()
    }

    /// The ring with twice as many partitions, if it may be split once more.
    #[must_use]
    pub fn split(self) -> Option<Self> {
        (self.get() < Self::MAX).then(|| Self(self.get() + 1))
    }

    /// All partitions, in ring order.
    pub fn partitions(self) -> impl ExactSizeIterator<Item = Partition> + DoubleEndedIterator {
        (0..1 << self.get()).map(move |index| Partition { bits: self, index })
    }

    fn last_index(self) -> u16 {
        u16::MAX >> (16 - self.get())
    }
}

/// One of the equal parts of the ring.
#[wire(crate = rondel_proto)]
#[derive(Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    bits: Bits,
    index: u16,
}

impl Partition {
    /// The partition that a position falls into.
    #[must_use]
    pub fn of(position: Position, bits: Bits) -> Self {
        let index = u16::try_from(position.0 >> (64 - bits.get())).expect("at most 15 bits are left");
        Self { bits, index }
    }

    /// The partition of a number, if the ring has one of that number.
    #[must_use]
    pub fn at(index: u16, bits: Bits) -> Option<Self> {
        (index <= bits.last_index()).then_some(Self { bits, index })
    }

    /// The ring that it is a part of.
    #[must_use]
    pub fn bits(self) -> Bits {
        self.bits
    }

    /// Its number on that ring, from 0.
    #[must_use]
    pub fn index(self) -> u16 {
        self.index
    }

    /// Its first position.
    #[must_use]
    pub fn first(self) -> Position {
        Position(u64::from(self.index) << (64 - self.bits.get()))
    }

    /// Its last position, included.
    #[must_use]
    pub fn last(self) -> Position {
        Position(self.first().0 | u64::MAX >> self.bits.get())
    }

    /// Its positions, both ends included.
    #[must_use]
    pub fn positions(self) -> RangeInclusive<Position> {
        self.first()..=self.last()
    }

    /// Whether a position falls into it.
    #[must_use]
    pub fn contains(self, position: Position) -> bool {
        Self::of(position, self.bits) == self
    }

    /// The two halves that it becomes when the ring is split, if it may be split once more.
    #[must_use]
    pub fn split(self) -> Option<[Self; 2]> {
        let bits = self.bits.split()?;
        Some([0, 1].map(|half| Self { bits, index: self.index << 1 | half }))
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.index, self.bits.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_bits() -> impl Strategy<Value = Bits> {
        (3u32..=15).prop_map(|k| Bits::of_count(1 << k).unwrap())
    }

    #[test]
    fn only_powers_of_two_within_bounds_are_counts() {
        let allowed: Vec<u32> = (0..=70_000).filter(|&count| Bits::of_count(count).is_ok()).collect();
        let expected: Vec<u32> = (3..=15).map(|k| 1 << k).collect();
        assert_eq!(allowed, expected);
        assert_eq!(Bits::DEFAULT.count(), 64);
    }

    #[test]
    fn the_largest_ring_is_not_split_again() {
        let largest = Bits::of_count(32_768).unwrap();
        assert_eq!(largest.split(), None);
        assert_eq!(Partition::of(Position(u64::MAX), largest).split(), None);
        assert_eq!(Partition::of(Position(u64::MAX), largest).index(), 32_767);
        assert_eq!(Partition::at(32_768, largest), None);
    }

    proptest! {
        #[test]
        fn partitions_tile_the_ring_in_order(bits in any_bits()) {
            let mut next = Some(0);
            for partition in bits.partitions() {
                prop_assert_eq!(Some(partition.first().0), next);
                prop_assert_eq!(Partition::of(partition.first(), bits), partition);
                prop_assert_eq!(Partition::of(partition.last(), bits), partition);
                next = partition.last().0.checked_add(1);
            }
            prop_assert_eq!(next, None);
        }

        #[test]
        fn a_split_keeps_every_position_within_its_parent(bits in any_bits(), position: u64) {
            let parent = Partition::of(Position(position), bits);
            if let Some([low, high]) = parent.split() {
                let child = Partition::of(Position(position), low.bits());
                prop_assert!(child == low || child == high);
                prop_assert_eq!(low.first(), parent.first());
                prop_assert_eq!(high.last(), parent.last());
                prop_assert_eq!(low.last().0 + 1, high.first().0);
            }
        }
    }
}
