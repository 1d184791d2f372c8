//! Certificates: what the agent proves itself and its gateways with, and whom it believes.
//!
//! Invariant: a value of these types has been checked (well-formed, key and certificate belong together), so that the
//! data path cannot meet a bad one; keys are never printed.

mod certificate;
mod facts;

pub use certificate::{Certificate, CertificateError, TrustAnchors};
pub use facts::{Facts, Standing};

use rustls::crypto::CryptoProvider;
use std::sync::{Arc, LazyLock};

/// The one cryptography provider of the agent.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    &PROVIDER
}
