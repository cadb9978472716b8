//! A Pod as `kubectl get` shows it.

use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod, PodSpec, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::super::{
    Column,
    check::{list, text},
};
use crate::meta::{
    conditions,
    table::{NONE, age, name, since},
};

pub(super) const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Ready", "string", "Containers that are ready, of all."),
    Column::new("Status", "string", "What the Pod is doing, or what keeps it from it."),
    Column::new("Restarts", "string", "How often containers were restarted, and when last."),
    Column::AGE,
    Column::wide("IP", "string", "The Pod's address."),
    Column::wide("Node", "string", "The node that it is bound to."),
    Column::wide("Nominated Node", "string", "The node that preemption makes room on for it."),
    Column::wide("Readiness Gates", "string", "Readiness conditions that hold, of all."),
];

pub(super) fn cells(pod: &Pod, now: Timestamp) -> Vec<Value> {
    let (no_spec, no_status) = (PodSpec::default(), PodStatus::default());
    let spec = pod.spec.as_ref().unwrap_or(&no_spec);
    let status = pod.status.as_ref().unwrap_or(&no_status);
    let summary = Summary::of(pod, spec, status);
    let or_none = |text: &str| if text.is_empty() { NONE.to_owned() } else { text.to_owned() };
    let address = list(&status.pod_ips).first().map_or(text(&status.pod_ip), |first| &first.ip);
    let gates = list(&spec.readiness_gates);
    let held = gates
        .iter()
        .filter(|gate| conditions::is_true(list(&status.conditions), &gate.condition_type))
        .count();
    vec![
        json!(name(&pod.metadata)),
        json!(format!("{}/{}", summary.ready, summary.containers)),
        json!(summary.status),
        json!(summary.restarts.text(now)),
        json!(age(&pod.metadata, now)),
        json!(or_none(address)),
        json!(or_none(text(&spec.node_name))),
        json!(or_none(text(&status.nominated_node_name))),
        json!(if gates.is_empty() { NONE.to_owned() } else { format!("{held}/{}", gates.len()) }),
    ]
}

/// What the first columns say.
struct Summary {
    ready: usize,
    containers: usize,
    status: String,
    restarts: Restarts,
    sidecars: Restarts,
}

#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i32,
    last: Option<Timestamp>,
}

impl Restarts {
    fn count(&mut self, container: &ContainerStatus) {
        self.count += container.restart_count;
        let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        let at = ended.and_then(|ended| ended.finished_at.as_ref()).map(|time| time.0);
        self.last = self.last.max(at);
    }

    /// `0`, or `3 (5m ago)`.
    fn text(&self, now: Timestamp) -> String {
        match self.last {
            Some(at) if self.count > 0 => {
                format!("{} ({} ago)", self.count, since(Some(&Time(at)), now))
            }
            _ => self.count.to_string(),
        }
    }
}

impl Summary {
    fn of(pod: &Pod, spec: &PodSpec, status: &PodStatus) -> Self {
        let mut summary = Summary {
            ready: 0,
            containers: spec.containers.len(),
            status: match text(&status.reason) {
                "" => text(&status.phase).to_owned(),
                reason => reason.to_owned(),
            },
            restarts: Restarts::default(),
            sidecars: Restarts::default(),
        };
        let scheduling = conditions::get(list(&status.conditions), "PodScheduled");
        if scheduling.is_some_and(|c| text(&c.reason) == "SchedulingGated") {
            summary.status = "SchedulingGated".to_owned();
        }
        let initializing = summary.look_at_init_containers(spec, status);
        if !initializing || conditions::is_true(list(&status.conditions), "Initialized") {
            summary.look_at_containers(status);
        }
        if pod.metadata.deletion_timestamp.is_some() {
            if text(&status.reason) == "NodeLost" {
                summary.status = "Unknown".to_owned();
            } else if !matches!(text(&status.phase), "Failed" | "Succeeded") {
                summary.status = "Terminating".to_owned();
            }
        }
        summary
    }

    /// Counts them, and says how far initialization is; whether it is still under way.
    fn look_at_init_containers(&mut self, spec: &PodSpec, status: &PodStatus) -> bool {
        let init = list(&spec.init_containers);
        let is_sidecar = |name: &str| {
            init.iter().any(|c| c.name == name && c.restart_policy.as_deref() == Some("Always"))
        };
        self.containers += init.iter().filter(|c| is_sidecar(&c.name)).count();
        for (i, container) in list(&status.init_container_statuses).iter().enumerate() {
            self.restarts.count(container);
            if is_sidecar(&container.name) {
                self.sidecars.count(container);
            }
            let state = container.state.clone().unwrap_or_default();
            if let Some(ended) = &state.terminated {
                if ended.exit_code == 0 {
                    continue;
                }
                self.status = match text(&ended.reason) {
                    "" => format!("Init:{}", exit(ended.signal, ended.exit_code)),
                    reason => format!("Init:{reason}"),
                };
                return true;
            }
            if is_sidecar(&container.name) && container.started == Some(true) {
                self.ready += usize::from(container.ready);
                continue;
            }
            let waiting = state.waiting.and_then(|waiting| waiting.reason).unwrap_or_default();
            self.status = match waiting.as_str() {
                "" | "PodInitializing" => format!("Init:{i}/{}", init.len()),
                reason => format!("Init:{reason}"),
            };
            return true;
        }
        false
    }

    fn look_at_containers(&mut self, status: &PodStatus) {
        // Once the Pod is initialized, only what still may restart counts.
        self.restarts = self.sidecars;
        let mut running = false;
        for container in list(&status.container_statuses).iter().rev() {
            self.restarts.count(container);
            let state = container.state.clone().unwrap_or_default();
            let waiting = state.waiting.and_then(|waiting| waiting.reason).unwrap_or_default();
            if !waiting.is_empty() {
                self.status = waiting;
            } else if let Some(ended) = &state.terminated {
                self.status = match text(&ended.reason) {
                    "" => exit(ended.signal, ended.exit_code),
                    reason => reason.to_owned(),
                };
            } else if container.ready && state.running.is_some() {
                running = true;
                self.ready += 1;
            }
        }
        // The Pod is not completed while one of its containers runs.
        if self.status == "Completed" && running {
            let ready = conditions::is_true(list(&status.conditions), "Ready");
            self.status = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }
}

fn exit(signal: Option<i32>, code: i32) -> String {
    match signal.unwrap_or(0) {
        0 => format!("ExitCode:{code}"),
        signal => format!("Signal:{signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pod: Value, ready: &str, status: &str, restarts: &str) {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let cells = cells(&pod, Timestamp::from_second(1_700_000_000).unwrap());
        assert_eq!(cells.len(), COLUMNS.len());
        assert_eq!(cells[1..4], [json!(ready), json!(status), json!(restarts)]);
    }

    fn pod(status: Value) -> Value {
        json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "a"}]},
            "status": status,
        })
    }

    #[test]
    fn the_status_says_what_matters_most() {
        let running =
            json!({"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}});
        check(pod(json!({"phase": "Pending"})), "0/1", "Pending", "0");
        check(
            pod(json!({"phase": "Running", "containerStatuses": [running]})),
            "1/1",
            "Running",
            "0",
        );
        check(
            pod(json!({"phase": "Running", "containerStatuses": [{
                "name": "a", "ready": false, "restartCount": 3,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2023-11-14T21:45:20Z"}},
            }]})),
            "0/1",
            "CrashLoopBackOff",
            "3 (28m ago)",
        );
        check(pod(json!({"phase": "Failed", "reason": "Evicted"})), "0/1", "Evicted", "0");
        check(
            pod(json!({"phase": "Succeeded", "containerStatuses": [{
                "name": "a", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": 0, "reason": "Completed"}},
            }]})),
            "0/1",
            "Completed",
            "0",
        );
        check(
            pod(json!({"phase": "Failed", "containerStatuses": [{
                "name": "a", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": 3}},
            }]})),
            "0/1",
            "ExitCode:3",
            "0",
        );
        let mut deleted = pod(json!({"phase": "Running", "containerStatuses": [running]}));
        deleted["metadata"]["deletionTimestamp"] = json!("2023-11-14T21:45:20Z");
        check(deleted, "1/1", "Terminating", "0");
        let mut gated = pod(json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"},
        ]}));
        gated["spec"]["schedulingGates"] = json!([{"name": "g"}]);
        check(gated, "0/1", "SchedulingGated", "0");
    }

    #[test]
    fn initialization_is_shown_step_by_step() {
        let with_init = |statuses: Value| {
            let mut pod = pod(json!({"phase": "Pending", "initContainerStatuses": statuses}));
            pod["spec"]["initContainers"] = json!([{"name": "i"}, {"name": "j"}]);
            pod
        };
        let done = json!({"name": "i", "restartCount": 1, "ready": true,
            "state": {"terminated": {"exitCode": 0}}});
        check(
            with_init(json!([done, {"name": "j", "restartCount": 0, "ready": false,
                "state": {"running": {}}}])),
            "0/1",
            "Init:1/2",
            "1",
        );
        check(
            with_init(json!([{"name": "i", "restartCount": 0, "ready": false,
                "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}])),
            "0/1",
            "Init:Error",
            "0",
        );
        check(
            with_init(json!([{"name": "i", "restartCount": 2, "ready": false,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}}}])),
            "0/1",
            "Init:CrashLoopBackOff",
            "2",
        );
    }
}
