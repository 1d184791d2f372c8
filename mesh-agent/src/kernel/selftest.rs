//! Start-up self-test of redirection (sk_msg) on the running kernel.
//!
//! A scratch instance of the same object, in a scratch network namespace, attached to the agent's own cgroup (only the
//! scratch namespace is enrolled, so nothing else notices), and real connections through it. Invariant: whatever does
//! not behave as TCP does switches redirection off, with the reason in `status`; nothing stays behind. One exception:
//! no kernel so far lets `splice(2)` read redirected bytes. A client that splices does not parse frames, so redirection
//! stays on for ports declared HTTP/2 or gRPC, and a workload's opt-in for all its ports is not followed.

mod checks;

use super::{Config, Kernel, KernelError, NetnsCookie, SkMsg, Ticks, load, mounts, sys};
use checks::Checked;
use mesh_common::Addr;
use mesh_common::maps::{TARGET_SK_MSG, Target, Verdict};
use serde::{Deserialize, Serialize};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Whether redirection may be used, and why not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SelfTest {
    pub passed: bool,
    /// What was checked, what failed, or who decided without a test.
    pub detail: String,
    /// What keeps redirection to ports declared HTTP/2.
    pub limits: Vec<String>,
}

impl SelfTest {
    /// Runs it; blocks for 100 to 200 ms, longer on a loaded machine.
    pub fn run(config: &Config) -> Self {
        run(config)
    }

    pub(super) fn pending() -> Self {
        Self { passed: false, detail: "the self-test is still running".into(), limits: Vec::new() }
    }

    pub(super) fn forced(on: bool) -> Self {
        Self {
            passed: on,
            detail: format!("switched {} by configuration", if on { "on" } else { "off" }),
            limits: Vec::new(),
        }
    }

    pub(super) fn passed(&self) -> bool {
        self.passed
    }

    fn failed(why: String) -> Self {
        tracing::warn!("redirection (sk_msg) is off: {why}");
        Self { passed: false, detail: why, limits: Vec::new() }
    }
}

/// Runs the test in a thread of its own, because that changes its network namespace. Takes 100 to 200 ms.
pub(super) fn run(config: &Config) -> SelfTest {
    let scratch = match scratch(config) {
        Ok(scratch) => scratch,
        Err(error) => return SelfTest::failed(format!("self-test cannot start: {error}")),
    };
    let pins = scratch.pin_dir.clone();
    let test = thread::Builder::new().name("self-test".into()).spawn(move || in_scratch(scratch));
    let outcome = test
        .map_err(|e| e.to_string())
        .and_then(|thread| thread.join().unwrap_or_else(|_| Err("the self-test panicked".to_owned())));
    // A killed self-test's pins are removed by the next one.
    let clean = load::remove_all(&pins);
    match (outcome, clean) {
        (Ok(Checked { passed, limits }), Ok(())) => {
            SelfTest { passed: true, detail: format!("passed: {}", passed.join(", ")), limits }
        }
        (Ok(_), Err(error)) => SelfTest::failed(format!("self-test cannot be cleaned up: {error}")),
        (Err(why), _) => SelfTest::failed(why),
    }
}

/// Where the scratch instance lives: beside the real one, attached to this process's cgroup.
fn scratch(config: &Config) -> Result<Config, KernelError> {
    let own = mounts::own_cgroup()?;
    let pin_dir = pins(&config.pin_dir);
    load::remove_all(&pin_dir)?;
    let capacities = super::Capacities { events: 4096, flows: 64, socks: 128, ..super::Capacities::TINY };
    let mut scratch = Config::new(own.clone(), own, pin_dir);
    scratch.capacities = capacities;
    scratch.sk_msg = SkMsg::On;
    scratch.object = config.object.clone();
    // A loaded machine must not fail the test by a late beat.
    scratch.beat_max_age = Duration::from_secs(10);
    Ok(scratch)
}

/// The folder of the scratch instance beside an agent's.
pub(super) fn pins(pin_dir: &Path) -> PathBuf {
    let mut pins = pin_dir.to_owned().into_os_string();
    pins.push("-selftest");
    pins.into()
}

fn in_scratch(scratch: Config) -> Result<Checked, String> {
    let step = |what: &'static str| move |error: &dyn std::fmt::Display| format!("self-test cannot {what}: {error}");
    sys::new_netns().map_err(|e| step("make a network namespace")(&e))?;
    let listener = TcpListener::bind(("127.0.0.1", mesh_common::AGENT_PORT)).map_err(|e| step("listen")(&e))?;
    let cookie = sys::netns_cookie(&listener).map_err(|e| step("read the namespace's cookie")(&e))?;
    let mut kernel = Kernel::start_with(scratch, SelfTest::forced(true), 0).map_err(|e| step("load")(&e))?;
    if !kernel.loaded.can_redirect() {
        return Err("the kernel has no sk_msg".into());
    }
    let beat = kernel.heartbeat(Ticks::new(0, Duration::from_secs(10))).map_err(|e| step("beat")(&e))?;
    let target = Target { verdict: Verdict::Agent as u8, flags: TARGET_SK_MSG, ..Target::default() };
    kernel.sync.place_raw(Addr::from(checks::VIP), target).map_err(|e| step("write a service")(&e))?;
    kernel.sync.enrol_raw(NetnsCookie(cookie)).map_err(|e| step("enrol")(&e))?;
    let checked = checks::all(listener, kernel.counters());
    drop(beat);
    checked
}
