//! The fields of a StatefulSet that the decisions use, with defaults applied. Pure.

use std::ops::Range;

use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{Pod, PodTemplateSpec},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use kube::ResourceExt;

use crate::{
    deployment::model::{Rounding, resolve},
    history::{self, POD_REVISION},
};

impl history::Owner for StatefulSet {
    const HASH_LABEL: &'static str = "controller.kubernetes.io/hash";

    fn selector(&self) -> &LabelSelector {
        &self.spec.selector
    }

    fn template(&self) -> &PodTemplateSpec {
        &self.spec.template
    }

    fn collisions(&self) -> i32 {
        self.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0)
    }
}

/// A template and the name of its revision.
#[derive(Clone, Debug)]
pub(super) struct Version {
    /// The ControllerRevision's name, and the value of its Pods' label.
    pub name: String,
    /// What its Pods are made from.
    pub template: PodTemplateSpec,
}

/// `spec.replicas`, by default 1.
pub(super) fn replicas(set: &StatefulSet) -> i32 {
    set.spec.replicas.unwrap_or(1).max(0)
}

/// The lowest ordinal, by default 0.
pub(super) fn start(set: &StatefulSet) -> i32 {
    set.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0)
}

/// The ordinals that the set is to have Pods of.
pub(super) fn ordinals(set: &StatefulSet) -> Range<i32> {
    start(set)..start(set).saturating_add(replicas(set))
}

/// Whether the set is to have a Pod of this ordinal.
pub(super) fn in_range(set: &StatefulSet, ordinal: i32) -> bool {
    ordinals(set).contains(&ordinal)
}

/// The name of the Pod of this ordinal.
pub(super) fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.name_any())
}

/// The ordinal that a Pod's name gives it in the set; `None` for a name that the set would not
/// have given. A number with leading zeros is none: two names must not have one ordinal.
pub(super) fn ordinal(set: &StatefulSet, pod: &str) -> Option<i32> {
    let (parent, number) = pod.rsplit_once('-')?;
    let ordinal: i32 = number.parse().ok()?;
    (parent == set.name_any() && ordinal.to_string() == number).then_some(ordinal)
}

/// The revision that a Pod was made from, empty if it does not say.
pub(super) fn revision(pod: &Pod) -> &str {
    pod.labels().get(POD_REVISION).map(String::as_str).unwrap_or_default()
}

/// Whether Pods come and go at once, instead of one after the other.
pub(super) fn is_parallel(set: &StatefulSet) -> bool {
    set.spec.pod_management_policy.as_deref() == Some("Parallel")
}

/// Whether a Pod gets a new template only when somebody else deletes it.
pub(super) fn is_on_delete(set: &StatefulSet) -> bool {
    let strategy = set.spec.update_strategy.as_ref();
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete")
}

/// So many of the lowest Pods stay at the current revision. `None` when there are no parameters.
pub(super) fn partition(set: &StatefulSet) -> Option<i32> {
    let rolling = set.spec.update_strategy.as_ref()?.rolling_update.as_ref()?;
    Some(rolling.partition.unwrap_or(0))
}

/// How many Pods an update may make unavailable, at least 1. A percentage is of `spec.replicas`
/// and rounds down (KEP-961).
pub(super) fn max_unavailable(set: &StatefulSet) -> i32 {
    let rolling =
        set.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    let wanted = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
    resolve(wanted.unwrap_or(&IntOrString::Int(1)), replicas(set), Rounding::Down).max(1)
}

/// How long a Pod must be ready to be available.
pub(super) fn min_ready_seconds(set: &StatefulSet) -> i32 {
    set.spec.min_ready_seconds.unwrap_or(0)
}

/// What becomes of the claims of the set's Pods (KEP-1847).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Retention {
    /// They go with the set.
    pub delete_with_set: bool,
    /// They go with a Pod that is scaled away.
    pub delete_with_pod: bool,
}

/// `spec.persistentVolumeClaimRetentionPolicy`, by default all are kept.
pub(super) fn retention(set: &StatefulSet) -> Retention {
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    let deletes = |when: Option<&String>| when.is_some_and(|when| when == "Delete");
    Retention {
        delete_with_set: deletes(policy.and_then(|policy| policy.when_deleted.as_ref())),
        delete_with_pod: deletes(policy.and_then(|policy| policy.when_scaled.as_ref())),
    }
}
