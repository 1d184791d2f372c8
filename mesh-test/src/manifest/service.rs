//! Kubernetes Services as the lab uses them.

use super::{labels, list, text};
use serde_json::Value;
use std::collections::BTreeMap;

/// A Service; `raw` is the object it was read from, for the agent.
#[derive(Clone, Debug)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    pub selector: BTreeMap<String, String>,
    pub headless: bool,
    /// `type: ExternalName`: a DNS alias without addresses.
    pub external: bool,
    pub ports: Vec<ServicePort>,
    /// Asked for by `ipFamilies`/`ipFamilyPolicy`; both unless the user wants one.
    pub ipv4: bool,
    pub ipv6: bool,
    pub raw: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub name: String,
    pub port: u16,
    pub target: TargetPort,
    pub app_protocol: String,
    pub tcp: bool,
}

/// `targetPort`: a number or the name of a container's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    Number(u16),
    Name(String),
}

impl Service {
    /// Reads what can be read; the agent is the one to complain about the rest.
    pub fn read(raw: Value) -> Self {
        let families: Vec<_> = list(&raw, "/spec/ipFamilies").iter().filter_map(Value::as_str).collect();
        let single = text(&raw, "/spec/ipFamilyPolicy") == "SingleStack";
        let wants = |family: &str| match families.first() {
            Some(first) if single => *first == family,
            Some(_) => families.contains(&family),
            None => !single || family == "IPv4",
        };
        Self {
            namespace: text(&raw, "/metadata/namespace"),
            name: text(&raw, "/metadata/name"),
            selector: labels(&raw, "/spec/selector"),
            headless: text(&raw, "/spec/clusterIP") == "None",
            external: text(&raw, "/spec/type") == "ExternalName",
            ports: list(&raw, "/spec/ports").iter().filter_map(port).collect(),
            ipv4: wants("IPv4"),
            ipv6: wants("IPv6"),
            raw,
        }
    }

    /// Whether pods with these labels are behind it. A Service without a selector has its endpoints written by hand.
    pub fn selects(&self, namespace: &str, pod: &BTreeMap<String, String>) -> bool {
        !self.selector.is_empty()
            && self.namespace == namespace
            && self.selector.iter().all(|(key, value)| pod.get(key) == Some(value))
    }
}

fn port(raw: &Value) -> Option<ServicePort> {
    let port = text(raw, "/port").parse().ok()?;
    let target = match raw.get("targetPort") {
        Some(Value::String(name)) => name.parse().map_or_else(|_| TargetPort::Name(name.clone()), TargetPort::Number),
        Some(Value::Number(number)) => TargetPort::Number(u16::try_from(number.as_u64()?).ok()?),
        _ => TargetPort::Number(port),
    };
    Some(ServicePort {
        name: text(raw, "/name"),
        port,
        target,
        app_protocol: text(raw, "/appProtocol"),
        tcp: matches!(text(raw, "/protocol").as_str(), "" | "TCP"),
    })
}
