//! `mesh-bench backend`: the endpoint behind every proxy under test. A request says how many replies of what length it
//! wants; each reply names the backend, so that the load generator can count shares. A second port echoes bytes.

use super::engine::{Conn, LISTENER, Poller};
use super::wire::{App, Body, H2, message_head};
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

#[derive(clap::Args)]
pub(super) struct Args {
    /// gRPC here
    #[arg(long)]
    listen: SocketAddr,
    /// Opaque TCP echo here
    #[arg(long)]
    echo: Option<SocketAddr>,
    /// The number that replies carry
    #[arg(long)]
    tag: u32,
}

/// Serves until killed.
pub(super) fn run(args: &Args) -> Result<()> {
    if let Some(address) = args.echo {
        let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        thread::spawn(move || echo(&listener));
    }
    let listener = TcpListener::bind(args.listen).with_context(|| format!("cannot listen on {}", args.listen))?;
    let mut poller = Poller::new()?;
    poller.listen(&listener)?;
    super::announce("ready")?;
    let (mut conns, mut next) = (HashMap::new(), 0);
    let (mut ready, mut buffer) = (Vec::new(), Vec::new());
    loop {
        poller.wait(None, &mut ready)?;
        for token in ready.drain(..) {
            if token == LISTENER {
                while let Ok((socket, _)) = listener.accept() {
                    poller.add(&socket, next)?;
                    let app = Answers { tag: args.tag, wanted: HashMap::new() };
                    conns.insert(next, (Conn::new(socket, H2::server()), app));
                    next += 1;
                }
                continue;
            }
            let Some((conn, app)) = conns.get_mut(&token) else { continue };
            conn.turn(&mut buffer, app);
            if conn.closed {
                conns.remove(&token);
            }
        }
    }
}

/// What the streams of one connection asked for, as far as it is known.
struct Answers {
    tag: u32,
    /// First bytes of each request's message that is still coming.
    wanted: HashMap<u32, (usize, [u8; 16])>,
}

impl App for Answers {
    fn ready(&mut self, _: &mut H2) {}

    fn headers(&mut self, h2: &mut H2, stream: u32, end: bool) {
        if end {
            self.answer(h2, stream, 128, 1);
        }
    }

    fn data(&mut self, h2: &mut H2, stream: u32, bytes: &[u8], end: bool) {
        let mut head = [0; 16];
        let mut have = 0;
        if !self.wanted.is_empty()
            && let Some(earlier) = self.wanted.remove(&stream)
        {
            (have, head) = earlier;
        }
        let take = bytes.len().min(16 - have);
        head[have..have + take].copy_from_slice(&bytes[..take]);
        have += take;
        if !end {
            self.wanted.insert(stream, (have, head));
            return;
        }
        let reply_len = u32::from_be_bytes([head[9], head[10], head[11], head[12]]);
        let replies = u16::from_be_bytes([head[13], head[14]]);
        self.answer(h2, stream, reply_len as usize, u64::from(replies));
    }

    fn reset(&mut self, _: &mut H2, stream: u32) {
        self.wanted.remove(&stream);
    }
}

impl Answers {
    fn answer(&self, h2: &mut H2, stream: u32, reply_len: usize, replies: u64) {
        let message_len = reply_len.max(11) + 5;
        h2.response(stream);
        let head = message_head(message_len, self.tag, 0, 0);
        h2.send(stream, Body { head, message_len, repeats: replies.max(1), trailers: true });
    }
}

/// A thread per connection: few connections, and their cost is not the proxy's.
fn echo(listener: &TcpListener) {
    for socket in listener.incoming().flatten() {
        thread::spawn(move || echo_one(&socket));
    }
}

fn echo_one(mut socket: &TcpStream) {
    let mut buffer = vec![0; 256 * 1024];
    if socket.set_nodelay(true).is_err() {
        return;
    }
    while let Ok(n) = socket.read(&mut buffer) {
        if n == 0 || socket.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}
