//! Changing an object.

use std::sync::Arc;

use bytes::Bytes;
use rk_store::{Expect, StoreError};

use super::{Current, Registry, Target, UPDATE_TRIES, WriteError};
use crate::{
    apply::Managers,
    field::{ErrorList, FieldError, Path},
    meta::{addresses, validate_metadata, validate_metadata_update},
    resources::{Object, Part, Strategy},
    server::{
        admission::{AdmissionRequest, Operation},
        handlers::scale::scale_of,
        managed_fields::Conversions,
        object::{CachedObject, Stored},
        query::parse_version,
        status::{ApiError, Result, Subject},
    },
};
use k8s_openapi::api::{autoscaling::v1::Scale, core::v1::Namespace};

/// What an object is to become.
#[derive(Debug)]
pub(crate) struct Change {
    /// The object.
    pub object: Box<dyn Object>,
    /// Its managed fields.
    pub managed: ManagedFields,
}

/// The managed fields of an object that is to be written.
#[derive(Debug)]
pub(crate) enum ManagedFields {
    /// The write is to be recorded in these, which a client sent, or in those that the object has.
    Sent(Option<Bytes>),
    /// They are these.
    Known(Vec<u8>),
}

impl From<Box<dyn Object>> for Change {
    fn from(object: Box<dyn Object>) -> Self {
        Self { object, managed: ManagedFields::Sent(None) }
    }
}

/// What an update did.
#[derive(Clone, Debug)]
pub(crate) struct Updated {
    /// The object afterwards.
    pub object: Arc<CachedObject>,
    /// Whether it did not exist before.
    pub created: bool,
}

impl Registry {
    /// Changes an object: `change` makes the new one from the one there is. It is called again when
    /// another writer came in between, unless the new object names the version that it replaces.
    ///
    /// `change` is also asked when there is none, for kinds that a PUT may create.
    pub(crate) async fn update(
        &self,
        target: &Target<'_>,
        part: Part,
        mut change: impl FnMut(Option<&Current>) -> Result<Change> + Send,
    ) -> Result<Updated> {
        let mut found = self.read(target).await?;
        for _ in 0..UPDATE_TRIES {
            let Some(before) = found else {
                match self.create_as(target, change(None)?).await {
                    Ok(object) => return Ok(Updated { object, created: true }),
                    // Another writer was faster: then this is an update.
                    Err(error) if error.reason == "AlreadyExists" => {
                        found = self.read(target).await?;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            };
            let new = change(Some(&before))?;
            match self.replace(target, part, &before, new).await {
                Ok(object) => return Ok(Updated { object, created: false }),
                Err(WriteError::Api(error)) => return Err(error),
                Err(WriteError::Store(StoreError::Conflict { found: latest, .. })) => {
                    found = self.current_of(target, latest.map(|latest| *latest)).await?;
                    if found.is_none() {
                        return Err(target.not_found());
                    }
                }
                Err(WriteError::Store(error)) => return Err(error.into()),
            }
        }
        Err(ApiError::modified(&target.subject(), target.name))
    }

    /// Changes an object in place, past its strategy and admission: for subresources, which say
    /// exactly what they change. Tried again when another writer came in between.
    pub(in crate::server) async fn modify(
        &self,
        target: &Target<'_>,
        change: impl Fn(&mut dyn Object) -> Result<()> + Send,
    ) -> Result<Arc<CachedObject>> {
        let mut found = self.read(target).await?;
        for _ in 0..UPDATE_TRIES {
            let Some(before) = found.take() else { return Err(target.not_found()) };
            let mut new = before.object.boxed_clone();
            change(new.as_mut())?;
            match self.write_changed(target, &before, new, &before.managed).await {
                Ok(object) => return Ok(object),
                Err(WriteError::Api(error)) => return Err(error),
                Err(WriteError::Store(StoreError::Conflict { found: latest, .. })) => {
                    found = self.current_of(target, latest.map(|latest| *latest)).await?;
                }
                Err(WriteError::Store(error)) => return Err(error.into()),
            }
        }
        Err(ApiError::modified(&target.subject(), target.name))
    }

    /// Stores what an object has become: nothing when nothing changed, its removal when the last
    /// thing went that kept it after its deletion.
    async fn write_changed(
        &self,
        target: &Target<'_>,
        before: &Current,
        mut new: Box<dyn Object>,
        managed: &[u8],
    ) -> std::result::Result<Arc<CachedObject>, WriteError> {
        let stored = Stored::encode(new.as_mut(), managed)?;
        if is_finished(new.as_ref(), before.object.as_ref()) {
            return self.remove(target, before, stored).await;
        }
        // An update that changes nothing writes nothing, so that nobody is told of it. The time of
        // an entry that has the same fields is nothing, too.
        if stored == before.stored
            || stored.is_same_object(&before.stored) && same_managers(managed, &before.managed)
        {
            return Ok(self.unchanged(target, before)?);
        }
        self.put(target, new.as_ref(), stored, Expect::Revision(before.revision)).await
    }

    async fn replace(
        &self,
        target: &Target<'_>,
        part: Part,
        before: &Current,
        change: Change,
    ) -> std::result::Result<Arc<CachedObject>, WriteError> {
        let Change { object: mut new, managed } = change;
        let managed = match managed {
            ManagedFields::Known(managed) => managed,
            ManagedFields::Sent(sent) => {
                self.track(target, part, before, new.as_mut(), sent.as_deref()).await
            }
        };
        let old = before.object.as_ref();
        check_version(target, new.as_ref(), before)?;
        keep_system_fields(new.as_mut(), old);
        let managed = self.mutate_update(target, before, &mut new, managed).await?;
        target.resource.strategy.prepare_update(new.as_mut(), old, part);
        let allocation = self.services.allocate(target, new.as_mut(), Some(old)).await?;
        let finished = is_finished(new.as_ref(), old);
        let written = match self.validate_update(target, part, before, &mut new, &managed).await {
            Ok(()) => self.write_changed(target, before, new, &managed).await,
            Err(error) => Err(error.into()),
        };
        if finished || target.dry_run {
            // The object is gone, with all that it had, or was not to be written.
            allocation.undo().await;
        } else {
            allocation.after(&written).await;
        }
        written
    }

    /// What the managed fields are after an update. A webhook that does not say what the object is
    /// in the versions of other managers does not keep it from being written: they stay as they are.
    async fn track(
        &self,
        target: &Target<'_>,
        part: Part,
        before: &Current,
        new: &mut dyn Object,
        sent: Option<&[u8]>,
    ) -> Vec<u8> {
        let conversions = Conversions::default();
        loop {
            let managed = self.tracker.updated(target, part, before, new, sent, &conversions);
            if !conversions.are_wanted() {
                return managed;
            }
            let kinds = self.tracker.kinds.now();
            let asked = conversions.ask(&self.converter, &kinds, target.resource).await;
            if let Err(error) = asked {
                tracing::warn!(%error, name = target.name, "cannot tell who manages what changed");
                return before.managed.to_vec();
            }
        }
    }

    /// Lets admission change the new object; returns its managed fields as they are then.
    async fn mutate_update(
        &self,
        target: &Target<'_>,
        before: &Current,
        new: &mut Box<dyn Object>,
        managed: Vec<u8>,
    ) -> Result<Vec<u8>> {
        if target.subresource == "scale" {
            self.mutate_scale(target, before, new.as_mut()).await?;
            return Ok(managed);
        }
        let mut admission = AdmissionRequest {
            object: Some(new),
            old: Some(before.object.as_ref()),
            managed: managed.into(),
            old_managed: &before.managed,
            ..target.admission(Operation::Update)
        };
        self.admission.mutate(&mut admission).await?;
        Ok(admission.managed.into_owned())
    }

    /// Admission of a scale sees scales, and can only change the replicas.
    async fn mutate_scale(
        &self,
        target: &Target<'_>,
        before: &Current,
        new: &mut dyn Object,
    ) -> Result<()> {
        let resource = target.resource;
        let old = scale_of(resource, before.object.as_ref())?;
        let mut scale: Box<dyn Object> = Box::new(scale_of(resource, new)?);
        let mut admission = AdmissionRequest {
            object: Some(&mut scale),
            old: Some(&old),
            ..target.admission(Operation::Update)
        };
        self.admission.mutate(&mut admission).await?;
        let scale = scale.as_any().downcast_ref::<Scale>();
        let replicas = scale.and_then(|scale| scale.spec.as_ref()?.replicas).unwrap_or(0);
        resource.strategy.set_replicas(new, replicas);
        Ok(())
    }

    async fn validate_scale(
        &self,
        target: &Target<'_>,
        new: &dyn Object,
        old: &dyn Object,
    ) -> Result<()> {
        let old = scale_of(target.resource, old)?;
        let mut scale: Box<dyn Object> = Box::new(scale_of(target.resource, new)?);
        let admission = AdmissionRequest {
            object: Some(&mut scale),
            old: Some(&old),
            ..target.admission(Operation::Update)
        };
        self.admission.validate(&admission).await
    }

    async fn validate_update(
        &self,
        target: &Target<'_>,
        part: Part,
        before: &Current,
        new: &mut Box<dyn Object>,
        managed: &[u8],
    ) -> Result<()> {
        let old = before.object.as_ref();
        let strategy = target.resource.strategy.as_ref();
        let path = Path::new("metadata");
        let mut errors = validate_metadata(new.meta(), target.resource.namespaced, strategy, &path);
        // Twice, as Kubernetes does: for every kind, and for this one.
        let of_metadata = validate_metadata_update(new.meta(), old.meta(), &path);
        errors.extend(of_metadata.clone());
        errors.extend(of_metadata);
        // A status is judged by itself: the rest of the object was let in before, perhaps by older
        // rules.
        if part != Part::Status || strategy.custom().is_some() {
            errors.extend(judged_again(strategy, new.as_ref(), old));
        }
        let (wrong, forgiven) = strategy.judge_update(new.as_ref(), old, part);
        errors.extend(wrong);
        target.warn(forgiven.iter().map(ToString::to_string));
        if !errors.is_empty() {
            return Err(ApiError::invalid(&Subject::kind(target.resource), target.name, &errors));
        }
        if part == Part::Main {
            target.warn(strategy.warnings(new.as_ref(), Some(old)));
        }
        if target.subresource == "scale" {
            return self.validate_scale(target, new.as_ref(), old).await;
        }
        let admission = AdmissionRequest {
            object: Some(new),
            old: Some(old),
            managed: managed.into(),
            old_managed: &before.managed,
            ..target.admission(Operation::Update)
        };
        self.admission.validate(&admission).await
    }
}

/// What is wrong with an object that was there before. An address that is refused by now is left
/// alone if it was in it already (KEP-4858).
fn judged_again(strategy: &dyn Strategy, new: &dyn Object, old: &dyn Object) -> ErrorList {
    let mut errors = strategy.validate(new);
    let was_once_valid = |error: &FieldError| addresses::was_once_valid(&error.detail);
    if errors.iter().any(was_once_valid) {
        let before = strategy.validate(old);
        let was_there = |error: &FieldError| {
            before.iter().any(|was| was.detail == error.detail && was.value == error.value)
        };
        errors.retain(|error| !was_once_valid(error) || !was_there(error));
    }
    errors
}

/// Whether the same managers have the same fields, whenever they got them.
fn same_managers(new: &[u8], old: &[u8]) -> bool {
    new == old
        || match (Managers::from_json(new), Managers::from_json(old)) {
            (Ok(new), Ok(old)) => new.same_fields(&old),
            _ => false,
        }
}

/// Refuses a new object that replaces another version than there is.
fn check_version(target: &Target<'_>, new: &dyn Object, before: &Current) -> Result<()> {
    let meta = new.meta();
    let version = parse_version(meta.resource_version.as_deref().unwrap_or_default())?;
    if version == 0 && !target.resource.strategy.unconditional_update() {
        let path = Path::new("metadata.resourceVersion");
        let error = FieldError::invalid(&path, 0, "must be specified for an update");
        return Err(ApiError::invalid(
            &Subject::plural(target.resource),
            target.name,
            &vec![error],
        ));
    }
    if version != 0 && version != before.revision.0 {
        return Err(ApiError::modified(&target.subject(), target.name));
    }
    Ok(())
}

/// Puts back what no client may change (apimachinery's `BeforeUpdate`).
fn keep_system_fields(new: &mut dyn Object, old: &dyn Object) {
    let old = old.meta();
    let meta = new.meta_mut();
    meta.generation = old.generation;
    meta.self_link = None;
    meta.managed_fields = None;
    meta.creation_timestamp = old.creation_timestamp.clone().or(meta.creation_timestamp.take());
    if meta.uid.as_deref().unwrap_or_default().is_empty() {
        meta.uid.clone_from(&old.uid);
    }
    if old.deletion_timestamp.is_some() {
        meta.deletion_timestamp.clone_from(&old.deletion_timestamp);
    }
    if meta.deletion_grace_period_seconds.is_none() {
        meta.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    }
}

/// Whether the update took the last thing away that kept a deleted object.
fn is_finished(new: &dyn Object, old: &dyn Object) -> bool {
    let (meta, old) = (new.meta(), old.meta());
    let namespace = new.as_any().downcast_ref::<Namespace>();
    let spec = namespace.and_then(|namespace| namespace.spec.as_ref());
    let kept_by_spec =
        spec.and_then(|spec| spec.finalizers.as_ref()).is_some_and(|f| !f.is_empty());
    old.deletion_timestamp.is_some()
        && old.deletion_grace_period_seconds.unwrap_or(0) == 0
        && meta.finalizers.as_ref().is_none_or(Vec::is_empty)
        && !kept_by_spec
}
