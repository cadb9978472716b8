//! What a Pod is with what its presets give.

use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde::Serialize;

use super::name_of;
use crate::resources::pod_preset::{PodPreset, PodPresetSpec};

/// The Pod with everything that the presets have for it.
///
/// Variables, volumes and mounts that it has already are left alone when they are the same; sources
/// of variables are added in any case, as in Kubernetes.
///
/// # Errors
/// All that contradicts it, or one preset another, a line each.
pub(super) fn merged(spec: &PodSpec, presets: &[&PodPreset]) -> Result<PodSpec, String> {
    let mut merging = Merging { presets, conflicts: Vec::new() };
    let mut merged = spec.clone();
    merging.add(
        &mut merged.volumes,
        |spec| &spec.volumes,
        &[Key { of: |volume| &volume.name, what: "volumes", on: "", place: "in pod spec" }],
    );
    let own = merged.containers.iter_mut();
    for container in own.chain(merged.init_containers.iter_mut().flatten()) {
        merging.container(container);
    }
    match merging.conflicts.is_empty() {
        true => Ok(merged),
        false => Err(merging.conflicts.join("\n")),
    }
}

struct Merging<'a> {
    presets: &'a [&'a PodPreset],
    conflicts: Vec<String>,
}

/// By what the items of a list are told apart, and the words for it.
struct Key<T> {
    of: fn(&T) -> &str,
    what: &'static str,
    on: &'static str,
    place: &'static str,
}

impl Merging<'_> {
    fn container(&mut self, container: &mut Container) {
        self.add(
            &mut container.env,
            |spec| &spec.env,
            &[Key { of: |variable| &variable.name, what: "env", on: "", place: "in container" }],
        );
        for source in self.presets.iter().filter_map(|preset| preset.spec.env_from.as_ref()) {
            container.env_from.get_or_insert_default().extend(source.iter().cloned());
        }
        let what = "volume mounts";
        let place = "in container";
        self.add(
            &mut container.volume_mounts,
            |spec| &spec.volume_mounts,
            &[
                Key { of: |mount| &mount.name, what, on: "", place },
                Key { of: |mount| &mount.mount_path, what, on: "mount path ", place },
            ],
        );
    }

    /// Adds to a list what it does not have. An item that equals another by one of the keys must be
    /// the same.
    fn add<T: Clone + PartialEq + Serialize>(
        &mut self,
        list: &mut Option<Vec<T>>,
        given: fn(&PodPresetSpec) -> &Option<Vec<T>>,
        keys: &[Key<T>],
    ) {
        for preset in self.presets {
            for item in given(&preset.spec).iter().flatten() {
                let items = list.get_or_insert_default();
                let mut is_new = true;
                for Key { of, what, on, place } in keys {
                    let Some(found) = items.iter().find(|found| of(found) == of(item)) else {
                        continue;
                    };
                    is_new = false;
                    if found != item {
                        self.conflicts.push(format!(
                            "merging {what} for {} has a conflict on {on}{}: \n{}\ndoes not \
                             match\n{}\n {place}",
                            name_of(*preset),
                            of(item),
                            shown(item),
                            shown(found),
                        ));
                    }
                }
                if is_new {
                    items.push(item.clone());
                }
            }
        }
    }
}

fn shown(item: &impl Serialize) -> String {
    serde_json::to_string(item).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn preset(name: &str, spec: Value) -> PodPreset {
        serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec })).unwrap()
    }

    fn merge(container: Value, presets: &[&PodPreset]) -> Result<Value, String> {
        let volumes = json!([{ "name": "own", "emptyDir": {} }]);
        let init = json!([{ "name": "init" }]);
        let spec = json!({ "containers": [container], "initContainers": init, "volumes": volumes });
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        merged(&spec, presets).map(|merged| serde_json::to_value(merged).unwrap())
    }

    #[test]
    fn every_container_gets_what_it_does_not_have() {
        let given = preset(
            "given",
            json!({
                "env": [{ "name": "A", "value": "1" }, { "name": "B", "value": "2" }],
                "envFrom": [{ "configMapRef": { "name": "c" } }],
                "volumes": [{ "name": "cache", "emptyDir": {} }],
                "volumeMounts": [{ "name": "cache", "mountPath": "/cache" }],
            }),
        );
        let own = json!([{ "name": "A", "value": "1" }, { "name": "C", "value": "3" }]);
        let merged = merge(json!({ "name": "c", "env": own }), &[&given]).unwrap();
        let names = |list: &Value| -> Vec<String> {
            let items = list.as_array().into_iter().flatten();
            items.map(|item| item["name"].as_str().unwrap_or_default().to_owned()).collect()
        };
        assert_eq!(names(&merged["volumes"]), ["own", "cache"]);
        assert_eq!(names(&merged["containers"][0]["env"]), ["A", "C", "B"]);
        let init = &merged["initContainers"][0];
        assert_eq!(names(&init["env"]), ["A", "B"]);
        assert_eq!(init["envFrom"], json!([{ "configMapRef": { "name": "c" } }]));
        assert_eq!(init["volumeMounts"][0]["mountPath"], "/cache");
    }

    #[test]
    fn two_presets_may_give_the_same_and_not_something_else() {
        let of = |name: &str, value: &str| {
            preset(name, json!({ "env": [{ "name": "A", "value": value }] }))
        };
        let merged = merge(json!({ "name": "c" }), &[&of("x", "1"), &of("y", "1")]).unwrap();
        assert_eq!(merged["containers"][0]["env"], json!([{ "name": "A", "value": "1" }]));
        let conflict = merge(json!({ "name": "c" }), &[&of("x", "1"), &of("y", "2")]).unwrap_err();
        let one = "merging env for y has a conflict on A: \n{\"name\":\"A\",\"value\":\"2\"}\ndoes \
                   not match\n{\"name\":\"A\",\"value\":\"1\"}\n in container";
        assert_eq!(conflict, format!("{one}\n{one}"), "in both containers");
    }

    #[test]
    fn volumes_mounts_and_paths_conflict_too() {
        let own = json!({ "name": "c", "volumeMounts": [{ "name": "own", "mountPath": "/own" }] });
        let conflict = |spec: Value| {
            let why = merge(own.clone(), &[&preset("p", spec)]).unwrap_err();
            why.lines().next().unwrap_or_default().trim_end().to_owned()
        };
        let mount = |name: &str, path: &str| json!({ "volumeMounts": [{ "name": name, "mountPath": path }] });
        assert_eq!(
            conflict(json!({ "volumes": [{ "name": "own", "secret": { "secretName": "s" } }] })),
            "merging volumes for p has a conflict on own:"
        );
        assert_eq!(
            conflict(mount("own", "/other")),
            "merging volume mounts for p has a conflict on own:"
        );
        assert_eq!(
            conflict(mount("other", "/own")),
            "merging volume mounts for p has a conflict on mount path /own:"
        );
    }
}
