//! Quality of service: how well a Pod's resources are guaranteed.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};

use super::super::check::{ResourceList, list};
use crate::meta::quantity::Quantity;

/// The QoS class of a Pod: `Guaranteed` when every container limits CPU and memory and requests
/// as much, `BestEffort` when none requests or limits any, `Burstable` else. Resources of the Pod
/// as a whole decide where it has them.
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let pod = spec
        .resources
        .as_ref()
        .filter(|all| has_compute(all.requests.as_ref()) || has_compute(all.limits.as_ref()));
    let containers: Vec<Option<&ResourceRequirements>> = match pod {
        Some(resources) => vec![Some(resources)],
        None => {
            let each: fn(&Container) -> Option<&ResourceRequirements> = |c| c.resources.as_ref();
            spec.containers.iter().chain(list(&spec.init_containers)).map(each).collect()
        }
    };
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    let mut all_limited = true;
    for resources in containers {
        add(&mut requests, resources.and_then(|r| r.requests.as_ref()));
        let limited = add(&mut limits, resources.and_then(|r| r.limits.as_ref()));
        all_limited &= limited == 2;
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if all_limited && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

fn has_compute(amounts: Option<&ResourceList>) -> bool {
    add(&mut BTreeMap::new(), amounts) > 0
}

/// Adds the amounts of CPU and memory that are not zero, and says how many there were.
fn add(sums: &mut BTreeMap<&'static str, Quantity>, amounts: Option<&ResourceList>) -> usize {
    let mut found = 0;
    for name in ["cpu", "memory"] {
        let amount = amounts.and_then(|amounts| amounts.get(name));
        let amount = amount.and_then(|amount| Quantity::try_from(amount).ok());
        if let Some(amount) = amount.filter(|amount| *amount > Quantity::ZERO) {
            let sum = sums.entry(name).or_insert(Quantity::ZERO);
            *sum = sum.plus(&amount);
            found += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

    use super::*;

    type Amounts<'a> = &'a [(&'a str, &'a str)];

    #[test]
    fn requests_and_limits_decide_the_class() {
        #[track_caller]
        fn check(containers: &[(Amounts<'_>, Amounts<'_>)], class: &str) {
            let amounts = |pairs: Amounts<'_>| {
                Some(
                    pairs
                        .iter()
                        .map(|(n, q)| ((*n).to_owned(), ApiQuantity((*q).to_owned())))
                        .collect(),
                )
            };
            let containers = containers.iter().map(|(requests, limits)| Container {
                resources: Some(ResourceRequirements {
                    requests: amounts(requests),
                    limits: amounts(limits),
                    ..ResourceRequirements::default()
                }),
                ..Container::default()
            });
            let spec = PodSpec { containers: containers.collect(), ..PodSpec::default() };
            assert_eq!(qos_class(&spec), class);
        }
        let both: &[_] = &[("cpu", "1"), ("memory", "1Gi")];
        check(&[(&[], &[])], "BestEffort");
        check(&[(both, both)], "Guaranteed");
        check(&[(both, both), (both, both)], "Guaranteed");
        check(&[(both, both), (&[], &[])], "Burstable");
        check(&[(&[("cpu", "1")], &[("cpu", "1")])], "Burstable");
        check(&[(&[("cpu", "0")], &[])], "BestEffort");
        check(&[(&[("cpu", "1"), ("memory", "1Mi")], both)], "Burstable");
        check(&[(&[("example.com/x", "1")], &[("example.com/x", "1")])], "BestEffort");
    }
}
