//! GatewayClass and Gateway (v1, v1beta1: equal meaning).

use super::super::Labels;
use serde::Deserialize;
use std::sync::Arc;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct GatewayClass {
    pub spec: GatewayClassSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayClassSpec {
    pub controller_name: Arc<str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Gateway {
    pub spec: GatewaySpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewaySpec {
    pub gateway_class_name: Arc<str>,
    pub listeners: Vec<Listener>,
    pub tls: GatewayTls,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    pub name: Arc<str>,
    /// `None`: every host.
    #[serde(default)]
    pub hostname: Option<Arc<str>>,
    pub port: u16,
    /// `HTTP`, `HTTPS`, `TLS`, `TCP`, `UDP`, or an implementation's own.
    pub protocol: Arc<str>,
    pub tls: Option<ListenerTls>,
    #[serde(default)]
    pub allowed_routes: AllowedRoutes,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ListenerTls {
    pub mode: TlsMode,
    pub certificate_refs: Vec<CertificateRef>,
    pub options: Labels,
    /// Before 1.4 a client's CA was given here.
    pub frontend_validation: Option<ClientValidation>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum TlsMode {
    #[default]
    Terminate,
    Passthrough,
}

/// `certificateRefs[]`, `caCertificateRefs[]`
#[derive(Clone, Debug, Deserialize)]
pub struct CertificateRef {
    #[serde(default)]
    pub group: Arc<str>,
    /// `Secret` where empty.
    #[serde(default)]
    pub kind: Arc<str>,
    /// `None`: the Gateway's.
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
}

/// `tls` of a Gateway as a whole (1.4).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct GatewayTls {
    pub frontend: FrontendTls,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct FrontendTls {
    pub default: PortTls,
    pub per_port: Vec<PortValidation>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PortTls {
    pub validation: Option<ClientValidation>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct PortValidation {
    pub port: u16,
    #[serde(default)]
    pub tls: PortTls,
}

/// Which certificates clients must show.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientValidation {
    pub ca_certificate_refs: Vec<CertificateRef>,
    pub mode: ClientValidationMode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ClientValidationMode {
    #[default]
    AllowValidOnly,
    AllowInsecureFallback,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct AllowedRoutes {
    pub namespaces: RouteNamespaces,
    /// Empty: what the listener's protocol implies.
    pub kinds: Vec<RouteKind>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RouteNamespaces {
    pub from: FromNamespaces,
    pub selector: LabelSelector,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum FromNamespaces {
    All,
    Selector,
    #[default]
    Same,
    None,
}

#[derive(Clone, Debug, Deserialize)]
pub struct RouteKind {
    #[serde(default = "super::gateway_group")]
    pub group: Arc<str>,
    pub kind: Arc<str>,
}

/// Kubernetes' `LabelSelector`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LabelSelector {
    pub match_labels: Labels,
    pub match_expressions: Vec<Requirement>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Requirement {
    pub key: Arc<str>,
    pub operator: Operator,
    #[serde(default)]
    pub values: Vec<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    /// An empty selector matches everything.
    pub fn matches(&self, labels: &Labels) -> bool {
        let holds = |r: &Requirement| {
            let value = labels.get(&r.key);
            let listed = value.is_some_and(|value| r.values.contains(value));
            match r.operator {
                Operator::In => listed,
                Operator::NotIn => !listed,
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        };
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(holds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_mean_what_kubernetes_says() {
        let labels =
            |pairs: &[(&str, &str)]| -> Labels { pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect() };
        let one = |key: &str, operator, values: &[&str]| LabelSelector {
            match_labels: Labels::new(),
            match_expressions: vec![Requirement {
                key: key.into(),
                operator,
                values: values.iter().map(|v| Arc::from(*v)).collect(),
            }],
        };
        let prod = labels(&[("env", "prod")]);
        assert!(LabelSelector::default().matches(&prod));
        for (selector, want) in [
            (LabelSelector { match_labels: prod.clone(), ..LabelSelector::default() }, true),
            (LabelSelector { match_labels: labels(&[("env", "dev")]), ..LabelSelector::default() }, false),
            (one("env", Operator::In, &["dev", "prod"]), true),
            (one("env", Operator::NotIn, &["prod"]), false),
            (one("team", Operator::NotIn, &["a"]), true),
            (one("env", Operator::Exists, &[]), true),
            (one("env", Operator::DoesNotExist, &[]), false),
        ] {
            assert_eq!(selector.matches(&prod), want, "{selector:?}");
        }
    }
}
