//! Patching objects.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use serde_json::{Map, Value};

use super::{
    Call,
    write::{check_name, check_namespace},
};
use crate::{
    apply::{self, ApplyError, Managers},
    field::{FieldError, Path},
    meta::strict::duplicate_fields,
    patch::{self, PatchKind},
    resources::{Object, Part, Resource},
    server::{
        audit,
        authz::{self, Decision},
        body::{self, ResponseBody},
        decode,
        info::RequestInfo,
        managed_fields::{self, Conversions, now, schema_of},
        negotiate,
        query::{FieldValidation, WriteOptions},
        registry::{Change, Current, ManagedFields, Target},
        status::{ApiError, Result, Subject},
        user::MASTERS,
    },
};

/// What can be sent to a kind whose fields are not known.
const UNAPPLIED: &str = "application/json-patch+json, application/merge-patch+json";

/// The patch formats that are read, as error messages list them.
const SERVED: &str = "application/json-patch+json, application/merge-patch+json, \
                      application/strategic-merge-patch+json, application/apply-patch+yaml";

/// Those that are read for custom kinds, whose lists say nothing of strategic merges.
const SERVED_FOR_CUSTOM: &str =
    "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";

/// The format of server-side apply.
const APPLY: &str = "application/apply-patch+yaml";

impl<'a> Call<'a> {
    pub(super) async fn patch(
        self,
        resource: &'a Arc<Resource>,
        body: Bytes,
    ) -> Result<Response<ResponseBody>> {
        audit::request_patch(&body);
        if self.is_apply() {
            return self.apply(resource, body).await;
        }
        let output = self.output(false)?;
        let shaper = self.shaper(resource, output)?;
        let kind = self.patch_kind(resource)?;
        let options = WriteOptions::read(self.context.query(), "PatchOptions")?;
        if self.context.query().get("force").is_some() {
            let why = "may not be specified for non-apply patch";
            let error = FieldError::forbidden(&Path::new("force"), why);
            let subject = Subject::of("meta.k8s.io", "PatchOptions");
            return Err(ApiError::invalid(&subject, "", &vec![error]));
        }
        let target = self.target(resource, options.dry_run);
        let warnings = &self.context.warnings;
        let repeated = match options.field_validation {
            FieldValidation::Ignore => Vec::new(),
            FieldValidation::Warn | FieldValidation::Strict => repeated(kind, &body),
        };
        let change = |before: Option<&Current>| {
            let before = before.ok_or_else(|| target.not_found())?;
            let mut tree = tree(before.object.as_ref())?;
            // Only a patch that looks at managed fields must see them.
            if kind == PatchKind::Json || mentions_managed_fields(&body) {
                show_managed_fields(&mut tree, &before.managed);
            }
            patch::apply(kind, &resource.schema, &mut tree, &body)
                .map_err(|error| patch_error(&error))?;
            let managed = take_managed_fields(&mut tree)?;
            let json = serde_json::to_vec(&tree).map_err(ApiError::internal)?;
            let decoded = decode::leniently(resource, &json);
            let decoded = decoded.map_err(|error| unfit(&body, error.message))?;
            let mut object = decoded.object;
            let strict_errors = [repeated.clone(), decoded.strict_errors].concat();
            decode::strictly(strict_errors, options.field_validation, warnings)
                .map_err(|why| unfit(&body, why))?;
            check_namespace(object.as_mut(), target.namespace)?;
            check_name(object.as_ref(), target.name)?;
            resource.strategy.default(object.as_mut());
            Ok(Change { object, managed: ManagedFields::Sent(managed) })
        };
        let updated = self.server.registry.update(&target, self.part(), change).await?;
        self.shaped(200, output, &shaper, &updated.object).await
    }

    /// Whether the body is a configuration to apply.
    pub(super) fn is_apply(self) -> bool {
        negotiate::content_type(&self.context.headers) == APPLY
    }

    /// Server-side apply.
    async fn apply(
        self,
        resource: &'a Arc<Resource>,
        body: Bytes,
    ) -> Result<Response<ResponseBody>> {
        let output = self.output(false)?;
        let shaper = self.shaper(resource, output)?;
        let (options, force) = self.apply_options()?;
        let target = self.target(resource, options.dry_run);
        let (schema, kind) =
            schema_of(resource).ok_or_else(|| ApiError::unsupported_media_type(UNAPPLIED))?;
        let part = self.part();
        let (api_version, now, filter) =
            (resource.api_version(), now(), managed_fields::filter(resource, part));
        let write = target.write(&api_version, &filter, &now);
        let configuration =
            configuration(&body, &resource.group, &resource.version, &resource.kind)?;
        schema.validate(kind, &configuration).map_err(|error| {
            let name = describe(&configuration, &resource.group, &resource.version, &resource.kind);
            ApiError::plain(format!("failed to create typed patch object ({name}): {error}"))
        })?;
        let refused = self.refuse_create().await;
        let warnings = &self.context.warnings;
        let repeated = match options.field_validation {
            FieldValidation::Ignore => None,
            FieldValidation::Warn | FieldValidation::Strict => body::repeated_key(&body),
        };
        if let Some(repeated) = repeated {
            // As Go's YAML decoder says it, and as its caller does.
            let why = format!("error converting YAML to JSON: {repeated}");
            if options.field_validation == FieldValidation::Strict {
                let why = format!("error strict decoding YAML: {why}");
                return Err(ApiError::bad_request(why));
            }
            warnings.add(why);
        }
        let tracker = &self.server.registry.tracker;
        let conversions = Conversions::default();
        let versions = tracker.versions(resource, &api_version, &conversions);
        let change = |before: Option<&Current>| {
            if before.is_none() {
                if part != Part::Main {
                    return Err(target.not_found());
                }
                if let Some(error) = &refused {
                    return Err(error.clone());
                }
                check_no_uid(&configuration, &target)?;
            }
            let live = match before {
                Some(before) => tree(before.object.as_ref())?,
                None => Value::Object(Map::new()),
            };
            let managers = match before {
                Some(before) => live_managers(&before.managed)?,
                None => Managers::default(),
            };
            let applied = apply::apply(&versions, &write, &live, &configuration, &managers, force);
            if conversions.are_wanted() {
                return Err(ApiError::internal("a webhook is to convert the object first"));
            }
            let applied = applied.map_err(apply_error)?;
            let mut object = match (applied.object, before) {
                (None, Some(before)) => before.object.boxed_clone(),
                (new, _) => {
                    let json = serde_json::to_vec(&new.unwrap_or(live));
                    let json = json.map_err(ApiError::internal)?;
                    decode::object(resource, &json, options.field_validation, warnings)?
                }
            };
            if before.is_none() {
                let meta = object.meta_mut();
                meta.creation_timestamp = None;
                meta.resource_version.take_if(|version| version == "0");
            }
            check_namespace(object.as_mut(), target.namespace)?;
            check_name(object.as_ref(), target.name)?;
            resource.strategy.default(object.as_mut());
            let managed = ManagedFields::Known(applied.managers.to_json().into_bytes());
            Ok(Change { object, managed })
        };
        let updated = loop {
            match self.server.registry.update(&target, part, &change).await {
                // It is decided again, with what is known by then.
                Err(_) if conversions.are_wanted() => {
                    let converter = &self.server.registry.converter;
                    conversions.ask(converter, &tracker.kinds.now(), resource).await?;
                }
                updated => break updated?,
            }
        };
        let status = if updated.created { 201 } else { 200 };
        self.shaped(status, output, &shaper, &updated.object).await
    }

    /// The options of an application, and whether it is forced.
    pub(super) fn apply_options(self) -> Result<(WriteOptions, bool)> {
        let query = self.context.query();
        if query.get("fieldManager").is_none_or(str::is_empty) {
            let error =
                FieldError::required(&Path::new("fieldManager"), "is required for apply patch");
            let subject = Subject::of("meta.k8s.io", "PatchOptions");
            return Err(ApiError::invalid(&subject, "", &vec![error]));
        }
        Ok((WriteOptions::read(query, "PatchOptions")?, query.flag("force")))
    }

    /// What to answer if the application creates the object; `None` when the user may do that.
    async fn refuse_create(self) -> Option<ApiError> {
        let user = &self.context.user;
        if user.is_in(MASTERS) {
            return None;
        }
        let create = RequestInfo { verb: "create".into(), ..self.context.info().clone() };
        match self.server.authorizer.authorize(user, &create).await {
            Decision::Allow => None,
            Decision::Deny(reason) | Decision::NoOpinion(reason) => {
                Some(authz::forbidden(user, &create, &reason))
            }
        }
    }

    /// The patch's format.
    pub(super) fn patch_kind(self, resource: &Resource) -> Result<PatchKind> {
        let media_type = negotiate::content_type(&self.context.headers);
        let kind = PatchKind::from_media_type(media_type);
        if resource.strategy.custom().is_some() {
            return kind
                .filter(|kind| *kind != PatchKind::Strategic)
                .ok_or_else(|| ApiError::unsupported_media_type(SERVED_FOR_CUSTOM));
        }
        kind.ok_or_else(|| ApiError::unsupported_media_type(SERVED))
    }
}

/// What strict validation says of the patch itself: the fields that it names more than once.
fn repeated(kind: PatchKind, patch: &[u8]) -> Vec<String> {
    let prefix = if kind == PatchKind::Json { "json patch " } else { "" };
    let repeated = duplicate_fields(patch).into_iter();
    repeated.map(|path| format!("{prefix}duplicate field \"{path}\"")).collect()
}

/// The patched object is no object of its kind.
fn unfit(patch: &[u8], why: String) -> ApiError {
    let patch = String::from_utf8_lossy(patch).into_owned();
    let error = FieldError::invalid(&Path::new("patch"), patch, why);
    ApiError::invalid(&Subject::default(), "", &vec![error])
}

/// An object as a tree to patch.
pub(super) fn tree(object: &dyn Object) -> Result<Value> {
    object.to_value().map_err(ApiError::internal)
}

/// Why a patch was not applied, as a status.
pub(super) fn patch_error(error: &patch::PatchError) -> ApiError {
    let mut status = ApiError::new(error.code(), error.reason(), error.to_string());
    if error.code() == 422 {
        status.details = Some(Box::default());
    }
    status
}

/// Whether a patch has something to say about managed fields.
fn mentions_managed_fields(patch: &[u8]) -> bool {
    std::str::from_utf8(patch).is_ok_and(|patch| patch.contains("managedFields"))
}

/// Puts the managed fields into an object's tree.
fn show_managed_fields(tree: &mut Value, managed: &[u8]) {
    if let Some(Value::Object(metadata)) = tree.get_mut("metadata")
        && let Ok(managed) = serde_json::from_slice(managed)
    {
        metadata.insert("managedFields".to_owned(), managed);
    }
}

/// Takes the managed fields out of a patched object's tree.
fn take_managed_fields(tree: &mut Value) -> Result<Option<Bytes>> {
    let metadata = tree.get_mut("metadata").and_then(Value::as_object_mut);
    match metadata.and_then(|metadata| metadata.remove("managedFields")) {
        Some(entries @ Value::Array(_)) => {
            Ok(Some(serde_json::to_vec(&entries).map_err(ApiError::internal)?.into()))
        }
        _ => Ok(None),
    }
}

/// The managers of an object in the store.
pub(super) fn live_managers(managed: &[u8]) -> Result<Managers> {
    if managed.is_empty() {
        return Ok(Managers::default());
    }
    Managers::from_json(managed)
        .map_err(|error| ApiError::plain(format!("failed to decode managed fields: {error}")))
}

/// The configuration in the body of an application, which is of this kind.
pub(super) fn configuration(body: &[u8], group: &str, version: &str, kind: &str) -> Result<Value> {
    let undecodable = |why: &str| ApiError::bad_request(format!("error decoding YAML: {why}"));
    let configuration = body::yaml_to_value(body).map_err(|error| undecodable(&error.message))?;
    let found = match &configuration {
        Value::Object(_) | Value::Null => "",
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
    };
    if !found.is_empty() {
        return Err(undecodable(&format!(
            "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into Go \
             value of type map[string]interface {{}}"
        )));
    }
    let text = |name: &str| configuration.get(name).and_then(Value::as_str).unwrap_or_default();
    let (found_group, found_version) =
        text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
    if (found_group, found_version, text("kind")) != (group, version, kind) {
        let found = format!("{found_group}/{found_version}, Kind={}", text("kind"));
        return Err(ApiError::bad_request(format!("invalid object type: {found}")));
    }
    let managed = configuration.get("metadata").and_then(|metadata| metadata.get("managedFields"));
    if managed.is_some_and(Value::is_array) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    Ok(configuration)
}

/// An object as messages about applications name it: `ns/name; apps/v1, Kind=Deployment`.
pub(super) fn describe(object: &Value, group: &str, version: &str, kind: &str) -> String {
    let text = |name: &str| {
        object.get("metadata").and_then(|metadata| metadata.get(name)?.as_str()).unwrap_or_default()
    };
    format!("{}/{}; {group}/{version}, Kind={kind}", text("namespace"), text("name"))
}

/// A configuration that names a UID means an object that exists.
fn check_no_uid(configuration: &Value, target: &Target<'_>) -> Result<()> {
    let uid = configuration.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
    if uid.is_empty() {
        return Ok(());
    }
    let why = format!(
        "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
    );
    Err(ApiError::conflict(&target.subject(), target.name, &why))
}

/// Why nothing was applied, as a status.
pub(super) fn apply_error(error: ApplyError) -> ApiError {
    let message = error.to_string();
    match error {
        ApplyError::Conflicts(conflicts) => {
            let status = ApiError::new(409, "Conflict", message);
            conflicts.iter().fold(status, |status, conflict| {
                let why = format!("conflict with {}", conflict.manager.describe());
                status.cause("FieldManagerConflict", &why, &conflict.field)
            })
        }
        ApplyError::Malformed(_) => ApiError::plain(message),
    }
}
