//! A cluster without containers: API server, controllers, and a few lines in place of scheduler
//! and kubelets.

use std::{collections::BTreeSet, fmt::Debug, sync::Arc, time::Duration};

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Event, Node, Pod},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::NamespaceResourceScope,
};
use parking_lot::Mutex;
use rk_api::{
    client::{Change, Informer, Informers},
    clock,
    server::{ApiServer, Builder},
};
use rk_controllers::{Manager, ManagerBuilder};
use rk_store::EmbeddedStore;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// After how many seconds the containers of a Pod end, and with which code; `None` for never.
type Program = Box<dyn Fn(&Pod) -> Option<(u64, i32)> + Send>;

pub struct TestCluster {
    pub client: Client,
    /// Kept alive: the server stops with its last handle.
    _server: ApiServer,
    dead: Arc<Mutex<BTreeSet<String>>>,
    broken_images: Arc<Mutex<BTreeSet<String>>>,
    program: Arc<Mutex<Option<Program>>>,
    /// Whether anybody watches over the nodes; heartbeats of days take their time to compute.
    nodes_are_watched: bool,
    shutdown: CancellationToken,
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl TestCluster {
    /// All controllers, two nodes.
    pub async fn start() -> Self {
        Self::start_with("*", |builder| builder).await
    }

    /// Some controllers, two nodes.
    pub async fn start_with(
        controllers: &str,
        adapt: impl FnOnce(ManagerBuilder) -> ManagerBuilder,
    ) -> Self {
        Self::start_on(|server| server, controllers, adapt).await
    }

    /// The same with an API server that is set up otherwise.
    pub async fn start_on(
        server: impl FnOnce(Builder) -> Builder,
        controllers: &str,
        adapt: impl FnOnce(ManagerBuilder) -> ManagerBuilder,
    ) -> Self {
        let builder = ApiServer::builder(Arc::new(EmbeddedStore::in_memory()));
        let server = server(builder).start().await.unwrap();
        let client = server.client();
        let shutdown = CancellationToken::new();
        let manager =
            adapt(Manager::builder(client.clone()).controllers(controllers)).build().unwrap();
        tokio::spawn(manager.run(shutdown.clone()));
        let dead = Arc::new(Mutex::new(BTreeSet::new()));
        let broken_images = Arc::new(Mutex::new(BTreeSet::new()));
        let program = Arc::new(Mutex::new(None));
        let fakes = Fakes {
            client: client.clone(),
            pods: Informers::new(client.clone()).of(),
            nodes: Informers::new(client.clone()).of(),
            dead: dead.clone(),
            broken_images: broken_images.clone(),
            program: program.clone(),
        };
        tokio::spawn(fakes.run(shutdown.clone()));
        let nodes_are_watched = controllers.contains('*') || controllers.contains("node");
        let cluster = Self {
            client,
            _server: server,
            dead,
            broken_images,
            program,
            nodes_are_watched,
            shutdown,
        };
        for name in ["n1", "n2"] {
            cluster.add_node(name).await;
        }
        cluster.settle().await;
        cluster
    }

    pub async fn add_node(&self, name: &str) {
        let node: Node = from_json(json!({"metadata": {"name": name}}));
        Api::all(self.client.clone()).create(&PostParams::default(), &node).await.unwrap();
        let status = json!({"status": {"conditions": [{
            "type": "Ready", "status": "True", "lastHeartbeatTime": clock::now_seconds(), "lastTransitionTime": clock::now_seconds(),
        }]}});
        let api = Api::<Node>::all(self.client.clone());
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        if !self.nodes_are_watched {
            return;
        }
        tokio::spawn(heartbeat(
            self.client.clone(),
            name.to_owned(),
            self.dead.clone(),
            self.shutdown.clone(),
        ));
    }

    /// The node's kubelet stops; its Pods stay as they are.
    pub fn kill_node(&self, name: &str) {
        self.dead.lock().insert(name.to_owned());
    }

    pub fn revive_node(&self, name: &str) {
        self.dead.lock().remove(name);
    }

    /// Pods of this image never get ready.
    pub fn break_image(&self, image: &str) {
        self.broken_images.lock().insert(image.to_owned());
    }

    /// What Pods that start from now on do.
    pub fn run_in_pods(&self, program: impl Fn(&Pod) -> Option<(u64, i32)> + Send + 'static) {
        *self.program.lock() = Some(Box::new(program));
    }

    /// Some time passes: enough for everything that is due at once, little of what is due later.
    pub async fn settle(&self) {
        self.wait(3).await;
    }

    pub async fn wait(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    pub async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Serialize
            + Debug,
    {
        self.api::<K>().create(&PostParams::default(), &from_json::<K>(object)).await.unwrap()
    }

    pub async fn patch<K>(&self, name: &str, patch: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap()
    }

    pub async fn get<K>(&self, name: &str) -> Option<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        self.api::<K>().get_opt(name).await.unwrap()
    }

    pub async fn list<K>(&self, labels: &str) -> Vec<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        self.api::<K>().list(&ListParams::default().labels(labels)).await.unwrap().items
    }

    /// Pods with label `app=<app>` that are not on their way out.
    pub async fn pods_of(&self, app: &str) -> Vec<Pod> {
        let pods = self.list::<Pod>(&format!("app={app}")).await;
        pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect()
    }

    pub async fn delete<K>(&self, name: &str, params: &DeleteParams)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        self.api::<K>().delete(name, params).await.unwrap();
    }

    /// Messages of events with this reason, oldest first.
    pub async fn events(&self, reason: &str) -> Vec<String> {
        let all = Api::<Event>::all(self.client.clone())
            .list(&ListParams::default())
            .await
            .unwrap()
            .items;
        let mut events: Vec<_> =
            all.into_iter().filter(|event| event.reason.as_deref() == Some(reason)).collect();
        events.sort_by_key(|event| (event.first_timestamp.clone(), event.name_any()));
        events.into_iter().filter_map(|event| event.message).collect()
    }

    /// What happened, for a failing assertion.
    pub async fn history(&self) -> String {
        let all = Api::<Event>::all(self.client.clone())
            .list(&ListParams::default())
            .await
            .unwrap()
            .items;
        let lines = all.iter().map(|event| {
            format!("{:?} {:?}: {:?}", event.involved_object.name, event.reason, event.message)
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

pub fn from_json<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

pub fn image(pod: &Pod) -> String {
    pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap()
}

async fn heartbeat(
    client: Client,
    node: String,
    dead: Arc<Mutex<BTreeSet<String>>>,
    shutdown: CancellationToken,
) {
    let leases = Api::<Lease>::namespaced(client, "kube-node-lease");
    while !shutdown.is_cancelled() {
        if !dead.lock().contains(&node) {
            let lease = json!({"metadata": {"name": node}, "spec": {"holderIdentity": node, "renewTime": clock::now_micros()}});
            let patch = Patch::Merge(lease.clone());
            if leases.patch(&node, &PatchParams::default(), &patch).await.is_err() {
                let _ = leases.create(&PostParams::default(), &from_json(lease)).await;
            }
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}

/// Binds Pods to living nodes in turn, runs them, and confirms their end.
struct Fakes {
    client: Client,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    dead: Arc<Mutex<BTreeSet<String>>>,
    broken_images: Arc<Mutex<BTreeSet<String>>>,
    program: Arc<Mutex<Option<Program>>>,
}

impl Fakes {
    async fn run(self, shutdown: CancellationToken) {
        let mut changes = self.pods.subscribe();
        let mut count = 0;
        while let Some(change) = shutdown.run_until_cancelled(changes.next_change()).await {
            let (Change::Added(pod) | Change::Updated { new: pod, .. }) = change else { continue };
            // Answers are not looked at: a Pod that changed meanwhile comes round again.
            let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace().unwrap());
            let name = pod.name_any();
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            let phase =
                pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
            match node {
                None if pod.metadata.deletion_timestamp.is_none() => {
                    count += 1;
                    if let Some(node) = self.choose_node(&pod, count) {
                        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": node}});
                        let body = serde_json::to_vec(&binding).unwrap();
                        let _: Result<Value, _> = self
                            .client
                            .request(http_request(
                                &format!(
                                    "/api/v1/namespaces/{}/pods/{name}/binding",
                                    pod.namespace().unwrap()
                                ),
                                body,
                            ))
                            .await;
                    }
                }
                Some(node) if !self.dead.lock().contains(&node) => {
                    if pod.metadata.deletion_timestamp.is_some() {
                        // Somebody wants to see how it ended before it goes.
                        if !pod.finalizers().is_empty() && phase == "Running" {
                            end(&api, &pod, 143).await;
                        }
                        let _ = api.delete(&name, &DeleteParams::default().grace_period(0)).await;
                    } else if phase == "Pending" {
                        count += 1;
                        let broken = self.broken_images.lock().contains(&image(&pod));
                        let ready = if broken { "False" } else { "True" };
                        let ip = format!("10.244.{}.{}", count / 250, count % 250 + 1);
                        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": clock::now_seconds(), "conditions": [
                            {"type": "Ready", "status": ready, "lastTransitionTime": clock::now_seconds()},
                        ]}});
                        let _ = api
                            .patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
                            .await;
                        let ends = self.program.lock().as_ref().and_then(|program| program(&pod));
                        if let Some((seconds, code)) = ends {
                            tokio::spawn(async move {
                                tokio::time::sleep(Duration::from_secs(seconds)).await;
                                end(&api, &pod, code).await;
                            });
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// A living node; the one that the Pod's affinity names if it names one.
    fn choose_node(&self, pod: &Pod, count: usize) -> Option<String> {
        let pod = serde_json::to_value(pod).unwrap();
        let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0";
        let named = pod.pointer(&format!("{terms}/matchFields/0/values/0"));
        let dead = self.dead.lock();
        let nodes: Vec<String> = self
            .nodes
            .list()
            .iter()
            .map(|node| node.name_any())
            .filter(|node| !dead.contains(node) && named.is_none_or(|name| name == node))
            .collect();
        (!nodes.is_empty()).then(|| nodes[count % nodes.len()].clone())
    }
}

/// The containers of the Pod ended.
async fn end(api: &Api<Pod>, pod: &Pod, code: i32) {
    let now = clock::now_seconds();
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let statuses: Vec<Value> = containers
        .map(|container| {
            json!({"name": container.name, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code, "finishedAt": now}}})
        })
        .collect();
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let status = json!({"metadata": {"uid": pod.uid()}, "status": {
        "phase": phase, "containerStatuses": statuses,
        "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": now}],
    }});
    let _ =
        api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(status)).await;
}

fn http_request(path: &str, body: Vec<u8>) -> http::Request<Vec<u8>> {
    http::Request::post(path).header("content-type", "application/json").body(body).unwrap()
}
