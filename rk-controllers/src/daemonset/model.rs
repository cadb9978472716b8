//! The fields of a DaemonSet that the decisions use, with defaults applied. Pure.

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, RollingUpdateDaemonSet},
        core::v1::{Pod, PodTemplateSpec},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use kube::ResourceExt;

use crate::{
    deployment::model::{Rounding, resolve},
    history::{self, POD_REVISION},
};

/// The annotation in which the API server counts the templates of a DaemonSet.
pub(super) const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
/// The label of a Pod with that number.
pub(super) const POD_GENERATION: &str = "pod-template-generation";

impl history::Owner for DaemonSet {
    const HASH_LABEL: &'static str = POD_REVISION;

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

/// How long a Pod must be ready to be available.
pub(super) fn min_ready_seconds(set: &DaemonSet) -> i32 {
    set.spec.min_ready_seconds.unwrap_or(0)
}

/// Whether a Pod gets a new template only when somebody else deletes it.
pub(super) fn is_on_delete(set: &DaemonSet) -> bool {
    let strategy = set.spec.update_strategy.as_ref();
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete")
}

/// How far a rolling update may leave one available Pod on each node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// So many nodes may have a second Pod.
    pub surge: usize,
    /// So many nodes may have no available Pod.
    pub unavailable: usize,
}

/// Resolves maxSurge and maxUnavailable against the number of nodes; percentages round up. Both
/// zero would forbid every step, so then one node may be without.
pub(super) fn bounds(set: &DaemonSet, nodes: usize) -> Bounds {
    let rolling = rolling(set);
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref());
    let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
    let resolve = |value: Option<&IntOrString>, default| {
        let whole = i32::try_from(nodes).unwrap_or(i32::MAX);
        let value = value.map_or(default, |value| resolve(value, whole, Rounding::Up));
        usize::try_from(value).unwrap_or(0)
    };
    let bounds = Bounds { surge: resolve(surge, 0), unavailable: resolve(unavailable, 1) };
    match bounds {
        Bounds { surge: 0, unavailable: 0 } => Bounds { surge: 0, unavailable: 1 },
        bounds => bounds,
    }
}

/// Whether new Pods may come before the old ones go: maxSurge is neither 0 nor 0%.
pub(super) fn surges(set: &DaemonSet) -> bool {
    let surge = rolling(set).and_then(|rolling| rolling.max_surge.as_ref());
    !is_on_delete(set) && surge.is_some_and(|surge| resolve(surge, 100, Rounding::Up) > 0)
}

fn rolling(set: &DaemonSet) -> Option<&RollingUpdateDaemonSet> {
    if is_on_delete(set) {
        return None;
    }
    set.spec.update_strategy.as_ref()?.rolling_update.as_ref()
}

/// Whether a Pod was made from the template that is in force: it says so by the revision's hash,
/// or, having been made by an early version of Kubernetes, by the template's number.
pub(super) fn is_updated(set: &DaemonSet, pod: &Pod, hash: &str) -> bool {
    let labels = pod.labels();
    let generation = set.annotations().get(TEMPLATE_GENERATION);
    labels.get(POD_REVISION).is_some_and(|revision| revision == hash)
        || generation.is_some_and(|generation| labels.get(POD_GENERATION) == Some(generation))
}
