//! Deleting an object: at once, after its grace period, or once its finalizers are done.

use std::sync::Arc;

use k8s_openapi::{
    api::core::v1::Namespace,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::{DeleteOptions, Time},
    jiff::SignedDuration,
};
use rk_store::{Expect, StoreError};

use super::{Current, Registry, Target, UPDATE_TRIES, WriteError};
use crate::{
    clock,
    resources::{Object, custom},
    server::{
        admission::{AdmissionRequest, Operation},
        cache::Cache,
        object::{CachedObject, Stored},
        status::{ApiError, Result, Subject},
    },
};

/// The finalizer that keeps an object until its dependents are orphaned.
const ORPHAN: &str = "orphan";

/// The finalizer that keeps an object until its dependents are deleted.
const FOREGROUND: &str = "foregroundDeletion";

/// What a deletion did.
#[derive(Clone, Debug)]
pub(crate) struct Deleted {
    /// The object as it was last.
    pub object: Arc<CachedObject>,
    /// Its UID.
    pub uid: Option<String>,
    /// Whether it is gone, and not only marked.
    pub gone: bool,
}

impl Registry {
    /// Deletes an object, or marks it as being deleted when something must happen first.
    pub(crate) async fn delete(
        &self,
        target: &Target<'_>,
        options: &DeleteOptions,
    ) -> Result<Deleted> {
        let mut found = self.read(target).await?;
        for _ in 0..UPDATE_TRIES {
            let Some(before) = found.take() else { return Err(target.not_found()) };
            check_preconditions(target, &before, options)?;
            self.admit_deletion(target, &before, options).await?;
            let latest = match self.delete_version(target, &before, options).await {
                Ok(deleted) => return Ok(deleted),
                Err(WriteError::Api(error)) => return Err(error),
                Err(WriteError::Store(StoreError::Conflict { found, .. })) => found,
                Err(WriteError::Store(error)) => return Err(error.into()),
            };
            found = self.current_of(target, latest.map(|latest| *latest)).await?;
        }
        Err(ApiError::modified(&target.subject(), target.name))
    }

    async fn admit_deletion(
        &self,
        target: &Target<'_>,
        before: &Current,
        options: &DeleteOptions,
    ) -> Result<()> {
        let mut admission = AdmissionRequest {
            old: Some(before.object.as_ref()),
            old_managed: &before.managed,
            deletion: Some(options),
            ..target.admission(Operation::Delete)
        };
        // There is nothing to change, but mutating webhooks are asked all the same.
        self.admission.mutate(&mut admission).await?;
        self.admission.validate(&admission).await
    }

    async fn delete_version(
        &self,
        target: &Target<'_>,
        before: &Current,
        options: &DeleteOptions,
    ) -> std::result::Result<Deleted, WriteError> {
        let mut marked = before.object.boxed_clone();
        let plan = plan(target, marked.as_mut(), options);
        let uid = before.object.meta().uid.clone();
        match plan {
            Plan::Wait => {
                let object = self.unchanged(target, before)?;
                Ok(Deleted { object, uid, gone: false })
            }
            // It was marked before: there is nothing new to tell.
            Plan::Mark if Stored::encode(marked.as_mut(), &before.managed)? == before.stored => {
                let object = self.unchanged(target, before)?;
                Ok(Deleted { object, uid, gone: false })
            }
            Plan::Mark => {
                let expect = Expect::Revision(before.revision);
                let stored = Stored::encode(marked.as_mut(), &before.managed)?;
                let object = self.put(target, marked.as_ref(), stored, expect).await?;
                Ok(Deleted { object, uid, gone: false })
            }
            Plan::MarkAndRemove => {
                // Watchers see the deletion begin and end, also when nothing lies in between.
                let expect = Expect::Revision(before.revision);
                let stored = Stored::encode(marked.as_mut(), &before.managed)?;
                let written = self.put(target, marked.as_ref(), stored, expect).await?;
                let revision = rk_store::Revision(written.revision);
                let (stored, managed) = (written.stored.clone(), before.managed.clone());
                let marked = Current { object: marked, stored, managed, revision };
                let object = self.remove(target, &marked, marked.stored.clone()).await?;
                Ok(Deleted { object, uid, gone: true })
            }
            Plan::Remove => {
                let object = self.remove(target, before, before.stored.clone()).await?;
                Ok(Deleted { object, uid, gone: true })
            }
        }
    }

    pub(super) fn unchanged(
        &self,
        target: &Target<'_>,
        before: &Current,
    ) -> Result<Arc<CachedObject>> {
        let facts = Cache::facts(target.resource, before.object.as_ref());
        let stored = before.stored.clone();
        let table = self.table(target)?;
        Ok(Arc::new(table.object(target.key().into(), stored, before.revision.0, facts)))
    }

    /// Removes the object at the version `before`; the answer shows `last`.
    pub(super) async fn remove(
        &self,
        target: &Target<'_>,
        before: &Current,
        last: Stored,
    ) -> std::result::Result<Arc<CachedObject>, WriteError> {
        let key = target.key();
        let revision = if target.dry_run {
            before.revision
        } else {
            let expect = Expect::Revision(before.revision);
            let (revision, _) = self.store().delete(&key, expect).await?;
            self.cache.catch_up();
            self.in_force(target, revision).await;
            self.services.release(before.object.as_ref()).await;
            revision
        };
        let facts = Cache::facts(target.resource, before.object.as_ref());
        let table = self.table(target)?;
        Ok(Arc::new(table.object(key.into(), last, revision.0, facts)))
    }
}

fn check_preconditions(
    target: &Target<'_>,
    before: &Current,
    options: &DeleteOptions,
) -> Result<()> {
    let Some(preconditions) = &options.preconditions else { return Ok(()) };
    let uid = before.object.meta().uid.clone().unwrap_or_default();
    let version = before.revision.to_string();
    let checks = [
        ("UID", preconditions.uid.as_ref(), uid, "deleted and then recreated"),
        ("ResourceVersion", preconditions.resource_version.as_ref(), version, "modified"),
    ];
    for (what, asked, found, guess) in checks {
        if let Some(asked) = asked.filter(|asked| **asked != found) {
            let why = format!(
                "the {what} in the precondition ({asked}) does not match the {what} in record \
                 ({found}). The object might have been {guess}"
            );
            return Err(ApiError::conflict(&Subject::kind(target.resource), target.name, &why));
        }
    }
    Ok(())
}

/// What a deletion does to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// Nothing: the deletion is under way, and not to be hastened.
    Wait,
    /// Write the marked object, and leave the rest to whoever it waits for.
    Mark,
    /// Write the marked object, then remove it.
    MarkAndRemove,
    /// Remove the object.
    Remove,
}

/// Marks `object` as deleted, as far as it must wait for something, and says what to do.
fn plan(target: &Target<'_>, object: &mut dyn Object, options: &DeleteOptions) -> Plan {
    if let Some(namespace) = object.as_any_mut().downcast_mut::<Namespace>() {
        mark_namespace(namespace);
        let kept = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
        if kept.is_some_and(|finalizers| !finalizers.is_empty()) {
            set_finalizers(target, object, options);
            return Plan::Mark;
        }
    }
    if let Some(definition) = object.as_any_mut().downcast_mut::<CustomResourceDefinition>()
        && definition.metadata.deletion_timestamp.is_none()
    {
        custom::definition::mark_deleted(definition, clock::now_seconds());
        return Plan::Mark;
    }
    let graceful = match mark_graceful(target, object, options) {
        Grace::Pending => return Plan::Wait,
        Grace::None => None,
        Grace::Seconds(seconds) => Some(seconds),
    };
    set_finalizers(target, object, options);
    let finalizers_pend = object.meta().finalizers.as_ref().is_some_and(|list| !list.is_empty());
    match graceful {
        None if finalizers_pend => {
            mark_now(object);
            Plan::Mark
        }
        None => Plan::Remove,
        Some(seconds) if finalizers_pend || seconds > 0 => Plan::Mark,
        Some(_) => Plan::MarkAndRemove,
    }
}

fn mark_namespace(namespace: &mut Namespace) {
    if namespace.metadata.deletion_timestamp.is_none() {
        namespace.metadata.deletion_timestamp = Some(clock::now_seconds());
    }
    namespace.status.get_or_insert_default().phase = Some("Terminating".to_owned());
}

/// How a deletion waits for the object's grace period.
enum Grace {
    /// The kind has none, or it is over.
    None,
    /// It is under way already, and what was asked for does not shorten it.
    Pending,
    /// The object was marked with it.
    Seconds(i64),
}

/// apimachinery's `BeforeDelete`.
fn mark_graceful(target: &Target<'_>, object: &mut dyn Object, options: &DeleteOptions) -> Grace {
    let at_least = |seconds: i64| if seconds < 0 { 1 } else { seconds };
    let strategy = target.resource.strategy.as_ref();
    let Some(seconds) = strategy.grace_period_seconds(object, options).map(at_least) else {
        return Grace::None;
    };
    let now = clock::now_seconds();
    let meta = object.meta_mut();
    if let Some(Time(deleted_at)) = &meta.deletion_timestamp {
        let Some(current) = meta.deletion_grace_period_seconds else { return Grace::None };
        // Once it is being deleted, its grace period can only be made shorter.
        return match options.grace_period_seconds.map(at_least) {
            Some(shorter) if shorter < current => {
                let shift = SignedDuration::from_secs(shorter - current);
                let deleted_at = deleted_at.saturating_add(shift).unwrap_or(now.0);
                meta.deletion_timestamp = Some(Time(deleted_at));
                meta.deletion_grace_period_seconds = Some(shorter);
                Grace::Seconds(shorter)
            }
            _ => Grace::Pending,
        };
    }
    meta.generation = meta.generation.map(|generation| generation + 1);
    let deleted_at = now.0.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(now.0);
    meta.deletion_timestamp = Some(Time(deleted_at));
    meta.deletion_grace_period_seconds = Some(seconds);
    Grace::Seconds(seconds)
}

/// Marks an object that waits for finalizers only.
fn mark_now(object: &mut dyn Object) {
    let now = clock::now_seconds();
    let meta = object.meta_mut();
    if meta.deletion_timestamp.is_none() {
        meta.generation = meta.generation.map(|generation| generation + 1);
    }
    if meta.deletion_timestamp.as_ref().is_none_or(|at| at.0 > now.0) {
        meta.deletion_timestamp = Some(now);
    }
    meta.deletion_grace_period_seconds = Some(0);
}

/// Sets or takes away the garbage collector's finalizers as the options say.
fn set_finalizers(target: &Target<'_>, object: &mut dyn Object, options: &DeleteOptions) {
    let finalizers = object.meta().finalizers.clone().unwrap_or_default();
    let has = |name: &str| finalizers.iter().any(|found| found == name);
    // Events have no dependents.
    let collected = target.resource.plural != "events";
    let (orphan, foreground) =
        match (options.orphan_dependents, options.propagation_policy.as_deref()) {
            (Some(orphan), _) => (orphan, false),
            (None, Some("Orphan")) => (true, false),
            (None, Some("Foreground")) => (false, true),
            (None, Some(_)) => (false, false),
            (None, None) if has(ORPHAN) => (true, has(FOREGROUND)),
            (None, None) if has(FOREGROUND) => (false, true),
            (None, None) => (target.resource.strategy.orphan_by_default(), false),
        };
    let mut wanted: Vec<String> =
        finalizers.iter().filter(|name| *name != ORPHAN && *name != FOREGROUND).cloned().collect();
    if orphan && collected {
        wanted.push(ORPHAN.to_owned());
    }
    if foreground && collected {
        wanted.push(FOREGROUND.to_owned());
    }
    let mut before = finalizers;
    let mut after = wanted.clone();
    before.sort();
    after.sort();
    if before != after {
        object.meta_mut().finalizers = (!wanted.is_empty()).then_some(wanted);
    }
}
