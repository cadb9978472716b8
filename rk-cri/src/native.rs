//! [`NativeRuntime`]: containers from Linux namespaces, without a container daemon.
//!
//! ```text
//! agent (this process)          zygote                       shim, one per sandbox
//! NativeRuntime  -- asks -->  a fresh copy of   -- forks -->  holds the namespaces, writes logs,
//!   state on disk             this program                    records exits; outlives the agent
//!        \______________________ local socket ____________________/   |
//!                                                                     | forks a helper each
//!                                            libcontainer: container    enter: command (exec)
//! ```
//!
//! # Where to start
//! - `native/pods.rs`: what the agent does for each verb.
//! - `native/shim.rs`: the process that stays.
//! - `native/create.rs`: from a record on the disk to a running container.
//!
//! # Invariants
//! - Nothing is mounted in the host's mount namespace, and a sandbox's namespaces have no name
//!   there: they end with its shim, whatever kills it.
//! - What is on the disk says what was asked for and how it ended; whether it lives, only its shim
//!   can say. After a restart of the agent both are read again.
//! - A start is recorded before the cgroup is made, so that a restart knows what to clean up.

mod cgroup;
mod create;
mod devices;
mod disk;
mod enter;
mod log;
mod pods;
mod propagation;
mod runtime;
mod seccomp;
mod session;
mod shim;
mod spec;
mod sys;
mod user;
mod wire;
mod zygote;

use std::{
    fs::{self, File},
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rk_net::CniPlugin;
use rustix::fs::{FlockOperation, flock};

pub use zygote::init;

use self::{
    cgroup::Hierarchies,
    pods::{Inner, fail},
};
use crate::{
    images::{ImageError, ImageStore, ImportOptions, registry::Registries},
    runtime::{Image, RuntimeError},
};

/// Runs pods as Linux containers: namespaces, cgroups (version 1 or 2) and overlayfs, by youki's
/// libcontainer.
///
/// Pods outlive the process that holds this: opened again on the same directory, it finds them
/// running, with their logs and exit codes. [`NativeRuntime::teardown`] removes them.
///
/// Needs root, and that [`init`] was called first in `main` (or
/// [`shim_path`](NativeRuntimeBuilder::shim_path)).
#[derive(Clone, Debug)]
pub struct NativeRuntime {
    inner: Arc<Inner>,
}

/// How to run: see [`NativeRuntime::builder`].
#[derive(Debug)]
pub struct NativeRuntimeBuilder {
    root: PathBuf,
    cni: Arc<dyn CniPlugin>,
    cgroup_root: Option<PathBuf>,
    shim_path: Option<PathBuf>,
    node_netns: Option<PathBuf>,
    node_ips: Vec<IpAddr>,
    registries: Option<Registries>,
}

impl NativeRuntimeBuilder {
    /// Where images are pulled from. By default nowhere: they are imported, and a pull finds what
    /// is there. The same holds for registries that [`Registries::only_configured`] leaves out.
    pub fn registries(mut self, registries: Registries) -> Self {
        self.registries = Some(registries);
        self
    }

    /// The cgroup, below every hierarchy's root, that holds all others. The default is `rk/` and a
    /// name made from the root directory, so that two runtimes do not meet.
    pub fn cgroup_root(mut self, path: impl Into<PathBuf>) -> Self {
        self.cgroup_root = Some(path.into());
        self
    }

    /// Another program to run as supervisor, whose `main` calls [`init`] first. The default is this
    /// program itself.
    pub fn shim_path(mut self, program: impl Into<PathBuf>) -> Self {
        self.shim_path = Some(program.into());
        self
    }

    /// The network namespace that is the node: for pods on the host network and for
    /// [`Runtime::dial`](crate::Runtime::dial). The default is this process's own.
    pub fn node_netns(mut self, path: impl Into<PathBuf>) -> Self {
        self.node_netns = Some(path.into());
        self
    }

    /// The node's addresses, which pods on the host network have.
    pub fn node_ips(mut self, ips: Vec<IpAddr>) -> Self {
        self.node_ips = ips;
        self
    }

    /// Opens the runtime, finds what ran before and removes what was left half-made.
    ///
    /// # Errors
    /// [`RuntimeError::Unsupported`] when this machine or process lacks something, with what to do;
    /// [`RuntimeError::Invalid`] when the directory cannot be used, or another process uses it.
    pub async fn build(self) -> Result<NativeRuntime, RuntimeError> {
        NativeRuntime::preflight()
            .map_err(|missing| RuntimeError::Unsupported(missing.join("; ")))?;
        if self.shim_path.is_none() && !zygote::initialised() {
            return Err(RuntimeError::Unsupported(
                "this program does not call rk_cri::native::init() first in main, so that it cannot \
                 supervise containers: add the call, or name such a program with shim_path"
                    .to_owned(),
            ));
        }
        let hierarchies = hierarchies()
            .ok_or_else(|| RuntimeError::Unsupported("no cgroups are mounted".to_owned()))?;
        for directory in ["pods", "containers", "libcontainer"] {
            let path = self.root.join(directory);
            fs::create_dir_all(&path).map_err(fail(format!("cannot make {}", path.display())))?;
        }
        let root = self.root.canonicalize().map_err(fail("cannot find the root directory"))?;
        check_root(&root)?;
        let lock = lock(&root)?;
        let images = Arc::new(open_images(&root)?);
        let cgroup_root = self.cgroup_root.unwrap_or_else(|| {
            let name = crate::images::Digest::of(root.as_os_str().as_encoded_bytes());
            Path::new("rk").join(&name.hex()[..12])
        });
        let program = self.shim_path.unwrap_or_else(|| "/proc/self/exe".into());
        let inner = Inner::new(
            root,
            self.cni,
            images,
            hierarchies,
            cgroup_root,
            program,
            self.node_netns,
            self.node_ips,
            self.registries,
            lock,
        )?;
        let inner = Arc::new(inner);
        inner.reconcile().await?;
        Ok(NativeRuntime { inner })
    }
}

impl NativeRuntime {
    /// Starts to describe a runtime that keeps everything in `root`, on a disk and not on overlayfs.
    pub fn builder(root: impl Into<PathBuf>, cni: Arc<dyn CniPlugin>) -> NativeRuntimeBuilder {
        NativeRuntimeBuilder {
            root: root.into(),
            cni,
            cgroup_root: None,
            shim_path: None,
            node_netns: None,
            node_ips: Vec::new(),
            registries: None,
        }
    }

    /// Whether this machine and process can run containers.
    ///
    /// # Errors
    /// What is missing, each with what to do about it.
    pub fn preflight() -> Result<(), Vec<String>> {
        let mut missing = Vec::new();
        if !rustix::process::geteuid().is_root() {
            missing.push("running containers needs root: run as root or with sudo".to_owned());
        } else if create::bounding_capabilities() & (1 << 21) == 0 {
            missing.push(
                "root lacks CAP_SYS_ADMIN here: run outside of a container, or in a privileged one"
                    .to_owned(),
            );
        }
        match hierarchies() {
            None => missing
                .push("no cgroups are mounted: mount -t cgroup2 none /sys/fs/cgroup".to_owned()),
            Some(found) => {
                let controllers = found.missing();
                if !controllers.is_empty() {
                    missing.push(format!(
                        "cgroups lack the controllers {}: enable them on the kernel's command line",
                        controllers.join(", ")
                    ));
                }
            }
        }
        let file_systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        if !file_systems.lines().any(|line| line.ends_with("\toverlay")) {
            missing.push("the kernel has no overlayfs: modprobe overlay".to_owned());
        }
        for (namespace, option) in
            [("net", "NET_NS"), ("ipc", "IPC_NS"), ("uts", "UTS_NS"), ("pid", "PID_NS")]
        {
            if !Path::new("/proc/self/ns").join(namespace).exists() {
                missing.push(format!("the kernel has no {namespace} namespaces: CONFIG_{option}"));
            }
        }
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    }

    /// The image store.
    pub fn images(&self) -> &ImageStore {
        &self.inner.images
    }

    /// Imports the images of an OCI layout or archive, off the async threads.
    ///
    /// # Errors
    /// Any [`ImageError`].
    pub async fn import(
        &self,
        path: &Path,
        options: ImportOptions,
    ) -> Result<Vec<Image>, ImageError> {
        let (inner, path) = (self.inner.clone(), path.to_owned());
        tokio::task::spawn_blocking(move || inner.images.import(&path, &options))
            .await
            .unwrap_or_else(|error| Err(ImageError::io("the import died")(io::Error::other(error))))
    }

    /// Stops and removes all pods, and everything of this runtime but its images: processes,
    /// cgroups, networks and directories. It cannot run pods afterwards.
    ///
    /// # Errors
    /// The first thing that could not be removed; the rest is removed all the same.
    pub async fn teardown(&self) -> Result<(), RuntimeError> {
        self.inner.teardown().await
    }
}

fn hierarchies() -> Option<Hierarchies> {
    Hierarchies::find(&fs::read_to_string("/proc/self/mountinfo").ok()?)
}

/// Whether overlayfs can have its directories here.
fn check_root(root: &Path) -> Result<(), RuntimeError> {
    const OVERLAYFS_MAGIC: u64 = 0x794c_7630;
    let text = root.to_str().unwrap_or_default();
    if text.is_empty() || text.contains([',', ':', '\\', '"']) {
        return Err(RuntimeError::Invalid(format!(
            "{} cannot hold containers: overlayfs takes no path with a comma, colon, quote or \
             backslash, or that is not UTF-8; choose another directory",
            root.display()
        )));
    }
    let stat = rustix::fs::statfs(root)
        .map_err(|error| fail(format!("cannot look at {}", root.display()))(error.into()))?;
    if stat.f_type as u64 == OVERLAYFS_MAGIC {
        return Err(RuntimeError::Invalid(format!(
            "{} is on overlayfs, which cannot be stacked on itself: choose a directory on a disk or \
             tmpfs, for example a volume of this container",
            root.display()
        )));
    }
    Ok(())
}

/// Claims the directory for this process.
fn lock(root: &Path) -> Result<File, RuntimeError> {
    let path = root.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(fail(format!("cannot open {}", path.display())))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(RuntimeError::Invalid(format!(
            "{} is in use by another process: stop it, or choose another directory",
            root.display()
        ))),
        Err(error) => Err(fail(format!("cannot lock {}", path.display()))(error.into())),
    }
}

fn open_images(root: &Path) -> Result<ImageStore, RuntimeError> {
    ImageStore::open(root.join("images")).map_err(|error| match error {
        ImageError::Io { what, source } => RuntimeError::Io { what, source },
        other => RuntimeError::Invalid(other.to_string()),
    })
}
