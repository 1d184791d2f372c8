//! Envoy's command operators, `%COMMAND(X?Y):len%` (configuration/observability/access_log/usage).

use super::Wanted;
use http::HeaderName;

/// A piece of a format string.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Part {
    Literal(Box<str>),
    Operator(Operator),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Operator {
    pub field: Field,
    /// Longest text, bytes.
    pub most: Option<usize>,
}

/// What an operator stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    StartTime(Vec<TimePart>),
    Common(Common),
    Own(Own),
}

/// What many requests have in common: those of one kind of caller at one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Common {
    Method,
    Authority,
    Protocol,
    ResponseCode,
    ResponseFlags,
    ResponseCodeDetails,
    ConnectionTerminationDetails,
    UpstreamTransportFailure,
    AttemptCount,
    UpstreamHost,
    UpstreamCluster,
    Upstream(Portion),
    UpstreamLocal(Portion),
    DownstreamLocal(Portion),
    ServerName,
    RouteName,
    GrpcStatus,
    GrpcStatusNumber,
    Hostname,
}

/// What each request has of its own.
#[derive(Clone, Debug, PartialEq)]
pub enum Own {
    /// The second one where the first is absent.
    Request(Named, Option<Named>),
    /// Places in [`Wanted::response`].
    Response(usize, Option<usize>),
    /// A place in [`Wanted::trailers`].
    Trailer(usize, Option<usize>),
    BytesReceived,
    BytesSent,
    Duration,
    /// From the request's head to the response's.
    ResponseDuration,
    /// From the response's head to its end.
    ResponseTxDuration,
    /// From the first attempt to the response's head.
    ServiceTime,
    DownstreamRemote(Portion),
    ConnectionId,
}

/// Which part of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Portion {
    Whole,
    Ip,
    Port,
}

/// Where a request's value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Named {
    Method,
    Path,
    Authority,
    Scheme,
    /// A place in [`Wanted::request`].
    Header(usize),
}

/// A piece of `%START_TIME(…)%`, in UTC.
#[derive(Clone, Debug, PartialEq)]
pub enum TimePart {
    Literal(Box<str>),
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    /// Seconds since 1970.
    Epoch,
    /// So many digits of the second's fraction.
    Fraction(u8),
}

/// Why a format is none, for diagnostics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("a `%` without its partner: write `%%` for the character itself")]
    Unfinished,
    #[error("%{0}% is not an operator this version knows")]
    Unknown(String),
    #[error("%{0}%: the length after `:` is no number")]
    Length(String),
    #[error("%{0}%: malformed header name")]
    Name(String),
    #[error("%START_TIME({0})%: %Y %m %d %H %M %S %s %f %1f to %9f %F %T %z %Z are known")]
    Time(String),
    #[error("not an object of format strings: {0}")]
    NotAnObject(String),
}

/// ISO 8601 with milliseconds, Envoy's default.
const ISO_8601: &str = "%Y-%m-%dT%H:%M:%S.%3fZ";
const SERVICE_TIME: &str = "X-ENVOY-UPSTREAM-SERVICE-TIME";

/// Splits a format string.
pub(super) fn parse(text: &str, wanted: &mut Wanted) -> Result<Vec<Part>, FormatError> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        literal.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let (command, after) = command(after)?;
        if !literal.is_empty() {
            parts.push(Part::Literal(std::mem::take(&mut literal).into()));
        }
        parts.push(Part::Operator(operator(command, wanted)?));
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.into()));
    }
    Ok(parts)
}

/// Up to the closing `%`; those in parentheses (times) do not close.
fn command(text: &str) -> Result<(&str, &str), FormatError> {
    let end = text.find(['%', '(']).ok_or(FormatError::Unfinished)?;
    let from = match text.get(end..).filter(|rest| rest.starts_with('(')) {
        Some(rest) => end + rest.find(')').ok_or(FormatError::Unfinished)?,
        None => end,
    };
    let tail = text.get(from..).unwrap_or_default();
    let close = from + tail.find('%').ok_or(FormatError::Unfinished)?;
    Ok((text.get(..close).unwrap_or_default(), text.get(close + 1..).unwrap_or_default()))
}

fn operator(command: &str, wanted: &mut Wanted) -> Result<Operator, FormatError> {
    let unknown = || FormatError::Unknown(command.to_owned());
    let (name, argument, tail) = match command.split_once('(') {
        Some((name, rest)) => {
            let (argument, tail) = rest.rsplit_once(')').ok_or_else(unknown)?;
            (name, Some(argument), tail)
        }
        None => {
            let at = command.find(':').unwrap_or(command.len());
            let (name, tail) = command.split_at(at);
            (name, None, tail)
        }
    };
    let most = match tail.strip_prefix(':') {
        Some(digits) => Some(digits.parse().map_err(|_| FormatError::Length(command.to_owned()))?),
        None if tail.is_empty() => None,
        None => return Err(unknown()),
    };
    let field = match (name, argument) {
        ("START_TIME", format) => Field::StartTime(time(format.filter(|f| !f.is_empty()).unwrap_or(ISO_8601))?),
        ("REQ", Some(names)) => {
            let (main, other) = either(names);
            let main = named(main, command, &mut wanted.request)?;
            match (main, other.map(|name| named(name, command, &mut wanted.request)).transpose()?) {
                (Named::Method, None) => Field::Common(Common::Method),
                (Named::Authority, None) => Field::Common(Common::Authority),
                (main, other) => Field::Own(Own::Request(main, other)),
            }
        }
        ("RESP", Some(":STATUS" | ":status")) => Field::Common(Common::ResponseCode),
        ("RESP", Some(name)) if name.eq_ignore_ascii_case(SERVICE_TIME) => Field::Own(Own::ServiceTime),
        ("RESP", Some(names)) => {
            let (main, other) = places(names, command, &mut wanted.response)?;
            Field::Own(Own::Response(main, other))
        }
        ("TRAILER", Some(names)) => {
            let (main, other) = places(names, command, &mut wanted.trailers)?;
            Field::Own(Own::Trailer(main, other))
        }
        ("GRPC_STATUS", Some("NUMBER")) => Field::Common(Common::GrpcStatusNumber),
        ("GRPC_STATUS", Some("CAMEL_STRING")) => Field::Common(Common::GrpcStatus),
        (_, Some(_)) => return Err(unknown()),
        (name, None) => own(name).map(Field::Own).or_else(|| common(name).map(Field::Common)).ok_or_else(unknown)?,
    };
    Ok(Operator { field, most })
}

fn own(name: &str) -> Option<Own> {
    use Portion::{Ip, Port, Whole};
    Some(match name {
        "BYTES_RECEIVED" => Own::BytesReceived,
        "BYTES_SENT" => Own::BytesSent,
        "DURATION" => Own::Duration,
        "RESPONSE_DURATION" => Own::ResponseDuration,
        "RESPONSE_TX_DURATION" => Own::ResponseTxDuration,
        "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Own::DownstreamRemote(Whole),
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
            Own::DownstreamRemote(Ip)
        }
        "DOWNSTREAM_REMOTE_PORT" | "DOWNSTREAM_DIRECT_REMOTE_PORT" => Own::DownstreamRemote(Port),
        "CONNECTION_ID" => Own::ConnectionId,
        _ => return None,
    })
}

fn common(name: &str) -> Option<Common> {
    use Portion::{Ip, Port, Whole};
    Some(match name {
        "PROTOCOL" => Common::Protocol,
        "RESPONSE_CODE" => Common::ResponseCode,
        "RESPONSE_FLAGS" => Common::ResponseFlags,
        "RESPONSE_CODE_DETAILS" => Common::ResponseCodeDetails,
        "CONNECTION_TERMINATION_DETAILS" => Common::ConnectionTerminationDetails,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Common::UpstreamTransportFailure,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Common::AttemptCount,
        "UPSTREAM_HOST" => Common::UpstreamHost,
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Common::UpstreamCluster,
        "UPSTREAM_REMOTE_ADDRESS" => Common::Upstream(Whole),
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Common::Upstream(Ip),
        "UPSTREAM_REMOTE_PORT" => Common::Upstream(Port),
        "UPSTREAM_LOCAL_ADDRESS" => Common::UpstreamLocal(Whole),
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Common::UpstreamLocal(Ip),
        "UPSTREAM_LOCAL_PORT" => Common::UpstreamLocal(Port),
        "DOWNSTREAM_LOCAL_ADDRESS" => Common::DownstreamLocal(Whole),
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Common::DownstreamLocal(Ip),
        "DOWNSTREAM_LOCAL_PORT" => Common::DownstreamLocal(Port),
        "REQUESTED_SERVER_NAME" => Common::ServerName,
        "ROUTE_NAME" => Common::RouteName,
        "GRPC_STATUS" => Common::GrpcStatus,
        "GRPC_STATUS_NUMBER" => Common::GrpcStatusNumber,
        "HOSTNAME" => Common::Hostname,
        _ => return None,
    })
}

fn either(names: &str) -> (&str, Option<&str>) {
    names.split_once('?').map_or((names, None), |(main, other)| (main, Some(other)))
}

fn named(name: &str, command: &str, wanted: &mut Vec<HeaderName>) -> Result<Named, FormatError> {
    Ok(match name.to_ascii_lowercase().as_str() {
        ":method" => Named::Method,
        ":path" => Named::Path,
        ":authority" | "host" => Named::Authority,
        ":scheme" => Named::Scheme,
        name => Named::Header(place(name, command, wanted)?),
    })
}

fn places(names: &str, command: &str, wanted: &mut Vec<HeaderName>) -> Result<(usize, Option<usize>), FormatError> {
    let (main, other) = either(names);
    let main = place(main, command, wanted)?;
    Ok((main, other.map(|name| place(name, command, wanted)).transpose()?))
}

fn place(name: &str, command: &str, wanted: &mut Vec<HeaderName>) -> Result<usize, FormatError> {
    let name = HeaderName::try_from(name).map_err(|_| FormatError::Name(command.to_owned()))?;
    if let Some(at) = wanted.iter().position(|known| *known == name) {
        return Ok(at);
    }
    wanted.push(name);
    Ok(wanted.len() - 1)
}

/// strftime(3), as far as it says something of UTC, and Envoy's `%3f`.
fn time(format: &str) -> Result<Vec<TimePart>, FormatError> {
    use TimePart::{Day, Epoch, Fraction, Hour, Literal, Minute, Month, Second, Year};
    let text = |text: &str| Literal(text.into());
    let mut parts = Vec::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        if !before.is_empty() {
            parts.push(text(before));
        }
        let mut chars = after.chars();
        match chars.next() {
            Some('Y') => parts.push(Year),
            Some('m') => parts.push(Month),
            Some('d') => parts.push(Day),
            Some('H') => parts.push(Hour),
            Some('M') => parts.push(Minute),
            Some('S') => parts.push(Second),
            Some('s') => parts.push(Epoch),
            Some('f') => parts.push(Fraction(9)),
            Some('F') => parts.extend([Year, text("-"), Month, text("-"), Day]),
            Some('T') => parts.extend([Hour, text(":"), Minute, text(":"), Second]),
            Some('z') => parts.push(text("+0000")),
            Some('Z') => parts.push(text("UTC")),
            Some('%') => parts.push(text("%")),
            Some(digit @ '1'..='9') if chars.next() == Some('f') => parts.push(Fraction(digit as u8 - b'0')),
            _ => return Err(FormatError::Time(format.to_owned())),
        }
        rest = chars.as_str();
    }
    if !rest.is_empty() {
        parts.push(text(rest));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Operator, FormatError> {
        let mut parts = parse(text, &mut Wanted::default())?;
        assert_eq!(parts.len(), 1, "{parts:?}");
        match parts.pop() {
            Some(Part::Operator(operator)) => Ok(operator),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn operators_are_told_apart_from_text() {
        let mut wanted = Wanted::default();
        let parts = parse("100%% %REQ(X-A?:PATH):7%|%REQ(x-a)%", &mut wanted).unwrap();
        let header = |most| Part::Operator(Operator { field: Field::Own(Own::Request(Named::Header(0), None)), most });
        let first = Field::Own(Own::Request(Named::Header(0), Some(Named::Path)));
        assert_eq!(
            parts,
            [
                Part::Literal("100% ".into()),
                Part::Operator(Operator { field: first, most: Some(7) }),
                Part::Literal("|".into()),
                header(None),
            ]
        );
        assert_eq!(wanted.request, ["x-a"], "kept once");
    }

    #[test]
    fn times_have_formats_of_their_own() {
        let at = |format: &str| one(&format!("%START_TIME({format})%")).map(|operator| operator.field);
        let slash = TimePart::Literal("/".into());
        assert_eq!(at("%d/%m").unwrap(), Field::StartTime(vec![TimePart::Day, slash, TimePart::Month]));
        assert_eq!(at("%s.%6f").unwrap(), at("%s.%6f").unwrap());
        assert_eq!(at("%Q").unwrap_err(), FormatError::Time("%Q".into()));
        assert_eq!(one("%START_TIME%").unwrap(), one(&format!("%START_TIME({ISO_8601})%")).unwrap());
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let error = |text: &str| parse(text, &mut Wanted::default()).unwrap_err();
        assert_eq!(error("%FILTER_STATE(a)%"), FormatError::Unknown("FILTER_STATE(a)".into()));
        assert_eq!(error("%REQ%"), FormatError::Unknown("REQ".into()));
        assert_eq!(error("%REQ(a):x%"), FormatError::Length("REQ(a):x".into()));
        assert_eq!(error("%REQ(a b)%"), FormatError::Name("REQ(a b)".into()));
        assert_eq!(error("50% off"), FormatError::Unfinished);
        assert_eq!(error("%REQ(a"), FormatError::Unfinished);
    }
}
