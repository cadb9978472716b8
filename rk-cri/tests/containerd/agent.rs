//! A node agent on containerd, with an API server in process.

use std::sync::Arc;

use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{AttachParams, DeleteParams, LogParams, PostParams},
};
use rk_api::server::ApiServer;
use rk_cri::{
    Runtime,
    agent::{Agent, Kubelets},
};
use rk_store::EmbeddedStore;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::lab::{IMAGE, Lab, eventually};

/// An API server, and an agent that runs its pods on the lab's containerd.
struct Cluster {
    pods: Api<Pod>,
    _agent: DropGuard,
}

impl Cluster {
    async fn new(lab: &Lab) -> Self {
        let kubelets = Kubelets::new();
        let server = ApiServer::builder(Arc::new(EmbeddedStore::in_memory()))
            .require_service_accounts(false)
            .node_connector(Arc::new(kubelets.clone()))
            .start()
            .await
            .unwrap();
        let client = server.client();
        let agent = Agent::builder(client.clone(), Arc::new(lab.runtime().clone()))
            .node_name("n1")
            .root_dir(lab.directory.path().join("agent"))
            .log_dir(lab.directory.path().join("pods"))
            .build()
            .unwrap();
        kubelets.add("n1", agent.kubelet_api());
        let token = CancellationToken::new();
        tokio::spawn(agent.run(token.clone()));
        let nodes: Api<Node> = Api::all(client.clone());
        eventually(|| async { nodes.get_opt("n1").await.unwrap() }).await;
        let node = nodes.get("n1").await.unwrap();
        let version = node.status.unwrap().node_info.unwrap().container_runtime_version;
        assert!(version.starts_with("containerd://1."), "{version}");
        Self { pods: Api::default_namespaced(client), _agent: token.drop_guard() }
    }

    async fn create(&self, name: &str, container: Value) {
        let mut pod = json!({
            "metadata": {"name": name},
            "spec": {
                "nodeName": "n1",
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "main", "image": IMAGE}],
            },
        });
        for (key, value) in container.as_object().unwrap() {
            pod["spec"]["containers"][0][key] = value.clone();
        }
        let pod: Pod = serde_json::from_value(pod).unwrap();
        self.pods.create(&PostParams::default(), &pod).await.unwrap();
    }

    /// Waits until what is asked about a pod's status is so.
    async fn until(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(|| async {
            let pod = self.pods.get(name).await.unwrap();
            let status = serde_json::to_value(pod.status).unwrap();
            wanted(&status).then_some(status)
        })
        .await
    }

    async fn delete(&self, name: &str) {
        self.pods.delete(name, &DeleteParams::default()).await.unwrap();
        eventually(|| async { self.pods.get_opt(name).await.unwrap().is_none().then_some(()) })
            .await;
    }
}

fn is_ready(status: &Value) -> bool {
    status["containerStatuses"][0]["ready"] == true
}

fn restarts(status: &Value) -> i64 {
    status["containerStatuses"][0]["restartCount"].as_i64().unwrap_or_default()
}

/// Waits until the agent has removed what is left of deleted pods.
async fn nothing_left(lab: &Lab) {
    eventually(|| async {
        let sandboxes = lab.runtime().list_pod_sandboxes().await.unwrap();
        let containers = lab.runtime().list_containers().await.unwrap();
        (sandboxes.is_empty() && containers.is_empty()).then_some(())
    })
    .await;
}

pub async fn a_pod_runs_is_probed_and_is_taken_down(lab: &mut Lab) {
    let cluster = Cluster::new(lab).await;
    let script = "echo hello; mkdir /www; echo page > /www/index.html; \
        httpd -p 8080 -h /www; trap 'exit 0' TERM; while true; do sleep 0.1; done";
    let probe = json!({"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1});
    let container = json!({"command": ["sh", "-c", script], "readinessProbe": probe});
    cluster.create("web", container).await;
    let status = cluster.until("web", is_ready).await;
    assert!(status["podIP"].as_str().unwrap().starts_with("10.244.12."), "{status}");
    let id = status["containerStatuses"][0]["containerID"].as_str().unwrap().to_owned();
    assert!(id.starts_with("containerd://"), "{id}");

    let mut log = cluster.pods.log_stream("web", &LogParams::default()).await.unwrap().lines();
    assert_eq!(log.try_next().await.unwrap().as_deref(), Some("hello"));

    let params = AttachParams::default().stdin(true).stderr(false);
    let mut session = cluster.pods.exec("web", ["sh", "-c", "cat; exit 3"], &params).await.unwrap();
    let mut stdin = session.stdin().unwrap();
    stdin.write_all(b"typed\n").await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    let mut said = String::new();
    let code = session.take_status().unwrap();
    session.stdout().unwrap().read_to_string(&mut said).await.unwrap();
    let code = serde_json::to_value(code.await.unwrap()).unwrap();
    assert_eq!((&*said, &code["reason"]), ("typed\n", &json!("NonZeroExitCode")), "{code}");

    let mut ports = cluster.pods.portforward("web", &[8080]).await.unwrap();
    let mut port = ports.take_stream(8080).unwrap();
    port.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut page = String::new();
    port.read_to_string(&mut page).await.unwrap();
    assert!(page.ends_with("page\n"), "{page}");

    cluster.delete("web").await;
    nothing_left(lab).await;
}

pub async fn pods_converge_after_the_daemon_was_killed(lab: &mut Lab) {
    let cluster = Cluster::new(lab).await;
    let forever = json!({"command": ["sh", "-c", "sleep 100000"]});
    cluster.create("stays", forever.clone()).await;
    let script = "while [ ! -e /dev/shm/go ]; do sleep 0.05; done; exit 1";
    cluster.create("ends", json!({"command": ["sh", "-c", script]})).await;
    let before = cluster.until("stays", is_ready).await;
    cluster.until("ends", is_ready).await;

    lab.kill_daemon();
    // What is asked for meanwhile is done later.
    cluster.create("waits", forever).await;
    lab.start_daemon().await;

    cluster.until("waits", is_ready).await;
    let uid = cluster.pods.get("ends").await.unwrap().metadata.uid.unwrap();
    let found = lab.runtime().pod_status(&uid).await.unwrap();
    assert_eq!(found.containers.len(), 1, "{found:?}");
    lab.says(&found.containers[0].id, "touch /dev/shm/go").await;
    cluster.until("ends", |status| restarts(status) > 0).await;

    let after = cluster.until("stays", is_ready).await;
    let identity = |status: &Value| {
        let container = &status["containerStatuses"][0];
        (container["containerID"].clone(), container["restartCount"].clone())
    };
    assert_eq!(identity(&after), identity(&before));
    for name in ["stays", "waits", "ends"] {
        cluster.delete(name).await;
    }
    nothing_left(lab).await;
}
