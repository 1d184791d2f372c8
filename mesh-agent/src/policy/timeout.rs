//! How long a request and each of its attempts may take (SEMANTICS §3 "Timeout", "gRPC timeout").

use crate::grpc::{self, GRPC_TIMEOUT};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::cell::RefCell;
use std::time::Duration;

const WHOLE: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
const PER_TRY: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");
const EXPECTED: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// The timeouts of one request. `None`: unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// For all attempts and the pauses between them.
    pub whole: Option<Duration>,
    /// For one attempt; always shorter than `whole`.
    pub per_try: Option<Duration>,
    /// The endpoint of a gRPC call is told what is left.
    grpc: bool,
    /// The client sent header fields that end here.
    own: bool,
    /// Somebody told the client how long it had, and it passed that on.
    told: bool,
    /// The client said how long it will wait: the clock runs while it still sends.
    pub from_start: bool,
}

/// What a request's head says of time.
#[derive(Default)]
struct Asked<'h> {
    grpc: Option<&'h HeaderValue>,
    whole: Option<&'h HeaderValue>,
    per_try: Option<&'h HeaderValue>,
    expected: Option<&'h HeaderValue>,
}

impl Timeouts {
    /// From the route's `timeout` and `perTryTimeout`, and the request's own header fields.
    ///
    /// Envoy's header goes before all. gRPC: `grpc-timeout`, at most the route's; without it the route's.
    pub fn new(route: Option<Duration>, per_try: Option<Duration>, headers: &HeaderMap) -> Self {
        let grpc = grpc::is_grpc(headers);
        let said = Asked::of(headers);
        let asked = said.grpc.filter(|_| grpc).and_then(|value| grpc::parse_timeout(value.as_bytes()));
        let limit = route.filter(|limit| !limit.is_zero());
        let configured = match (asked, limit) {
            (Some(asked), Some(limit)) => Some(asked.min(limit)),
            (asked, limit) => asked.or(limit),
        };
        let whole = said.whole.and_then(millis).map_or(configured, Some);
        // Zero in Envoy's header field means none; zero in `grpc-timeout` means at once.
        let whole = whole.filter(|whole| !whole.is_zero() || asked == Some(Duration::ZERO));
        let per_try = said.per_try.and_then(millis).or(per_try).filter(|per_try| !per_try.is_zero());
        let per_try = per_try.filter(|per_try| whole.is_none_or(|whole| *per_try < whole));
        Self {
            whole,
            per_try,
            grpc: grpc && (asked.is_some() || limit.is_some()),
            own: said.whole.is_some() || said.per_try.is_some(),
            told: said.expected.is_some(),
            from_start: said.grpc.is_some(),
        }
    }

    /// What is left of the whole after `elapsed`.
    pub fn left(&self, elapsed: Duration) -> Option<Duration> {
        self.whole.map(|whole| whole.saturating_sub(elapsed))
    }

    /// Tells the endpoint of an attempt that starts `elapsed` after the request how long it has, once: a gRPC endpoint has
    /// `grpc-timeout` for it.
    pub fn write(&self, elapsed: Duration, headers: &mut HeaderMap) {
        if self.own {
            headers.remove(WHOLE);
            headers.remove(PER_TRY);
        }
        let Some(expected) = [self.left(elapsed), self.per_try].into_iter().flatten().min() else { return };
        if !self.grpc {
            headers.insert(EXPECTED, HeaderValue::from(whole_millis(expected)));
            return;
        }
        if self.told {
            headers.remove(EXPECTED);
        }
        headers.insert(GRPC_TIMEOUT, grpc_timeout(expected));
    }
}

thread_local! {
    /// What the last attempt was told, of how many milliseconds: `perTryTimeout`, as a rule, for whole series of them.
    static LAST: RefCell<(u64, HeaderValue)> = RefCell::new((0, grpc::format_timeout(Duration::ZERO)));
}

fn grpc_timeout(time: Duration) -> HeaderValue {
    let millis = whole_millis(time);
    LAST.with_borrow_mut(|last| {
        if last.0 != millis {
            *last = (millis, grpc::format_timeout(time));
        }
        last.1.clone()
    })
}

fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl<'h> Asked<'h> {
    /// One pass over what is there: each look-up would hash a long name, and nearly no request has any of them.
    fn of(headers: &'h HeaderMap) -> Self {
        let mut asked = Self::default();
        for (name, value) in headers {
            let place = match name.as_str() {
                "grpc-timeout" => &mut asked.grpc,
                "x-envoy-upstream-rq-timeout-ms" => &mut asked.whole,
                "x-envoy-upstream-rq-per-try-timeout-ms" => &mut asked.per_try,
                "x-envoy-expected-rq-timeout-ms" => &mut asked.expected,
                _ => continue,
            };
            place.get_or_insert(value);
        }
        asked
    }
}

/// A header field in milliseconds; what is no number is no header field.
fn millis(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.parse().ok().map(Duration::from_millis)
}
