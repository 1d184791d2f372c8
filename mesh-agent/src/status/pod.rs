//! The Event on a pod that began outside the mesh: its own node's agent writes it, whoever holds the Lease.

use crate::fleet;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use mesh_cni::note::Note;
use std::path::PathBuf;

/// Told once for each sandbox: its Event's name is the sandbox's.
///
/// # Errors
/// No way to the API server, or its refusal, as text.
pub async fn began_outside(kubeconfig: Option<PathBuf>, node: &str, note: &Note) -> Result<(), String> {
    let config = fleet::config(kubeconfig.as_deref(), None).await?;
    let client = Client::try_from(config).map_err(|error| error.to_string())?;
    let api: Api<Event> = Api::namespaced(client, &note.of.namespace);
    match api.create(&PostParams::default(), &event(node, note, Timestamp::now())).await {
        // It was told, or pod and namespace are gone.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        done => done.map(drop).map_err(|error| error.to_string()),
    }
}

fn event(node: &str, note: &Note, now: Timestamp) -> Event {
    let began = i64::try_from(note.began).ok().and_then(|began| Timestamp::from_second(began).ok()).unwrap_or(now);
    let why: String = note.why.chars().take(300).collect();
    let text = format!(
        "The pod began outside the mesh at {began} ({why}) and is in it since {now:.0}. Connections that it made in \
         between go past the mesh until they are made anew: restart the pod if they last."
    );
    let short: String = note.of.container.chars().take(16).collect();
    let name: String = note.of.name.chars().take(200).collect();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.undermesh-{short}")),
            namespace: Some(note.of.namespace.clone()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        regarding: Some(ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(note.of.name.clone()),
            namespace: Some(note.of.namespace.clone()),
            uid: Some(note.of.uid.clone()),
            ..ObjectReference::default()
        }),
        type_: Some("Warning".into()),
        reason: Some("BeganOutsideMesh".into()),
        action: Some("Enrol".into()),
        note: Some(text),
        reporting_controller: Some(super::events::REPORTER.into()),
        reporting_instance: Some(node.into()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_cni::wire::Attachment;

    #[test]
    fn the_pod_is_told_when_it_began_and_since_when_it_is_in() {
        let of =
            Attachment { container: "c".repeat(64), namespace: "shop".into(), name: "web-1".into(), uid: "u".into() };
        let note = Note { of, began: 1_800_000_000, why: "no agent".into() };
        let event = event("n1", &note, Timestamp::from_second(1_800_000_060).unwrap());
        let text = event.note.unwrap();
        assert!(
            text.contains("2027-01-15T08:00:00Z (no agent)") && text.contains("since 2027-01-15T08:01:00Z"),
            "{text}"
        );
        assert!(text.len() < 1024, "the API's limit");
        assert_eq!(event.regarding.unwrap().uid.as_deref(), Some("u"));
        assert_eq!(event.metadata.name.unwrap(), format!("web-1.undermesh-{}", "c".repeat(16)));
    }
}
