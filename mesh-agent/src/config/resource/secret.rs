//! Secrets with a certificate: `kubernetes.io/tls` (`tls.crt`, `tls.key`, `ca.crt`), or Istio's opaque form (`cert`,
//! `key`, `cacert`).
//!
//! Invariant: what is secret is kept in [`Sensitive`], which prints nothing and is wiped when dropped; all other keys
//! of a Secret are dropped unread, and no error quotes a value.

use serde::Deserialize;
use serde::de::Deserializer;
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Secret {
    /// PEM, base64 in `data`.
    data: Values,
    /// PEM as it is; goes before `data` (Kubernetes API, `Secret.stringData`).
    string_data: Values,
}

/// Bytes that are neither printed nor left behind in memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Sensitive(Arc<Zeroizing<Vec<u8>>>);

/// The values of the keys that we read.
#[derive(Clone, Debug, Default)]
struct Values {
    certificate: Option<Sensitive>,
    key: Option<Sensitive>,
    ca: Option<Sensitive>,
}

/// Why a key of a Secret cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error("it has no {0}")]
    Missing(&'static str),
    #[error("{0} is not base64")]
    NotBase64(&'static str),
}

impl Secret {
    /// `tls.crt` or `cert`: PEM, the server's certificate first.
    ///
    /// # Errors
    /// There is none, or it is not base64.
    pub fn certificate(&self) -> Result<Sensitive, SecretError> {
        self.pick("tls.crt", |values| &values.certificate)
    }

    /// `tls.key` or `key`.
    ///
    /// # Errors
    /// As [`Self::certificate`].
    pub fn key(&self) -> Result<Sensitive, SecretError> {
        self.pick("tls.key", |values| &values.key)
    }

    /// `ca.crt` or `cacert`.
    ///
    /// # Errors
    /// As [`Self::certificate`].
    pub fn ca(&self) -> Result<Sensitive, SecretError> {
        self.pick("ca.crt", |values| &values.ca)
    }

    fn pick(&self, name: &'static str, of: impl Fn(&Values) -> &Option<Sensitive>) -> Result<Sensitive, SecretError> {
        use base64::Engine as _;
        if let Some(plain) = of(&self.string_data) {
            return Ok(plain.clone());
        }
        let encoded = of(&self.data).as_ref().ok_or(SecretError::Missing(name))?;
        // People wrap base64 over several lines.
        let compact =
            Zeroizing::new(encoded.bytes().iter().copied().filter(|b| !b.is_ascii_whitespace()).collect::<Vec<u8>>());
        let decoded = base64::engine::general_purpose::STANDARD.decode(&*compact);
        decoded.map(Sensitive::new).map_err(|_| SecretError::NotBase64(name))
    }
}

impl Sensitive {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Sensitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// By way of an untyped value: serde's own error about a wrong type would quote it.
impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let all = serde_yaml_ng::Value::deserialize(d)?;
        let text = |names: [&str; 2]| {
            let text = names.iter().find_map(|name| all.get(name)?.as_str())?;
            Some(Sensitive::new(text.as_bytes().to_vec()))
        };
        Ok(Self {
            certificate: text(["tls.crt", "cert"]),
            key: text(["tls.key", "key"]),
            ca: text(["ca.crt", "cacert"]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_nothing_is_printed() {
        let secret = |yaml: &str| serde_yaml_ng::from_str::<Secret>(yaml).unwrap();
        let tls = secret("type: kubernetes.io/tls\ndata: {tls.crt: Q0VS\n  VA==, tls.key: S0VZ, other: eA==}");
        assert_eq!(tls.certificate().unwrap().bytes(), b"CERT");
        assert_eq!(tls.key().unwrap().bytes(), b"KEY");
        assert_eq!(tls.ca(), Err(SecretError::Missing("ca.crt")));
        assert!(!format!("{tls:?}{:?}", tls.key()).contains("KEY"));
        assert!(!format!("{tls:?}").contains("S0VZ"));
        let opaque = secret("stringData: {cert: A, cacert: C}\ndata: {cert: Qg==, key: '?'}");
        assert_eq!(opaque.certificate().unwrap().bytes(), b"A", "stringData goes first");
        assert_eq!(opaque.ca().unwrap().bytes(), b"C");
        assert_eq!(opaque.key(), Err(SecretError::NotBase64("tls.key")));
    }

    #[test]
    fn a_wrong_type_is_not_quoted() {
        let odd = serde_yaml_ng::from_str::<Secret>("data: hunter2").unwrap();
        assert_eq!(odd.key(), Err(SecretError::Missing("tls.key")));
        let odd = serde_yaml_ng::from_str::<Secret>("data: {tls.key: [hunter2]}").unwrap();
        assert_eq!(odd.key(), Err(SecretError::Missing("tls.key")));
    }
}
