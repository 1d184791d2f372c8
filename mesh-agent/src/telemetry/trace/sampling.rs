//! Whether a request is traced. Pure.
//!
//! Order (Istio, Envoy `conn_manager_utility.cc` and its tracers): what the caller decided; what the request's id says;
//! what the request asks for; the configured share, drawn by the id so that agents that see the same id agree.

use super::context::Decision;
use super::request_id::{self, Reason};
use crate::snapshot::tracing::Rate;
use http::HeaderMap;

/// A request that waits for a decision.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'h> {
    pub(super) headers: &'h HeaderMap,
    pub(super) carried: Carried,
    /// What its id will be made of, where it came without one.
    pub(super) fresh: Option<u128>,
    /// What its context says.
    pub(super) parent: Option<Decision>,
    /// It comes from inside the mesh, so that its wishes count.
    pub(super) trusted: bool,
}

/// Which of the header fields that traces are about a request has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Carried {
    pub(super) id: bool,
    pub(super) context: bool,
    client_id: bool,
    force: bool,
}

impl Carried {
    /// One pass over what is there: each look-up would hash a name, and most requests have none of them.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut carried = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "x-request-id" => carried.id = true,
                "traceparent" | "b3" => carried.context = true,
                "x-b3-traceid" | "x-b3-spanid" | "x-b3-sampled" | "x-b3-flags" => carried.context = true,
                "x-client-trace-id" => carried.client_id = true,
                "x-envoy-force-trace" => carried.force = true,
                _ => {}
            }
        }
        carried
    }
}

impl Asked<'_> {
    /// Decides, and says what the id shall tell the next one; `None`: what it tells already. `by_id`: agents that see the
    /// same id shall agree.
    pub(super) fn decide(self, rate: Rate, by_id: bool, random: impl FnOnce() -> u32) -> (Decision, Option<Reason>) {
        let Self { headers, carried, fresh, parent, trusted } = self;
        if let Some(decided) = parent {
            return (decided, None);
        }
        if trusted && carried.id && request_id::reason(headers) != Reason::None {
            return (Decision::Record, None);
        }
        let drawn = || match fresh {
            _ if !by_id => None,
            Some(fresh) => Some(request_id::draw_of(fresh)),
            None => request_id::draw(headers),
        };
        let reason = if trusted && carried.client_id {
            Reason::Client
        } else if trusted && carried.force {
            Reason::Forced
        } else if rate.takes(drawn().unwrap_or_else(|| random() % 10_000)) {
            Reason::Sampled
        } else {
            Reason::None
        };
        (if reason == Reason::None { Decision::Drop } else { Decision::Record }, Some(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::super::request_id::{REQUEST_ID, give, set_reason};
    use super::*;
    use http::{HeaderName, HeaderValue};

    const FORCE: HeaderName = HeaderName::from_static("x-envoy-force-trace");

    fn asked(headers: &HeaderMap, parent: Option<Decision>, trusted: bool) -> Asked<'_> {
        Asked { headers, carried: Carried::of(headers), fresh: None, parent, trusted }
    }

    fn ask(headers: &mut HeaderMap, parent: Option<Decision>, trusted: bool, rate: Rate) -> Decision {
        let (decision, reason) = asked(headers, parent, trusted).decide(rate, true, || unreachable!());
        reason.into_iter().for_each(|reason| set_reason(headers, reason));
        decision
    }

    fn identified() -> HeaderMap {
        let mut headers = HeaderMap::new();
        // Its draw is 9,999: the last that anything takes.
        give(&mut headers, 9_999 << 96, Reason::None);
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
        headers.insert("x-client-trace-id", HeaderValue::from_static("x"));
        assert_eq!(ask(&mut headers, None, true, Rate::NONE), Decision::Record);
        assert_eq!(request_id::reason(&headers), Reason::Client);
    }

    /// `context` reads these by name; what is not carried is never read.
    #[test]
    fn every_field_that_is_read_is_carried() {
        use super::super::context::{B3, B3_FLAGS, B3_SAMPLED, B3_SPAN, B3_TRACE, TRACEPARENT};
        let carried = |name: HeaderName| Carried::of(&HeaderMap::from_iter([(name, HeaderValue::from_static("1"))]));
        for name in [TRACEPARENT, B3, B3_TRACE, B3_SPAN, B3_SAMPLED, B3_FLAGS] {
            assert!(carried(name.clone()).context, "{name}");
        }
        assert!(carried(REQUEST_ID).id && carried(FORCE).force);
        assert_eq!(carried(HeaderName::from_static("x-other")), Carried::default());
    }

    #[test]
    fn ids_that_are_no_uuids_are_drawn_for() {
        let headers = HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_static("mine"))]);
        let drawn = |number| asked(&headers, None, true).decide(Rate::DEFAULT, true, || number).0;
        assert_eq!((drawn(10_099), drawn(10_100)), (Decision::Record, Decision::Drop));
    }

    #[test]
    fn an_id_that_is_yet_to_be_given_is_drawn_like_one_that_is_there() {
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..2_000 {
            let (random, rate) = (rng.u128(..), Rate::of_percent(50.0).unwrap());
            let none = HeaderMap::new();
            let (fresh, reason) =
                Asked { fresh: Some(random), ..asked(&none, None, true) }.decide(rate, true, || unreachable!());
            let mut headers = HeaderMap::new();
            give(&mut headers, random, Reason::None);
            assert_eq!(ask(&mut headers, None, true, rate), fresh);
            assert_eq!(Some(request_id::reason(&headers)), reason);
        }
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
                give(&mut headers, rng.u128(..), Reason::None);
                traced += u32::from(ask(&mut headers, None, true, rate) == Decision::Record);
            }
            let (mean, deviation) = (f64::from(count) * share, (f64::from(count) * share * (1.0 - share)).sqrt());
            assert!((f64::from(traced) - mean).abs() < 5.0 * deviation, "{percent} %: {traced} of {count}");
        }
    }
}
