//! Pod.

use k8s_openapi::{
    api::core::v1::{Container, Pod, PodCondition, PodSpec, PodStatus},
    apimachinery::pkg::apis::meta::v1::DeleteOptions,
    jiff::Timestamp,
};
use serde_json::Value;

use super::{
    Fields, Kind, Part, Resource,
    check::{list, list_mut, text},
    row::{PROXY_VERBS, Row},
};
use crate::field::ErrorList;

pub(super) mod defaults;
mod label_keys;
mod qos;
mod table;
pub(super) mod validation;
mod warnings;

pub use self::qos::qos_class;
pub(super) use self::warnings::of_template as template_warnings;

/// The row of Pod.
pub(super) fn row() -> Resource {
    Row::of::<Pods>()
        .short(&["po"])
        .in_all()
        .sub("attach", "PodAttachOptions", &["create", "get"])
        .sub("binding", "Binding", &["create"])
        .sub("ephemeralcontainers", "Pod", &["get", "patch", "update"])
        .sub_in("eviction", ("policy", "v1", "Eviction"), &["create"])
        .sub("exec", "PodExecOptions", &["create", "get"])
        .sub("log", "Pod", &["get"])
        .sub("portforward", "PodPortForwardOptions", &["create", "get"])
        .sub("proxy", "PodProxyOptions", PROXY_VERBS)
        .sub("resize", "Pod", &["get", "patch", "update"])
        .status()
        .columns(table::COLUMNS)
        .done()
}

/// How a Pod behaves.
#[derive(Debug, Default)]
pub(super) struct Pods;

impl Kind for Pods {
    type Object = Pod;

    fn default(pod: &mut Pod) {
        defaults::pod(pod);
    }

    fn prepare_create(pod: &mut Pod) {
        pod.metadata.generation = Some(1);
        let spec = pod.spec.get_or_insert_default();
        let gated = !list(&spec.scheduling_gates).is_empty();
        pod.status = Some(PodStatus {
            phase: Some("Pending".to_owned()),
            qos_class: Some(qos_class(spec).to_owned()),
            conditions: gated.then(|| vec![scheduling_gated()]),
            ..PodStatus::default()
        });
        label_keys::merge(pod);
    }

    fn prepare_update(new: &mut Pod, old: &Pod, part: Part) {
        new.metadata.generation = old.metadata.generation;
        if part == Part::Status {
            new.spec = old.spec.clone();
            new.metadata.owner_references = old.metadata.owner_references.clone();
            let old_class = old.status.as_ref().and_then(|status| status.qos_class.clone());
            let status = new.status.get_or_insert_default();
            if text(&status.qos_class).is_empty() {
                status.qos_class = old_class;
            }
            keep_observed_generation(status, old.status.as_ref());
            return;
        }
        new.status = old.status.clone();
        if part != Part::Main {
            new.spec = part_of(part, new.spec.as_ref(), old.spec.as_ref());
        }
        if new.spec != old.spec {
            new.metadata.generation = Some(old.metadata.generation.unwrap_or(0) + 1);
        }
    }

    fn validate(pod: &Pod) -> ErrorList {
        validation::pod(pod.spec.as_ref().unwrap_or(&PodSpec::default()))
    }

    fn validate_create(pod: &Pod) -> ErrorList {
        pod.spec.as_ref().map(validation::pod_create).unwrap_or_default()
    }

    fn validate_update(new: &Pod, old: &Pod, part: Part) -> ErrorList {
        match (part, &new.spec, &old.spec) {
            (Part::Status, _, _) => validation::pod_status_update(new, old),
            (Part::EphemeralContainers, ..) => validation::pod_ephemeral_containers(new, old),
            (Part::Resize, ..) => validation::pod_resize(new, old),
            (Part::Main, Some(new), Some(old)) => validation::pod_update(new, old),
            _ => ErrorList::new(),
        }
    }

    fn fields(pod: &Pod) -> Fields {
        let (no_spec, no_status) = (PodSpec::default(), PodStatus::default());
        let spec = pod.spec.as_ref().unwrap_or(&no_spec);
        let status = pod.status.as_ref().unwrap_or(&no_status);
        let address = list(&status.pod_ips).first().map_or(text(&status.pod_ip), |first| &first.ip);
        let owned = |value: &Option<String>| text(value).to_owned();
        Fields::from_iter([
            ("spec.nodeName", owned(&spec.node_name)),
            ("spec.restartPolicy", owned(&spec.restart_policy)),
            ("spec.schedulerName", owned(&spec.scheduler_name)),
            ("spec.serviceAccountName", owned(&spec.service_account_name)),
            ("spec.hostNetwork", (spec.host_network == Some(true)).to_string()),
            ("status.phase", owned(&status.phase)),
            ("status.podIP", address.to_owned()),
            ("status.nominatedNodeName", owned(&status.nominated_node_name)),
        ])
    }

    const FIELDS: &'static [&'static str] = &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ];

    fn cells(pod: &Pod, now: Timestamp) -> Vec<Value> {
        table::cells(pod, now)
    }

    /// Programs change Pods, and do not read warnings: only who creates one is warned.
    fn warnings(pod: &Pod, old: Option<&Pod>) -> Vec<String> {
        let spec = pod.spec.as_ref().filter(|_| old.is_none());
        spec.map(|spec| warnings::of_pod(&pod.metadata, spec)).unwrap_or_default()
    }

    fn grace_period_seconds(pod: &Pod, options: &DeleteOptions) -> Option<i64> {
        let spec = pod.spec.as_ref();
        let asked = options
            .grace_period_seconds
            .or_else(|| spec.and_then(|spec| spec.termination_grace_period_seconds));
        let scheduled = spec.is_some_and(|spec| !text(&spec.node_name).is_empty());
        let phase = pod.status.as_ref().map_or("", |status| text(&status.phase));
        let ended = matches!(phase, "Failed" | "Succeeded");
        Some(match asked.unwrap_or(0) {
            _ if !scheduled || ended => 0,
            negative if negative < 0 => 1,
            seconds => seconds,
        })
    }
}

fn scheduling_gated() -> PodCondition {
    PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("SchedulingGated".to_owned()),
        message: Some("Scheduling is blocked due to non-empty scheduling gates".to_owned()),
        ..PodCondition::default()
    }
}

/// Who does not know the observed generations does not mean to remove them.
fn keep_observed_generation(new: &mut PodStatus, old: Option<&PodStatus>) {
    let Some(old) = old else { return };
    new.observed_generation = new.observed_generation.or(old.observed_generation);
    for condition in new.conditions.iter_mut().flatten() {
        let was = list(&old.conditions).iter().find(|was| was.type_ == condition.type_);
        let was = was.and_then(|was| was.observed_generation);
        condition.observed_generation = condition.observed_generation.or(was);
    }
}

/// The old spec with what `part` is about taken from the new one.
fn part_of(part: Part, new: Option<&PodSpec>, old: Option<&PodSpec>) -> Option<PodSpec> {
    let mut spec = old?.clone();
    let new = new?;
    match part {
        Part::EphemeralContainers => spec.ephemeral_containers = new.ephemeral_containers.clone(),
        Part::Resize => {
            let resize = |containers: &mut [Container], new: &[Container]| {
                for container in containers {
                    if let Some(new) = new.iter().find(|new| new.name == container.name) {
                        container.resources = new.resources.clone();
                        container.resize_policy = new.resize_policy.clone();
                    }
                }
            };
            resize(&mut spec.containers, &new.containers);
            resize(list_mut(&mut spec.init_containers), list(&new.init_containers));
            spec.resources = new.resources.clone();
        }
        Part::Main | Part::Status | Part::Finalize | Part::Approval => {}
    }
    Some(spec)
}

#[cfg(test)]
mod tests;
