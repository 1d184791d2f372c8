//! What lines show of requests' heads, responses' and trailers.

use crate::snapshot::access_log::Wanted;

/// Longest text, bytes: what one request can make of the writer's queue is bounded.
pub(super) const LONGEST: usize = 8 << 10;
/// Memory that is kept for the next request.
const KEPT: usize = 1 << 10;

/// Places of texts. After these come those of header fields, in the order of the format's names.
pub(super) const AUTHORITY: usize = 0;
pub(super) const PATH: usize = 1;
pub(super) const SCHEME: usize = 2;
pub(super) const REQUEST: usize = 3;

/// The first place of a response's fields.
pub(super) fn response(wanted: &Wanted) -> usize {
    REQUEST + wanted.request.len()
}

/// The first place of the trailers'.
pub(super) fn trailers(wanted: &Wanted) -> usize {
    response(wanted) + wanted.response.len()
}

pub(super) fn places(wanted: &Wanted) -> usize {
    trailers(wanted) + wanted.trailers.len()
}

/// From where to where a text goes; `None`: there is none.
pub(super) type Place = Option<(u32, u32)>;

/// Texts by their places. Copied: a line has few and short ones, and what shares a request's memory is counted across
/// threads, with each that begins and each that ends.
#[derive(Debug, Default)]
pub(super) struct Texts {
    pub(super) bytes: Vec<u8>,
    pub(super) places: Vec<Place>,
}

/// Texts wherever they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) places: &'a [Place],
}

impl Texts {
    /// Of so many places, all without.
    pub(super) fn begin(&mut self, places: usize) {
        self.clear();
        self.places.resize(places, None);
    }

    /// None, and little memory.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        self.places.clear();
    }

    /// The first text of a place counts.
    pub(super) fn put(&mut self, at: usize, text: &[u8]) {
        if let Some(place @ None) = self.places.get_mut(at) {
            let from = self.bytes.len();
            self.bytes.extend_from_slice(text.get(..LONGEST).unwrap_or(text));
            *place = u32::try_from(from).ok().zip(u32::try_from(self.bytes.len()).ok());
        }
    }

    pub(super) fn view(&self) -> View<'_> {
        View { bytes: &self.bytes, places: &self.places }
    }
}

impl<'a> View<'a> {
    pub(super) fn get(self, at: usize) -> Option<&'a [u8]> {
        let (from, until) = (*self.places.get(at)?)?;
        self.bytes.get(from as usize..until as usize)
    }
}
