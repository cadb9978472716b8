//! The pod's status as the API is to show it: pure functions of the spec, the runtime's view, what
//! the agent remembers, and the time.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated,
        ContainerStateWaiting, ContainerStatus as ApiContainerStatus, HostIP, Pod, PodCondition,
        PodIP, PodSpec, PodStatus, ResourceRequirements,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use serde_json::{Map, Value, json};

use super::{
    allocation::Allocation,
    observed::Observed,
    plan::{Remembered, as_container, initialized, is_sidecar, restart_policy, restarts_after},
};
use crate::runtime::{ContainerState, ContainerStatus};

/// Why a container does not run: reason and message of its `waiting` state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) reason: String,
    pub(crate) message: Option<String>,
}

/// What a status is made from, besides the pod and the runtime's view.
pub(crate) struct Inputs<'a> {
    pub(crate) memory: &'a dyn Remembered,
    /// Why containers wait, by name.
    pub(crate) waiting: &'a BTreeMap<String, Waiting>,
    /// The pod was ended from outside: reason and message.
    pub(crate) ended: Option<&'a (String, String)>,
    /// Nothing of the pod runs or will run.
    pub(crate) terminal: bool,
    /// The node did not take it on.
    pub(crate) rejected: bool,
    /// It was ended by its node, which needed its place.
    pub(crate) disrupted: bool,
    /// The node's addresses, the primary one first.
    pub(crate) host_ips: &'a [IpAddr],
    /// The scheme of container ids, for example `rk`.
    pub(crate) scheme: &'a str,
    /// What is allocated to it, if it was resized.
    pub(crate) allocation: Option<&'a Allocation>,
    pub(crate) now: Timestamp,
}

/// Computes a pod's status. What only others write (scheduling, gates, QoS) is kept.
pub(crate) fn pod_status(pod: &Pod, observed: &Observed, inputs: &Inputs<'_>) -> PodStatus {
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let old = pod.status.clone().unwrap_or_default();
    let mut status = old.clone();
    let has_init = spec.init_containers.as_ref().is_some_and(|list| !list.is_empty());
    let initialized = initialized(spec, observed, inputs.memory);
    let waits_for = if has_init && !initialized { "PodInitializing" } else { "ContainerCreating" };
    let statuses = |containers: &[Container], old: &Option<Vec<ApiContainerStatus>>, init: bool| {
        let old = old.as_deref().unwrap_or_default();
        let wanted = containers.iter().map(|container| {
            let old = old.iter().find(|status| status.name == container.name);
            let mut status = container_status(container, old, observed, inputs, waits_for, init);
            resources(container, inputs.allocation, &mut status);
            status
        });
        Some(wanted.collect::<Vec<_>>()).filter(|list| !list.is_empty())
    };
    status.container_statuses = statuses(&spec.containers, &old.container_statuses, false);
    let init = spec.init_containers.as_deref().unwrap_or_default();
    status.init_container_statuses = statuses(init, &old.init_container_statuses, true);

    let ephemeral: Vec<Container> =
        spec.ephemeral_containers.iter().flatten().map(as_container).collect();
    status.ephemeral_container_statuses =
        statuses(&ephemeral, &old.ephemeral_container_statuses, false);
    for status in status.ephemeral_container_statuses.iter_mut().flatten() {
        // They have none of their own.
        (status.resources, status.allocated_resources) = (None, None);
    }
    if inputs.rejected {
        // Its containers wait for nothing: why it was rejected is all there is to say.
        status.container_statuses = old.container_statuses.clone();
        status.init_container_statuses = old.init_container_statuses.clone();
        status.ephemeral_container_statuses = old.ephemeral_container_statuses.clone();
    }

    let phase = match &old.phase {
        Some(phase) if is_terminal(phase) => phase.clone(),
        _ if inputs.ended.is_some() => "Failed".into(),
        _ => phase(spec, &status, initialized, inputs.terminal).to_string(),
    };
    if let Some((reason, message)) = inputs.ended {
        status.reason = Some(reason.clone());
        status.message = Some(message.clone());
    }
    status.phase = Some(phase);
    status.start_time.get_or_insert_with(|| seconds(inputs.now));
    status.observed_generation = pod.metadata.generation;
    addresses(spec, observed, inputs, &mut status);
    conditions(pod, spec, observed, initialized, inputs, &mut status);
    status
}

/// Succeeded and Failed are for ever.
pub(crate) fn is_terminal(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

/// The first address of each family: a status may name no more.
fn one_of_each_family(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut kept: Vec<IpAddr> = Vec::new();
    for address in addresses {
        if kept.iter().all(|other| other.is_ipv4() != address.is_ipv4()) {
            kept.push(*address);
        }
    }
    kept
}

fn addresses(spec: &PodSpec, observed: &Observed, inputs: &Inputs<'_>, status: &mut PodStatus) {
    let host_ips = one_of_each_family(inputs.host_ips);
    if let Some(first) = host_ips.first() {
        status.host_ip = Some(first.to_string());
        status.host_ips = Some(host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect());
    }
    // A pod that ended keeps the address it had.
    let Some(sandbox) = observed.sandbox() else { return };
    let of_host = spec.host_network == Some(true);
    let ips = if of_host { host_ips } else { one_of_each_family(&sandbox.ips) };
    if let Some(first) = ips.first() {
        status.pod_ip = Some(first.to_string());
        status.pod_ips = Some(ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect());
    }
}

// === containers ===

fn container_status(
    container: &Container,
    old: Option<&ApiContainerStatus>,
    observed: &Observed,
    inputs: &Inputs<'_>,
    waits_for: &str,
    init: bool,
) -> ApiContainerStatus {
    let attempts = observed.attempts(&container.name);
    let waiting = inputs.waiting.get(&container.name);
    let Some(latest) = attempts.first() else {
        return status_without_container(container, old, inputs, waiting, waits_for);
    };
    let mut state = state_of(latest, inputs.scheme, waits_for);
    let mut last_state = match attempts.get(1) {
        Some(previous) if previous.state == ContainerState::Exited => {
            Some(state_of(previous, inputs.scheme, waits_for))
        }
        _ => old
            .filter(|old| old.restart_count == latest.config.attempt as i32)
            .and_then(|old| old.last_state.clone()),
    };
    let running = latest.state == ContainerState::Running;
    if let (Some(waiting), false, false) = (waiting, running, inputs.terminal) {
        if state.terminated.is_some() {
            last_state = Some(state);
        }
        state = waiting_state(&waiting.reason, waiting.message.clone());
    }
    let health = inputs.memory.health(latest);
    let done = latest.state == ContainerState::Exited && latest.exit_code == Some(0);
    let ready = match (init && !is_sidecar(container), running) {
        (true, _) => done,
        (false, running) => running && health.ready && health.started,
    };
    ApiContainerStatus {
        name: container.name.clone(),
        image: if latest.config.image.is_empty() {
            container.image.clone().unwrap_or_default()
        } else {
            latest.config.image.clone()
        },
        image_id: latest.image_id.clone(),
        container_id: Some(format!("{}://{}", inputs.scheme, latest.id)),
        ready,
        started: Some(running && health.started),
        restart_count: latest.config.attempt as i32,
        state: Some(state),
        last_state: last_state.or_else(|| Some(ApiState::default())),
        stop_signal: Some(latest.config.stop_signal.clone()).filter(|signal| !signal.is_empty()),
        ..Default::default()
    }
}

/// Tells what a container was allocated, and what it runs with (KEP-1287).
fn resources(
    container: &Container,
    allocation: Option<&Allocation>,
    status: &mut ApiContainerStatus,
) {
    let asked = || container.resources.clone().unwrap_or_default();
    let allocated: ResourceRequirements =
        allocation.and_then(|all| all.allocated(&container.name)).cloned().unwrap_or_else(asked);
    let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
    let id = status.container_id.as_deref().and_then(|id| id.split_once("://"));
    let actuated = allocation.zip(id).and_then(|(all, (_, id))| all.actuated(id));
    status.allocated_resources = allocated.requests.clone().filter(|amounts| !amounts.is_empty());
    status.resources = Some(match actuated.filter(|_| running) {
        Some(actuated) => actuated.clone(),
        None => allocated,
    });
}

/// Of a container that the runtime does not know: not made yet, or lost.
fn status_without_container(
    container: &Container,
    old: Option<&ApiContainerStatus>,
    inputs: &Inputs<'_>,
    waiting: Option<&Waiting>,
    waits_for: &str,
) -> ApiContainerStatus {
    let mut status = ApiContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        started: Some(false),
        last_state: Some(ApiState::default()),
        ..Default::default()
    };
    if let Some(old) = old {
        status.restart_count = old.restart_count;
        let known = old.state.as_ref();
        // What was seen to end, or to run, stays so when nothing will replace it.
        if known.is_some_and(|state| state.terminated.is_some()) {
            return ApiContainerStatus { ready: false, ..old.clone() };
        }
        if inputs.terminal && known.is_some_and(|state| state.running.is_some()) {
            status.container_id = old.container_id.clone();
            status.state = Some(ApiState {
                terminated: Some(ContainerStateTerminated {
                    exit_code: 137,
                    reason: Some("ContainerStatusUnknown".into()),
                    message: Some(
                        "The container could not be located when the pod was terminated".into(),
                    ),
                    ..Default::default()
                }),
                ..Default::default()
            });
            return status;
        }
        if let Some(last) = &old.last_state {
            status.last_state = Some(last.clone());
        }
    }
    status.state = Some(match waiting {
        Some(waiting) => waiting_state(&waiting.reason, waiting.message.clone()),
        None => waiting_state(waits_for, None),
    });
    status
}

fn waiting_state(reason: &str, message: Option<String>) -> ApiState {
    let waiting = ContainerStateWaiting { reason: Some(reason.to_string()), message };
    ApiState { waiting: Some(waiting), ..Default::default() }
}

fn state_of(container: &ContainerStatus, scheme: &str, waits_for: &str) -> ApiState {
    match container.state {
        ContainerState::Running => ApiState {
            running: Some(ContainerStateRunning { started_at: container.started_at.map(seconds) }),
            ..Default::default()
        },
        ContainerState::Created => waiting_state(waits_for, None),
        ContainerState::Exited | ContainerState::Unknown => {
            let lost = container.state == ContainerState::Unknown;
            let reason = if lost { "ContainerStatusUnknown" } else { &container.reason };
            ApiState {
                terminated: Some(ContainerStateTerminated {
                    exit_code: container.exit_code.unwrap_or(137),
                    reason: Some(reason.to_string()).filter(|reason| !reason.is_empty()),
                    message: Some(container.message.clone()).filter(|message| !message.is_empty()),
                    // The API wants a time here; a container that never started began when it ended.
                    started_at: container.started_at.or(container.finished_at).map(seconds),
                    finished_at: container.finished_at.map(seconds),
                    container_id: Some(format!("{scheme}://{}", container.id)),
                    signal: None,
                }),
                ..Default::default()
            }
        }
    }
}

// === phase ===

fn exit_code(state: Option<&ApiState>) -> Option<i32> {
    state?.terminated.as_ref().map(|terminated| terminated.exit_code)
}

fn phase(spec: &PodSpec, status: &PodStatus, initialized: bool, terminal: bool) -> &'static str {
    let policy = restart_policy(spec);
    let find = |list: &'_ Option<Vec<ApiContainerStatus>>, name: &str| {
        list.iter().flatten().find(|status| status.name == name).cloned()
    };
    let (mut init_pending, mut init_failed, mut init_over) = (0, 0, false);
    for container in spec.init_containers.iter().flatten() {
        let found = find(&status.init_container_statuses, &container.name);
        let state = found.as_ref().and_then(|status| status.state.as_ref());
        let last = found.as_ref().and_then(|status| status.last_state.as_ref());
        if is_sidecar(container) {
            let started = found.as_ref().and_then(|status| status.started) == Some(true);
            init_pending += i32::from(!started && exit_code(state).is_none());
            continue;
        }
        match exit_code(state).or_else(|| exit_code(last)) {
            Some(0) if exit_code(state).is_some() => {}
            Some(code) if code != 0 => {
                init_failed += 1;
                init_over |= !restarts_after(container, policy, Some(code));
            }
            _ => init_pending += 1,
        }
    }
    let (mut unknown, mut running, mut waiting, mut stopped, mut failed) = (0, 0, 0, 0, 0);
    let mut comes_back = false;
    for container in &spec.containers {
        let found = find(&status.container_statuses, &container.name);
        let state = found.as_ref().and_then(|status| status.state.as_ref());
        let last = found.as_ref().and_then(|status| status.last_state.as_ref());
        match state {
            Some(state) if state.running.is_some() => running += 1,
            Some(state) if state.terminated.is_some() => {
                stopped += 1;
                failed += i32::from(exit_code(Some(state)) != Some(0));
                comes_back |= restarts_after(container, policy, exit_code(Some(state)));
            }
            Some(state) if state.waiting.is_some() => match exit_code(last) {
                Some(code) => {
                    stopped += 1;
                    failed += 1;
                    comes_back |= restarts_after(container, policy, Some(code));
                }
                None => waiting += 1,
            },
            _ => unknown += 1,
        }
    }
    if init_over {
        return "Failed";
    }
    if terminal && running == 0 {
        let all_done = init_pending + init_failed + unknown + waiting + failed == 0;
        return if all_done { "Succeeded" } else { "Failed" };
    }
    if (init_pending > 0 || init_failed > 0) && !initialized || waiting > 0 {
        return "Pending";
    }
    if running > 0 && unknown == 0 {
        return "Running";
    }
    if running == 0 && stopped > 0 && unknown == 0 {
        return match (comes_back, failed) {
            (true, _) => "Running",
            (false, 0) => "Succeeded",
            (false, _) => "Failed",
        };
    }
    "Pending"
}

// === conditions ===

struct Verdict {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    const TRUE: Verdict = Verdict { holds: true, reason: None, message: None };

    fn no(reason: &'static str, message: Option<String>) -> Self {
        Verdict { holds: false, reason: Some(reason), message }
    }
}

fn conditions(
    pod: &Pod,
    spec: &PodSpec,
    observed: &Observed,
    initialized: bool,
    inputs: &Inputs<'_>,
    status: &mut PodStatus,
) {
    let phase = status.phase.clone().unwrap_or_default();
    let has_network = spec.host_network == Some(true)
        || observed.sandbox().is_some_and(|sandbox| !sandbox.ips.is_empty());
    let sandbox = observed.sandbox().is_some() && has_network;
    let sandbox =
        if sandbox { Verdict::TRUE } else { Verdict { holds: false, reason: None, message: None } };
    let containers = containers_ready(spec, status, &phase);
    let mut kept = status.conditions.take().unwrap_or_default();
    let ready = gates_open(spec, &kept, &containers);
    let verdicts = [
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", initialized_verdict(spec, status, &phase, initialized)),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", Verdict::TRUE),
    ];
    for (kind, verdict) in verdicts {
        // A pod that was bound by hand has no such condition yet; a scheduler's own one stays.
        let old = kept.iter().position(|condition| condition.type_ == kind);
        let value = if verdict.holds { "True" } else { "False" };
        let mut condition = PodCondition {
            type_: kind.to_string(),
            status: value.to_string(),
            reason: verdict.reason.map(str::to_string),
            message: verdict.message,
            last_transition_time: Some(seconds(inputs.now)),
            observed_generation: pod.metadata.generation,
            ..Default::default()
        };
        match old {
            Some(at) => {
                if kept[at].status == condition.status {
                    condition.last_transition_time = kept[at].last_transition_time.clone();
                }
                kept[at] = condition;
            }
            None => kept.push(condition),
        }
    }
    resize_conditions(inputs, &mut kept);
    if let (Some((_, message)), true) = (inputs.ended, inputs.disrupted)
        && !kept.iter().any(|c| c.type_ == "DisruptionTarget" && c.status == "True")
    {
        kept.retain(|condition| condition.type_ != "DisruptionTarget");
        kept.push(PodCondition {
            type_: "DisruptionTarget".to_owned(),
            status: "True".to_owned(),
            reason: Some("TerminationByKubelet".to_owned()),
            message: Some(message.clone()),
            last_transition_time: Some(seconds(inputs.now)),
            observed_generation: pod.metadata.generation,
            ..Default::default()
        });
    }
    status.conditions = Some(kept);
}

/// The conditions that are there only while a resize is not done.
const RESIZE_CONDITIONS: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

fn resize_conditions(inputs: &Inputs<'_>, conditions: &mut Vec<PodCondition>) {
    let before: Vec<PodCondition> = conditions
        .extract_if(.., |condition| RESIZE_CONDITIONS.contains(&condition.type_.as_str()))
        .collect();
    let Some(allocation) = inputs.allocation.filter(|_| !inputs.terminal) else { return };
    let mut add = |kind: &str, reason: Option<&str>, message: Option<&str>, generation| {
        let old = before.iter().find(|condition| condition.type_ == kind);
        let since = old.and_then(|old| old.last_transition_time.clone());
        conditions.push(PodCondition {
            type_: kind.to_owned(),
            status: "True".to_owned(),
            reason: reason.map(str::to_owned),
            message: message.map(str::to_owned),
            last_transition_time: since.or_else(|| Some(seconds(inputs.now))),
            observed_generation: generation,
            ..Default::default()
        });
    };
    if let Some(pending) = &allocation.pending {
        let message = Some(pending.message.as_str());
        add(RESIZE_CONDITIONS[0], Some(pending.reason), message, pending.generation);
    }
    if let Some(generation) = allocation.progress {
        let error = allocation.error.as_deref();
        add(RESIZE_CONDITIONS[1], error.map(|_| "Error"), error, Some(generation));
    }
}

fn initialized_verdict(
    spec: &PodSpec,
    status: &PodStatus,
    phase: &str,
    initialized: bool,
) -> Verdict {
    if initialized {
        let reason = (phase == "Succeeded").then_some("PodCompleted");
        return Verdict { reason, ..Verdict::TRUE };
    }
    if phase == "Succeeded" {
        return Verdict { reason: Some("PodCompleted"), ..Verdict::TRUE };
    }
    let incomplete: Vec<&str> = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| {
            let statuses = status.init_container_statuses.iter().flatten();
            let found = statuses.into_iter().find(|status| status.name == container.name);
            !found.is_some_and(|status| {
                status.ready || (is_sidecar(container) && status.started == Some(true))
            })
        })
        .map(|container| container.name.as_str())
        .collect();
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    Verdict::no("ContainersNotInitialized", Some(message))
}

fn containers_ready(spec: &PodSpec, status: &PodStatus, phase: &str) -> Verdict {
    match phase {
        "Succeeded" => return Verdict::no("PodCompleted", None),
        "Failed" => return Verdict::no("PodFailed", None),
        _ => {}
    }
    let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container));
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let all: Vec<&ApiContainerStatus> = all.collect();
    let unready: Vec<&str> = sidecars
        .chain(&spec.containers)
        .map(|container| container.name.as_str())
        .filter(|name| !all.iter().any(|status| status.name == **name && status.ready))
        .collect();
    if unready.is_empty() {
        return Verdict::TRUE;
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    Verdict::no("ContainersNotReady", Some(message))
}

/// A pod is ready when its containers are and the conditions named as readiness gates hold.
fn gates_open(spec: &PodSpec, conditions: &[PodCondition], containers: &Verdict) -> Verdict {
    if !containers.holds {
        return Verdict::no(
            containers.reason.unwrap_or("ContainersNotReady"),
            containers.message.clone(),
        );
    }
    let mut messages = Vec::new();
    for gate in spec.readiness_gates.iter().flatten() {
        let kind = &gate.condition_type;
        match conditions.iter().find(|condition| condition.type_ == *kind) {
            None => messages.push(format!(
                "corresponding condition of pod readiness gate {kind:?} does not exist."
            )),
            Some(condition) if condition.status != "True" => messages.push(format!(
                "the status of pod readiness gate {kind:?} is not \"True\", but {}",
                condition.status
            )),
            Some(_) => {}
        }
    }
    if messages.is_empty() {
        return Verdict::TRUE;
    }
    Verdict::no("ReadinessGatesNotReady", Some(messages.join(", ")))
}

// === the patch ===

/// The strategic merge patch that takes a pod's status from `old` to `new`; `None` if they are equal.
pub(crate) fn patch(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    // As mostly; trees of both take longer to make than to find that out.
    if old == new {
        return None;
    }
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) =
        (serde_json::to_value(old), serde_json::to_value(new))
    else {
        return None;
    };
    let mut status = Map::new();
    for (key, value) in &new {
        if old.get(key) == Some(value) {
            continue;
        }
        let change = match key.as_str() {
            // Merged by type, so only those that changed; others may have written theirs meanwhile.
            "conditions" => changed_items(old.get(key), value),
            // Merged by address, where an address that is gone has to be named; so replace the list.
            "podIPs" | "hostIPs" => {
                let mut list = value.as_array().cloned().unwrap_or_default();
                if old.contains_key(key) {
                    list.push(json!({"$patch": "replace"}));
                }
                Value::Array(list)
            }
            _ => value.clone(),
        };
        status.insert(key.clone(), change);
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        status.insert(key.clone(), Value::Null);
    }
    (!status.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": status}))
}

fn changed_items(old: Option<&Value>, new: &Value) -> Value {
    let empty = Vec::new();
    let old = old.and_then(Value::as_array).unwrap_or(&empty);
    let items = new.as_array().unwrap_or(&empty).iter();
    let changed = items.filter(|item| !old.contains(item)).map(|item| {
        let before = old.iter().find(|before| before["type"] == item["type"]);
        let mut item = item.clone();
        // A field that is no longer there has to be removed by name.
        if let (Some(Value::Object(before)), Value::Object(now)) = (before, &mut item) {
            for key in before.keys() {
                now.entry(key.clone()).or_insert(Value::Null);
            }
        }
        item
    });
    let gone = old.iter().filter(|before| !new_has(new, &before["type"]));
    let gone = gone.map(|before| json!({"$patch": "delete", "type": before["type"]}));
    Value::Array(changed.chain(gone).collect())
}

fn new_has(new: &Value, kind: &Value) -> bool {
    new.as_array().into_iter().flatten().any(|item| item["type"] == *kind)
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
