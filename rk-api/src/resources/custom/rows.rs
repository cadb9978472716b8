//! A CustomResourceDefinition that is served, as rows of the resource table.

use std::sync::{Arc, OnceLock};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionNames,
    CustomResourceDefinitionSpec, CustomResourceDefinitionVersion, JSONSchemaProps,
};
use serde_json::{Value, json};

use super::{
    conversion::Webhook, definition::is_terminating, json_path::JsonPath, scale::ScalePaths,
    schema::Schema,
};
use crate::{
    apply::{self, TypeRef},
    cel::rules::Rules,
    discovery::{hash, priority},
    resources::{Resource, Subresource, row},
};

/// What a definition is served as.
#[derive(Clone, Debug)]
pub(crate) struct Family {
    /// Changes with everything that rows show.
    pub fingerprint: String,
    /// Changes with what stored objects look like: then they must be looked at again.
    pub data_fingerprint: String,
    /// A row for each version that is served.
    pub rows: Vec<Arc<Resource>>,
    /// The row of the version that is stored, which need not be served.
    pub stored: Arc<Resource>,
}

/// One version of a custom kind: what its [strategy](crate::resources::Strategy) works with.
#[derive(Debug)]
pub struct Version {
    /// The definition's name: `widgets.example.com`.
    pub(crate) definition: Arc<str>,
    /// Group and version.
    pub(crate) api_version: Arc<str>,
    /// Group and version of what is stored.
    pub(crate) stored_as: Arc<str>,
    /// Group and version in which objects are written down: what is stored, unless a webhook is to
    /// convert them on their way to the store.
    pub(super) encoded_as: Arc<str>,
    /// The kind.
    pub(crate) kind: Arc<str>,
    /// The kind of lists.
    pub(crate) list_kind: Arc<str>,
    /// How a webhook converts between versions; without one they differ in their name alone.
    pub(crate) conversion: Option<Arc<Webhook>>,
    /// The schema, as the definition has it (JSON): what is seldom needed is made of it.
    pub(crate) source: Box<str>,
    pub(super) schema: Arc<Schema>,
    /// The schema of what is stored, where that is another version that no webhook makes: what it does
    /// not know is not written down.
    pub(super) pruned_to: Option<Arc<Schema>>,
    /// The schemas of all versions: what is stored can be of any of them.
    pub(super) siblings: Arc<[(Arc<str>, Arc<Schema>)]>,
    /// Whether unknown fields are taken away, as they are unless the definition is an old one.
    pub(super) prunes: bool,
    pub(super) has_status: bool,
    pub(super) scale: Option<ScalePaths>,
    pub(super) columns: Vec<Column>,
    /// The selectable fields of this version.
    pub(super) fields: Vec<Field>,
    pub(super) deprecation: Option<String>,
    pub(super) apply: OnceLock<(apply::Schema, TypeRef)>,
    /// The rules of the schema, compiled when an object is first judged by them.
    pub(super) rules: OnceLock<Option<Rules>>,
}

/// A printer column.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub kind: Box<str>,
    /// `None` for one that cannot be read: its cells are empty.
    pub path: Option<JsonPath>,
}

/// A selectable field.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub name: Arc<str>,
    pub path: JsonPath,
}

impl Version {
    /// The schema as a tree, as the definition has it.
    pub(crate) fn openapi(&self) -> Value {
        serde_json::from_str(&self.source).unwrap_or_default()
    }

    /// The names that lead to the replicas that a scale asks for.
    pub(crate) fn replicas_path(&self) -> Option<Vec<&str>> {
        self.scale.as_ref().map(ScalePaths::replicas)
    }
}

impl Family {
    /// What a definition is served as, under the names that were accepted; `None` while it cannot
    /// be, because no version is stored.
    pub(crate) fn of(definition: &CustomResourceDefinition) -> Option<Self> {
        let spec = &definition.spec;
        let stored = spec.versions.iter().find(|version| version.storage)?;
        let names = definition.status.as_ref().and_then(|status| status.accepted_names.as_ref());
        let maker = Maker::of(definition, names.unwrap_or(&spec.names), stored);
        let rows: Vec<_> = spec
            .versions
            .iter()
            .filter(|version| version.served)
            .map(|version| Arc::new(maker.row(version)))
            .collect();
        let stored = match rows.iter().find(|row| row.version == stored.name) {
            Some(row) => row.clone(),
            None => Arc::new(maker.row(stored)),
        };
        let (fingerprint, data_fingerprint) = fingerprints(definition);
        Some(Self { fingerprint, data_fingerprint, rows, stored })
    }
}

/// See the fields of [`Family`].
pub(crate) fn fingerprints(definition: &CustomResourceDefinition) -> (String, String) {
    let spec = &definition.spec;
    let accepted = definition.status.as_ref().and_then(|status| status.accepted_names.as_ref());
    let rows = json!([spec, accepted, is_terminating(definition), definition.metadata.uid]);
    let version = |version: &CustomResourceDefinitionVersion| {
        json!([version.name, version.storage, version.schema, version.selectable_fields])
    };
    let versions: Vec<_> = spec.versions.iter().map(version).collect();
    let data = json!([versions, spec.conversion, definition.metadata.uid]);
    (hash(rows.to_string().as_bytes()), hash(data.to_string().as_bytes()))
}

/// What the versions of a definition share.
struct Maker<'a> {
    spec: &'a CustomResourceDefinitionSpec,
    names: &'a CustomResourceDefinitionNames,
    terminating: bool,
    definition: Arc<str>,
    stored_as: Arc<str>,
    kind: Arc<str>,
    list_kind: Arc<str>,
    siblings: Arc<[(Arc<str>, Arc<Schema>)]>,
    conversion: Option<Arc<Webhook>>,
}

impl<'a> Maker<'a> {
    fn of(
        definition: &'a CustomResourceDefinition,
        names: &'a CustomResourceDefinitionNames,
        stored: &CustomResourceDefinitionVersion,
    ) -> Self {
        let spec = &definition.spec;
        let schema = |version| match schema_of(version) {
            Some(props) => Arc::new(Schema::compile(props)),
            // A definition of old without one keeps everything.
            None => Arc::new(Schema { preserves_unknown: true, ..Schema::default() }),
        };
        let siblings = spec
            .versions
            .iter()
            .map(|version| (api_version(spec, &version.name), schema(version)))
            .collect();
        let list_kind = names.list_kind.clone().filter(|kind| !kind.is_empty());
        Self {
            spec,
            names,
            terminating: is_terminating(definition),
            definition: definition.metadata.name.as_deref().unwrap_or_default().into(),
            stored_as: api_version(spec, &stored.name),
            kind: names.kind.as_str().into(),
            list_kind: list_kind.unwrap_or_else(|| format!("{}List", names.kind)).into(),
            siblings,
            conversion: Webhook::of(spec).map(Arc::new),
        }
    }

    fn row(&self, version: &CustomResourceDefinitionVersion) -> Resource {
        let (spec, names) = (self.spec, self.names);
        let owned = |names: &Option<Vec<String>>| {
            names.iter().flatten().map(|name| name.clone().into()).collect::<Vec<_>>()
        };
        let verbs = row::CUSTOM_VERBS.iter().filter(|verb| !self.terminating || **verb != "create");
        Resource {
            group: spec.group.clone().into(),
            version: version.name.clone().into(),
            kind: names.kind.clone().into(),
            plural: names.plural.clone().into(),
            singular: names.singular.clone().unwrap_or_default().into(),
            short_names: owned(&names.short_names),
            categories: owned(&names.categories),
            namespaced: spec.scope == "Namespaced",
            verbs: verbs.map(|verb| (*verb).into()).collect(),
            subresources: subresources(version, &names.kind),
            key_prefix: format!("/registry/{}/{}/", spec.group, names.plural).into(),
            schema: schema_name(&spec.group, &version.name, &names.kind).into(),
            columns: columns(version),
            strategy: Arc::new(self.version(version)),
        }
    }

    fn version(&self, version: &CustomResourceDefinitionVersion) -> Version {
        let own = api_version(self.spec, &version.name);
        let schema = |version: &Arc<str>| {
            let found = self.siblings.iter().find(|(api_version, _)| api_version == version);
            found.map(|(_, schema)| schema.clone())
        };
        let prunes = self.spec.preserve_unknown_fields != Some(true);
        let subresources = version.subresources.as_ref();
        // Only who asks a webhook needs the version as it is: a change of name is made on the way.
        let converted = self.conversion.is_some();
        let source = schema_of(version).and_then(|props| serde_json::to_string(props).ok());
        Version {
            definition: self.definition.clone(),
            stored_as: self.stored_as.clone(),
            encoded_as: if converted { own.clone() } else { self.stored_as.clone() },
            kind: self.kind.clone(),
            list_kind: self.list_kind.clone(),
            conversion: self.conversion.clone(),
            source: source.unwrap_or_else(|| KEEPS_EVERYTHING.to_owned()).into(),
            schema: schema(&own).unwrap_or_default(),
            pruned_to: match prunes && !converted && own != self.stored_as {
                true => schema(&self.stored_as),
                false => None,
            },
            siblings: self.siblings.clone(),
            prunes,
            has_status: subresources.is_some_and(|it| it.status.is_some()),
            scale: subresources.and_then(|it| it.scale.as_ref()).map(ScalePaths::of),
            columns: printer_columns(version).iter().map(column).collect(),
            fields: fields(version),
            deprecation: deprecation(self.spec, self.names, version),
            apply: OnceLock::new(),
            rules: OnceLock::new(),
            api_version: own,
        }
    }
}

const KEEPS_EVERYTHING: &str = r#"{"type":"object","x-kubernetes-preserve-unknown-fields":true}"#;

fn schema_of(version: &CustomResourceDefinitionVersion) -> Option<&JSONSchemaProps> {
    version.schema.as_ref()?.open_api_v3_schema.as_ref()
}

fn api_version(spec: &CustomResourceDefinitionSpec, version: &str) -> Arc<str> {
    format!("{}/{version}", spec.group).into()
}

/// As OpenAPI documents name it: `com.example.v1.Widget` for `example.com/v1`.
fn schema_name(group: &str, version: &str, kind: &str) -> String {
    let reversed: Vec<_> = group.rsplit('.').collect();
    format!("{}.{version}.{kind}", reversed.join("."))
}

fn subresources(version: &CustomResourceDefinitionVersion, kind: &str) -> Vec<Subresource> {
    let verbs = || ["get", "patch", "update"].map(Into::into).to_vec();
    let asked = version.subresources.as_ref();
    let status = asked.and_then(|it| it.status.as_ref()).map(|_| Subresource {
        name: "status".into(),
        kind: kind.to_owned().into(),
        group_version: None,
        verbs: verbs(),
    });
    let scale = asked.and_then(|it| it.scale.as_ref()).map(|_| Subresource {
        name: "scale".into(),
        kind: "Scale".into(),
        group_version: Some(("autoscaling".into(), "v1".into())),
        verbs: verbs(),
    });
    status.into_iter().chain(scale).collect()
}

/// The columns besides the name; the age if there are no others.
fn printer_columns(
    version: &CustomResourceDefinitionVersion,
) -> Vec<CustomResourceColumnDefinition> {
    let columns = version.additional_printer_columns.clone().unwrap_or_default();
    if !columns.is_empty() {
        return columns;
    }
    vec![CustomResourceColumnDefinition {
        name: "Age".to_owned(),
        type_: "date".to_owned(),
        description: Some("When the server created the object.".to_owned()),
        json_path: ".metadata.creationTimestamp".to_owned(),
        ..CustomResourceColumnDefinition::default()
    }]
}

fn columns(version: &CustomResourceDefinitionVersion) -> Vec<crate::resources::Column> {
    let describe = |column: CustomResourceColumnDefinition| {
        let description = column.description.filter(|text| !text.is_empty()).unwrap_or_else(|| {
            let path = &column.json_path;
            format!("Custom resource definition column (in JSONPath format): {path}")
        });
        crate::resources::Column {
            name: column.name.into(),
            kind: column.type_.into(),
            format: column.format.unwrap_or_default().into(),
            description: description.into(),
            priority: column.priority.unwrap_or(0),
        }
    };
    let more = printer_columns(version).into_iter().map(describe);
    std::iter::once(crate::resources::Column::NAME).chain(more).collect()
}

fn column(column: &CustomResourceColumnDefinition) -> Column {
    Column { kind: column.type_.as_str().into(), path: JsonPath::parse(&column.json_path).ok() }
}

fn fields(version: &CustomResourceDefinitionVersion) -> Vec<Field> {
    let paths = version.selectable_fields.iter().flatten().map(|field| &field.json_path);
    let fields = paths.filter_map(|path| {
        let name = path.strip_prefix('.').unwrap_or(path);
        Some(Field { name: name.into(), path: JsonPath::parse(path).ok()? })
    });
    fields.collect()
}

/// What clients of a deprecated version are told: the definition's words, or that there is a newer
/// version if there is one.
fn deprecation(
    spec: &CustomResourceDefinitionSpec,
    names: &CustomResourceDefinitionNames,
    version: &CustomResourceDefinitionVersion,
) -> Option<String> {
    if version.deprecated != Some(true) {
        return None;
    }
    if let Some(words) = &version.deprecation_warning {
        return Some(words.clone());
    }
    let (group, name, kind) = (&spec.group, &version.name, &names.kind);
    let mut words = format!("{group}/{name} {kind} is deprecated");
    let better = spec
        .versions
        .iter()
        .filter(|other| other.served && other.deprecated != Some(true))
        .filter(|other| priority(&other.name) > priority(name))
        .max_by_key(|other| priority(&other.name));
    if let Some(better) = better {
        words.push_str(&format!("; use {group}/{} {kind}", better.name));
    }
    Some(words)
}
