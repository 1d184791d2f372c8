//! The privileged seam: everything that needs another network namespace, behind messages and file descriptors.
//!
//! Place in the path: `listen` gets its sockets from here, `connect` its upstream sockets (opened in the source pod's
//! namespace so that its address stays). Invariant: callers hold only a channel; the thread alone changes namespaces,
//! so that it can become a process of its own.

use super::finder::{Finder, HANDED};
use super::sys;
use crate::snapshot::NetnsPlace;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};
use std::fmt;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use tokio::sync::oneshot;

/// Handle on the keeper thread, which ends with its last handle.
#[derive(Clone, Debug)]
pub struct Keeper {
    requests: mpsc::Sender<Request>,
}

/// A network namespace as the kernel programs know it; unique since boot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NetnsCookie(pub u64);

/// An open network namespace. Holding it keeps the namespace alive: drop it when the pod goes.
#[derive(Clone, Debug)]
pub struct Netns {
    file: Arc<File>,
    cookie: NetnsCookie,
    path: Arc<Path>,
    inode: u64,
}

/// The agent's listeners in one pod.
#[derive(Debug)]
pub struct PodListeners {
    pub netns: Netns,
    /// Bound, listening, non-blocking; `shards` of each address (`SO_REUSEPORT`), in order of shard.
    pub v4: Vec<TcpListener>,
    /// Empty where the pod has no IPv6; `v6_missing` says why.
    pub v6: Vec<TcpListener>,
    pub v6_missing: Option<io::Error>,
}

/// Address family of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Family {
    V4,
    V6,
}

#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    #[error("cannot open the network namespace of {place}: {source}")]
    Open { place: NetnsPlace, source: io::Error },
    #[error("cannot enter network namespace {path}: {source} (CAP_SYS_ADMIN is needed)")]
    Enter { path: PathBuf, source: io::Error },
    #[error("cannot listen on {addr} in {path}: {source}")]
    Listen { addr: SocketAddr, path: PathBuf, source: io::Error },
    #[error("cannot open a socket in {path}: {source}")]
    Socket { path: PathBuf, source: io::Error },
    #[error("the keeper thread is gone")]
    Gone,
}

impl Keeper {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let (requests, inbox) = mpsc::channel();
        thread::Builder::new().name("keeper".into()).spawn(move || serve(&inbox))?;
        Ok(Self { requests })
    }

    /// Opens a pod's namespace and listens on `127.0.0.1:15001` and `[::1]:15001` in it, `shards` times each, with a
    /// backlog of `backlog` per listener.
    pub async fn open_listeners(
        &self,
        place: &NetnsPlace,
        shards: usize,
        backlog: i32,
    ) -> Result<PodListeners, KeeperError> {
        let place = place.clone();
        self.ask(|reply| Request::Listeners { place, shards: shards.max(1), backlog, reply }).await
    }

    /// Knows a pod by the namespace of a sandbox that is being made, until a process of it is found.
    pub async fn hand_over(&self, uid: &Arc<str>, container: &str, netns: OwnedFd) -> Result<Netns, KeeperError> {
        let (uid, container) = (Arc::clone(uid), container.to_owned());
        self.ask(|reply| Request::HandOver { uid, container, netns: netns.into(), reply }).await
    }

    /// The sandbox of this container goes.
    pub fn forget(&self, container: &str) {
        // Without the thread there is nothing to forget.
        let _ = self.requests.send(Request::Forget { container: container.to_owned() });
    }

    /// Opens a namespace without listening.
    pub async fn open_netns(&self, place: &NetnsPlace) -> Result<Netns, KeeperError> {
        let place = place.clone();
        self.ask(|reply| Request::Netns { place, reply }).await
    }

    /// Listens on every address of the pod: `[::]`, which takes IPv4 too, else `0.0.0.0`.
    pub async fn open_port(&self, netns: &Netns, port: u16, backlog: i32) -> Result<TcpListener, KeeperError> {
        let netns = netns.clone();
        self.ask(|reply| Request::Port { netns, port, backlog, reply }).await
    }

    /// An unconnected, non-blocking TCP socket in the pod's namespace.
    pub async fn open_socket(&self, netns: &Netns, family: Family) -> Result<OwnedFd, KeeperError> {
        let netns = netns.clone();
        self.ask(|reply| Request::Socket { netns, family, reply }).await
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, KeeperError>>) -> Request,
    ) -> Result<T, KeeperError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).map_err(|_| KeeperError::Gone)?;
        answer.await.map_err(|_| KeeperError::Gone)?
    }
}

impl KeeperError {
    /// The namespace is not there: the pod is just starting, or going.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Open { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl Netns {
    pub fn cookie(&self) -> NetnsCookie {
        self.cookie
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path it was opened by leads to it still. Elsewhere it need not be gone: a process may have ended
    /// while the namespace goes on.
    pub fn is_in_place(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode)
    }

    pub fn is(&self, other: &Self) -> bool {
        self.inode == other.inode
    }
}

impl fmt::Display for NetnsCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<&SocketAddr> for Family {
    fn from(addr: &SocketAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

type Reply<T> = oneshot::Sender<Result<T, KeeperError>>;

enum Request {
    Listeners { place: NetnsPlace, shards: usize, backlog: i32, reply: Reply<PodListeners> },
    Netns { place: NetnsPlace, reply: Reply<Netns> },
    HandOver { uid: Arc<str>, container: String, netns: File, reply: Reply<Netns> },
    Forget { container: String },
    Port { netns: Netns, port: u16, backlog: i32, reply: Reply<TcpListener> },
    Socket { netns: Netns, family: Family, reply: Reply<OwnedFd> },
}

/// The thread stays in the namespace it entered last: a socket for the same pod needs no second `setns`.
fn serve(inbox: &mpsc::Receiver<Request>) {
    let mut current = None;
    let mut finder = Finder::default();
    loop {
        // Open namespaces are not kept while nobody asks.
        let next = match finder.is_holding() {
            true => inbox.recv_timeout(HANDED),
            false => inbox.recv().map_err(Into::into),
        };
        finder.expire();
        let request = match next {
            Ok(request) => request,
            Err(mpsc::RecvTimeoutError::Timeout) => continue,
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        };
        // A caller that has gone away does not want its answer.
        match request {
            Request::Listeners { place, shards, backlog, reply } => {
                let _ = reply
                    .send(open(&place, &mut finder, &mut current).and_then(|netns| listeners(netns, shards, backlog)));
            }
            Request::Netns { place, reply } => {
                let _ = reply.send(open(&place, &mut finder, &mut current));
            }
            Request::HandOver { uid, container, netns, reply } => {
                finder.hand_over(&uid, container.clone(), netns);
                let opened = open(&NetnsPlace::Pod(uid), &mut finder, &mut current);
                if opened.is_err() {
                    finder.forget(&container);
                }
                let _ = reply.send(opened);
            }
            Request::Forget { container } => finder.forget(&container),
            Request::Port { netns, port, backlog, reply } => {
                let opened = enter(&netns, &mut current).and_then(|()| every_address(&netns, port, backlog));
                let _ = reply.send(opened);
            }
            Request::Socket { netns, family, reply } => {
                let _ = reply.send(enter(&netns, &mut current).and_then(|()| {
                    tcp_socket(family)
                        .map(OwnedFd::from)
                        .map_err(|source| KeeperError::Socket { path: netns.path.to_path_buf(), source })
                }));
            }
        }
    }
}

fn open(place: &NetnsPlace, finder: &mut Finder, current: &mut Option<NetnsCookie>) -> Result<Netns, KeeperError> {
    let failed = |source| KeeperError::Open { place: place.clone(), source };
    let (path, file) = match place {
        NetnsPlace::Path(path) => (path.clone(), File::open(path).map_err(failed)?),
        NetnsPlace::Pod(uid) => finder.open(uid).map_err(failed)?,
    };
    let inode = file.metadata().map_err(failed)?.ino();
    let entered = |source| KeeperError::Enter { path: path.clone(), source };
    *current = None;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|e| entered(e.into()))?;
    // Any socket of the namespace tells its cookie.
    let cookie = sys::netns_cookie(&tcp_socket(Family::V4).map_err(entered)?).map_err(entered)?;
    *current = Some(NetnsCookie(cookie));
    Ok(Netns { file: Arc::new(file), cookie: NetnsCookie(cookie), path: path.into(), inode })
}

fn enter(netns: &Netns, current: &mut Option<NetnsCookie>) -> Result<(), KeeperError> {
    if *current == Some(netns.cookie) {
        return Ok(());
    }
    *current = None;
    move_into_link_name_space(netns.file.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|e| KeeperError::Enter { path: netns.path.to_path_buf(), source: e.into() })?;
    *current = Some(netns.cookie);
    Ok(())
}

/// The thread is inside `netns`.
fn listeners(netns: Netns, shards: usize, backlog: i32) -> Result<PodListeners, KeeperError> {
    let all = |ip: IpAddr| -> Result<Vec<TcpListener>, (SocketAddr, io::Error)> {
        let addr = SocketAddr::new(ip, mesh_common::AGENT_PORT);
        (0..shards).map(|_| listener(addr, backlog).map_err(|e| (addr, e))).collect()
    };
    let path = netns.path.to_path_buf();
    let v4 = all(Ipv4Addr::LOCALHOST.into()).map_err(|(addr, source)| KeeperError::Listen { addr, path, source })?;
    let (v6, v6_missing) = match all(Ipv6Addr::LOCALHOST.into()) {
        Ok(v6) => (v6, None),
        Err((_, error)) => (Vec::new(), Some(error)),
    };
    Ok(PodListeners { netns, v4, v6, v6_missing })
}

/// The thread is inside `netns`.
fn every_address(netns: &Netns, port: u16, backlog: i32) -> Result<TcpListener, KeeperError> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let only_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let path = || netns.path.to_path_buf();
    bound(both, backlog, false).or_else(|_| bound(only_v4, backlog, false)).map_err(|source| KeeperError::Listen {
        addr: only_v4,
        path: path(),
        source,
    })
}

fn listener(addr: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    bound(addr, backlog, true)
}

fn bound(addr: SocketAddr, backlog: i32, only_v6: bool) -> io::Result<TcpListener> {
    let socket = tcp_socket(Family::from(&addr))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Non-blocking and close-on-exec.
fn tcp_socket(family: Family) -> io::Result<Socket> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
