//! What must hold whatever goes wrong, as pure functions of a [`View`].
//!
//! Those of [`EACH_STEP`] are asked after every change of an object; those of [`WHEN_QUIET`] at the
//! end, when nothing has gone wrong for some time.
//!
//! A controller acts on what it has seen, and what it has seen may be old. The rules here ask no
//! more of it than Kubernetes does: where a decision may rest on an older spec, any spec since the
//! one that its status has observed counts; where one may have crossed with a loss that nobody
//! asked for, [`GRACE`] after such a loss is left out.

use std::fmt;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rk_store::Revision;
use serde_json::Value;

use super::{
    flips::FLIPS_MAX,
    view::{
        Step, View, condition, controller, controller_of_kind, full_name, is_going, is_over,
        is_ready, list, number, share, text,
    },
};

/// How long after a Pod was lost by accident nobody is blamed for evicting another.
pub const GRACE: SignedDuration = SignedDuration::from_secs(60);

/// A rule about one change: `Err` says what is wrong.
pub type StepRule = fn(&View, &Step) -> Result<(), String>;

/// A rule about a cluster that has come to rest: what is wrong, a sentence each.
pub type QuietRule = fn(&View) -> Vec<String>;

/// The rules that are asked after every step, with their names.
pub const EACH_STEP: [(&str, StepRule); 7] = [
    ("surge", surge),
    ("floor", floor),
    ("eviction", eviction),
    ("ordinal", ordinal),
    ("job count", job_count),
    ("quota", quota),
    ("fight", fight),
];

/// The rules that are asked at the end, with their names.
pub const WHEN_QUIET: [(&str, QuietRule); 2] = [("orphan", orphans), ("converged", unconverged)];

/// A rule that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The name of the rule.
    pub rule: &'static str,
    /// When.
    pub at: Timestamp,
    /// After which revision of the store.
    pub revision: Revision,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (revision {}): {}: {}", self.at, self.revision, self.rule, self.what)
    }
}

/// Asks all rules about a step.
pub fn check(view: &View, step: &Step) -> Vec<Violation> {
    let broken = EACH_STEP.iter().filter_map(|(rule, holds)| {
        let what = holds(view, step).err()?;
        Some(Violation { rule, at: step.at, revision: step.revision, what })
    });
    broken.collect()
}

/// Asks all rules about a cluster that has come to rest.
pub fn check_quiet(view: &View, at: Timestamp, revision: Revision) -> Vec<Violation> {
    let broken = WHEN_QUIET.iter().flat_map(|(rule, broken)| {
        broken(view).into_iter().map(move |what| Violation { rule, at, revision, what })
    });
    broken.collect()
}

/// A ReplicaSet's replicas before and after a step, with its Deployment.
fn scaled<'a>(view: &'a View, step: &Step) -> Option<(&'a Value, i64, i64)> {
    let after = step.after.as_ref().filter(|_| step.resource() == "replicasets")?;
    let deployment = view.by_uid(controller_of_kind(after, "Deployment")?)?;
    let replicas = |set: &Value| number(set, "/spec/replicas").unwrap_or(1);
    let before = step.before.as_ref().map_or(0, |before| replicas(before));
    Some((deployment, before, replicas(after)))
}

/// The replicas of all ReplicaSets of a Deployment.
fn total(view: &View, deployment: &Value) -> i64 {
    let sets = view.controlled(text(deployment, "/metadata/uid"), "replicasets");
    sets.map(|set| number(set, "/spec/replicas").unwrap_or(1)).sum()
}

/// A Deployment's ReplicaSets are never scaled up to more than `replicas` and `maxSurge` together.
pub fn surge(view: &View, step: &Step) -> Result<(), String> {
    let Some((deployment, before, after)) = scaled(view, step) else { return Ok(()) };
    let most = view.rollouts(text(deployment, "/metadata/uid")).map(|rollout| rollout.most).max();
    let total = total(view, deployment);
    match most {
        Some(most) if after > before && total > most => Err(format!(
            "Deployment {} was scaled up to {total} replicas, at most {most} are allowed",
            full_name(deployment)
        )),
        _ => Ok(()),
    }
}

/// A Deployment's ReplicaSets are never scaled down to less than `replicas` without
/// `maxUnavailable` together.
pub fn floor(view: &View, step: &Step) -> Result<(), String> {
    let Some((deployment, before, after)) = scaled(view, step) else { return Ok(()) };
    if is_going(deployment) {
        return Ok(());
    }
    let least = view.rollouts(text(deployment, "/metadata/uid")).map(|rollout| rollout.least).min();
    let total = total(view, deployment);
    match least {
        Some(least) if after < before && total < least => Err(format!(
            "Deployment {} was scaled down to {total} replicas, at least {least} have to stay",
            full_name(deployment)
        )),
        _ => Ok(()),
    }
}

/// No healthy Pod is evicted that a PodDisruptionBudget cannot spare.
pub fn eviction(view: &View, step: &Step) -> Result<(), String> {
    let (Some(before), Some(pod)) = (&step.before, &step.after) else { return Ok(()) };
    let evicted = step.resource() == "pods"
        && is_going(pod)
        && !is_going(before)
        && is_ready(before)
        && list(pod, "/status/conditions").iter().any(|condition| {
            condition["type"] == "DisruptionTarget"
                && condition["reason"] == "EvictionByEvictionAPI"
        });
    let namespace = text(pod, "/metadata/namespace");
    let accident =
        view.disturbed(namespace).is_some_and(|then| step.at.duration_since(then) <= GRACE);
    if !evicted || accident {
        return Ok(());
    }
    for budget in view.all("poddisruptionbudgets") {
        if text(budget, "/metadata/namespace") != namespace || !selects(budget, pod) {
            continue;
        }
        let covered = view.all("pods").filter(|other| {
            text(other, "/metadata/namespace") == namespace && selects(budget, other)
        });
        let healthy = covered.filter(|other| is_ready(other) && !is_going(other)).count() as i64;
        let expected = number(budget, "/status/expectedPods").unwrap_or(0);
        let least = match budget.pointer("/spec/minAvailable") {
            Some(least) => share(Some(least), expected, true),
            None => expected - share(budget.pointer("/spec/maxUnavailable"), expected, true),
        };
        if healthy < least {
            return Err(format!(
                "the eviction of {} leaves {healthy} healthy Pods, {} wants {least}",
                full_name(pod),
                full_name(budget)
            ));
        }
    }
    Ok(())
}

/// Whether an object's `matchLabels` are among the labels of another.
fn selects(selecting: &Value, object: &Value) -> bool {
    let wanted = selecting.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
    wanted.is_some_and(|wanted| {
        let labels = &object["metadata"]["labels"];
        wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
    })
}

/// A StatefulSet has at most one Pod of each ordinal, and none is made while the one before it is
/// there.
pub fn ordinal(view: &View, step: &Step) -> Result<(), String> {
    let Some(pod) = step.after.as_ref().filter(|_| step.resource() == "pods") else {
        return Ok(());
    };
    let Some(set) = controller_of_kind(pod, "StatefulSet") else { return Ok(()) };
    let own = ordinal_of(pod);
    let same = view.controlled(set, "pods").filter(|other| ordinal_of(other) == own).count();
    let replaced = step
        .before
        .as_ref()
        .is_some_and(|before| text(before, "/metadata/uid") != text(pod, "/metadata/uid"));
    if own.is_some() && (same > 1 || replaced) {
        return Err(format!("there are {same} Pods with the ordinal of {}", full_name(pod)));
    }
    Ok(())
}

fn ordinal_of(pod: &Value) -> Option<u64> {
    text(pod, "/metadata/name").rsplit_once('-').and_then(|(_, ordinal)| ordinal.parse().ok())
}

/// A Job counts each of its Pods at most once, and is complete only with all that it wants.
pub fn job_count(view: &View, step: &Step) -> Result<(), String> {
    let Some(job) = step.after.as_ref().filter(|_| step.resource() == "jobs") else {
        return Ok(());
    };
    let ended = view.ended(text(job, "/metadata/uid")).cloned().unwrap_or_default();
    let counted = |what: &str| {
        let uncounted = list(job, &format!("/status/uncountedTerminatedPods/{what}")).len() as i64;
        number(job, &format!("/status/{what}")).unwrap_or(0) + uncounted
    };
    for (what, seen) in [("succeeded", ended.succeeded.len()), ("failed", ended.failed.len())] {
        let counted = counted(what);
        if counted > seen as i64 {
            let name = full_name(job);
            return Err(format!("Job {name} counts {counted} Pods that {what}, there were {seen}"));
        }
    }
    let succeeded = number(job, "/status/succeeded").unwrap_or(0);
    match number(job, "/spec/completions") {
        Some(wanted) if condition(job, "Complete") && succeeded < wanted => Err(format!(
            "Job {} is complete with {succeeded} of {wanted} completions",
            full_name(job)
        )),
        _ => Ok(()),
    }
}

/// No Pod is made that a ResourceQuota of its namespace has no room for.
pub fn quota(view: &View, step: &Step) -> Result<(), String> {
    let (None, Some(pod)) = (&step.before, &step.after) else { return Ok(()) };
    if step.resource() != "pods" {
        return Ok(());
    }
    let namespace = text(pod, "/metadata/namespace");
    let within = |object: &&std::sync::Arc<Value>| text(object, "/metadata/namespace") == namespace;
    for quota in view.all("resourcequotas").filter(within) {
        let limit = |part: &str| {
            let limit = quota.pointer(&format!("/{part}/hard/pods"));
            limit.and_then(Value::as_str).and_then(|limit| limit.parse::<usize>().ok())
        };
        // A limit counts once its status says so; one that was lowered counts then.
        let Some(limit) = limit("status").map(|old| old.max(limit("spec").unwrap_or(0))) else {
            continue;
        };
        let pods = view.all("pods").filter(within).filter(|pod| !is_over(pod)).count();
        if pods > limit {
            return Err(format!(
                "Pod {} is the {pods}th of {}, which allows {limit}",
                full_name(pod),
                full_name(quota)
            ));
        }
    }
    Ok(())
}

/// Nothing is written back and forth without end.
pub fn fight(view: &View, step: &Step) -> Result<(), String> {
    match view.flips().times(&step.key) {
        // Once is enough to say so.
        FLIPS_MAX if step.after.is_some() => {
            Err(format!("{} went back and forth {FLIPS_MAX} times", step.key))
        }
        _ => Ok(()),
    }
}

/// At rest nothing is left whose owners are all gone, and no Pod is on a node that is not there.
pub fn orphans(view: &View) -> Vec<String> {
    let mut found = Vec::new();
    for (key, object) in view.objects() {
        let owners = list(object, "/metadata/ownerReferences");
        let gone = |owner: &Value| view.by_uid(owner["uid"].as_str().unwrap_or_default()).is_none();
        if !owners.is_empty() && owners.iter().all(gone) {
            found.push(format!("{key} is left of owners that are gone"));
        }
    }
    for pod in view.all("pods") {
        let node = text(pod, "/spec/nodeName");
        if !node.is_empty() && !view.all("minions").any(|it| text(it, "/metadata/name") == node) {
            found.push(format!("Pod {} is on {node}, which is gone", full_name(pod)));
        }
    }
    found
}

/// At rest every object is as its spec wants it.
pub fn unconverged(view: &View) -> Vec<String> {
    let mut found = Vec::new();
    let mut note = |object: &Value, kind: &str, why: String| {
        found.push(format!("{kind} {} {why}", full_name(object)));
    };
    for resource in ["deployments", "statefulsets", "daemonsets", "replicasets"] {
        for object in view.all(resource) {
            if let Some(why) = unfinished(resource, object) {
                note(object, resource, why);
            }
        }
    }
    for job in view.all("jobs") {
        let suspended = job.pointer("/spec/suspend") == Some(&Value::Bool(true));
        // A CronJob's newest may just have begun.
        let over = condition(job, "Complete") || condition(job, "Failed");
        if !over && !suspended && controller(job).is_none() {
            note(job, "Job", "is not over".to_owned());
        }
    }
    for pod in view.all("pods") {
        let owner = controller_of_kind(pod, "Job");
        if is_going(pod) {
            note(pod, "Pod", "does not go".to_owned());
        } else if !is_over(pod) && !is_ready(pod) && owner.is_none() {
            note(pod, "Pod", format!("is {} and not ready", text(pod, "/status/phase")));
        }
    }
    for node in view.all("minions") {
        if !condition(node, "Ready") {
            note(node, "Node", "is not ready".to_owned());
        }
    }
    found
}

/// Why a workload is not as it should be.
fn unfinished(resource: &str, object: &Value) -> Option<String> {
    let status = |name: &str| number(object, &format!("/status/{name}")).unwrap_or(0);
    if is_going(object) {
        return Some("does not go".to_owned());
    }
    let (generation, observed) =
        (number(object, "/metadata/generation").unwrap_or(0), status("observedGeneration"));
    if observed != generation {
        return Some(format!("is at generation {generation}, observed is {observed}"));
    }
    let wanted = match resource {
        "daemonsets" => status("desiredNumberScheduled"),
        _ => number(object, "/spec/replicas").unwrap_or(1),
    };
    let counts: &[&str] = match resource {
        "deployments" => &["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"],
        "statefulsets" => &["replicas", "readyReplicas", "availableReplicas"],
        "daemonsets" => &["updatedNumberScheduled", "numberReady", "numberAvailable"],
        _ => &["replicas", "readyReplicas", "availableReplicas"],
    };
    let wrong = counts.iter().find(|name| status(name) != wanted)?;
    Some(format!("has {} {wrong}, not {wanted}", status(wrong)))
}

#[cfg(test)]
mod tests;
