//! How pods end: they fail, they are over, they are deleted, or they are simply gone.

use std::{path::PathBuf, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, Preconditions},
};
use rk_api::client::EventType;

use super::{
    observed::Observed,
    spec::{full_name, log_directory, pod_ref},
    static_pods::is_static,
    sync::{Memory, RETRY},
    volumes,
    worker::{Core, Job, Next},
};

impl Core {
    /// Stops a pod that was ended from outside, and says so.
    pub(super) async fn end(
        &self,
        job: &Job,
        pod: &Arc<Pod>,
        observed: Observed,
        memory: &mut Memory,
    ) -> Next {
        memory.probes.clear();
        self.stop_pod(job, pod, &observed).await;
        let observed = self.observe(pod).await.unwrap_or(observed);
        self.report(pod, &observed, memory, true).await;
        Next::Wait(memory.unwritten.then_some(RETRY))
    }

    /// A pod that is over: nothing of it may run.
    pub(super) async fn stop_finished(
        &self,
        job: &Job,
        pod: &Pod,
        observed: &Observed,
        memory: &mut Memory,
    ) -> Next {
        memory.probes.clear();
        if observed.sandbox().is_some() || observed.running().next().is_some() {
            self.stop_pod(job, pod, observed).await;
        }
        // Others may be waiting for its volumes, which it does not need any more.
        Next::Wait((!self.released(pod, memory).await).then_some(RETRY))
    }

    /// Takes a pod's volumes of CSI drivers from it; whether that succeeded.
    async fn released(&self, pod: &Pod, memory: &mut Memory) -> bool {
        let directory = self.pod_dir(pod);
        let Err(why) = self.release_csi(&directory).await else {
            memory.csi.clear();
            return true;
        };
        let about = self.pod_reference(pod);
        self.event(&about, EventType::Warning, "FailedUnMount", &why);
        false
    }

    /// Stops a pod that is being deleted, says how it ended, and lets the API forget it.
    pub(super) async fn terminate(
        &self,
        job: &Job,
        pod: &Arc<Pod>,
        observed: Observed,
        memory: &mut Memory,
    ) -> Next {
        memory.probes.clear();
        if memory.deleted {
            return Next::Wait(None);
        }
        self.stop_pod(job, pod, &observed).await;
        let observed = match self.observe(pod).await {
            Ok(observed) if observed.running().next().is_none() => observed,
            Ok(_) => return Next::Wait(Some(RETRY)),
            Err(error) => return self.runtime_failed(pod, &error),
        };
        let pod = self.report(pod, &observed, memory, true).await;
        if !self.runtime.simulated() {
            if !self.released(&pod, memory).await {
                return Next::Wait(Some(RETRY));
            }
            self.remove_directory(self.pod_dir(&pod)).await;
        }
        let reference = pod_ref(&pod);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &reference.namespace);
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(reference.uid), resource_version: None }),
            ..Default::default()
        };
        match api.delete(&reference.name, &parameters).await {
            Ok(_) => memory.deleted = true,
            Err(kube::Error::Api(status)) if status.code == 404 => memory.deleted = true,
            // Another of its name counts as a conflict, too: the watch will tell of that.
            Err(error) => {
                tracing::warn!(pod = full_name(&pod), %error, "unable to delete, will try again");
                return Next::Wait(Some(RETRY));
            }
        }
        Next::Wait(None)
    }

    /// Stops and removes all that is left of a pod.
    pub(super) async fn clean_up(&self, job: &Job, memory: &mut Memory) -> Next {
        memory.probes.clear();
        let pod = &job.pod;
        let observed = match self.observe(pod).await {
            Ok(observed) => observed,
            Err(error) => return self.runtime_failed(pod, &error),
        };
        self.stop_pod(job, pod, &observed).await;
        for sandbox in &observed.sandboxes {
            if let Err(error) = self.runtime.remove_pod_sandbox(&sandbox.id).await {
                return self.runtime_failed(pod, &error);
            }
        }
        if is_static(pod)
            && let Err(error) = self.drop_mirror(pod).await
        {
            tracing::warn!(pod = full_name(pod), %error, "unable to delete the mirror, will try again");
            return Next::Wait(Some(RETRY));
        }
        if !self.runtime.simulated() {
            if !self.released(pod, memory).await {
                return Next::Wait(Some(RETRY));
            }
            self.remove_directory(self.pod_dir(pod)).await;
            self.remove_directory(log_directory(&self.config.log_root, &pod_ref(pod))).await;
        }
        Next::Forget
    }

    async fn remove_directory(&self, directory: PathBuf) {
        let shown = directory.display().to_string();
        let removed = tokio::task::spawn_blocking(move || volumes::tear_down(&directory)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(directory = shown, %error, "unable to remove");
        }
    }
}
