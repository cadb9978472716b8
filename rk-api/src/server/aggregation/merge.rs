//! Discovery and OpenAPI documents of this server with what backends say added.

use std::{cmp::Reverse, collections::HashMap};

use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use serde_json::{Map, Value, json};

use crate::discovery::priority;

/// The rank of a group that no APIService speaks of, as of one of custom resources.
const GROUP_RANK: i32 = 1000;

/// Which group and which version comes first.
#[derive(Debug, Default)]
pub(super) struct Ranks {
    groups: HashMap<String, i32>,
    versions: HashMap<(String, String), i32>,
}

impl Ranks {
    /// What APIServices say.
    pub(super) fn of(services: &[APIService]) -> Self {
        let mut ranks = Self::default();
        for spec in services.iter().filter_map(|service| service.spec.as_ref()) {
            let group = spec.group.clone().unwrap_or_default();
            let rank = ranks.groups.entry(group.clone()).or_insert(spec.group_priority_minimum);
            *rank = (*rank).max(spec.group_priority_minimum);
            let version = spec.version.clone().unwrap_or_default();
            ranks.versions.insert((group, version), spec.version_priority);
        }
        ranks
    }

    fn group(&self, name: &str) -> i32 {
        self.groups.get(name).copied().unwrap_or(GROUP_RANK)
    }

    /// The order of a version within its group.
    fn version(&self, group: &str, version: &str) -> impl Ord + use<> {
        let rank = self.versions.get(&(group.to_owned(), version.to_owned()));
        (Reverse(rank.copied().unwrap_or_default()), Reverse(priority(version)))
    }
}

/// A version that a backend serves.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    /// The group.
    pub group: String,
    /// The version.
    pub version: String,
    /// What it says of its resources, in the aggregated form.
    pub discovery: Option<Value>,
    /// Whether it can be believed no more.
    pub stale: bool,
}

/// Adds versions to an `APIGroupList`.
pub(super) fn groups(mut list: Value, remotes: &[Remote], ranks: &Ranks) -> Value {
    let Some(groups) = list["groups"].as_array_mut() else { return list };
    for remote in remotes {
        let entry = version_entry(remote);
        match groups.iter_mut().find(|group| group["name"] == remote.group.as_str()) {
            Some(group) => add_version(group, entry, &remote.group, ranks),
            None => groups.push(new_group(&remote.group, entry)),
        }
    }
    groups.sort_by_key(|group| Reverse(ranks.group(group["name"].as_str().unwrap_or_default())));
    list
}

/// Adds versions to an `APIGroup`, or makes one of them; `None` when there are none at all.
pub(super) fn group(
    local: Option<Value>,
    name: &str,
    remotes: &[Remote],
    ranks: &Ranks,
) -> Option<Value> {
    let mut found = local;
    for remote in remotes.iter().filter(|remote| remote.group == name) {
        let entry = version_entry(remote);
        match &mut found {
            Some(group) => add_version(group, entry, name, ranks),
            None => {
                let mut group = new_group(name, entry);
                group["kind"] = "APIGroup".into();
                group["apiVersion"] = "v1".into();
                found = Some(group);
            }
        }
    }
    found
}

fn version_entry(remote: &Remote) -> Value {
    let Remote { group, version, .. } = remote;
    json!({ "groupVersion": format!("{group}/{version}"), "version": version })
}

fn new_group(name: &str, entry: Value) -> Value {
    json!({ "name": name, "versions": [entry], "preferredVersion": entry })
}

fn add_version(group: &mut Value, entry: Value, name: &str, ranks: &Ranks) {
    let Some(versions) = group["versions"].as_array_mut() else { return };
    versions.retain(|version| version["version"] != entry["version"]);
    versions.push(entry);
    versions.sort_by_key(|version| {
        ranks.version(name, version["version"].as_str().unwrap_or_default())
    });
    group["preferredVersion"] = versions.first().cloned().unwrap_or_default();
}

/// Adds versions to an `APIGroupDiscoveryList`.
pub(super) fn aggregated(mut list: Value, remotes: &[Remote], ranks: &Ranks) -> Value {
    let Some(items) = list["items"].as_array_mut() else { return list };
    for remote in remotes {
        let name = remote.group.as_str();
        let mut entry = match &remote.discovery {
            Some(discovery) => discovery.clone(),
            None => json!({ "version": remote.version }),
        };
        let stale = remote.stale || remote.discovery.is_none();
        entry["freshness"] = if stale { "Stale" } else { "Current" }.into();
        let at = items.iter().position(|item| item["metadata"]["name"] == name);
        let at = at.unwrap_or_else(|| {
            items.push(json!({ "metadata": { "name": name }, "versions": [] }));
            items.len() - 1
        });
        let Some(versions) = items[at]["versions"].as_array_mut() else { continue };
        versions.retain(|version| version["version"] != entry["version"]);
        versions.push(entry);
        versions.sort_by_key(|version| {
            ranks.version(name, version["version"].as_str().unwrap_or_default())
        });
    }
    let rank = |item: &Value| ranks.group(item["metadata"]["name"].as_str().unwrap_or_default());
    items.sort_by_key(|item| Reverse(rank(item)));
    list
}

/// A version in an `APIGroupDiscoveryList`.
pub(super) fn version_in(list: &Value, group: &str, version: &str) -> Option<Value> {
    let items = list["items"].as_array()?;
    let group = items.iter().find(|item| item["metadata"]["name"] == group)?;
    let versions = group["versions"].as_array()?;
    versions.iter().find(|found| found["version"] == version).cloned()
}

/// An `APIResourceList` in the aggregated form.
pub(super) fn from_classic(list: &Value, group: &str, version: &str) -> Value {
    let entries = list["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
    let kind = |entry: &Value| {
        let or = |key: &str, own: &str| entry[key].as_str().unwrap_or(own).to_owned();
        json!({ "group": or("group", group), "version": or("version", version), "kind": entry["kind"] })
    };
    let mut resources: Vec<Value> = Vec::new();
    let (subresources, objects): (Vec<_>, Vec<_>) = entries
        .iter()
        .filter_map(|entry| Some((entry["name"].as_str()?, entry)))
        .partition(|(name, _)| name.contains('/'));
    for (name, entry) in objects {
        let scope = if entry["namespaced"] == true { "Namespaced" } else { "Cluster" };
        let mut resource = json!({
            "resource": name,
            "responseKind": kind(entry),
            "scope": scope,
            "singularResource": entry["singularName"],
            "verbs": entry["verbs"],
        });
        for key in ["shortNames", "categories"] {
            if entry[key].is_array() {
                resource[key] = entry[key].clone();
            }
        }
        let below: Vec<Value> = subresources
            .iter()
            .filter_map(|(path, entry)| {
                let (parent, subresource) = path.split_once('/')?;
                (parent == name).then(|| {
                    json!({
                        "subresource": subresource,
                        "responseKind": kind(entry),
                        "verbs": entry["verbs"],
                    })
                })
            })
            .collect();
        if !below.is_empty() {
            resource["subresources"] = below.into();
        }
        resources.push(resource);
    }
    json!({ "version": version, "resources": resources })
}

/// Adds a backend's paths to an index of OpenAPI 3 documents.
pub(super) fn openapi_v3(mut index: Value, remotes: &[(String, String)]) -> Value {
    if let Some(paths) = index["paths"].as_object_mut() {
        for (path, url) in remotes {
            paths.insert(path.clone(), json!({ "serverRelativeURL": url }));
        }
    }
    index
}

/// Adds what a Swagger document says of paths below `/apis/group/version` to another one. Where both
/// define a schema, the first counts: they share only Kubernetes' own.
pub(super) fn openapi_v2(mut document: Value, remote: &Value, below: &str) -> Value {
    let empty = Map::new();
    let of = |key: &str| remote[key].as_object().unwrap_or(&empty);
    if let Some(paths) = document["paths"].as_object_mut() {
        let inside = |path: &str| {
            let rest = path.trim_start_matches('/').strip_prefix(below);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        for (path, item) in of("paths").iter().filter(|(path, _)| inside(path)) {
            paths.insert(path.clone(), item.clone());
        }
    }
    if let Some(definitions) = document["definitions"].as_object_mut() {
        for (name, definition) in of("definitions") {
            definitions.entry(name.clone()).or_insert_with(|| definition.clone());
        }
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(group: &str, version: &str, group_rank: i32, rank: i32) -> APIService {
        serde_json::from_value(json!({
            "spec": {
                "group": group, "version": version,
                "groupPriorityMinimum": group_rank, "versionPriority": rank,
            },
        }))
        .unwrap()
    }

    fn remote(group: &str, version: &str) -> Remote {
        let discovery = Some(json!({ "version": version, "resources": [] }));
        Remote { group: group.into(), version: version.into(), discovery, stale: false }
    }

    fn ranks() -> Ranks {
        Ranks::of(&[
            service("apps", "v1", 17_800, 15),
            service("apps", "v2", 17_800, 20),
            service("wardle.example.com", "v1", 2000, 10),
            service("crd.example.com", "v1", 1000, 100),
        ])
    }

    fn local() -> Value {
        let entry = |group: &str| json!({ "groupVersion": format!("{group}/v1"), "version": "v1" });
        json!({ "groups": [new_group("apps", entry("apps")), new_group("crd.example.com", entry("crd.example.com"))] })
    }

    #[test]
    fn groups_and_versions_are_ranked_by_their_services() {
        let remotes = [remote("wardle.example.com", "v1"), remote("apps", "v2")];
        let list = groups(local(), &remotes, &ranks());
        let names: Vec<_> = list["groups"].as_array().unwrap().iter().map(|g| &g["name"]).collect();
        assert_eq!(names, ["apps", "wardle.example.com", "crd.example.com"]);
        let apps = &list["groups"][0];
        assert_eq!(apps["preferredVersion"]["version"], "v2");
        assert_eq!(apps["versions"].as_array().unwrap().len(), 2);
        let alone = group(None, "wardle.example.com", &remotes, &ranks()).unwrap();
        assert_eq!(
            (&alone["kind"], &alone["versions"][0]["version"]),
            (&json!("APIGroup"), &json!("v1"))
        );
        assert_eq!(group(None, "none", &remotes, &ranks()), None);
    }

    #[test]
    fn what_a_backend_said_once_is_marked() {
        let list = json!({ "items": [{ "metadata": { "name": "apps" }, "versions": [] }] });
        let mut unknown = remote("wardle.example.com", "v1");
        unknown.discovery = None;
        let list = aggregated(list, &[remote("apps", "v2"), unknown], &ranks());
        assert_eq!(list["items"][0]["versions"][0]["freshness"], "Current");
        let expected = json!([{ "version": "v1", "freshness": "Stale" }]);
        assert_eq!(list["items"][1]["versions"], expected);
    }

    #[test]
    fn a_classic_document_becomes_an_aggregated_one() {
        let list = json!({ "resources": [
            { "name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"], "shortNames": ["fl"] },
            { "name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["update"] },
        ]});
        let version = from_classic(&list, "wardle.example.com", "v1");
        let kind = json!({ "group": "wardle.example.com", "version": "v1", "kind": "Flunder" });
        assert_eq!(
            version["resources"],
            json!([{
                "resource": "flunders", "responseKind": kind, "scope": "Namespaced",
                "singularResource": "flunder", "verbs": ["get"], "shortNames": ["fl"],
                "subresources": [{ "subresource": "status", "responseKind": kind, "verbs": ["update"] }],
            }])
        );
    }

    #[test]
    fn only_a_backends_own_paths_are_added() {
        let document = json!({ "paths": { "/api/v1": 1 }, "definitions": { "a": 1 } });
        let remote = json!({
            "paths": { "/apis/g/v1/x": 2, "/apis/g/v11": 3, "/api/v1": 4 },
            "definitions": { "a": 2, "b": 2 },
        });
        let merged = openapi_v2(document, &remote, "apis/g/v1");
        assert_eq!(merged["paths"], json!({ "/api/v1": 1, "/apis/g/v1/x": 2 }));
        assert_eq!(merged["definitions"], json!({ "a": 1, "b": 2 }));
    }
}
