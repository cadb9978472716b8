//! What is on the disk: where, and in what form.
//!
//! ```text
//! images/                       see rk_cri::images
//! pods/<id>/sandbox.json        a SandboxRecord
//! pods/<id>/shim.sock           the shim listens here
//! pods/<id>/resolv.conf         mounted into the containers, with hostname
//! containers/<id>/container.json  a ContainerRecord
//! containers/<id>/seccomp.json  the filter of its system calls, if it has one
//! containers/<id>/start.json    a Start, once it runs
//! containers/<id>/exit.json     an Exit, once it has ended
//! containers/<id>/upper, work, rootfs   its overlay
//! containers/<id>/config.json   the OCI runtime configuration made from all that
//! libcontainer/<id>/            libcontainer's own state, while it runs
//! ```
//!
//! Every file is replaced as a whole, so that a reader sees an old or a new one.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{cgroup::Cgroup, sys};
use crate::{
    images::ImageConfig,
    runtime::{ContainerConfig, SandboxConfig},
};

pub(super) const SOCKET: &str = "shim.sock";
pub(super) const SANDBOX: &str = "sandbox.json";
pub(super) const CONTAINER: &str = "container.json";
pub(super) const START: &str = "start.json";
pub(super) const EXIT: &str = "exit.json";

/// How far a sandbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// Being made. Found after a restart, it is taken down.
    Creating,
    /// Complete.
    Ready,
    /// Stopped.
    Stopped,
}

/// A sandbox on the disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SandboxRecord {
    pub(super) id: String,
    pub(super) config: SandboxConfig,
    pub(super) phase: Phase,
    pub(super) created_at: Timestamp,
    pub(super) ips: Vec<IpAddr>,
    /// The network namespace to join; none makes one.
    pub(super) netns: Option<PathBuf>,
    /// The shim's process id.
    pub(super) pid: Option<i32>,
}

/// A container on the disk: all that its start needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    pub(super) id: String,
    pub(super) sandbox_id: String,
    pub(super) config: ContainerConfig,
    pub(super) created_at: Timestamp,
    /// What the status calls its image.
    pub(super) image_id: String,
    pub(super) image: ImageConfig,
    pub(super) layers: Vec<String>,
    pub(super) layers_dir: PathBuf,
    pub(super) libcontainer_dir: PathBuf,
    pub(super) sandbox_dir: PathBuf,
    pub(super) hostname: String,
    pub(super) host_pid: bool,
    pub(super) share_pid: bool,
    pub(super) log_path: PathBuf,
    pub(super) cgroup: Cgroup,
}

/// That a container runs.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) pid: i32,
    pub(super) at: Timestamp,
}

/// How a container ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Exit {
    pub(super) code: i32,
    pub(super) at: Timestamp,
    pub(super) reason: String,
    pub(super) message: String,
}

/// Reads a record; `None` when there is none.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a record.
pub(super) fn write(path: &Path, record: &impl Serialize) -> io::Result<()> {
    sys::replace_file(path, &serde_json::to_vec(record)?)
}
