//! What is written to Pods that found no node, and to those that must make room.

use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use rk_api::{
    client::{EventRecorder, EventType, object_ref},
    clock,
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::{PodInfo, framework::Nomination};

/// How many of these requests are under way at once.
const IN_FLIGHT_MAX: usize = 64;

/// Writes status in the background. What fails is logged and left: the next try of the Pod writes
/// again.
#[derive(Clone)]
pub(super) struct StatusWriter {
    client: kube::Client,
    recorder: EventRecorder,
    in_flight: Arc<Semaphore>,
}

/// A Pod that makes room.
pub(super) struct Eviction {
    pub(super) victim: Arc<PodInfo>,
    /// For this one.
    pub(super) by: Arc<PodInfo>,
    /// On this node.
    pub(super) node: String,
}

impl StatusWriter {
    pub(super) fn new(client: kube::Client, recorder: EventRecorder) -> Self {
        Self { client, recorder, in_flight: Arc::new(Semaphore::new(IN_FLIGHT_MAX)) }
    }

    /// Sets the condition PodScheduled to false, and the nominated node, unless they are so.
    pub(super) fn write(&self, pod: &Pod, reason: &str, message: &str, nominated: &Nomination) {
        if let Some(patch) = status_patch(pod, reason, message, nominated) {
            self.patch(pod, patch);
        }
    }

    /// No node is kept for the Pod any more.
    pub(super) fn withdraw(&self, pod: &Pod) {
        if nominated_node(pod).is_some() {
            self.patch(pod, json!({"status": {"nominatedNodeName": null}}));
        }
    }

    fn patch(&self, pod: &Pod, patch: Value) {
        let (pods, name) = self.api(pod);
        let in_flight = self.in_flight.clone();
        tokio::spawn(async move {
            let Ok(_permit) = in_flight.acquire_owned().await else { return };
            let patched =
                pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            let _ = or_gone(patched.map(drop), &name);
        });
    }

    /// Deletes Pods to make room, after saying so in their conditions; `done` is called when all
    /// were asked to go, with whether that failed for one.
    pub(super) fn evict(&self, evictions: Vec<Eviction>, done: impl FnOnce(bool) + Send + 'static) {
        let writer = self.clone();
        tokio::spawn(async move {
            let all = join_all(evictions.iter().map(|eviction| writer.evict_one(eviction))).await;
            done(all.iter().any(Result::is_err));
        });
    }

    async fn evict_one(&self, eviction: &Eviction) -> kube::Result<()> {
        let Ok(_permit) = self.in_flight.acquire().await else { return Ok(()) };
        let scheduler = eviction.by.scheduler_name();
        let patch = json!({"status": {"conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
            "lastTransitionTime": clock::now_seconds(),
        }]}});
        let victim = &eviction.victim.pod;
        let (pods, name) = self.api(victim);
        let deleted = async {
            pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
            let preconditions =
                Preconditions { uid: victim.metadata.uid.clone(), resource_version: None };
            pods.delete(&name, &DeleteParams::default().preconditions(preconditions)).await?;
            Ok(())
        };
        match or_gone(deleted.await, &name) {
            Ok(true) => self.preempted(eviction),
            Ok(false) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Says in an event that a Pod makes room.
    pub(super) fn preempted(&self, Eviction { victim, by, node }: &Eviction) {
        let message = format!("Preempted by pod {} on node {node}", by.uid);
        self.recorder.event(&object_ref(&*victim.pod), EventType::Normal, "Preempted", message);
    }

    fn api(&self, pod: &Pod) -> (Api<Pod>, String) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let name = pod.metadata.name.clone().unwrap_or_default();
        (Api::namespaced(self.client.clone(), namespace), name)
    }
}

/// Whether it was done; not when the Pod is gone, which is as well. Another failure is logged.
fn or_gone(result: kube::Result<()>, pod: &str) -> kube::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
        Err(error) => {
            tracing::warn!(pod, %error, "could not update the pod");
            Err(error)
        }
    }
}

fn nominated_node(pod: &Pod) -> Option<&str> {
    let name = pod.status.as_ref()?.nominated_node_name.as_deref();
    name.filter(|name| !name.is_empty())
}

/// What is to change in the Pod's status; `None` if it says so already.
fn status_patch(pod: &Pod, reason: &str, message: &str, nominated: &Nomination) -> Option<Value> {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let old = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
    let is = |old: &PodCondition| {
        old.status == "False"
            && old.reason.as_deref() == Some(reason)
            && old.message.as_deref() == Some(message)
    };
    let same_node = *nominated == Nomination::Unchanged || nominated.node() == nominated_node(pod);
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
    if !same_node {
        patch["status"]["nominatedNodeName"] = nominated.node().into();
    }
    Some(patch)
}

#[cfg(test)]
mod tests {
    use rk_api::testing::pod;

    use super::*;

    #[test]
    fn the_condition_is_written_once() {
        let keep = &Nomination::Unchanged;
        let patch = status_patch(&pod("p"), "Unschedulable", "no room", keep).unwrap();
        let condition = &patch["status"]["conditions"][0];
        assert_eq!(condition["message"], "no room");
        assert!(patch["status"].get("nominatedNodeName").is_none());

        let written = pod("p").with(|pod| {
            let condition = serde_json::from_value(condition.clone()).unwrap();
            pod.status.get_or_insert_default().conditions = Some(vec![condition]);
        });
        assert!(status_patch(&written, "Unschedulable", "no room", keep).is_none());
        let node = Nomination::Node("n".to_owned());
        let again = status_patch(&written, "Unschedulable", "no room", &node).unwrap();
        assert_eq!(again["status"]["nominatedNodeName"], "n");
        let other = status_patch(&written, "Unschedulable", "still none", keep).unwrap();
        let since = &other["status"]["conditions"][0]["lastTransitionTime"];
        assert_eq!(*since, condition["lastTransitionTime"], "its status did not change");
    }

    #[test]
    fn a_nomination_is_withdrawn_where_there_is_one() {
        let withdrawn = &Nomination::Withdrawn;
        let none = status_patch(&pod("p"), "Unschedulable", "no room", withdrawn).unwrap();
        assert!(none["status"].get("nominatedNodeName").is_none());
        let nominated = pod("p").with(|pod| {
            pod.status.get_or_insert_default().nominated_node_name = Some("n".to_owned());
        });
        let patch = status_patch(&nominated, "Unschedulable", "no room", withdrawn).unwrap();
        assert_eq!(patch["status"].get("nominatedNodeName"), Some(&Value::Null));
    }
}
