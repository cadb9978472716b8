//! Who owns whom: the metadata of all objects, as watches report it. Pure.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// Set on an object that waits for its dependents to be deleted.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Set on an object that waits for its dependents to be let go.
pub(super) const ORPHAN: &str = "orphan";

/// `metadata.uid`.
pub(super) type Uid = String;

/// An object as last seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Node {
    /// As `apps/v1`; the version is that of the watch.
    pub api_version: String,
    pub kind: String,
    /// Empty for a cluster-scoped object.
    pub namespace: String,
    pub name: String,
    pub owners: Vec<OwnerReference>,
    /// Has a deletion timestamp.
    pub deleting: bool,
    pub finalizers: Vec<String>,
    /// `metadata.resourceVersion`.
    pub version: Box<str>,
}

impl Node {
    /// It is being deleted and waits for its dependents to go first.
    pub fn waits_for_dependents(&self) -> bool {
        self.deleting && self.finalizers.iter().any(|finalizer| finalizer == FOREGROUND)
    }

    /// It is being deleted and its dependents are to stay.
    pub fn lets_dependents_go(&self) -> bool {
        self.deleting && self.finalizers.iter().any(|finalizer| finalizer == ORPHAN)
    }

    /// Whether a reference in an object of `namespace` means this object. The version may differ:
    /// the same object is served in several.
    pub fn is_meant_by(&self, reference: &OwnerReference, namespace: &str) -> bool {
        self.kind == reference.kind
            && self.name == reference.name
            && group(&self.api_version) == group(&reference.api_version)
            && (self.namespace.is_empty() || self.namespace == namespace)
    }
}

/// The group of an API version, empty for the core one.
pub(super) fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// All objects by UID, and for each UID, seen or not, who names it as owner.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: HashMap<Uid, Node>,
    dependents: HashMap<Uid, BTreeSet<Uid>>,
    /// Owners that were seen to go and still have dependents. Of one whose kind went with it, the API
    /// server could not say any more that it is gone.
    gone: HashMap<Uid, Node>,
}

impl Graph {
    /// Takes notice of an object, new or changed. Returns the UIDs to look at.
    pub fn observe(&mut self, uid: Uid, node: Node) -> Vec<Uid> {
        let old = self.nodes.insert(uid.clone(), node.clone());
        let mut look_at = Vec::new();
        let before = old.as_ref().map_or(&[][..], |old| &old.owners);

        for owner in &node.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        for owner in before {
            let still = node.owners.iter().find(|now| now.uid == owner.uid);
            if still.is_none() {
                self.drop_edge(&owner.uid, &uid);
            }
            // An owner that waited for this object may be free now.
            let unblocked = still.is_none_or(|now| blocks(owner) && !blocks(now));
            if unblocked && self.is_waiting(&owner.uid) {
                look_at.push(owner.uid.clone());
            }
        }

        let owners_changed = old.as_ref().is_none_or(|old| old.owners != node.owners);
        if owners_changed && node.owners.iter().any(|owner| !self.is_solid(owner, &node.namespace))
        {
            look_at.push(uid.clone());
        }
        let waited = old.as_ref().is_some_and(Node::waits_for_dependents);
        if node.waits_for_dependents() && !waited {
            look_at.extend(self.dependents_of(&uid));
            look_at.push(uid.clone());
        }
        let let_go = old.as_ref().is_some_and(Node::lets_dependents_go);
        if node.lets_dependents_go() && !let_go {
            look_at.push(uid);
        }
        look_at
    }

    /// An object has a new version that is the same as far as the graph goes.
    pub fn touch(&mut self, uid: &str, version: &str) {
        if let Some(node) = self.nodes.get_mut(uid) {
            node.version = version.into();
        }
    }

    /// An object is gone. Returns the UIDs to look at: its dependents, and owners that waited.
    pub fn forget(&mut self, uid: &str) -> Vec<Uid> {
        let node = self.nodes.remove(uid);
        let mut freed = Vec::new();
        for owner in node.iter().flat_map(|node| &node.owners) {
            self.drop_edge(&owner.uid, uid);
            if self.is_waiting(&owner.uid) {
                freed.push(owner.uid.clone());
            }
        }
        // Without its own edges: one that names itself as its owner is nobody's to look at any more.
        let mut look_at = self.dependents_of(uid);
        if let Some(node) = node.filter(|_| !look_at.is_empty()) {
            self.gone.insert(uid.to_owned(), node);
        }
        look_at.extend(freed);
        look_at
    }

    /// An object as last seen.
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// UIDs of the objects that name `uid` as an owner.
    pub fn dependents_of(&self, uid: &str) -> Vec<Uid> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    /// Dependents that an owner in foreground deletion must outlive.
    pub fn blocking_dependents_of(&self, uid: &str) -> Vec<Uid> {
        let blocking = |dependent: &Uid| {
            let node = self.nodes.get(dependent)?;
            node.owners.iter().find(|owner| owner.uid == uid && blocks(owner))
        };
        self.dependents_of(uid)
            .into_iter()
            .filter(|dependent| blocking(dependent).is_some())
            .collect()
    }

    /// Whether the graph knows that the owner exists and stays: nothing need be asked then. When
    /// it goes later, that is seen.
    pub fn is_solid(&self, owner: &OwnerReference, namespace: &str) -> bool {
        let node = self.nodes.get(&owner.uid);
        node.is_some_and(|node| node.is_meant_by(owner, namespace) && !node.waits_for_dependents())
    }

    /// Whether the owner was seen to go. No object ever gets its UID again.
    pub fn is_gone(&self, owner: &OwnerReference, namespace: &str) -> bool {
        self.gone.get(&owner.uid).is_some_and(|node| node.is_meant_by(owner, namespace))
    }

    /// Whether an object has owners and all of them were seen to go.
    pub fn is_orphaned(&self, node: &Node) -> bool {
        !node.owners.is_empty()
            && node.owners.iter().all(|owner| self.is_gone(owner, &node.namespace))
    }

    fn is_waiting(&self, uid: &str) -> bool {
        self.nodes.get(uid).is_some_and(Node::waits_for_dependents)
    }

    fn drop_edge(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
                self.gone.remove(owner);
            }
        }
    }
}

fn blocks(owner: &OwnerReference) -> bool {
    owner.block_owner_deletion == Some(true)
}

/// What an owner reference turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnerState {
    /// There, and staying.
    Solid,
    /// Not there: no such object, or another under its name.
    Dangling,
    /// Being deleted, waiting for its dependents.
    Waiting,
}

/// What to do with an object, given its owners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Keep,
    /// An owner stays, so the object does; the references to the others are taken off.
    DropReferences(Vec<Uid>),
    /// Every owner is gone or waits. In foreground if an owner waits and the object has dependents
    /// of its own: they go first too.
    Delete { foreground: bool },
}

/// Judges an object by the states of its owners.
pub(super) fn judge(owners: &[(OwnerReference, OwnerState)], has_dependents: bool) -> Verdict {
    let in_state = |state| owners.iter().any(|(_, found)| *found == state);
    if owners.is_empty() {
        return Verdict::Keep;
    }
    if in_state(OwnerState::Solid) {
        let others = owners.iter().filter(|(_, state)| *state != OwnerState::Solid);
        let others: Vec<Uid> = others.map(|(owner, _)| owner.uid.clone()).collect();
        return if others.is_empty() { Verdict::Keep } else { Verdict::DropReferences(others) };
    }
    Verdict::Delete { foreground: in_state(OwnerState::Waiting) && has_dependents }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(uid: &str, block: bool) -> OwnerReference {
        OwnerReference {
            api_version: "apps/v1".into(),
            kind: "ReplicaSet".into(),
            name: uid.into(),
            uid: uid.into(),
            block_owner_deletion: Some(block),
            controller: None,
        }
    }

    fn set(uid: &str) -> Node {
        Node {
            api_version: "apps/v1".into(),
            kind: "ReplicaSet".into(),
            namespace: "ns".into(),
            name: uid.into(),
            ..Default::default()
        }
    }

    fn pod(owners: Vec<OwnerReference>) -> Node {
        Node {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: "ns".into(),
            owners,
            ..Default::default()
        }
    }

    fn going(node: Node, finalizer: &str) -> Node {
        Node { deleting: true, finalizers: vec![finalizer.into()], ..node }
    }

    #[test]
    fn a_dependent_is_looked_at_when_its_owner_is_unknown_or_goes() {
        let mut graph = Graph::default();
        assert_eq!(
            graph.observe("p".into(), pod(vec![owner("rs", true)])),
            ["p"],
            "owner not seen yet"
        );
        assert!(graph.observe("rs".into(), set("rs")).is_empty());
        assert!(graph.observe("q".into(), pod(vec![owner("rs", true)])).is_empty(), "owner known");
        assert!(!graph.is_gone(&owner("rs", true), "ns"));
        assert_eq!(graph.forget("rs"), ["p", "q"]);
        assert!(graph.is_gone(&owner("rs", true), "ns"));
        assert!(
            !graph.is_gone(&owner("rs", true), ""),
            "an object of no namespace has no such owner"
        );
        graph.forget("p");
        graph.forget("q");
        assert!(!graph.is_gone(&owner("rs", true), "ns"), "nobody asks any more");
    }

    #[test]
    fn nothing_is_left_of_an_object_that_owned_itself() {
        let mut graph = Graph::default();
        graph.observe("p".into(), pod(vec![owner("p", true)]));
        assert!(graph.forget("p").is_empty());
        assert!(graph.dependents_of("p").is_empty() && graph.gone.is_empty());
    }

    #[test]
    fn an_owner_in_another_namespace_is_not_meant() {
        let mut graph = Graph::default();
        graph.observe("rs".into(), set("rs"));
        let elsewhere = Node { namespace: "other".into(), ..pod(vec![owner("rs", true)]) };
        assert_eq!(graph.observe("p".into(), elsewhere), ["p"]);
    }

    #[test]
    fn foreground_deletion_waits_for_blocking_dependents() {
        let mut graph = Graph::default();
        graph.observe("rs".into(), set("rs"));
        graph.observe("p".into(), pod(vec![owner("rs", true)]));
        graph.observe("q".into(), pod(vec![owner("rs", false)]));
        assert_eq!(graph.observe("rs".into(), going(set("rs"), FOREGROUND)), ["p", "q", "rs"]);
        assert_eq!(graph.blocking_dependents_of("rs"), ["p"]);
        assert_eq!(graph.forget("p"), ["rs"]);
        assert!(graph.blocking_dependents_of("rs").is_empty());
    }

    #[test]
    fn an_owner_is_looked_at_when_a_dependent_stops_blocking() {
        let mut graph = Graph::default();
        graph.observe("p".into(), pod(vec![owner("rs", true)]));
        graph.observe("rs".into(), going(set("rs"), FOREGROUND));
        assert_eq!(graph.observe("p".into(), pod(vec![owner("rs", false)])), ["rs", "p"]);
        assert_eq!(graph.observe("p".into(), pod(vec![])), ["rs"]);
        assert!(graph.dependents_of("rs").is_empty());
    }

    #[test]
    fn orphaning_looks_at_the_owner() {
        let mut graph = Graph::default();
        graph.observe("rs".into(), set("rs"));
        assert_eq!(graph.observe("rs".into(), going(set("rs"), ORPHAN)), ["rs"]);
    }

    #[test]
    fn an_object_goes_when_no_owner_stays() {
        use OwnerState::{Dangling, Solid, Waiting};
        let judged = |states: &[OwnerState], has_dependents| {
            let owners: Vec<_> = states
                .iter()
                .enumerate()
                .map(|(n, state)| (owner(&n.to_string(), true), *state))
                .collect();
            judge(&owners, has_dependents)
        };
        assert_eq!(judged(&[], true), Verdict::Keep);
        assert_eq!(judged(&[Solid], true), Verdict::Keep);
        assert_eq!(
            judged(&[Solid, Dangling, Waiting], true),
            Verdict::DropReferences(vec!["1".into(), "2".into()])
        );
        assert_eq!(judged(&[Dangling, Dangling], true), Verdict::Delete { foreground: false });
        assert_eq!(judged(&[Dangling, Waiting], true), Verdict::Delete { foreground: true });
        assert_eq!(judged(&[Waiting], false), Verdict::Delete { foreground: false });
    }
}

#[cfg(test)]
mod properties;
