//! What a node does beside running the Pods of the API: static Pods, eviction, shutdown. With the
//! simulated runtime, against the API server in process, on a paused clock.
#![allow(clippy::unwrap_used, reason = "what fails here is the test")]

use std::{path::Path, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use parking_lot::Mutex;
use rk_api::server::{ApiServer, UserInfo};
use rk_cri::{
    Runtime, SimRuntime,
    agent::{
        Agent, NodeShutdown,
        configuration::KubeletConfiguration,
        eviction::{EvictionSignal, NodeSignals, Observation, Observations},
    },
};
use rk_store::EmbeddedStore;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What the node has left, as the test says.
#[derive(Clone, Debug, Default)]
struct Left {
    seen: Arc<Mutex<Observations>>,
    /// Whose images are all that is on the disk: with two of them it is full.
    images: Arc<Mutex<Option<SimRuntime>>>,
}

impl Left {
    fn memory(&self, available: i64) {
        let seen = Observation { available, capacity: 1 << 30 };
        self.seen.lock().insert(EvictionSignal::MemoryAvailable, seen);
    }

    fn disk(&self, available: i64) {
        let seen = Observation { available, capacity: 1 << 30 };
        self.seen.lock().insert(EvictionSignal::NodefsAvailable, seen);
    }
}

impl NodeSignals for Left {
    fn observe(&self) -> Observations {
        if let Some(runtime) = &*self.images.lock() {
            let images = futures::executor::block_on(runtime.list_images()).unwrap();
            self.disk(if images.len() > 1 { 50 << 20 } else { 500 << 20 });
        }
        self.seen.lock().clone()
    }
}

struct World {
    client: Client,
    left: Left,
    runtime: SimRuntime,
    shutdown: NodeShutdown,
    _agent: DropGuard,
}

fn configuration(fields: &str) -> KubeletConfiguration {
    let text =
        format!("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n{fields}");
    KubeletConfiguration::parse(&text).unwrap().configuration
}

impl World {
    async fn new(fields: &str) -> Self {
        let store = Arc::new(EmbeddedStore::in_memory());
        let server =
            ApiServer::builder(store).require_service_accounts(false).start().await.unwrap();
        let left = Left::default();
        // With a node's rights, no more.
        let node = server.client_as(UserInfo::node("n1"));
        let runtime = SimRuntime::new();
        let agent = Agent::builder(node, Arc::new(runtime.clone()))
            .node_name("n1")
            .configuration(&configuration(fields))
            .signals(Arc::new(left.clone()))
            .build()
            .unwrap();
        let shutdown = agent.node_shutdown();
        let token = CancellationToken::new();
        tokio::spawn(agent.run(token.clone()));
        Self { client: server.client(), left, runtime, shutdown, _agent: token.drop_guard() }
    }

    fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    async fn run(&self, name: &str, annotations: Value, spec: Value) {
        let mut pod = json!({
            "metadata": {"name": name, "annotations": annotations},
            "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "app:v1"}]},
        });
        for (key, value) in spec.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        let pod: Pod = serde_json::from_value(pod).unwrap();
        self.pods().create(&PostParams::default(), &pod).await.unwrap();
    }

    /// Waits until a Pod is as `wanted` says.
    #[track_caller]
    fn until<'a>(
        &'a self,
        name: &'a str,
        what: &'a str,
        wanted: impl Fn(Option<&Pod>) -> bool + 'a,
    ) -> impl Future<Output = Option<Pod>> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            for _ in 0..20_000 {
                let pod = self.pods().get_opt(name).await.unwrap();
                if wanted(pod.as_ref()) {
                    return pod;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let pod = self.pods().get_opt(name).await.unwrap();
            panic!(
                "{caller}: {name} is not {what}: {}",
                serde_json::to_string_pretty(&pod).unwrap()
            )
        }
    }

    #[track_caller]
    fn phase<'a>(
        &'a self,
        name: &'a str,
        wanted: &'a str,
    ) -> impl Future<Output = Option<Pod>> + 'a {
        self.until(name, wanted, move |pod| pod.is_some_and(|pod| phase(pod) == wanted))
    }

    /// Waits until a condition of the node has this status.
    async fn condition(&self, kind: &str, status: &str) -> String {
        let nodes: Api<Node> = Api::all(self.client.clone());
        for _ in 0..20_000 {
            let node = nodes.get_opt("n1").await.unwrap();
            let conditions = node.and_then(|node| node.status?.conditions).unwrap_or_default();
            let found = conditions.into_iter().find(|c| c.type_ == kind && c.status == status);
            if let Some(found) = found {
                return found.message.unwrap_or_default();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the node's {kind} does not become {status}")
    }

    /// Waits until there is an event about something.
    async fn event(&self, about: &str, reason: &str) -> String {
        let api: Api<Event> = Api::default_namespaced(self.client.clone());
        for _ in 0..20_000 {
            let events = api.list(&Default::default()).await.unwrap().items;
            let found = events.into_iter().find(|event| {
                event.involved_object.name.as_deref() == Some(about)
                    && event.reason.as_deref() == Some(reason)
            });
            if let Some(event) = found {
                return event.message.unwrap_or_default();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{about} has no event {reason}")
    }
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn reason(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.reason.as_deref()).unwrap_or_default()
}

fn message(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.message.as_deref()).unwrap_or_default()
}

fn uses(memory: &str) -> Value {
    json!({"sim.rk.dev/memory": memory})
}

#[tokio::test(start_paused = true)]
async fn a_node_short_of_memory_evicts_who_uses_most_beyond_what_it_asked_for() {
    let world = World::new("evictionHard: {memory.available: 100Mi}\n").await;
    let asks = json!({"containers": [{"name": "main", "image": "app:v1",
        "resources": {"requests": {"memory": "600Mi"}}}]});
    world.run("modest", uses("500Mi"), asks).await;
    world.run("hog", uses("300Mi"), json!({})).await;
    for name in ["modest", "hog"] {
        world.phase(name, "Running").await;
    }
    assert_eq!(
        world.condition("MemoryPressure", "False").await,
        "kubelet has sufficient memory available"
    );

    world.left.memory(50 << 20);
    let hog = world.phase("hog", "Failed").await.unwrap();
    assert_eq!(reason(&hog), "Evicted");
    assert_eq!(
        message(&hog),
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. \
         Container main was using 300Mi, request is 0, has larger consumption of memory. "
    );
    let conditions = hog.status.unwrap().conditions.unwrap();
    let disrupted = conditions.iter().find(|c| c.type_ == "DisruptionTarget").unwrap();
    assert_eq!(disrupted.reason.as_deref(), Some("TerminationByKubelet"));
    world.left.memory(500 << 20);
    assert!(world.event("hog", "Evicted").await.starts_with("The node was low on resource"));
    assert_eq!(world.event("n1", "EvictionThresholdMet").await, "Attempting to reclaim memory");
    world.event("n1", "NodeHasInsufficientMemory").await;

    // The pressure is shown for a while; until then only Pods that ask for memory come.
    world.condition("MemoryPressure", "True").await;
    world.run("late", json!({}), json!({})).await;
    let late = world.phase("late", "Failed").await.unwrap();
    assert_eq!(reason(&late), "Evicted");
    assert_eq!(message(&late), "Pod was rejected: The node had condition: [MemoryPressure]. ");
    world.condition("MemoryPressure", "False").await;
    world.run("later", json!({}), json!({})).await;
    world.phase("later", "Running").await;
    assert_eq!(phase(&world.pods().get("modest").await.unwrap()), "Running");
}

#[tokio::test(start_paused = true)]
async fn a_node_short_of_disk_gives_up_unused_images_before_it_ends_a_pod() {
    let world = World::new("evictionHard: {nodefs.available: 100Mi}\n").await;
    world.run("stays", json!({}), json!({})).await;
    world
        .run(
            "ran",
            json!({"sim.rk.dev/exit-code": "0"}),
            json!({"restartPolicy": "Never",
        "containers": [{"name": "main", "image": "other:v1"}]}),
        )
        .await;
    world.phase("stays", "Running").await;
    world.phase("ran", "Succeeded").await;
    let images = async || {
        let mut names: Vec<String> = world
            .runtime
            .list_images()
            .await
            .unwrap()
            .into_iter()
            .flat_map(|image| image.tags)
            .collect();
        names.sort();
        names
    };
    assert_eq!(images().await.len(), 2);

    // There is room again once an image is gone.
    *world.left.images.lock() = Some(world.runtime.clone());
    assert_eq!(
        world.event("n1", "EvictionThresholdMet").await,
        "Attempting to reclaim ephemeral-storage"
    );
    world.condition("DiskPressure", "True").await;
    world.condition("DiskPressure", "False").await;
    let left = images().await;
    assert!(left.len() == 1 && left[0].contains("app:v1"), "{left:?}");
    assert_eq!(phase(&world.pods().get("stays").await.unwrap()), "Running");

    // Where that does not help, a Pod has to go.
    *world.left.images.lock() = None;
    world.left.disk(50 << 20);
    let evicted = world.phase("stays", "Failed").await.unwrap();
    assert_eq!(reason(&evicted), "Evicted");
}

const TEXT: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nspec:\n  \
                    containers:\n  - {name: c, image: 'app:v1'}\n";

async fn with_static_pods(directory: &Path) -> World {
    let path = directory.display();
    World::new(&format!("staticPodPath: {path}\nfileCheckFrequency: 1s\n")).await
}

fn container_id(pod: Option<&Pod>) -> Option<String> {
    let statuses = pod?.status.as_ref()?.container_statuses.as_ref()?;
    statuses.first()?.container_id.clone()
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_runs_from_its_file_and_is_mirrored() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("web.yaml");
    std::fs::write(&file, TEXT).unwrap();
    let world = with_static_pods(directory.path()).await;

    let mirror = world.phase("web-n1", "Running").await.unwrap();
    let annotations = mirror.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert_eq!(
        annotations["kubernetes.io/config.mirror"],
        annotations["kubernetes.io/config.hash"]
    );
    assert_eq!(mirror.metadata.labels.as_ref().unwrap()["app"], "web");
    let owner = &mirror.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("Node", "n1"));
    let running = container_id(Some(&mirror));
    assert!(running.is_some());

    // Whoever deletes the mirror does not reach the Pod.
    world.pods().delete("web-n1", &DeleteParams::default()).await.unwrap();
    let uid = mirror.metadata.uid.clone();
    let again = world
        .until("web-n1", "another mirror of the same container", |pod| {
            pod.is_some_and(|pod| pod.metadata.uid != uid) && container_id(pod) == running
        })
        .await
        .unwrap();

    // A file that changes is another Pod.
    std::fs::write(&file, TEXT.replace("v1'", "v1.1'")).unwrap();
    let uid = again.metadata.uid.clone();
    world
        .until("web-n1", "a mirror of the new Pod", |pod| {
            pod.is_some_and(|pod| pod.metadata.uid != uid && phase(pod) == "Running")
                && container_id(pod).is_some_and(|id| Some(id) != running)
        })
        .await;

    // One that is gone ends it.
    std::fs::remove_file(&file).unwrap();
    world.until("web-n1", "gone", |pod| pod.is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_mirror_of_nothing_is_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let world = with_static_pods(directory.path()).await;
    let stale = json!({"kubernetes.io/config.mirror": "x", "kubernetes.io/config.source": "file",
        "kubernetes.io/config.hash": "x"});
    world.condition("Ready", "True").await;
    world.run("left-over-n1", stale, json!({})).await;
    world.until("left-over-n1", "gone", |pod| pod.is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_pods_by_priority_and_takes_no_more() {
    let world = World::new(
        "shutdownGracePeriod: 30s\nshutdownGracePeriodCriticalPods: 10s\nevictionHard: {}\n",
    )
    .await;
    let critical = json!({"priorityClassName": "system-node-critical"});
    // It takes as long as it may.
    let slow = json!({"sim.rk.dev/ignore-term": "true"});
    world.run("critical", json!({}), critical).await;
    world.run("plain", slow, json!({})).await;
    for name in ["critical", "plain"] {
        world.phase(name, "Running").await;
    }

    let shutdown = world.shutdown.clone();
    let ending = tokio::spawn(async move { shutdown.run().await });
    assert_eq!(world.condition("Ready", "False").await, "node is shutting down");
    let plain = world
        .until("plain", "ended", |pod| {
            let pod = pod.unwrap();
            phase(pod) == "Failed"
        })
        .await
        .unwrap();
    assert_eq!(reason(&plain), "Terminated");
    assert_eq!(message(&plain), "Pod was terminated in response to imminent node shutdown.");
    let critical = world.phase("critical", "Failed").await.unwrap();
    assert_eq!(reason(&critical), "Terminated");
    ending.await.unwrap();
    let end = |pod: &Pod| {
        let statuses = pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap();
        let state = statuses[0].state.as_ref().unwrap();
        state.terminated.as_ref().unwrap().finished_at.clone().unwrap()
    };
    assert!(end(&plain) <= end(&critical), "the critical one ends last");

    world.run("late", json!({}), json!({})).await;
    let late = world.phase("late", "Failed").await.unwrap();
    assert_eq!(reason(&late), "NodeShutdown");
}

#[tokio::test(start_paused = true)]
async fn what_is_reserved_is_not_allocatable_and_forbidden_settings_are_refused() {
    let world = World::new(
        "kubeReserved: {cpu: 500m, memory: 1Gi}\nsystemReserved: {cpu: 500m}\n\
         evictionHard: {memory.available: 1Gi}\nmaxPods: 7\nallowedUnsafeSysctls: ['kernel.msg*']\n",
    )
    .await;
    world.condition("Ready", "True").await;
    let nodes: Api<Node> = Api::all(world.client.clone());
    let status = nodes.get("n1").await.unwrap().status.unwrap();
    let amount = |name: &str| {
        let (all, left) = (status.capacity.as_ref().unwrap(), status.allocatable.as_ref().unwrap());
        (all[name].0.clone(), left[name].0.clone())
    };
    assert_eq!(amount("cpu"), ("32".to_owned(), "31".to_owned()));
    assert_eq!(amount("memory"), ("256Gi".to_owned(), "254Gi".to_owned()));
    assert_eq!(amount("pods"), ("7".to_owned(), "7".to_owned()));

    let setting =
        |name: &str| json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
    world.run("unsafe", json!({}), setting("kernel.panic")).await;
    let refused = world.phase("unsafe", "Failed").await.unwrap();
    assert_eq!(reason(&refused), "SysctlForbidden");
    // Nothing else is said of it, so that kubectl shows this reason.
    assert_eq!(refused.status.unwrap().container_statuses, None);
    world.run("allowed", json!({}), setting("kernel.msgmax")).await;
    world.phase("allowed", "Running").await;
}
