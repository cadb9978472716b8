use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use foldhash::fast::RandomState;
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::{
    affinity::Existing,
    node_info::{NodeChange, NodeInfo},
    pod_info::PodInfo,
};

/// How many changes are remembered, beyond which caches are built anew: at least this many, and
/// at least two for each node.
const LOG_MIN: usize = 1024;

/// The state of the cluster that a scheduling cycle sees: nodes with the Pods on them.
///
/// A cycle borrows it, so nothing changes under it; between cycles it is brought up to date in
/// place, which costs nothing for the nodes that stayed as they were. Every change is numbered and
/// the latest are remembered, so that what was computed from an earlier state can be corrected for
/// the nodes that changed instead of computed anew.
///
/// Nodes are rows of plain integers with the parsed parts of the API object beside them. Columns
/// would make a scan over all nodes faster still, but with the work shared between equal Pods (see
/// [`Scheduler`](crate::Scheduler)) scans are rare, and a plugin that judges a row can be handed a
/// modified one in a preemption dry run.
#[derive(Debug)]
pub struct Snapshot {
    /// Tells snapshots of one process apart.
    id: u64,
    nodes: Vec<NodeInfo>,
    by_name: HashMap<Arc<str>, u32, RandomState>,
    /// Which node each Pod is on, by UID.
    pods: HashMap<Arc<str>, Arc<str>, RandomState>,
    /// Pods on nodes that are not there (yet), by node name.
    homeless: HashMap<Arc<str>, Vec<Arc<PodInfo>>, RandomState>,
    log: VecDeque<Changed>,
    /// The number of the last change.
    version: u64,
    /// The last change that moved rows or touched more than single nodes.
    structure: u64,
    images: HashMap<String, u32, RandomState>,
    /// What the Pods on the nodes say of other Pods.
    affinity: Existing,
    /// Pods for which preemption made room, and where. Few, so a list will do.
    nominated: Vec<(Arc<PodInfo>, Arc<str>)>,
}

/// A change of one node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Changed {
    pub(crate) version: u64,
    pub(crate) node: u32,
    /// Whether the node itself changed; otherwise only its Pods did.
    pub(crate) object: bool,
}

impl Default for Snapshot {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            nodes: Vec::new(),
            by_name: HashMap::default(),
            pods: HashMap::default(),
            homeless: HashMap::default(),
            log: VecDeque::new(),
            version: 0,
            structure: 0,
            images: HashMap::default(),
            affinity: Existing::default(),
            nominated: Vec::new(),
        }
    }
}

impl Snapshot {
    /// A cluster without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// A cluster of these nodes with these Pods on them. Pods that are not bound are left out.
    pub fn with_pods<N: Into<Node>, P: Into<Pod>>(
        nodes: impl IntoIterator<Item = N>,
        pods: impl IntoIterator<Item = P>,
    ) -> Self {
        let mut snapshot: Self = nodes.into_iter().collect();
        for pod in pods {
            snapshot.add_pod(Arc::new(PodInfo::new(Arc::new(pod.into()))));
        }
        snapshot
    }

    /// The nodes, in no particular but a repeatable order.
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        Some(&self.nodes[self.index(name)? as usize])
    }

    pub(crate) fn index(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// The node that a Pod is on, or assumed to be, by the Pod's UID.
    pub fn node_of(&self, uid: &str) -> Option<&str> {
        self.pods.get(uid).map(|name| &**name)
    }

    /// How many nodes hold an image.
    pub fn nodes_with_image(&self, image: &str) -> usize {
        self.images.get(image).map_or(0, |count| *count as usize)
    }

    /// Takes in a node that is new or changed, and says what changed; `None` for a new one.
    pub fn set_node(&mut self, node: Arc<Node>) -> Option<NodeChange> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        if let Some(index) = self.index(name) {
            let change = NodeChange::between(&self.nodes[index as usize].node, &node);
            if change.labels {
                self.count_terms(index, -1);
            }
            let row = &mut self.nodes[index as usize];
            let old = std::mem::replace(&mut row.node, node.clone());
            row.set_node(node);
            if change.labels {
                self.count_terms(index, 1);
            }
            if change.images {
                self.count_images(&old, false);
                let new = self.nodes[index as usize].node.clone();
                self.count_images(&new, true);
                self.restructure();
            } else if change.any() {
                self.changed(index, true);
            }
            return Some(change);
        }

        let has_images = node.status.as_ref().is_some_and(|status| status.images.is_some());
        let mut row = NodeInfo::new(node);
        for pod in self.homeless.remove(&row.name).unwrap_or_default() {
            row.add_pod(pod);
        }
        let index = self.nodes.len() as u32;
        self.by_name.insert(row.name.clone(), index);
        self.count_images(&row.node, true);
        self.nodes.push(row);
        self.count_terms(index, 1);
        if has_images {
            self.restructure();
        } else {
            self.changed(index, true);
        }
        None
    }

    /// Takes out a node. Its Pods are remembered in case it comes back.
    pub fn remove_node(&mut self, name: &str) {
        let Some(index) = self.by_name.remove(name) else { return };
        self.count_terms(index, -1);
        let row = self.nodes.swap_remove(index as usize);
        if let Some(moved) = self.nodes.get(index as usize) {
            self.by_name.insert(moved.name.clone(), index);
        }
        self.count_images(&row.node, false);
        if !row.pods.is_empty() {
            self.homeless.insert(row.name, row.pods);
        }
        self.restructure();
    }

    /// Counts in a Pod on the node that its spec names; a Pod that is there already is replaced.
    pub fn add_pod(&mut self, pod: Arc<PodInfo>) {
        if let Some(node) = pod.node_name().map(Arc::from) {
            self.place(pod, node);
        }
    }

    /// Counts in a Pod as if it were bound to `node`.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        let name = match self.index(node) {
            Some(index) => self.nodes[index as usize].name.clone(),
            None => node.into(),
        };
        self.place(pod, name);
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: Arc<str>) {
        if let Some(before) = self.pods.get(&pod.uid) {
            // Most updates of a bound Pod are of its status.
            if *before == node
                && let Some(index) = self.index(&node)
            {
                let row = &mut self.nodes[index as usize];
                let same = row.pods.iter_mut().find(|it| it.uid == pod.uid);
                if let Some(same) = same
                    && same.requests == pod.requests
                    && same.non_zero == pod.non_zero
                    && same.host_ports == pod.host_ports
                    && same.pod.metadata.labels == pod.pod.metadata.labels
                    && same.priority == pod.priority
                    && same.terms == pod.terms
                {
                    *same = pod;
                    return;
                }
            }
            let uid = pod.uid.clone();
            self.remove_pod(&uid);
        }
        self.pods.insert(pod.uid.clone(), node.clone());
        match self.index(&node) {
            Some(index) => {
                let row = &mut self.nodes[index as usize];
                self.affinity.count(row, &pod, 1);
                row.add_pod(pod);
                self.changed(index, false);
            }
            None => self.homeless.entry(node).or_default().push(pod),
        }
    }

    /// Counts out the Pod of this UID and returns it.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let node = self.pods.remove(uid)?;
        match self.index(&node) {
            Some(index) => {
                let row = &mut self.nodes[index as usize];
                let pod = row.remove_pod(uid);
                if let Some(pod) = &pod {
                    self.affinity.count(row, pod, -1);
                }
                self.changed(index, false);
                pod
            }
            None => {
                let pods = self.homeless.get_mut(&node)?;
                let at = pods.iter().position(|pod| &*pod.uid == uid)?;
                let pod = pods.swap_remove(at);
                if pods.is_empty() {
                    self.homeless.remove(&node);
                }
                Some(pod)
            }
        }
    }

    /// Notes that room on `node` is kept for a Pod; other Pods of the same or a lower priority
    /// count it as if it were there.
    pub fn nominate(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.clear_nomination(&pod.uid);
        self.nominated.push((pod, node.into()));
    }

    /// No room is kept any more for the Pod of this UID.
    pub fn clear_nomination(&mut self, uid: &str) {
        self.nominated.retain(|(pod, _)| &*pod.uid != uid);
    }

    /// The Pods for which room is kept, and on which node.
    pub fn nominated(&self) -> &[(Arc<PodInfo>, Arc<str>)] {
        &self.nominated
    }

    /// What the Pods on the nodes say of other Pods.
    pub(crate) fn affinity(&self) -> &Existing {
        &self.affinity
    }

    /// Counts what the Pods of a node say of other Pods in or out.
    fn count_terms(&mut self, index: u32, by: i64) {
        let row = &self.nodes[index as usize];
        for pod in &row.pods {
            self.affinity.count(row, pod, by);
        }
    }

    fn count_images(&mut self, node: &Node, add: bool) {
        let images = node.status.iter().flat_map(|status| status.images.iter().flatten());
        for name in images.flat_map(|image| image.names.iter().flatten()) {
            if add {
                *self.images.entry(name.clone()).or_insert(0) += 1;
            } else if let Some(count) = self.images.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.images.remove(name);
                }
            }
        }
    }

    fn changed(&mut self, node: u32, object: bool) {
        self.version += 1;
        self.log.push_back(Changed { version: self.version, node, object });
        if self.log.len() > LOG_MIN.max(2 * self.nodes.len()) {
            self.log.pop_front();
        }
    }

    fn restructure(&mut self) {
        self.version += 1;
        self.structure = self.version;
        self.log.clear();
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The changes after `version`, oldest first; `None` when they are no longer known one by one.
    pub(crate) fn changes_since(&self, version: u64) -> Option<impl Iterator<Item = Changed>> {
        if version < self.structure {
            return None;
        }
        // Versions in the log are consecutive.
        let count = (self.version - version) as usize;
        let skip = self.log.len().checked_sub(count)?;
        Some(self.log.iter().skip(skip).copied())
    }
}

impl<N: Into<Node>> FromIterator<N> for Snapshot {
    fn from_iter<I: IntoIterator<Item = N>>(nodes: I) -> Self {
        let mut snapshot = Self::new();
        for node in nodes {
            snapshot.set_node(Arc::new(node.into()));
        }
        snapshot
    }
}

impl<N: Into<Node>, const COUNT: usize> From<[N; COUNT]> for Snapshot {
    fn from(nodes: [N; COUNT]) -> Self {
        nodes.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use rk_api::testing::{node, pod};

    use super::*;

    fn info(pod: impl Into<Pod>) -> Arc<PodInfo> {
        Arc::new(PodInfo::new(Arc::new(pod.into())))
    }

    #[test]
    fn pods_are_counted_in_and_out() {
        let mut snapshot = Snapshot::from([node("n")]);
        let web = info(pod("web").cpu("1").host_port(80).node("n"));
        snapshot.add_pod(web.clone());
        snapshot.add_pod(web.clone());
        snapshot.assume(info(pod("db").cpu("500m")), "n");

        let row = snapshot.node("n").unwrap();
        assert_eq!((row.requested.cpu_milli, row.pods.len(), row.used_ports.len()), (1500, 2, 1));
        assert_eq!(snapshot.node_of("uid-db"), Some("n"));

        snapshot.remove_pod("uid-web");
        snapshot.remove_pod("uid-db");
        let row = snapshot.node("n").unwrap();
        assert!(row.requested.is_zero() && row.pods.is_empty() && row.used_ports.is_empty());
        assert_eq!(row.non_zero, Default::default());
    }

    #[test]
    fn pods_wait_for_a_node_that_comes_later_or_again() {
        let mut snapshot = Snapshot::new();
        snapshot.add_pod(info(pod("web").cpu("1").node("n")));
        snapshot.set_node(Arc::new(node("n").build()));
        assert_eq!(snapshot.node("n").unwrap().pods.len(), 1);

        snapshot.set_node(Arc::new(node("m").build()));
        snapshot.remove_node("n");
        assert!(snapshot.node("n").is_none());
        assert_eq!(&*snapshot.node("m").unwrap().name, "m");

        snapshot.set_node(Arc::new(node("n").build()));
        assert_eq!(snapshot.node("n").unwrap().requested.cpu_milli, 1000);
    }

    #[test]
    fn a_heartbeat_is_no_change() {
        let mut snapshot = Snapshot::from([node("n")]);
        let version = snapshot.version();
        let change = snapshot.set_node(Arc::new(node("n").condition("Ready", "False").build()));
        assert_eq!(change, Some(NodeChange::default()));
        assert_eq!(snapshot.version(), version);

        let change = snapshot.set_node(Arc::new(node("n").label("a", "b").build()));
        assert_eq!(change, Some(NodeChange { labels: true, ..NodeChange::default() }));
        let changes: Vec<_> = snapshot.changes_since(version).unwrap().collect();
        assert_eq!(changes.len(), 1);
        assert!(changes[0].object);

        snapshot.remove_node("n");
        assert!(snapshot.changes_since(version).is_none());
    }
}
