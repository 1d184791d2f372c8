//! One thread, one epoll, many sockets: the loop that load generator and backend run on.
//!
//! Not tokio: its timer's millisecond would be in every fixed-rate latency, and its bookkeeping in every call.

use super::wire::{App, H2};
use anyhow::{Context, Result};
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

const READ: usize = 256 * 1024;
/// The token of the listener, if there is one.
pub(super) const LISTENER: u64 = u64::MAX;

pub(super) struct Poller {
    fd: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poller {
    pub(super) fn new() -> Result<Self> {
        let fd = epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll_create1")?;
        Ok(Self { fd, events: Vec::with_capacity(1024) })
    }

    pub(super) fn listen(&self, listener: &TcpListener) -> Result<()> {
        listener.set_nonblocking(true)?;
        epoll::add(&self.fd, listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        Ok(())
    }

    pub(super) fn add(&self, socket: &TcpStream, token: u64) -> Result<()> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        // Edge-triggered with both directions: no epoll_ctl on the way of a call.
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.fd, socket, epoll::EventData::new_u64(token), flags)?;
        Ok(())
    }

    /// Tokens of the sockets that can move. `None` waits without end.
    pub(super) fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<u64>) -> Result<()> {
        let timeout = timeout.map(|t| Timespec { tv_sec: t.as_secs() as i64, tv_nsec: i64::from(t.subsec_nanos()) });
        self.events.clear();
        ready.clear();
        match epoll::wait(&self.fd, rustix::buffer::spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) => ready.extend(self.events.iter().map(|e| e.data.u64())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("epoll_wait"),
        }
        Ok(())
    }
}

/// A socket that speaks the least HTTP/2.
pub(super) struct Conn {
    pub(super) h2: H2,
    socket: TcpStream,
    pub(super) closed: bool,
}

impl Conn {
    pub(super) fn new(socket: TcpStream, h2: H2) -> Self {
        Self { h2, socket, closed: false }
    }

    /// Reads until the socket has no more, answers, writes until the socket takes no more.
    pub(super) fn turn(&mut self, buffer: &mut Vec<u8>, app: &mut impl App) {
        buffer.resize(READ, 0);
        loop {
            match self.socket.read(buffer) {
                Ok(0) => {
                    self.closed = true;
                    break;
                }
                Ok(n) => {
                    self.h2.receive(&buffer[..n], app);
                    // A short read emptied the socket; the next edge tells of more.
                    if n < READ {
                        break;
                    }
                    self.flush();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.closed = true;
                    break;
                }
            }
        }
        if self.h2.broken.is_some() {
            self.closed = true;
        }
        self.flush();
    }

    /// Writes `out` and whatever flow control lets follow.
    pub(super) fn flush(&mut self) {
        loop {
            if self.h2.out.is_empty() {
                if !self.h2.has_more() {
                    return;
                }
                self.h2.refill();
                if self.h2.out.is_empty() {
                    return;
                }
            }
            match self.socket.write(&self.h2.out) {
                Ok(n) if n == self.h2.out.len() => self.h2.out.clear(),
                Ok(n) => drop(self.h2.out.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.closed = true;
                    return;
                }
            }
        }
    }
}
