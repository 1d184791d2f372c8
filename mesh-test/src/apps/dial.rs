//! Opening connections to `host:port`, with an `/etc/hosts` of the app's own and a count of connections opened.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Opens TCP connections. Clones share the names and the count.
#[derive(Debug, Clone, Default)]
pub struct Dialer {
    hosts: Arc<HashMap<String, Vec<IpAddr>>>,
    /// Names that stand for a port of this machine, whatever port is asked for: apps of one test have no pods.
    ports: Arc<HashMap<String, u16>>,
    opened: Arc<AtomicU64>,
    timeout: Option<Duration>,
}

impl Dialer {
    /// Names of `hosts` (a file in the form of `/etc/hosts`) win over the system's.
    ///
    /// # Errors
    /// The file cannot be read, or a line does not begin with an address; the message has file and line.
    pub fn new(hosts: Option<&Path>, timeout: Option<Duration>) -> anyhow::Result<Self> {
        let mut names: HashMap<String, Vec<IpAddr>> = HashMap::new();
        if let Some(path) = hosts {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            for (index, line) in text.lines().enumerate() {
                let mut words = line.split('#').next().unwrap_or("").split_whitespace();
                let Some(address) = words.next() else { continue };
                let address: IpAddr = address
                    .parse()
                    .with_context(|| format!("{}:{}: `{address}` is not an address", path.display(), index + 1))?;
                for name in words {
                    names.entry(name.to_owned()).or_default().push(address);
                }
            }
        }
        Ok(Self { hosts: Arc::new(names), timeout, ..Self::default() })
    }

    #[cfg(test)]
    pub(crate) fn rerouted(ports: impl Iterator<Item = (String, u16)>) -> Self {
        Self { ports: Arc::new(ports.collect()), ..Self::default() }
    }

    /// Connections opened so far.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Connects to `host:port`, trying each address of the host in turn.
    ///
    /// # Errors
    /// No address, or the last address's error; the message names the target.
    pub async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let attempt = self.connect_any(host, port);
        let connected = match self.timeout {
            Some(limit) => tokio::time::timeout(limit, attempt)
                .await
                .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {limit:?}")))),
            None => attempt.await,
        };
        connected.map_err(|error| io::Error::new(error.kind(), format!("cannot connect to {host}:{port}: {error}")))
    }

    async fn connect_any(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let addresses: Vec<SocketAddr> = match self.hosts.get(host) {
            None if self.ports.contains_key(host) => {
                self.ports.get(host).map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).into_iter().collect()
            }
            Some(known) => known.iter().map(|address| SocketAddr::new(*address, port)).collect(),
            None => tokio::net::lookup_host((host, port)).await?.collect(),
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    self.opened.fetch_add(1, Ordering::Relaxed);
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// A tonic channel dials through this.
impl tonic::codegen::Service<http::Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async move {
            let host = uri.host().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the URI has no host"))?;
            dialer.connect(host, uri.port_u16().unwrap_or(80)).await.map(TokioIo::new)
        })
    }
}

/// Splits `host:port`; an IPv6 address stands in brackets.
///
/// # Errors
/// There is no port, or it is no number.
pub fn split_target(target: &str) -> anyhow::Result<(&str, u16)> {
    let (host, port) = target.rsplit_once(':').with_context(|| format!("`{target}` is not host:port"))?;
    let port = port.parse().with_context(|| format!("`{port}` in `{target}` is not a port number"))?;
    anyhow::ensure!(!host.is_empty(), "`{target}` has no host");
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_of_the_hosts_file_is_dialled_and_counted() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let hosts = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(hosts.path(), "# pods\n127.0.0.1 ws002-pingpong ws002-pingpong.demo # a Service\n\n").unwrap();
        let dialer = Dialer::new(Some(hosts.path()), None).unwrap();
        dialer.connect("ws002-pingpong.demo", port).await.unwrap();
        dialer.connect("ws002-pingpong", port).await.unwrap();
        assert_eq!(dialer.opened(), 2);
    }

    #[test]
    fn a_broken_hosts_file_is_named_with_its_line() {
        let hosts = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(hosts.path(), "127.0.0.1 a\nnonsense b\n").unwrap();
        let error = Dialer::new(Some(hosts.path()), None).unwrap_err().to_string();
        assert!(error.contains(":2: `nonsense` is not an address"), "{error}");
    }

    #[test]
    fn targets_split_at_the_last_colon() {
        assert_eq!(split_target("[::1]:80").unwrap(), ("[::1]", 80));
        assert_eq!(split_target("a.b:9000").unwrap(), ("a.b", 9000));
        for wrong in ["a", "a:b", ":80"] {
            assert!(split_target(wrong).is_err(), "{wrong}");
        }
    }
}
