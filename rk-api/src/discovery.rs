//! Discovery: the documents that tell a client which kinds there are.
//!
//! | path | classic | aggregated |
//! |---|---|---|
//! | `/api` | [`api_versions`] | [`aggregated_core`] |
//! | `/apis` | [`api_group_list`] | [`aggregated_groups`] |
//! | `/apis/{group}` | [`api_group`] | |
//! | `/api/v1`, `/apis/{group}/{version}` | [`api_resource_list`] | |
//!
//! A client that accepts [`AGGREGATED_MEDIA_TYPE`] gets everything in two requests; others walk
//! the classic documents. Both are made from the same table and say the same.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::resources::{Resource, Resources, Subresource};

/// The media type of the aggregated documents, in `Accept` and `Content-Type`.
pub const AGGREGATED_MEDIA_TYPE: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A strong entity tag for a document: its SHA-256, quoted.
pub fn etag(body: &[u8]) -> String {
    format!("\"{}\"", hash(body))
}

/// The SHA-256 of a document in upper-case hexadecimal digits.
pub fn hash(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02X}")).collect()
}

/// `/api`: the versions of the core group. `server_address` (`host:port`) is where clients reach
/// the server.
pub fn api_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [
            {"clientCIDR": "0.0.0.0/0", "serverAddress": server_address},
        ],
    })
}

/// `/apis`: all groups but the core.
pub fn api_group_list(resources: &Resources) -> Value {
    let groups = groups(resources);
    let groups = groups.iter().filter(|group| !group.name.is_empty());
    json!({
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": groups.map(Group::describe).collect::<Vec<_>>(),
    })
}

/// `/apis/{group}`; `None` if there is no such group.
pub fn api_group(resources: &Resources, name: &str) -> Option<Value> {
    let group =
        groups(resources).into_iter().find(|group| group.name == name && !name.is_empty())?;
    let mut document = group.describe();
    document["kind"] = "APIGroup".into();
    document["apiVersion"] = "v1".into();
    Some(document)
}

/// `/api/v1` (with an empty group) or `/apis/{group}/{version}`: the kinds of a version, each
/// followed by its subresources; `None` if there is no such version.
pub fn api_resource_list(resources: &Resources, group: &str, version: &str) -> Option<Value> {
    let rows: Vec<_> =
        resources.iter().filter(|row| row.group == group && row.version == version).collect();
    let first = rows.first()?;
    let mut document = json!({"kind": "APIResourceList", "groupVersion": first.api_version()});
    if !group.is_empty() {
        // The core group's document has always lacked it.
        document["apiVersion"] = "v1".into();
    }
    let entries = rows.iter().flat_map(|row| {
        let subresources =
            row.subresources.iter().map(|subresource| classic_subresource(row, subresource));
        std::iter::once(classic(resources, row)).chain(subresources)
    });
    document["resources"] = entries.collect();
    Some(document)
}

/// `/api` for clients that accept [`AGGREGATED_MEDIA_TYPE`].
pub fn aggregated_core(resources: &Resources) -> Value {
    aggregated(resources, |group| group.name.is_empty())
}

/// `/apis` for clients that accept [`AGGREGATED_MEDIA_TYPE`].
pub fn aggregated_groups(resources: &Resources) -> Value {
    aggregated(resources, |group| !group.name.is_empty())
}

// === groups ===

/// A group and its versions, the preferred one first.
struct Group<'a> {
    name: &'a str,
    versions: Vec<&'a str>,
}

/// In the order in which the table has them.
fn groups(resources: &Resources) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for row in resources.iter() {
        let (name, version) = (row.group.as_ref(), row.version.as_ref());
        match groups.iter_mut().find(|group| group.name == name) {
            Some(group) if group.versions.contains(&version) => {}
            Some(group) => group.versions.push(version),
            None => groups.push(Group { name, versions: vec![version] }),
        }
    }
    for group in &mut groups {
        group.versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
    }
    groups
}

/// Ranks versions as Kubernetes does: `v2` over `v1` over `v1beta2` over `v1alpha1` over what is
/// no such version.
pub(crate) fn priority(version: &str) -> (u8, u32, u32) {
    let parse = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..digits].parse().ok()?;
        let (stability, minor) = match &rest[digits..] {
            "" => (3, ""),
            rest => match rest.strip_prefix("beta") {
                Some(minor) => (2, minor),
                None => (1, rest.strip_prefix("alpha")?),
            },
        };
        let minor = if stability == 3 { 0 } else { minor.parse().ok()? };
        Some((stability, major, minor))
    };
    parse().unwrap_or_default()
}

impl Group<'_> {
    /// As an entry of an `APIGroupList`.
    fn describe(&self) -> Value {
        let version = |version: &&str| json!({"groupVersion": format!("{}/{version}", self.name), "version": version});
        json!({
            "name": self.name,
            "versions": self.versions.iter().map(version).collect::<Vec<_>>(),
            "preferredVersion": self.versions.first().map(version),
        })
    }
}

// === classic ===

fn classic(resources: &Resources, row: &Resource) -> Value {
    let mut entry = json!({
        "name": row.plural,
        "singularName": row.singular,
        "namespaced": row.namespaced,
        "kind": row.kind,
        "verbs": row.verbs,
    });
    if !row.short_names.is_empty() {
        entry["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        entry["categories"] = json!(row.categories);
    }
    if row.verbs.iter().any(|verb| verb == "list") {
        entry["storageVersionHash"] = storage_version_hash(resources, row).into();
    }
    entry
}

fn classic_subresource(row: &Resource, subresource: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", row.plural, subresource.name),
        "singularName": "",
        "namespaced": row.namespaced,
        "kind": subresource.kind,
        "verbs": subresource.verbs,
    });
    if let Some((group, version)) = &subresource.group_version {
        entry["group"] = json!(group);
        entry["version"] = json!(version);
    }
    entry
}

/// Tells clients when objects come to be stored in another version: the first eight bytes of a
/// hash of the stored group, version and kind.
fn storage_version_hash(resources: &Resources, row: &Resource) -> String {
    // Several rows may show the same objects; the first of them is what is stored.
    if let Some(custom) = row.strategy.custom() {
        return hash_of(&format!("{}/{}", custom.stored_as, row.kind));
    }
    let stored = resources
        .iter()
        .find(|other| other.key_prefix == row.key_prefix && other.kind == row.kind)
        .map_or(row, AsRef::as_ref);
    hash_of(&format!("{}/{}/{}", stored.group, stored.version, stored.kind))
}

fn hash_of(name: &str) -> String {
    BASE64_STANDARD.encode(&Sha256::digest(name)[..8])
}

// === aggregated ===

fn aggregated(resources: &Resources, select: impl Fn(&Group<'_>) -> bool) -> Value {
    let groups = groups(resources);
    let items: Vec<_> = groups
        .iter()
        .filter(|group| select(group))
        .map(|group| {
            let version = |version: &&str| aggregated_version(resources, group.name, version);
            let versions: Vec<_> = group.versions.iter().map(version).collect();
            // The core group's metadata is empty, as Go leaves out an empty name.
            let metadata = match group.name {
                "" => json!({}),
                name => json!({"name": name}),
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

fn aggregated_version(resources: &Resources, group: &str, version: &str) -> Value {
    let rows = resources.iter().filter(|row| row.group == group && row.version == version);
    json!({
        "version": version,
        "resources": rows.map(|row| aggregated_resource(row)).collect::<Vec<_>>(),
        "freshness": "Current",
    })
}

fn aggregated_resource(row: &Resource) -> Value {
    let mut entry = Map::new();
    let mut add = |name: &str, value: Value| entry.insert(name.into(), value);
    add("resource", json!(row.plural));
    add("responseKind", kind(&row.group, &row.version, &row.kind));
    add("scope", if row.namespaced { "Namespaced" } else { "Cluster" }.into());
    add("singularResource", json!(row.singular));
    add("verbs", json!(row.verbs));
    if !row.short_names.is_empty() {
        add("shortNames", json!(row.short_names));
    }
    if !row.categories.is_empty() {
        add("categories", json!(row.categories));
    }
    if !row.subresources.is_empty() {
        let subresource = |subresource: &Subresource| {
            let (group, version) = match &subresource.group_version {
                Some((group, version)) => (group, version),
                None => (&row.group, &row.version),
            };
            json!({
                "subresource": subresource.name,
                "responseKind": kind(group, version, &subresource.kind),
                "verbs": subresource.verbs,
            })
        };
        add("subresources", row.subresources.iter().map(subresource).collect());
    }
    Value::Object(entry)
}

fn kind(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn strings(value: &Value) -> Vec<&str> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Every resource and subresource with its verbs and kind, from either form.
    type Entry = (String, String, String, Vec<String>, String);

    fn owned(verbs: &Value) -> Vec<String> {
        strings(verbs).into_iter().map(str::to_owned).collect()
    }

    fn from_classic(resources: &Resources) -> BTreeSet<Entry> {
        let mut entries = BTreeSet::new();
        for group in groups(resources) {
            for version in group.versions {
                let list = api_resource_list(resources, group.name, version).unwrap();
                for entry in list["resources"].as_array().unwrap() {
                    entries.insert((
                        group.name.to_owned(),
                        version.to_owned(),
                        entry["name"].as_str().unwrap().to_owned(),
                        owned(&entry["verbs"]),
                        entry["kind"].as_str().unwrap().to_owned(),
                    ));
                }
            }
        }
        entries
    }

    fn from_aggregated(document: &Value) -> BTreeSet<Entry> {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let mut entries = BTreeSet::new();
        for group in list(&document["items"]) {
            for version in list(&group["versions"]) {
                let mut add = |name: String, entry: &Value| {
                    entries.insert((
                        group["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
                        version["version"].as_str().unwrap().to_owned(),
                        name,
                        owned(&entry["verbs"]),
                        entry["responseKind"]["kind"].as_str().unwrap().to_owned(),
                    ));
                };
                for resource in list(&version["resources"]) {
                    let plural = resource["resource"].as_str().unwrap();
                    add(plural.to_owned(), &resource);
                    for subresource in list(&resource["subresources"]) {
                        let name = subresource["subresource"].as_str().unwrap();
                        add(format!("{plural}/{name}"), &subresource);
                    }
                }
            }
        }
        entries
    }

    #[test]
    fn classic_and_aggregated_documents_agree() {
        let resources = Resources::builtin();
        let mut aggregated = from_aggregated(&aggregated_core(&resources));
        aggregated.extend(from_aggregated(&aggregated_groups(&resources)));

        assert_eq!(from_classic(&resources), aggregated);
    }

    #[test]
    fn every_row_is_found() {
        let resources = Resources::builtin();
        let entries = from_classic(&resources);
        for row in resources.iter() {
            let found = entries.iter().any(|(group, version, name, _, kind)| {
                *group == row.group
                    && *version == row.version
                    && *name == row.plural
                    && *kind == row.kind
            });
            assert!(found, "{}", row.qualified());
        }
    }

    #[test]
    fn groups_are_ranked_as_by_kube_apiserver() {
        let resources = Resources::builtin();
        let list = api_group_list(&resources);
        let names: Vec<_> = list["groups"]
            .as_array()
            .unwrap()
            .iter()
            .map(|group| group["name"].as_str().unwrap())
            .collect();
        assert!(!names.contains(&""));
        let expected = ["apps", "autoscaling", "batch", "scheduling.k8s.io", "coordination.k8s.io"];
        let found: Vec<_> = names.into_iter().filter(|name| expected.contains(name)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_group_has_a_preferred_version() {
        let group = api_group(&Resources::builtin(), "apps").unwrap();
        assert_eq!(
            group,
            json!({
                "kind": "APIGroup",
                "apiVersion": "v1",
                "name": "apps",
                "versions": [{"groupVersion": "apps/v1", "version": "v1"}],
                "preferredVersion": {"groupVersion": "apps/v1", "version": "v1"},
            })
        );
        assert_eq!(api_group(&Resources::builtin(), "nope"), None);
        assert_eq!(api_group(&Resources::builtin(), ""), None);
        assert_eq!(api_resource_list(&Resources::builtin(), "apps", "v7"), None);
    }

    #[test]
    fn versions_are_ranked() {
        let mut versions = ["foo", "v1alpha1", "v1beta2", "v11", "v2", "v1beta10", "v1"];
        versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        assert_eq!(versions, ["v11", "v2", "v1", "v1beta10", "v1beta2", "v1alpha1", "foo"]);
    }

    #[test]
    fn storage_versions_are_hashed_as_by_kube_apiserver() {
        let resources = Resources::builtin();
        let hash = |group, version, plural| {
            storage_version_hash(&resources, resources.get(group, version, plural).unwrap())
        };
        assert_eq!(hash("", "v1", "pods"), "xPOwRZ+Yhw8=");
        assert_eq!(hash("apps", "v1", "deployments"), "8aSe+NMegvE=");
    }

    #[test]
    fn a_kind_is_described_with_its_subresources() {
        let list = api_resource_list(&Resources::builtin(), "", "v1").unwrap();
        let entries = list["resources"].as_array().unwrap();
        let find = |name: &str| entries.iter().find(|entry| entry["name"] == name).unwrap();

        assert_eq!(find("pods")["shortNames"], json!(["po"]));
        assert_eq!(find("pods")["singularName"], "pod");
        assert_eq!(find("pods/log")["verbs"], json!(["get"]));
        assert_eq!(find("pods/eviction")["group"], "policy");
        assert!(find("bindings").get("storageVersionHash").is_none());
        let names: Vec<_> = entries.iter().map(|entry| entry["name"].as_str().unwrap()).collect();
        assert!(names.is_sorted());
    }

    #[test]
    fn an_etag_is_a_quoted_hash() {
        assert_eq!(
            etag(b""),
            "\"E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855\""
        );
    }
}
