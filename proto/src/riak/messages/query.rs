//! Messages of `riak_kv.proto` about many objects: listings, indexes, MapReduce, coverage.

use super::{RpbGetResp, RpbPair};
use bytes::Bytes;

/// Lists the buckets of a type that hold keys.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbListBucketsReq {
    #[prost(uint32, optional, tag = "1")]
    pub timeout: Option<u32>,
    #[prost(bool, optional, tag = "2")]
    pub stream: Option<bool>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub r#type: Option<Bytes>,
}

/// Some or all buckets. The last frame of a stream has only `done`; a lone frame has none.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbListBucketsResp {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub buckets: Vec<Bytes>,
    #[prost(bool, optional, tag = "2")]
    pub done: Option<bool>,
}

/// Lists the keys of a bucket, always as a stream.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbListKeysReq {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub bucket: Bytes,
    #[prost(uint32, optional, tag = "2")]
    pub timeout: Option<u32>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub r#type: Option<Bytes>,
}

/// Some keys, none of them if `done`.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbListKeysResp {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub keys: Vec<Bytes>,
    #[prost(bool, optional, tag = "2")]
    pub done: Option<bool>,
}

/// Runs a MapReduce job.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbMapRedReq {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub request: Bytes,
    #[prost(bytes = "bytes", required, tag = "2")]
    pub content_type: Bytes,
}

/// Some of a phase's results, or only `done`.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbMapRedResp {
    #[prost(uint32, optional, tag = "1")]
    pub phase: Option<u32>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub response: Option<Bytes>,
    #[prost(bool, optional, tag = "3")]
    pub done: Option<bool>,
}

/// How an index is queried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
#[repr(i32)]
pub enum IndexQueryType {
    Eq = 0,
    Range = 1,
}

/// Queries a secondary index.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbIndexReq {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub bucket: Bytes,
    #[prost(bytes = "bytes", required, tag = "2")]
    pub index: Bytes,
    #[prost(enumeration = "IndexQueryType", required, tag = "3")]
    pub qtype: i32,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub key: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "5")]
    pub range_min: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "6")]
    pub range_max: Option<Bytes>,
    #[prost(bool, optional, tag = "7")]
    pub return_terms: Option<bool>,
    #[prost(bool, optional, tag = "8")]
    pub stream: Option<bool>,
    #[prost(uint32, optional, tag = "9")]
    pub max_results: Option<u32>,
    #[prost(bytes = "bytes", optional, tag = "10")]
    pub continuation: Option<Bytes>,
    #[prost(uint32, optional, tag = "11")]
    pub timeout: Option<u32>,
    #[prost(bytes = "bytes", optional, tag = "12")]
    pub r#type: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "13")]
    pub term_regex: Option<Bytes>,
    #[prost(bool, optional, tag = "14")]
    pub pagination_sort: Option<bool>,
    #[prost(bytes = "bytes", optional, tag = "15")]
    pub cover_context: Option<Bytes>,
    #[prost(bool, optional, tag = "16")]
    pub return_body: Option<bool>,
}

/// Keys, or terms with keys.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbIndexResp {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub keys: Vec<Bytes>,
    #[prost(message, repeated, tag = "2")]
    pub results: Vec<RpbPair>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub continuation: Option<Bytes>,
    #[prost(bool, optional, tag = "4")]
    pub done: Option<bool>,
}

/// Objects that an index query found.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbIndexBodyResp {
    #[prost(message, repeated, tag = "1")]
    pub objects: Vec<RpbIndexObject>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub continuation: Option<Bytes>,
    #[prost(bool, optional, tag = "3")]
    pub done: Option<bool>,
}

/// Folds over a range of a bucket, for Riak CS.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbCSBucketReq {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub bucket: Bytes,
    #[prost(bytes = "bytes", required, tag = "2")]
    pub start_key: Bytes,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub end_key: Option<Bytes>,
    #[prost(bool, optional, tag = "4", default = "true")]
    pub start_incl: Option<bool>,
    #[prost(bool, optional, tag = "5", default = "false")]
    pub end_incl: Option<bool>,
    #[prost(bytes = "bytes", optional, tag = "6")]
    pub continuation: Option<Bytes>,
    #[prost(uint32, optional, tag = "7")]
    pub max_results: Option<u32>,
    #[prost(uint32, optional, tag = "8")]
    pub timeout: Option<u32>,
    #[prost(bytes = "bytes", optional, tag = "9")]
    pub r#type: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "10")]
    pub cover_context: Option<Bytes>,
}

/// Some of the objects of a fold.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbCSBucketResp {
    #[prost(message, repeated, tag = "1")]
    pub objects: Vec<RpbIndexObject>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub continuation: Option<Bytes>,
    #[prost(bool, optional, tag = "3")]
    pub done: Option<bool>,
}

/// An object and its key.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbIndexObject {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub key: Bytes,
    #[prost(message, required, tag = "2")]
    pub object: RpbGetResp,
}

/// Asks for a plan of who covers a bucket.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbCoverageReq {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub r#type: Option<Bytes>,
    #[prost(bytes = "bytes", required, tag = "2")]
    pub bucket: Bytes,
    #[prost(uint32, optional, tag = "3")]
    pub min_partitions: Option<u32>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub replace_cover: Option<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub unavailable_cover: Vec<Bytes>,
}

/// A plan of who covers a bucket.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbCoverageResp {
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<RpbCoverageEntry>,
}

/// One node of a coverage plan.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbCoverageEntry {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub ip: Bytes,
    #[prost(uint32, required, tag = "2")]
    pub port: u32,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub keyspace_desc: Option<Bytes>,
    #[prost(bytes = "bytes", required, tag = "4")]
    pub cover_context: Bytes,
}
