//! The routes of one host, with what tells at a glance that a route does not take a request.
//!
//! Most rules of a long list are told by the beginning of their path, or by the beginning of a header's value. Both are kept
//! side by side, so that a request reads 40 bytes of such a rule instead of following its pointers, and each header once
//! instead of once per rule.

use super::route::{PathMatch, Route, StringMatch};
use http::{HeaderMap, HeaderName};
use serde::{Serialize, Serializer};
use std::iter;
use std::ops::Deref;
use std::sync::Arc;

/// Routes in the order in which they are tried.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    routes: Vec<Arc<Route>>,
    glances: Vec<Glance>,
    /// Of the headers that glances speak of.
    names: Vec<HeaderName>,
}

/// What a request must have for a full comparison to be worth while.
#[derive(Clone, Copy, Debug)]
struct Glance {
    path: Start,
    /// Of the header's values, joined as `route` does.
    value: Start,
    /// A name's number, [`NAMES`] or more where no header is wanted.
    header: usize,
}

/// How a text begins: its first 8 bytes, as far as `mask` goes.
#[derive(Clone, Copy, Debug)]
struct Start {
    bytes: u64,
    mask: u64,
}

/// Headers of one table that glances speak of; rules about further ones are compared in full.
const NAMES: usize = 16;

impl RouteTable {
    /// The routes that may take a request with this path (without its query), in order.
    pub fn candidates<'t>(&'t self, path: &str, headers: &HeaderMap) -> impl Iterator<Item = &'t Arc<Route>> {
        let path = first_bytes(path.as_bytes());
        let (mut asked, mut present, mut values) = (0_u32, 0_u32, [0; NAMES]);
        let mut may = move |glance: &Glance| {
            if !glance.path.begins(path) {
                return false;
            }
            let (Some(name), Some(value)) = (self.names.get(glance.header), values.get_mut(glance.header)) else {
                return true;
            };
            let bit = 1 << glance.header;
            if asked & bit == 0 {
                asked |= bit;
                if let Some(found) = joined(headers, name) {
                    (present, *value) = (present | bit, found);
                }
            }
            present & bit != 0 && glance.value.begins(*value)
        };
        self.routes.iter().zip(&self.glances).filter(move |(_, glance)| may(glance)).map(|(route, _)| route)
    }
}

impl Glance {
    fn of(route: &Route, names: &mut Vec<HeaderName>) -> Self {
        let path = match &route.matcher.path {
            Some(PathMatch::Exact { value, ignore_case: false } | PathMatch::Prefix { value, ignore_case: false }) => {
                value.as_bytes()
            }
            Some(PathMatch::SegmentPrefix(value)) => value.trim_end_matches('/').as_bytes(),
            Some(PathMatch::Regex(pattern)) => pattern.prefix(),
            _ => &[],
        };
        let wanted = route.matcher.headers.iter().find(|header| !header.invert);
        let value = match wanted.map(|header| &header.value) {
            Some(StringMatch::Exact(value) | StringMatch::Prefix(value)) => value.as_bytes(),
            Some(StringMatch::Regex(pattern)) => pattern.prefix(),
            Some(StringMatch::Present) | None => &[],
        };
        let header = wanted.map_or(NAMES, |header| {
            names.iter().position(|name| *name == header.name).unwrap_or_else(|| {
                if names.len() < NAMES {
                    names.push(header.name.clone());
                    names.len() - 1
                } else {
                    NAMES
                }
            })
        });
        Self { path: Start::of(path), value: Start::of(value), header }
    }
}

impl Start {
    fn of(text: &[u8]) -> Self {
        Self { bytes: first_bytes(text), mask: first_bytes(&[0xff; 8][..text.len().min(8)]) }
    }

    /// Whether a text whose first bytes are `of` may begin so.
    fn begins(self, of: u64) -> bool {
        of & self.mask == self.bytes
    }
}

/// The first 8 bytes; those that are missing are 0.
fn first_bytes(text: &[u8]) -> u64 {
    let mut first = [0; 8];
    let length = text.len().min(8);
    first[..length].copy_from_slice(&text[..length]);
    u64::from_le_bytes(first)
}

/// The first bytes of a header's values, joined with `,`; `None`: there is no value.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.as_bytes();
    let rest = values.flat_map(|value| iter::once(&b',').chain(value.as_bytes()));
    let mut first = [0; 8];
    first.iter_mut().zip(value.iter().chain(rest)).for_each(|(to, from)| *to = *from);
    Some(u64::from_le_bytes(first))
}

impl FromIterator<Arc<Route>> for RouteTable {
    fn from_iter<I: IntoIterator<Item = Arc<Route>>>(routes: I) -> Self {
        Vec::from_iter(routes).into()
    }
}

impl From<Vec<Arc<Route>>> for RouteTable {
    fn from(routes: Vec<Arc<Route>>) -> Self {
        let mut names = Vec::new();
        let glances = routes.iter().map(|route| Glance::of(route, &mut names)).collect();
        Self { routes, glances, names }
    }
}

impl Deref for RouteTable {
    type Target = [Arc<Route>];

    fn deref(&self) -> &Self::Target {
        &self.routes
    }
}

impl PartialEq for RouteTable {
    fn eq(&self, other: &Self) -> bool {
        self.routes == other.routes
    }
}

impl Serialize for RouteTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.routes.serialize(serializer)
    }
}
