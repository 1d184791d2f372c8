//! What a worker hands over to the writer: what each line has of its own, and the templates of what lines share.
//!
//! A line is three times as long as this. Written here, it would push what the worker needs for its requests out of the
//! cache, only to be copied by the writer once more.

use super::Ended;
use super::entry::Known;
use super::render::Template;
use super::texts::{self, Place, View};
use crate::snapshot::access_log::Format;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Lines that go together: each time two threads change places, 20 µs in all.
const LINES: usize = 768;
/// Lines that are gathered near, to go to the others together.
const NEAR: usize = 32;
/// So many bytes of texts go even where they are of fewer lines.
const TEXT: usize = 128 << 10;
/// And so many of templates: where each line has one of its own, they are what is large.
const TEMPLATES: usize = 512 << 10;

/// Lines in their order.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) format: Arc<Format>,
    /// Tells it from the worker's others.
    number: u64,
    templates: Vec<Arc<Template>>,
    /// Their bytes.
    templated: usize,
    all: Part,
    /// The last ones, in memory that stays in the cache: the batch's is cold, and whatever counts across threads after a
    /// line would wait for each of its stores (100 ns).
    near: Part,
}

/// Lines in their order, as far as they are not templates.
#[derive(Debug, Default)]
struct Part {
    lines: Vec<Line>,
    /// As many of each line.
    places: Vec<Place>,
    text: Vec<u8>,
}

/// Where a batch has a template.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noted {
    batch: u64,
    at: u32,
}

/// What a line has of its own, beside texts.
#[derive(Debug)]
pub(super) struct Line {
    template: u32,
    /// Where its texts begin.
    text: u32,
    /// Nanoseconds since 1970.
    pub(super) started: u64,
    pub(super) connection: u64,
    pub(super) client: SocketAddr,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) duration: Duration,
    pub(super) answered: Option<Duration>,
    pub(super) upstream: Option<Duration>,
}

impl Batch {
    pub(super) fn new(format: &Arc<Format>) -> Self {
        let (templates, templated, all, near) = Default::default();
        Self { format: Arc::clone(format), number: 0, templates, templated, all, near }
    }

    /// Leaves an empty one.
    pub(super) fn take(&mut self) -> Self {
        let full = self.is_full();
        self.settle();
        let mut all = std::mem::take(&mut self.all);
        if !full {
            // What waits is counted by its length.
            all.shrink();
        }
        let (format, number, near) = (Arc::clone(&self.format), self.number, Part::default());
        self.number += 1;
        let (templates, templated) = (std::mem::take(&mut self.templates), std::mem::take(&mut self.templated));
        Self { format, number, templates, templated, all, near }
    }

    /// A template that lines to come will name. `noted`: where it was noted last.
    pub(super) fn template(&mut self, template: &Arc<Template>, noted: Option<Noted>) -> Noted {
        if let Some(noted) = noted.filter(|noted| noted.batch == self.number) {
            return noted;
        }
        self.templates.push(Arc::clone(template));
        self.templated += template.size();
        // No more of them than lines.
        Noted { batch: self.number, at: self.templates.len() as u32 - 1 }
    }

    pub(super) fn push(&mut self, template: Noted, known: &Known, ended: &Ended<'_>) {
        let count = texts::places(&self.format.wanted);
        let Known { started, connection, client, texts, .. } = known;
        let Ended { duration, answered, upstream, received, sent, .. } = *ended;
        // It is full long before 32 bits do not count it.
        let (template, text) = (template.at, (self.all.text.len() + self.near.text.len()) as u32);
        let (started, connection, client) = (*started, *connection, *client);
        let near = &mut self.near;
        near.text.extend_from_slice(&texts.bytes);
        near.places.extend_from_slice(&texts.places);
        near.lines.push(Line {
            template,
            text,
            started,
            connection,
            client,
            received,
            sent,
            duration,
            answered,
            upstream,
        });
        // A connection has none.
        near.places.resize(near.lines.len() * count, None);
        if near.lines.len() >= NEAR || near.text.len() >= TEXT {
            self.settle();
        }
    }

    fn settle(&mut self) {
        let Self { format, all, near, .. } = self;
        if all.lines.capacity() == 0 && near.lines.len() >= NEAR {
            all.lines.reserve_exact(LINES);
            all.places.reserve_exact(LINES * texts::places(&format.wanted));
            all.text.reserve_exact(TEXT);
        }
        all.lines.append(&mut near.lines);
        all.places.append(&mut near.places);
        all.text.append(&mut near.text);
        near.text.shrink_to(TEXT);
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= LINES || self.all.text.len() >= TEXT || self.templated >= TEMPLATES
    }

    pub(super) fn len(&self) -> usize {
        self.all.lines.len() + self.near.lines.len()
    }

    /// Bytes, once it is taken.
    pub(super) fn size(&self) -> usize {
        let Part { lines, places, text } = &self.all;
        size_of_val(&lines[..]) + size_of_val(&places[..]) + text.len() + self.templated
    }

    /// What there is of each line, in their order, once it is taken.
    pub(super) fn lines(&self) -> impl Iterator<Item = (&Template, &Line, View<'_>)> {
        let Part { lines, places, text } = &self.all;
        let places = places.chunks_exact(texts::places(&self.format.wanted));
        lines.iter().zip(places).filter_map(|(line, places)| {
            let bytes = text.get(line.text as usize..)?;
            Some((&**self.templates.get(line.template as usize)?, line, View { bytes, places }))
        })
    }
}

impl Part {
    fn shrink(&mut self) {
        let Self { lines, places, text } = self;
        lines.shrink_to_fit();
        places.shrink_to_fit();
        text.shrink_to_fit();
    }
}
