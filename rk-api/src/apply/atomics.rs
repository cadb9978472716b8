//! What of a configuration would replace something as a whole.

use serde_json::Value;

use super::{
    path::PathElement,
    schema::{List, ListKind, Object, Schema, Shape, TypeRef},
};

impl Schema {
    /// The paths of atomic lists and objects in a configuration. Whoever lays it over an object
    /// replaces all of what these hold.
    pub fn atomics(&self, kind: TypeRef, configuration: &Value) -> Vec<String> {
        let mut found = Vec::new();
        self.find_atomics(kind, configuration, "", &mut found);
        found
    }

    fn find_atomics(&self, kind: TypeRef, value: &Value, path: &str, found: &mut Vec<String>) {
        match (self.shape(kind), value) {
            (Shape::Object(Object { atomic: true, .. }), Value::Object(_))
            | (Shape::List(List { kind: ListKind::Atomic, .. }), Value::Array(_)) => {
                found.push(path.to_owned());
            }
            (Shape::Object(_), Value::Object(members)) => {
                for (name, value) in members {
                    let element = PathElement::field(name);
                    if let Some(kind) = self.step(kind, &element) {
                        self.find_atomics(kind, value, &format!("{path}.{name}"), found);
                    }
                }
            }
            (Shape::List(list), Value::Array(items)) => {
                for (index, value) in items.iter().enumerate() {
                    self.find_atomics(list.items, value, &format!("{path}[{index}]"), found);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::builtin;

    #[test]
    fn atomic_parts_are_named() {
        let schema = builtin();
        let pod = schema.get("io.k8s.api.core.v1.Pod").unwrap();
        let configuration = json!({ "spec": {
            "tolerations": [],
            "nodeSelector": { "a": "b" },
            "containers": [{ "name": "c", "command": ["x"], "env": [] }],
        } });
        let mut found = schema.atomics(pod, &configuration);
        found.sort();
        assert_eq!(
            found,
            [".spec.containers[0].command", ".spec.nodeSelector", ".spec.tolerations",]
        );
    }
}
