//! `mesh-bench load`: gRPC calls in a closed loop or at a fixed rate, over connections that all start before the clock.
//!
//! Prints `start` and `end` around the measured window, so that whoever started it can read the proxy's CPU time at
//! both ends, then one line of JSON ([`Report`]). At a fixed rate a call's latency counts from the moment it was *due*,
//! so a proxy that stalls pays for the calls it kept waiting (no coordinated omission).

use super::engine::{Conn, Poller};
use super::wire::{App, Body, H2, message_head};
use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub(super) struct Args {
    /// One address, or several that the connections take in turn
    #[arg(long, required = true, value_delimiter = ',')]
    target: Vec<SocketAddr>,
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Streams kept busy over all connections (closed loop)
    #[arg(long, default_value_t = 50)]
    streams: usize,
    /// Calls per second; 0 is a closed loop
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Bytes of the request message
    #[arg(long, default_value_t = 128)]
    request: usize,
    /// Bytes of each reply message
    #[arg(long, default_value_t = 128)]
    reply: usize,
    /// Reply messages per call
    #[arg(long, default_value_t = 1)]
    replies: u16,
    /// Seconds before the measured window
    #[arg(long, default_value_t = 0.5)]
    warmup: f64,
    /// Seconds of the measured window
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// One call on each connection, then silence for the window
    #[arg(long)]
    idle: bool,
}

/// What one run of load found. Latencies in microseconds.
#[derive(Serialize, Deserialize, Clone, Default, Debug)]
pub(super) struct Report {
    pub(super) seconds: f64,
    pub(super) calls: u64,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) errors: u64,
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
    /// Calls answered by each backend's tag.
    pub(super) backends: BTreeMap<u32, u64>,
}

/// How long the window stays open for its first answer; on a slow machine a short one may see none.
const LONGEST_CALL: Duration = Duration::from_secs(30);

/// Runs the load and prints its [`Report`].
pub(super) fn run(args: &Args) -> Result<()> {
    // Sleeps of the fixed rate end within microseconds, not the default 50 µs late.
    rustix::thread::set_current_timer_slack(Some(std::num::NonZeroU64::MIN)).context("timer slack")?;
    let mut load = Load::connect(args)?;
    load.wait_ready(args.target.len())?;
    let report = if args.idle { load.idle()? } else { load.drive()? };
    super::announce(&serde_json::to_string(&report)?)
}

struct Load<'a> {
    poller: Poller,
    conns: Vec<Conn>,
    apps: Vec<Calls>,
    shared: Shared<'a>,
    ready: Vec<u64>,
    buffer: Vec<u8>,
    /// The connection that takes the next call at a fixed rate.
    turn_of: usize,
}

/// What all connections of one run share.
struct Shared<'a> {
    args: &'a Args,
    authority: String,
    message_len: usize,
    reply_bytes: u64,
    measuring: bool,
    stopping: bool,
    latency: Histogram<u64>,
    report: Report,
}

/// The calls in flight on one connection.
struct Calls {
    next: u32,
    open: HashMap<u32, Call>,
    ready: bool,
    done: Vec<(Call, bool)>,
    messages: u64,
    reply_len: u64,
}

struct Call {
    due: Instant,
    got: u64,
    head: [u8; 9],
}

impl App for Calls {
    fn ready(&mut self, _: &mut H2) {
        self.ready = true;
    }

    fn headers(&mut self, h2: &mut H2, stream: u32, end: bool) {
        if end {
            self.finish(h2, stream, true);
        }
    }

    fn data(&mut self, h2: &mut H2, stream: u32, bytes: &[u8], end: bool) {
        if let Some(call) = self.open.get_mut(&stream) {
            if call.got < 9 {
                let at = call.got as usize;
                let take = bytes.len().min(9 - at);
                call.head[at..at + take].copy_from_slice(&bytes[..take]);
            }
            let before = call.got / self.reply_len;
            call.got += bytes.len() as u64;
            self.messages += call.got / self.reply_len - before;
        }
        if end {
            self.finish(h2, stream, false);
        }
    }

    fn reset(&mut self, h2: &mut H2, stream: u32) {
        self.finish(h2, stream, false);
    }
}

impl Calls {
    fn finish(&mut self, h2: &mut H2, stream: u32, good: bool) {
        h2.forget(stream);
        if let Some(call) = self.open.remove(&stream) {
            self.done.push((call, good));
        }
    }
}

impl<'a> Load<'a> {
    fn connect(args: &'a Args) -> Result<Self> {
        let poller = Poller::new()?;
        let reply_len = (args.reply.max(11) + 5) as u64;
        let mut load = Self {
            poller,
            conns: Vec::new(),
            apps: Vec::new(),
            shared: Shared {
                args,
                authority: args.target.first().map(ToString::to_string).unwrap_or_default(),
                message_len: args.request.max(11) + 5,
                reply_bytes: reply_len * u64::from(args.replies.max(1)),
                measuring: false,
                stopping: false,
                latency: Histogram::new_with_bounds(1, 60_000_000_000, 3)?,
                report: Report::default(),
            },
            ready: Vec::new(),
            buffer: Vec::new(),
            turn_of: 0,
        };
        for (target, token) in args.target.iter().cycle().zip(0..args.connections) {
            let socket = TcpStream::connect(target).with_context(|| format!("cannot connect to {target}"))?;
            load.poller.add(&socket, token as u64)?;
            let mut conn = Conn::new(socket, H2::client());
            conn.flush();
            load.conns.push(conn);
            load.apps.push(Calls {
                next: 1,
                open: HashMap::new(),
                ready: false,
                done: Vec::new(),
                messages: 0,
                reply_len,
            });
        }
        Ok(load)
    }

    fn wait_ready(&mut self, targets: usize) -> Result<()> {
        let deadline = Instant::now() + LONGEST_CALL;
        while self.apps.iter().any(|app| !app.ready) {
            if Instant::now() > deadline || self.conns.iter().any(|c| c.closed) {
                bail!("a connection got no SETTINGS ({targets} target(s))");
            }
            self.turn(Some(Duration::from_millis(100)))?;
        }
        Ok(())
    }

    fn idle(mut self) -> Result<Report> {
        self.shared.stopping = true;
        self.shared.measuring = true;
        for index in 0..self.conns.len() {
            self.open(index, Instant::now());
            // One at a time, so that no queue's growth is counted as the connection's.
            let deadline = Instant::now() + LONGEST_CALL;
            while !self.apps[index].open.is_empty() {
                if Instant::now() > deadline || self.conns[index].closed {
                    bail!("connection {index} got no answer to its one call");
                }
                self.turn(Some(Duration::from_millis(100)))?;
            }
        }
        super::announce("start")?;
        let end = Instant::now() + Duration::from_secs_f64(self.shared.args.seconds);
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            self.turn(Some(left))?;
        }
        super::announce("end")?;
        self.shared.report.errors += self.conns.iter().filter(|c| c.closed).count() as u64;
        let seconds = self.shared.args.seconds;
        Ok(self.shared.finish(seconds))
    }

    fn drive(mut self) -> Result<Report> {
        let args = self.shared.args;
        let begin = Instant::now();
        let start = begin + Duration::from_secs_f64(args.warmup);
        let end = start + Duration::from_secs_f64(args.seconds);
        let mut schedule = (args.rate > 0.0).then(|| Schedule::new(begin, args.rate));
        if schedule.is_none() {
            let streams = self.shared.args.streams.max(1);
            for stream in 0..streams {
                self.open(stream % self.conns.len(), begin);
            }
        }
        let mut measured_from = start;
        loop {
            let now = Instant::now();
            if now >= end && self.shared.report.calls > 0 || now >= end + LONGEST_CALL {
                break;
            }
            if now >= start && !self.shared.measuring {
                self.shared.measuring = true;
                super::announce("start")?;
                measured_from = Instant::now();
            }
            let mut wake = match now {
                now if now >= end => end + LONGEST_CALL,
                _ if self.shared.measuring => end,
                _ => start,
            };
            if let Some(schedule) = &mut schedule {
                schedule.collect(now);
                while let Some(due) = schedule.waiting.front().copied() {
                    if !self.open_anywhere(due) {
                        break;
                    }
                    schedule.waiting.pop_front();
                }
                wake = wake.min(schedule.next);
            }
            let timeout = wake.saturating_duration_since(Instant::now());
            self.turn(Some(timeout.max(Duration::from_micros(1))))?;
            if self.conns.iter().all(|c| c.closed) {
                bail!("every connection was closed by the other side");
            }
        }
        let seconds = measured_from.elapsed().as_secs_f64();
        super::announce("end")?;
        // What is still in flight at the end counts neither as good nor as an error, unless its connection died.
        self.shared.report.errors += self.conns.iter().filter(|c| c.closed).count() as u64;
        // A fixed rate that could not be kept must not look good: calls that waited are latencies too.
        if let Some(schedule) = schedule {
            for due in schedule.waiting.iter().filter(|due| **due >= measured_from) {
                self.shared.latency.saturating_record(due.elapsed().as_nanos() as u64);
            }
        }
        Ok(self.shared.finish(seconds))
    }

    fn turn(&mut self, timeout: Option<Duration>) -> Result<()> {
        let mut ready = std::mem::take(&mut self.ready);
        self.poller.wait(timeout, &mut ready)?;
        for token in &ready {
            self.turn_one(*token as usize);
        }
        self.ready = ready;
        Ok(())
    }

    fn turn_one(&mut self, index: usize) {
        let (Some(conn), Some(app)) = (self.conns.get_mut(index), self.apps.get_mut(index)) else { return };
        conn.turn(&mut self.buffer, app);
        let again = self.shared.record(app);
        if !self.shared.stopping && self.shared.args.rate == 0.0 && !conn.closed {
            let now = Instant::now();
            for _ in 0..again {
                self.shared.open(conn, app, now);
            }
            conn.flush();
        }
    }

    fn open(&mut self, index: usize, due: Instant) {
        if let (Some(conn), Some(app)) = (self.conns.get_mut(index), self.apps.get_mut(index)) {
            self.shared.open(conn, app, due);
            conn.flush();
        }
    }

    /// On the connection whose turn it is, or the next one that has a free stream.
    fn open_anywhere(&mut self, due: Instant) -> bool {
        for _ in 0..self.conns.len() {
            let index = self.turn_of;
            self.turn_of = (self.turn_of + 1) % self.conns.len();
            let (conn, app) = (&self.conns[index], &self.apps[index]);
            if !conn.closed && !conn.h2.goaway && app.open.len() < conn.h2.max_streams.min(1_000) {
                self.open(index, due);
                return true;
            }
        }
        false
    }
}

impl Shared<'_> {
    fn open(&self, conn: &mut Conn, app: &mut Calls, due: Instant) {
        let stream = app.next;
        app.next += 2;
        app.open.insert(stream, Call { due, got: 0, head: [0; 9] });
        conn.h2.request(stream, &self.authority);
        let head = message_head(self.message_len, 0, self.args.reply as u32, self.args.replies);
        conn.h2.send(stream, Body { head, message_len: self.message_len, repeats: 1, trailers: false });
    }

    /// Counts what ended on one connection; returns how many calls that was.
    fn record(&mut self, app: &mut Calls) -> usize {
        let ended = app.done.len();
        let messages = std::mem::take(&mut app.messages);
        if !self.measuring {
            app.done.clear();
            return ended;
        }
        self.report.messages += messages;
        let now = Instant::now();
        for (call, good) in app.done.drain(..) {
            self.report.bytes += call.got;
            if !good || call.got != self.reply_bytes {
                self.report.errors += 1;
                continue;
            }
            self.report.calls += 1;
            let [.., a, b, c, d] = call.head;
            *self.report.backends.entry(u32::from_be_bytes([a, b, c, d])).or_default() += 1;
            self.latency.saturating_record(now.duration_since(call.due).as_nanos() as u64);
        }
        ended
    }

    fn finish(mut self, seconds: f64) -> Report {
        let micros = |quantile| self.latency.value_at_quantile(quantile) as f64 / 1e3;
        (self.report.p50, self.report.p99, self.report.p999) = (micros(0.5), micros(0.99), micros(0.999));
        self.report.max = self.latency.max() as f64 / 1e3;
        self.report.seconds = seconds;
        self.report
    }
}

/// When calls are due, evenly spaced.
struct Schedule {
    next: Instant,
    every: Duration,
    waiting: VecDeque<Instant>,
}

impl Schedule {
    fn new(begin: Instant, rate: f64) -> Self {
        Self { next: begin, every: Duration::from_secs_f64(1.0 / rate), waiting: VecDeque::new() }
    }

    fn collect(&mut self, now: Instant) {
        while self.next <= now {
            self.waiting.push_back(self.next);
            self.next += self.every;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_generator_owes_every_call_since_its_last_turn() {
        let begin = Instant::now();
        let mut schedule = Schedule::new(begin, 1_000.0);
        schedule.collect(begin + Duration::from_micros(10_500));
        assert_eq!(schedule.waiting.len(), 11);
        assert_eq!(schedule.waiting.front(), Some(&begin));
        schedule.collect(begin + Duration::from_micros(10_600));
        assert_eq!(schedule.waiting.len(), 11, "nothing new is due");
    }
}
