//! The `scale` subresource: replicas, without the rest of the object.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use k8s_openapi::api::autoscaling::v1::Scale;
use serde_json::Value;

use super::{
    Call,
    patch::{apply_error, configuration, describe, live_managers, patch_error},
};
use crate::{
    apply::{self, Entry, FieldSet, Filter, ManagerId, Managers, OneVersion, Write, builtin},
    field::{FieldError, Path},
    patch,
    resources::{Object, Part, Resource},
    server::{
        body::{self, ResponseBody},
        decode::{self, TypeMeta},
        managed_fields::now,
        query::WriteOptions,
        registry::{Change, Current, ManagedFields},
        status::{ApiError, Result, Subject},
    },
};

/// The schema by which patches of a scale merge.
const SCHEMA: &str = "io.k8s.api.autoscaling.v1.Scale";

/// The version of scales.
const SCALE_VERSION: &str = "autoscaling/v1";

impl<'a> Call<'a> {
    pub(super) async fn scale(
        self,
        resource: &'a Arc<Resource>,
        body: Bytes,
    ) -> Result<Response<ResponseBody>> {
        let output = self.output(false)?;
        let scale = match self.context.info().verb.as_ref() {
            "get" => {
                let target = self.target(resource, false);
                self.server.registry.cache.fresh().await?;
                let before = self.server.registry.read(&target).await?;
                let before = before.ok_or_else(|| self.no_scale(resource))?;
                scale_of(resource, before.object.as_ref())?
            }
            "update" => {
                let options = WriteOptions::read(self.context.query(), "UpdateOptions")?;
                let asked = read_scale(&decode::json(&self.context.headers, body)?)?;
                self.set_scale(resource, options.dry_run, |_| Ok(asked.clone())).await?
            }
            _ if self.is_apply() => self.apply_scale(resource, &body).await?,
            _ => {
                let kind = self.patch_kind(resource)?;
                let options = WriteOptions::read(self.context.query(), "PatchOptions")?;
                let patched = |current: &Scale| {
                    let mut tree: Value =
                        serde_json::to_value(current).map_err(ApiError::internal)?;
                    patch::apply(kind, SCHEMA, &mut tree, &body).map_err(|e| patch_error(&e))?;
                    read_scale(&serde_json::to_vec(&tree).map_err(ApiError::internal)?)
                };
                self.set_scale(resource, options.dry_run, patched).await?
            }
        };
        Ok(body::answer_value(&self.context.headers, 200, output.format, &scale))
    }

    async fn set_scale(
        self,
        resource: &'a Arc<Resource>,
        dry_run: bool,
        change: impl Fn(&Scale) -> Result<Scale> + Send + Sync,
    ) -> Result<Scale> {
        self.rescale(resource, dry_run, |current, managers, write| {
            let asked = change(current)?;
            let tree = |scale: &Scale| serde_json::to_value(scale).map_err(ApiError::internal);
            record(managers, write, &tree(current)?, &tree(&asked)?);
            Ok(asked)
        })
        .await
    }

    /// Server-side apply to a scale.
    async fn apply_scale(self, resource: &'a Arc<Resource>, body: &[u8]) -> Result<Scale> {
        let (options, force) = self.apply_options()?;
        let (group, version) = SCALE_VERSION.split_once('/').unwrap_or_default();
        let configuration = configuration(body, group, version, "Scale")?;
        let schema = builtin();
        let kind = schema.get(SCHEMA).ok_or_else(|| ApiError::internal("a scale has no schema"))?;
        schema.validate(kind, &configuration).map_err(|error| {
            let name = describe(&configuration, group, version, "Scale");
            ApiError::plain(format!("failed to create typed patch object ({name}): {error}"))
        })?;
        let versions = OneVersion { api_version: SCALE_VERSION, schema, kind };
        self.rescale(resource, options.dry_run, |current, managers, write| {
            let live = serde_json::to_value(current).map_err(ApiError::internal)?;
            let applied = apply::apply(&versions, write, &live, &configuration, managers, force)
                .map_err(apply_error)?;
            *managers = applied.managers;
            match applied.object {
                Some(new) => read_scale(&serde_json::to_vec(&new).map_err(ApiError::internal)?),
                None => Ok(current.clone()),
            }
        })
        .await
    }

    /// Changes the replicas; `change` also changes the managers of the scale.
    async fn rescale(
        self,
        resource: &'a Arc<Resource>,
        dry_run: bool,
        change: impl Fn(&Scale, &mut Managers, &Write<'_>) -> Result<Scale> + Send + Sync,
    ) -> Result<Scale> {
        let target = self.target(resource, dry_run);
        let api_version = resource.api_version();
        let update = |before: Option<&Current>| {
            let before = before.ok_or_else(|| self.no_scale(resource))?;
            let current = scale_of(resource, before.object.as_ref())?;
            let (filter, now) = (Filter::default(), now());
            let write = target.write(SCALE_VERSION, &filter, &now);
            let parents = live_managers(&before.managed)?;
            let path = replicas_of(resource);
            let mut managers = scale_managers(&parents, &path);
            let asked = change(&current, &mut managers, &write)?;
            check(&asked, target.name, resource)?;
            let mut new = before.object.boxed_clone();
            let meta = new.meta_mut();
            // What the scale says about the object's identity is a precondition.
            meta.resource_version = asked.metadata.resource_version;
            if asked.metadata.uid.as_ref().is_some_and(|uid| !uid.is_empty()) {
                meta.uid = asked.metadata.uid;
            }
            let replicas = asked.spec.and_then(|spec| spec.replicas).unwrap_or(0);
            resource.strategy.set_replicas(new.as_mut(), replicas);
            let managers = parent_managers(parents, managers, &api_version, &path);
            let managed = ManagedFields::Known(managers.to_json().into_bytes());
            Ok(Change { object: new, managed })
        };
        let updated = self.server.registry.update(&target, Part::Main, update).await?;
        let registry = &self.server.registry;
        let stored = registry.converter.form(resource, &updated.object).await?;
        let decoded = resource.strategy.decode(&stored.plain());
        let mut object = decoded.map_err(ApiError::internal)?.object;
        object.meta_mut().resource_version = Some(updated.object.revision.to_string());
        scale_of(resource, object.as_ref())
    }

    fn no_scale(self, resource: &Resource) -> ApiError {
        let mut subject = Subject::plural(resource);
        subject.kind = format!("{}/scale", resource.plural).into();
        ApiError::not_found(&subject, &self.context.info().name)
    }
}

/// An object's scale, with the object's identity.
pub(in crate::server) fn scale_of(resource: &Resource, object: &dyn Object) -> Result<Scale> {
    let scale = resource.strategy.scale(object);
    let mut scale = scale.ok_or_else(|| ApiError::internal("the kind has no scale"))?;
    let meta = object.meta();
    scale.metadata.name.clone_from(&meta.name);
    scale.metadata.namespace.clone_from(&meta.namespace);
    scale.metadata.uid.clone_from(&meta.uid);
    scale.metadata.resource_version.clone_from(&meta.resource_version);
    scale.metadata.creation_timestamp.clone_from(&meta.creation_timestamp);
    Ok(scale)
}

fn read_scale(json: &[u8]) -> Result<Scale> {
    serde_json::from_slice(json).map_err(|error| {
        let found: TypeMeta<'_> = serde_json::from_slice(json).unwrap_or_default();
        if !found.kind.is_empty() && found.kind != "Scale" {
            let version = found.api_version.rsplit('/').next().unwrap_or_default();
            let kind = &found.kind;
            return ApiError::bad_request(format!(
                "{kind} in version {version:?} cannot be handled as a Scale: converting \
                 ({version}.{kind}) to (autoscaling.Scale): unknown conversion"
            ));
        }
        ApiError::bad_request(format!(
            "Scale in version \"v1\" cannot be handled as a Scale: {error}"
        ))
    })
}

fn check(scale: &Scale, name: &str, resource: &Resource) -> Result<()> {
    match scale.metadata.name.as_deref().unwrap_or_default() {
        "" => return Err(ApiError::bad_request("name must be provided")),
        found if found != name => {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({found}) does not match the name on the URL ({name})"
            )));
        }
        _ => {}
    }
    let replicas = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
    // A custom kind finds that out itself.
    if replicas < 0 && resource.strategy.custom().is_none() {
        let path = Path::new("spec.replicas");
        let error = FieldError::invalid(&path, replicas, "must be greater than or equal to 0");
        return Err(ApiError::invalid(&Subject::of("autoscaling", "Scale"), name, &vec![error]));
    }
    Ok(())
}

// === managed fields ===

/// Where the replicas are in a scale, and in every built-in kind that has one.
fn replicas() -> FieldSet {
    FieldSet::of(&[&["spec", "replicas"]])
}

/// Where they are in objects of a kind.
fn replicas_of(resource: &Resource) -> FieldSet {
    match resource.strategy.custom().and_then(|custom| custom.replicas_path()) {
        Some(path) => FieldSet::of(&[&path]),
        None => replicas(),
    }
}

/// The managers of the replicas, as managers of the scale.
fn scale_managers(parents: &Managers, in_parents: &FieldSet) -> Managers {
    let owners = parents.entries().iter().filter(|entry| is_owner(entry, in_parents));
    let entries = owners.map(|entry| Entry {
        api_version: SCALE_VERSION.to_owned(),
        fields: replicas(),
        ..entry.clone()
    });
    Managers::new(entries.collect())
}

fn is_owner(entry: &Entry, replicas: &FieldSet) -> bool {
    !entry.fields.intersection(replicas).is_empty()
}

/// Records an update of a scale. As in Kubernetes, replicas that nobody manages stay so.
fn record(managers: &mut Managers, write: &Write<'_>, old: &Value, new: &Value) {
    let schema = builtin();
    if managers.is_empty() {
        return;
    }
    if let Some(kind) = schema.get(SCHEMA)
        && let Ok(comparison) = schema.compare(kind, old, new)
    {
        managers.record_update(write, |_| Some(std::borrow::Cow::Borrowed(&comparison)));
    }
}

/// The managers of the object, once `scale` are those of its replicas.
fn parent_managers(
    mut parents: Managers,
    scale: Managers,
    api_version: &str,
    in_parents: &FieldSet,
) -> Managers {
    let id_in_scale =
        |entry: &Entry| Entry { api_version: SCALE_VERSION.to_owned(), ..entry.clone() }.id();
    let mut owners: Vec<ManagerId> =
        scale.entries().iter().filter(|e| is_owner(e, &replicas())).map(Entry::id).collect();
    parents.retain_fields(|entry| {
        if is_owner(entry, in_parents) {
            match owners.iter().position(|owner| *owner == id_in_scale(entry)) {
                Some(at) => drop(owners.remove(at)),
                None => entry.fields.subtract(in_parents),
            }
        }
        true
    });
    let new = scale.entries().iter().filter(|entry| owners.contains(&entry.id()));
    let new = new.map(|entry| Entry {
        api_version: api_version.to_owned(),
        fields: in_parents.clone(),
        ..entry.clone()
    });
    Managers::new(parents.entries().iter().cloned().chain(new).collect())
}
