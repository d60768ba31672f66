//! Planted mistakes: switches that break one rule each, so that the simulator can show that it would notice.
//!
//! They are part of every build, off, and can be set only through the `testing` feature: what is tested is what runs.

/// One rule, broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutant {
    /// A lane answers writes before they are durable.
    AcknowledgeBeforeDurable,
    /// A store says that what it has written is durable without having synced it.
    SkipSync,
    /// A store opens with the incarnation that it had before.
    KeepIncarnation,
    /// All rows of an incarnation share one actor.
    NoBirth,
    /// A row that is removed or unreadable leaves its `mine` to its successor.
    KeepMine,
    /// An absorbed item brings the sender's `mine` along, and the row's next writer goes on under it.
    AbsorbMine,
    /// A put drops the siblings that the client has not seen.
    DropSibling,
    /// A coordinator that knows a request answers it at once.
    AnswerRetryAtOnce,
    /// A coordinator that is asked what came of a request, and does not know it, runs it.
    RunForgottenRetry,
    /// A stand-in keeps the item but no hint.
    LoseHint,
    /// A hint is removed after its delivery, whatever has become of it meanwhile.
    RemoveHintUncompared,
    /// A stand-in's acknowledgement counts as the owner's.
    CountStandInAsOwner,
    /// A replica whose row is unreadable says that it has none.
    CorruptAsNotFound,
    /// A read is answered with what came first, without comparing digests.
    IgnoreDigests,
    /// A coordinator counts what a replica has only in memory as durable.
    CountMemoryAsDurable,
    /// A node drops a row that it owns no slot for, without asking the owners or looking for hints.
    DropStrayUnlicensed,
    /// A store that has lost a file takes what is absent there for absent.
    GapAsEmpty,
}

impl Mutant {
    /// Those that show in what a key-value store does, with the names that commands use.
    pub const ALL: [(Self, &'static str); 16] = [
        (Self::AcknowledgeBeforeDurable, "acknowledge-before-durable"),
        (Self::SkipSync, "skip-sync"),
        (Self::KeepIncarnation, "keep-incarnation"),
        (Self::NoBirth, "no-birth"),
        (Self::KeepMine, "keep-mine"),
        (Self::AbsorbMine, "absorb-mine"),
        (Self::DropSibling, "drop-sibling"),
        (Self::AnswerRetryAtOnce, "answer-retry-at-once"),
        (Self::LoseHint, "lose-hint"),
        (Self::RemoveHintUncompared, "remove-hint-uncompared"),
        (Self::CountStandInAsOwner, "count-stand-in-as-owner"),
        (Self::CorruptAsNotFound, "corrupt-as-not-found"),
        (Self::IgnoreDigests, "ignore-digests"),
        (Self::CountMemoryAsDurable, "count-memory-as-durable"),
        (Self::DropStrayUnlicensed, "drop-stray-unlicensed"),
        (Self::GapAsEmpty, "gap-as-empty"),
    ];
}

/// Which rules are broken: none, unless a test says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mutants(u32);

impl Mutants {
    /// Whether this rule is broken.
    #[must_use]
    pub fn has(self, mutant: Mutant) -> bool {
        self.0 & (1 << mutant as u8) != 0
    }

    /// One rule broken.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn only(mutant: Mutant) -> Self {
        Self(1 << mutant as u8)
    }
}
