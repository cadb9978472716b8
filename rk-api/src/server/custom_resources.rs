//! Follows CustomResourceDefinitions: serves what they define, says so in their status, and cleans up
//! when they go.
//!
//! One task looks at all definitions whenever one has changed. It first makes their objects readable
//! and their kinds served, and only then writes `Established` into the status: who sees that can use
//! the kind. Any number of servers can follow the same definitions; each serves them, and whoever
//! writes a status first spares the others that.

mod cleanup;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::{
    Inner,
    cache::{Observer, Table},
    info::RequestInfo,
    kinds::Snapshot,
    object::CachedObject,
    reader::Reader,
    registry::{Change, Current, Target},
    status::{ApiError, Result},
    user::UserInfo,
};
use crate::resources::{
    Object, Part, Resource,
    custom::{
        Family,
        definition::{CLEANUP, ESTABLISHED, NAMES_ACCEPTED, is_true, naming},
        fingerprints,
    },
};

/// How long a request for an unknown kind waits for a definition that was just written.
const SETTLED_WITHIN: Duration = Duration::from_secs(3);

/// Pause before the definitions are looked at again after something failed.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What is known of the definitions. See the module's documentation.
#[derive(Debug)]
pub(super) struct CustomResources {
    table: Option<Arc<Table>>,
    changed: Arc<Changed>,
    /// Every definition up to this revision was looked at.
    seen: watch::Sender<u64>,
    state: tokio::sync::Mutex<State>,
    /// Definitions whose objects are being deleted.
    cleaning: Mutex<HashSet<String>>,
}

/// What is served, by the definition's name.
#[derive(Debug, Default)]
struct State {
    families: BTreeMap<String, Family>,
    /// The definitions as they were last seen, so that only those that changed are decoded.
    definitions: HashMap<String, (u64, Arc<CustomResourceDefinition>)>,
}

/// Wakes the follower when a definition comes, changes or goes.
#[derive(Debug, Default)]
struct Changed(Notify);

impl Observer for Changed {
    fn changed(&self, _: Option<&Arc<CachedObject>>, _: Option<&Arc<CachedObject>>) {
        self.0.notify_one();
    }

    fn replaced(&self, _: &mut dyn Iterator<Item = &Arc<CachedObject>>) {
        self.0.notify_one();
    }
}

impl CustomResources {
    /// Follows the definitions of a server. A server of other kinds may have none.
    pub(super) fn of(reader: &Reader) -> Self {
        let changed = Arc::new(Changed::default());
        let table = reader.table::<CustomResourceDefinition>();
        if let Some(table) = &table {
            table.observe(changed.clone());
        }
        Self {
            table,
            changed,
            seen: watch::Sender::new(0),
            state: tokio::sync::Mutex::default(),
            cleaning: Mutex::default(),
        }
    }

    /// Waits until a definition that the store has was looked at.
    async fn settle(&self, server: &Inner, info: &RequestInfo) {
        let Some(table) = &self.table else { return };
        if server.registry.cache.fresh().await.is_err() {
            return;
        }
        let name = format!("{}.{}", info.resource, info.group);
        let Some(definition) = table.get(&table.resource.key(None, &name)) else { return };
        let mut seen = self.seen.subscribe();
        let looked_at = seen.wait_for(|seen| *seen >= definition.revision);
        // A slow store makes the kind unknown for longer.
        let _ = tokio::time::timeout(SETTLED_WITHIN, looked_at).await;
    }
}

/// The kinds for a request. One for a kind that is not served waits, if a definition of it is on
/// its way.
pub(super) async fn kinds(server: &Inner, info: &RequestInfo) -> Arc<Snapshot> {
    let kinds = server.kinds.now();
    let is_known = |kinds: &Snapshot| {
        !info.is_resource
            || info.group.is_empty()
            || kinds.resources.get(&info.group, &info.version, &info.resource).is_some()
    };
    if is_known(&kinds) {
        return kinds;
    }
    server.custom_resources.settle(server, info).await;
    server.kinds.now()
}

/// Serves the definitions that there are, and follows them until the server ends.
pub(super) async fn start(server: &Arc<Inner>) -> Result<()> {
    sync(server).await?;
    tokio::spawn(follow(
        Arc::downgrade(server),
        server.custom_resources.changed.clone(),
        server.shutdown.clone(),
    ));
    Ok(())
}

async fn follow(
    server: Weak<Inner>,
    changed: Arc<Changed>,
    shutdown: tokio_util::sync::CancellationToken,
) {
    while shutdown.run_until_cancelled(changed.0.notified()).await.is_some() {
        let Some(server) = server.upgrade() else { return };
        if let Err(error) = sync(&server).await {
            tracing::warn!(%error, "cannot follow the definitions of custom resources");
            changed.0.notify_one();
            drop(server);
            if shutdown.run_until_cancelled(tokio::time::sleep(RETRY_AFTER)).await.is_none() {
                return;
            }
        }
    }
}

/// Looks at all definitions once.
async fn sync(server: &Arc<Inner>) -> Result<()> {
    let custom = &server.custom_resources;
    let Some(table) = &custom.table else { return Ok(()) };
    let mut state = custom.state.lock().await;
    let revision = server.registry.cache.revision();
    let definitions = state.read(table)?;
    serve(server, &mut state, &definitions).await?;
    for definition in &definitions {
        let name = definition.metadata.name.as_deref().unwrap_or_default();
        if definition.metadata.deletion_timestamp.is_some() {
            cleanup::begin(server, definition);
        } else {
            let mut wanted = CustomResourceDefinition::clone(definition);
            if naming::update_status(&mut wanted, definitions.iter().map(AsRef::as_ref)) {
                write_status(server, name, |found| {
                    naming::update_status(found, definitions.iter().map(AsRef::as_ref));
                })
                .await?;
            }
        }
    }
    custom.seen.send_modify(|seen| *seen = revision.max(*seen));
    Ok(())
}

impl State {
    /// The definitions of the table, those that were made first first: they take their names before
    /// others do.
    fn read(&mut self, table: &Table) -> Result<Vec<Arc<CustomResourceDefinition>>> {
        let page = table.list(&Default::default(), None, 0, 0);
        let mut found = HashMap::with_capacity(page.items.len());
        for item in page.items {
            let known = self.definitions.remove(item.name());
            let definition = match known.filter(|(revision, _)| *revision == item.revision) {
                Some((_, definition)) => definition,
                None => Arc::new(decode(&item)?),
            };
            found.insert(item.name().to_owned(), (item.revision, definition));
        }
        self.definitions = found;
        let mut all: Vec<_> =
            self.definitions.values().map(|(_, definition)| definition.clone()).collect();
        all.sort_by(|a, b| {
            let age = |it: &CustomResourceDefinition| {
                (it.metadata.creation_timestamp.clone(), it.metadata.name.clone())
            };
            age(a).cmp(&age(b))
        });
        Ok(all)
    }
}

fn decode(object: &CachedObject) -> Result<CustomResourceDefinition> {
    serde_json::from_slice(&object.stored.plain())
        .map_err(|error| ApiError::internal(format!("{}: {error}", object.key)))
}

/// Serves what the definitions define: what changed is compiled, loaded and published.
async fn serve(
    server: &Arc<Inner>,
    state: &mut State,
    definitions: &[Arc<CustomResourceDefinition>],
) -> Result<()> {
    let cache = &server.registry.cache;
    let mut families = BTreeMap::new();
    let mut changed = false;
    for definition in definitions {
        // As it will be once its status is written.
        let mut wanted = CustomResourceDefinition::clone(definition);
        naming::update_status(&mut wanted, definitions.iter().map(AsRef::as_ref));
        if !is_true(&wanted, ESTABLISHED) && !is_true(&wanted, NAMES_ACCEPTED) {
            continue;
        }
        let name = wanted.metadata.name.clone().unwrap_or_default();
        let known = state.families.remove(&name);
        let (fingerprint, data_fingerprint) = fingerprints(&wanted);
        let is_same = |family: &Family| family.fingerprint == fingerprint;
        let family = match known {
            Some(known) if is_same(&known) => known,
            known => {
                let Some(family) = Family::of(&wanted) else { continue };
                let same_data = |known: &Family| known.data_fingerprint == data_fingerprint;
                if !known.as_ref().is_some_and(same_data) {
                    cache.attach(family.stored.clone()).await?;
                }
                changed = true;
                family
            }
        };
        families.insert(name, family);
    }
    let gone = std::mem::replace(&mut state.families, families);
    if changed || !gone.is_empty() {
        let rows = state.families.values().flat_map(|family| family.rows.iter().cloned());
        server.kinds.serve(rows);
    }
    for family in gone.values() {
        cache.detach(&family.stored.key_prefix);
    }
    Ok(())
}

/// Changes the status of a definition, and what else goes with it. A definition that is gone is
/// left alone.
async fn write_status(
    server: &Inner,
    name: &str,
    change: impl Fn(&mut CustomResourceDefinition) + Send + Sync,
) -> Result<()> {
    let Some(resource) = definitions(server) else { return Ok(()) };
    let user = UserInfo::new("system:apiserver", ["system:masters"]);
    let target = Target {
        resource,
        subresource: "status",
        namespace: None,
        name,
        user: &user,
        dry_run: false,
        manager: "kube-apiserver",
        context: None,
    };
    let changed = |before: Option<&Current>| {
        let before = before.ok_or_else(|| target.not_found())?;
        let mut object = before.object.boxed_clone();
        if let Some(definition) = object.as_any_mut().downcast_mut::<CustomResourceDefinition>() {
            change(definition);
        }
        Ok(Change::from(object))
    };
    match server.registry.update(&target, Part::Status, changed).await {
        Ok(updated) => {
            // What comes next is decided from the cache.
            server.registry.cache.wait_for(updated.object.revision).await?;
            Ok(())
        }
        Err(error) if error.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

/// The row of definitions.
fn definitions(server: &Inner) -> Option<&Arc<Resource>> {
    server.reader.resource::<CustomResourceDefinition>()
}

/// Whether the definition is kept until its objects are gone.
fn is_kept(definition: &CustomResourceDefinition) -> bool {
    let finalizers = definition.meta().finalizers.as_deref().unwrap_or_default();
    finalizers.iter().any(|name| name == CLEANUP)
}
