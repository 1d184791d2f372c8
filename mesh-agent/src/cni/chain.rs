//! The plugin's program and its entry in the node's network configuration.
//!
//! The runtime takes the first file, by name, of `*.conf`, `*.conflist` and `*.json` (libcni's `ConfFiles`, containerd's
//! `max_conf_num` 1); our entry is the last of its list.

use mesh_cni::TYPE;
use mesh_cni::call::Settings;
use serde_json::Value;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
pub struct Chain {
    /// Where the runtime reads configurations, as the agent sees it.
    pub conf_dir: PathBuf,
    /// Where it finds programs, as the agent sees it.
    pub bin_dir: PathBuf,
    /// The program, in the agent's image.
    pub program: PathBuf,
    pub settings: Settings,
}

/// The file whose list our entry ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: PathBuf,
    /// It was not there a moment ago.
    pub(super) is_new: bool,
}

/// Inode, size and time of the last change of a file.
pub(super) type Stamp = (u64, u64, i64, i64);

#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} has no network configuration (yet)", .0.display())]
    Nothing(PathBuf),
    /// The runtime makes a list of it in its memory. One that we wrote beside it would hide what its owner writes later.
    #[error(
        "{} configures a single plugin, after which none can be chained: write it as a list, plugins: [..], into a .conflist, \
         and take this file away",
        .0.display()
    )]
    Single(PathBuf),
    #[error("{} is no list of plugins: half written, or not JSON", .0.display())]
    NoList(PathBuf),
}

impl Chain {
    /// Puts both in place, or finds them there. `known`: the program as it was found good.
    ///
    /// # Errors
    /// There is no configuration to be chained into, or a file cannot be written.
    pub(super) fn ensure(&self, known: &mut Option<Stamp>) -> Result<Place, ChainError> {
        self.program(known)?;
        let file = self.files()?.into_iter().next().ok_or_else(|| ChainError::Nothing(self.conf_dir.clone()))?;
        let text = read(&file)?;
        let mut list = parse(&text).ok_or_else(|| ChainError::NoList(file.clone()))?;
        let is_single = list.get("type").is_some();
        let Some(plugins) = list.get_mut("plugins").and_then(Value::as_array_mut) else {
            return Err(if is_single { ChainError::Single(file) } else { ChainError::NoList(file) });
        };
        let entry = self.entry();
        if plugins.iter().filter(|plugin| is_ours(plugin)).eq([&entry]) && plugins.last() == Some(&entry) {
            return Ok(Place { file, is_new: false });
        }
        plugins.retain(|plugin| !is_ours(plugin));
        plugins.push(entry);
        write(&file, &list)?;
        Ok(Place { file, is_new: true })
    }

    /// Takes the entry out of every file, then the program away.
    ///
    /// # Errors
    /// The first file that cannot be written; the others are done.
    pub fn remove(&self) -> Result<(), ChainError> {
        let mut failed = None;
        for path in self.files()? {
            let done = read(&path).and_then(|text| {
                let Some(mut list) = parse(&text) else { return Ok(()) };
                let Some(plugins) = list.get_mut("plugins").and_then(Value::as_array_mut) else { return Ok(()) };
                let before = plugins.len();
                plugins.retain(|plugin| !is_ours(plugin));
                if plugins.len() == before { Ok(()) } else { write(&path, &list) }
            });
            failed = failed.or(done.err());
        }
        match failed {
            // A program that a list still names must stay.
            Some(error) => Err(error),
            None => gone(fs::remove_file(self.bin_dir.join(TYPE)), &self.bin_dir),
        }
    }

    fn entry(&self) -> Value {
        // Paths and text: nothing of it can fail.
        let mut entry = serde_json::to_value(&self.settings).unwrap_or_default();
        entry["type"] = TYPE.into();
        entry
    }

    /// The program, if another one, or none, is there. It is read once, and again when it was written.
    fn program(&self, known: &mut Option<Stamp>) -> Result<(), ChainError> {
        let path = self.bin_dir.join(TYPE);
        let stamp = || fs::metadata(&path).ok().map(|meta| (meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec()));
        if known.is_some() && *known == stamp() {
            return Ok(());
        }
        let wanted =
            fs::read(&self.program).map_err(|source| ChainError::File { path: self.program.clone(), source })?;
        let there = stamp();
        if !fs::read(&path).is_ok_and(|there| there == wanted) {
            *known = None;
            return replace(&path, &wanted, 0o755);
        }
        *known = there;
        Ok(())
    }

    fn files(&self) -> Result<Vec<PathBuf>, ChainError> {
        let failed = |source| ChainError::File { path: self.conf_dir.clone(), source };
        let mut files = Vec::new();
        for file in fs::read_dir(&self.conf_dir).map_err(failed)? {
            let path = file.map_err(failed)?.path();
            if path.extension().is_some_and(|ext| ["conf", "conflist", "json"].iter().any(|known| ext == *known)) {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

fn is_ours(plugin: &Value) -> bool {
    plugin["type"] == TYPE
}

fn read(path: &Path) -> Result<Vec<u8>, ChainError> {
    fs::read(path).map_err(|source| ChainError::File { path: path.to_owned(), source })
}

/// `None`: half written, or not JSON.
fn parse(text: &[u8]) -> Option<Value> {
    serde_json::from_slice(text).ok()
}

fn write(path: &Path, list: &Value) -> Result<(), ChainError> {
    let mode = fs::metadata(path).map_or(0o644, |meta| meta.permissions().mode());
    let failed = |source: serde_json::Error| ChainError::File { path: path.to_owned(), source: source.into() };
    let mut text = serde_json::to_vec_pretty(list).map_err(failed)?;
    text.push(b'\n');
    replace(path, &text, mode & 0o777)
}

/// In one step: a runtime reads the former file or the new one. The half-made one has a name that no runtime reads.
fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), ChainError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let half = path.with_file_name(format!(".{name}.undermesh"));
    let done = fs::write(&half, content)
        .and_then(|()| fs::set_permissions(&half, Permissions::from_mode(mode)))
        .and_then(|()| fs::File::open(&half)?.sync_all())
        .and_then(|()| fs::rename(&half, path));
    if done.is_err() {
        let _ = fs::remove_file(&half);
    }
    done.map_err(|source| ChainError::File { path: path.to_owned(), source })
}

fn gone(done: io::Result<()>, dir: &Path) -> Result<(), ChainError> {
    match done {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(ChainError::File { path: dir.join(TYPE), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_cni::call::{Config, FailurePolicy};
    use serde_json::json;
    use tempfile::TempDir;

    fn chain() -> (TempDir, Chain) {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("net.d")).unwrap();
        fs::create_dir(at("bin")).unwrap();
        fs::write(at("mesh-cni"), "program").unwrap();
        let settings = Settings {
            run_dir: "/run/undermesh".into(),
            failure_policy: FailurePolicy::Closed,
            exempt: vec!["kube-system".into()],
            timeout_seconds: 5,
        };
        let chain = Chain { conf_dir: at("net.d"), bin_dir: at("bin"), program: at("mesh-cni"), settings };
        (dir, chain)
    }

    fn list(kind: &str) -> Value {
        json!({"cniVersion": "1.0.0", "name": "kn", "plugins": [{"type": kind, "mtu": 1500}, {"type": "portmap"}]})
    }

    fn types(file: &Path) -> Vec<String> {
        let list: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        list["plugins"].as_array().unwrap().iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn our_entry_is_the_last_of_the_first_file_and_comes_back() {
        let ((_dir, chain), mut known) = (chain(), None);
        assert!(matches!(chain.ensure(&mut known), Err(ChainError::Nothing(_))));
        let first = chain.conf_dir.join("10-kn.conflist");
        fs::write(&first, list("bridge").to_string()).unwrap();
        fs::set_permissions(&first, Permissions::from_mode(0o600)).unwrap();
        fs::write(chain.conf_dir.join("99-other.conflist"), list("ptp").to_string()).unwrap();
        fs::write(chain.conf_dir.join("00-notes.txt"), "no configuration").unwrap();
        assert_eq!(chain.ensure(&mut known).unwrap(), Place { file: first.clone(), is_new: true });
        assert_eq!(types(&first), ["bridge", "portmap", TYPE]);
        assert_eq!(fs::metadata(&first).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(chain.ensure(&mut known).unwrap(), Place { file: first.clone(), is_new: false });
        assert_eq!(fs::read(chain.bin_dir.join(TYPE)).unwrap(), b"program");
        assert_eq!(fs::metadata(chain.bin_dir.join(TYPE)).unwrap().permissions().mode() & 0o777, 0o755);

        // The plugin reads what is written, as the runtime hands it over: with the list's name and version.
        let written: Value = serde_json::from_slice(&fs::read(&first).unwrap()).unwrap();
        let mut config = written["plugins"][2].clone();
        config["cniVersion"] = "1.0.0".into();
        assert_eq!(Config::parse(config.to_string().as_bytes()).unwrap().settings, chain.settings);

        // Another plugin's agent writes its file anew; a former version of ours is there; the program is another one's.
        fs::write(&first, list("bridge").to_string()).unwrap();
        assert_eq!(chain.ensure(&mut known).unwrap(), Place { file: first.clone(), is_new: true });
        let mut old = list("bridge");
        old["plugins"].as_array_mut().unwrap().insert(0, json!({"type": TYPE, "runDir": "/elsewhere"}));
        fs::write(&first, old.to_string()).unwrap();
        fs::write(chain.bin_dir.join(TYPE), "another one").unwrap();
        chain.ensure(&mut known).unwrap();
        assert_eq!(types(&first), ["bridge", "portmap", TYPE]);
        assert_eq!(fs::read(chain.bin_dir.join(TYPE)).unwrap(), b"program");

        chain.remove().unwrap();
        let after: Value = serde_json::from_slice(&fs::read(&first).unwrap()).unwrap();
        assert_eq!(after, list("bridge"));
        let mut left: Vec<_> = fs::read_dir(&chain.conf_dir).unwrap().map(|file| file.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["00-notes.txt", "10-kn.conflist", "99-other.conflist"]);
        assert_eq!(fs::read_dir(&chain.bin_dir).unwrap().count(), 0);
        chain.remove().expect("twice is no error");
    }

    #[test]
    fn what_cannot_be_chained_into_is_left_alone_and_named() {
        let ((_dir, chain), mut known) = (chain(), None);
        let single = chain.conf_dir.join("10-kn.conf");
        for (text, why) in [
            (r#"{"cniVersion": "1.0.0", "name": "kn", "type": "bridge"}"#, "single plugin"),
            ("{", "half written"),
            ("[]", "no list of plugins"),
        ] {
            fs::write(&single, text).unwrap();
            let error = chain.ensure(&mut known).unwrap_err().to_string();
            assert!(error.contains("10-kn.conf") && error.contains(why), "{error}");
            assert_eq!(fs::read_to_string(&single).unwrap(), text);
            chain.remove().unwrap();
        }
    }
}
