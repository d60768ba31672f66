//! Messages of `riak_search.proto` and `riak_yokozuna.proto`: full-text search.

use super::RpbPair;
use bytes::Bytes;

/// A document that a search found.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbSearchDoc {
    #[prost(message, repeated, tag = "1")]
    pub fields: Vec<RpbPair>,
}

/// Searches an index.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbSearchQueryReq {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub q: Bytes,
    #[prost(bytes = "bytes", required, tag = "2")]
    pub index: Bytes,
    #[prost(uint32, optional, tag = "3")]
    pub rows: Option<u32>,
    #[prost(uint32, optional, tag = "4")]
    pub start: Option<u32>,
    #[prost(bytes = "bytes", optional, tag = "5")]
    pub sort: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "6")]
    pub filter: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "7")]
    pub df: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "8")]
    pub op: Option<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "9")]
    pub fl: Vec<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "10")]
    pub presort: Option<Bytes>,
}

/// What a search found.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbSearchQueryResp {
    #[prost(message, repeated, tag = "1")]
    pub docs: Vec<RpbSearchDoc>,
    #[prost(float, optional, tag = "2")]
    pub max_score: Option<f32>,
    #[prost(uint32, optional, tag = "3")]
    pub num_found: Option<u32>,
}

/// A search index.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbYokozunaIndex {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub name: Bytes,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub schema: Option<Bytes>,
    #[prost(uint32, optional, tag = "3")]
    pub n_val: Option<u32>,
}

/// Asks for one search index, or for all.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbYokozunaIndexGetReq {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub name: Option<Bytes>,
}

/// Search indexes.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbYokozunaIndexGetResp {
    #[prost(message, repeated, tag = "1")]
    pub index: Vec<RpbYokozunaIndex>,
}

/// Creates a search index.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbYokozunaIndexPutReq {
    #[prost(message, required, tag = "1")]
    pub index: RpbYokozunaIndex,
    #[prost(uint32, optional, tag = "2")]
    pub timeout: Option<u32>,
}

/// Drops a search index.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbYokozunaIndexDeleteReq {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub name: Bytes,
}

/// A search schema.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbYokozunaSchema {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub name: Bytes,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub content: Option<Bytes>,
}

/// Stores a search schema.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbYokozunaSchemaPutReq {
    #[prost(message, required, tag = "1")]
    pub schema: RpbYokozunaSchema,
}

/// Asks for a search schema.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbYokozunaSchemaGetReq {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub name: Bytes,
}

/// A search schema.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbYokozunaSchemaGetResp {
    #[prost(message, required, tag = "1")]
    pub schema: RpbYokozunaSchema,
}
