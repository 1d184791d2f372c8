//! Puts maps and programs into the kernel, or adopts those that are there.
//!
//! Same ABI and same object: maps and links are taken over from their pins, no program is loaded. Same ABI, another
//! object: the maps stay, the programs behind the links are swapped atomically. Another ABI: all is replaced. In every
//! case a connection finds either the old programs or the new ones, or (other ABI only) none for a moment.

use super::sys::{self, AttachType};
use super::tier::{Adoption, HookState, HookStatus};
use super::{Config, KernelError, maps, mounts, selftest};
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, Program, ProgramError, SkMsg, SockOps};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use mesh_common::ABI_VERSION;
use mesh_common::maps::Control;
use std::borrow::Cow;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The programs as `cargo xtask build-ebpf` made them.
static OBJECT: &[u8] = aya::include_bytes_aligned!("mesh-ebpf.o");

/// One place a program is attached at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hook {
    /// Name of the link's pin and in `status`.
    pub(super) name: &'static str,
    program: &'static str,
    pub(super) attach_type: AttachType,
    pub(super) place: Place,
    /// Without it nothing can be captured.
    required: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Pods,
    Agent,
    /// The SOCKS map.
    Socks,
}

const fn hook(
    name: &'static str,
    program: &'static str,
    attach_type: AttachType,
    place: Place,
    required: bool,
) -> Hook {
    Hook { name, program, attach_type, place, required }
}

/// sockops come first: a connection must not be rewritten before its flow can be entered.
pub(super) const HOOKS: [Hook; 7] = [
    hook("sk_msg", "mesh_sk_msg", AttachType::SkMsgVerdict, Place::Socks, false),
    hook("sockops_agent", "mesh_sock_ops", AttachType::SockOps, Place::Agent, true),
    hook("sockops", "mesh_sock_ops", AttachType::SockOps, Place::Pods, true),
    hook("getpeername4", "mesh_getpeername4", AttachType::Inet4GetPeerName, Place::Pods, false),
    hook("getpeername6", "mesh_getpeername6", AttachType::Inet6GetPeerName, Place::Pods, false),
    hook("connect4", "mesh_connect4", AttachType::Inet4Connect, Place::Pods, true),
    hook("connect6", "mesh_connect6", AttachType::Inet6Connect, Place::Pods, true),
];

/// What [`load`] found and did. Links live in their pins, not in this process.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) object: [u8; 32],
    pub(super) adoption: Adoption,
    pub(super) hooks: Vec<HookStatus>,
}

impl Loaded {
    pub(super) fn can_redirect(&self) -> bool {
        self.hooks.iter().any(|hook| hook.name == "sk_msg" && !matches!(hook.state, HookState::Missing { .. }))
    }
}

/// Loads or adopts.
pub(super) fn load(config: &Config) -> Result<Loaded, KernelError> {
    let bytes = object_bytes(config)?;
    let object = digest(&bytes);
    for folder in [maps::folder(&config.pin_dir), links(&config.pin_dir)] {
        fs::create_dir_all(&folder).map_err(|source| KernelError::PinDir { path: folder, source })?;
    }
    let adoption = former(&config.pin_dir, object);
    if let Adoption::Replaced { why } = &adoption {
        tracing::warn!("replacing the kernel state in {}: {why}", config.pin_dir.display());
        remove_pins(&config.pin_dir)?;
        return load(config).map(|loaded| Loaded { adoption, ..loaded });
    }
    // Attach-time facts of a former process are only good for the same object in the same cgroups.
    let mut attacher = Attacher { config, bytes: &bytes, same: adoption == Adoption::Adopted, programs: None };
    if !attacher.same {
        attacher.programs()?;
    }
    let mut hooks = Vec::with_capacity(HOOKS.len());
    for hook in &HOOKS {
        let state = match attacher.ensure(hook) {
            Ok(state) => state,
            Err(why) if hook.required => return Err(KernelError::Hook { hook: hook.name, why }),
            Err(why) => {
                tracing::warn!("hook {} is not available: {why}", hook.name);
                HookState::Missing { why }
            }
        };
        hooks.push(HookStatus { name: hook.name, state });
    }
    Ok(Loaded { object, adoption, hooks })
}

/// Removes programs, links and maps, those of a self-test that was killed too; open connections go on. A missing folder is
/// fine.
pub fn uninstall(pin_dir: &Path) -> Result<(), KernelError> {
    remove_all(&selftest::pins(pin_dir))?;
    remove_all(pin_dir)
}

/// As [`uninstall`], of one folder.
pub(super) fn remove_all(pin_dir: &Path) -> Result<(), KernelError> {
    remove_pins(pin_dir)?;
    match fs::remove_dir(pin_dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(KernelError::PinDir { path: pin_dir.to_owned(), source })
        }
        _ => Ok(()),
    }
}

pub(super) fn links(pin_dir: &Path) -> PathBuf {
    pin_dir.join("links")
}

/// What is pinned, judged by `CONTROL`.
fn former(pin_dir: &Path, object: [u8; 32]) -> Adoption {
    if !maps::folder(pin_dir).join("CONTROL").exists() {
        return Adoption::Fresh;
    }
    let missing: Vec<&str> =
        maps::NAMES.into_iter().filter(|name| !maps::folder(pin_dir).join(name).exists()).collect();
    if !missing.is_empty() {
        return Adoption::Replaced { why: format!("maps {} are missing", missing.join(", ")) };
    }
    let control = maps::array::<Control>(pin_dir, "CONTROL")
        .and_then(|map| map.get(&0, 0).map_err(|source| KernelError::Map { name: "CONTROL", source }));
    match control {
        Ok(control) => judge(&control, object),
        Err(error) => Adoption::Replaced { why: error.to_string() },
    }
}

fn judge(control: &Control, object: [u8; 32]) -> Adoption {
    if control.abi != ABI_VERSION {
        return Adoption::Replaced { why: format!("its ABI version is {}, ours is {ABI_VERSION}", control.abi) };
    }
    if control.object == object { Adoption::Adopted } else { Adoption::Upgraded }
}

fn object_bytes(config: &Config) -> Result<Cow<'static, [u8]>, KernelError> {
    match &config.object {
        None => Ok(Cow::Borrowed(OBJECT)),
        Some(path) => fs::read(path)
            .map(Cow::Owned)
            .map_err(|e| KernelError::Hook { hook: "all", why: format!("cannot read object {}: {e}", path.display()) }),
    }
}

struct Attacher<'a> {
    config: &'a Config,
    bytes: &'a [u8],
    /// The programs behind the pinned links are ours.
    same: bool,
    programs: Option<Ebpf>,
}

impl Attacher<'_> {
    /// Makes sure that a hook runs our program.
    fn ensure(&mut self, hook: &Hook) -> Result<HookState, String> {
        match hook.place {
            Place::Socks => self.ensure_socks(hook),
            Place::Pods => self.ensure_link(hook, &self.config.pods_cgroup.clone()),
            Place::Agent if self.config.agent_cgroup.starts_with(&self.config.pods_cgroup) => Ok(HookState::Covered),
            Place::Agent => self.ensure_link(hook, &self.config.agent_cgroup.clone()),
        }
    }

    fn ensure_link(&mut self, hook: &Hook, cgroup: &Path) -> Result<HookState, String> {
        let pin = links(&self.config.pin_dir).join(hook.name);
        let cgroup_id = mounts::cgroup_id(cgroup).map_err(|e| e.to_string())?;
        if let Ok(link) = sys::object(&pin)
            && sys::link_info(&link).is_ok_and(|info| info.cgroup == cgroup_id)
        {
            if self.same {
                return Ok(HookState::Adopted);
            }
            sys::update_link(&link, &self.program_fd(hook)?).map_err(|e| format!("cannot swap the program: {e}"))?;
            return Ok(HookState::Swapped);
        }
        // No link, or one to a cgroup that is gone or not ours any more.
        let _ = fs::remove_file(&pin);
        let cgroup = File::open(cgroup).map_err(|e| format!("{}: {e}", cgroup.display()))?;
        let link = self.attach(hook, &cgroup)?;
        link.pin(&pin).map_err(|e| format!("cannot pin: {}", deepest(&e)))?;
        Ok(HookState::Attached)
    }

    /// sk_msg is attached to the pinned map and lives as long as it.
    fn ensure_socks(&mut self, hook: &Hook) -> Result<HookState, String> {
        let map = sys::object(&maps::folder(&self.config.pin_dir).join("SOCKS")).map_err(|e| e.to_string())?;
        if self.same && sys::attached(&map, hook.attach_type, false).is_ok_and(|programs| !programs.is_empty()) {
            return Ok(HookState::Adopted);
        }
        sys::attach_to_map(&map, &self.program_fd(hook)?, hook.attach_type)
            .map_err(|e| format!("cannot attach: {e}"))?;
        Ok(HookState::Attached)
    }

    fn attach(&mut self, hook: &Hook, cgroup: &File) -> Result<FdLink, String> {
        let program = self.loaded(hook)?;
        // Links always allow others beside them; the kernel refuses the flag that would say so.
        let text = |e: ProgramError| deepest(&e);
        match program {
            Program::CgroupSockAddr(program) => {
                let id = program.attach(cgroup, CgroupAttachMode::Single).map_err(text)?;
                let link = program.take_link(id).map_err(text)?;
                FdLink::try_from(link).map_err(|e| deepest(&e))
            }
            Program::SockOps(program) => {
                let id = program.attach(cgroup, CgroupAttachMode::Single).map_err(text)?;
                let link = program.take_link(id).map_err(text)?;
                FdLink::try_from(link).map_err(|e| deepest(&e))
            }
            _ => Err("the object holds another kind of program under this name".into()),
        }
    }

    fn program_fd(&mut self, hook: &Hook) -> Result<OwnedFd, String> {
        let fd = match self.loaded(hook)? {
            Program::CgroupSockAddr(program) => program.fd(),
            Program::SockOps(program) => program.fd(),
            Program::SkMsg(program) => program.fd(),
            _ => return Err("the object holds another kind of program under this name".into()),
        };
        let fd = fd.map_err(|e| deepest(&e))?;
        fd.as_fd().try_clone_to_owned().map_err(|e| e.to_string())
    }

    /// The hook's program, verified by the kernel.
    fn loaded(&mut self, hook: &Hook) -> Result<&mut Program, String> {
        let programs = self.programs().map_err(|e| deepest(&e))?;
        let program = programs.program_mut(hook.program).ok_or("the object lacks this program")?;
        let loaded = match &mut *program {
            Program::CgroupSockAddr(p) => once(p, CgroupSockAddr::load),
            Program::SockOps(p) => once(p, SockOps::load),
            Program::SkMsg(p) => once(p, SkMsg::load),
            _ => return Err("the object holds another kind of program under this name".into()),
        };
        loaded.map_err(|e| deepest(&e))?;
        Ok(program)
    }

    /// The object with its maps made or reused, pinned by name.
    fn programs(&mut self) -> Result<&mut Ebpf, KernelError> {
        if self.programs.is_none() {
            self.programs = Some(open_object(self.config, self.bytes)?);
        }
        self.programs.as_mut().ok_or_else(|| KernelError::Hook { hook: "all", why: "object not loaded".into() })
    }
}

fn open_object(config: &Config, bytes: &[u8]) -> Result<Ebpf, KernelError> {
    let capacities = config.capacities;
    let mut loader = EbpfLoader::new();
    let log = if config.debug { VerifierLogLevel::VERBOSE } else { VerifierLogLevel::default() };
    loader.verifier_log_level(log);
    for name in maps::NAMES {
        loader.map_pin_path(name, maps::folder(&config.pin_dir).join(name));
    }
    for (name, entries) in [
        ("PODS", capacities.pods),
        ("SERVICES", capacities.services),
        ("PREFIXES", capacities.prefixes),
        ("ENDPOINTS", capacities.endpoints),
        ("FLOWS", capacities.flow_entries()),
        ("SOCKS", capacities.socks),
        ("SERVICE_STATS", capacities.stats),
        ("NAMES", capacities.names),
        ("EVENTS", capacities.events),
    ] {
        loader.map_max_entries(name, entries);
    }
    Ok(loader.load(bytes)?)
}

/// Programs shared by two hooks are loaded once.
fn once<P>(program: &mut P, load: fn(&mut P) -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    match load(program) {
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        other => other,
    }
}

fn remove_pins(pin_dir: &Path) -> Result<(), KernelError> {
    // Links first, connect hooks foremost: nothing may be rewritten once the rest is gone.
    for hook in HOOKS.iter().rev() {
        let pin = links(pin_dir).join(hook.name);
        if let Ok(link) = sys::object(&pin) {
            // An error means that its cgroup is gone, and the link with it.
            let _ = sys::detach_link(&link);
        }
        remove(&pin)?;
    }
    for name in maps::NAMES {
        remove(&maps::folder(pin_dir).join(name))?;
    }
    for folder in [links(pin_dir), maps::folder(pin_dir)] {
        match fs::remove_dir_all(&folder) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(KernelError::PinDir { path: folder, source });
            }
            _ => {}
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), KernelError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(KernelError::PinDir { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// FNV-1a over 32-byte lanes: tells builds apart, it is not a signature.
fn digest(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0_u8; 32];
    for (lane, chunk) in out.chunks_exact_mut(8).enumerate() {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ lane as u64;
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        chunk.copy_from_slice(&hash.to_le_bytes());
    }
    out
}

/// The innermost cause and the outermost text: aya's errors hide the kernel's reason in their source.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_former_process_is_judged_by_abi_then_by_object() {
        let object = digest(b"ours");
        let control = Control { abi: ABI_VERSION, object, ..Control::default() };
        assert_eq!(judge(&control, object), Adoption::Adopted);
        assert_eq!(judge(&Control { object: digest(b"theirs"), ..control }, object), Adoption::Upgraded);
        let other_abi = judge(&Control { abi: ABI_VERSION + 1, ..control }, object);
        assert!(matches!(other_abi, Adoption::Replaced { why } if why.contains("ABI")));
    }

    #[test]
    fn every_map_has_a_pin_and_every_hook_a_program() {
        let object = aya_obj::Object::parse(OBJECT).unwrap();
        let mut maps: Vec<&str> = object.maps.keys().map(String::as_str).filter(|name| *name != "AYA_LOGS").collect();
        maps.retain(|name| !name.starts_with('.'));
        maps.sort_unstable();
        let mut known = maps::NAMES.to_vec();
        known.sort_unstable();
        assert_eq!(maps, known);
        for hook in HOOKS {
            assert!(object.programs.contains_key(hook.program), "{}", hook.program);
        }
    }
}
