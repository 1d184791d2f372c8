//! A second attempt beside a slow first one (gRFC A6 "hedging"), budgeted and only where repeating is harmless.

use crate::grpc;
use crate::snapshot::route::Hedge;
use http::{HeaderMap, Method};
use std::time::Duration;

/// Whether a request may be sent twice at all.
///
/// `methods` names HTTP methods (`GET`) and gRPC methods by path (`/shop.Cart/Get`). Empty: GET and HEAD, no gRPC.
pub fn applies(hedge: &Hedge, method: &str, path: &str, headers: &HeaderMap) -> bool {
    let is_grpc = grpc::is_grpc(headers);
    if hedge.methods.is_empty() {
        return !is_grpc && [Method::GET.as_str(), Method::HEAD.as_str()].contains(&method);
    }
    // Every gRPC call is a POST, so only its path says which it is.
    hedge.methods.iter().any(|safe| if safe.starts_with('/') { **safe == *path } else { !is_grpc && **safe == *method })
}

/// How long to wait for an answer before one more attempt; `None`: there were enough. `attempts`: those made so far;
/// `per_try`: the request's `perTryTimeout`.
pub fn wait(hedge: &Hedge, attempts: u32, per_try: Option<Duration>) -> Option<Duration> {
    let per_try = per_try.filter(|_| hedge.on_per_try_timeout);
    let wait = [hedge.delay, per_try].into_iter().flatten().min();
    wait.filter(|_| attempts < hedge.max_attempts)
}

/// Whether the budget has room for one more hedge. One at a time always has: 10 % of three requests would be none.
pub fn within_budget(hedge: &Hedge, hedges: u64, requests: u64) -> bool {
    let allowed = requests.saturating_mul(u64::from(hedge.budget_percent)) / 100;
    hedge.budget_percent > 0 && hedges < allowed.max(1)
}
