//! Changes what containers may use while they run, as `allocation.rs` decides.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use rk_api::{client::EventType, clock};

use super::{
    allocation::{self, Allocation, Resize, decide},
    observed::Observed,
    resources,
    spec::{full_name, pod_ref},
    status::is_terminal,
    sync::Memory,
    worker::Core,
};
use crate::runtime::{ContainerState, ContainerStatus};

/// Until a resize that was deferred is looked at again although nothing happened.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Until a change of limits is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// The Pods that have less, or more, than their specs ask for, as their node sees them; by UID.
#[derive(Debug, Default)]
pub(super) struct Allocated {
    pods: Mutex<HashMap<String, Arc<Pod>>>,
    /// Held while one is decided on: what two ask for may not fit together. Taken before all other
    /// locks.
    deciding: Mutex<()>,
}

impl Allocated {
    /// Pods with what is allocated to them.
    pub(super) fn view(&self, pods: Vec<Arc<Pod>>) -> Vec<Arc<Pod>> {
        let known = self.pods.lock();
        if known.is_empty() {
            return pods;
        }
        let seen = |pod: Arc<Pod>| {
            let known = pod.metadata.uid.as_ref().and_then(|uid| known.get(uid)).cloned();
            known.unwrap_or(pod)
        };
        pods.into_iter().map(seen).collect()
    }

    fn set(&self, uid: String, pod: Arc<Pod>) {
        self.pods.lock().insert(uid, pod);
    }

    pub(super) fn forget(&self, uid: &str) {
        self.pods.lock().remove(uid);
    }

    fn waiting(&self) -> Vec<String> {
        self.pods.lock().keys().cloned().collect()
    }
}

/// The key of a hold on a container's resize, which is no container's name.
pub(super) fn hold_key(container: &str) -> String {
    format!("resize/{container}")
}

impl Core {
    /// Allocates what a Pod's spec asks for, if it is something else than before and the node has it.
    pub(super) async fn allocate(&self, pod: &Arc<Pod>, memory: &mut Memory) {
        if !memory.allocation_read {
            memory.allocation_read = true;
            memory.allocation = self.read_allocation(pod).await.map(Box::new);
        }
        if memory.allocation.is_none() {
            memory.allocation = Allocation::of_status(pod).map(Box::new);
        }
        let Some(allocation) = &mut memory.allocation else { return };
        let uid = pod_ref(pod).uid;
        if !allocation.differs(pod) {
            allocation.pending = None;
            self.allocated.forget(&uid);
            return;
        }
        let Some(node) = self.nodes.get("", &self.config.name) else { return };
        let verdict = {
            let _deciding = self.allocated.deciding.lock();
            let others = self.allocated.view(self.pods());
            let others: Vec<&Pod> = others
                .iter()
                .map(|other| &**other)
                .filter(|other| other.metadata.uid != pod.metadata.uid && !is_over(other))
                .collect();
            let verdict = decide(pod, &others, &node);
            match verdict {
                Ok(()) => self.allocated.forget(&uid),
                Err(_) => self.allocated.set(uid, allocation.apply(pod)),
            }
            verdict
        };
        let about = self.pod_reference(pod);
        match verdict {
            Ok(()) => {
                allocation.allocate(pod);
                self.write_allocation(pod, memory).await;
                let message = format!("Pod resize started: {}", Allocation::describe(pod, None));
                self.event(&about, EventType::Normal, "ResizeStarted", &message);
                self.look_at_deferred();
            }
            Err(pending) => {
                if allocation.pending.as_ref() != Some(&pending) {
                    let why = Allocation::describe(pod, Some(&pending.message));
                    let message = format!("Pod resize {}: {why}", pending.reason);
                    let reason = format!("Resize{}", pending.reason);
                    self.event(&about, EventType::Warning, &reason, &message);
                }
                allocation.pending = Some(pending);
                memory.hold(&hold_key(""), LOOK_AGAIN, clock::now());
            }
        }
    }

    /// Looks again at Pods whose resizes wait for room.
    pub(super) fn look_at_deferred(&self) {
        for uid in self.allocated.waiting() {
            self.poke(&uid);
        }
    }

    /// Changes the limits of a running container to what is allocated to it.
    pub(super) async fn update_limits(
        &self,
        pod: &Arc<Pod>,
        container: &Container,
        status: &ContainerStatus,
        memory: &mut Memory,
    ) {
        let Some(allocation) = &memory.allocation else { return };
        let name = &container.name;
        let updated = match allocation.lowers_memory(name, &status.id) {
            Some(limit) => self.check_usage(status, limit).await,
            None => Ok(()),
        };
        let updated = match updated {
            Ok(()) => {
                let limits = resources::cgroup(container);
                let changed = self.runtime.update_container_resources(&status.id, limits).await;
                changed.map_err(|error| super::handler::describe(&error))
            }
            Err(why) => Err(why),
        };
        let Some(allocation) = &mut memory.allocation else { return };
        match updated {
            Ok(()) => {
                allocation.made(name, &status.id);
                allocation.error = None;
                self.write_allocation(pod, memory).await;
            }
            Err(why) => {
                if allocation.error.as_ref() != Some(&why) {
                    let shown = Allocation::describe(pod, Some(&why));
                    let message = format!("Pod resize error: {shown}");
                    let about = self.pod_reference(pod);
                    self.event(&about, EventType::Warning, "ResizeError", &message);
                }
                allocation.error = Some(why);
                memory.hold(&hold_key(name), TRY_AGAIN, clock::now());
            }
        }
    }

    /// Whether a container uses no more than would be its limit. As far as can be told: what it uses
    /// may change meanwhile, and a runtime need not know.
    async fn check_usage(&self, status: &ContainerStatus, limit: i64) -> Result<(), String> {
        let name = &status.config.name;
        let stats = self.runtime.list_container_stats().await.unwrap_or_default();
        let sandboxes = self.runtime.list_pod_sandboxes().await.unwrap_or_default();
        let sandbox = sandboxes.iter().find(|sandbox| sandbox.id == status.sandbox_id);
        let used = sandbox.and_then(|sandbox| {
            let own = stats.iter().find(|s| s.pod == sandbox.config.pod && s.name == *name)?;
            i64::try_from(own.memory_working_set_bytes).ok()
        });
        match used.filter(|used| *used > limit) {
            None => Ok(()),
            Some(used) => Err(format!(
                "cannot decrease memory limits: attempting to set container {name:?} memory limit \
                 ({limit}) below current usage ({used})"
            )),
        }
    }

    /// Notes the end of a resize, when all that runs has what is allocated to it.
    pub(super) async fn finish_resize(
        &self,
        pod: &Arc<Pod>,
        observed: &Observed,
        memory: &mut Memory,
    ) {
        let Some(allocation) = &mut memory.allocation else { return };
        if allocation.progress.is_none() {
            return;
        }
        let seen = allocation.apply(pod);
        if !is_in_force(allocation, &seen, observed) {
            return;
        }
        allocation.progress = None;
        allocation.error = None;
        let ids: Vec<&str> = observed.all().map(|container| container.id.as_str()).collect();
        allocation.keep(&ids);
        self.write_allocation(pod, memory).await;
        let message = format!("Pod resize completed: {}", Allocation::describe(&seen, None));
        self.event(&self.pod_reference(pod), EventType::Normal, "ResizeCompleted", &message);
    }

    fn allocation_file(&self, pod: &Pod) -> Option<PathBuf> {
        (!self.runtime.simulated()).then(|| self.pod_dir(pod).join(allocation::FILE))
    }

    async fn read_allocation(&self, pod: &Pod) -> Option<Allocation> {
        let text = tokio::fs::read(self.allocation_file(pod)?).await.ok()?;
        let read = serde_json::from_slice(&text);
        if let Err(error) = &read {
            tracing::warn!(pod = full_name(pod), %error, "what was allocated cannot be read");
        }
        read.ok()
    }

    /// Writes down what is allocated to a Pod that was resized, if it has a directory.
    pub(super) async fn write_allocation(&self, pod: &Pod, memory: &Memory) {
        let (Some(path), Some(allocation)) = (self.allocation_file(pod), &memory.allocation) else {
            return;
        };
        let text = serde_json::to_vec(&**allocation).unwrap_or_default();
        let write = move || {
            let new = path.with_extension("new");
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(&new, text)?;
            std::fs::rename(&new, &path)
        };
        let written = tokio::task::spawn_blocking(write).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(pod = full_name(pod), %error, "what was allocated cannot be written");
        }
    }
}

/// Whether all that runs has what is allocated to it.
fn is_in_force(allocation: &Allocation, pod: &Pod, observed: &Observed) -> bool {
    let spec = pod.spec.iter();
    let mut containers =
        spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    containers.all(|container| {
        let latest = observed.latest(&container.name);
        let running = latest.filter(|latest| latest.state == ContainerState::Running);
        running.is_none_or(|running| allocation.step(container, &running.id) == Resize::Done)
    })
}

/// Whether nothing of a Pod runs or will.
fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase.is_some_and(is_terminal)
}
