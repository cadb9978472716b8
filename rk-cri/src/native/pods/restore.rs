//! Start and end of the runtime: what ran before is found again, or all is taken down.

use std::{fs, io, path::Path, sync::Arc};

use tokio::{sync::watch, time::timeout};

use super::{
    super::{
        disk::{
            self, CONTAINER, ContainerRecord, EXIT, Phase, SANDBOX, SOCKET, START, SandboxRecord,
        },
        wire::{AsyncChannel, Channel, Reply, Request},
    },
    Inner, Known, Pod, SHIM_TIMEOUT, START_TIMEOUT, fail, image_error, remove_dir,
};
use crate::runtime::RuntimeError;

impl Inner {
    /// Finds what ran before, and removes what was left half-made.
    pub(in crate::native) async fn reconcile(self: &Arc<Self>) -> Result<(), RuntimeError> {
        for id in names_in(&self.root.join("pods"))? {
            let directory = self.pod_dir(&id);
            let record = disk::read::<SandboxRecord>(&directory.join(SANDBOX)).ok().flatten();
            match record {
                Some(record) if record.phase != Phase::Creating => {
                    let pod = Pod { record, alive: false };
                    self.state.lock().pods.insert(id, pod);
                }
                half_made => {
                    self.ask_to_end(&id).await?;
                    if let Some(record) = half_made.filter(|record| !record.config.host_network) {
                        let _ = self.cni.del(&self.attach_request(&record)).await;
                    }
                    remove_dir(directory).await?;
                }
            }
        }
        self.load_containers().await?;
        let pods: Vec<String> = self.state.lock().pods.keys().cloned().collect();
        for id in &pods {
            self.adopt(id).await;
        }
        self.images.collect(&self.layers_in_use()).map_err(image_error)?;
        let _ = self.cni.gc(&pods).await;
        Ok(())
    }

    async fn load_containers(&self) -> Result<(), RuntimeError> {
        for id in names_in(&self.root.join("containers"))? {
            let directory = self.container_dir(&id);
            let record = disk::read::<ContainerRecord>(&directory.join(CONTAINER)).ok().flatten();
            let record =
                record.filter(|record| self.state.lock().pods.contains_key(&record.sandbox_id));
            let Some(record) = record else {
                remove_dir(directory).await?;
                continue;
            };
            let known = Known {
                start: disk::read(&directory.join(START)).ok().flatten(),
                exit: disk::read(&directory.join(EXIT)).ok().flatten(),
                ended: watch::Sender::new(false),
                record: Arc::new(record),
            };
            known.ended.send_replace(known.exit.is_some());
            self.state.lock().containers.insert(id, known);
        }
        Ok(())
    }

    /// Connects to a shim that may still live.
    async fn adopt(self: &Arc<Self>, id: &str) {
        let connected = async {
            let channel = AsyncChannel::new(Channel::connect(&self.pod_dir(id), SOCKET)?)?;
            channel.send(&Request::Watch, &[]).await?;
            channel.receive::<Reply>().await?.ok_or(io::ErrorKind::ConnectionReset)?;
            Ok::<_, io::Error>(channel)
        };
        // A start that is under way ends first, and has its own time for that.
        let Ok(Ok(channel)) = timeout(START_TIMEOUT + SHIM_TIMEOUT, connected).await else {
            return self.lost_shim(id);
        };
        {
            let mut state = self.state.lock();
            if let Some(pod) = state.pods.get_mut(id) {
                pod.alive = true;
            }
            // What ended between the reading of the records and the watch.
            for known in state.containers.values_mut() {
                if known.record.sandbox_id == id && known.exit.is_none() {
                    let path = self.container_dir(&known.record.id).join(EXIT);
                    known.exit = disk::read(&path).ok().flatten();
                    known.ended.send_replace(known.exit.is_some());
                }
            }
        }
        self.watch_pod(id, channel);
    }

    pub(in crate::native) async fn teardown(&self) -> Result<(), RuntimeError> {
        let pods: Vec<String> = self.state.lock().pods.keys().cloned().collect();
        let removed = futures::future::join_all(pods.iter().map(|id| self.remove_pod(id))).await;
        let _ = self.cni.gc(&[]).await;
        // Joins the zygote, so that its cgroup is empty.
        *self.zygote.lock() = None;
        removed.into_iter().collect::<Result<Vec<()>, _>>()?;
        let cgroup = self.hierarchies.at(&self.cgroup_root);
        cgroup.kill_all();
        cgroup.remove().map_err(fail("cannot remove the cgroups"))?;
        if let Some(parent) = self.cgroup_root.parent().filter(|path| !path.as_os_str().is_empty())
        {
            self.hierarchies.at(parent).remove_if_empty();
        }
        for directory in ["pods", "containers", "libcontainer"] {
            remove_dir(self.root.join(directory)).await?;
        }
        let _ = fs::remove_file(self.root.join("shim.log"));
        Ok(())
    }
}

fn names_in(directory: &Path) -> Result<Vec<String>, RuntimeError> {
    let entries =
        fs::read_dir(directory).map_err(fail(format!("cannot read {}", directory.display())))?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}
