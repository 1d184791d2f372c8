//! What becomes of a request, in the words of the one table of answers (`error::situation`).

use super::view::{Outcome, Verdict};
use crate::error::Failure;
use crate::grpc;
use http::{HeaderMap, StatusCode};

/// The agent's answer for `failure`; `why`: what of the configuration leads to it, a sentence without a full stop.
pub(super) fn refused(failure: &Failure, request: &HeaderMap, why: &str) -> Verdict {
    let (answer, row) = (failure.answer(), failure.situation().row());
    let body = Some(row.text.spell(false)).filter(|text| !text.is_empty());
    let status = answer.status.as_u16();
    let told = if grpc::is_grpc(request) { format!("gRPC status {}", answer.grpc) } else { format!("HTTP {status}") };
    let flag = (!answer.flags.is_empty()).then(|| answer.flags.to_string());
    let flagged = flag.as_ref().map(|flag| format!(", flag {flag}")).unwrap_or_default();
    Verdict {
        outcome: Outcome::Refused,
        status: Some(status),
        flag,
        details: Some(answer.details.to_owned()),
        body,
        summary: format!("{told}{flagged}: {why}"),
    }
}

/// A rule's own answer; one of an error is a refusal.
pub(super) fn answered(status: StatusCode, body: Option<String>, summary: String) -> Verdict {
    let error = status.is_client_error() || status.is_server_error();
    Verdict {
        outcome: if error { Outcome::Refused } else { Outcome::Answered },
        status: Some(status.as_u16()),
        flag: None,
        details: None,
        body,
        summary,
    }
}

/// The connection ends without an answer.
pub(super) fn reset(flag: Option<String>, why: &str) -> Verdict {
    let flagged = flag.as_ref().map(|flag| format!(", flag {flag}")).unwrap_or_default();
    let summary = format!("connection reset{flagged}: {why}");
    Verdict { outcome: Outcome::Refused, status: None, flag, details: None, body: None, summary }
}

pub(super) fn forwarded(summary: String) -> Verdict {
    Verdict { outcome: Outcome::Forwarded, status: None, flag: None, details: None, body: None, summary }
}
