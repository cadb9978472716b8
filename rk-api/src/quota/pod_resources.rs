//! What a Pod requests, and what it is limited to.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};

use crate::meta::quantity::Quantity;

/// Amounts by the name of the resource.
pub type Amounts = BTreeMap<String, Quantity>;

/// A list of the API, without what is no quantity.
pub fn amounts(list: Option<&BTreeMap<String, ApiQuantity>>) -> Amounts {
    let parsed = list.into_iter().flatten();
    parsed
        .filter_map(|(name, amount)| Some((name.clone(), Quantity::try_from(amount).ok()?)))
        .collect()
}

/// What the Pod requests, without the overhead of its runtime class.
pub fn requests(pod: &Pod) -> Amounts {
    pod.spec.as_ref().map(|spec| total(spec, |resources| &resources.requests)).unwrap_or_default()
}

/// What the Pod is limited to, without the overhead of its runtime class.
pub fn limits(pod: &Pod) -> Amounts {
    pod.spec.as_ref().map(|spec| total(spec, |resources| &resources.limits)).unwrap_or_default()
}

/// The overhead of the Pod's runtime class.
pub fn overhead(pod: &Pod) -> Amounts {
    amounts(pod.spec.as_ref().and_then(|spec| spec.overhead.as_ref()))
}

type Of = fn(&ResourceRequirements) -> &Option<BTreeMap<String, ApiQuantity>>;

/// What runs at once: all containers with the sidecars, or, before them, an init container with the
/// sidecars that started earlier. What is said of the Pod as a whole goes before both.
fn total(spec: &PodSpec, of: Of) -> Amounts {
    let own = |container: &Container| {
        amounts(container.resources.as_ref().and_then(|resources| of(resources).as_ref()))
    };
    let mut running = Amounts::new();
    for container in &spec.containers {
        add(&mut running, &own(container));
    }
    let (mut sidecars, mut starting) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let mut needed = own(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, &needed);
            needed.clone_from(&sidecars);
        } else {
            add(&mut needed, &sidecars);
        }
        raise(&mut starting, needed);
    }
    add(&mut running, &sidecars);
    raise(&mut running, starting);
    let whole = spec.resources.as_ref().and_then(|resources| of(resources).as_ref());
    running.extend(amounts(whole));
    running
}

/// Adds amounts to a sum.
pub fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        match sum.get_mut(name) {
            Some(sum) => *sum = sum.plus(amount),
            None => {
                sum.insert(name.clone(), *amount);
            }
        }
    }
}

/// Takes the larger one of each amount.
fn raise(least: &mut Amounts, other: Amounts) {
    for (name, amount) in other {
        let least = least.entry(name).or_insert(amount);
        if *least < amount {
            *least = amount;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(spec: Value, cpu: &str) {
        let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
        assert_eq!(requests(&pod).get("cpu").map(ToString::to_string).unwrap_or_default(), cpu);
    }

    #[test]
    fn what_runs_at_once_counts() {
        let with = |cpu: &str| json!({ "name": "c", "resources": { "requests": { "cpu": cpu } } });
        let sidecar = |cpu: &str| {
            let mut container = with(cpu);
            container["restartPolicy"] = json!("Always");
            container
        };
        check(json!({ "containers": [{ "name": "c" }] }), "");
        check(json!({ "containers": [with("1"), with("500m")] }), "1500m");
        check(json!({ "containers": [with("1")], "initContainers": [with("2")] }), "2");
        check(json!({ "containers": [with("1")], "initContainers": [sidecar("2")] }), "3");
        check(
            json!({ "containers": [with("1")], "initContainers": [sidecar("2"), with("3")] }),
            "5",
        );
        check(
            json!({ "containers": [with("1")], "initContainers": [with("3"), sidecar("1")] }),
            "3",
        );
        check(
            json!({ "containers": [with("1")], "resources": { "requests": { "cpu": "7" } } }),
            "7",
        );
    }
}
