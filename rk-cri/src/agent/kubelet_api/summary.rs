//! `/stats/summary`: what the node, its Pods and their containers use, as JSON. Names are those of
//! the kubelet's `stats/v1alpha1`.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use http::Response;
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{KubeletApi, KubeletBody, Query, Refusal, json_answer};
use crate::{
    agent::spec::pod_ref,
    runtime::{ContainerStats, NodeStats},
};

mod storage;

/// CPU times as they were at the last request, for rates: by container, and of the node (the empty
/// name).
#[derive(Debug, Default)]
pub(in crate::agent) struct LastTimes(Mutex<BTreeMap<(String, String), (Timestamp, Duration)>>);

/// Rates over less than this are noise.
const RATE_OVER: Duration = Duration::from_millis(500);

impl LastTimes {
    /// CPU time a second since the last time, in billionths of a core.
    fn rate(&self, key: (String, String), at: Timestamp, time: Duration) -> Option<u64> {
        let mut times = self.0.lock();
        let before = times.get(&key).copied();
        let Some((then, used)) = before else {
            times.insert(key, (at, time));
            return None;
        };
        let passed = at.duration_since(then).unsigned_abs();
        if at <= then || passed < RATE_OVER {
            return None;
        }
        times.insert(key, (at, time));
        let used = time.checked_sub(used)?;
        Some((used.as_secs_f64() / passed.as_secs_f64() * 1e9) as u64)
    }

    fn keep_only(&self, alive: &[ContainerStats]) {
        let known = |key: &(String, String)| {
            key.0.is_empty() || alive.iter().any(|s| s.pod.uid == key.0 && s.name == key.1)
        };
        self.0.lock().retain(|key, _| known(key));
    }
}

impl KubeletApi {
    pub(super) async fn summary(&self, query: &Query) -> Result<Response<KubeletBody>, Refusal> {
        let failed = |error| {
            (http::StatusCode::INTERNAL_SERVER_ERROR, crate::agent::handler::describe(&error))
        };
        let runtime = &self.core.runtime;
        let node = runtime.node_stats().await.map_err(failed)?;
        let containers = runtime.list_container_stats().await.map_err(failed)?;
        self.core.last_times.keep_only(&containers);
        let only =
            query.flag(&["only_cpu_and_memory"]) && query.get("only_cpu_and_memory").is_some();
        let disk = if only || runtime.simulated() {
            None
        } else {
            let root = self.core.config.root_dir.clone();
            tokio::task::spawn_blocking(move || file_system(&root)).await.ok().flatten()
        };
        let pods = self.core.pods();
        let mut body = render(
            &self.core.config.name,
            node.as_ref(),
            &containers,
            &pods,
            disk.clone(),
            &self.core.last_times,
        );
        let shown = body["pods"].as_array_mut().into_iter().flatten();
        for (of_pod, disk) in shown.zip(std::iter::repeat(disk.as_ref())) {
            let of =
                |pod: &&Arc<Pod>| pod.metadata.uid.as_deref() == of_pod["podRef"]["uid"].as_str();
            if let (Some(pod), Some(disk)) = (pods.iter().find(of), disk) {
                storage::add(of_pod, &self.core, pod, disk).await;
            }
        }
        Ok(json_answer(&body))
    }
}

fn render(
    name: &str,
    node: Option<&NodeStats>,
    containers: &[ContainerStats],
    pods: &[Arc<Pod>],
    disk: Option<Value>,
    times: &LastTimes,
) -> Value {
    let mut of_node = json!({"nodeName": name});
    if let Some(node) = node {
        let rate = times.rate(Default::default(), node.at, node.cpu_time);
        of_node["cpu"] = cpu(node.at, node.cpu_time, rate);
        of_node["memory"] = memory(node.at, node.memory_working_set_bytes);
    }
    if let Some(disk) = disk {
        of_node["fs"] = disk.clone();
        of_node["runtime"] = json!({"imageFs": disk});
    }
    let of_pods: Vec<Value> = pods
        .iter()
        .filter_map(|pod| {
            let reference = pod_ref(pod);
            let own: Vec<&ContainerStats> =
                containers.iter().filter(|stats| stats.pod.uid == reference.uid).collect();
            let at = own.iter().map(|stats| stats.at).max()?;
            let shown: Vec<Value> = own.iter().map(|stats| container(stats, times)).collect();
            let sum = |field: &str| -> u64 {
                shown.iter().filter_map(|shown| shown["cpu"][field].as_u64()).sum()
            };
            let total: Duration = own.iter().map(|stats| stats.cpu_time).sum();
            let known = shown.iter().all(|shown| shown["cpu"]["usageNanoCores"].is_u64());
            let rate = known.then(|| sum("usageNanoCores"));
            let bytes = own.iter().map(|stats| stats.memory_working_set_bytes).sum();
            Some(json!({
                "podRef": {
                    "name": reference.name, "namespace": reference.namespace, "uid": reference.uid,
                },
                "startTime": pod.status.as_ref().and_then(|status| status.start_time.clone()),
                "containers": shown,
                "cpu": cpu(at, total, rate),
                "memory": memory(at, bytes),
            }))
        })
        .collect();
    json!({"node": of_node, "pods": of_pods})
}

fn container(stats: &ContainerStats, times: &LastTimes) -> Value {
    let key = (stats.pod.uid.clone(), stats.name.clone());
    let rate = times.rate(key, stats.at, stats.cpu_time);
    json!({
        "name": stats.name,
        "startTime": seconds(stats.started_at),
        "cpu": cpu(stats.at, stats.cpu_time, rate),
        "memory": memory(stats.at, stats.memory_working_set_bytes),
    })
}

fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn cpu(at: Timestamp, time: Duration, rate: Option<u64>) -> Value {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let mut cpu = json!({"time": seconds(at), "usageCoreNanoSeconds": nanos});
    if let Some(rate) = rate {
        cpu["usageNanoCores"] = rate.into();
    }
    cpu
}

fn memory(at: Timestamp, bytes: u64) -> Value {
    json!({"time": seconds(at), "workingSetBytes": bytes, "usageBytes": bytes})
}

#[cfg(target_os = "linux")]
fn file_system(root: &Path) -> Option<Value> {
    let existing = root.ancestors().find(|path| path.exists())?;
    let stat = rustix::fs::statvfs(existing).ok()?;
    Some(json!({
        "time": seconds(rk_api::clock::now()),
        "availableBytes": stat.f_bavail * stat.f_frsize,
        "capacityBytes": stat.f_blocks * stat.f_frsize,
        "usedBytes": stat.f_blocks.saturating_sub(stat.f_bfree) * stat.f_frsize,
        "inodesFree": stat.f_favail,
        "inodes": stat.f_files,
        "inodesUsed": stat.f_files.saturating_sub(stat.f_ffree),
    }))
}

#[cfg(not(target_os = "linux"))]
fn file_system(_: &Path) -> Option<Value> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::PodRef;

    #[test]
    fn a_pod_uses_what_its_containers_use_and_rates_come_with_the_second_look() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "u"}}))
        .unwrap();
        let pods = [std::sync::Arc::new(pod)];
        let times = LastTimes::default();
        let look = |second: i64, millis: u64| {
            let stats = |name: &str| ContainerStats {
                pod: PodRef { namespace: "ns".into(), name: "web".into(), uid: "u".into() },
                name: name.into(),
                started_at: Timestamp::from_second(5).unwrap(),
                at: Timestamp::from_second(second).unwrap(),
                cpu_time: Duration::from_millis(millis),
                memory_working_set_bytes: 1024,
            };
            render("n1", None, &[stats("a"), stats("b")], &pods, None, &times)
        };
        let first = look(10, 1000);
        assert_eq!(first["pods"][0]["podRef"]["name"], "web");
        assert_eq!(first["pods"][0]["memory"]["workingSetBytes"], 2048);
        assert!(first["pods"][0]["cpu"]["usageNanoCores"].is_null());
        let second = look(20, 6000);
        assert_eq!(second["pods"][0]["containers"][0]["cpu"]["usageNanoCores"], 500_000_000);
        assert_eq!(second["pods"][0]["cpu"]["usageNanoCores"], 1_000_000_000);
        assert_eq!(second["pods"][0]["cpu"]["usageCoreNanoSeconds"], 12_000_000_000_u64);
    }
}
