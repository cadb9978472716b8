//! Hears of changes of storage and of namespaces. What changed does not matter: Pods that wait for
//! such a change are few.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use rk_api::client::{Change, Informer, Watchable};
use tokio::{sync::Notify, task::JoinSet};

use crate::storage::Caches;

/// That something changed since it was last asked. Dropping it ends the watching.
pub(super) struct News {
    bell: Arc<Notify>,
    _pumps: JoinSet<()>,
}

impl News {
    /// Of volumes, claims, classes and drivers.
    pub(super) fn of_storage(storage: &Caches) -> Self {
        let (bell, mut pumps) = (Arc::new(Notify::new()), JoinSet::new());
        ring(&mut pumps, &storage.claims, &bell, |_| true);
        ring(&mut pumps, &storage.volumes, &bell, |_| true);
        ring(&mut pumps, &storage.classes, &bell, |_| true);
        ring(&mut pumps, &storage.csi_nodes, &bell, |_| true);
        Self { bell, _pumps: pumps }
    }

    /// Of namespaces and their labels.
    pub(super) fn of_namespaces(namespaces: &Informer<Namespace>) -> Self {
        let (bell, mut pumps) = (Arc::new(Notify::new()), JoinSet::new());
        ring(&mut pumps, namespaces, &bell, |change| match change {
            Change::Added(_) => true,
            Change::Updated { old, new } => old.metadata.labels != new.metadata.labels,
            Change::Deleted(_) => false,
        });
        Self { bell, _pumps: pumps }
    }

    /// Returns after the next change; of changes in between there is one memory.
    pub(super) async fn heard(&self) {
        self.bell.notified().await;
    }
}

/// Rings for each change that matters.
fn ring<K: Watchable>(
    pumps: &mut JoinSet<()>,
    informer: &Informer<K>,
    bell: &Arc<Notify>,
    matters: fn(&Change<K>) -> bool,
) {
    let (mut changes, bell) = (informer.subscribe(), bell.clone());
    pumps.spawn(async move {
        loop {
            if matters(&changes.next_change().await) {
                bell.notify_one();
            }
        }
    });
}
