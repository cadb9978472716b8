//! What components of 1.20 to 1.23 ask for when they start, each as who it is, with the default roles
//! and in the encodings that they use: protobuf, and JSON.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::server;
use http::{Method, Request};
use http_body_util::BodyExt;
use k8s_pb::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{Binding, Node, ObjectReference, Pod},
        events::v1beta1::Event,
        policy::v1beta1::PodDisruptionBudgetList,
        storage::v1::{CSINode, CSINodeSpec},
    },
    apimachinery::pkg::{
        apis::meta::v1::{MicroTime, ObjectMeta, WatchEvent},
        runtime::{TypeMeta, Unknown},
    },
};
use kube::Client;
use prost::Message;
use rk_api::server::{ApiServer, UserInfo};
use serde_json::{Value, json};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// What they accept; of the two they get JSON here, which is sooner made.
const EITHER: &str = "application/vnd.kubernetes.protobuf,application/json";
const MAGIC: &[u8] = b"k8s\0";

struct Answer {
    code: u16,
    content_type: String,
    body: Vec<u8>,
}

async fn send(client: &Client, request: http::request::Builder, body: Vec<u8>) -> Answer {
    let answer = client.send(request.body(body.into()).unwrap()).await.unwrap();
    let (parts, body) = answer.into_parts();
    let content_type = parts.headers.get("content-type").map(|it| it.to_str().unwrap().to_owned());
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    Answer { code: parts.status.as_u16(), content_type: content_type.unwrap_or_default(), body }
}

fn scheduler(server: &ApiServer) -> Client {
    server.client_as(UserInfo::new("system:kube-scheduler", []))
}

fn kubelet(server: &ApiServer) -> Client {
    server.client_as(UserInfo::node("n"))
}

fn manager(server: &ApiServer) -> Client {
    server.client_as(UserInfo::new("system:kube-controller-manager", []))
}

fn proxy(server: &ApiServer) -> Client {
    server.client_as(UserInfo::new("system:kube-proxy", []))
}

/// The path of a group's version.
fn path(version: &str) -> String {
    match version.contains('/') {
        true => format!("/apis/{version}"),
        false => format!("/api/{version}"),
    }
}

/// Lists and then watches, as an informer does, in both encodings.
async fn informs(client: &Client, version: &str, kind: &str, plural: &str, query: &str) {
    let url = format!("{}/{plural}?limit=500&resourceVersion=0{query}", path(version));
    let listed =
        send(client, Request::get(&url).header("accept", "application/json"), vec![]).await;
    let text = String::from_utf8_lossy(&listed.body);
    assert_eq!(listed.code, 200, "{url}: {text}");
    let list: Value = serde_json::from_slice(&listed.body).unwrap();
    assert_eq!(list["apiVersion"], version, "{url}");
    assert_eq!(list["kind"], format!("{kind}List"));

    let listed = send(client, Request::get(&url).header("accept", PROTOBUF), vec![]).await;
    assert_eq!((listed.code, listed.content_type.as_str()), (200, PROTOBUF), "{url}");
    let unknown = Unknown::decode(listed.body.strip_prefix(MAGIC).unwrap()).unwrap();
    let meta = unknown.type_meta.unwrap();
    assert_eq!(meta.api_version.as_deref(), Some(version));
    assert_eq!(meta.kind, Some(format!("{kind}List")));

    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    let url = format!(
        "{}/{plural}?allowWatchBookmarks=true&resourceVersion={revision}&timeoutSeconds=0&watch=true{query}",
        path(version)
    );
    let request = Request::get(&url).header("accept", EITHER);
    // Its head is enough: it lasts.
    let watch = client.send(request.body(Vec::new().into()).unwrap()).await.unwrap();
    assert_eq!(watch.status(), 200, "{url}");
    let content_type = watch.headers()["content-type"].to_str().unwrap();
    assert_eq!(content_type, "application/json", "{url}");
}

async fn all_inform(client: &Client, kinds: &[(&str, &str, &str)]) {
    for (version, kind, plural) in kinds {
        informs(client, version, kind, plural, "").await;
    }
}

fn body(version: &str, kind: &str, object: &impl Message) -> Vec<u8> {
    let type_meta = TypeMeta { api_version: Some(version.to_owned()), kind: Some(kind.to_owned()) };
    let unknown = Unknown {
        type_meta: Some(type_meta),
        raw: Some(object.encode_to_vec()),
        ..Unknown::default()
    };
    [MAGIC, &unknown.encode_to_vec()].concat()
}

/// Writes an object as Go's clients do, in protobuf; the answer is one too.
async fn write(client: &Client, method: Method, url: &str, body: Vec<u8>) {
    let request = Request::builder()
        .method(method)
        .uri(url)
        .header("content-type", PROTOBUF)
        .header("accept", PROTOBUF);
    let answer = send(client, request, body).await;
    let text = String::from_utf8_lossy(&answer.body);
    assert!(answer.code == 201 || answer.code == 200, "{url}: {} {text}", answer.code);
    assert_eq!(answer.content_type, PROTOBUF, "{url}");
}

async fn create_json(client: &Client, url: &str, object: Value) -> Value {
    let request = Request::post(url).header("content-type", "application/json");
    let answer = send(client, request, object.to_string().into_bytes()).await;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(answer.code, 201, "{url}: {text}");
    serde_json::from_str(&text).unwrap()
}

fn named(name: &str) -> Option<ObjectMeta> {
    Some(ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() })
}

fn lease(name: &str) -> Vec<u8> {
    let spec = LeaseSpec {
        holder_identity: Some("me".to_owned()),
        lease_duration_seconds: Some(15),
        renew_time: Some(MicroTime { seconds: Some(1_900_000_000), nanos: Some(0) }),
        ..LeaseSpec::default()
    };
    body("coordination.k8s.io/v1", "Lease", &Lease { metadata: named(name), spec: Some(spec) })
}

fn json_pod(name: &str, node: Option<&str>) -> Value {
    let spec = json!({"nodeName": node, "containers": [{"name": "c", "image": "i"}]});
    json!({"metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn a_scheduler_of_1_20_starts_and_binds() {
    let server = server().await;
    server.roles_ready().await;
    let client = scheduler(&server);
    all_inform(
        &client,
        &[
            ("v1", "Node", "nodes"),
            ("v1", "Namespace", "namespaces"),
            ("v1", "Service", "services"),
            ("v1", "PersistentVolume", "persistentvolumes"),
            ("v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
            ("v1", "ReplicationController", "replicationcontrollers"),
            ("apps/v1", "ReplicaSet", "replicasets"),
            ("apps/v1", "StatefulSet", "statefulsets"),
            ("policy/v1beta1", "PodDisruptionBudget", "poddisruptionbudgets"),
            ("storage.k8s.io/v1", "StorageClass", "storageclasses"),
            ("storage.k8s.io/v1", "CSINode", "csinodes"),
            ("storage.k8s.io/v1", "CSIDriver", "csidrivers"),
            // From 1.21 to 1.23.
            ("storage.k8s.io/v1beta1", "CSIStorageCapacity", "csistoragecapacities"),
        ],
    )
    .await;
    let unfinished = "&fieldSelector=status.phase%21%3DSucceeded%2Cstatus.phase%21%3DFailed";
    informs(&client, "v1", "Pod", "pods", unfinished).await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    write(&client, Method::POST, leases, lease("kube-scheduler")).await;

    let pods = "/api/v1/namespaces/default/pods";
    create_json(&server.client(), "/api/v1/nodes", json!({"metadata": {"name": "n"}})).await;
    create_json(&server.client(), pods, json_pod("p", None)).await;
    let target = ObjectReference {
        kind: Some("Node".to_owned()),
        name: Some("n".to_owned()),
        ..ObjectReference::default()
    };
    let binding = Binding { metadata: named("p"), target: Some(target) };
    let url = format!("{pods}/p/binding");
    let request = Request::post(&url).header("content-type", PROTOBUF).header("accept", PROTOBUF);
    let bound = send(&client, request, body("v1", "Binding", &binding)).await;
    assert_eq!(bound.code, 201, "{}", String::from_utf8_lossy(&bound.body));
    let event = Event {
        metadata: named("p.1"),
        event_time: Some(MicroTime { seconds: Some(1_900_000_000), nanos: Some(0) }),
        action: Some("Binding".to_owned()),
        reason: Some("Scheduled".to_owned()),
        r#type: Some("Normal".to_owned()),
        note: Some("Successfully assigned default/p to n".to_owned()),
        reporting_controller: Some("default-scheduler".to_owned()),
        reporting_instance: Some("default-scheduler-x".to_owned()),
        regarding: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some("default".to_owned()),
            name: Some("p".to_owned()),
            ..ObjectReference::default()
        }),
        ..Event::default()
    };
    let events = "/apis/events.k8s.io/v1beta1/namespaces/default/events";
    let event = body("events.k8s.io/v1beta1", "Event", &event);
    write(&client, Method::POST, events, event).await;
}

#[tokio::test]
async fn a_controller_manager_of_1_20_starts() {
    let server = server().await;
    server.roles_ready().await;
    let client = manager(&server);
    all_inform(
        &client,
        &[
            ("v1", "Pod", "pods"),
            ("v1", "Node", "nodes"),
            ("v1", "Endpoints", "endpoints"),
            ("v1", "ServiceAccount", "serviceaccounts"),
            ("v1", "ResourceQuota", "resourcequotas"),
            ("apps/v1", "Deployment", "deployments"),
            ("apps/v1", "DaemonSet", "daemonsets"),
            ("apps/v1", "ControllerRevision", "controllerrevisions"),
            ("batch/v1", "Job", "jobs"),
            ("batch/v1beta1", "CronJob", "cronjobs"),
            ("autoscaling/v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
            ("policy/v1beta1", "PodDisruptionBudget", "poddisruptionbudgets"),
            ("discovery.k8s.io/v1beta1", "EndpointSlice", "endpointslices"),
            ("certificates.k8s.io/v1", "CertificateSigningRequest", "certificatesigningrequests"),
            (
                "certificates.k8s.io/v1beta1",
                "CertificateSigningRequest",
                "certificatesigningrequests",
            ),
            ("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles"),
            ("networking.k8s.io/v1", "Ingress", "ingresses"),
            ("networking.k8s.io/v1beta1", "Ingress", "ingresses"),
            ("extensions/v1beta1", "Ingress", "ingresses"),
            ("storage.k8s.io/v1", "VolumeAttachment", "volumeattachments"),
            ("storage.k8s.io/v1beta1", "CSIDriver", "csidrivers"),
            ("coordination.k8s.io/v1", "Lease", "leases"),
            ("node.k8s.io/v1beta1", "RuntimeClass", "runtimeclasses"),
            ("scheduling.k8s.io/v1beta1", "PriorityClass", "priorityclasses"),
            (
                "admissionregistration.k8s.io/v1beta1",
                "ValidatingWebhookConfiguration",
                "validatingwebhookconfigurations",
            ),
        ],
    )
    .await;
    // What the garbage collector and the namespace controller go by.
    for url in ["/api", "/apis", "/api/v1", "/apis/apps/v1", "/apis/policy/v1beta1", "/version"] {
        let asked = Request::get(url).header("accept", "application/vnd.kubernetes.protobuf, */*");
        assert_eq!(send(&client, asked, vec![]).await.code, 200, "{url}");
    }
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    write(&client, Method::POST, leases, lease("kube-controller-manager")).await;
    // Its garbage collector reads metadata alone, of every kind that there is.
    let partial =
        "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let url = "/apis/policy/v1beta1/poddisruptionbudgets?limit=500&resourceVersion=0";
    let listed = send(&client, Request::get(url).header("accept", partial), vec![]).await;
    assert_eq!((listed.code, listed.content_type.starts_with(PROTOBUF)), (200, true));
    let unknown = Unknown::decode(listed.body.strip_prefix(MAGIC).unwrap()).unwrap();
    let kind = unknown.type_meta.unwrap().kind;
    assert_eq!(kind.as_deref(), Some("PartialObjectMetadataList"));
}

#[tokio::test]
async fn a_kubelet_of_1_20_starts() {
    let server = server().await;
    server.roles_ready().await;
    let client = kubelet(&server);
    let node = Node { metadata: named("n"), ..Node::default() };
    write(&client, Method::POST, "/api/v1/nodes", body("v1", "Node", &node)).await;
    all_inform(
        &client,
        &[
            ("v1", "Service", "services"),
            ("storage.k8s.io/v1", "CSIDriver", "csidrivers"),
            ("node.k8s.io/v1", "RuntimeClass", "runtimeclasses"),
            ("node.k8s.io/v1beta1", "RuntimeClass", "runtimeclasses"),
        ],
    )
    .await;
    informs(&client, "v1", "Node", "nodes", "&fieldSelector=metadata.name%3Dn").await;
    informs(&client, "v1", "Pod", "pods", "&fieldSelector=spec.nodeName%3Dn").await;
    let driver = body(
        "storage.k8s.io/v1",
        "CSINode",
        &CSINode { metadata: named("n"), spec: Some(CSINodeSpec::default()) },
    );
    write(&client, Method::POST, "/apis/storage.k8s.io/v1/csinodes", driver).await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    write(&client, Method::POST, leases, lease("n")).await;
    let review = json!({"spec": {"token": "t"}});
    create_json(&client, "/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    let review =
        json!({"spec": {"user": "u", "nonResourceAttributes": {"verb": "get", "path": "/"}}});
    let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    create_json(&client, reviews, review).await;
    // Its status goes out as a strategic merge patch, its events as core ones.
    let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let request = Request::patch("/api/v1/nodes/n/status")
        .header("content-type", "application/strategic-merge-patch+json")
        .header("accept", EITHER);
    let patched = send(&client, request, patch.to_string().into_bytes()).await;
    assert_eq!((patched.code, patched.content_type.as_str()), (200, "application/json"));
}

#[tokio::test]
async fn a_proxy_of_1_20_starts() {
    let server = server().await;
    server.roles_ready().await;
    let client = proxy(&server);
    let labels = "&labelSelector=%21service.kubernetes.io%2Fheadless%2C%21service.kubernetes.io%2Fservice-proxy-name";
    informs(&client, "v1", "Service", "services", labels).await;
    informs(&client, "discovery.k8s.io/v1beta1", "EndpointSlice", "endpointslices", labels).await;
    informs(&client, "discovery.k8s.io/v1", "EndpointSlice", "endpointslices", labels).await;
    all_inform(&client, &[("v1", "Endpoints", "endpoints"), ("v1", "Node", "nodes")]).await;
}

#[tokio::test]
async fn a_watch_in_protobuf_has_a_frame_for_each_event() {
    let server = server().await;
    let pods = "/api/v1/namespaces/default/pods";
    for name in ["a", "b"] {
        create_json(&server.client(), pods, json_pod(name, None)).await;
    }
    let watch = async |query: &str| {
        let request = Request::get(format!("{pods}?watch=1&timeoutSeconds=1&{query}"));
        let watch = send(&server.client(), request.header("accept", PROTOBUF), vec![]).await;
        assert_eq!(watch.content_type, format!("{PROTOBUF};stream=watch"));
        let (mut rest, mut events) = (watch.body.as_slice(), Vec::new());
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            let (event, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
            let event = WatchEvent::decode(event).unwrap();
            let raw = event.object.unwrap().raw.unwrap();
            let unknown = Unknown::decode(raw.strip_prefix(MAGIC).unwrap()).unwrap();
            events.push((event.r#type.unwrap(), unknown));
            rest = tail;
        }
        events
    };
    let events = watch("resourceVersion=0").await;
    let names = events.iter().map(|(type_, unknown)| {
        assert_eq!(type_, "ADDED");
        let pod = Pod::decode(unknown.raw.as_deref().unwrap()).unwrap();
        pod.metadata.unwrap().name.unwrap()
    });
    assert_eq!(names.collect::<Vec<_>>(), ["a", "b"]);
    // A failure is an event too.
    let events =
        watch("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=999999")
            .await;
    let (type_, unknown) = &events[0];
    let kind = unknown.type_meta.as_ref().unwrap().kind.as_deref();
    assert_eq!((type_.as_str(), kind), ("ERROR", Some("Status")));
}

#[tokio::test]
async fn an_old_version_carries_what_was_written_at_the_new_one() {
    let server = server().await;
    let budget = json!({
        "metadata": {"name": "b"},
        "spec": {"minAvailable": "50%", "selector": {"matchLabels": {"a": "b"}}},
    });
    let url = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    create_json(&server.client(), url, budget).await;
    let url = "/apis/policy/v1beta1/poddisruptionbudgets";
    let listed = send(&server.client(), Request::get(url).header("accept", PROTOBUF), vec![]).await;
    let unknown = Unknown::decode(listed.body.strip_prefix(MAGIC).unwrap()).unwrap();
    let list = PodDisruptionBudgetList::decode(unknown.raw.unwrap().as_slice()).unwrap();
    let spec = list.items[0].spec.as_ref().unwrap();
    assert_eq!(spec.min_available.as_ref().unwrap().str_val.as_deref(), Some("50%"));
    assert_eq!(spec.selector.as_ref().unwrap().match_labels["a"], "b");
}
