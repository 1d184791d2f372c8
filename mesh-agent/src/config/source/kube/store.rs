//! What the API server was heard to hold, and what became different since the last batch. Pure.
//!
//! Invariants: a list is compared with what is known, never a clear: what is in it stays without a flap, what is not in
//! it any more goes when the list is complete. Only hashes are kept here; the objects go on to the compiler.

use super::journal;
use super::trim::trim;
use crate::config::diagnostic::Diagnostic;
use crate::config::resource::{Kind, ObjectKey, Resource, parse};
use crate::config::{Changes, Code};
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};
use serde_json::Value;
use std::collections::BTreeMap;
use std::hash::BuildHasher as _;
use std::sync::Arc;

/// What one watch is about: a kind, or a single object of it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct Scope {
    pub(super) kind: Kind,
    pub(super) only: Option<ObjectKey>,
}

/// What a watch says. Objects have `apiVersion` and `kind`.
#[derive(Debug)]
pub(super) enum Heard {
    /// A list begins: at the start, and again when the server has forgotten what we saw last (410 Gone).
    ListBegins,
    Listed(Value),
    ListEnds,
    Put(Value),
    Gone(Value),
}

#[derive(Debug, Default)]
pub(super) struct Store {
    node: Arc<str>,
    known: FxHashMap<ObjectKey, Known>,
    /// Lists under way, and what they have named.
    lists: FxHashMap<Scope, FxHashSet<ObjectKey>>,
    complete: FxHashSet<Scope>,
    pending: BTreeMap<ObjectKey, Option<Arc<Resource>>>,
    findings: BTreeMap<ObjectKey, Vec<Diagnostic>>,
    lines: Vec<u8>,
    /// The newest resourceVersion of all.
    newest: u64,
    /// Exclusive or over `mark`s, so that an object's coming and going cost nothing more.
    objects: u64,
}

#[derive(Debug)]
struct Known {
    hash: u64,
    uid: Box<str>,
    /// `metadata.resourceVersion`; 0 where it is no number, or from the disk.
    version: u64,
}

/// What one look found.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) changes: Changes,
    /// The same for the journal.
    pub(super) lines: Vec<u8>,
}

impl Scope {
    pub(super) fn all(kind: Kind) -> Self {
        Self { kind, only: None }
    }

    pub(super) fn one(object: ObjectKey) -> Self {
        Self { kind: object.kind, only: Some(object) }
    }

    fn holds(&self, key: &ObjectKey) -> bool {
        key.kind == self.kind && self.only.as_ref().is_none_or(|only| only == key)
    }
}

impl Store {
    pub(super) fn new(node: &str) -> Self {
        Self { node: node.into(), ..Self::default() }
    }

    pub(super) fn hear(&mut self, scope: &Scope, heard: Heard) {
        match heard {
            Heard::ListBegins => {
                self.lists.insert(scope.clone(), FxHashSet::default());
            }
            Heard::Listed(object) => {
                let Some(key) = key(scope.kind, &object) else { return };
                if let Some(list) = self.lists.get_mut(scope) {
                    list.insert(key.clone());
                }
                self.put(key, object, true);
            }
            Heard::ListEnds => {
                let listed = self.lists.remove(scope).unwrap_or_default();
                self.complete.insert(scope.clone());
                self.drop_all(|key| scope.holds(key) && !listed.contains(key));
            }
            Heard::Put(object) => {
                let Some(key) = key(scope.kind, &object) else { return };
                self.put(key, object, false);
            }
            Heard::Gone(object) => {
                let Some(key) = key(scope.kind, &object) else { return };
                // Late news of a former object under the same name.
                let uid = text(&object, "uid");
                if self.known.get(&key).is_some_and(|known| uid.is_empty() || *known.uid == *uid) {
                    self.drop_all(|known| *known == key);
                }
            }
        }
    }

    /// Whoever watched this does not any more: its objects are gone with it.
    pub(super) fn forget(&mut self, scope: &Scope) {
        self.lists.remove(scope);
        self.complete.remove(scope);
        self.drop_all(|key| scope.holds(key));
    }

    /// Takes over an object of the last run that the server was not heard about yet.
    pub(super) fn restore(&mut self, key: ObjectKey, object: Value) {
        let heard = self.complete.iter().any(|scope| scope.holds(&key));
        if !heard && !self.known.contains_key(&key) {
            self.put(key, object, true);
        }
    }

    pub(super) fn is_complete(&self, scope: &Scope) -> bool {
        self.complete.contains(scope)
    }

    /// The newest resourceVersion, and a hash of what every agent has alike.
    pub(super) fn standing(&self) -> (u64, u64) {
        (self.newest, self.objects)
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn findings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.findings.values().flatten()
    }

    /// What became different since the last call.
    pub(super) fn take(&mut self) -> Batch {
        let mut changes = Changes::default();
        for (key, resource) in std::mem::take(&mut self.pending) {
            match resource {
                Some(resource) => changes.upserts.push(resource),
                None => changes.deletes.push(key),
            }
        }
        Batch { changes, lines: std::mem::take(&mut self.lines) }
    }

    fn put(&mut self, key: ObjectKey, mut object: Value, listed: bool) {
        let version = text(&object, "resourceVersion").parse().unwrap_or(0);
        let uid = text(&object, "uid").into_boxed_str();
        self.newest = self.newest.max(version);
        let known = self.known.get(&key);
        // An older version of the same object; a list is the truth even if a restored server counts from below.
        if !listed && known.is_some_and(|known| known.uid == uid && version != 0 && version < known.version) {
            return;
        }
        trim(key.kind, &mut object, &self.node);
        let Ok(yaml) = serde_json::from_value::<serde_yaml_ng::Value>(object.clone()) else { return };
        let parsed = parse::object(yaml);
        let mut diagnostics = parsed.diagnostics;
        if let Some(resource) = parsed.resources.into_iter().next() {
            if known.is_none_or(|known| known.hash != resource.hash) {
                journal::put(&mut self.lines, &key, object);
                self.objects ^= mark(&key, resource.hash) ^ known.map_or(0, |known| mark(&key, known.hash));
                self.known.insert(key.clone(), Known { hash: resource.hash, uid, version });
                self.pending.insert(key.clone(), Some(Arc::new(resource)));
            } else if let Some(known) = self.known.get_mut(&key) {
                known.version = version;
            }
        } else if known.is_some() {
            let message = "it cannot be read; its last good version stays in force";
            diagnostics.push(Diagnostic::warning(Code::LastGoodKept, message).object(&key).fix("correct its errors"));
        }
        if diagnostics.is_empty() {
            self.findings.remove(&key);
        } else {
            self.findings.insert(key, diagnostics);
        }
    }

    fn drop_all(&mut self, which: impl Fn(&ObjectKey) -> bool) {
        let (pending, lines, objects) = (&mut self.pending, &mut self.lines, &mut self.objects);
        self.findings.retain(|key, _| !which(key));
        self.known.retain(|key, known| {
            let gone = which(key);
            if gone {
                *objects ^= mark(key, known.hash);
                journal::gone(lines, key);
                pending.insert(key.clone(), None);
            }
            !gone
        });
    }
}

/// Of one object in one version. Pods are trimmed by node, and Secrets are read where they are needed: 0.
fn mark(key: &ObjectKey, hash: u64) -> u64 {
    match key.kind {
        Kind::Pod | Kind::Secret => 0,
        _ => FxBuildHasher.hash_one((key.to_string(), hash)),
    }
}

fn key(kind: Kind, object: &Value) -> Option<ObjectKey> {
    let name = text(object, "name");
    (!name.is_empty()).then(|| ObjectKey::new(kind, &text(object, "namespace"), &name))
}

/// A field of `metadata`.
fn text(object: &Value, field: &str) -> String {
    let value = object.get("metadata").and_then(|meta| meta.get(field)).and_then(Value::as_str);
    value.unwrap_or_default().to_owned()
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
