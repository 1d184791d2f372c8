//! Where the objects in force stand, for those who explain what came of them.

use super::Compiler;
use crate::config::resource::{Kind, ObjectKey, Provenance};
use crate::snapshot::ServiceName;

impl Compiler {
    /// File and line of an object in force.
    pub fn place(&self, object: &ObjectKey) -> Option<&Provenance> {
        self.index.get(object).map(|r| &r.place)
    }

    /// The object that a Service of the snapshot was made of: a Service, or a ServiceEntry.
    pub fn definition(&self, service: &ServiceName) -> Option<ObjectKey> {
        let entry = self.entries.winner(service).cloned();
        let key = ObjectKey::new(Kind::Service, &service.namespace, &service.name);
        self.index.get(&key).map(|_| key).or(entry)
    }
}
