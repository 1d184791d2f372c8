//! PEM → a certificate chain with its key, or the anchors that chains must end in.

use super::{Facts, provider};
use crate::config::resource::Sensitive;
use rustls::RootCertStore;
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

/// A certificate chain and the key of its first certificate.
#[derive(Clone)]
pub struct Certificate {
    certified: Arc<CertifiedKey>,
    chain: Sensitive,
    key: Sensitive,
    secret: Option<Arc<str>>,
}

/// Certificates that others' chains must end in.
#[derive(Clone)]
pub struct TrustAnchors {
    roots: Arc<RootCertStore>,
    pem: Sensitive,
    secret: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("there is no PEM certificate in it")]
    NoCertificate,
    #[error("a certificate in it is malformed")]
    BadCertificate,
    #[error("there is no PEM private key in it (PKCS#8, PKCS#1 or SEC1)")]
    NoKey,
    #[error("the private key is of no known kind (RSA, ECDSA, Ed25519)")]
    BadKey,
    #[error("the private key is not the certificate's")]
    Mismatch,
}

impl Certificate {
    /// Reads a chain (the server's own certificate first) and its key.
    ///
    /// # Errors
    /// They are malformed, or do not belong together.
    pub fn from_pem(chain: Sensitive, key: Sensitive) -> Result<Self, CertificateError> {
        let certificates = certificates(chain.bytes())?;
        let first = certificates.first().ok_or(CertificateError::NoCertificate)?;
        ParsedCertificate::try_from(first).map_err(|_| CertificateError::BadCertificate)?;
        let private = PrivateKeyDer::from_pem_slice(key.bytes()).map_err(|_| CertificateError::NoKey)?;
        let certified = CertifiedKey::from_der(certificates, private, provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => CertificateError::Mismatch,
            _ => CertificateError::BadKey,
        })?;
        Ok(Self { certified: Arc::new(certified), chain, key, secret: None })
    }

    /// Whether the certificate bears the name.
    pub fn is_for(&self, name: &str) -> bool {
        let Ok(name) = ServerName::try_from(name) else { return false };
        let parsed = self.certified.cert.first().map(ParsedCertificate::try_from);
        parsed.and_then(Result::ok).is_some_and(|parsed| verify_server_name(&parsed, &name).is_ok())
    }

    /// `secret`: `namespace/name` of the Secret it came in.
    pub fn of_secret(self, secret: &str) -> Self {
        Self { secret: Some(secret.into()), ..self }
    }

    pub fn secret(&self) -> Option<&Arc<str>> {
        self.secret.as_ref()
    }

    /// What its chain says, its own certificate first; `None` for one that is not understood.
    pub fn facts(&self, now: SystemTime) -> impl Iterator<Item = Option<Facts>> {
        self.certified.cert.iter().map(move |der| Facts::of(der, now))
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl TrustAnchors {
    /// Nobody is believed.
    pub fn none() -> Self {
        Self { roots: Arc::new(RootCertStore::empty()), pem: Sensitive::new(Vec::new()), secret: None }
    }

    /// # Errors
    /// There is no certificate, or one is malformed.
    pub fn from_pem(pem: Sensitive) -> Result<Self, CertificateError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem.bytes())? {
            roots.add(certificate).map_err(|_| CertificateError::BadCertificate)?;
        }
        Ok(Self { roots: Arc::new(roots), pem, secret: None })
    }

    /// `secret`: `namespace/name` of the Secret they came in, or were to come in.
    pub fn of_secret(self, secret: &str) -> Self {
        Self { secret: Some(secret.into()), ..self }
    }

    pub fn secret(&self) -> Option<&Arc<str>> {
        self.secret.as_ref()
    }

    /// What each of them says; `None` for one that is not understood.
    pub fn facts(&self, now: SystemTime) -> Vec<Option<Facts>> {
        let all = certificates(self.pem.bytes()).unwrap_or_default();
        all.iter().map(|der| Facts::of(der, now)).collect()
    }

    pub(crate) fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|_| CertificateError::BadCertificate)?;
    if all.is_empty() { Err(CertificateError::NoCertificate) } else { Ok(all) }
}

/// The first 8 bytes of the chain's SHA-256: enough to tell renewals apart.
fn fingerprint(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain && self.key == other.key && self.secret == other.secret
    }
}

impl PartialEq for TrustAnchors {
    fn eq(&self, other: &Self) -> bool {
        self.pem == other.pem && self.secret == other.secret
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({})", fingerprint(self.chain.bytes()))
    }
}

impl fmt::Debug for TrustAnchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustAnchors({})", fingerprint(self.pem.bytes()))
    }
}

impl Serialize for Certificate {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{self:?}"))
    }
}

impl Serialize for TrustAnchors {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{self:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(name: &str) -> (Sensitive, Sensitive) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let secret = |text: String| Sensitive::new(text.into_bytes());
        (secret(made.cert.pem()), secret(made.signing_key.serialize_pem()))
    }

    #[test]
    fn a_chain_and_its_key_belong_together() {
        let (chain, key) = pem("*.shop.example");
        let (other_chain, other_key) = pem("other.example");
        let made = Certificate::from_pem(chain.clone(), key.clone()).unwrap();
        assert!(made.is_for("a.shop.example") && !made.is_for("shop.example") && !made.is_for("a b"));
        let err = |chain: &Sensitive, key: &Sensitive| Certificate::from_pem(chain.clone(), key.clone()).unwrap_err();
        let text = |text: &str| Sensitive::new(text.as_bytes().to_vec());
        assert_eq!(err(&chain, &other_key), CertificateError::Mismatch);
        assert_eq!(err(&text("hello"), &key), CertificateError::NoCertificate);
        assert_eq!(err(&key, &key), CertificateError::NoCertificate);
        assert_eq!(err(&chain, &chain), CertificateError::NoKey);
        let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(err(&text(junk), &key), CertificateError::BadCertificate);
        assert_eq!(Certificate::from_pem(chain.clone(), key).unwrap(), made);
        assert_ne!(Certificate::from_pem(other_chain, other_key).unwrap(), made);
        assert_eq!(TrustAnchors::from_pem(chain.clone()).unwrap(), TrustAnchors::from_pem(chain).unwrap());
        assert!(TrustAnchors::from_pem(text("")).is_err());
        assert!(format!("{made:?}").starts_with("Certificate(") && format!("{made:?}").len() == 29);
    }
}
