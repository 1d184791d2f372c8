//! Compiles every `proto/*.proto` to Rust without `protoc`: protox parses, tonic-prost-build writes the code.
//!
//! Each package lands in `$OUT_DIR/<package>.rs` (use `tonic::include_proto!`); the descriptors of all of them, for
//! gRPC reflection, land in `$OUT_DIR/descriptors.bin`.

use std::path::{Path, PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = Path::new("proto");
    println!("cargo:rerun-if-changed={}", protos.display());
    let mut files: Vec<PathBuf> = std::fs::read_dir(protos)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "proto"))
        .collect();
    // The order of a directory is not stable; the bytes of the descriptor set must be.
    files.sort();
    let descriptors = protox::compile(&files, [protos])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
