//! Volumes of CSI drivers: who the drivers on this node are, and which of their volumes are mounted.
//!
//! - `csi/plugins.rs` finds drivers by their sockets in `ROOT/plugins_registry`, and `csi/node_info.rs`
//!   says what the CSINode and the Node tell of them.
//! - `csi/request.rs` decides what a driver is asked for, from a volume, its CSIDriver and the Pod.
//! - `csi/mount.rs` has it mounted: for the node (stage), then for the Pod (publish).
//!   `csi/release.rs` undoes that in the opposite order, `csi/refresh.rs` does what mounted volumes
//!   need from time to time.
//! - `csi/place.rs` says where things are. The paths are the kubelet's, which drivers count on.
//!
//! # What holds
//! - What was asked of a driver is on disk before it is asked (`vol_data.json`): after a crash it is
//!   undone from there.
//! - The node tells that a volume is in use before it looks whether the volume is attached, and until
//!   the driver has unstaged it. So it is not detached while it is mounted.
//! - A Pod is not gone from the API before its volumes are unpublished.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use parking_lot::Mutex;

pub(crate) use self::{refresh::Mounted, request::Wanted};
use super::worker::Core;
use crate::csi::{Client, v1::NodeRpcType};

mod mount;
mod node_info;
mod ownership;
pub(super) mod place;
mod plugins;
mod refresh;
mod release;
mod request;
mod stats;

/// A driver that has registered itself.
#[derive(Clone, Debug)]
pub(super) struct Driver {
    client: Client,
    /// The registration socket that it came with.
    socket: std::path::PathBuf,
    can: BTreeSet<Capability>,
}

/// What a driver can do on a node.
type Capability = i32;

impl Driver {
    fn can(&self, what: NodeRpcType) -> bool {
        self.can.contains(&(what as i32))
    }
}

/// A volume by its driver, and by what that calls it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct VolumeId {
    pub(crate) driver: String,
    pub(crate) handle: String,
}

impl Core {
    /// Learns what an earlier agent of this node has mounted.
    pub(super) async fn recover_csi(&self) {
        let (root, this) = (self.config.root_dir.clone(), self.this.clone());
        if self.runtime.simulated() {
            return;
        }
        let look = move || this.upgrade().map(|core| core.csi.recover(&root));
        tokio::task::spawn_blocking(look).await.ok();
    }
}

impl VolumeId {
    /// What it is called in a node's status.
    fn unique_name(&self) -> String {
        format!("kubernetes.io/csi/{}^{}", self.driver, self.handle)
    }
}

/// What the node does with a volume.
#[derive(Debug, Default)]
struct Use {
    /// The Pods that it is, or may be, published for, by UID, and what these call it. What was found
    /// on the disk has no name.
    users: BTreeMap<String, String>,
    /// Somebody attached it, or will: it is told to be in use.
    attachable: bool,
    /// It was staged by this process.
    staged: bool,
    /// Held by who asks the driver something about it.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// The drivers on the node and their volumes.
#[derive(Debug, Default)]
pub(super) struct Csi {
    drivers: Mutex<BTreeMap<String, Driver>>,
    volumes: Mutex<BTreeMap<VolumeId, Use>>,
}

impl Csi {
    /// Learns from the disk what an earlier process has mounted. Blocks.
    pub(super) fn recover(&self, root: &Path) {
        let mut volumes = self.volumes.lock();
        for staged in place::staged(root) {
            volumes.entry(staged.id()).or_default().attachable = true;
        }
        for published in place::published(root) {
            let ephemeral = published.data.is_ephemeral();
            let entry = volumes.entry(published.data.id()).or_default();
            entry.users.insert(published.pod, String::new());
            // Whether it had to be attached is not known: that it is in use does no harm.
            entry.attachable |= !ephemeral;
        }
    }

    /// Whether a Pod has such volumes mounted.
    pub(super) fn is_user(&self, uid: &str) -> bool {
        self.volumes.lock().values().any(|known| known.users.contains_key(uid))
    }

    /// The UIDs of all Pods that have such volumes.
    fn users(&self) -> BTreeSet<String> {
        let volumes = self.volumes.lock();
        volumes.values().flat_map(|known| known.users.keys().cloned()).collect()
    }

    /// Whether all drivers are here of a Pod that has such volumes.
    pub(super) fn serves(&self, uid: &str) -> bool {
        let drivers = self.drivers.lock();
        let volumes = self.volumes.lock();
        let mut of_pod =
            volumes.iter().filter(|(_, known)| known.users.contains_key(uid)).peekable();
        of_pod.peek().is_some() && of_pod.all(|(id, _)| drivers.contains_key(&id.driver))
    }

    /// What the node's status lists as in use.
    pub(super) fn in_use(&self) -> BTreeSet<String> {
        let volumes = self.volumes.lock();
        let shown = volumes.iter().filter(|(_, known)| known.attachable);
        shown.map(|(id, _)| id.unique_name()).collect()
    }

    fn driver(&self, name: &str) -> Result<Driver, String> {
        self.drivers.lock().get(name).cloned().ok_or_else(|| {
            format!("driver name {name} not found in the list of registered CSI drivers")
        })
    }

    fn turn(&self, id: &VolumeId) -> Arc<tokio::sync::Mutex<()>> {
        self.volumes.lock().entry(id.clone()).or_default().turn.clone()
    }
}
