//! Whether a request is traced. Pure.
//!
//! Order (Istio, Envoy `conn_manager_utility.cc` and its tracers): what the caller decided; what the request's id says;
//! what the request asks for; the configured share, drawn by the id so that agents that see the same id agree.

use super::context::Decision;
use super::request_id::{self, Reason};
use crate::snapshot::tracing::Rate;
use http::{HeaderMap, HeaderName};

const FORCE: HeaderName = HeaderName::from_static("x-envoy-force-trace");
pub(super) const CLIENT_TRACE_ID: HeaderName = HeaderName::from_static("x-client-trace-id");

/// Decides for a request that has its id. `parent`: what its context says; `trusted`: it comes from inside the mesh, so
/// that its wishes count; `by_id`: agents that see the same id shall agree. The id tells the next one.
pub(super) fn decide(
    headers: &mut HeaderMap,
    parent: Option<Decision>,
    trusted: bool,
    rate: Rate,
    by_id: bool,
    random: impl FnOnce() -> u32,
) -> Decision {
    if let Some(decided) = parent {
        return decided;
    }
    let said = if trusted { request_id::reason(headers) } else { Reason::None };
    if said != Reason::None {
        return Decision::Record;
    }
    let reason = if trusted && headers.contains_key(CLIENT_TRACE_ID) {
        Reason::Client
    } else if trusted && headers.contains_key(FORCE) {
        Reason::Forced
    } else if rate.takes(request_id::draw(headers).filter(|_| by_id).unwrap_or_else(|| random() % 10_000)) {
        Reason::Sampled
    } else {
        Reason::None
    };
    request_id::set_reason(headers, reason);
    if reason == Reason::None { Decision::Drop } else { Decision::Record }
}

#[cfg(test)]
mod tests {
    use super::super::request_id::{REQUEST_ID, ensure};
    use super::*;
    use http::HeaderValue;

    fn ask(headers: &mut HeaderMap, parent: Option<Decision>, trusted: bool, rate: Rate) -> Decision {
        decide(headers, parent, trusted, rate, true, || unreachable!())
    }

    fn identified() -> HeaderMap {
        let mut headers = HeaderMap::new();
        // Its draw is 9,999: the last that anything takes.
        ensure(&mut headers, || 9_999 << 96);
        headers
    }

    #[test]
    fn the_caller_counts_most_then_the_id_then_wishes() {
        let mut headers = identified();
        assert_eq!(ask(&mut headers, Some(Decision::Drop), true, Rate::ALL), Decision::Drop);
        assert_eq!(ask(&mut headers, Some(Decision::Debug), true, Rate::NONE), Decision::Debug);
        assert_eq!(ask(&mut headers, None, true, Rate::NONE), Decision::Drop);
        headers.insert(FORCE, HeaderValue::from_static("true"));
        assert_eq!(ask(&mut headers, None, false, Rate::NONE), Decision::Drop, "wishes from outside");
        assert_eq!(ask(&mut headers, None, true, Rate::NONE), Decision::Record);
        assert_eq!(request_id::reason(&headers), Reason::Forced);
        headers.remove(FORCE);
        assert_eq!(ask(&mut headers, None, true, Rate::NONE), Decision::Record, "the id says so");
        assert_eq!(ask(&mut headers, None, false, Rate::NONE), Decision::Drop, "ids from outside say nothing");
        assert_eq!(request_id::reason(&headers), Reason::None);
        headers.insert(CLIENT_TRACE_ID, HeaderValue::from_static("x"));
        assert_eq!(ask(&mut headers, None, true, Rate::NONE), Decision::Record);
        assert_eq!(request_id::reason(&headers), Reason::Client);
    }

    #[test]
    fn ids_that_are_no_uuids_are_drawn_for() {
        let mut headers = HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_static("mine"))]);
        assert_eq!(decide(&mut headers, None, true, Rate::DEFAULT, true, || 10_099), Decision::Record);
        assert_eq!(decide(&mut headers, None, true, Rate::DEFAULT, true, || 10_100), Decision::Drop);
    }

    /// A binomial count is within 5 σ of its mean but for one run in 1.7 million; the seed is fixed all the same.
    #[test]
    fn shares_are_kept_within_five_sigma() {
        let mut rng = fastrand::Rng::with_seed(17);
        for (percent, count) in [(1.0, 50_000_u32), (0.05, 100_000), (37.5, 10_000)] {
            let (rate, share) = (Rate::of_percent(percent).unwrap(), percent / 100.0);
            let mut traced = 0;
            for _ in 0..count {
                let mut headers = HeaderMap::new();
                ensure(&mut headers, || rng.u128(..));
                traced += u32::from(ask(&mut headers, None, true, rate) == Decision::Record);
            }
            let (mean, deviation) = (f64::from(count) * share, (f64::from(count) * share * (1.0 - share)).sqrt());
            assert!((f64::from(traced) - mean).abs() < 5.0 * deviation, "{percent} %: {traced} of {count}");
        }
    }
}
