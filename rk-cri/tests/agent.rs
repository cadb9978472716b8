//! The agent with the simulated runtime, against the API server in process, on a paused clock.
#![allow(clippy::unwrap_used, reason = "what fails here is the test")]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::{Either, Full};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ConfigMap, ContainerStatus, Event, Node, Pod},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use rk_api::server::{ApiServer, UserInfo};
use rk_cri::{
    Runtime, SimRuntime,
    agent::{Agent, Fleet},
    runtime::ContainerState,
};
use rk_store::EmbeddedStore;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A cluster of an API server and one simulated node.
struct World {
    client: kube::Client,
    runtime: SimRuntime,
    _agent: DropGuard,
}

impl World {
    async fn new() -> Self {
        Self::with(SimRuntime::new()).await
    }

    async fn with(runtime: SimRuntime) -> Self {
        let store = Arc::new(EmbeddedStore::in_memory());
        let server =
            ApiServer::builder(store).require_service_accounts(false).start().await.unwrap();
        let client = server.client();
        let agent = start(&client, &runtime).await;
        Self { client, runtime, _agent: agent }
    }

    fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    /// Makes a pod on the node; `spec` is merged over a simple one.
    async fn run(&self, name: &str, spec: Value) -> String {
        self.run_annotated(name, json!({}), spec).await
    }

    async fn run_annotated(&self, name: &str, annotations: Value, spec: Value) -> String {
        let mut pod = json!({
            "metadata": {"name": name, "annotations": annotations},
            "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "app:v1"}]},
        });
        for (key, value) in spec.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        let pod: Pod = serde_json::from_value(pod).unwrap();
        self.pods().create(&PostParams::default(), &pod).await.unwrap();
        name.to_string()
    }

    async fn pod(&self, name: &str) -> Pod {
        self.pods().get(name).await.unwrap()
    }

    /// Waits until a pod is as `wanted` says.
    #[track_caller]
    fn until<'a>(
        &'a self,
        name: &'a str,
        what: &'a str,
        wanted: impl Fn(&Pod) -> bool + 'a,
    ) -> impl Future<Output = Pod> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            for _ in 0..20_000 {
                let pod = self.pod(name).await;
                if wanted(&pod) {
                    return pod;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let pod = self.pod(name).await;
            panic!(
                "{caller}: {name} is not {what}: {}",
                serde_json::to_string_pretty(&pod.status).unwrap()
            )
        }
    }

    #[track_caller]
    fn phase<'a>(&'a self, name: &'a str, phase: &'a str) -> impl Future<Output = Pod> + 'a {
        self.until(name, phase, move |pod| self::phase(pod) == phase)
    }

    #[track_caller]
    fn waiting<'a>(&'a self, name: &'a str, reason: &'a str) -> impl Future<Output = Pod> + 'a {
        self.until(name, reason, move |pod| self::waiting(pod).as_deref() == Some(reason))
    }

    async fn gone(&self, name: &str) {
        for _ in 0..20_000 {
            if self.pods().get_opt(name).await.unwrap().is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{name} is still there: {:?}", self.pod(name).await);
    }

    /// Reasons of the events about a pod, with their messages.
    async fn events(&self, name: &str) -> Vec<String> {
        tokio::time::sleep(seconds(1)).await;
        let api: Api<Event> = Api::default_namespaced(self.client.clone());
        let mut events = api.list(&Default::default()).await.unwrap().items;
        events.retain(|event| event.involved_object.name.as_deref() == Some(name));
        events
            .iter()
            .map(|e| {
                format!(
                    "{}: {}",
                    e.reason.as_deref().unwrap_or_default(),
                    e.message.as_deref().unwrap_or_default()
                )
            })
            .collect()
    }
}

async fn start(client: &kube::Client, runtime: &SimRuntime) -> DropGuard {
    let agent = Agent::builder(client.clone(), Arc::new(runtime.clone()))
        .node_name("n1")
        .labels([("disk", "ssd")])
        .capacity([("cpu", "4")])
        .build()
        .unwrap();
    let token = CancellationToken::new();
    tokio::spawn(agent.run(token.clone()));
    let nodes: Api<Node> = Api::all(client.clone());
    while nodes.get_opt("n1").await.unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    token.drop_guard()
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn container(pod: &Pod) -> ContainerStatus {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.clone());
    statuses.unwrap_or_default().into_iter().next().unwrap_or_default()
}

fn restarts(pod: &Pod) -> i32 {
    container(pod).restart_count
}

fn waiting(pod: &Pod) -> Option<String> {
    container(pod).state?.waiting?.reason
}

fn condition(pod: &Pod, kind: &str) -> String {
    let conditions =
        pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    conditions.into_iter().find(|c| c.type_ == kind).map(|c| c.status).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_node_registers_reports_and_renews_its_lease() {
    let world = World::new().await;
    let nodes: Api<Node> = Api::all(world.client.clone());
    let node = nodes.get("n1").await.unwrap();
    let labels = node.metadata.labels.clone().unwrap();
    assert_eq!((labels["kubernetes.io/hostname"].as_str(), labels["disk"].as_str()), ("n1", "ssd"));
    let status = node.status.unwrap();
    assert_eq!(status.capacity.unwrap()["cpu"].0, "4");
    assert_eq!(status.allocatable.unwrap()["pods"].0, "110");
    let kinds: Vec<_> =
        status.conditions.unwrap().into_iter().map(|c| (c.type_, c.status)).collect();
    let expected = [
        ("MemoryPressure", "False"),
        ("DiskPressure", "False"),
        ("PIDPressure", "False"),
        ("Ready", "True"),
    ];
    assert_eq!(kinds, expected.map(|(a, b)| (a.to_string(), b.to_string())));

    let leases: Api<Lease> = Api::namespaced(world.client.clone(), "kube-node-lease");
    let renewed = async || leases.get("n1").await.unwrap().spec.unwrap().renew_time.unwrap().0;
    tokio::time::sleep(seconds(1)).await;
    let first = renewed().await;
    tokio::time::sleep(seconds(30)).await;
    let passed = renewed().await.duration_since(first).as_secs();
    assert!((19..=31).contains(&passed), "{passed}");
}

#[tokio::test(start_paused = true)]
async fn s109_a_pod_goes_from_pending_over_running_to_its_end() {
    let world = World::new().await;
    let spec = json!({"restartPolicy": "Never"});
    let annotations = |code: &str| json!({"sim.rk.dev/start-delay": "5s", "sim.rk.dev/exit-after": "10s", "sim.rk.dev/exit-code": code});
    for (name, code, end) in [("good", "0", "Succeeded"), ("bad", "3", "Failed")] {
        world.run_annotated(name, annotations(code), spec.clone()).await;
        assert_eq!(phase(&world.pod(name).await), "Pending");
        let running = world.phase(name, "Running").await;
        for kind in
            ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready", "PodScheduled"]
        {
            assert_eq!(condition(&running, kind), "True", "{kind}");
        }
        assert!(running.status.as_ref().unwrap().pod_ip.as_ref().unwrap().starts_with("10.244.0."));
        let ended = world.phase(name, end).await;
        assert_eq!(condition(&ended, "Ready"), "False");
        assert_eq!(
            container(&ended).state.unwrap().terminated.unwrap().exit_code,
            code.parse::<i32>().unwrap()
        );
    }
    assert!(
        world
            .runtime
            .list_containers()
            .await
            .unwrap()
            .iter()
            .all(|c| c.state == ContainerState::Exited)
    );
}

#[tokio::test(start_paused = true)]
async fn s110_a_readiness_gate_has_to_be_open() {
    let world = World::new().await;
    world.run("gated", json!({"readinessGates": [{"conditionType": "example.com/lb"}]})).await;
    let pod = world
        .until("gated", "with ready containers", |pod| condition(pod, "ContainersReady") == "True")
        .await;
    assert_eq!(condition(&pod, "Ready"), "False");

    let open = json!({"status": {"conditions": [{"type": "example.com/lb", "status": "True"}]}});
    world
        .pods()
        .patch_status("gated", &PatchParams::default(), &Patch::Strategic(&open))
        .await
        .unwrap();
    let pod = world.until("gated", "ready", |pod| condition(pod, "Ready") == "True").await;
    assert_eq!(condition(&pod, "example.com/lb"), "True");
}

#[tokio::test(start_paused = true)]
async fn s111_the_restart_policy_decides_and_pauses_double() {
    let world = World::new().await;
    let exits = |code: &str| json!({"sim.rk.dev/exit-after": "1s", "sim.rk.dev/exit-code": code});
    for (policy, code) in [
        ("Always", "0"),
        ("Always", "1"),
        ("OnFailure", "0"),
        ("OnFailure", "1"),
        ("Never", "0"),
        ("Never", "1"),
    ] {
        let name = format!("{}-{code}", policy.to_lowercase());
        world.run_annotated(&name, exits(code), json!({"restartPolicy": policy})).await;
    }
    for name in ["always-0", "always-1", "onfailure-1"] {
        world.until(name, "restarted twice", |pod| restarts(pod) == 2).await;
        let pod = world.waiting(name, "CrashLoopBackOff").await;
        assert_eq!(phase(&pod), "Running");
        assert!(container(&pod).last_state.unwrap().terminated.is_some());
    }
    for (name, end) in
        [("onfailure-0", "Succeeded"), ("never-0", "Succeeded"), ("never-1", "Failed")]
    {
        assert_eq!(restarts(&world.phase(name, end).await), 0);
    }

    // 0, 10, 20, 40, 80, 160, 300, 300, … seconds, and one second of running each.
    tokio::time::sleep(seconds(10 + 20 + 40 + 80 + 160 + 300 + 60)).await;
    let pod = world.pod("always-1").await;
    assert_eq!(restarts(&pod), 7);
    let message = container(&pod).state.unwrap().waiting.unwrap().message.unwrap();
    let uid = pod.metadata.uid.unwrap();
    assert_eq!(
        message,
        format!("back-off 5m0s restarting failed container=main pod=always-1_default({uid})")
    );
    let kept = world.runtime.pod_status(&uid).await.unwrap().containers.len();
    assert_eq!(kept, 2, "the last container and the one before are kept");
}

#[tokio::test(start_paused = true)]
async fn s114_init_containers_run_in_order_and_a_failing_one_is_retried_or_final() {
    let world = World::new().await;
    let init = |second: &str| {
        json!([
            {"name": "one", "image": "app:v1", "command": ["sh", "-c", "sleep 2"]},
            {"name": "two", "image": "app:v1", "command": ["sh", "-c", second]},
        ])
    };
    world.run("web", json!({"initContainers": init("sleep 2")})).await;
    let pod = world
        .until("web", "at its second init container", |pod| {
            let statuses = pod.status.as_ref().and_then(|s| s.init_container_statuses.clone());
            statuses.is_some_and(|s| s[1].state.as_ref().unwrap().running.is_some())
        })
        .await;
    let status = pod.status.as_ref().unwrap();
    let one = &status.init_container_statuses.as_ref().unwrap()[0];
    assert_eq!(
        one.state.as_ref().unwrap().terminated.as_ref().unwrap().reason.as_deref(),
        Some("Completed")
    );
    assert_eq!(waiting(&pod).as_deref(), Some("PodInitializing"));
    assert_eq!(condition(&pod, "Initialized"), "False");
    world.phase("web", "Running").await;

    world.run("stuck", json!({"initContainers": init("exit 1")})).await;
    world
        .until("stuck", "retrying", |pod| {
            let statuses = pod.status.as_ref().and_then(|s| s.init_container_statuses.clone());
            statuses.is_some_and(|s| s[1].restart_count == 2)
        })
        .await;
    assert_eq!(phase(&world.pod("stuck").await), "Pending");

    world.run("over", json!({"initContainers": init("exit 1"), "restartPolicy": "Never"})).await;
    world.phase("over", "Failed").await;
}

#[tokio::test(start_paused = true)]
async fn s105_a_missing_image_is_tried_again_with_growing_pauses() {
    let world = World::new().await;
    world
        .run("ghost", json!({"containers": [{"name": "main", "image": "registry.invalid/app:v1"}]}))
        .await;
    let pod = world.waiting("ghost", "ErrImagePull").await;
    assert_eq!(phase(&pod), "Pending");
    let pod = world.waiting("ghost", "ImagePullBackOff").await;
    let message = container(&pod).state.unwrap().waiting.unwrap().message.unwrap();
    let begin = "Back-off pulling image \"registry.invalid/app:v1\": ErrImagePull: failed to pull";
    assert!(message.starts_with(begin), "{message}");
    tokio::time::sleep(seconds(100)).await;
    let events = world.events("ghost").await;
    let has = |text: &str| events.iter().any(|event| event.starts_with(text));
    assert!(has("Pulling: Pulling image \"registry.invalid/app:v1\""), "{events:#?}");
    assert!(has("Failed: Failed to pull image"), "{events:#?}");
    assert!(has("Failed: Error: ImagePullBackOff"), "{events:#?}");

    let never = json!([{"name": "main", "image": "absent:v1", "imagePullPolicy": "Never"}]);
    world.run("never", json!({"containers": never})).await;
    world.waiting("never", "ErrImageNeverPull").await;
    world.run("bad", json!({"containers": [{"name": "main", "image": "Bad Name"}]})).await;
    world.waiting("bad", "InvalidImageName").await;
}

#[tokio::test(start_paused = true)]
async fn s116_a_missing_config_map_is_waited_for() {
    let world = World::new().await;
    let from =
        json!([{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "x"}}}]);
    let containers = json!([{"name": "main", "image": "app:v1", "env": from, "command": ["sh", "-c", "echo x=$X; sleep 1h"]}]);
    world.run("web", json!({"containers": containers})).await;
    let pod = world.waiting("web", "CreateContainerConfigError").await;
    let message = container(&pod).state.unwrap().waiting.unwrap().message.unwrap();
    assert_eq!(message, "configmap \"settings\" not found");

    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "settings"}, "data": {"x": "7"}}))
            .unwrap();
    let api: Api<ConfigMap> = Api::default_namespaced(world.client.clone());
    api.create(&PostParams::default(), &map).await.unwrap();
    let pod = world.phase("web", "Running").await;
    let runtime = world.runtime.pod_status(pod.metadata.uid.as_ref().unwrap()).await.unwrap();
    assert!(runtime.containers[0].config.env.contains(&("X".into(), "7".into())));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_is_stopped_within_its_grace_period_and_leaves_nothing() {
    let world = World::new().await;
    world.run_annotated("slow", json!({"sim.rk.dev/stop-delay": "12s"}), json!({})).await;
    world
        .run_annotated(
            "deaf",
            json!({"sim.rk.dev/ignore-term": "true"}),
            json!({"terminationGracePeriodSeconds": 20}),
        )
        .await;
    for name in ["slow", "deaf"] {
        world.phase(name, "Running").await;
    }
    for (name, took) in [("slow", 12), ("deaf", 20)] {
        let begun = tokio::time::Instant::now();
        world.pods().delete(name, &DeleteParams::default()).await.unwrap();
        tokio::time::sleep(seconds(5)).await;
        assert_eq!(phase(&world.pod(name).await), "Running");
        world.gone(name).await;
        assert_eq!(begun.elapsed().as_secs(), took, "{name}");
    }
    tokio::time::sleep(seconds(1)).await;
    assert_eq!(world.runtime.list_pod_sandboxes().await.unwrap(), []);
    let events = world.events("slow").await;
    assert!(events.contains(&"Killing: Stopping container main".to_string()), "{events:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_deletion_can_be_hurried() {
    let world = World::new().await;
    world
        .run_annotated(
            "deaf",
            json!({"sim.rk.dev/ignore-term": "true"}),
            json!({"terminationGracePeriodSeconds": 600}),
        )
        .await;
    world.phase("deaf", "Running").await;
    let begun = tokio::time::Instant::now();
    world.pods().delete("deaf", &DeleteParams::default()).await.unwrap();
    tokio::time::sleep(seconds(5)).await;
    world.pods().delete("deaf", &DeleteParams::default().grace_period(10)).await.unwrap();
    world.gone("deaf").await;
    assert!(begun.elapsed() <= seconds(16), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_no_sign_that_a_pod_is_gone() {
    let store = Arc::new(EmbeddedStore::in_memory());
    let server = ApiServer::builder(store).require_service_accounts(false).start().await.unwrap();
    // What the agent writes about Pods conflicts with somebody else's write twice each time.
    let conflicts = Arc::new(Mutex::new(HashMap::new()));
    let through = server.transport_as(UserInfo::admin());
    let transport = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let (through, conflicts) = (through.clone(), conflicts.clone());
        async move {
            let writes = ["PATCH", "DELETE"].contains(&request.method().as_str());
            if writes && request.uri().path().contains("/pods/") {
                let what = format!("{} {}", request.method(), request.uri().path());
                let mut conflicts = conflicts.lock().unwrap();
                let seen = conflicts.entry(what).or_insert(0);
                *seen += 1;
                if *seen % 3 != 0 {
                    let conflict = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                        "reason": "Conflict", "code": 409, "message": "it was modified"});
                    let body = Either::Left(Full::from(conflict.to_string()));
                    return Ok(http::Response::builder().status(409).body(body).unwrap());
                }
            }
            tower::ServiceExt::oneshot(through, request)
                .await
                .map(|answer| answer.map(Either::Right))
        }
    });
    let runtime = SimRuntime::new();
    let agent = start(&kube::Client::new(transport, "default"), &runtime).await;
    let world = World { client: server.client(), runtime, _agent: agent };
    world.run("web", json!({})).await;
    world.phase("web", "Running").await;
    world.pods().delete("web", &DeleteParams::default().grace_period(1)).await.unwrap();
    world.gone("web").await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_adopts_what_runs_and_removes_what_is_orphaned() {
    let World { client, runtime, _agent: agent } = World::new().await;
    let world = World {
        client: client.clone(),
        runtime: runtime.clone(),
        _agent: CancellationToken::new().drop_guard(),
    };
    world.run("stays", json!({})).await;
    world.run("goes", json!({})).await;
    let before = world.phase("stays", "Running").await;
    world.phase("goes", "Running").await;
    drop(agent);
    tokio::time::sleep(seconds(1)).await;
    world.pods().delete("goes", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(runtime.list_pod_sandboxes().await.unwrap().len(), 2);

    let _agent = start(&client, &runtime).await;
    tokio::time::sleep(seconds(60)).await;
    let after = world.pod("stays").await;
    assert_eq!(container(&after).container_id, container(&before).container_id);
    assert_eq!(restarts(&after), 0);
    let sandboxes = runtime.list_pod_sandboxes().await.unwrap();
    assert_eq!(sandboxes.iter().map(|s| s.config.pod.name.as_str()).collect::<Vec<_>>(), ["stays"]);
}

#[tokio::test(start_paused = true)]
async fn s117_a_failing_liveness_probe_restarts_the_container() {
    let world = World::new().await;
    let probe = json!({"tcpSocket": {"port": 80}, "initialDelaySeconds": 2, "periodSeconds": 3, "timeoutSeconds": 1});
    let containers = json!([{"name": "main", "image": "app:v1", "livenessProbe": probe}]);
    world.run("healthy", json!({"containers": containers})).await;
    world
        .run_annotated(
            "sick",
            json!({"sim.rk.dev/ready": "false"}),
            json!({"containers": containers}),
        )
        .await;
    world.until("sick", "restarted", |pod| restarts(pod) >= 2).await;
    assert_eq!(restarts(&world.phase("healthy", "Running").await), 0);
    let events = world.events("sick").await;
    let has = |text: &str| events.iter().any(|event| event.starts_with(text));
    assert!(has("Unhealthy: Liveness probe failed: dial tcp 10.244.0."), "{events:#?}");
    assert!(has("Killing: Container main failed liveness probe, will be restarted"), "{events:#?}");
}

#[tokio::test(start_paused = true)]
async fn s118_a_readiness_probe_decides_whether_the_pod_is_ready() {
    let world = World::new().await;
    let probe = json!({"httpGet": {"path": "/test.html", "port": 80}, "periodSeconds": 2});
    let containers = json!([{"name": "main", "image": "app:v1", "readinessProbe": probe}]);
    world
        .run_annotated(
            "web",
            json!({"sim.rk.dev/ready-after": "30s"}),
            json!({"containers": containers}),
        )
        .await;
    let pod = world.phase("web", "Running").await;
    assert_eq!((condition(&pod, "Ready").as_str(), container(&pod).ready), ("False", false));
    let begun = tokio::time::Instant::now();
    let pod = world.until("web", "ready", |pod| condition(pod, "Ready") == "True").await;
    assert!(begun.elapsed() >= seconds(25), "{:?}", begun.elapsed());
    assert_eq!(restarts(&pod), 0);
}

#[tokio::test(start_paused = true)]
async fn s119_a_startup_probe_holds_the_others_back() {
    let world = World::new().await;
    let probe = |threshold: i32| json!({"tcpSocket": {"port": 80}, "periodSeconds": 1, "failureThreshold": threshold});
    let containers = |threshold: i32| json!([{"name": "main", "image": "app:v1", "startupProbe": probe(threshold), "livenessProbe": probe(1)}]);
    let slow = json!({"sim.rk.dev/ready-after": "20s"});
    world.run_annotated("patient", slow.clone(), json!({"containers": containers(60)})).await;
    world.run_annotated("hasty", slow, json!({"containers": containers(3)})).await;
    let pod = world.until("patient", "ready", |pod| condition(pod, "Ready") == "True").await;
    assert_eq!((restarts(&pod), container(&pod).started), (0, Some(true)));
    world.until("hasty", "restarted", |pod| restarts(pod) >= 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_refused_and_deadlines_are_kept() {
    let world = World::new().await;
    let cpu = json!([{"name": "main", "image": "app:v1", "resources": {"requests": {"cpu": "3"}}}]);
    world.run("first", json!({"containers": cpu})).await;
    world.phase("first", "Running").await;
    world.run("second", json!({"containers": cpu})).await;
    let pod = world.phase("second", "Failed").await;
    let status = pod.status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("OutOfcpu"));
    assert_eq!(
        status.message.as_deref(),
        Some(
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 3000, used: 3000, capacity: 4000"
        )
    );

    world.run("short", json!({"activeDeadlineSeconds": 30})).await;
    world.phase("short", "Running").await;
    let pod = world.phase("short", "Failed").await;
    assert_eq!(pod.status.unwrap().reason.as_deref(), Some("DeadlineExceeded"));
}

#[tokio::test(start_paused = true)]
async fn a_changed_image_restarts_the_container_alone() {
    let world = World::new().await;
    world.run("web", json!({})).await;
    let before = world.phase("web", "Running").await;
    let image = json!({"spec": {"containers": [{"name": "main", "image": "app:v2"}]}});
    world.pods().patch("web", &PatchParams::default(), &Patch::Strategic(&image)).await.unwrap();
    let after = world.until("web", "restarted", |pod| restarts(pod) == 1).await;
    assert_eq!(container(&after).image, "app:v2");
    assert_eq!(before.status.unwrap().pod_ip, after.status.unwrap().pod_ip);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_runs_pods_on_many_nodes() {
    let store = Arc::new(EmbeddedStore::in_memory());
    let server = ApiServer::builder(store).require_service_accounts(false).start().await.unwrap();
    let client = server.client();
    let informers = rk_api::client::Informers::new(client.clone());
    let mut fleet = Fleet::new(&informers);
    for number in 0..20 {
        let runtime =
            SimRuntime::builder().pod_cidr(format!("10.1.{number}.0/24")).timers(fleet.timers());
        let agent = Agent::builder(client.clone(), Arc::new(runtime.build().unwrap()));
        fleet.add(agent.node_name(format!("n{number}"))).unwrap();
    }
    let token = CancellationToken::new();
    let _guard = token.clone().drop_guard();
    tokio::spawn(fleet.run(token));
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    for number in 0..100 {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": format!("p{number}")},
            "spec": {"nodeName": format!("n{}", number % 20), "containers": [{"name": "main", "image": "app:v1"}]},
        }))
        .unwrap();
        pods.create(&PostParams::default(), &pod).await.unwrap();
    }
    for _ in 0..1000 {
        let ready = pods
            .list(&Default::default())
            .await
            .unwrap()
            .items
            .iter()
            .filter(|pod| condition(pod, "Ready") == "True")
            .count();
        if ready == 100 {
            let nodes: Api<Node> = Api::all(client.clone());
            assert_eq!(nodes.list(&Default::default()).await.unwrap().items.len(), 20);
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not all pods became ready");
}

/// How long two Pods of different images take to run, when fetching one takes 5 s.
async fn time_for_two_images(at_once: Option<usize>) -> Duration {
    let runtime = SimRuntime::builder().pull_delay(seconds(5)).build().unwrap();
    let store = Arc::new(EmbeddedStore::in_memory());
    let server = ApiServer::builder(store).require_service_accounts(false).start().await.unwrap();
    let client = server.client();
    let mut agent = Agent::builder(client.clone(), Arc::new(runtime.clone())).node_name("n1");
    if let Some(at_once) = at_once {
        agent = agent.image_pulls_at_once(at_once);
    }
    let shutdown = CancellationToken::new();
    tokio::spawn(agent.build().unwrap().run(shutdown.clone()));
    let world = World { client, runtime, _agent: shutdown.drop_guard() };
    let begin = tokio::time::Instant::now();
    for name in ["one", "two"] {
        let image = format!("{name}:v1");
        world.run(name, json!({"containers": [{"name": "main", "image": image}]})).await;
    }
    for name in ["one", "two"] {
        world.phase(name, "Running").await;
    }
    begin.elapsed()
}

#[tokio::test(start_paused = true)]
async fn images_are_fetched_together_unless_told_to_go_one_after_the_other() {
    assert!(time_for_two_images(None).await < seconds(10));
    assert!(time_for_two_images(Some(1)).await >= seconds(10));
}
