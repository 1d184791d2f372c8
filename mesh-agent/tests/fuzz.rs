//! The targets of `fuzz/` under a bounded run of mutations, for stable toolchains and for CI; libFuzzer goes further.
//!
//! `UNDERMESH_FUZZ_SECONDS` for each target (3), `UNDERMESH_FUZZ_SEED` to see a failure again.

#[path = "../../fuzz/targets.rs"]
mod targets;

use fastrand::Rng;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What means something to one of the parsers.
const TOKENS: &[&[u8]] = &[
    b"\0",
    b"\n",
    b"\r\n",
    b"/",
    b"//",
    b"?",
    b"#",
    b"%2f",
    b"*",
    b"{",
    b"}",
    b"[",
    b"]",
    b"(",
    b")",
    b"\\",
    b"\\Q",
    b"\\E",
    b"(?i)",
    b"{1000}",
    b"^",
    b"$",
    b".*",
    b"---\n",
    b": ",
    b"- ",
    b"&a ",
    b"*a",
    b"!!binary ",
    b"null",
    b"~",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"0s",
    b"\xff",
    b"\xc3\xa4",
    b"=",
    b"==",
    b"\"",
    b";",
    b"HTTP/1.1",
    b"\x16\x03\x01",
];
const LONGEST: usize = 64 << 10;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let from: &[&str] = if target == "yaml" { &["deploy"] } else { &[] };
    let own = format!("fuzz/corpus/{target}");
    let mut folders: Vec<PathBuf> = from.iter().copied().chain([&*own]).map(|folder| root.join(folder)).collect();
    let mut seeds = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if target != "yaml" || path.extension().is_some_and(|extension| extension == "yaml") {
                seeds.push(std::fs::read(path).expect("a readable seed"));
            }
        }
    }
    assert!(!seeds.is_empty(), "no corpus for {target}");
    seeds.sort();
    seeds
}

fn mutated(seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut data = seeds[rng.usize(..seeds.len())].clone();
    for _ in 0..rng.usize(1..=6) {
        let at = rng.usize(..=data.len());
        let end = (at + rng.usize(..32)).min(data.len());
        match rng.u8(..7) {
            0 if at < data.len() => data[at] ^= 1 << rng.u8(..8),
            1 if at < data.len() => data[at] = rng.u8(..),
            2 => drop(data.drain(at..end)),
            3 => {
                let piece = data[at..end].to_vec();
                data.splice(at..at, piece);
            }
            4 => data.truncate(at),
            5 => {
                let other = &seeds[rng.usize(..seeds.len())];
                let from = rng.usize(..=other.len());
                let piece = other[from..(from + rng.usize(..256)).min(other.len())].to_vec();
                data.splice(at..end, piece);
            }
            _ => drop(data.splice(at..at, TOKENS[rng.usize(..TOKENS.len())].iter().copied())),
        }
    }
    data.truncate(LONGEST);
    data
}

fn run(name: &str, target: fn(&[u8])) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seed = number("UNDERMESH_FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    let budget = Duration::from_secs(number("UNDERMESH_FUZZ_SECONDS").unwrap_or(3));
    let seeds = corpus(name);
    let check = |data: &[u8]| {
        let before = Instant::now();
        let failed = catch_unwind(AssertUnwindSafe(|| target(data))).is_err();
        // A few milliseconds each, debug builds on a busy machine included.
        let slow = before.elapsed() > Duration::from_secs(10);
        let shown = String::from_utf8_lossy(data);
        assert!(!failed && !slow, "{name}, UNDERMESH_FUZZ_SEED={seed}, slow: {slow}: {data:?}\n{shown}");
    };
    seeds.iter().for_each(|seed| check(seed));
    let (mut rng, began, mut runs) = (Rng::with_seed(seed), Instant::now(), 0);
    while began.elapsed() < budget || runs < 20 {
        check(&mutated(&seeds, &mut rng));
        runs += 1;
    }
    println!("{name}: {} seeds, {runs} mutations", seeds.len());
}

#[test]
fn yaml() {
    run("yaml", targets::yaml);
}

#[test]
fn regex() {
    run("regex", targets::regex);
}

#[test]
fn rewrite() {
    run("rewrite", targets::rewrite);
}

#[test]
fn sniff() {
    run("sniff", targets::sniff_all);
}

#[test]
fn hello() {
    run("hello", targets::hello);
}

#[test]
fn grpc_web() {
    run("grpc_web", targets::grpc_web);
}

#[test]
fn trace() {
    run("trace", targets::trace);
}

#[test]
fn cookie() {
    run("cookie", targets::cookie);
}
