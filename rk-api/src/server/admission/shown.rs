//! Objects as webhooks and policies see them: trees in the version that they asked for, with their
//! managed fields.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use bytes::Bytes;
use k8s_openapi::api::{
    authentication::v1::TokenRequest, autoscaling::v1::Scale, core::v1::Binding,
    policy::v1::Eviction,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{AdmissionRequest, GroupVersionKind};
use crate::{
    apply::Managers,
    resources::{Object, Resource},
    server::status::{ApiError, Result},
};

/// A request as it is seen through one version of its kind.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// The version's row.
    pub resource: Arc<Resource>,
    /// The kind of the object there.
    pub kind: GroupVersionKind,
    /// The object as it is to be; null when it is deleted.
    pub object: Value,
    /// The object as it is; null when it is created.
    pub old: Value,
}

impl Seen {
    /// What reviews and expressions say of a request besides its objects.
    pub fn facts(&self, request: &AdmissionRequest<'_>) -> Map<String, Value> {
        let resource = |row: &Resource| json!({ "group": row.group, "version": row.version, "resource": row.plural });
        let mut facts = Map::new();
        facts.insert("kind".to_owned(), self.kind.to_value());
        facts.insert("resource".to_owned(), resource(&self.resource));
        facts.insert("requestKind".to_owned(), request.kind().to_value());
        facts.insert("requestResource".to_owned(), resource(request.resource));
        for (key, text) in [
            ("subResource", request.subresource),
            ("requestSubResource", request.subresource),
            ("name", request.given_name()),
            ("namespace", request.seen_namespace()),
        ] {
            if !text.is_empty() {
                facts.insert(key.to_owned(), text.into());
            }
        }
        facts.insert("operation".to_owned(), request.operation.as_str().into());
        facts.insert("userInfo".to_owned(), user_info(request));
        facts.insert("dryRun".to_owned(), request.dry_run.into());
        facts.insert("options".to_owned(), request.options());
        facts
    }
}

/// The user, as reviews and expressions see them.
fn user_info(request: &AdmissionRequest<'_>) -> Value {
    let user = request.user;
    let mut info = Map::new();
    for (key, text) in [("username", &user.name), ("uid", &user.uid)] {
        if !text.is_empty() {
            info.insert(key.to_owned(), text.as_str().into());
        }
    }
    if !user.groups.is_empty() {
        info.insert("groups".to_owned(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        info.insert("extra".to_owned(), json!(user.extra));
    }
    Value::Object(info)
}

/// The versions through which a request has been seen so far.
#[derive(Debug, Default)]
pub(super) struct Views(HashMap<GroupVersionKind, Arc<Seen>>);

impl Views {
    /// The request through one version.
    pub(super) fn of(
        &mut self,
        request: &AdmissionRequest<'_>,
        resource: &Arc<Resource>,
    ) -> Result<Arc<Seen>> {
        let kind = GroupVersionKind::of(resource, request.subresource);
        if let Some(seen) = self.0.get(&kind) {
            return Ok(seen.clone());
        }
        let show = |object: &dyn Object, managed: &[u8]| {
            show(object, managed, request.resource, resource, request.subresource)
        };
        let object = request.object().map(|object| show(object, &request.managed)).transpose()?;
        let old = request.old.map(|old| show(old, request.old_managed)).transpose()?;
        let seen = Arc::new(Seen {
            resource: resource.clone(),
            kind: kind.clone(),
            object: object.unwrap_or_default(),
            old: old.unwrap_or_default(),
        });
        self.0.insert(kind, seen.clone());
        Ok(seen)
    }

    /// Forgets everything: the object has changed.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Whether what a subresource takes is a part of the object itself, and not of a kind of its own.
fn is_of_parent(resource: &Resource, subresource: &str) -> bool {
    let found = resource.subresources.iter().find(|found| found.name == subresource);
    found.is_none_or(|found| found.kind == resource.kind && found.group_version.is_none())
}

/// An object of one version as another shows it.
fn show(
    object: &dyn Object,
    managed: &[u8],
    from: &Arc<Resource>,
    to: &Arc<Resource>,
    subresource: &str,
) -> Result<Value> {
    let failed = |error: serde_json::Error| ApiError::internal(error);
    let mut tree = if Arc::ptr_eq(from, to) || !is_of_parent(from, subresource) {
        object.to_value().map_err(failed)?
    } else {
        let stored = object.encode().map_err(failed)?;
        to.strategy.decode_stored(&stored).map_err(failed)?.to_value().map_err(failed)?
    };
    if !managed.is_empty()
        && let Some(Value::Object(metadata)) = tree.get_mut("metadata")
        && let Ok(managed) = serde_json::from_slice(managed)
    {
        metadata.insert("managedFields".to_owned(), managed);
    }
    Ok(tree)
}

/// Puts a changed tree, of the version `seen`, in the place of the request's object. Managed fields
/// that make no sense are not taken, as in Kubernetes.
///
/// # Errors
/// When the tree is no object of its kind.
pub(super) fn replace(
    request: &mut AdmissionRequest<'_>,
    seen: &Seen,
    mut tree: Value,
) -> Result<()> {
    let resource = request.resource;
    let of_parent = is_of_parent(resource, request.subresource);
    let managed = take_managed(&mut tree);
    let Some(object) = request.object.as_deref_mut() else {
        return Err(ApiError::internal("there is no object to change"));
    };
    if !of_parent {
        return replace_other(object, tree);
    }
    let failed = |error: serde_json::Error| ApiError::internal(error);
    let json = serde_json::to_vec(&tree).map_err(failed)?;
    let mut changed = seen.resource.strategy.decode(&json).map_err(failed)?.object;
    if !Arc::ptr_eq(resource, &seen.resource) {
        let stored = changed.encode().map_err(failed)?;
        changed = resource.strategy.decode_stored(&stored).map_err(failed)?;
    }
    resource.strategy.default(changed.as_mut());
    // They travel beside the object.
    changed.meta_mut().managed_fields = None;
    *object = changed;
    if let Some(managed) = managed.filter(|managed| Managers::from_json(managed).is_ok()) {
        request.managed = Cow::Owned(managed.to_vec());
    }
    Ok(())
}

fn take_managed(tree: &mut Value) -> Option<Bytes> {
    let metadata = tree.get_mut("metadata").and_then(Value::as_object_mut)?;
    let entries = metadata.remove("managedFields")?;
    entries.is_array().then(|| serde_json::to_vec(&entries).ok().map(Bytes::from)).flatten()
}

/// The same for an object of a kind that subresources have.
fn replace_other(object: &mut Box<dyn Object>, tree: Value) -> Result<()> {
    fn decoded<T: Object + DeserializeOwned>(tree: Value) -> Result<Box<dyn Object>> {
        let decoded: T = crate::json::from_value(&tree).map_err(ApiError::internal)?;
        Ok(Box::new(decoded))
    }
    let any = object.as_any();
    *object = if any.is::<Scale>() {
        decoded::<Scale>(tree)?
    } else if any.is::<Binding>() {
        decoded::<Binding>(tree)?
    } else if any.is::<Eviction>() {
        decoded::<Eviction>(tree)?
    } else if any.is::<TokenRequest>() {
        decoded::<TokenRequest>(tree)?
    } else {
        return Err(ApiError::internal("the options of a connection cannot be changed"));
    };
    Ok(())
}
