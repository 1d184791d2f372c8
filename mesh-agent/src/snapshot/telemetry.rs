//! Compiled Telemetry objects (SEMANTICS §10 "Telemetry API").

use super::cel::Expression;
use super::route::RuleRef;
use super::tracing::{CustomTag, Rate};
use super::{Snapshot, Workload, is_subset};
use crate::telemetry::{Family, Reporter};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One Telemetry object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Telemetry {
    pub rule: RuleRef,
    pub applies: Applies,
    pub metrics: Vec<MetricOverride>,
    /// The parts of which at least one holds for a side; empty: nothing is said of the log.
    pub access_logging: Vec<Logging>,
    pub tracing: Vec<Tracing>,
}

/// To which of its namespace's workloads (all namespaces', where that is the root).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Applies {
    All,
    Labels(BTreeMap<Arc<str>, Arc<str>>),
    /// Gateways of the Gateway API, by name: the pods that play them.
    Gateways(Vec<Arc<str>>),
}

/// `match.mode`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    #[default]
    Both,
    Client,
    Server,
}

/// `metrics[].overrides[]`, in their order.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MetricOverride {
    /// `None`: all.
    #[serde(skip)]
    pub family: Option<Family>,
    pub mode: Mode,
    pub disabled: Option<bool>,
    /// By name; `None`: the tag is removed.
    pub tags: Vec<(Arc<str>, Option<Expression>)>,
}

/// `accessLogging[]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Logging {
    pub mode: Mode,
    pub providers: Vec<Arc<str>>,
    pub disabled: bool,
    pub filter: Option<Expression>,
}

/// `tracing[]`. What is `None` is left to the level above.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tracing {
    pub mode: Mode,
    /// The first counts.
    pub provider: Option<Arc<str>>,
    pub sampling: Option<Rate>,
    pub disabled: Option<bool>,
    /// Where there are any they replace those above.
    pub tags: Vec<CustomTag>,
    pub draw_by_id: Option<bool>,
    pub istio_tags: Option<bool>,
}

impl Mode {
    pub fn covers(self, reporter: Reporter) -> bool {
        !matches!((self, reporter), (Self::Client, Reporter::Destination) | (Self::Server, Reporter::Source))
    }
}

impl Telemetry {
    fn takes(&self, workload: &Workload) -> bool {
        match &self.applies {
            Applies::All => true,
            Applies::Labels(labels) => is_subset(labels, &workload.labels),
            Applies::Gateways(names) => {
                let played = workload.labels.get("gateway.networking.k8s.io/gateway-name");
                played.is_some_and(|played| names.contains(played))
            }
        }
    }
}

impl Snapshot {
    /// Whether some expression may ask for requests' heads.
    pub fn has_expressions(&self) -> bool {
        self.telemetries().any(|of| {
            of.metrics.iter().flat_map(|of| &of.tags).any(|(_, value)| value.is_some())
                || of.access_logging.iter().any(|logging| logging.filter.is_some())
        })
    }

    /// Whether some object wants the access log, whatever the mesh's settings say. `provider`: the log's name.
    pub fn wants_log(&self, provider: &str) -> bool {
        let mut logging = self.telemetries().flat_map(|of| &of.access_logging);
        logging.any(|of| !of.disabled && of.providers.iter().any(|name| &**name == provider))
    }

    /// What holds for a workload, the widest first: of the root namespace, of its own, its own. Of several at one level
    /// the oldest. `None`: a client that is no pod, for which only the root namespace speaks.
    pub fn telemetry(&self, workload: Option<&Workload>) -> impl Iterator<Item = &Arc<Telemetry>> {
        let root = &self.mesh().root_namespace;
        let whole = |of: &&Arc<Telemetry>| of.applies == Applies::All;
        let own = |of: &Workload| self.telemetries_of(&of.key.namespace).iter();
        let of_root = self.telemetries_of(root).iter().find(whole);
        let of_namespace = workload.filter(|of| *of.key.namespace != **root).and_then(|of| own(of).find(whole));
        let of_workload = workload.and_then(|one| own(one).find(|of| of.applies != Applies::All && of.takes(one)));
        [of_root, of_namespace, of_workload].into_iter().flatten()
    }
}
