//! What must work over a redirected connection as it does over TCP.

use super::super::Counters;
use mesh_common::Reason;
use rustix::net::{RecvFlags, recv};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

/// A documentation address (RFC 5737) that nothing routes: only the hook makes it reachable.
pub(super) const VIP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 80);
/// The same as a v4-mapped address.
pub(super) const MAPPED: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201)), 80);

/// How the app spells the destination.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dial {
    V4,
    Mapped,
}

impl Dial {
    fn addr(self) -> SocketAddr {
        match self {
            Self::V4 => VIP,
            Self::Mapped => MAPPED,
        }
    }
}

/// Longer than any of this takes on a loaded machine; a check that waits for it has failed.
const TIMEOUT: Duration = Duration::from_secs(2);

struct Bench {
    listener: TcpListener,
    counters: Counters,
}

type Check = fn(&Bench) -> Result<(), String>;

/// What held, and what did not but may.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) passed: Vec<&'static str>,
    pub(super) limits: Vec<String>,
}

/// Without these no flow may be redirected.
const REQUIRED: [(&str, Check); 7] = [
    ("echo", |b| b.echo(Dial::V4)),
    ("v4-mapped", |b| b.echo(Dial::Mapped)),
    ("half-close", Bench::half_close),
    ("PEEK", Bench::peek),
    ("FIONREAD", Bench::fionread),
    ("large writes", Bench::large),
    ("RST", Bench::reset),
];

/// Without these only declared HTTP/2 may be.
const OPTIONAL: [(&str, Check); 1] = [("splice", Bench::splice)];

/// Runs every check; the first failure of a required one ends it.
pub(super) fn all(listener: TcpListener, counters: Counters) -> Result<Checked, String> {
    let bench = Bench { listener, counters };
    let mut checked = Checked::default();
    for (name, check) in REQUIRED {
        check(&bench).map_err(|why| format!("self-test of {name} failed: {why}"))?;
        checked.passed.push(name);
    }
    for (name, check) in OPTIONAL {
        match check(&bench) {
            Ok(()) => checked.passed.push(name),
            Err(why) => checked.limits.push(format!("self-test of {name} failed: {why}")),
        }
    }
    Ok(checked)
}

impl Bench {
    /// An app's and the agent's end of one captured connection.
    fn pair(&self, dial: Dial) -> Result<(TcpStream, TcpStream), String> {
        let app = TcpStream::connect_timeout(&dial.addr(), TIMEOUT).map_err(|e| format!("connect: {e}"))?;
        let (agent, _) = self.listener.accept().map_err(|e| format!("accept: {e}"))?;
        for end in [&app, &agent] {
            end.set_read_timeout(Some(TIMEOUT)).map_err(text)?;
            end.set_write_timeout(Some(TIMEOUT)).map_err(text)?;
        }
        Ok((app, agent))
    }

    fn echo(&self, dial: Dial) -> Result<(), String> {
        let before = self.counters.get(Reason::Redirected);
        let (mut app, mut agent) = self.pair(dial)?;
        for size in [1, 1000, 65_536] {
            let sent: Vec<u8> = (0..size).map(|i| i as u8).collect();
            pass(&mut app, &mut agent, &sent)?;
            pass(&mut agent, &mut app, &sent)?;
        }
        if self.counters.get(Reason::Redirected) < before + 6 {
            return Err("messages are not redirected".into());
        }
        Ok(())
    }

    fn half_close(&self) -> Result<(), String> {
        let (mut app, mut agent) = self.pair(Dial::V4)?;
        app.write_all(b"request").map_err(text)?;
        app.shutdown(Shutdown::Write).map_err(text)?;
        expect("the agent reads", &to_end(&mut agent)?, b"request")?;
        agent.write_all(b"answer after the client's FIN").map_err(text)?;
        drop(agent);
        expect("the app reads", &to_end(&mut app)?, b"answer after the client's FIN")
    }

    fn peek(&self) -> Result<(), String> {
        let (mut app, mut agent) = self.pair(Dial::V4)?;
        agent.write_all(b"peeked").map_err(text)?;
        let mut seen = [0; 6];
        let (_, length) = recv(&app, &mut seen, RecvFlags::PEEK).map_err(text)?;
        expect("PEEK sees", seen.get(..length).unwrap_or_default(), b"peeked")?;
        let mut read = [0; 6];
        app.read_exact(&mut read).map_err(text)?;
        expect("read after PEEK gives", &read, b"peeked")
    }

    /// nginx stalls where the kernel says 0 (cilium#19304).
    fn fionread(&self) -> Result<(), String> {
        let (app, mut agent) = self.pair(Dial::V4)?;
        agent.write_all(&[7; 100]).map_err(text)?;
        readable(&app)?;
        match rustix::io::ioctl_fionread(&app).map_err(text)? {
            100 => Ok(()),
            other => Err(format!("FIONREAD says {other} of 100 bytes")),
        }
    }

    /// A reader that splices from the socket (dae#518).
    fn splice(&self) -> Result<(), String> {
        let (app, mut agent) = self.pair(Dial::V4)?;
        agent.write_all(&[7; 100]).map_err(text)?;
        readable(&app)?;
        let (out, into) = rustix::pipe::pipe().map_err(text)?;
        let moved = rustix::pipe::splice(&app, None, &into, None, 4096, rustix::pipe::SpliceFlags::NONBLOCK);
        match moved {
            Ok(100) => {
                let mut read = [0; 100];
                rustix::io::read(&out, &mut read).map_err(text)?;
                expect("splice gives", &read, &[7; 100])
            }
            Ok(other) => Err(format!("splice moved {other} of 100 bytes")),
            Err(error) => Err(format!("splice: {error}")),
        }
    }

    /// More than the bound: redirected first, TCP later, in order.
    fn large(&self) -> Result<(), String> {
        let (app, mut agent) = self.pair(Dial::V4)?;
        let sent: Vec<u8> = (0..4_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let wanted = sent.clone();
        let writer = thread::spawn(move || {
            let mut app = app;
            // The pause lets the bound be reached before anything is read.
            app.write_all(&sent).and_then(|()| app.shutdown(Shutdown::Write))
        });
        thread::sleep(Duration::from_millis(5));
        let got = to_end(&mut agent)?;
        writer.join().map_err(|_| "the writer panicked".to_owned())?.map_err(text)?;
        if got == wanted {
            return Ok(());
        }
        let first = got.iter().zip(&wanted).position(|(a, b)| a != b);
        Err(format!("{} of {} bytes arrived, first difference at {first:?}", got.len(), wanted.len()))
    }

    fn reset(&self) -> Result<(), String> {
        let (mut app, agent) = self.pair(Dial::V4)?;
        app.write_all(b"x").map_err(text)?;
        socket2::SockRef::from(&agent).set_linger(Some(Duration::ZERO)).map_err(text)?;
        drop(agent);
        match app.read(&mut [0; 16]) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            other => Err(format!("after RST the app reads {other:?}")),
        }
    }
}

fn pass(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) -> Result<(), String> {
    from.write_all(bytes).map_err(|e| format!("write of {} bytes: {e}", bytes.len()))?;
    let mut got = vec![0; bytes.len()];
    to.read_exact(&mut got).map_err(|e| format!("read of {} bytes: {e}", bytes.len()))?;
    expect("the peer reads", &got, bytes)
}

fn to_end(stream: &mut TcpStream) -> Result<Vec<u8>, String> {
    let mut all = Vec::new();
    let mut chunk = vec![0; 65_536];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(all),
            Ok(length) => all.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            // Blocking readers can see a stray EAGAIN at half-close; it is followed by the rest or by EOF.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && poll(stream, Duration::from_millis(200)) => {}
            Err(error) => return Err(format!("read to the end, after {} bytes: {error}", all.len())),
        }
    }
}

fn readable(stream: &TcpStream) -> Result<(), String> {
    if poll(stream, TIMEOUT) { Ok(()) } else { Err("poll does not report the bytes".into()) }
}

fn poll(stream: &TcpStream, timeout: Duration) -> bool {
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(stream.as_fd(), rustix::event::PollFlags::IN)];
    let timeout = rustix::time::Timespec::try_from(timeout).ok();
    rustix::event::poll(&mut fds, timeout.as_ref()).is_ok_and(|ready| ready > 0)
}

fn expect(what: &str, got: &[u8], wanted: &[u8]) -> Result<(), String> {
    if got == wanted {
        Ok(())
    } else {
        Err(format!("{what} {} bytes that differ from the {} sent", got.len(), wanted.len()))
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
