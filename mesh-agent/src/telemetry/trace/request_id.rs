//! `x-request-id`: a name for a request that logs and traces share, and in it the decision whether it is traced.
//!
//! Envoy's UUID request id extension: the digit after the second dash says why a request is traced; a UUID of version 4
//! has `4` there, which means that it is not.

use http::{HeaderMap, HeaderName, HeaderValue};

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Place of the decision in `xxxxxxxx-xxxx-4xxx-xxxx-xxxxxxxxxxxx`.
const AT: usize = 14;

/// Why a request is traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    None,
    Sampled,
    /// `x-envoy-force-trace`
    Forced,
    /// `x-client-trace-id`
    Client,
}

impl Reason {
    fn digit(self) -> u8 {
        match self {
            Self::None => b'4',
            Self::Sampled => b'9',
            Self::Forced => b'a',
            Self::Client => b'b',
        }
    }
}

/// Gives a request that has none its id.
pub fn give(headers: &mut HeaderMap, random: u128, reason: Reason) {
    let mut id = uuid(random);
    id[AT] = reason.digit();
    put(headers, &id);
}

/// What an id says; an id of another form says nothing.
pub fn reason(headers: &HeaderMap) -> Reason {
    match headers.get(REQUEST_ID).and_then(|id| digit_of(id.as_bytes())) {
        Some(b'9') => Reason::Sampled,
        Some(b'a') => Reason::Forced,
        Some(b'b') => Reason::Client,
        _ => Reason::None,
    }
}

/// [`draw`] of an id that is made of `random`.
pub fn draw_of(random: u128) -> u32 {
    // The first eight digits: never more than 32 bits.
    u32::try_from(random >> 96).unwrap_or(0) % 10_000
}

/// A number below 10,000 that all who see the same id agree on: Envoy's `x-request-id` modulo.
pub fn draw(headers: &HeaderMap) -> Option<u32> {
    let id = headers.get(REQUEST_ID)?.as_bytes();
    digit_of(id)?;
    let head = std::str::from_utf8(id.get(..8)?).ok()?;
    Some(u32::from_str_radix(head, 16).ok()? % 10_000)
}

/// Writes a decision into an id; ids of another form stay as they are.
pub fn set_reason(headers: &mut HeaderMap, reason: Reason) {
    let Some(id) = headers.get(REQUEST_ID).map(HeaderValue::as_bytes) else { return };
    if digit_of(id).is_none_or(|digit| digit == reason.digit()) {
        return;
    }
    let mut id = id.to_vec();
    id[AT] = reason.digit();
    put(headers, &id);
}

fn put(headers: &mut HeaderMap, id: &[u8]) {
    if let Ok(mut id) = HeaderValue::from_bytes(id) {
        // Never the same twice: kept out of HPACK's tables (RFC 7541 §6.2.3).
        id.set_sensitive(true);
        headers.insert(REQUEST_ID, id);
    }
}

/// Of what looks like a UUID.
fn digit_of(id: &[u8]) -> Option<u8> {
    let dashed = id.len() == 36 && [8, 13, 18, 23].iter().all(|at| id.get(*at) == Some(&b'-'));
    dashed.then(|| id.get(AT).copied()).flatten()
}

/// Version 4 (RFC 9562 §5.4): 122 random bits. On the stack: each request without an id gets one.
pub fn uuid(random: u128) -> [u8; 36] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bits = (random & !(0xf000 << 64) & !(0xc000 << 48)) | (0x4000 << 64) | (0x8000 << 48);
    let mut left = bits.to_be_bytes().into_iter().flat_map(|byte| [byte >> 4, byte & 15]);
    std::array::from_fn(|at| match at {
        8 | 13 | 18 | 23 => b'-',
        _ => left.next().and_then(|digit| DIGITS.get(usize::from(digit)).copied()).unwrap_or(b'0'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(id: &str) -> HeaderMap {
        HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_str(id).unwrap())])
    }

    #[test]
    fn request_ids_are_uuids_of_version_4() {
        let text = |random| String::from_utf8(uuid(random).to_vec()).unwrap();
        assert_eq!(text(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(text(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(text(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef), "01234567-89ab-4def-8123-456789abcdef");
    }

    #[test]
    fn an_id_of_ones_own_is_kept() {
        let mut headers = with("mine");
        set_reason(&mut headers, Reason::Forced);
        assert_eq!(headers[REQUEST_ID], "mine");
        assert_eq!((reason(&headers), draw(&headers)), (Reason::None, None));
    }

    #[test]
    fn the_decision_travels_in_the_id() {
        let mut headers = HeaderMap::new();
        give(&mut headers, 0x0000_2710_0000_0000_0000_0000_0000_0000, Reason::None);
        assert_eq!((reason(&headers), draw(&headers)), (Reason::None, Some(0)), "0x2710 is 10,000");
        for wanted in [Reason::Sampled, Reason::Forced, Reason::Client, Reason::None] {
            set_reason(&mut headers, wanted);
            assert_eq!(reason(&headers), wanted);
        }
        // Envoy's own example of a sampled one.
        assert_eq!(reason(&with("84961386-6d84-929d-98bd-c5aee93b5c88")), Reason::Sampled);
    }
}
