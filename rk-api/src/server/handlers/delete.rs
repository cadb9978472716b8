//! Deleting one object or a collection.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;

use super::Call;
use crate::{
    field::{ErrorList, FieldError, Path},
    resources::Resource,
    server::{
        audit,
        body::{self, ResponseBody},
        decode,
        filter::Filter,
        query::{ListOptions, dry_run},
        registry::Target,
        shape::ListMeta,
        status::{self, ApiError, Result, Subject},
    },
};

/// Kinds whose deletion is answered with the object instead of a Status, as in kube-apiserver.
const SHOW_DELETED: &[&str] = &[
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "podtemplates",
    "resourcequotas",
    "serviceaccounts",
    "services",
];

impl<'a> Call<'a> {
    pub(super) async fn delete(
        self,
        resource: &'a Arc<Resource>,
        body: Bytes,
    ) -> Result<Response<ResponseBody>> {
        let output = self.output(false)?;
        let shaper = self.shaper(resource, output)?;
        let (options, dry) = self.delete_options(body)?;
        let target = self.target(resource, dry);
        let deleted = self.server.registry.delete(&target, &options).await?;
        let shows = SHOW_DELETED.contains(&resource.plural.as_ref()) && resource.group.is_empty();
        if deleted.gone && !shows {
            let details = status::deleted_details(resource, target.name, deleted.uid);
            let status = status::success(None, Some(details));
            return Ok(body::answer_value(&self.context.headers, 200, output.format, &status));
        }
        let code =
            if !deleted.gone && options.orphan_dependents == Some(false) { 202 } else { 200 };
        self.shaped(code, output, &shaper, &deleted.object).await
    }

    pub(super) async fn delete_collection(
        self,
        resource: &'a Arc<Resource>,
        body: Bytes,
    ) -> Result<Response<ResponseBody>> {
        let output = self.output(false)?;
        let shaper = self.shaper(resource, output)?;
        let (options, dry) = self.delete_options(body)?;
        let list = ListOptions::read(self.context.query(), false)?;
        let filter = Filter::read(resource, self.namespace(resource), None, &list)?;
        let page = self.page(resource, &filter, &list).await?;
        let mut items = Vec::with_capacity(page.items.len());
        for item in page.items {
            let target = Target { name: item.name(), ..self.target(resource, dry) };
            match self.server.registry.delete(&target, &options).await {
                Ok(deleted) => items.push(deleted.object),
                // Somebody else was faster.
                Err(error) if error.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let meta = ListMeta { revision: page.revision, ..ListMeta::default() };
        self.server.registry.converter.show(resource, &items).await?;
        let json = shaper.list(&items, &meta);
        Ok(body::answer(&self.context.headers, 200, output.format, json))
    }

    /// The options of a deletion, from the body or, when that is empty, from the query, and
    /// whether it is a dry run.
    pub(super) fn delete_options(self, body: Bytes) -> Result<(DeleteOptions, bool)> {
        let query = self.context.query();
        let options = if body.is_empty() {
            DeleteOptions {
                grace_period_seconds: query.integer("gracePeriodSeconds")?,
                orphan_dependents: query
                    .get("orphanDependents")
                    .map(|_| query.flag("orphanDependents")),
                propagation_policy: query.get("propagationPolicy").map(ToOwned::to_owned),
                dry_run: Some(query.all("dryRun").map(ToOwned::to_owned).collect()),
                ..DeleteOptions::default()
            }
        } else {
            let json = decode::json(&self.context.headers, body)?;
            audit::request_object(&json);
            crate::json::from_slice(&json).map_err(|error| {
                ApiError::bad_request(format!(
                    "the object provided is unrecognized (must be of type DeleteOptions): {error}"
                ))
            })?
        };
        let mut errors = ErrorList::new();
        let dry = dry_run(options.dry_run.iter().flatten().map(String::as_str), &mut errors);
        validate(&options, &mut errors);
        if errors.is_empty() {
            Ok((options, dry))
        } else {
            Err(ApiError::invalid(&Subject::of("meta.k8s.io", "DeleteOptions"), "", &errors))
        }
    }
}

fn validate(options: &DeleteOptions, errors: &mut ErrorList) {
    let path = Path::new("propagationPolicy");
    let Some(policy) = &options.propagation_policy else { return };
    if options.orphan_dependents.is_some() {
        errors.push(FieldError::invalid(
            &path,
            policy.clone(),
            "orphanDependents and deletionPropagation cannot be both set",
        ));
    }
    if !["Foreground", "Background", "Orphan"].contains(&policy.as_str()) {
        errors.push(FieldError::not_supported(
            &path,
            policy.clone(),
            &["Foreground", "Background", "Orphan", "nil"],
        ));
    }
}
