//! Who issues the next dot on a key: the rule that keeps dots unique over everything a store may forget.
//!
//! A row carries `mine`, the actor under which this store issues dots on it. It is local: never sent, never digested,
//! gone with its row by whatever road. So a store that has forgotten a row issues under a new birth, and a store that
//! was opened anew under a new incarnation; in neither case does the new dot claim to cover what was lost
//! (PROTOCOLS §1; the model beside this file loses writes with any of these rules switched off).

use super::Entries;
use rondel_proto::id::{Actor, Dot, Incarnation};

/// What a store holds of a key, as far as dots are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowState<V> {
    /// Nothing.
    Absent,
    /// Something, but it is damaged: present and unknown.
    Hole,
    /// A verified row.
    Present {
        /// Under whom this store issues dots on it, if it has.
        mine: Option<Actor>,
        /// The row's vector.
        vector: V,
    },
}

/// The row is a hole. It must be filled by an owner's copy (or all owners say notfound) before it is coordinated on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the row is damaged here: another replica must coordinate until it is repaired")]
pub struct IsHole;

/// A dot and what the row remembers of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Issued {
    /// The dot, never issued before.
    pub dot: Dot,
    /// What the row's `mine` becomes, in the same commit.
    pub mine: Actor,
}

/// The dot for a write that this store coordinates, by a client that has seen `context`.
///
/// `draw` gives the next value of the store's counter: 1, 2, 3 …, one counter for all keys of the incarnation, in
/// memory. It is drawn from once, or twice when a birth begins. A `mine` is used again only under the same
/// incarnation, and only if the context does not know more of it than the row: such a context proves that the row
/// has been rolled back under us.
///
/// # Errors
/// [`IsHole`]: nothing was drawn.
pub fn next_dot(
    row: &RowState<&impl Entries>,
    context: &impl Entries,
    incarnation: Incarnation,
    mut draw: impl FnMut() -> u64,
) -> Result<Issued, IsHole> {
    let known = match row {
        RowState::Hole => return Err(IsHole),
        RowState::Absent => None,
        RowState::Present { mine, vector } => {
            mine.filter(|mine| mine.incarnation == incarnation && context.get(*mine) <= vector.get(*mine))
        }
    };
    let mine = known.unwrap_or_else(|| Actor { incarnation, birth: draw() });
    Ok(Issued { dot: Dot { actor: mine, counter: draw() }, mine })
}

/// What becomes of `mine` when a row takes over another copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Absorbed {
    /// The row's `mine` from now on. Never the sender's.
    pub mine: Option<Actor>,
    /// The copy knows of dots under `mine` that the row does not: the row has been rolled back, or two stores use
    /// one identity. To be reported; `mine` has been given up, so nothing is lost by it.
    pub alarm: bool,
}

/// `mine` after the row has taken over a copy with the vector `incoming`: kept only if the row was there.
#[must_use]
pub fn mine_after_absorb(row: &RowState<&impl Entries>, incoming: &impl Entries) -> Absorbed {
    let RowState::Present { mine: Some(mine), vector } = row else {
        return Absorbed { mine: None, alarm: false };
    };
    let alarm = incoming.get(*mine) > vector.get(*mine);
    Absorbed { mine: (!alarm).then_some(*mine), alarm }
}

#[cfg(test)]
mod tests {
    use super::{super::VersionVector, *};

    const NOW: Incarnation = Incarnation(9);

    fn mine(incarnation: u64, birth: u64) -> Actor {
        Actor { incarnation: Incarnation(incarnation), birth }
    }

    fn vector(entries: &[(Actor, u64)]) -> VersionVector {
        entries.iter().copied().collect()
    }

    /// The dot that is issued when the counter stands at 40.
    fn issue(row: RowState<&VersionVector>, context: &VersionVector) -> Result<Issued, IsHole> {
        let mut counter = 40;
        next_dot(&row, context, NOW, || {
            counter += 1;
            counter
        })
    }

    #[test]
    fn a_row_that_is_there_goes_on_under_its_birth() {
        let held = vector(&[(mine(9, 3), 7)]);
        let issued = issue(RowState::Present { mine: Some(mine(9, 3)), vector: &held }, &held).unwrap();
        assert_eq!(issued, Issued { dot: Dot { actor: mine(9, 3), counter: 41 }, mine: mine(9, 3) });
    }

    #[test]
    fn everything_else_begins_a_birth() {
        let born = Issued { dot: Dot { actor: mine(9, 41), counter: 42 }, mine: mine(9, 41) };
        let (empty, held) = (VersionVector::new(), vector(&[(mine(9, 3), 7)]));
        assert_eq!(issue(RowState::Absent, &empty), Ok(born));
        assert_eq!(issue(RowState::Present { mine: None, vector: &held }, &empty), Ok(born));
        let of_before = RowState::Present { mine: Some(mine(8, 3)), vector: &held };
        assert_eq!(issue(of_before, &empty), Ok(born), "another incarnation");
        let rolled_back = RowState::Present { mine: Some(mine(9, 3)), vector: &held };
        assert_eq!(issue(rolled_back, &vector(&[(mine(9, 3), 8)])), Ok(born), "the client has seen more");
    }

    #[test]
    fn a_hole_is_not_coordinated_on() {
        assert_eq!(issue(RowState::Hole, &VersionVector::new()), Err(IsHole));
    }

    #[test]
    fn absorbing_keeps_mine_only_for_a_row_that_was_there_and_is_ahead() {
        let held = vector(&[(mine(9, 3), 7)]);
        let present = RowState::Present { mine: Some(mine(9, 3)), vector: &held };
        let kept = mine_after_absorb(&present, &vector(&[(mine(9, 3), 7), (mine(4, 1), 99)]));
        assert_eq!(kept, Absorbed { mine: Some(mine(9, 3)), alarm: false });
        let ahead = mine_after_absorb(&present, &vector(&[(mine(9, 3), 8)]));
        assert_eq!(ahead, Absorbed { mine: None, alarm: true });
        for gone in [RowState::Absent, RowState::Hole, RowState::Present { mine: None, vector: &held }] {
            assert_eq!(mine_after_absorb(&gone, &held), Absorbed { mine: None, alarm: false });
        }
    }
}
