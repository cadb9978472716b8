//! StatefulSet.

use k8s_openapi::{
    api::{
        apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus},
        autoscaling::v1::Scale,
        core::v1::{PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume},
    },
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, default_text, text},
    persistent_volume_claim,
    pod::defaults,
    row::Row,
    workload,
};
use crate::{
    field::{ErrorList, Path},
    meta::{
        selectors::LabelQuery,
        table::{age, containers_and_images, name},
    },
};

/// The row of StatefulSet.
pub(super) fn row() -> Resource {
    Row::of::<StatefulSets>().short(&["sts"]).in_all().scale().status().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Ready", "string", "Pods that are ready, of those wanted."),
    Column::AGE,
    Column::CONTAINERS,
    Column::IMAGES,
];

/// How a StatefulSet behaves.
#[derive(Debug, Default)]
pub(super) struct StatefulSets;

impl Kind for StatefulSets {
    type Object = StatefulSet;

    fn default(set: &mut StatefulSet) {
        let spec = &mut set.spec;
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(10);
        default_text(&mut spec.pod_management_policy, "OrderedReady");
        let strategy = spec.update_strategy.get_or_insert_default();
        if text(&strategy.type_).is_empty() {
            default_text(&mut strategy.type_, "RollingUpdate");
            strategy.rolling_update.get_or_insert_default();
        }
        if text(&strategy.type_) == "RollingUpdate"
            && let Some(rolling) = &mut strategy.rolling_update
        {
            rolling.partition.get_or_insert(0);
        }
        let retention = spec.persistent_volume_claim_retention_policy.get_or_insert_default();
        default_text(&mut retention.when_deleted, "Retain");
        default_text(&mut retention.when_scaled, "Retain");
        for claim in spec.volume_claim_templates.iter_mut().flatten() {
            persistent_volume_claim::default(claim);
        }
        defaults::template(&mut spec.template);
    }

    fn prepare_create(set: &mut StatefulSet) {
        set.status = Some(StatefulSetStatus::default());
        workload::first_generation(&mut set.metadata);
    }

    fn prepare_update(new: &mut StatefulSet, old: &StatefulSet, part: Part) {
        if part == Part::Status {
            new.spec = old.spec.clone();
        } else {
            new.status = old.status.clone();
        }
        let changed = new.spec != old.spec;
        workload::next_generation(&mut new.metadata, &old.metadata, changed);
    }

    fn validate(set: &StatefulSet) -> ErrorList {
        let (spec, path) = (&set.spec, Path::new("spec"));
        let mut errors = Errors::default();
        policies(&mut errors, spec, &path);
        errors.opt_not_negative(&path.child("replicas"), spec.replicas);
        errors.opt_not_negative(&path.child("minReadySeconds"), spec.min_ready_seconds);
        let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start);
        errors.opt_not_negative(&path.child("ordinals.start"), start);
        let query =
            workload::selector(&mut errors, &spec.selector, "statefulset", &path.child("selector"));
        let at = path.child("template");
        let template = with_claims(spec);
        workload::template(&mut errors, &template, query.as_ref(), "StatefulSet", &at);
        errors.0
    }

    fn validate_update(new: &StatefulSet, old: &StatefulSet, part: Part) -> ErrorList {
        let mut errors = Errors::default();
        if part == Part::Status {
            let status = new.status.clone().unwrap_or_default();
            let path = Path::new("status");
            let parts = [
                ("currentReplicas", status.current_replicas),
                ("updatedReplicas", status.updated_replicas),
            ];
            let counts = workload::Counts {
                total: status.replicas,
                parts: &parts,
                ready: status.ready_replicas,
                available: status.available_replicas,
                ready_name: "status.readyReplicas",
            };
            counts.check(&mut errors, &path);
            workload::observed_generation(&mut errors, status.observed_generation, &path);
            let was = old.status.as_ref().and_then(|status| status.collision_count);
            workload::collision_count(&mut errors, status.collision_count, was, &path);
            return errors.0;
        }
        let mut fixed = new.spec.clone();
        let changeable = old.spec.clone();
        fixed.replicas = changeable.replicas;
        fixed.ordinals = changeable.ordinals;
        fixed.template = changeable.template;
        fixed.update_strategy = changeable.update_strategy;
        fixed.revision_history_limit = changeable.revision_history_limit;
        fixed.min_ready_seconds = changeable.min_ready_seconds;
        fixed.persistent_volume_claim_retention_policy =
            changeable.persistent_volume_claim_retention_policy;
        if fixed != old.spec {
            errors.forbidden(
                &Path::new("spec"),
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', \
                 'template', 'updateStrategy', 'revisionHistoryLimit', \
                 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            );
        }
        errors.0
    }

    fn cells(set: &StatefulSet, now: Timestamp) -> Vec<Value> {
        let ready = set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
        let pod = set.spec.template.spec.as_ref();
        let [containers, images] = containers_and_images(pod.map_or(&[][..], |p| &p.containers));
        vec![
            json!(name(&set.metadata)),
            json!(format!("{ready}/{}", set.spec.replicas.unwrap_or(0))),
            json!(age(&set.metadata, now)),
            containers,
            images,
        ]
    }

    fn scale(set: &StatefulSet) -> Option<Scale> {
        let running = set.status.as_ref().map_or(0, |status| status.replicas);
        let selector = LabelQuery::from_selector(&set.spec.selector).to_string();
        Some(workload::scale(&set.metadata, set.spec.replicas, running, selector))
    }

    fn set_replicas(set: &mut StatefulSet, replicas: i32) {
        set.spec.replicas = Some(replicas);
    }
}

/// The template as its Pods will be: with a volume for each claim template, which containers may
/// mount.
fn with_claims(spec: &StatefulSetSpec) -> PodTemplateSpec {
    let mut template = spec.template.clone();
    let claims = spec.volume_claim_templates.iter().flatten();
    let names: Vec<_> = claims.filter_map(|claim| claim.metadata.name.clone()).collect();
    if let Some(pod) = template.spec.as_mut().filter(|_| !names.is_empty()) {
        let volumes = pod.volumes.get_or_insert_default();
        for name in names {
            if volumes.iter().any(|volume| volume.name == name) {
                continue;
            }
            let claim = PersistentVolumeClaimVolumeSource {
                claim_name: name.clone(),
                ..PersistentVolumeClaimVolumeSource::default()
            };
            volumes.push(Volume {
                name,
                persistent_volume_claim: Some(claim),
                ..Volume::default()
            });
        }
    }
    template
}

fn policies(errors: &mut Errors, spec: &StatefulSetSpec, path: &Path) {
    let at = path.child("podManagementPolicy");
    match text(&spec.pod_management_policy) {
        "" => errors.required(&at, ""),
        "OrderedReady" | "Parallel" => {}
        other => errors.invalid(&at, other, "must be 'OrderedReady' or 'Parallel'"),
    }
    let strategy = spec.update_strategy.clone().unwrap_or_default();
    let at = path.child("updateStrategy");
    match (text(&strategy.type_), &strategy.rolling_update) {
        ("", _) => errors.required(&at, ""),
        ("OnDelete", Some(rolling)) => errors.invalid(
            &at.child("rollingUpdate"),
            json!(rolling),
            "only allowed for updateStrategy 'RollingUpdate'",
        ),
        ("RollingUpdate", Some(rolling)) => {
            errors.opt_not_negative(&at.child("rollingUpdate.partition"), rolling.partition);
        }
        ("OnDelete" | "RollingUpdate", None) => {}
        _ => errors.invalid(&at, json!(strategy), "must be 'RollingUpdate' or 'OnDelete'"),
    }
    if let Some(retention) = &spec.persistent_volume_claim_retention_policy {
        let at = path.child("persistentVolumeClaimRetentionPolicy");
        for (field, policy) in
            [("whenDeleted", &retention.when_deleted), ("whenScaled", &retention.when_scaled)]
        {
            errors.one_of(&at.child(field), text(policy), &["Delete", "Retain"]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_mount_what_the_claim_templates_give() {
        let with_mount = |volume: &str| {
            let mut set: StatefulSet = serde_json::from_value(json!({
                "metadata": {"name": "web", "namespace": "default"},
                "spec": {
                    "serviceName": "web",
                    "selector": {"matchLabels": {"app": "web"}},
                    "template": {
                        "metadata": {"labels": {"app": "web"}},
                        "spec": {"containers": [{"name": "c", "image": "nginx",
                            "volumeMounts": [{"name": volume, "mountPath": "/data"}]}]},
                    },
                    "volumeClaimTemplates": [{"metadata": {"name": "www"}, "spec": {
                        "accessModes": ["ReadWriteOnce"],
                        "resources": {"requests": {"storage": "1Gi"}},
                    }}],
                },
            }))
            .unwrap();
            <StatefulSets as Kind>::default(&mut set);
            StatefulSets::validate(&set)
        };
        assert!(with_mount("www").is_empty(), "{:?}", with_mount("www"));
        let errors = with_mount("other");
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].to_string().contains("volumeMounts[0].name: Not found: \"other\""));
    }
}
