//! Containers: their records, and what the shims are asked to do with them.

use std::{collections::HashSet, fs, io, path::PathBuf, sync::Arc, time::Duration};

use rk_api::clock;
use tokio::{sync::watch, time::timeout};

use super::{
    super::{
        create::bounding_capabilities,
        devices,
        disk::{self, CONTAINER, ContainerRecord, EXIT, Exit, Phase, SOCKET, START, Start},
        propagation,
        seccomp::{self, Filter},
        spec::{arguments, capabilities, signal_number},
        wire::{AsyncChannel, Channel, Reply, Request},
    },
    Inner, KILL_TIMEOUT, Known, SHIM_TIMEOUT, START_TIMEOUT, died, fail, new_id, not_found,
    remove_dir, unexpected,
};
use crate::{
    images::{ImageName, StoredImage},
    runtime::{
        ContainerConfig, ContainerState, ContainerStatus, Image, Resources, RuntimeError,
        SandboxConfig, Security,
    },
};

impl Inner {
    pub(in crate::native) async fn create_container(
        &self,
        sandbox_id: &str,
        config: ContainerConfig,
    ) -> Result<String, RuntimeError> {
        let sandbox = {
            let state = self.state.lock();
            let pod = state.pods.get(sandbox_id).ok_or_else(|| not_found("sandbox", sandbox_id))?;
            if !pod.alive || pod.record.phase != Phase::Ready {
                return Err(RuntimeError::State {
                    what: "sandbox",
                    id: sandbox_id.to_owned(),
                    state: "not ready".to_owned(),
                });
            }
            pod.record.config.clone()
        };
        let image =
            self.images.find(&config.image).ok_or_else(|| not_found("image", &config.image))?;
        check(&config, &image)?;
        let filter = filter(&config.security).map_err(RuntimeError::Invalid)?;
        let id = new_id().map_err(fail("cannot make an id"))?;
        let directory = self.container_dir(&id);
        let image_id = image_id(&config.image, &image.image);
        let record = ContainerRecord {
            id: id.clone(),
            sandbox_id: sandbox_id.to_owned(),
            created_at: clock::now(),
            image_id,
            image: image.config,
            layers: image.layers,
            layers_dir: self.images.layers_dir(),
            libcontainer_dir: self.root.join("libcontainer"),
            sandbox_dir: self.pod_dir(sandbox_id),
            hostname: sandbox.hostname.clone(),
            host_pid: sandbox.host_pid,
            share_pid: sandbox.share_process_namespace,
            log_path: log_path(&sandbox, &config),
            cgroup: self.container_cgroup(&sandbox, &id),
            config,
        };
        let make = || -> io::Result<()> {
            for part in ["upper", "work", "rootfs"] {
                fs::create_dir_all(directory.join(part))?;
            }
            // The root directory's own mode is the upper one's.
            if let Some(top) = record.layers.last() {
                let meta = fs::metadata(record.layers_dir.join(top))?;
                fs::set_permissions(directory.join("upper"), meta.permissions())?;
            }
            if let Some(filter) = &filter {
                disk::write(&directory.join(seccomp::FILE), filter)?;
            }
            disk::write(&directory.join(CONTAINER), &record)
        };
        if let Err(error) = make() {
            let _ = fs::remove_dir_all(&directory);
            return Err(fail(format!("cannot make {}", directory.display()))(error));
        }
        let known = Known {
            record: Arc::new(record),
            start: None,
            exit: None,
            ended: watch::Sender::new(false),
        };
        self.state.lock().containers.insert(id.clone(), known);
        self.announce(sandbox_id, Some(&id));
        Ok(id)
    }

    pub(in crate::native) fn record_of(
        &self,
        id: &str,
    ) -> Result<Arc<ContainerRecord>, RuntimeError> {
        let state = self.state.lock();
        let known = state.containers.get(id).ok_or_else(|| not_found("container", id))?;
        Ok(known.record.clone())
    }

    /// A connection to the shim of a container.
    pub(in crate::native) fn shim_of(
        &self,
        id: &str,
    ) -> Result<(AsyncChannel, PathBuf), RuntimeError> {
        let record = self.record_of(id)?;
        let directory = self.pod_dir(&record.sandbox_id);
        let channel = Channel::connect(&directory, SOCKET)
            .and_then(AsyncChannel::new)
            .map_err(fail("cannot reach the container's supervisor"))?;
        Ok((channel, directory))
    }

    pub(in crate::native) async fn ask(
        &self,
        id: &str,
        request: &Request,
        limit: Duration,
    ) -> Result<Reply, RuntimeError> {
        let (channel, _) = self.shim_of(id)?;
        channel.send(request, &[]).await.map_err(fail("the container's supervisor died"))?;
        match timeout(limit, channel.receive::<Reply>()).await {
            Err(_) => Err(RuntimeError::Timeout(limit)),
            Ok(Ok(Some((reply, _)))) => Ok(reply),
            Ok(answer) => Err(died(answer)),
        }
    }

    pub(in crate::native) async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        let state = self.container_status(id)?.state;
        if state != ContainerState::Created {
            return Err(RuntimeError::State {
                what: "container",
                id: id.to_owned(),
                state: format!("{state:?}").to_lowercase(),
            });
        }
        let record = self.record_of(id)?;
        let directory = self.container_dir(id);
        let request = Request::Start { directory: directory.clone() };
        match self.ask(id, &request, START_TIMEOUT).await {
            Ok(Reply::Started { .. }) => {
                let start = disk::read::<Start>(&directory.join(START))
                    .map_err(fail("cannot read the container's start"))?;
                if let Some(known) = self.state.lock().containers.get_mut(id) {
                    known.start = start;
                }
                self.announce(&record.sandbox_id, Some(id));
                Ok(())
            }
            Ok(Reply::Failed { message }) => {
                if let Ok(Some(exit)) = disk::read::<Exit>(&directory.join(EXIT)) {
                    self.note_exit(id, exit);
                }
                Err(RuntimeError::Start(message))
            }
            Ok(other) => Err(unexpected(&other)),
            Err(RuntimeError::Timeout(limit)) => {
                let kill = Request::Kill { container: id.to_owned() };
                let _ = self.ask(id, &kill, SHIM_TIMEOUT).await;
                Err(RuntimeError::Timeout(limit))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a container runs, and what tells its end.
    pub(in crate::native) fn running(&self, id: &str) -> Option<watch::Receiver<bool>> {
        let state = self.state.lock();
        let known = state.containers.get(id)?;
        (known.start.is_some() && known.exit.is_none()).then(|| known.ended.subscribe())
    }

    pub(in crate::native) async fn stop_container(
        &self,
        id: &str,
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        let Some(mut ended) = self.running(id) else { return Ok(()) };
        let container = id.to_owned();
        if !grace.is_zero() {
            let record = self.record_of(id)?;
            let wanted = [&record.config.stop_signal, &record.image.stop_signal];
            let name = wanted.into_iter().find(|name| !name.is_empty());
            let signal = name.and_then(|name| signal_number(name)).unwrap_or(libc::SIGTERM);
            let request = Request::Signal { container: container.clone(), signal };
            self.ask(id, &request, SHIM_TIMEOUT).await?;
            if timeout(grace, ended.wait_for(|ended| *ended)).await.is_ok() {
                return Ok(());
            }
        }
        self.ask(id, &Request::Kill { container }, SHIM_TIMEOUT).await?;
        match timeout(KILL_TIMEOUT, ended.wait_for(|ended| *ended)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(RuntimeError::Timeout(KILL_TIMEOUT)),
        }
    }

    /// Changes the limits of a container, and keeps them for its start and for its status.
    pub(in crate::native) async fn update_resources(
        &self,
        id: &str,
        resources: Resources,
    ) -> Result<(), RuntimeError> {
        let record = self.record_of(id)?;
        if self.state_of(id)? == ContainerState::Exited {
            return Err(RuntimeError::State {
                what: "container",
                id: id.to_owned(),
                state: "exited".to_owned(),
            });
        }
        let mut changed = ContainerRecord::clone(&record);
        changed.config.resources.change(&resources);
        // One that is made and not started has no cgroup yet: it starts with what is recorded.
        let cgroup = record.cgroup.clone();
        let limits = tokio::task::spawn_blocking(move || cgroup.limit(&resources));
        limits
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(fail("cannot change the container's limits"))?;
        disk::write(&self.container_dir(id).join(CONTAINER), &changed)
            .map_err(fail("cannot record the container's limits"))?;
        if let Some(known) = self.state.lock().containers.get_mut(id) {
            known.record = Arc::new(changed);
        }
        Ok(())
    }

    fn state_of(&self, id: &str) -> Result<ContainerState, RuntimeError> {
        Ok(self.container_status(id)?.state)
    }

    /// Has a running container write its log to a new file of its name.
    pub(in crate::native) async fn reopen_log(&self, id: &str) -> Result<(), RuntimeError> {
        self.ask(id, &Request::ReopenLog { container: id.to_owned() }, SHIM_TIMEOUT).await?;
        Ok(())
    }

    pub(in crate::native) async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let Ok(record) = self.record_of(id) else { return Ok(()) };
        self.stop_container(id, Duration::ZERO).await?;
        if self.state_of(id)? == ContainerState::Created {
            // It may be on its way all the same: a start that nobody waited for the end of.
            let kill = Request::Kill { container: id.to_owned() };
            let _ = self.ask(id, &kill, SHIM_TIMEOUT).await;
        }
        record.cgroup.kill_all();
        record.cgroup.remove().map_err(fail("cannot remove the container's cgroup"))?;
        // Without its record, what is left is removed at the next start if this is interrupted.
        let directory = self.container_dir(id);
        let _ = fs::remove_file(directory.join(CONTAINER));
        remove_dir(directory).await?;
        self.state.lock().containers.remove(id);
        self.announce(&record.sandbox_id, None);
        Ok(())
    }

    pub(in crate::native) fn list_containers(&self) -> Vec<ContainerStatus> {
        let mut state = self.state.lock();
        state.containers.values_mut().map(|known| self.status(known)).collect()
    }

    pub(in crate::native) fn container_status(
        &self,
        id: &str,
    ) -> Result<ContainerStatus, RuntimeError> {
        let mut state = self.state.lock();
        let known = state.containers.get_mut(id).ok_or_else(|| not_found("container", id))?;
        Ok(self.status(known))
    }

    pub(super) fn status(&self, known: &mut Known) -> ContainerStatus {
        // A start that was under way when the agent before this one died shows on the disk only.
        if known.start.is_none() && known.exit.is_none() {
            let path = self.container_dir(&known.record.id).join(START);
            known.start = disk::read(&path).ok().flatten();
        }
        let record = &known.record;
        let state = match (&known.start, &known.exit) {
            (_, Some(_)) => ContainerState::Exited,
            (Some(_), None) => ContainerState::Running,
            (None, None) => ContainerState::Created,
        };
        let exit = known.exit.as_ref();
        ContainerStatus {
            id: record.id.clone(),
            sandbox_id: record.sandbox_id.clone(),
            config: record.config.clone(),
            state,
            created_at: record.created_at,
            started_at: known.start.map(|start| start.at),
            finished_at: exit.map(|exit| exit.at),
            exit_code: exit.map(|exit| exit.code),
            reason: exit.map(|exit| exit.reason.clone()).unwrap_or_default(),
            message: exit.map(|exit| exit.message.clone()).unwrap_or_default(),
            image_id: record.image_id.clone(),
            log_path: record.log_path.clone(),
        }
    }

    /// The layers that containers and volumes use.
    pub(in crate::native) fn layers_in_use(&self) -> HashSet<String> {
        let mut layers = self.layers_of_image_mounts();
        let state = self.state.lock();
        layers.extend(state.containers.values().flat_map(|known| known.record.layers.clone()));
        layers
    }
}

/// What can be told wrong before the start.
fn check(config: &ContainerConfig, image: &StoredImage) -> Result<(), RuntimeError> {
    arguments(config, &image.config).map_err(RuntimeError::Invalid)?;
    for mount in &config.mounts {
        if !mount.host_path.exists() {
            return Err(RuntimeError::Invalid(format!(
                "mount source {} does not exist",
                mount.host_path.display()
            )));
        }
        if mount.propagation.is_some() {
            let table = crate::mounts::table().map_err(fail("cannot read the table of mounts"))?;
            propagation::check(mount, &table).map_err(RuntimeError::Invalid)?;
        }
    }
    for device in &config.devices {
        devices::of_host(device).map_err(RuntimeError::Invalid)?;
    }
    Ok(())
}

/// What filters its system calls; `None` is nothing. A privileged container may make all.
fn filter(security: &Security) -> Result<Option<Filter>, String> {
    if security.privileged {
        return Ok(None);
    }
    let capabilities = capabilities(security, bounding_capabilities())?;
    Filter::of(&security.seccomp, &capabilities)
}

fn log_path(sandbox: &SandboxConfig, config: &ContainerConfig) -> PathBuf {
    match config.log_path.as_os_str().is_empty() {
        true => PathBuf::new(),
        false => sandbox.log_directory.join(&config.log_path),
    }
}

/// What a Pod's status calls the image that was asked for by `name`: where it came from by that name
/// and its digest, or any other such name, or its id.
fn image_id(name: &str, image: &Image) -> String {
    let repository = name.parse::<ImageName>().map(|name| format!("{}@", name.repository()));
    let own = repository
        .ok()
        .and_then(|repository| image.digests.iter().find(|digest| digest.starts_with(&repository)));
    own.or(image.digests.first()).unwrap_or(&image.id).clone()
}
