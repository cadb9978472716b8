//! What a node short of disk gives up before it ends a Pod: containers that have ended, and images
//! that no container uses.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::{
    Observations,
    thresholds::{Resource, Threshold},
};
use crate::{
    agent::{handler::describe, status::is_terminal, worker::Core},
    runtime::{ContainerState, ContainerStatus, SandboxStatus},
};

impl Core {
    /// Makes room on the node's disk without harm to any Pod, and returns what there is then; `None`
    /// where no disk is short.
    pub(super) async fn reclaim_disk(&self, threshold: &Threshold) -> Option<Observations> {
        match threshold.signal.resource() {
            Resource::Memory | Resource::Pids => return None,
            Resource::EphemeralStorage | Resource::Inodes => {}
        }
        if let Err(error) = self.remove_ended().await {
            tracing::warn!(node = self.config.name, error, "unable to remove containers");
        }
        if let Err(error) = self.remove_unused_images().await {
            tracing::warn!(node = self.config.name, error, "unable to remove images");
        }
        let signals = self.config.settings.signals.clone()?;
        tokio::task::spawn_blocking(move || signals.observe()).await.ok()
    }

    async fn remove_ended(&self) -> Result<(), String> {
        let text = |error| describe(&error);
        let sandboxes = self.runtime.list_pod_sandboxes().await.map_err(text)?;
        let containers = self.runtime.list_containers().await.map_err(text)?;
        let pods = self.pods_as_written();
        let pods: Vec<&Pod> = pods.iter().map(|pod| &**pod).collect();
        for id in not_needed(&containers, &sandboxes, &pods) {
            self.runtime.remove_container(&id).await.map_err(text)?;
            tracing::info!(node = self.config.name, container = id, "container removed");
        }
        Ok(())
    }

    async fn remove_unused_images(&self) -> Result<(), String> {
        let text = |error| describe(&error);
        // Containers after images: one that comes in between has its image on neither list.
        let images = self.runtime.list_images().await.map_err(text)?;
        let in_use = self.images_in_use(&images).await.map_err(text)?;
        for image in images.iter().filter(|image| !image.pinned && !in_use.contains(&image.id)) {
            self.runtime.remove_image(&image.id).await.map_err(text)?;
            tracing::info!(node = self.config.name, image = image.id, "image removed");
        }
        Ok(())
    }
}

/// The containers that have ended and that nothing is decided by any more: all of a Pod that is over,
/// and of others those that another one came after.
fn not_needed(
    containers: &[ContainerStatus],
    sandboxes: &[SandboxStatus],
    pods: &[&Pod],
) -> Vec<String> {
    let uid_of = |container: &ContainerStatus| {
        let sandbox = sandboxes.iter().find(|sandbox| sandbox.id == container.sandbox_id)?;
        Some(sandbox.config.pod.uid.as_str())
    };
    let mut newest: BTreeMap<(&str, &str), (u32, &str)> = BTreeMap::new();
    for container in containers {
        let Some(uid) = uid_of(container) else { continue };
        let one = (container.config.attempt, container.id.as_str());
        let known = newest.entry((uid, &container.config.name)).or_insert(one);
        *known = one.max(*known);
    }
    let is_over = |uid: &str| {
        let of_uid = |pod: &&&Pod| pod.metadata.uid.as_deref() == Some(uid);
        let status = pods.iter().find(of_uid).and_then(|pod| pod.status.as_ref());
        status.and_then(|status| status.phase.as_deref()).is_some_and(is_terminal)
    };
    let ended = containers.iter().filter(|one| one.state == ContainerState::Exited);
    ended
        .filter(|container| {
            uid_of(container).is_some_and(|uid| {
                let last = newest.get(&(uid, container.config.name.as_str()));
                is_over(uid) || last.is_some_and(|(_, id)| *id != container.id)
            })
        })
        .map(|container| container.id.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::runtime::{ContainerConfig, PodRef, SandboxConfig};

    fn container(id: &str, pod: &str, attempt: u32, state: ContainerState) -> ContainerStatus {
        ContainerStatus {
            id: id.to_owned(),
            sandbox_id: format!("sandbox of {pod}"),
            config: ContainerConfig { name: "c".to_owned(), attempt, ..Default::default() },
            state,
            created_at: Default::default(),
            started_at: None,
            finished_at: None,
            exit_code: Some(1),
            reason: String::new(),
            message: String::new(),
            image_id: String::new(),
            log_path: Default::default(),
        }
    }

    #[test]
    fn what_ended_goes_unless_something_hangs_on_it() {
        use ContainerState::{Exited, Running};
        let sandbox = |pod: &str| SandboxStatus {
            id: format!("sandbox of {pod}"),
            config: SandboxConfig {
                pod: PodRef { uid: pod.to_owned(), ..PodRef::default() },
                ..SandboxConfig::default()
            },
            ready: true,
            created_at: Default::default(),
            ips: Vec::new(),
        };
        let pod = |uid: &str, phase: &str| -> Pod {
            let value = json!({"metadata": {"uid": uid}, "status": {"phase": phase}});
            serde_json::from_value(value).unwrap()
        };
        let containers = [
            container("runs", "live", 2, Running),
            container("before it", "live", 1, Exited),
            // Its code says whether it is started again.
            container("waits", "waiting", 5, Exited),
            container("is over", "done", 0, Exited),
            container("nobody's", "unknown", 0, Exited),
        ];
        let pods = [pod("live", "Running"), pod("waiting", "Running"), pod("done", "Failed")];
        let pods: Vec<&Pod> = pods.iter().collect();
        let sandboxes = ["live", "waiting", "done"].map(sandbox);
        assert_eq!(not_needed(&containers, &sandboxes, &pods), ["before it", "is over"]);
    }
}
