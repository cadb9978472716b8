//! The numbers of objects of the kinds of which only the number counts.
//!
//! Nothing of them is cached: a list of one object says how many more there are. A kind is watched,
//! its metadata only, from when a quota first counts it until none does.

use std::{collections::BTreeMap, pin::pin};

use futures::StreamExt;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, ListParams},
    core::{ApiResource, PartialObjectMeta},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use parking_lot::Mutex;
use rk_api::{
    client::{Backoff, Informer, WorkQueue},
    quota::Tracked,
};
use tokio::task::AbortHandle;

use super::{counting, plan::tracks};
use crate::{
    discovery::Served,
    error::{self, Error},
    key::ObjectKey,
};

pub(super) struct Counts {
    client: Client,
    quotas: Informer<ResourceQuota>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: Option<WorkQueue<ObjectKey>>,
    watches: BTreeMap<Tracked, Watch>,
}

struct Watch {
    resource: ApiResource,
    task: AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Counts {
    pub(super) fn new(client: Client, quotas: Informer<ResourceQuota>) -> Self {
        Self { client, quotas, state: Mutex::default() }
    }

    /// Quotas to count again are put into this queue.
    pub(super) fn wakes(&self, queue: WorkQueue<ObjectKey>) {
        self.state.lock().queue = Some(queue);
    }

    /// How many objects of a kind a namespace has; `None` for a kind that is not served or that
    /// cannot be listed and watched.
    pub(super) async fn number(
        &self,
        namespace: &str,
        group: &str,
        plural: &str,
    ) -> Result<Option<i64>, Error> {
        let Some(resource) = self.resource(group, plural).await? else { return Ok(None) };
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, &resource);
        match api.list_metadata(&ListParams::default().limit(1)).await {
            Ok(list) => {
                let here = i64::try_from(list.items.len()).unwrap_or(i64::MAX);
                let more = list.metadata.remaining_item_count.unwrap_or(0);
                Ok(Some(here.saturating_add(more)))
            }
            // The kind went, and its objects with it.
            Err(gone) if error::is_not_found(&gone) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Has the quotas that count a kind counted again when an object of it goes. `false` when the kind
    /// is not served.
    pub(super) async fn watches(&self, group: &str, plural: &str) -> Result<bool, Error> {
        Ok(self.resource(group, plural).await?.is_some())
    }

    /// The kind as it is served. From now on it is watched.
    async fn resource(&self, group: &str, plural: &str) -> Result<Option<ApiResource>, Error> {
        let kind = match (group, plural) {
            ("resource.k8s.io", "resourceclaims") => Tracked::ResourceClaims,
            _ => Tracked::Others { group: group.to_owned(), plural: plural.to_owned() },
        };
        if let Some(watch) = self.state.lock().watches.get(&kind) {
            return Ok(Some(watch.resource.clone()));
        }
        let served = Served::read(&self.client).await?;
        let found = served.preferred().iter().find(|kind| {
            kind.group == group
                && kind.plural == plural
                && kind.namespaced
                && kind.can(&["list", "watch"])
        });
        let Some(found) = found else { return Ok(None) };
        let resource = found.api_resource();
        let mut state = self.state.lock();
        if let Some(queue) = state.queue.clone() {
            let task = tokio::spawn(watch(
                Api::all_with(self.client.clone(), &resource),
                kind.clone(),
                self.quotas.clone(),
                queue,
            ));
            let watch = Watch { resource: resource.clone(), task: task.abort_handle() };
            state.watches.insert(kind, watch);
        }
        Ok(Some(resource))
    }

    /// Ends the watches of kinds that no quota counts any more. What else is watched is looked up
    /// anew the next time, for the version in which a kind is served can change.
    pub(super) fn forget_unused(&self) {
        let quotas = self.quotas.list();
        let is_used = |kind: &Tracked| quotas.iter().any(|quota| tracks(quota, kind));
        self.state.lock().watches.retain(|kind, watch| is_used(kind) && !watch.task.is_finished());
    }
}

/// Has the quotas counted again that count objects of a kind when one goes. After a gap in the
/// watch, all that count the kind.
async fn watch(
    api: Api<PartialObjectMeta<DynamicObject>>,
    kind: Tracked,
    quotas: Informer<ResourceQuota>,
    queue: WorkQueue<ObjectKey>,
) {
    let events = watcher::watcher(api, watcher::Config::default()).backoff(Backoff::for_watches());
    let mut events = pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Delete(object)) => {
                let namespace = object.namespace().unwrap_or_default();
                counting(&quotas, &namespace, &kind).into_iter().for_each(|key| queue.add(key));
            }
            Ok(Event::InitDone) => quotas
                .list()
                .iter()
                .filter(|quota| tracks(quota, &kind))
                .for_each(|quota| queue.add(ObjectKey::of(&**quota))),
            // The kind itself went: the next count finds out whether it came back.
            Err(watcher::Error::InitialListFailed(error)) if error::is_not_found(&error) => return,
            Ok(_) => {}
            Err(error) => tracing::debug!(?kind, %error, "watch failed, trying again"),
        }
    }
}

impl Drop for Counts {
    fn drop(&mut self) {
        self.state.lock().watches.clear();
    }
}
