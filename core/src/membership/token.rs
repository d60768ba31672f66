//! The join token: what an operator carries from a cluster to a node that is to join it.
//!
//! It authenticates both ways (PROTOCOLS §3): the lineage and the members' fingerprints tell the joining node that it
//! talks to the right cluster, and the secret tells the cluster that the node was sent by somebody who may. The
//! cluster keeps only the secret's hash.
//!
//! ```text
//! rondel1-<base64url without padding of>
//!     lineage [16] | secret [32] | doors u8 | per door: length u8, host:port, fingerprint [32] | check [4]
//! ```
//!
//! `check` is the beginning of the BLAKE3 of everything before it: a token that was cut or mistyped is told apart
//! from a wrong one.

use crate::env::Env;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rondel_proto::{Schema, id::Lineage, rkyv, schema::hash_str};
use std::{fmt, str::FromStr};

/// The most doors that a token lists.
pub const DOORS_MAX: usize = 8;
/// The longest address, `host:port`.
pub const ADDR_BYTES_MAX: usize = 255;

const PREFIX: &str = "rondel";
const FORM: &str = "1";
const CHECK_BYTES: usize = 4;

/// Who knows it may join. It is never printed but as a part of a token, and compared in constant time.
#[derive(Clone, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[rkyv(crate = rondel_proto::rkyv)]
pub struct JoinSecret([u8; 32]);

impl JoinSecret {
    /// A new one.
    #[must_use]
    pub fn draw(env: &Env) -> Self {
        let mut secret = [0; 32];
        env.entropy(&mut secret);
        Self(secret)
    }

    /// What the cluster keeps of it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.digest().into()
    }

    /// Whether it is the one of this hash. Takes the same time whatever the answer.
    #[must_use]
    pub fn opens(&self, hash: &[u8; 32]) -> bool {
        // The comparison of `blake3::Hash` takes constant time; that of arrays does not.
        self.digest() == blake3::Hash::from_bytes(*hash)
    }

    fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_derive_key("rondel 1: join secret");
        hasher.update(&self.0).finalize()
    }
}

// By hand, because `#[wire]` derives a `Debug` that would print it.
impl Schema for JoinSecret {
    const HASH: u64 = hash_str("JoinSecret([u8;32])");
}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JoinSecret")
    }
}

impl fmt::Debug for ArchivedJoinSecret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JoinSecret")
    }
}

/// A member that a joining node may knock at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// Where, `host:port`.
    pub addr: String,
    /// The fingerprint of the certificate that it must show there.
    pub fingerprint: [u8; 32],
}

/// A join token. Whoever reads its text may join.
#[derive(Debug, Clone)]
pub struct JoinToken {
    lineage: Lineage,
    secret: JoinSecret,
    doors: Vec<Door>,
}

/// Why a text is no join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is something else.
    #[error("not a join token: one begins with `rondel1-`")]
    NotAToken,
    /// A newer release made it.
    #[error(
        "a join token of form {0}, which this release does not read: use the release that the cluster runs"
    )]
    OtherForm(String),
    /// A character that no token has.
    #[error("the join token has `{found}` at character {at}, which no token has: copy it again, whole")]
    BadCharacter {
        /// Which.
        found: char,
        /// Where, from 1.
        at: usize,
    },
    /// It is not as it was made.
    #[error("the join token is incomplete or mistyped: copy it again, whole")]
    Damaged,
    /// It is whole, and nobody can be reached with it.
    #[error("the join token names no address: let a member with an address print one")]
    NoDoor,
    /// An address has no port, or is too long.
    #[error("`{0}` is not an address: `host:port` is expected")]
    BadAddr(String),
    /// There are too many addresses.
    #[error("{0} addresses are too many for a join token: {DOORS_MAX} are possible")]
    TooManyDoors(usize),
}

impl JoinToken {
    /// A token of a cluster with at least one door.
    ///
    /// # Errors
    /// [`TokenError::NoDoor`], [`TokenError::TooManyDoors`], [`TokenError::BadAddr`].
    pub fn new(lineage: Lineage, secret: JoinSecret, doors: Vec<Door>) -> Result<Self, TokenError> {
        if doors.is_empty() {
            return Err(TokenError::NoDoor);
        }
        if doors.len() > DOORS_MAX {
            return Err(TokenError::TooManyDoors(doors.len()));
        }
        if let Some(door) = doors.iter().find(|door| !is_addr(&door.addr)) {
            return Err(TokenError::BadAddr(door.addr.clone()));
        }
        Ok(Self { lineage, secret, doors })
    }

    /// The cluster that it lets in to.
    #[must_use]
    pub fn lineage(&self) -> Lineage {
        self.lineage
    }

    /// What to show at the door.
    #[must_use]
    pub fn secret(&self) -> &JoinSecret {
        &self.secret
    }

    /// Where to knock; never empty.
    #[must_use]
    pub fn doors(&self) -> &[Door] {
        &self.doors
    }

    /// The token as text, for the operator to carry. This is the only way that shows the secret.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.lineage.0.to_be_bytes());
        bytes.extend_from_slice(&self.secret.0);
        bytes.push(u8::try_from(self.doors.len()).expect("bounded when it was made"));
        for door in &self.doors {
            bytes.push(u8::try_from(door.addr.len()).expect("bounded when it was made"));
            bytes.extend_from_slice(door.addr.as_bytes());
            bytes.extend_from_slice(&door.fingerprint);
        }
        let check = check_of(&bytes);
        bytes.extend_from_slice(&check);
        format!("{PREFIX}{FORM}-{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    /// Reads a token; white space, as a terminal or a mail puts into long lines, is passed over.
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (form, body) =
            text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')).ok_or(TokenError::NotAToken)?;
        match form {
            FORM => {}
            _ if !form.is_empty() && form.bytes().all(|b| b.is_ascii_digit()) => {
                return Err(TokenError::OtherForm(form.to_owned()));
            }
            _ => return Err(TokenError::NotAToken),
        }
        let strange = |c: &char| !(c.is_ascii_alphanumeric() || *c == '-' || *c == '_');
        if let Some((at, found)) = body.chars().enumerate().find(|(_, c)| strange(c)) {
            return Err(TokenError::BadCharacter { found, at: PREFIX.len() + FORM.len() + 2 + at });
        }
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| TokenError::Damaged)?;
        let (content, check) = bytes.split_last_chunk::<CHECK_BYTES>().ok_or(TokenError::Damaged)?;
        if *check != check_of(content) {
            return Err(TokenError::Damaged);
        }
        read(content).ok_or(TokenError::Damaged)?
    }
}

/// The content of a token whose check is right; `None` if it is not of this form after all.
fn read(content: &[u8]) -> Option<Result<JoinToken, TokenError>> {
    let (lineage, rest) = content.split_first_chunk::<16>()?;
    let (secret, rest) = rest.split_first_chunk::<32>()?;
    let (count, mut rest) = rest.split_first()?;
    let mut doors = Vec::new();
    for _ in 0..*count {
        let (len, after) = rest.split_first()?;
        let (addr, after) = after.split_at_checked(usize::from(*len))?;
        let (fingerprint, after) = after.split_first_chunk::<32>()?;
        doors.push(Door { addr: String::from_utf8(addr.to_vec()).ok()?, fingerprint: *fingerprint });
        rest = after;
    }
    rest.is_empty()
        .then(|| JoinToken::new(Lineage(u128::from_be_bytes(*lineage)), JoinSecret(*secret), doors))
}

fn check_of(content: &[u8]) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    blake3::Hasher::new().update(content).finalize_xof().fill(&mut check);
    check
}

/// Whether this is `host:port`, as far as can be seen without asking anybody.
pub(super) fn is_addr(addr: &str) -> bool {
    let Some((host, port)) = addr.rsplit_once(':') else { return false };
    let whole = !host.is_empty() && addr.len() <= ADDR_BYTES_MAX && !addr.contains(char::is_whitespace);
    whole && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::test_disk::{TestDisk, test_env};
    use proptest::prelude::*;

    fn door(number: u8) -> Door {
        Door { addr: format!("10.0.0.{number}:7400"), fingerprint: [number; 32] }
    }

    fn token() -> JoinToken {
        JoinToken::new(Lineage(77), JoinSecret([9; 32]), vec![door(1), door(2)]).unwrap()
    }

    fn error(text: &str) -> TokenError {
        text.parse::<JoinToken>().unwrap_err()
    }

    #[test]
    fn a_token_survives_its_text_even_broken_over_lines() {
        let text = token().to_text();
        let broken = format!("  {}\n  {}\r\n", &text[..50], &text[50..]);
        for text in [text, broken] {
            let read: JoinToken = text.parse().unwrap();
            assert_eq!((read.lineage(), read.doors()), (Lineage(77), token().doors()));
            assert!(read.secret().opens(&token().secret().hash()));
        }
    }

    #[test]
    fn the_text_of_a_token_never_changes_over_releases() {
        let one = JoinToken::new(Lineage(1), JoinSecret([0; 32]), vec![door(3)]).unwrap();
        assert_eq!(
            one.to_text(),
            "rondel1-AAAAAAAAAAAAAAAAAAAAAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAQ0xMC4wLjAuMzo3NDAwAwMDAwMDAwMDAwMDAwMDAw\
             MDAwMDAwMDAwMDAwMDAwNHucVX"
        );
    }

    #[test]
    fn what_is_wrong_with_a_text_is_said() {
        let text = token().to_text();
        assert_eq!(error(""), TokenError::NotAToken);
        assert_eq!(error("hunter2"), TokenError::NotAToken);
        assert_eq!(error("rondel-abc"), TokenError::NotAToken);
        assert_eq!(error(&text.replacen('1', "2", 1)), TokenError::OtherForm("2".to_owned()));
        assert_eq!(error(&text[..text.len() - 6]), TokenError::Damaged);
        assert_eq!(error("rondel1-"), TokenError::Damaged);
        let mut strange = text.clone();
        strange.replace_range(11..12, "!");
        assert_eq!(error(&strange), TokenError::BadCharacter { found: '!', at: 12 });
    }

    #[test]
    fn every_mistyped_character_is_noticed() {
        let text = token().to_text();
        for at in 8..text.len() {
            let mut typed = text.clone();
            let other = if &text[at..=at] == "A" { "B" } else { "A" };
            typed.replace_range(at..=at, other);
            assert!(matches!(error(&typed), TokenError::Damaged), "character {at}");
        }
    }

    #[test]
    fn a_token_has_doors_with_addresses() {
        let with = |doors| JoinToken::new(Lineage(1), JoinSecret([0; 32]), doors).map(|_| ()).unwrap_err();
        assert_eq!(with(vec![]), TokenError::NoDoor);
        assert_eq!(with(vec![door(1); 9]), TokenError::TooManyDoors(9));
        for addr in ["", "host", ":7400", "host:", "host:0", "host:99999", "ho st:1"] {
            let fingerprint = [0; 32];
            assert_eq!(
                with(vec![Door { addr: addr.to_owned(), fingerprint }]),
                TokenError::BadAddr(addr.to_owned())
            );
        }
    }

    #[test]
    fn only_the_right_secret_opens_and_none_is_ever_shown() {
        let env = test_env(&TestDisk::new(), 1);
        let (one, two) = (JoinSecret::draw(&env), JoinSecret::draw(&env));
        assert!(one.opens(&one.hash()) && !two.opens(&one.hash()));
        assert!(!one.hash().starts_with(&one.0[..4]));
        assert_eq!(format!("{:?}", JoinSecret([7; 32])), "JoinSecret");
        assert!(!format!("{:?}", token()).contains('9'));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text: String, body: Vec<u8>) {
            let _ = text.parse::<JoinToken>();
            let _ = format!("rondel1-{text}").parse::<JoinToken>();
            let mut content = body;
            let check = check_of(&content);
            content.extend_from_slice(&check);
            let _ = format!("rondel1-{}", URL_SAFE_NO_PAD.encode(content)).parse::<JoinToken>();
        }
    }
}
