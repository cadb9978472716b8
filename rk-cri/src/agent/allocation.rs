//! What a node has set aside for its Pods, and how that changes while they run (KEP-1287).
//!
//! A Pod's CPU and memory are in three states: *desired* is what its spec says; *allocated* is what
//! the node has set aside, and what containers are started with; *actuated* is what a container runs
//! with. For a Pod that was never resized all three are what its spec says, and nothing is kept.
//!
//! # After a restart of the agent
//! The status says what containers run with, as far as it was written. Of a Pod that was resized, a
//! file in its directory says the rest: it is written before the change that it tells of.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerResizePolicy, ContainerStatus as ApiContainerStatus, Node, Pod,
        PodStatus, ResourceRequirements,
    },
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};
use rk_api::meta::quantity::Quantity;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    admission::{Shortage, lacking_amounts},
    plan::is_sidecar,
    resources::pod_request,
};

/// The file in a Pod's directory that says what was allocated to it.
pub(super) const FILE: &str = "allocation.json";

/// What can be changed while a container runs.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// The allocation of a Pod that was resized.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Allocation {
    /// By container name.
    allocated: BTreeMap<String, ResourceRequirements>,
    /// By container id.
    actuated: BTreeMap<String, ResourceRequirements>,
    /// Why the spec's resources are not allocated.
    #[serde(skip)]
    pub(crate) pending: Option<Pending>,
    /// The generation of the Pod whose resources are being put into force.
    pub(crate) progress: Option<i64>,
    /// Why they cannot be put into force.
    #[serde(skip)]
    pub(crate) error: Option<String>,
}

/// Why a Pod's desired resources are not allocated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    /// `Deferred` or `Infeasible`.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// The generation of the Pod that this is about.
    pub(crate) generation: Option<i64>,
}

/// What is to be done so that a running container has what is allocated to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Resize {
    /// Nothing.
    #[default]
    Done,
    /// Its limits are changed.
    Update,
    /// It is started again, as it wants it.
    Restart,
}

/// The containers whose resources can change: not init containers that end.
fn resizable(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    let init = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars = init.filter(|container| is_sidecar(container));
    spec.into_iter().flat_map(|spec| &spec.containers).chain(sidecars)
}

fn statuses(status: &PodStatus) -> impl Iterator<Item = &ApiContainerStatus> {
    let all = [&status.container_statuses, &status.init_container_statuses];
    all.into_iter().flatten().flatten()
}

type Amounts = Option<BTreeMap<String, ApiQuantity>>;

fn amount(amounts: &Amounts, name: &str) -> Option<Quantity> {
    Quantity::parse(&amounts.as_ref()?.get(name)?.0).ok()
}

fn is_same(a: &Amounts, b: &Amounts, name: &str) -> bool {
    // Two ways to write an amount are no change.
    let millis = |amounts: &Amounts| amount(amounts, name).map(|amount| amount.millis());
    millis(a) == millis(b)
}

/// Whether two containers' CPU and memory are the same.
fn same(a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    RESIZABLE
        .iter()
        .all(|name| is_same(&a.requests, &b.requests, name) && is_same(&a.limits, &b.limits, name))
}

fn of(container: &Container) -> ResourceRequirements {
    container.resources.clone().unwrap_or_default()
}

/// The id without the runtime's name before it.
fn bare(id: &str) -> &str {
    id.split_once("://").map_or(id, |(_, id)| id)
}

impl Allocation {
    /// What a Pod was allocated as its status tells; `None` where that is what its spec says.
    pub(crate) fn of_status(pod: &Pod) -> Option<Self> {
        let status = pod.status.as_ref()?;
        let told = |container: &Container| {
            let found = statuses(status).find(|status| status.name == container.name)?;
            let id = found.container_id.as_deref().filter(|id| !id.is_empty())?;
            Some((bare(id), found.resources.as_ref()?))
        };
        let none = ResourceRequirements::default();
        let differs = |container: &Container| {
            let desired = container.resources.as_ref().unwrap_or(&none);
            told(container).is_some_and(|(_, resources)| !same(resources, desired))
        };
        // Mostly not, and then nothing is to be made.
        if !resizable(pod).any(differs) {
            return None;
        }
        let mut allocation = Self::default();
        for container in resizable(pod) {
            let resources = match told(container) {
                Some((id, resources)) => {
                    allocation.actuated.insert(id.to_owned(), resources.clone());
                    resources.clone()
                }
                None => of(container),
            };
            allocation.allocated.insert(container.name.clone(), resources);
        }
        Some(allocation)
    }

    /// Whether the spec asks for something else than what is allocated.
    pub(crate) fn differs(&self, pod: &Pod) -> bool {
        resizable(pod).any(|container| {
            let allocated = self.allocated.get(&container.name);
            allocated.is_some_and(|allocated| !same(allocated, &of(container)))
        })
    }

    /// Allocates what the spec asks for.
    pub(crate) fn allocate(&mut self, pod: &Pod) {
        for container in resizable(pod) {
            self.allocated.insert(container.name.clone(), of(container));
        }
        self.pending = None;
        self.error = None;
        self.progress = Some(pod.metadata.generation.unwrap_or_default());
    }

    /// Notes that a container was made, with what is allocated to it.
    pub(crate) fn made(&mut self, name: &str, id: &str) {
        if let Some(allocated) = self.allocated.get(name) {
            self.actuated.insert(id.to_owned(), allocated.clone());
        }
    }

    /// Forgets all containers but these.
    pub(crate) fn keep(&mut self, ids: &[&str]) {
        self.actuated.retain(|id, _| ids.contains(&id.as_str()));
    }

    /// What is allocated to a container.
    pub(crate) fn allocated(&self, name: &str) -> Option<&ResourceRequirements> {
        self.allocated.get(name)
    }

    /// What a container runs with.
    pub(crate) fn actuated(&self, id: &str) -> Option<&ResourceRequirements> {
        self.actuated.get(id)
    }

    /// The Pod with what is allocated to it in place of what it asks for.
    pub(crate) fn apply(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        if !self.differs(pod) {
            return pod.clone();
        }
        let mut pod = Pod::clone(pod);
        if let Some(spec) = &mut pod.spec {
            let init = spec.init_containers.iter_mut().flatten();
            for container in spec.containers.iter_mut().chain(init) {
                if let Some(allocated) = self.allocated.get(&container.name) {
                    container.resources = Some(allocated.clone());
                }
            }
        }
        Arc::new(pod)
    }

    /// What a running container needs to have what is allocated to it.
    pub(crate) fn step(&self, container: &Container, id: &str) -> Resize {
        let (Some(allocated), Some(actuated)) =
            (self.allocated.get(&container.name), self.actuated.get(id))
        else {
            return Resize::Done;
        };
        let changed: Vec<&str> = RESIZABLE
            .into_iter()
            .filter(|name| {
                !is_same(&allocated.requests, &actuated.requests, name)
                    || !is_same(&allocated.limits, &actuated.limits, name)
            })
            .collect();
        let restarts = |policy: &ContainerResizePolicy| {
            policy.restart_policy == "RestartContainer"
                && changed.contains(&policy.resource_name.as_str())
        };
        match changed.is_empty() {
            true => Resize::Done,
            false if container.resize_policy.iter().flatten().any(restarts) => Resize::Restart,
            false => Resize::Update,
        }
    }

    /// What would be the memory limit of a container that has more now, in bytes.
    pub(crate) fn lowers_memory(&self, name: &str, id: &str) -> Option<i64> {
        let limit = |resources: Option<&ResourceRequirements>| {
            amount(&resources?.limits, "memory").map(|amount| amount.value())
        };
        let (old, new) = (limit(self.actuated.get(id)), limit(self.allocated.get(name))?);
        old.is_none_or(|old| new < old).then_some(new)
    }

    /// What events about a resize carry: the resources, and what went wrong.
    pub(crate) fn describe(pod: &Pod, error: Option<&str>) -> String {
        let spec = pod.spec.as_ref();
        let shown = |containers: &[Container]| -> Vec<Value> {
            let one =
                |container: &Container| json!({"name": container.name, "resources": of(container)});
            containers.iter().map(one).collect()
        };
        let mut all = Map::new();
        all.insert(
            "containers".to_owned(),
            spec.map_or_else(Vec::new, |s| shown(&s.containers)).into(),
        );
        let sidecars: Vec<Container> = spec
            .into_iter()
            .flat_map(|spec| spec.init_containers.iter().flatten())
            .filter(|container| is_sidecar(container))
            .cloned()
            .collect();
        if !sidecars.is_empty() {
            all.insert("initContainers".to_owned(), shown(&sidecars).into());
        }
        all.insert("generation".to_owned(), pod.metadata.generation.unwrap_or_default().into());
        if let Some(error) = error {
            all.insert("error".to_owned(), error.into());
        }
        Value::Object(all).to_string()
    }
}

/// Whether a node can give a Pod what its spec asks for, beside what `others` have allocated.
pub(crate) fn decide(pod: &Pod, others: &[&Pod], node: &Node) -> Result<(), Pending> {
    let pending =
        |reason, message| Err(Pending { reason, message, generation: pod.metadata.generation });
    let allocatable = node.status.as_ref().map(|status| &status.allocatable);
    let has = |name: &str| allocatable.and_then(|amounts| amount(amounts, name));
    for name in ["memory", "cpu"] {
        let requested = pod_request(pod, name);
        let capacity =
            has(name).map_or(0, |has| if name == "cpu" { has.millis() } else { has.value() });
        if requested > capacity {
            let message = format!(
                "Node didn't have enough capacity: {name}, requested: {requested}, capacity: {capacity}"
            );
            return pending("Infeasible", message);
        }
    }
    // It is on the node already: it needs no further place.
    match lacking_amounts(pod, others, node) {
        None => Ok(()),
        Some(Shortage { name, requested, used, capacity }) => pending(
            "Deferred",
            format!(
                "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, \
                 capacity: {capacity}"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(cpu: &str, memory: &str) -> Pod {
        let amounts = json!({"cpu": cpu, "memory": memory});
        serde_json::from_value(json!({
            "metadata": {"name": "p", "generation": 2},
            "spec": {"containers": [{
                "name": "c",
                "resources": {"requests": amounts, "limits": amounts},
                "resizePolicy": [
                    {"resourceName": "cpu", "restartPolicy": "NotRequired"},
                    {"resourceName": "memory", "restartPolicy": "RestartContainer"},
                ],
            }]},
        }))
        .unwrap()
    }

    /// `pod` with a container that runs with the resources of `with`.
    fn running(pod: &Pod, with: &Pod) -> Pod {
        let resources = with.spec.as_ref().unwrap().containers[0].resources.clone();
        let mut pod = pod.clone();
        pod.status = Some(
            serde_json::from_value(json!({"containerStatuses": [{
                "name": "c", "containerID": "rk://1", "image": "i", "imageID": "i", "ready": true,
                "restartCount": 0, "resources": resources,
            }]}))
            .unwrap(),
        );
        pod
    }

    fn node(cpu: &str, memory: &str) -> Node {
        let allocatable = json!({"cpu": cpu, "memory": memory, "pods": "1"});
        serde_json::from_value(json!({"metadata": {}, "status": {"allocatable": allocatable}}))
            .unwrap()
    }

    #[test]
    fn a_pod_that_was_not_resized_keeps_nothing() {
        let small = pod("1", "1Gi");
        assert_eq!(Allocation::of_status(&small), None);
        assert_eq!(Allocation::of_status(&running(&small, &small)), None);
        // The same, written otherwise.
        assert_eq!(Allocation::of_status(&running(&small, &pod("1000m", "1024Mi"))), None);
    }

    #[test]
    fn what_is_allocated_follows_the_spec_only_when_the_node_says_so() {
        let (small, large) = (pod("1", "1Gi"), pod("2", "1Gi"));
        let resized = Arc::new(running(&large, &small));
        let mut allocation = Allocation::of_status(&resized).unwrap();
        assert!(allocation.differs(&resized));
        let seen = allocation.apply(&resized);
        assert_eq!(seen.spec.as_ref().unwrap().containers, small.spec.unwrap().containers);
        let container = &large.spec.as_ref().unwrap().containers[0];
        assert_eq!(allocation.step(container, "1"), Resize::Done);

        allocation.allocate(&resized);
        assert!(!allocation.differs(&resized));
        assert_eq!(allocation.progress, Some(2));
        assert_eq!(allocation.step(container, "1"), Resize::Update);

        allocation.made("c", "1");
        assert_eq!(allocation.step(container, "1"), Resize::Done);
        let kept: Allocation =
            serde_json::from_slice(&serde_json::to_vec(&allocation).unwrap()).unwrap();
        assert_eq!(kept, allocation);
    }

    #[test]
    fn a_container_is_started_again_if_its_policy_for_what_changed_says_so() {
        let resized = running(&pod("2", "2Gi"), &pod("1", "1Gi"));
        let mut allocation = Allocation::of_status(&resized).unwrap();
        allocation.allocate(&resized);
        let container = &resized.spec.as_ref().unwrap().containers[0];
        assert_eq!(allocation.step(container, "1"), Resize::Restart);
        // What the node does not know of was made with what is allocated.
        assert_eq!(allocation.step(container, "2"), Resize::Done);
    }

    #[test]
    fn only_less_memory_than_before_has_to_be_looked_at() {
        let lowers = |from: &Pod, to: &Pod| {
            let resized = running(to, from);
            let mut allocation = Allocation::of_status(&resized).unwrap();
            allocation.allocate(&resized);
            allocation.lowers_memory("c", "1")
        };
        assert_eq!(lowers(&pod("1", "2Gi"), &pod("1", "1Gi")), Some(1 << 30));
        assert_eq!(lowers(&pod("1", "1Gi"), &pod("1", "2Gi")), None);
        assert_eq!(lowers(&pod("1", "1Gi"), &pod("2", "1Gi")), None);
    }

    #[test]
    fn a_node_defers_what_may_fit_later_and_refuses_what_never_will() {
        let node = node("4", "4Gi");
        let other = pod("3", "1Gi");
        assert_eq!(decide(&pod("4", "1Gi"), &[], &node), Ok(()));
        let deferred = decide(&pod("2", "1Gi"), &[&other], &node).unwrap_err();
        assert_eq!(
            (deferred.reason, &*deferred.message, deferred.generation),
            (
                "Deferred",
                "Node didn't have enough resource: cpu, requested: 2000, used: 3000, capacity: 4000",
                Some(2)
            )
        );
        let infeasible = decide(&pod("5", "1Gi"), &[], &node).unwrap_err();
        assert_eq!(
            (infeasible.reason, &*infeasible.message),
            (
                "Infeasible",
                "Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000"
            )
        );
    }

    #[test]
    fn events_tell_the_resources() {
        let text = Allocation::describe(&pod("1", "1Gi"), Some("no room"));
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["containers"][0]["resources"]["limits"]["cpu"], "1");
        assert_eq!((&value["generation"], &value["error"]), (&json!(2), &json!("no room")));
    }
}
