//! `namespaces/x/finalize`: who cleaned up after a namespace takes their finalizer off its spec.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use k8s_openapi::api::core::v1::Namespace;

use super::Call;
use crate::{
    resources::{Object, Resource},
    server::{
        body::ResponseBody,
        decode,
        query::{WriteOptions, parse_version},
        status::{ApiError, Result},
    },
};

impl<'a> Call<'a> {
    pub(super) async fn finalize(
        self,
        resource: &'a Arc<Resource>,
        body: Bytes,
    ) -> Result<Response<ResponseBody>> {
        let output = self.output(false)?;
        let shaper = self.shaper(resource, output)?;
        let options = WriteOptions::read(self.context.query(), "UpdateOptions")?;
        let json = decode::json(&self.context.headers, body)?;
        let warnings = &self.context.warnings;
        let asked = decode::object(resource, &json, options.field_validation, warnings)?;
        super::write::check_name(asked.as_ref(), &self.context.info().name)?;
        let version = asked.meta().resource_version.clone().unwrap_or_default();
        let version = parse_version(&version)?;
        let target = self.target(resource, options.dry_run);
        let change = |object: &mut dyn Object| {
            let current = object.meta().resource_version.clone().unwrap_or_default();
            if version != 0 && version.to_string() != current {
                return Err(ApiError::modified(&target.subject(), target.name));
            }
            let asked = asked.as_any().downcast_ref::<Namespace>();
            if let (Some(namespace), Some(asked)) =
                (object.as_any_mut().downcast_mut::<Namespace>(), asked)
            {
                let finalizers = asked.spec.as_ref().and_then(|spec| spec.finalizers.clone());
                namespace.spec.get_or_insert_default().finalizers =
                    finalizers.filter(|finalizers| !finalizers.is_empty());
                namespace.metadata.finalizers.clone_from(&asked.metadata.finalizers);
            }
            Ok(())
        };
        let changed = self.server.registry.modify(&target, change).await?;
        Ok(self.shaped(200, output, &shaper, &changed))
    }
}
