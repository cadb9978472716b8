//! What a watch shows of some objects, waited for.

use std::{fmt::Debug, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use rk::kube::{
    self, Api, Resource,
    api::{ListParams, WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;

/// How long something may take to be seen, of virtual time.
const PATIENCE: Duration = Duration::from_secs(300);

/// The events of some objects, from the moment on when this was made.
pub struct Watched<K>(BoxStream<'static, kube::Result<WatchEvent<K>>>);

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    Added,
    Modified,
    Deleted,
}

impl<K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + 'static> Watched<K> {
    pub async fn new(api: &Api<K>, labels: &str) -> Self {
        let now = api.list(&ListParams::default().labels(labels)).await.expect("listed");
        let version = now.metadata.resource_version.expect("a list has a version");
        let params =
            WatchParams { bookmarks: false, ..WatchParams::default().labels(labels).timeout(290) };
        Self(api.watch(&params, &version).await.expect("watched").boxed())
    }

    /// The next event. `what` says in a failure what was waited for.
    pub async fn next(&mut self, what: &str) -> (Happened, K) {
        let event = tokio::time::timeout(PATIENCE, self.0.next()).await;
        let event = event.unwrap_or_else(|_| panic!("{what} was not seen"));
        match event.unwrap_or_else(|| panic!("the watch ended before {what}")).expect("watched") {
            WatchEvent::Added(object) => (Happened::Added, object),
            WatchEvent::Modified(object) => (Happened::Modified, object),
            WatchEvent::Deleted(object) => (Happened::Deleted, object),
            other => panic!("{other:?} while waiting for {what}"),
        }
    }

    /// The next object to which just this happened.
    pub async fn happens(&mut self, happened: Happened, what: &str) -> K {
        loop {
            let (this, object) = self.next(what).await;
            if this == happened {
                return object;
            }
        }
    }

    /// The next object that is so.
    pub async fn shows(&mut self, what: &str, so: impl Fn(&K) -> bool) -> K {
        loop {
            let (_, object) = self.next(what).await;
            if so(&object) {
                return object;
            }
        }
    }

    /// What happened to objects up to now.
    pub async fn so_far(&mut self) -> Vec<(Happened, K)> {
        let mut events = Vec::new();
        // What was committed is on its way already, and takes no time that the clock counts.
        while let Ok(event) = tokio::time::timeout(Duration::from_secs(1), self.next("any")).await {
            events.push(event);
        }
        events
    }
}
