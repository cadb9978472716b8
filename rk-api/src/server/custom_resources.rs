//! Follows CustomResourceDefinitions: serves what they define, says so in their status, and cleans up
//! when they go.
//!
//! One task looks at all definitions whenever one has changed: it loads their objects, writes their
//! status, and then serves their kinds. A request for a kind that is not served waits as long as a
//! definition has not been looked at, and so does discovery: who has seen `Established` can use the
//! kind, and who can use it sees that it is established. Any number of servers can follow the same
//! definitions; each serves them, and whoever writes a status first spares the others that.

mod cleanup;
mod conversion;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionNames,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

pub(super) use self::conversion::Converter;

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
    /// The UIDs of definitions whose objects are being deleted.
    cleaning: Mutex<HashSet<String>>,
}

/// What is known of each definition and what it is served as, by its name.
#[derive(Debug, Default)]
struct State {
    known: HashMap<String, Known>,
    families: BTreeMap<String, Family>,
}

/// What is kept of a definition that was looked at: definitions are large.
#[derive(Debug)]
struct Known {
    revision: u64,
    group: String,
    accepted: Option<CustomResourceDefinitionNames>,
    /// Whether it has the names that it wants, so that others cannot matter to it.
    settled: bool,
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

    /// Waits until the definition of a kind was looked at, if the store has one.
    async fn settle(&self, server: &Inner, info: &RequestInfo) {
        let Some(table) = &self.table else { return };
        if server.registry.cache.fresh().await.is_err() {
            return;
        }
        let name = format!("{}.{}", info.resource, info.group);
        if let Some(definition) = table.get(&table.resource.key(None, &name)) {
            self.wait_for(definition.revision).await;
        }
    }

    /// Waits until all definitions that the store has were looked at.
    async fn settle_all(&self, server: &Inner) {
        let Some(table) = &self.table else { return };
        // Of a store that does not answer, what is known so far is as good as it gets.
        let _ = server.registry.cache.fresh().await;
        self.wait_for(table.revision()).await;
    }

    async fn wait_for(&self, revision: u64) {
        if *self.seen.borrow() >= revision {
            return;
        }
        let mut seen = self.seen.subscribe();
        let looked_at = seen.wait_for(|seen| *seen >= revision);
        // A slow store makes the kind unknown for longer.
        let _ = tokio::time::timeout(SETTLED_WITHIN, looked_at).await;
    }
}

/// The kinds for a request. One for a kind that is not served waits, if a definition of it is on
/// its way; one that asks what there is waits for all of them.
pub(super) async fn kinds(server: &Inner, info: &RequestInfo) -> Arc<Snapshot> {
    let kinds = server.kinds.now();
    if !info.is_resource {
        if info.path.starts_with("/apis") || info.path.starts_with("/openapi") {
            server.custom_resources.settle_all(server).await;
            return server.kinds.now();
        }
        return kinds;
    }
    let is_known = info.group.is_empty()
        || kinds.resources.get(&info.group, &info.version, &info.resource).is_some();
    if is_known {
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

/// Looks at the definitions that changed, and at those to which that may matter: writes their status
/// and serves what they define.
///
/// One that fails keeps the others from nothing. It is looked at again.
async fn sync(server: &Arc<Inner>) -> Result<()> {
    let custom = &server.custom_resources;
    let Some(table) = &custom.table else { return Ok(()) };
    let mut state = custom.state.lock().await;
    // The table may be ahead of what the whole cache has reached: what counts is what was seen.
    let page = table.list(&Default::default(), None, 0, server.registry.cache.revision());
    let mut waiting = state.waiting(&page.items)?;
    // Who came first takes its names before others do.
    waiting.sort_by_cached_key(|(_, definition)| {
        (definition.metadata.creation_timestamp.clone(), definition.metadata.name.clone())
    });
    let mut families = state.families.clone();
    families.retain(|name, _| page.items.iter().any(|item| item.name() == name));
    let (mut statuses, mut failed) = (Vec::new(), None);
    for (revision, definition) in waiting {
        let name = definition.metadata.name.clone().unwrap_or_default();
        match look_at(server, &state, revision, definition).await {
            Ok(Seen { known, family, status }) => {
                match family {
                    Some(family) => _ = families.insert(name.clone(), family),
                    None => _ = families.remove(&name),
                }
                statuses.extend(status.map(|taken| (name.clone(), taken)));
                state.known.insert(name, known);
            }
            Err(error) => {
                state.look_again(&name);
                failed = Some(error);
            }
        }
    }
    // First the status: who can use a kind sees that it is established. Who sees that it is, and asks
    // before it is served, waits until it is.
    for (name, taken) in statuses {
        let written =
            write_status(server, &name, |found| _ = naming::update_status(found, &taken)).await;
        if let Err(error) = written {
            state.look_again(&name);
            failed = Some(error);
        }
    }
    publish(server, &mut state, families);
    if failed.is_none() {
        custom.seen.send_modify(|seen| *seen = page.revision.max(*seen));
    }
    failed.map_or(Ok(()), Err)
}

impl State {
    /// Forgets definitions that are gone, and decodes those to look at: those that are new or
    /// changed, and those of the same groups that lack a name.
    fn waiting(
        &mut self,
        items: &[Arc<CachedObject>],
    ) -> Result<Vec<(u64, CustomResourceDefinition)>> {
        let mut groups = HashSet::new();
        let present: HashSet<&str> = items.iter().map(|item| item.name()).collect();
        self.known.retain(|name, known| {
            let stays = present.contains(name.as_str());
            if !stays {
                groups.insert(known.group.clone());
            }
            stays
        });
        let is_same = |item: &CachedObject| {
            self.known.get(item.name()).is_some_and(|known| known.revision == item.revision)
        };
        let mut waiting = Vec::new();
        for item in items.iter().filter(|item| !is_same(item)) {
            let definition = decode(item)?;
            groups.insert(definition.spec.group.clone());
            waiting.push((item.revision, definition));
        }
        for item in items.iter().filter(|item| is_same(item)) {
            let known = self.known.get(item.name());
            if known.is_some_and(|known| !known.settled && groups.contains(&known.group)) {
                waiting.push((item.revision, decode(item)?));
            }
        }
        Ok(waiting)
    }

    /// Has a definition looked at again although it did not change. Its names stay taken.
    fn look_again(&mut self, name: &str) {
        if let Some(known) = self.known.get_mut(name) {
            known.revision = 0;
        }
    }

    /// The names that others of its group have.
    fn taken(&self, definition: &CustomResourceDefinition) -> naming::Taken {
        let (group, name) = (&definition.spec.group, definition.metadata.name.as_deref());
        let others = self
            .known
            .iter()
            .filter(|(other, known)| known.group == *group && Some(other.as_str()) != name);
        naming::Taken::by(others.filter_map(|(_, known)| known.accepted.as_ref()))
    }
}

fn decode(object: &CachedObject) -> Result<CustomResourceDefinition> {
    crate::json::from_slice(&object.stored.plain())
        .map_err(|error| ApiError::internal(format!("{}: {error}", object.key)))
}

/// What was found out about a definition.
struct Seen {
    known: Known,
    /// What it is to be served as.
    family: Option<Family>,
    /// The names that its status was decided by, if the status is to be written.
    status: Option<naming::Taken>,
}

/// Decides one definition's status, loads its objects, and says what it is to be served as.
async fn look_at(
    server: &Arc<Inner>,
    state: &State,
    revision: u64,
    definition: CustomResourceDefinition,
) -> Result<Seen> {
    let name = definition.metadata.name.clone().unwrap_or_default();
    let taken = state.taken(&definition);
    let deleted = definition.metadata.deletion_timestamp.is_some();
    let mut wanted = definition;
    let changed = !deleted && naming::update_status(&mut wanted, &taken);
    let family = match is_true(&wanted, ESTABLISHED) || is_true(&wanted, NAMES_ACCEPTED) {
        true => load(server, state.families.get(&name), &wanted).await?,
        false => None,
    };
    let known = Known {
        revision,
        group: wanted.spec.group.clone(),
        settled: deleted || is_true(&wanted, NAMES_ACCEPTED),
        accepted: naming::accepted(&wanted).cloned(),
    };
    if deleted {
        cleanup::begin(server, wanted);
    }
    Ok(Seen { known, family, status: changed.then_some(taken) })
}

/// What a definition is served as. What changed is compiled; where stored objects may look
/// otherwise by it, they are loaded again.
async fn load(
    server: &Inner,
    known: Option<&Family>,
    definition: &CustomResourceDefinition,
) -> Result<Option<Family>> {
    let (fingerprint, data_fingerprint) = fingerprints(definition);
    if let Some(known) = known.filter(|known| known.fingerprint == fingerprint) {
        return Ok(Some(known.clone()));
    }
    let Some(family) = Family::of(definition) else { return Ok(None) };
    if known.is_none_or(|known| known.data_fingerprint != data_fingerprint) {
        server.registry.cache.attach(family.stored.clone()).await?;
    }
    Ok(Some(family))
}

/// Serves these, and nothing else.
fn publish(server: &Inner, state: &mut State, next: BTreeMap<String, Family>) {
    let last = std::mem::replace(&mut state.families, next);
    let same = |name: &String, family: &Family| {
        state.families.get(name).is_some_and(|next| next.fingerprint == family.fingerprint)
    };
    if last.len() == state.families.len() && last.iter().all(|(name, family)| same(name, family)) {
        return;
    }
    let rows = state.families.values().flat_map(|family| family.rows.iter().cloned());
    server.kinds.serve(rows);
    let gone = last.iter().filter(|(name, _)| !state.families.contains_key(*name));
    for (name, family) in gone {
        server.registry.cache.detach(&family.stored.key_prefix);
        server.registry.converter.forget(name);
    }
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
