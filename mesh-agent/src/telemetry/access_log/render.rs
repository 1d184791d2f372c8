//! Entries as lines. Pure.

use super::Ended;
use super::entry::{Entry, Head};
use crate::error::{Flags, NO_FILTER_CHAIN};
use crate::snapshot::access_log::{Field, Format, Json, Layout, Named, Operator, Part, Portion, TimePart};
use http::{HeaderValue, Version};
use std::borrow::Cow;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest value, bytes: what one request can make of the writer's queue is bounded.
const LONGEST: usize = 8 << 10;
/// Istio's names for destinations that nobody declared, and for the route to them.
const PASSTHROUGH: &str = "PassthroughCluster";
const BLACK_HOLE: &str = "BlackHoleCluster";
const ALLOW_ANY: &str = "allow_any";
/// As gRPC's own libraries spell them (Envoy's `CAMEL_STRING`).
const GRPC: [&str; 17] = [
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

static HOSTNAME: LazyLock<String> = LazyLock::new(|| rustix::system::uname().nodename().to_string_lossy().into_owned());

/// What an operator comes to.
enum Value<'a> {
    Absent,
    Number(u64),
    Text(Cow<'a, [u8]>),
}

/// Appends one line, which ends in the only line feed it has unless the format has more.
pub(super) fn line(format: &Format, entry: &Entry, ended: &Ended, out: &mut Vec<u8>) {
    match &format.body {
        Layout::Text(parts) => parts.iter().for_each(|part| match part {
            Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
            Part::Operator(operator) => text(&value(operator, entry, ended), out),
        }),
        Layout::Json(object) => {
            json_object(object, entry, ended, out);
            out.push(b'\n');
        }
    }
}

/// What could end the line or a quoted value, and what is no text, is escaped.
fn text(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Absent => out.push(b'-'),
        Value::Number(number) => number_to(*number, out),
        Value::Text(bytes) => {
            for chunk in bytes.utf8_chunks() {
                for c in chunk.valid().chars() {
                    match c {
                        '"' | '\\' => out.extend([b'\\', c as u8]),
                        '\n' => out.extend(b"\\n"),
                        '\r' => out.extend(b"\\r"),
                        '\t' => out.extend(b"\\t"),
                        c if ends_lines(c) => {
                            c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| hex(byte, out));
                        }
                        c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                    }
                }
                chunk.invalid().iter().for_each(|byte| hex(*byte, out));
            }
        }
    }
}

fn hex(byte: u8, out: &mut Vec<u8>) {
    // Writing to a Vec does not fail.
    let _ = write!(out, "\\x{byte:02x}");
}

fn number_to(number: u64, out: &mut Vec<u8>) {
    let _ = write!(out, "{number}");
}

fn json_object(object: &[(Box<str>, Json)], entry: &Entry, ended: &Ended, out: &mut Vec<u8>) {
    out.push(b'{');
    for (at, (key, of)) in object.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        json_string(key.as_bytes(), out);
        out.push(b':');
        match of {
            Json::Operator(operator) => match value(operator, entry, ended) {
                Value::Absent => out.extend(b"null"),
                Value::Number(number) => number_to(number, out),
                Value::Text(bytes) => json_string(&bytes, out),
            },
            Json::Parts(parts) => {
                let mut joined = Vec::new();
                for part in parts {
                    match part {
                        Part::Literal(text) => joined.extend_from_slice(text.as_bytes()),
                        Part::Operator(operator) => match value(operator, entry, ended) {
                            Value::Absent => joined.push(b'-'),
                            Value::Number(number) => number_to(number, &mut joined),
                            Value::Text(bytes) => joined.extend_from_slice(&bytes),
                        },
                    }
                }
                json_string(&joined, out);
            }
            Json::Object(inner) => json_object(inner, entry, ended, out),
            Json::Constant(constant) => out.extend_from_slice(constant.as_bytes()),
        }
    }
    out.push(b'}');
}

/// RFC 8259 §7, and all that could end a line. Bytes that are no UTF-8 become U+FFFD: JSON has no way to say them.
fn json_string(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for c in String::from_utf8_lossy(bytes).chars() {
        match c {
            '"' | '\\' => out.extend([b'\\', c as u8]),
            '\n' => out.extend(b"\\n"),
            '\r' => out.extend(b"\\r"),
            '\t' => out.extend(b"\\t"),
            c if ends_lines(c) => {
                // Writing to a Vec does not fail. All of them are of the basic plane: four digits.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

/// Control characters, and the separators where some readers break lines.
fn ends_lines(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

fn value<'a>(operator: &'a Operator, entry: &'a Entry, ended: &'a Ended) -> Value<'a> {
    match of_field(&operator.field, entry, ended) {
        Value::Text(bytes) => {
            let most = operator.most.unwrap_or(LONGEST).min(LONGEST);
            Value::Text(if bytes.len() > most { Cow::Owned(bytes.iter().take(most).copied().collect()) } else { bytes })
        }
        value => value,
    }
}

fn of_field<'a>(field: &'a Field, entry: &'a Entry, ended: &'a Ended) -> Value<'a> {
    let head = entry.head.as_ref();
    match field {
        Field::StartTime(parts) => owned(time(parts, entry.started)),
        Field::Request(main, other) => {
            let of = |name: &Named| named(name, head?);
            bytes(of(main).or_else(|| other.as_ref().and_then(of)))
        }
        Field::Response(main, other) => either(&entry.response, *main, *other),
        Field::Trailer(main, other) => either(&entry.trailers, *main, *other),
        Field::Protocol => some(head.and_then(|head| protocol(head.version))),
        Field::ResponseCode => Value::Number(u64::from(ended.code.unwrap_or(0))),
        Field::ResponseFlags if ended.flags == Flags::NONE => some(Some("-")),
        Field::ResponseFlags => owned(ended.flags.to_string()),
        // Of responses: a connection has none.
        // Of connections Envoy tells no more than this one.
        Field::ResponseCodeDetails => {
            some(Some(&*ended.details).filter(|details| head.is_some() || *details == NO_FILTER_CHAIN))
        }
        Field::UpstreamTransportFailure => some(transport_failure(&ended.details)),
        // Envoy's are of filters and TLS that this data path does not have.
        Field::ConnectionTerminationDetails => Value::Absent,
        Field::BytesReceived => Value::Number(ended.received),
        Field::BytesSent => Value::Number(ended.sent),
        Field::Duration => millis(ended.duration),
        Field::ResponseDuration => ended.answered.map_or(Value::Absent, millis),
        Field::ResponseTxDuration => {
            ended.answered.map_or(Value::Absent, |answered| millis(ended.duration.saturating_sub(answered)))
        }
        // A header field to Envoy, and so a string.
        Field::ServiceTime => ended.upstream.map_or(Value::Absent, |time| owned(time.as_millis().to_string())),
        Field::AttemptCount => Value::Number(u64::from(ended.attempts)),
        Field::UpstreamHost => address(entry.endpoint, Portion::Whole),
        Field::Upstream(part) => address(entry.endpoint, *part),
        Field::UpstreamCluster => entry.cluster.as_ref().map_or(Value::Absent, |(host, key)| match &**host {
            name @ (PASSTHROUGH | BLACK_HOLE) => some(Some(name)),
            host => owned(format!("outbound|{}|{}|{host}", key.port.port, key.subset.as_deref().unwrap_or_default())),
        }),
        Field::UpstreamLocal(part) => address(entry.endpoint_local, *part),
        Field::DownstreamLocal(part) => address(Some(entry.local), *part),
        Field::DownstreamRemote(part) => address(Some(entry.client), *part),
        Field::ServerName => some(entry.server_name.as_deref()),
        Field::RouteName => {
            let undeclared = entry.cluster.as_ref().is_some_and(|(host, _)| **host == *PASSTHROUGH);
            some(if undeclared && head.is_some() { Some(ALLOW_ANY) } else { ended.route.as_deref() })
        }
        Field::GrpcStatus => match ended.grpc_status {
            None => Value::Absent,
            Some(status) => {
                GRPC.get(usize::from(status)).map_or_else(|| owned(status.to_string()), |name| some(Some(name)))
            }
        },
        Field::GrpcStatusNumber => ended.grpc_status.map_or(Value::Absent, |status| Value::Number(status.into())),
        Field::ConnectionId => Value::Number(entry.connection),
        Field::Hostname => some(Some(&HOSTNAME)),
    }
}

fn named<'a>(name: &Named, head: &'a Head) -> Option<&'a [u8]> {
    match name {
        Named::Method => Some(head.method.as_str().as_bytes()),
        Named::Path => head.uri.path_and_query().map(|target| target.as_str().as_bytes()),
        Named::Authority => match head.uri.authority() {
            Some(authority) => Some(authority.as_str().as_bytes()),
            None => head.host.as_ref().map(HeaderValue::as_bytes),
        },
        Named::Scheme => head.uri.scheme_str().map(str::as_bytes),
        Named::Header(at) => head.fields.get(*at)?.as_ref().map(HeaderValue::as_bytes),
    }
}

fn either(values: &[Option<HeaderValue>], main: usize, other: Option<usize>) -> Value<'_> {
    let of = |at: usize| values.get(at).and_then(Option::as_ref);
    bytes(of(main).or_else(|| of(other?)).map(HeaderValue::as_bytes))
}

fn protocol(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("HTTP/1.0"),
        Version::HTTP_11 => Some("HTTP/1.1"),
        Version::HTTP_2 => Some("HTTP/2"),
        _ => None,
    }
}

/// `…{remote_connection_failure|delayed_connect_error:_Connection_refused}`: what the transport said follows the `|`.
fn transport_failure(details: &str) -> Option<&str> {
    details.strip_suffix('}')?.split_once('|').map(|(_, reason)| reason)
}

fn address(of: Option<SocketAddr>, part: Portion) -> Value<'static> {
    let Some(addr) = of else { return Value::Absent };
    match part {
        Portion::Whole => owned(addr.to_string()),
        Portion::Ip => owned(addr.ip().to_string()),
        Portion::Port => Value::Number(addr.port().into()),
    }
}

fn millis(duration: Duration) -> Value<'static> {
    Value::Number(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Nothing to say is the same as nothing.
fn bytes(of: Option<&[u8]>) -> Value<'_> {
    of.filter(|bytes| !bytes.is_empty()).map_or(Value::Absent, |bytes| Value::Text(Cow::Borrowed(bytes)))
}

fn some(of: Option<&str>) -> Value<'_> {
    bytes(of.map(str::as_bytes))
}

fn owned(text: String) -> Value<'static> {
    Value::Text(Cow::Owned(text.into_bytes()))
}

fn time(parts: &[TimePart], at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, of_day) = (since.as_secs(), since.as_secs() % 86_400);
    let (year, month, day) = civil(seconds / 86_400);
    let mut text = String::with_capacity(24);
    for part in parts {
        use std::fmt::Write as _;
        // Writing to a String does not fail.
        let _ = match part {
            TimePart::Literal(literal) => text.write_str(literal),
            TimePart::Year => write!(text, "{year:04}"),
            TimePart::Month => write!(text, "{month:02}"),
            TimePart::Day => write!(text, "{day:02}"),
            TimePart::Hour => write!(text, "{:02}", of_day / 3600),
            TimePart::Minute => write!(text, "{:02}", of_day / 60 % 60),
            TimePart::Second => write!(text, "{:02}", of_day % 60),
            TimePart::Epoch => write!(text, "{seconds}"),
            TimePart::Fraction(digits) => {
                let nanos = format!("{:09}", since.subsec_nanos());
                text.write_str(nanos.get(..usize::from(*digits)).unwrap_or(&nanos))
            }
        };
    }
    text
}

/// Days since 1970-01-01 → year, month, day of the Gregorian calendar. Years are counted from March, so that the leap day
/// is the last one: day 0 is day 306 of the year that began in March 1969; 11016 is 2000-02-29.
fn civil(days: u64) -> (u64, u64, u64) {
    /// From 0000-03-01 to 1970-01-01.
    const TO_EPOCH: u64 = 719_468;
    /// Days of 400 years, after which the calendar repeats.
    const ERA: u64 = 146_097;
    let days = days + TO_EPOCH;
    let (era, of_era) = (days / ERA, days % ERA);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_778), (2026, 11, 21));
        assert_eq!(civil(47_540), (2100, 2, 28));
        assert_eq!(civil(47_541), (2100, 3, 1), "2100 is no leap year");
    }
}
