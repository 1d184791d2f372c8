//! Pure: bytes in, protocol out.

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sniffed {
    Http1,
    /// Prior-knowledge HTTP/2: the connection preface (RFC 9113 §3.4).
    Http2,
    /// A TLS ClientHello.
    Tls,
    /// Anything else.
    Opaque,
}

/// RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A request line longer than this whose start looked right is HTTP/1 (the protocol's library has its own limit).
const MAX_LINE: usize = 4096;

/// Methods of RFC 9110 §9, PATCH (RFC 5789) and WebDAV (RFC 4918). A closed list, so that the text protocols that also
/// begin with a word (`EHLO x`, `get key`, `PING`) are told apart within a byte or two.
const METHODS: &[&[u8]] = &[
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"DELETE",
    b"CONNECT",
    b"OPTIONS",
    b"TRACE",
    b"PATCH",
    b"PROPFIND",
    b"PROPPATCH",
    b"MKCOL",
    b"COPY",
    b"MOVE",
    b"LOCK",
    b"UNLOCK",
    b"SEARCH",
    b"REPORT",
];

/// `None`: more bytes are needed. Once there is an answer, more bytes never change it.
pub fn sniff(bytes: &[u8]) -> Option<Sniffed> {
    match bytes {
        [] => None,
        [0x16, ..] => tls(bytes),
        _ if bytes.starts_with(PREFACE) => Some(Sniffed::Http2),
        _ if PREFACE.starts_with(bytes) => None,
        _ => http1(bytes),
    }
}

/// For ports declared HTTP: `Http2` or `Tls` if the bytes say so, else `Http1` (which then names what is wrong).
pub(super) fn http_version(bytes: &[u8]) -> Option<Sniffed> {
    match bytes {
        [] => None,
        [0x16, ..] => Some(Sniffed::Tls),
        _ if bytes.starts_with(PREFACE) => Some(Sniffed::Http2),
        _ if PREFACE.starts_with(bytes) => None,
        _ => Some(Sniffed::Http1),
    }
}

/// A record of type handshake (22), version 3.x, holding a ClientHello (1): RFC 8446 §4, §5.1.
fn tls(bytes: &[u8]) -> Option<Sniffed> {
    match bytes {
        [_] | [_, 3] | [_, 3, _] | [_, 3, _, _] | [_, 3, _, _, _] => None,
        [_, 3, _, _, _, 1, ..] => Some(Sniffed::Tls),
        _ => Some(Sniffed::Opaque),
    }
}

/// `method SP request-target SP HTTP/1.x` up to the end of the line (RFC 9112 §3).
fn http1(bytes: &[u8]) -> Option<Sniffed> {
    let line_end = bytes.iter().take(MAX_LINE).position(|b| *b == b'\n');
    let line = bytes.get(..line_end.unwrap_or(bytes.len().min(MAX_LINE))).unwrap_or_default();
    let Some(space) = line.iter().position(|b| *b == b' ') else {
        let may_become_one = line_end.is_none() && METHODS.iter().any(|m| m.starts_with(line));
        return if may_become_one { None } else { Some(Sniffed::Opaque) };
    };
    let (method, rest) = line.split_at(space);
    if !METHODS.contains(&method) {
        return Some(Sniffed::Opaque);
    }
    // Controls and raw 8-bit bytes do not occur in a request line, except the CR at its end.
    let body = rest.strip_suffix(b"\r").unwrap_or(rest);
    if body.iter().any(|b| *b < b' ' || *b >= 0x7f) {
        return Some(Sniffed::Opaque);
    }
    if line_end.is_none() {
        return if line.len() >= MAX_LINE { Some(Sniffed::Http1) } else { None };
    }
    let version = body.rsplit(|b| *b == b' ').next().unwrap_or_default();
    let target_is_there = body.len() > version.len() + 2;
    if target_is_there && (version == b"HTTP/1.1" || version == b"HTTP/1.0") {
        Some(Sniffed::Http1)
    } else {
        Some(Sniffed::Opaque)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tells_protocols_apart() {
        let cases: &[(&[u8], Option<Sniffed>)] = &[
            (b"", None),
            (b"GET / HTTP/1.1\r\n", Some(Sniffed::Http1)),
            (b"GET /a?b=c HTTP/1.0\nHost: x", Some(Sniffed::Http1)),
            (b"OPTIONS * HTTP/1.1\r\n", Some(Sniffed::Http1)),
            (b"CONNECT a.b:443 HTTP/1.1\r\n", Some(Sniffed::Http1)),
            (b"PROPFIND /dav HTTP/1.1\r\n", Some(Sniffed::Http1)),
            (b"GE", None),
            (b"GET", None),
            (b"GET /long", None),
            (b"GET /\r", None),
            (b"GET /\r\n", Some(Sniffed::Opaque)),
            (b"GET HTTP/1.1\r\n", Some(Sniffed::Opaque)),
            (b"GET / HTTP/2.0\r\n", Some(Sniffed::Opaque)),
            (b"get / HTTP/1.1\r\n", Some(Sniffed::Opaque)),
            (b"GET /\x00 HTTP", Some(Sniffed::Opaque)),
            (b"GET\n", Some(Sniffed::Opaque)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04", Some(Sniffed::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", None),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Some(Sniffed::Opaque)),
            (b"P", None),
            (b"\x16\x03\x01\x02\x00\x01\x00", Some(Sniffed::Tls)),
            (b"\x16\x03\x03\x00\x50", None),
            (b"\x16\x03\x03\x00\x50\x02", Some(Sniffed::Opaque)),
            (b"\x16\x02", Some(Sniffed::Opaque)),
            (b"EHLO x\r\n", Some(Sniffed::Opaque)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Sniffed::Opaque)),
            (b"PING\r\n", Some(Sniffed::Opaque)),
            (b"hello", Some(Sniffed::Opaque)),
            (b"\0", Some(Sniffed::Opaque)),
        ];
        for (bytes, want) in cases {
            assert_eq!(sniff(bytes), *want, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_request_line_without_end_is_http_at_the_limit() {
        let long = [b"GET /".to_vec(), vec![b'x'; MAX_LINE]].concat();
        assert_eq!(sniff(&long[..MAX_LINE - 1]), None);
        assert_eq!(sniff(&long), Some(Sniffed::Http1));
    }

    #[test]
    fn declared_http_only_asks_for_the_version() {
        assert_eq!(http_version(b"PR"), None);
        assert_eq!(http_version(b"PRO"), Some(Sniffed::Http1));
        assert_eq!(http_version(b"\0garbage"), Some(Sniffed::Http1));
        assert_eq!(http_version(b"\x16"), Some(Sniffed::Tls));
        assert_eq!(http_version(PREFACE), Some(Sniffed::Http2));
    }

    /// Bytes that get past the first look: pieces of the protocols, cut and glued.
    fn likely() -> impl Strategy<Value = Vec<u8>> {
        let pieces: &[&[u8]] =
            &[PREFACE, b"GET ", b"POST", b"/index", b" HTTP/1.1\r\n", b"\x16\x03\x01", b"\x01", b"\n", b" ", b"\r"];
        let piece = prop_oneof![
            prop::sample::select(pieces).prop_map(<[u8]>::to_vec),
            prop::collection::vec(any::<u8>(), 0..6),
            (1usize..PREFACE.len()).prop_map(|n| PREFACE[..n].to_vec()),
        ];
        prop::collection::vec(piece, 0..8).prop_map(|p| p.concat())
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_answer(bytes in likely()) {
            for answer in [sniff, http_version] {
                let mut first = None;
                for end in 0..=bytes.len() {
                    let now = answer(&bytes[..end]);
                    if first.is_some() {
                        prop_assert_eq!(now, first);
                    }
                    first = now;
                }
            }
        }

        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let _ = (sniff(&bytes), http_version(&bytes));
        }
    }
}
