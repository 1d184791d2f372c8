//! `cargo xtask build-ebpf`: the committed eBPF object from its source, byte for byte.
//!
//! Only who changes the programs needs it: a nightly toolchain, bpf-linker (built here, against that toolchain's own
//! LLVM) and the sources of Rust's `core`.

use crate::sh;
use anyhow::{Context, Result, bail};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const OBJECT: &str = "mesh-agent/src/kernel/mesh-ebpf.o";
const TARGET: &str = "bpfel-unknown-none";
const BPF_LINKER: &str = "0.13.0";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build, compare with the committed object, change nothing
    #[arg(long)]
    check: bool,
    /// `library` folder of the Rust sources, or an archive of it; without it the toolchain's rust-src component
    #[arg(long, env = "UNDERMESH_RUST_SRC")]
    rust_src: Option<PathBuf>,
    /// Toolchain that compiles for the bpf target
    #[arg(long, default_value = "nightly", env = "UNDERMESH_BPF_TOOLCHAIN")]
    toolchain: String,
}

/// Rebuilds the object in place, or with `--check` fails if it is not what its source says.
pub(crate) fn run(args: &Args) -> Result<()> {
    let tools = Tools::new(&args.toolchain)?;
    let library = tools.library(args.rust_src.as_deref())?.canonicalize()?;
    tools.linker()?;
    tools.core(&library)?;
    let built = without_dwarf(&fs::read(tools.object()?).context("the built object")?)?;
    let committed = sh::root().join(OBJECT);
    if !args.check {
        fs::write(&committed, &built)?;
        sh::say(&format!("{OBJECT}: {} bytes", built.len()));
        return Ok(());
    }
    if fs::read(&committed).with_context(|| OBJECT.to_owned())? != built {
        bail!("{OBJECT} is not what mesh-ebpf/src says: run `cargo xtask build-ebpf` and commit the object");
    }
    sh::say(&format!("{OBJECT} matches its source"));
    Ok(())
}

struct Tools {
    toolchain: String,
    /// Where linker, LLVM links and `core` live.
    dir: PathBuf,
    /// The toolchain's own.
    sysroot: PathBuf,
}

impl Tools {
    fn new(toolchain: &str) -> Result<Self> {
        let output = Command::new("rustc").args([&format!("+{toolchain}"), "--print", "sysroot"]).output()?;
        if !output.status.success() {
            bail!("no toolchain `{toolchain}`: rustup toolchain install {toolchain} --component rust-src");
        }
        let sysroot = PathBuf::from(String::from_utf8(output.stdout)?.trim());
        let dir = sh::root().join("target/bpf-toolchain");
        fs::create_dir_all(&dir)?;
        Ok(Self { toolchain: toolchain.to_owned(), dir, sysroot })
    }

    fn rustc(&self) -> Command {
        let mut command = Command::new("rustc");
        // `core` is full of unstable features; the toolchain that compiles it is pinned by its name.
        command.arg(format!("+{}", self.toolchain)).env("RUSTC_BOOTSTRAP", "1");
        command
    }

    /// The `library` folder, unpacked if it came as an archive.
    fn library(&self, given: Option<&Path>) -> Result<PathBuf> {
        let component = self.sysroot.join("lib/rustlib/src/rust/library");
        let debian = PathBuf::from("/usr/src/rustc/library");
        let Some(given) = given else {
            return [component, debian].into_iter().find(|path| path.join("core/src/lib.rs").exists()).with_context(|| {
                format!(
                    "no Rust library sources: `rustup component add rust-src --toolchain {}`, or name their folder or archive with UNDERMESH_RUST_SRC",
                    self.toolchain
                )
            });
        };
        if given.is_dir() {
            return Ok(given.to_path_buf());
        }
        let into = self.dir.join("rust-src");
        fs::create_dir_all(&into)?;
        sh::step("unpack rust-src", Command::new("tar").arg("-xf").arg(given).arg("-C").arg(&into))?;
        find(&into, "core/src/lib.rs", 4).with_context(|| format!("{} holds no library/core", given.display()))
    }

    /// bpf-linker, linked to the toolchain's own LLVM, so that no LLVM package is needed.
    fn linker(&self) -> Result<()> {
        if self.dir.join("bin/bpf-linker").exists() {
            return Ok(());
        }
        let llvm = self.dir.join("llvm/lib");
        fs::create_dir_all(&llvm)?;
        let libraries = fs::read_dir(self.sysroot.join("lib"))?.flatten().map(|entry| entry.path());
        let library = libraries
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libLLVM.so.")))
            .max()
            .context("the toolchain has no libLLVM.so")?;
        for name in ["libLLVM.so".as_ref(), library.file_name().unwrap_or_default()] {
            let link = llvm.join(name);
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(&library, link)?;
        }
        let mut install = Command::new("cargo");
        install
            .arg(format!("+{}", self.toolchain))
            .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--no-default-features"])
            .args(["--features", "llvm-22", "--root"])
            .arg(&self.dir)
            .env("LLVM_PREFIX", self.dir.join("llvm"))
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        clean(&mut install);
        sh::step("build bpf-linker", &mut install).map(drop)
    }

    /// `core` and `compiler_builtins` for the bpf target: no toolchain ships them.
    fn core(&self, library: &Path) -> Result<()> {
        let out = self.bpf_sysroot().join(format!("lib/rustlib/{TARGET}/lib"));
        if out.join("libcompiler_builtins-mesh.rlib").exists() {
            return Ok(());
        }
        fs::create_dir_all(&out)?;
        let compile = |name: &str, metadata: &str| {
            let mut rustc = self.rustc();
            rustc
                .args(["--crate-name", name, "--edition", "2024", "--crate-type", "rlib", "--target", TARGET])
                .args(["-Copt-level=3", "-Cpanic=abort", "-Ccodegen-units=1", "-Cembed-bitcode=yes", "-Cdebuginfo=2"])
                .args(["-Csymbol-mangling-version=v0", "-Zforce-unstable-if-unmarked", "--cap-lints", "allow"])
                .arg(format!("--remap-path-prefix={}=/rust/library", library.display()))
                .args([&format!("-Cmetadata={metadata}"), "-Cextra-filename=-mesh", "--out-dir"])
                .arg(&out)
                // The working folder is written into the debug information.
                .current_dir("/");
            rustc
        };
        let mut core = compile("core", "mesh-core");
        core.arg(library.join("core/src/lib.rs"));
        sh::step("core for bpf", &mut core)?;
        let mut builtins = compile("compiler_builtins", "mesh-cb");
        builtins.arg("--extern").arg(format!("core={}", out.join("libcore-mesh.rlib").display()));
        for cfg in [
            "feature=\"compiler-builtins\"",
            "feature=\"unmangled-names\"",
            "intrinsics_enabled",
            "optimizations_enabled",
            "f16_enabled",
            "f128_enabled",
        ] {
            builtins.args(["--cfg", cfg]);
        }
        builtins.arg(library.join("compiler-builtins/compiler-builtins/src/lib.rs"));
        sh::step("compiler_builtins for bpf", &mut builtins).map(drop)
    }

    /// Builds mesh-ebpf; the result names neither this machine's folders nor its registry.
    fn object(&self) -> Result<PathBuf> {
        let root = sh::root();
        let cargo_home = std::env::var_os("CARGO_HOME")
            .map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"), PathBuf::from);
        let mut flags = vec![
            "--sysroot".to_owned(),
            self.bpf_sysroot().display().to_string(),
            "-Cdebuginfo=2".to_owned(),
            "-Clink-arg=--btf".to_owned(),
            format!("--remap-path-prefix={}=/src", root.display()),
        ];
        // Each registry unpacks into a folder of its own name.
        for registry in fs::read_dir(cargo_home.join("registry/src")).into_iter().flatten().flatten() {
            flags.push(format!("--remap-path-prefix={}=/crates", registry.path().display()));
        }
        let target_dir = root.join("target/ebpf");
        let mut build = Command::new("cargo");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(self.dir.join("bin")).chain(std::env::split_paths(&path));
        build
            .arg(format!("+{}", self.toolchain))
            .args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"])
            .arg(&target_dir)
            .current_dir(root.join("mesh-ebpf"))
            .env("PATH", std::env::join_paths(paths)?);
        clean(&mut build);
        // Not RUSTFLAGS: a path may hold spaces.
        build.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        sh::step("mesh-ebpf", &mut build)?;
        Ok(target_dir.join(TARGET).join("release/mesh-ebpf"))
    }

    fn bpf_sysroot(&self) -> PathBuf {
        self.dir.join("sysroot")
    }
}

/// The object without its DWARF: the compiler needs it to write BTF, at run time nobody reads it, and it is most of
/// the bytes that every agent would carry. BTF, with the source lines that the verifier quotes, stays.
fn without_dwarf(object: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Builder::read64(object).context("the built object is no 64-bit ELF file")?;
    for section in elf.sections.iter_mut() {
        let name = section.name.as_slice();
        section.delete |= name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    elf.delete_orphans();
    // LLVM keeps section and symbol names in one table, the writer in two.
    if !elf.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        let names = elf.sections.add();
        names.name = b".shstrtab".as_slice().into();
        names.sh_type = SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    elf.write(&mut stripped)?;
    Ok(stripped)
}

/// Takes away what the running cargo set for its own toolchain.
fn clean(command: &mut Command) {
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        command.env_remove(name);
    }
}

/// The folder below `under` (at most `depth` deep) that holds `file`.
fn find(under: &Path, file: &str, depth: usize) -> Option<PathBuf> {
    if under.join(file).exists() {
        return Some(under.to_path_buf());
    }
    if depth == 0 {
        return None;
    }
    fs::read_dir(under).ok()?.flatten().filter(|e| e.path().is_dir()).find_map(|e| find(&e.path(), file, depth - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small enough to be carried by every agent, and all that loading needs is there: programs, maps, BTF with its
    /// lines, and the relocations that join them.
    #[test]
    fn the_committed_object_holds_btf_and_no_dwarf() {
        let object = fs::read(sh::root().join(OBJECT)).unwrap();
        assert!(object.len() < 128 << 10, "{} bytes", object.len());
        assert_eq!(without_dwarf(&object).unwrap(), object, "what is stripped stays as it is");
        let elf = Builder::read64(&*object).unwrap();
        let names: Vec<&[u8]> = elf.sections.iter().map(|section| section.name.as_slice()).collect();
        assert!(!names.iter().any(|name| name.starts_with(b".debug")));
        for needed in [b".BTF".as_slice(), b".BTF.ext", b"cgroup/connect4", b"sockops", b"sk_msg", b"maps", b".maps"] {
            assert!(names.contains(&needed), "{} is gone", String::from_utf8_lossy(needed));
        }
        let relocations = |name: &[u8]| {
            elf.sections.iter().find(|section| section.name.as_slice() == name).map_or(0, |section| {
                match &section.data {
                    SectionData::Relocation(relocations) => relocations.len(),
                    _ => 0,
                }
            })
        };
        assert!(relocations(b".relcgroup/connect4") > 0 && relocations(b".rel.BTF.ext") > 0);
    }
}
