//! Decisions about one request: faults, retries, hedges, timeouts, rate limits.
//!
//! Place in the path: `proxy/exchange.rs` asks them between `route` and `balance`, and after each attempt. Invariant:
//! pure: `now` and randomness are arguments. The one state, the rate limit's tokens, lives in [`Buckets`] outside the
//! snapshot, so that it survives a swap.

pub mod fault;
pub mod hedge;
pub mod rate_limit;
pub mod retry;
pub mod timeout;

pub use rate_limit::Buckets;

#[cfg(test)]
mod tests;
