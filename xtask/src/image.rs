//! `cargo xtask image`: the agent's container image, without a Docker daemon, the same bytes from the same source.
//!
//! One layer with static binaries (the agent, and the CNI plugin that it puts on its node), as an archive that both
//! `docker load` and `ctr image import` take (docker-archive and OCI layout share the blobs), and a CycloneDX list of
//! what is in it.

mod archive;
mod sbom;

use crate::sh::{self, Profile};
use anyhow::{Context, Result, bail, ensure};
use archive::{Archive, Config};
use std::fs;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name of the image
    #[arg(long, default_value = concat!("docker.io/undermesh/mesh-agent:", env!("CARGO_PKG_VERSION")))]
    tag: String,
    /// Where to put it [default: target/image]
    #[arg(long)]
    out: Option<PathBuf>,
    /// As `cargo xtask test` builds things: nearly as fast as released, in half the time
    #[arg(long)]
    fast: bool,
    /// And one more image with the apps of the lab, for tests: `docker.io/undermesh/pingpong:dev`
    #[arg(long)]
    apps: bool,
}

/// The apps' image, as deploy/examples/pingpong.yaml names it.
const APPS: &str = "docker.io/undermesh/pingpong:dev";

/// What goes into an image.
#[derive(Clone, Copy)]
struct Program {
    package: &'static str,
    bin: &'static str,
    /// Its name in the image.
    name: &'static str,
}

const AGENT: Program = Program { package: "mesh-agent", bin: "mesh-agent", name: "mesh-agent" };
/// The same source, with the libraries that the tests have built already.
const TESTED: Program = Program { package: "mesh-test", bin: "mesh-agent-tested", name: "mesh-agent" };
const CNI: Program = Program { package: "mesh-cni", bin: "mesh-cni", name: "mesh-cni" };
const APP: Program = Program { package: "mesh-test", bin: "mesh-app", name: "mesh-app" };

pub(crate) fn run(args: &Args) -> Result<()> {
    let out = args.out.clone().unwrap_or_else(|| sh::root().join("target/image"));
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let (profile, agent) = if args.fast { (Profile::Fast, TESTED) } else { (Profile::Release, AGENT) };
    image(&[agent, CNI], profile, &args.tag, &out)?;
    let list = out.join("mesh-agent.cdx.json");
    fs::write(&list, sbom::of("mesh-agent")?)?;
    sh::say(&format!("{}", list.display()));
    if args.apps {
        image(&[APP], profile, APPS, &out)?;
    }
    Ok(())
}

/// The first of `programs` is what the image starts, and is named after.
fn image(programs: &[Program], profile: Profile, tag: &str, out: &Path) -> Result<()> {
    let mut archive = Archive::default();
    let mut bytes = 0;
    for program in programs {
        let (binary, name) = (fs::read(build(program, profile)?)?, program.name);
        ensure!(is_static(&binary), "{name} is not static: it would find no loader in an empty image");
        archive.file(&format!("usr/bin/{name}"), 0o755, &binary);
        bytes += binary.len();
    }
    let first = programs.first().context("an image of nothing")?.name;
    let file = out.join(format!("{first}.tar"));
    fs::write(&file, archive.finish(&Config { tag, entrypoint: &format!("/usr/bin/{first}") })?)?;
    sh::say(&format!("{} ({tag}, {} MiB)", file.display(), bytes >> 20));
    Ok(())
}

/// Only the last step differs from the usual build: the C library is linked in.
fn build(program: &Program, profile: Profile) -> Result<PathBuf> {
    let target = sh::root().join("target");
    let Program { package, bin, name } = program;
    let mut cargo = sh::cargo();
    cargo.args(["rustc", "--quiet", "--profile", profile.name(), "--package", package, "--bin", bin]);
    // Beside the dynamic one that the lab uses.
    cargo.env("CARGO_TARGET_DIR", &target).args(["--", "-C", "target-feature=+crt-static"]);
    if !cargo.status().context("cannot start cargo")?.success() {
        bail!("the build of {name} failed");
    }
    let built = sh::programs(profile).join(bin);
    let kept = target.join("image").join(name);
    fs::create_dir_all(target.join("image"))?;
    fs::copy(&built, &kept).with_context(|| format!("cannot copy {}", built.display()))?;
    Ok(kept)
}

/// An ELF file without a program interpreter (`PT_INTERP`).
fn is_static(binary: &[u8]) -> bool {
    use object::read::elf::{FileHeader, ProgramHeader};
    let Ok(header) = object::elf::FileHeader64::<object::Endianness>::parse(binary) else { return false };
    let Ok(endian) = header.endian() else { return false };
    let Ok(segments) = header.program_headers(endian, binary) else { return false };
    segments.iter().all(|segment| segment.p_type(endian) != object::elf::PT_INTERP)
}
