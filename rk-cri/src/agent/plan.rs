//! What to do next for a pod: a pure function of its spec, the runtime's view and what is
//! remembered of earlier tries.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::core::v1::{Container, ContainerRestartRule, EphemeralContainer, Pod, PodSpec},
    jiff::Timestamp,
};

use super::{allocation::Resize, backoff::BackOff, observed::Observed};
use crate::runtime::{ContainerState, ContainerStatus};

/// The annotation that tells which definition a container was made from.
pub(crate) const HASH_ANNOTATION: &str = "io.kubernetes.container.hash";

/// What the probes say of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Health {
    /// The readiness probe succeeds, or there is none.
    pub(crate) ready: bool,
    /// The startup probe succeeded, or there is none.
    pub(crate) started: bool,
    /// The liveness or startup probe failed for good: the container is to be killed.
    pub(crate) failed: Option<&'static str>,
}

impl Health {
    /// Of a container without probes.
    pub(crate) const GOOD: Health = Health { ready: true, started: true, failed: None };
}

/// What earlier tries left behind.
pub(crate) trait Remembered {
    /// The pause after a container's failures.
    fn back_off(&self, container: &str) -> BackOff;
    /// What the probes say.
    fn health(&self, container: &ContainerStatus) -> Health;
    /// What the running container of this id needs to have what is allocated to it.
    fn resize(&self, _container: &Container, _id: &str) -> Resize {
        Resize::Done
    }
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Stop every container and the sandbox: the sandbox is lost, or all work is done.
    pub(crate) stop_all: bool,
    /// Nothing will ever run again.
    pub(crate) finished: bool,
    /// Make a sandbox with this attempt number.
    pub(crate) create_sandbox: Option<u32>,
    /// Containers to stop, by id, and why.
    pub(crate) stop: Vec<(String, String)>,
    /// Containers whose limits change while they run: ids and names.
    pub(crate) update: Vec<(String, String)>,
    /// Containers to start, by name.
    pub(crate) start: Vec<String>,
    /// Containers that have to wait before they are started again.
    pub(crate) backing_off: BTreeMap<String, Duration>,
}

/// Identifies the parts of a container's definition whose change replaces it: name and image.
pub(crate) fn definition_hash(container: &Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    let text = format!("{}\0{image}", container.name);
    // FNV-1a, as the hash only has to be stable.
    let hash =
        text.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    format!("{hash:x}")
}

/// An init container that keeps running beside the others.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

pub(crate) fn restart_policy(spec: &PodSpec) -> &str {
    spec.restart_policy.as_deref().unwrap_or("Always")
}

/// Whether every init container has done its work, as far as can be told.
pub(crate) fn initialized(spec: &PodSpec, observed: &Observed, memory: &dyn Remembered) -> bool {
    // An app container can only have been made after them, whatever became of them since.
    if spec.containers.iter().any(|container| observed.current(&container.name).is_some()) {
        return true;
    }
    spec.init_containers.iter().flatten().all(|container| match observed.current(&container.name) {
        Some(status) if is_sidecar(container) => {
            status.state == ContainerState::Running && memory.health(status).started
        }
        Some(status) => status.state == ContainerState::Exited && status.exit_code == Some(0),
        None => false,
    })
}

/// Whether a container that ended with a code is to be started again: what its own rules say, else
/// its own policy, else the Pod's (KEP-5307).
pub(crate) fn restarts_after(container: &Container, pod_policy: &str, code: Option<i32>) -> bool {
    let matches = |rule: &ContainerRestartRule| {
        let (Some(on), Some(code)) = (&rule.exit_codes, code) else { return false };
        let listed = on.values.iter().flatten().any(|value| *value == code);
        match on.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    };
    let mut rules = container.restart_policy_rules.iter().flatten();
    if rules.any(|rule| rule.action == "Restart" && matches(rule)) {
        return true;
    }
    match container.restart_policy.as_deref().unwrap_or(pod_policy) {
        "Never" => false,
        "OnFailure" => code != Some(0),
        _ => true,
    }
}

/// Whether a container that does not run is to be started.
fn wants_start(container: &Container, policy: &str, latest: Option<&ContainerStatus>) -> bool {
    let Some(latest) = latest else { return true };
    match latest.state {
        ContainerState::Running => false,
        ContainerState::Created | ContainerState::Unknown => true,
        ContainerState::Exited => restarts_after(container, policy, latest.exit_code),
    }
}

/// Decides what to do for a pod that is to run.
pub(crate) fn plan(
    pod: &Pod,
    observed: &Observed,
    memory: &dyn Remembered,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &pod.spec else { return plan };
    let policy = restart_policy(spec);
    if observed.sandbox().is_none() {
        plan_sandbox(spec, observed, &mut plan);
        // The containers follow when the sandbox is there.
        return plan;
    }

    let mut planner = Planner { policy, observed, memory, now, plan };
    let initialized = initialized(spec, observed, memory);
    let proceed = planner.init_containers(spec, initialized);
    if proceed == Proceed::Failed {
        planner.plan.finish();
        return planner.plan;
    }
    if proceed == Proceed::Wait {
        return planner.plan;
    }
    let mut alive = 0;
    for container in &spec.containers {
        if planner.container(container) {
            alive += 1;
        }
    }
    if alive == 0 {
        planner.plan.finish();
        return planner.plan;
    }
    planner.plan.start.extend(ephemeral(spec, observed));
    planner.plan
}

/// Ephemeral containers that were never started. They are started once, whatever becomes of them.
fn ephemeral<'a>(spec: &'a PodSpec, observed: &'a Observed) -> impl Iterator<Item = String> + 'a {
    let all = spec.ephemeral_containers.iter().flatten();
    all.filter(|container| observed.latest(&container.name).is_none()).map(|c| c.name.clone())
}

/// An ephemeral container has the fields of a container.
pub(crate) fn as_container(container: &EphemeralContainer) -> Container {
    let EphemeralContainer {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        target_container_name: _,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    } = container.clone();
    Container {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    }
}

/// Whether to make a sandbox, and what to do about what is left of the last one.
fn plan_sandbox(spec: &PodSpec, observed: &Observed, plan: &mut Plan) {
    let policy = restart_policy(spec);
    let anything_ran = spec.containers.iter().any(|c| observed.latest(&c.name).is_some());
    let wanted = spec
        .containers
        .iter()
        .any(|container| wants_start(container, policy, observed.latest(&container.name))
            // What ran when the sandbox was lost is started again, unless nothing ever is.
            || (policy != "Never" && observed.latest(&container.name).is_some_and(|s| s.state != ContainerState::Exited)));
    if observed.sandboxes.is_empty() {
        plan.create_sandbox = Some(0);
        return;
    }
    plan.stop_all = observed.running().next().is_some();
    if anything_ran && (!wanted || policy == "Never") {
        plan.stop_all = true;
        plan.finished = true;
        return;
    }
    let attempt = observed.sandboxes.first().map_or(0, |sandbox| sandbox.config.attempt + 1);
    plan.create_sandbox = Some(attempt);
}

#[derive(PartialEq)]
enum Proceed {
    Go,
    Wait,
    Failed,
}

struct Planner<'a> {
    policy: &'a str,
    observed: &'a Observed,
    memory: &'a dyn Remembered,
    now: Timestamp,
    plan: Plan,
}

impl Plan {
    fn finish(&mut self) {
        *self = Plan { stop_all: true, finished: true, ..Plan::default() };
    }

    /// Whether there is anything to do now.
    pub(crate) fn is_idle(&self) -> bool {
        !self.stop_all
            && self.create_sandbox.is_none()
            && self.stop.is_empty()
            && self.update.is_empty()
            && self.start.is_empty()
    }
}

impl Planner<'_> {
    /// Runs the init containers one after the other; sidecars stay while later ones run.
    fn init_containers(&mut self, spec: &PodSpec, initialized: bool) -> Proceed {
        for container in spec.init_containers.iter().flatten() {
            let current = self.observed.current(&container.name);
            if is_sidecar(container) {
                self.container(container);
                let started = current.is_some_and(|status| {
                    status.state == ContainerState::Running && self.memory.health(status).started
                });
                if !started && !initialized {
                    return Proceed::Wait;
                }
                continue;
            }
            if initialized {
                continue;
            }
            match current {
                Some(status) if status.state == ContainerState::Running => return Proceed::Wait,
                Some(status) if status.state == ContainerState::Exited => match status.exit_code {
                    Some(0) => continue,
                    code if !restarts_after(container, self.policy, code) => {
                        return Proceed::Failed;
                    }
                    _ => {}
                },
                _ => {}
            }
            self.start(container);
            return Proceed::Wait;
        }
        Proceed::Go
    }

    /// Keeps one container as it should be; whether it runs or will.
    fn container(&mut self, container: &Container) -> bool {
        let latest = self.observed.latest(&container.name);
        if let Some(status) = latest.filter(|status| status.state == ContainerState::Running) {
            let changed = status
                .config
                .annotations
                .get(HASH_ANNOTATION)
                .is_some_and(|hash| *hash != definition_hash(container));
            if changed {
                let why =
                    format!("Container {} definition changed, will be restarted", container.name);
                self.plan.stop.push((status.id.clone(), why));
                self.plan.start.push(container.name.clone());
                return true;
            }
            if self.memory.health(status).failed.is_none() {
                self.resize(container, &status.id);
            }
            let Some(probe) = self.memory.health(status).failed else { return true };
            // A probe's kill is a failure.
            let restarts = restarts_after(container, self.policy, Some(137));
            let then = if restarts { "will be restarted" } else { "will be killed" };
            let why = format!("Container {} failed {probe} probe, {then}", container.name);
            self.plan.stop.push((status.id.clone(), why));
            return true;
        }
        if wants_start(container, self.policy, latest) {
            self.start(container);
            return true;
        }
        false
    }

    /// Gives a running container what is allocated to it.
    fn resize(&mut self, container: &Container, id: &str) {
        match self.memory.resize(container, id) {
            Resize::Done => {}
            Resize::Update => self.plan.update.push((id.to_owned(), container.name.clone())),
            Resize::Restart => {
                let why = format!("Container {} resize requires restart", container.name);
                self.plan.stop.push((id.to_owned(), why));
                self.plan.start.push(container.name.clone());
            }
        }
    }

    /// Starts a container, or says how long it has to wait.
    fn start(&mut self, container: &Container) {
        let failed_at = self
            .observed
            .latest(&container.name)
            .filter(|status| status.state == ContainerState::Exited)
            .and_then(|status| status.finished_at);
        let back_off = self.memory.back_off(&container.name);
        match failed_at.and_then(|failed_at| back_off.remaining(failed_at, self.now)) {
            Some(left) => {
                self.plan.backing_off.insert(container.name.clone(), left);
            }
            None => self.plan.start.push(container.name.clone()),
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
