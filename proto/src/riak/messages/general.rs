//! Messages of `riak.proto`: errors, the server itself, bucket properties, authentication.

use bytes::Bytes;

/// A request failed. Riak always sends `errcode` 0: clients decide on the text.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbErrorResp {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub errmsg: Bytes,
    #[prost(uint32, required, tag = "2")]
    pub errcode: u32,
}

/// Who answers, and what release it claims to be; clients gate features on the release.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbGetServerInfoResp {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub node: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub server_version: Option<Bytes>,
}

/// A name and perhaps a value: user metadata, index entries, indexed terms with their keys.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbPair {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub key: Bytes,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub value: Option<Bytes>,
}

/// Asks for the properties of a bucket.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbGetBucketReq {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub bucket: Bytes,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub r#type: Option<Bytes>,
}

/// The properties of a bucket or of a bucket type.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbGetBucketResp {
    #[prost(message, required, tag = "1")]
    pub props: RpbBucketProps,
}

/// Overrides properties of a bucket.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbSetBucketReq {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub bucket: Bytes,
    #[prost(message, required, tag = "2")]
    pub props: RpbBucketProps,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub r#type: Option<Bytes>,
}

/// Drops the overrides of a bucket.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbResetBucketReq {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub bucket: Bytes,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub r#type: Option<Bytes>,
}

/// Asks for the properties of a bucket type.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbGetBucketTypeReq {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub r#type: Bytes,
}

/// Changes properties of an active bucket type.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbSetBucketTypeReq {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub r#type: Bytes,
    #[prost(message, required, tag = "2")]
    pub props: RpbBucketProps,
}

/// A function of an Erlang module.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbModFun {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub module: Bytes,
    #[prost(bytes = "bytes", required, tag = "2")]
    pub function: Bytes,
}

/// A commit hook: an Erlang function or the name of a JavaScript one.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbCommitHook {
    #[prost(message, optional, tag = "1")]
    pub modfun: Option<RpbModFun>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub name: Option<Bytes>,
}

/// Which kinds of replication between clusters a bucket takes part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
#[repr(i32)]
pub enum RpbReplMode {
    False = 0,
    Realtime = 1,
    Fullsync = 2,
    True = 3,
}

/// Properties of a bucket. Hook lists count only if `has_precommit` or `has_postcommit` is set, so an
/// empty list can clear them. Quorums are encoded as [`QuorumArg`](crate::riak::QuorumArg) has it.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbBucketProps {
    #[prost(uint32, optional, tag = "1")]
    pub n_val: Option<u32>,
    #[prost(bool, optional, tag = "2")]
    pub allow_mult: Option<bool>,
    #[prost(bool, optional, tag = "3")]
    pub last_write_wins: Option<bool>,
    #[prost(message, repeated, tag = "4")]
    pub precommit: Vec<RpbCommitHook>,
    #[prost(bool, optional, tag = "5", default = "false")]
    pub has_precommit: Option<bool>,
    #[prost(message, repeated, tag = "6")]
    pub postcommit: Vec<RpbCommitHook>,
    #[prost(bool, optional, tag = "7", default = "false")]
    pub has_postcommit: Option<bool>,
    #[prost(message, optional, tag = "8")]
    pub chash_keyfun: Option<RpbModFun>,
    #[prost(message, optional, tag = "9")]
    pub linkfun: Option<RpbModFun>,
    #[prost(uint32, optional, tag = "10")]
    pub old_vclock: Option<u32>,
    #[prost(uint32, optional, tag = "11")]
    pub young_vclock: Option<u32>,
    #[prost(uint32, optional, tag = "12")]
    pub big_vclock: Option<u32>,
    #[prost(uint32, optional, tag = "13")]
    pub small_vclock: Option<u32>,
    #[prost(uint32, optional, tag = "14")]
    pub pr: Option<u32>,
    #[prost(uint32, optional, tag = "15")]
    pub r: Option<u32>,
    #[prost(uint32, optional, tag = "16")]
    pub w: Option<u32>,
    #[prost(uint32, optional, tag = "17")]
    pub pw: Option<u32>,
    #[prost(uint32, optional, tag = "18")]
    pub dw: Option<u32>,
    #[prost(uint32, optional, tag = "19")]
    pub rw: Option<u32>,
    #[prost(bool, optional, tag = "20")]
    pub basic_quorum: Option<bool>,
    #[prost(bool, optional, tag = "21")]
    pub notfound_ok: Option<bool>,
    #[prost(bytes = "bytes", optional, tag = "22")]
    pub backend: Option<Bytes>,
    #[prost(bool, optional, tag = "23")]
    pub search: Option<bool>,
    #[prost(enumeration = "RpbReplMode", optional, tag = "24")]
    pub repl: Option<i32>,
    #[prost(bytes = "bytes", optional, tag = "25")]
    pub search_index: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "26")]
    pub datatype: Option<Bytes>,
    #[prost(bool, optional, tag = "27")]
    pub consistent: Option<bool>,
    #[prost(bool, optional, tag = "28")]
    pub write_once: Option<bool>,
    #[prost(uint32, optional, tag = "29")]
    pub hll_precision: Option<u32>,
}

/// Proves who the client is. The password may be empty if a certificate does that.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpbAuthReq {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub user: Bytes,
    #[prost(bytes = "bytes", required, tag = "2")]
    pub password: Bytes,
}
