//! Which Pod goes first when the node runs short, and what its status says then. Pure.
//!
//! Those that use more than they asked for go before those that do not, then those of lower priority,
//! then those that use most beyond what they asked for. Critical Pods stay: static ones, and those of
//! the system's priorities.

use std::cmp::Reverse;

use k8s_openapi::api::core::v1::Pod;
use rk_api::meta::quantity::{Format, Quantity};

use super::thresholds::{Observation, Resource, Threshold};
use crate::agent::{configuration::SYSTEM_CRITICAL_PRIORITY, resources, static_pods};

/// What a container uses of the resource that is short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContainerUse {
    pub(crate) name: String,
    pub(crate) used: i64,
}

/// A Pod that may have to go.
#[derive(Clone, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) pod: &'a Pod,
    /// What its containers use; `None` when it is not known.
    pub(crate) containers: Option<Vec<ContainerUse>>,
    /// What else of the resource it uses: its volumes and logs.
    pub(crate) besides: i64,
}

/// Whether a Pod is never put off the node.
pub(crate) fn is_critical(pod: &Pod) -> bool {
    static_pods::is_static(pod) || priority(pod) >= SYSTEM_CRITICAL_PRIORITY
}

pub(crate) fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}

impl Candidate<'_> {
    fn used(&self) -> Option<i64> {
        let containers = self.containers.as_ref()?;
        Some(containers.iter().map(|container| container.used).sum::<i64>() + self.besides)
    }

    /// In the order of eviction, ascending.
    fn key(&self, resource: Resource) -> impl Ord + use<> {
        let priority = priority(self.pod);
        let name = match resource {
            Resource::Memory => "memory",
            Resource::EphemeralStorage => "ephemeral-storage",
            // Nobody asks for these.
            Resource::Pids | Resource::Inodes => "",
        };
        let asked = if name.is_empty() { 0 } else { resources::pod_request(self.pod, name) };
        // Of which nothing is known goes first: it cannot be shown to keep to what it asked for.
        let beyond = self.used().map(|used| used - asked);
        let exceeds = match resource {
            Resource::Memory | Resource::EphemeralStorage => beyond.is_none_or(|beyond| beyond > 0),
            Resource::Pids | Resource::Inodes => false,
        };
        (!exceeds, priority, beyond.is_some(), Reverse(beyond.unwrap_or(0)))
    }
}

/// The candidates that may go, the first to go first.
pub(crate) fn rank<'a>(
    mut candidates: Vec<Candidate<'a>>,
    resource: Resource,
) -> Vec<Candidate<'a>> {
    candidates.retain(|candidate| !is_critical(candidate.pod));
    // Stable, so that equals go in the order in which they came.
    candidates.sort_by_cached_key(|candidate| candidate.key(resource));
    candidates
}

/// Bytes as quantities write them.
fn bytes(amount: i64) -> String {
    Quantity::new(amount, 0).with_format(Format::BinarySi).to_string()
}

/// Why a Pod goes, for its status.
pub(crate) fn message(
    candidate: &Candidate<'_>,
    threshold: &Threshold,
    seen: Option<Observation>,
) -> String {
    let resource = threshold.signal.resource();
    let name = resource.name();
    let shown = |amount: i64| match resource {
        Resource::Memory | Resource::EphemeralStorage => bytes(amount),
        Resource::Pids | Resource::Inodes => amount.to_string(),
    };
    let mut message = format!("The node was low on resource: {name}. ");
    if let Some(seen) = seen {
        message.push_str(&format!(
            "Threshold quantity: {}, available: {}. ",
            shown(threshold.least.of(seen.capacity)),
            shown(seen.available)
        ));
    }
    let spec = candidate.pod.spec.as_ref();
    for container in candidate.containers.iter().flatten() {
        let definition = spec.and_then(|spec| {
            spec.containers.iter().find(|definition| definition.name == container.name)
        });
        let requests = definition.and_then(|d| d.resources.as_ref()?.requests.clone());
        let asked = resources::value(&requests, name);
        if container.used > asked {
            message.push_str(&format!(
                "Container {} was using {}, request is {}, has larger consumption of {name}. ",
                container.name,
                shown(container.used),
                shown(asked)
            ));
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::agent::eviction::thresholds::{Amount, Signal};

    fn pod(name: &str, request: &str, priority: i32) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"priority": priority, "containers": [
                {"name": "c", "resources": {"requests": {"memory": request}}}]},
        }))
        .unwrap()
    }

    fn uses(pod: &Pod, bytes: i64) -> Candidate<'_> {
        let containers = vec![ContainerUse { name: "c".into(), used: bytes }];
        Candidate { pod, containers: Some(containers), besides: 0 }
    }

    fn order(candidates: Vec<Candidate<'_>>) -> Vec<String> {
        let ranked = rank(candidates, Resource::Memory);
        ranked.iter().map(|c| c.pod.metadata.name.clone().unwrap()).collect()
    }

    #[test]
    fn whoever_uses_more_than_it_asked_for_goes_first() {
        let (within, beyond) = (pod("within", "100", 0), pod("beyond", "10", 5));
        assert_eq!(order(vec![uses(&within, 90), uses(&beyond, 20)]), ["beyond", "within"]);
    }

    #[test]
    fn then_the_lower_priority_then_the_larger_surplus() {
        let (low, high, larger) = (pod("low", "0", 1), pod("high", "0", 2), pod("larger", "0", 1));
        let candidates = vec![uses(&high, 900), uses(&low, 10), uses(&larger, 20)];
        assert_eq!(order(candidates), ["larger", "low", "high"]);
    }

    #[test]
    fn critical_pods_stay() {
        let critical = pod("critical", "0", SYSTEM_CRITICAL_PRIORITY);
        let mut static_pod = pod("static", "0", 0);
        let source = ("kubernetes.io/config.source".to_owned(), "file".to_owned());
        static_pod.metadata.annotations = Some([source].into());
        assert!(order(vec![uses(&critical, 900), uses(&static_pod, 900)]).is_empty());
    }

    #[test]
    fn the_message_tells_what_was_short_and_who_used_it() {
        let hog = pod("hog", "1Mi", 0);
        let threshold = Threshold {
            signal: Signal::MemoryAvailable,
            least: Amount::Absolute(100 << 20),
            grace: Duration::ZERO,
            reclaim: None,
        };
        let seen = Observation { available: 50 << 20, capacity: 1 << 30 };
        assert_eq!(
            message(&uses(&hog, 3 << 20), &threshold, Some(seen)),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. \
             Container c was using 3Mi, request is 1Mi, has larger consumption of memory. "
        );
    }

    proptest! {
        /// The model: of any two, the rules decide one after the other.
        #[test]
        fn of_any_two_the_rules_decide_in_their_order(
            facts in proptest::collection::vec((0i64..100, 0i64..100, -2i32..3), 2..12)
        ) {
            let pods: Vec<Pod> = facts.iter().enumerate()
                .map(|(index, (request, _, priority))| pod(&index.to_string(), &request.to_string(), *priority))
                .collect();
            let candidates = pods.iter().zip(&facts).map(|(pod, fact)| uses(pod, fact.1)).collect();
            let order = order(candidates);
            prop_assert_eq!(order.len(), facts.len());
            for pair in order.windows(2) {
                let fact = |name: &String| facts[name.parse::<usize>().unwrap()];
                let (first, second) = (fact(&pair[0]), fact(&pair[1]));
                let exceeds = |fact: (i64, i64, i32)| fact.1 > fact.0;
                if exceeds(first) != exceeds(second) {
                    prop_assert!(exceeds(first));
                } else if first.2 != second.2 {
                    prop_assert!(first.2 < second.2);
                } else {
                    prop_assert!(first.1 - first.0 >= second.1 - second.0);
                }
            }
        }
    }
}
