//! Finds the programs the lab starts.

use anyhow::{Context, Result, bail};
use std::env;
use std::path::PathBuf;

/// Paths of the lab's programs.
#[derive(Clone, Debug)]
pub struct Bins {
    pub lab: PathBuf,
    pub app: PathBuf,
}

impl Bins {
    /// Beside the running program, as cargo puts them; a test's own executable is one folder deeper.
    pub fn locate() -> Result<Self> {
        Ok(Self { lab: find("mesh-lab")?, app: find("mesh-app")? })
    }

    /// The agent: `UNDERMESH_AGENT`, else beside the running program.
    pub fn agent() -> Result<PathBuf> {
        match env::var_os("UNDERMESH_AGENT") {
            Some(path) if PathBuf::from(&path).is_file() => Ok(path.into()),
            Some(path) => bail!("UNDERMESH_AGENT={} is not a file", path.to_string_lossy()),
            None => find("mesh-agent"),
        }
    }
}

fn find(name: &str) -> Result<PathBuf> {
    let me = env::current_exe().context("where is this program?")?;
    me.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file()).with_context(|| {
        format!("{name} is not beside {}: build it with `cargo build -p {}`", me.display(), crate_of(name))
    })
}

fn crate_of(name: &str) -> &str {
    if name == "mesh-agent" { "mesh-agent" } else { "mesh-test --bins" }
}
