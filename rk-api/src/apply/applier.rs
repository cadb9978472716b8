//! Server-side apply: a configuration meets an object that others manage too (KEP-555).

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::{Map, Value};

use super::{
    compare::Comparison,
    managers::{ManagerId, Managers, Operation, Write, stripped},
    path::{self, PathElement, same},
    schema::{Schema, TypeRef},
    set::FieldSet,
};

/// The annotation in which `kubectl apply` on the client's side keeps what it applied.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The name under which kubectl applies; only for it does that annotation mean something.
const KUBECTL: &str = "kubectl";

/// The manager of all that was there before an object without managers was first applied.
const BEFORE: &str = "before-first-apply";

/// The most that annotations may hold together, in bytes.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// The versions that a kind has been managed in.
pub trait Versions {
    /// The type of the kind in a version; `None` when it is not served.
    fn kind(&self, api_version: &str) -> Option<(&Schema, TypeRef)>;

    /// The object in a version; `None` when it cannot be had.
    fn convert(&self, object: &Value, api_version: &str) -> Option<Value>;
}

/// A kind that exists in one version only.
#[derive(Clone, Copy, Debug)]
pub struct OneVersion<'a> {
    /// The version.
    pub api_version: &'a str,
    /// The schema.
    pub schema: &'a Schema,
    /// The type of the kind.
    pub kind: TypeRef,
}

impl Versions for OneVersion<'_> {
    fn kind(&self, api_version: &str) -> Option<(&Schema, TypeRef)> {
        (api_version == self.api_version).then_some((self.schema, self.kind))
    }

    fn convert(&self, object: &Value, api_version: &str) -> Option<Value> {
        (api_version == self.api_version).then(|| object.clone())
    }
}

/// What became of an object.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The object; `None` when it was that already.
    pub object: Option<Value>,
    /// Who manages it now.
    pub managers: Managers,
}

/// Why nothing was applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Others manage fields that would change.
    #[error("{}", message(.0))]
    Conflicts(Vec<Conflict>),
    /// The configuration, or the object, does not fit the schema.
    #[error("{0}")]
    Malformed(String),
}

/// A field that somebody else manages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Who.
    pub manager: ManagerId,
    /// Which, as messages print it: `.spec.replicas`.
    pub field: String,
    path: Vec<PathElement>,
}

fn message(conflicts: &[Conflict]) -> String {
    if let [conflict] = conflicts {
        let manager = conflict.manager.describe();
        return format!(
            "Apply failed with 1 conflict: conflict with {manager}: {}",
            conflict.field
        );
    }
    let mut lines = Vec::new();
    let mut last = None;
    for conflict in conflicts {
        if last != Some(&conflict.manager) {
            lines.push(format!("conflicts with {}:", conflict.manager.describe()));
            last = Some(&conflict.manager);
        }
        lines.push(format!("- {}", conflict.field));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// Applies `configuration` to `live`, which is `{}` when there is no object yet. Both are in the
/// version of `write`, and neither has `metadata.managedFields`: they are `managers`.
///
/// # Errors
/// [`ApplyError`]. With `force`, conflicting fields change their manager instead.
pub fn apply(
    versions: &dyn Versions,
    write: &Write<'_>,
    live: &Value,
    configuration: &Value,
    managers: &Managers,
    force: bool,
) -> Result<Applied, ApplyError> {
    let Some((schema, kind)) = versions.kind(write.api_version) else {
        return Err(ApplyError::Malformed(format!("{} is not served", write.api_version)));
    };
    let applier = Applier { versions, write, schema, kind };
    let mut result = applier.apply(live, configuration, managers, force);
    if write.manager != KUBECTL {
        return result;
    }
    if let Err(ApplyError::Conflicts(conflicts)) = result {
        result = match applier.last_applied(live) {
            // What kubectl itself applied from the client's side is no conflict.
            Some(own) => {
                let left: Vec<_> =
                    conflicts.into_iter().filter(|conflict| !own.has(&conflict.path)).collect();
                if left.is_empty() {
                    applier.apply(live, configuration, managers, true)
                } else {
                    Err(ApplyError::Conflicts(left))
                }
            }
            None => Err(ApplyError::Conflicts(conflicts)),
        };
    }
    let mut applied = result?;
    keep_last_applied(&mut applied, live, configuration);
    Ok(applied)
}

/// One application.
struct Applier<'a> {
    versions: &'a dyn Versions,
    write: &'a Write<'a>,
    schema: &'a Schema,
    kind: TypeRef,
}

impl Applier<'_> {
    fn apply(
        &self,
        live: &Value,
        configuration: &Value,
        managers: &Managers,
        force: bool,
    ) -> Result<Applied, ApplyError> {
        let mut managers = managers.clone();
        if managers.is_empty() {
            self.adopt(live, &mut managers)?;
        }
        reconcile(self.versions, &mut managers);
        let merged = self.schema.merge(self.kind, live, configuration);
        let merged = merged
            .map_err(|error| ApplyError::Malformed(format!("failed to merge config: {error}")))?;
        let id = self.write.id(Operation::Apply);
        let before = managers.take(&id);
        let fields = self.write.filter.pass(self.schema.fields(self.kind, configuration));
        let mut entry = self.write.entry(Operation::Apply, fields);
        entry.time = before.as_ref().and_then(|before| before.time.clone());
        managers.put(entry);
        let new = match before.filter(|before| !before.fields.is_empty()) {
            Some(last) => {
                let pruned = self.prune(merged, &managers, &last.api_version, &last.fields);
                // What is left empty went, too, and is there if it was applied as empty.
                self.schema.merge(self.kind, &pruned, configuration).unwrap_or(pruned)
            }
            None => merged,
        };
        self.take_over(live, &new, &id, &mut managers, force)?;
        let changed = !same(live, &new);
        if let Some(mut entry) = managers.take(&id) {
            entry.fields.subtract(stripped());
            if changed {
                entry.time = Some(self.write.now.to_owned());
            }
            managers.put(entry);
        }
        managers.sort();
        Ok(Applied { object: changed.then_some(new), managers })
    }

    /// Gives all that an unmanaged object has to one manager.
    fn adopt(&self, live: &Value, managers: &mut Managers) -> Result<(), ApplyError> {
        let nothing = Value::Object(Map::new());
        let comparison = self.schema.compare(self.kind, &nothing, live).map_err(|error| {
            ApplyError::Malformed(format!("failed to create manager for existing fields: {error}"))
        })?;
        let write = Write { manager: BEFORE, ..*self.write };
        managers.record_update(&write, |version| {
            (version == write.api_version).then_some(Cow::Borrowed(&comparison))
        });
        Ok(())
    }

    /// Takes from other managers what the new object changes, or tells that it may not.
    fn take_over(
        &self,
        live: &Value,
        new: &Value,
        id: &ManagerId,
        managers: &mut Managers,
        force: bool,
    ) -> Result<(), ApplyError> {
        let mut changes: BTreeMap<&str, Option<Comparison>> = BTreeMap::new();
        for entry in managers.entries() {
            let version = entry.api_version.as_str();
            if entry.id() != *id && !changes.contains_key(version) {
                changes.insert(version, self.compare_at(live, new, version)?);
            }
        }
        let mut conflicts: Vec<Conflict> = Vec::new();
        for entry in managers.entries().iter().filter(|entry| entry.id() != *id) {
            if let Some(Some(change)) = changes.get(entry.api_version.as_str()) {
                let taken = entry.fields.intersection(&change.set());
                conflicts.extend(taken.paths().into_iter().map(|steps| Conflict {
                    manager: entry.id(),
                    field: path::print(&steps),
                    path: steps.into_iter().cloned().collect(),
                }));
            }
        }
        if !force && !conflicts.is_empty() {
            conflicts.sort_by_key(|conflict| conflict.manager.to_json());
            return Err(ApplyError::Conflicts(conflicts));
        }
        let changes: BTreeMap<String, Option<Comparison>> =
            changes.into_iter().map(|(version, change)| (version.to_owned(), change)).collect();
        managers.retain_fields(|entry| {
            if entry.id() == *id {
                return true;
            }
            let Some(Some(change)) = changes.get(&entry.api_version) else { return false };
            entry.give_up(change);
            true
        });
        Ok(())
    }

    /// What changes, in some version; `None` when that is not served any more.
    fn compare_at(
        &self,
        live: &Value,
        new: &Value,
        version: &str,
    ) -> Result<Option<Comparison>, ApplyError> {
        let compared = if version == self.write.api_version {
            self.schema.compare(self.kind, live, new)
        } else {
            let Some((schema, kind)) = self.versions.kind(version) else { return Ok(None) };
            let convert = |object: &Value| self.versions.convert(object, version);
            let (Some(live), Some(new)) = (convert(live), convert(new)) else { return Ok(None) };
            schema.compare(kind, &live, &new)
        };
        match compared {
            Ok(comparison) => Ok(Some(self.write.filter.comparison(comparison))),
            Err(error) => Err(ApplyError::Malformed(format!("failed to compare objects: {error}"))),
        }
    }

    /// Removes what the manager applied last time (`last`, in `version`), does not apply now, and
    /// nobody else owns.
    fn prune(&self, merged: Value, managers: &Managers, version: &str, last: &FieldSet) -> Value {
        let Some((schema, kind)) = self.versions.kind(version) else { return merged };
        let Some(converted) = self.at(&merged, version) else { return merged };
        let named = last.with_named_parents(schema, kind);
        let pruned = schema.remove(kind, &converted, &named);
        let pruned = self.add_back_owned(&converted, pruned, version, managers);
        // Only what this manager owned goes.
        let Some(pruned) = self.at(&pruned, version) else { return merged };
        let fields = |value: &Value| schema.fields(kind, value).with_named_parents(schema, kind);
        let gone = fields(&converted).difference(&fields(&pruned)).intersection(&named);
        let pruned = schema.remove(kind, &converted, &gone);
        self.at(&pruned, self.write.api_version).unwrap_or(merged)
    }

    fn add_back_owned(
        &self,
        merged: &Value,
        mut pruned: Value,
        first: &str,
        managers: &Managers,
    ) -> Value {
        let mut owned: BTreeMap<&str, FieldSet> = BTreeMap::new();
        for entry in managers.entries() {
            let set = owned.entry(&entry.api_version).or_default();
            *set = set.union(&entry.fields);
        }
        // In the version of the last configuration first: conversions may need its fields.
        let mut versions: Vec<_> = owned.into_iter().collect();
        versions.sort_by_key(|(version, _)| *version != first);
        for (version, owned) in versions {
            let Some((schema, kind)) = self.versions.kind(version) else { continue };
            let (Some(all), Some(left)) = (self.at(merged, version), self.at(&pruned, version))
            else {
                continue;
            };
            let named = |set: FieldSet| set.with_named_parents(schema, kind);
            let all_fields = named(schema.fields(kind, &all));
            let kept = named(schema.fields(kind, &left)).union(&named(owned));
            pruned = schema.remove(kind, &all, &all_fields.difference(&kept));
        }
        pruned
    }

    /// An object, which names its version, in another.
    fn at(&self, object: &Value, version: &str) -> Option<Value> {
        if object.get("apiVersion").and_then(Value::as_str).is_none_or(|found| found == version) {
            return Some(object.clone());
        }
        self.versions.convert(object, version)
    }

    /// The fields that client-side apply set and that still have the values it gave them.
    fn last_applied(&self, live: &Value) -> Option<FieldSet> {
        let text = annotation(live)?;
        let last: Value = serde_json::from_str(text).ok()?;
        if last.get("apiVersion").and_then(Value::as_str) != Some(self.write.api_version) {
            return None;
        }
        self.schema.validate(self.kind, &last).ok()?;
        let comparison = self.schema.compare(self.kind, &last, live).ok()?;
        let fields = self.schema.fields(self.kind, &last);
        Some(
            fields
                .difference(&comparison.modified)
                .difference(&comparison.added)
                .difference(&comparison.removed),
        )
    }
}

/// Brings entries up to date with what the schemas of their versions say today.
pub fn reconcile(versions: &dyn Versions, managers: &mut Managers) {
    managers.retain_fields(|entry| {
        let Some((schema, kind)) = versions.kind(&entry.api_version) else { return false };
        if let Some(fields) = schema.up_to_date(kind, &entry.fields) {
            entry.fields = fields;
        }
        true
    });
}

fn annotation(object: &Value) -> Option<&str> {
    let text = object.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str()?;
    (!text.is_empty()).then_some(text)
}

/// Keeps the annotation of client-side apply true where there is one, so that older clients can
/// still apply to the object.
fn keep_last_applied(applied: &mut Applied, live: &Value, configuration: &Value) {
    let current = applied.object.as_ref().unwrap_or(live);
    let Some(before) = annotation(current) else { return };
    let mut last = configuration.clone();
    if let Some(Value::Object(annotations)) = last.pointer_mut("/metadata/annotations") {
        annotations.remove(LAST_APPLIED);
    }
    let text = format!("{last}\n");
    if text == before {
        return;
    }
    let object = applied.object.get_or_insert_with(|| live.clone());
    let Some(Value::Object(annotations)) = object.pointer_mut("/metadata/annotations") else {
        return;
    };
    annotations.insert(LAST_APPLIED.to_owned(), text.into());
    let size = |value: &Value| value.as_str().map_or(0, str::len);
    let total: usize = annotations.iter().map(|(name, value)| name.len() + size(value)).sum();
    if total > ANNOTATIONS_BYTES_MAX {
        annotations.remove(LAST_APPLIED);
    }
}
