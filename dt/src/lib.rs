//! Replicated data types on `rondel-core`.
