//! Kinds that are served in more than one version.
//!
//! An object is stored in one version, whose row is made by [`Row`](super::row::Row). A line of
//! [`VERSIONS`] says at which other group and version the kind is served. The row made from it
//! shares the key, and with it the UID, the resourceVersion and the watch cache. Its strategy is
//! that of the stored row behind a change of form:
//!
//! ```text
//! body -> tree -> Conversion::read -> stored form -> decode, default, validate, store
//! stored bytes -> tree -> Conversion::write -> what the client sees
//! ```
//!
//! Where both forms are alike but for `apiVersion`, there is no conversion and what is stored is
//! shown with another `apiVersion` in its bytes.
//!
//! # Invariants
//! - What `write` makes of a stored object, `read` turns back into that object.
//! - Objects in memory are always of the stored type, so that whatever looks for one by its type
//!   finds it, whichever version was asked for.

mod autoscaler;
mod budget;
mod definition;
mod endpoint_slice;
mod event;
mod ingress;
mod signing_request;
mod tree;
mod webhook;

use std::{any::Any, borrow::Cow, fmt, sync::Arc};

use k8s_openapi::{
    api::autoscaling::v1::Scale,
    apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta},
    jiff::Timestamp,
};
use serde::{Deserialize, de::Error};
use serde_json::Value;

#[cfg(feature = "server")]
use super::Resources;
use super::{Decoded, Fields, Object, Part, Resource, Strategy};
use crate::{
    field::{ErrorList, FieldError},
    meta::strict::duplicate_fields,
};

/// One more version of a kind.
pub(super) struct Version {
    /// The stored group and version.
    of: &'static str,
    kind: &'static str,
    /// The group and version where it is served too.
    at: &'static str,
    conversion: Option<&'static Conversion>,
    rules: Option<&'static Rules>,
    deprecated: Option<Deprecated>,
}

/// How the two forms of an object become each other, as JSON trees. `apiVersion` is not their
/// concern.
pub(super) struct Conversion {
    /// Makes the stored form. Fields that only the stored form has are taken away and named: the
    /// client sent fields that its version does not know. Fills in what the version defaults
    /// otherwise than the stored one.
    pub(super) read: fn(&mut Value, &mut Vec<String>),
    /// Makes this version's form.
    pub(super) write: fn(&mut Value),
}

/// Judges the change to an object (the first) from another.
type JudgeChange = fn(&dyn Object, &dyn Object) -> ErrorList;

/// Where a version is judged otherwise than the stored one.
pub(super) struct Rules {
    /// Names of the selectable fields, in the order of the stored version's; empty for the same.
    pub(super) fields: &'static [&'static str],
    /// In place of the stored version's validation, where that differs as a whole: of new objects
    pub(super) judge: Option<fn(&dyn Object) -> ErrorList>,
    /// and of changes.
    pub(super) judge_change: Option<JudgeChange>,
    /// What the stored version refuses, and this one does not.
    pub(super) tolerates: fn(&FieldError) -> bool,
}

/// Since when a version is not to be used, in releases of Kubernetes.
struct Deprecated {
    since: &'static str,
    unavailable: &'static str,
    /// Empty where Kubernetes names no replacement.
    instead: &'static str,
}

impl Version {
    const fn of(of: &'static str, kind: &'static str, at: &'static str) -> Self {
        Self { of, kind, at, conversion: None, rules: None, deprecated: None }
    }

    /// The forms differ.
    const fn by(mut self, conversion: &'static Conversion) -> Self {
        self.conversion = Some(conversion);
        self
    }

    const fn judged_by(mut self, rules: &'static Rules) -> Self {
        self.rules = Some(rules);
        self
    }

    const fn deprecated(
        mut self,
        since: &'static str,
        unavailable: &'static str,
        instead: &'static str,
    ) -> Self {
        self.deprecated = Some(Deprecated { since, unavailable, instead });
        self
    }
}

const DEFINITIONS: &str = "apiextensions.k8s.io/v1";
const DEFINITIONS_BETA: &str = "apiextensions.k8s.io/v1beta1";
const ADMISSION: &str = "admissionregistration.k8s.io/v1";
const ADMISSION_BETA: &str = "admissionregistration.k8s.io/v1beta1";
const NETWORKING: &str = "networking.k8s.io/v1";
const RBAC: &str = "rbac.authorization.k8s.io/v1";
const RBAC_BETA: &str = "rbac.authorization.k8s.io/v1beta1";
const STORAGE: &str = "storage.k8s.io/v1";
const STORAGE_BETA: &str = "storage.k8s.io/v1beta1";

/// Every version besides the stored ones. The releases and replacements are those of the API
/// types' lifecycle marks (`zz_generated.prerelease-lifecycle.go`).
const VERSIONS: &[Version] = &[
    Version::of("v1", "Event", "events.k8s.io/v1").by(&event::NEW).judged_by(&event::NEW_RULES),
    Version::of("v1", "Event", "events.k8s.io/v1beta1")
        .by(&event::NEW)
        .judged_by(&event::OLD_RULES)
        .deprecated("1.22", "1.25", ""),
    Version::of("autoscaling/v2", "HorizontalPodAutoscaler", "autoscaling/v1").by(&autoscaler::V1),
    Version::of("autoscaling/v2", "HorizontalPodAutoscaler", "autoscaling/v2beta2")
        .by(&autoscaler::V2BETA2)
        .deprecated("1.23", "1.26", "autoscaling/v2 HorizontalPodAutoscaler"),
    Version::of("batch/v1", "CronJob", "batch/v1beta1").deprecated(
        "1.21",
        "1.25",
        "batch/v1 CronJob",
    ),
    Version::of(
        "certificates.k8s.io/v1",
        "CertificateSigningRequest",
        "certificates.k8s.io/v1beta1",
    )
    .by(&signing_request::V1BETA1)
    .judged_by(&signing_request::V1BETA1_RULES)
    .deprecated("1.19", "1.22", "certificates.k8s.io/v1 CertificateSigningRequest"),
    Version::of(NETWORKING, "Ingress", "networking.k8s.io/v1beta1")
        .by(&ingress::V1BETA1)
        .deprecated("1.19", "1.22", "networking.k8s.io/v1 Ingress"),
    Version::of(NETWORKING, "Ingress", "extensions/v1beta1").by(&ingress::V1BETA1).deprecated(
        "1.14",
        "1.22",
        "networking.k8s.io/v1 Ingress",
    ),
    // The replacement is Kubernetes' own slip.
    Version::of(NETWORKING, "IngressClass", "networking.k8s.io/v1beta1").deprecated(
        "1.19",
        "1.22",
        "networking.k8s.io/v1 IngressClassList",
    ),
    Version::of("policy/v1", "PodDisruptionBudget", "policy/v1beta1")
        .by(&budget::V1BETA1)
        .deprecated("1.21", "1.25", "policy/v1 PodDisruptionBudget"),
    Version::of(RBAC, "ClusterRole", RBAC_BETA).deprecated(
        "1.17",
        "1.22",
        "rbac.authorization.k8s.io/v1 ClusterRole",
    ),
    Version::of(RBAC, "ClusterRoleBinding", RBAC_BETA).deprecated(
        "1.17",
        "1.22",
        "rbac.authorization.k8s.io/v1 ClusterRoleBinding",
    ),
    Version::of(RBAC, "Role", RBAC_BETA).deprecated(
        "1.17",
        "1.22",
        "rbac.authorization.k8s.io/v1 Role",
    ),
    Version::of(RBAC, "RoleBinding", RBAC_BETA).deprecated(
        "1.17",
        "1.22",
        "rbac.authorization.k8s.io/v1 RoleBinding",
    ),
    Version::of(STORAGE, "StorageClass", STORAGE_BETA).deprecated(
        "1.19",
        "1.22",
        "storage.k8s.io/v1 StorageClass",
    ),
    Version::of(STORAGE, "CSIDriver", STORAGE_BETA).deprecated(
        "1.19",
        "1.22",
        "storage.k8s.io/v1 CSIDriver",
    ),
    Version::of(STORAGE, "CSINode", STORAGE_BETA).deprecated(
        "1.17",
        "1.22",
        "storage.k8s.io/v1 CSINode",
    ),
    Version::of(STORAGE, "CSIStorageCapacity", STORAGE_BETA).deprecated(
        "1.24",
        "1.27",
        "storage.k8s.io/v1 CSIStorageCapacity",
    ),
    Version::of(STORAGE, "VolumeAttachment", STORAGE_BETA).deprecated(
        "1.19",
        "1.22",
        "storage.k8s.io/v1 VolumeAttachment",
    ),
    Version::of(ADMISSION, "MutatingWebhookConfiguration", ADMISSION_BETA)
        .by(&webhook::V1BETA1)
        .judged_by(&webhook::V1BETA1_RULES)
        .deprecated("1.16", "1.22", "admissionregistration.k8s.io/v1 MutatingWebhookConfiguration"),
    Version::of(ADMISSION, "ValidatingWebhookConfiguration", ADMISSION_BETA)
        .by(&webhook::V1BETA1)
        .judged_by(&webhook::V1BETA1_RULES)
        .deprecated(
            "1.16",
            "1.22",
            "admissionregistration.k8s.io/v1 ValidatingWebhookConfiguration",
        ),
    Version::of(DEFINITIONS, "CustomResourceDefinition", DEFINITIONS_BETA)
        .by(&definition::V1BETA1)
        .judged_by(&definition::V1BETA1_RULES)
        .deprecated("1.16", "1.22", "apiextensions.k8s.io/v1 CustomResourceDefinition"),
    Version::of("scheduling.k8s.io/v1", "PriorityClass", "scheduling.k8s.io/v1beta1").deprecated(
        "1.14",
        "1.22",
        "scheduling.k8s.io/v1 PriorityClass",
    ),
    Version::of("coordination.k8s.io/v1", "Lease", "coordination.k8s.io/v1beta1").deprecated(
        "1.19",
        "1.22",
        "coordination.k8s.io/v1 Lease",
    ),
    Version::of("node.k8s.io/v1", "RuntimeClass", "node.k8s.io/v1beta1")
        .deprecated("1.22", "1.25", ""),
    Version::of("discovery.k8s.io/v1", "EndpointSlice", "discovery.k8s.io/v1beta1")
        .by(&endpoint_slice::V1BETA1)
        .deprecated("1.21", "1.25", "discovery.k8s.io/v1 EndpointSlice"),
];

/// The other versions of the kinds that these rows store.
pub(super) fn rows(stored: &[Resource]) -> Vec<Resource> {
    let find = |version: &Version| {
        stored.iter().find(|row| row.kind == version.kind && row.api_version() == version.of)
    };
    VERSIONS.iter().filter_map(|version| Some(row(version, find(version)?))).collect()
}

/// Group, version and kind of what these kinds are stored as, where that is another version.
#[cfg(feature = "server")]
pub(super) fn stored_of(
    served: &Resources,
) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let parts = |of: &'static str| of.split_once('/').unwrap_or(("", of));
    let is_served = move |version: &&Version| {
        let (group, name) = parts(version.at);
        served.by_kind(group, name, version.kind).is_some()
    };
    VERSIONS.iter().filter(is_served).map(move |version| {
        let (group, name) = parts(version.of);
        (group, name, version.kind)
    })
}

fn row(version: &'static Version, stored: &Resource) -> Resource {
    let (group, name) = version.at.split_once('/').unwrap_or(("", version.at));
    let package = group.split('.').next().unwrap_or_default();
    let types = match stored.schema.split_once(".pkg.apis.") {
        Some((server, _)) => format!("{server}.pkg.apis"),
        None => "io.k8s.api".to_owned(),
    };
    Resource {
        group: group.into(),
        version: name.into(),
        schema: format!("{types}.{package}.{name}.{}", version.kind).into(),
        strategy: Arc::new(Converted {
            form: Form(version),
            warning: version.deprecated.as_ref().map(|it| it.warning(version.at, version.kind)),
            stored: stored.strategy.clone(),
        }),
        ..stored.clone()
    }
}

impl Deprecated {
    /// In Kubernetes' words (apiserver's `endpoints/deprecation`).
    fn warning(&self, at: &str, kind: &str) -> String {
        let Self { since, unavailable, instead } = self;
        let mut text =
            format!("{at} {kind} is deprecated in v{since}+, unavailable in v{unavailable}+");
        if !instead.is_empty() {
            text.push_str("; use ");
            text.push_str(instead);
        }
        text
    }
}

/// The form of an object in one version.
#[derive(Clone, Copy)]
struct Form(&'static Version);

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.at)
    }
}

impl Form {
    /// Makes this form of the stored one.
    fn write(self, object: &mut Value) {
        if let Some(conversion) = self.0.conversion {
            (conversion.write)(object);
        }
        object["apiVersion"] = self.0.at.into();
    }

    /// Makes the stored form of this one; names the fields that this one does not have.
    fn read(self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        if let Some(conversion) = self.0.conversion {
            (conversion.read)(object, &mut unknown);
        }
        object["apiVersion"] = self.0.of.into();
        unknown
    }
}

/// An object of the stored type that is shown in another form.
#[derive(Debug)]
struct Shown {
    object: Box<dyn Object>,
    form: Form,
}

impl Object for Shown {
    fn meta(&self) -> &ObjectMeta {
        self.object.meta()
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.object.meta_mut()
    }
    fn boxed_clone(&self) -> Box<dyn Object> {
        Box::new(Self { object: self.object.boxed_clone(), form: self.form })
    }
    /// As it is stored.
    fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        self.object.encode()
    }
    /// As it is shown.
    fn to_value(&self) -> Result<Value, serde_json::Error> {
        let mut value = self.object.to_value()?;
        self.form.write(&mut value);
        Ok(value)
    }
    /// The object of the stored type.
    fn as_any(&self) -> &dyn Any {
        self.object.as_any()
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self.object.as_any_mut()
    }
}

/// The strategy of a version that is not the stored one.
#[derive(Debug)]
struct Converted {
    form: Form,
    warning: Option<String>,
    stored: Arc<dyn Strategy>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Head<'a> {
    #[serde(rename = "apiVersion", borrow)]
    api_version: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
}

impl Converted {
    fn rules(&self) -> Option<&'static Rules> {
        self.form.0.rules
    }

    fn tolerate(&self, mut errors: ErrorList) -> ErrorList {
        if let Some(rules) = self.rules() {
            errors.retain(|error| !(rules.tolerates)(error));
        }
        errors
    }
}

impl Strategy for Converted {
    fn decode(&self, json: &[u8]) -> Result<Decoded, serde_json::Error> {
        let version = self.form.0;
        let head: Head<'_> = serde_json::from_slice(json)?;
        let (decoded, mut strict_errors) = if head.api_version == version.of {
            (self.stored.decode(json)?, Vec::new())
        } else {
            let other = |found: &str, expected: &str| !found.is_empty() && found != expected;
            if other(&head.api_version, version.at) || other(&head.kind, version.kind) {
                let found = format!("{}, Kind={}", head.api_version, head.kind);
                return Err(serde_json::Error::custom(format!("this is no {found}")));
            }
            let mut tree: Value = serde_json::from_slice(json)?;
            if !tree.is_object() {
                return self.stored.decode(json);
            }
            // The tree has each field once.
            let duplicate = duplicate_fields(json);
            let duplicate = duplicate.iter().map(|path| format!("duplicate field {path:?}"));
            let unknown = self.form.read(&mut tree);
            let unknown = unknown.iter().map(|path| format!("unknown field {path:?}"));
            let odd = unknown.chain(duplicate).collect();
            (self.stored.decode(&serde_json::to_vec(&tree)?)?, odd)
        };
        strict_errors.extend(decoded.strict_errors);
        let object = Box::new(Shown { object: decoded.object, form: self.form });
        Ok(Decoded { object, strict_errors })
    }

    fn shown<'a>(&self, stored: &'a [u8]) -> Result<Cow<'a, [u8]>, serde_json::Error> {
        let version = self.form.0;
        if version.conversion.is_none()
            && let Some(shown) = retyped(stored, version.of, version.at)
        {
            return Ok(shown.into());
        }
        let mut tree: Value = serde_json::from_slice(stored)?;
        if tree.is_object() {
            self.form.write(&mut tree);
        }
        serde_json::to_vec(&tree).map(Cow::Owned)
    }

    fn is_shown_as_stored(&self) -> bool {
        false
    }

    fn deprecation(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    fn default(&self, object: &mut dyn Object) {
        self.stored.default(object);
    }

    fn prepare_create(&self, object: &mut dyn Object) {
        self.stored.prepare_create(object);
    }

    fn prepare_update(&self, new: &mut dyn Object, old: &dyn Object, part: Part) {
        self.stored.prepare_update(new, old, part);
    }

    fn validate(&self, object: &dyn Object) -> ErrorList {
        match self.rules() {
            Some(Rules { judge: Some(_), .. }) => ErrorList::new(),
            _ => self.tolerate(self.stored.validate(object)),
        }
    }

    fn validate_create(&self, object: &dyn Object) -> ErrorList {
        match self.rules() {
            Some(Rules { judge: Some(judge), .. }) => judge(object),
            _ => self.tolerate(self.stored.validate_create(object)),
        }
    }

    fn validate_update(&self, new: &dyn Object, old: &dyn Object, part: Part) -> ErrorList {
        match self.rules() {
            Some(Rules { judge_change: Some(judge), .. }) => judge(new, old),
            _ => self.tolerate(self.stored.validate_update(new, old, part)),
        }
    }

    fn validate_name(&self, name: &str, generate_prefix: bool) -> Vec<String> {
        self.stored.validate_name(name, generate_prefix)
    }

    fn fields(&self, object: &dyn Object) -> Fields {
        self.stored.fields(object)
    }

    fn field_names(&self) -> &'static [&'static str] {
        match self.rules() {
            Some(Rules { fields, .. }) if !fields.is_empty() => fields,
            _ => self.stored.field_names(),
        }
    }

    fn stored_field<'a>(&self, field: &'a str) -> &'a str {
        let at = self.field_names().iter().position(|name| *name == field);
        at.and_then(|at| self.stored.field_names().get(at).copied()).unwrap_or(field)
    }

    fn cells(&self, object: &dyn Object, now: Timestamp) -> Vec<Value> {
        self.stored.cells(object, now)
    }

    fn warnings(&self, object: &dyn Object, old: Option<&dyn Object>) -> Vec<String> {
        self.stored.warnings(object, old)
    }

    fn grace_period_seconds(&self, object: &dyn Object, options: &DeleteOptions) -> Option<i64> {
        self.stored.grace_period_seconds(object, options)
    }

    fn scale(&self, object: &dyn Object) -> Option<Scale> {
        self.stored.scale(object)
    }

    fn set_replicas(&self, object: &mut dyn Object, replicas: i32) {
        self.stored.set_replicas(object, replicas);
    }

    fn orphan_by_default(&self) -> bool {
        self.stored.orphan_by_default()
    }

    fn create_on_update(&self) -> bool {
        self.stored.create_on_update()
    }

    fn unconditional_update(&self) -> bool {
        self.stored.unconditional_update()
    }
}

/// The object with another `apiVersion`, where that is among the first members, as it is in what
/// the server stores.
fn retyped(stored: &[u8], from: &str, to: &str) -> Option<Vec<u8>> {
    let after_kind = |json: &[u8]| {
        let rest = json.strip_prefix(b"{\"kind\":\"")?;
        let end = rest.iter().position(|byte| *byte == b'"')?;
        rest[end + 1..].strip_prefix(b",").map(<[u8]>::len)
    };
    let rest = match stored.strip_prefix(b"{") {
        Some(rest) if rest.starts_with(b"\"apiVersion\":") => rest,
        _ => &stored[stored.len() - after_kind(stored)?..],
    };
    let rest = rest.strip_prefix(b"\"apiVersion\":\"")?;
    let at = stored.len() - rest.len();
    let rest = rest.strip_prefix(from.as_bytes())?;
    rest.starts_with(b"\"").then(|| [&stored[..at], to.as_bytes(), rest].concat())
}

#[cfg(test)]
mod tests;
