//! The server's part in managed fields: what an endpoint can change, who writes, and which versions
//! a kind has. What becomes of the fields is decided in [`crate::apply`].
//!
//! Inside the server an object's `metadata.managedFields` is never part of the decoded object: it
//! travels beside it as the JSON that is stored, so that only who changes it reads it.

mod conversions;

use std::{borrow::Cow, ops::Range, sync::Arc};

use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

pub(super) use self::conversions::Conversions;

use super::{
    kinds::{Kinds, Snapshot},
    registry::{Current, Target},
    status::{ApiError, Result},
};
use crate::{
    apply::{
        self, Comparison, FieldSet, Filter, Managers, PathElement, Schema, TypeRef, Versions,
        Write, builtin, compare_bytes,
    },
    clock,
    resources::{Object, Part, Resource},
};

/// The longest name of a manager that is taken from a user agent, in bytes.
const MANAGER_BYTES_MAX: usize = 128;

/// Keeps managed fields, or does not.
#[derive(Clone, Debug)]
pub(super) struct Tracker {
    /// Whether objects are managed from their creation on, and not only once they are applied.
    pub enabled: bool,
    /// The kinds, for entries of other versions.
    pub kinds: Arc<Kinds>,
}

/// The manager that a user agent stands for: what comes before the first slash.
pub(super) fn manager_of_user_agent(agent: &str) -> &str {
    let name = agent.split('/').next().unwrap_or_default();
    let mut end = name.len().min(MANAGER_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// Takes the managed fields out of an object that a client sent: they are many, and seldom changed.
/// What is left has null in their place.
pub(super) fn split(json: Bytes) -> (Bytes, Option<Bytes>) {
    let Some(range) = sent_range(&json) else { return (json, None) };
    let left = [&json[..range.start], b"null", &json[range.end..]].concat();
    (left.into(), Some(json.slice(range)))
}

/// Where an object's managed fields are.
fn sent_range(json: &[u8]) -> Option<Range<usize>> {
    #[derive(Deserialize)]
    struct Root<'a> {
        #[serde(borrow)]
        metadata: Option<Metadata<'a>>,
    }
    #[derive(Deserialize)]
    struct Metadata<'a> {
        #[serde(borrow, rename = "managedFields")]
        managed_fields: Option<&'a RawValue>,
    }
    let text = std::str::from_utf8(json).ok()?;
    if !text.contains("\"managedFields\"") {
        return None;
    }
    let root: Root<'_> = serde_json::from_str(text).ok()?;
    let raw = root.metadata?.managed_fields?.get();
    // The value is a part of the text.
    let start = raw.as_ptr().addr() - text.as_ptr().addr();
    raw.starts_with('[').then_some(start..start + raw.len())
}

impl Tracker {
    /// What a newly created object's managed fields are.
    pub(super) fn created(
        &self,
        target: &Target<'_>,
        object: &dyn Object,
        sent: Option<&[u8]>,
    ) -> Vec<u8> {
        let Some((schema, kind)) = schema_of(target.resource).filter(|_| self.enabled) else {
            return Vec::new();
        };
        let filter = filter(target.resource, Part::Main);
        let (api_version, now) = (target.resource.api_version(), now());
        let write = target.write(&api_version, &filter, &now);
        if sent.is_none()
            && let Filter::Exclude(excluded) = &filter
            && target.resource.strategy.is_shown_as_stored()
            && let Some(fields) = object.owned_by_creator(schema, kind, excluded)
        {
            return write.only_entry(&fields);
        }
        let mut managers = sent.and_then(read).unwrap_or_default();
        let Ok(new) = object.to_value() else { return Vec::new() };
        let Ok(comparison) = schema.compare(kind, &Value::Object(Map::new()), &new) else {
            return Vec::new();
        };
        let conversions = Conversions::default();
        let versions = self.versions(target.resource, write.api_version, &conversions);
        record(&versions, &write, &mut managers, comparison, || {
            Some((Value::Object(Map::new()), new.clone()))
        });
        managers.to_json().into_bytes()
    }

    /// What an object's managed fields are once `new` has replaced `before`. If something is
    /// [wanted](Conversions::are_wanted) afterwards, the result does not count.
    pub(super) fn updated(
        &self,
        target: &Target<'_>,
        part: Part,
        before: &Current,
        new: &mut dyn Object,
        sent: Option<&[u8]>,
        conversions: &Conversions,
    ) -> Vec<u8> {
        let sent = sent.filter(|_| target.subresource.is_empty());
        let kept = before.managed.to_vec();
        let Some((schema, kind)) = schema_of(target.resource) else { return kept };
        if sent.is_some_and(is_reset) {
            return Vec::new();
        }
        let sent = sent.and_then(read).filter(|sent| !sent.is_empty());
        // An object that nobody managed so far is not managed by updates.
        if sent.is_none() && kept.is_empty() {
            return kept;
        }
        let filter = filter(target.resource, part);
        let (api_version, now) = (target.resource.api_version(), now());
        let write = target.write(&api_version, &filter, &now);
        let Ok(comparison) = compare(target.resource, schema, kind, before, new) else {
            return kept;
        };
        let comparison = write.seen(comparison);
        if sent.is_none() && comparison.is_same() {
            return kept;
        }
        let live = || Managers::from_json(&kept).unwrap_or_default();
        let mut managers = sent.unwrap_or_else(live);
        let versions = self.versions(target.resource, write.api_version, conversions);
        record(&versions, &write, &mut managers, comparison, || {
            Some((before.object.to_value().ok()?, new.to_value().ok()?))
        });
        managers.to_json().into_bytes()
    }

    /// The versions in which objects of a kind can be managed.
    pub(super) fn versions<'a>(
        &'a self,
        resource: &'a Resource,
        api_version: &'a str,
        conversions: &'a Conversions,
    ) -> Served<'a> {
        Served { kinds: self.kinds.now(), resource, api_version, conversions }
    }
}

/// Records an update whose changes are `comparison`; `objects` gives both objects as trees, for
/// entries of other versions.
fn record(
    versions: &Served<'_>,
    write: &Write<'_>,
    managers: &mut Managers,
    comparison: Comparison,
    objects: impl Fn() -> Option<(Value, Value)>,
) {
    apply::reconcile(versions, managers);
    managers.record_update(write, |version| {
        if version == write.api_version {
            return Some(Cow::Borrowed(&comparison));
        }
        let (schema, kind) = versions.kind(version)?;
        let (old, new) = objects()?;
        let empty = old.as_object().is_some_and(Map::is_empty);
        let old = if empty { old } else { versions.convert(&old, version)? };
        let new = versions.convert(&new, version)?;
        schema.compare(kind, &old, &new).ok().map(Cow::Owned)
    });
}

/// The time that entries get.
pub(super) fn now() -> String {
    clock::now_seconds().0.to_string()
}

/// A kind's schema; `None` for one whose managed fields are not kept.
pub(super) fn schema_of(resource: &Resource) -> Option<(&Schema, TypeRef)> {
    if let Some((schema, kind)) = resource.strategy.apply_schema() {
        return Some((schema, *kind));
    }
    let schema = builtin();
    schema.get(&resource.schema).map(|kind| (schema.as_ref(), kind))
}

/// What a write through an endpoint can change. What a strategy puts back is owned by nobody
/// through it.
pub(super) fn filter(resource: &Resource, part: Part) -> Filter {
    let below = |path: &[Option<&str>]| -> Vec<Option<PathElement>> {
        path.iter().map(|name| name.map(PathElement::field)).collect()
    };
    let excluded = match part {
        Part::Main | Part::Finalize => {
            let has_status = resource.subresources.iter().any(|sub| sub.name == "status");
            if has_status { FieldSet::of(&[&["status"]]) } else { FieldSet::default() }
        }
        Part::Status => match (resource.group.as_ref(), resource.kind.as_ref()) {
            ("", "Pod") => FieldSet::of(&[
                &["spec"],
                &["metadata", "deletionTimestamp"],
                &["metadata", "ownerReferences"],
            ]),
            ("apps", "Deployment") => FieldSet::of(&[&["spec"], &["metadata", "labels"]]),
            ("certificates.k8s.io", "CertificateSigningRequest") => {
                FieldSet::of(&[&["spec"], &["status", "conditions"]])
            }
            ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy")
            | ("storage.k8s.io", "VolumeAttachment") => FieldSet::of(&[&["metadata"], &["spec"]]),
            _ if resource.strategy.custom().is_some() => FieldSet::of(&[&["metadata"], &["spec"]]),
            _ => FieldSet::of(&[&["spec"]]),
        },
        Part::Approval => FieldSet::of(&[&["spec"], &["status", "certificate"]]),
        Part::EphemeralContainers => {
            return Filter::Include(vec![below(&[Some("spec"), Some("ephemeralContainers")])]);
        }
        Part::Resize => {
            let lists = ["containers", "initContainers"];
            let fields = ["resources", "resizePolicy"];
            let patterns = lists.iter().flat_map(|list| {
                fields.iter().map(|field| below(&[Some("spec"), Some(list), None, Some(field)]))
            });
            return Filter::Include(patterns.collect());
        }
    };
    Filter::Exclude(excluded)
}

/// Reads what a client sent; `None` when it is nothing, or makes no sense: then what was there
/// stays.
fn read(sent: &[u8]) -> Option<Managers> {
    Managers::from_json(sent).ok()
}

/// Whether a client asks for the managed fields to be forgotten: by an empty list, or by a list of
/// one empty entry.
fn is_reset(sent: &[u8]) -> bool {
    // Other lists are longer.
    let short = sent.len() < 200;
    let entries: Option<Vec<ManagedFieldsEntry>> =
        short.then(|| serde_json::from_slice(sent).ok()).flatten();
    match entries.as_deref() {
        Some([]) => true,
        Some([entry]) => *entry == ManagedFieldsEntry::default(),
        _ => false,
    }
}

fn compare(
    resource: &Resource,
    schema: &Schema,
    kind: TypeRef,
    before: &Current,
    new: &mut dyn Object,
) -> Result<Comparison> {
    let failed = |error: apply::TypeError| ApiError::internal(error);
    if !resource.strategy.is_shown_as_stored() {
        let old = before.object.to_value().map_err(ApiError::internal)?;
        let new = new.to_value().map_err(ApiError::internal)?;
        return schema.compare(kind, &old, &new).map_err(failed);
    }
    // The stored bytes have no version; it is nobody's anyway.
    let version = new.meta_mut().resource_version.take();
    let encoded = new.encode();
    new.meta_mut().resource_version = version;
    let encoded = encoded.map_err(ApiError::internal)?;
    compare_bytes(schema, kind, &before.stored.plain(), &encoded).map_err(failed)
}

/// The versions in which a kind is served.
#[derive(Debug)]
pub(super) struct Served<'a> {
    kinds: Arc<Snapshot>,
    resource: &'a Resource,
    api_version: &'a str,
    conversions: &'a Conversions,
}

impl Served<'_> {
    fn find(&self, api_version: &str) -> Option<&Resource> {
        if api_version == self.api_version {
            return Some(self.resource);
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let found = self.kinds.resources.get(group, version, &self.resource.plural)?;
        (found.kind == self.resource.kind).then_some(found.as_ref())
    }
}

impl Versions for Served<'_> {
    fn kind(&self, api_version: &str) -> Option<(&Schema, TypeRef)> {
        schema_of(self.find(api_version)?)
    }

    fn convert(&self, object: &Value, api_version: &str) -> Option<Value> {
        let from = object.get("apiVersion").and_then(Value::as_str).unwrap_or(self.api_version);
        if from == api_version {
            return Some(object.clone());
        }
        if self.resource.strategy.custom().is_some_and(|custom| custom.conversion.is_some()) {
            return self.conversions.form(object, api_version);
        }
        let decoded = |resource: &Resource, json: &[u8]| {
            resource.strategy.decode(json).ok().map(|decoded| decoded.object)
        };
        let json = serde_json::to_vec(object).ok()?;
        let stored = decoded(self.find(from)?, &json)?.encode().ok()?;
        decoded(self.find(api_version)?, &stored)?.to_value().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_agent_names_the_manager_before_the_slash() {
        assert_eq!(manager_of_user_agent("kubectl/v1.37.0 (linux/amd64)"), "kubectl");
        assert_eq!(manager_of_user_agent("curl"), "curl");
        assert_eq!(manager_of_user_agent(""), "");
        assert_eq!(manager_of_user_agent(&"é".repeat(100)).len(), 128);
    }

    #[test]
    fn an_empty_entry_resets() {
        assert!(is_reset(b"[]") && is_reset(b" [ { } ]"));
        assert!(!is_reset(br#"[{"manager":"m"}]"#) && !is_reset(b"[{},{}]") && !is_reset(b"null"));
    }

    #[test]
    fn managed_fields_are_taken_out_of_what_a_client_sent() {
        let check = |json: &'static str, left: &str, taken: Option<&str>| {
            let (found, managed) = split(Bytes::from_static(json.as_bytes()));
            assert_eq!(std::str::from_utf8(&found).unwrap(), left);
            assert_eq!(managed.as_deref(), taken.map(str::as_bytes));
        };
        check(r#"{"metadata":{"name":"x"}}"#, r#"{"metadata":{"name":"x"}}"#, None);
        check(
            r#"{"a":1, "metadata" : {"managedFields": [{"manager":"m"}] ,"name":"x"}}"#,
            r#"{"a":1, "metadata" : {"managedFields": null ,"name":"x"}}"#,
            Some(r#"[{"manager":"m"}]"#),
        );
        let elsewhere = r#"{"data":{"managedFields":"x"},"metadata":{}}"#;
        check(elsewhere, elsewhere, None);
    }
}
