//! What controllers ask of a Pod.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition};

/// `status.phase`, empty when the Pod has no status yet.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Succeeded or Failed: its containers ended and will not be started again.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Somebody deleted it and its grace period runs.
pub fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Counts as a replica: neither ended nor on its way out.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_deleting(pod)
}

/// The node it was bound to.
pub fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|name| !name.is_empty())
}

/// A condition by its type.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Passes its readiness probes and gates.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Since when it is ready; nothing for a Pod that is not.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// When a Pod becomes available: ready for `min_ready_seconds` on end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// It is.
    Now,
    /// It will be after this time, if it stays ready.
    After(Duration),
    /// It is not ready.
    No,
}

/// Whether the Pod is available at `now`.
pub fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    if !is_ready(pod) {
        return Availability::No;
    }
    if min_ready_seconds <= 0 {
        return Availability::Now;
    }
    let Some(since) = ready_since(pod) else { return Availability::No };
    let ready_for = now.duration_since(since);
    let left = SignedDuration::from_secs(min_ready_seconds.into()) - ready_for;
    match Duration::try_from(left) {
        Ok(left) if !left.is_zero() => Availability::After(left),
        _ => Availability::Now,
    }
}

/// Index of Pods by the claims behind their volumes, `<namespace>/<claim>`.
pub(crate) const USED_CLAIM: &str = "used-claim";

/// The values of [`USED_CLAIM`].
pub(crate) fn index_by_claim(pod: &Pod) -> Vec<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    rk_api::volumes::claims_of(pod).map(|claim| format!("{namespace}/{claim}")).collect()
}
