//! The least HTTP/2 that speaks gRPC: what load generator and backend need and not one instruction more.
//!
//! They share one core while the proxy under test has the other, so they must cost far less per call than it does; a
//! full library would measure itself. Neither side decodes header blocks: a call counts as good when all its reply
//! bytes came and trailers ended it. Everything a peer may legally do to the rest is obeyed: SETTINGS, PING, flow
//! control in both directions, RST_STREAM, GOAWAY, padding.
//!
//! Invariant: no IO here. Bytes go in by [`H2::receive`] and come out in [`H2::out`].

use std::collections::{HashMap, VecDeque};

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What we let a peer send before we update its window: per stream and per connection, as gRPC libraries do on a LAN.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// RFC 9113 §6.9.2 and §4.2: what holds before any SETTINGS.
const DEFAULT_WINDOW: i64 = 65_535;
const FRAME: usize = 16_384;
/// Bytes of `zeros` that message bodies are cut from.
const ZEROS: [u8; FRAME] = [0; FRAME];

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// What happens on a connection; load generator and backend each answer in their way.
pub(super) trait App {
    /// The peer's first SETTINGS came: requests may start.
    fn ready(&mut self, h2: &mut H2);
    fn headers(&mut self, h2: &mut H2, stream: u32, end: bool);
    fn data(&mut self, h2: &mut H2, stream: u32, bytes: &[u8], end: bool);
    fn reset(&mut self, h2: &mut H2, stream: u32);
}

/// A message that is being sent: `head` first, then zeros up to the whole length, as often as `repeats` says.
pub(super) struct Body {
    pub(super) head: [u8; 16],
    /// gRPC prefix included.
    pub(super) message_len: usize,
    pub(super) repeats: u64,
    /// `None`: END_STREAM on the last DATA frame; else a header block sent as trailers.
    pub(super) trailers: bool,
}

struct Sending {
    body: Body,
    at: usize,
    window: i64,
    queued: bool,
}

pub(super) struct H2 {
    pub(super) out: Vec<u8>,
    /// The peer's SETTINGS_MAX_CONCURRENT_STREAMS.
    pub(super) max_streams: usize,
    pub(super) goaway: bool,
    pub(super) broken: Option<&'static str>,
    tail: Vec<u8>,
    ready: bool,
    expect_preface: bool,
    indexing: bool,
    indexed_head: bool,
    indexed_trailers: bool,
    window: i64,
    initial_window: i64,
    unacknowledged: u32,
    received: HashMap<u32, u32>,
    sending: HashMap<u32, Sending>,
    queue: VecDeque<u32>,
}

impl H2 {
    pub(super) fn client() -> Self {
        let mut h2 = Self::new(false);
        h2.out.extend_from_slice(PREFACE);
        h2.hello();
        h2
    }

    pub(super) fn server() -> Self {
        let mut h2 = Self::new(true);
        h2.hello();
        h2
    }

    fn new(expect_preface: bool) -> Self {
        Self {
            out: Vec::with_capacity(1 << 16),
            max_streams: usize::MAX,
            goaway: false,
            broken: None,
            tail: Vec::new(),
            ready: false,
            expect_preface,
            indexing: true,
            indexed_head: false,
            indexed_trailers: false,
            window: DEFAULT_WINDOW,
            initial_window: DEFAULT_WINDOW,
            unacknowledged: 0,
            received: HashMap::new(),
            sending: HashMap::new(),
            queue: VecDeque::new(),
        }
    }

    /// Request headers of a gRPC call. Literals with indexing at first, table references from then on, as gRPC
    /// libraries send them (RFC 7541 §6); literals for ever if the peer offers no table.
    pub(super) fn request(&mut self, stream: u32, authority: &str) {
        let fields: [(&[u8], &[u8]); 5] = [
            (&[4], b"/undermesh.bench.v1.Bench/Call"),
            (&[1], authority.as_bytes()),
            (&[31], b"application/grpc"),
            (b"\0te", b"trailers"),
            (&[58], b"mesh-bench"),
        ];
        let mut block = vec![0x83, 0x86]; // :method POST, :scheme http
        if self.indexed_head {
            // The fields above were added in this order, so the first one is the oldest: index 62 is the newest.
            block.extend([0x80 | 66, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62]);
        } else {
            for (name, value) in fields {
                literal(&mut block, name, value, self.indexing);
            }
            self.indexed_head = self.indexing;
        }
        frame(&mut self.out, HEADERS, END_HEADERS, stream, &block);
    }

    /// Response headers `:status 200`, `content-type: application/grpc`.
    pub(super) fn response(&mut self, stream: u32) {
        let mut block = vec![0x88];
        match (self.indexed_head, self.indexed_trailers) {
            (true, true) => block.push(0x80 | 63),
            (true, false) => block.push(0x80 | 62),
            (false, _) => {
                literal(&mut block, &[31], b"application/grpc", self.indexing);
                self.indexed_head = self.indexing;
            }
        }
        frame(&mut self.out, HEADERS, END_HEADERS, stream, &block);
    }

    /// Sends `body` as flow control allows, now and on later window updates.
    pub(super) fn send(&mut self, stream: u32, body: Body) {
        self.sending.insert(stream, Sending { body, at: 0, window: self.initial_window, queued: true });
        self.queue.push_back(stream);
        self.pump();
    }

    /// Takes what the socket gave. Answers land in `out`.
    pub(super) fn receive(&mut self, chunk: &[u8], app: &mut impl App) {
        if self.tail.is_empty() {
            let used = self.parse(chunk, app);
            self.tail.extend_from_slice(&chunk[used..]);
        } else {
            let mut tail = std::mem::take(&mut self.tail);
            tail.extend_from_slice(chunk);
            let used = self.parse(&tail, app);
            tail.drain(..used);
            self.tail = tail;
        }
        self.pump();
    }

    pub(super) fn forget(&mut self, stream: u32) {
        self.received.remove(&stream);
        self.sending.remove(&stream);
    }

    fn hello(&mut self) {
        // SETTINGS_INITIAL_WINDOW_SIZE (4); a client also refuses pushes by never decoding one (2 = 0).
        let mut settings = vec![0, 4];
        settings.extend(STREAM_WINDOW.to_be_bytes());
        if !self.expect_preface {
            settings.extend([0, 2, 0, 0, 0, 0]);
        }
        frame(&mut self.out, SETTINGS, 0, 0, &settings);
        let grow = CONNECTION_WINDOW - 65_535;
        frame(&mut self.out, WINDOW_UPDATE, 0, 0, &grow.to_be_bytes());
    }

    fn parse(&mut self, bytes: &[u8], app: &mut impl App) -> usize {
        let mut at = 0;
        if self.expect_preface {
            if bytes.len() < PREFACE.len() {
                return 0;
            }
            if &bytes[..PREFACE.len()] != PREFACE {
                self.broken = Some("no HTTP/2 preface");
            }
            self.expect_preface = false;
            at = PREFACE.len();
        }
        while bytes.len() - at >= 9 && self.broken.is_none() {
            let head = &bytes[at..at + 9];
            let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            if len > FRAME {
                self.broken = Some("frame longer than SETTINGS_MAX_FRAME_SIZE");
                break;
            }
            if bytes.len() - at < 9 + len {
                break;
            }
            let stream = word(&head[5..]) & 0x7fff_ffff;
            self.frame(head[3], head[4], stream, &bytes[at + 9..at + 9 + len], app);
            at += 9 + len;
        }
        at
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8], app: &mut impl App) {
        match kind {
            DATA => {
                let end = flags & END_STREAM != 0;
                self.take_credit(stream, payload.len(), end);
                let pad = if flags & PADDED != 0 { payload.first().map_or(0, |p| usize::from(*p)) } else { 0 };
                let start = usize::from(flags & PADDED != 0).min(payload.len());
                let stop = payload.len().saturating_sub(pad).max(start);
                app.data(self, stream, &payload[start..stop], end);
            }
            HEADERS => app.headers(self, stream, flags & END_STREAM != 0),
            RST_STREAM => {
                self.forget(stream);
                app.reset(self, stream);
            }
            SETTINGS if flags & ACK == 0 => {
                self.settings(payload);
                frame(&mut self.out, SETTINGS, ACK, 0, &[]);
                if !std::mem::replace(&mut self.ready, true) {
                    app.ready(self);
                }
            }
            PING if flags & ACK == 0 => frame(&mut self.out, PING, ACK, 0, payload),
            GOAWAY => self.goaway = true,
            WINDOW_UPDATE if payload.len() == 4 => self.credit(stream, i64::from(word(payload) & 0x7fff_ffff)),
            _ => {}
        }
    }

    fn settings(&mut self, payload: &[u8]) {
        for entry in payload.chunks_exact(6) {
            let value = word(&entry[2..]);
            match entry[1] {
                // A table smaller than the default: do without (RFC 7541 §4.2), before the first block was sent.
                1 if value < 4_096 => self.indexing = false,
                3 => self.max_streams = value as usize,
                4 => {
                    let change = i64::from(value) - self.initial_window;
                    self.initial_window = i64::from(value);
                    for (id, sending) in &mut self.sending {
                        sending.window += change;
                        if !std::mem::replace(&mut sending.queued, true) {
                            self.queue.push_back(*id);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn credit(&mut self, stream: u32, bytes: i64) {
        if stream == 0 {
            self.window += bytes;
        } else if let Some(sending) = self.sending.get_mut(&stream) {
            sending.window += bytes;
            if !std::mem::replace(&mut sending.queued, true) {
                self.queue.push_back(stream);
            }
        }
    }

    /// Gives received bytes back to the peer's windows once half of one is used.
    fn take_credit(&mut self, stream: u32, len: usize, end: bool) {
        let len = len as u32;
        self.unacknowledged += len;
        if self.unacknowledged >= CONNECTION_WINDOW / 2 {
            frame(&mut self.out, WINDOW_UPDATE, 0, 0, &self.unacknowledged.to_be_bytes());
            self.unacknowledged = 0;
        }
        if end {
            self.received.remove(&stream);
            return;
        }
        let got = self.received.entry(stream).or_default();
        *got += len;
        if *got >= STREAM_WINDOW / 2 {
            frame(&mut self.out, WINDOW_UPDATE, 0, stream, &got.to_be_bytes());
            *got = 0;
        }
    }

    /// Writes what both windows allow, streams in turn, one DATA frame per message as gRPC servers do.
    fn pump(&mut self) {
        // Enough for the socket to chew on; the rest follows when it is writable again.
        const ENOUGH: usize = 256 * 1024;
        while self.out.len() < ENOUGH && self.window > 0 {
            let Some(id) = self.queue.pop_front() else { break };
            let Some(sending) = self.sending.get_mut(&id) else { continue };
            let left = sending.body.message_len - sending.at;
            let allowed = sending.window.min(self.window).max(0) as usize;
            let len = left.min(allowed).min(FRAME);
            if len == 0 && left > 0 {
                sending.queued = false;
                continue;
            }
            let last = len == left && sending.body.repeats <= 1;
            let flags = if last && !sending.body.trailers { END_STREAM } else { 0 };
            frame_head(&mut self.out, len, DATA, flags, id);
            let from_head = sending.body.head.len().min(sending.body.message_len).saturating_sub(sending.at).min(len);
            self.out.extend_from_slice(&sending.body.head[sending.at.min(16)..sending.at.min(16) + from_head]);
            self.out.extend_from_slice(&ZEROS[..len - from_head]);
            sending.at += len;
            sending.window -= len as i64;
            self.window -= len as i64;
            if last {
                if sending.body.trailers {
                    self.trailers(id);
                }
                self.sending.remove(&id);
                continue;
            }
            if sending.at == sending.body.message_len {
                sending.at = 0;
                sending.body.repeats -= 1;
            }
            self.queue.push_back(id);
        }
    }

    pub(super) fn has_more(&self) -> bool {
        self.window > 0 && !self.queue.is_empty()
    }

    /// Fills `out` again after the socket took it.
    pub(super) fn refill(&mut self) {
        self.pump();
    }

    /// `grpc-status: 0`.
    fn trailers(&mut self, stream: u32) {
        let mut block = Vec::with_capacity(16);
        if self.indexed_trailers {
            block.push(0x80 | 62);
        } else {
            literal(&mut block, b"\0grpc-status", b"0", self.indexing);
            self.indexed_trailers = self.indexing;
        }
        frame(&mut self.out, HEADERS, END_HEADERS | END_STREAM, stream, &block);
        self.received.remove(&stream);
    }
}

/// The 16 bytes a message starts with: gRPC's prefix, then who answers, or what is asked for.
pub(super) fn message_head(message_len: usize, tag: u32, reply_len: u32, replies: u16) -> [u8; 16] {
    let mut head = [0; 16];
    head[1..5].copy_from_slice(&(message_len.saturating_sub(5) as u32).to_be_bytes());
    head[5..9].copy_from_slice(&tag.to_be_bytes());
    head[9..13].copy_from_slice(&reply_len.to_be_bytes());
    head[13..15].copy_from_slice(&replies.to_be_bytes());
    head
}

fn word(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |word, byte| word << 8 | u32::from(*byte))
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    frame_head(out, payload.len(), kind, flags, stream);
    out.extend_from_slice(payload);
}

fn frame_head(out: &mut Vec<u8>, len: usize, kind: u8, flags: u8, stream: u32) {
    let [_, a, b, c] = (len as u32).to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags, s0, s1, s2, s3]);
}

/// RFC 7541 §6.2.1 (with indexing) and §6.2.2. `name` is one byte, a static table index, or `\0` and the name.
fn literal(block: &mut Vec<u8>, name: &[u8], value: &[u8], indexing: bool) {
    let (bits, pattern) = if indexing { (6, 0x40) } else { (4, 0) };
    let most = (1u8 << bits) - 1;
    match name {
        [0, name @ ..] => {
            block.push(pattern);
            block.push(name.len() as u8);
            block.extend_from_slice(name);
        }
        [index] if *index < most => block.push(pattern | index),
        [index, ..] => block.extend([pattern | most, index - most]),
        [] => {}
    }
    block.push(value.len() as u8);
    block.extend_from_slice(value);
}
