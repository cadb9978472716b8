//! Keeps the node alive when it runs short of memory, disk or process ids: tells so in the node's
//! conditions, and ends Pods, one at a time.
//!
//! `eviction/thresholds.rs` says when there is too little, `eviction/watch.rs` what becomes of that over
//! time, `eviction/rank.rs` which Pod goes: all pure. Here is what reads and acts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Pod, Toleration};
use rk_api::client::EventType;
use tokio::time::Instant;

pub use self::thresholds::{Observation, Observations, Signal as EvictionSignal};
use self::{
    rank::{Candidate, ContainerUse, is_critical, message, rank},
    thresholds::{Pressure, Resource, Signal, Threshold},
};
use super::{
    admission::Refusal,
    resources,
    spec::{log_directory, pod_ref},
    status::is_terminal,
    worker::Core,
};
use crate::runtime::ContainerStats;

pub(crate) mod local_storage;
pub(crate) mod rank;
mod reclaim;
pub(crate) mod thresholds;
pub(crate) mod watch;

/// The reason of a Pod that was put off its node.
pub(crate) const EVICTED: &str = "Evicted";

/// Tells what a node has left. Called every ten seconds, on a thread that may block.
pub trait NodeSignals: Debug + Send + Sync + 'static {
    /// What there is now; a signal that is left out is never short.
    fn observe(&self) -> Observations;
}

/// What this machine has left.
#[derive(Clone, Debug)]
pub struct MachineSignals {
    root: PathBuf,
}

impl MachineSignals {
    /// For a node whose volumes, logs and images are on the file system of `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

impl NodeSignals for MachineSignals {
    fn observe(&self) -> Observations {
        let mut seen = Observations::new();
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        seen.extend(memory(&read("/proc/meminfo")).map(|found| (Signal::MemoryAvailable, found)));
        let pids = pids(&read("/proc/sys/kernel/pid_max"), &read("/proc/loadavg"));
        seen.extend(pids.map(|found| (Signal::PidAvailable, found)));
        if let Some((bytes, inodes)) = file_system(&self.root) {
            seen.insert(Signal::NodefsAvailable, bytes);
            seen.insert(Signal::ImagefsAvailable, bytes);
            // Some file systems make inodes as they need them.
            if inodes.capacity > 0 {
                seen.insert(Signal::NodefsInodesFree, inodes);
                seen.insert(Signal::ImagefsInodesFree, inodes);
            }
        }
        seen
    }
}

/// Memory, in the contents of `/proc/meminfo` (proc(5)).
fn memory(meminfo: &str) -> Option<Observation> {
    let kib = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<i64>().ok()
    };
    Some(Observation {
        available: kib("MemAvailable")?.saturating_mul(1024),
        capacity: kib("MemTotal")?.saturating_mul(1024),
    })
}

/// Process ids, in the contents of `/proc/sys/kernel/pid_max` and `/proc/loadavg`, whose fourth word
/// is `running/all`.
fn pids(most: &str, load: &str) -> Option<Observation> {
    let capacity: i64 = most.trim().parse().ok()?;
    let used: i64 = load.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    Some(Observation { available: capacity.saturating_sub(used), capacity })
}

#[cfg(target_os = "linux")]
fn file_system(root: &Path) -> Option<(Observation, Observation)> {
    let existing = root.ancestors().find(|path| path.exists())?;
    let stat = rustix::fs::statvfs(existing).ok()?;
    let whole =
        |count: u64, size: u64| i64::try_from(count.saturating_mul(size)).unwrap_or(i64::MAX);
    let bytes = Observation {
        available: whole(stat.f_bavail, stat.f_frsize),
        capacity: whole(stat.f_blocks, stat.f_frsize),
    };
    let inodes =
        Observation { available: whole(stat.f_favail, 1), capacity: whole(stat.f_files, 1) };
    Some((bytes, inodes))
}

#[cfg(not(target_os = "linux"))]
fn file_system(_: &Path) -> Option<(Observation, Observation)> {
    None
}

/// Whether a node under pressure takes a Pod on.
pub(crate) fn admit(pod: &Pod, pressures: &BTreeSet<Pressure>) -> Result<(), Refusal> {
    if pressures.is_empty() || is_critical(pod) {
        return Ok(());
    }
    let only_memory = pressures.iter().all(|pressure| *pressure == Pressure::Memory);
    // Who asked for memory may get what others have to give back.
    if only_memory && (resources::qos(pod) != "BestEffort" || tolerates_memory_pressure(pod)) {
        return Ok(());
    }
    let names: Vec<_> = pressures.iter().map(|pressure| pressure.condition()).collect();
    Err((
        EVICTED.to_owned(),
        format!("Pod was rejected: The node had condition: [{}]. ", names.join(" ")),
    ))
}

fn tolerates_memory_pressure(pod: &Pod) -> bool {
    const TAINT: &str = "node.kubernetes.io/memory-pressure";
    let tolerates = |toleration: &Toleration| {
        let key = toleration.key.as_deref().unwrap_or_default();
        let exists = toleration.operator.as_deref() == Some("Exists");
        let effect = toleration.effect.as_deref().unwrap_or_default();
        (key == TAINT || key.is_empty() && exists)
            && (effect.is_empty() || effect == "NoSchedule")
            && (exists || toleration.value.as_deref().unwrap_or_default().is_empty())
    };
    pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten()).any(tolerates)
}

impl Core {
    /// Looks at what the node has left, and does one thing about it if that is too little.
    pub(super) async fn relieve_pressure(&self, watch: &mut watch::Watch) {
        let Some(signals) = self.config.settings.signals.clone().filter(|_| !watch.is_idle())
        else {
            return;
        };
        let Ok(seen) = tokio::task::spawn_blocking(move || signals.observe()).await else { return };
        let verdict = watch.look(&seen, Instant::now());
        self.show_pressure(verdict.pressures).await;
        if let Some(threshold) = verdict.starved {
            let name = threshold.signal.resource().name();
            self.node_event(
                EventType::Warning,
                "EvictionThresholdMet",
                &format!("Attempting to reclaim {name}"),
            );
            // What nobody needs goes before any Pod does.
            match self.reclaim_disk(&threshold).await {
                Some(now) if !threshold.is_met(&now, true) => {
                    let name = self.config.name.as_str();
                    tracing::info!(node = name, "the node is no longer short, no Pod has to go");
                }
                Some(now) => self.evict_one(&threshold, &now).await,
                None => self.evict_one(&threshold, &seen).await,
            }
        }
    }

    /// Tells the pressures in the node's status, at once when they changed.
    async fn show_pressure(&self, pressures: BTreeSet<Pressure>) {
        let changed = {
            let mut state = self.state.lock();
            let changed = state.pressures != pressures;
            state.pressures = pressures;
            changed
        };
        if changed && let Err(error) = self.report_status(true).await {
            tracing::warn!(node = self.config.name, %error, "the node's pressure is not told yet");
        }
    }

    /// Ends the Pod that is the first to go.
    async fn evict_one(&self, threshold: &Threshold, seen: &Observations) {
        let live: Vec<_> = self
            .pods()
            .into_iter()
            .filter(|pod| {
                let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
                !phase.is_some_and(is_terminal)
            })
            .collect();
        // One at a time: what the last one leaves free is to be seen first.
        let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
        if live.iter().any(|pod| self.ended_from_outside(&uid(pod)).is_some()) {
            return;
        }
        let resource = threshold.signal.resource();
        let stats = self.runtime.list_container_stats().await.unwrap_or_default();
        let mut candidates = Vec::new();
        for pod in &live {
            let containers = containers_use(&uid(pod), &stats, resource);
            let besides = self.disk_use(pod, resource).await;
            candidates.push(Candidate { pod, containers, besides });
        }
        let ranked = rank(candidates, resource);
        let Some(first) = ranked.first() else {
            tracing::warn!(
                resource = resource.name(),
                "the node is short, and no Pod may be evicted"
            );
            return;
        };
        let why = message(first, threshold, seen.get(&threshold.signal).copied());
        self.event(&self.pod_reference(first.pod), EventType::Warning, EVICTED, &why);
        let grace = if threshold.is_hard() {
            Duration::ZERO
        } else {
            Duration::from_secs(self.config.settings.eviction_max_pod_grace.into())
        };
        self.end_from_outside(first.pod, (EVICTED.to_owned(), why), grace);
    }

    /// What a Pod's volumes and logs take on the disk, if that is asked for.
    async fn disk_use(&self, pod: &Pod, resource: Resource) -> i64 {
        let inodes = match resource {
            Resource::Memory | Resource::Pids => return 0,
            Resource::EphemeralStorage => false,
            Resource::Inodes => true,
        };
        let places = [self.pod_dir(pod), log_directory(&self.config.log_root, &pod_ref(pod))];
        let measure = move || {
            places.iter().map(|place| usage(place)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
        };
        let (bytes, files) = tokio::task::spawn_blocking(measure).await.unwrap_or_default();
        if inodes { files } else { bytes }
    }
}

/// What a Pod's containers use; `None` when nothing is known of any.
fn containers_use(
    uid: &str,
    stats: &[ContainerStats],
    resource: Resource,
) -> Option<Vec<ContainerUse>> {
    if resource != Resource::Memory {
        return Some(Vec::new());
    }
    let of_pod = stats.iter().filter(|stats| stats.pod.uid == uid);
    let mut found: BTreeMap<&str, i64> = BTreeMap::new();
    for stats in of_pod {
        let bytes = i64::try_from(stats.memory_working_set_bytes).unwrap_or(i64::MAX);
        found.insert(&stats.name, bytes);
    }
    let uses = found.into_iter().map(|(name, used)| ContainerUse { name: name.to_owned(), used });
    Some(uses.collect::<Vec<_>>()).filter(|uses| !uses.is_empty())
}

/// Bytes and files below a directory, on its own file system, without following links.
pub(crate) fn usage(directory: &Path) -> (i64, i64) {
    #[cfg(unix)]
    use std::os::unix::fs::MetadataExt;
    let (mut bytes, mut files) = (0_i64, 0_i64);
    let Ok(top) = std::fs::symlink_metadata(directory) else { return (0, 0) };
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.path().symlink_metadata() else { continue };
            if metadata.dev() != top.dev() {
                continue;
            }
            files += 1;
            bytes = bytes.saturating_add(i64::try_from(metadata.blocks() * 512).unwrap_or(0));
            if metadata.is_dir() {
                left.push(entry.path());
            }
        }
    }
    (bytes, files)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_machine_has_left_is_read_from_proc() {
        let meminfo = "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    400 kB\n";
        let expected = Observation { available: 400 << 10, capacity: 1000 << 10 };
        assert_eq!(memory(meminfo), Some(expected));
        let expected = Observation { available: 32768 - 350, capacity: 32768 };
        assert_eq!(pids("32768\n", "0.10 0.20 0.30 2/350 9999\n"), Some(expected));
        assert_eq!((memory(""), pids("", "")), (None, None));
    }

    #[test]
    fn a_node_under_pressure_takes_on_only_some_pods() {
        let pod = |spec: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
        };
        let plain = pod(json!({"containers": [{"name": "c"}]}));
        let asking = pod(json!({"containers": [
            {"name": "c", "resources": {"requests": {"memory": "1Mi"}}}]}));
        let tolerant = pod(json!({"containers": [{"name": "c"}], "tolerations": [
            {"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]}));
        let critical = pod(json!({"containers": [{"name": "c"}], "priority": 2_000_000_000}));
        let verdicts = |pressures: &[Pressure]| {
            let pressures = pressures.iter().copied().collect();
            [&plain, &asking, &tolerant, &critical].map(|pod| admit(pod, &pressures).is_ok())
        };
        assert_eq!(verdicts(&[]), [true; 4]);
        assert_eq!(verdicts(&[Pressure::Memory]), [false, true, true, true]);
        assert_eq!(verdicts(&[Pressure::Disk]), [false, false, false, true]);
        assert_eq!(verdicts(&[Pressure::Memory, Pressure::Pid]), [false, false, false, true]);
    }

    #[test]
    fn the_use_of_a_directory_does_not_follow_links() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), vec![1; 10_000]).unwrap();
        std::os::unix::fs::symlink("/", directory.path().join("link")).unwrap();
        let (bytes, files) = usage(directory.path());
        assert_eq!(files, 2);
        assert!((10_000..100_000).contains(&bytes), "{bytes}");
        assert_eq!(usage(&directory.path().join("missing")), (0, 0));
    }
}
