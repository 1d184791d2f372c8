use super::retry::Ended;
use super::timeout::Timeouts;
use super::{Buckets, fault, hedge, rate_limit::Bucket, retry};
use crate::error::{ConnectError, Failure, LimitError, UpstreamError};
use crate::snapshot::WorkloadKey;
use crate::snapshot::policy::RetryBudget;
use crate::snapshot::route::*;
use crate::time::Nanos;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use proptest::prelude::*;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
}

fn policy(on: RetryOn) -> RetryPolicy {
    RetryPolicy {
        attempts: 2,
        on,
        statuses: vec![418],
        per_try_timeout: None,
        backoff: 25 * MS,
        avoid_previous: None,
        remote_localities: false,
    }
}

fn failed(on: RetryOn, failure: &Failure, sent: bool) -> Option<RetryOn> {
    retry::condition(&policy(on), Ended::Failed { failure, sent })
}

fn answered(on: RetryOn, status: u16, pairs: &[(&'static str, &'static str)]) -> Option<RetryOn> {
    let status = StatusCode::from_u16(status).unwrap();
    retry::condition(&policy(on), Ended::Answered { status, headers: &fields(pairs) })
}

/// `connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes`: what Istio repeats by default.
const ISTIO: RetryOn =
    RetryOn::CONNECT_FAILURE.with(RetryOn::REFUSED_STREAM).with(RetryOn::UNAVAILABLE).with(RetryOn::CANCELLED);

#[test]
fn resets_are_retried_by_their_kind() {
    let refused = Failure::Connect(ConnectError::Refused);
    let stream = Failure::Upstream(UpstreamError::Refused);
    let unsent = Failure::Upstream(UpstreamError::NotSent);
    let reset = Failure::Upstream(UpstreamError::Reset(8));
    let closed = Failure::Upstream(UpstreamError::Closed);
    let too_slow = Failure::PerTryTimeout;
    for (on, want) in [
        (RetryOn::default(), [false; 6]),
        (RetryOn::PROVEN, [true, true, true, false, false, false]),
        (RetryOn::CONNECT_FAILURE, [true, false, false, false, false, false]),
        (RetryOn::REFUSED_STREAM, [false, true, false, false, false, false]),
        (ISTIO, [true, true, false, false, false, false]),
        (RetryOn::RESET, [true; 6]),
        (RetryOn::FIVE_XX, [true; 6]),
        (RetryOn::GATEWAY_ERROR, [true; 6]),
        (RetryOn::RESET_BEFORE_REQUEST, [true, false, true, true, true, false]),
        (RetryOn::RETRIABLE_STATUS_CODES, [false; 6]),
    ] {
        let got = [&refused, &stream, &unsent, &reset, &closed, &too_slow].map(|f| failed(on, f, false).is_some());
        assert_eq!(got, want, "{on:?}");
    }
    assert_eq!(failed(RetryOn::RESET_BEFORE_REQUEST, &reset, true), None, "bytes of it were sent");
    let everything = RetryOn(u32::MAX);
    for never in [
        Failure::Timeout,
        Failure::NoEndpoint,
        Failure::NoRoute,
        Failure::NoCluster,
        Failure::Connect(ConnectError::Overflow),
        Failure::Limit(LimitError::StalledBytes),
        Failure::ClientGone,
        Failure::FaultAbort(AbortWith::Grpc(14)),
        Failure::RateLimited { resource_exhausted: false },
        Failure::BadRequest("x"),
    ] {
        assert_eq!(failed(everything, &never, false), None, "{never}");
    }
}

#[test]
fn answers_are_retried_by_status() {
    use RetryOn as R;
    for (on, status, headers, want) in [
        (R::FIVE_XX, 500, &[][..], true),
        (R::FIVE_XX, 404, &[], false),
        (R::GATEWAY_ERROR, 500, &[], false),
        (R::GATEWAY_ERROR, 504, &[], true),
        (R::RETRIABLE_4XX, 409, &[], true),
        (R::RETRIABLE_STATUS_CODES, 418, &[], true),
        (R::RETRIABLE_STATUS_CODES, 503, &[], false),
        (R::UNAVAILABLE, 200, &[("grpc-status", "14")], true),
        (R::UNAVAILABLE, 200, &[("grpc-status", "13")], false),
        (R::UNAVAILABLE, 503, &[], false),
        (R::CANCELLED, 200, &[("grpc-status", "1")], true),
        (R::DEADLINE_EXCEEDED, 200, &[("grpc-status", "4")], true),
        (R::RESOURCE_EXHAUSTED, 200, &[("grpc-status", "8")], true),
        (R::INTERNAL, 200, &[("grpc-status", "13")], true),
        (R::FIVE_XX, 503, &[("x-envoy-ratelimited", "true")], false),
        (R::ENVOY_RATELIMITED, 429, &[("x-envoy-ratelimited", "true")], true),
        (R::PROVEN, 503, &[], false),
        (R::PROVEN, 200, &[("grpc-status", "14")], false),
    ] {
        assert_eq!(answered(on, status, headers).is_some(), want, "{on:?} {status} {headers:?}");
    }
    assert_eq!(answered(R::FIVE_XX.with(R::GATEWAY_ERROR), 502, &[]), Some(R::FIVE_XX), "names the condition");
}

#[test]
fn budgets() {
    let budget = RetryBudget::default();
    assert_eq!(retry::concurrent(Some(&budget), None, 30, 10), 8);
    assert_eq!(retry::concurrent(Some(&budget), Some(1), 0, 0), 3);
    assert_eq!(retry::concurrent(None, Some(1), 100, 100), 1);
    assert_eq!(retry::concurrent(None, None, 100, 100), u64::MAX);
    let broken = RetryBudget { percent: f64::NAN, min_concurrency: 2 };
    assert_eq!(retry::concurrent(Some(&broken), None, 100, 0), 2);
}

#[test]
fn hedges_only_what_may_be_sent_twice() {
    let hedge = |methods: &[&str]| Hedge {
        delay: Some(10 * MS),
        on_per_try_timeout: false,
        max_attempts: 2,
        budget_percent: 10,
        methods: methods.iter().map(|m| (*m).into()).collect(),
    };
    let (plain, grpc) = (HeaderMap::new(), fields(&[("content-type", "application/grpc")]));
    for (methods, method, path, headers, want) in [
        (&[][..], "GET", "/", &plain, true),
        (&[], "POST", "/", &plain, false),
        (&[], "POST", "/a.B/C", &grpc, false),
        (&["/a.B/C"], "POST", "/a.B/C", &grpc, true),
        (&["/a.B/C"], "POST", "/a.B/D", &grpc, false),
        (&["POST"], "POST", "/a.B/D", &grpc, false),
        (&["PUT"], "PUT", "/", &plain, true),
        (&["PUT"], "GET", "/", &plain, false),
    ] {
        assert_eq!(hedge::applies(&hedge(methods), method, path, headers), want, "{methods:?} {method} {path}");
    }
    let hedge = hedge(&[]);
    let wait = |hedge: &Hedge, attempts| hedge::wait(hedge, attempts, Some(5 * MS));
    assert_eq!((wait(&hedge, 1), wait(&hedge, 2)), (Some(10 * MS), None));
    let per_try = Hedge { on_per_try_timeout: true, ..hedge.clone() };
    assert_eq!((wait(&per_try, 1), hedge::wait(&per_try, 1, None)), (Some(5 * MS), Some(10 * MS)));
    assert_eq!(hedge::wait(&Hedge { delay: None, ..per_try }, 1, None), None);
    let room = |hedges, requests| hedge::within_budget(&hedge, hedges, requests);
    assert!(room(0, 1) && !room(1, 3) && room(9, 100) && !room(10, 100));
    assert!(!hedge::within_budget(&Hedge { budget_percent: 0, ..hedge.clone() }, 0, 1000));
}

#[test]
fn timeouts_meet() {
    let grpc = ("content-type", "application/grpc");
    let s = |seconds| Some(Duration::from_secs(seconds));
    for (route, per_try, headers, whole, each) in [
        (None, None, &[][..], None, None),
        (s(3), None, &[], s(3), None),
        (s(3), s(1), &[], s(3), s(1)),
        (s(3), s(3), &[], s(3), None),
        (None, s(1), &[], None, s(1)),
        (None, None, &[grpc, ("grpc-timeout", "5S")], s(5), None),
        (s(3), None, &[grpc, ("grpc-timeout", "5S")], s(3), None),
        (s(3), None, &[grpc, ("grpc-timeout", "1S")], s(1), None),
        (s(3), None, &[grpc], s(3), None),
        (s(3), None, &[("grpc-timeout", "1S")], s(3), None),
        (s(3), None, &[("x-envoy-upstream-rq-timeout-ms", "9000")], s(9), None),
        (s(3), None, &[("x-envoy-upstream-rq-timeout-ms", "0")], None, None),
        (s(3), None, &[("x-envoy-upstream-rq-timeout-ms", "x")], s(3), None),
        (s(3), None, &[("x-envoy-upstream-rq-per-try-timeout-ms", "2000")], s(3), s(2)),
        (None, None, &[grpc, ("grpc-timeout", "0m")], s(0), None),
    ] {
        let got = Timeouts::new(route, per_try, &fields(headers));
        assert_eq!((got.whole, got.per_try), (whole, each), "{route:?} {per_try:?} {headers:?}");
    }
}

#[test]
fn the_endpoint_is_told_what_is_left() {
    let mut headers = fields(&[("content-type", "application/grpc"), ("grpc-timeout", "5S")]);
    let timeouts = Timeouts::new(Some(3000 * MS), None, &headers);
    timeouts.write(1000 * MS, &mut headers);
    assert_eq!(headers, fields(&[("content-type", "application/grpc"), ("grpc-timeout", "2000m")]), "once");
    // What another hop told the client says nothing of this one.
    for kind in ["application/grpc", "text/plain"] {
        let mut headers = fields(&[("content-type", kind), ("x-envoy-expected-rq-timeout-ms", "9000")]);
        Timeouts::new(Some(3000 * MS), None, &headers).write(Duration::ZERO, &mut headers);
        let expected = headers.get("x-envoy-expected-rq-timeout-ms").map(HeaderValue::as_bytes);
        assert_eq!(expected, (kind == "text/plain").then_some(&b"3000"[..]));
    }
    let mut headers = fields(&[("x-envoy-upstream-rq-timeout-ms", "400")]);
    let timeouts = Timeouts::new(None, Some(100 * MS), &headers);
    timeouts.write(Duration::ZERO, &mut headers);
    assert_eq!(headers, fields(&[("x-envoy-expected-rq-timeout-ms", "100")]));
    let mut untouched = fields(&[("grpc-timeout", "5S")]);
    Timeouts::new(None, None, &untouched).write(Duration::ZERO, &mut untouched);
    assert_eq!(untouched, fields(&[("grpc-timeout", "5S")]), "not gRPC: not ours");
}

/// 100,000 draws: a share lies within 5 standard deviations.
#[test]
fn faults_are_drawn_each_by_itself() {
    let fault = Fault {
        delay: Some(FaultDelay { fixed: 5 * MS, share: 500_000 }),
        abort: Some(FaultAbort { with: AbortWith::Grpc(14), share: 200_000 }),
    };
    let mut rng = fastrand::Rng::with_seed(3);
    let (mut delays, mut aborts, mut both) = (0, 0, 0);
    for _ in 0..100_000 {
        let drawn = fault::draw(&fault, &mut rng);
        delays += u32::from(drawn.delay == Some(5 * MS));
        aborts += u32::from(drawn.abort.is_some());
        both += u32::from(drawn.delay.is_some() && drawn.abort.is_some());
    }
    // σ = √(n·p·(1−p)): 158, 126, 95.
    assert!((49_200..=50_800).contains(&delays) && (19_360..=20_640).contains(&aborts), "{delays} {aborts}");
    assert!((9_520..=10_480).contains(&both), "{both}");
    assert_eq!(fault::draw(&Fault::default(), &mut rng), fault::Drawn::default());
    let always = Fault { abort: Some(FaultAbort { with: AbortWith::Grpc(14), share: 1_000_000 }), delay: None };
    assert!((0..1000).all(|_| fault::draw(&always, &mut rng).abort.is_some()));
}

fn limit(max: u32, per_fill: u32, interval: Duration) -> RateLimit {
    RateLimit {
        max_tokens: max,
        tokens_per_fill: per_fill,
        fill_interval: interval,
        share: 1_000_000,
        resource_exhausted: false,
        response_headers: None,
        rule: RuleRef { object: None, field: "r".into() },
        scope: "echo/".into(),
    }
}

#[test]
fn a_bucket_gives_what_it_has() {
    let limit = limit(4, 2, Duration::from_secs(1));
    let bucket = Bucket::default();
    let start = Nanos(1_000_000_000);
    let taken = |at: Nanos, tries: u32| (0..tries).filter(|_| bucket.take(&limit, at)).count();
    assert_eq!(taken(start, 10), 4, "it begins full");
    assert_eq!(taken(start.plus(499 * MS), 10), 0);
    assert_eq!(taken(start.plus(500 * MS), 10), 1, "two tokens in a second");
    assert_eq!(taken(start.plus(1500 * MS), 10), 2);
    assert_eq!(taken(start.plus(60_000 * MS), 10), 4, "and never holds more");
    let none = self::limit(0, 1, Duration::from_secs(1));
    assert!(!Bucket::default().take(&none, start));
}

#[test]
fn each_source_rule_and_scope_has_its_own() {
    let buckets = Buckets::default();
    let mut rng = fastrand::Rng::with_seed(1);
    let limit = limit(1, 1, Duration::from_secs(60));
    let other = RateLimit { rule: RuleRef { object: None, field: "other".into() }, ..limit.clone() };
    let route = RateLimit { scope: "echo/route".into(), ..limit.clone() };
    let [a, b] = ["a", "b"].map(|name| WorkloadKey { namespace: "shop".into(), name: name.into(), uid: name.into() });
    let mut admit = |limit: &RateLimit, source| buckets.admit(limit, source, Nanos(5), &mut rng);
    assert!(admit(&limit, Some(&a)) && !admit(&limit, Some(&a)));
    assert!(admit(&limit, Some(&b)) && admit(&limit, None) && admit(&other, Some(&a)));
    assert!(admit(&route, Some(&a)) && !admit(&route, Some(&a)));
    let off = RateLimit { share: 0, ..limit.clone() };
    assert!(admit(&off, Some(&a)), "the limit holds for no request");
    let changed = RateLimit { max_tokens: 2, ..limit.clone() };
    assert!(admit(&changed, Some(&a)), "one more than before");
    assert!(!admit(&changed, Some(&a)), "but what was taken stays taken");
    assert_eq!(buckets.len(), 5);
    buckets.retain(|rule, scope, source| *rule == limit.rule && *scope == *limit.scope && source == Some(&a));
    assert_eq!(buckets.len(), 1);
}

proptest! {
    /// Of any pattern of requests no more pass than the bucket and its refill allow.
    #[test]
    fn no_more_than_allowed(max in 1_u32..20, rate in 1_u32..50, gaps in proptest::collection::vec(0_u64..100, 1..200)) {
        let limit = limit(max, rate, Duration::from_secs(1));
        let bucket = Bucket::default();
        let (mut now, mut passed) = (Nanos(0), 0_u64);
        for gap in gaps {
            now = now.plus(Duration::from_millis(gap));
            passed += u64::from(bucket.take(&limit, now));
        }
        let refilled = now.0 / (1_000_000_000 / u64::from(rate));
        prop_assert!(passed <= u64::from(max) + refilled, "{passed}");
    }

    #[test]
    fn pauses_stay_below_their_bound(number in 1_u32..100, base in 0_u64..1000, seed in any::<u64>()) {
        let policy = RetryPolicy { backoff: Duration::from_millis(base), ..policy(RetryOn::FIVE_XX) };
        let pause = retry::backoff(&policy, number, &mut fastrand::Rng::with_seed(seed));
        let bound = base.saturating_mul(1_u64.checked_shl(number - 1).unwrap_or(u64::MAX)).min(10 * base);
        prop_assert!(pause < Duration::from_millis(bound.max(1)));
        prop_assert!(base > 0 || pause.is_zero());
    }

    #[test]
    fn a_budget_never_falls_below_its_minimum(percent in -10.0..200.0_f64, least in 0_u32..10, active: u64, pending: u64) {
        let budget = RetryBudget { percent, min_concurrency: least };
        prop_assert!(retry::concurrent(Some(&budget), None, active, pending) >= u64::from(least));
    }
}
