use k8s_openapi::{
    api::core::v1::{
        Affinity, Container, ContainerPort, NodeAffinity, NodeSelector, NodeSelectorRequirement,
        NodeSelectorTerm, Pod, PodSchedulingGate, PodSpec, PodStatus, PreferredSchedulingTerm,
        ResourceRequirements, Toleration,
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};

use super::{insert, metadata, metadata_methods, quantity};

/// A Pod with one container `main` that requests nothing.
pub fn pod(name: &str) -> PodBuilder {
    let container = Container {
        name: "main".to_owned(),
        image: Some("registry.example/app:v1".to_owned()),
        ..Container::default()
    };
    let spec = PodSpec { containers: vec![container], ..PodSpec::default() };
    PodBuilder(Pod { metadata: metadata(Some("default"), name), spec: Some(spec), status: None })
}

/// See [`pod`].
#[derive(Clone, Debug)]
#[must_use]
pub struct PodBuilder(pub(super) Pod);

metadata_methods!(PodBuilder, Pod);

impl PodBuilder {
    fn spec(&mut self) -> &mut PodSpec {
        self.0.spec.get_or_insert_default()
    }

    fn status(&mut self) -> &mut PodStatus {
        self.0.status.get_or_insert_default()
    }

    fn last_container(&mut self) -> &mut Container {
        let containers = &mut self.spec().containers;
        if containers.is_empty() {
            containers.push(Container::default());
        }
        let last = containers.len() - 1;
        &mut containers[last]
    }

    /// In this namespace.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.0.metadata.namespace = Some(namespace.to_owned());
        self
    }

    /// With one more container; resources and ports named afterwards are its.
    pub fn container(mut self, name: &str) -> Self {
        let container = Container { name: name.to_owned(), ..Container::default() };
        self.spec().containers.push(container);
        self
    }

    /// With an init container that requests `amount` of a resource.
    pub fn init(mut self, name: &str, resource: &str, amount: &str) -> Self {
        let requests = [(resource.to_owned(), quantity(amount))].into();
        let container = Container {
            name: name.to_owned(),
            resources: Some(ResourceRequirements {
                requests: Some(requests),
                ..Default::default()
            }),
            ..Container::default()
        };
        self.spec().init_containers.get_or_insert_default().push(container);
        self
    }

    /// Requesting this much CPU: `"2"`, `"500m"`.
    pub fn cpu(self, amount: &str) -> Self {
        self.requests("cpu", amount)
    }

    /// Requesting this much memory: `"1Gi"`.
    pub fn memory(self, amount: &str) -> Self {
        self.requests("memory", amount)
    }

    /// Requesting this much of a resource.
    pub fn requests(mut self, resource: &str, amount: &str) -> Self {
        let resources = self.last_container().resources.get_or_insert_default();
        resources.requests.get_or_insert_default().insert(resource.to_owned(), quantity(amount));
        self
    }

    /// Limited to this much of a resource.
    pub fn limits(mut self, resource: &str, amount: &str) -> Self {
        let resources = self.last_container().resources.get_or_insert_default();
        resources.limits.get_or_insert_default().insert(resource.to_owned(), quantity(amount));
        self
    }

    /// Running this image.
    pub fn image(mut self, image: &str) -> Self {
        self.last_container().image = Some(image.to_owned());
        self
    }

    /// With a container port that is also the host's (TCP).
    pub fn host_port(self, port: i32) -> Self {
        self.host_port_on("", "TCP", port)
    }

    /// With a container port that is also the host's, on one address and protocol.
    pub fn host_port_on(mut self, ip: &str, protocol: &str, port: i32) -> Self {
        let port = ContainerPort {
            container_port: port,
            host_port: Some(port),
            host_ip: Some(ip.to_owned()).filter(|ip| !ip.is_empty()),
            protocol: Some(protocol.to_owned()),
            name: None,
        };
        self.last_container().ports.get_or_insert_default().push(port);
        self
    }

    /// Bound to this node.
    pub fn node(mut self, name: &str) -> Self {
        self.spec().node_name = Some(name.to_owned());
        self
    }

    /// Only on nodes with this label.
    pub fn node_selector(mut self, key: &str, value: &str) -> Self {
        insert(&mut self.spec().node_selector, key, value);
        self
    }

    fn node_affinity(&mut self) -> &mut NodeAffinity {
        let affinity: &mut Affinity = self.spec().affinity.get_or_insert_default();
        affinity.node_affinity.get_or_insert_default()
    }

    /// Only on nodes that meet this label requirement or one added the same way: each call adds a
    /// term. `operator` is `In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt` or `Lt`.
    pub fn requires_node(mut self, key: &str, operator: &str, values: &[&str]) -> Self {
        let term = term(key, operator, values);
        let required =
            &mut self.node_affinity().required_during_scheduling_ignored_during_execution;
        let required =
            required.get_or_insert_with(|| NodeSelector { node_selector_terms: Vec::new() });
        required.node_selector_terms.push(term);
        self
    }

    /// Only on the node of this name, by `matchFields`.
    pub fn requires_node_named(mut self, name: &str) -> Self {
        let requirement = requirement("metadata.name", "In", &[name]);
        let term =
            NodeSelectorTerm { match_expressions: None, match_fields: Some(vec![requirement]) };
        self.node_affinity().required_during_scheduling_ignored_during_execution =
            Some(NodeSelector { node_selector_terms: vec![term] });
        self
    }

    /// Rather on nodes that meet this label requirement.
    pub fn prefers_node(mut self, weight: i32, key: &str, operator: &str, values: &[&str]) -> Self {
        let preference = term(key, operator, values);
        self.node_affinity()
            .preferred_during_scheduling_ignored_during_execution
            .get_or_insert_default()
            .push(PreferredSchedulingTerm { weight, preference });
        self
    }

    /// Tolerating every taint of this key.
    pub fn tolerates(self, key: &str) -> Self {
        self.toleration(key, "Exists", "", "")
    }

    /// With this toleration; an empty `effect` means all.
    pub fn toleration(mut self, key: &str, operator: &str, value: &str, effect: &str) -> Self {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let toleration = Toleration {
            key: some(key),
            operator: some(operator),
            value: some(value),
            effect: some(effect),
            toleration_seconds: None,
        };
        self.spec().tolerations.get_or_insert_default().push(toleration);
        self
    }

    /// With this priority.
    pub fn priority(mut self, priority: i32) -> Self {
        self.spec().priority = Some(priority);
        self
    }

    /// For this scheduler.
    pub fn scheduler(mut self, name: &str) -> Self {
        self.spec().scheduler_name = Some(name.to_owned());
        self
    }

    /// Held back by a scheduling gate.
    pub fn gate(mut self, name: &str) -> Self {
        let gate = PodSchedulingGate { name: name.to_owned() };
        self.spec().scheduling_gates.get_or_insert_default().push(gate);
        self
    }

    /// In this phase.
    pub fn phase(mut self, phase: &str) -> Self {
        self.status().phase = Some(phase.to_owned());
        self
    }

    /// With a condition of this type and status.
    pub fn condition(mut self, kind: &str, status: &str) -> Self {
        let condition = k8s_openapi::api::core::v1::PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            ..Default::default()
        };
        self.status().conditions.get_or_insert_default().push(condition);
        self
    }

    /// Running, and ready since `second` after the epoch.
    pub fn ready_since(mut self, second: i64) -> Self {
        let time = k8s_openapi::jiff::Timestamp::from_second(second);
        let time = time.expect("a time that jiff can represent");
        let condition = k8s_openapi::api::core::v1::PodCondition {
            type_: "Ready".to_owned(),
            status: "True".to_owned(),
            last_transition_time: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time)),
            ..Default::default()
        };
        self.status().conditions.get_or_insert_default().push(condition);
        self.phase("Running")
    }

    /// With this Pod address.
    pub fn ip(mut self, ip: &str) -> Self {
        self.status().pod_ip = Some(ip.to_owned());
        self
    }

    /// Controlled by an object of this kind, name and UID.
    pub fn controlled_by(mut self, api_version: &str, kind: &str, name: &str, uid: &str) -> Self {
        self.0.metadata.owner_references.get_or_insert_default().push(OwnerReference {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        });
        self
    }
}

fn requirement(key: &str, operator: &str, values: &[&str]) -> NodeSelectorRequirement {
    NodeSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
    }
}

fn term(key: &str, operator: &str, values: &[&str]) -> NodeSelectorTerm {
    let requirement = requirement(key, operator, values);
    NodeSelectorTerm { match_expressions: Some(vec![requirement]), match_fields: None }
}
