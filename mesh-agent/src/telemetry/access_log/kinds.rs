//! What one worker remembers of the lines that it had to write.

use super::How;
use super::batch::{Batch, Noted};
use super::entry::{Kind, Known};
use super::render::Template;
use rustc_hash::FxHasher;
use std::hash::Hasher;
use std::net::SocketAddr;
use std::sync::Arc;

/// Kinds that are remembered: endpoints by callers, nearly. Some 1 KiB each.
const KINDS: usize = 64;

/// Templates by what their lines have in common. Invariant: a line is the same whether its kind was seen before or not.
#[derive(Debug)]
pub(super) struct Kinds {
    /// Each kind has one place, which it shares with others.
    kinds: Box<[Option<Remembered>]>,
}

#[derive(Debug)]
struct Remembered {
    kind: Kind,
    how: How<'static>,
    template: Arc<Template>,
    noted: Noted,
}

impl Kinds {
    pub(super) fn new() -> Self {
        Self { kinds: std::iter::repeat_with(|| None).take(KINDS).collect() }
    }

    /// The template of a line that is to be pushed.
    pub(super) fn note(&mut self, known: &Known, how: &How<'_>, batch: &mut Batch) -> Noted {
        let at = place(&known.kind, how);
        if let Some(Some(remembered)) = self.kinds.get_mut(at)
            && remembered.is_of(known, how)
        {
            remembered.noted = batch.template(&remembered.template, Some(remembered.noted));
            return remembered.noted;
        }
        let template = Arc::new(Template::new(&batch.format, known, how));
        let noted = batch.template(&template, None);
        if let Some(place) = self.kinds.get_mut(at) {
            *place = Some(Remembered { kind: known.kind.clone(), how: how.kept(), template, noted });
        }
        noted
    }
}

impl Remembered {
    fn is_of(&self, known: &Known, how: &How<'_>) -> bool {
        self.kind == known.kind && *self.template.authority == *known.authority() && self.how == *how
    }
}

/// By what tells kinds apart as a rule: connection, method, code and route.
fn place(kind: &Kind, how: &How<'_>) -> usize {
    let port = |of: Option<SocketAddr>| u64::from(of.map_or(0, |addr| addr.port()));
    let method = kind.asked.as_ref().and_then(|(method, _)| method.as_str().bytes().next()).unwrap_or(0);
    let route = how.route.as_ref().map_or(0, |route| route.as_ptr().addr());
    let ports = port(kind.endpoint) << 16 | port(kind.endpoint_local);
    let mut hasher = FxHasher::default();
    hasher.write_u64(u64::from(method) << 48 | u64::from(how.code.unwrap_or(0)) << 32 | ports);
    hasher.write_usize(route);
    (hasher.finish() % KINDS as u64) as usize
}
