//! How a container's volumes are mounted, as its status tells.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, PodStatus, VolumeMount, VolumeMountStatus};

use super::is_recursive;
use crate::agent::sync::find;

/// Tells in the status of each container how its volumes are mounted (KEP-3857). No container writes
/// to those in `read_only`; `recursive` says whether the runtime can make all that is mounted below
/// them read-only, too.
pub(crate) fn tell(
    pod: &Pod,
    status: &mut PodStatus,
    read_only: &BTreeSet<String>,
    recursive: bool,
) {
    let shown = |mount: &VolumeMount| {
        let unwritable = mount.read_only == Some(true) || read_only.contains(&mount.name);
        let below = match is_recursive(mount, recursive) {
            true => "Enabled",
            false => "Disabled",
        };
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: unwritable.then_some(true),
            recursive_read_only: unwritable.then(|| below.to_owned()),
            volume_status: None,
        }
    };
    let kinds = [
        &mut status.container_statuses,
        &mut status.init_container_statuses,
        &mut status.ephemeral_container_statuses,
    ];
    for container in kinds.into_iter().flatten().flatten() {
        let Some(definition) = find(pod, &container.name) else { continue };
        let mounts = definition.volume_mounts.iter().flatten().map(shown).collect();
        container.volume_mounts = Some(mounts).filter(|mounts: &Vec<_>| !mounts.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn a_mount_for_reading_says_how_far_down_it_is_one() {
        let pod: Pod = from_value(json!({"metadata": {}, "spec": {"containers": [{"name": "c",
            "volumeMounts": [
                {"name": "a", "mountPath": "/a", "readOnly": true, "recursiveReadOnly": "IfPossible"},
                {"name": "b", "mountPath": "/b"},
                {"name": "c", "mountPath": "/c"}]}]}}))
        .unwrap();
        let told = |recursive: bool| {
            let status = json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "",
                "ready": true, "restartCount": 0}]});
            let mut status: PodStatus = from_value(status).unwrap();
            tell(&pod, &mut status, &["c".to_owned()].into(), recursive);
            json!(status.container_statuses.unwrap()[0].volume_mounts)
        };
        assert_eq!(
            told(true),
            json!([
                {"name": "a", "mountPath": "/a", "readOnly": true, "recursiveReadOnly": "Enabled"},
                {"name": "b", "mountPath": "/b"},
                {"name": "c", "mountPath": "/c", "readOnly": true, "recursiveReadOnly": "Disabled"},
            ])
        );
        assert_eq!(told(false)[0]["recursiveReadOnly"], "Disabled");
    }
}
