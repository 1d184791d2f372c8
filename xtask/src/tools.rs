//! Programs of other languages and bench peers: what tests need beyond Rust, and how to get them.

use crate::sh;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a tool is for; the parts of `cargo xtask peers`, in the order they are built: all stubs come from Python's protoc.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum, Debug)]
pub(crate) enum Part {
    /// HAProxy, nginx
    Bench,
    /// Prometheus with promtool
    Observe,
    /// grpcio, protoc, Envoy
    Python,
    /// grpc-go, its interop client and server, h2spec, fortio
    Go,
    /// grpc-java
    Java,
    /// @grpc/grpc-js
    Node,
    /// Zipkin, OpenTelemetry's OTLP receiver
    Trace,
    /// Chromium, and what drives it
    Browser,
}

pub(crate) const PARTS: &[Part] =
    &[Part::Bench, Part::Observe, Part::Python, Part::Go, Part::Java, Part::Node, Part::Trace, Part::Browser];

/// A program and what makes it good enough.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) parts: &'static [Part],
    /// Debian's packages of it.
    pub(crate) packages: &'static [&'static str],
    /// Arguments that make it print its version; none: being there is enough.
    probe: &'static [&'static str],
    /// Oldest version that does.
    least: (u32, u32),
}

const fn tool(name: &'static str, parts: &'static [Part], packages: &'static [&'static str]) -> Tool {
    Tool { name, parts, packages, probe: &[], least: (0, 0) }
}

pub(crate) const TOOLS: &[Tool] = &[
    tool("haproxy", &[Part::Bench], &["haproxy"]),
    tool("nginx", &[Part::Bench], &["nginx"]),
    tool("prometheus", &[Part::Observe], &["prometheus"]),
    tool("promtool", &[Part::Observe], &["prometheus"]),
    // Debian's python3 lacks ensurepip until python3-venv is installed.
    Tool {
        probe: &["-c", "import ensurepip, sys; print(sys.version)"],
        least: (3, 9),
        ..tool("python3", &[Part::Python], &["python3", "python3-venv"])
    },
    // From 1.21 on, go fetches the toolchain that go.mod names.
    Tool { probe: &["version"], least: (1, 21), ..tool("go", &[Part::Go, Part::Trace], &["golang-go"]) },
    Tool {
        probe: &["--version"],
        least: (17, 0),
        ..tool("javac", &[Part::Java, Part::Trace], &["default-jdk-headless"])
    },
    tool("mvn", &[Part::Java, Part::Trace], &["maven"]),
    Tool { probe: &["--version"], least: (18, 0), ..tool("node", &[Part::Node, Part::Browser], &["nodejs"]) },
    tool("npm", &[Part::Node, Part::Browser], &["npm"]),
    // Any Chromium or Chrome that is named so does (`mesh-test/console/support.mjs`).
    tool("chromium", &[Part::Browser], &["chromium", "fonts-dejavu-core"]),
];

impl Tool {
    /// Where it is, on PATH or where root's programs are.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        sh::find(self.name).or_else(|| Some(Path::new("/usr/sbin").join(self.name)).filter(|path| path.is_file()))
    }

    pub(crate) fn works(&self) -> bool {
        let Some(path) = self.path() else { return false };
        if self.probe.is_empty() {
            return true;
        }
        let Ok(output) = Command::new(path).args(self.probe).output() else { return false };
        output.status.success() && version(&String::from_utf8_lossy(&output.stdout)) >= self.least
    }

    /// The program, how new it must be, and the packages: `go ≥ 1.21 (Debian: golang-go)`.
    pub(crate) fn wanted(&self) -> String {
        let (major, minor) = self.least;
        let least = if self.probe.is_empty() { String::new() } else { format!(" ≥ {major}.{minor}") };
        format!("{}{least} (Debian: {})", self.name, self.packages.join(" "))
    }
}

/// The first two numbers of what a program says of itself.
fn version(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_programs_print_them() {
        for (text, want) in [
            ("go version go1.26.8 linux/amd64", (1, 26)),
            ("javac 17.0.15", (17, 0)),
            ("v20.20.2\n", (20, 20)),
            ("3.11.7 (main, …)", (3, 11)),
            ("none", (0, 0)),
        ] {
            assert_eq!(version(text), want, "{text}");
        }
    }
}
