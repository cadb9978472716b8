//! An agent and a CSI driver that notes what it is asked, against the API server in process. The
//! containers are simulated, the volumes are not mounted: what counts here is who is asked for what,
//! and when.
#![allow(clippy::unwrap_used, reason = "what fails here is the test")]
#![cfg(target_os = "linux")]

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use k8s_openapi::api::{
    core::v1::{Event, Node, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::{CSIDriver, CSINode, VolumeAttachment},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use rk_api::server::ApiServer;
use rk_cri::{
    Runtime, SimRuntime,
    agent::Agent,
    cri::CriRuntime,
    csi::{self, Driver, Status, v1::*},
};
use rk_store::EmbeddedStore;
use serde_json::{Value, json};
use tokio::{net::UnixListener, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

const DRIVER: &str = "notes.example.com";
const UNIQUE_NAME: &str = "kubernetes.io/csi/notes.example.com^h1";

/// Notes what it is asked.
#[derive(Default)]
struct Notes {
    calls: Mutex<Vec<String>>,
    staged: Mutex<Vec<NodeStageVolumeRequest>>,
    published: Mutex<Vec<NodePublishVolumeRequest>>,
    /// What calls of this name are answered instead.
    refuse: Mutex<Option<(&'static str, &'static str)>>,
}

impl Notes {
    fn note(&self, call: &'static str, about: &str) -> Result<(), Status> {
        self.calls.lock().unwrap().push(format!("{call} {about}"));
        match *self.refuse.lock().unwrap() {
            Some((refused, why)) if refused == call => Err(Status::internal(why)),
            _ => Ok(()),
        }
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    /// A block device of this machine, which nobody opens.
    fn device(&self) -> PathBuf {
        use std::os::unix::fs::FileTypeExt;
        let devices = std::fs::read_dir("/dev").unwrap().flatten();
        let mut blocks = devices.filter(|it| it.file_type().is_ok_and(|it| it.is_block_device()));
        blocks.next().map_or_else(|| "/dev/null".into(), |device| device.path())
    }

    fn last_published(&self) -> NodePublishVolumeRequest {
        self.published.lock().unwrap().last().cloned().unwrap()
    }
}

#[async_trait]
impl Driver for Notes {
    async fn node_get_info(&self, _: NodeGetInfoRequest) -> Result<NodeGetInfoResponse, Status> {
        let segments = [("notes.example.com/zone".to_owned(), "z1".to_owned())].into();
        Ok(NodeGetInfoResponse {
            node_id: "id-of-n1".into(),
            max_volumes_per_node: 5,
            accessible_topology: Some(Topology { segments }),
        })
    }

    async fn node_get_capabilities(
        &self,
        _: NodeGetCapabilitiesRequest,
    ) -> Result<NodeGetCapabilitiesResponse, Status> {
        let can = [NodeRpcType::StageUnstageVolume, NodeRpcType::ExpandVolume];
        Ok(NodeGetCapabilitiesResponse { capabilities: can.map(Into::into).into() })
    }

    async fn node_stage_volume(
        &self,
        request: NodeStageVolumeRequest,
    ) -> Result<NodeStageVolumeResponse, Status> {
        self.note("stage", &request.volume_id)?;
        assert!(Path::new(&request.staging_target_path).is_dir());
        self.staged.lock().unwrap().push(request);
        Ok(NodeStageVolumeResponse {})
    }

    async fn node_unstage_volume(
        &self,
        request: NodeUnstageVolumeRequest,
    ) -> Result<NodeUnstageVolumeResponse, Status> {
        self.note("unstage", &request.volume_id)?;
        Ok(NodeUnstageVolumeResponse {})
    }

    async fn node_publish_volume(
        &self,
        request: NodePublishVolumeRequest,
    ) -> Result<NodePublishVolumeResponse, Status> {
        self.note("publish", &request.volume_id)?;
        let capability = request.volume_capability.clone().and_then(|it| it.access_type);
        match capability {
            Some(AccessType::Block(_)) => {
                assert!(Path::new(&request.target_path).parent().unwrap().is_dir());
                std::os::unix::fs::symlink(self.device(), &request.target_path)?;
            }
            _ => std::fs::create_dir_all(&request.target_path)?,
        }
        self.published.lock().unwrap().push(request);
        Ok(NodePublishVolumeResponse {})
    }

    async fn node_unpublish_volume(
        &self,
        request: NodeUnpublishVolumeRequest,
    ) -> Result<NodeUnpublishVolumeResponse, Status> {
        self.note("unpublish", &request.volume_id)?;
        match std::fs::symlink_metadata(&request.target_path) {
            Ok(found) if found.is_dir() => std::fs::remove_dir(&request.target_path)?,
            Ok(_) => std::fs::remove_file(&request.target_path)?,
            Err(_) => {}
        }
        Ok(NodeUnpublishVolumeResponse {})
    }

    async fn node_expand_volume(
        &self,
        request: NodeExpandVolumeRequest,
    ) -> Result<NodeExpandVolumeResponse, Status> {
        let bytes = request.capacity_range.map_or(0, |range| range.required_bytes);
        self.note("expand", &format!("{} to {bytes}", request.volume_id))?;
        Ok(NodeExpandVolumeResponse { capacity_bytes: bytes })
    }
}

/// An API server, a node, and a driver on it.
struct World {
    client: kube::Client,
    root: tempfile::TempDir,
    driver: Arc<Notes>,
    runtime: SimRuntime,
    served: JoinHandle<std::io::Result<()>>,
    _driver: DropGuard,
}

impl Drop for World {
    fn drop(&mut self) {
        self.served.abort();
    }
}

/// A running agent, which can be stopped as if it was killed.
struct Running(CancellationToken, JoinHandle<()>);

impl Running {
    async fn stop(self) {
        self.0.cancel();
        self.1.await.unwrap();
    }
}

impl World {
    async fn new() -> Self {
        let store = Arc::new(EmbeddedStore::in_memory());
        let server =
            ApiServer::builder(store).require_service_accounts(false).start().await.unwrap();
        let root = tempfile::tempdir().unwrap();
        let runtime = SimRuntime::new();
        let listener = UnixListener::bind(root.path().join("cri.sock")).unwrap();
        let stop = CancellationToken::new();
        let served = rk_cri::cri::serve(Arc::new(runtime.clone()), listener, stop.clone());
        let driver = Arc::new(Notes::default());
        let listener = UnixListener::bind(root.path().join("csi.sock")).unwrap();
        tokio::spawn(csi::serve(driver.clone(), listener, stop.clone()));
        Self {
            client: server.client(),
            served: tokio::spawn(served),
            root,
            driver,
            runtime,
            _driver: stop.drop_guard(),
        }
    }

    fn registry(&self) -> PathBuf {
        self.root.path().join("agent/plugins_registry")
    }

    /// The driver says that it is there, until what this gives is dropped.
    fn announce(&self) -> DropGuard {
        std::fs::create_dir_all(self.registry()).unwrap();
        let listener = UnixListener::bind(self.registry().join("notes-reg.sock")).unwrap();
        let stop = CancellationToken::new();
        let (endpoint, token) = (self.root.path().join("csi.sock"), stop.clone());
        tokio::spawn(async move { csi::announce(DRIVER, endpoint, listener, token).await });
        stop.drop_guard()
    }

    async fn agent(&self) -> Running {
        let endpoint = format!("unix://{}/cri.sock", self.root.path().display());
        let runtime = CriRuntime::connect(endpoint).await.unwrap();
        let agent = Agent::builder(self.client.clone(), Arc::new(runtime))
            .node_name("n1")
            .root_dir(self.root.path().join("agent"))
            .build()
            .unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(agent.run(stop.clone()));
        Running(stop, task)
    }

    fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = ()>,
    {
        Api::all(self.client.clone())
    }

    fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    fn claims(&self) -> Api<PersistentVolumeClaim> {
        Api::default_namespaced(self.client.clone())
    }

    /// A volume of the driver, bound to the claim `data`.
    async fn volume(&self) {
        self.volume_with(json!({}), "Filesystem").await;
    }

    /// The same with these fields of its source.
    async fn volume_with(&self, source: Value, mode: &str) {
        let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "storageClassName": "", "volumeName": "pv1", "volumeMode": mode,
            "resources": {"requests": {"storage": "1Gi"}}}});
        let claim = self.claims().create(&PostParams::default(), &from(claim)).await.unwrap();
        let status = json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
        let patch = Patch::Merge(&status);
        self.claims().patch_status("data", &PatchParams::default(), &patch).await.unwrap();
        let mut volume = json!({"metadata": {"name": "pv1"}, "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "volumeMode": mode,
            "csi": {"driver": DRIVER, "volumeHandle": "h1", "volumeAttributes": {"a": "b"}},
            "claimRef": {"kind": "PersistentVolumeClaim", "namespace": "default", "name": "data",
                "uid": claim.metadata.uid}}});
        for (key, value) in source.as_object().unwrap() {
            volume["spec"]["csi"][key] = value.clone();
        }
        let volumes = self.all::<PersistentVolume>();
        volumes.create(&PostParams::default(), &from(volume)).await.unwrap();
    }

    async fn driver_object(&self, spec: Value) {
        let object = json!({"metadata": {"name": DRIVER}, "spec": spec});
        self.all::<CSIDriver>().create(&PostParams::default(), &from(object)).await.unwrap();
    }

    /// What an attacher and the attach/detach controller do.
    async fn attach(&self) {
        use sha2::{Digest, Sha256};
        let hash = Sha256::digest(format!("h1{DRIVER}n1"));
        let name = hash.iter().fold("csi-".to_owned(), |name, byte| format!("{name}{byte:02x}"));
        let attachment = json!({"metadata": {"name": name}, "spec": {"attacher": DRIVER,
            "nodeName": "n1", "source": {"persistentVolumeName": "pv1"}}});
        let attachments = self.all::<VolumeAttachment>();
        attachments.create(&PostParams::default(), &from(attachment)).await.unwrap();
        let patch =
            json!({"status": {"attached": true, "attachmentMetadata": {"device": "/dev/x"}}});
        let patch = Patch::Merge(&patch);
        attachments.patch_status(&name, &PatchParams::default(), &patch).await.unwrap();
        let listed = json!([{"name": UNIQUE_NAME, "devicePath": ""}]);
        let patch = json!({"status": {"volumesAttached": listed}});
        let patch = Patch::Merge(&patch);
        self.all::<Node>().patch_status("n1", &PatchParams::default(), &patch).await.unwrap();
    }

    async fn pod(&self, name: &str, volume: Value) {
        self.pod_with(name, volume, "volumeMounts", json!({"mountPath": "/data"})).await;
    }

    async fn pod_with(&self, name: &str, volume: Value, list: &str, at: Value) {
        let (mut volume, mut at) = (volume, at);
        volume["name"] = json!("v");
        at["name"] = json!("v");
        let pod = json!({"metadata": {"name": name}, "spec": {
            "nodeName": "n1", "terminationGracePeriodSeconds": 1, "volumes": [volume],
            "containers": [{"name": "c", "image": "app:v1", (list): [at]}]}});
        self.pods().create(&PostParams::default(), &from(pod)).await.unwrap();
    }

    async fn with_claim(&self, name: &str) {
        self.pod(name, json!({"persistentVolumeClaim": {"claimName": "data"}})).await;
    }

    async fn runs(&self, name: &str) {
        let pods = self.pods();
        until("the pod runs", async || {
            let pod = pods.get(name).await.unwrap();
            pod.status.and_then(|status| status.phase).as_deref() == Some("Running")
        })
        .await;
    }

    async fn delete(&self, name: &str) {
        let pods = self.pods();
        pods.delete(name, &DeleteParams::default()).await.unwrap();
        until("the pod is gone", async || pods.get_opt(name).await.unwrap().is_none()).await;
    }

    async fn in_use(&self) -> Vec<String> {
        let node = self.all::<Node>().get_opt("n1").await.unwrap();
        node.and_then(|node| node.status?.volumes_in_use).unwrap_or_default()
    }

    /// What is left on the node's disk of volumes.
    fn left(&self) -> Vec<PathBuf> {
        let root = self.root.path().join("agent");
        let staged = root.join("plugins/kubernetes.io/csi").join(DRIVER);
        let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
        let published = entries(&root.join("pods")).flat_map(|pod| {
            let of = |kind: &str| entries(&pod.path().join(kind).join("kubernetes.io~csi"));
            of("volumes").chain(of("volumeDevices")).collect::<Vec<_>>()
        });
        let devices = root.join("plugins/kubernetes.io/csi/volumeDevices/publish/pv1");
        let published = published.chain(entries(&devices));
        entries(&staged).chain(published).map(|entry| entry.path()).collect()
    }
}

fn from<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    for _ in 0..6000 {
        if so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it does not come about that {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_is_told_of_as_long_as_its_socket_is_there() {
    let world = World::new().await;
    let agent = world.agent().await;
    let csi_nodes = world.all::<CSINode>();
    let names = async || {
        let found = csi_nodes.get_opt("n1").await.unwrap()?;
        Some(found.spec.drivers.into_iter().map(|driver| driver.name).collect::<Vec<_>>())
    };
    until("the node has a CSINode", async || names().await == Some(vec![])).await;

    let announced = world.announce();
    until("the driver is registered", async || names().await == Some(vec![DRIVER.into()])).await;
    let listed = csi_nodes.get("n1").await.unwrap().spec.drivers.remove(0);
    assert_eq!(listed.node_id, "id-of-n1");
    assert_eq!(listed.topology_keys.unwrap(), ["notes.example.com/zone"]);
    assert_eq!(listed.allocatable.unwrap().count, Some(5));
    let node = world.all::<Node>().get("n1").await.unwrap();
    assert_eq!(node.metadata.labels.unwrap()["notes.example.com/zone"], "z1");
    let ids = &node.metadata.annotations.unwrap()["csi.volume.kubernetes.io/nodeid"];
    assert_eq!(ids, r#"{"notes.example.com":"id-of-n1"}"#);

    drop(announced);
    std::fs::remove_file(world.registry().join("notes-reg.sock")).unwrap();
    until("the driver is struck off", async || names().await == Some(vec![])).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_in_use_before_it_is_staged_and_until_it_is_unstaged() {
    let world = World::new().await;
    let (_announced, agent) = (world.announce(), world.agent().await);
    world.volume().await;
    world.with_claim("one").await;

    until("the volume is in use", async || world.in_use().await == [UNIQUE_NAME]).await;
    assert_eq!(world.driver.calls(), Vec::<String>::new(), "it is not attached yet");
    world.attach().await;
    world.runs("one").await;
    assert_eq!(world.driver.calls(), ["stage h1", "publish h1"]);
    assert_eq!(world.driver.staged.lock().unwrap()[0].publish_context["device"], "/dev/x");
    let published = world.driver.last_published();
    assert_eq!(published.publish_context["device"], "/dev/x");
    assert_eq!(published.volume_context, [("a".to_owned(), "b".to_owned())].into());
    assert!(published.target_path.ends_with("/volumes/kubernetes.io~csi/pv1/mount"));
    assert!(published.staging_target_path.ends_with("/globalmount"));

    // A second Pod has a part in it, and the first one leaves.
    world.with_claim("two").await;
    world.runs("two").await;
    world.delete("one").await;
    assert_eq!(world.driver.calls()[2..], ["publish h1", "unpublish h1"]);
    assert_eq!(world.in_use().await, [UNIQUE_NAME]);
    assert_eq!(world.left().len(), 2);

    world.delete("two").await;
    assert_eq!(world.driver.calls()[4..], ["unpublish h1", "unstage h1"]);
    until("the volume is free", async || world.in_use().await.is_empty()).await;
    assert_eq!(world.left(), Vec::<PathBuf>::new());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_has_mounted_the_next_one_takes_back() {
    let world = World::new().await;
    let (_announced, agent) = (world.announce(), world.agent().await);
    world.volume().await;
    world.with_claim("one").await;
    until("the volume is in use", async || world.in_use().await == [UNIQUE_NAME]).await;
    world.attach().await;
    world.runs("one").await;

    agent.stop().await;
    let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    world.pods().delete("one", &at_once).await.unwrap();
    assert_eq!(world.left().len(), 2);
    // It stays in use as long as the next agent knows of it from the disk only.
    let agent = world.agent().await;
    until("nothing is left", async || world.left().is_empty()).await;
    assert_eq!(world.driver.calls()[2..], ["unpublish h1", "unstage h1"]);
    until("the volume is free", async || world.in_use().await.is_empty()).await;
    assert!(world.runtime.list_pod_sandboxes().await.unwrap().is_empty());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_does_not_go_before_its_volume_is_unpublished() {
    let world = World::new().await;
    let (_announced, agent) = (world.announce(), world.agent().await);
    let spec = json!({"attachRequired": false, "volumeLifecycleModes": ["Ephemeral"],
        "podInfoOnMount": true});
    world.driver_object(spec).await;
    world.pod("scratch", json!({"csi": {"driver": DRIVER}})).await;
    world.runs("scratch").await;
    let context = world.driver.last_published().volume_context;
    assert_eq!(context["csi.storage.k8s.io/pod.name"], "scratch");
    assert_eq!(context["csi.storage.k8s.io/ephemeral"], "true");
    assert_eq!(world.in_use().await, Vec::<String>::new(), "nobody attaches it");

    *world.driver.refuse.lock().unwrap() = Some(("unpublish", "it is busy"));
    let pods = world.pods();
    pods.delete("scratch", &DeleteParams::default()).await.unwrap();
    let tries = || world.driver.calls().iter().filter(|call| call.starts_with("unpub")).count();
    until("it is tried again", async || tries() > 1).await;
    assert!(pods.get_opt("scratch").await.unwrap().is_some());
    let events = Api::<Event>::default_namespaced(world.client.clone());
    until("an event says why", async || {
        let events = events.list(&Default::default()).await.unwrap();
        events.iter().any(|event| {
            event.message.as_deref().is_some_and(|message| message.contains("it is busy"))
        })
    })
    .await;
    *world.driver.refuse.lock().unwrap() = None;
    until("the pod is gone", async || pods.get_opt("scratch").await.unwrap().is_none()).await;
    assert_eq!(world.left(), Vec::<PathBuf>::new());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_makes_the_file_system_of_a_grown_volume_larger() {
    let world = World::new().await;
    let (_announced, agent) = (world.announce(), world.agent().await);
    world.volume().await;
    world.with_claim("one").await;
    until("the volume is in use", async || world.in_use().await == [UNIQUE_NAME]).await;
    world.attach().await;
    world.runs("one").await;

    let pending = json!({"status": {"conditions": [
        {"type": "FileSystemResizePending", "status": "True"}]}});
    let patch = Patch::Merge(&pending);
    world.claims().patch_status("data", &PatchParams::default(), &patch).await.unwrap();
    let grown = json!({"spec": {"capacity": {"storage": "2Gi"}}});
    let patch = Patch::Merge(&grown);
    let volumes = world.all::<PersistentVolume>();
    volumes.patch("pv1", &PatchParams::default(), &patch).await.unwrap();
    until("the claim is larger", async || {
        let status = world.claims().get("data").await.unwrap().status.unwrap();
        status.capacity.unwrap()["storage"].0 == "2Gi"
            && status.conditions.unwrap_or_default().is_empty()
    })
    .await;
    assert_eq!(world.driver.calls()[2..], ["expand h1 to 2147483648"]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_a_device_is_published_as_one_and_taken_back() {
    let world = World::new().await;
    if world.driver.device() == Path::new("/dev/null") {
        assert!(std::env::var("RK_REQUIRE").as_deref() != Ok("all"), "no block device in /dev");
        return println!("SKIP: this machine has no block device");
    }
    let (_announced, agent) = (world.announce(), world.agent().await);
    world.driver_object(json!({"attachRequired": false})).await;
    world.volume_with(json!({}), "Block").await;
    let claim = json!({"persistentVolumeClaim": {"claimName": "data"}});
    world.pod_with("one", claim, "volumeDevices", json!({"devicePath": "/dev/xvda"})).await;
    world.runs("one").await;
    let published = world.driver.last_published();
    let uid = world.pods().get("one").await.unwrap().metadata.uid.unwrap();
    let expected = format!("/plugins/kubernetes.io/csi/volumeDevices/publish/pv1/{uid}");
    assert!(published.target_path.ends_with(&expected), "{}", published.target_path);
    for capability in [
        published.volume_capability,
        world.driver.staged.lock().unwrap()[0].volume_capability.clone(),
    ] {
        assert_eq!(capability.unwrap().access_type, Some(AccessType::Block(BlockVolume {})));
    }
    let status = world.runtime.pod_status(&uid).await.unwrap();
    let given = &status.containers[0].config.devices;
    assert_eq!(given.len(), 1);
    assert_eq!(given[0].host_path, Path::new(&published.target_path));
    assert_eq!(given[0].container_path, Path::new("/dev/xvda"));

    // The next agent finds it, too.
    agent.stop().await;
    let agent = world.agent().await;
    world.delete("one").await;
    assert_eq!(world.driver.calls()[2..], ["unpublish h1", "unstage h1"]);
    assert_eq!(world.left(), Vec::<PathBuf>::new());
    agent.stop().await;
}
