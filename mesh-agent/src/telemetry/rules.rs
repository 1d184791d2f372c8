//! What Telemetry objects say of one side of a workload's requests, flattened (SEMANTICS §10 "Telemetry API"). Pure.

use super::Reporter;
use super::attributes::Attributes;
use super::labels::rewritten;
use super::store::Family;
use crate::snapshot::cel::Expression;
use crate::snapshot::{Snapshot, Workload};
use std::sync::Arc;

/// Istio's name for the proxy's own log file.
pub const LOG_PROVIDER: &str = "envoy";

/// Of metrics.
#[derive(Debug, Default)]
pub(super) struct Rules {
    families: Vec<Rule>,
    expressions: Vec<Expression>,
}

#[derive(Debug)]
struct Rule {
    family: Family,
    disabled: bool,
    /// By name: which of the expressions; `None`: removed.
    tags: Vec<(Arc<str>, Option<usize>)>,
}

/// Of the access log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogRule {
    /// `None`: as the mesh's settings have it.
    pub on: Option<bool>,
    pub filter: Option<Expression>,
}

impl Rules {
    /// `None`: nothing is said.
    pub(super) fn of(snapshot: &Snapshot, workload: Option<&Workload>, reporter: Reporter) -> Option<Self> {
        let mut rules = Self::default();
        for of in snapshot.telemetry(workload).flat_map(|telemetry| &telemetry.metrics) {
            if !of.mode.covers(reporter) {
                continue;
            }
            for family in Family::ALL.iter().filter(|family| of.family.is_none_or(|only| only == **family)) {
                rules.put(*family, of.disabled, &of.tags);
            }
        }
        (!rules.families.is_empty()).then_some(rules)
    }

    fn put(&mut self, family: Family, disabled: Option<bool>, tags: &[(Arc<str>, Option<Expression>)]) {
        let at = self.families.iter().position(|rule| rule.family == family).unwrap_or_else(|| {
            self.families.push(Rule { family, disabled: false, tags: Vec::new() });
            self.families.len() - 1
        });
        let Some(rule) = self.families.get_mut(at) else { return };
        rule.disabled = disabled.unwrap_or(rule.disabled);
        for (name, expression) in tags {
            let value = expression.as_ref().map(|expression| {
                self.expressions.iter().position(|known| known == expression).unwrap_or_else(|| {
                    self.expressions.push(expression.clone());
                    self.expressions.len() - 1
                })
            });
            rule.tags.retain(|(known, _)| known != name);
            rule.tags.push((Arc::clone(name), value));
        }
    }

    /// Values of all expressions; without attributes they are unknown.
    pub(super) fn values(&self, attributes: Option<&Attributes<'_>>) -> Vec<String> {
        let value = |expression| attributes.map_or_else(|| "unknown".to_owned(), |of| of.label(expression));
        self.expressions.iter().map(value).collect()
    }

    pub(super) fn has_expressions(&self) -> bool {
        !self.expressions.is_empty()
    }

    /// A family's labels; `None`: it is not counted.
    pub(super) fn labels(&self, family: Family, text: &str, values: &[String]) -> Option<Arc<str>> {
        let Some(rule) = self.families.iter().find(|rule| rule.family == family) else { return Some(text.into()) };
        let value = |at: &Option<usize>| at.map(|at| values.get(at).map_or("unknown", String::as_str));
        (!rule.disabled).then(|| rewritten(text, rule.tags.iter().map(|(name, at)| (&**name, value(at)))).into())
    }
}

impl LogRule {
    /// As the caller's side has it: of one request there is one line.
    pub(super) fn of(snapshot: &Snapshot, workload: Option<&Workload>) -> Self {
        let mut rule = Self::default();
        for of in snapshot.telemetry(workload).flat_map(|telemetry| &telemetry.access_logging) {
            if !of.mode.covers(Reporter::Source) {
                continue;
            }
            if !of.providers.is_empty() {
                rule.on = Some(of.providers.iter().any(|name| &**name == LOG_PROVIDER));
            }
            if of.disabled {
                rule.on = Some(false);
            }
            if of.filter.is_some() {
                rule.filter.clone_from(&of.filter);
            }
        }
        rule
    }
}
