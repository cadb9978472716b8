//! What server-side apply must know of types: which lists and maps merge, and how.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use serde_json::Value;
use smol_str::SmolStr;

use super::path::PathElement;
use crate::schema::{self, Definition, Graph, ListType, Type};

/// Types, each with all that it refers to.
#[derive(Debug, Default)]
pub struct Schema {
    types: Vec<Shape>,
    names: HashMap<Box<str>, TypeRef>,
}

/// A type of a [`Schema`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TypeRef(u32);

/// What values of a type look like.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    /// One value without parts.
    Scalar(Scalar),
    /// A list.
    List(List),
    /// An object, whose fields or keys are parts.
    Object(Object),
    /// Anything: a list is one value, an object has parts that can be anything.
    Any,
}

/// What a scalar can be, besides null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    String,
    Number,
    Boolean,
    Any,
}

#[derive(Clone, Debug)]
pub(super) struct List {
    pub(super) items: TypeRef,
    pub(super) kind: ListKind,
}

/// How the items of a list are told apart.
#[derive(Clone, Debug)]
pub(super) enum ListKind {
    /// Not at all: the list is one value.
    Atomic,
    /// By their values.
    Set,
    /// By these fields.
    Map(Vec<Key>),
}

/// A field that tells items apart.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) name: SmolStr,
    /// What its absence means.
    pub(super) default: Option<Value>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Object {
    /// Sorted by name.
    pub(super) fields: Vec<Field>,
    /// What other keys hold; `None` when there may be no others.
    pub(super) rest: Option<TypeRef>,
    /// Whether it is one value.
    pub(super) atomic: bool,
}

/// A named field.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) name: Box<str>,
    pub(super) kind: TypeRef,
    /// What Kubernetes' own types have where JSON leaves the field out: `{}` for an embedded
    /// struct, `[]` for a list that is always written. Such a field is never added or removed.
    pub(super) zero: Option<Value>,
}

/// The schema of the built-in kinds, made on first use.
pub fn builtin() -> &'static Arc<Schema> {
    static SCHEMA: OnceLock<Arc<Schema>> = OnceLock::new();
    SCHEMA.get_or_init(|| Arc::new(Schema::of_graph(schema::graph())))
}

// === impl Schema ===

impl Schema {
    /// The schema of a graph of types.
    pub fn of_graph(graph: &Graph) -> Self {
        let mut schema = Self::default();
        for name in graph.names() {
            schema.define(graph, name);
        }
        schema
    }

    /// The schema of one kind from an OpenAPI v3 schema with Kubernetes' extensions, as a
    /// CustomResourceDefinition has one (`x-kubernetes-list-type`, `-list-map-keys`, `-map-type`,
    /// `-preserve-unknown-fields`, `-int-or-string`, `-embedded-resource`). `apiVersion`, `kind` and `metadata` are
    /// those of every kind.
    pub fn of_openapi(root: &Value) -> (Self, TypeRef) {
        let mut schema = Self::of_graph_types(schema::graph(), &[OBJECT_META]);
        let kind = schema.openapi(root, true);
        (schema, kind)
    }

    fn of_graph_types(graph: &Graph, names: &[&str]) -> Self {
        let mut schema = Self::default();
        for name in names {
            schema.define(graph, name);
        }
        schema
    }

    /// The type of this name, for example `io.k8s.api.core.v1.Pod`.
    pub fn get(&self, name: &str) -> Option<TypeRef> {
        self.names.get(name).copied()
    }

    pub(super) fn shape(&self, kind: TypeRef) -> &Shape {
        &self.types[kind.0 as usize]
    }

    fn push(&mut self, shape: Shape) -> TypeRef {
        self.types.push(shape);
        // A schema of four thousand million types would not fit into memory.
        TypeRef((self.types.len() - 1) as u32)
    }

    /// The type that a step leads to.
    pub(super) fn step(&self, kind: TypeRef, element: &PathElement) -> Option<TypeRef> {
        match (self.shape(kind), element) {
            (Shape::Any, PathElement::Field(_)) => Some(kind),
            (Shape::Object(object), PathElement::Field(name)) => object.kind_of(name),
            (Shape::List(list), PathElement::Key(_) | PathElement::Value(_)) => Some(list.items),
            _ => None,
        }
    }

    /// Whether the type is a struct with this field.
    pub(super) fn has_field(&self, kind: TypeRef, name: &str) -> bool {
        matches!(self.shape(kind), Shape::Object(object) if object.field(name).is_some())
    }

    // === from the graph of built-in types ===

    fn define(&mut self, graph: &Graph, name: &str) -> TypeRef {
        if let Some(known) = self.get(name) {
            return known;
        }
        // Types may contain themselves: the place is taken before the fields are looked at.
        let kind = self.push(Shape::Any);
        self.names.insert(name.into(), kind);
        let Some(definition) = graph.get(name) else { return kind };
        let shape = match &definition.plain {
            Some(Type::Named(other)) => {
                let other = self.define(graph, other);
                self.shape(other).clone()
            }
            Some(plain) => self.plain(graph, plain),
            None => Shape::Object(self.object(graph, name, definition)),
        };
        self.types[kind.0 as usize] = shape;
        kind
    }

    fn object(&mut self, graph: &Graph, name: &str, definition: &Definition) -> Object {
        let mut names: Vec<_> = definition.field_names().collect();
        names.sort_unstable();
        let fields = names.into_iter().filter_map(|field_name| {
            let field = definition.field(field_name)?;
            let kind = self.field(graph, field);
            let always = field.required || is_embedded(name, field_name);
            let zero = always.then(|| self.zero(graph, &field.kind));
            Some(Field { name: field_name.into(), kind, zero })
        });
        let fields = fields.collect();
        Object { fields, rest: None, atomic: definition.atomic }
    }

    fn field(&mut self, graph: &Graph, field: &schema::Field) -> TypeRef {
        let merge = &field.merge;
        if let Type::List(items) = &field.kind {
            let kind = match merge.list_type {
                None | Some(ListType::Atomic) => ListKind::Atomic,
                Some(ListType::Set) => ListKind::Set,
                Some(ListType::Map) => ListKind::Map(
                    merge.list_map_keys.iter().map(|name| key(graph, items, name)).collect(),
                ),
            };
            let items = self.kind(graph, items);
            return self.push(Shape::List(List { items, kind }));
        }
        let kind = self.kind(graph, &field.kind);
        if merge.map_type.as_deref() == Some("atomic") {
            let mut shape = self.shape(kind).clone();
            if let Shape::Object(object) = &mut shape {
                object.atomic = true;
            }
            return self.push(shape);
        }
        kind
    }

    fn kind(&mut self, graph: &Graph, kind: &Type) -> TypeRef {
        match kind {
            Type::Named(name) => self.define(graph, name),
            plain => {
                let shape = self.plain(graph, plain);
                self.push(shape)
            }
        }
    }

    fn plain(&mut self, graph: &Graph, kind: &Type) -> Shape {
        match kind {
            Type::String => Shape::Scalar(Scalar::String),
            Type::Integer | Type::Number => Shape::Scalar(Scalar::Number),
            Type::Boolean => Shape::Scalar(Scalar::Boolean),
            Type::IntOrString => Shape::Scalar(Scalar::Any),
            Type::Map(values) => {
                let rest = Some(self.kind(graph, values));
                Shape::Object(Object { rest, ..Object::default() })
            }
            Type::List(items) => {
                let items = self.kind(graph, items);
                Shape::List(List { items, kind: ListKind::Atomic })
            }
            Type::Any | Type::Named(_) => Shape::Any,
        }
    }

    fn zero(&self, graph: &Graph, kind: &Type) -> Value {
        match kind {
            Type::String => "".into(),
            Type::Integer | Type::Number => 0.into(),
            Type::Boolean => false.into(),
            Type::Named(name) => match graph.get(name) {
                Some(Definition { plain: None, .. }) => Value::Object(serde_json::Map::new()),
                _ => Value::Null,
            },
            Type::List(_) => Value::Array(Vec::new()),
            Type::Map(_) => Value::Object(serde_json::Map::new()),
            _ => Value::Null,
        }
    }

    // === from OpenAPI ===

    fn openapi(&mut self, schema: &Value, is_object: bool) -> TypeRef {
        let flag = |name: &str| schema.get(name).and_then(Value::as_bool) == Some(true);
        let text = |name: &str| schema.get(name).and_then(Value::as_str).unwrap_or_default();
        if flag("x-kubernetes-int-or-string") {
            return self.push(Shape::Scalar(Scalar::Any));
        }
        let shape = match text("type") {
            "string" => Shape::Scalar(Scalar::String),
            "integer" | "number" => Shape::Scalar(Scalar::Number),
            "boolean" => Shape::Scalar(Scalar::Boolean),
            "array" => {
                let item = schema.get("items").unwrap_or(&Value::Null);
                let items = self.openapi(item, false);
                let kind = match text("x-kubernetes-list-type") {
                    "set" => ListKind::Set,
                    "map" => ListKind::Map(openapi_keys(schema, item)),
                    _ => ListKind::Atomic,
                };
                Shape::List(List { items, kind })
            }
            "object" => {
                let properties = schema.get("properties").and_then(Value::as_object);
                let whole = is_object || flag("x-kubernetes-embedded-resource");
                let mut fields: Vec<Field> = Vec::new();
                for (name, property) in properties.into_iter().flatten() {
                    let kind = match (name.as_str(), self.get(OBJECT_META)) {
                        ("metadata", Some(metadata)) if whole => metadata,
                        _ => self.openapi(property, false),
                    };
                    fields.push(Field { name: name.as_str().into(), kind, zero: None });
                }
                if whole {
                    self.add_type_fields(&mut fields);
                }
                fields.sort_by(|a, b| a.name.cmp(&b.name));
                let rest = match schema.get("additionalProperties") {
                    Some(values @ Value::Object(_)) => Some(self.openapi(values, false)),
                    Some(Value::Bool(true)) => Some(self.push(Shape::Any)),
                    _ if flag("x-kubernetes-preserve-unknown-fields") => {
                        Some(self.push(Shape::Any))
                    }
                    _ => None,
                };
                let atomic = text("x-kubernetes-map-type") == "atomic";
                Shape::Object(Object { fields, rest, atomic })
            }
            _ => Shape::Any,
        };
        self.push(shape)
    }

    fn add_type_fields(&mut self, fields: &mut Vec<Field>) {
        for name in ["apiVersion", "kind", "metadata"] {
            if fields.iter().any(|field| *field.name == *name) {
                continue;
            }
            let kind = match self.get(OBJECT_META) {
                Some(metadata) if name == "metadata" => metadata,
                _ => self.push(Shape::Scalar(Scalar::String)),
            };
            fields.push(Field { name: name.into(), kind, zero: None });
        }
        // Every object has metadata, also where a client left it out.
        for field in fields.iter_mut().filter(|field| &*field.name == "metadata") {
            field.zero = Some(Value::Object(serde_json::Map::new()));
        }
    }
}

impl Object {
    /// The named field.
    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        let at = self.fields.binary_search_by(|field| (*field.name).cmp(name)).ok()?;
        Some(&self.fields[at])
    }

    /// What a field or key holds.
    pub(super) fn kind_of(&self, name: &str) -> Option<TypeRef> {
        self.field(name).map(|field| field.kind).or(self.rest)
    }
}

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

fn key(graph: &Graph, items: &Type, name: &str) -> Key {
    let default = match items {
        Type::Named(item) => graph.get(item).and_then(|item| item.field(name)?.default.clone()),
        _ => None,
    };
    Key { name: name.into(), default }
}

fn openapi_keys(schema: &Value, item: &Value) -> Vec<Key> {
    let names = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
    let names = names.into_iter().flatten().filter_map(Value::as_str);
    let default = |name: &str| item.get("properties")?.get(name)?.get("default").cloned();
    names.map(|name| Key { name: name.into(), default: default(name) }).collect()
}

/// Whether Go's type embeds a struct here although JSON may leave it out (`omitempty` does nothing
/// for structs).
fn is_embedded(definition: &str, field: &str) -> bool {
    if matches!(field, "metadata" | "spec" | "status") {
        return true;
    }
    let Some(definition) = definition.strip_prefix("io.k8s.api.") else { return false };
    matches!(
        (definition, field),
        ("apps.v1.DaemonSetSpec" | "apps.v1.StatefulSetSpec", "updateStrategy")
            | ("apps.v1.DeploymentSpec", "strategy")
            | ("apps.v1.ReplicaSetSpec" | "core.v1.PodTemplate", "template")
            | (
                "core.v1.Container"
                    | "core.v1.EphemeralContainer"
                    | "core.v1.PersistentVolumeClaimSpec",
                "resources"
            )
            | ("core.v1.ContainerStatus", "state" | "lastState")
            | ("core.v1.Event", "source")
            | ("core.v1.NodeDaemonEndpoints", "kubeletEndpoint")
            | ("core.v1.NodeStatus", "daemonEndpoints" | "nodeInfo")
            | ("core.v1.ServiceStatus" | "networking.v1.IngressStatus", "loadBalancer")
            | ("discovery.v1.Endpoint", "conditions")
            | ("events.v1.Event", "regarding" | "deprecatedSource")
            | ("flowcontrol.v1.LimitedPriorityLevelConfiguration", "limitResponse")
            | ("networking.v1.IngressServiceBackend", "port")
            | ("resource.v1.AllocationResult", "devices")
            | ("resource.v1.DeviceTaintRuleSpec", "taint")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_two_keys_one_with_a_default() {
        let schema = builtin();
        let spec = schema.get("io.k8s.api.core.v1.ServiceSpec").unwrap();
        let ports = schema.step(spec, &PathElement::field("ports")).unwrap();
        let Shape::List(List { kind: ListKind::Map(keys), .. }) = schema.shape(ports) else {
            panic!("ports are a list of objects told apart by keys");
        };
        let keys: Vec<_> = keys.iter().map(|key| (&*key.name, key.default.is_some())).collect();
        assert_eq!(keys, [("port", false), ("protocol", true)]);
    }

    #[test]
    fn structs_that_go_embeds_are_always_there() {
        let schema = builtin();
        let Shape::Object(spec) =
            schema.shape(schema.get("io.k8s.api.apps.v1.DeploymentSpec").unwrap())
        else {
            panic!("a spec is an object");
        };
        assert_eq!(spec.field("strategy").unwrap().zero, Some(serde_json::json!({})));
        assert_eq!(spec.field("replicas").unwrap().zero, None);
    }
}
