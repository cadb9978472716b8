//! Volumes of kinds that are going or gone, and files of one volume that hide each other.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, ProjectedVolumeSource, Volume, VolumeProjection,
};

use super::super::super::{
    check::{list, text},
    warnings::claim,
};
use crate::field::Path;

pub(super) fn warn(warnings: &mut Vec<String>, volumes: &[Volume], path: &Path) {
    for (i, volume) in volumes.iter().enumerate() {
        let at = path.index(i);
        for (field, is_used, why) in [
            (
                "photonPersistentDisk",
                volume.photon_persistent_disk.is_some(),
                "deprecated in v1.11, non-functional in v1.16+",
            ),
            ("gitRepo", volume.git_repo.is_some(), "deprecated in v1.11"),
            ("scaleIO", volume.scale_io.is_some(), "deprecated in v1.16, non-functional in v1.22+"),
            ("flocker", volume.flocker.is_some(), "deprecated in v1.22, non-functional in v1.25+"),
            (
                "storageOS",
                volume.storageos.is_some(),
                "deprecated in v1.22, non-functional in v1.25+",
            ),
            ("quobyte", volume.quobyte.is_some(), "deprecated in v1.22, non-functional in v1.25+"),
            (
                "glusterfs",
                volume.glusterfs.is_some(),
                "deprecated in v1.25, non-functional in v1.26+",
            ),
            ("cephfs", volume.cephfs.is_some(), "deprecated in v1.28, non-functional in v1.31+"),
            ("rbd", volume.rbd.is_some(), "deprecated in v1.28, non-functional in v1.31+"),
        ] {
            if is_used {
                warnings.push(format!("{}: {why}", at.child(field)));
            }
        }
        let template = volume.ephemeral.as_ref().and_then(|all| all.volume_claim_template.as_ref());
        if let Some(template) = template {
            claim(warnings, &template.spec, &at.child("ephemeral.volumeClaimTemplate.spec"));
        }
    }
    volumes.iter().for_each(|volume| files(warnings, volume));
}

fn keys(items: &Option<Vec<KeyToPath>>) -> Vec<&str> {
    list(items).iter().map(|item| item.path.as_str()).collect()
}

fn fields(items: &Option<Vec<DownwardAPIVolumeFile>>) -> Vec<&str> {
    list(items).iter().map(|item| item.path.as_str()).collect()
}

fn files(warnings: &mut Vec<String>, volume: &Volume) {
    let name = &volume.name;
    if let Some(map) = &volume.config_map {
        let what = format!("volume {name:?} (ConfigMap {:?}): overlapping paths", map.name);
        overlaps(warnings, keys(&map.items), &what);
    }
    if let Some(secret) = &volume.secret {
        let of = text(&secret.secret_name);
        let what = format!("volume {name:?} (Secret {of:?}): overlapping paths");
        overlaps(warnings, keys(&secret.items), &what);
    }
    if let Some(pod) = &volume.downward_api {
        let what = format!("volume {name:?} (DownwardAPI): overlapping paths");
        overlaps(warnings, fields(&pod.items), &what);
    }
    if let Some(projected) = &volume.projected {
        projection(warnings, projected, name);
    }
}

/// Files of each source, and of those before it.
fn projection(warnings: &mut Vec<String>, projected: &ProjectedVolumeSource, name: &str) {
    let mut before: BTreeSet<&str> = BTreeSet::new();
    for source in list(&projected.sources) {
        if *source == VolumeProjection::default() {
            warnings.push(format!("volume {name:?} (Projected) has no sources provided"));
            continue;
        }
        let (paths, what) = if let Some(map) = &source.config_map {
            (keys(&map.items), format!("ConfigMap {:?}", map.name))
        } else if let Some(secret) = &source.secret {
            (keys(&secret.items), format!("Secret {:?}", secret.name))
        } else if let Some(pod) = &source.downward_api {
            (fields(&pod.items), "DownwardAPI".to_owned())
        } else if let Some(token) = &source.service_account_token {
            (vec![token.path.as_str()], "ServiceAccountToken".to_owned())
        } else if let Some(bundle) = &source.cluster_trust_bundle {
            let of = bundle.name.as_ref().or(bundle.signer_name.as_ref());
            let of = of.map_or("", String::as_str);
            (vec![bundle.path.as_str()], format!("ClusterTrustBundle {of:?}"))
        } else {
            continue;
        };
        let what = format!("volume {name:?} (Projected {what}): overlapping paths");
        let own: BTreeSet<&str> = paths.iter().copied().collect();
        overlaps(warnings, paths, &what);
        // A path that both have is there twice, so that it is told of.
        let mut all: Vec<&str> = own.iter().chain(&before).copied().collect();
        all.sort_unstable();
        overlaps(warnings, all, &what);
        before.extend(own);
    }
}

fn overlaps(warnings: &mut Vec<String>, paths: Vec<&str>, what: &str) {
    let mut known: BTreeSet<&str> = BTreeSet::new();
    for path in paths {
        let path = path.trim_end_matches('/');
        let is_within = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let hides = |other: &&&str| is_within(path, other) || is_within(other, path);
        let other = known.iter().filter(|other| !other.is_empty()).find(hides);
        if let Some(other) = other.filter(|_| !path.is_empty()) {
            let warning = format!("{what}: {path:?} with {other:?}");
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        known.insert(path);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(volume: Value, expected: &[&str]) {
        let mut warnings = Vec::new();
        let volumes: Vec<Volume> = serde_json::from_value(json!([volume])).unwrap();
        warn(&mut warnings, &volumes, &Path::new("spec.volumes"));
        assert_eq!(warnings, expected);
    }

    #[test]
    fn files_of_a_volume_do_not_hide_each_other() {
        let items = |paths: &[&str]| -> Vec<Value> {
            paths.iter().map(|path| json!({"key": "k", "path": path})).collect()
        };
        let map = |paths: &[&str]| json!({"name": "v", "configMap": {"name": "m", "items": items(paths)}});
        check(map(&["a", "ab", "b/c"]), &[]);
        check(
            map(&["a", "b", "a/c"]),
            &["volume \"v\" (ConfigMap \"m\"): overlapping paths: \"a/c\" with \"a\""],
        );
        let token = json!({"serviceAccountToken": {"path": "a/token"}});
        let map = json!({"configMap": {"name": "m", "items": items(&["a/token"])}});
        check(
            json!({"name": "v", "projected": {"sources": [map, token, {}]}}),
            &[
                "volume \"v\" (Projected ServiceAccountToken): overlapping paths: \"a/token\" \
                 with \"a/token\"",
                "volume \"v\" (Projected) has no sources provided",
            ],
        );
    }

    #[test]
    fn volumes_of_yesterday_are_told_of() {
        check(
            json!({"name": "v", "gitRepo": {"repository": "r"}}),
            &["spec.volumes[0].gitRepo: deprecated in v1.11"],
        );
    }
}
