//! Session affinity: the number that a request's consistent hash key gives (SEMANTICS §5 "consistentHash").
//!
//! Place in the path: once per request, before the first `Cluster::pick`; retries use the same number.

use crate::snapshot::policy::HashKey;
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use smallvec::SmallVec;
use std::net::SocketAddr;
use std::time::Duration;
use xxhash_rust::xxh64::{Xxh64, xxh64};

/// What a key can be made of.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    pub headers: &'a HeaderMap,
    pub query: Option<&'a str>,
    /// The client's end of its connection.
    pub client: SocketAddr,
    /// Our end of it: the address that the client asked for.
    pub local: SocketAddr,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// `None`: the request has no key; any endpoint will do.
    pub hash: Option<u64>,
    /// A `Set-Cookie` for the response: the key was made by us.
    pub set_cookie: Option<HeaderValue>,
}

/// The request's place among the endpoints.
pub fn affinity(key: &HashKey, facts: &RequestFacts<'_>) -> Affinity {
    let plain = |hash| Affinity { hash, set_cookie: None };
    match key {
        HashKey::Header(name) => plain(header(facts.headers, name)),
        HashKey::SourceIp => plain(Some(hash(facts.client.ip().to_string()))),
        HashKey::Query(name) => plain(facts.query.and_then(|query| first_value(query, name)).map(hash)),
        HashKey::Cookie { name, path, ttl } => match (cookie(facts.headers, name), ttl) {
            (Some(value), _) => plain(Some(hash(value))),
            (None, None) => Affinity::default(),
            (None, Some(ttl)) => {
                // The same for all requests of a connection: several at once get one cookie.
                let value = format!("{:016x}", hash(format!("{}{}", facts.client, facts.local)));
                let set_cookie = set_cookie(name, &value, path.as_deref(), *ttl);
                Affinity { hash: Some(hash(value)), set_cookie }
            }
        },
    }
}

fn hash(value: impl AsRef<[u8]>) -> u64 {
    xxh64(value.as_ref(), 0)
}

/// All values of the field in sorted order, so that the order of its lines does not matter.
fn header(headers: &HeaderMap, name: &str) -> Option<u64> {
    let mut values: SmallVec<[&[u8]; 4]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    values.sort_unstable();
    if values.is_empty() {
        return None;
    }
    let mut hasher = Xxh64::new(0);
    values.iter().for_each(|value| hasher.update(value));
    Some(hasher.digest())
}

/// The cookie's value without quotes (RFC 6265 §4.2.1); an empty one counts as none.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(';'));
    let mut values = pairs.filter_map(|pair| pair.trim().split_once('=')).filter(|(key, _)| *key == name);
    let value = values.next()?.1;
    let bare = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
    (!bare.is_empty()).then_some(bare)
}

fn first_value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

/// A `ttl` of zero makes a session cookie. `None` where name or path cannot stand in a field.
fn set_cookie(name: &str, value: &str, path: Option<&str>, ttl: Duration) -> Option<HeaderValue> {
    let age = if ttl.is_zero() { String::new() } else { format!("; Max-Age={}", ttl.as_secs()) };
    let path = path.filter(|path| !path.is_empty()).map_or_else(String::new, |path| format!("; Path={path}"));
    HeaderValue::try_from(format!("{name}=\"{value}\"{age}{path}; HttpOnly")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(key: &HashKey, fields: &[(&'static str, &str)], query: Option<&str>) -> Affinity {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let (client, local) = ("10.0.0.1:40000".parse().unwrap(), "10.96.0.1:80".parse().unwrap());
        affinity(key, &RequestFacts { headers: &headers, query, client, local })
    }

    #[test]
    fn header_values_count_in_any_order() {
        let key = HashKey::Header("x-user".into());
        let one = of(&key, &[("x-user", "a"), ("x-user", "b")], None);
        assert_eq!(one, of(&key, &[("x-user", "b"), ("x-user", "a")], None));
        assert_eq!(one.hash, Some(hash("ab")));
        assert_eq!(of(&key, &[("x-other", "a")], None).hash, None);
        // Reference value of XXH64, seed 0.
        assert_eq!(of(&key, &[("x-user", "a")], None).hash, Some(0xd24e_c4f1_a98c_6e5b));
    }

    #[test]
    fn query_and_source() {
        let key = HashKey::Query("user".into());
        assert_eq!(of(&key, &[], Some("x=1&user=a&user=b")).hash, Some(hash("a")));
        assert_eq!(of(&key, &[], Some("users=a")).hash, None);
        assert_eq!(of(&HashKey::SourceIp, &[], None).hash, Some(hash("10.0.0.1")));
    }

    #[test]
    fn a_cookie_is_made_only_with_a_ttl() {
        let key = |ttl| HashKey::Cookie { name: "sid".into(), path: Some("/shop".into()), ttl };
        let sent = [("cookie", "a=1; sid=\"xyz\"")];
        assert_eq!(of(&key(None), &sent, None), Affinity { hash: Some(hash("xyz")), set_cookie: None });
        assert_eq!(of(&key(None), &[], None), Affinity::default());
        let value = format!("{:016x}", hash("10.0.0.1:4000010.96.0.1:80"));
        let session = of(&key(Some(Duration::ZERO)), &[("cookie", "sid=")], None);
        assert_eq!(session.hash, Some(hash(&value)));
        assert_eq!(session.set_cookie.unwrap(), format!("sid=\"{value}\"; Path=/shop; HttpOnly"));
        let hour = of(&key(Some(Duration::from_secs(3600))), &[], None);
        assert_eq!(hour.set_cookie.unwrap(), format!("sid=\"{value}\"; Max-Age=3600; Path=/shop; HttpOnly"));
    }
}
