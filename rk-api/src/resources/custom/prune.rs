//! Taking away what a schema does not know.

use serde_json::{Map, Value};

use super::schema::{Additional, Schema};

/// What every resource has, whatever its schema says.
const OF_EVERY_RESOURCE: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Takes the members away from `object` that `schema` does not know, and names them as
/// `spec.list[0].name`, sorted. The root's own metadata and type are not looked at.
///
/// Pruning twice is pruning once.
pub(crate) fn prune(object: &mut Map<String, Value>, schema: &Schema) -> Vec<String> {
    let mut pruner = Pruner::default();
    pruner.object(object, Some(schema), true, schema.preserves_unknown);
    pruner.unknown.sort();
    pruner.unknown
}

/// The same for a value anywhere in an object. A `root` is a resource of its own.
pub(super) fn prune_value(value: &mut Value, schema: &Schema, root: bool) -> Vec<String> {
    let mut pruner = Pruner::default();
    match value {
        Value::Object(members) => {
            let is_resource = root || schema.is_resource;
            pruner.object(members, Some(schema), is_resource, schema.preserves_unknown);
        }
        value => pruner.value(value, Some(schema)),
    }
    pruner.unknown
}

#[derive(Default)]
struct Pruner {
    path: String,
    unknown: Vec<String>,
}

impl Pruner {
    fn value(&mut self, value: &mut Value, schema: Option<&Schema>) {
        self.value_in(value, schema, schema.is_some_and(|schema| schema.preserves_unknown));
    }

    /// `preserves` is what surrounds the value: items of a list that is kept as it is are, too.
    fn value_in(&mut self, value: &mut Value, schema: Option<&Schema>, preserves: bool) {
        match value {
            Value::Object(members) => {
                let is_resource = schema.is_some_and(|schema| schema.is_resource);
                self.object(members, schema, is_resource, preserves);
            }
            Value::Array(items) => {
                let of_items = schema.and_then(|schema| schema.items.as_deref());
                if preserves && of_items.is_none() {
                    return;
                }
                for (index, item) in items.iter_mut().enumerate() {
                    self.below(&format!("[{index}]"), |pruner| {
                        let item_preserves =
                            preserves || of_items.is_some_and(|items| items.preserves_unknown);
                        pruner.value_in(item, of_items, item_preserves);
                    });
                }
            }
            _ => {}
        }
    }

    fn object(
        &mut self,
        members: &mut Map<String, Value>,
        schema: Option<&Schema>,
        is_resource: bool,
        preserves: bool,
    ) {
        let at_root = self.path.is_empty();
        members.retain(|name, value| {
            let is_meta = OF_EVERY_RESOURCE.contains(&name.as_str());
            if is_resource && is_meta {
                return true;
            }
            let step = if at_root { name.clone() } else { format!(".{name}") };
            let additional = schema.map(|schema| &schema.additional);
            match (schema.and_then(|schema| schema.properties.get(name.as_str())), additional) {
                (Some(property), _) => {
                    self.below(&step, |pruner| pruner.value(value, Some(property)));
                }
                (None, Some(Additional::Schema(values))) => {
                    self.below(&step, |pruner| pruner.value(value, Some(values)));
                }
                (None, Some(Additional::Allowed(_))) => {
                    self.below(&step, |pruner| pruner.value(value, None));
                }
                (None, Some(Additional::Unsaid) | None) if preserves => {}
                (None, Some(Additional::Unsaid) | None) => {
                    if !(at_root && is_meta) {
                        self.unknown.push(format!("{}{step}", self.path));
                    }
                    return false;
                }
            }
            true
        });
    }

    fn below(&mut self, step: &str, prune: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        self.path.push_str(step);
        prune(self);
        self.path.truncate(length);
    }
}
