//! TLS to endpoints, as a DestinationRule's `tls` says (SEMANTICS §5 "TLS (client)").
//!
//! Place in the path: after the TCP connection, before a byte of the client's. Invariant: where TLS is asked for and
//! cannot be had, nothing is sent: no configuration, however broken, becomes plain text.

mod verify;

use super::pool::Wire;
use super::socket::Stream;
use crate::config::resource::Sensitive;
use crate::error::ConnectError;
use crate::identity::{Certificate, TrustAnchors, provider};
use crate::snapshot::policy::{ClientTls, ClientTlsMode};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::ServerName;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use verify::Verifier;

/// How often files with certificates are looked at.
const RECHECK: Duration = Duration::from_secs(1);

/// Who is to be at the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The Service's host: SNI, and the name its certificate must bear, where the rule names none.
    pub host: Arc<str>,
    /// Names that will do instead (ServiceEntry `subjectAltNames`).
    pub subject_alt_names: Vec<Arc<str>>,
}

/// The TLS of one upstream.
#[derive(Debug)]
pub(super) struct Tls {
    rule: Arc<ClientTls>,
    peer: Peer,
    made: Mutex<Option<Made>>,
}

/// Shared by all connections, so that sessions resume.
#[derive(Debug)]
struct Made {
    name: ServerName<'static>,
    plain: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    checked: Instant,
    changed: Vec<Option<SystemTime>>,
}

impl Tls {
    /// `None` where the rule asks for none. `ISTIO_MUTUAL` belongs to the mesh's own identities.
    pub(super) fn new(rule: Option<&Arc<ClientTls>>, peer: &Peer) -> Option<Self> {
        let rule = rule.filter(|rule| matches!(rule.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual))?;
        Some(Self { rule: Arc::clone(rule), peer: peer.clone(), made: Mutex::default() })
    }

    /// The handshake. `wire`: what will be spoken inside, told by ALPN.
    pub(super) async fn connect(&self, stream: TcpStream, wire: Option<Wire>) -> Result<Stream, ConnectError> {
        let failed = |why: String| ConnectError::Tls(why.into());
        let (config, name) = self.config(wire).map_err(failed)?;
        let stream = TlsConnector::from(config).connect(name, stream).await;
        let stream = stream.map_err(|error| failed(error.to_string()))?;
        let agreed = stream.get_ref().1.alpn_protocol();
        match (wire, agreed) {
            (Some(Wire::Http2), Some(other)) if other != b"h2" => Err(failed("the endpoint does not speak h2".into())),
            _ => Ok(Stream::Tls(Box::new(stream))),
        }
    }

    fn config(&self, wire: Option<Wire>) -> Result<(Arc<ClientConfig>, ServerName<'static>), String> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = made.take().and_then(|made| self.still_fresh(made));
        let made = made.insert(fresh.map_or_else(|| self.make(), Ok)?);
        let config = match wire {
            None => &made.plain,
            Some(Wire::Http1) => &made.http1,
            Some(Wire::Http2) => &made.http2,
        };
        Ok((Arc::clone(config), made.name.clone()))
    }

    /// Whether the files, if any, are the ones it was made of.
    fn still_fresh(&self, mut made: Made) -> Option<Made> {
        if made.checked.elapsed() < RECHECK {
            return Some(made);
        }
        made.checked = Instant::now();
        (made.changed == self.changed()).then_some(made)
    }

    fn changed(&self) -> Vec<Option<SystemTime>> {
        let rule = &self.rule;
        let paths = [&rule.ca_certificates, &rule.client_certificate, &rule.private_key];
        let modified = |path: &Arc<str>| Path::new(&**path).metadata().and_then(|meta| meta.modified()).ok();
        paths.into_iter().flatten().map(modified).collect()
    }

    fn make(&self) -> Result<Made, String> {
        // Before the files are read: a change meanwhile is seen at the next look.
        let changed = self.changed();
        let host = self.rule.sni.as_ref().unwrap_or(&self.peer.host);
        let name = ServerName::try_from(host.to_string())
            .map_err(|_| format!("{host:?} is no name to ask for: the DestinationRule needs sni"))?;
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier()?);
        let config = match self.identity()? {
            Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))),
            None => builder.with_no_client_auth(),
        };
        let speaking = |alpn: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
            Arc::new(config)
        };
        let (plain, http1, http2) = (speaking(&[]), speaking(&[b"http/1.1"]), speaking(&[b"h2"]));
        Ok(Made { name, plain, http1, http2, checked: Instant::now(), changed })
    }

    fn verifier(&self) -> Result<Arc<dyn ServerCertVerifier>, String> {
        let rule = &self.rule;
        if rule.insecure_skip_verify {
            return Ok(Arc::new(Verifier::Nobody));
        }
        let roots = match (&rule.credential, &rule.ca_certificates) {
            (Some(name), _) => {
                let anchors = rule.anchors.as_ref().ok_or_else(|| format!("Secret {name} has no usable ca.crt"))?;
                Arc::clone(anchors.roots())
            }
            (None, Some(path)) => {
                let anchors = TrustAnchors::from_pem(read(path)?).map_err(|error| format!("{path}: {error}"))?;
                Arc::clone(anchors.roots())
            }
            (None, None) => system_roots()?,
        };
        let names = [&rule.subject_alt_names, &self.peer.subject_alt_names].into_iter().find(|names| !names.is_empty());
        Ok(Arc::new(Verifier::Names { roots, names: names.cloned().unwrap_or_default() }))
    }

    /// What the client proves itself with (`MUTUAL`).
    fn identity(&self) -> Result<Option<Arc<CertifiedKey>>, String> {
        let rule = &self.rule;
        if rule.mode != ClientTlsMode::Mutual {
            return Ok(None);
        }
        let certificate = match (&rule.credential, &rule.client_certificate, &rule.private_key) {
            (Some(name), ..) => {
                rule.identity.clone().ok_or_else(|| format!("Secret {name} has no usable certificate"))?
            }
            (None, Some(chain), Some(key)) => {
                let certificate = Certificate::from_pem(read(chain)?, read(key)?);
                Arc::new(certificate.map_err(|error| format!("{chain}: {error}"))?)
            }
            (None, ..) => return Err("MUTUAL without a certificate of the client".into()),
        };
        Ok(Some(Arc::clone(certificate.certified())))
    }
}

fn read(path: &Arc<str>) -> Result<Sensitive, String> {
    std::fs::read(&**path).map(Sensitive::new).map_err(|error| format!("{path}: {error}"))
}

/// Whom the node believes; read once.
fn system_roots() -> Result<Arc<RootCertStore>, String> {
    static ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    if ROOTS.is_empty() {
        return Err("the node has no trusted certificates, and the DestinationRule no caCertificates".into());
    }
    Ok(Arc::clone(&ROOTS))
}
