//! Messages of `riak_kv.proto` about one object, one counter, one preference list.

use super::RpbPair;
use bytes::Bytes;

/// The connection's client id.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbGetClientIdResp {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub client_id: Bytes,
}

/// Sets the connection's client id, of any length.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbSetClientIdReq {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub client_id: Bytes,
}

/// Reads an object.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbGetReq {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub bucket: Bytes,
    #[prost(bytes = "bytes", required, tag = "2")]
    pub key: Bytes,
    #[prost(uint32, optional, tag = "3")]
    pub r: Option<u32>,
    #[prost(uint32, optional, tag = "4")]
    pub pr: Option<u32>,
    #[prost(bool, optional, tag = "5")]
    pub basic_quorum: Option<bool>,
    #[prost(bool, optional, tag = "6")]
    pub notfound_ok: Option<bool>,
    #[prost(bytes = "bytes", optional, tag = "7")]
    pub if_modified: Option<Bytes>,
    #[prost(bool, optional, tag = "8")]
    pub head: Option<bool>,
    #[prost(bool, optional, tag = "9")]
    pub deletedvclock: Option<bool>,
    #[prost(uint32, optional, tag = "10")]
    pub timeout: Option<u32>,
    #[prost(bool, optional, tag = "11")]
    pub sloppy_quorum: Option<bool>,
    #[prost(uint32, optional, tag = "12")]
    pub n_val: Option<u32>,
    #[prost(bytes = "bytes", optional, tag = "13")]
    pub r#type: Option<Bytes>,
    #[prost(uint32, optional, tag = "14")]
    pub node_confirms: Option<u32>,
}

/// What was read. Empty: not found. Only `vclock`: a tombstone. Only `unchanged`: as `if_modified` has it.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbGetResp {
    #[prost(message, repeated, tag = "1")]
    pub content: Vec<RpbContent>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub vclock: Option<Bytes>,
    #[prost(bool, optional, tag = "3")]
    pub unchanged: Option<bool>,
}

/// Writes an object. Without `key`, the server makes one.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbPutReq {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub bucket: Bytes,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub key: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub vclock: Option<Bytes>,
    #[prost(message, required, tag = "4")]
    pub content: RpbContent,
    #[prost(uint32, optional, tag = "5")]
    pub w: Option<u32>,
    #[prost(uint32, optional, tag = "6")]
    pub dw: Option<u32>,
    #[prost(bool, optional, tag = "7")]
    pub return_body: Option<bool>,
    #[prost(uint32, optional, tag = "8")]
    pub pw: Option<u32>,
    #[prost(bool, optional, tag = "9")]
    pub if_not_modified: Option<bool>,
    #[prost(bool, optional, tag = "10")]
    pub if_none_match: Option<bool>,
    #[prost(bool, optional, tag = "11")]
    pub return_head: Option<bool>,
    #[prost(uint32, optional, tag = "12")]
    pub timeout: Option<u32>,
    #[prost(bool, optional, tag = "13")]
    pub asis: Option<bool>,
    #[prost(bool, optional, tag = "14")]
    pub sloppy_quorum: Option<bool>,
    #[prost(uint32, optional, tag = "15")]
    pub n_val: Option<u32>,
    #[prost(bytes = "bytes", optional, tag = "16")]
    pub r#type: Option<Bytes>,
    #[prost(uint32, optional, tag = "17")]
    pub node_confirms: Option<u32>,
}

/// Answers a put: empty, the key that was made, or the object if the request asked for it.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbPutResp {
    #[prost(message, repeated, tag = "1")]
    pub content: Vec<RpbContent>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub vclock: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub key: Option<Bytes>,
}

/// Deletes an object.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbDelReq {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub bucket: Bytes,
    #[prost(bytes = "bytes", required, tag = "2")]
    pub key: Bytes,
    #[prost(uint32, optional, tag = "3")]
    pub rw: Option<u32>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub vclock: Option<Bytes>,
    #[prost(uint32, optional, tag = "5")]
    pub r: Option<u32>,
    #[prost(uint32, optional, tag = "6")]
    pub w: Option<u32>,
    #[prost(uint32, optional, tag = "7")]
    pub pr: Option<u32>,
    #[prost(uint32, optional, tag = "8")]
    pub pw: Option<u32>,
    #[prost(uint32, optional, tag = "9")]
    pub dw: Option<u32>,
    #[prost(uint32, optional, tag = "10")]
    pub timeout: Option<u32>,
    #[prost(bool, optional, tag = "11")]
    pub sloppy_quorum: Option<bool>,
    #[prost(uint32, optional, tag = "12")]
    pub n_val: Option<u32>,
    #[prost(bytes = "bytes", optional, tag = "13")]
    pub r#type: Option<Bytes>,
}

/// One sibling of an object.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbContent {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub value: Bytes,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub content_type: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub charset: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub content_encoding: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "5")]
    pub vtag: Option<Bytes>,
    #[prost(message, repeated, tag = "6")]
    pub links: Vec<RpbLink>,
    #[prost(uint32, optional, tag = "7")]
    pub last_mod: Option<u32>,
    #[prost(uint32, optional, tag = "8")]
    pub last_mod_usecs: Option<u32>,
    #[prost(message, repeated, tag = "9")]
    pub usermeta: Vec<RpbPair>,
    #[prost(message, repeated, tag = "10")]
    pub indexes: Vec<RpbPair>,
    #[prost(bool, optional, tag = "11")]
    pub deleted: Option<bool>,
}

/// A one-way link to another object.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbLink {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub bucket: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub key: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub tag: Option<Bytes>,
}

/// Adds to a counter of Riak 1.4.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbCounterUpdateReq {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub bucket: Bytes,
    #[prost(bytes = "bytes", required, tag = "2")]
    pub key: Bytes,
    #[prost(sint64, required, tag = "3")]
    pub amount: i64,
    #[prost(uint32, optional, tag = "4")]
    pub w: Option<u32>,
    #[prost(uint32, optional, tag = "5")]
    pub dw: Option<u32>,
    #[prost(uint32, optional, tag = "6")]
    pub pw: Option<u32>,
    #[prost(bool, optional, tag = "7")]
    pub returnvalue: Option<bool>,
    #[prost(uint32, optional, tag = "8")]
    pub node_confirms: Option<u32>,
}

/// The new value, if the request asked for it.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbCounterUpdateResp {
    #[prost(sint64, optional, tag = "1")]
    pub value: Option<i64>,
}

/// Reads a counter of Riak 1.4.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbCounterGetReq {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub bucket: Bytes,
    #[prost(bytes = "bytes", required, tag = "2")]
    pub key: Bytes,
    #[prost(uint32, optional, tag = "3")]
    pub r: Option<u32>,
    #[prost(uint32, optional, tag = "4")]
    pub pr: Option<u32>,
    #[prost(bool, optional, tag = "5")]
    pub basic_quorum: Option<bool>,
    #[prost(bool, optional, tag = "6")]
    pub notfound_ok: Option<bool>,
    #[prost(uint32, optional, tag = "7")]
    pub node_confirms: Option<u32>,
}

/// The value; empty if there is no counter.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbCounterGetResp {
    #[prost(sint64, optional, tag = "1")]
    pub value: Option<i64>,
}

/// Asks who holds a key.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbGetBucketKeyPreflistReq {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub bucket: Bytes,
    #[prost(bytes = "bytes", required, tag = "2")]
    pub key: Bytes,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub r#type: Option<Bytes>,
}

/// Who holds a key.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbGetBucketKeyPreflistResp {
    #[prost(message, repeated, tag = "1")]
    pub preflist: Vec<RpbBucketKeyPreflistItem>,
}

/// One member of a preference list.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbBucketKeyPreflistItem {
    #[prost(int64, required, tag = "1")]
    pub partition: i64,
    #[prost(bytes = "bytes", required, tag = "2")]
    pub node: Bytes,
    #[prost(bool, required, tag = "3")]
    pub primary: bool,
}
