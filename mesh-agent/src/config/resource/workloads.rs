//! Controllers of pods: Deployment, StatefulSet, ReplicaSet, DaemonSet (`apps/v1`), Job (`batch/v1`).
//!
//! The agent does not act on them: their pods are what counts. The lab plays their controllers in file mode.

use super::core::{Labels, PodSpec};
use serde::Deserialize;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Controller {
    pub spec: ControllerSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ControllerSpec {
    /// 1 where absent (`parallelism` of a Job is not read).
    pub replicas: Option<u32>,
    pub template: Template,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Template {
    pub metadata: TemplateMeta,
    pub spec: PodSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TemplateMeta {
    pub labels: Labels,
    pub annotations: Labels,
}

impl Controller {
    pub fn replicas(&self) -> u32 {
        self.spec.replicas.unwrap_or(1)
    }
}
