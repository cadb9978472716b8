use serde_json::json;

use super::*;
use crate::{openapi::v2, resources::Resources};

/// The fields of a message, as number and content, read without knowing what they are.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let (byte, rest) = bytes.split_first().expect("a whole number");
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return value;
            }
        }
    }
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let content = match key & 7 {
            0 => varint(&mut bytes).to_le_bytes().to_vec(),
            2 => {
                let length = usize::try_from(varint(&mut bytes)).unwrap();
                let (content, rest) = bytes.split_at(length);
                bytes = rest;
                content.to_vec()
            }
            other => panic!("wire type {other}"),
        };
        fields.push((key >> 3, content));
    }
    fields
}

fn one(message: &[u8], number: u64) -> Option<Vec<u8>> {
    fields(message).into_iter().find(|field| field.0 == number).map(|field| field.1)
}

fn text(message: &[u8], number: u64) -> Option<String> {
    one(message, number).map(|content| String::from_utf8(content).unwrap())
}

fn all(message: &[u8], number: u64) -> Vec<Vec<u8>> {
    fields(message).into_iter().filter(|field| field.0 == number).map(|field| field.1).collect()
}

fn entries(message: &[u8], number: u64) -> Vec<(String, Vec<u8>)> {
    let entry = |entry: Vec<u8>| (text(&entry, 1).unwrap(), one(&entry, 2).unwrap());
    all(message, number).into_iter().map(entry).collect()
}

fn extensions(message: &[u8], number: u64) -> Vec<(String, Value)> {
    let parse = |any: Vec<u8>| serde_json::from_str(&text(&any, 2).unwrap()).unwrap();
    entries(message, number).into_iter().map(|(name, any)| (name, parse(any))).collect()
}

fn decode_schema(message: &[u8]) -> Value {
    let mut schema = Map::new();
    for (number, name) in [(1, "$ref"), (2, "format"), (4, "description")] {
        if let Some(text) = text(message, number) {
            schema.insert(name.into(), text.into());
        }
    }
    let parse = |any: Vec<u8>| serde_json::from_str::<Value>(&text(&any, 2).unwrap()).unwrap();
    if let Some(any) = one(message, 5) {
        schema.insert("default".into(), parse(any));
    }
    let required = all(message, 19).into_iter().map(|each| String::from_utf8(each).unwrap());
    let required: Vec<_> = required.collect();
    if !required.is_empty() {
        schema.insert("required".into(), json!(required));
    }
    let choices: Vec<_> = all(message, 20).into_iter().map(parse).collect();
    if !choices.is_empty() {
        schema.insert("enum".into(), choices.into());
    }
    if let Some(item) = one(message, 21) {
        schema.insert("additionalProperties".into(), decode_schema(&one(&item, 1).unwrap()));
    }
    if let Some(kind) = one(message, 22) {
        schema.insert("type".into(), text(&kind, 1).unwrap().into());
    }
    if let Some(item) = one(message, 23) {
        schema.insert("items".into(), decode_schema(&one(&item, 1).unwrap()));
    }
    if let Some(properties) = one(message, 25) {
        let properties = entries(&properties, 1).into_iter();
        let properties = properties.map(|(name, schema)| (name, decode_schema(&schema)));
        schema.insert("properties".into(), properties.collect());
    }
    schema.extend(extensions(message, 31));
    Value::Object(schema)
}

#[test]
fn numbers_are_written_seven_bits_at_a_time() {
    let mut message = Message::default();
    message.varint(300);
    assert_eq!(message.0, [0xac, 0x02]);
}

#[test]
fn definitions_survive_the_encoding() {
    let document = v2(&Resources::builtin());
    let encoded = encode(&document);

    assert_eq!(text(&encoded, 1).as_deref(), Some("2.0"));
    let definitions: Map<_, _> = entries(&one(&encoded, 9).unwrap(), 1)
        .into_iter()
        .map(|(name, schema)| (name, decode_schema(&schema)))
        .collect();
    for (name, definition) in document["definitions"].as_object().unwrap() {
        assert_eq!(&definitions[name], definition, "{name}");
    }
}

#[test]
fn operations_survive_the_encoding() {
    let document = v2(&Resources::builtin());
    let encoded = encode(&document);

    let paths = entries(&one(&encoded, 8).unwrap(), 2);
    assert_eq!(paths.len(), document["paths"].as_object().unwrap().len());
    let path = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
    let (_, item) = paths.iter().find(|(name, _)| name == path).unwrap();
    let patch = one(item, 8).unwrap();
    assert_eq!(text(&patch, 5).as_deref(), Some("patchAppsV1NamespacedDeployment"));
    let kind = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    assert!(extensions(&patch, 13).contains(&("x-kubernetes-group-version-kind".into(), kind)));
    // Parameter, of the kind that is not a body, in the query: its name is field 4.
    let names: Vec<_> = all(&patch, 8)
        .iter()
        .filter_map(|item| text(&one(&one(&one(item, 1)?, 2)?, 3)?, 4))
        .collect();
    assert!(names.contains(&"fieldValidation".to_owned()), "{names:?}");
}
