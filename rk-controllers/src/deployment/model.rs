//! The fields of a Deployment and its ReplicaSets that the decisions use, with defaults applied.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, ReplicaSet},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::{apis::meta::v1::Time, util::intstr::IntOrString},
};

/// The revision of a ReplicaSet's template, a decimal number; on the Deployment the newest one.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier revisions that the same ReplicaSet had, comma separated.
pub(super) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// `spec.replicas` of the Deployment when the ReplicaSet was last sized.
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// The same plus maxSurge: what proportional scaling scales from.
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Asks to go back to the template of a revision, 0 for the one before the newest. It stood in the
/// spec until apps/v1.
pub(super) const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
/// Label that tells the Pods of one ReplicaSet from those of the next.
pub(super) const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// The spec; a Deployment without one asks for nothing.
pub(super) fn spec(deployment: &Deployment) -> DeploymentSpec {
    deployment.spec.clone()
}

/// `spec.replicas`, by default 1.
pub(super) fn desired(deployment: &Deployment) -> i32 {
    deployment.spec.replicas.unwrap_or(1)
}

/// `spec.replicas` of a ReplicaSet, by default 1.
pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

/// Sets `spec.replicas`.
pub(super) fn set_size(set: &mut ReplicaSet, replicas: i32) {
    set.spec.replicas = Some(replicas);
}

/// Pods of the set that its status counts as available.
pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

/// Pods of the set that its status counts.
pub(super) fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

/// Sum over sets.
pub(super) fn total<'a>(
    sets: impl IntoIterator<Item = &'a ReplicaSet>,
    count: impl Fn(&ReplicaSet) -> i32,
) -> i32 {
    sets.into_iter().map(count).sum()
}

/// Whether the old Pods all go before the first new one comes.
pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.strategy.as_ref();
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

/// `spec.paused`.
pub(super) fn is_paused(deployment: &Deployment) -> bool {
    deployment.spec.paused.unwrap_or(false)
}

/// The progress deadline, unless it is absent or its stand-in for "never".
pub(super) fn progress_deadline_seconds(deployment: &Deployment) -> Option<i32> {
    let seconds = deployment.spec.progress_deadline_seconds;
    seconds.filter(|seconds| *seconds != i32::MAX)
}

/// How far a rolling update may leave the wanted number of Pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fenceposts {
    /// So many more Pods than wanted may exist.
    pub surge: i32,
    /// So many fewer than wanted may be available.
    pub unavailable: i32,
}

/// Resolves maxSurge (a percentage rounds up) and maxUnavailable (rounds down) against the wanted
/// number. Both zero would forbid every step, so then one Pod may be unavailable. Recreate has
/// neither.
pub(super) fn fenceposts(deployment: &Deployment) -> Fenceposts {
    if is_recreate(deployment) {
        return Fenceposts { surge: 0, unavailable: 0 };
    }
    let strategy = deployment.spec.strategy.as_ref();
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".into());
    let max_surge = rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&quarter);
    let max_unavailable =
        rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&quarter);

    let desired = desired(deployment);
    let surge = resolve(max_surge, desired, Rounding::Up);
    let unavailable = resolve(max_unavailable, desired, Rounding::Down);
    let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
    Fenceposts { surge, unavailable: unavailable.min(desired) }
}

/// What becomes of the fraction of a percentage.
#[derive(Clone, Copy)]
pub(crate) enum Rounding {
    /// To the next larger number.
    Up,
    /// To the next smaller number.
    Down,
}

/// A number, or a percentage of `whole`; what is neither counts as zero.
pub(crate) fn resolve(value: &IntOrString, whole: i32, rounding: Rounding) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let percent = text
                .strip_suffix('%')
                .and_then(|number| number.parse::<i64>().ok())
                .unwrap_or(0)
                .max(0);
            let hundredths = percent.saturating_mul(whole.into());
            let rounded = match rounding {
                Rounding::Up => hundredths.saturating_add(99) / 100,
                Rounding::Down => hundredths / 100,
            };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

/// An annotation of a ReplicaSet.
pub(super) fn annotation<'a>(set: &'a ReplicaSet, key: &str) -> Option<&'a str> {
    set.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The revision of a set, 0 while it has none.
pub(super) fn revision(set: &ReplicaSet) -> i64 {
    annotation(set, REVISION).and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

/// A count that an annotation carries.
pub(super) fn count_annotation(set: &ReplicaSet, key: &str) -> Option<i32> {
    annotation(set, key)?.parse().ok()
}

/// The template of a set, empty if it has none.
pub(super) fn template(set: &ReplicaSet) -> Option<&PodTemplateSpec> {
    set.spec.template.as_ref()
}

/// Sort key: oldest first, equal ages by name.
pub(super) fn by_age(set: &ReplicaSet) -> (Option<Time>, Option<String>) {
    (set.metadata.creation_timestamp.clone(), set.metadata.name.clone())
}
