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
    patch::{self, PatchKind},
    resources::{Object, Resource},
    server::{
        body::ResponseBody,
        decode, negotiate,
        query::WriteOptions,
        registry::Current,
        status::{ApiError, Result},
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
        let target = self.target(resource, options.dry_run);
        let warnings = &self.context.warnings;
        let change = |before: Option<&Current>| {
            let before = before.ok_or_else(|| target.not_found())?;
            let mut tree = tree(before.object.as_ref())?;
            patch::apply(kind, &resource.schema, &mut tree, &body)
                .map_err(|error| patch_error(&error))?;
            let json = serde_json::to_vec(&tree).map_err(ApiError::internal)?;
            let mut object = decode::object(resource, &json, options.field_validation, warnings)?;
            check_namespace(object.as_mut(), target.namespace)?;
            check_name(object.as_ref(), target.name)?;
            resource.strategy.default(object.as_mut());
            // Only a patch that names a version means one: otherwise it is applied to whatever
            // is there.
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
