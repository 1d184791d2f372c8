//! Entries as lines. Pure.

use super::entry::{Entry, Head};
use super::{Ended, address, escape, time};
use crate::error::{Flags, NO_FILTER_CHAIN};
use crate::grpc;
use crate::snapshot::ClusterKey;
use crate::snapshot::access_log::{Field, Format, Json, Layout, Named, Operator, Part, Portion, TimePart};
use http::{HeaderValue, Version};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

/// Longest value, bytes: what one request can make of the writer's queue is bounded.
const LONGEST: usize = 8 << 10;
/// Istio's names for destinations that nobody declared, and for the route to them.
const PASSTHROUGH: &str = "PassthroughCluster";
const BLACK_HOLE: &str = "BlackHoleCluster";
const ALLOW_ANY: &str = "allow_any";

static HOSTNAME: LazyLock<String> = LazyLock::new(|| rustix::system::uname().nodename().to_string_lossy().into_owned());

/// What an operator comes to; what is made of several things is made where it is written.
enum Value<'a> {
    Absent,
    Number(u64),
    Text(&'a [u8]),
    /// A number that JSON shows as a string: to Envoy it is a header field.
    Digits(u64),
    Flags(Flags),
    Time(&'a [TimePart], SystemTime),
    Address(SocketAddr),
    Ip(IpAddr),
    /// `outbound|PORT|SUBSET|HOST`
    Cluster(&'a str, &'a ClusterKey),
}

/// Appends one line, which ends in the only line feed it has unless the format has more.
pub(super) fn line(format: &Format, entry: &Entry, ended: &Ended, out: &mut Vec<u8>) {
    match &format.body {
        Layout::Text(parts) => parts.iter().for_each(|part| match part {
            Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
            Part::Operator(operator) => {
                let from = out.len();
                value_or_dash(operator, entry, ended, out);
                escape::text(out, from);
            }
        }),
        Layout::Json(object) => {
            json_object(object, entry, ended, out);
            out.push(b'\n');
        }
    }
}

fn json_object(object: &[(Box<str>, Json)], entry: &Entry, ended: &Ended, out: &mut Vec<u8>) {
    for (before, of) in object {
        out.extend_from_slice(before.as_bytes());
        let from = out.len();
        match of {
            Json::Operator(operator) => match of_field(&operator.field, entry, ended) {
                Value::Absent => {
                    unquote(out);
                    out.extend_from_slice(b"null");
                }
                Value::Number(number) => {
                    unquote(out);
                    digits(number, out);
                }
                value => {
                    write(&value, most(operator), out);
                    if value.is_free() {
                        escape::json(out, from);
                    }
                    out.push(b'"');
                }
            },
            Json::Parts(parts) => {
                parts.iter().for_each(|part| match part {
                    Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                    Part::Operator(operator) => value_or_dash(operator, entry, ended, out),
                });
                escape::json(out, from);
                out.push(b'"');
            }
            Json::Object(inner) => json_object(inner, entry, ended, out),
            Json::Constant(constant) => out.extend_from_slice(constant.as_bytes()),
        }
    }
    out.extend_from_slice(if object.is_empty() { b"{}" } else { b"}" });
}

/// Most values are strings: the quote stands there already.
fn unquote(out: &mut Vec<u8>) {
    out.pop();
}

fn value_or_dash(operator: &Operator, entry: &Entry, ended: &Ended, out: &mut Vec<u8>) {
    match of_field(&operator.field, entry, ended) {
        Value::Absent => out.push(b'-'),
        value => write(&value, most(operator), out),
    }
}

fn most(operator: &Operator) -> usize {
    operator.most.unwrap_or(LONGEST).min(LONGEST)
}

/// The value as it is, without escapes, and no longer than `most`; numbers are never cut.
fn write(value: &Value<'_>, most: usize, out: &mut Vec<u8>) {
    let from = out.len();
    match value {
        Value::Absent => {}
        Value::Number(number) => return digits(*number, out),
        Value::Text(bytes) => out.extend_from_slice(bytes),
        Value::Digits(number) => digits(*number, out),
        // Writing to a Vec does not fail.
        Value::Flags(flags) => drop(write!(out, "{flags}")),
        Value::Time(parts, at) => time::write(parts, *at, out),
        Value::Address(addr) => address::write(*addr, out),
        Value::Ip(addr) => address::write_ip(*addr, out),
        Value::Cluster(host, key) => {
            out.extend_from_slice(b"outbound|");
            digits(key.port.port.into(), out);
            out.push(b'|');
            out.extend_from_slice(key.subset.as_deref().unwrap_or_default().as_bytes());
            out.push(b'|');
            out.extend_from_slice(host.as_bytes());
        }
    }
    out.truncate(from.saturating_add(most));
}

impl Value<'_> {
    /// It may hold whatever a client, or whoever wrote the configuration, likes.
    fn is_free(&self) -> bool {
        matches!(self, Self::Text(_) | Self::Cluster(..))
    }
}

fn digits(number: u64, out: &mut Vec<u8>) {
    match u8::try_from(number) {
        Ok(digit @ 0..=9) => out.push(b'0' + digit),
        _ => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
    }
}

fn of_field<'a>(field: &'a Field, entry: &'a Entry, ended: &'a Ended) -> Value<'a> {
    let head = entry.head.as_ref();
    match field {
        Field::StartTime(parts) => Value::Time(parts, entry.started),
        Field::Request(main, other) => {
            let of = |name: &Named| named(name, head?);
            bytes(of(main).or_else(|| other.as_ref().and_then(of)))
        }
        Field::Response(main, other) => either(&entry.response, *main, *other),
        Field::Trailer(main, other) => either(&entry.trailers, *main, *other),
        Field::Protocol => some(head.and_then(|head| protocol(head.version))),
        Field::ResponseCode => Value::Number(u64::from(ended.code.unwrap_or(0))),
        Field::ResponseFlags if ended.flags == Flags::NONE => some(Some("-")),
        Field::ResponseFlags => Value::Flags(ended.flags),
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
        Field::ServiceTime => ended.upstream.map_or(Value::Absent, |time| Value::Digits(whole_millis(time))),
        Field::AttemptCount => Value::Number(u64::from(ended.attempts)),
        Field::UpstreamHost => portion(entry.endpoint, Portion::Whole),
        Field::Upstream(part) => portion(entry.endpoint, *part),
        Field::UpstreamCluster => entry.cluster.as_ref().map_or(Value::Absent, |(host, key)| match &**host {
            name @ (PASSTHROUGH | BLACK_HOLE) => some(Some(name)),
            host => Value::Cluster(host, key),
        }),
        Field::UpstreamLocal(part) => portion(entry.endpoint_local, *part),
        Field::DownstreamLocal(part) => portion(Some(entry.local), *part),
        Field::DownstreamRemote(part) => portion(Some(entry.client), *part),
        Field::ServerName => some(entry.server_name.as_deref()),
        Field::RouteName => {
            let undeclared = entry.cluster.as_ref().is_some_and(|(host, _)| **host == *PASSTHROUGH);
            some(if undeclared && head.is_some() { Some(ALLOW_ANY) } else { ended.route.as_deref() })
        }
        Field::GrpcStatus => match ended.grpc_status {
            None => Value::Absent,
            Some(status) => grpc::STATUS_NAMES
                .get(usize::from(status))
                .map_or(Value::Digits(status.into()), |name| some(Some(name))),
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

fn portion(of: Option<SocketAddr>, part: Portion) -> Value<'static> {
    let Some(addr) = of else { return Value::Absent };
    match part {
        Portion::Whole => Value::Address(addr),
        Portion::Ip => Value::Ip(addr.ip()),
        Portion::Port => Value::Number(addr.port().into()),
    }
}

fn millis(duration: Duration) -> Value<'static> {
    Value::Number(whole_millis(duration))
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Nothing to say is the same as nothing.
fn bytes(of: Option<&[u8]>) -> Value<'_> {
    of.filter(|bytes| !bytes.is_empty()).map_or(Value::Absent, Value::Text)
}

fn some(of: Option<&str>) -> Value<'_> {
    bytes(of.map(str::as_bytes))
}
