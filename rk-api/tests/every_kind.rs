//! What holds for every row of the table.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeSet;

use k8s_openapi::jiff::Timestamp;
use rk_api::resources::{Object, Resource, Resources};
use serde_json::{Value, json};

/// An object of the kind that says nothing but its name.
fn minimal(row: &Resource) -> Value {
    let mut object = json!({
        "apiVersion": row.api_version(),
        "kind": row.kind,
        "metadata": {"name": "x"},
    });
    if row.namespaced {
        object["metadata"]["namespace"] = json!("default");
    }
    object
}

fn decoded(row: &Resource, json: &Value) -> Box<dyn Object> {
    let decoded = row.strategy.decode(json.to_string().as_bytes()).unwrap();
    assert_eq!(decoded.strict_errors, Vec::<String>::new(), "{}", row.qualified());
    decoded.object
}

/// The version that objects of the row are stored in.
fn stored(row: &Resource) -> String {
    let resources = Resources::builtin();
    let mut rows = resources.iter().filter(|other| other.key_prefix == row.key_prefix);
    rows.find(|other| other.strategy.is_shown_as_stored()).unwrap().api_version()
}

#[track_caller]
fn for_every_row(check: impl Fn(&Resource)) {
    for row in Resources::builtin().iter() {
        check(row);
    }
}

#[test]
fn defaulting_twice_is_defaulting_once() {
    for_every_row(|row| {
        let mut object = decoded(row, &minimal(row));
        row.strategy.default(object.as_mut());
        let once = object.to_value().unwrap();
        row.strategy.default(object.as_mut());
        assert_eq!(object.to_value().unwrap(), once, "{}", row.qualified());
    });
}

#[test]
fn a_defaulted_object_survives_being_stored() {
    for_every_row(|row| {
        let mut object = decoded(row, &minimal(row));
        row.strategy.default(object.as_mut());
        row.strategy.prepare_create(object.as_mut());
        let encoded = object.encode().unwrap();
        let again = row.strategy.decode(&encoded).unwrap();
        assert_eq!(again.strict_errors, Vec::<String>::new(), "{}", row.qualified());
        assert_eq!(again.object.encode().unwrap(), encoded, "{}", row.qualified());
        let again = row.strategy.decode_stored(&encoded).unwrap();
        assert_eq!(again.encode().unwrap(), encoded, "{}", row.qualified());
        let stored = stored(row);
        let start = format!(r#"{{"apiVersion":"{}","kind":"{}","#, stored, row.kind);
        assert!(encoded.starts_with(start.as_bytes()), "{}", String::from_utf8_lossy(&encoded));
    });
}

#[test]
fn a_row_of_a_table_has_a_cell_for_each_column() {
    for_every_row(|row| {
        let mut object = decoded(row, &minimal(row));
        for defaulted in [false, true] {
            if defaulted {
                row.strategy.default(object.as_mut());
            }
            let cells = row.strategy.cells(object.as_ref(), Timestamp::UNIX_EPOCH);
            assert_eq!(cells.len(), row.columns.len(), "{}", row.qualified());
            let named = row.columns.iter().position(|column| column.format == "name").unwrap();
            assert_eq!(cells[named], "x", "{}", row.qualified());
        }
    });
}

#[test]
fn every_selectable_field_has_a_value() {
    for_every_row(|row| {
        let object = decoded(row, &minimal(row));
        let fields = row.strategy.fields(object.as_ref());
        let names: Vec<_> = fields.iter().map(|(name, _)| *name).collect();
        let selectable = row.strategy.field_names();
        let known: Vec<_> = selectable.iter().map(|name| row.strategy.stored_field(name)).collect();
        assert_eq!(names, known, "{}", row.qualified());
        for name in selectable.iter().copied().chain(["metadata.name"]) {
            assert_eq!(row.refused_field(name), None);
        }
        assert!(row.refused_field("spec.nope").is_some());
    });
}

#[test]
fn validation_judges_any_object() {
    for_every_row(|row| {
        let mut object = decoded(row, &minimal(row));
        let old = object.boxed_clone();
        let _ = row.strategy.validate(object.as_ref());
        row.strategy.default(object.as_mut());
        let _ = row.strategy.validate(object.as_ref());
        for part in [rk_api::resources::Part::Main, rk_api::resources::Part::Status] {
            row.strategy.prepare_update(object.as_mut(), old.as_ref(), part);
            let _ = row.strategy.validate_update(object.as_ref(), old.as_ref(), part);
        }
    });
}

#[test]
fn an_update_that_changes_nothing_is_let_through() {
    for_every_row(|row| {
        // An update of a definition is judged as a whole, and this one defines nothing.
        if row.kind == "CustomResourceDefinition" {
            return;
        }
        let mut old = decoded(row, &minimal(row));
        row.strategy.default(old.as_mut());
        row.strategy.prepare_create(old.as_mut());
        for part in [rk_api::resources::Part::Main, rk_api::resources::Part::Status] {
            let mut new = old.boxed_clone();
            row.strategy.prepare_update(new.as_mut(), old.as_ref(), part);
            let wrong = row.strategy.validate_update(new.as_ref(), old.as_ref(), part);
            assert_eq!(wrong, [], "{}", row.qualified());
            assert_eq!(new.to_value().unwrap(), old.to_value().unwrap(), "{}", row.qualified());
        }
    });
}

#[test]
fn a_scale_sets_the_replicas() {
    for_every_row(|row| {
        let scales = row.subresources.iter().any(|sub| sub.name == "scale");
        let mut object = decoded(row, &minimal(row));
        assert_eq!(row.strategy.scale(object.as_ref()).is_some(), scales, "{}", row.qualified());
        if scales {
            row.strategy.set_replicas(object.as_mut(), 7);
            let scale = row.strategy.scale(object.as_ref()).unwrap();
            assert_eq!(scale.spec.unwrap().replicas, Some(7), "{}", row.qualified());
        }
    });
}

#[test]
fn the_table_is_in_discovery_order_and_finds_its_rows() {
    let resources = Resources::builtin();
    let mut groups = Vec::new();
    let mut keys = BTreeSet::new();
    for row in resources.iter() {
        if groups.last() != Some(&row.group) {
            groups.push(row.group.clone());
        }
        let by_plural = resources.get(&row.group, &row.version, &row.plural).unwrap();
        let by_kind = resources.by_kind(&row.group, &row.version, &row.kind).unwrap();
        assert_eq!((&by_plural.kind, &by_kind.plural), (&row.kind, &row.plural));
        assert!(row.verbs.is_sorted() && row.subresources.is_sorted_by_key(|sub| &sub.name));
        assert!(row.schema.ends_with(&format!(".{}.{}", row.version, row.kind)), "{}", row.schema);
        if row.strategy.is_shown_as_stored() {
            assert!(keys.insert(row.key_prefix.clone()), "{} is taken", row.key_prefix);
        }
    }
    let unique: BTreeSet<_> = groups.iter().collect();
    assert_eq!(unique.len(), groups.len(), "{groups:?}");
    assert_eq!(groups[..3], ["", "apiregistration.k8s.io", "apps"]);
    assert!(resources.get("", "v1", "nopes").is_none());
}

#[test]
fn keys_are_those_of_kube_apiserver() {
    let resources = Resources::builtin();
    let key = |group: &str, plural: &str, namespace: Option<&str>| {
        resources.get(group, "v1", plural).unwrap().key(namespace, "x")
    };
    assert_eq!(key("", "pods", Some("ns")), "/registry/pods/ns/x");
    assert_eq!(key("", "services", Some("ns")), "/registry/services/specs/ns/x");
    assert_eq!(key("", "endpoints", Some("ns")), "/registry/services/endpoints/ns/x");
    assert_eq!(key("", "nodes", None), "/registry/minions/x");
    assert_eq!(key("", "replicationcontrollers", Some("ns")), "/registry/controllers/ns/x");
    assert_eq!(key("apps", "deployments", Some("ns")), "/registry/deployments/ns/x");
    assert_eq!(key("networking.k8s.io", "ingresses", Some("ns")), "/registry/ingress/ns/x");
    assert_eq!(key("coordination.k8s.io", "leases", Some("ns")), "/registry/leases/ns/x");
    assert_eq!(key("events.k8s.io", "events", Some("ns")), "/registry/events/ns/x");
}
