//! Who may import what, where unsafe may stand, what may not be written at all.

use super::source::Source;

/// A third-party crate and the only places that may name it (DESIGN §1).
const CRATES: &[(&str, &[&str])] = &[
    ("aya::", &["mesh-agent/src/kernel/", "mesh-common/", "mesh-test/", "mesh-ebpf/"]),
    ("h2::", &["mesh-agent/src/http2/", "mesh-agent/tests/", "mesh-test/"]),
    ("prometheus::", &["mesh-agent/src/telemetry/", "mesh-test/"]),
    (
        "rustls::",
        &["mesh-agent/src/identity/", "mesh-agent/src/listen/tls", "mesh-agent/src/connect/tls", "mesh-test/"],
    ),
    ("x509_parser::", &["mesh-agent/src/identity/"]),
    (
        "hyper::client",
        &[
            "mesh-agent/src/http1/",
            "mesh-agent/src/cli/dashboard/",
            "mesh-agent/src/telemetry/trace/post",
            "mesh-agent/tests/",
            "mesh-test/",
        ],
    ),
    ("opentelemetry_proto::", &["mesh-agent/src/telemetry/trace/", "mesh-test/"]),
    ("hickory_resolver::", &["mesh-agent/src/config/resolve"]),
    (
        "kube::",
        &[
            "mesh-agent/src/config/source/kube",
            "mesh-agent/src/fleet/",
            "mesh-agent/src/install/",
            "mesh-agent/src/status/",
            "mesh-agent/tests/",
            "mesh-test/",
        ],
    ),
    ("notify::", &["mesh-agent/src/config/source/"]),
];

/// Stages are siblings: none imports another; `proxy.rs` passes plain values between them.
const STAGES: &[&str] = &["detect", "policy", "route", "balance", "forward"];

/// Product code that reads bytes from the network: it must not be able to panic on them.
const DATA_PATH: &[&str] = &[
    "mesh-agent/src/listen/",
    "mesh-agent/src/detect/",
    "mesh-agent/src/http1/",
    "mesh-agent/src/http2/",
    "mesh-agent/src/policy/",
    "mesh-agent/src/route/",
    "mesh-agent/src/balance/",
    "mesh-agent/src/connect/",
    "mesh-agent/src/forward/",
    "mesh-agent/src/proxy.rs",
];

/// `unsafe` is allowed here, each block with its reason (invariant 8).
const UNSAFE: &[&str] = &["mesh-agent/src/kernel/", "mesh-agent/src/net", "mesh-common/", "mesh-ebpf/", "mesh-test/"];

/// Pure zones: time and randomness come in as arguments.
const PURE: &[&str] = &[
    "mesh-agent/src/config/compile/",
    "mesh-agent/src/snapshot/",
    "mesh-agent/src/policy/",
    "mesh-agent/src/route/",
    "mesh-common/",
];

pub(crate) fn check(source: &Source, breaches: &mut Vec<String>) {
    // This file spells out every forbidden word.
    if source.under(&["xtask/src/tidy/"]) {
        return;
    }
    let mut breach = |line: usize, rule: &str| breaches.push(format!("{}:{line}: {rule}", source.path));
    for (at, code) in source.product() {
        for (name, places) in CRATES {
            if names_crate(code, name) && !source.under(places) {
                breach(at, &format!("{name} belongs in {}", places[0]));
            }
        }
        if let Some(stage) = STAGES.iter().find(|s| source.under(&[&format!("mesh-agent/src/{s}/")])) {
            for other in STAGES.iter().filter(|s| *s != stage) {
                if code.contains(&format!("crate::{other}::")) {
                    breach(at, &format!("stage {stage} imports stage {other}: pass a plain value through proxy.rs"));
                }
            }
        }
        if source.under(DATA_PATH) && (code.contains(".unwrap()") || code.contains(".expect(")) {
            breach(at, "unwrap/expect on the data path: bytes from the network must not panic");
        }
        if source.under(PURE)
            && ["Instant::now", "SystemTime::now", "Nanos::now", "Rng::new", "fastrand::u", "fastrand::f"]
                .iter()
                .any(|w| code.contains(w))
        {
            breach(at, "a pure zone takes `now` and randomness as arguments");
        }
        if ["todo!(", "unimplemented!(", "dbg!("].iter().any(|w| code.contains(w)) {
            breach(at, "left-over");
        }
    }
    for (at, code) in source.all() {
        if code.contains("unsafe ") && !code.contains("unsafe_code") && !source.under(UNSAFE) {
            breach(at, "unsafe outside its places (ARCHITECTURE.md, invariant 8)");
        }
        if code.contains("#[ignore") {
            breach(at, "an ignored test is a skipped check: delete it or make it run");
        }
    }
    if source.under(&["mesh-ebpf/src/"]) {
        entries(source, &mut breach);
    }
}

/// `name` as a path's first segment: `h2::` but not `super_h2::` or `crate::h2::`.
fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

/// A hook's entry reads its context, calls a decision, writes the verdict: at most 15 lines (DESIGN §1).
fn entries(source: &Source, breach: &mut impl FnMut(usize, &str)) {
    const HOOKS: &[&str] = &["#[cgroup_sock_addr", "#[sock_ops", "#[sk_msg", "#[sk_lookup", "#[xdp"];
    let lines: Vec<_> = source.all().collect();
    for (at, _) in lines.iter().filter(|(_, code)| HOOKS.iter().any(|h| code.starts_with(h))) {
        let length = lines[*at..].iter().position(|(_, code)| *code == "}").unwrap_or(0);
        if length > 16 {
            breach(*at, &format!("hook entry of {length} lines: at most 15, the rest belongs in mesh-common"));
        }
    }
}
