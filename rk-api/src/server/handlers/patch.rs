//! Patching objects.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use serde_json::Value;

use super::{
    Call,
    write::{check_name, check_namespace},
};
use crate::{
    field::{FieldError, Path},
    patch::{self, PatchKind},
    resources::{Object, Resource},
    server::{
        body::ResponseBody,
        decode, negotiate,
        query::{FieldValidation, WriteOptions},
        registry::Current,
        status::{ApiError, Result, Subject},
    },
};

/// The patch formats that are read, as error messages list them.
const SERVED: &str = "application/json-patch+json, application/merge-patch+json, \
                      application/strategic-merge-patch+json";

impl<'a> Call<'a> {
    pub(super) async fn patch(
        self,
        resource: &'a Arc<Resource>,
        body: Bytes,
    ) -> Result<Response<ResponseBody>> {
        let output = self.output(false)?;
        let shaper = self.shaper(resource, output)?;
        let kind = self.patch_kind()?;
        let options = WriteOptions::read(self.context.query(), "PatchOptions")?;
        if self.context.query().get("force").is_some() {
            let why = "may not be specified for non-apply patch";
            let error = FieldError::forbidden(&Path::new("force"), why);
            let subject = Subject::of("meta.k8s.io", "PatchOptions");
            return Err(ApiError::invalid(&subject, "", &vec![error]));
        }
        let target = self.target(resource, options.dry_run);
        let warnings = &self.context.warnings;
        let change = |before: Option<&Current>| {
            let before = before.ok_or_else(|| target.not_found())?;
            let mut tree = tree(before.object.as_ref())?;
            patch::apply(kind, &resource.schema, &mut tree, &body)
                .map_err(|error| patch_error(&error))?;
            let json = serde_json::to_vec(&tree).map_err(ApiError::internal)?;
            let strict = options.field_validation;
            let decoded = decode::object(resource, &json, strict, warnings);
            let mut object = decoded.map_err(|error| unfit(error, &body, strict))?;
            check_namespace(object.as_mut(), target.namespace)?;
            check_name(object.as_ref(), target.name)?;
            resource.strategy.default(object.as_mut());
            Ok(object)
        };
        let updated = self.server.registry.update(&target, self.part(), change).await?;
        Ok(self.shaped(200, output, &shaper, &updated.object))
    }

    /// The patch's format.
    pub(super) fn patch_kind(self) -> Result<PatchKind> {
        let media_type = negotiate::content_type(&self.context.headers);
        PatchKind::from_media_type(media_type)
            .ok_or_else(|| ApiError::unsupported_media_type(SERVED))
    }
}

/// A patch that makes an object of wrong types: 422, as in kube-apiserver. What only strict
/// validation refuses stays a 400.
fn unfit(error: ApiError, patch: &[u8], validation: FieldValidation) -> ApiError {
    if validation == FieldValidation::Strict && error.message.contains("strict decoding error") {
        return error;
    }
    let patch = String::from_utf8_lossy(patch).into_owned();
    let error = FieldError::invalid(&Path::new("patch"), patch, error.message);
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
