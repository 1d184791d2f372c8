//! Where a request stands in its trace, as header fields say it: W3C Trace Context and B3, single and multi.
//!
//! Pure. Invariant: identifiers are never zero; what cannot be read counts as absent, so that a trace begins anew.

use crate::snapshot::tracing::Formats;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::num::{NonZeroU64, NonZeroU128};

pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
pub(super) const B3: HeaderName = HeaderName::from_static("b3");
pub(super) const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
pub(super) const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
pub(super) const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
pub(super) const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
pub(super) const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

pub type TraceId = NonZeroU128;
pub type SpanId = NonZeroU64;

/// Which span a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    pub trace: TraceId,
    pub span: SpanId,
}

/// Whether a trace is recorded, as whoever began it decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Drop,
    Record,
    /// B3's debug flag: record, and let no later stage think otherwise.
    Debug,
}

/// Where a recorded request stands, and how the next hop is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) ids: Ids,
    pub(super) parent: Option<SpanId>,
    pub(super) decision: Decision,
    pub(super) formats: Formats,
}

/// What a request's head says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Incoming {
    pub ids: Option<Ids>,
    /// `None`: left to whoever comes next.
    pub decision: Option<Decision>,
    /// The families that were there, read or not.
    pub formats: Formats,
}

impl Decision {
    pub fn is_recorded(self) -> bool {
        self != Self::Drop
    }
}

/// Reads a request's context. Where families disagree `w3c_first` says which one is believed.
pub fn extract(headers: &HeaderMap, w3c_first: bool) -> Incoming {
    let has = |name: &HeaderName| headers.contains_key(name);
    let formats = Formats {
        w3c: has(&TRACEPARENT),
        b3: has(&B3_TRACE) || has(&B3_SAMPLED) || has(&B3_FLAGS),
        b3_single: has(&B3),
    };
    let w3c = || text(headers, &TRACEPARENT).and_then(traceparent);
    let b3 = || {
        let single = if formats.b3_single { text(headers, &B3).and_then(b3_single) } else { None };
        single.or_else(|| formats.b3.then(|| b3_multi(headers)).flatten())
    };
    let read = match (formats.w3c, w3c_first) {
        (false, _) => b3(),
        (true, true) => w3c().or_else(b3),
        (true, false) => b3().or_else(w3c),
    };
    let (ids, decision) = read.unwrap_or_default();
    Incoming { ids, decision, formats }
}

/// Writes a recorded request's context in these families; `parent` is for B3, which names it.
pub fn inject(headers: &mut HeaderMap, ids: Ids, parent: Option<SpanId>, decision: Decision, formats: Formats) {
    if formats.w3c {
        put(headers, TRACEPARENT, &format_traceparent(ids, decision));
    }
    if formats.b3 {
        put(headers, B3_TRACE, &trace_hex(ids.trace));
        put(headers, B3_SPAN, &format!("{:016x}", ids.span));
        match parent {
            Some(parent) => put(headers, B3_PARENT, &format!("{parent:016x}")),
            None => drop(headers.remove(B3_PARENT)),
        }
        // Debug says it all: `x-b3-sampled` is left out beside it (openzipkin/b3-propagation, "Debug Flag").
        match decision {
            Decision::Debug => {
                headers.remove(B3_SAMPLED);
                headers.insert(B3_FLAGS, HeaderValue::from_static("1"));
            }
            Decision::Record => drop(headers.insert(B3_SAMPLED, HeaderValue::from_static("1"))),
            Decision::Drop => drop(headers.insert(B3_SAMPLED, HeaderValue::from_static("0"))),
        }
    }
    if formats.b3_single {
        let state = match decision {
            Decision::Drop => '0',
            Decision::Record => '1',
            Decision::Debug => 'd',
        };
        let mut value = format!("{}-{:016x}-{state}", trace_hex(ids.trace), ids.span);
        if let Some(parent) = parent {
            value += &format!("-{parent:016x}");
        }
        put(headers, B3, &value);
    }
}

/// Tells those downstream that a trace which begins here is not recorded. B3 needs no identifiers for that.
pub(super) fn inject_dropped(headers: &mut HeaderMap, formats: Formats, ids: impl FnOnce() -> Ids) {
    if formats.w3c {
        put(headers, TRACEPARENT, &format_traceparent(ids(), Decision::Drop));
    }
    if formats.b3 {
        headers.insert(B3_SAMPLED, HeaderValue::from_static("0"));
    }
    if formats.b3_single {
        headers.insert(B3, HeaderValue::from_static("0"));
    }
}

type Read = (Option<Ids>, Option<Decision>);

/// W3C Trace Context §3.2: `00-<32 hex>-<16 hex>-<2 hex>`, lower case; of a later version, what version 00 has in front.
fn traceparent(value: &str) -> Option<Read> {
    let (version, rest) = value.split_once('-')?;
    let mut parts = rest.splitn(4, '-');
    let (trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?);
    let lower = |text: &str, length: usize| text.len() == length && !text.bytes().any(|b| b.is_ascii_uppercase());
    let well_formed = lower(version, 2) && lower(trace, 32) && lower(span, 16) && lower(flags, 2);
    let (version, flags) = (hex(version)?, hex(flags)?);
    if !well_formed || version == 0xff || (version == 0 && parts.next().is_some()) {
        return None;
    }
    let ids = Ids { trace: TraceId::new(hex(trace)?)?, span: span_id(span)? };
    // Bit 0 is `sampled`; the caller has decided either way.
    Some((Some(ids), Some(if flags & 1 == 1 { Decision::Record } else { Decision::Drop })))
}

/// `{trace}-{span}[-{state}[-{parent}]]`, or the state alone.
fn b3_single(value: &str) -> Option<Read> {
    let state = |text: &str| match text {
        "0" => Some(Decision::Drop),
        "1" => Some(Decision::Record),
        "d" => Some(Decision::Debug),
        _ => None,
    };
    let Some((trace, rest)) = value.split_once('-') else { return Some((None, Some(state(value)?))) };
    let mut rest = rest.split('-');
    let ids = Ids { trace: b3_trace(trace)?, span: span_id(rest.next()?)? };
    let decision = match rest.next() {
        Some(text) => Some(state(text)?),
        None => None,
    };
    Some((Some(ids), decision))
}

fn b3_multi(headers: &HeaderMap) -> Option<Read> {
    let decision = match (text(headers, &B3_FLAGS), text(headers, &B3_SAMPLED)) {
        (Some("1"), _) => Some(Decision::Debug),
        // `true` and `false` come from old tracers.
        (_, Some("1" | "true")) => Some(Decision::Record),
        (_, Some("0" | "false")) => Some(Decision::Drop),
        _ => None,
    };
    let trace = text(headers, &B3_TRACE).and_then(b3_trace);
    let span = text(headers, &B3_SPAN).and_then(span_id);
    let ids = trace.zip(span).map(|(trace, span)| Ids { trace, span });
    (ids.is_some() || decision.is_some()).then_some((ids, decision))
}

/// 64 or 128 bits.
fn b3_trace(text: &str) -> Option<TraceId> {
    matches!(text.len(), 16 | 32).then(|| hex(text)).flatten().and_then(TraceId::new)
}

fn span_id(text: &str) -> Option<SpanId> {
    let id = (text.len() == 16).then(|| hex(text)).flatten()?;
    SpanId::new(u64::try_from(id).ok()?)
}

/// Digits only: `from_str_radix` alone would take a sign.
fn hex(text: &str) -> Option<u128> {
    text.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

fn format_traceparent(ids: Ids, decision: Decision) -> String {
    format!("00-{:032x}-{:016x}-{:02x}", ids.trace, ids.span, u8::from(decision.is_recorded()))
}

/// As long as it came: a trace of 64 bits stays one for tracers that know no others.
pub(super) fn trace_hex(trace: TraceId) -> String {
    if trace.get() >> 64 == 0 { format!("{trace:016x}") } else { format!("{trace:032x}") }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // Hexadecimal digits and dashes are a field value.
    if let Ok(mut value) = HeaderValue::from_str(value) {
        // Never the same twice: kept out of HPACK's tables (RFC 7541 §6.2.3).
        value.set_sensitive(true);
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests;
