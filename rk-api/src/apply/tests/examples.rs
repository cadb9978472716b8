//! What KEP-555 and Kubernetes' documentation promise, example by example.

use serde_json::{Value, json};

use crate::apply::{
    Applied, ApplyError, FieldSet, Filter, Managers, OneVersion, Operation, Schema, Write, apply,
    builtin, compare_bytes, owned_by_creator,
};

const NOW: &str = "2026-01-01T00:00:00Z";

/// An object of one kind, and who manages it.
struct World {
    kind: &'static str,
    api_version: &'static str,
    object: Value,
    managers: Managers,
    now: String,
}

impl World {
    fn new(kind: &'static str, api_version: &'static str) -> Self {
        let object = json!({});
        Self { kind, api_version, object, managers: Managers::default(), now: NOW.to_owned() }
    }

    fn config_map() -> Self {
        Self::new("io.k8s.api.core.v1.ConfigMap", "v1")
    }

    fn deployment() -> Self {
        Self::new("io.k8s.api.apps.v1.Deployment", "apps/v1")
    }

    fn try_apply(
        &mut self,
        manager: &str,
        configuration: Value,
        force: bool,
    ) -> Result<(), ApplyError> {
        let schema = builtin();
        let kind = schema.get(self.kind).unwrap();
        schema.validate(kind, &configuration).unwrap();
        let versions = OneVersion { api_version: self.api_version, schema, kind };
        let filter = Filter::default();
        let write = Write {
            manager,
            api_version: self.api_version,
            subresource: "",
            filter: &filter,
            now: &self.now,
        };
        let Applied { object, managers } =
            apply(&versions, &write, &self.object, &configuration, &self.managers, force)?;
        self.object = object.unwrap_or_else(|| self.object.clone());
        self.managers = managers;
        Ok(())
    }

    #[track_caller]
    fn apply(&mut self, manager: &str, configuration: Value) {
        self.try_apply(manager, configuration, false).unwrap();
    }

    #[track_caller]
    fn conflicts(&mut self, manager: &str, configuration: Value) -> String {
        self.try_apply(manager, configuration, false).unwrap_err().to_string()
    }

    fn update(&mut self, manager: &str, new: Value) {
        let schema = builtin();
        let kind = schema.get(self.kind).unwrap();
        let comparison = schema.compare(kind, &self.object, &new).unwrap();
        let (old_bytes, new_bytes) = (self.object.to_string(), new.to_string());
        let by_bytes =
            compare_bytes(schema, kind, old_bytes.as_bytes(), new_bytes.as_bytes()).unwrap();
        assert_eq!(by_bytes, comparison);
        let filter = Filter::default();
        let write = Write {
            manager,
            api_version: self.api_version,
            subresource: "",
            filter: &filter,
            now: &self.now,
        };
        self.managers.record_update(&write, |_| Some(std::borrow::Cow::Borrowed(&comparison)));
        self.object = new;
    }

    fn owned(&self, manager: &str) -> String {
        let entry = self.managers.entries().iter().find(|entry| entry.manager == manager);
        entry.map_or_else(|| "nothing".to_owned(), |entry| entry.fields.to_json())
    }
}

#[test]
fn who_applies_a_field_owns_it() {
    let mut world = World::config_map();
    world.apply("a", json!({"metadata": {"name": "x", "labels": {"l": "1"}}, "data": {"k": "v"}}));
    assert_eq!(world.owned("a"), r#"{"f:data":{"f:k":{}},"f:metadata":{"f:labels":{"f:l":{}}}}"#);
    assert_eq!(world.managers.entries()[0].operation, Operation::Apply);
    assert_eq!(world.managers.entries()[0].time.as_deref(), Some(NOW));
}

#[test]
fn what_is_no_longer_applied_is_removed() {
    let mut world = World::config_map();
    world.apply("a", json!({"data": {"k": "v", "l": "w"}}));
    world.apply("a", json!({"data": {"l": "w"}}));
    assert_eq!(world.object, json!({"data": {"l": "w"}}));
    world.apply("a", json!({"metadata": {"name": "x"}}));
    assert_eq!(world.object.get("data"), None);
    assert!(world.managers.is_empty());
}

#[test]
fn what_another_manager_applies_too_stays() {
    let mut world = World::config_map();
    world.apply("a", json!({"data": {"k": "v"}}));
    world.apply("b", json!({"data": {"k": "v"}}));
    world.apply("a", json!({"data": {}}));
    assert_eq!(world.object["data"], json!({"k": "v"}));
    assert_eq!(world.owned("b"), r#"{"f:data":{"f:k":{}}}"#);
}

#[test]
fn changing_what_another_manager_owns_is_a_conflict() {
    let mut world = World::config_map();
    world.apply("a", json!({"data": {"k": "v", "l": "w"}}));
    assert_eq!(
        world.conflicts("b", json!({"data": {"k": "other"}})),
        r#"Apply failed with 1 conflict: conflict with "a": .data.k"#
    );
    assert_eq!(
        world.conflicts("b", json!({"data": {"k": "other", "l": "other"}})),
        "Apply failed with 2 conflicts: conflicts with \"a\":\n- .data.k\n- .data.l"
    );
    world.try_apply("b", json!({"data": {"k": "other"}}), true).unwrap();
    assert_eq!(world.object["data"], json!({"k": "other", "l": "w"}));
    assert_eq!(world.owned("a"), r#"{"f:data":{"f:l":{}}}"#);
}

#[test]
fn an_update_takes_its_fields_from_others() {
    let mut world = World::config_map();
    world.apply("a", json!({"data": {"k": "v", "l": "w"}}));
    world.update("u", json!({"data": {"k": "new", "m": "x"}}));
    assert_eq!(world.owned("a"), "nothing");
    assert_eq!(world.owned("u"), r#"{"f:data":{"f:k":{},"f:m":{}}}"#);
    assert_eq!(
        world.conflicts("a", json!({"data": {"k": "mine"}})),
        r#"Apply failed with 1 conflict: conflict with "u" using v1: .data.k"#
    );
}

#[test]
fn an_applied_list_of_containers_merges_by_name() {
    let mut world = World::deployment();
    let containers =
        |containers: Value| json!({"spec": {"template": {"spec": {"containers": containers}}}});
    world.apply("a", containers(json!([{"name": "a", "image": "1"}])));
    world.apply("b", containers(json!([{"name": "b", "image": "2"}, {"name": "a"}])));
    let merged = &world.object["spec"]["template"]["spec"]["containers"];
    assert_eq!(*merged, json!([{"name": "b", "image": "2"}, {"name": "a", "image": "1"}]));
    world.apply("b", containers(json!([{"name": "a"}])));
    let merged = &world.object["spec"]["template"]["spec"]["containers"];
    assert_eq!(*merged, json!([{"name": "a", "image": "1"}]));
}

#[test]
fn ports_are_told_apart_with_the_default_protocol() {
    let mut world = World::new("io.k8s.api.core.v1.Service", "v1");
    world.apply("a", json!({"spec": {"ports": [{"port": 80}]}}));
    assert_eq!(
        world.owned("a"),
        r#"{"f:spec":{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:port":{}}}}}"#
    );
    world.apply("b", json!({"spec": {"ports": [{"port": 80, "protocol": "TCP", "name": "http"}]}}));
    assert_eq!(world.object["spec"]["ports"].as_array().unwrap().len(), 1);
}

#[test]
fn an_atomic_list_has_one_owner() {
    let mut world = World::deployment();
    let args = |args: Value| json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "args": args}]}}}});
    world.apply("a", args(json!(["x"])));
    let conflict = world.conflicts("b", args(json!(["x", "y"])));
    assert!(conflict.ends_with(r#".spec.template.spec.containers[name="a"].args"#), "{conflict}");
}

#[test]
fn an_unmanaged_object_belongs_to_those_before() {
    let mut world = World::config_map();
    world.object = json!({"metadata": {"name": "x", "uid": "1"}, "data": {"k": "v"}});
    assert_eq!(
        world.conflicts("a", json!({"data": {"k": "w"}})),
        r#"Apply failed with 1 conflict: conflict with "before-first-apply" using v1: .data.k"#
    );
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let mut world = World::config_map();
    world.apply("a", json!({"data": {"k": "v"}}));
    let before = world.managers.clone();
    world.now = "2027-01-01T00:00:00Z".to_owned();
    world.apply("a", json!({"data": {"k": "v"}}));
    assert_eq!(world.managers, before);
}

#[test]
fn client_side_apply_is_taken_over_without_conflicts() {
    let mut world = World::config_map();
    let last = r#"{"apiVersion":"v1","kind":"ConfigMap","data":{"k":"v"}}"#;
    let annotations = json!({"kubectl.kubernetes.io/last-applied-configuration": last});
    world.update(
        "kubectl-client-side-apply",
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"uid": "1", "annotations": annotations}, "data": {"k": "v"}}),
    );
    let empty = json!({});
    let schema = builtin();
    let kind = schema.get(world.kind).unwrap();
    let comparison = schema.compare(kind, &empty, &world.object).unwrap();
    let filter = Filter::default();
    let write = Write {
        manager: "kubectl-client-side-apply",
        api_version: "v1",
        subresource: "",
        filter: &filter,
        now: NOW,
    };
    world.managers.record_update(&write, |_| Some(std::borrow::Cow::Borrowed(&comparison)));

    let new = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "w"}});
    assert!(world.try_apply("somebody", new.clone(), false).is_err());
    world.apply("kubectl", new);
    assert_eq!(world.object["data"], json!({"k": "w"}));
    let kept = &world.object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert!(kept.as_str().unwrap().contains(r#""k":"w""#), "{kept}");
}

#[test]
fn at_most_ten_managers_of_updates_are_kept() {
    let mut world = World::config_map();
    for number in 0..14 {
        world.now = format!("2026-01-01T00:00:{number:02}Z");
        let mut new = world.object.clone();
        new["data"][format!("k{number:02}")] = "v".into();
        world.update(&format!("m{number:02}"), new);
    }
    let entries = world.managers.entries();
    assert_eq!(entries.len(), 10);
    assert_eq!(entries[0].manager, "ancient-changes");
    assert_eq!(entries[0].fields.len(), 6);
}

#[test]
fn unknown_fields_and_duplicates_are_refused() {
    let schema = builtin();
    let check = |kind: &str, object: Value, message: &str| {
        let error = schema.validate(schema.get(kind).unwrap(), &object).unwrap_err();
        assert_eq!(error.to_string(), message);
    };
    check(
        "io.k8s.api.core.v1.ConfigMap",
        json!({"nosuch": 1}),
        ".nosuch: field not declared in schema",
    );
    check(
        "io.k8s.api.core.v1.Pod",
        json!({"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}),
        ".spec.containers: duplicate entries for key [name=\"a\"]",
    );
    check(
        "io.k8s.api.apps.v1.Deployment",
        json!({"spec": {"replicas": "3"}}),
        ".spec.replicas: expected numeric (int or float), got string",
    );
}

#[test]
fn a_custom_resource_brings_its_own_schema() {
    let (schema, kind) = Schema::of_openapi(&json!({
        "type": "object",
        "properties": {
            "spec": {"type": "object", "properties": {
                "members": {"type": "array", "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["id"],
                    "items": {"type": "object", "properties": {"id": {"type": "integer"}, "role": {"type": "string"}}}},
                "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "whole": {"type": "object", "x-kubernetes-map-type": "atomic",
                    "additionalProperties": {"type": "string"}},
            }},
        },
    }));
    let object = json!({
        "apiVersion": "example.com/v1", "kind": "Team", "metadata": {"name": "x", "labels": {"a": "b"}},
        "spec": {"members": [{"id": 2, "role": "r"}, {"id": 1}], "tags": ["b", "a"],
            "free": {"x": {"y": [1]}}, "whole": {"k": "v"}},
    });
    schema.validate(kind, &object).unwrap();
    let fields = schema.fields(kind, &object);
    assert!(fields.to_json().contains(r#""k:{\"id\":1}":{".":{},"f:id":{}}"#));
    assert!(fields.to_json().contains(r#""f:tags":{"v:\"a\"":{},"v:\"b\"":{}}"#));
    assert!(fields.to_json().contains(r#""f:whole":{}"#));
    assert!(schema.validate(kind, &json!({"spec": {"other": 1}})).is_err());
}

#[test]
fn a_creator_owns_what_it_sets() {
    let schema = builtin();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"labels": {"app": "x"}, "name": "p"},
        "spec": {
            "containers": [
                {"image": "i", "name": "b", "ports": [{"containerPort": 80}], "resources": {}},
                {"env": [{"name": "E", "value": "\"quoted\\"}], "image": "i", "name": "a",
                 "resources": {"limits": {"cpu": "1"}}},
            ],
            "restartPolicy": "Always", "securityContext": {},
            "tolerations": [{"key": "k"}],
        },
        "status": {"phase": "Pending"},
    });
    let kind = schema.get("io.k8s.api.core.v1.Pod").unwrap();
    let excluded = FieldSet::of(&[&["status"]]);
    let pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(pod).unwrap();
    let owned = owned_by_creator(schema, kind, &pod, &excluded).unwrap();
    let containers = concat!(
        r#"{"k:{\"name\":\"a\"}":{".":{},"f:env":{".":{},"k:{\"name\":\"E\"}":{".":{},"f:name":{},"f:value":{}}},"#,
        r#""f:image":{},"f:name":{},"f:resources":{".":{},"f:limits":{".":{},"f:cpu":{}}}},"#,
        r#""k:{\"name\":\"b\"}":{".":{},"f:image":{},"f:name":{},"f:ports":{".":{},"#,
        r#""k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{}}},"f:resources":{}}}"#,
    );
    assert_eq!(
        String::from_utf8(owned).unwrap(),
        format!(
            r#"{{"f:metadata":{{"f:labels":{{".":{{}},"f:app":{{}}}}}},"f:spec":{{"f:containers":{containers},"f:restartPolicy":{{}},"f:securityContext":{{}},"f:tolerations":{{}}}}}}"#
        )
    );
}
