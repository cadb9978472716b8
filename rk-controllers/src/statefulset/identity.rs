//! The Pod of an ordinal: its name, labels, host name and volumes. Pure.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaimVolumeSource, Pod, Volume},
};
use kube::ResourceExt;

use super::{
    claims,
    model::{self, Version},
};
use crate::{history::POD_REVISION, owners::controller_ref, pod_control::pod_from_template};

/// The label by which a Service can select one Pod.
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// The label with the ordinal (KEP-4017).
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The Pod of this ordinal, as it is created.
pub(super) fn new_pod(set: &StatefulSet, version: &Version, ordinal: i32) -> Pod {
    let namespace = set.namespace().unwrap_or_default();
    let mut pod = pod_from_template(&version.template, &namespace, &controller_ref(set));
    let name = model::pod_name(set, ordinal);
    pod.metadata.name = Some(name.clone());
    pod.labels_mut().insert(POD_REVISION.into(), version.name.clone());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.service_name.clone().filter(|service| !service.is_empty());
    identify(set, &mut pod, ordinal);
    pod
}

/// What the Pod of this ordinal should look like; `None` if it does.
pub(super) fn repaired(set: &StatefulSet, pod: &Pod, ordinal: i32) -> Option<Pod> {
    let mut repaired = pod.clone();
    identify(set, &mut repaired, ordinal);
    (repaired != *pod).then_some(repaired)
}

/// Gives the Pod the labels of its ordinal, and its claims the place of volumes of their names.
fn identify(set: &StatefulSet, pod: &mut Pod, ordinal: i32) {
    let labels = pod.labels_mut();
    labels.insert(POD_NAME.into(), model::pod_name(set, ordinal));
    labels.insert(POD_INDEX.into(), ordinal.to_string());

    let claims = claims::names(set, ordinal);
    let spec = pod.spec.get_or_insert_default();
    let volumes = spec.volumes.get_or_insert_default();
    let is_there = |(volume, claim): &(String, String)| {
        volumes.iter().any(|there| {
            let source = there.persistent_volume_claim.as_ref();
            there.name == *volume && source.is_some_and(|source| source.claim_name == *claim)
        })
    };
    if !claims.iter().all(is_there) {
        let others = std::mem::take(volumes).into_iter();
        let others = others.filter(|other| !claims.iter().any(|(name, _)| *name == other.name));
        let of_claims = claims.iter().map(|(name, claim)| Volume {
            name: name.clone(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.clone(),
                read_only: None,
            }),
            ..Default::default()
        });
        *volumes = of_claims.chain(others).collect();
    }
    if volumes.is_empty() {
        spec.volumes = None;
    }
}
