//! What the Gateway API wants written back: conditions of GatewayClasses, Gateways and routes (API types of release 1.5,
//! `shared_types.go`, `gateway_types.go`, `httproute_types.go`).
//!
//! Place: beside compilation, on demand: whoever writes asks; a change of one object never pays for it. Pure. Invariants:
//! only what our own controller answers for is judged, never what another's does; a condition says what compilation did.

use super::Compiler;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::{Kind, Object, ObjectKey, Resource};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// `spec.controllerName` of the GatewayClasses that this mesh answers for. Istio's classes are served too, but answered
/// for by Istio where it is installed.
pub const CONTROLLER: &str = "undermesh.dev/gateway-controller";
/// Class that is ours even where no GatewayClass says so.
const CLASS: &str = "undermesh";

/// `status.supportedFeatures` (features of the API's conformance suite), in order.
const FEATURES: &[&str] = &[
    "GRPCRoute",
    "Gateway",
    "HTTPRoute",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
    "Mesh",
    "MeshConsumerRoute",
    "ReferenceGrant",
];

/// The status that an object should have. Conditions lack `lastTransitionTime`: only the writer knows what was before.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectStatus {
    pub key: ObjectKey,
    /// Of the object that was judged: another one of the same name is left alone.
    pub uid: Arc<str>,
    /// The fields below `status`; of a route's `parents` only ours.
    pub status: Value,
}

/// `metav1.Condition`
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Condition {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    /// `True`, `False`
    pub(super) status: &'static str,
    /// CamelCase, of the API's list.
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) observed_generation: i64,
}

/// Why a condition does not hold: reason and message.
pub(super) type Fault = (&'static str, String);

impl Compiler {
    /// The status of every object of the Gateway API that is ours to judge, in order of object.
    pub fn statuses(&self) -> Vec<ObjectStatus> {
        let mut objects: Vec<&Arc<Resource>> = self.index.objects().collect();
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        let attached = self.attached_routes();
        let addresses = self.gateway_addresses();
        let judged = objects.into_iter().filter_map(|r| {
            let status = match &r.object {
                Object::GatewayClass(class) => (&*class.spec.controller_name == CONTROLLER).then(|| class_status(r))?,
                Object::Gateway(gateway) if self.is_answered_for(&gateway.spec.gateway_class_name) => {
                    self.gateway_status(r, gateway, &attached, &addresses)
                }
                Object::HttpRoute(_) | Object::GrpcRoute(_) => self.route_status(r)?,
                _ => return None,
            };
            Some(ObjectStatus { key: r.key.clone(), uid: Arc::clone(&r.meta.uid), status })
        });
        judged.collect()
    }

    /// Whether a class is our controller's, and no other's that we serve as well.
    pub(super) fn is_answered_for(&self, class: &str) -> bool {
        match self.index.get(&ObjectKey::new(Kind::GatewayClass, "", class)).map(|r| &r.object) {
            Some(Object::GatewayClass(class)) => &*class.spec.controller_name == CONTROLLER,
            _ => class == CLASS,
        }
    }
}

impl Condition {
    /// Holds unless there is a fault; `reason` is said while it does.
    pub(super) fn of(kind: &'static str, reason: &'static str, fault: Option<&Fault>, r: &Resource) -> Self {
        let (status, reason, message) = match fault {
            None => ("True", reason, String::new()),
            Some((reason, message)) => ("False", *reason, message.clone()),
        };
        Self { kind, status, reason, message, observed_generation: r.meta.generation }
    }

    /// The other way round, for conditions that name a trouble.
    pub(super) fn trouble(kind: &'static str, reason: &'static str, fault: Option<&Fault>, r: &Resource) -> Self {
        let (status, reason, message) = match fault {
            None => ("False", reason, String::new()),
            Some((reason, message)) => ("True", *reason, message.clone()),
        };
        Self { kind, status, reason, message, observed_generation: r.meta.generation }
    }
}

/// The reason of `known` that a finding begins with, and the whole of what it says.
pub(super) fn fault(finding: &Diagnostic, known: &[&'static str]) -> Option<Fault> {
    let (said, _) = finding.message.split_once(':')?;
    let reason = known.iter().find(|reason| **reason == said)?;
    Some((reason, told(finding)))
}

/// A finding in one line for `kubectl describe`.
pub(super) fn told(finding: &Diagnostic) -> String {
    let Diagnostic { field, message, .. } = finding;
    let code: Code = finding.code;
    if field.is_empty() { format!("{message} ({})", code.id()) } else { format!("{field}: {message} ({})", code.id()) }
}

fn class_status(r: &Resource) -> Value {
    let accepted = Condition::of("Accepted", "Accepted", None, r);
    let features: Vec<Value> = FEATURES.iter().map(|name| json!({"name": name})).collect();
    json!({"conditions": [accepted], "supportedFeatures": features})
}
