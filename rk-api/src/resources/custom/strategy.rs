//! How custom objects behave.

use std::borrow::Cow;

use k8s_openapi::{
    api::autoscaling::v1::Scale, apimachinery::pkg::apis::meta::v1::DeleteOptions, jiff::Timestamp,
};
use serde::de::Error;
use serde_json::Value;

use super::{
    Custom, Version, defaults, embedded, lists,
    object::{Parts, text},
    prune,
    rows::Column,
    schema::Schema,
    validate,
};
use crate::{
    apply::{self, TypeRef},
    field::{ErrorList, FieldError, Path},
    meta::{names, strict::duplicate_fields, table},
    resources::{Decoded, Fields, Object, Part, Strategy, typed::drop_empty},
};

fn custom(object: &dyn Object) -> Option<&Custom> {
    object.as_any().downcast_ref()
}

fn custom_mut(object: &mut dyn Object) -> Option<&mut Custom> {
    object.as_any_mut().downcast_mut()
}

impl Version {
    /// An object in the form of the version `found`, brought into form: pruned, and in this version
    /// unless only a webhook could do that. Also names the unknown fields.
    fn read(&self, json: &[u8], stored: bool) -> Result<(Custom, Vec<String>), serde_json::Error> {
        let parts: Parts<'_> = serde_json::from_slice(json)?;
        let found = text(parts.api_version, "apiVersion")?;
        let kind = text(parts.kind, "kind")?;
        if kind.is_empty() {
            let body = String::from_utf8_lossy(json);
            return Err(Error::custom(format!("Object 'Kind' is missing in '{body}'")));
        }
        let own = found.is_empty() || *found == *self.api_version;
        let schema = match own {
            true => &self.schema,
            false => self.sibling(&found).ok_or_else(|| {
                Error::custom(format!("no kind {kind:?} is registered for version {found:?}"))
            })?,
        };
        let mut strict_errors = Vec::new();
        let metadata: Value = match parts.metadata {
            Some(raw) => serde_json::from_str(raw.get())?,
            None => Value::Null,
        };
        let mut metadata = if stored {
            embedded::stored_metadata(&metadata)
        } else {
            let (metadata, errors) = embedded::metadata(&metadata)?;
            strict_errors.extend(errors);
            metadata
        };
        drop_empty(&mut metadata);
        if stored && metadata.generation.unwrap_or(0) == 0 {
            metadata.generation = Some(1);
        }
        let mut members = parts.members;
        let unknown = |path: String| format!("unknown field \"{path}\"");
        strict_errors.extend(embedded::coerce(&mut members, schema).into_iter().map(unknown));
        if self.prunes {
            strict_errors.extend(prune::prune(&mut members, schema).into_iter().map(unknown));
        }
        let kind = if *kind == *self.kind { self.kind.clone() } else { kind.as_str().into() };
        let mut object = Custom {
            api_version: self.api_version.clone(),
            stored_as: self.encoded_as.clone(),
            pruned_to: self.pruned_to.clone(),
            kind,
            metadata,
            members,
        };
        if !own {
            if stored {
                defaults::default(&mut object.members, schema);
            }
            if self.conversion.is_some() {
                // It stays what it is until the webhook was asked.
                object.api_version = found.as_str().into();
                object.stored_as = object.api_version.clone();
                object.pruned_to = None;
            } else if self.prunes {
                prune::prune(&mut object.members, &self.schema);
            }
        } else if stored {
            defaults::default(&mut object.members, schema);
        }
        Ok((object, strict_errors))
    }

    /// The schema of another version of this kind.
    fn sibling(&self, api_version: &str) -> Option<&Schema> {
        let found = self.siblings.iter().find(|(version, _)| **version == *api_version);
        found.map(|(_, schema)| schema.as_ref())
    }

    /// What is wrong with `new`, apart from rules and from what an update is forgiven.
    fn judge(&self, new: &Custom, old: Option<&Custom>) -> (ErrorList, Vec<FieldError>) {
        let (Ok(tree), Ok(old_tree)) = (new.tree(), old.map(Custom::tree).transpose()) else {
            return Default::default();
        };
        let mut errors = validate::validate(&tree, old_tree.as_ref(), &self.schema, "");
        if let Some(scale) = &self.scale {
            errors.extend(scale.validate_spec(&new.members));
            errors.extend(scale.validate_status(&new.members));
        }
        errors.extend(embedded::validate(&new.members, &self.schema, false, &Path::root()));
        errors.extend(self.judge_lists(new, old));
        let forgiven = self.judge_rules(&mut errors, &tree, old_tree.as_ref());
        (errors, forgiven)
    }

    fn judge_status(&self, new: &Custom, old: &Custom) -> (ErrorList, Vec<FieldError>) {
        let mut errors = ErrorList::new();
        let of_status = self.schema.properties.get("status");
        if let (Some(status), Some(schema)) = (new.members.get("status"), of_status) {
            let found = validate::validate(status, old.members.get("status"), schema, "");
            errors.extend(found.into_iter().map(|error| FieldError {
                path: match error.path.as_str() {
                    "<nil>" => "status".to_owned(),
                    path => format!("status.{path}"),
                },
                ..error
            }));
        }
        if let Some(scale) = &self.scale {
            errors.extend(scale.validate_status(&new.members));
        }
        errors.extend(self.judge_lists(new, Some(old)));
        let forgiven = match (new.tree(), old.tree()) {
            (Ok(tree), Ok(old_tree)) => self.judge_rules(&mut errors, &tree, Some(&old_tree)),
            _ => Vec::new(),
        };
        (errors, forgiven)
    }

    /// Lists that were wrong before may stay so.
    fn judge_lists(&self, new: &Custom, old: Option<&Custom>) -> ErrorList {
        let of = |object: &Custom| lists::validate(&object.members, &self.schema, &Path::root());
        let errors = of(new);
        match old {
            Some(old) if !errors.is_empty() && !of(old).is_empty() => ErrorList::new(),
            _ => errors,
        }
    }
}

impl Strategy for Version {
    fn decode(&self, json: &[u8]) -> Result<Decoded, serde_json::Error> {
        let (object, mut strict_errors) = self.read(json, false)?;
        let duplicates = duplicate_fields(json).into_iter();
        strict_errors.extend(duplicates.map(|path| format!("duplicate field \"{path}\"")));
        Ok(Decoded { object: Box::new(object), strict_errors })
    }

    fn decode_stored(&self, json: &[u8]) -> Result<Box<dyn Object>, serde_json::Error> {
        let (object, _) = self.read(json, true)?;
        Ok(Box::new(object))
    }

    fn shown<'a>(&self, stored: &'a [u8]) -> Result<Cow<'a, [u8]>, serde_json::Error> {
        let parts: Parts<'_> = serde_json::from_slice(stored)?;
        if parts.api_version.as_ref().and_then(Value::as_str) == Some(&*self.api_version) {
            return Ok(Cow::Borrowed(stored));
        }
        let (mut object, _) = self.read(stored, true)?;
        if object.api_version != self.api_version {
            return Err(Error::custom("only a webhook can convert this object"));
        }
        object.stored_as = self.api_version.clone();
        object.pruned_to = None;
        object.encode().map(Cow::Owned)
    }

    fn is_shown_as_stored(&self) -> bool {
        self.api_version == self.stored_as && self.conversion.is_none()
    }

    fn custom(&self) -> Option<&Version> {
        Some(self)
    }

    fn apply_schema(&self) -> Option<&(apply::Schema, TypeRef)> {
        Some(self.apply.get_or_init(|| apply::Schema::of_openapi(&self.openapi())))
    }

    fn deprecation(&self) -> Option<&str> {
        self.deprecation.as_deref()
    }

    fn default(&self, object: &mut dyn Object) {
        if let Some(object) = custom_mut(object) {
            defaults::default(&mut object.members, &self.schema);
        }
    }

    fn prepare_create(&self, object: &mut dyn Object) {
        if let Some(object) = custom_mut(object) {
            if self.has_status {
                object.members.remove("status");
            }
            object.metadata.generation = Some(1);
        }
    }

    fn prepare_update(&self, new: &mut dyn Object, old: &dyn Object, part: Part) {
        let (Some(new), Some(old)) = (custom_mut(new), custom(old)) else { return };
        let set_status = |object: &mut Custom, status: Option<Value>| match status {
            Some(status) => _ = object.members.insert("status".to_owned(), status),
            None => _ = object.members.remove("status"),
        };
        if part == Part::Status {
            let status = new.members.remove("status");
            let version = new.metadata.resource_version.take();
            *new = old.clone();
            new.metadata.resource_version = version;
            set_status(new, status);
            return;
        }
        if self.has_status {
            set_status(new, old.members.get("status").cloned());
        }
        if new.members != old.members {
            new.metadata.generation = Some(old.metadata.generation.unwrap_or(0) + 1);
        }
    }

    fn validate(&self, object: &dyn Object) -> ErrorList {
        let Some(object) = custom(object) else { return ErrorList::new() };
        let mut errors = ErrorList::new();
        if object.kind != self.kind {
            let detail = format!("must be {}", self.kind);
            errors.push(FieldError::invalid(&Path::new("kind"), &*object.kind, detail));
        }
        errors
    }

    fn validate_create(&self, object: &dyn Object) -> ErrorList {
        match custom(object) {
            Some(object) if object.kind == self.kind => self.judge(object, None).0,
            _ => ErrorList::new(),
        }
    }

    fn validate_update(&self, new: &dyn Object, old: &dyn Object, part: Part) -> ErrorList {
        self.judge_update(new, old, part).0
    }

    fn judge_update(
        &self,
        new: &dyn Object,
        old: &dyn Object,
        part: Part,
    ) -> (ErrorList, Vec<FieldError>) {
        match (custom(new), custom(old)) {
            (Some(new), Some(old)) if part == Part::Status => self.judge_status(new, old),
            (Some(new), Some(old)) if new.kind == self.kind => self.judge(new, Some(old)),
            _ => Default::default(),
        }
    }

    fn validate_name(&self, name: &str, generate_prefix: bool) -> Vec<String> {
        names::dns_subdomain(name, generate_prefix)
    }

    fn fields(&self, _: &dyn Object) -> Fields {
        Fields::new()
    }

    fn more_fields(&self, object: &dyn Object) -> Box<[(std::sync::Arc<str>, String)]> {
        if self.fields.is_empty() {
            return Box::default();
        }
        let Some(tree) = custom(object).and_then(|object| object.tree().ok()) else {
            return Box::default();
        };
        let value = |field: &super::rows::Field| {
            let text = match field.path.find(&tree).first() {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            };
            (field.name.clone(), text)
        };
        self.fields.iter().map(value).collect()
    }

    fn field_names(&self) -> &'static [&'static str] {
        &[]
    }

    fn selects_by(&self, field: &str) -> bool {
        self.fields.iter().any(|own| *own.name == *field)
    }

    fn cells(&self, object: &dyn Object, now: Timestamp) -> Vec<Value> {
        let mut cells = vec![Value::from(table::name(object.meta()))];
        let tree = custom(object).and_then(|object| object.tree().ok()).unwrap_or_default();
        cells.extend(self.columns.iter().map(|column| cell(column, &tree, now)));
        cells
    }

    fn warnings(&self, _: &dyn Object, _: Option<&dyn Object>) -> Vec<String> {
        Vec::new()
    }

    fn grace_period_seconds(&self, _: &dyn Object, _: &DeleteOptions) -> Option<i64> {
        None
    }

    fn scale(&self, object: &dyn Object) -> Option<Scale> {
        let object = custom(object)?;
        self.scale.as_ref().map(|paths| paths.read(&object.members))
    }

    fn set_replicas(&self, object: &mut dyn Object, replicas: i32) {
        if let (Some(object), Some(paths)) = (custom_mut(object), &self.scale) {
            paths.set(&mut object.members, replicas);
        }
    }

    fn orphan_by_default(&self) -> bool {
        false
    }

    fn create_on_update(&self) -> bool {
        false
    }

    fn unconditional_update(&self) -> bool {
        false
    }
}

/// What a printer column shows.
fn cell(column: &Column, tree: &Value, now: Timestamp) -> Value {
    let found = column.path.as_ref().and_then(|path| path.find(tree).into_iter().next());
    let Some(found) = found.filter(|found| !found.is_null()) else { return Value::Null };
    match (&*column.kind, found) {
        ("integer", Value::Number(number)) => match number.as_i64() {
            Some(whole) => whole.into(),
            None => number.as_f64().map_or(Value::Null, |value| Value::from(value as i64)),
        },
        ("number", Value::Number(number)) => number.as_f64().map_or(Value::Null, whole_or_not),
        ("boolean", Value::Bool(_)) => found.clone(),
        ("string", Value::String(text)) => text.as_str().into(),
        ("string", other) => other.to_string().into(),
        ("date", Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(time) => table::human_duration(now.as_second() - time.as_second()).into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}

/// A number as Go writes it: without a point where there is nothing behind it.
fn whole_or_not(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { (value as i64).into() } else { value.into() }
}

/// Members that a definition's schema says nothing about are not part of an object.
pub(super) fn is_pruned(value: &Value, schema: &Schema, root: bool) -> bool {
    let mut pruned = value.clone();
    prune::prune_value(&mut pruned, schema, root);
    pruned == *value
}
