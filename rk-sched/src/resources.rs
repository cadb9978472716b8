use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Container, Pod, PodSpec},
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};
use rk_api::meta::quantity::Quantity;
use smallvec::SmallVec;

/// What a container without a CPU request counts as when nodes are scored, in millicores.
const DEFAULT_CPU_MILLI: i64 = 100;
/// The same for memory, in bytes.
const DEFAULT_MEMORY_BYTES: i64 = 200 << 20;

/// Amounts of resources as integers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resources {
    /// CPU in millicores.
    pub cpu_milli: i64,
    /// Memory in bytes.
    pub memory_bytes: i64,
    /// Local storage in bytes.
    pub ephemeral_bytes: i64,
    /// How many Pods; on a request always 0.
    pub pods: i64,
    /// Extended resources and huge pages, sorted by name.
    pub extended: SmallVec<[(Arc<str>, i64); 1]>,
}

type Quantities = BTreeMap<String, ApiQuantity>;

impl Resources {
    /// From a map as the API has it. An amount that cannot be read counts as 0, since the API
    /// server accepts none.
    pub fn from_map(map: Option<&Quantities>) -> Self {
        let mut out = Self::default();
        for (name, quantity) in map.into_iter().flatten() {
            let Ok(quantity) = Quantity::try_from(quantity) else { continue };
            match name.as_str() {
                "cpu" => out.cpu_milli = quantity.millis(),
                "memory" => out.memory_bytes = quantity.value(),
                "ephemeral-storage" => out.ephemeral_bytes = quantity.value(),
                "pods" => out.pods = quantity.value(),
                // The map is sorted, so these are.
                _ => out.extended.push((name.as_str().into(), quantity.value())),
            }
        }
        out
    }

    /// The amount of an extended resource; 0 when there is none.
    pub fn extended(&self, name: &str) -> i64 {
        match self.extended.binary_search_by(|(have, _)| (**have).cmp(name)) {
            Ok(at) => self.extended[at].1,
            Err(_) => 0,
        }
    }

    /// The amount of a resource by its name in the API.
    pub fn amount(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.cpu_milli,
            "memory" => self.memory_bytes,
            "ephemeral-storage" => self.ephemeral_bytes,
            "pods" => self.pods,
            _ => self.extended(name),
        }
    }

    /// Whether nothing is requested.
    pub fn is_zero(&self) -> bool {
        self.cpu_milli == 0
            && self.memory_bytes == 0
            && self.ephemeral_bytes == 0
            && self.extended.is_empty()
    }

    /// Adds `other`, `pods` excepted.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    /// Takes `other` away, `pods` excepted.
    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
        self.extended.retain(|(_, amount)| *amount != 0);
    }

    /// Raises each amount to that of `other`.
    fn raise_to(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, f: impl Fn(i64, i64) -> i64) {
        self.cpu_milli = f(self.cpu_milli, other.cpu_milli);
        self.memory_bytes = f(self.memory_bytes, other.memory_bytes);
        self.ephemeral_bytes = f(self.ephemeral_bytes, other.ephemeral_bytes);
        for (name, amount) in &other.extended {
            match self.extended.binary_search_by(|(have, _)| have.cmp(name)) {
                Ok(at) => self.extended[at].1 = f(self.extended[at].1, *amount),
                Err(at) => self.extended.insert(at, (name.clone(), f(0, *amount))),
            }
        }
    }
}

/// CPU and memory that a Pod counts as when nodes are scored: containers without a request get a
/// small one, so that Pods without any are spread too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NonZero {
    /// CPU in millicores.
    pub cpu_milli: i64,
    /// Memory in bytes.
    pub memory_bytes: i64,
}

/// What a Pod requests: the sum of its containers or, if that is more, what its init containers
/// need while they run, and the overhead.
pub fn pod_requests(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    total(spec, |container| Resources::from_map(requests(container)))
}

/// See [`NonZero`].
pub fn pod_non_zero(pod: &Pod) -> NonZero {
    let Some(spec) = &pod.spec else { return NonZero::default() };
    let whole = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let missing = |container: &Container, name: &str| {
        let none = |map: Option<&Quantities>| map.is_none_or(|map| !map.contains_key(name));
        none(requests(container)) && none(whole)
    };
    let total = total(spec, |container| {
        let mut resources = Resources::from_map(requests(container));
        if missing(container, "cpu") {
            resources.cpu_milli = DEFAULT_CPU_MILLI;
        }
        if missing(container, "memory") {
            resources.memory_bytes = DEFAULT_MEMORY_BYTES;
        }
        resources
    });
    NonZero { cpu_milli: total.cpu_milli, memory_bytes: total.memory_bytes }
}

fn requests(container: &Container) -> Option<&Quantities> {
    container.resources.as_ref()?.requests.as_ref()
}

fn total(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
    let mut sum = Resources::default();
    for container in &spec.containers {
        sum.add(&of(container));
    }

    // Init containers run one after the other; a sidecar (restartPolicy Always) goes on running
    // beside those that follow, and beside the containers.
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut now = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sum.add(&now);
            sidecars.add(&now);
            now = sidecars.clone();
        } else {
            now.add(&sidecars);
        }
        peak.raise_to(&now);
    }
    sum.raise_to(&peak);

    // What the Pod as a whole requests counts instead of its containers' sum.
    let whole = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    if let Some(map) = whole {
        let whole = Resources::from_map(Some(map));
        if map.contains_key("cpu") {
            sum.cpu_milli = whole.cpu_milli;
        }
        if map.contains_key("memory") {
            sum.memory_bytes = whole.memory_bytes;
        }
    }
    sum.add(&Resources::from_map(spec.overhead.as_ref()));
    sum.extended.retain(|(_, amount)| *amount != 0);
    sum
}

#[cfg(test)]
mod tests {
    use rk_api::testing::pod;

    use super::*;

    #[track_caller]
    fn check(pod: &Pod, cpu_milli: i64, memory_mib: i64) {
        let requests = pod_requests(pod);
        assert_eq!((requests.cpu_milli, requests.memory_bytes >> 20), (cpu_milli, memory_mib));
    }

    #[test]
    fn requests_of_a_pod() {
        check(&pod("none"), 0, 0);
        check(&pod("one").cpu("500m").memory("1Gi"), 500, 1024);
        check(&pod("two").cpu("500m").container("b").cpu("1").memory("8Mi"), 1500, 8);
        check(&pod("small init").cpu("2").init("i", "cpu", "1"), 2000, 0);
        check(&pod("large init").cpu("2").init("i", "cpu", "3"), 3000, 0);
        check(&pod("inits do not add up").init("i", "cpu", "3").init("j", "cpu", "2"), 3000, 0);
        let always = |pod: &mut Pod| {
            let inits = pod.spec.as_mut().and_then(|spec| spec.init_containers.as_mut()).unwrap();
            inits[0].restart_policy = Some("Always".to_owned());
        };
        check(&pod("sidecar adds").cpu("2").init("s", "cpu", "1").with(always), 3000, 0);
        check(
            &pod("sidecar beside init").init("s", "cpu", "1").init("i", "cpu", "4").with(always),
            5000,
            0,
        );
    }

    #[test]
    fn a_pod_without_requests_counts_when_nodes_are_scored() {
        let non_zero = pod_non_zero(&pod("p").container("b").memory("1Gi"));
        assert_eq!(non_zero.cpu_milli, 200);
        assert_eq!(non_zero.memory_bytes, (200 << 20) + (1 << 30));
        assert!(pod_requests(&pod("p")).is_zero());
    }

    #[test]
    fn extended_resources_are_kept_by_name() {
        let requests = pod_requests(&pod("p").requests("b.com/gpu", "2").requests("a.com/x", "1"));
        assert_eq!(requests.extended("b.com/gpu"), 2);
        assert_eq!(requests.amount("a.com/x"), 1);
        assert_eq!(requests.extended("c.com/none"), 0);
        let mut left = requests.clone();
        left.subtract(&requests);
        assert!(left.is_zero());
    }
}
