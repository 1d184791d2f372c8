//! Which of the kinds that come with CustomResourceDefinitions the API server serves, and in which version.

use crate::config::resource::Kind;
use kube::Client;
use kube::core::{ApiResource, GroupVersionKind};
use std::collections::{BTreeMap, HashMap};

/// Kinds of every cluster, with their plural. Endpoints are not among them: EndpointSlices say the same, and more.
const CORE: &[(Kind, &str)] = &[
    (Kind::Namespace, "namespaces"),
    (Kind::Node, "nodes"),
    (Kind::Pod, "pods"),
    (Kind::Service, "services"),
    (Kind::EndpointSlice, "endpointslices"),
    (Kind::ConfigMap, "configmaps"),
    (Kind::Secret, "secrets"),
];

/// Where a kind of every cluster is found.
pub(super) fn core(kind: Kind) -> Option<ApiResource> {
    let (_, plural) = CORE.iter().find(|(known, _)| *known == kind)?;
    Some(resource(kind.versions().first()?, kind, plural))
}

/// The resource that lists CustomResourceDefinitions themselves.
pub(super) fn definitions() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition"))
}

/// Whether a CustomResourceDefinition (`virtualservices.networking.istio.io`) may be of a kind that is read.
pub(super) fn concerns(definition: &str) -> bool {
    let group = definition.split_once('.').map_or("", |(_, group)| group);
    Kind::ALL.iter().filter(|kind| kind.is_traffic()).any(|kind| kind.versions().iter().any(|v| group_of(v) == group))
}

/// Each kind that is served, in the version that is preferred among those read. One request for each group's version.
///
/// # Errors
/// Whatever keeps the server from answering; that a group is not there is none.
pub(super) async fn discover(client: &Client) -> kube::Result<BTreeMap<Kind, ApiResource>> {
    let mut asked: HashMap<&str, HashMap<String, String>> = HashMap::new();
    let mut found = BTreeMap::new();
    for kind in Kind::ALL.iter().copied().filter(|kind| kind.is_traffic()) {
        for version in kind.versions() {
            if !asked.contains_key(version) {
                asked.insert(version, plurals(client, version).await?);
            }
            if let Some(plural) = asked.get(version).and_then(|plurals| plurals.get(kind.api_name())) {
                found.insert(kind, resource(version, kind, plural));
                break;
            }
        }
    }
    Ok(found)
}

/// Kind → plural of what a group's version serves.
async fn plurals(client: &Client, version: &str) -> kube::Result<HashMap<String, String>> {
    match client.list_api_group_resources(version).await {
        Ok(list) => {
            let watched = list.resources.into_iter().filter(|r| !r.name.contains('/'));
            let watched = watched.filter(|r| r.verbs.iter().any(|verb| verb == "watch"));
            Ok(watched.map(|r| (r.kind, r.name)).collect())
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(HashMap::new()),
        Err(error) => Err(error),
    }
}

fn resource(version: &str, kind: Kind, plural: &str) -> ApiResource {
    let (group, short) = version.rsplit_once('/').unwrap_or(("", version));
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, short, kind.api_name()), plural)
}

fn group_of(version: &str) -> &str {
    version.rsplit_once('/').map_or("", |(group, _)| group)
}
