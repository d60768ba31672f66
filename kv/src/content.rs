//! What a client writes: a value, and what it says about it.

use rondel_core::wire;

/// One value with its metadata: what a client writes, and what a reader gets of each sibling.
///
/// When it was written and its version tag are no part of it: they follow from the write itself
/// ([`Sibling::last_modified_us`](crate::Sibling::last_modified_us), [`Sibling::vtag`](crate::Sibling::vtag)).
#[wire]
#[derive(PartialEq, Eq, Default)]
pub struct Content {
    /// The value.
    pub value: Vec<u8>,
    /// Its media type.
    pub content_type: Option<Vec<u8>>,
    /// Its character set.
    pub charset: Option<Vec<u8>>,
    /// How it is encoded, `gzip` say.
    pub content_encoding: Option<Vec<u8>>,
    /// The client's own metadata, in its order.
    pub user_metadata: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Index entries: field and term.
    pub indexes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Links to other objects.
    pub links: Vec<Link>,
    /// When it is to read as deleted: milliseconds since 1970, by the reader's clock.
    pub expires_at_ms: Option<u64>,
    /// Not a value but the mark of a delete.
    pub tombstone: bool,
}

/// A one-way link to another object.
#[wire]
#[derive(PartialEq, Eq, Default)]
pub struct Link {
    /// The bucket of the object.
    pub bucket: Option<Vec<u8>>,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// What the link means.
    pub tag: Option<Vec<u8>>,
}

impl Content {
    /// A plain text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        let value = text.into().into_bytes();
        Self { value, content_type: Some(b"text/plain".to_vec()), ..Self::default() }
    }

    /// The mark of a delete.
    #[must_use]
    pub fn tombstone() -> Self {
        Self { tombstone: true, ..Self::default() }
    }

    /// The bytes that it is made of, without what an archive adds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let pairs = |pairs: &[(Vec<u8>, Option<Vec<u8>>)]| -> usize {
            pairs.iter().map(|(name, value)| name.len() + length(value) + PAIR_BYTES).sum()
        };
        let links: usize = self
            .links
            .iter()
            .map(|link| length(&link.bucket) + length(&link.key) + length(&link.tag) + LINK_BYTES)
            .sum();
        self.value.len()
            + length(&self.content_type)
            + length(&self.charset)
            + length(&self.content_encoding)
            + pairs(&self.user_metadata)
            + pairs(&self.indexes)
            + links
    }

    /// The first 16 bytes of BLAKE3 over every field, each behind its length: the same for ever and on every node,
    /// whatever the encoding.
    pub(crate) fn hash(&self) -> [u8; 16] {
        let mut hasher = Fields(blake3::Hasher::new());
        hasher.bytes(&self.value);
        for field in [&self.content_type, &self.charset, &self.content_encoding] {
            hasher.optional(field.as_deref());
        }
        for pairs in [&self.user_metadata, &self.indexes] {
            hasher.number(pairs.len() as u64);
            for (name, value) in pairs {
                hasher.bytes(name);
                hasher.optional(value.as_deref());
            }
        }
        hasher.number(self.links.len() as u64);
        for Link { bucket, key, tag } in &self.links {
            for field in [bucket, key, tag] {
                hasher.optional(field.as_deref());
            }
        }
        // No time has the number 2^64 − 1, so "never" has it.
        hasher.number(self.expires_at_ms.unwrap_or(u64::MAX));
        hasher.number(u64::from(self.tombstone));
        *hasher.0.finalize().as_bytes().first_chunk().expect("a BLAKE3 hash has 32 bytes")
    }
}

/// What an archive adds to a pair and to a link, about.
const PAIR_BYTES: usize = 20;
const LINK_BYTES: usize = 36;

/// Hashes fields so that no two lists of fields look alike.
struct Fields(blake3::Hasher);

impl Fields {
    fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn optional(&mut self, bytes: Option<&[u8]>) {
        self.number(u64::from(bytes.is_some()));
        self.bytes(bytes.unwrap_or_default());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A content with something in every field.
    pub(crate) fn full() -> Content {
        let bytes = |text: &str| text.as_bytes().to_vec();
        Content {
            value: bytes("value"),
            content_type: Some(bytes("text/plain")),
            charset: Some(bytes("utf-8")),
            content_encoding: Some(bytes("identity")),
            user_metadata: vec![(bytes("colour"), Some(bytes("red"))), (bytes("bare"), None)],
            indexes: vec![(bytes("age_int"), Some(bytes("42")))],
            links: vec![Link { bucket: Some(bytes("b")), key: Some(bytes("k")), tag: None }],
            expires_at_ms: Some(1_700_000_000_000),
            tombstone: false,
        }
    }

    #[test]
    fn the_hash_of_a_known_content_never_changes() {
        let hex = |hash: [u8; 16]| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(full().hash()), "aeb407192315689a981e96396d508c15");
        assert_eq!(hex(Content::tombstone().hash()), "1890a79d2c09f88009fdc46decaacbd0");
    }

    #[test]
    fn every_field_counts_in_the_hash() {
        let change: [fn(&mut Content); 10] = [
            |content| content.value.push(0),
            |content| content.content_type = None,
            |content| content.charset = Some(Vec::new()),
            |content| content.content_encoding = None,
            |content| content.user_metadata[1].1 = Some(Vec::new()),
            |content| content.user_metadata.swap(0, 1),
            |content| content.indexes.clear(),
            |content| content.links[0].tag = Some(Vec::new()),
            |content| content.expires_at_ms = None,
            |content| content.tombstone = true,
        ];
        let mut hashes: Vec<_> = change
            .iter()
            .map(|change| {
                let mut content = full();
                change(&mut content);
                content.hash()
            })
            .chain([full().hash()])
            .collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 11);
    }
}
