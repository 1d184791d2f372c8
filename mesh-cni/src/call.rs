//! What a runtime asks, as the CNI specification writes it. Pure.

use crate::wire::Attachment;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Versions whose configuration has a chain and a `prevResult`; older ones have none.
pub const VERSIONS: &[&str] = &["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The plugin's part of a network's configuration, as the agent writes it (`mesh-agent/src/cni`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// The agent's directory on the node.
    pub run_dir: PathBuf,
    #[serde(default)]
    pub failure_policy: FailurePolicy,
    /// Namespaces whose pods start without the agent even so: those without which there would be none.
    #[serde(default)]
    pub exempt: Vec<String>,
    /// Longest wait of a pod for the agent.
    #[serde(default = "five")]
    pub timeout_seconds: u64,
}

/// Whether a pod may start while its node's agent does not have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailurePolicy {
    #[default]
    Open,
    Closed,
}

/// Standard input.
#[derive(Debug, Deserialize)]
pub struct Config {
    #[serde(rename = "cniVersion")]
    pub version: String,
    /// What the plugins before this one made.
    #[serde(rename = "prevResult")]
    pub previous: Option<Value>,
    /// Of GC: what is still in use.
    #[serde(rename = "cni.dev/valid-attachments")]
    pub valid: Option<Vec<Valid>>,
    #[serde(flatten)]
    pub settings: Settings,
}

#[derive(Debug, Deserialize)]
pub struct Valid {
    #[serde(rename = "containerID")]
    pub container: String,
}

/// `CNI_COMMAND`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

/// Codes below 100 are the specification's own (section 5, "Error").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    InvalidEnvironment = 4,
    Malformed = 6,
    InvalidConfig = 7,
    /// Transient: the runtime, and with it the kubelet, tries again.
    TryAgain = 11,
    /// `CHECK`: the pod is not as it should be.
    NotInMesh = 100,
}

/// What the runtime, the kubelet and `kubectl describe pod` show.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    pub version: String,
    pub code: Code,
    pub message: String,
}

impl Config {
    /// # Errors
    /// Not JSON, or not a configuration of this plugin.
    pub fn parse(text: &[u8]) -> Result<Self, Failure> {
        let failed = |code, message: String| Failure { version: "1.0.0".into(), code, message };
        let value: Value = serde_json::from_slice(text)
            .map_err(|error| failed(Code::Malformed, format!("the network configuration is not JSON: {error}")))?;
        let config: Self = serde_json::from_value(value)
            .map_err(|error| failed(Code::InvalidConfig, format!("the network configuration: {error}")))?;
        if !VERSIONS.contains(&&*config.version) {
            let known = VERSIONS.join(", ");
            let message = format!("cniVersion {} is none of {known}", config.version);
            return Err(failed(Code::InvalidConfig, message));
        }
        Ok(config)
    }

    pub fn fail(&self, code: Code, message: String) -> Failure {
        Failure { version: self.version.clone(), code, message }
    }

    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.settings.timeout_seconds)
    }

    /// Whether a pod of this namespace may start without the agent.
    pub fn is_open(&self, namespace: &str) -> bool {
        self.settings.failure_policy == FailurePolicy::Open || self.settings.exempt.iter().any(|ns| ns == namespace)
    }
}

impl Command {
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "ADD" => Self::Add,
            "DEL" => Self::Del,
            "CHECK" => Self::Check,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            "VERSION" => Self::Version,
            _ => return None,
        })
    }
}

/// The pod of `CNI_CONTAINERID` and `CNI_ARGS` (`IgnoreUnknown=1;K8S_POD_NAMESPACE=…;…`), as containerd and CRI-O say it.
/// `None`: not a pod of Kubernetes, or of a runtime that does not tell its UID.
pub fn attachment(container: &str, args: &str) -> Option<Attachment> {
    let arg = |wanted: &str| {
        let pairs = args.split(';').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(name, value)| *name == wanted && !value.is_empty()).map(|(_, value)| value.to_owned()).next()
    };
    Some(Attachment {
        container: container.to_owned(),
        namespace: arg("K8S_POD_NAMESPACE")?,
        name: arg("K8S_POD_NAME")?,
        uid: arg("K8S_POD_UID")?,
    })
}

impl Failure {
    pub fn to_json(&self) -> String {
        json!({"cniVersion": self.version, "code": self.code as u32, "msg": self.message}).to_string()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

fn five() -> u64 {
    5
}
