//! Objects in the store: creating, changing and deleting them, each as kube-apiserver's generic
//! registry does it. Handlers decode and encode; what happens to an object is here.

mod create;
mod delete;
mod update;

pub(super) use update::{Change, ManagedFields};

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use rk_store::{Expect, Revision, Store, StoreError, Versioned};

use super::{
    admission::{AdmissionRequest, CONFIGURATION_GROUP, Chain, Operation, Rounds},
    allocator::{Allocation, Services},
    cache::{Cache, Table},
    context::Context,
    custom_resources::Converter,
    managed_fields::Tracker,
    object::{CachedObject, Stored},
    status::{ApiError, Result, Subject},
    user::UserInfo,
};
use crate::{
    apply::{Filter, Write},
    resources::{Object, Resource},
};

/// How long an Event is kept unless told otherwise, as in kube-apiserver (`--event-ttl`).
pub(super) const EVENT_TTL: std::time::Duration = std::time::Duration::from_secs(3600);

/// Tries of an update before its conflict is the client's: other writers must win so often in a
/// row.
const UPDATE_TRIES: usize = 8;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Registry {
    /// Where objects are read.
    pub cache: Arc<Cache>,
    /// How long Events are kept.
    pub event_ttl: std::time::Duration,
    /// The plug-ins that see each write.
    pub admission: Chain,
    /// Addresses and ports of Services.
    pub services: Services,
    /// Who manages which fields.
    pub tracker: Tracker,
    /// Asks webhooks for other versions of custom objects.
    pub converter: Arc<Converter>,
}

/// What a write is about, and who makes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    /// The kind.
    pub resource: &'a Arc<Resource>,
    /// The subresource; empty for the object itself.
    pub subresource: &'a str,
    /// The namespace; `None` for cluster scope.
    pub namespace: Option<&'a str>,
    /// The name; empty while it is to be generated.
    pub name: &'a str,
    /// Who asks.
    pub user: &'a UserInfo,
    /// Whether to stop short of storing.
    pub dry_run: bool,
    /// The name under which the writer manages fields.
    pub manager: &'a str,
    /// The request that makes it; `None` for what the server itself writes.
    pub context: Option<&'a Context>,
}

/// An object as the store has it.
#[derive(Debug)]
pub(super) struct Current {
    /// The object, with its version in its metadata.
    pub object: Box<dyn Object>,
    /// Its bytes.
    pub stored: Stored,
    /// Its managed fields, which the object does not have.
    pub managed: Bytes,
    /// Its version.
    pub revision: Revision,
}

impl Target<'_> {
    /// The write as managed fields see it.
    pub(super) fn write<'a>(
        &'a self,
        api_version: &'a str,
        filter: &'a Filter,
        now: &'a str,
    ) -> Write<'a> {
        let (manager, subresource) = (self.manager, self.subresource);
        Write { manager, api_version, subresource, filter, now }
    }

    /// Tells the client, if there is one.
    pub(super) fn warn(&self, warnings: impl IntoIterator<Item = String>) {
        if let Some(context) = self.context {
            warnings.into_iter().for_each(|warning| context.warnings.add(warning));
        }
    }

    /// The object's key.
    pub(super) fn key(&self) -> String {
        self.resource.key(self.namespace, self.name)
    }

    /// The write as admission sees it.
    pub(super) fn admission(&self, operation: Operation) -> AdmissionRequest<'_> {
        AdmissionRequest {
            operation,
            resource: self.resource,
            subresource: self.subresource,
            namespace: self.namespace,
            name: self.name,
            object: None,
            old: None,
            user: self.user,
            dry_run: self.dry_run,
            managed: Cow::Borrowed(&[]),
            old_managed: &[],
            deletion: None,
            context: self.context,
            rounds: Rounds::default(),
        }
    }

    /// How messages name it.
    pub(super) fn subject(&self) -> Subject {
        let mut subject = Subject::plural(self.resource);
        if !self.subresource.is_empty() && self.subresource != "status" {
            subject.kind = format!("{}/{}", self.resource.plural, self.subresource).into();
        }
        subject
    }

    /// The 404 for it.
    pub(super) fn not_found(&self) -> ApiError {
        ApiError::not_found(&Subject::plural(self.resource), self.name)
    }
}

impl Registry {
    fn store(&self) -> &Arc<dyn Store> {
        self.cache.store()
    }

    /// The object as the store has it.
    pub(super) async fn read(&self, target: &Target<'_>) -> Result<Option<Current>> {
        let found = self.store().get(&target.key()).await?;
        self.current_of(target, found).await
    }

    /// What the store has, decoded: in the version that the request is about.
    async fn current_of(
        &self,
        target: &Target<'_>,
        value: Option<Versioned>,
    ) -> Result<Option<Current>> {
        let Some(value) = value else { return Ok(None) };
        let stored = Stored::new(value.value.clone())
            .ok_or_else(|| ApiError::internal(format!("{} holds no object", value.key)))?;
        let stored = self.converter.read(target.resource, stored).await?;
        current(target, stored, &value).map(Some)
    }

    /// Writes an object, which `stored` encodes, and returns it as it is then.
    async fn put(
        &self,
        target: &Target<'_>,
        object: &dyn Object,
        stored: Stored,
        expect: Expect,
    ) -> std::result::Result<Arc<CachedObject>, WriteError> {
        let table = self.cache.table(target.resource)?;
        let key = target.key();
        let converted = self.converter.to_store(target.resource, &stored).await?;
        let strategy = &target.resource.strategy;
        let as_stored = strategy.custom().is_none() || strategy.is_shown_as_stored();
        let (stored, facts) = match converted {
            None if as_stored => (stored, Cache::facts(target.resource, object)),
            // What selectors look at is in the stored form.
            converted => {
                let stored = converted.unwrap_or(stored);
                let object = table.resource.strategy.decode_stored(&stored.plain());
                let object = object.map_err(ApiError::internal)?;
                (stored, Cache::facts(&table.resource, object.as_ref()))
            }
        };
        if target.dry_run {
            let revision = match expect {
                Expect::Revision(revision) => revision.0,
                Expect::Absent | Expect::Any => 0,
            };
            return Ok(Arc::new(table.object(key.into(), stored, revision, facts)));
        }
        let ttl = (target.resource.plural == "events").then_some(self.event_ttl);
        self.cache.announce(&key, &stored, facts.clone());
        match self.store().put(&key, stored.bytes().clone(), expect, ttl).await {
            Ok(revision) => {
                self.cache.catch_up();
                self.in_force(target, revision).await;
                Ok(Arc::new(table.object(key.into(), stored, revision.0, facts)))
            }
            Err(error) => {
                self.cache.withdraw(&key);
                Err(error.into())
            }
        }
    }

    /// Asks admission about what is no object of the store: a binding, an eviction, a connection.
    pub(super) async fn admit(
        &self,
        target: &Target<'_>,
        operation: Operation,
        object: &mut Box<dyn Object>,
    ) -> Result<()> {
        let mut request = AdmissionRequest { object: Some(object), ..target.admission(operation) };
        self.admission.mutate(&mut request).await?;
        self.admission.validate(&request).await
    }

    /// A change of roles, of bindings, or of what configures admission counts for the request that
    /// follows its answer: it waits until the cache, which these follow, has it.
    async fn in_force(&self, target: &Target<'_>, revision: Revision) {
        let group = target.resource.group.as_ref();
        if [super::authz::rbac::GROUP, CONFIGURATION_GROUP].contains(&group) {
            // The write has happened; a slow store only makes it count a little later.
            let _ = self.cache.wait_for(revision.0).await;
        }
    }

    fn table(&self, target: &Target<'_>) -> Result<Arc<Table>> {
        self.cache.table(target.resource)
    }
}

/// Decodes what the store has.
fn current(target: &Target<'_>, stored: Stored, value: &Versioned) -> Result<Current> {
    let decoded = target.resource.strategy.decode_stored(&stored.plain());
    let mut object =
        decoded.map_err(|error| ApiError::internal(format!("{}: {error}", value.key)))?;
    let meta = object.meta_mut();
    meta.resource_version = Some(value.modified.to_string());
    // Who else wrote it may have put them elsewhere.
    let managed = match meta.managed_fields.take() {
        Some(entries) => serde_json::to_vec(&entries).map_err(ApiError::internal)?.into(),
        None => stored.managed(),
    };
    Ok(Current { object, stored, managed, revision: value.modified })
}

/// Why a write failed: at the store, whose conflicts are tried again, or before.
#[derive(Debug)]
enum WriteError {
    Store(rk_store::StoreError),
    Api(ApiError),
}

impl Allocation {
    /// Keeps or gives back what a write took, by how it went.
    async fn after<T>(self, written: &std::result::Result<T, WriteError>) {
        match written {
            Ok(_) => self.keep().await,
            Err(WriteError::Store(StoreError::Unavailable { .. })) => self.leave(),
            Err(_) => self.undo().await,
        }
    }
}

impl From<rk_store::StoreError> for WriteError {
    fn from(error: rk_store::StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<ApiError> for WriteError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}
