//! ReferenceGrant (v1, v1beta1): who of another namespace may refer to objects of this one.

use serde::Deserialize;
use std::sync::Arc;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ReferenceGrant {
    pub spec: GrantSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct GrantSpec {
    pub from: Vec<GrantFrom>,
    pub to: Vec<GrantTo>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct GrantFrom {
    #[serde(default)]
    pub group: Arc<str>,
    pub kind: Arc<str>,
    pub namespace: Arc<str>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct GrantTo {
    #[serde(default)]
    pub group: Arc<str>,
    pub kind: Arc<str>,
    /// `None`: all of the kind.
    pub name: Option<Arc<str>>,
}

impl GrantSpec {
    /// Whether an object of the Gateway API (`from`: its kind and namespace) may refer to a core object (`to`) here.
    pub fn allows(&self, from: (&str, &str), to: (&str, &str)) -> bool {
        let from = |f: &GrantFrom| &*f.group == super::GROUP && (&*f.kind, &*f.namespace) == from;
        let to =
            |t: &GrantTo| t.group.is_empty() && &*t.kind == to.0 && t.name.as_ref().is_none_or(|name| &**name == to.1);
        self.from.iter().any(from) && self.to.iter().any(to)
    }
}
