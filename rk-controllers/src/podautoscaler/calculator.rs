//! From measurements to a number of replicas. Pure.
//!
//! The idea is one line: replicas times measured over target, rounded up. The rest is about Pods of
//! which too little is known. On the way down a Pod without a measurement counts as if it were busy,
//! on the way up as if it were idle, so that ignorance never makes a change larger; and a change
//! that this would turn around is not made at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::api::resource::Quantity as ApiQuantity};
use kube::ResourceExt;
use rk_api::meta::quantity::Quantity;

use super::metrics::{PodMetric, PodMetrics};
use crate::pods;

/// How far the ratio of measured to target may be from one without anything being done
/// (KEP-4951: for each direction).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tolerances {
    pub up: f64,
    pub down: f64,
}

impl Tolerances {
    fn contain(&self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// When the CPU use of a Pod that starts is not yet taken seriously.
#[derive(Clone, Copy, Debug)]
pub(super) struct Readiness {
    /// For so long after its start only measurements of a ready Pod count.
    pub cpu_initialization: Duration,
    /// A Pod that turned unready within this time after its start never was ready.
    pub initial_delay: Duration,
    pub now: Timestamp,
}

/// What a metric over Pods should be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    /// A percentage of what the Pods, or one container of each, request of a resource.
    Utilization { percent: i32, resource: &'a str, container: Option<&'a str> },
    /// An average over the Pods, in thousandths; of a resource, or of any other metric.
    Average { millis: i64, resource: Option<&'a str> },
}

impl Target<'_> {
    fn is_cpu(&self) -> bool {
        match self {
            Target::Utilization { resource, .. } => *resource == "cpu",
            Target::Average { resource, .. } => *resource == Some("cpu"),
        }
    }
}

/// What a metric asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proposal {
    pub replicas: i32,
    /// The measured value, in thousandths: an average, or the whole for a target of that type.
    pub measured: i64,
    /// The same as a percentage of the requests, if the target is one.
    pub utilization: Option<i32>,
}

/// The Pods that a scale's selector finds, by what is known of them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

fn group(pods: &[Arc<Pod>], metrics: &PodMetrics, is_cpu: bool, rules: &Readiness) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let name = pod.name_any();
        if pods::is_deleting(pod) || pods::phase(pod) == "Failed" {
            groups.ignored.insert(name);
        } else if pods::phase(pod) == "Pending" {
            groups.unready.insert(name);
        } else if let Some(metric) = metrics.get(&name) {
            if is_cpu && starts_up(pod, metric, rules) {
                groups.unready.insert(name);
            } else {
                groups.ready += 1;
            }
        } else {
            groups.missing.insert(name);
        }
    }
    groups
}

/// Whether the CPU use of a Pod may still be that of its start.
fn starts_up(pod: &Pod, metric: &PodMetric, rules: &Readiness) -> bool {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    let (Some(ready), Some(started)) = (pods::condition(pod, "Ready"), started) else {
        return true;
    };
    let is_unready = ready.status == "False";
    let changed = ready.last_transition_time.as_ref().map_or(Timestamp::MIN, |time| time.0);
    if plus(started.0, rules.cpu_initialization) > rules.now {
        is_unready || metric.timestamp < plus(changed, metric.window)
    } else {
        is_unready && plus(started.0, rules.initial_delay) > changed
    }
}

fn plus(time: Timestamp, duration: Duration) -> Timestamp {
    let duration = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    time.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// A measurement over several Pods in relation to its target.
struct Measured {
    ratio: f64,
    average: i64,
    utilization: Option<i32>,
}

/// What a metric of each Pod asks for. Errors are for conditions and events.
pub(super) fn over_pods(
    current: i32,
    mut metrics: PodMetrics,
    pods: &[Arc<Pod>],
    target: Target<'_>,
    tolerances: Tolerances,
    rules: &Readiness,
) -> Result<Proposal, String> {
    if pods.is_empty() {
        return Err(NO_PODS.to_owned());
    }
    let groups = group(pods, &metrics, target.is_cpu(), rules);
    metrics.retain(|pod, _| !groups.ignored.contains(pod) && !groups.unready.contains(pod));
    if metrics.is_empty() {
        let message = "did not receive metrics for targeted pods (pods might be unready)";
        return Err(message.to_owned());
    }
    let requests = match target {
        Target::Utilization { resource, container, .. } => requests(pods, resource, container)?,
        Target::Average { .. } => BTreeMap::new(),
    };
    let first = measure(&metrics, &requests, target)?;
    let proposal =
        |replicas| Proposal { replicas, measured: first.average, utilization: first.utilization };

    let up_with_unready = !groups.unready.is_empty() && first.ratio > 1.0;
    if !up_with_unready && groups.missing.is_empty() {
        return Ok(proposal(match tolerances.contain(first.ratio) {
            true => current,
            false => round_up(first.ratio * groups.ready as f64),
        }));
    }

    let mut assume = |pod: &String, value: i64| {
        let (timestamp, window) = (rules.now, Duration::ZERO);
        metrics.insert(pod.clone(), PodMetric { timestamp, window, value });
    };
    for pod in &groups.missing {
        if first.ratio < 1.0 {
            assume(pod, busy(pod, &requests, target));
        } else if first.ratio > 1.0 {
            assume(pod, 0);
        }
    }
    if up_with_unready {
        groups.unready.iter().for_each(|pod| assume(pod, 0));
    }
    let second = measure(&metrics, &requests, target)?;
    let turned =
        (first.ratio < 1.0 && second.ratio > 1.0) || (first.ratio > 1.0 && second.ratio < 1.0);
    if turned || tolerances.contain(second.ratio) {
        return Ok(proposal(current));
    }
    let replicas = round_up(second.ratio * metrics.len() as f64);
    let backwards =
        (second.ratio < 1.0 && replicas > current) || (second.ratio > 1.0 && replicas < current);
    Ok(proposal(if backwards { current } else { replicas }))
}

const NO_PODS: &str = "no pods returned by selector while calculating replica count";

/// What a Pod that was not measured is taken to use on the way down: its whole request, or what the
/// target allows if that is more.
fn busy(pod: &str, requests: &BTreeMap<String, i64>, target: Target<'_>) -> i64 {
    match target {
        Target::Utilization { percent, .. } => {
            let request = requests.get(pod).copied().unwrap_or(0);
            (i128::from(request) * i128::from(percent.max(100)) / 100) as i64
        }
        Target::Average { millis, .. } => millis,
    }
}

fn measure(
    metrics: &PodMetrics,
    requests: &BTreeMap<String, i64>,
    target: Target<'_>,
) -> Result<Measured, String> {
    let sum = |values: &mut dyn Iterator<Item = i64>| values.map(i128::from).sum::<i128>();
    match target {
        Target::Average { millis, .. } => {
            let total = sum(&mut metrics.values().map(|metric| metric.value));
            let average = clamp(total / metrics.len().max(1) as i128);
            Ok(Measured { ratio: average as f64 / millis as f64, average, utilization: None })
        }
        Target::Utilization { percent, .. } => {
            // A measured Pod whose request is unknown has only just gone.
            let known: Vec<(i64, i64)> = metrics
                .iter()
                .filter_map(|(pod, metric)| Some((metric.value, *requests.get(pod)?)))
                .collect();
            let used = sum(&mut known.iter().map(|known| known.0));
            let requested = sum(&mut known.iter().map(|known| known.1));
            if requested == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            // Whole percents, as the status shows them: what is seen is what is decided on.
            let utilization = i32::try_from(used * 100 / requested).unwrap_or(i32::MAX);
            Ok(Measured {
                ratio: f64::from(utilization) / f64::from(percent),
                average: clamp(used / known.len() as i128),
                utilization: Some(utilization),
            })
        }
    }
}

/// What each Pod requests of a resource, in thousandths: the request of the one container that is
/// named, else of the Pod as a whole (KEP-2837), else of all containers that run at the same time.
fn requests(
    pods: &[Arc<Pod>],
    resource: &str,
    container: Option<&str>,
) -> Result<BTreeMap<String, i64>, String> {
    pods.iter().map(|pod| Ok((pod.name_any(), request(pod, resource, container)?))).collect()
}

fn request(pod: &Pod, resource: &str, container: Option<&str>) -> Result<i64, String> {
    let name = pod.name_any();
    let Some(spec) = &pod.spec else { return Ok(0) };
    let of_pod = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    if let (Some(of_pod), None) = (of_pod.filter(|requests| !requests.is_empty()), container) {
        let missing = || format!("missing pod-level request for {resource} in Pod {name}");
        return millis(of_pod.get(resource)).ok_or_else(missing);
    }
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let mut together = 0_i64;
    let mut found = false;
    for each in spec.containers.iter().chain(sidecars) {
        if container.is_some_and(|container| container != each.name) {
            continue;
        }
        let requests = each.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let request = millis(requests.and_then(|requests| requests.get(resource)));
        together = together.saturating_add(request.ok_or_else(|| {
            format!("missing request for {resource} in container {} of Pod {name}", each.name)
        })?);
        found = true;
    }
    match container {
        Some(container) if !found => Err(format!("container {container} not found in Pod {name}")),
        _ => Ok(together),
    }
}

fn millis(quantity: Option<&ApiQuantity>) -> Option<i64> {
    Quantity::try_from(quantity?).ok().map(|quantity| quantity.millis())
}

/// What a value that all Pods have a part in asks for: an object's or an external one, with a target
/// for the whole. From zero replicas one step leads to as many as the ratio says.
pub(super) fn whole(
    current: i32,
    measured: i64,
    target: i64,
    pods: &[Arc<Pod>],
    tolerances: Tolerances,
) -> Result<Proposal, String> {
    let ratio = measured as f64 / target as f64;
    let replicas = if current == 0 {
        round_up(ratio)
    } else if tolerances.contain(ratio) {
        current
    } else if pods.is_empty() {
        return Err(format!("unable to calculate ready pods: {NO_PODS}"));
    } else {
        let serves = |pod: &&Arc<Pod>| pods::phase(pod) == "Running" && pods::is_ready(pod);
        round_up(ratio * pods.iter().filter(serves).count() as f64)
    };
    Ok(Proposal { replicas, measured, utilization: None })
}

/// The same with a target for each replica. `reported` is how many there are by the scale's status.
pub(super) fn per_pod(
    reported: i32,
    measured: i64,
    target: i64,
    tolerances: Tolerances,
) -> Proposal {
    let ratio = measured as f64 / (target as f64 * f64::from(reported));
    let replicas = match tolerances.contain(ratio) {
        true => reported,
        false => round_up(measured as f64 / target as f64),
    };
    // Without replicas there is no average; the whole is what the first of them will meet.
    let average = (measured as f64 / f64::from(reported.max(1))).ceil() as i64;
    Proposal { replicas, measured: average, utilization: None }
}

/// Rounded up, at most what the type can hold.
fn round_up(replicas: f64) -> i32 {
    replicas.ceil() as i32
}

fn clamp(wide: i128) -> i64 {
    i64::try_from(wide).unwrap_or(if wide < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests;
