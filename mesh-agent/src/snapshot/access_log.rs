//! What the access log says of a request or connection: the lines of Istio's MeshConfig, in Envoy's format language.
//!
//! Place in the path: `config::compile` parses a format once, `telemetry` fills in the values. Invariant: a format knows
//! which header fields it needs, so that nothing else of a request is kept for it.

mod operator;

pub use operator::{Field, FormatError, Named, Operator, Part, Portion, TimePart};

use http::HeaderName;
use serde::Serialize;
use serde_yaml_ng::{Mapping, Value};
use std::fmt;
use std::sync::Arc;

/// Istio's text line (pilot/pkg/model/telemetry_logging.go, `EnvoyTextLogFormat`).
pub const TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
    \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
    \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% \
    %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Istio's JSON keys (the same file, `EnvoyJSONLogFormatIstio`).
const JSON: [(&str, &str); 24] = [
    ("start_time", "%START_TIME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
];

/// `accessLogFile`, `accessLogFormat` and `accessLogEncoding`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AccessLogSettings {
    /// `None`: off, unless the command line says where.
    pub file: Option<Arc<str>>,
    pub format: Arc<Format>,
}

/// `accessLogEncoding`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Encoding {
    #[default]
    Text,
    Json,
}

/// One line for each request.
#[derive(Clone)]
pub struct Format {
    encoding: Encoding,
    source: Arc<str>,
    pub body: Layout,
    pub wanted: Wanted,
}

/// Header fields that a format names; an operator names one by its place.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub request: Vec<HeaderName>,
    pub response: Vec<HeaderName>,
    pub trailers: Vec<HeaderName>,
}

#[derive(Clone, Debug)]
pub enum Layout {
    Text(Vec<Part>),
    Json(Vec<(Box<str>, Json)>),
}

/// A value of a JSON line. With it in its object goes what stands before it: bracket or comma, its key, and the quote that
/// opens it where it may be a string.
#[derive(Clone, Debug)]
pub enum Json {
    /// One operator alone keeps its type: a number, a string, or `null`.
    Operator(Operator),
    /// Text around operators is a string.
    Parts(Vec<Part>),
    Object(Vec<(Box<str>, Self)>),
    /// A number or boolean, as JSON.
    Constant(Box<str>),
}

impl Format {
    /// `source`: empty for Istio's own line; else Envoy's format string, or (JSON) an object of them.
    ///
    /// # Errors
    /// The first thing that is not understood.
    pub fn parse(encoding: Encoding, source: &str) -> Result<Self, FormatError> {
        let mut wanted = Wanted::default();
        let body = match encoding {
            Encoding::Text => {
                let text = if source.is_empty() { TEXT } else { source };
                let mut parts = operator::parse(text, &mut wanted)?;
                // Istio adds what people forget; a line that ends in two would be two.
                match parts.last_mut() {
                    Some(Part::Literal(last)) if last.ends_with('\n') => {}
                    _ => parts.push(Part::Literal("\n".into())),
                }
                Layout::Text(parts)
            }
            Encoding::Json if source.is_empty() => {
                let value = |(key, text): (&'static str, &str)| Ok((key, json_text(text, &mut wanted)?));
                let values = JSON.into_iter().map(value).collect::<Result<Vec<_>, FormatError>>()?;
                Layout::Json(with_keys(values))
            }
            Encoding::Json => {
                // JSON is YAML, and this parser keeps the keys in their order.
                let object: Mapping =
                    serde_yaml_ng::from_str(source).map_err(|e| FormatError::NotAnObject(e.to_string()))?;
                Layout::Json(json_object(&object, &mut wanted)?)
            }
        };
        Ok(Self { encoding, source: source.into(), body, wanted })
    }
}

impl Default for Format {
    fn default() -> Self {
        // A test holds that Istio's line parses.
        Self::parse(Encoding::Text, "").unwrap_or_else(|_| Self {
            encoding: Encoding::Text,
            source: "".into(),
            body: Layout::Text(Vec::new()),
            wanted: Wanted::default(),
        })
    }
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.encoding == other.encoding && self.source == other.source
    }
}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Format").field("encoding", &self.encoding).field("source", &self.source).finish()
    }
}

impl Serialize for Format {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.encoding, &*self.source).serialize(serializer)
    }
}

fn json_object(object: &Mapping, wanted: &mut Wanted) -> Result<Vec<(Box<str>, Json)>, FormatError> {
    let mut values = Vec::new();
    for (key, value) in object {
        let key = key.as_str().ok_or_else(|| FormatError::NotAnObject("a key is no string".to_owned()))?;
        values.push((key, json_value(key, value, wanted)?));
    }
    Ok(with_keys(values))
}

fn with_keys(values: Vec<(&str, Json)>) -> Vec<(Box<str>, Json)> {
    let before = |at, key: &str, value: &Json| {
        let bracket = if at == 0 { '{' } else { ',' };
        let quote = if matches!(value, Json::Operator(_) | Json::Parts(_)) { "\"" } else { "" };
        format!("{bracket}{}:{quote}", serde_json::Value::from(key)).into()
    };
    values.into_iter().enumerate().map(|(at, (key, value))| (before(at, key, &value), value)).collect()
}

fn json_value(key: &str, value: &Value, wanted: &mut Wanted) -> Result<Json, FormatError> {
    match value {
        Value::String(text) => json_text(text, wanted),
        Value::Mapping(inner) => Ok(Json::Object(json_object(inner, wanted)?)),
        Value::Number(number) => Ok(Json::Constant(number.to_string().into())),
        Value::Bool(flag) => Ok(Json::Constant(flag.to_string().into())),
        Value::Null => Ok(Json::Constant("null".into())),
        Value::Sequence(_) | Value::Tagged(_) => {
            Err(FormatError::NotAnObject(format!("{key}: a list is not possible")))
        }
    }
}

fn json_text(text: &str, wanted: &mut Wanted) -> Result<Json, FormatError> {
    let mut parts = operator::parse(text, wanted)?;
    Ok(match (parts.pop(), parts.is_empty()) {
        (Some(Part::Operator(only)), true) => Json::Operator(only),
        (last, _) => {
            parts.extend(last);
            Json::Parts(parts)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn istios_own_lines_parse() {
        let text = Format::default();
        let Layout::Text(parts) = &text.body else { panic!("{text:?}") };
        assert_eq!(parts.iter().filter(|part| matches!(part, Part::Operator(_))).count(), 24);
        let wanted: Vec<_> = text.wanted.request.iter().map(HeaderName::as_str).collect();
        assert_eq!(wanted, ["x-envoy-original-path", "x-forwarded-for", "user-agent", "x-request-id"]);
        assert!(text.wanted.response.is_empty(), "the service time is ours to measure");
        let json = Format::parse(Encoding::Json, "").unwrap();
        let Layout::Json(object) = &json.body else { panic!("{json:?}") };
        assert!(object.iter().all(|(_, value)| matches!(value, Json::Operator(_))));
        assert_eq!(object.len(), 24);
    }

    #[test]
    fn a_json_format_keeps_its_order_and_may_nest() {
        let source = r#"{"z": "%PROTOCOL%", "a": {"code": "%RESPONSE_CODE%", "text": "c=%RESPONSE_CODE%"}, "v": 2}"#;
        let format = Format::parse(Encoding::Json, source).unwrap();
        let Layout::Json(object) = &format.body else { panic!("{format:?}") };
        assert_eq!(object.iter().map(|(key, _)| &**key).collect::<Vec<_>>(), ["{\"z\":\"", ",\"a\":", ",\"v\":"]);
        assert!(Format::parse(Encoding::Json, "%PROTOCOL%").is_err());
        assert!(Format::parse(Encoding::Json, r#"{"a": ["x"]}"#).is_err());
    }
}
