//! TLS at gateways: the ClientHello's name before the handshake, certificates by name, client certificates.
//!
//! Place in the path: between `accept` and `detect`, on ports of gateways only. Invariant: what was read of a
//! ClientHello stays in the caller's buffer, so that it can be replayed to the handshake or to an endpoint.

use crate::config::resource::Sensitive;
use crate::identity::{Certificate, CertificateError, TrustAnchors, provider};
use crate::snapshot::gateway::{ClientCertificates, ServerTls, TlsFiles, TlsVersion};
use bytes::BytesMut;
use rustc_hash::FxHashMap;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{Acceptor, ClientHello, NoClientAuth, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_rustls::TlsAcceptor;
pub use tokio_rustls::server::TlsStream;

/// Longest ClientHello: post-quantum key shares take some KiB, TLS allows 64.
const LONGEST_HELLO: usize = 64 << 10;
/// How often files with certificates are looked at.
const RECHECK: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("no usable certificate is configured")]
    NoCertificate,
    #[error("client certificates are asked for, but nobody is believed")]
    NoAnchors,
    #[error("{path}: {source}")]
    File { path: String, source: io::Error },
    #[error("certificate files: {0}")]
    Certificate(#[from] CertificateError),
    #[error("{0}")]
    Rustls(#[from] rustls::Error),
}

/// Reads until the ClientHello is whole; `first` holds what was read, before and now. Returns the server's name, lower
/// case, if the client gave one (RFC 6066 §3).
///
/// # Errors
/// The socket's own; `InvalidData` where it is no ClientHello, `UnexpectedEof` where it ended before.
pub async fn hello<R: AsyncRead + Unpin>(io: &mut R, first: &mut BytesMut) -> io::Result<Option<Arc<str>>> {
    let invalid = |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let mut acceptor = Acceptor::default();
    let mut seen = 0;
    loop {
        if first.len() == seen {
            first.reserve(1024);
            if io.read_buf(first).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let mut new = first.get(seen..).unwrap_or_default();
        seen = first.len();
        while !new.is_empty() {
            acceptor.read_tls(&mut new)?;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                return Ok(accepted.client_hello().server_name().map(|n| n.to_ascii_lowercase().into()));
            }
            Ok(None) if first.len() < LONGEST_HELLO => {}
            Ok(None) => return Err(invalid(&"ClientHello is too long")),
            Err((error, _)) => return Err(invalid(&error)),
        }
    }
}

/// Configurations made of what the snapshot says, shared by all workers so that sessions resume on any of them.
#[derive(Debug, Default)]
pub struct TlsConfigs {
    made: Mutex<FxHashMap<(usize, bool), Made>>,
}

#[derive(Debug)]
struct Made {
    /// Keeps the address, which is the key, from being used again.
    of: Arc<ServerTls>,
    config: Arc<ServerConfig>,
    files: Option<Files>,
}

#[derive(Debug)]
struct Files {
    checked: Instant,
    changed: Vec<Option<SystemTime>>,
}

impl TlsConfigs {
    /// The handshake (server side); `http`: HTTP is spoken inside, so h2 is offered.
    ///
    /// # Errors
    /// Nothing can be proven with what is configured, or the handshake fails.
    pub async fn terminate<S>(&self, tls: &Arc<ServerTls>, http: bool, io: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.config(tls, http).map_err(io::Error::other)?;
        TlsAcceptor::from(config).accept(io).await
    }

    /// # Errors
    /// As [`Self::terminate`].
    pub fn config(&self, tls: &Arc<ServerTls>, http: bool) -> Result<Arc<ServerConfig>, TlsError> {
        let key = (Arc::as_ptr(tls).addr(), http);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made.get_mut(&key)
            && known.is_fresh()
        {
            return Ok(Arc::clone(&known.config));
        }
        // A snapshot that is gone leaves its configurations to us alone.
        made.retain(|_, known| Arc::strong_count(&known.of) > 1);
        let config = Arc::new(make(tls, http)?);
        let files = tls.files.as_ref().map(|files| Files { checked: Instant::now(), changed: changed(files) });
        made.insert(key, Made { of: Arc::clone(tls), config: Arc::clone(&config), files });
        Ok(config)
    }
}

impl Made {
    /// Whether its files, if any, are the ones it was made of.
    fn is_fresh(&mut self) -> bool {
        let (Some(known), Some(files)) = (&mut self.files, &self.of.files) else { return true };
        if known.checked.elapsed() < RECHECK {
            return true;
        }
        known.checked = Instant::now();
        known.changed == changed(files)
    }
}

fn changed(files: &TlsFiles) -> Vec<Option<SystemTime>> {
    let paths = [Some(&files.certificate), Some(&files.key), files.ca.as_ref()];
    paths.into_iter().flatten().map(|path| path.metadata().and_then(|meta| meta.modified()).ok()).collect()
}

fn make(tls: &ServerTls, http: bool) -> Result<ServerConfig, TlsError> {
    let mut certificates = tls.certificates.clone();
    if let Some(files) = &tls.files {
        certificates.push(Arc::new(Certificate::from_pem(read(&files.certificate)?, read(&files.key)?)?));
    }
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate);
    }
    let versions: Vec<&SupportedProtocolVersion> =
        [(TlsVersion::V1_3, &rustls::version::TLS13), (TlsVersion::V1_2, &rustls::version::TLS12)]
            .into_iter()
            .filter(|(version, _)| (tls.min..=tls.max).contains(version))
            .map(|(_, version)| version)
            .collect();
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&versions)?
        .with_client_cert_verifier(verifier(tls)?)
        .with_cert_resolver(Arc::new(ByName(certificates)));
    if http {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    Ok(config)
}

fn verifier(tls: &ServerTls) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let (anchors, required) = match &tls.clients {
        ClientCertificates::None => return Ok(Arc::new(NoClientAuth)),
        ClientCertificates::Optional(anchors) => (anchors, false),
        ClientCertificates::Required(anchors) => (anchors, true),
    };
    let anchors = match (anchors, tls.files.as_ref().and_then(|files| files.ca.as_ref())) {
        (Some(anchors), _) => Arc::clone(anchors),
        (None, Some(path)) => Arc::new(TrustAnchors::from_pem(read(path)?)?),
        (None, None) => return Err(TlsError::NoAnchors),
    };
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(anchors.roots()), Arc::clone(provider()));
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|_| TlsError::NoAnchors)
}

fn read(path: &Path) -> Result<Sensitive, TlsError> {
    let file = |source| TlsError::File { path: path.display().to_string(), source };
    std::fs::read(path).map(Sensitive::new).map_err(file)
}

/// The first certificate that bears the name and that the client's algorithms can verify, else the first of those.
#[derive(Debug)]
struct ByName(Vec<Arc<Certificate>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let verifiable = |c: &&Arc<Certificate>| c.certified().key.choose_scheme(hello.signature_schemes()).is_some();
        let named = |c: &&Arc<Certificate>| hello.server_name().is_none_or(|name| c.is_for(name));
        let mut usable = self.0.iter().filter(verifiable);
        let best = usable.clone().find(named).or_else(|| usable.next());
        best.map(|certificate| Arc::clone(certificate.certified()))
    }
}

#[cfg(test)]
mod tests;
