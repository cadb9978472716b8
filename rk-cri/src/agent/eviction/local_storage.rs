//! Ends Pods that take more of the node's disk than they may: an `emptyDir` beyond its `sizeLimit`,
//! a container beyond its limit of `ephemeral-storage`, or a Pod beyond the limits of all of them
//! (KEP-361). [`over_limit`] decides; the rest measures.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use k8s_openapi::api::core::v1::{Container, Pod, Volume};
use rk_api::{client::EventType, meta::quantity::Quantity};
use tokio::time::{MissedTickBehavior, interval};

use super::{EVICTED, usage};
use crate::{
    agent::{
        housekeeping::LOOK_EVERY,
        spec::{log_directory, pod_ref},
        status::is_terminal,
        volumes,
        worker::Core,
    },
    runtime::ContainerState,
};

const RESOURCE: &str = "ephemeral-storage";

/// What a Pod takes on the node's disk, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiskUse {
    /// Volumes whose contents are the node's to keep, by name.
    pub(crate) volumes: BTreeMap<String, i64>,
    /// What containers have written to their own file systems and to their logs, by name.
    pub(crate) containers: BTreeMap<String, i64>,
}

impl DiskUse {
    /// All of it, without what is in memory.
    pub(crate) fn total(&self, pod: &Pod) -> i64 {
        // Memory is counted as memory.
        let on_disk = |name: &String| volumes_of(pod).any(|v| v.name == *name && !in_memory(v));
        let volumes = self.volumes.iter().filter(|(name, _)| on_disk(name)).map(|(_, used)| *used);
        self.containers.values().copied().chain(volumes).fold(0, i64::saturating_add)
    }
}

fn volumes_of(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
}

/// A volume that is kept in memory, or in huge pages.
fn in_memory(volume: &Volume) -> bool {
    let medium = volume.empty_dir.as_ref().and_then(|empty| empty.medium.as_deref());
    medium.is_some_and(|medium| !medium.is_empty())
}

fn containers_of(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec
        .iter()
        .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
}

/// A container's limit, as it is written and in bytes.
fn limit(container: &Container) -> Option<Quantity> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    Quantity::parse(&limits.get(RESOURCE)?.0).ok().filter(|limit| !limit.is_zero())
}

fn size_limit(volume: &Volume) -> Option<Quantity> {
    let limit = volume.empty_dir.as_ref()?.size_limit.as_ref()?;
    Quantity::parse(&limit.0).ok().filter(|limit| limit.value() > 0)
}

/// Whether a Pod's disk use has limits.
pub(crate) fn is_limited(pod: &Pod) -> bool {
    containers_of(pod).any(|container| limit(container).is_some())
        || volumes_of(pod).any(|volume| size_limit(volume).is_some())
}

/// Why a Pod has to go, in the kubelet's words, if it does.
pub(crate) fn over_limit(pod: &Pod, used: &DiskUse) -> Option<String> {
    for volume in volumes_of(pod) {
        let (Some(limit), Some(bytes)) = (size_limit(volume), used.volumes.get(&volume.name))
        else {
            continue;
        };
        if *bytes > limit.value() {
            let name = &volume.name;
            return Some(format!(
                "Usage of EmptyDir volume {name:?} exceeds the limit \"{limit}\". "
            ));
        }
    }
    let of_app = || pod.spec.iter().flat_map(|spec| &spec.containers);
    let limits: Vec<Quantity> = of_app().filter_map(limit).collect();
    let sum = limits.into_iter().reduce(|sum, limit| sum.plus(&limit));
    if let Some(limit) = sum.filter(|limit| used.total(pod) > limit.value()) {
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
        ));
    }
    containers_of(pod).find_map(|container| {
        let (limit, name) = (limit(container)?, &container.name);
        let bytes = *used.containers.get(name)?;
        (bytes > limit.value()).then(|| {
            format!("Container {name} exceeded its local ephemeral storage limit \"{limit}\". ")
        })
    })
}

impl Core {
    /// Looks at all Pods with limits from time to time, until its future is dropped.
    pub(in crate::agent) async fn watch_local_storage(&self) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for pod in self.pods() {
                let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
                let uid = pod_ref(&pod).uid;
                if phase.is_some_and(is_terminal)
                    || !is_limited(&pod)
                    || self.ended_from_outside(&uid).is_some()
                {
                    continue;
                }
                let used = self.measure_disk(&pod).await;
                if let Some(why) = over_limit(&pod, &used) {
                    self.event(&self.pod_reference(&pod), EventType::Warning, EVICTED, &why);
                    self.end_from_outside(&pod, (EVICTED.to_owned(), why), Duration::ZERO);
                }
            }
        }
    }

    /// What a Pod takes on the disk now. What cannot be measured, since it just ends, is left out.
    pub(in crate::agent) async fn measure_disk(&self, pod: &Pod) -> DiskUse {
        let reference = pod_ref(pod);
        let mut used = DiskUse::default();
        let status = self.runtime.pod_status(&reference.uid).await.unwrap_or_default();
        let mut newest: BTreeMap<String, (u32, String)> = BTreeMap::new();
        for container in status.containers {
            let known = newest.entry(container.config.name).or_default();
            if container.state == ContainerState::Running && container.config.attempt >= known.0 {
                *known = (container.config.attempt, container.id);
            }
        }
        for (name, (_, id)) in newest {
            let layer = self.runtime.container_disk_bytes(&id).await.ok().flatten();
            let layer = layer.and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(0);
            used.containers.insert(name, layer);
        }
        let logs = log_directory(&self.config.log_root, &reference);
        let names: Vec<String> = containers_of(pod).map(|it| it.name.clone()).collect();
        let directories: Vec<(String, PathBuf)> = self.kept_volumes(pod).collect();
        let measure = move || {
            let logs: Vec<_> = names.into_iter().map(|n| (usage(&logs.join(&n)).0, n)).collect();
            let volumes = directories.into_iter().map(|(name, at)| (name, usage(&at).0));
            (logs, volumes.collect::<BTreeMap<_, _>>())
        };
        let (logs, volumes) = tokio::task::spawn_blocking(measure).await.unwrap_or_default();
        for (bytes, name) in logs {
            let sum = used.containers.entry(name).or_default();
            *sum = sum.saturating_add(bytes);
        }
        used.volumes = volumes;
        used
    }

    /// Volumes that are directories of the node made for the Pod, by name, and where they are.
    pub(in crate::agent) fn kept_volumes(
        &self,
        pod: &Pod,
    ) -> impl Iterator<Item = (String, PathBuf)> {
        let directory = self.pod_dir(pod);
        volumes_of(pod).filter_map(move |volume| {
            let plugin = volumes::plugin_of(volume)?;
            Some((volume.name.clone(), volumes::directory(&directory, plugin, &volume.name)))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        let limits = |size: &str| json!({"limits": {"ephemeral-storage": size}});
        serde_json::from_value(json!({"metadata": {}, "spec": {
            "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}},
                {"name": "cache", "emptyDir": {}},
                {"name": "memory", "emptyDir": {"medium": "Memory"}}],
            "containers": [{"name": "a", "resources": limits("2Mi")},
                {"name": "b", "resources": limits("3Mi")}]}}))
        .unwrap()
    }

    #[track_caller]
    fn check(what: &str, used: DiskUse, expected: Option<&str>) {
        assert_eq!(over_limit(&pod(), &used).as_deref(), expected, "{what}");
    }

    fn used(volumes: &[(&str, i64)], containers: &[(&str, i64)]) -> DiskUse {
        let map = |list: &[(&str, i64)]| {
            list.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect()
        };
        DiskUse { volumes: map(volumes), containers: map(containers) }
    }

    #[test]
    fn the_first_limit_that_is_passed_is_the_reason() {
        const MIB: i64 = 1 << 20;
        check("nothing is used", DiskUse::default(), None);
        check("all of it", used(&[("scratch", MIB)], &[("a", 2 * MIB), ("b", 2 * MIB)]), None);
        check(
            "a volume",
            used(&[("scratch", MIB + 1)], &[("a", 3 * MIB)]),
            Some("Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Mi\". "),
        );
        check(
            "the sum",
            used(&[("cache", 4 * MIB)], &[("a", MIB), ("b", 1)]),
            Some("Pod ephemeral local storage usage exceeds the total limit of containers 5Mi. "),
        );
        check("memory is no disk", used(&[("memory", 9 * MIB)], &[("a", MIB)]), None);
        check(
            "a container",
            used(&[], &[("a", 2 * MIB + 1)]),
            Some("Container a exceeded its local ephemeral storage limit \"2Mi\". "),
        );
    }

    #[test]
    fn pods_without_limits_are_not_measured() {
        assert!(is_limited(&pod()));
        let plain = serde_json::from_value(json!({"metadata": {}, "spec": {
            "volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"name": "c"}]}}));
        assert!(!is_limited(&plain.unwrap()));
    }
}
