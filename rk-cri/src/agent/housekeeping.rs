//! What a node does from time to time, whatever its Pods do: looks at what it has left, keeps logs
//! short, and removes what Pods have left behind.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    admission::Refusal,
    eviction::{self, thresholds::Pressure, watch::Watch},
    spec::pod_ref,
    volumes,
    worker::Core,
};
use k8s_openapi::api::core::v1::Pod;

/// How often the node's signals are looked at, as in the kubelet.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often directories of Pods that are gone are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(120);

/// What of a node changes while it runs, and its status tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeState {
    /// What it is short of.
    pub(crate) pressures: std::collections::BTreeSet<Pressure>,
    /// The runtime does not answer, and why.
    pub(crate) runtime_down: Option<String>,
    /// It ends its Pods and takes no others.
    pub(crate) shutting_down: bool,
    /// Volumes that are not to be detached, as the API calls them.
    pub(crate) volumes_in_use: std::collections::BTreeSet<String>,
}

/// Pods that were ended by the node and not by anybody else, by UID.
#[derive(Debug, Default)]
pub(crate) struct EndedPods(HashMap<String, Ended>);

/// How a Pod was ended by its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The reason and the message of its status.
    pub(crate) refusal: Refusal,
    /// How long it has to stop, at most.
    pub(crate) grace: Duration,
}

/// The UID in the name of a directory of logs: `namespace_name_uid`, none of which has a `_` in it.
fn log_owner(directory: &str) -> Option<String> {
    let mut parts = directory.split('_');
    let (_, _, uid) = (parts.next()?, parts.next()?, parts.next().filter(|uid| !uid.is_empty())?);
    parts.next().is_none().then(|| uid.to_owned())
}

impl Core {
    /// Does the node's chores until its future is dropped.
    pub(super) async fn keep_house(&self) {
        let settings = &self.config.settings;
        let watch = Watch::new(settings.thresholds.clone(), settings.transition);
        let simulated = self.runtime.simulated();
        let pressure = async {
            if settings.signals.is_some() && !watch.is_idle() {
                self.watch_pressure(watch).await;
            }
        };
        let logs = async {
            if !simulated {
                self.keep_logs_short().await;
            }
        };
        let sweep = async {
            if !simulated {
                self.sweep().await;
            }
        };
        let disk = async {
            if !simulated {
                self.watch_local_storage().await;
            }
        };
        let kernel = async {
            if !simulated {
                self.watch_kernel().await;
            }
        };
        tokio::join!(pressure, logs, sweep, disk, kernel);
    }

    async fn watch_pressure(&self, mut watch: Watch) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.relieve_pressure(&mut watch).await;
        }
    }

    /// Removes directories of Pods that neither the API, the files nor the runtime know.
    async fn sweep(&self) {
        let mut ticks = tokio::time::interval_at(Instant::now() + SWEEP_EVERY, SWEEP_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.sweep_once().await;
            self.unstage_unused().await;
        }
    }

    /// Removes what an agent that was killed in the middle of a removal left behind, too. Only once
    /// the node's Pods are known.
    pub(super) async fn sweep_once(&self) {
        if self.runtime.simulated() {
            return;
        }
        for (uid, directory) in self.pod_directories().await {
            // Asked for each: a Pod may have come meanwhile.
            if self.knows(&uid) {
                continue;
            }
            let left = self.runtime.pod_status(&uid).await;
            if !left.is_ok_and(|left| left.sandboxes.is_empty()) {
                continue;
            }
            tracing::info!(node = self.config.name, pod = uid, "removing what a Pod left behind");
            if let Err(why) = self.release_csi(&directory).await {
                tracing::warn!(pod = uid, why, "unable to take its volumes from a Pod");
                continue;
            }
            let removed = tokio::task::spawn_blocking(move || volumes::tear_down(&directory)).await;
            if let Ok(Err(error)) = removed {
                tracing::warn!(pod = uid, %error, "unable to remove what a Pod left behind");
            }
        }
        self.unstage_unused().await;
    }

    /// Directories of Pods and of their logs, by UID.
    async fn pod_directories(&self) -> Vec<(String, PathBuf)> {
        let (pods, logs) = (self.config.root_dir.join("pods"), self.config.log_root.clone());
        let list = move || {
            let named = |directory: PathBuf| {
                let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
                entries
                    .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
            };
            let logs = named(logs).filter_map(|(name, path)| Some((log_owner(&name)?, path)));
            named(pods).chain(logs).collect()
        };
        tokio::task::spawn_blocking(list).await.unwrap_or_default()
    }

    // === pods that the node ends ===

    /// Ends a Pod for good: it gets this reason and message, and this long to stop.
    pub(super) fn end_from_outside(&self, pod: &Pod, refusal: Refusal, grace: Duration) {
        let uid = pod_ref(pod).uid;
        self.ended.lock().0.insert(uid.clone(), Ended { refusal, grace });
        self.poke(&uid);
    }

    /// How a Pod was ended by its node, if it was.
    pub(super) fn ended_from_outside(&self, uid: &str) -> Option<Ended> {
        self.ended.lock().0.get(uid).cloned()
    }

    pub(super) fn forget_end(&self, uid: &str) {
        self.ended.lock().0.remove(uid);
    }

    /// Whether the node, as it is now, takes a Pod on.
    pub(super) fn takes_on(&self, pod: &Pod) -> Result<(), Refusal> {
        let state = self.state.lock().clone();
        eviction::admit(pod, &state.pressures)?;
        if state.shutting_down {
            let why = "Pod was rejected: Pod was rejected as the node is shutting down.";
            return Err(("NodeShutdown".to_owned(), why.to_owned()));
        }
        Ok(())
    }
}
