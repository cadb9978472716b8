//! What kubectl learns of kinds from their OpenAPI documents.

use crate::harness::{Shell, scenarios};

scenarios! {
    Sim:
        every_kind_is_explained_to_the_last_field,
        a_kind_with_a_schema_is_validated_and_explained,
        a_kind_without_a_schema_takes_anything,
        a_kind_that_preserves_unknown_fields_takes_them,
        a_kind_that_preserves_unknown_fields_in_a_part_takes_them_there;
}

fn every_kind_is_explained_to_the_last_field(t: &Shell) {
    let names = t.ok("kubectl api-resources -o name");
    // Other tests define kinds, and delete them. Of two kinds of one name kubectl takes the first,
    // and the rest of the other's name for a field.
    let is_second = |name: &str| {
        let plural = name.split_once('.').map(|(plural, _)| plural);
        plural.is_some_and(|plural| names.lines().any(|other| other == plural))
    };
    let skipped = |name: &str| name.contains("example") || is_second(name);
    let built_in: Vec<_> = names.lines().filter(|name| !skipped(name)).collect();
    assert!(built_in.len() > 50, "{names}");
    for name in built_in {
        let explained = t.ok(&format!("kubectl explain {name} --recursive"));
        for part in ["KIND:", "DESCRIPTION:", "FIELDS:", "  apiVersion\t<string>"] {
            assert!(explained.contains(part), "{part} in {explained}");
        }
    }
    let explained = t.ok("kubectl explain pods.spec.containers.livenessProbe.httpGet --recursive");
    for field in ["path\t<string>", "httpHeaders\t<[]HTTPHeader>", "value\t<string> -required-"] {
        assert!(explained.contains(field), "{field} in {explained}");
    }
    let older = t.ok("kubectl explain cronjobs.spec --api-version batch/v1beta1");
    assert!(older.contains("VERSION:    v1beta1") && older.contains("schedule\t<string>"));
}

const FOO: &str = "\
description: Foo CRD for Testing
type: object
properties:
  spec:
    type: object
    description: Specification of Foo
    properties:
      bars:
        description: List of Bars and their specs.
        type: array
        items:
          type: object
          required: [name]
          properties:
            name: {type: string, description: Name of Bar.}
            age: {type: string, description: Age of Bar.}
            feeling: {type: string, description: Whether Bar is feeling great., enum: [Great, Down]}
            bazs: {type: array, description: List of Bazs., items: {type: string}}
";

/// Defines a kind `Test` in a group of its own, by this schema.
fn define(t: &Shell, suffix: &str, schema: &str) -> Kind {
    let group = format!("{suffix}.publish.example.com");
    let schema: String = schema.lines().map(|line| format!("        {line}\n")).collect();
    let definition = format!(
        "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: tests-{suffix}.{group}}}
spec:
  group: {group}
  scope: Namespaced
  names: {{plural: tests-{suffix}, singular: test-{suffix}, kind: Test}}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
{schema}"
    );
    t.write("definition.yaml", &definition);
    t.ok("kubectl create -f definition.yaml");
    let name = format!("tests-{suffix}");
    t.ok(&format!("kubectl wait --for condition=established --timeout=30s crd/{name}.{group}"));
    Kind { group, plural: name }
}

struct Kind {
    group: String,
    plural: String,
}

impl Kind {
    /// Writes an object with these members into a file.
    fn write(&self, t: &Shell, members: &str) {
        let head = format!(
            r#""kind":"Test","apiVersion":"{}/v1","metadata":{{"name":"test-cr"}}"#,
            self.group
        );
        t.write("object.json", &format!("{{{head},{members}}}"));
    }

    /// Such an object can be created and applied.
    fn takes(&self, t: &Shell, members: &str) {
        self.write(t, members);
        for verb in ["create", "apply"] {
            t.ok(&format!("kubectl {verb} -f object.json"));
            t.ok(&format!("kubectl delete {} test-cr", self.plural));
        }
    }

    /// It cannot, and this is what is said.
    fn refuses(&self, t: &Shell, members: &str, why: &str) {
        self.write(t, members);
        for verb in ["create", "apply"] {
            let said = t.fails(&format!("kubectl {verb} -f object.json"));
            assert!(said.contains(why), "{said}");
        }
    }

    /// What kubectl explains has these parts, in this order.
    fn explains(&self, t: &Shell, field: &str, parts: &[&str]) {
        let explained = t.ok(&format!("kubectl explain {}{field}", self.plural));
        let mut rest = explained.as_str();
        for part in parts {
            let at = rest.find(part).unwrap_or_else(|| panic!("no {part:?} in:\n{explained}"));
            rest = &rest[at + part.len()..];
        }
    }

    fn delete(&self, t: &Shell) {
        t.ok(&format!("kubectl delete crd {}.{} --timeout=60s", self.plural, self.group));
    }
}

// Conformance: Custom Resource OpenAPI Publish, with validation schema
fn a_kind_with_a_schema_is_validated_and_explained(t: &Shell) {
    let kind = define(t, "foo", FOO);
    kind.takes(t, r#""spec":{"bars":[{"name":"test-bar"}]}"#);
    kind.refuses(
        t,
        r#""spec":{"bars":[{"name":"test-bar","feeling":"NonExistentValue"}]}"#,
        r#"Unsupported value: "NonExistentValue""#,
    );
    kind.refuses(t, r#""spec":{"foo":true}"#, r#"unknown field "spec.foo""#);
    kind.refuses(t, r#""spec":{"bars":[{"age":"10"}]}"#, "spec.bars[0].name: Required value");

    let parts = [
        "DESCRIPTION:",
        "Foo CRD for Testing",
        "FIELDS:",
        "apiVersion",
        "<string>",
        "APIVersion defines",
        "spec",
        "<Object>",
        "Specification of Foo",
    ];
    kind.explains(t, "", &parts);
    let parts = [
        "DESCRIPTION:",
        "Standard object's metadata",
        "FIELDS:",
        "creationTimestamp",
        "<string>",
        "CreationTimestamp is a timestamp",
    ];
    kind.explains(t, ".metadata", &parts);
    let parts = [
        "DESCRIPTION:",
        "Specification of Foo",
        "FIELDS:",
        "bars",
        "<[]Object>",
        "List of Bars and their specs",
    ];
    kind.explains(t, ".spec", &parts);
    let parts = [
        "bars",
        "<[]Object>",
        "DESCRIPTION:",
        "List of Bars and their specs",
        "FIELDS:",
        "bazs",
        "<[]string>",
        "List of Bazs",
        "name",
        "<string>",
        "Name of Bar",
    ];
    kind.explains(t, ".spec.bars", &parts);
    let said = t.fails(&format!("kubectl explain {}.spec.bars2", kind.plural));
    assert!(said.contains("field \"bars2\" does not exist"), "{said}");
    kind.delete(t);
}

// Conformance: Custom Resource OpenAPI Publish, with x-kubernetes-preserve-unknown-fields in object
fn a_kind_without_a_schema_takes_anything(t: &Shell) {
    let kind = define(t, "empty", "type: object\nx-kubernetes-preserve-unknown-fields: true\n");
    kind.takes(t, r#""a":{"b":[{"c":"d"}]}"#);
    kind.explains(t, "", &["DESCRIPTION:", "<empty>"]);
    kind.delete(t);
}

const WALDO: &str = "\
type: object
properties:
  spec:
    description: Specification of Waldo
    type: object
    PRESERVE
    properties:
      dummy: {type: object, description: Dummy property.}
  status:
    description: Status of Waldo
    type: object
    properties:
      bars: {type: array, description: List of Bars and their statuses., items: {type: object}}
";

// Conformance: Custom Resource OpenAPI Publish, with x-kubernetes-preserve-unknown-fields at root
fn a_kind_that_preserves_unknown_fields_takes_them(t: &Shell) {
    let head = "description: preserve-unknown-properties at root for Testing\n\
                x-kubernetes-preserve-unknown-fields: true\n";
    let schema = format!("{head}{}", WALDO.replace("    PRESERVE\n", ""));
    let kind = define(t, "unknown-at-root", &schema);
    kind.takes(t, r#""a":{"b":[{"c":"d"}]}"#);
    kind.explains(t, "", &["KIND:", "Test"]);
    kind.delete(t);
}

// Conformance: Custom Resource OpenAPI Publish, with x-kubernetes-preserve-unknown-fields in embedded object
fn a_kind_that_preserves_unknown_fields_in_a_part_takes_them_there(t: &Shell) {
    let head = "description: preserve-unknown-properties in nested field for Testing\n";
    let inner = "x-kubernetes-preserve-unknown-fields: true";
    let schema = format!("{head}{}", WALDO.replace("PRESERVE", inner));
    let kind = define(t, "unknown-in-nested", &schema);
    kind.takes(t, r#""spec":{"a":null,"b":[{"c":"d"}]}"#);
    let parts = ["DESCRIPTION:", "preserve-unknown-properties in nested field for Testing"];
    kind.explains(t, "", &parts);
    kind.delete(t);
}
