//! Whether an endpoint is who it should be.

use crate::identity::provider;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;

#[derive(Debug)]
pub(super) enum Verifier {
    /// A chain to one of the roots, and one of the names; without names that of the SNI.
    Names { roots: Arc<RootCertStore>, names: Vec<Arc<str>> },
    /// `insecureSkipVerify`: the key is the certificate's, whosever that is.
    Nobody,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Self::Names { roots, names } = self else { return Ok(ServerCertVerified::assertion()) };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
        if names.is_empty() {
            verify_server_name(&certificate, server_name)?;
        } else if !names.iter().any(|name| bears(end_entity, &certificate, name)) {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A DNS name or an address that rustls can compare, or a URI (`spiffe://…`) as it is written.
fn bears(der: &CertificateDer<'_>, certificate: &ParsedCertificate<'_>, wanted: &str) -> bool {
    if wanted.contains("://") {
        let certificate = webpki::EndEntityCert::try_from(der);
        return certificate.is_ok_and(|certificate| certificate.valid_uri_names().any(|name| name == wanted));
    }
    ServerName::try_from(wanted).is_ok_and(|wanted| verify_server_name(certificate, &wanted).is_ok())
}
