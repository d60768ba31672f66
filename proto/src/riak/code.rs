//! The codes of Riak's messages: what the fifth byte of a frame means.
//!
//! The table is complete for riak_pb 7a5e535, so that a message that nobody serves can still be named in the answer.
//! Holes in the numbering are unassigned.

use super::messages::*;
use std::fmt;

macro_rules! codes {
    ($($name:ident = $number:literal,)*) => {
        /// The code of a message, by Riak's name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "the names are Riak's")]
        pub enum Code { $($name = $number,)* }

        impl Code {
            /// The message that a code stands for; `None` for a hole in the numbering.
            #[must_use]
            pub fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// Riak's name of the message.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

codes! {
    RpbErrorResp = 0,
    RpbPingReq = 1,
    RpbPingResp = 2,
    RpbGetClientIdReq = 3,
    RpbGetClientIdResp = 4,
    RpbSetClientIdReq = 5,
    RpbSetClientIdResp = 6,
    RpbGetServerInfoReq = 7,
    RpbGetServerInfoResp = 8,
    RpbGetReq = 9,
    RpbGetResp = 10,
    RpbPutReq = 11,
    RpbPutResp = 12,
    RpbDelReq = 13,
    RpbDelResp = 14,
    RpbListBucketsReq = 15,
    RpbListBucketsResp = 16,
    RpbListKeysReq = 17,
    RpbListKeysResp = 18,
    RpbGetBucketReq = 19,
    RpbGetBucketResp = 20,
    RpbSetBucketReq = 21,
    RpbSetBucketResp = 22,
    RpbMapRedReq = 23,
    RpbMapRedResp = 24,
    RpbIndexReq = 25,
    RpbIndexResp = 26,
    RpbSearchQueryReq = 27,
    RpbSearchQueryResp = 28,
    RpbResetBucketReq = 29,
    RpbResetBucketResp = 30,
    RpbGetBucketTypeReq = 31,
    RpbSetBucketTypeReq = 32,
    RpbGetBucketKeyPreflistReq = 33,
    RpbGetBucketKeyPreflistResp = 34,
    RpbCSBucketReq = 40,
    RpbCSBucketResp = 41,
    RpbIndexBodyResp = 42,
    RpbCounterUpdateReq = 50,
    RpbCounterUpdateResp = 51,
    RpbCounterGetReq = 52,
    RpbCounterGetResp = 53,
    RpbYokozunaIndexGetReq = 54,
    RpbYokozunaIndexGetResp = 55,
    RpbYokozunaIndexPutReq = 56,
    RpbYokozunaIndexDeleteReq = 57,
    RpbYokozunaSchemaGetReq = 58,
    RpbYokozunaSchemaGetResp = 59,
    RpbYokozunaSchemaPutReq = 60,
    RpbCoverageReq = 70,
    RpbCoverageResp = 71,
    DtFetchReq = 80,
    DtFetchResp = 81,
    DtUpdateReq = 82,
    DtUpdateResp = 83,
    TsQueryReq = 90,
    TsQueryResp = 91,
    TsPutReq = 92,
    TsPutResp = 93,
    TsDelReq = 94,
    TsDelResp = 95,
    TsGetReq = 96,
    TsGetResp = 97,
    TsListKeysReq = 98,
    TsListKeysResp = 99,
    TsCoverageReq = 100,
    TsCoverageResp = 101,
    TsCoverageEntry = 102,
    TsRange = 103,
    TsTtbMsg = 104,
    RpbReplGetReq = 128,
    RpbReplGetClusterIdReq = 129,
    RpbReplGetClusterIdResp = 130,
    RpbRTEReq = 200,
    RpbRTEResp = 201,
    RpbFetchReq = 202,
    RpbFetchResp = 203,
    RpbPushReq = 204,
    RpbPushResp = 205,
    RpbMembershipReq = 206,
    RpbMembershipResp = 207,
    RpbAaeFoldMergeRootNValReq = 210,
    RpbAaeFoldMergeBranchNValReq = 211,
    RpbAaeFoldFetchClocksNValReq = 212,
    RpbAaeFoldMergeTreesRangeReq = 213,
    RpbAaeFoldFetchClocksRangeReq = 214,
    RpbAaeFoldFindKeysReq = 215,
    RpbAaeFoldObjectStatsReq = 216,
    RpbAaeFoldReplKeysReq = 217,
    RpbAaeFoldFindTombsReq = 218,
    RpbAaeFoldRepairKeysReq = 219,
    RpbAaeFoldTreeResp = 220,
    RpbAaeFoldKeyValueResp = 221,
    RpbAaeFoldKeyCountResp = 222,
    RpbAaeFoldListBucketsReq = 223,
    RpbAaeFoldListBucketsResp = 224,
    RpbAaeFoldReapTombsReq = 230,
    RpbAaeFoldEraseKeysReq = 231,
    RpbAuthReq = 253,
    RpbAuthResp = 254,
    RpbStartTls = 255,
}

impl Code {
    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Code {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// A message that has a code of its own and so can stand alone in a frame.
pub trait Coded: prost::Message + Default {
    /// Its code.
    const CODE: Code;
    /// The numbers of its required fields: proto2 refuses a message that lacks one.
    const REQUIRED: &'static [u32];
}

macro_rules! coded {
    ($($name:ident = $required:expr,)*) => {
        $(impl Coded for $name {
            const CODE: Code = Code::$name;
            const REQUIRED: &'static [u32] = &$required;
        })*

        #[cfg(test)]
        pub(crate) mod each {
            /// Calls a generic function for every message that has a code.
            macro_rules! each_coded {
                ($function:ident) => { $($function::<crate::riak::messages::$name>();)* };
            }
            pub(crate) use each_coded;
        }
    };
}

coded! {
    RpbErrorResp = [1, 2],
    RpbGetClientIdResp = [1],
    RpbSetClientIdReq = [1],
    RpbGetServerInfoResp = [],
    RpbGetReq = [1, 2],
    RpbGetResp = [],
    RpbPutReq = [1, 4],
    RpbPutResp = [],
    RpbDelReq = [1, 2],
    RpbListBucketsReq = [],
    RpbListBucketsResp = [],
    RpbListKeysReq = [1],
    RpbListKeysResp = [],
    RpbGetBucketReq = [1],
    RpbGetBucketResp = [1],
    RpbSetBucketReq = [1, 2],
    RpbMapRedReq = [1, 2],
    RpbMapRedResp = [],
    RpbIndexReq = [1, 2, 3],
    RpbIndexResp = [],
    RpbSearchQueryReq = [1, 2],
    RpbSearchQueryResp = [],
    RpbResetBucketReq = [1],
    RpbGetBucketTypeReq = [1],
    RpbSetBucketTypeReq = [1, 2],
    RpbGetBucketKeyPreflistReq = [1, 2],
    RpbGetBucketKeyPreflistResp = [],
    RpbCSBucketReq = [1, 2],
    RpbCSBucketResp = [],
    RpbIndexBodyResp = [],
    RpbCounterUpdateReq = [1, 2, 3],
    RpbCounterUpdateResp = [],
    RpbCounterGetReq = [1, 2],
    RpbCounterGetResp = [],
    RpbYokozunaIndexGetReq = [],
    RpbYokozunaIndexGetResp = [],
    RpbYokozunaIndexPutReq = [1],
    RpbYokozunaIndexDeleteReq = [1],
    RpbYokozunaSchemaGetReq = [1],
    RpbYokozunaSchemaGetResp = [1],
    RpbYokozunaSchemaPutReq = [1],
    RpbCoverageReq = [2],
    RpbCoverageResp = [],
    DtFetchReq = [1, 2, 3],
    DtFetchResp = [2],
    DtUpdateReq = [1, 3, 5],
    DtUpdateResp = [],
    RpbAuthReq = [1, 2],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_leads_to_the_code_that_has_it() {
        let known = (0..=u8::MAX).filter_map(|number| Code::from_number(number).map(|code| (number, code)));
        let numbers: Vec<u8> = known
            .map(|(number, code)| {
                assert_eq!(code.number(), number, "{code}");
                number
            })
            .collect();
        assert_eq!(numbers.len(), 101);
        assert_eq!(Code::from_number(35), None);
    }

    /// prost writes required fields always and all others never when they are absent.
    #[test]
    fn the_required_fields_are_those_of_the_messages() {
        fn check<M: Coded>() {
            let encoded = M::default().encode_to_vec();
            assert_eq!(
                crate::riak::pbc::field_numbers(&encoded).as_deref(),
                Some(M::REQUIRED),
                "{}",
                M::CODE
            );
        }
        each::each_coded!(check);
    }
}
