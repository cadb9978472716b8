//! The `scale` subresource: replicas, without the rest of the object.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use k8s_openapi::api::autoscaling::v1::Scale;
use serde_json::Value;

use super::{Call, patch::patch_error};
use crate::{
    field::{FieldError, Path},
    patch,
    resources::{Object, Part, Resource},
    server::{
        body::{self, ResponseBody},
        decode::{self, TypeMeta},
        query::WriteOptions,
        registry::Current,
        status::{ApiError, Result, Subject},
    },
};

/// The schema by which patches of a scale merge.
const SCHEMA: &str = "io.k8s.api.autoscaling.v1.Scale";

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
            _ => {
                let kind = self.patch_kind()?;
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
        let target = self.target(resource, dry_run);
        let update = |before: Option<&Current>| {
            let before = before.ok_or_else(|| self.no_scale(resource))?;
            let current = scale_of(resource, before.object.as_ref())?;
            let asked = change(&current)?;
            check(&asked, target.name)?;
            let mut new = before.object.boxed_clone();
            let meta = new.meta_mut();
            // What the scale says about the object's identity is a precondition.
            meta.resource_version = asked.metadata.resource_version;
            if asked.metadata.uid.as_ref().is_some_and(|uid| !uid.is_empty()) {
                meta.uid = asked.metadata.uid;
            }
            let replicas = asked.spec.and_then(|spec| spec.replicas).unwrap_or(0);
            resource.strategy.set_replicas(new.as_mut(), replicas);
            Ok(new)
        };
        let updated = self.server.registry.update(&target, Part::Main, update).await?;
        let decoded = resource.strategy.decode(updated.object.stored.bytes());
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

fn scale_of(resource: &Resource, object: &dyn Object) -> Result<Scale> {
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

fn check(scale: &Scale, name: &str) -> Result<()> {
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
    if replicas < 0 {
        let path = Path::new("spec.replicas");
        let error = FieldError::invalid(&path, replicas, "must be greater than or equal to 0");
        return Err(ApiError::invalid(&Subject::of("autoscaling", "Scale"), name, &vec![error]));
    }
    Ok(())
}
