//! Creating an object.

use std::sync::Arc;

use rk_store::{Expect, StoreError};

use super::{Change, ManagedFields, Registry, Target, WriteError};
use crate::{
    clock,
    field::Path,
    meta::validate_metadata,
    resources::Object,
    rng,
    server::{
        admission::{AdmissionRequest, Operation},
        object::{CachedObject, Stored},
        status::{ApiError, Result, Subject},
    },
};

/// How many names are tried for an object with `generateName` (KEP-4420).
const NAME_TRIES: usize = 8;

/// The longest generated name, and how much of it is random.
const GENERATED_NAME_MAX: usize = 63;
const SUFFIX_LENGTH: usize = 5;

impl Registry {
    /// Creates an object. `target.name` is not looked at: the name is the object's own, or made
    /// from its `generateName`.
    pub(crate) async fn create(
        &self,
        target: &Target<'_>,
        object: Box<dyn Object>,
    ) -> Result<Arc<CachedObject>> {
        self.create_as(target, object.into()).await
    }

    /// The same for an object that comes with managed fields.
    pub(crate) async fn create_as(
        &self,
        target: &Target<'_>,
        Change { object, managed }: Change,
    ) -> Result<Arc<CachedObject>> {
        let managed = match managed {
            ManagedFields::Known(managed) => managed,
            ManagedFields::Sent(sent) => {
                self.tracker.created(target, object.as_ref(), sent.as_deref())
            }
        };
        self.create_managed(target, object, managed).await
    }

    async fn create_managed(
        &self,
        target: &Target<'_>,
        mut object: Box<dyn Object>,
        managed: Vec<u8>,
    ) -> Result<Arc<CachedObject>> {
        let given = object.meta().name.clone().unwrap_or_default();
        let named = Target { name: &given, ..*target };
        let mut admission = AdmissionRequest {
            object: Some(&mut object),
            managed: managed.into(),
            ..named.admission(Operation::Create)
        };
        self.admission.mutate(&mut admission).await?;
        let managed = &*admission.managed.into_owned();
        let prefix = object.meta().generate_name.clone().filter(|prefix| !prefix.is_empty());
        // Admission may have given it a name, too.
        let is_named = object.meta().name.as_deref().is_some_and(|name| !name.is_empty());
        match prefix.filter(|_| !is_named) {
            None => self.create_named(target, object, managed).await,
            Some(prefix) => {
                let mut tries = 0;
                loop {
                    tries += 1;
                    let mut named = object.boxed_clone();
                    named.meta_mut().name = Some(generated_name(&prefix));
                    match self.create_named(target, named, managed).await {
                        Err(error) if error.reason == "AlreadyExists" && tries < NAME_TRIES => {}
                        result => return result,
                    }
                }
            }
        }
    }

    async fn create_named(
        &self,
        target: &Target<'_>,
        mut object: Box<dyn Object>,
        managed: &[u8],
    ) -> Result<Arc<CachedObject>> {
        let name = object.meta().name.clone().unwrap_or_default();
        let target = &Target { name: &name, ..*target };
        let version = object.meta().resource_version.as_deref().unwrap_or_default();
        if !version.is_empty() && version != "0" {
            return Err(ApiError::plain(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        fill_metadata(object.as_mut(), target.namespace);
        target.resource.strategy.prepare_create(object.as_mut());
        // What is allocated is given back unless the object is stored in the end.
        let allocation = self.services.allocate(target, object.as_mut(), None).await?;
        let stored = self.store_new(target, &mut object, managed).await;
        allocation.after(&stored).await;
        match stored {
            Ok(created) => Ok(created),
            Err(WriteError::Api(error)) => Err(error),
            Err(WriteError::Store(StoreError::Conflict { found, .. })) => {
                let mut error = ApiError::already_exists(&Subject::plural(target.resource), &name);
                let found = self.current_of(target, found.map(|found| *found)).await?;
                if found.is_some_and(|found| found.object.meta().deletion_timestamp.is_some()) {
                    error.message = format!("object is being deleted: {}", error.message);
                }
                Err(error)
            }
            Err(WriteError::Store(error)) => Err(error.into()),
        }
    }

    async fn store_new(
        &self,
        target: &Target<'_>,
        object: &mut Box<dyn Object>,
        managed: &[u8],
    ) -> std::result::Result<Arc<CachedObject>, WriteError> {
        self.validate_create(target, object, managed).await?;
        let stored = Stored::encode(object.as_mut(), managed)?;
        self.put(target, object.as_ref(), stored, Expect::Absent).await
    }

    async fn validate_create(
        &self,
        target: &Target<'_>,
        object: &mut Box<dyn Object>,
        managed: &[u8],
    ) -> Result<()> {
        let strategy = target.resource.strategy.as_ref();
        let namespaced = target.resource.namespaced;
        let path = Path::new("metadata");
        let mut errors = validate_metadata(object.meta(), namespaced, strategy, &path);
        errors.extend(strategy.validate(object.as_ref()));
        errors.extend(strategy.validate_create(object.as_ref()));
        if !errors.is_empty() {
            return Err(ApiError::invalid(&Subject::kind(target.resource), target.name, &errors));
        }
        target.warn(strategy.warnings(object.as_ref(), None));
        let admission = AdmissionRequest {
            object: Some(object),
            managed: managed.into(),
            ..target.admission(Operation::Create)
        };
        self.admission.validate(&admission).await
    }
}

/// Sets what the server alone decides (apimachinery's `FillObjectMetaSystemFields`).
fn fill_metadata(object: &mut dyn Object, namespace: Option<&str>) {
    let meta = object.meta_mut();
    meta.namespace = namespace.map(ToOwned::to_owned);
    meta.uid = Some(rng::uuid());
    meta.creation_timestamp = Some(clock::now_seconds());
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.resource_version = None;
    meta.self_link = None;
    meta.managed_fields = None;
    meta.generation = None;
}

fn generated_name(prefix: &str) -> String {
    let mut end = prefix.len().min(GENERATED_NAME_MAX - SUFFIX_LENGTH);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &prefix[..end], rng::suffix(SUFFIX_LENGTH))
}
