//! What can go wrong with a request or connection, one small enum per stage, and the one function that says what the
//! client is told.
//!
//! Place in the path: every stage returns its own enum; `proxy.rs` asks `Failure::answer`. Invariant: no stage writes
//! a status of its own; everything the client sees comes from the table in `situation.rs`.

mod flags;
mod situation;

pub use flags::{Flag, Flags};
pub use situation::{Row, Situation, Text, doc_table};

use crate::snapshot::route::AbortWith;
use http::StatusCode;
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// Everything that ends a request without the endpoint's own answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No route matches, or the configuration no longer knows the port this connection was made for.
    NoRoute,
    /// A VirtualService names a Service or subset that is not there.
    NoCluster,
    /// `BackendTo::Refused`, with its status.
    RefusedBackend(StatusCode),
    /// REGISTRY_ONLY, and nobody declared the host.
    UnknownHost,
    NoEndpoint,
    Connect(ConnectError),
    Upstream(UpstreamError),
    Limit(LimitError),
    /// All attempts and the pauses between them.
    Timeout,
    PerTryTimeout,
    /// Nothing moved on the stream.
    Idle {
        request_complete: bool,
    },
    ClientGone,
    BadRequest(&'static str),
    FaultAbort(AbortWith),
    RateLimited {
        resource_exhausted: bool,
    },
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::Connect(error)
    }
}

impl From<UpstreamError> for Failure {
    fn from(error: UpstreamError) -> Self {
        Self::Upstream(error)
    }
}

impl From<LimitError> for Failure {
    fn from(error: LimitError) -> Self {
        Self::Limit(error)
    }
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
    /// The handshake failed, or there is nothing to make it with.
    #[error("TLS_error: {0}")]
    Tls(std::sync::Arc<str>),
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
    #[error("overflow: bytes of stalled readers")]
    StalledBytes,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    /// gRPC status number for a gRPC client.
    pub grpc: u8,
    pub flags: Flags,
    /// Envoy's `%RESPONSE_CODE_DETAILS%`.
    pub details: &'static str,
    pub outcome: Outcome,
    /// There is proof that the endpoint did not process the request.
    pub retryable: bool,
    /// RST_STREAM code where the head was already sent.
    pub reset: u32,
}

/// Envoy's detail of a connection that no rule takes.
pub const NO_FILTER_CHAIN: &str = "filter_chain_not_found";

/// RST_STREAM code "no longer needed" (RFC 9113 §7).
pub const CANCEL: u32 = 0x8;

impl Failure {
    /// What stands for the destination in metrics where none was found (Istio's names).
    pub fn destination(&self) -> &'static str {
        match self {
            Self::UnknownHost => "BlackHoleCluster",
            _ => "unknown",
        }
    }

    /// Its row of the table of SEMANTICS §6.
    pub fn situation(&self) -> Situation {
        match self {
            Self::NoRoute => Situation::NoRoute,
            Self::NoCluster => Situation::NoCluster,
            Self::RefusedBackend(_) => Situation::RefusedBackend,
            Self::UnknownHost => Situation::UnknownHost,
            Self::NoEndpoint => Situation::NoEndpoint,
            Self::Connect(error) => match error {
                ConnectError::Refused => Situation::ConnectRefused,
                ConnectError::Timeout(_) => Situation::ConnectTimeout,
                ConnectError::Io(_) | ConnectError::Handshake => Situation::ConnectFailed,
                ConnectError::Tls(_) => Situation::TlsFailed,
                ConnectError::Socket(_) => Situation::NoSocket,
                ConnectError::Overflow => Situation::Overflow,
            },
            Self::Upstream(error) => match error {
                UpstreamError::Refused | UpstreamError::GoneAway => Situation::RefusedStream,
                UpstreamError::NotSent => Situation::NotSent,
                UpstreamError::Reset(_) => Situation::RemoteReset,
                UpstreamError::Closed => Situation::Closed,
                UpstreamError::Protocol => Situation::Protocol,
                UpstreamError::Aborted => Situation::ClientGone,
                UpstreamError::Stalled => Situation::Stalled,
            },
            Self::Limit(LimitError::StalledBytes) => Situation::Overflow,
            Self::Timeout => Situation::Timeout,
            Self::PerTryTimeout => Situation::PerTryTimeout,
            Self::Idle { request_complete: false } => Situation::IdleRequest,
            Self::Idle { request_complete: true } => Situation::IdleResponse,
            Self::ClientGone => Situation::ClientGone,
            Self::BadRequest(_) => Situation::BadRequest,
            Self::FaultAbort(_) => Situation::FaultAbort,
            Self::RateLimited { .. } => Situation::RateLimited,
        }
    }

    pub fn answer(&self) -> Answer {
        let row = self.situation().row();
        let status = match self {
            Self::FaultAbort(AbortWith::Http(status)) | Self::RefusedBackend(status) => *status,
            Self::FaultAbort(AbortWith::Grpc(_)) => StatusCode::OK,
            // The client that left: never sent, telemetry records it as 0.
            _ => StatusCode::from_u16(row.status).unwrap_or(StatusCode::REQUEST_TIMEOUT),
        };
        let grpc = match self {
            Self::FaultAbort(AbortWith::Grpc(status)) => *status,
            Self::RateLimited { resource_exhausted: true } => RESOURCE_EXHAUSTED,
            _ => grpc_status(status),
        };
        let reset = match self {
            Self::Upstream(UpstreamError::Reset(code)) => *code,
            _ => row.reset,
        };
        Answer {
            status,
            grpc,
            flags: row.flag.map_or(Flags::NONE, Flags::from),
            details: row.details,
            outcome: row.outcome,
            retryable: row.proof,
            reset,
        }
    }

    /// What the access log says of a connection that ends without an answer, since nobody looks into its bytes: as
    /// Envoy's, which sends what nobody declared to a cluster without endpoints, and has no filter chain where we have
    /// no rule.
    pub fn closed(&self) -> (Flags, &'static str) {
        match self {
            Self::NoRoute => (Flag::NR.into(), NO_FILTER_CHAIN),
            Self::UnknownHost => Self::NoEndpoint.closed(),
            Self::RefusedBackend(_) => Self::NoCluster.closed(),
            other => {
                let answer = other.answer();
                (answer.flags, answer.details)
            }
        }
    }

    /// What the table's text does not tell.
    pub fn cause(&self) -> Option<String> {
        match self {
            Self::Connect(error) => Some(error.to_string()),
            Self::Upstream(error) => Some(error.to_string()),
            Self::BadRequest(why) => Some((*why).to_owned()),
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = self.situation().row();
        match row.text.spell(false) {
            text if text.is_empty() => f.write_str(row.details)?,
            text => f.write_str(&text)?,
        }
        self.cause().map_or(Ok(()), |cause| write!(f, ": {cause}"))
    }
}

impl std::error::Error for Failure {}

const RESOURCE_EXHAUSTED: u8 = 8;

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
            "upstream connect error or disconnect/reset before headers. reset reason: remote reset: remote reset CANCEL"
        );
        assert_eq!(Failure::NoRoute.to_string(), "route_not_found");
        assert_eq!(code_name(99).to_string(), "unknown code");
    }

    #[test]
    fn what_the_configuration_says_goes_before_the_table() {
        let teapot = StatusCode::IM_A_TEAPOT;
        let http = Failure::FaultAbort(AbortWith::Http(teapot)).answer();
        assert_eq!((http.status, http.grpc, http.flags), (teapot, 2, Flag::FI.into()));
        let grpc = Failure::FaultAbort(AbortWith::Grpc(9)).answer();
        assert_eq!((grpc.status, grpc.grpc), (StatusCode::OK, 9));
        assert_eq!(Failure::RateLimited { resource_exhausted: false }.answer().grpc, 14);
        assert_eq!(Failure::RateLimited { resource_exhausted: true }.answer().grpc, 8);
        assert_eq!(Failure::Timeout.answer().grpc, 14, "not DEADLINE_EXCEEDED: SEMANTICS §6");
        assert_eq!(Failure::Upstream(UpstreamError::Reset(11)).answer().reset, 11);
    }

    #[test]
    fn connections_without_an_answer_have_flags_too() {
        for (failure, flag) in [
            (Failure::UnknownHost, Flag::UH),
            (Failure::NoEndpoint, Flag::UH),
            (Failure::NoCluster, Flag::NC),
            (Failure::RefusedBackend(StatusCode::INTERNAL_SERVER_ERROR), Flag::NC),
            (Failure::NoRoute, Flag::NR),
            (Failure::Connect(ConnectError::Overflow), Flag::UO),
            (Failure::Connect(ConnectError::Tls("".into())), Flag::UF),
        ] {
            assert_eq!(failure.closed().0, flag.into(), "{failure:?}");
            assert!(!failure.closed().1.is_empty(), "{failure:?}");
        }
    }
}
