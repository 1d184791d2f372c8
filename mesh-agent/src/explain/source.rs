//! Who asks: a pod by name, by its controller, by labels, or nobody in particular.

use super::question::Wrong;
use crate::snapshot::{Enrolment, Locality, Owner, Snapshot, Workload, WorkloadKey};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Names of controllers as kubectl takes them, and their kinds.
const KINDS: &[(&str, &str)] = &[
    ("pod", "Pod"),
    ("po", "Pod"),
    ("deploy", "Deployment"),
    ("deployment", "Deployment"),
    ("sts", "StatefulSet"),
    ("statefulset", "StatefulSet"),
    ("ds", "DaemonSet"),
    ("daemonset", "DaemonSet"),
    ("rs", "ReplicaSet"),
    ("replicaset", "ReplicaSet"),
    ("job", "Job"),
];

/// What `--from` may be, for its error and its help.
pub const FORMS: &str = "POD, NAMESPACE/POD, [NAMESPACE/]deploy/NAME, [NAMESPACE/]app=NAME, or NAMESPACE/";

/// Whom a text names.
#[derive(Debug)]
pub(super) enum Found {
    Workload(Arc<Workload>),
    /// Some pod of a namespace, without labels.
    Anybody(Arc<str>),
}

impl Found {
    pub(super) fn workload(&self) -> Arc<Workload> {
        match self {
            Self::Workload(workload) => Arc::clone(workload),
            Self::Anybody(namespace) => anybody(namespace),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Wanted<'a> {
    namespace: Option<&'a str>,
    by: By<'a>,
}

#[derive(Debug, PartialEq, Eq)]
enum By<'a> {
    /// Of the pod, or of its controller.
    Name(&'a str),
    Owner(&'static str, &'a str),
    Labels(Vec<(&'a str, &'a str)>),
    Nothing,
}

/// The workload that `text` names; of several the first that is in the mesh, in order of name. Empty: anybody of
/// `default`.
///
/// # Errors
/// Nobody is called so, or pods of several namespaces are.
pub(super) fn find(snapshot: &Snapshot, text: &str) -> Result<Found, Wrong> {
    let wanted = parse(text).ok_or_else(|| Wrong(format!("`{text}` names no client; write {FORMS}")))?;
    if wanted.by == By::Nothing {
        return Ok(Found::Anybody(wanted.namespace.unwrap_or("default").into()));
    }
    let mut found: Vec<&Arc<Workload>> = snapshot.workloads().filter(|workload| wanted.is(workload)).collect();
    found.sort_by_key(|workload| (rank(workload), &workload.key));
    let Some(first) = found.first() else { return Err(nobody(snapshot, text)) };
    let mut namespaces: Vec<&str> = found.iter().map(|workload| &*workload.key.namespace).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    if namespaces.len() > 1 {
        let namespaces = namespaces.join(", ");
        return Err(Wrong(format!("`{text}` names pods of several namespaces ({namespaces}); write NAMESPACE/{text}")));
    }
    Ok(Found::Workload(Arc::clone(first)))
}

fn parse(text: &str) -> Option<Wanted<'_>> {
    let kind = |word: &str| KINDS.iter().find(|(name, _)| *name == word).map(|(_, kind)| *kind);
    let by = |name| -> Option<By<'_>> {
        match name {
            "" => Some(By::Nothing),
            labels if labels.contains('=') => {
                labels.split(',').map(|pair| pair.split_once('=')).collect::<Option<_>>().map(By::Labels)
            }
            name => Some(By::Name(name)),
        }
    };
    let parts: Vec<&str> = text.split('/').collect();
    Some(match parts[..] {
        [name] => Wanted { namespace: None, by: by(name)? },
        [word, name] => match kind(word) {
            Some(kind) => Wanted { namespace: None, by: By::Owner(kind, name) },
            None => Wanted { namespace: Some(word), by: by(name)? },
        },
        [namespace, word, name] => Wanted { namespace: Some(namespace), by: By::Owner(kind(word)?, name) },
        _ => return None,
    })
}

impl Wanted<'_> {
    fn is(&self, workload: &Workload) -> bool {
        let (key, owner) = (&workload.key, &workload.owner);
        self.namespace.is_none_or(|namespace| namespace == &*key.namespace)
            && match &self.by {
                By::Name(name) => *name == &*key.name || *name == &*owner.name,
                By::Owner("Pod", name) => *name == &*key.name,
                By::Owner(kind, name) => *kind == &*owner.kind && *name == &*owner.name,
                By::Labels(labels) => labels
                    .iter()
                    .all(|(name, value)| workload.labels.get(*name).is_some_and(|found| **found == **value)),
                By::Nothing => false,
            }
    }
}

fn rank(workload: &Workload) -> u8 {
    match workload.enrolment {
        Enrolment::Enrolled { .. } => 0,
        Enrolment::Elsewhere => 1,
        Enrolment::Outside { .. } => 2,
    }
}

/// Names some of those that there are: a name is mostly mistyped.
fn nobody(snapshot: &Snapshot, text: &str) -> Wrong {
    const SOME: usize = 8;
    let owner = |workload: &Arc<Workload>| {
        let Workload { key, owner, .. } = &**workload;
        format!("{}/{}", key.namespace, owner.name)
    };
    let mut known: Vec<String> = snapshot.workloads().map(owner).collect();
    known.sort();
    known.dedup();
    let more = if known.len() > SOME { ", …" } else { "" };
    known.truncate(SOME);
    let known =
        if known.is_empty() { "there are none".into() } else { format!("there are {}{more}", known.join(", ")) };
    Wrong(format!("no pod is called `{text}` ({known}); write {FORMS}"))
}

/// A pod of a namespace of which nothing else is known.
fn anybody(namespace: &str) -> Arc<Workload> {
    let key = WorkloadKey { namespace: namespace.into(), name: "".into(), uid: "".into() };
    Arc::new(Workload {
        key,
        owner: Owner { kind: "Pod".into(), name: "".into() },
        service_account: "default".into(),
        node: "".into(),
        labels: BTreeMap::new(),
        ips: Vec::new(),
        locality: Locality::default(),
        enrolment: Enrolment::Elsewhere,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let is = |text, namespace, by| assert_eq!(parse(text), Some(Wanted { namespace, by }), "{text}");
        is("web-1", None, By::Name("web-1"));
        is("shop/web", Some("shop"), By::Name("web"));
        is("deploy/web", None, By::Owner("Deployment", "web"));
        is("shop/sts/db", Some("shop"), By::Owner("StatefulSet", "db"));
        is("shop/app=web,v=1", Some("shop"), By::Labels(vec![("app", "web"), ("v", "1")]));
        is("shop/", Some("shop"), By::Nothing);
        is("", None, By::Nothing);
        assert_eq!(parse("a/b/c/d"), None);
        assert_eq!(parse("a/what/c"), None);
    }
}
