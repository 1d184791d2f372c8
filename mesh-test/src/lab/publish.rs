//! Makes a change of state known: the YAML agents watch, the pods' `/etc/hosts`, the kube-proxy stand-in.

use super::inner::{Inner, lock};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

/// What was written last, so that only changes are written.
#[derive(Debug, Default)]
pub(super) struct Published {
    files: BTreeMap<String, String>,
    hosts: BTreeMap<String, String>,
}

impl Inner {
    /// Writes what differs from the last time. Each file changes in one step (rename).
    pub(super) fn publish(&self) -> Result<()> {
        let mut published = lock(&self.published);
        let files = lock(&self.state).render();
        let dir = self.layout.config();
        for (name, content) in &files {
            if published.files.get(name) != Some(content) {
                replace(&dir, name, content)?;
            }
        }
        for gone in published.files.keys().filter(|name| !files.contains_key(*name)) {
            let _ = fs::remove_file(dir.join(gone));
        }
        published.files = files;
        drop(published);
        if let Some(proxy) = lock(&self.kube_proxy).as_mut() {
            proxy.sync(&lock(&self.state));
        }
        self.write_hosts()
    }

    /// Brings the hosts files up to date in place: pods have these very inodes bound to /etc/hosts.
    pub(super) fn write_hosts(&self) -> Result<()> {
        let mut published = lock(&self.published);
        let state = lock(&self.state);
        for namespace in state.namespaces.keys() {
            let text = state.hosts(namespace);
            if published.hosts.get(namespace) == Some(&text) {
                continue;
            }
            let dir = self.layout.hosts().join(namespace);
            fs::create_dir_all(&dir)?;
            overwrite(&dir.join("hosts"), &text)?;
            if !published.hosts.contains_key(namespace) {
                // No resolver: a name that is not in the file is answered at once, not after a time-out.
                fs::write(dir.join("resolv.conf"), "# names come from /etc/hosts\n")?;
                fs::write(dir.join("nsswitch.conf"), "hosts: files\n")?;
            }
            published.hosts.insert(namespace.clone(), text);
        }
        Ok(())
    }
}

fn replace(dir: &Path, name: &str, content: &str) -> Result<()> {
    let (temporary, path) = (dir.join(format!(".{name}.tmp")), dir.join(name));
    fs::write(&temporary, content).with_context(|| format!("cannot write {}", temporary.display()))?;
    fs::rename(&temporary, &path).with_context(|| format!("cannot replace {}", path.display()))
}

/// One write, then the new length: a reader never sees an empty file.
fn overwrite(path: &Path, text: &str) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(file.set_len(text.len() as u64)?)
}
