//! Pods are resized while they run (KEP-1287), on a simulated node with a paused clock.
#![allow(clippy::unwrap_used, reason = "what fails here is the test")]

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{ContainerStatus, Event, Node, Pod, PodCondition};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use rk_api::server::ApiServer;
use rk_cri::{SimRuntime, agent::Agent};
use rk_store::EmbeddedStore;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

/// An API server and one simulated node with four CPUs.
struct World {
    client: kube::Client,
    runtime: SimRuntime,
    agent: Option<DropGuard>,
}

impl World {
    async fn new() -> Self {
        let store = Arc::new(EmbeddedStore::in_memory());
        let server =
            ApiServer::builder(store).require_service_accounts(false).start().await.unwrap();
        let mut world = Self { client: server.client(), runtime: SimRuntime::new(), agent: None };
        world.start_agent().await;
        world
    }

    async fn start_agent(&mut self) {
        let agent = Agent::builder(self.client.clone(), Arc::new(self.runtime.clone()))
            .node_name("n1")
            .capacity([("cpu", "4"), ("memory", "4Gi")])
            .build()
            .unwrap();
        let token = CancellationToken::new();
        tokio::spawn(agent.run(token.clone()));
        let nodes: Api<Node> = Api::all(self.client.clone());
        while nodes.get_opt("n1").await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.agent = Some(token.drop_guard());
    }

    fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    /// Runs a Pod that has what it asks for.
    async fn run(&self, name: &str, annotations: Value, resources: Value) -> Pod {
        let pod = json!({
            "metadata": {"name": name, "annotations": annotations},
            "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 1, "containers": [{
                "name": "main", "image": "app:v1", "resources": resources,
                "resizePolicy": [
                    {"resourceName": "cpu", "restartPolicy": "NotRequired"},
                    {"resourceName": "memory", "restartPolicy": "NotRequired"},
                ],
            }]},
        });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        self.pods().create(&PostParams::default(), &pod).await.unwrap();
        self.until(name, "running", |pod| container(pod).ready).await
    }

    async fn resize(&self, name: &str, resources: Value) -> Result<Pod, kube::Error> {
        let patch = json!({"spec": {"containers": [{"name": "main", "resources": resources}]}});
        self.pods().patch_resize(name, &PatchParams::default(), &Patch::Strategic(patch)).await
    }

    async fn until(&self, name: &str, what: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        let mut pod = self.pods().get(name).await.unwrap();
        for _ in 0..20_000 {
            if wanted(&pod) {
                return pod;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            pod = self.pods().get(name).await.unwrap();
        }
        panic!("{name} is not {what}: {}", serde_json::to_string_pretty(&pod.status).unwrap())
    }

    /// Waits for an event about a Pod, and returns its message.
    async fn event(&self, name: &str, reason: &str) -> String {
        let api: Api<Event> = Api::default_namespaced(self.client.clone());
        for _ in 0..2_000 {
            let events = api.list(&Default::default()).await.unwrap().items;
            let found = events.into_iter().find(|event| {
                event.involved_object.name.as_deref() == Some(name)
                    && event.reason.as_deref() == Some(reason)
            });
            if let Some(found) = found {
                return found.message.unwrap_or_default();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{name} has no event {reason}")
    }
}

fn both(cpu: &str, memory: &str) -> Value {
    let amounts = json!({"cpu": cpu, "memory": memory});
    json!({"requests": amounts, "limits": amounts})
}

fn container(pod: &Pod) -> ContainerStatus {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.clone());
    statuses.unwrap_or_default().into_iter().next().unwrap_or_default()
}

/// The CPU limit that the container runs with.
fn cpu(pod: &Pod) -> String {
    let limits = container(pod).resources.unwrap_or_default().limits.unwrap_or_default();
    limits.get("cpu").map(|amount| amount.0.clone()).unwrap_or_default()
}

fn condition(pod: &Pod, kind: &str) -> Option<PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.clone()?;
    conditions.into_iter().find(|condition| condition.type_ == kind)
}

/// Whether nothing of a resize is left to do.
fn is_done(pod: &Pod) -> bool {
    ["PodResizePending", "PodResizeInProgress"].iter().all(|kind| condition(pod, kind).is_none())
}

#[tokio::test(start_paused = true)]
async fn a_running_container_gets_other_limits_without_a_restart() {
    let world = World::new().await;
    let before = world.run("web", json!({}), both("1", "1Gi")).await;
    assert_eq!(cpu(&before), "1");
    let allocated = container(&before).allocated_resources.unwrap();
    assert_eq!((&*allocated["cpu"].0, &*allocated["memory"].0), ("1", "1Gi"));

    let resized = world.resize("web", both("2", "2Gi")).await.unwrap();
    let after = world.until("web", "resized", |pod| cpu(pod) == "2" && is_done(pod)).await;

    let (was, is) = (container(&before), container(&after));
    assert_eq!((is.container_id, is.restart_count), (was.container_id, 0));
    assert_eq!(is.allocated_resources.unwrap()["memory"].0, "2Gi");
    let generation = resized.metadata.generation.unwrap();
    assert!(generation > 1);
    for reason in ["ResizeStarted", "ResizeCompleted"] {
        let message = world.event("web", reason).await;
        assert!(message.contains(&format!("\"generation\":{generation}")), "{message}");
        assert!(message.contains("\"cpu\":\"2\""), "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_that_wants_it_is_started_again_to_be_resized() {
    let world = World::new().await;
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 1, "containers": [{
            "name": "main", "image": "app:v1", "resources": both("1", "1Gi"),
            "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}],
        }]},
    }))
    .unwrap();
    world.pods().create(&PostParams::default(), &pod).await.unwrap();
    let before = world.until("web", "running", |pod| container(pod).ready).await;

    world.resize("web", both("2", "1Gi")).await.unwrap();
    let same = world.until("web", "resized", |pod| cpu(pod) == "2" && is_done(pod)).await;
    assert_eq!(container(&same).container_id, container(&before).container_id);

    world.resize("web", both("2", "2Gi")).await.unwrap();
    let other = world
        .until("web", "started again", |pod| {
            container(pod).restart_count == 1 && container(pod).ready && is_done(pod)
        })
        .await;
    assert_ne!(container(&other).container_id, container(&before).container_id);
    assert_eq!(world.event("web", "Killing").await, "Container main resize requires restart");
}

#[tokio::test(start_paused = true)]
async fn a_resize_that_does_not_fit_now_waits_until_it_does() {
    let mut world = World::new().await;
    world.run("web", json!({}), both("1", "1Gi")).await;
    world.run("other", json!({}), both("2", "1Gi")).await;

    world.resize("web", both("3", "1Gi")).await.unwrap();
    let waits = |pod: &Pod| condition(pod, "PodResizePending").is_some_and(|c| c.status == "True");
    let pending = world.until("web", "waiting", waits).await;
    let found = condition(&pending, "PodResizePending").unwrap();
    assert_eq!(found.reason.as_deref(), Some("Deferred"));
    assert_eq!(
        found.message.as_deref(),
        Some("Node didn't have enough resource: cpu, requested: 3000, used: 2000, capacity: 4000")
    );
    assert_eq!(found.observed_generation, pending.metadata.generation);
    assert_eq!(cpu(&pending), "1", "it runs with what it had");
    let allocated = container(&pending).allocated_resources.unwrap();
    assert_eq!(allocated["cpu"].0, "1");
    world.event("web", "ResizeDeferred").await;

    // It still has only what it had for whoever comes, and after a restart of the agent.
    world.run("third", json!({}), both("1", "1Gi")).await;
    world.agent = None;
    world.start_agent().await;
    world.pods().delete("third", &DeleteParams::default()).await.unwrap();
    let pending = world.until("web", "waiting", waits).await;
    assert_eq!(cpu(&pending), "1");

    world.pods().delete("other", &DeleteParams::default()).await.unwrap();
    let after = world.until("web", "resized", |pod| cpu(pod) == "3" && is_done(pod)).await;
    assert_eq!(container(&after).restart_count, 0);
}

#[tokio::test(start_paused = true)]
async fn memory_is_not_taken_from_a_container_that_uses_it() {
    let world = World::new().await;
    let uses = json!({"sim.rk.dev/memory": "800Mi"});
    world.run("web", uses, both("1", "1Gi")).await;

    world.resize("web", both("1", "512Mi")).await.unwrap();
    let fails = |pod: &Pod| {
        condition(pod, "PodResizeInProgress").is_some_and(|c| c.reason.as_deref() == Some("Error"))
    };
    let failed = world.until("web", "failing", fails).await;
    let message = condition(&failed, "PodResizeInProgress").unwrap().message.unwrap();
    let expected = "cannot decrease memory limits: attempting to set container \"main\" memory \
                    limit (536870912) below current usage";
    assert!(message.starts_with(expected), "{message}");
    let limit = |pod: &Pod| container(pod).resources.unwrap().limits.unwrap()["memory"].0.clone();
    assert_eq!(limit(&failed), "1Gi");
    world.event("web", "ResizeError").await;

    let less = json!({"metadata": {"annotations": {"sim.rk.dev/memory": "100Mi"}}});
    world.pods().patch("web", &PatchParams::default(), &Patch::Merge(less)).await.unwrap();
    world.until("web", "resized", |pod| limit(pod) == "512Mi" && is_done(pod)).await;
}

#[tokio::test(start_paused = true)]
async fn a_resize_back_before_it_began_leaves_nothing() {
    let world = World::new().await;
    world.run("web", json!({}), both("1", "1Gi")).await;
    world.run("other", json!({}), both("2", "1Gi")).await;
    world.resize("web", both("4", "1Gi")).await.unwrap();
    world.until("web", "waiting", |pod| condition(pod, "PodResizePending").is_some()).await;
    world.resize("web", both("1", "1Gi")).await.unwrap();
    let back = world.until("web", "back", is_done).await;
    assert_eq!((cpu(&back).as_str(), container(&back).restart_count), ("1", 0));
    // More than the whole node is refused at once.
    let refused = world.resize("web", both("5", "1Gi")).await.unwrap_err().to_string();
    assert!(refused.contains("enough allocatable resources"), "{refused}");
}
