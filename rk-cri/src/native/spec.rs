//! The OCI runtime configuration of a container, from its record: pure.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{disk::ContainerRecord, user::User};
use crate::{
    images::ImageConfig,
    runtime::{ContainerConfig, Mount, Security},
};

/// The search path of a container whose image has none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The capabilities of a container that asks for none in particular: containerd's.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// All capabilities in the order of their numbers (capabilities(7), Linux 5.9).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What shows facts about the host, and is hidden from a container (containerd's list).
const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What the start knows beyond the record.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The resolved user.
    pub(super) user: User,
    /// Bits of the capabilities that this process may hand on.
    pub(super) capabilities: u64,
    /// Whether the swap limit can be set.
    pub(super) limits_swap: bool,
    /// Whether there is a controller for huge pages.
    pub(super) limits_huge_pages: bool,
    /// A process whose pid namespace the container joins.
    pub(super) pid_namespace_of: Option<i32>,
    /// Whether the container's system calls are filtered.
    pub(super) filtered: bool,
    /// Where the sandbox's shared memory is mounted.
    pub(super) shm: PathBuf,
    /// Devices to make in `/dev` besides the ones that every container has.
    pub(super) devices: Vec<Value>,
    /// What the device cgroup allows besides.
    pub(super) device_rules: Vec<Value>,
}

/// The configuration, as `config.json` has it.
pub(super) fn spec(record: &ContainerRecord, facts: &Facts) -> Result<Value, String> {
    let config = &record.config;
    let security = &config.security;
    let capabilities = capabilities(security, facts.capabilities)?;
    // Which the container's first process gives up once its system calls are filtered: to have them
    // filtered takes this capability, or no new privileges (see `native/seccomp.rs`).
    let mut at_start = capabilities.clone();
    if facts.filtered && !security.no_new_privileges {
        let filtering = "CAP_SYS_ADMIN".to_owned();
        if !at_start.contains(&filtering) {
            at_start.push(filtering);
        }
    }
    let mut namespaces = vec![json!({"type": "mount"})];
    // The shim is in the sandbox's other namespaces already, and its children with it.
    match facts.pid_namespace_of {
        Some(pid) => namespaces.push(json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")})),
        None if record.host_pid => {}
        None => namespaces.push(json!({"type": "pid"})),
    }
    let (masked, read_only): (&[&str], &[&str]) =
        if security.privileged { (&[], &[]) } else { (&MASKED_PATHS, &READ_ONLY_PATHS) };
    Ok(json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": security.read_only_root},
        "process": {
            "terminal": config.tty,
            "user": {
                "uid": facts.user.uid,
                "gid": facts.user.gid,
                "additionalGids": facts.user.groups,
            },
            "args": arguments(config, &record.image)?,
            "env": environment(record, &facts.user.home),
            "cwd": working_dir(config, &record.image),
            "capabilities": {
                "bounding": capabilities,
                "effective": at_start,
                "permitted": at_start,
            },
            "noNewPrivileges": security.no_new_privileges,
        },
        "mounts": mounts(record, facts),
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": record.cgroup.path(),
            "resources": resources(record, facts),
            "maskedPaths": masked,
            "readonlyPaths": read_only,
            "devices": facts.devices,
            // What is mounted on either side is seen on the other: no namespace may cut this off.
            "rootfsPropagation": match config.mounts.iter().any(is_bidirectional) {
                true => "shared",
                false => "slave",
            },
        },
    }))
}

/// Program and arguments: Kubernetes' `command` and `args` over the image's entrypoint and command.
pub(super) fn arguments(
    config: &ContainerConfig,
    image: &ImageConfig,
) -> Result<Vec<String>, String> {
    let mut arguments = Vec::new();
    if config.command.is_empty() {
        arguments.extend_from_slice(&image.entrypoint);
        match config.args.is_empty() {
            true => arguments.extend_from_slice(&image.cmd),
            false => arguments.extend_from_slice(&config.args),
        }
    } else {
        arguments.extend_from_slice(&config.command);
        arguments.extend_from_slice(&config.args);
    }
    match arguments.first() {
        Some(first) if !first.is_empty() => Ok(arguments),
        _ => Err("no command specified".to_owned()),
    }
}

/// The bits of these capabilities, which begin with `CAP_`.
pub(super) fn capability_bits(names: &[String]) -> u64 {
    let bit = |name: &String| {
        let short = name.strip_prefix("CAP_").unwrap_or(name);
        CAPABILITIES.iter().position(|known| *known == short).map(|number| 1u64 << number)
    };
    names.iter().filter_map(bit).sum()
}

/// `NAME=value` of the image, then of the container; a later one replaces an earlier one.
fn environment(record: &ContainerRecord, home: &Path) -> Vec<String> {
    let config = &record.config;
    let mut all: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| match all.iter_mut().find(|(other, _)| other == name) {
        Some((_, old)) => *old = value.to_owned(),
        None => all.push((name.to_owned(), value.to_owned())),
    };
    let (path, default) = DEFAULT_PATH.split_once('=').unwrap_or_default();
    set(path, default);
    if !record.hostname.is_empty() {
        set("HOSTNAME", &record.hostname);
    }
    if config.tty {
        set("TERM", "xterm");
    }
    for variable in &record.image.env {
        if let Some((name, value)) = variable.split_once('=') {
            set(name, value);
        }
    }
    for (name, value) in &config.env {
        set(name, value);
    }
    // libcontainer would look HOME up with the container's own name service libraries.
    if !all.iter().any(|(name, _)| name == "HOME") {
        all.push(("HOME".to_owned(), home.to_string_lossy().into_owned()));
    }
    all.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// The working directory, made if missing.
pub(super) fn working_dir(config: &ContainerConfig, image: &ImageConfig) -> PathBuf {
    let wanted = match config.working_dir.is_empty() {
        true => &image.working_dir,
        false => &config.working_dir,
    };
    Path::new("/").join(wanted)
}

/// The capabilities of a container, which begin with `CAP_`; `have` are the bits of those that there
/// are to hand on.
pub(super) fn capabilities(security: &Security, have: u64) -> Result<Vec<String>, String> {
    let number = |name: &str| {
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned();
        CAPABILITIES
            .iter()
            .position(|known| *known == short)
            .map(|number| 1u64 << number)
            .ok_or_else(|| format!("unknown capability {name:?}"))
    };
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let mut set = 0u64;
    if security.privileged || security.add_capabilities.iter().any(is_all) {
        set = u64::MAX;
    } else if !security.drop_capabilities.iter().any(is_all) {
        for name in DEFAULT_CAPABILITIES {
            set |= number(name)?;
        }
    }
    if !security.privileged {
        for name in security.drop_capabilities.iter().filter(|name| !is_all(name)) {
            set &= !number(name)?;
        }
        for name in security.add_capabilities.iter().filter(|name| !is_all(name)) {
            set |= number(name)?;
        }
    }
    // A node that itself lacks a capability cannot hand it on.
    set &= have;
    Ok(CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(number, _)| set & (1 << number) != 0)
        .map(|(_, name)| format!("CAP_{name}"))
        .collect())
}

fn mounts(record: &ContainerRecord, facts: &Facts) -> Vec<Value> {
    let config = &record.config;
    let mut all: Vec<(PathBuf, Value)> = Vec::new();
    let mut add = |destination: &str, typ: &str, source: &str, options: &[&str]| {
        let mount = json!({
            "destination": destination, "type": typ, "source": source, "options": options,
        });
        all.push((destination.into(), mount));
    };
    add("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]);
    add("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]);
    let pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    add("/dev/pts", "devpts", "devpts", &pts);
    add("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]);
    let access = if config.security.privileged { "rw" } else { "ro" };
    add("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]);
    let shm = facts.shm.to_string_lossy();
    add("/dev/shm", "bind", &shm, &["rbind", "rw", "nosuid", "noexec", "nodev"]);
    for file in ["resolv.conf", "hostname"] {
        let source = record.sandbox_dir.join(file);
        if source.exists() {
            let access = if config.security.read_only_root { "ro" } else { "rw" };
            let destination = format!("/etc/{file}");
            add(&destination, "bind", &source.to_string_lossy(), &["rbind", "rprivate", access]);
        }
    }
    // Mounts asked for replace the ones above, and come outermost first.
    let mut asked: Vec<&Mount> = config.mounts.iter().collect();
    asked.sort_by_key(|mount| mount.container_path.components().count());
    all.retain(|(path, _)| !asked.iter().any(|mount| mount.container_path == *path));
    let mut values: Vec<Value> = all.into_iter().map(|(_, value)| value).collect();
    values.extend(asked.into_iter().map(|mount| {
        let access = match (mount.read_only, mount.recursive_read_only) {
            (true, true) => "rro",
            (true, false) => "ro",
            (false, _) => "rw",
        };
        // Their sources propagate as they should already (`native/propagation.rs`).
        json!({
            "destination": mount.container_path,
            "type": "bind",
            "source": mount.host_path,
            "options": ["rbind", access],
        })
    }));
    values
}

fn is_bidirectional(mount: &Mount) -> bool {
    mount.propagation.as_deref() == Some("Bidirectional")
}

fn resources(record: &ContainerRecord, facts: &Facts) -> Value {
    let limits = &record.config.resources;
    let mut cpu = serde_json::Map::new();
    if limits.cpu_shares > 0 {
        cpu.insert("shares".to_owned(), limits.cpu_shares.clamp(2, 262_144).into());
    }
    if limits.cpu_quota_us > 0 {
        let period = if limits.cpu_period_us > 0 { limits.cpu_period_us } else { 100_000 };
        cpu.insert("quota".to_owned(), limits.cpu_quota_us.into());
        cpu.insert("period".to_owned(), period.into());
    }
    let mut all = serde_json::Map::new();
    if !cpu.is_empty() {
        all.insert("cpu".to_owned(), cpu.into());
    }
    if limits.memory_limit_bytes > 0 {
        let mut memory = json!({"limit": limits.memory_limit_bytes});
        if facts.limits_swap {
            // Memory and swap together no larger than memory: no swap.
            memory["swap"] = limits.memory_limit_bytes.into();
        }
        all.insert("memory".to_owned(), memory);
    }
    if limits.pids_limit > 0 {
        all.insert("pids".to_owned(), json!({"limit": limits.pids_limit}));
    }
    if facts.limits_huge_pages && !limits.hugepage_limits.is_empty() {
        let limit = |(size, limit): (&String, &u64)| json!({"pageSize": size, "limit": limit});
        let all_sizes: Vec<Value> = limits.hugepage_limits.iter().map(limit).collect();
        all.insert("hugepageLimits".to_owned(), all_sizes.into());
    }
    let devices = match record.config.security.privileged {
        true => json!([{"allow": true, "access": "rwm"}]),
        // libcontainer adds the standard devices to this.
        false => {
            let mut rules = vec![json!({"allow": false, "access": "rwm"})];
            rules.extend(facts.device_rules.iter().cloned());
            rules.into()
        }
    };
    all.insert("devices".to_owned(), devices);
    all.into()
}

/// The number of a signal given as `SIGTERM`, `TERM`, `15` or `SIGRTMIN+3`.
pub(super) fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(rest) = short.strip_prefix("RTMIN") {
        let plus = rest.strip_prefix('+').unwrap_or(if rest.is_empty() { "0" } else { rest });
        return plus.parse::<i32>().ok().map(|plus| 34 + plus).filter(|n| (34..=64).contains(n));
    }
    let names = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    names.iter().position(|known| *known == short).map(|at| at as i32 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| text.to_string()).collect()
    }

    #[test]
    fn command_and_args_replace_entrypoint_and_cmd_as_kubernetes_says() {
        let check = |command: &[&str], args: &[&str], expected: &[&str]| {
            let config = ContainerConfig {
                command: strings(command),
                args: strings(args),
                ..ContainerConfig::default()
            };
            let image = ImageConfig {
                entrypoint: strings(&["entry"]),
                cmd: strings(&["cmd"]),
                ..ImageConfig::default()
            };
            assert_eq!(arguments(&config, &image).unwrap(), strings(expected));
        };
        check(&[], &[], &["entry", "cmd"]);
        check(&["c"], &[], &["c"]);
        check(&[], &["a"], &["entry", "a"]);
        check(&["c"], &["a"], &["c", "a"]);
        assert!(arguments(&ContainerConfig::default(), &ImageConfig::default()).is_err());
    }

    #[test]
    fn capabilities_are_added_to_and_dropped_from_the_default_set() {
        let have = |security: Security| capabilities(&security, u64::MAX >> 23).unwrap();
        assert_eq!(have(Security::default()).len(), 14);
        let dropped = Security {
            drop_capabilities: strings(&["ALL"]),
            add_capabilities: strings(&["NET_BIND_SERVICE"]),
            ..Security::default()
        };
        assert_eq!(have(dropped), ["CAP_NET_BIND_SERVICE"]);
        let added =
            Security { add_capabilities: strings(&["cap_net_admin"]), ..Security::default() };
        assert!(have(added).contains(&"CAP_NET_ADMIN".to_owned()));
        let privileged = Security { privileged: true, ..Security::default() };
        assert_eq!(have(privileged.clone()).len(), 41);
        assert!(capabilities(&privileged, 0).unwrap().is_empty());
        let unknown = Security { add_capabilities: strings(&["FLY"]), ..Security::default() };
        assert!(capabilities(&unknown, u64::MAX).is_err());
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for (name, number) in [("SIGTERM", 15), ("KILL", 9), ("3", 3), ("SIGRTMIN+3", 37)] {
            assert_eq!(signal_number(name), Some(number), "{name}");
        }
        for name in ["", "0", "65", "SIGNONE"] {
            assert_eq!(signal_number(name), None, "{name}");
        }
    }
}
