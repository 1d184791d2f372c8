//! Lines as they are written.
//!
//! Most of a line is the same in the next one of its kind: it is kept, with a hole wherever a request has something of
//! its own. The worker makes such templates, the writer fills them in.

use super::batch::Line;
use super::entry::{Kind, Known};
use super::texts::{self, LONGEST, PATH, REQUEST, SCHEME, View};
use super::{How, address, escape, time};
use crate::error::{Flags, NO_FILTER_CHAIN};
use crate::grpc;
use crate::snapshot::ClusterKey;
use crate::snapshot::access_log::{
    Common, Field, Format, Named, Operator, Own, Piece, Place, Portion, TimePart, Wanted,
};
use http::{Method, Version};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;

/// Istio's names for destinations that nobody declared, and for the route to them.
const PASSTHROUGH: &str = "PassthroughCluster";
const BLACK_HOLE: &str = "BlackHoleCluster";
const ALLOW_ANY: &str = "allow_any";

static HOSTNAME: LazyLock<String> = LazyLock::new(|| rustix::system::uname().nodename().to_string_lossy().into_owned());

/// A line with holes.
#[derive(Debug)]
pub(super) struct Template {
    /// Whom its requests ask, and how.
    pub(super) authority: Box<[u8]>,
    method: Option<Method>,
    /// With [`SHORT`] bytes more than the line has.
    text: Vec<u8>,
    /// Place in the text, place among the format's pieces.
    holes: Vec<(usize, usize)>,
}

/// Between two holes there is rarely more: always as much is copied, which costs less than to find out how much it is.
const SHORT: usize = 32;

/// The time that was written last: at a hundred requests in a millisecond most say the same.
#[derive(Debug, Default)]
pub(super) struct Clock {
    piece: usize,
    /// It holds from here, nanoseconds since 1970, for so long; zero: there is none.
    from: u64,
    lasts: u64,
    /// As it stands in its place.
    text: Vec<u8>,
}

/// What an operator comes to; what is made of several things is made where it is written.
enum Value<'a> {
    Absent,
    Number(u64),
    /// It may hold whatever a client, or whoever wrote the configuration, likes.
    Text(&'a [u8]),
    /// There is nothing in it to escape.
    Plain(&'a str),
    /// A number that JSON shows as a string: to Envoy it is a header field.
    Digits(u64),
    Flags(Flags),
    Address(SocketAddr),
    Ip(IpAddr),
}

impl Template {
    pub(super) fn new(format: &Format, known: &Known, how: &How<'_>) -> Self {
        let (kind, authority) = (&known.kind, known.authority());
        let (mut text, mut holes) = (Vec::new(), Vec::new());
        for (at, piece) in format.pieces.iter().enumerate() {
            match piece {
                Piece::Literal(literal) => text.extend_from_slice(literal.as_bytes()),
                Piece::Value(operator, place) => match &operator.field {
                    Field::Common(common) => {
                        put(&of_common(*common, kind, authority, how), *place, operator.most, &mut text);
                    }
                    Field::Own(_) | Field::StartTime(_) => holes.push((text.len(), at)),
                },
            }
        }
        let method = kind.asked.as_ref().map(|(method, _)| method.clone());
        text.resize(text.len() + SHORT, 0);
        text.shrink_to_fit();
        holes.shrink_to_fit();
        Self { authority: authority.into(), method, text, holes }
    }

    /// Bytes.
    pub(super) fn size(&self) -> usize {
        size_of::<Self>() + self.authority.len() + self.text.len() + size_of_val(&self.holes[..])
    }

    /// Appends one line, which ends in the only line feed it has unless the format has more.
    pub(super) fn write(&self, format: &Format, clock: &mut Clock, line: &Line, texts: View<'_>, out: &mut Vec<u8>) {
        let mut from = 0;
        for (until, at) in &self.holes {
            self.copy(from, *until, out);
            from = *until;
            let Some(Piece::Value(Operator { field, most }, place)) = format.pieces.get(*at) else { continue };
            match field {
                Field::Own(own) => put(&self.of_own(own, &format.wanted, line, texts), *place, *most, out),
                Field::StartTime(parts) => clock.put(*at, parts, line.started, *place, *most, out),
                // It is in the text.
                Field::Common(_) => {}
            }
        }
        self.copy(from, self.text.len() - SHORT, out);
    }

    fn copy(&self, from: usize, until: usize, out: &mut Vec<u8>) {
        let Some(text) = self.text.get(from..) else { return };
        let length = until - from;
        match text.first_chunk::<SHORT>() {
            Some(short) if length <= SHORT => {
                let end = out.len() + length;
                out.extend_from_slice(short);
                out.truncate(end);
            }
            _ => out.extend_from_slice(text.get(..length).unwrap_or_default()),
        }
    }

    fn of_own<'a>(&'a self, field: &Own, wanted: &Wanted, line: &Line, texts: View<'a>) -> Value<'a> {
        let either = |first: usize, main: usize, other: Option<usize>| {
            text(texts.get(first + main).or_else(|| texts.get(first + other?)))
        };
        match field {
            Own::Request(main, other) => text(self.named(main, texts).or_else(|| self.named(other.as_ref()?, texts))),
            Own::Response(main, other) => either(texts::response(wanted), *main, *other),
            Own::Trailer(main, other) => either(texts::trailers(wanted), *main, *other),
            Own::BytesReceived => Value::Number(line.received),
            Own::BytesSent => Value::Number(line.sent),
            Own::Duration => millis(line.duration),
            Own::ResponseDuration => line.answered.map_or(Value::Absent, millis),
            Own::ResponseTxDuration => {
                line.answered.map_or(Value::Absent, |answered| millis(line.duration.saturating_sub(answered)))
            }
            // A header field to Envoy, and so a string.
            Own::ServiceTime => line.upstream.map_or(Value::Absent, |time| Value::Digits(whole_millis(time))),
            Own::DownstreamRemote(part) => portion(Some(line.client), *part),
            Own::ConnectionId => Value::Number(line.connection),
        }
    }

    fn named<'a>(&'a self, name: &Named, texts: View<'a>) -> Option<&'a [u8]> {
        match name {
            Named::Method => Some(self.method.as_ref()?.as_str().as_bytes()),
            Named::Path => texts.get(PATH),
            Named::Authority => Some(&self.authority),
            Named::Scheme => texts.get(SCHEME),
            Named::Header(at) => texts.get(REQUEST + at),
        }
    }
}

impl Clock {
    /// `piece`: the operator's place in its format; `now`: nanoseconds since 1970.
    fn put(
        &mut self,
        piece: usize,
        parts: &[TimePart],
        now: u64,
        place: Place,
        most: Option<usize>,
        out: &mut Vec<u8>,
    ) {
        if self.piece != piece || now.wrapping_sub(self.from) >= self.lasts {
            let lasts = time::resolution(parts);
            (self.piece, self.from, self.lasts) = (piece, now - now % lasts, lasts);
            let mut text = Vec::new();
            time::write(parts, Duration::from_nanos(now), &mut text);
            self.text.clear();
            put(&Value::Text(&text), place, most, &mut self.text);
        }
        out.extend_from_slice(&self.text);
    }
}

/// Appends a value as it stands in its place, no longer than `most` before it is escaped; numbers are never cut.
fn put(value: &Value<'_>, place: Place, most: Option<usize>, out: &mut Vec<u8>) {
    let from = out.len();
    match (value, place) {
        (Value::Absent, Place::Alone) => {
            unquote(out);
            return out.extend_from_slice(b"null");
        }
        (Value::Absent, _) => return out.push(b'-'),
        (Value::Number(number), Place::Alone) => {
            unquote(out);
            return digits(*number, out);
        }
        (Value::Number(number), _) => return digits(*number, out),
        (Value::Text(bytes), _) => out.extend_from_slice(bytes),
        (Value::Plain(text), _) => out.extend_from_slice(text.as_bytes()),
        (Value::Digits(number), _) => digits(*number, out),
        // Writing to a Vec does not fail.
        (Value::Flags(flags), _) => drop(write!(out, "{flags}")),
        (Value::Address(addr), _) => address::write(*addr, out),
        (Value::Ip(addr), _) => address::write_ip(*addr, out),
    }
    out.truncate(from.saturating_add(most.unwrap_or(LONGEST).min(LONGEST)));
    match (value, place) {
        (Value::Text(_), Place::Text) => escape::text(out, from),
        (Value::Text(_), _) => escape::json(out, from),
        _ => {}
    }
    if place == Place::Alone {
        out.push(b'"');
    }
}

/// Most values are strings: the quote stands there already.
fn unquote(out: &mut Vec<u8>) {
    out.pop();
}

fn digits(number: u64, out: &mut Vec<u8>) {
    match u8::try_from(number) {
        Ok(digit @ 0..=9) => out.push(b'0' + digit),
        _ => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
    }
}

fn of_common<'a>(field: Common, kind: &'a Kind, authority: &'a [u8], how: &'a How<'_>) -> Value<'a> {
    let asked = kind.asked.as_ref();
    match field {
        // A token (RFC 9110 §9.1).
        Common::Method => asked.map_or(Value::Absent, |(method, _)| Value::Plain(method.as_str())),
        Common::Authority => text(asked.map(|_| authority)),
        Common::Protocol => asked.and_then(|(_, version)| protocol(*version)).map_or(Value::Absent, Value::Plain),
        Common::ResponseCode => Value::Number(u64::from(how.code.unwrap_or(0))),
        Common::ResponseFlags if how.flags == Flags::NONE => Value::Plain("-"),
        Common::ResponseFlags => Value::Flags(how.flags),
        // Of responses: a connection has none. Of connections Envoy tells no more than this one.
        Common::ResponseCodeDetails => {
            some(Some(&*how.details).filter(|details| asked.is_some() || *details == NO_FILTER_CHAIN))
        }
        Common::UpstreamTransportFailure => some(transport_failure(&how.details)),
        // Envoy's are of filters and TLS that this data path does not have.
        Common::ConnectionTerminationDetails => Value::Absent,
        Common::AttemptCount => Value::Number(u64::from(how.attempts)),
        Common::UpstreamHost => portion(kind.endpoint, Portion::Whole),
        Common::Upstream(part) => portion(kind.endpoint, part),
        Common::UpstreamCluster => some(kind.cluster.as_deref()),
        Common::UpstreamLocal(part) => portion(kind.endpoint_local, part),
        Common::DownstreamLocal(part) => portion(Some(kind.local), part),
        Common::ServerName => some(kind.server_name.as_deref()),
        Common::RouteName if asked.is_some() && kind.cluster.as_deref() == Some(PASSTHROUGH) => Value::Plain(ALLOW_ANY),
        Common::RouteName => some(how.route.as_deref()),
        Common::GrpcStatus => match how.grpc_status {
            None => Value::Absent,
            Some(status) => grpc::STATUS_NAMES
                .get(usize::from(status))
                .map_or(Value::Digits(status.into()), |name| Value::Plain(name)),
        },
        Common::GrpcStatusNumber => how.grpc_status.map_or(Value::Absent, |status| Value::Number(status.into())),
        Common::Hostname => some(Some(&HOSTNAME)),
    }
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
fn text(of: Option<&[u8]>) -> Value<'_> {
    of.filter(|bytes| !bytes.is_empty()).map_or(Value::Absent, Value::Text)
}

fn some(of: Option<&str>) -> Value<'_> {
    text(of.map(str::as_bytes))
}

/// What lines call a destination: Envoy's `outbound|PORT|SUBSET|HOST`; what nobody declared has a name of its own. `host`:
/// of the Service, or what stands for one.
pub fn cluster(host: &str, key: &ClusterKey) -> Rc<str> {
    match host {
        PASSTHROUGH | BLACK_HOLE => host.into(),
        host => format!("outbound|{}|{}|{host}", key.port.port, key.subset.as_deref().unwrap_or_default()).into(),
    }
}
