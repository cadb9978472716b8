//! Defaults and validation against what a reference API server (1.20) answered.
//!
//! `data/reference.jsonl` has a case per line: a `kind` (group/version/plural) and either an
//! `object` to create, or an `old` one and a merge `patch` of it; and what came of it: the fields
//! it `becomes` (without status, and without what admission and allocation add), or the fields
//! that were `refused`, with reasons. Cases where 1.37 answers differently are left out.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use rk_api::{
    field::{ErrorList, Path},
    meta::{validate_metadata, validate_metadata_update},
    resources::{Object, Part, Resource, Resources},
};
use serde_json::{Value, json};

fn decoded(row: &Resource, json: &Value) -> Box<dyn Object> {
    let mut json = json.clone();
    // Admission gives each Pod an account.
    if row.kind == "Pod" && json["spec"].is_object() {
        json["spec"]["serviceAccountName"] = json!("default");
    }
    let decoded = row.strategy.decode(json.to_string().as_bytes()).unwrap();
    let mut object = decoded.object;
    let meta = object.meta_mut();
    meta.namespace = row.namespaced.then(|| "ns1".to_owned());
    meta.uid = Some("1".to_owned());
    meta.creation_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    row.strategy.default(object.as_mut());
    object
}

fn create(row: &Resource, json: &Value) -> (Box<dyn Object>, ErrorList) {
    let mut object = decoded(row, json);
    row.strategy.prepare_create(object.as_mut());
    let errors = judge(row, object.as_ref(), None);
    (object, errors)
}

fn patch(row: &Resource, old: &Value, patch: &Value) -> ErrorList {
    let (old, wrong) = create(row, old);
    assert_eq!(wrong, []);
    let mut new = old.to_value().unwrap();
    merge(&mut new, patch);
    let mut new = decoded(row, &new);
    row.strategy.prepare_update(new.as_mut(), old.as_ref(), Part::Main);
    judge(row, new.as_ref(), Some(old.as_ref()))
}

fn judge(row: &Resource, object: &dyn Object, old: Option<&dyn Object>) -> ErrorList {
    let path = Path::new("metadata");
    let strategy = row.strategy.as_ref();
    let mut errors = validate_metadata(object.meta(), row.namespaced, strategy, &path);
    errors.extend(strategy.validate(object));
    match old {
        Some(old) => {
            errors.extend(validate_metadata_update(object.meta(), old.meta(), &path));
            errors.extend(strategy.validate_update(object, old, Part::Main));
        }
        None => errors.extend(strategy.validate_create(object)),
    }
    errors
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    for (field, value) in fields {
        if value.is_null() {
            target[field] = Value::Null;
        } else {
            merge(&mut target[field], value);
        }
    }
}

/// Fields and reasons, sorted. Reasons that were told apart after 1.20 count as they did then.
fn causes(errors: &ErrorList) -> Value {
    let coarse = |reason: &str| match reason {
        "FieldValueTooLong" | "FieldValueTypeInvalid" => "FieldValueInvalid".to_owned(),
        other => other.to_owned(),
    };
    let mut causes: Vec<_> = errors
        .iter()
        .map(|error| (error.path.to_string(), coarse(error.reason.as_str())))
        .collect();
    causes.sort();
    json!(causes)
}

/// Paths where `found` lacks something that is `wanted`.
fn lacking(wanted: &Value, found: &Value, path: &str, out: &mut Vec<String>) {
    match (wanted, found) {
        (Value::Object(wanted), found) => {
            for (field, value) in wanted {
                lacking(value, &found[field], &format!("{path}.{field}"), out);
            }
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            for (i, (wanted, found)) in wanted.iter().zip(found).enumerate() {
                lacking(wanted, found, &format!("{path}[{i}]"), out);
            }
        }
        (wanted, found) if wanted == found => {}
        (wanted, found) => out.push(format!("{path}: want {wanted}, found {found}")),
    }
}

fn check(resources: &Resources, case: &Value) -> Result<(), String> {
    let kind: Vec<&str> = case["kind"].as_str().unwrap().split('/').collect();
    let row = resources.get(kind[0], kind[1], kind[2]).ok_or("no such kind")?;
    let (object, errors) = match case.get("patch") {
        Some(change) => (None, patch(row, &case["old"], change)),
        None => {
            let (object, errors) = create(row, &case["object"]);
            (Some(object), errors)
        }
    };
    if let Some(refused) = case.get("refused") {
        let found = causes(&errors);
        return if &found == refused {
            Ok(())
        } else {
            Err(format!("want {refused}, found {errors:?}"))
        };
    }
    let mut wrong: Vec<String> = errors.iter().map(ToString::to_string).collect();
    if let Some(object) = object {
        lacking(&case["becomes"], &object.to_value().unwrap(), "", &mut wrong);
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

#[test]
fn answers_are_those_of_the_reference() {
    let resources = Resources::builtin();
    let mut wrong = Vec::new();
    for line in include_str!("data/reference.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        if let Err(difference) = check(&resources, &case) {
            wrong.push(format!("{}: {difference}", case["case"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
