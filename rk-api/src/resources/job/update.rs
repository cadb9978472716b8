//! What an update of a Job may change.

use k8s_openapi::api::{
    batch::v1::{Job, JobSpec},
    core::v1::{Affinity, PodTemplateSpec},
};
use serde_json::json;

use super::super::check::{Errors, text};
use crate::field::{ErrorList, Path};

/// What is wrong with a change of the Job.
pub(super) fn validate(new: &Job, old: &Job) -> ErrorList {
    let mut errors = Errors::default();
    let (Some(new_spec), Some(old_spec)) = (&new.spec, &old.spec) else { return errors.0 };
    let path = Path::new("spec");
    completions(&mut errors, new_spec, old_spec, &path);
    errors.immutable(&path.child("selector"), &new_spec.selector, &old_spec.selector);
    let started = old.status.as_ref().is_some_and(|status| status.start_time.is_some());
    // Before its first Pod a suspended Job can still be told where to run them (KEP-2926).
    let may_move = old_spec.suspend == Some(true) && !started;
    let template = if may_move {
        with_scheduling_of(&new_spec.template, &old_spec.template)
    } else {
        new_spec.template.clone()
    };
    errors.immutable(&path.child("template"), &template, &old_spec.template);
    let (new, old) = (new_spec, old_spec);
    errors.immutable(&path.child("completionMode"), &new.completion_mode, &old.completion_mode);
    errors.immutable(
        &path.child("podFailurePolicy"),
        &new.pod_failure_policy,
        &old.pod_failure_policy,
    );
    errors.immutable(
        &path.child("backoffLimitPerIndex"),
        &new.backoff_limit_per_index,
        &old.backoff_limit_per_index,
    );
    errors.immutable(&path.child("managedBy"), &new.managed_by, &old.managed_by);
    errors.immutable(&path.child("successPolicy"), &new.success_policy, &old.success_policy);
    errors.0
}

/// An Indexed Job may get more or fewer completions when its parallelism becomes the same
/// (KEP-3715).
fn completions(errors: &mut Errors, new: &JobSpec, old: &JobSpec, path: &Path) {
    let at = path.child("completions");
    if text(&new.completion_mode) != "Indexed" {
        errors.immutable(&at, &new.completions, &old.completions);
    } else if new.completions != old.completions
        && new.completions.is_some()
        && new.completions != new.parallelism
    {
        let wrong = "can only be modified in tandem with spec.parallelism";
        errors.invalid(&at, json!(new.completions), wrong);
    }
}

/// The new template with the old one's scheduling directives. Of affinities only that to nodes is
/// one.
fn with_scheduling_of(new: &PodTemplateSpec, old: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = new.clone();
    if let (Some(new), Some(old)) = (&mut template.spec, &old.spec) {
        new.node_selector = old.node_selector.clone();
        new.tolerations = old.tolerations.clone();
        new.scheduling_gates = old.scheduling_gates.clone();
        let nodes = old.affinity.as_ref().and_then(|all| all.node_affinity.clone());
        let mut all = new.affinity.take().unwrap_or_default();
        all.node_affinity = nodes;
        let is_nothing = old.affinity.is_none() && all == Affinity::default();
        new.affinity = (!is_nothing).then_some(all);
    }
    let meta = template.metadata.get_or_insert_default();
    let was = old.metadata.clone().unwrap_or_default();
    (meta.labels, meta.annotations) = (was.labels, was.annotations);
    if old.metadata.is_none() {
        template.metadata.take_if(|meta| *meta == Default::default());
    }
    template
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::resources::{Kind, Part, job::Jobs};

    fn job(more: Value, status: Value) -> Job {
        let mut json = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {
            "template": {"spec": {"restartPolicy": "Never",
                "containers": [{"name": "c", "image": "i"}]}},
        }});
        for (path, value) in more.as_object().unwrap() {
            *json["spec"].pointer_mut(path).unwrap_or(&mut Value::Null) = Value::Null;
            let (parent, field) = path.rsplit_once('/').unwrap();
            json["spec"].pointer_mut(parent).unwrap()[field] = value.clone();
        }
        let mut job: Job = serde_json::from_value(json).unwrap();
        <Jobs as Kind>::default(&mut job);
        Jobs::prepare_create(&mut job);
        job.status = serde_json::from_value(status).unwrap();
        job
    }

    #[track_caller]
    fn check_with(status: Value, old: Value, new: Value, wrong: &[&str]) {
        let (old, mut new) = (job(old, status), job(new, json!({})));
        Jobs::prepare_update(&mut new, &old, Part::Main);
        let mut errors = Jobs::validate(&new);
        errors.extend(Jobs::validate_update(&new, &old, Part::Main));
        let messages: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(messages.len(), wrong.len(), "{messages:?}");
        for (message, wrong) in messages.iter().zip(wrong) {
            assert!(message.starts_with(wrong), "{message}");
        }
    }

    #[track_caller]
    fn check(old: Value, new: Value, wrong: &[&str]) {
        check_with(json!({}), old, new, wrong);
    }

    #[test]
    fn an_indexed_job_grows_in_tandem() {
        let indexed = |completions: i32, parallelism: i32| {
            json!({"/completionMode": "Indexed", "/completions": completions,
                "/parallelism": parallelism})
        };
        check(indexed(3, 2), indexed(4, 4), &[]);
        check(indexed(3, 2), indexed(3, 1), &[]);
        check(
            indexed(3, 3),
            indexed(4, 3),
            &["spec.completions: Invalid value: 4: can only be modified in tandem with \
               spec.parallelism"],
        );
        check(
            json!({"/completions": 3}),
            json!({"/completions": 4}),
            &["spec.completions: Invalid value: 4: field is immutable"],
        );
    }

    #[test]
    fn a_suspended_job_moves_until_it_starts() {
        let zone = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": ["n"]}]}]}}});
        let moved = json!({"/suspend": true, "/template/spec/affinity": zone,
            "/template/spec/nodeSelector": {"a": "b"},
            "/template/spec/tolerations": [{"operator": "Exists"}]});
        check(json!({"/suspend": true}), moved.clone(), &[]);
        check(moved.clone(), json!({"/suspend": true}), &[]);
        let immutable = ["spec.template: Invalid value: {"];
        check(json!({"/suspend": false}), moved.clone(), &immutable);
        let started = json!({"startTime": "2026-01-01T00:00:00Z"});
        check_with(started, json!({"/suspend": true}), moved, &immutable);
        let apart = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            [{"topologyKey": "zone"}]}});
        check(
            json!({"/suspend": true}),
            json!({"/suspend": true, "/template/spec/affinity": apart}),
            &immutable,
        );
    }

    #[test]
    fn what_a_job_is_stays() {
        for (field, value) in [
            ("managedBy", json!("example.com/other")),
            ("backoffLimitPerIndex", json!(1)),
            (
                "podFailurePolicy",
                json!({"rules": [{"action": "Ignore",
                "onPodConditions": [{"type": "DisruptionTarget"}]}]}),
            ),
        ] {
            let indexed = json!({"/completionMode": "Indexed", "/completions": 1,
                "/backoffLimit": 6, "/podReplacementPolicy": "Failed"});
            let mut changed = indexed.clone();
            changed[format!("/{field}")] = value;
            check(indexed, changed, &[&format!("spec.{field}: Invalid value: ")]);
        }
        check(
            json!({"/completions": 3}),
            json!({"/completions": 3, "/parallelism": 2, "/suspend": true, "/activeDeadlineSeconds": 5,
                "/backoffLimit": 2, "/ttlSecondsAfterFinished": 1}),
            &[],
        );
    }

    #[test]
    fn a_job_has_no_pods_of_another() {
        let labelled = json!({"/template/metadata": {"labels": {"job-name": "other"}}});
        let job = job(labelled, json!({}));
        let messages: Vec<_> = Jobs::validate(&job).iter().map(ToString::to_string).collect();
        let [message] = messages.as_slice() else { panic!("{messages:?}") };
        assert!(
            message.starts_with("spec.template.metadata.labels[job-name]: Invalid value: {")
                && message.ends_with(": must be 'j'"),
            "{message}"
        );
    }
}
