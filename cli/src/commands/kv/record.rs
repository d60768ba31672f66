//! One object as a line of JSON: what `import` reads and `export` writes.
//!
//! `{"bucket"?, "key" | "key_base64", "value" | "value_base64", "content_type"?}`. A value that is no string is stored
//! as its JSON text, with content type `application/json`.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use rondel_proto::riak::messages::RpbContent;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A line.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    #[serde(skip_serializing_if = "Option::is_none")]
    bucket: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// The bucket, unless the command line names it.
    pub(super) bucket: Option<Bytes>,
    /// The key.
    pub(super) key: Bytes,
    /// The value.
    pub(super) value: Bytes,
    /// Its type.
    pub(super) content_type: Bytes,
}

/// Why a line is no record.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    /// Not JSON, or other fields.
    #[error("not a record: {0}")]
    Json(#[from] serde_json::Error),
    /// Not Base64.
    #[error("{field} is not Base64: {source}")]
    Base64 {
        /// Which field.
        field: &'static str,
        /// Why.
        source: base64::DecodeError,
    },
    /// Both of two fields, or neither.
    #[error("give one of {0} and {0}_base64")]
    NotOne(&'static str),
    /// An empty key.
    #[error("the key is empty")]
    EmptyKey,
}

impl Record {
    /// The record of one value of a key.
    pub(super) fn of(bucket: &[u8], key: &[u8], content: &RpbContent) -> Self {
        let (key, key_base64) = text_or_base64(key);
        let (value, value_base64) = text_or_base64(&content.value);
        let content_type =
            content.content_type.as_deref().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        Self {
            bucket: Some(String::from_utf8_lossy(bucket).into_owned()),
            key,
            key_base64,
            value: value.map(Value::String),
            value_base64,
            content_type,
        }
    }

    /// Reads a line.
    ///
    /// # Errors
    /// [`RecordError`].
    pub(super) fn parse(line: &[u8]) -> Result<Item, RecordError> {
        let record: Self = serde_json::from_slice(line)?;
        let key = match (record.key, record.key_base64) {
            (Some(key), None) => Bytes::from(key),
            (None, Some(key)) => from_base64("key_base64", &key)?,
            _ => return Err(RecordError::NotOne("key")),
        };
        if key.is_empty() {
            return Err(RecordError::EmptyKey);
        }
        let (value, natural_type) = match (record.value, record.value_base64) {
            (Some(Value::String(text)), None) => (Bytes::from(text), "text/plain"),
            (Some(json), None) => (Bytes::from(serde_json::to_vec(&json)?), "application/json"),
            (None, Some(value)) => (from_base64("value_base64", &value)?, "application/octet-stream"),
            _ => return Err(RecordError::NotOne("value")),
        };
        let content_type =
            record.content_type.map_or(Bytes::from_static(natural_type.as_bytes()), Bytes::from);
        Ok(Item { bucket: record.bucket.map(Bytes::from), key, value, content_type })
    }
}

/// The bytes as text if they are text, or else in Base64.
pub(super) fn text_or_base64(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(BASE64.encode(bytes))),
    }
}

/// The bytes that a field in Base64 means.
///
/// # Errors
/// It is not Base64.
pub(super) fn from_base64(field: &'static str, text: &str) -> Result<Bytes, RecordError> {
    BASE64.decode(text).map(Bytes::from).map_err(|source| RecordError::Base64 { field, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(value: &'static [u8], content_type: Option<&'static str>) -> RpbContent {
        let content_type = content_type.map(|text| Bytes::from_static(text.as_bytes()));
        RpbContent { value: Bytes::from_static(value), content_type, ..RpbContent::default() }
    }

    #[test]
    fn what_is_exported_imports_as_it_was() {
        for (key, value, content_type) in [
            (&b"a"[..], &b"text \xc3\xa9\n"[..], Some("text/plain")),
            (b"\xff\x00", b"\x80\x81", Some("image/png")),
            (b"j", b"{\"a\":1}", Some("application/json")),
        ] {
            let line = serde_json::to_vec(&Record::of(b"b", key, &content(value, content_type))).unwrap();
            let item = Record::parse(&line).unwrap();
            assert_eq!((&item.key[..], &item.value[..]), (key, value));
            assert_eq!(item.content_type, content_type.unwrap());
            assert_eq!(item.bucket.as_deref(), Some(&b"b"[..]));
        }
    }

    #[test]
    fn a_value_that_is_no_string_is_stored_as_json() {
        let item = Record::parse(br#"{"key":"k","value":{"b":[1,2],"a":null}}"#).unwrap();
        assert_eq!(item.value, r#"{"b":[1,2],"a":null}"#);
        assert_eq!(item.content_type, "application/json");
    }

    #[test]
    fn a_line_that_is_no_record_says_why() {
        for (line, told) in [
            (&b"{"[..], "not a record"),
            (br#"{"key":"k"}"#, "give one of value and value_base64"),
            (br#"{"value":"v"}"#, "give one of key and key_base64"),
            (br#"{"key":"","value":"v"}"#, "the key is empty"),
            (br#"{"key":"k","value_base64":"!"}"#, "value_base64 is not Base64"),
            (br#"{"key":"k","value":"v","valeu":"v"}"#, "unknown field `valeu`"),
        ] {
            let error = Record::parse(line).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
