//! The parts of gRPC over HTTP/2 a proxy must understand: content type, `grpc-timeout`, `grpc-message`.
//!
//! Place in the path: used by `proxy.rs` on heads only; message bytes are never looked at. Pure.

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use std::fmt::Write as _;
use std::time::Duration;

pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Statuses by number, as gRPC's own libraries spell them (Envoy's `CAMEL_STRING`).
pub const STATUS_NAMES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// The status that people call so: `14`, `Unavailable`, `UNAVAILABLE`, `DEADLINE_EXCEEDED`, `CANCELLED`.
pub fn status_named(text: &str) -> Option<u8> {
    let plain = text.replace('_', "").to_ascii_lowercase().replace("cancelled", "canceled");
    let named = STATUS_NAMES.iter().position(|name| name.eq_ignore_ascii_case(&plain));
    named.and_then(|at| u8::try_from(at).ok()).or_else(|| text.parse().ok())
}

/// `application/grpc`, alone or followed by `+proto`, `;…`; not `application/grpc-web`.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// `grpc-status` in a head (trailers-only); what is not a number below 256 counts as none.
pub fn status_in(headers: &HeaderMap) -> Option<u8> {
    match headers.get(GRPC_STATUS)?.as_bytes() {
        [digit @ b'0'..=b'9'] => Some(digit - b'0'),
        other => std::str::from_utf8(other).ok()?.parse().ok(),
    }
}

/// Parses `grpc-timeout`: 1 to 8 digits and a unit of `H M S m u n`; micro- and nanoseconds are rounded up to whole
/// milliseconds (Envoy). `100m` is 100 ms, `1u` is 1 ms. Anything else counts as no timeout.
pub fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_millis(count.div_ceil(1_000)),
        b'n' => Duration::from_millis(count.div_ceil(1_000_000)),
        _ => return None,
    })
}

/// Spells a timeout in the finest unit that fits 8 digits: 99,999,999 ms are 27 h.
pub fn format_timeout(timeout: Duration) -> HeaderValue {
    const MOST: u64 = 99_999_999;
    let (mut left, unit) = match u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX) {
        millis @ ..=MOST => (millis.max(1), b'm'),
        _ if timeout.as_secs() <= MOST => (timeout.as_secs(), b'S'),
        _ => ((timeout.as_secs() / 3600).min(MOST), b'H'),
    };
    // By hand: every call of a policy with a time limit has one.
    let mut text = [unit; 9];
    let mut begin = 8;
    while left > 0 {
        begin -= 1;
        text[begin] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    HeaderValue::from_bytes(&text[begin..]).unwrap_or(HeaderValue::from_static("1m"))
}

/// A trailers-only answer: HTTP 200 whose only frame is the head.
pub fn trailers_only<B: Default>(status: u8, message: &str) -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(status)));
    if let Ok(message) = HeaderValue::try_from(percent_encode(message)) {
        headers.insert(GRPC_MESSAGE, message);
    }
    response
}

/// `grpc-message`'s encoding: everything but printable ASCII, and `%` itself, as `%XX`.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn timeouts() {
        for (text, millis) in [
            ("1H", Some(3_600_000)),
            ("2M", Some(120_000)),
            ("3S", Some(3_000)),
            ("100m", Some(100)),
            ("1u", Some(1)),
            ("1001u", Some(2)),
            ("1n", Some(1)),
            ("0m", Some(0)),
            ("99999999S", Some(99_999_999_000)),
            ("999999999S", None),
            ("S", None),
            ("", None),
            ("1", None),
            ("-1S", None),
            ("1 S", None),
            ("1s", None),
        ] {
            assert_eq!(parse_timeout(text.as_bytes()), millis.map(Duration::from_millis), "{text}");
        }
        assert_eq!(format_timeout(Duration::from_millis(250)), "250m");
        assert_eq!(format_timeout(Duration::ZERO), "1m");
        assert_eq!(format_timeout(Duration::from_secs(200_000)), "200000S");
    }

    #[test]
    fn content_types() {
        for (text, want) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=x", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(text));
            assert_eq!(is_grpc(&headers), want, "{text}");
        }
    }

    #[test]
    fn messages_are_encoded() {
        assert_eq!(percent_encode("50% für\n"), "50%25 f%C3%BCr%0A");
    }

    proptest! {
        #[test]
        fn what_we_write_we_read(millis in 1_u64..10_000_000_000) {
            let written = format_timeout(Duration::from_millis(millis));
            let read = parse_timeout(written.as_bytes()).unwrap();
            // Never longer than asked, and at most a second shorter.
            prop_assert!(read <= Duration::from_millis(millis));
            prop_assert!(read + Duration::from_secs(1) > Duration::from_millis(millis));
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..16)) {
            let _ = parse_timeout(&bytes);
        }
    }
}
