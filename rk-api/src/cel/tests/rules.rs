//! Rules of custom resources.

use super::*;
use crate::{cel::rules::Rules, field::Path};

fn texts(errors: &crate::field::ErrorList) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// What is wrong with the rules of a schema.
fn refused(schema: Json) -> Vec<String> {
    texts(&Rules::compile(&schema, &Path::new("schema"), false).1)
}

/// What the rules of a schema say of an object that was `old` before.
fn judged(schema: &Json, new: Json, old: Option<Json>) -> Vec<String> {
    let (rules, errors) = Rules::compile(schema, &Path::new("schema"), false);
    assert!(errors.is_empty(), "{:?}", texts(&errors));
    let verdict = rules.unwrap().validate(&new, old.as_ref(), &mut Budget::default());
    texts(&verdict.errors)
}

fn spec(properties: Json, rules: Json) -> Json {
    json!({"type": "object", "properties": {"spec": {
        "type": "object", "properties": properties, "x-kubernetes-validations": rules,
    }}})
}

#[test]
fn a_rule_judges_the_value_it_stands_at() {
    let schema = spec(
        json!({"replicas": {"type": "integer"}, "maxReplicas": {"type": "integer"}}),
        json!([
            {"rule": "self.replicas <= self.maxReplicas", "message": "replicas must be at most maxReplicas"},
            {"rule": "self.replicas >= 0"},
            {"rule": "self.replicas != 7", "messageExpression": "'not %d'.format([self.replicas])",
             "reason": "FieldValueForbidden", "fieldPath": ".replicas"},
        ]),
    );
    let object = |replicas: i64| json!({"spec": {"replicas": replicas, "maxReplicas": 9}});
    assert_eq!(judged(&schema, object(3), None), [] as [&str; 0]);
    assert_eq!(
        judged(&schema, object(10), None),
        ["spec: Invalid value: replicas must be at most maxReplicas"]
    );
    assert_eq!(
        judged(&schema, object(-1), None),
        ["spec: Invalid value: failed rule: self.replicas >= 0"]
    );
    assert_eq!(judged(&schema, object(7), None), ["spec.replicas: Forbidden: not 7"]);
    assert_eq!(
        judged(&schema, json!({"spec": {"replicas": 1}}), None),
        [
            "spec: Invalid value: \"object\": no such key: maxReplicas evaluating rule: replicas must \
          be at most maxReplicas"
        ]
    );
}

#[test]
fn transition_rules_compare_with_what_was_there() {
    let schema = spec(
        json!({
            "immutable": {"type": "string", "maxLength": 10, "x-kubernetes-validations": [
                {"rule": "self == oldSelf", "message": "is immutable"},
            ]},
            "grows": {"type": "integer", "x-kubernetes-validations": [
                {"rule": "oldSelf.hasValue() ? self >= oldSelf.value() : self == 1", "optionalOldSelf": true},
            ]},
            "items": {
                "type": "array", "maxItems": 10, "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"],
                    "properties": {"name": {"type": "string", "maxLength": 10}, "size": {"type": "integer"}},
                    "x-kubernetes-validations": [{"rule": "self.size >= oldSelf.size"}]},
            },
        }),
        json!([{"rule": "true"}]),
    );
    let object = |immutable: &str, grows: i64, items: Json| json!({"spec": {"immutable": immutable, "grows": grows, "items": items}});
    let first = object("a", 1, json!([{"name": "x", "size": 1}, {"name": "y", "size": 2}]));
    assert_eq!(judged(&schema, first.clone(), None), [] as [&str; 0]);
    assert_eq!(
        judged(&schema, object("a", 2, json!([])), None),
        [
            "spec.grows: Invalid value: 2: failed rule: oldSelf.hasValue() ? self >= oldSelf.value() : self == 1"
        ]
    );
    let next = object("b", 1, json!([{"name": "y", "size": 1}, {"name": "z", "size": 0}]));
    assert_eq!(
        judged(&schema, next, Some(first)),
        [
            "spec.immutable: Invalid value: \"b\": is immutable",
            "spec.items[0]: Invalid value: failed rule: self.size >= oldSelf.size",
        ]
    );
}

#[test]
fn what_was_wrong_before_and_did_not_change_is_forgiven() {
    let schema = spec(
        json!({"size": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 10"}]},
               "other": {"type": "integer"}}),
        json!([{"rule": "self.size > 5"}]),
    );
    let object = |size: i64, other: i64| json!({"spec": {"size": size, "other": other}});
    assert_eq!(judged(&schema, object(1, 1), Some(object(1, 1))), [] as [&str; 0]);
    assert_eq!(
        judged(&schema, object(1, 2), Some(object(1, 1))),
        ["spec: Invalid value: failed rule: self.size > 5"]
    );
}

#[test]
fn formats_and_escapes_are_seen_through() {
    let schema = spec(
        json!({
            "at": {"type": "string", "format": "date-time"},
            "for": {"type": "string", "format": "duration"},
            "port": {"x-kubernetes-int-or-string": true},
            "a.b": {"type": "string", "maxLength": 5},
            "set": {"type": "array", "maxItems": 5, "x-kubernetes-list-type": "set", "items": {"type": "string", "maxLength": 5}},
            "map": {"type": "object", "maxProperties": 5, "additionalProperties": {"type": "number"}},
            "null": {"type": "string", "nullable": true, "maxLength": 5},
        }),
        json!([
            {"rule": "self.at > timestamp('2020-01-01T00:00:00Z') && self.__for__ < duration('1h')"},
            {"rule": "type(self.port) == int ? self.port > 0 : self.port == 'x'"},
            {"rule": "self.for < duration('1h') && self.a__dot__b == 'v' && self.set == ['b', 'a'] && self.map.all(k, self.map[k] < 2.0)"},
            {"rule": "!has(self.__null__) && has(self.at) && !has(self.nope)"},
        ]),
    );
    let (rules, errors) = Rules::compile(&schema, &Path::new("schema"), false);
    let _ = rules;
    assert_eq!(texts(&errors).len(), 1, "only `nope` is wrong: {:?}", texts(&errors));
    let mut schema = schema;
    schema["properties"]["spec"]["x-kubernetes-validations"][3]["rule"] =
        json!("!has(self.__null__) && has(self.at)");
    let object = json!({"spec": {
        "at": "2024-01-01T00:00:00Z", "for": "5m", "port": "x", "a.b": "v",
        "set": ["a", "b"], "map": {"x": 1}, "null": null,
    }});
    assert_eq!(judged(&schema, object, None), [] as [&str; 0]);
}

#[test]
fn the_name_of_a_resource_is_always_there() {
    let schema = json!({"type": "object", "x-kubernetes-validations": [
        {"rule": "self.metadata.name.startsWith('a') && self.kind == 'K'"},
    ]});
    let object = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "b"}});
    assert_eq!(
        judged(&schema, object, None),
        [
            "<nil>: Invalid value: failed rule: self.metadata.name.startsWith('a') && self.kind == 'K'"
        ]
    );
}

#[test]
fn what_is_no_container_has_nothing_in_it() {
    let schema = spec(
        json!({"port": {"x-kubernetes-int-or-string": true}}),
        json!([{"rule": "has(self.port) && !has(self.port.number)"}]),
    );
    for port in [json!(80), json!("http")] {
        assert_eq!(judged(&schema, json!({"spec": {"port": port}}), None), [] as [&str; 0]);
    }
}

#[test]
fn expressions_within_rules_are_looked_at_before_they_are_used() {
    let rule = |rule: &str| {
        let properties = json!({"a": {"type": "string", "maxLength": 5}});
        refused(spec(properties, json!([{"rule": rule}])))
    };
    for call in ["find", "findAll"] {
        let found = rule(&format!("self.a.{call}('(') != self.a.{call}('x')"));
        let why = "program instantiation failed: error parsing regexp: missing closing ): `(`";
        assert!(matches!(found.as_slice(), [one] if one.ends_with(why)), "{found:?}");
    }
    let found = rule("self.a.matches('(')");
    assert!(matches!(found.as_slice(), [one] if one.contains("invalid matches argument")));
}

#[test]
fn rules_that_cannot_work_are_refused() {
    let rule = |rule: Json| refused(spec(json!({"a": {"type": "integer"}}), json!([rule])));
    let at = "schema.properties[spec].x-kubernetes-validations[0]";
    let source = r#"{"rule":"self.b"}"#;
    assert_eq!(
        rule(json!({"rule": "self.b"})),
        [format!(
            "{at}.rule: Invalid value: {source}: compilation failed: ERROR: <input>:1:5: undefined \
             field 'b'\n | self.b\n | ....^"
        )]
    );
    for (given, expected) in [
        (
            json!({"rule": "self.a"}),
            ".rule: Invalid value: {\"rule\":\"self.a\"}: cel expression must evaluate to a bool",
        ),
        (
            json!({"rule": "true", "messageExpression": "self.a"}),
            ".messageExpression: Invalid value: {\"messageExpression\":\"self.a\",\"rule\":\"true\"}: \
             messageExpression must evaluate to a string",
        ),
        (
            json!({"rule": "true", "optionalOldSelf": true}),
            ".optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule",
        ),
    ] {
        assert_eq!(rule(given), [format!("{at}{expected}")]);
    }
    let list = spec(
        json!({"l": {"type": "array", "maxItems": 5, "items": {"type": "integer",
            "x-kubernetes-validations": [{"rule": "self > oldSelf"}]}}}),
        json!([]),
    );
    assert_eq!(
        refused(list),
        ["schema.properties[spec].properties[l].items.x-kubernetes-validations[0].rule: Invalid \
          value: \"self > oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the \
          schema within schema.properties[spec].properties[l]"]
    );
}

#[test]
fn rules_that_may_cost_too_much_are_refused() {
    let unbounded = spec(
        json!({"l": {"type": "array", "items": {"type": "string"}}}),
        json!([{"rule": "self.l.all(x, self.l.all(y, x == y))"}]),
    );
    let at = "schema.properties[spec].x-kubernetes-validations[0].rule: Forbidden: ";
    let found = refused(unbounded);
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(
        found[0],
        format!(
            "{at}estimated rule cost exceeds budget by factor of more than 100x (try simplifying \
             the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and \
             strings are declared)"
        )
    );
    assert_eq!(
        found[1],
        format!(
            "{at}contributed to estimated rule cost total exceeding cost limit for entire \
             OpenAPIv3 schema"
        )
    );
    assert!(
        found[2]
            .starts_with("schema: Forbidden: x-kubernetes-validations estimated rule cost total")
    );
    let bounded = spec(
        json!({"l": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 10}}}),
        json!([{"rule": "self.l.all(x, self.l.all(y, x == y))"}]),
    );
    assert_eq!(refused(bounded), [] as [&str; 0]);
}

#[test]
fn an_object_that_costs_too_much_is_not_judged_to_the_end() {
    let schema = spec(json!({"a": {"type": "integer"}}), json!([{"rule": "self.a == 1"}]));
    let (rules, _) = Rules::compile(&schema, &Path::new("schema"), false);
    let object = json!({"spec": {"a": 1}});
    let verdict = rules.unwrap().validate(&object, None, &mut Budget::new(1));
    assert_eq!(
        texts(&verdict.errors),
        [
            "spec: Invalid value: \"object\": validation failed due to running out of cost budget, no \
          further validation rules will be run"
        ]
    );
}
