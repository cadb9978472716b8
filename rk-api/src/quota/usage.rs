//! What an object uses of a quota's resources.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use k8s_openapi::{
    api::{
        core::v1::{
            Container, PersistentVolumeClaim, Pod, PodAffinityTerm, PodSpec,
            ScopedResourceSelectorRequirement, Service,
        },
        resource::v1::ResourceClaim,
    },
    jiff::{SignedDuration, Timestamp},
};

use super::pod_resources::{self, Amounts, add, amounts};
use crate::{
    meta::quantity::Quantity,
    resources::{Object, Resource, qos_class},
};

/// Core kinds whose number has a name of its own, next to `count/...`.
const COUNTED: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];
/// Of these, a quota wants every container to say how much it is.
const SPECIFIED: &[&str] =
    &["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
/// What a quota counts of a Pod besides extended resources.
const COMPUTE: &[&str] = &["cpu", "memory", "ephemeral-storage"];
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";
/// What a quota counts of claims of a storage class.
const BY_CLASS: &[&str] = &["persistentvolumeclaims", "requests.storage"];
/// The older place of a claim's storage class.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
/// What follows the name of a device class.
const DEVICES: &str = ".deviceclass.resource.k8s.io/devices";
/// Of how many devices a claim can be that asks for all.
const DEVICES_MAX: i64 = 32;
const RESOURCE_CLAIMS: &str = "resourceclaims.resource.k8s.io";

/// An object that a quota may be about.
#[derive(Clone, Debug)]
pub struct Item<'a> {
    /// The plural of its kind with the group: `pods`, `deployments.apps`.
    qualified: Cow<'a, str>,
    object: Typed<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Typed<'a> {
    Pod(&'a Pod),
    Service(&'a Service),
    Claim(&'a PersistentVolumeClaim),
    ResourceClaim(&'a ResourceClaim),
    Other,
}

impl<'a> Item<'a> {
    /// An object of any kind.
    pub fn new(resource: &Resource, object: &'a dyn Object) -> Self {
        let any = object.as_any();
        let object = if let Some(pod) = any.downcast_ref() {
            Typed::Pod(pod)
        } else if let Some(service) = any.downcast_ref() {
            Typed::Service(service)
        } else if let Some(claim) = any.downcast_ref() {
            Typed::Claim(claim)
        } else if let Some(claim) = any.downcast_ref() {
            Typed::ResourceClaim(claim)
        } else {
            Typed::Other
        };
        Self { qualified: resource.qualified().into(), object }
    }

    /// A Pod.
    pub fn pod(pod: &'a Pod) -> Self {
        Self { qualified: "pods".into(), object: Typed::Pod(pod) }
    }

    /// A Service.
    pub fn service(service: &'a Service) -> Self {
        Self { qualified: "services".into(), object: Typed::Service(service) }
    }

    /// A claim.
    pub fn claim(claim: &'a PersistentVolumeClaim) -> Self {
        Self { qualified: "persistentvolumeclaims".into(), object: Typed::Claim(claim) }
    }

    /// A claim of devices.
    pub fn resource_claim(claim: &'a ResourceClaim) -> Self {
        Self { qualified: RESOURCE_CLAIMS.into(), object: Typed::ResourceClaim(claim) }
    }

    /// How a quota calls the number of such objects.
    fn count(&self) -> String {
        format!("count/{}", self.qualified)
    }

    /// The older name of that number.
    fn old_count(&self) -> Option<&str> {
        // A kind of a named group has its group in the name, so this is about core kinds.
        COUNTED.contains(&self.qualified.as_ref()).then_some(&self.qualified)
    }

    /// Whether such an object can use the resource.
    pub fn knows(&self, resource: &str) -> bool {
        if resource == self.count() || Some(resource) == self.old_count() {
            return true;
        }
        match &self.object {
            Typed::Pod(_) => is_of_pods(resource),
            Typed::Service(_) => is_of_services(resource),
            Typed::Claim(_) => is_of_claims(resource),
            Typed::ResourceClaim(_) => resource.ends_with(DEVICES),
            Typed::Other => false,
        }
    }

    /// Whether the object is in a scope.
    pub fn is_in(&self, scope: &ScopedResourceSelectorRequirement) -> bool {
        match (&self.object, scope.scope_name.as_str()) {
            (Typed::Pod(pod), name) => {
                pod.spec.as_ref().is_some_and(|spec| pod_is_in(spec, name, scope))
            }
            (Typed::Claim(claim), "VolumeAttributesClass") => {
                let classes = attributes_classes(claim);
                match classes.is_empty() {
                    true => selects(scope, ""),
                    // One that it had, or is to have, counts as much as the one that it has.
                    false => classes.iter().any(|class| selects(scope, class)),
                }
            }
            _ => false,
        }
    }

    /// Whether both are in the same scopes, whatever a quota's scopes are.
    pub fn same_scopes(&self, other: &Item<'_>) -> bool {
        match (&self.object, &other.object) {
            (Typed::Pod(one), Typed::Pod(other)) => {
                one.spec.as_ref().map(scope_facts) == other.spec.as_ref().map(scope_facts)
            }
            (Typed::Claim(one), Typed::Claim(other)) => {
                attributes_classes(one) == attributes_classes(other)
            }
            _ => true,
        }
    }

    /// An error when a container does not say how much of a resource it wants.
    pub fn check_specified(&self, restricted: &[&String]) -> Result<(), String> {
        let Typed::Pod(pod) = &self.object else { return Ok(()) };
        let Some(spec) = &pod.spec else { return Ok(()) };
        let required: Vec<&str> = restricted.iter().map(|resource| resource.as_str()).collect();
        let required = required.into_iter().filter(|resource| SPECIFIED.contains(resource));
        // What is said of the Pod as a whole is said of its containers.
        let whole = spec.resources.as_ref().map(|resources| {
            by_quota_names(
                &amounts(resources.requests.as_ref()),
                &amounts(resources.limits.as_ref()),
            )
        });
        let whole = whole.unwrap_or_default();
        let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for resource in required.filter(|resource| !whole.contains_key(*resource)) {
            let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
            for container in containers.filter(|one| !of_container(one).contains_key(resource)) {
                missing.entry(resource).or_default().insert(&container.name);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let each = missing.into_iter().map(|(resource, containers)| {
            let containers: Vec<_> = containers.into_iter().collect();
            format!("{resource} for: {}", containers.join(","))
        });
        Err(format!("must specify {}", each.collect::<Vec<_>>().join("; ")))
    }

    /// What the object uses at this time.
    pub fn usage(&self, now: Timestamp) -> Amounts {
        let one = Quantity::new(1, 0);
        let mut usage = Amounts::from([(self.count(), one)]);
        if let Typed::Pod(pod) = &self.object
            && has_let_go(pod, now)
        {
            return usage;
        }
        usage.extend(self.old_count().map(|name| (name.to_owned(), one)));
        match &self.object {
            Typed::Pod(pod) => usage.extend(of_pod(pod)),
            Typed::Service(service) => usage.extend(of_service(service)),
            Typed::Claim(claim) => usage.extend(of_claim(claim)),
            Typed::ResourceClaim(claim) => usage.extend(of_resource_claim(claim)),
            Typed::Other => {}
        }
        usage
    }
}

/// A Pod that has ended still exists and uses nothing else. So does one that should be gone for
/// longer than it was given to end: its node may be lost.
fn has_let_go(pod: &Pod, now: Timestamp) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let (deleted, grace) =
        (pod.metadata.deletion_timestamp.as_ref(), pod.metadata.deletion_grace_period_seconds);
    let overdue = deleted.zip(grace).is_some_and(|(deleted, grace)| {
        now.duration_since(deleted.0) > SignedDuration::from_secs(grace)
    });
    overdue || matches!(phase, Some("Succeeded" | "Failed"))
}

/// The kind whose objects use a resource of a quota.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tracked {
    /// Pods: their number, what they request and are limited to.
    Pods,
    /// Services: their number, node ports and load balancers.
    Services,
    /// Claims of volumes: their number, size and classes.
    Claims,
    /// Claims of devices: their number, and how many devices of which classes.
    ResourceClaims,
    /// Any other kind, of which only the number counts.
    Others {
        /// The group, empty for the core group.
        group: String,
        /// The plural.
        plural: String,
    },
}

impl Tracked {
    /// Who uses a resource of this name; `None` for a name that nothing uses.
    pub fn by(resource: &str) -> Option<Self> {
        let counted = resource.strip_prefix("count/");
        let plural = counted.or(COUNTED.contains(&resource).then_some(resource));
        match plural {
            Some("pods") => Some(Self::Pods),
            Some("services") => Some(Self::Services),
            Some("persistentvolumeclaims") => Some(Self::Claims),
            Some(RESOURCE_CLAIMS) => Some(Self::ResourceClaims),
            Some(other) => {
                let (plural, group) = other.split_once('.').unwrap_or((other, ""));
                Some(Self::Others { group: group.to_owned(), plural: plural.to_owned() })
            }
            None if is_of_services(resource) => Some(Self::Services),
            None if is_of_claims(resource) => Some(Self::Claims),
            None if resource.ends_with(DEVICES) => Some(Self::ResourceClaims),
            None if is_of_pods(resource) => Some(Self::Pods),
            None => None,
        }
    }
}

fn is_of_services(resource: &str) -> bool {
    matches!(resource, "services.nodeports" | "services.loadbalancers")
}

fn is_of_claims(resource: &str) -> bool {
    let by_class = resource.split_once(OF_CLASS).map(|(_, what)| what);
    resource == "requests.storage" || by_class.is_some_and(|what| BY_CLASS.contains(&what))
}

fn is_of_pods(resource: &str) -> bool {
    let amount = resource.strip_prefix("requests.").or(resource.strip_prefix("limits."));
    COMPUTE.contains(&amount.unwrap_or(resource))
        || amount.unwrap_or(resource).starts_with("hugepages-")
        // Extended resources are only limited by what is requested of them.
        || resource.strip_prefix("requests.").is_some_and(|name| name.contains('/'))
}

/// Requests and limits as a quota calls them.
fn by_quota_names(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut named = Amounts::new();
    for (name, amount) in requests {
        if COMPUTE.contains(&name.as_str()) || name.starts_with("hugepages-") {
            named.insert(name.clone(), *amount);
        }
        named.insert(format!("requests.{name}"), *amount);
    }
    for (name, amount) in limits.iter().filter(|(name, _)| COMPUTE.contains(&name.as_str())) {
        named.insert(format!("limits.{name}"), *amount);
    }
    named
}

fn of_container(container: &Container) -> Amounts {
    let resources = container.resources.clone().unwrap_or_default();
    by_quota_names(&amounts(resources.requests.as_ref()), &amounts(resources.limits.as_ref()))
}

fn of_pod(pod: &Pod) -> Amounts {
    let (mut requests, mut limits) = (pod_resources::requests(pod), pod_resources::limits(pod));
    let overhead = pod_resources::overhead(pod);
    add(&mut requests, &overhead);
    // Without a limit there is none for the overhead either.
    let limited: Amounts =
        overhead.into_iter().filter(|(name, _)| limits.contains_key(name)).collect();
    add(&mut limits, &limited);
    by_quota_names(&requests, &limits)
}

fn of_service(service: &Service) -> Amounts {
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let is_balanced = spec.type_.as_deref() == Some("LoadBalancer");
    let node_ports = match spec.type_.as_deref() {
        Some("NodePort") => ports.len(),
        // Such a Service may do without them, but for those that it names.
        Some("LoadBalancer") if spec.allocate_load_balancer_node_ports == Some(false) => {
            ports.iter().filter(|port| port.node_port.unwrap_or(0) != 0).count()
        }
        Some("LoadBalancer") => ports.len(),
        _ => 0,
    };
    let number = |count: usize| Quantity::new(i64::try_from(count).unwrap_or(i64::MAX), 0);
    Amounts::from([
        ("services.nodeports".to_owned(), number(node_ports)),
        ("services.loadbalancers".to_owned(), number(usize::from(is_balanced))),
    ])
}

fn of_claim(claim: &PersistentVolumeClaim) -> Amounts {
    let spec = claim.spec.clone().unwrap_or_default();
    let resources = spec.resources.unwrap_or_default();
    let size = amounts(resources.requests.as_ref()).get("storage").copied();
    // While a claim shrinks back it still uses what it was given.
    let given = claim.status.as_ref().and_then(|status| status.allocated_resources.as_ref());
    let given = amounts(given).get("storage").copied();
    let size = size.map(|size| given.map_or(size, |given| size.max(given)));
    // A quota has whole bytes.
    let size = size.map(|size| match size.integer() {
        Some(_) => size,
        None => Quantity::new(size.value(), 0).with_format(size.format()),
    });
    let mut usage = Amounts::new();
    let annotations = claim.metadata.annotations.as_ref();
    let older = annotations.and_then(|annotations| annotations.get(CLASS_ANNOTATION)).cloned();
    let class = older.or(spec.storage_class_name).filter(|class| !class.is_empty());
    if let Some(class) = &class {
        let one = Quantity::new(1, 0);
        usage.insert(format!("{class}{OF_CLASS}persistentvolumeclaims"), one);
    }
    if let Some(size) = size {
        usage.insert("requests.storage".to_owned(), size);
        if let Some(class) = class {
            usage.insert(format!("{class}{OF_CLASS}requests.storage"), size);
        }
    }
    usage
}

/// The VolumeAttributesClasses of a claim: the one that it asks for, the one that it has, and the one
/// that it is being given.
fn attributes_classes(claim: &PersistentVolumeClaim) -> BTreeSet<&str> {
    let asked = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let status = claim.status.as_ref();
    let current = status.and_then(|it| it.current_volume_attributes_class_name.as_deref());
    let target = status.and_then(|it| it.modify_volume_status.as_ref());
    let target = target.and_then(|it| it.target_volume_attributes_class_name.as_deref());
    let classes = [asked, current, target].into_iter().flatten();
    classes.filter(|class| !class.is_empty()).collect()
}

/// How many devices of which classes a claim can be given (KEP-4381, "Resource quota"): of a request
/// with alternatives, the most of each class.
fn of_resource_claim(claim: &ResourceClaim) -> Amounts {
    let mut usage = Amounts::new();
    let requests = claim
        .spec
        .iter()
        .flat_map(|spec| &spec.devices)
        .flat_map(|devices| devices.requests.iter().flatten());
    for request in requests {
        let exactly = request
            .exactly
            .iter()
            .map(|exact| (&exact.device_class_name, exact.allocation_mode.as_deref(), exact.count));
        let alternatives = request
            .first_available
            .iter()
            .flatten()
            .map(|sub| (&sub.device_class_name, sub.allocation_mode.as_deref(), sub.count));
        let mut most = Amounts::new();
        for (class, mode, count) in exactly.chain(alternatives) {
            let number = match mode {
                Some("ExactCount") | None => count.unwrap_or(1),
                Some("All") => DEVICES_MAX,
                Some(_) => continue,
            };
            let number = Quantity::new(number, 0);
            let known = most.entry(format!("{class}{DEVICES}")).or_insert(number);
            *known = (*known).max(number);
        }
        add(&mut usage, &most);
    }
    usage
}

fn pod_is_in(spec: &PodSpec, name: &str, scope: &ScopedResourceSelectorRequirement) -> bool {
    let ends = spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0);
    let is_best_effort = || qos_class(spec) == "BestEffort";
    match name {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => is_best_effort(),
        "NotBestEffort" => !is_best_effort(),
        "PriorityClass" => selects(scope, spec.priority_class_name.as_deref().unwrap_or_default()),
        "CrossNamespacePodAffinity" => crosses_namespaces(spec),
        _ => false,
    }
}

/// All that scopes look at.
fn scope_facts(spec: &PodSpec) -> (bool, &str, Option<&str>, bool) {
    let ends = spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0);
    (ends, qos_class(spec), spec.priority_class_name.as_deref(), crosses_namespaces(spec))
}

/// Whether a selector of classes selects this one; an empty name is none.
fn selects(scope: &ScopedResourceSelectorRequirement, class: &str) -> bool {
    let has = scope.values.iter().flatten().any(|value| value == class);
    match scope.operator.as_str() {
        "Exists" => !class.is_empty(),
        "DoesNotExist" => class.is_empty(),
        "In" => !class.is_empty() && has,
        "NotIn" => class.is_empty() || !has,
        _ => false,
    }
}

/// Whether the Pod wants to be near, or not near, Pods of other namespaces.
fn crosses_namespaces(spec: &PodSpec) -> bool {
    let Some(affinity) = &spec.affinity else { return false };
    let near = affinity.pod_affinity.as_ref();
    let apart = affinity.pod_anti_affinity.as_ref();
    let required = [
        near.and_then(|near| near.required_during_scheduling_ignored_during_execution.as_ref()),
        apart.and_then(|apart| apart.required_during_scheduling_ignored_during_execution.as_ref()),
    ];
    let preferred = [
        near.and_then(|near| near.preferred_during_scheduling_ignored_during_execution.as_ref()),
        apart.and_then(|apart| apart.preferred_during_scheduling_ignored_during_execution.as_ref()),
    ];
    let crosses = |term: &PodAffinityTerm| {
        term.namespaces.as_ref().is_some_and(|names| !names.is_empty())
            || term.namespace_selector.is_some()
    };
    required.into_iter().flatten().flatten().any(crosses)
        || preferred
            .into_iter()
            .flatten()
            .flatten()
            .any(|weighted| crosses(&weighted.pod_affinity_term))
}
