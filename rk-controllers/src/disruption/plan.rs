//! How many Pods of a budget may be disrupted now. Pure.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        core::v1::Pod,
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::{
        apis::meta::v1::{Condition, Time},
        util::intstr::IntOrString,
    },
};
use kube::ResourceExt;

use crate::{
    pods,
    time::{plus_seconds, until, whole_seconds},
};

/// A Pod that was to be evicted and is still there after this time is taken for one that stays.
pub(super) const DELETION_TIMEOUT: Duration = Duration::from_secs(120);

/// How many Pods a budget counts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) pods: i32,
    pub(super) desired_healthy: i32,
}

/// Whether the budget speaks of a share of what its Pods' controllers want, so that their scales
/// have to be known.
pub(super) fn needs_scales(spec: &PodDisruptionBudgetSpec) -> bool {
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

/// What the budget expects, of `pods` that match it, whose controllers want `scale` Pods in all.
pub(super) fn expected(spec: &PodDisruptionBudgetSpec, pods: usize, scale: i32) -> Expected {
    let present = i32::try_from(pods).unwrap_or(i32::MAX);
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            Expected { pods: scale, desired_healthy: (scale - share(most, scale)).max(0) }
        }
        (None, Some(IntOrString::Int(least))) => {
            Expected { pods: present, desired_healthy: *least }
        }
        (None, Some(least)) => Expected { pods: scale, desired_healthy: share(least, scale) },
        (None, None) => Expected { pods: present, desired_healthy: 0 },
    }
}

/// A number, or a percentage of `whole`, rounded up; what is neither counts as zero.
fn share(value: &IntOrString, whole: i32) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|number| number.parse::<i64>().ok());
            let hundredths = percent.unwrap_or(0).saturating_mul(whole.into());
            i32::try_from(hundredths.saturating_add(99).div_euclid(100)).unwrap_or(i32::MAX)
        }
    }
}

/// What a budget reports.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) status: PodDisruptionBudgetStatus,
    /// Pods that were to be evicted and are still there.
    pub(super) not_deleted: Vec<Arc<Pod>>,
    /// When to look again, because a Pod may have to be taken for one that stays.
    pub(super) look_again: Option<Duration>,
}

/// The status of a budget whose selector matches `pods`.
pub(super) fn plan(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    expected: Expected,
    now: Timestamp,
) -> Plan {
    let before = budget.status.clone().unwrap_or_default();
    let listed = before.disrupted_pods.unwrap_or_default();
    let mut disrupted = BTreeMap::new();
    let (mut not_deleted, mut look_again) = (Vec::new(), None::<Duration>);
    let staying = pods.iter().filter(|pod| !pods::is_deleting(pod));
    let mut healthy = 0;
    for pod in staying {
        let going = listed.get(&pod.name_any()).map(|since| {
            let timeout = SignedDuration::try_from(DELETION_TIMEOUT).unwrap_or_default();
            (since, since.0.checked_add(timeout).unwrap_or(Timestamp::MAX))
        });
        match going {
            Some((since, deadline)) if deadline > now => {
                disrupted.insert(pod.name_any(), since.clone());
                let left = until(deadline, now);
                look_again = Some(look_again.map_or(left, |other| other.min(left)));
                continue;
            }
            Some(_) => not_deleted.push(pod.clone()),
            None => {}
        }
        healthy += i32::from(pods::is_ready(pod));
    }
    let spare = healthy.saturating_sub(expected.desired_healthy).max(0);
    // Without a Pod there is nothing to disrupt: the first that comes must not be taken at once.
    let allowed = if expected.pods > 0 { spare } else { 0 };
    let mut status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(expected.desired_healthy),
        expected_pods: Some(expected.pods),
        disruptions_allowed: Some(allowed),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: budget.metadata.generation,
        conditions: before.conditions,
    };
    let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
    set_condition(&mut status, allowed > 0, reason, "", now);
    Plan { status, not_deleted, look_again }
}

/// The status of a budget that could not be worked out: nothing may be disrupted until it can.
pub(super) fn failed(
    budget: &PodDisruptionBudget,
    why: &str,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    status.disruptions_allowed = Some(0);
    set_condition(&mut status, false, "SyncFailed", why, now);
    status
}

/// Sets the condition `DisruptionAllowed`, whose time changes with its status.
fn set_condition(
    status: &mut PodDisruptionBudgetStatus,
    allowed: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let mut wanted = Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: if allowed { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: status.observed_generation,
        last_transition_time: Time(whole_seconds(now)),
    };
    let conditions = status.conditions.get_or_insert_default();
    match conditions.iter_mut().find(|had| had.type_ == wanted.type_) {
        Some(had) => {
            if had.status == wanted.status {
                wanted.last_transition_time = had.last_transition_time.clone();
            }
            *had = wanted;
        }
        None => conditions.push(wanted),
    }
}

/// How long until a Pod that says it is being disrupted, but is not deleted, has to take that back;
/// nothing for all other Pods.
pub(super) fn stale_disruption(pod: &Pod, now: Timestamp) -> Option<Duration> {
    if pods::is_deleting(pod) || pods::is_terminal(pod) {
        return None;
    }
    let target = pods::condition(pod, "DisruptionTarget").filter(|had| had.status == "True")?;
    let since = target.last_transition_time.as_ref()?.0;
    let seconds = i64::try_from(DELETION_TIMEOUT.as_secs()).unwrap_or(i64::MAX);
    Some(until(plus_seconds(since, seconds), now))
}
