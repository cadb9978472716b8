use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec, Toleration};

use crate::{
    affinity::PodTerms,
    resources::{NonZero, Resources, pod_non_zero, pod_requests},
    selector::{NodeTerm, NodeTerms},
};

/// The scheduler that takes Pods which name none.
pub const DEFAULT_SCHEDULER_NAME: &str = "default-scheduler";

/// A Pod with what scheduling asks of it worked out once.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The Pod itself.
    pub pod: Arc<Pod>,
    /// `namespace/name`.
    pub key: Arc<str>,
    /// Its UID, or the key for an object that never had one.
    pub uid: Arc<str>,
    /// What it requests.
    pub requests: Resources,
    /// What it counts as when nodes are scored.
    pub non_zero: NonZero,
    /// Ports that it takes of its node.
    pub host_ports: Vec<HostPort>,
    /// `spec.nodeSelector`, all of which a node's labels must contain.
    pub node_selector: Vec<(String, String)>,
    /// Required node affinity.
    pub required_nodes: Option<NodeTerms>,
    /// Preferred node affinity: weight and term.
    pub preferred_nodes: Vec<(i64, NodeTerm)>,
    /// What it says of other Pods.
    pub terms: PodTerms,
    /// Its priority; 0 when it has none.
    pub priority: i32,
}

/// A port taken of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// The address; `0.0.0.0` is all.
    pub ip: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The number.
    pub port: i32,
}

impl HostPort {
    /// Whether two Pods cannot have these ports on one node.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        const ALL: &str = "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || self.ip == ALL || other.ip == ALL)
    }
}

impl PodInfo {
    /// Works out what scheduling asks of a Pod.
    pub fn new(pod: Arc<Pod>) -> Self {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let key: Arc<str> = format!("{namespace}/{name}").into();
        let uid = pod.metadata.uid.as_deref().map_or_else(|| key.clone(), Arc::from);
        let spec = pod.spec.as_ref();
        let affinity = spec.and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref());
        let required =
            affinity.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref());
        let preferred = affinity
            .and_then(|it| it.preferred_during_scheduling_ignored_during_execution.as_ref());
        let selector = spec.and_then(|spec| spec.node_selector.clone()).unwrap_or_default();
        Self {
            key,
            uid,
            requests: pod_requests(&pod),
            non_zero: pod_non_zero(&pod),
            host_ports: spec.map(host_ports).unwrap_or_default(),
            node_selector: selector.into_iter().collect(),
            required_nodes: required.map(NodeTerms::new),
            preferred_nodes: preferred
                .into_iter()
                .flatten()
                .map(|term| (term.weight.into(), NodeTerm::new(&term.preference)))
                .collect(),
            terms: PodTerms::of(&pod),
            priority: spec.and_then(|spec| spec.priority).unwrap_or(0),
            pod,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// Its spec, if it has one.
    pub fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    /// Its tolerations.
    pub fn tolerations(&self) -> &[Toleration] {
        self.spec().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
    }

    /// The node it is bound to.
    pub fn node_name(&self) -> Option<&str> {
        self.spec()?.node_name.as_deref().filter(|name| !name.is_empty())
    }

    /// The node kept for it by preemption.
    pub fn nominated_node(&self) -> Option<&str> {
        let name = self.pod.status.as_ref()?.nominated_node_name.as_deref()?;
        Some(name).filter(|name| !name.is_empty())
    }

    /// The scheduler that is to place it.
    pub fn scheduler_name(&self) -> &str {
        let name = self.spec().and_then(|spec| spec.scheduler_name.as_deref());
        name.filter(|name| !name.is_empty()).unwrap_or(DEFAULT_SCHEDULER_NAME)
    }

    /// Whether it is being deleted.
    pub fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Whether it has ended, so that it no longer takes anything of its node.
    pub fn is_finished(&self) -> bool {
        let phase = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }
}

impl From<&Pod> for PodInfo {
    fn from(pod: &Pod) -> Self {
        Self::new(Arc::new(pod.clone()))
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|init| init.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).filter_map(|it| it.ports.as_ref());
    ports
        .flatten()
        .filter_map(|port| {
            let some = |text: &Option<String>, otherwise: &str| {
                text.clone().filter(|text| !text.is_empty()).unwrap_or(otherwise.to_owned())
            };
            Some(HostPort {
                port: port.host_port.filter(|port| *port > 0)?,
                ip: some(&port.host_ip, "0.0.0.0"),
                protocol: some(&port.protocol, "TCP"),
            })
        })
        .collect()
}
