//! What the access log says of a request or connection: the lines of Istio's MeshConfig, in Envoy's format language.
//!
//! Place in the path: `config::compile` parses a format once, `telemetry` fills in the values. Invariant: a format knows
//! which header fields it needs, so that nothing else of a request is kept for it.

mod operator;

pub use operator::{Common, Field, FormatError, Named, Operator, Own, Portion, TimePart};

use http::HeaderName;
use operator::Part;
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
    pub pieces: Vec<Piece>,
    pub wanted: Wanted,
}

/// Header fields that a format names; an operator names one by its place.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub request: Vec<HeaderName>,
    pub response: Vec<HeaderName>,
    pub trailers: Vec<HeaderName>,
}

/// What a line is put together from. No two literals follow each other.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    Literal(Box<str>),
    Value(Operator, Place),
}

/// Where a value stands: it decides what is escaped, and what is written where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a line of text.
    Text,
    /// In a JSON string, beside other text.
    Within,
    /// A JSON value of its own, which keeps its type: a number, a string, or `null`. Before it stands the quote that opens
    /// it should it be a string.
    Alone,
}

impl Format {
    /// `source`: empty for Istio's own line; else Envoy's format string, or (JSON) an object of them.
    ///
    /// # Errors
    /// The first thing that is not understood.
    pub fn parse(encoding: Encoding, source: &str) -> Result<Self, FormatError> {
        let (mut wanted, mut pieces) = (Wanted::default(), Pieces::default());
        match encoding {
            Encoding::Text => {
                let text = if source.is_empty() { TEXT } else { source };
                let parts = operator::parse(text, &mut wanted)?;
                // Istio adds what people forget; a line that ends in two would be two.
                let ends = matches!(parts.last(), Some(Part::Literal(last)) if last.ends_with('\n'));
                parts.into_iter().for_each(|part| pieces.part(part, Place::Text));
                if !ends {
                    pieces.literal("\n");
                }
            }
            Encoding::Json => {
                if source.is_empty() {
                    let values = JSON.into_iter().map(|(key, text)| (Value::from(key), Value::from(text)));
                    pieces.object(&values.collect(), &mut wanted)?;
                } else {
                    // JSON is YAML, and this parser keeps the keys in their order.
                    let object: Mapping =
                        serde_yaml_ng::from_str(source).map_err(|e| FormatError::NotAnObject(e.to_string()))?;
                    pieces.object(&object, &mut wanted)?;
                }
                pieces.literal("\n");
            }
        }
        Ok(Self { encoding, source: source.into(), pieces: pieces.0, wanted })
    }
}

impl Default for Format {
    fn default() -> Self {
        // A test holds that Istio's line parses.
        Self::parse(Encoding::Text, "").unwrap_or_else(|_| Self {
            encoding: Encoding::Text,
            source: "".into(),
            pieces: Vec::new(),
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

/// A line in the making.
#[derive(Default)]
struct Pieces(Vec<Piece>);

impl Pieces {
    fn literal(&mut self, text: &str) {
        match self.0.last_mut() {
            Some(Piece::Literal(before)) => *before = format!("{before}{text}").into(),
            _ => self.0.push(Piece::Literal(text.into())),
        }
    }

    fn part(&mut self, part: Part, place: Place) {
        match part {
            Part::Literal(text) if place == Place::Text => self.literal(&text),
            Part::Literal(text) => {
                let quoted = quoted(&text);
                self.literal(quoted.get(1..quoted.len() - 1).unwrap_or_default());
            }
            Part::Operator(operator) => self.0.push(Piece::Value(operator, place)),
        }
    }

    fn object(&mut self, object: &Mapping, wanted: &mut Wanted) -> Result<(), FormatError> {
        self.literal("{");
        for (at, (key, value)) in object.iter().enumerate() {
            let key = key.as_str().ok_or_else(|| FormatError::NotAnObject("a key is no string".to_owned()))?;
            self.literal(if at == 0 { "" } else { "," });
            self.literal(&quoted(key));
            self.literal(":");
            match value {
                Value::String(text) => self.text(text, wanted)?,
                Value::Mapping(inner) => self.object(inner, wanted)?,
                Value::Number(number) => self.literal(&number.to_string()),
                Value::Bool(flag) => self.literal(&flag.to_string()),
                Value::Null => self.literal("null"),
                Value::Sequence(_) | Value::Tagged(_) => {
                    return Err(FormatError::NotAnObject(format!("{key}: a list is not possible")));
                }
            }
        }
        self.literal("}");
        Ok(())
    }

    /// A value that is a format string.
    fn text(&mut self, text: &str, wanted: &mut Wanted) -> Result<(), FormatError> {
        let parts = operator::parse(text, wanted)?;
        self.literal("\"");
        if let [Part::Operator(only)] = &parts[..] {
            self.0.push(Piece::Value(only.clone(), Place::Alone));
            return Ok(());
        }
        parts.into_iter().for_each(|part| self.part(part, Place::Within));
        self.literal("\"");
        Ok(())
    }
}

/// As JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(format: &Format) -> Vec<Place> {
        let place = |piece: &Piece| match piece {
            Piece::Literal(_) => None,
            Piece::Value(_, place) => Some(*place),
        };
        format.pieces.iter().filter_map(place).collect()
    }

    fn literals(format: &Format) -> Vec<&str> {
        let mut literals = Vec::new();
        for piece in &format.pieces {
            if let Piece::Literal(text) = piece {
                literals.push(&**text);
            }
        }
        literals
    }

    #[test]
    fn istios_own_lines_parse() {
        let text = Format::default();
        assert_eq!(values(&text), [Place::Text; 24]);
        let wanted: Vec<_> = text.wanted.request.iter().map(HeaderName::as_str).collect();
        assert_eq!(wanted, ["x-envoy-original-path", "x-forwarded-for", "user-agent", "x-request-id"]);
        assert!(text.wanted.response.is_empty(), "the service time is ours to measure");
        let json = Format::parse(Encoding::Json, "").unwrap();
        assert_eq!(values(&json), [Place::Alone; 24]);
        assert_eq!(literals(&json)[..2], ["{\"start_time\":\"", ",\"route_name\":\""]);
    }

    #[test]
    fn a_json_format_keeps_its_order_and_may_nest() {
        let source = r#"{"z": "%PROTOCOL%", "a": {"code": "%RESPONSE_CODE%", "text": "\"c\"=%RESPONSE_CODE%."}, "v": 2, "e": {}}"#;
        let format = Format::parse(Encoding::Json, source).unwrap();
        assert_eq!(values(&format), [Place::Alone, Place::Alone, Place::Within]);
        let between = [r#"{"z":""#, r#","a":{"code":""#, r#","text":"\"c\"="#, ".\"},\"v\":2,\"e\":{}}\n"];
        assert_eq!(literals(&format), between);
        assert!(Format::parse(Encoding::Json, "%PROTOCOL%").is_err());
        assert!(Format::parse(Encoding::Json, r#"{"a": ["x"]}"#).is_err());
    }
}
