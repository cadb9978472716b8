//! Finds drivers: each has a socket in `ROOT/plugins_registry` on which it says who it is and where
//! it serves. It is registered as long as that socket is there.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::{core::v1::Node, storage::v1::CSINode};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use tokio::time::{Instant, timeout};

use super::{Driver, node_info, request::capabilities};
use crate::{
    agent::worker::Core,
    csi::{
        Client, InfoRequest, RegistrationStatus,
        v1::{NodeGetCapabilitiesRequest, NodeGetInfoRequest, NodeGetInfoResponse},
    },
};

/// How often the directory is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The pauses after a registration that failed: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(120));
/// How long a registration may take.
const REGISTER_WITHIN: Duration = Duration::from_secs(10);
/// How often an object is written again that somebody else has changed meanwhile.
const TRIES: usize = 10;
/// Sockets may be in directories below, but not deeper than this.
const DEPTH_MAX: usize = 3;

/// What tells a socket from one of the same name before it.
type Stamp = (u64, i64, i64);

/// A socket that was seen.
#[derive(Debug)]
struct Seen {
    stamp: Stamp,
    /// The driver that was registered by it.
    driver: Option<String>,
    again: Option<(Instant, Duration)>,
}

/// The sockets below a directory. Blocks.
fn sockets(directory: &Path, depth: usize) -> BTreeMap<PathBuf, Stamp> {
    #[cfg(unix)]
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        let Ok(metadata) = entry.metadata() else { continue };
        if hidden {
            continue;
        }
        if metadata.is_dir() && depth < DEPTH_MAX {
            found.extend(sockets(&entry.path(), depth + 1));
        } else if metadata.file_type().is_socket() {
            let stamp = (metadata.ino(), metadata.ctime(), metadata.ctime_nsec());
            found.insert(entry.path(), stamp);
        }
    }
    found
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

impl Core {
    /// Registers drivers that come, and takes back those that go, until its future is dropped.
    pub(in crate::agent) async fn follow_plugins(&self) {
        let registry = self.config.root_dir.join("plugins_registry");
        let mut seen: BTreeMap<PathBuf, Seen> = BTreeMap::new();
        let mut listed = false;
        loop {
            let directory = registry.clone();
            let found = tokio::task::spawn_blocking(move || {
                // Drivers expect it to be there.
                std::fs::create_dir_all(&directory).ok();
                sockets(&directory, 0)
            });
            let found = found.await.unwrap_or_default();
            self.take_plugins(&mut seen, found).await;
            if !listed {
                // Who schedules Pods counts on it whether or not there are drivers.
                let unchanged = |csi_node: &CSINode| csi_node.clone();
                listed = self.update_csi_node(unchanged).await.is_ok();
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn take_plugins(
        &self,
        seen: &mut BTreeMap<PathBuf, Seen>,
        found: BTreeMap<PathBuf, Stamp>,
    ) {
        let gone: Vec<PathBuf> = seen
            .iter()
            .filter(|(at, known)| found.get(*at) != Some(&known.stamp))
            .map(|(at, _)| at.clone())
            .collect();
        for socket in gone {
            if let Some(driver) = seen.remove(&socket).and_then(|known| known.driver) {
                self.remove_driver(&driver, &socket).await;
            }
        }
        let now = Instant::now();
        for (socket, stamp) in found {
            let known = seen.entry(socket.clone()).or_insert(Seen {
                stamp,
                driver: None,
                again: Some((now, PAUSES.0)),
            });
            let Some((at, pause)) = known.again.filter(|(at, _)| *at <= now) else { continue };
            // One that hangs must not keep others from being registered.
            let registered = timeout(REGISTER_WITHIN, self.register_plugin(&socket)).await;
            match registered.unwrap_or_else(|_| Err("it does not answer".to_owned())) {
                Ok(driver) => {
                    known.driver = driver;
                    known.again = None;
                }
                Err(why) => {
                    tracing::warn!(socket = %socket.display(), why, "unable to register a plugin");
                    known.again = Some((at.max(now) + pause, (pause * 2).min(PAUSES.1)));
                }
            }
        }
    }

    /// Asks who is behind a socket and registers it; `None` if it is nothing for us.
    async fn register_plugin(&self, socket: &Path) -> Result<Option<String>, String> {
        let registrar = Client::new(socket);
        let info = registrar
            .call(InfoRequest {})
            .await
            .map_err(|status| format!("it does not say who it is: {}", status.message()))?;
        let result = match info.r#type.as_str() {
            "CSIPlugin" if info.supported_versions.iter().any(|version| is_version_1(version)) => {
                let endpoint = match info.endpoint.as_str() {
                    "" => socket.to_owned(),
                    endpoint => PathBuf::from(endpoint),
                };
                self.add_driver(&info.name, socket, &endpoint).await
            }
            "CSIPlugin" => Err(format!(
                "None of the versions specified {:?} are supported",
                info.supported_versions
            )),
            other => {
                let error = format!("no handler registered for plugin type: {other}");
                let status = RegistrationStatus { plugin_registered: false, error };
                // It is told once: another try would say the same.
                registrar.call(status).await.ok();
                return Ok(None);
            }
        };
        let status = RegistrationStatus {
            plugin_registered: result.is_ok(),
            error: result.as_ref().err().cloned().unwrap_or_default(),
        };
        let told = registrar.call(status).await;
        result?;
        if let Err(status) = told {
            tracing::debug!(
                driver = info.name,
                error = status.message(),
                "not told of its success"
            );
        }
        Ok(Some(info.name))
    }

    async fn add_driver(&self, name: &str, socket: &Path, endpoint: &Path) -> Result<(), String> {
        let client = Client::new(endpoint);
        let said = |status: tonic::Status| status.message().to_owned();
        let info = client.call(NodeGetInfoRequest {}).await.map_err(said)?;
        let can = client.call(NodeGetCapabilitiesRequest {}).await.map_err(said)?;
        if info.node_id.is_empty() {
            return Err("error adding CSI driver node info: driverNodeID must not be empty".into());
        }
        let failed = |error: kube::Error| {
            format!("error updating Node object with CSI driver node info: {error}")
        };
        self.tell_of_driver(name, &info).await?;
        self.update_csi_node(|csi_node| node_info::with_driver(csi_node, name, &info))
            .await
            .map_err(failed)?;
        let driver = Driver { client, socket: socket.to_owned(), can: capabilities(&can) };
        self.csi.drivers.lock().insert(name.to_owned(), driver);
        tracing::info!(node = self.config.name, driver = name, "a CSI driver is registered");
        // Pods may be waiting for it.
        for pod in self.pods() {
            self.poke_without_pause(pod.metadata.uid.as_deref().unwrap_or_default());
        }
        Ok(())
    }

    async fn remove_driver(&self, name: &str, socket: &Path) {
        {
            let mut drivers = self.csi.drivers.lock();
            // One that was started anew may have come with another socket before this one went.
            if drivers.get(name).is_none_or(|driver| driver.socket != socket) {
                return;
            }
            drivers.remove(name);
        }
        tracing::info!(node = self.config.name, driver = name, "a CSI driver is gone");
        let removed = self
            .update_csi_node(|csi_node| node_info::without_driver(csi_node, name))
            .await
            .map_err(|error| error.to_string());
        let untold = self.patch_node(|node| Ok(node_info::untold(node, name))).await;
        for why in [removed.err(), untold.err()].into_iter().flatten() {
            tracing::warn!(
                node = self.config.name,
                driver = name,
                why,
                "the node still tells of it"
            );
        }
    }

    // === objects ===

    async fn tell_of_driver(&self, name: &str, info: &NodeGetInfoResponse) -> Result<(), String> {
        self.patch_node(|node| node_info::told(node, name, info)).await
    }

    async fn patch_node(
        &self,
        change: impl Fn(&Node) -> Result<Option<serde_json::Value>, String>,
    ) -> Result<(), String> {
        let api = Api::<Node>::all(self.client.clone());
        let mut tries = 0;
        loop {
            let node = api.get(&self.config.name).await.map_err(|error| error.to_string())?;
            let Some(patch) = change(&node)? else { return Ok(()) };
            let patch = Patch::Merge(&patch);
            match api.patch(&self.config.name, &PatchParams::default(), &patch).await {
                Ok(_) => return Ok(()),
                Err(error) if is_conflict(&error) && tries < TRIES => tries += 1,
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Changes the CSINode, which is made if there is none.
    async fn update_csi_node(&self, change: impl Fn(&CSINode) -> CSINode) -> kube::Result<()> {
        let api = Api::<CSINode>::all(self.client.clone());
        let name = &self.config.name;
        let mut tries = 0;
        loop {
            let result = match api.get_opt(name).await? {
                Some(found) => {
                    let changed = change(&found);
                    if changed == found {
                        return Ok(());
                    }
                    api.replace(name, &PostParams::default(), &changed).await
                }
                None => {
                    let node = Api::<Node>::all(self.client.clone()).get(name).await?;
                    let made = change(&node_info::empty(name, &node));
                    api.create(&PostParams::default(), &made).await
                }
            };
            match result {
                Ok(_) => return Ok(()),
                Err(error) if is_conflict(&error) && tries < TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_version_1(version: &str) -> bool {
    let version = version.strip_prefix('v').unwrap_or(version);
    version.split('.').next() == Some("1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_are_found_and_told_apart_from_those_before_them() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("deeper/d-reg.sock");
        std::fs::create_dir(root.path().join("deeper")).unwrap();
        std::fs::write(root.path().join("file"), "").unwrap();
        let hidden = tokio::net::UnixListener::bind(root.path().join(".hidden.sock")).unwrap();
        let first = tokio::net::UnixListener::bind(&path).unwrap();
        let found = sockets(root.path(), 0);
        assert_eq!(found.keys().collect::<Vec<_>>(), [&path]);
        // The old one still has its inode.
        std::fs::rename(&path, root.path().join(".old")).unwrap();
        let second = tokio::net::UnixListener::bind(&path).unwrap();
        assert_ne!(sockets(root.path(), 0)[&path], found[&path]);
        drop((hidden, first, second));
    }

    #[test]
    fn any_version_1_will_do() {
        for (version, expected) in [("1.0.0", true), ("v1.9", true), ("1", true), ("0.3", false)] {
            assert_eq!(is_version_1(version), expected, "{version}");
        }
    }
}
