//! What happens to a request between its rule and its destinations.

use super::view::Filter;
use super::{Asking, words};
use crate::route::{Head, cors};
use crate::snapshot::route::{Cors, Destination, Fault, Forward, HeaderChange, Route};
use std::sync::Arc;

impl Asking<'_> {
    pub(super) fn admission(&self, taken: &Route) -> Vec<Filter> {
        let mut all = Vec::new();
        if let Some(limit) = &taken.rate_limit {
            let every = words::time(limit.fill_interval);
            let of = self.reference(&limit.rule).object;
            let text = format!(
                "{of}: {} at once, {} more every {every}, for each source",
                limit.max_tokens, limit.tokens_per_fill
            );
            all.push(filter("rate-limit", text, limit.share));
        }
        let Some(fault) = taken.fault.as_deref() else { return all };
        let Fault { delay, abort } = fault;
        all.extend(delay.as_ref().map(|delay| filter("fault-delay", words::time(delay.fixed), delay.share)));
        all.extend(abort.as_ref().map(|abort| filter("fault-abort", words::abort(abort.with), abort.share)));
        all
    }
}

fn filter(kind: &str, text: String, share: u32) -> Filter {
    Filter { kind: kind.into(), text, percent: words::percent(share) }
}

pub(super) fn cors_filter(cors: &Cors, head: &Head<'_>) -> Filter {
    let origins: Vec<String> = cors.allow_origins.iter().map(ToString::to_string).collect();
    let asked = match cors::allowed_origin(cors, head.headers) {
        Some(origin) => format!("; {} is allowed", String::from_utf8_lossy(origin.as_bytes())),
        None if head.headers.contains_key(http::header::ORIGIN) => "; this one is not".into(),
        None => String::new(),
    };
    filter("cors", format!("origins {}{asked}", origins.join(", ")), 1_000_000)
}

pub(super) fn header_filters(taken: &Route) -> Vec<Filter> {
    let of = |kind, change: &Option<Arc<HeaderChange>>| {
        change.as_ref().map(|change| filter(kind, words::change(change), 1_000_000))
    };
    [of("request-headers", &taken.headers.request), of("response-headers", &taken.headers.response)]
        .into_iter()
        .flatten()
        .collect()
}

pub(super) fn forward_filters(forward: &Forward) -> Vec<Filter> {
    let mut all = Vec::new();
    if let Some(rewrite) = &forward.rewrite {
        let path = rewrite.path.as_ref().map(|_| "path");
        let authority = rewrite.authority.as_ref().map(|_| "host");
        let what: Vec<&str> = path.into_iter().chain(authority).collect();
        all.push(filter("rewrite", what.join(" and "), 1_000_000));
    }
    let of_backends = forward.backends.iter().flat_map(|backend| &backend.mirrors);
    all.extend(forward.mirrors.iter().chain(of_backends).map(|mirror| {
        let Destination { host, port, subset } = &mirror.to;
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let subset = subset.as_ref().map(|subset| format!(" subset {subset}")).unwrap_or_default();
        filter("mirror", format!("a copy to {host}{port}{subset}"), mirror.share)
    }));
    all.extend(forward.hedge.as_ref().map(|hedge| {
        let delay = hedge.delay.map(words::time);
        let per_try = hedge.on_per_try_timeout.then(|| "the per-try timeout".to_owned());
        let when = delay.into_iter().chain(per_try).collect::<Vec<_>>().join(" or ");
        filter("hedge", format!("another attempt after {when}, {} at most", hedge.max_attempts), 1_000_000)
    }));
    all
}
