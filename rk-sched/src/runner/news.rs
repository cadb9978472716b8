//! Hears of changes of storage. What changed does not matter: Pods that wait for storage are few.

use std::sync::Arc;

use rk_api::client::{Informer, Watchable};
use tokio::{sync::Notify, task::JoinSet};

use crate::storage::Caches;

/// That something changed since it was last asked. Dropping it ends the watching.
pub(super) struct StorageNews {
    bell: Arc<Notify>,
    _pumps: JoinSet<()>,
}

impl StorageNews {
    pub(super) fn follow(storage: &Caches) -> Self {
        let (bell, mut pumps) = (Arc::new(Notify::new()), JoinSet::new());
        ring(&mut pumps, &storage.claims, &bell);
        ring(&mut pumps, &storage.volumes, &bell);
        ring(&mut pumps, &storage.classes, &bell);
        ring(&mut pumps, &storage.csi_nodes, &bell);
        Self { bell, _pumps: pumps }
    }

    /// Returns after the next change; of changes in between there is one memory.
    pub(super) async fn heard(&self) {
        self.bell.notified().await;
    }
}

fn ring<K: Watchable>(pumps: &mut JoinSet<()>, informer: &Informer<K>, bell: &Arc<Notify>) {
    let (mut changes, bell) = (informer.subscribe(), bell.clone());
    pumps.spawn(async move {
        loop {
            changes.next_change().await;
            bell.notify_one();
        }
    });
}
