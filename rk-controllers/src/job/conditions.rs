//! Whether a Job is over, why, and the conditions that say so. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::{batch::v1::JobCondition, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{failure_policy::Judgement, model::View, observed::Observed, success_policy};
use crate::{
    pods,
    time::{plus_seconds, until},
};

/// How a Job ends. `SuccessCriteriaMet` and `FailureTarget` announce it: they are written before
/// the Pods lose their finalizers, `Complete` and `Failed` only when no Pod is left running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// `SuccessCriteriaMet`, then `Complete`.
    Success { reason: String, message: String },
    /// `FailureTarget`, then `Failed`.
    Failure { reason: String, message: String },
}

impl End {
    fn failure(reason: &str, message: &str) -> Self {
        End::Failure { reason: reason.to_owned(), message: message.to_owned() }
    }

    /// All Pods succeeded that had to.
    pub(super) fn all_completions() -> Self {
        End::Success {
            reason: "CompletionsReached".to_owned(),
            message: "Reached expected number of succeeded pods".to_owned(),
        }
    }

    pub(super) fn is_success(&self) -> bool {
        matches!(self, End::Success { .. })
    }

    /// The condition that announces the end.
    pub(super) fn announced(&self, now: Timestamp) -> JobCondition {
        let kind = if self.is_success() { "SuccessCriteriaMet" } else { "FailureTarget" };
        self.condition(kind, now)
    }

    /// The condition that is the end.
    pub(super) fn reached(&self, now: Timestamp) -> JobCondition {
        let kind = if self.is_success() { "Complete" } else { "Failed" };
        self.condition(kind, now)
    }

    fn condition(&self, kind: &str, now: Timestamp) -> JobCondition {
        let (End::Success { reason, message } | End::Failure { reason, message }) = self;
        condition(kind, "True", reason, message, now)
    }
}

/// Whether the Job has to end before all its Pods are done, and how. What was announced stands,
/// whatever is seen since.
pub(super) fn early_end(view: &View<'_>, observed: &Observed) -> Option<End> {
    announced(view)
        .or_else(|| failed_by_policy(view))
        .or_else(|| failed_by_limit(view, observed))
        .or_else(|| past_deadline(view))
        .or_else(|| failed_by_index(view, observed))
        .or_else(|| met_success_policy(view, observed))
}

fn announced(view: &View<'_>) -> Option<End> {
    let said = |kind: &str| {
        let condition = view.status.conditions.iter().flatten().find(|had| had.type_ == kind)?;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        (condition.status == "True").then(|| (text(&condition.reason), text(&condition.message)))
    };
    let success = said("SuccessCriteriaMet");
    let success = success.map(|(reason, message)| End::Success { reason, message });
    success
        .or_else(|| said("FailureTarget").map(|(reason, message)| End::Failure { reason, message }))
}

fn failed_by_policy(view: &View<'_>) -> Option<End> {
    view.spec.pod_failure_policy.as_ref()?;
    let failed = view.pods.iter().filter(|pod| view.has_failed(pod));
    failed.into_iter().find_map(|pod| match view.judge(pod) {
        Judgement::FailJob(message) => Some(End::failure("PodFailurePolicy", &message)),
        _ => None,
    })
}

fn failed_by_limit(view: &View<'_>, observed: &Observed) -> Option<End> {
    let limit = view.spec.backoff_limit.unwrap_or(6);
    let exceeded = observed.failed > limit || restarts_exceed(view, limit);
    exceeded.then(|| {
        End::failure("BackoffLimitExceeded", "Job has reached the specified backoff limit")
    })
}

/// Whether containers that are restarted in place did so as often as Pods may fail.
fn restarts_exceed(view: &View<'_>, limit: i32) -> bool {
    let template = view.spec.template.spec.as_ref();
    if template.and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
        return false;
    }
    let running = view.pods.iter().filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
    let restarts: i32 = running.map(|pod| restarts(pod)).fold(0, i32::saturating_add);
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

fn restarts(pod: &Pod) -> i32 {
    let Some(status) = &pod.status else { return 0 };
    let all = [&status.init_container_statuses, &status.container_statuses];
    let containers = all.into_iter().flat_map(|statuses| statuses.iter().flatten());
    containers.map(|container| container.restart_count).fold(0, i32::saturating_add)
}

/// When the Job has been active for as long as it may. A suspended Job's time stands still, and that
/// of one that was is not begun again before its condition says that it was resumed.
fn deadline(view: &View<'_>) -> Option<Timestamp> {
    let mut had = view.status.conditions.iter().flatten();
    let was_suspended = had.any(|had| had.type_ == "Suspended" && had.status == "True");
    if view.is_suspended() || was_suspended {
        return None;
    }
    let seconds = view.spec.active_deadline_seconds?;
    Some(plus_seconds(view.status.start_time.as_ref()?.0, seconds))
}

/// The time left until the Job has to end.
pub(super) fn time_left(view: &View<'_>) -> Option<Duration> {
    deadline(view).map(|deadline| until(deadline, view.now))
}

fn past_deadline(view: &View<'_>) -> Option<End> {
    let passed = deadline(view)? <= view.now;
    passed
        .then(|| End::failure("DeadlineExceeded", "Job was active longer than specified deadline"))
}

fn failed_by_index(view: &View<'_>, observed: &Observed) -> Option<End> {
    let failed = observed.failed_indexes.as_ref()?.len();
    if view.spec.max_failed_indexes.is_some_and(|most| failed > most) {
        return Some(End::failure(
            "MaxFailedIndexesExceeded",
            "Job has exceeded the specified maximal number of failed indexes",
        ));
    }
    let all_tried = failed + observed.succeeded_indexes.len() >= view.completions();
    (failed > 0 && all_tried).then(|| End::failure("FailedIndexes", "Job has failed indexes"))
}

fn met_success_policy(view: &View<'_>, observed: &Observed) -> Option<End> {
    let policy = view.spec.success_policy.as_ref().filter(|_| view.is_indexed())?;
    let message = success_policy::met(policy, view.completions(), &observed.succeeded_indexes)?;
    Some(End::Success { reason: "SuccessPolicy".to_owned(), message })
}

/// A change of the condition `Suspended`, and the event that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspension {
    Suspended,
    Resumed,
}

/// Sets the condition `Suspended`. What changed, if anything; a Job that never was suspended has
/// no such condition.
pub(super) fn set_suspended(
    conditions: &mut Vec<JobCondition>,
    suspended: bool,
    now: Timestamp,
) -> Option<Suspension> {
    let (status, reason, message, change) = match suspended {
        true => ("True", "JobSuspended", "Job suspended", Suspension::Suspended),
        false => ("False", "JobResumed", "Job resumed", Suspension::Resumed),
    };
    let wanted = condition("Suspended", status, reason, message, now);
    set(conditions, wanted).then_some(change)
}

/// Sets a condition, whose times stay if it says what it said. Whether something changed. Going
/// from nothing to false is no change.
pub(super) fn set(conditions: &mut Vec<JobCondition>, wanted: JobCondition) -> bool {
    let same = |had: &JobCondition| {
        had.status == wanted.status
            && had.reason.as_deref().unwrap_or_default()
                == wanted.reason.as_deref().unwrap_or_default()
            && had.message.as_deref().unwrap_or_default()
                == wanted.message.as_deref().unwrap_or_default()
    };
    match conditions.iter_mut().find(|had| had.type_ == wanted.type_) {
        Some(had) if same(had) => false,
        Some(had) => {
            *had = wanted;
            true
        }
        None if wanted.status == "False" => false,
        None => {
            conditions.push(wanted);
            true
        }
    }
}

fn condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> JobCondition {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    JobCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: text(reason),
        message: text(message),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}
