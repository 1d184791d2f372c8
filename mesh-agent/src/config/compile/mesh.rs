//! MeshConfig → what holds for the whole mesh.

pub(super) mod tracing;

use super::names::visibility;
use super::route;
use super::traffic_policy;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::fields::{What, check};
use crate::config::resource::mesh_config::{ConfigMap, FIELDS, MeshConfig};
use crate::snapshot::access_log::{AccessLogSettings, Encoding, Format};
use crate::snapshot::route::Visibility;
use crate::snapshot::{MeshSettings, OutboundPolicy};
use serde_yaml_ng::Value;
use std::sync::Arc;

/// Where Istio's installer puts it.
pub(super) const NAMESPACE: &str = "istio-system";
pub(super) const NAME: &str = "istio";

/// Everything that other compilations take from the MeshConfig.
#[derive(Clone, Debug)]
pub(super) struct Mesh {
    pub(super) settings: Arc<MeshSettings>,
    pub(super) routes: route::Defaults,
    pub(super) policies: traffic_policy::Defaults,
    pub(super) service_export: Visibility,
}

/// `None`: there is no such ConfigMap.
pub(super) fn compile(map: Option<&ConfigMap>, domain: &Arc<str>, found: &mut Vec<Diagnostic>) -> Mesh {
    let config = map.and_then(|map| map.data.mesh.as_ref()).and_then(|value| read(value, found)).unwrap_or_default();
    let export = |list: &[Arc<str>]| visibility(list, &Visibility::Public);
    let mut settings = MeshSettings { cluster_domain: Arc::clone(domain), ..MeshSettings::default() };
    if !config.root_namespace.is_empty() {
        settings.root_namespace = Arc::clone(&config.root_namespace);
    }
    match config.outbound_traffic_policy.as_ref().map(|policy| &*policy.mode) {
        None | Some("ALLOW_ANY" | "") => {}
        Some("REGISTRY_ONLY") => settings.outbound = OutboundPolicy::RegistryOnly,
        Some(other) => {
            let message = format!("{other:?} is not one we know; ALLOW_ANY is used");
            found.push(error("outboundTrafficPolicy.mode", message, "write ALLOW_ANY or REGISTRY_ONLY"));
        }
    }
    if let Some(retry) = &config.default_http_retry_policy {
        let mut said = Vec::new();
        settings.retry = route::retry(retry, &mut said).map(Arc::new);
        found.extend(said.into_iter().map(|(field, diagnostic, fix)| {
            diagnostic.field(format!("data.mesh: defaultHttpRetryPolicy.{field}")).fix(fix)
        }));
    }
    if let Some(locality) = &config.locality_lb_setting {
        settings.locality = Arc::new(traffic_policy::locality(locality));
    }
    settings.access_log = access_log(&config, found);
    settings.tracing = tracing::settings(&config, found);
    let policies = traffic_policy::Defaults {
        domain: Arc::clone(domain),
        export: export(&config.default_destination_rule_export_to),
        pool: config.default_traffic_policy.connection_pool,
        outlier: config.default_traffic_policy.outlier_detection,
    };
    settings.policy = Arc::new(traffic_policy::of_mesh(&policies, found));
    let routes = route::Defaults {
        domain: Arc::clone(domain),
        export: export(&config.default_virtual_service_export_to),
        retry: settings.retry.clone(),
    };
    let service_export = export(&config.default_service_export_to);
    Mesh { settings: Arc::new(settings), routes, policies, service_export }
}

/// What is not understood leaves Istio's own line: a log that says too much is better than none.
fn access_log(config: &MeshConfig, found: &mut Vec<Diagnostic>) -> AccessLogSettings {
    let encoding = match &*config.access_log_encoding {
        "" | "TEXT" => Encoding::Text,
        "JSON" => Encoding::Json,
        other => {
            let message = format!("{other:?} is not one we know; TEXT is used");
            found.push(error("accessLogEncoding", message, "write TEXT or JSON"));
            Encoding::Text
        }
    };
    let format = Format::parse(encoding, &config.access_log_format).unwrap_or_else(|e| {
        let fix = "correct it, or leave the field out for Istio's own line";
        found.push(error("accessLogFormat", format!("{e}; Istio's own line is used"), fix));
        Format::parse(encoding, "").unwrap_or_default()
    });
    AccessLogSettings { file: config.access_log_file.clone().filter(|file| !file.is_empty()), format: Arc::new(format) }
}

/// The YAML in the YAML. What cannot be read leaves the defaults.
fn read(value: &Value, found: &mut Vec<Diagnostic>) -> Option<MeshConfig> {
    let Some(text) = value.as_str() else {
        found.push(error("", "not text; the defaults hold".into(), "write the MeshConfig below \"mesh: |-\""));
        return None;
    };
    let parsed: Value = match serde_yaml_ng::from_str(text) {
        Ok(parsed) => parsed,
        Err(e) => {
            found.push(error("", format!("malformed: {e}; the defaults hold"), "correct the syntax"));
            return None;
        }
    };
    for finding in check(FIELDS, &parsed) {
        let message = match finding.what {
            What::Unknown(None) => "not acted on by this version".to_owned(),
            What::Unknown(Some(meant)) => format!("not acted on by this version, or misspelt ({meant}?)"),
            What::NoEffect(why) => format!("the field has no effect here: {why}"),
        };
        let diagnostic = Diagnostic::info(Code::NotSupported, message).field(format!("data.mesh: {}", finding.path));
        found.push(diagnostic.fix("none needed: the field is ignored"));
    }
    match serde_path_to_error::deserialize(&parsed) {
        Ok(config) => Some(config),
        Err(e) => {
            let message = format!("{}; the defaults hold", e.inner());
            found.push(error(&e.path().to_string(), message, "correct the value"));
            None
        }
    }
}

fn error(field: &str, message: String, fix: &str) -> Diagnostic {
    Diagnostic::error(Code::SchemaValidationError, message).field(format!("data.mesh: {field}")).fix(fix)
}
