//! The routes of one host, with what tells at a glance that a route does not take a request.
//!
//! Most rules of a long list are told by the beginning of their path or by a header that most requests do not have. Both are
//! kept side by side, so that a request reads 24 bytes of such a rule instead of following its pointers.

use super::route::{PathMatch, Route};
use http::{HeaderMap, HeaderName};
use serde::{Serialize, Serializer};
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
#[derive(Clone, Copy, Debug, Default)]
struct Glance {
    /// The first 8 bytes of the path, as far as `mask` goes.
    start: u64,
    mask: u64,
    /// A name's number, 64 or more where no header is wanted.
    header: usize,
}

/// One bit of a `u64` for each.
const NAMES: usize = 64;

impl RouteTable {
    /// The routes that may take a request with this path (without its query), in order.
    pub fn candidates<'t>(&'t self, path: &str, headers: &HeaderMap) -> impl Iterator<Item = &'t Arc<Route>> {
        let start = start(path.as_bytes());
        let (mut asked, mut present) = (0_u64, 0_u64);
        let mut may = move |glance: &Glance| {
            if start & glance.mask != glance.start {
                return false;
            }
            let Some(name) = self.names.get(glance.header) else { return true };
            let bit = 1 << glance.header;
            if asked & bit == 0 {
                asked |= bit;
                present |= if headers.contains_key(name) { bit } else { 0 };
            }
            present & bit != 0
        };
        self.routes.iter().zip(&self.glances).filter(move |(_, glance)| may(glance)).map(|(route, _)| route)
    }
}

impl Glance {
    fn of(route: &Route, names: &mut Vec<HeaderName>) -> Self {
        let wanted = match &route.matcher.path {
            Some(PathMatch::Exact { value, ignore_case: false } | PathMatch::Prefix { value, ignore_case: false }) => {
                value
            }
            Some(PathMatch::SegmentPrefix(value)) => value.trim_end_matches('/'),
            _ => "",
        };
        let header = route.matcher.headers.iter().find(|header| !header.invert).map_or(NAMES, |header| {
            names.iter().position(|name| *name == header.name).unwrap_or_else(|| {
                if names.len() < NAMES {
                    names.push(header.name.clone());
                    names.len() - 1
                } else {
                    NAMES
                }
            })
        });
        let mask = start(&[0xff; 8][..wanted.len().min(8)]);
        Self { start: start(wanted.as_bytes()), mask, header }
    }
}

/// The first 8 bytes; those that are missing are 0.
fn start(bytes: &[u8]) -> u64 {
    let mut first = [0; 8];
    let length = bytes.len().min(8);
    first[..length].copy_from_slice(&bytes[..length]);
    u64::from_le_bytes(first)
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
