//! What can be set: the chart's `values.yaml`, a profile, `--set`. Pure.

use clap::ValueEnum;
use serde_yaml_ng::Value;

const DEFAULTS: &str = include_str!("../../../deploy/helm/undermesh/values.yaml");

/// The chart's `profiles/NAME.yaml`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    #[default]
    Default,
    /// A first look: every request in the agents' logs
    Demo,
    /// No ingress, no right to read Secrets
    Minimal,
}

/// Every value that a template may ask for.
#[derive(Clone, Debug)]
pub struct Values(Value);

#[derive(Debug, thiserror::Error)]
pub enum ValuesError {
    #[error("{0}: expected NAME=VALUE, such as log=debug")]
    Form(String),
    #[error("there is no value {name}; there are: {known}")]
    Unknown { name: String, known: String },
    #[error("{name} is a {is}, and {text:?} is none")]
    Type { name: String, is: &'static str, text: String },
    #[error("the chart's own values are malformed: {0}")]
    Own(#[from] serde_yaml_ng::Error),
}

impl Values {
    /// # Errors
    /// None that a user can cause: a test renders every profile.
    pub fn of(profile: Profile) -> Result<Self, ValuesError> {
        let mut values: Value = serde_yaml_ng::from_str(DEFAULTS)?;
        let over = match profile {
            Profile::Default => "{}",
            Profile::Demo => include_str!("../../../deploy/helm/undermesh/profiles/demo.yaml"),
            Profile::Minimal => include_str!("../../../deploy/helm/undermesh/profiles/minimal.yaml"),
        };
        lay_over(&mut values, serde_yaml_ng::from_str(over)?);
        Ok(Self(values))
    }

    /// `NAME=VALUE`; lists are written as YAML (`extraArgs=[--workers=2]`).
    ///
    /// # Errors
    /// A name that no value has, a value of another type: nothing is set silently to no effect.
    pub fn set(&mut self, assignment: &str) -> Result<(), ValuesError> {
        let (name, text) = assignment.split_once('=').ok_or_else(|| ValuesError::Form(assignment.into()))?;
        let known = names(&self.0, "").join(", ");
        let unknown = || ValuesError::Unknown { name: name.into(), known };
        let mut place = &mut self.0;
        for part in name.split('.') {
            place = match place.get_mut(part) {
                Some(inner) => inner,
                None => return Err(unknown()),
            };
        }
        if place.is_mapping() {
            return Err(unknown());
        }
        let wrong = |is| ValuesError::Type { name: name.into(), is, text: text.into() };
        *place = match &*place {
            // A tag of 1.10 is text, not a number.
            Value::String(_) | Value::Null => Value::String(text.to_owned()),
            former => {
                let is = kind(former);
                let new: Value = serde_yaml_ng::from_str(text).map_err(|_| wrong(is))?;
                if kind(&new) != is {
                    return Err(wrong(is));
                }
                new
            }
        };
        Ok(())
    }

    pub(super) fn at(&self, path: &str) -> Option<&Value> {
        path.split('.').try_fold(&self.0, |place, part| place.get(part))
    }
}

fn lay_over(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Mapping(under), Value::Mapping(over)) => {
            for (name, value) in over {
                match under.get_mut(&name) {
                    Some(place) => lay_over(place, value),
                    None => drop(under.insert(name, value)),
                }
            }
        }
        (place, value) => *place = value,
    }
}

fn names(value: &Value, above: &str) -> Vec<String> {
    let Some(map) = value.as_mapping() else { return vec![above.to_owned()] };
    let dot = if above.is_empty() { "" } else { "." };
    let inner = map.iter().filter_map(|(name, value)| Some((name.as_str()?, value)));
    inner.flat_map(|(name, value)| names(value, &format!("{above}{dot}{name}"))).collect()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Sequence(_) => "list",
        Value::Mapping(_) | Value::Tagged(_) => "map",
    }
}
