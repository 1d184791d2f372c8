//! What a connection speaks, from its first bytes.
//!
//! Place in the path: after `listen`, before `http1`/`http2` or `balance` and `forward`. Ports with a declared protocol
//! decide without looking (HTTP: only which version). On undeclared ports the first bytes of *either* side decide, so
//! that a server-first protocol (SMTP, MySQL) never waits. Invariant: no timer runs on the happy path; a timer is armed
//! only after a client sent an ambiguous fragment (half a request line) and went quiet.
//!
//! Everything read stays in the caller's buffer and is replayed to the next stage.

mod race;
mod sniff;

pub use race::{Race, http_version, race};
pub use sniff::{Sniffed, sniff};
