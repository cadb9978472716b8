//! What the API is told of a pod, and what containers leave behind to be told.

use std::{path::Path, sync::Arc};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Resource,
    api::{Patch, PatchParams, Request},
};
use rk_api::clock;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::{
    claims,
    observed::Observed,
    spec::{full_name, pod_ref},
    static_pods::{is_mirror_of, is_static},
    status::{self, pod_status},
    sync::{Memory, View, find},
    volumes,
    worker::Core,
};
use crate::{
    logs::{LogFilter, LogOptions},
    runtime::{ContainerState, ContainerStatus, LogSource, PodRef},
};

/// The longest message that a container can leave in its file.
const MESSAGE_BYTES_MAX: u64 = 4096;
/// The longest message that is taken from a log, and the most lines of it.
const LOG_MESSAGE_BYTES_MAX: usize = 2048;
const LOG_MESSAGE_LINES_MAX: usize = 80;
/// How much of the end of a log is looked at for that.
const LOG_END_BYTES: u64 = 64 * 1024;

impl Core {
    /// Writes the pod's status if it changed, and returns the pod as it is then.
    pub(super) async fn report(
        &self,
        pod: &Arc<Pod>,
        observed: &Observed,
        memory: &mut Memory,
        terminal: bool,
    ) -> Arc<Pod> {
        let pod = memory.newest(pod);
        let mut new = {
            let view = View { pod: &pod, memory };
            let inputs = status::Inputs {
                memory: &view,
                waiting: &memory.waiting,
                ended: memory.ended.as_ref(),
                terminal,
                rejected: memory.rejected,
                disrupted: self.ended_from_outside(&pod_ref(&pod).uid).is_some(),
                host_ips: &self.config.node_ips,
                scheme: &self.scheme,
                allocation: memory.allocation.as_deref(),
                now: clock::now(),
            };
            pod_status(&pod, observed, &inputs)
        };
        if !self.runtime.simulated() {
            let recursive = self.runtime.recursive_read_only();
            volumes::shown::tell(&pod, &mut new, &claims::read_only(&pod), recursive);
        }
        let old = pod.status.clone().unwrap_or_default();
        if is_static(&pod) {
            return self.report_of_static(&pod, new, memory).await;
        }
        let reference = pod_ref(&pod);
        let Some(patch) = status::patch(&reference.uid, &old, &new) else {
            memory.unwritten = false;
            return pod;
        };
        match self.patch_status(&reference, &patch).await {
            Ok(written) => {
                memory.unwritten = false;
                let written = Arc::new(written);
                memory.written = Some(written.clone());
                written
            }
            // It is gone: the watch will tell. So it will if another one of its name is there, but that
            // is a conflict like others, after which the status is still to be written.
            Err(kube::Error::Api(status)) if status.code == 404 => {
                memory.unwritten = false;
                pod
            }
            Err(error) => {
                tracing::warn!(pod = full_name(&pod), %error, "unable to write the status, will try again");
                memory.unwritten = true;
                pod
            }
        }
    }

    /// A static Pod keeps its status, and its mirror is given it.
    async fn report_of_static(
        &self,
        pod: &Arc<Pod>,
        new: PodStatus,
        memory: &mut Memory,
    ) -> Arc<Pod> {
        let mut told = None;
        if let Some(mirror) = self.mirror(pod).filter(|mirror| is_mirror_of(mirror, pod)) {
            let reference = pod_ref(&mirror);
            let old = mirror.status.clone().unwrap_or_default();
            // What others write about the mirror stays.
            let shown = PodStatus {
                qos_class: old.qos_class.clone().or_else(|| new.qos_class.clone()),
                ..new.clone()
            };
            if let Some(patch) = status::patch(&reference.uid, &old, &shown) {
                told = Some(self.patch_status(&reference, &patch).await);
            }
        }
        memory.unwritten = match told {
            None => false,
            Some(Ok(written)) => {
                self.mirror_written(written);
                false
            }
            // It is gone: the watch will tell.
            Some(Err(kube::Error::Api(status))) if status.code == 404 => false,
            Some(Err(error)) => {
                tracing::debug!(pod = full_name(pod), %error, "unable to write the mirror's status");
                true
            }
        };
        let written = Arc::new(Pod { status: Some(new), ..(**pod).clone() });
        memory.written = Some(written.clone());
        written
    }

    async fn patch_status(&self, pod: &PodRef, patch: &serde_json::Value) -> kube::Result<Pod> {
        let url = Pod::url_path(&(), Some(&pod.namespace));
        let (parameters, patch) = (PatchParams::default(), Patch::Strategic(patch));
        let request = Request::new(url)
            .patch_subresource("status", &pod.name, &parameters, &patch)
            .map_err(kube::Error::BuildRequest)?;
        rk_api::client::request(&self.client, request).await
    }

    /// Adds what containers wrote to their termination logs, or else to their logs.
    pub(super) async fn read_termination_messages(&self, pod: &Pod, observed: &mut Observed) {
        let dir = self.pod_dir(pod);
        for container in observed.all_mut() {
            if container.state != ContainerState::Exited || !container.message.is_empty() {
                continue;
            }
            let name = &container.config.name;
            let path = dir.join("containers").join(name).join(container.config.attempt.to_string());
            let mut text = Vec::new();
            if let Ok(file) = tokio::fs::File::open(&path).await {
                file.take(MESSAGE_BYTES_MAX).read_to_end(&mut text).await.ok();
            }
            let policy = find(pod, name).and_then(|found| found.termination_message_policy.clone());
            let failed = container.exit_code != Some(0);
            if text.is_empty() && failed && policy.as_deref() == Some("FallbackToLogsOnError") {
                text = self.end_of_log(container).await;
            }
            container.message = String::from_utf8_lossy(&text).into_owned();
        }
    }

    /// The last lines that a container printed.
    async fn end_of_log(&self, container: &ContainerStatus) -> Vec<u8> {
        let log = match self.runtime.container_log(&container.id).await {
            Ok(LogSource::File(path)) => end_of_file(&path).await.unwrap_or_default(),
            Ok(LogSource::Memory(log)) => log.to_vec(),
            Err(_) => return Vec::new(),
        };
        let lines = LogOptions { tail_lines: Some(LOG_MESSAGE_LINES_MAX), ..Default::default() };
        let mut filter = LogFilter::new(lines);
        let mut text = filter.render(&log[filter.tail_offset(&log)..]);
        text.drain(..text.len().saturating_sub(LOG_MESSAGE_BYTES_MAX));
        text
    }
}

/// The last whole lines of a file.
async fn end_of_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = tokio::fs::File::open(path).await?;
    let length = file.metadata().await?.len();
    let mut text = Vec::new();
    file.seek(std::io::SeekFrom::Start(length.saturating_sub(LOG_END_BYTES))).await?;
    file.take(LOG_END_BYTES).read_to_end(&mut text).await?;
    if length > LOG_END_BYTES {
        let first = text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| at + 1);
        text.drain(..first);
    }
    Ok(text)
}
