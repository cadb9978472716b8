//! Requests and limits as numbers: for admission, for cgroups, for downward references.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceFieldSelector},
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};
use rk_api::meta::quantity::Quantity;

use super::{env::Facts, plan::is_sidecar};
use crate::runtime::Resources;

type Amounts = Option<BTreeMap<String, ApiQuantity>>;

/// Millicores; 0 for what is not there or cannot be read.
pub(crate) fn millis(amounts: &Amounts, name: &str) -> i64 {
    quantity(amounts, name).map_or(0, |quantity| quantity.millis())
}

/// Whole units (bytes, pods), rounded up.
pub(crate) fn value(amounts: &Amounts, name: &str) -> i64 {
    quantity(amounts, name).map_or(0, |quantity| quantity.value())
}

fn quantity(amounts: &Amounts, name: &str) -> Option<Quantity> {
    Quantity::parse(&amounts.as_ref()?.get(name)?.0).ok()
}

/// What a pod asks of a node for one resource, in `unit`s: the larger of what its containers ask
/// together and what its init containers ask one after the other, beside the sidecars.
pub(crate) fn pod_request(pod: &Pod, name: &str) -> i64 {
    let Some(spec) = &pod.spec else { return 0 };
    let of = |amounts: &Amounts| {
        if name == "cpu" { millis(amounts, name) } else { value(amounts, name) }
    };
    let request = |container: &Container| {
        let Some(resources) = &container.resources else { return 0 };
        let has_request = resources.requests.as_ref().is_some_and(|map| map.contains_key(name));
        of(if has_request { &resources.requests } else { &resources.limits })
    };
    let containers: i64 = spec.containers.iter().map(request).sum();
    let (mut sidecars, mut peak) = (0, 0);
    for container in spec.init_containers.iter().flatten() {
        if is_sidecar(container) {
            sidecars += request(container);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + request(container));
        }
    }
    let overhead = spec.overhead.as_ref().map_or(0, |_| of(&spec.overhead));
    peak.max(containers + sidecars) + overhead
}

/// Limits of a container as the runtime takes them. CPU as kube's kubelet: shares from the request
/// (1024 a core, at least 2), quota from the limit in periods of 100 ms (at least 1 ms).
pub(crate) fn cgroup(container: &Container) -> Resources {
    let default = Default::default();
    let resources = container.resources.as_ref().unwrap_or(&default);
    let limit = millis(&resources.limits, "cpu");
    let request = match millis(&resources.requests, "cpu") {
        0 => limit,
        request => request,
    };
    let shares = u64::try_from(request * 1024 / 1000).unwrap_or(0).clamp(2, 262_144);
    let (quota, period) = if limit > 0 { ((limit * 100).max(1000), 100_000) } else { (0, 0) };
    Resources {
        cpu_shares: shares,
        cpu_quota_us: quota,
        cpu_period_us: period,
        memory_limit_bytes: value(&resources.limits, "memory"),
        pids_limit: 0,
        // Which sizes there are, the node knows.
        hugepage_limits: BTreeMap::new(),
    }
}

/// A pod's class of service.
pub(crate) fn qos(pod: &Pod) -> &'static str {
    if let Some(class) = pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        return match class {
            "Guaranteed" => "Guaranteed",
            "Burstable" => "Burstable",
            _ => "BestEffort",
        };
    }
    let Some(spec) = &pod.spec else { return "BestEffort" };
    let (mut any, mut all) = (false, true);
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let default = Default::default();
        let resources = container.resources.as_ref().unwrap_or(&default);
        for name in ["cpu", "memory"] {
            let of = |amounts: &Amounts| millis(amounts, name);
            let (request, limit) = (of(&resources.requests), of(&resources.limits));
            any |= request > 0 || limit > 0;
            all &= limit > 0 && (request == 0 || request == limit);
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// A pod's cgroup below the runtime's root.
pub(crate) fn cgroup_parent(pod: &Pod) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    match qos(pod) {
        "Guaranteed" => format!("kubepods/pod{uid}"),
        "Burstable" => format!("kubepods/burstable/pod{uid}"),
        _ => format!("kubepods/besteffort/pod{uid}"),
    }
}

/// The value of a container's own request or limit (`resourceFieldRef`).
pub(crate) fn field(
    reference: &ResourceFieldSelector,
    container: &Container,
    facts: &Facts<'_>,
) -> Result<String, String> {
    let spec = facts.pod.spec.as_ref();
    let container = match reference.container_name.as_deref().filter(|name| !name.is_empty()) {
        None => container,
        Some(name) => spec
            .and_then(|spec| {
                let init = spec.init_containers.iter().flatten();
                spec.containers.iter().chain(init).find(|container| container.name == name)
            })
            .ok_or_else(|| format!("container {name} not found"))?,
    };
    let default = Default::default();
    let resources = container.resources.as_ref().unwrap_or(&default);
    let (kind, name) = reference.resource.split_once('.').unwrap_or_default();
    let divisor = reference.divisor.as_ref().and_then(|d| Quantity::parse(&d.0).ok());
    let divisor = divisor.filter(|divisor| !divisor.is_zero());
    let amounts = match kind {
        "limits" => &resources.limits,
        "requests" => &resources.requests,
        _ => return Err(format!("unsupported container resource : {}", reference.resource)),
    };
    // A container without a limit may use all that the node has.
    let fallback =
        |amount: i64, whole: i64| if amount == 0 && kind == "limits" { whole } else { amount };
    let (amount, divisor) = match name {
        "cpu" => {
            let amount = fallback(millis(amounts, name), facts.allocatable.0);
            (amount, divisor.map_or(1000, |divisor| divisor.millis()))
        }
        "memory" => {
            let amount = fallback(value(amounts, name), facts.allocatable.1);
            (amount, divisor.map_or(1, |divisor| divisor.value()))
        }
        _ => (value(amounts, name), divisor.map_or(1, |divisor| divisor.value())),
    };
    let divisor = divisor.max(1);
    Ok((amount / divisor + i64::from(amount % divisor != 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> Container {
        let map = |list: &[(&str, &str)]| {
            Some(list.iter().map(|(k, v)| (k.to_string(), ApiQuantity(v.to_string()))).collect())
        };
        let mut container = Container { name: "c".into(), ..Default::default() };
        container.resources.get_or_insert_default().requests = map(requests);
        container.resources.get_or_insert_default().limits = map(limits);
        container
    }

    fn pod(containers: Vec<Container>, init: Vec<Container>) -> Pod {
        let mut pod = Pod::default();
        let spec = pod.spec.get_or_insert_default();
        spec.containers = containers;
        spec.init_containers = Some(init);
        pod
    }

    #[test]
    fn requests_and_limits_become_cgroup_numbers() {
        let numbers = cgroup(&container(
            &[("cpu", "500m"), ("memory", "100Mi")],
            &[("cpu", "1"), ("memory", "200Mi")],
        ));
        assert_eq!(numbers.cpu_shares, 512);
        assert_eq!((numbers.cpu_quota_us, numbers.cpu_period_us), (100_000, 100_000));
        assert_eq!(numbers.memory_limit_bytes, 200 << 20);

        let nothing = cgroup(&container(&[], &[]));
        assert_eq!(
            (nothing.cpu_shares, nothing.cpu_quota_us, nothing.memory_limit_bytes),
            (2, 0, 0)
        );
        let limit_only = cgroup(&container(&[], &[("cpu", "5m")]));
        assert_eq!((limit_only.cpu_shares, limit_only.cpu_quota_us), (5, 1000));
    }

    #[test]
    fn a_pod_asks_for_its_largest_moment() {
        let cpu = |amount| container(&[("cpu", amount)], &[]);
        assert_eq!(pod_request(&pod(vec![cpu("1"), cpu("500m")], vec![cpu("1200m")]), "cpu"), 1500);
        assert_eq!(pod_request(&pod(vec![cpu("1")], vec![cpu("3")]), "cpu"), 3000);
        let sidecar = Container { restart_policy: Some("Always".into()), ..cpu("1") };
        assert_eq!(pod_request(&pod(vec![cpu("1")], vec![sidecar, cpu("500m")]), "cpu"), 2000);
    }

    #[test]
    fn the_class_of_service_follows_from_requests_and_limits() {
        let full = [("cpu", "1"), ("memory", "1Gi")];
        let class = |containers| qos(&pod(containers, vec![]));
        assert_eq!(class(vec![container(&[], &[])]), "BestEffort");
        assert_eq!(class(vec![container(&full, &full)]), "Guaranteed");
        assert_eq!(class(vec![container(&full, &full), container(&[], &[])]), "Burstable");
        assert_eq!(class(vec![container(&full[..1], &[])]), "Burstable");
    }
}
