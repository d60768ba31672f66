//! A node's key and self-signed certificate, made from a seed.
//!
//! Trust is the certificate's fingerprint in the decided membership and nothing else (PROTOCOLS §3): there is no CA
//! whose key could be stolen, and neither the names nor the dates in a certificate mean anything. The key is Ed25519,
//! whose signatures need no randomness, so a simulated handshake is the same in every run.

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ED25519};
use rondel_proto::id::NodeId;
use rustls::pki_types::PrivatePkcs8KeyDer;
use std::fmt;

/// The length of an Ed25519 seed.
pub const KEY_SEED_BYTES: usize = 32;

/// The name in every node's certificate, and the one that a connecting node asks for.
pub const CERTIFICATE_NAME: &str = "rondel";

/// PKCS#8 version 1 of an Ed25519 private key [RFC 8410 §7]: this, and then the seed.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// The fingerprint of a certificate: BLAKE3 of its DER form.
#[must_use]
pub fn fingerprint(der: &[u8]) -> [u8; 32] {
    *blake3::hash(der).as_bytes()
}

/// A certificate that does not fit its key, or is none.
#[derive(Debug, thiserror::Error)]
#[error("its certificate does not fit its key")]
pub struct BadCertificate;

/// A node's certificate with its private key.
#[derive(Clone)]
pub struct Certificate {
    der: Vec<u8>,
    key_pkcs8: Vec<u8>,
}

impl Certificate {
    /// Makes the certificate of a node. The same seed and node, the same bytes.
    ///
    /// # Panics
    /// Never: every seed is a key, and the names are fixed.
    #[must_use]
    pub fn self_signed(seed: &[u8; KEY_SEED_BYTES], node: NodeId) -> Self {
        let key_pkcs8 = pkcs8_of(seed);
        let key = key_pair(&key_pkcs8).expect("every seed is a key");
        let mut params =
            CertificateParams::new([CERTIFICATE_NAME.to_owned()]).expect("the name is fixed and valid");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, node.to_string());
        let der = params.self_signed(&key).expect("Ed25519 signs anything").der().to_vec();
        Self { der, key_pkcs8 }
    }

    /// A certificate as it was stored, with its key.
    ///
    /// # Errors
    /// [`BadCertificate`] if the two do not belong together.
    pub fn of(seed: &[u8; KEY_SEED_BYTES], der: &[u8]) -> Result<Self, BadCertificate> {
        let key_pkcs8 = pkcs8_of(seed);
        let key = key_pair(&key_pkcs8).map_err(|_| BadCertificate)?;
        let public = key.public_key_raw();
        match der.windows(public.len()).any(|part| part == public) {
            true => Ok(Self { der: der.to_vec(), key_pkcs8 }),
            false => Err(BadCertificate),
        }
    }

    /// The certificate in DER form.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The private key in PKCS#8 form.
    #[must_use]
    pub fn key_pkcs8(&self) -> &[u8] {
        &self.key_pkcs8
    }

    /// What other nodes know it by.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.der)
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Certificate")
    }
}

fn pkcs8_of(seed: &[u8; KEY_SEED_BYTES]) -> Vec<u8> {
    [PKCS8_PREFIX.as_slice(), seed].concat()
}

fn key_pair(pkcs8: &[u8]) -> Result<KeyPair, rcgen::Error> {
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8), &PKCS_ED25519)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_certificate_and_another_seed_another() {
        let of = |seed| Certificate::self_signed(&[seed; KEY_SEED_BYTES], NodeId(7));
        assert_eq!(of(1).der(), of(1).der());
        assert_ne!(of(1).fingerprint(), of(2).fingerprint());
    }

    #[test]
    fn a_certificate_is_refused_with_the_key_of_another() {
        let seed = [1; KEY_SEED_BYTES];
        let made = Certificate::self_signed(&seed, NodeId(7));
        assert!(Certificate::of(&seed, made.der()).is_ok());
        assert!(Certificate::of(&[2; KEY_SEED_BYTES], made.der()).is_err());
    }

    #[test]
    fn tls_takes_the_key_with_the_certificate() {
        let made = Certificate::self_signed(&[9; KEY_SEED_BYTES], NodeId(1));
        let key = PrivatePkcs8KeyDer::from(made.key_pkcs8().to_vec());
        let provider = rustls::crypto::ring::default_provider();
        let signing = provider.key_provider.load_private_key(key.into()).unwrap();
        let certified = rustls::sign::CertifiedKey::new(vec![made.der().to_vec().into()], signing);
        certified.keys_match().unwrap();
    }
}
