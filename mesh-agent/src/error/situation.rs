//! The one table of everything the agent answers by itself (SEMANTICS §6). Code, metrics and documentation read it.

use super::{Flag, Outcome, grpc_status};

/// What the client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    Plain(&'static str),
    /// The reason in Envoy's `upstream connect error or disconnect/reset before headers. reset reason: …`.
    Reset(&'static str),
}

/// One row: how a situation looks to the client, the log, the balancer and the retry logic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// 0: nobody is there to be told.
    pub status: u16,
    pub flag: Option<Flag>,
    /// Envoy's `%RESPONSE_CODE_DETAILS%`.
    pub details: &'static str,
    pub text: Text,
    pub outcome: Outcome,
    /// There is proof that the endpoint did not process the request.
    pub proof: bool,
    /// RST_STREAM code where the head was already sent (RFC 9113 §7).
    pub reset: u32,
    pub doc: &'static str,
}

const INTERNAL_ERROR: u32 = 0x2;
const REFUSED_STREAM: u32 = 0x7;
const CANCEL: u32 = super::CANCEL;
const ENHANCE_YOUR_CALM: u32 = 0xb;

macro_rules! situations {
    ($($name:ident: $status:literal, $flag:expr, $details:literal, $text:expr, $outcome:ident, $proof:literal, $reset:ident, $doc:literal;)*) => {
        /// Why the agent answered in place of an endpoint.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Situation {
            $(#[doc = $doc] $name,)*
        }

        impl Situation {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            pub const fn row(self) -> Row {
                match self {
                    $(Self::$name => Row {
                        status: $status,
                        flag: $flag,
                        details: $details,
                        text: $text,
                        outcome: Outcome::$outcome,
                        proof: $proof,
                        reset: $reset,
                        doc: $doc,
                    },)*
                }
            }
        }
    };
}

use Text::{Plain, Reset};

situations! {
    NoRoute: 404, Some(Flag::NR), "route_not_found", Plain(""), Local, false, REFUSED_STREAM,
        "no route of the host matches the request";
    NoCluster: 503, Some(Flag::NC), "cluster_not_found", Plain(""), Local, false, REFUSED_STREAM,
        "a VirtualService's destination, or its subset, does not exist";
    RefusedBackend: 500, None, "direct_response", Plain(""), Local, false, REFUSED_STREAM,
        "a Gateway API backend is missing or not permitted: its share gets 500";
    UnknownHost: 502, None, "direct_response", Plain(""), Local, false, REFUSED_STREAM,
        "nobody declared the host, and the outbound policy is REGISTRY_ONLY";
    NoEndpoint: 503, Some(Flag::UH), "no_healthy_upstream", Plain("no healthy upstream"), Local, false, REFUSED_STREAM,
        "the Service or subset has no endpoint that may be used";
    ConnectRefused: 503, Some(Flag::UF),
        "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}",
        Reset("remote connection failure, transport failure reason: delayed connect error: Connection refused"),
        EndpointFailed, true, REFUSED_STREAM,
        "the endpoint refused the connection";
    ConnectTimeout: 503, Some(Flag::UF), "upstream_reset_before_response_started{connection_timeout}",
        Reset("connection timeout"), EndpointFailed, true, REFUSED_STREAM,
        "no connection within `connectTimeout`";
    ConnectFailed: 503, Some(Flag::UF), "upstream_reset_before_response_started{remote_connection_failure}",
        Reset("remote connection failure"), EndpointFailed, true, REFUSED_STREAM,
        "connecting failed otherwise";
    TlsFailed: 503, Some(Flag::UF), "upstream_reset_before_response_started{remote_connection_failure|TLS_error}",
        Reset("remote connection failure, transport failure reason: TLS_error"), EndpointFailed, true, REFUSED_STREAM,
        "the TLS handshake with the endpoint failed: its certificate, ours, or a missing Secret or file";
    NoSocket: 503, Some(Flag::LR), "upstream_reset_before_response_started{local_connection_failure}",
        Reset("local connection failure"), Local, false, REFUSED_STREAM,
        "the agent has no descriptor left, or the source pod is gone";
    Overflow: 503, Some(Flag::UO), "upstream_reset_before_response_started{overflow}", Reset("overflow"),
        Local, false, REFUSED_STREAM,
        "a circuit breaker or a limit of the agent is reached";
    Stalled: 503, Some(Flag::UO), "upstream_reset_before_response_started{overflow}", Reset("overflow"),
        Local, false, ENHANCE_YOUR_CALM,
        "too many bytes are held for readers that do not read";
    RefusedStream: 503, Some(Flag::UR), "upstream_reset_before_response_started{remote_refused_stream_reset}",
        Reset("remote refused stream reset"), Answered, true, REFUSED_STREAM,
        "the endpoint did not process the stream: REFUSED_STREAM, or beyond a GOAWAY's last";
    NotSent: 503, Some(Flag::UC), "upstream_reset_before_response_started{connection_termination}",
        Reset("connection termination"), Answered, true, REFUSED_STREAM,
        "the connection ended before a byte of the request was written";
    Closed: 503, Some(Flag::UC), "upstream_reset_before_response_started{connection_termination}",
        Reset("connection termination"), EndpointFailed, false, INTERNAL_ERROR,
        "the endpoint closed the connection before its response";
    RemoteReset: 503, Some(Flag::UR), "upstream_reset_before_response_started{remote_reset}", Reset("remote reset"),
        EndpointFailed, false, INTERNAL_ERROR,
        "the endpoint reset the stream";
    Protocol: 502, Some(Flag::UPE), "upstream_reset_before_response_started{protocol_error}", Reset("protocol error"),
        EndpointFailed, false, INTERNAL_ERROR,
        "the endpoint broke the protocol";
    Timeout: 504, Some(Flag::UT), "response_timeout", Plain("upstream request timeout"), Local, false, CANCEL,
        "the route's or the request's own timeout, all attempts together";
    PerTryTimeout: 504, Some(Flag::UT), "upstream_per_try_timeout", Plain("upstream request timeout"),
        EndpointFailed, false, CANCEL,
        "the last attempt's `perTryTimeout`";
    IdleRequest: 408, Some(Flag::SI), "stream_idle_timeout", Plain("stream timeout"), Local, false, CANCEL,
        "the client did not finish its request, and nothing moved";
    IdleResponse: 504, Some(Flag::SI), "stream_idle_timeout", Plain("stream timeout"), Local, false, CANCEL,
        "the endpoint did not begin its response, and nothing moved";
    FaultAbort: 503, Some(Flag::FI), "fault_filter_abort", Plain("fault filter abort"), Local, false, REFUSED_STREAM,
        "an abort was injected; the status is the rule's";
    RateLimited: 429, Some(Flag::RL), "local_rate_limited", Plain("local_rate_limited"), Local, false, REFUSED_STREAM,
        "the source has used up the route's tokens";
    BadRequest: 400, Some(Flag::DPE), "http1.codec_error", Plain("Bad Request"), Local, false, INTERNAL_ERROR,
        "the request is malformed, or cannot be translated to the endpoint's protocol";
    ClientGone: 0, Some(Flag::DC), "downstream_remote_disconnect", Plain(""), Local, false, CANCEL,
        "the client left before its answer was complete";
}

impl Text {
    /// As Envoy writes it: `retried`, where it was not the first attempt.
    pub fn spell(self, retried: bool) -> String {
        let again = if retried { "retried and the latest " } else { "" };
        match self {
            Plain(text) => text.to_owned(),
            Reset(reason) => {
                format!("upstream connect error or disconnect/reset before headers. {again}reset reason: {reason}")
            }
        }
    }
}

/// The documentation's tables, checked against the committed ones by a test.
pub fn doc_table() -> String {
    use std::fmt::Write as _;
    let mut table = String::from(
        "# What the agent answers by itself\n\nMade from `mesh-agent/src/error/`; \
         `UNDERMESH_BLESS=1 cargo test -p mesh-agent --lib error::` writes it anew.\n\n\
         gRPC and gRPC-Web clients get HTTP 200 with the gRPC status and the body as `grpc-message`. Clients in the mesh \
         are told more, those of gateways are not: `grpc-message` is followed by ` (service, endpoint …: cause)`, and \
         everybody else finds the situation and this in the header field `x-undermesh-error`. `UO` comes with \
         `x-envoy-overloaded: true`.\n\n\
         | situation | HTTP | gRPC | flag | details | body | repeated by default |\n|---|---|---|---|---|---|---|\n",
    );
    for situation in Situation::ALL {
        let row = situation.row();
        let flag = row.flag.map_or("-", Flag::as_str);
        let grpc =
            http::StatusCode::from_u16(row.status).map_or_else(|_| "-".to_owned(), |s| grpc_status(s).to_string());
        let (details, body) = (row.details.replace('|', "\\|"), row.text.spell(false));
        let body = if body.is_empty() { "-".to_owned() } else { format!("`{body}`") };
        let proof = if row.proof { "yes" } else { "no" };
        // Writing to a String does not fail.
        let _ = writeln!(table, "| {} | {} | {grpc} | {flag} | `{details}` | {body} | {proof} |", row.doc, row.status);
    }
    table
        .push_str("\n# Response flags\n\nSeveral are joined with `,`; none is `-`.\n\n| flag | meaning |\n|---|---|\n");
    for flag in Flag::ALL {
        let _ = writeln!(table, "| `{}` | {} |", flag.as_str(), flag.doc());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_table_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/RESPONSE_FLAGS.md");
        if std::env::var_os("UNDERMESH_BLESS").is_some() {
            std::fs::write(path, doc_table()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), doc_table(), "run this test with UNDERMESH_BLESS=1");
    }

    #[test]
    fn resets_follow_one_pattern() {
        for situation in Situation::ALL {
            let row = situation.row();
            let Reset(reason) = row.text else { continue };
            // Envoy: spaces become `_`; the transport's reason follows a `|`.
            let reason = reason.replace(", transport failure reason: ", "|").replace(' ', "_");
            assert_eq!(row.details, format!("upstream_reset_before_response_started{{{reason}}}"), "{situation:?}");
        }
        assert_eq!(
            Reset("overflow").spell(true),
            "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: overflow"
        );
    }
}
