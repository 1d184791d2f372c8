//! The page's files, in the binary: nothing to install, nothing loaded from elsewhere.

pub(super) struct Asset {
    pub(super) path: &'static str,
    pub(super) bytes: &'static [u8],
}

macro_rules! assets {
    ($($name:literal),* $(,)?) => {
        &[$(Asset { path: concat!("/", $name), bytes: include_bytes!(concat!("page/", $name)) }),*]
    };
}

pub(super) const INDEX: &str = "/index.html";

const ASSETS: &[Asset] = assets![
    "index.html",
    "base.css",
    "certificates.js",
    "dom.js",
    "explain-view.js",
    "format.js",
    "graph-view.js",
    "graph.css",
    "icon.svg",
    "layout-rough.js",
    "layout-worker.js",
    "layout.js",
    "live.js",
    "main.js",
    "model.js",
    "page-explain.js",
    "page-graph.js",
    "page-nodes.js",
    "page-services.js",
    "page-workload.js",
    "page-workloads.js",
    "parts.js",
    "rates.js",
    "sizes.js",
    "store.js",
    "table.js",
    "viewport.js",
    "vendor/dagre.LICENSE.txt",
    "vendor/dagre.js",
];

pub(super) fn find(path: &str) -> Option<&'static Asset> {
    let path = if path == "/" { INDEX } else { path };
    ASSETS.iter().find(|asset| asset.path == path)
}

impl Asset {
    pub(super) fn content_type(&self) -> &'static str {
        match self.path.rsplit('.').next() {
            Some("html") => "text/html; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "text/plain; charset=utf-8",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/dashboard/page")
    }

    fn files(under: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(under).expect("folder").flatten() {
            if entry.path().is_dir() {
                files(&entry.path(), found);
            } else {
                let path = entry.path();
                found.push(format!("/{}", path.strip_prefix(folder()).expect("inside").display()));
            }
        }
    }

    #[test]
    fn every_file_of_the_page_is_served() {
        let mut there = Vec::new();
        files(&folder(), &mut there);
        there.sort();
        let mut served: Vec<_> = ASSETS.iter().map(|asset| asset.path.to_owned()).collect();
        served.sort();
        assert_eq!(served, there);
        assert_eq!(find("/").map(|asset| asset.path), Some(INDEX));
        assert!(find("/../mod.rs").is_none() && find("//index.html").is_none());
    }

    /// What a module imports is among the files, and no file names another site, except in words and namespaces.
    #[test]
    fn the_page_loads_nothing_from_elsewhere() {
        let mut imports = 0;
        for asset in ASSETS {
            let text = std::str::from_utf8(asset.bytes).expect("UTF-8");
            let own = !asset.path.starts_with("/vendor/");
            for line in text.lines().filter(|_| own) {
                let elsewhere = line.contains("http://") || line.contains("https://");
                assert!(!elsewhere || line.contains("http://www.w3.org/"), "{}: {line}", asset.path);
                let quoted = line.strip_prefix("import ").or(line.strip_prefix("} from ")).map(|rest| {
                    let from = rest.rsplit_once("from ").map_or(rest, |(_, from)| from);
                    from.trim_matches(['\'', '"', ';', ' '])
                });
                if let Some(import) = quoted.filter(|import| import.starts_with('.')) {
                    let base = asset.path.rsplit_once('/').map_or("", |(base, _)| base);
                    let mut path: Vec<&str> = base.split('/').collect();
                    for part in import.split('/') {
                        match part {
                            "." => {}
                            ".." => drop(path.pop()),
                            part => path.push(part),
                        }
                    }
                    let path = path.join("/");
                    assert!(find(&path).is_some(), "{} imports {path}, which is not served", asset.path);
                    imports += 1;
                }
            }
        }
        assert!(imports > 10, "only {imports} imports were found");
    }

    /// Modules that import modules would be fetched one round after the other; the layout is the worker's alone.
    #[test]
    fn modules_are_fetched_at_once() {
        let index = std::str::from_utf8(find("/").expect("index").bytes).expect("UTF-8");
        let apart = ["/main.js", "/layout.js", "/layout-rough.js", "/layout-worker.js"];
        let modules = ASSETS.iter().map(|asset| asset.path).filter(|path| path.ends_with(".js"));
        for path in modules.filter(|path| !apart.contains(path) && !path.starts_with("/vendor/")) {
            let link = format!("<link rel=\"modulepreload\" href=\"{}\">", path.trim_start_matches('/'));
            assert!(index.contains(&link), "index.html lacks {link}");
        }
    }
}
