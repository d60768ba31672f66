//! Mistakes that can be switched on, so that the tests prove that they would catch them.

use super::LogConfig;

/// A rule of the log to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Checksums of all segments start alike.
    UnseededChecksum,
    /// Recovery applies the changes of a group that has no seal.
    UnsealedGroup,
    /// Segments are written over before the flush that makes them unneeded is durable.
    EarlyTrim,
    /// Batches are reported durable before the sync.
    EarlyReply,
    /// Groups are reported durable without any sync.
    SkippedSync,
    /// An opening goes on in the segment that it cut.
    AppendToCut,
    /// An opening trusts that what it reads of the newest group is durable.
    UnprovenTail,
    /// An opening that leaves what it read to the flush does not say that the log goes on behind it.
    ForgottenJoint,
    /// An opening that leaves what it read to the flush says that only its own segments are needed.
    HastyOpening,
    /// A flush does not say how far it brings the tables.
    UnmarkedFlush,
    /// A flush does not keep what it adds to the filter.
    ForgottenFilter,
    /// A segment that no opening needs is written over though rows have their values in it.
    ForgottenValues,
    /// The collector writes rows anew that have been changed since it looked at them.
    BlindCollector,
    /// A flush during a compaction does not change what has been copied.
    DeafCompaction,
}

impl LogConfig {
    /// Whether this rule is to be broken.
    pub(in crate::store) fn breaks(&self, rule: Mutant) -> bool {
        #[cfg(feature = "testing")]
        return self.mutant == Some(rule);
        #[cfg(not(feature = "testing"))]
        {
            let _ = rule;
            false
        }
    }
}
