//! What is written to Pods that found no node, and to those that must make room.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use rk_api::clock;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::PodInfo;

/// How many of these requests are under way at once.
const IN_FLIGHT_MAX: usize = 64;

/// Writes status in the background. What fails is logged and left: the next try of the Pod writes
/// again.
pub(super) struct StatusWriter {
    client: kube::Client,
    in_flight: Arc<Semaphore>,
}

impl StatusWriter {
    pub(super) fn new(client: kube::Client) -> Self {
        Self { client, in_flight: Arc::new(Semaphore::new(IN_FLIGHT_MAX)) }
    }

    /// Sets the condition PodScheduled to false, and the nominated node, unless they are so.
    pub(super) fn write(&self, pod: &Pod, reason: &str, message: &str, nominated: Option<String>) {
        let Some(patch) = status_patch(pod, reason, message, nominated.as_deref()) else { return };
        self.spawn(pod, move |pods, name| async move {
            pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
            Ok(())
        });
    }

    /// Deletes a Pod to make room, after saying so in its conditions.
    pub(super) fn evict(&self, victim: Arc<PodInfo>, scheduler: &str) {
        if victim.is_terminating() {
            return;
        }
        let now = clock::now_seconds();
        let patch = json!({"status": {"conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
            "lastTransitionTime": now,
        }]}});
        let uid = victim.pod.metadata.uid.clone();
        self.spawn(&victim.pod, move |pods, name| async move {
            pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
            let preconditions = Preconditions { uid, resource_version: None };
            pods.delete(&name, &DeleteParams::default().preconditions(preconditions)).await?;
            Ok(())
        });
    }

    fn spawn<F>(&self, pod: &Pod, work: impl FnOnce(Api<Pod>, String) -> F + Send + 'static)
    where
        F: Future<Output = kube::Result<()>> + Send,
    {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let name = pod.metadata.name.clone().unwrap_or_default();
        let pods = Api::<Pod>::namespaced(self.client.clone(), &namespace);
        let in_flight = self.in_flight.clone();
        tokio::spawn(async move {
            let Ok(_permit) = in_flight.acquire_owned().await else { return };
            match work(pods, name.clone()).await {
                Ok(()) => {}
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => {
                    tracing::warn!(%namespace, pod = %name, %error, "could not update the pod");
                }
            }
        });
    }
}

/// What is to change in the Pod's status; `None` if it says so already.
fn status_patch(pod: &Pod, reason: &str, message: &str, nominated: Option<&str>) -> Option<Value> {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let old = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
    let is = |old: &PodCondition| {
        old.status == "False"
            && old.reason.as_deref() == Some(reason)
            && old.message.as_deref() == Some(message)
    };
    let named = status.and_then(|status| status.nominated_node_name.as_deref());
    let same_node = nominated.is_none_or(|node| named == Some(node));
    if old.is_some_and(is) && same_node {
        return None;
    }

    let unchanged = old.filter(|old| old.status == "False");
    let since = unchanged.and_then(|old| old.last_transition_time.clone());
    let mut patch = json!({"status": {"conditions": [{
        "type": "PodScheduled",
        "status": "False",
        "reason": reason,
        "message": message,
        "lastProbeTime": null,
        "lastTransitionTime": since.unwrap_or_else(clock::now_seconds),
    }]}});
    if let Some(node) = nominated.filter(|_| !same_node) {
        patch["status"]["nominatedNodeName"] = node.into();
    }
    Some(patch)
}

#[cfg(test)]
mod tests {
    use rk_api::testing::pod;

    use super::*;

    #[test]
    fn the_condition_is_written_once() {
        let patch = status_patch(&pod("p"), "Unschedulable", "no room", None).unwrap();
        let condition = &patch["status"]["conditions"][0];
        assert_eq!(condition["message"], "no room");
        assert!(patch["status"].get("nominatedNodeName").is_none());

        let written = pod("p").with(|pod| {
            let condition = serde_json::from_value(condition.clone()).unwrap();
            pod.status.get_or_insert_default().conditions = Some(vec![condition]);
        });
        assert!(status_patch(&written, "Unschedulable", "no room", None).is_none());
        let again = status_patch(&written, "Unschedulable", "no room", Some("n")).unwrap();
        assert_eq!(again["status"]["nominatedNodeName"], "n");
        let other = status_patch(&written, "Unschedulable", "still none", None).unwrap();
        let since = &other["status"]["conditions"][0]["lastTransitionTime"];
        assert_eq!(*since, condition["lastTransitionTime"], "its status did not change");
    }
}
