//! What reads mean by success: found, not found, and when to give up (riak_kv_get_core, with PROTOCOLS §2).

use super::{Achieved, Ask, AskId, AskState, Quorum, Tally, Unmet, Verdict};
use crate::ring::ActiveList;

/// How a read takes "not found".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadRule {
    /// Whether a slot that has nothing counts as a success.
    pub notfound_ok: bool,
    /// Whether a majority of slots without success ends the read early. Matters only without `notfound_ok`.
    pub basic_quorum: bool,
}

/// How much "there is none here" says of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// As much as an item would.
    Sure,
    /// The owner was away, and may only not have it yet, while another owner is up. Nobody but owners is known to keep
    /// anything for it: it is believed if all owners say the same.
    Unsure,
    /// As `Unsure`, but others keep writes for the owner: it is not believed before it has them.
    Lacking,
}

/// What came back for an ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The item, or its digest.
    Found,
    /// The same from an owner that has lost rows there and does not have all of them back: it answers as a stand-in for
    /// itself, as it may lack what it acknowledged as an owner.
    FoundInGap,
    /// There is none there.
    NotFound(Absence),
    /// An error, a damaged row, a digest that does not fit.
    Failed,
}

/// How a read stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadVerdict {
    /// Neither enough nor hopeless.
    Waiting,
    /// Enough answers, at least one of them an item.
    Found(Achieved),
    /// Nobody has it: enough say so, or all that can still answer and none failed.
    NotFound,
    /// There will not be enough.
    Unmet(Unmet),
}

/// Counts the answers of a read over the slots of an active list for reads.
///
/// Slots that nobody was asked about yet count as open: a read asks as few as it needs ([`Tally::choose`]) and goes
/// on with the next after every answer that is no counted success.
#[derive(Debug, Clone)]
pub struct ReadTally {
    tally: Tally,
    rule: ReadRule,
    /// The answers so far, with their asks and those asks' slots.
    answers: Vec<(AskId, Slots, Answer)>,
}

const LACKING: Answer = Answer::NotFound(Absence::Lacking);

/// Slots that an ask is about, one bit each.
#[derive(Debug, Clone, Copy)]
struct Slots {
    owned: u16,
    all: u16,
}

impl ReadTally {
    /// The tally of a read that goes to an active list; nothing is sent yet.
    ///
    /// # Errors
    /// [`Unmet`] if the list can't satisfy the quorum even if everybody answers; `have` is what the list could give.
    pub fn new(quorum: Quorum, rule: ReadRule, list: &ActiveList) -> Result<Self, Unmet> {
        Ok(Self { tally: Tally::new(quorum, list)?, rule, answers: Vec::new() })
    }

    /// The count behind it: who was asked, and who is to be asked next.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Marks the asks to send now: see [`Tally::choose`].
    pub fn choose<R: Ord>(&mut self, rank: impl Fn(&Ask) -> R) -> Vec<AskId> {
        self.tally.choose(rank)
    }

    /// Marks one more ask to send: see [`Tally::choose_one`].
    pub fn choose_one<R: Ord>(&mut self, rank: impl Fn(&Ask) -> R) -> Option<AskId> {
        self.tally.choose_one(rank)
    }

    /// Goes on with a newer list: see [`Tally::follow`]. Answers may stay.
    ///
    /// # Errors
    /// [`Unmet`] as [`Tally::follow`].
    pub fn follow(&mut self, list: &ActiveList) -> Result<(), Unmet> {
        self.tally.follow(list)
    }

    /// An answer came. Only the first answer to an ask counts.
    pub fn answered(&mut self, id: AskId, answer: Answer) {
        let ask = *self.tally.ask(id);
        if matches!(ask.state, AskState::Acked | AskState::Failed) {
            return;
        }
        let all = ask.owned | ask.stand_in;
        let (owned, answer) = match answer {
            Answer::FoundInGap => {
                self.tally.disown(id);
                (0, Answer::Found)
            }
            answer => (ask.owned, answer),
        };
        self.answers.push((id, Slots { owned, all }, answer));
        let success = match answer {
            Answer::Found | Answer::FoundInGap => true,
            Answer::NotFound(absence) => absence == Absence::Sure && self.rule.notfound_ok,
            Answer::Failed => false,
        };
        if success {
            self.tally.acked(id)
        } else {
            self.tally.failed(id)
        }
        if self.rule.notfound_ok && self.all_owners(|answer| answer != Answer::Failed) {
            self.believe_all();
        }
    }

    /// Every owner has said what it holds, and nobody else is known to keep a write for one of them that holds nothing: an
    /// owner that might only not have it yet is a success too.
    fn believe_all(&mut self) {
        for (id, _, answer) in &mut self.answers {
            if *answer == Answer::NotFound(Absence::Unsure) {
                *answer = Answer::NotFound(Absence::Sure);
                self.tally.acked(*id);
            }
        }
    }

    /// Whether the answers of this kind cover all slots by their owners, and none of those lacks what others keep for it.
    fn all_owners(&self, holds: impl Fn(Answer) -> bool) -> bool {
        let heard = self.union(|answer| holds(answer) && answer != LACKING, |slots| slots.owned);
        heard == self.all_slots()
    }

    /// How the read stands.
    #[must_use]
    pub fn verdict(&self) -> ReadVerdict {
        let found = self.slots(|answer| answer == Answer::Found);
        let missed = match self.tally.verdict() {
            Verdict::Satisfied(achieved) if found != 0 => return ReadVerdict::Found(achieved),
            Verdict::Satisfied(_) => return ReadVerdict::NotFound,
            Verdict::Impossible(unmet) => Some(unmet),
            Verdict::Waiting if self.majority_missed() => self.tally.shortfall(),
            Verdict::Waiting => None,
        };
        let Some(unmet) = missed else { return ReadVerdict::Waiting };
        let is_nothing = |answer| matches!(answer, Answer::NotFound(_));
        let nothing = self.slots(is_nothing);
        let failed = self.slots(|answer| answer == Answer::Failed) & !nothing;
        if found != 0 || failed != 0 || nothing == 0 {
            return ReadVerdict::Unmet(unmet);
        }
        // An owner that may only not have it yet has not said "nothing", unless all owners say the same.
        let unsure = self.slots(|answer| is_nothing(answer) && answer != Answer::NotFound(Absence::Sure));
        if unsure == 0 || self.all_owners(is_nothing) {
            ReadVerdict::NotFound
        } else if self.tally.asks().any(|(_, ask)| matches!(ask.state, AskState::Unsent | AskState::Sent)) {
            ReadVerdict::Waiting
        } else {
            ReadVerdict::Unmet(unmet)
        }
    }

    /// `basic_quorum`: a majority of all N slots has answered and is no success.
    fn majority_missed(&self) -> bool {
        let missed = self.slots(|_| true) & self.tally.lost_slots();
        self.rule.basic_quorum && missed.count_ones() > u32::from(self.tally.quorum().n) / 2
    }

    fn slots(&self, holds: impl Fn(Answer) -> bool) -> u16 {
        self.union(holds, |slots| slots.all)
    }

    fn union(&self, holds: impl Fn(Answer) -> bool, of: impl Fn(Slots) -> u16) -> u16 {
        let answers = self.answers.iter().filter(|(_, _, answer)| holds(*answer));
        answers.fold(0, |slots, (_, more, _)| slots | of(*more))
    }

    fn all_slots(&self) -> u16 {
        (0..self.tally.quorum().n).fold(0, |slots, slot| slots | 1 << slot)
    }
}
