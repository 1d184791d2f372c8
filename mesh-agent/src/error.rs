//! What can go wrong with a request or connection, one small enum per stage, and the one function that says what the
//! client is told.
//!
//! Place in the path: every stage returns its own enum; `proxy.rs` asks `Failure::answer`. Invariant: no stage writes
//! a status of its own.

use http::StatusCode;
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// Everything that ends a request without the endpoint's own answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("no healthy upstream")]
    NoEndpoint,
    /// The configuration no longer knows the port this connection was made for.
    #[error("no such service port")]
    NoRoute,
    #[error("upstream connect error or disconnect/reset before headers. reset reason: {0}")]
    Connect(#[from] ConnectError),
    #[error("upstream connect error or disconnect/reset before headers. reset reason: {0}")]
    Upstream(#[from] UpstreamError),
    #[error("{0}")]
    Limit(#[from] LimitError),
    #[error("upstream request timeout")]
    Timeout,
    #[error("downstream remote disconnect")]
    ClientGone,
    #[error("{0}")]
    BadRequest(&'static str),
}

/// `connect`: nothing of the request has left the agent, so another endpoint may always be tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    #[error("connection refused")]
    Refused,
    #[error("connection timeout after {0:?}")]
    Timeout(Duration),
    #[error("remote connection failure: {0}")]
    Io(std::io::ErrorKind),
    /// No socket: the agent's own limits, or the source pod's network namespace is gone.
    #[error("cannot open a socket: {0}")]
    Socket(std::io::ErrorKind),
    #[error("connection closed in HTTP/2 handshake")]
    Handshake,
    /// `Settings::max_connections_per_endpoint` reached.
    #[error("overflow")]
    Overflow,
}

/// `http1`, `http2`: what happened after the request was handed to a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// REFUSED_STREAM: not processed (RFC 9113 §8.7).
    #[error("remote refused stream")]
    Refused,
    /// The stream's identifier is beyond the last one of a GOAWAY: not processed (RFC 9113 §6.8).
    #[error("remote is going away and did not process the stream")]
    GoneAway,
    /// The connection ended before a byte of the request was written.
    #[error("connection termination before the request was sent")]
    NotSent,
    #[error("remote reset {}", code_name(*.0))]
    Reset(u32),
    #[error("connection termination")]
    Closed,
    #[error("protocol error")]
    Protocol,
    /// The client ended the request before it was complete.
    #[error("downstream remote disconnect")]
    Aborted,
    /// More bytes are held for stalled readers than `Settings::stalled_bytes`.
    #[error("stalled reader")]
    Stalled,
}

/// Limits of the agent itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    #[error("upstream connect error or disconnect/reset before headers. reset reason: overflow")]
    StalledBytes,
}

/// Envoy's response flags, as far as this data path sets them (SEMANTICS §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Flag {
    None,
    NR,
    UH,
    UF,
    UC,
    UR,
    UO,
    UPE,
    UT,
    LR,
    DC,
    DPE,
}

impl Flag {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::NR => "NR",
            Self::UH => "UH",
            Self::UF => "UF",
            Self::UC => "UC",
            Self::UR => "UR",
            Self::UO => "UO",
            Self::UPE => "UPE",
            Self::UT => "UT",
            Self::LR => "LR",
            Self::DC => "DC",
            Self::DPE => "DPE",
        }
    }
}

/// Who ended the request, for health of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Outcome {
    /// The endpoint answered.
    Answered,
    /// The endpoint is to blame.
    EndpointFailed,
    /// The agent or its limits are to blame, or the client left.
    Local,
}

/// What a failure means to everyone who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    pub flag: Flag,
    pub details: &'static str,
    pub outcome: Outcome,
    /// There is proof that the endpoint did not process the request.
    pub retryable: bool,
    /// RST_STREAM code where the head was already sent.
    pub reset: u32,
}

/// RST_STREAM codes used by this module (RFC 9113 §7).
pub const CANCEL: u32 = 0x8;
const INTERNAL_ERROR: u32 = 0x2;
const REFUSED_STREAM: u32 = 0x7;
const ENHANCE_YOUR_CALM: u32 = 0xb;

impl Failure {
    /// The table of SEMANTICS §6.
    pub fn answer(&self) -> Answer {
        use StatusCode as S;
        let of = |status, flag, details, outcome, retryable, reset| Answer {
            status,
            flag,
            details,
            outcome,
            retryable,
            reset,
        };
        match self {
            Self::NoEndpoint => {
                of(S::SERVICE_UNAVAILABLE, Flag::UH, "no_healthy_upstream", Outcome::Local, false, REFUSED_STREAM)
            }
            Self::NoRoute => of(S::NOT_FOUND, Flag::NR, "route_not_found", Outcome::Local, false, REFUSED_STREAM),
            Self::Connect(ConnectError::Overflow) => of(
                S::SERVICE_UNAVAILABLE,
                Flag::UO,
                "upstream_reset_before_response_started{overflow}",
                Outcome::Local,
                false,
                REFUSED_STREAM,
            ),
            Self::Connect(ConnectError::Socket(_)) => of(
                S::SERVICE_UNAVAILABLE,
                Flag::LR,
                "upstream_reset_before_response_started{local reset}",
                Outcome::Local,
                false,
                REFUSED_STREAM,
            ),
            Self::Connect(_) => of(
                S::SERVICE_UNAVAILABLE,
                Flag::UF,
                "upstream_reset_before_response_started{remote connection failure}",
                Outcome::EndpointFailed,
                true,
                REFUSED_STREAM,
            ),
            Self::Upstream(error) => match error {
                UpstreamError::Refused | UpstreamError::GoneAway => of(
                    S::SERVICE_UNAVAILABLE,
                    Flag::UR,
                    "upstream_reset_before_response_started{remote refused stream reset}",
                    Outcome::Answered,
                    true,
                    REFUSED_STREAM,
                ),
                UpstreamError::NotSent => of(
                    S::SERVICE_UNAVAILABLE,
                    Flag::UC,
                    "upstream_reset_before_response_started{connection termination}",
                    Outcome::Answered,
                    true,
                    REFUSED_STREAM,
                ),
                UpstreamError::Reset(code) => of(
                    S::SERVICE_UNAVAILABLE,
                    Flag::UR,
                    "upstream_reset_before_response_started{remote reset}",
                    Outcome::EndpointFailed,
                    false,
                    *code,
                ),
                UpstreamError::Closed => of(
                    S::SERVICE_UNAVAILABLE,
                    Flag::UC,
                    "upstream_reset_before_response_started{connection termination}",
                    Outcome::EndpointFailed,
                    false,
                    INTERNAL_ERROR,
                ),
                UpstreamError::Protocol => of(
                    S::BAD_GATEWAY,
                    Flag::UPE,
                    "upstream_reset_before_response_started{protocol error}",
                    Outcome::EndpointFailed,
                    false,
                    INTERNAL_ERROR,
                ),
                UpstreamError::Aborted => Self::ClientGone.answer(),
                UpstreamError::Stalled => of(
                    S::SERVICE_UNAVAILABLE,
                    Flag::UO,
                    "upstream_reset_before_response_started{overflow}",
                    Outcome::Local,
                    false,
                    ENHANCE_YOUR_CALM,
                ),
            },
            Self::Limit(LimitError::StalledBytes) => of(
                S::SERVICE_UNAVAILABLE,
                Flag::UO,
                "upstream_reset_before_response_started{overflow}",
                Outcome::Local,
                false,
                REFUSED_STREAM,
            ),
            Self::Timeout => of(S::GATEWAY_TIMEOUT, Flag::UT, "response_timeout", Outcome::Local, false, CANCEL),
            // nginx's 499: never sent, there is nobody to read it; it is what telemetry records as "0, DC".
            Self::ClientGone => {
                of(S::REQUEST_TIMEOUT, Flag::DC, "downstream_remote_disconnect", Outcome::Local, false, CANCEL)
            }
            Self::BadRequest(_) => {
                of(S::BAD_REQUEST, Flag::DPE, "http.bad_request", Outcome::Local, false, INTERNAL_ERROR)
            }
        }
    }
}

/// gRPC status for a locally made HTTP status (SEMANTICS §6, "gRPC local reply").
pub fn grpc_status(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// An RST_STREAM code by its name in RFC 9113 §7.
pub fn code_name(code: u32) -> impl fmt::Display {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    usize::try_from(code).ok().and_then(|i| NAMES.get(i)).copied().unwrap_or("unknown code")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_proof_of_not_processed_is_retryable() {
        let retryable = [
            Failure::Connect(ConnectError::Refused),
            Failure::Connect(ConnectError::Timeout(Duration::from_secs(1))),
            Failure::Connect(ConnectError::Handshake),
            Failure::Upstream(UpstreamError::Refused),
            Failure::Upstream(UpstreamError::GoneAway),
            Failure::Upstream(UpstreamError::NotSent),
        ];
        let final_ones = [
            Failure::NoEndpoint,
            Failure::NoRoute,
            Failure::Connect(ConnectError::Overflow),
            Failure::Upstream(UpstreamError::Reset(CANCEL)),
            Failure::Upstream(UpstreamError::Closed),
            Failure::Upstream(UpstreamError::Protocol),
            Failure::Limit(LimitError::StalledBytes),
            Failure::Timeout,
            Failure::ClientGone,
            Failure::BadRequest("x"),
        ];
        assert!(retryable.iter().all(|f| f.answer().retryable));
        assert!(final_ones.iter().all(|f| !f.answer().retryable));
    }

    #[test]
    fn texts_name_the_cause() {
        assert_eq!(
            Failure::Upstream(UpstreamError::Reset(8)).to_string(),
            "upstream connect error or disconnect/reset before headers. reset reason: remote reset CANCEL"
        );
        assert_eq!(code_name(99).to_string(), "unknown code");
    }
}
