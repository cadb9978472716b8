//! CustomResourceDefinition: its row, its rules, and what its status says.

mod approval;
mod columns;
mod defaults;
mod field_path;
pub(crate) mod naming;
mod schema;
mod spec;
mod structural;

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::{
        CustomResourceConversion, CustomResourceDefinition, CustomResourceDefinitionCondition,
        CustomResourceDefinitionSpec, CustomResourceDefinitionStatus, JSONSchemaProps,
        JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use serde_json::{Value, json};

use crate::{
    field::{ErrorList, FieldError, Path},
    meta::table::name,
    resources::{
        Column, Kind, Object, Part, Resource,
        check::{Errors, IMMUTABLE, list, text},
        row::Row,
        workload,
    },
};

/// The finalizer that keeps a definition until its objects are gone.
pub(crate) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// The condition of a definition whose names are its own.
pub(crate) const NAMES_ACCEPTED: &str = "NamesAccepted";
/// The condition of a definition that is served.
pub(crate) const ESTABLISHED: &str = "Established";
/// The condition of a definition whose objects are being deleted.
pub(crate) const TERMINATING: &str = "Terminating";
/// The condition of a definition with a schema that is not structural.
pub(crate) const NON_STRUCTURAL: &str = "NonStructuralSchema";
/// The condition of a definition in a group of Kubernetes' own.
pub(crate) const APPROVED: &str = "KubernetesAPIApprovalPolicyConformant";

/// The row of CustomResourceDefinition.
pub(in crate::resources) fn row() -> Resource {
    Row::of::<Definitions>()
        .short(&["crd", "crds"])
        .stored_in("apiextensions.k8s.io/customresourcedefinitions")
        .status()
        .columns(COLUMNS)
        .in_category("api-extensions")
        .done()
}

const COLUMNS: &[Column] =
    &[Column::NAME, Column::new("Created At", "date", "When it was created.")];

/// Whether the condition is there and `True`.
pub(crate) fn is_true(definition: &CustomResourceDefinition, type_: &str) -> bool {
    condition(definition, type_).is_some_and(|condition| condition.status == "True")
}

/// The condition of this type.
pub(crate) fn condition<'a>(
    definition: &'a CustomResourceDefinition,
    type_: &str,
) -> Option<&'a CustomResourceDefinitionCondition> {
    let conditions = definition.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether its objects are being deleted, or will be.
pub(crate) fn is_terminating(definition: &CustomResourceDefinition) -> bool {
    definition.metadata.deletion_timestamp.is_some() || is_true(definition, TERMINATING)
}

/// Marks a definition as being deleted: its objects go first.
pub(crate) fn mark_deleted(definition: &mut CustomResourceDefinition, now: Time) {
    let meta = &mut definition.metadata;
    meta.deletion_timestamp.get_or_insert(now);
    let finalizers = meta.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|name| name == CLEANUP) {
        finalizers.push(CLEANUP.to_owned());
    }
    naming::set_condition(
        definition,
        TERMINATING,
        "True",
        "InstanceDeletionPending",
        "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
    );
}

/// How a CustomResourceDefinition behaves.
#[derive(Debug, Default)]
pub(super) struct Definitions;

impl Kind for Definitions {
    type Object = CustomResourceDefinition;

    fn default(definition: &mut CustomResourceDefinition) {
        let spec = &mut definition.spec;
        let names = &mut spec.names;
        if text(&names.singular).is_empty() {
            names.singular = Some(names.kind.to_lowercase()).filter(|name| !name.is_empty());
        }
        if text(&names.list_kind).is_empty() && !names.kind.is_empty() {
            names.list_kind = Some(format!("{}List", names.kind));
        }
        let conversion = spec.conversion.get_or_insert_with(|| CustomResourceConversion {
            strategy: "None".to_owned(),
            webhook: None,
        });
        let client = conversion.webhook.as_mut().and_then(|webhook| webhook.client_config.as_mut());
        if let Some(service) = client.and_then(|client| client.service.as_mut()) {
            service.port.get_or_insert(443);
        }
        // Go leaves the empty default out.
        spec.preserve_unknown_fields.take_if(|preserves| !*preserves);
        remember_stored(definition);
    }

    fn prepare_create(definition: &mut CustomResourceDefinition) {
        definition.status = None;
        workload::first_generation(&mut definition.metadata);
        remember_stored(definition);
    }

    fn prepare_update(
        new: &mut CustomResourceDefinition,
        old: &CustomResourceDefinition,
        part: Part,
    ) {
        if part == Part::Status {
            new.spec = old.spec.clone();
            new.metadata.generation = old.metadata.generation;
            return;
        }
        new.status.clone_from(&old.status);
        workload::next_generation(&mut new.metadata, &old.metadata, new.spec != old.spec);
        remember_stored(new);
    }

    fn validate(_: &CustomResourceDefinition) -> ErrorList {
        ErrorList::new()
    }

    fn validate_create(definition: &CustomResourceDefinition) -> ErrorList {
        let mut errors = Errors::default();
        named_by_its_spec(&mut errors, definition);
        spec::validate(&mut errors, &definition.spec, &spec::Leniency::of_new());
        validate_status(&mut errors, definition);
        stored_versions(&mut errors, definition);
        errors.extend(approval::validate(definition, None));
        errors.extend(preserve_unknown_fields(&definition.spec, None));
        errors.0
    }

    fn validate_update(
        new: &CustomResourceDefinition,
        old: &CustomResourceDefinition,
        part: Part,
    ) -> ErrorList {
        let mut errors = Errors::default();
        if part == Part::Status {
            validate_status(&mut errors, new);
            return errors.0;
        }
        spec::validate(&mut errors, &new.spec, &spec::Leniency::of_change(new, old));
        unchanged_names(&mut errors, new, old);
        validate_status(&mut errors, new);
        stored_versions(&mut errors, new);
        errors.extend(approval::validate(new, Some(old)));
        errors.extend(preserve_unknown_fields(&new.spec, Some(&old.spec)));
        errors.0
    }

    fn cells(definition: &CustomResourceDefinition, _: Timestamp) -> Vec<Value> {
        let created = definition.metadata.creation_timestamp.as_ref();
        vec![json!(name(&definition.metadata)), json!(created.map(|time| time.0.to_string()))]
    }

    fn warnings(definition: &CustomResourceDefinition) -> Vec<String> {
        schema::warnings(&definition.spec)
    }

    const UNCONDITIONAL_UPDATE: bool = false;
}

/// What is wrong with a new definition in `v1beta1`, where schemas need not be structural and
/// approval is not asked for.
pub(in crate::resources) fn judge_beta(object: &dyn Object) -> ErrorList {
    let Some(definition) = object.as_any().downcast_ref::<CustomResourceDefinition>() else {
        return ErrorList::new();
    };
    let mut errors = Errors::default();
    named_by_its_spec(&mut errors, definition);
    spec::validate(&mut errors, &definition.spec, &spec::Leniency::of_beta());
    validate_status(&mut errors, definition);
    stored_versions(&mut errors, definition);
    errors.0
}

/// The same for a change.
pub(in crate::resources) fn judge_beta_change(new: &dyn Object, old: &dyn Object) -> ErrorList {
    let new = new.as_any().downcast_ref::<CustomResourceDefinition>();
    let old = old.as_any().downcast_ref::<CustomResourceDefinition>();
    let (Some(new), Some(old)) = (new, old) else { return ErrorList::new() };
    let mut errors = Errors::default();
    spec::validate(&mut errors, &new.spec, &spec::Leniency::of_beta());
    unchanged_names(&mut errors, new, old);
    validate_status(&mut errors, new);
    stored_versions(&mut errors, new);
    errors.0
}

/// A definition's name is that of what it defines.
fn named_by_its_spec(errors: &mut Errors, definition: &CustomResourceDefinition) {
    let expected = format!("{}.{}", definition.spec.names.plural, definition.spec.group);
    let found = text(&definition.metadata.name);
    if found != expected {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.invalid(&Path::new("metadata.name"), found, detail);
    }
}

/// What objects are stored by does not change.
fn unchanged_names(
    errors: &mut Errors,
    new: &CustomResourceDefinition,
    old: &CustomResourceDefinition,
) {
    let path = Path::new("spec");
    let names = path.child("names");
    let mut unchanged = |at: &Path, new: &str, old: &str| {
        if new != old {
            errors.invalid(at, new, IMMUTABLE);
        }
    };
    if is_true(old, ESTABLISHED) {
        unchanged(&path.child("scope"), &new.spec.scope, &old.spec.scope);
        unchanged(&names.child("kind"), &new.spec.names.kind, &old.spec.names.kind);
    }
    unchanged(&path.child("group"), &new.spec.group, &old.spec.group);
    unchanged(&names.child("plural"), &new.spec.names.plural, &old.spec.names.plural);
}

/// The version that is stored is among those that may be.
fn remember_stored(definition: &mut CustomResourceDefinition) {
    let stored = definition.spec.versions.iter().find(|version| version.storage);
    let Some(name) = stored.map(|version| version.name.clone()) else { return };
    let status = definition.status.get_or_insert_with(CustomResourceDefinitionStatus::default);
    let versions = status.stored_versions.get_or_insert_default();
    if !versions.contains(&name) {
        versions.push(name);
    }
}

fn validate_status(errors: &mut Errors, definition: &CustomResourceDefinition) {
    let accepted = definition.status.as_ref().and_then(|status| status.accepted_names.as_ref());
    if let Some(names) = accepted {
        spec::names(errors, names, &Path::new("status.acceptedNames"));
    }
}

fn stored_versions(errors: &mut Errors, definition: &CustomResourceDefinition) {
    let path = Path::new("status.storedVersions");
    let stored =
        definition.status.as_ref().map(|status| list(&status.stored_versions)).unwrap_or_default();
    if stored.is_empty() {
        errors.invalid(&path, Value::Null, "must have at least one stored version");
        return;
    }
    let versions = &definition.spec.versions;
    for version in versions.iter().filter(|version| version.storage) {
        if !stored.contains(&version.name) {
            let detail = format!("must have the storage version {}", version.name);
            errors.invalid(&path, json!(stored), detail);
        }
    }
    for (index, name) in stored.iter().enumerate() {
        if versions.iter().all(|version| version.name != *name) {
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must \
                 remain in spec.versions until a storage migration ensures no data remains \
                 persisted in {name} and removes {name} from status.storedVersions"
            );
            errors.invalid(&path.index(index), name.as_str(), detail);
        }
    }
}

fn preserve_unknown_fields(
    new: &CustomResourceDefinitionSpec,
    old: Option<&CustomResourceDefinitionSpec>,
) -> ErrorList {
    let preserves =
        |spec: &CustomResourceDefinitionSpec| spec.preserve_unknown_fields == Some(true);
    if !preserves(new) || old.is_some_and(preserves) {
        return ErrorList::new();
    }
    let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
                  spec.versions[*].schema instead";
    vec![FieldError::invalid(&Path::new("spec.preserveUnknownFields"), true, detail)]
}

/// Every schema within a schema, itself included.
fn walk<'a>(schema: &'a JSONSchemaProps, visit: &mut dyn FnMut(&'a JSONSchemaProps)) {
    visit(schema);
    let lists = [&schema.all_of, &schema.any_of, &schema.one_of];
    let maps = [&schema.properties, &schema.pattern_properties, &schema.definitions];
    lists.into_iter().flatten().flatten().for_each(|schema| walk(schema, visit));
    maps.into_iter().flatten().flat_map(|map| map.values()).for_each(|schema| walk(schema, visit));
    schema.not.iter().for_each(|schema| walk(schema, visit));
    match &schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => walk(items, visit),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => {
            items.iter().for_each(|schema| walk(schema, visit));
        }
        None => {}
    }
    for schema in [&schema.additional_properties, &schema.additional_items].into_iter().flatten() {
        if let JSONSchemaPropsOrBool::Schema(schema) = schema {
            walk(schema, visit);
        }
    }
}

/// Whether some schema within a schema is like that.
fn any(schema: &JSONSchemaProps, mut test: impl FnMut(&JSONSchemaProps) -> bool) -> bool {
    let mut found = false;
    walk(schema, &mut |schema| found = found || test(schema));
    found
}
