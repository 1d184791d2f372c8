//! Dual-stack listeners, accepted connections that report their end, and the signal that ends an app.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::event::{Event, emit};
use super::pod::Pod;

/// An accepted connection. Reports `Opened` when made and `Closed` when dropped.
#[derive(Debug)]
pub struct Connection {
    pub stream: TcpStream,
    pub local: SocketAddr,
    /// Canonical: a v4-mapped address shows as IPv4.
    pub peer: SocketAddr,
    id: u64,
    pod: Pod,
}

impl Connection {
    fn new(stream: TcpStream, peer: SocketAddr, pod: &Pod) -> io::Result<Self> {
        static IDS: AtomicU64 = AtomicU64::new(1);
        stream.set_nodelay(true)?;
        let local = canonical(stream.local_addr()?);
        let (peer, id) = (canonical(peer), IDS.fetch_add(1, Ordering::Relaxed));
        emit(&Event::Opened { pod: pod.name.to_string(), id, local, peer });
        Ok(Self { stream, local, peer, id, pod: pod.clone() })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        emit(&Event::Closed { pod: self.pod.name.to_string(), id: self.id });
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo { local_addr: Some(self.local), remote_addr: Some(self.peer) }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Tells every part of an app that it is time to leave. Clones see the same moment.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// Sets off a [`Shutdown`]; dropping it does so too.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

impl Trigger {
    /// Ends every app that holds the other half.
    pub fn fire(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// A shutdown that the caller sets off.
    pub fn pair() -> (Trigger, Self) {
        let (sender, receiver) = watch::channel(false);
        (Trigger(sender), Self(receiver))
    }

    /// A shutdown that SIGTERM and SIGINT set off, announced as `Draining` in the name of `pod`.
    ///
    /// # Errors
    /// The handlers cannot be installed.
    pub fn on_signals(pod: &Pod) -> io::Result<Self> {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (trigger, shutdown) = Self::pair();
        let pod = pod.name.to_string();
        tokio::spawn(async move {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            emit(&Event::Draining { pod });
            trigger.fire();
        });
        Ok(shutdown)
    }

    /// Completes when the shutdown was set off.
    pub async fn wait(mut self) {
        // An error means the trigger is gone, which is a shutdown as well.
        let _ = self.0.wait_for(|fired| *fired).await;
    }
}

/// Listens on `[::]:port` for both families; on a machine without IPv6, on `0.0.0.0:port`.
///
/// # Errors
/// The port is taken or not allowed; the message names it.
pub fn bind(port: u16) -> io::Result<TcpListener> {
    let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    bind_to(v6)
        .or_else(|error| match error.raw_os_error() {
            Some(code) if no_ipv6(code) => bind_to(v4),
            _ => Err(error),
        })
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on port {port}: {error}")))
}

/// Accepts until `shutdown`, then closes the listener at once: a connection that nobody will accept must be refused,
/// not left in the backlog. The channel ends after that.
pub fn accept(listener: TcpListener, pod: &Pod, shutdown: Shutdown) -> mpsc::Receiver<Connection> {
    let (sender, receiver) = mpsc::channel(64);
    let pod = pod.clone();
    tokio::spawn(async move {
        let leave = shutdown.wait();
        tokio::pin!(leave);
        loop {
            let accepted = tokio::select! { accepted = listener.accept() => accepted, () = &mut leave => return };
            match accepted.and_then(|(stream, peer)| Connection::new(stream, peer, &pod)) {
                Ok(connection) => {
                    if sender.send(connection).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    let (pod, what) = (pod.name.to_string(), "accept".to_owned());
                    emit(&Event::Failed { pod, what, error: error.to_string() });
                    // Out of descriptors: accepting again at once would only spin.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    });
    receiver
}

/// Binds, and announces the port.
///
/// # Errors
/// As [`bind`].
pub fn announce(pod: &Pod, port_name: &str, protocol: &str, port: u16) -> io::Result<TcpListener> {
    let listener = bind(port)?;
    let address = listener.local_addr()?;
    emit(&Event::Listening {
        pod: pod.name.to_string(),
        port: port_name.to_owned(),
        protocol: protocol.to_owned(),
        address,
    });
    Ok(listener)
}

fn bind_to(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

fn no_ipv6(code: i32) -> bool {
    use rustix::io::Errno;
    [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].iter().any(|errno| errno.raw_os_error() == code)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
