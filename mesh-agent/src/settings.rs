//! The data path's limits and timeouts, with their defaults and the memory bounds that follow from them.
//!
//! Place in the path: read by every stage, written only by the composition root. Invariant: immutable after start.

use serde::Serialize;
use std::time::Duration;

/// Limits and timeouts of one agent.
///
/// Memory a stalled reader can make the agent hold, with the defaults:
/// * per stream and direction: `stream_window` (received, not yet forwarded) + `send_buffer` (forwarded, not yet
///   written) = 256 KiB + 128 KiB;
/// * per HTTP/2 connection: `connection_window` received, whatever the number of streams = 8 MiB, 64 KiB gathered for
///   one write and 64 KiB of one read that are not taken yet; and `frame_overhead` = 16 MiB where it comes in tiny frames
///   to HTTP/1.1 clients that do not read (for HTTP/2 clients the frames are joined);
/// * in total: `stalled_bytes` = 256 MiB, after which new requests are refused, and at one and a half times of which
///   stalled streams are reset. A stalled stream counts with what it received and with all that HTTP/2 may buffer for it
///   (`h2` does not say how much it does). What is left of messages whose last byte `h2` has taken is not counted: at
///   most `send_buffer` each.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// Open downstream connections of the whole agent; the next one is reset and counted.
    pub max_connections: usize,
    /// From choosing an endpoint to an established connection. Istio's `connectTimeout` default.
    pub connect_timeout: Duration,
    /// How long an endpoint may take for that while another one could be asked instead: nothing was sent to it, so asking
    /// another is safe. Linux repeats a lost SYN after 1 s (RFC 6298 §2): by then another endpoint is the better bet.
    pub connect_patience: Duration,
    /// How long a connected HTTP/2 endpoint may take to send its first frame before another is tried. Servers send it on
    /// accepting; one that does not is stopped, frozen or no HTTP/2 server.
    pub preface_timeout: Duration,
    /// Upstream connections of one worker to one endpoint for one source.
    pub max_connections_per_endpoint: usize,
    /// SETTINGS_INITIAL_WINDOW_SIZE we advertise on both sides (RFC 9113 §6.5.2), bytes.
    pub stream_window: u32,
    /// Connection window we advertise on both sides, bytes.
    pub connection_window: u32,
    /// What HTTP/2 may keep for frames below 256 bytes beside their bytes, per connection: 256 bytes less their length
    /// each, from their arrival until somebody takes them. More, and the whole connection is ended
    /// (ENHANCE_YOUR_CALM), so it must hold what one turn can read, and what bodies nobody reads yet can receive.
    pub frame_overhead: usize,
    /// What HTTP/2 may buffer for sending on one stream, bytes.
    pub send_buffer: usize,
    /// SETTINGS_MAX_CONCURRENT_STREAMS we advertise to clients.
    pub max_concurrent_streams: u32,
    /// SETTINGS_MAX_HEADER_LIST_SIZE we advertise on both sides, bytes.
    pub max_header_list: u32,
    /// Bytes held by streams whose reader does not read, all workers together.
    pub stalled_bytes: usize,
    /// Request bytes kept for a retry; a request with more body is not retried once it was sent.
    pub replay_bytes: usize,
    /// Attempts after the first one.
    pub max_retries: u32,
    /// An upstream HTTP/1.1 connection without a request is closed after this; shorter than the keep-alive of common
    /// servers, so that it is we who close (503 UC after idle keep-alive).
    pub http1_idle: Duration,
    /// An upstream HTTP/2 connection without a stream is closed after this.
    pub http2_idle: Duration,
    /// A downstream HTTP connection without a request, and an opaque one without a byte, is closed after this.
    /// Istio's `idleTimeout` default.
    pub idle: Duration,
    /// How long a stopping agent leaves HTTP/1.1 connections without a request open: a client that sends one meanwhile
    /// is answered, and told with the answer that the connection closes.
    pub drain_grace: Duration,
    /// HTTP/2 PING on upstream connections with streams. Off by default: gRPC servers answer pings more often than
    /// one in five minutes with GOAWAY ENHANCE_YOUR_CALM; TCP keep-alive finds dead peers without them.
    pub ping_interval: Option<Duration>,
    /// How long a PING may stay unanswered.
    pub ping_timeout: Duration,
    /// A connection to an endpoint gets no new streams after this age ± 10 %, so that load moves after a scale-out, and
    /// not all of it at once.
    pub max_connection_age: Option<Duration>,
    /// Unacknowledged bytes or a silent peer for this long end an upstream connection (TCP_USER_TIMEOUT, RFC 5482).
    pub tcp_dead_after: Duration,
}

impl Settings {
    /// How long one endpoint may take to connect; `others`: another one could be asked instead.
    pub fn connect_limit(&self, others: bool) -> Duration {
        if others { self.connect_patience.min(self.connect_timeout) } else { self.connect_timeout }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_connections: 20_000,
            connect_timeout: Duration::from_secs(10),
            connect_patience: Duration::from_secs(1),
            preface_timeout: Duration::from_secs(2),
            max_connections_per_endpoint: 1024,
            stream_window: 256 << 10,
            connection_window: 8 << 20,
            frame_overhead: 16 << 20,
            send_buffer: 128 << 10,
            max_concurrent_streams: 4096,
            max_header_list: 1 << 20,
            stalled_bytes: 256 << 20,
            replay_bytes: 64 << 10,
            max_retries: 2,
            http1_idle: Duration::from_secs(4),
            http2_idle: Duration::from_secs(300),
            idle: Duration::from_secs(3600),
            drain_grace: Duration::from_secs(5),
            ping_interval: None,
            ping_timeout: Duration::from_secs(10),
            max_connection_age: None,
            tcp_dead_after: Duration::from_secs(20),
        }
    }
}
