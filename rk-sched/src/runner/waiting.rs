use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{PodInfo, Status};

/// Pods that a `Permit` plugin holds between `Permit` and binding. Clones are the same.
///
/// A plugin keeps a clone and allows or rejects Pods through it, for example when enough of a
/// group have a node.
#[derive(Clone, Debug, Default)]
pub struct WaitingPods(Arc<Mutex<BTreeMap<Arc<str>, Waiting>>>);

#[derive(Debug)]
struct Waiting {
    info: Arc<PodInfo>,
    node: String,
    /// The plugins that have not allowed it yet.
    pending: BTreeSet<&'static str>,
    verdict: oneshot::Sender<Verdict>,
}

/// A plugin's last word; success is everybody's.
pub(super) type Verdict = Result<(), (&'static str, Status)>;

impl WaitingPods {
    /// The Pods that wait, with the nodes they are to go to.
    pub fn list(&self) -> Vec<(Arc<PodInfo>, String)> {
        self.0.lock().values().map(|it| (it.info.clone(), it.node.clone())).collect()
    }

    /// `plugin` no longer holds the Pod of this UID; returns whether it did. The Pod is bound once
    /// no plugin holds it.
    pub fn allow(&self, uid: &str, plugin: &'static str) -> bool {
        let mut waiting = self.0.lock();
        let Some(pod) = waiting.get_mut(uid) else { return false };
        if !pod.pending.remove(plugin) {
            return false;
        }
        if pod.pending.is_empty()
            && let Some(pod) = waiting.remove(uid)
        {
            let _ = pod.verdict.send(Ok(()));
        }
        true
    }

    /// The Pod of this UID is not to be bound; returns whether it was waiting.
    pub fn reject(&self, uid: &str, plugin: &'static str, message: &str) -> bool {
        let Some(pod) = self.0.lock().remove(uid) else { return false };
        let _ = pod.verdict.send(Err((plugin, Status::unschedulable(message.to_owned()))));
        true
    }

    /// The Pod was deleted.
    pub(super) fn gone(&self, uid: &str) {
        self.0.lock().remove(uid);
    }

    pub(super) fn hold(
        &self,
        info: Arc<PodInfo>,
        node: &str,
        pending: BTreeSet<&'static str>,
    ) -> oneshot::Receiver<Verdict> {
        let (verdict, receiver) = oneshot::channel();
        let uid = info.uid.clone();
        self.0.lock().insert(uid, Waiting { info, node: node.to_owned(), pending, verdict });
        receiver
    }
}
