//! First bytes → protocol, and a stream that gives those bytes to the next stage again.
//!
//! Place in the path: after `listen`, before `http1`, `http2` and `forward`. Invariant: no timer on the happy path and
//! no byte lost: what was read for the decision is replayed.

mod replay;

pub use replay::Replay;

use bytes::BytesMut;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// HTTP/2's client connection preface (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest method token we wait for; `UPDATEREDIRECTREF` (RFC 4437) has 17 letters.
const LONGEST_METHOD: usize = 24;

/// What a connection speaks, as far as its first bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniff {
    Http1,
    Http2,
    /// A TLS ClientHello: passed on unread.
    Tls,
    Opaque,
    /// Could still be more than one of them.
    NeedMore,
}

/// Decides by the bytes alone. Pure; any prefix of a decided input is either undecided or decided the same.
pub fn sniff(bytes: &[u8]) -> Sniff {
    let shared = bytes.iter().zip(PREFACE).take_while(|(a, b)| a == b).count();
    if shared == PREFACE.len() {
        return Sniff::Http2;
    }
    if shared == bytes.len() {
        return Sniff::NeedMore;
    }
    // From the slash on only the preface spells `PRI * HTTP/2`: a connection that left it is a broken HTTP/2 client,
    // which HTTP/2 itself answers best.
    if shared > b"PRI * HTTP/".len() {
        return Sniff::Http2;
    }
    match bytes {
        // ContentType handshake(22), legacy_record_version 0x03xx (RFC 8446 §5.1).
        [0x16] => Sniff::NeedMore,
        [0x16, 0x03, ..] => Sniff::Tls,
        _ => sniff_http1(bytes),
    }
}

/// Reads into `buffer` until the protocol is known or the peer closes (`Opaque`). Cancel-safe: what was read is in
/// `buffer`, and a later call goes on from there.
///
/// # Errors
/// The socket's own.
pub async fn read<R: AsyncRead + Unpin>(io: &mut R, buffer: &mut BytesMut) -> io::Result<Sniff> {
    loop {
        buffer.reserve(256);
        let count = io.read_buf(buffer).await?;
        match sniff(buffer) {
            Sniff::NeedMore if count > 0 => {}
            Sniff::NeedMore => return Ok(Sniff::Opaque),
            decided => return Ok(decided),
        }
    }
}

/// The first line is there and no HTTP/1 request line (RFC 9112 §3): on a port declared HTTP/2 that is an invalid
/// connection preface, which ends the connection (RFC 9113 §3.4). A line still to come may be HTTP/1.1's.
pub fn invalid_preface(bytes: &[u8]) -> bool {
    // RFC 9112 §2.2: empty lines before a request line are ignored.
    let text = bytes.trim_ascii_start();
    let Some(end) = text.iter().position(|b| *b == b'\n') else { return false };
    let line = text.get(..end).unwrap_or_default().trim_ascii_end();
    !line.rsplit(|b| *b == b' ').next().is_some_and(|version| version.starts_with(b"HTTP/1."))
}

/// A method token, a space, then a request target (RFC 9112 §3).
fn sniff_http1(bytes: &[u8]) -> Sniff {
    let method = bytes.iter().take(LONGEST_METHOD + 1).take_while(|b| b.is_ascii_uppercase() || **b == b'-').count();
    match bytes.get(method) {
        _ if method > LONGEST_METHOD => Sniff::Opaque,
        None => Sniff::NeedMore,
        Some(b' ') if method > 0 => match bytes.get(method + 1) {
            None => Sniff::NeedMore,
            // origin-form, asterisk-form, absolute- and authority-form (RFC 9112 §3.2)
            Some(b) if *b == b'/' || *b == b'*' || b.is_ascii_alphanumeric() || *b == b'[' => Sniff::Http1,
            Some(_) => Sniff::Opaque,
        },
        Some(_) => Sniff::Opaque,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_openings() {
        for (bytes, want) in [
            (&b""[..], Sniff::NeedMore),
            (b"P", Sniff::NeedMore),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Sniff::Http2),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Sniff::Http2),
            (b"PRI * HTTP/1.1\r\n", Sniff::Http1),
            (b"PROPFIND /x HTTP/1.1", Sniff::Http1),
            (b"POST /", Sniff::Http1),
            (b"GET http://a/ HTTP/1.1", Sniff::Http1),
            (b"OPTIONS * HTTP/1.1", Sniff::Http1),
            (b"CONNECT a:1 HTTP/1.1", Sniff::Http1),
            (b"M-SEARCH * HTTP/1.1", Sniff::Http1),
            (b"PING\r\n", Sniff::Opaque),
            (b"GET", Sniff::NeedMore),
            (b"get / HTTP/1.1", Sniff::Opaque),
            (b"*1\r\n$4\r\nPING\r\n", Sniff::Opaque),
            (b"\x16", Sniff::NeedMore),
            (b"\x16\x03\x01\x02", Sniff::Tls),
            (b"\x16\x04", Sniff::Opaque),
            (b" / HTTP/1.1", Sniff::Opaque),
            (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Sniff::Opaque),
        ] {
            assert_eq!(sniff(bytes), want, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_line_that_is_no_request_is_an_invalid_preface() {
        for (bytes, want) in [
            (&b"INVALID CONNECTION PREFACE\r\n\r\n"[..], true),
            (b"GET /\r\n", true),
            (b"PRI * HTTP/2.0\r\n\r\nXX", true),
            (b"GET / HTTP/1.1\r\nhost: a\r\n", false),
            (b"\r\nGET / HTTP/1.0\n", false),
            (b"INVALID CONNECTION", false),
            (b"", false),
        ] {
            assert_eq!(invalid_preface(bytes), want, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    proptest! {
        #[test]
        fn more_bytes_never_change_a_decision(bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in 0_usize..64) {
            let prefix = &bytes[..cut.min(bytes.len())];
            let early = sniff(prefix);
            prop_assert!(early == Sniff::NeedMore || early == sniff(&bytes));
        }

        #[test]
        fn texts_are_decided_soon(text in "[A-Z]{1,12} [/a-z*]{1,30}") {
            prop_assert_eq!(sniff(text.as_bytes()), Sniff::Http1);
        }
    }
}
