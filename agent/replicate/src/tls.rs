//! TLS 1.3 between two ends that know each other by a code, not by names or dates.
//!
//! Each process makes a key and a self-signed certificate. During the handshake any certificate is accepted, but its
//! holder must prove the key; who the holder is, the pairing proof over the exporter decides (`gantry_wire::pairing`).
//! Data streams must show the certificate that was paired. No date is ever looked at: CMOS batteries die.
//!
//! The key is Ed25519. With it an end also signs the report of the session ([`crate::kept`]): the other end knows whose
//! signature that is, because it has seen the certificate when the code was proved.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use gantry_wire::message::Signature;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, SigningKey};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme, version,
};

/// An Ed25519 public key.
pub type PublicKey = [u8; 32];

/// What stands before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410, section 4).
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// This process's key and certificate, as configurations for both directions.
#[derive(Clone, Debug)]
pub struct TlsIdentity {
    key: Arc<KeyPair>,
    /// For dialling.
    pub client: Arc<ClientConfig>,
    /// For listening.
    pub server: Arc<ServerConfig>,
}

impl TlsIdentity {
    /// Makes a fresh key.
    pub fn generate() -> Result<Self> {
        let pair = KeyPair::generate_for(&PKCS_ED25519).context("making a TLS key")?;
        let named = CertificateParams::new(vec!["gantry".to_owned()]).context("naming a certificate")?;
        let chain = vec![named.self_signed(&pair).context("making a certificate")?.der().clone()];
        let key = || PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(AnyKey(Arc::clone(&provider)));
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])
            .context("configuring TLS 1.3")?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
            .with_client_auth_cert(chain.clone(), key())
            .context("configuring the TLS client")?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .context("configuring TLS 1.3")?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key())
            .context("configuring the TLS server")?;
        // A ticket that the peer never reads makes its close a reset, and a reset loses what was in flight.
        server.send_tls13_tickets = 0;
        Ok(Self { key: Arc::new(pair), client: Arc::new(client), server: Arc::new(server) })
    }

    /// The public key of the certificate.
    pub fn public_key(&self) -> Result<PublicKey> {
        self.key.public_key_raw().try_into().context("the key of this process is not Ed25519")
    }

    /// Signs with the key of the certificate.
    pub fn sign(&self, message: &[u8]) -> Result<Signature> {
        let signature = self.key.sign(message).context("signing")?;
        signature.as_slice().try_into().context("the signature is not Ed25519")
    }

    /// The name that TLS wants; nobody looks at it.
    pub fn server_name() -> ServerName<'static> {
        ServerName::IpAddress(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST).into())
    }
}

/// The public key of a certificate that a peer has shown.
///
/// # Errors
/// No certificate, or one with another kind of key.
pub fn key_of(certificate: &[u8]) -> Result<PublicKey> {
    let der = CertificateDer::from(certificate);
    let parsed = ParsedCertificate::try_from(&der).context("reading the other end's certificate")?;
    let info = parsed.subject_public_key_info();
    let key = info.as_ref().strip_prefix(&ED25519_SPKI).and_then(|key| key.try_into().ok());
    key.context("the other end's key is not Ed25519")
}

/// Checks an Ed25519 signature.
///
/// # Errors
/// It is not this key's signature of this message.
pub fn verify(key: &PublicKey, message: &[u8], signature: &Signature) -> Result<()> {
    let provider = ring::default_provider();
    let mut known = provider.signature_verification_algorithms.mapping.iter();
    let ed25519 = known.find(|(scheme, _)| *scheme == SignatureScheme::ED25519);
    let algorithm = ed25519.and_then(|(_, algorithms)| algorithms.first()).context("no Ed25519 here")?;
    ensure!(algorithm.verify_signature(key, message, signature).is_ok(), "the signature does not fit");
    Ok(())
}

/// Accepts every certificate whose holder proves its key.
#[derive(Debug)]
struct AnyKey(Arc<CryptoProvider>);

impl AnyKey {
    fn check(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }
    fn schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
    fn no_tls12() -> Error {
        Error::General("TLS 1.2 is not spoken".to_owned())
    }
}

impl ServerCertVerifier for AnyKey {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Self::no_tls12())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check(message, cert, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Self::no_tls12())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check(message, cert, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_of_one_key_and_one_message() {
        let (ours, other) = (TlsIdentity::generate().unwrap(), TlsIdentity::generate().unwrap());
        let signature = ours.sign(b"report").unwrap();
        let key = ours.public_key().unwrap();
        verify(&key, b"report", &signature).unwrap();
        assert!(verify(&key, b"Report", &signature).is_err());
        assert!(verify(&other.public_key().unwrap(), b"report", &signature).is_err());
        let mut spoilt = signature;
        spoilt[40] ^= 1;
        assert!(verify(&key, b"report", &spoilt).is_err());
    }

    #[test]
    fn the_key_is_that_of_the_certificate() {
        let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let certificate = CertificateParams::default().self_signed(&pair).unwrap();
        assert_eq!(key_of(certificate.der()).unwrap(), pair.public_key_raw());
        let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = CertificateParams::default().self_signed(&other).unwrap();
        assert!(key_of(certificate.der()).unwrap_err().to_string().contains("not Ed25519"));
        assert!(key_of(b"nonsense").is_err());
    }
}
