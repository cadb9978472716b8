//! The Pods of a Job. Pure, but for the random end of their names.

use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::ResourceExt;
use rk_api::rng;

use super::{
    model::{FAILURES, FINALIZER, IGNORED_FAILURES, INDEX, View, number},
    plan::Slot,
};
use crate::pod_control::pod_from_template;

/// Length of the random end of a generated name, and of what comes before it at most.
const SUFFIX: usize = 5;
const BASE_MAX: usize = 63 - SUFFIX;

/// The variable in which the containers of an Indexed Job find their index.
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// A Pod of the Job for `slot`.
pub(super) fn pod(view: &View<'_>, owner: &OwnerReference, slot: &Slot) -> Pod {
    let namespace = view.job.namespace().unwrap_or_default();
    let mut pod = pod_from_template(&view.spec.template, &namespace, owner);
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    if let Some(index) = slot.index {
        give_index(&mut pod, view.job, index);
    }
    if view.limit_per_index().is_some() {
        count_failures(&mut pod, view, slot);
    }
    pod
}

fn give_index(pod: &mut Pod, job: &Job, index: i32) {
    let name = job.name_any();
    let base = name_base(&name, index);
    pod.metadata.name = Some(format!("{base}{}", rng::suffix(SUFFIX)));
    pod.metadata.generate_name = Some(base);
    let index = index.to_string();
    pod.annotations_mut().insert(INDEX.to_owned(), index.clone());
    pod.labels_mut().insert(INDEX.to_owned(), index.clone());
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(format!("{name}-{index}"));
        let init = spec.init_containers.iter_mut().flatten();
        init.chain(&mut spec.containers).for_each(tell_index);
    }
}

/// What a Pod's name begins with: the Job's name, cut where it is too long, and the index.
fn name_base(job: &str, index: i32) -> String {
    let end = format!("-{index}-");
    let kept = job.floor_char_boundary(BASE_MAX.saturating_sub(end.len()));
    format!("{}{end}", &job[..kept.min(job.len())])
}

fn tell_index(container: &mut Container) {
    let variables = container.env.get_or_insert_default();
    // A user's own variable of that name stays.
    if variables.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector {
        api_version: None,
        field_path: format!("metadata.labels['{INDEX}']"),
    };
    variables.push(EnvVar {
        name: INDEX_VARIABLE.to_owned(),
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
        ..EnvVar::default()
    });
}

/// Takes the count of failures over from the Pod that is replaced.
fn count_failures(pod: &mut Pod, view: &View<'_>, slot: &Slot) {
    let (mut failures, mut ignored) = (0, 0);
    if let Some(replaced) = slot.replaces.as_deref() {
        failures = number(replaced, FAILURES).unwrap_or(0);
        ignored = number(replaced, IGNORED_FAILURES).unwrap_or(0);
        if view.judge(replaced).counts() {
            failures = failures.saturating_add(1);
        } else {
            ignored = ignored.saturating_add(1);
        }
    }
    let annotations = pod.annotations_mut();
    annotations.insert(FAILURES.to_owned(), failures.to_string());
    if ignored > 0 {
        annotations.insert(IGNORED_FAILURES.to_owned(), ignored.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_cut_so_that_the_index_stays() {
        assert_eq!(name_base("pi", 7), "pi-7-");
        let base = name_base(&"x".repeat(63), 123);
        assert_eq!((base.len(), base.ends_with("x-123-")), (58, true));
    }
}
