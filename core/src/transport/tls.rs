//! TLS 1.3, both ways, with self-signed certificates.
//!
//! There is no certificate authority to steal. A certificate is trusted because its fingerprint stands in the
//! decided membership (PROTOCOLS §3): the side that dials knows whom it dials and pins the fingerprint in the
//! handshake; the side that accepts takes any well-formed certificate here and judges its fingerprint afterwards,
//! because a joiner's can't be known yet. Either way the handshake proves that the peer holds the private key. Dates
//! and names in certificates mean nothing.

use crate::{env::Env, membership::fingerprint};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::TransportErrorCode;
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    time_provider::TimeProvider,
};
use std::{fmt, sync::Arc};

/// BLAKE3 of a certificate's DER: what the membership pins.
pub type Fingerprint = [u8; 32];

const ALPN: &[u8] = b"rondel/1";

/// How a handshake ends when the other side's certificate is not the one that is pinned.
pub(super) fn wrong_certificate() -> TransportErrorCode {
    TransportErrorCode::crypto(AlertDescription::AccessDenied.into())
}

/// This node's end of every handshake.
pub(super) struct Tls {
    provider: Arc<CryptoProvider>,
    clock: Arc<Clock>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Tls {
    pub(super) fn new(env: Env, certificate_der: &[u8], key_pkcs8_der: &[u8]) -> Self {
        Self {
            provider: Arc::new(env.crypto_provider()),
            clock: Arc::new(Clock(env)),
            certificate: certificate_der.to_vec().into(),
            key: PrivatePkcs8KeyDer::from(key_pkcs8_der.to_vec()).into(),
        }
    }

    /// What peers know this node by.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        fingerprint(&self.certificate)
    }

    /// The accepting side: any client that proves its key.
    ///
    /// # Errors
    /// If our own certificate or key is none, or they don't belong together.
    pub(super) fn server(&self) -> Result<Arc<QuicServerConfig>, Error> {
        let mut config =
            rustls::ServerConfig::builder_with_details(self.provider.clone(), self.clock.clone())
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_client_cert_verifier(self.verifier(None))
                .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would skip the certificates, and a removed peer could come back with one.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Arc::new(QuicServerConfig::try_from(config).map_err(|error| Error::General(error.to_string()))?))
    }

    /// The dialling side: only the server whose certificate has this fingerprint.
    ///
    /// # Errors
    /// As [`Tls::server`].
    pub(super) fn client(&self, expected: Fingerprint) -> Result<Arc<QuicClientConfig>, Error> {
        let mut config =
            rustls::ClientConfig::builder_with_details(self.provider.clone(), self.clock.clone())
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .dangerous()
                .with_custom_certificate_verifier(self.verifier(Some(expected)))
                .with_client_auth_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(QuicClientConfig::try_from(config).map_err(|error| Error::General(error.to_string()))?))
    }

    fn verifier(&self, expected: Option<Fingerprint>) -> Arc<Pin> {
        Arc::new(Pin { expected, provider: self.provider.clone() })
    }
}

/// Checks the certificate against a fingerprint, if one is known, and the signature always.
#[derive(Debug)]
struct Pin {
    expected: Option<Fingerprint>,
    provider: Arc<CryptoProvider>,
}

impl Pin {
    fn certificate(&self, end_entity: &CertificateDer<'_>) -> Result<(), Error> {
        ParsedCertificate::try_from(end_entity)?;
        match self.expected {
            Some(expected) if expected != fingerprint(end_entity) => {
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
            _ => Ok(()),
        }
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.certificate(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Pin {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.certificate(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// The environment's calendar, as rustls asks for it.
struct Clock(Env);

impl fmt::Debug for Clock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Clock")
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0.unix_time()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::Certificate;
    use rondel_proto::id::NodeId;
    use rustls::crypto::ring::default_provider;

    fn certificate(seed: u8) -> Certificate {
        Certificate::self_signed(&[seed; 32], NodeId(1))
    }

    #[tokio::test]
    async fn a_certificate_serves_both_sides_and_only_with_its_own_key() {
        let env = Env::production();
        let (one, two) = (certificate(1), certificate(2));
        let tls = Tls::new(env.clone(), one.der(), one.key_pkcs8());
        assert_eq!(tls.fingerprint(), one.fingerprint());
        tls.server().unwrap();
        tls.client(two.fingerprint()).unwrap();
        assert!(Tls::new(env.clone(), one.der(), two.key_pkcs8()).server().is_err());
        assert!(Tls::new(env, b"no certificate", two.key_pkcs8()).server().is_err());
    }

    #[test]
    fn only_the_pinned_certificate_passes() {
        let (one, two) = (certificate(1), certificate(2));
        let pin = |expected| Pin { expected, provider: Arc::new(default_provider()) };
        let pinned = pin(Some(one.fingerprint()));
        pinned.certificate(&one.der().into()).unwrap();
        pinned.certificate(&two.der().into()).unwrap_err();
        pin(None).certificate(&two.der().into()).unwrap();
        pin(None).certificate(&b"garbage".as_slice().into()).unwrap_err();
    }
}
