//! The archive: a tar of a layer (a tar, too), its configuration and two indexes. No time, no user: same bytes from same
//! content.

use anyhow::Result;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// The root file system, as one layer.
#[derive(Default)]
pub(super) struct Archive {
    layer: Tar,
    folders: BTreeSet<String>,
}

pub(super) struct Config<'a> {
    pub(super) tag: &'a str,
    pub(super) entrypoint: &'a str,
}

impl Archive {
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        for (at, _) in path.match_indices('/') {
            if self.folders.insert(path[..at].to_owned()) {
                self.layer.entry(&path[..at], b'5', 0o755, &[]);
            }
        }
        self.layer.entry(path, b'0', mode, content);
    }

    /// What `docker load` (manifest.json) and OCI tools (index.json) read.
    pub(super) fn finish(self, config: &Config<'_>) -> Result<Vec<u8>> {
        let layer = self.layer.finish();
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let image = serde_json::to_vec(&json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"Entrypoint": [config.entrypoint], "Env": ["PATH=/usr/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        }))?;
        let blob = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()});
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob("application/vnd.oci.image.config.v1+json", &image),
            "layers": [blob("application/vnd.oci.image.layer.v1.tar", &layer)],
        }))?;
        let mut named = blob("application/vnd.oci.image.manifest.v1+json", &manifest);
        named["annotations"] = json!({
            "io.containerd.image.name": config.tag,
            "org.opencontainers.image.ref.name": config.tag,
        });
        let index =
            json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [named]});
        let old = json!([{"Config": path(&image), "RepoTags": [config.tag], "Layers": [path(&layer)]}]);
        let mut out = Tar::default();
        out.entry("oci-layout", b'0', 0o644, &serde_json::to_vec(&json!({"imageLayoutVersion": "1.0.0"}))?);
        out.entry("index.json", b'0', 0o644, &serde_json::to_vec(&index)?);
        out.entry("manifest.json", b'0', 0o644, &serde_json::to_vec(&old)?);
        for bytes in [&manifest, &image, &layer] {
            out.entry(&path(bytes), b'0', 0o644, bytes);
        }
        Ok(out.finish())
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

fn path(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", hex(bytes))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// ustar (POSIX.1-1988): a header of 512 bytes, the content in blocks of 512, two empty blocks at the end.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    /// `kind`: `0` a file, `5` a folder. Paths of ours are shorter than the header's 100 bytes, files than its 8 GiB.
    fn entry(&mut self, path: &str, kind: u8, mode: u32, content: &[u8]) {
        let mut header = [0_u8; 512];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, path);
        put(100, &format!("{mode:07o}"));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", content.len()));
        put(136, "00000000000");
        // The checksum counts its own field as spaces.
        put(148, "        ");
        put(257, "ustar");
        put(263, "00");
        header[156] = kind;
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn the_same_content_is_the_same_bytes_and_tar_reads_it() {
        let make = || {
            let mut archive = Archive::default();
            archive.file("usr/bin/a", 0o755, b"hello");
            archive.file("usr/bin/b", 0o644, &[7; 513]);
            archive.finish(&Config { tag: "x/y:1", entrypoint: "/usr/bin/a" }).unwrap()
        };
        assert_eq!(make(), make());
        let mut tar = Command::new("tar").arg("-tf-").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        tar.stdin.take().unwrap().write_all(&make()).unwrap();
        let listed = tar.wait_with_output().unwrap();
        assert!(listed.status.success());
        let names = String::from_utf8(listed.stdout).unwrap();
        assert_eq!(names.lines().take(3).collect::<Vec<_>>(), ["oci-layout", "index.json", "manifest.json"]);
        assert_eq!(names.lines().filter(|name| name.starts_with("blobs/sha256/")).count(), 3);
    }
}
