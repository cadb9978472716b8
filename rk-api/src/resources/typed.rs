//! A [`Strategy`] made from a [`Kind`].

use std::{marker::PhantomData, sync::Arc};

use k8s_openapi::{
    api::autoscaling::v1::Scale,
    apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta},
    jiff::Timestamp,
};
use serde_json::Value;

use super::{Decoded, Fields, Kind, Object, Part, Strategy, decode::decode};
use crate::field::ErrorList;

/// The [`Strategy`] of a built-in [`Kind`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Typed<K>(PhantomData<K>);

impl<K: Kind> Typed<K> {
    /// As a table row holds it.
    pub fn shared() -> Arc<dyn Strategy> {
        Arc::new(Self(PhantomData))
    }
}

fn typed<K: Kind>(object: &dyn Object) -> Option<&K::Object> {
    object.as_any().downcast_ref()
}

fn typed_mut<K: Kind>(object: &mut dyn Object) -> Option<&mut K::Object> {
    object.as_any_mut().downcast_mut()
}

/// What is empty is not there: a patch may have taken the last label or finalizer.
pub(super) fn drop_empty(meta: &mut ObjectMeta) {
    for map in [&mut meta.labels, &mut meta.annotations] {
        map.take_if(|map| map.is_empty());
    }
    meta.finalizers.take_if(|list| list.is_empty());
    meta.owner_references.take_if(|list| list.is_empty());
    meta.managed_fields.take_if(|list| list.is_empty());
    for text in [
        &mut meta.name,
        &mut meta.generate_name,
        &mut meta.namespace,
        &mut meta.uid,
        &mut meta.resource_version,
        &mut meta.self_link,
    ] {
        text.take_if(|text| text.is_empty());
    }
}

/// Puts back the metadata that a status has nothing to do with, for kinds whose status changes
/// nothing else (apimachinery's `ResetObjectMetaForStatus`).
pub(super) fn keep_metadata(new: &mut ObjectMeta, old: &ObjectMeta) {
    new.deletion_timestamp.clone_from(&old.deletion_timestamp);
    new.generation = old.generation;
    new.labels.clone_from(&old.labels);
    new.annotations.clone_from(&old.annotations);
    new.finalizers.clone_from(&old.finalizers);
    new.owner_references.clone_from(&old.owner_references);
}

impl<K: Kind> Strategy for Typed<K> {
    fn decode(&self, json: &[u8]) -> Result<Decoded, serde_json::Error> {
        let (mut object, strict_errors) = decode::<K::Object>(json)?;
        drop_empty(object.meta_mut());
        Ok(Decoded { object: Box::new(object), strict_errors })
    }

    fn decode_stored(&self, json: &[u8]) -> Result<Box<dyn Object>, serde_json::Error> {
        let plain = std::str::from_utf8(json).ok();
        match plain.and_then(|json| serde_json::from_str::<K::Object>(json).ok()) {
            Some(object) => Ok(Box::new(object)),
            // Another server wrote it, in a form that only Go takes.
            None => self.decode(json).map(|decoded| decoded.object),
        }
    }

    fn deprecation(&self) -> Option<&str> {
        K::DEPRECATION
    }

    fn default(&self, object: &mut dyn Object) {
        if let Some(object) = typed_mut::<K>(object) {
            <K as Kind>::default(object);
        }
    }

    fn prepare_create(&self, object: &mut dyn Object) {
        if let Some(object) = typed_mut::<K>(object) {
            K::prepare_create(object);
        }
    }

    fn prepare_update(&self, new: &mut dyn Object, old: &dyn Object, part: Part) {
        if let (Some(new), Some(old)) = (typed_mut::<K>(new), typed::<K>(old)) {
            K::prepare_update(new, old, part);
        }
    }

    fn validate(&self, object: &dyn Object) -> ErrorList {
        typed::<K>(object).map(K::validate).unwrap_or_default()
    }

    fn validate_create(&self, object: &dyn Object) -> ErrorList {
        typed::<K>(object).map(K::validate_create).unwrap_or_default()
    }

    fn validate_update(&self, new: &dyn Object, old: &dyn Object, part: Part) -> ErrorList {
        match (typed::<K>(new), typed::<K>(old)) {
            (Some(new), Some(old)) => K::validate_update(new, old, part),
            _ => ErrorList::new(),
        }
    }

    fn validate_name(&self, name: &str, generate_prefix: bool) -> Vec<String> {
        K::validate_name(name, generate_prefix)
    }

    fn fields(&self, object: &dyn Object) -> Fields {
        typed::<K>(object).map(K::fields).unwrap_or_default()
    }

    fn field_names(&self) -> &'static [&'static str] {
        K::FIELDS
    }

    fn cells(&self, object: &dyn Object, now: Timestamp) -> Vec<Value> {
        typed::<K>(object).map(|object| K::cells(object, now)).unwrap_or_default()
    }

    fn warnings(&self, object: &dyn Object) -> Vec<String> {
        typed::<K>(object).map(K::warnings).unwrap_or_default()
    }

    fn grace_period_seconds(&self, object: &dyn Object, options: &DeleteOptions) -> Option<i64> {
        typed::<K>(object).and_then(|object| K::grace_period_seconds(object, options))
    }

    fn scale(&self, object: &dyn Object) -> Option<Scale> {
        typed::<K>(object).and_then(K::scale)
    }

    fn set_replicas(&self, object: &mut dyn Object, replicas: i32) {
        if let Some(object) = typed_mut::<K>(object) {
            K::set_replicas(object, replicas);
        }
    }

    fn orphan_by_default(&self) -> bool {
        K::ORPHAN_BY_DEFAULT
    }

    fn create_on_update(&self) -> bool {
        K::CREATE_ON_UPDATE
    }

    fn unconditional_update(&self) -> bool {
        K::UNCONDITIONAL_UPDATE
    }
}
