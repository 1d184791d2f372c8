//! What a program is made of: CycloneDX 1.5 from `cargo metadata`.

use crate::sh;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Crates that a package is built of, dev-dependencies left out, in order of name.
pub(super) fn of(package: &str) -> Result<String> {
    let tree =
        output(&["tree", "--package", package, "--edges", "normal,build", "--prefix", "none", "--format", "{p}"])?;
    // `name v1.2.3 (…)`
    let used: BTreeSet<(&str, &str)> = tree
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.next()?.strip_prefix('v')?))
        })
        .collect();
    let metadata: Value = serde_json::from_str(&output(&["metadata", "--format-version", "1", "--locked"])?)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let text = |package: &Value, field: &str| package[field].as_str().unwrap_or_default().to_owned();
    let mut components: Vec<(String, Value)> = packages
        .iter()
        .filter(|package| used.contains(&(&*text(package, "name"), &*text(package, "version"))))
        .map(|package| {
            let (name, version) = (text(package, "name"), text(package, "version"));
            let purl = format!("pkg:cargo/{name}@{version}");
            let licences = json!([{"expression": text(package, "license").replace('/', " OR ")}]);
            let component =
                json!({"type": "library", "name": name, "version": version, "purl": purl, "licenses": licences});
            (purl, component)
        })
        .collect();
    components.sort_by(|a, b| a.0.cmp(&b.0));
    let components: Vec<Value> = components.into_iter().map(|(_, component)| component).collect();
    let list = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "metadata": {"component": {"type": "application", "name": package, "version": env!("CARGO_PKG_VERSION")}},
        "components": components,
    });
    Ok(serde_json::to_string_pretty(&list)? + "\n")
}

fn output(args: &[&str]) -> Result<String> {
    let output = sh::cargo().args(args).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_the_agent_is_made_of_is_listed_once() {
        let list: serde_json::Value = serde_json::from_str(&super::of("mesh-agent").unwrap()).unwrap();
        let purls: Vec<_> =
            list["components"].as_array().unwrap().iter().map(|c| c["purl"].as_str().unwrap()).collect();
        assert!(purls.is_sorted());
        assert_eq!(purls.iter().filter(|purl| purl.starts_with("pkg:cargo/h2@")).count(), 1);
        assert!(!purls.iter().any(|purl| purl.starts_with("pkg:cargo/proptest@")), "a tool of tests is not in it");
    }
}
