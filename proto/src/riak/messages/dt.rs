//! Messages of `riak_dt.proto`: replicated data types.

use bytes::Bytes;

/// The type of a field of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
#[repr(i32)]
pub enum MapFieldType {
    Counter = 1,
    Set = 2,
    Register = 3,
    Flag = 4,
    Map = 5,
}

/// The name and type of a field of a map.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct MapField {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub name: Bytes,
    #[prost(enumeration = "MapFieldType", required, tag = "2")]
    pub r#type: i32,
}

/// A field of a map and its value.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct MapEntry {
    #[prost(message, required, tag = "1")]
    pub field: MapField,
    #[prost(sint64, optional, tag = "2")]
    pub counter_value: Option<i64>,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub set_value: Vec<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub register_value: Option<Bytes>,
    #[prost(bool, optional, tag = "5")]
    pub flag_value: Option<bool>,
    #[prost(message, repeated, tag = "6")]
    pub map_value: Vec<MapEntry>,
}

/// Reads a data type.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct DtFetchReq {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub bucket: Bytes,
    #[prost(bytes = "bytes", required, tag = "2")]
    pub key: Bytes,
    #[prost(bytes = "bytes", required, tag = "3")]
    pub r#type: Bytes,
    #[prost(uint32, optional, tag = "4")]
    pub r: Option<u32>,
    #[prost(uint32, optional, tag = "5")]
    pub pr: Option<u32>,
    #[prost(bool, optional, tag = "6")]
    pub basic_quorum: Option<bool>,
    #[prost(bool, optional, tag = "7")]
    pub notfound_ok: Option<bool>,
    #[prost(uint32, optional, tag = "8")]
    pub timeout: Option<u32>,
    #[prost(bool, optional, tag = "9")]
    pub sloppy_quorum: Option<bool>,
    #[prost(uint32, optional, tag = "10")]
    pub n_val: Option<u32>,
    #[prost(bool, optional, tag = "11", default = "true")]
    pub include_context: Option<bool>,
    #[prost(uint32, optional, tag = "12")]
    pub node_confirms: Option<u32>,
}

/// The value of a data type; the field says which.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct DtValue {
    #[prost(sint64, optional, tag = "1")]
    pub counter_value: Option<i64>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub set_value: Vec<Bytes>,
    #[prost(message, repeated, tag = "3")]
    pub map_value: Vec<MapEntry>,
    #[prost(uint64, optional, tag = "4")]
    pub hll_value: Option<u64>,
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub gset_value: Vec<Bytes>,
}

/// The type of a data type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
#[repr(i32)]
pub enum DataType {
    Counter = 1,
    Set = 2,
    Map = 3,
    Hll = 4,
    Gset = 5,
}

/// What was read: always the type; no value if nothing was found.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct DtFetchResp {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub context: Option<Bytes>,
    #[prost(enumeration = "DataType", required, tag = "2")]
    pub r#type: i32,
    #[prost(message, optional, tag = "3")]
    pub value: Option<DtValue>,
}

/// Adds to a counter: 1 if `increment` is absent.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct CounterOp {
    #[prost(sint64, optional, tag = "1")]
    pub increment: Option<i64>,
}

/// Adds to and removes from a set.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct SetOp {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub adds: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub removes: Vec<Bytes>,
}

/// Adds to a grow-only set.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct GSetOp {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub adds: Vec<Bytes>,
}

/// Adds to a HyperLogLog.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct HllOp {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub adds: Vec<Bytes>,
}

/// What is done to a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
#[repr(i32)]
pub enum FlagOp {
    Enable = 1,
    Disable = 2,
}

/// Changes a field of a map.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct MapUpdate {
    #[prost(message, required, tag = "1")]
    pub field: MapField,
    #[prost(message, optional, tag = "2")]
    pub counter_op: Option<CounterOp>,
    #[prost(message, optional, tag = "3")]
    pub set_op: Option<SetOp>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub register_op: Option<Bytes>,
    #[prost(enumeration = "FlagOp", optional, tag = "5")]
    pub flag_op: Option<i32>,
    #[prost(message, optional, boxed, tag = "6")]
    pub map_op: Option<Box<MapOp>>,
}

/// Removes and changes fields of a map.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct MapOp {
    #[prost(message, repeated, tag = "1")]
    pub removes: Vec<MapField>,
    #[prost(message, repeated, tag = "2")]
    pub updates: Vec<MapUpdate>,
}

/// Changes a data type; exactly one field is set.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct DtOp {
    #[prost(message, optional, tag = "1")]
    pub counter_op: Option<CounterOp>,
    #[prost(message, optional, tag = "2")]
    pub set_op: Option<SetOp>,
    #[prost(message, optional, tag = "3")]
    pub map_op: Option<MapOp>,
    #[prost(message, optional, tag = "4")]
    pub hll_op: Option<HllOp>,
    #[prost(message, optional, tag = "5")]
    pub gset_op: Option<GSetOp>,
}

/// Changes a data type. Without `key`, the server makes one.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct DtUpdateReq {
    #[prost(bytes = "bytes", required, tag = "1")]
    pub bucket: Bytes,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub key: Option<Bytes>,
    #[prost(bytes = "bytes", required, tag = "3")]
    pub r#type: Bytes,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub context: Option<Bytes>,
    #[prost(message, required, tag = "5")]
    pub op: DtOp,
    #[prost(uint32, optional, tag = "6")]
    pub w: Option<u32>,
    #[prost(uint32, optional, tag = "7")]
    pub dw: Option<u32>,
    #[prost(uint32, optional, tag = "8")]
    pub pw: Option<u32>,
    #[prost(bool, optional, tag = "9", default = "false")]
    pub return_body: Option<bool>,
    #[prost(uint32, optional, tag = "10")]
    pub timeout: Option<u32>,
    #[prost(bool, optional, tag = "11")]
    pub sloppy_quorum: Option<bool>,
    #[prost(uint32, optional, tag = "12")]
    pub n_val: Option<u32>,
    #[prost(bool, optional, tag = "13", default = "true")]
    pub include_context: Option<bool>,
    #[prost(uint32, optional, tag = "14")]
    pub node_confirms: Option<u32>,
}

/// Answers an update: empty, the key that was made, or the value if the request asked for it.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct DtUpdateResp {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub key: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub context: Option<Bytes>,
    #[prost(sint64, optional, tag = "3")]
    pub counter_value: Option<i64>,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub set_value: Vec<Bytes>,
    #[prost(message, repeated, tag = "5")]
    pub map_value: Vec<MapEntry>,
    #[prost(uint64, optional, tag = "6")]
    pub hll_value: Option<u64>,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    pub gset_value: Vec<Bytes>,
}
