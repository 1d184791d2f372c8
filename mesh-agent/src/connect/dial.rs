//! From an endpoint's address to a connected socket.

use crate::addr::EndpointAddr;
use crate::error::ConnectError;
use crate::settings::Settings;
use crate::snapshot::policy;
use socket2::{SockRef, TcpKeepalive};
use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};

/// Opens an unconnected TCP socket for an endpoint in a pod's network namespace.
pub type OpenSocket = Arc<OpenIn>;

type OpenIn = dyn Fn(EndpointAddr, Carries) -> Pin<Box<dyn Future<Output = io::Result<OwnedFd>> + Send>> + Send + Sync;

/// What a connection will carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// HTTP/2 from both sides, which has a flow control of its own: the kernel may take them past TCP/IP.
    Http2,
    Any,
}

/// Where sockets are opened.
#[derive(Clone)]
pub enum Dialer {
    /// The agent's own network namespace: explicit listeners.
    Host,
    /// A pod's, through the keeper.
    Pod(OpenSocket),
}

/// A source that may be gone.
pub(super) enum Living {
    Host,
    Pod(Weak<OpenIn>),
}

impl Dialer {
    /// Connects.
    ///
    /// # Errors
    /// What the kernel said, as far as a client can use it; the whole attempt ends after `limit`.
    pub async fn connect(
        &self,
        to: EndpointAddr,
        carries: Carries,
        limit: Duration,
        settings: &Settings,
    ) -> Result<TcpStream, ConnectError> {
        let attempt = async {
            let socket = self.socket(to, carries).await.map_err(|error| ConnectError::Socket(error.kind()))?;
            socket.connect(to.addr()).await.map_err(|error| connect_error(&error))
        };
        let stream = tokio::time::timeout(limit, attempt).await.map_err(|_| ConnectError::Timeout(limit))??;
        tune(&stream, settings.tcp_dead_after);
        Ok(stream)
    }

    /// To ask later whether the source is still there: its listener, or a connection accepted from it.
    pub(super) fn living(&self) -> Living {
        match self {
            Self::Host => Living::Host,
            Self::Pod(open) => Living::Pod(Arc::downgrade(open)),
        }
    }

    async fn socket(&self, to: EndpointAddr, carries: Carries) -> io::Result<TcpSocket> {
        match self {
            Self::Host if to.addr().is_ipv4() => TcpSocket::new_v4(),
            Self::Host => TcpSocket::new_v6(),
            Self::Pod(open) => {
                let fd = open(to, carries).await?;
                let stream = std::net::TcpStream::from(fd);
                stream.set_nonblocking(true)?;
                Ok(TcpSocket::from_std_stream(stream))
            }
        }
    }
}

impl Living {
    pub(super) fn lives(&self) -> bool {
        match self {
            Self::Host => true,
            Self::Pod(open) => open.strong_count() > 0,
        }
    }
}

impl fmt::Debug for Living {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Living({})", self.lives())
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "Host",
            Self::Pod(_) => "Pod",
        })
    }
}

/// No delay for small writes, and an end for connections whose peer vanished without a word.
///
/// A failure to set an option costs only what the option gives.
pub(crate) fn tune(stream: &TcpStream, dead_after: Duration) {
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_user_timeout(Some(dead_after));
    // Three probes within `dead_after`: after 20 s of silence one each 5 s (20 s / 4).
    let keepalive = TcpKeepalive::new().with_time(dead_after).with_interval(dead_after / 4).with_retries(3);
    let _ = socket.set_tcp_keepalive(&keepalive);
}

/// A policy's own keep-alive. What it leaves out is the kernel's default (Istio `tcpKeepalive`).
pub(super) fn keep_alive(stream: &TcpStream, policy: &policy::TcpKeepalive) {
    let mut keepalive = TcpKeepalive::new();
    if let Some(probes) = policy.probes {
        keepalive = keepalive.with_retries(probes);
    }
    if let Some(time) = policy.time {
        keepalive = keepalive.with_time(time);
    }
    if let Some(interval) = policy.interval {
        keepalive = keepalive.with_interval(interval);
    }
    // TCP_USER_TIMEOUT overrides what probes find out (tcp(7)).
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_user_timeout(None);
    let _ = socket.set_tcp_keepalive(&keepalive);
}

fn connect_error(error: &io::Error) -> ConnectError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ConnectError::Refused,
        io::ErrorKind::AddrNotAvailable => ConnectError::Socket(error.kind()),
        kind => ConnectError::Io(kind),
    }
}
