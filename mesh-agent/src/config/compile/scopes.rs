//! What holds beyond single hosts: the mesh's settings, the namespaces' Sidecars and Telemetry objects.

use super::index::Dirty;
use super::{Compiler, mesh, sidecar, telemetry};
use crate::config::diagnostic::Diagnostic;
use crate::config::resource::{Kind, Object, ObjectKey};
use crate::snapshot::EgressScope;
use crate::snapshot::telemetry::Telemetry;
use std::sync::Arc;

impl Compiler {
    /// Returns whether anything is different. New settings mark all that is compiled with them.
    pub(super) fn apply_scopes(&mut self, dirty: &mut Dirty, news: &mut Vec<Diagnostic>) -> bool {
        let mut changed = false;
        if dirty.mesh {
            let key = ObjectKey::new(Kind::ConfigMap, mesh::NAMESPACE, mesh::NAME);
            let map = self.index.get(&key).and_then(|r| match &r.object {
                Object::ConfigMap(map) => Some(&**map),
                _ => None,
            });
            let mut found = Vec::new();
            self.mesh = mesh::compile(map, &self.settings.cluster_domain, &mut found);
            self.report(key, found.into_iter().map(|d| (None, d)).collect(), news);
            changed |= **self.snapshot.mesh() != *self.mesh.settings;
            self.snapshot.set_mesh(Arc::clone(&self.mesh.settings));
            self.index.mark_all(dirty);
        }
        for namespace in &dirty.sidecars {
            let former = self.snapshot.sidecars_of(namespace).to_vec();
            let mut scopes: Vec<Arc<EgressScope>> = Vec::new();
            let mut said = Vec::new();
            for r in self.index.sidecars(namespace) {
                let Object::Sidecar(sidecar) = &r.object else { continue };
                let mut found = Vec::new();
                let scope = sidecar::compile(r, &sidecar.spec, &self.settings.cluster_domain, &mut found);
                let kept = former.iter().find(|former| ***former == scope).cloned();
                scopes.push(kept.unwrap_or_else(|| Arc::new(scope)));
                said.push((r.key.clone(), found));
            }
            let gone = former.iter().filter_map(|scope| scope.rule.object.clone());
            let gone: Vec<_> = gone.filter(|key| said.iter().all(|(own, _)| own != key)).collect();
            said.extend(gone.into_iter().map(|key| (key, Vec::new())));
            for (key, found) in said {
                self.report(key, found.into_iter().map(|d| (None, d)).collect(), news);
            }
            if scopes != former {
                self.snapshot.set_sidecars(namespace, scopes);
                changed = true;
            }
        }
        changed
    }

    /// As above, of Telemetry objects.
    pub(super) fn apply_telemetry(&mut self, dirty: &Dirty, news: &mut Vec<Diagnostic>) -> bool {
        let mut changed = false;
        for namespace in &dirty.telemetries {
            let former = self.snapshot.telemetries_of(namespace).to_vec();
            let mut all: Vec<Arc<Telemetry>> = Vec::new();
            let mut said = Vec::new();
            for r in self.index.telemetries(namespace) {
                let Object::Telemetry(object) = &r.object else { continue };
                let mut found = Vec::new();
                let compiled = telemetry::compile(r, &object.spec, &mut found);
                let kept = former.iter().find(|former| ***former == compiled).cloned();
                all.push(kept.unwrap_or_else(|| Arc::new(compiled)));
                said.push((r.key.clone(), found));
            }
            let gone = former.iter().filter_map(|object| object.rule.object.clone());
            let gone: Vec<_> = gone.filter(|key| said.iter().all(|(own, _)| own != key)).collect();
            said.extend(gone.into_iter().map(|key| (key, Vec::new())));
            for (key, found) in said {
                self.report(key, found.into_iter().map(|d| (None, d)).collect(), news);
            }
            if all != former {
                self.snapshot.set_telemetries(namespace, all);
                changed = true;
            }
        }
        changed
    }
}
