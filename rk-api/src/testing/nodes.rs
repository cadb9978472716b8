use k8s_openapi::api::core::v1::{
    ContainerImage, Node, NodeCondition, NodeSpec, NodeStatus, Taint,
};

use super::{metadata, metadata_methods, quantity};

/// A ready Node with 4 CPUs, 32 GiB of memory and room for 110 Pods.
pub fn node(name: &str) -> NodeBuilder {
    let ready = NodeCondition {
        type_: "Ready".to_owned(),
        status: "True".to_owned(),
        ..NodeCondition::default()
    };
    let status = NodeStatus { conditions: Some(vec![ready]), ..NodeStatus::default() };
    let node = Node {
        metadata: metadata(None, name),
        spec: Some(NodeSpec::default()),
        status: Some(status),
    };
    NodeBuilder(node).label("kubernetes.io/hostname", name).cpu("4").memory("32Gi").pods("110")
}

/// See [`node`].
#[derive(Clone, Debug)]
#[must_use]
pub struct NodeBuilder(Node);

metadata_methods!(NodeBuilder, Node);

impl NodeBuilder {
    /// With this much CPU.
    pub fn cpu(self, amount: &str) -> Self {
        self.allocatable("cpu", amount)
    }

    /// With this much memory.
    pub fn memory(self, amount: &str) -> Self {
        self.allocatable("memory", amount)
    }

    /// With room for this many Pods.
    pub fn pods(self, amount: &str) -> Self {
        self.allocatable("pods", amount)
    }

    /// With this much of a resource.
    pub fn allocatable(mut self, resource: &str, amount: &str) -> Self {
        let status = self.0.status.get_or_insert_default();
        for map in [&mut status.allocatable, &mut status.capacity] {
            map.get_or_insert_default().insert(resource.to_owned(), quantity(amount));
        }
        self
    }

    /// With a taint, written as kubectl does: `key=value:Effect` or `key:Effect`.
    pub fn taint(mut self, taint: &str) -> Self {
        let (key, effect) = taint.rsplit_once(':').expect("a taint as key=value:Effect");
        let (key, value) = key.split_once('=').unwrap_or((key, ""));
        let taint = Taint {
            key: key.to_owned(),
            value: Some(value.to_owned()).filter(|value| !value.is_empty()),
            effect: effect.to_owned(),
            time_added: None,
        };
        self.0.spec.get_or_insert_default().taints.get_or_insert_default().push(taint);
        self
    }

    /// Cordoned.
    pub fn unschedulable(mut self) -> Self {
        self.0.spec.get_or_insert_default().unschedulable = Some(true);
        self
    }

    /// With a condition set to this status.
    pub fn condition(mut self, kind: &str, status: &str) -> Self {
        let conditions = self.0.status.get_or_insert_default().conditions.get_or_insert_default();
        conditions.retain(|condition| condition.type_ != kind);
        conditions.push(NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            ..NodeCondition::default()
        });
        self
    }

    /// Holding an image of this size already.
    pub fn image(mut self, name: &str, size_bytes: i64) -> Self {
        let image =
            ContainerImage { names: Some(vec![name.to_owned()]), size_bytes: Some(size_bytes) };
        self.0.status.get_or_insert_default().images.get_or_insert_default().push(image);
        self
    }
}
