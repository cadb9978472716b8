//! Every kind, through every encoding.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*};
use serde_json::Value;

use super::{Field, Kind, Shape, from_json, message, messages, to_json};
use crate::{
    resources::{Resource, Resources},
    schema::{Type, graph},
    testing::arbitrary,
};

/// The object as the server keeps it: what its type knows, in the type's order.
pub(super) fn kept(row: &Resource, json: &[u8]) -> Result<Value, TestCaseError> {
    let decoded = row.strategy.decode(json);
    let decoded = decoded.map_err(|error| TestCaseError::fail(format!("{error}")))?;
    prop_assert!(decoded.strict_errors.is_empty(), "unknown: {:?}", decoded.strict_errors);
    decoded.object.to_value().map_err(|error| TestCaseError::fail(format!("{error}")))
}

fn survives(row: &Resource, choices: &[u8]) -> Result<(), TestCaseError> {
    let mut object = arbitrary(&row.schema, choices);
    object["apiVersion"] = row.api_version().into();
    object["kind"] = row.kind.as_ref().into();
    let object = kept(row, object.to_string().as_bytes())?;

    let protobuf = from_json(object.to_string().as_bytes());
    let protobuf = protobuf.ok_or_else(|| TestCaseError::fail("no protobuf form"))?;
    let json = to_json(&protobuf).map_err(TestCaseError::fail)?;
    prop_assert_eq!(kept(row, &json)?, object.clone(), "as protobuf");

    let yaml = serde_saphyr::to_string(&object);
    let yaml = yaml.map_err(|error| TestCaseError::fail(format!("{error}")))?;
    let value: Value = serde_saphyr::from_str(&yaml)
        .map_err(|error| TestCaseError::fail(format!("{error}: {yaml}")))?;
    prop_assert_eq!(kept(row, value.to_string().as_bytes())?, object, "as YAML");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_object_of_any_kind_loses_nothing(choices in vec(any::<u8>(), 0..600)) {
        for row in Resources::builtin().iter() {
            survives(row, &choices)
                .map_err(|error| TestCaseError::fail(format!("{}: {error}", row.qualified())))?;
        }
    }
}

/// The field that JSON calls `name`, also when it is an embedded message's.
fn numbered(fields: &'static [Field], name: &str) -> Option<&'static Field> {
    fields.iter().find_map(|field| match &field.kind {
        Kind::Message(inner) if field.shape == Shape::Inline => {
            numbered(messages().get(inner)?, name)
        }
        _ => (field.name == name).then_some(field),
    })
}

fn definition_in(kind: &Type) -> Option<&str> {
    match kind {
        Type::Named(name) => Some(name),
        Type::Map(values) => definition_in(values),
        Type::List(items) => definition_in(items),
        _ => None,
    }
}

/// Notes the fields of a type, and of the types in it, that its message lacks.
fn note_lacking(name: &str, message: &str, seen: &mut BTreeSet<String>, lacking: &mut Vec<String>) {
    let Some(definition) = graph().get(name).filter(|_| seen.insert(name.to_owned())) else {
        return;
    };
    let fields = messages().get(message).map_or(&[][..], Vec::as_slice);
    // The type of the whole object is outside of its message.
    let names = definition.field_names().filter(|name| !["apiVersion", "kind"].contains(name));
    for name in names {
        let inner = definition.field(name).and_then(|field| definition_in(&field.kind));
        match numbered(fields, name) {
            None => lacking.push(format!("{message}.{name}")),
            Some(Field { kind: Kind::Message(message), .. }) => {
                note_lacking(inner.unwrap_or_default(), message, seen, lacking);
            }
            Some(_) => {}
        }
    }
}

#[test]
fn every_field_of_every_kind_has_a_number() {
    let (mut seen, mut lacking) = (BTreeSet::new(), Vec::new());
    for row in Resources::builtin().iter() {
        match message(&row.api_version(), &row.kind) {
            Some((name, _)) => note_lacking(&row.schema, name, &mut seen, &mut lacking),
            None => lacking.push(row.qualified()),
        }
    }
    assert_eq!(lacking, Vec::<String>::new());
}
