//! Riak KV semantics on `rondel-core`.
