//! Events on objects with errors (`events.k8s.io/v1`).
//!
//! Each error is told once: its Event's name is made of what it says, so that another agent's, or this one's after a
//! restart, is the same (409). At most [`BURST`] at once and one a second after that; what waits is told later.

use crate::config::diagnostic::Code;
use crate::config::resource::ObjectKey;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use std::collections::BTreeSet;
use std::hash::Hasher as _;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use xxhash_rust::xxh64::Xxh64;

/// `reportingController` of our Events.
pub(super) const REPORTER: &str = "undermesh.dev/agent";
/// Events at once.
const BURST: f64 = 25.0;
/// After that, a second.
const RATE: f64 = 1.0;
/// Longest `note`, bytes (`EventNoteMaxLength` of the API's validation).
const MOST_NOTE: usize = 1024;
/// Longest part of the object's name in the Event's: a name has 253 at most, the hash takes 17.
const MOST_NAME: usize = 200;

/// One error of one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    pub key: ObjectKey,
    pub uid: Arc<str>,
    pub code: Code,
    /// What is wrong, where, and what to do.
    pub note: String,
}

/// What was told, and how much more may be.
pub(super) struct Told {
    identity: String,
    names: BTreeSet<String>,
    tokens: f64,
    filled: Instant,
}

impl Told {
    pub(super) fn new(identity: &str) -> Self {
        Self { identity: identity.into(), names: BTreeSet::new(), tokens: BURST, filled: Instant::now() }
    }

    pub(super) async fn tell(&mut self, client: &Client, complaints: &[Complaint], leading: &watch::Receiver<bool>) {
        let now = Instant::now();
        self.tokens = refilled(self.tokens, now.saturating_duration_since(self.filled).as_secs_f64());
        self.filled = now;
        // What was corrected and comes again is told again.
        let current: BTreeSet<String> = complaints.iter().map(Complaint::name).collect();
        self.names.retain(|name| current.contains(name));
        for complaint in complaints {
            if self.names.contains(&complaint.name()) {
                continue;
            }
            if self.tokens < 1.0 || !*leading.borrow() {
                return;
            }
            self.tokens -= 1.0;
            let event = complaint.event(&self.identity);
            let api: Api<Event> = Api::namespaced(client.clone(), complaint.place());
            match api.create(&PostParams::default(), &event).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                // A namespace that ends takes no Events: 403; what else cannot be told is tried again.
                Err(error) => {
                    tracing::debug!(object = %complaint.key, %error, "no Event");
                    continue;
                }
                Ok(_) => tracing::debug!(object = %complaint.key, "Event"),
            }
            self.names.insert(complaint.name());
        }
    }
}

impl Complaint {
    /// Events about objects without a namespace are in `default`, as kubectl looks for them.
    fn place(&self) -> &str {
        if self.key.namespace.is_empty() { "default" } else { &self.key.namespace }
    }

    fn name(&self) -> String {
        let mut hasher = Xxh64::new(0);
        for part in [&*self.uid, &self.key.to_string(), self.code.id(), &self.note] {
            hasher.update(part.as_bytes());
            hasher.update(&[0]);
        }
        let name: String = self.key.name.chars().take(MOST_NAME).collect();
        format!("{name}.{:016x}", hasher.finish())
    }

    fn event(&self, identity: &str) -> Event {
        let version = self.key.kind.versions().first().map(|version| (*version).to_owned());
        Event {
            metadata: ObjectMeta {
                name: Some(self.name()),
                namespace: Some(self.place().into()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(Timestamp::now())),
            regarding: Some(ObjectReference {
                api_version: version,
                kind: Some(self.key.kind.api_name().into()),
                name: Some(self.key.name.to_string()),
                namespace: Some(self.key.namespace.to_string()).filter(|namespace| !namespace.is_empty()),
                uid: Some(self.uid.to_string()).filter(|uid| !uid.is_empty()),
                ..ObjectReference::default()
            }),
            type_: Some("Warning".into()),
            reason: Some(format!("{:?}", self.code)),
            action: Some("Compile".into()),
            note: Some(cut(&self.note).into()),
            reporting_controller: Some(REPORTER.into()),
            reporting_instance: Some(identity.chars().take(128).collect()),
            ..Event::default()
        }
    }
}

fn refilled(tokens: f64, seconds: f64) -> f64 {
    (tokens + seconds * RATE).min(BURST)
}

fn cut(note: &str) -> &str {
    let mut end = note.len().min(MOST_NOTE);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note.get(..end).unwrap_or(note)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::resource::Kind;

    fn complaint(note: &str) -> Complaint {
        let key = ObjectKey::new(Kind::VirtualService, "shop", &"x".repeat(253));
        Complaint { key, uid: "u1".into(), code: Code::BadReference, note: note.into() }
    }

    #[test]
    fn one_error_has_one_name_and_another_has_another() {
        let one = complaint("spec.http[0]: bad");
        assert_eq!(one.name(), complaint("spec.http[0]: bad").name());
        assert_ne!(one.name(), complaint("spec.http[1]: bad").name());
        assert!(one.name().len() <= 253);
        let event = one.event("n1");
        assert_eq!((event.type_.as_deref(), event.reason.as_deref()), (Some("Warning"), Some("BadReference")));
        let regarding = event.regarding.unwrap();
        assert_eq!(regarding.kind.as_deref(), Some("VirtualService"));
        assert_eq!((regarding.namespace.as_deref(), regarding.uid.as_deref()), (Some("shop"), Some("u1")));
        assert_eq!(Complaint { key: ObjectKey::new(Kind::GatewayClass, "", "c"), ..one }.place(), "default");
    }

    #[test]
    fn a_note_is_cut_between_characters_and_tokens_fill_up_to_the_burst() {
        let long = "ä".repeat(MOST_NOTE);
        assert_eq!(cut(&long).len(), MOST_NOTE);
        assert_eq!(cut(&format!("a{long}")).len(), MOST_NOTE - 1);
        assert!((refilled(0.5, 2.0) - 2.5).abs() < 1e-9);
        assert!((refilled(20.0, 1e6) - BURST).abs() < 1e-9);
    }
}
