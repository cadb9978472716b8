use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::{
    pod_info::{HostPort, PodInfo},
    resources::{NonZero, Resources},
};

/// A node and what its Pods take of it: one row of a [`Snapshot`](crate::Snapshot).
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// Its name.
    pub name: Arc<str>,
    /// The node itself.
    pub node: Arc<Node>,
    /// What Pods may request of it in all.
    pub allocatable: Resources,
    /// What its Pods request.
    pub requested: Resources,
    /// What its Pods count as when nodes are scored.
    pub non_zero: NonZero,
    /// Ports that its Pods take.
    pub used_ports: Vec<HostPort>,
    /// Its Pods, those included that are assumed to be bound.
    pub pods: Vec<Arc<PodInfo>>,
    /// Parts of the node that most cycles look at, so that a row is all they touch.
    facts: Facts,
}

#[derive(Clone, Debug, Default)]
struct Facts {
    taints: Vec<Taint>,
    unschedulable: bool,
    has_images: bool,
}

impl Facts {
    fn of(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        let images = node.status.as_ref().and_then(|status| status.images.as_ref());
        Self {
            taints: spec.and_then(|spec| spec.taints.clone()).unwrap_or_default(),
            unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
            has_images: images.is_some_and(|images| !images.is_empty()),
        }
    }
}

/// Which parts of a node an update changed, as far as scheduling looks at them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeChange {
    /// Its labels.
    pub labels: bool,
    /// Its taints.
    pub taints: bool,
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// Its allocatable resources.
    pub allocatable: bool,
    /// The images that it holds.
    pub images: bool,
}

impl NodeChange {
    /// Everything, as for a new node.
    pub const ALL: Self =
        Self { labels: true, taints: true, unschedulable: true, allocatable: true, images: true };

    /// What differs between two states of a node.
    pub fn between(old: &Node, new: &Node) -> Self {
        let spec = |node: &Node| node.spec.clone().unwrap_or_default();
        let (old_spec, new_spec) = (spec(old), spec(new));
        let (old_status, new_status) = (old.status.as_ref(), new.status.as_ref());
        Self {
            labels: old.metadata.labels != new.metadata.labels,
            taints: old_spec.taints != new_spec.taints,
            unschedulable: old_spec.unschedulable.unwrap_or(false)
                != new_spec.unschedulable.unwrap_or(false),
            allocatable: old_status.and_then(|status| status.allocatable.as_ref())
                != new_status.and_then(|status| status.allocatable.as_ref()),
            images: old_status.and_then(|status| status.images.as_ref())
                != new_status.and_then(|status| status.images.as_ref()),
        }
    }

    /// Whether anything changed.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

impl NodeInfo {
    /// A node without Pods.
    pub fn new(node: Arc<Node>) -> Self {
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        Self {
            name: node.metadata.name.as_deref().unwrap_or_default().into(),
            allocatable: Resources::from_map(allocatable),
            requested: Resources::default(),
            non_zero: NonZero::default(),
            used_ports: Vec::new(),
            pods: Vec::new(),
            facts: Facts::of(&node),
            node,
        }
    }

    /// Takes in a newer state of the node.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        self.allocatable = Resources::from_map(allocatable);
        self.facts = Facts::of(&node);
        self.node = node;
    }

    /// Its labels.
    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.node.metadata.labels.as_ref()
    }

    /// The value of one of its labels.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels()?.get(key).map(String::as_str)
    }

    /// Its taints.
    pub fn taints(&self) -> &[Taint] {
        &self.facts.taints
    }

    /// Whether it is cordoned.
    pub fn unschedulable(&self) -> bool {
        self.facts.unschedulable
    }

    /// Whether it reports any images.
    pub fn has_images(&self) -> bool {
        self.facts.has_images
    }

    /// Counts a Pod in.
    pub fn add_pod(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.non_zero.cpu_milli += pod.non_zero.cpu_milli;
        self.non_zero.memory_bytes += pod.non_zero.memory_bytes;
        self.used_ports.extend(pod.host_ports.iter().cloned());
        self.pods.push(pod);
    }

    /// Counts the Pod of this UID out and returns it.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let at = self.pods.iter().position(|pod| &*pod.uid == uid)?;
        let pod = self.pods.swap_remove(at);
        self.requested.subtract(&pod.requests);
        self.non_zero.cpu_milli -= pod.non_zero.cpu_milli;
        self.non_zero.memory_bytes -= pod.non_zero.memory_bytes;
        for port in &pod.host_ports {
            if let Some(at) = self.used_ports.iter().position(|used| used == port) {
                self.used_ports.swap_remove(at);
            }
        }
        Some(pod)
    }
}
