//! Creating and replacing objects.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;

use super::Call;
use crate::{
    resources::{Object, Part, Resource},
    server::{
        audit,
        body::ResponseBody,
        decode, managed_fields,
        query::WriteOptions,
        registry::{Change, Current, ManagedFields, Target},
        status::{ApiError, Result},
    },
};

impl<'a> Call<'a> {
    pub(super) async fn create(
        self,
        resource: &'a Arc<Resource>,
        body: Bytes,
    ) -> Result<Response<ResponseBody>> {
        let output = self.output(false)?;
        let shaper = self.shaper(resource, output)?;
        let options = WriteOptions::read(self.context.query(), "CreateOptions")?;
        let (headers, warnings) = (&self.context.headers, &self.context.warnings);
        decode::yaml_strictly(resource, headers, &body, options.field_validation, warnings)?;
        let json = decode::json(headers, body)?;
        audit::request_object(&json);
        let (json, managed) = managed_fields::split(json);
        let mut object = decode::object(resource, &json, options.field_validation, warnings)?;
        let target = self.target(resource, options.dry_run);
        check_namespace(object.as_mut(), target.namespace)?;
        resource.strategy.default(object.as_mut());
        let managed = ManagedFields::Sent(managed);
        let created = self.server.registry.create_as(&target, Change { object, managed }).await?;
        self.shaped(201, output, &shaper, &created).await
    }

    pub(super) async fn update(
        self,
        resource: &'a Arc<Resource>,
        body: Bytes,
    ) -> Result<Response<ResponseBody>> {
        let output = self.output(false)?;
        let shaper = self.shaper(resource, output)?;
        let options = WriteOptions::read(self.context.query(), "UpdateOptions")?;
        let (headers, warnings) = (&self.context.headers, &self.context.warnings);
        decode::yaml_strictly(resource, headers, &body, options.field_validation, warnings)?;
        let json = decode::json(headers, body)?;
        audit::request_object(&json);
        let (json, managed) = managed_fields::split(json);
        let mut object = decode::object(resource, &json, options.field_validation, warnings)?;
        let target = self.target(resource, options.dry_run);
        check_namespace(object.as_mut(), target.namespace)?;
        check_name(object.as_ref(), target.name)?;
        resource.strategy.default(object.as_mut());
        let part = self.part();
        let may_create = resource.strategy.create_on_update() && part == Part::Main;
        let change = |before: Option<&Current>| match before {
            None if !may_create => Err(target.not_found()),
            None if !version_of(object.as_ref()).is_empty() => {
                Err(ApiError::modified(&target.subject(), target.name))
            }
            before => {
                if let Some(before) = before {
                    check_uid(object.as_ref(), before, &target)?;
                }
                let managed = ManagedFields::Sent(managed.clone());
                Ok(Change { object: object.boxed_clone(), managed })
            }
        };
        let updated = self.server.registry.update(&target, part, change).await?;
        let status = if updated.created { 201 } else { 200 };
        self.shaped(status, output, &shaper, &updated.object).await
    }

    /// Which part of the object the request is about.
    pub(super) fn part(self) -> Part {
        match self.context.info().subresource.as_str() {
            "status" => Part::Status,
            "ephemeralcontainers" => Part::EphemeralContainers,
            "resize" => Part::Resize,
            "finalize" => Part::Finalize,
            "approval" => Part::Approval,
            _ => Part::Main,
        }
    }
}

/// A replaced object that names a UID means that very object.
fn check_uid(object: &dyn Object, before: &Current, target: &Target<'_>) -> Result<()> {
    let uid = |object: &dyn Object| object.meta().uid.clone().unwrap_or_default();
    let (asked, found) = (uid(object), uid(before.object.as_ref()));
    if asked.is_empty() || asked == found {
        return Ok(());
    }
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: \
         Precondition failed: UID in precondition: {asked}, UID in object meta: {found}",
        target.key()
    );
    Err(ApiError::conflict(&target.subject(), target.name, &why))
}

fn version_of(object: &dyn Object) -> &str {
    object.meta().resource_version.as_deref().unwrap_or_default()
}

/// An object is in the namespace of its path; it may leave that out.
pub(super) fn check_namespace(object: &mut dyn Object, namespace: Option<&str>) -> Result<()> {
    let meta = object.meta_mut();
    let found = meta.namespace.as_deref().unwrap_or_default();
    match namespace {
        Some(namespace) if !found.is_empty() && found != namespace => Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )),
        // A cluster-scoped object has none, whatever the client says.
        namespace => {
            meta.namespace = namespace.map(ToOwned::to_owned);
            Ok(())
        }
    }
}

/// A replaced object has the name of its path.
pub(super) fn check_name(object: &dyn Object, name: &str) -> Result<()> {
    match object.meta().name.as_deref().unwrap_or_default() {
        "" => Err(ApiError::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        ))),
        found if found != name => Err(ApiError::bad_request(format!(
            "the name of the object ({found}) does not match the name on the URL ({name})"
        ))),
        _ => Ok(()),
    }
}
