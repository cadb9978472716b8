//! The parameters that a binding gives to its policy.

use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::{ParamKind, ParamRef};
use serde_json::Value;

use super::super::{AdmissionRequest, matching::Lookup};
use crate::{
    meta::selectors::LabelQuery,
    resources::Resource,
    server::{
        cache::{Cache, Table},
        filter::Filter,
        object::CachedObject,
    },
};

/// The parameters with which a policy is to be asked: once with each. `None` is a policy that has
/// none, and null a binding that gives none.
///
/// # Errors
/// Why there are none, as clients are told.
pub(super) async fn collect(
    lookup: &Lookup,
    kind: Option<&ParamKind>,
    reference: Option<&ParamRef>,
    request: &AdmissionRequest<'_>,
) -> Result<Vec<Option<Value>>, String> {
    let Some(kind) = kind else { return Ok(vec![None]) };
    let Some(reference) = reference else { return Ok(vec![Some(Value::Null)]) };
    let resource = resource(lookup, kind)?;
    if reference.selector.is_some() && reference.name.as_ref().is_some_and(|it| !it.is_empty()) {
        let why = "paramRef.name and paramRef.selector are mutually exclusive";
        return Err(why.to_owned());
    }
    let namespace = namespace(&resource, reference, request)?;
    let table = lookup.reader.cache.table(&resource).map_err(|error| error.message)?;
    let found = match (&reference.name, &reference.selector) {
        (Some(name), _) if !name.is_empty() => {
            one(lookup, &table, &resource, namespace, name).await?.into_iter().collect()
        }
        (_, Some(selector)) => {
            let query = LabelQuery::from_selector(selector);
            let filter = namespace.map(Filter::namespace).unwrap_or_default();
            let page = table.list(&filter, None, 0, 0);
            let values = page.items.iter().map(|object| value(&resource, object));
            let fits = |value: &Result<Value, String>| match value {
                Ok(value) => query
                    .matches_with(|key| value.get("metadata")?.get("labels")?.get(key)?.as_str()),
                Err(_) => true,
            };
            values.filter(fits).collect::<Result<Vec<_>, _>>()?
        }
        _ => return Err("one of name or selector must be provided".to_owned()),
    };
    if found.is_empty() && reference.parameter_not_found_action.as_deref() == Some("Deny") {
        let why = "no params found for policy binding with `Deny` parameterNotFoundAction";
        return Err(why.to_owned());
    }
    Ok(found.into_iter().map(Some).collect())
}

/// The kind of a policy's parameters.
///
/// # Errors
/// When there is no such kind: the policy cannot be asked at all then.
pub(super) fn resource(lookup: &Lookup, kind: &ParamKind) -> Result<Arc<Resource>, String> {
    let api_version = kind.api_version.as_deref().unwrap_or_default();
    let name = kind.kind.as_deref().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let found = lookup.kinds.now().resources.by_kind(group, version, name).cloned();
    found.ok_or_else(|| {
        format!("failed to find resource referenced by paramKind: '{group}/{version}, Kind={name}'")
    })
}

/// The namespace of the parameters; by default that of the request.
fn namespace<'a>(
    resource: &Resource,
    reference: &'a ParamRef,
    request: &'a AdmissionRequest<'_>,
) -> Result<Option<&'a str>, String> {
    let given = reference.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    let why = match (resource.namespaced, given, request.seen_namespace()) {
        (true, Some(given), _) => return Ok(Some(given)),
        (true, None, own) if !own.is_empty() => return Ok(Some(own)),
        (false, None, _) => return Ok(None),
        (true, None, _) => {
            "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
        }
        (false, Some(_), _) => {
            "paramRef.namespace must not be provided for a cluster-scoped `paramKind`"
        }
    };
    Err(why.to_owned())
}

async fn one(
    lookup: &Lookup,
    table: &Arc<Table>,
    resource: &Resource,
    namespace: Option<&str>,
    name: &str,
) -> Result<Option<Value>, String> {
    let key = resource.key(namespace, name);
    let found = match table.get(&key) {
        Some(found) => Some(found),
        // The cache may not have it yet.
        None => {
            let found = lookup.reader.cache.store().get(&key).await;
            let found = found.map_err(|error| error.to_string())?;
            found.and_then(|found| Cache::cached(table, &found)).map(Arc::new)
        }
    };
    found.map(|object| value(resource, &object)).transpose()
}

fn value(resource: &Resource, object: &CachedObject) -> Result<Value, String> {
    let shown = object.stored.plain();
    let shown = resource.strategy.shown(&shown).map_err(|error| error.to_string())?;
    let mut value: Value = serde_json::from_slice(&shown).map_err(|error| error.to_string())?;
    if let Some(Value::Object(metadata)) = value.get_mut("metadata") {
        metadata.insert("resourceVersion".to_owned(), object.revision.to_string().into());
    }
    Ok(value)
}
