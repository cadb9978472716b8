//! Built-in admission plug-ins, each seen through the API: those that are off unless they are asked
//! for, and those that look at nodes.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/hooks.rs"]
mod hooks;

use std::{sync::Arc, time::Duration};

use common::{Answer, get, pod, send};
use hooks::Hook;
use http::Request;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use rk_api::server::{
    ApiServer, Builder, StartError,
    admission::{
        EventLimit, EventLimitScope, EventRateLimits, ImagePolicy, PluginError, ResourceQuotaLimits,
    },
    audit::{AuditConfig, AuditError, AuditSink, Event as AuditEvent, Policy},
};
use rk_store::EmbeddedStore;
use serde_json::{Value, json};

fn builder() -> Builder {
    ApiServer::builder(Arc::new(EmbeddedStore::in_memory()))
}

fn refusal<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> (u16, String) {
    let Err(kube::Error::Api(status)) = result else { panic!("{result:?}") };
    (status.code, status.message)
}

async fn post(server: &ApiServer, path: &str, body: Value) -> Answer {
    let request = Request::post(path).header("content-type", "application/json");
    send(server, request, body.to_string().into_bytes()).await
}

async fn created(server: &ApiServer, path: &str, body: Value) -> Value {
    let answer = post(server, path, body).await;
    assert_eq!(answer.code, 201, "{path}: {}", answer.body);
    answer.body
}

const PODS: &str = "/api/v1/namespaces/default/pods";
const PRESETS: &str = "/apis/settings.k8s.io/v1alpha1/namespaces/default/podpresets";

// === PodPreset ===

fn preset(name: &str, value: &str) -> Value {
    json!({
        "metadata": { "name": name },
        "spec": {
            "selector": { "matchLabels": { "app": "web" } },
            "env": [{ "name": "LEVEL", "value": value }],
            "envFrom": [{ "secretRef": { "name": "secret" } }],
            "volumes": [{ "name": "cache", "emptyDir": {} }],
            "volumeMounts": [{ "name": "cache", "mountPath": "/cache" }],
        },
    })
}

fn web(name: &str) -> Value {
    let container = json!({ "name": "c", "image": "image" });
    json!({
        "metadata": { "name": name, "labels": { "app": "web" } },
        "spec": { "containers": [container] },
    })
}

#[tokio::test]
async fn a_pod_gets_what_the_presets_of_its_namespace_have_for_it() {
    let server = builder().pod_presets().start().await.unwrap();
    let before = created(&server, PODS, web("before")).await;
    let preset = created(&server, PRESETS, preset("cache", "1")).await;
    assert_eq!(preset["kind"], "PodPreset");
    let after = created(&server, PODS, web("after")).await;
    let container = &after["spec"]["containers"][0];
    assert_eq!(container["env"], json!([{ "name": "LEVEL", "value": "1" }]));
    assert_eq!(container["envFrom"], json!([{ "secretRef": { "name": "secret" } }]));
    assert_eq!(container["volumeMounts"][0]["mountPath"], "/cache");
    assert_eq!(after["spec"]["volumes"][0]["name"], "cache");
    assert_eq!(
        after["metadata"]["annotations"]["podpreset.admission.kubernetes.io/podpreset-cache"],
        preset["metadata"]["resourceVersion"]
    );

    // Who was there before, who has no such label and who wants nothing stay as they are.
    let path = format!("{PODS}/before");
    assert_eq!(get(&server, &path).await.body["spec"], before["spec"]);
    let other = created(&server, PODS, json!(pod("other"))).await;
    assert!(other["spec"]["containers"][0]["env"].is_null());
    let mut excluded = web("excluded");
    excluded["metadata"]["annotations"] =
        json!({ "podpreset.admission.kubernetes.io/exclude": "true" });
    let excluded = created(&server, PODS, excluded).await;
    assert!(excluded["spec"]["containers"][0]["env"].is_null());
}

#[tokio::test]
async fn a_pod_that_contradicts_its_presets_gets_nothing_and_an_event_says_so() {
    let server = builder().pod_presets().start().await.unwrap();
    created(&server, PRESETS, preset("a", "1")).await;
    created(&server, PRESETS, preset("b", "2")).await;
    let pod = created(&server, PODS, web("torn")).await;
    assert!(pod["spec"]["containers"][0]["env"].is_null());
    assert!(pod["metadata"]["annotations"].is_null());

    let events: Api<Event> = Api::default_namespaced(server.client());
    let found = events.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].involved_object.name.as_deref(), Some("torn"));
    assert_eq!(found[0].type_.as_deref(), Some("Warning"));
    let message = found[0].message.as_deref().unwrap();
    assert!(message.starts_with("merging env for b has a conflict on LEVEL:"), "{message}");
}

#[tokio::test]
async fn pod_presets_are_discovered_explained_and_checked() {
    let server = builder().pod_presets().start().await.unwrap();
    let list = get(&server, "/apis/settings.k8s.io/v1alpha1").await.body;
    assert_eq!(list["resources"][0]["name"], "podpresets");
    let schemas = get(&server, "/openapi/v3/apis/settings.k8s.io/v1alpha1").await.body;
    let spec = &schemas["components"]["schemas"]["io.k8s.api.settings.v1alpha1.PodPresetSpec"];
    assert!(spec["properties"]["volumeMounts"]["items"].is_object(), "{spec}");
    let nothing = json!({ "metadata": { "name": "p" }, "spec": {} });
    assert_eq!(post(&server, PRESETS, nothing).await.code, 422);

    // Server-side apply knows its fields, and protobuf does.
    let path = format!("{PRESETS}/applied?fieldManager=m");
    let mut applied = preset("applied", "1");
    applied["apiVersion"] = "settings.k8s.io/v1alpha1".into();
    applied["kind"] = "PodPreset".into();
    let request = Request::patch(path).header("content-type", "application/apply-patch+yaml");
    let answer = send(&server, request, applied.to_string().into_bytes()).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    let path = format!("{PRESETS}/applied");
    let request = Request::get(path).header("accept", "application/vnd.kubernetes.protobuf");
    let answer = send(&server, request, Vec::new()).await;
    assert_eq!(answer.headers["content-type"], "application/vnd.kubernetes.protobuf");
}

#[tokio::test]
async fn pod_presets_are_not_served_unless_they_are_asked_for() {
    let server = common::server().await;
    assert_eq!(get(&server, "/apis/settings.k8s.io/v1alpha1").await.code, 404);
    let lacking = builder().admission_plugins(&["PodPreset"], &[]).start().await.unwrap_err();
    assert_eq!(
        lacking.to_string(),
        "couldn't init admission plugin \"PodPreset\": settings.k8s.io/v1alpha1 is not served"
    );
}

// === EventRateLimit ===

fn event(name: &str, about: &str) -> Event {
    let object = json!({ "kind": "Pod", "name": about, "namespace": "default" });
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "default" },
        "involvedObject": object, "source": { "component": "test" },
    }))
    .unwrap()
}

async fn limited(limits: &[(EventLimitScope, i32)]) -> Client {
    let limits = limits.iter().map(|(scope, burst)| EventLimit {
        scope: *scope,
        qps: 1,
        burst: *burst,
        ..EventLimit::default()
    });
    let limits = EventRateLimits { limits: limits.collect() };
    let server = builder().event_rate_limits(limits);
    let server = server.admission_plugins(&["EventRateLimit"], &[]).start().await.unwrap();
    server.client()
}

#[tokio::test(start_paused = true)]
async fn events_beyond_a_limit_are_refused_until_time_has_passed() {
    let client = limited(&[(EventLimitScope::Namespace, 2)]).await;
    let events: Api<Event> = Api::default_namespaced(client);
    let create = async |name: &str| events.create(&PostParams::default(), &event(name, "p")).await;
    create("a").await.unwrap();
    create("b").await.unwrap();
    let (code, message) = refusal(create("c").await);
    assert_eq!(code, 429);
    assert_eq!(message, "Too many requests: limit reached on type Namespace for key default");
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    events.create(&dry, &event("d", "p")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    create("c").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn each_source_and_object_has_a_limit_of_its_own() {
    let limits = [(EventLimitScope::SourceAndObject, 1), (EventLimitScope::User, 3)];
    let events: Api<Event> = Api::default_namespaced(limited(&limits).await);
    let create = async |name: &str, about: &str| {
        events.create(&PostParams::default(), &event(name, about)).await
    };
    create("a", "p").await.unwrap();
    let (_, message) = refusal(create("b", "p").await);
    assert!(message.ends_with("SourceAndObject for key testPoddefaultp"), "{message}");
    create("b", "q").await.unwrap();
    let (_, message) = refusal(create("c", "r").await);
    assert!(message.ends_with("User for key system:admin"), "{message}");
}

#[tokio::test]
async fn limits_that_are_missing_or_make_no_sense_are_named() {
    let on = |builder: Builder| builder.admission_plugins(&["EventRateLimit"], &[]).start();
    let StartError::Plugins(PluginError::Misconfigured { why, .. }) =
        on(builder()).await.unwrap_err()
    else {
        panic!("another error");
    };
    assert_eq!(why, "no limits are configured");
    let none = on(builder().event_rate_limits(EventRateLimits::default())).await.unwrap_err();
    assert!(none.to_string().ends_with("limits: Invalid value: []: must not be empty"), "{none}");
}

// === ResourceQuota ===

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

fn limits(limited: Value) -> ResourceQuotaLimits {
    serde_json::from_value(json!({ "limitedResources": limited })).unwrap()
}

/// Makes a quota of which nothing is used yet, and waits until the server has seen it.
async fn quota(server: &ApiServer, name: &str, spec: Value, unused: Value) {
    let quota = json!({ "metadata": { "name": name }, "spec": spec });
    let mut quota = created(server, QUOTAS, quota).await;
    quota["status"] = json!({ "hard": spec["hard"], "used": unused });
    let request = Request::put(format!("{QUOTAS}/{name}/status"));
    let request = request.header("content-type", "application/json");
    let answer = send(server, request, quota.to_string().into_bytes()).await;
    assert_eq!(answer.code, 200, "{}", answer.body);
    // A list is as new as the writes before it, and made of what admission looks at.
    assert_eq!(get(server, QUOTAS).await.code, 200);
}

#[tokio::test]
async fn what_is_limited_is_used_only_in_a_namespace_with_a_quota_for_it() {
    let server = builder().resource_quota_limits(limits(json!([
        { "resource": "persistentvolumeclaims", "matchContains": ["requests.storage"] },
    ])));
    let server = server.start().await.unwrap();
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = json!({
        "metadata": { "name": "data" },
        "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } },
        },
    });

    let refused = post(&server, claims, claim.clone()).await;
    assert_eq!((refused.code, &refused.body["reason"]), (403, &json!("Forbidden")));
    assert_eq!(
        refused.body["message"],
        "persistentvolumeclaims \"data\" is forbidden: insufficient quota to consume: \
         requests.storage"
    );
    created(&server, PODS, json!({ "metadata": { "name": "p" }, "spec": pod_spec() })).await;

    let hard = json!({ "hard": { "requests.storage": "2Gi" } });
    quota(&server, "disks", hard, json!({ "requests.storage": "0" })).await;
    created(&server, claims, claim).await;
    let used = get(&server, &format!("{QUOTAS}/disks")).await.body;
    assert_eq!(used["status"]["used"]["requests.storage"], "1Gi");
}

fn pod_spec() -> Value {
    json!({ "containers": [{ "name": "c", "image": "i" }] })
}

#[tokio::test]
async fn a_limited_class_of_pods_is_open_to_namespaces_with_a_quota_for_it() {
    let name = "system-cluster-critical";
    let scope = json!({ "scopeName": "PriorityClass", "operator": "In", "values": [name] });
    let limited = limits(json!([{ "resource": "pods", "matchScopes": [scope] }]));
    let server = builder().resource_quota_limits(limited).start().await.unwrap();
    let mut spec = pod_spec();
    spec["priorityClassName"] = json!(name);
    let pod = json!({ "metadata": { "name": "p" }, "spec": spec });

    let refused = post(&server, PODS, pod.clone()).await;
    assert_eq!(refused.code, 500);
    let why = "insufficient quota to match these scopes: \
               [{PriorityClass In [system-cluster-critical]}]";
    assert_eq!(refused.body["message"], why);

    let selector = json!({ "matchExpressions": [scope] });
    let spec = json!({ "hard": { "pods": "1" }, "scopeSelector": selector });
    quota(&server, "critical", spec, json!({ "pods": "0" })).await;
    created(&server, PODS, pod).await;
}

#[tokio::test]
async fn a_limit_about_no_kind_is_named() {
    let server = builder().resource_quota_limits(limits(json!([{ "matchContains": ["cpu"] }])));
    let wrong = server.start().await.unwrap_err().to_string();
    assert!(wrong.ends_with("limitedResources[0].resource: Required value"), "{wrong}");
}

// === ImagePolicyWebhook ===

/// Keeps audit events.
#[derive(Debug, Default)]
struct Kept(parking_lot::Mutex<Vec<Value>>);

#[async_trait::async_trait]
impl AuditSink for Kept {
    async fn process(&self, events: &[Arc<AuditEvent>]) -> Result<(), AuditError> {
        self.0.lock().extend(events.iter().map(|event| json!(event.as_ref())));
        Ok(())
    }
}

impl Kept {
    /// The annotations of the last event.
    fn annotations(&self) -> Value {
        self.0.lock().last().unwrap()["annotations"].clone()
    }
}

async fn judged(policy: ImagePolicy) -> (ApiServer, Arc<Kept>) {
    let kept = Arc::new(Kept::default());
    let rules = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]";
    let audit = AuditConfig {
        policy: Some(Policy::parse(rules).unwrap()),
        sinks: vec![kept.clone()],
        ..AuditConfig::default()
    };
    let server = builder().image_policy(policy).audit(audit);
    let server = server.admission_plugins(&["ImagePolicyWebhook"], &[]).start().await.unwrap();
    (server, kept)
}

#[tokio::test]
async fn a_service_says_which_images_may_run_and_is_believed_for_a_while() {
    let hook = Hook::raw(|review| {
        let bad = review["spec"]["containers"][0]["image"] == "bad";
        let mut answer = review.clone();
        let annotations = json!({ "checked": "yes" });
        answer["status"] = match bad {
            true => {
                json!({ "allowed": false, "reason": "it is bad", "auditAnnotations": annotations })
            }
            false => json!({ "allowed": true }),
        };
        answer
    })
    .await;
    let (server, kept) = judged(ImagePolicy::new(hook.kubeconfig())).await;
    let pods: Api<Pod> = Api::default_namespaced(server.client());
    let create = async |name: &str, image: &str| {
        let mut pod = pod(name);
        pod.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
        let asked = json!({ "a.image-policy.k8s.io/ticket": "7", "other": "x" });
        pod.metadata.annotations = serde_json::from_value(asked).unwrap();
        pods.create(&PostParams::default(), &pod).await
    };
    create("a", "good").await.unwrap();
    create("b", "good").await.unwrap();
    let (code, message) = refusal(create("c", "bad").await);
    assert_eq!(code, 403);
    assert_eq!(
        message,
        "pods \"c\" is forbidden: image policy webhook backend denied one or more images: it is bad"
    );
    let annotations = kept.annotations();
    assert_eq!(annotations["imagepolicywebhook.image-policy.k8s.io/checked"], "yes");
    refusal(create("d", "bad").await);

    let asked = hook.asked.lock().clone();
    assert_eq!(asked.len(), 2, "answers are remembered");
    assert_eq!(asked[0]["apiVersion"], "imagepolicy.k8s.io/v1alpha1");
    assert_eq!(asked[0]["kind"], "ImageReview");
    let annotations = json!({ "a.image-policy.k8s.io/ticket": "7" });
    let containers = json!([{ "image": "good" }]);
    let spec =
        json!({ "containers": containers, "annotations": annotations, "namespace": "default" });
    assert_eq!(asked[0]["spec"], spec);
}

#[tokio::test]
async fn what_happens_while_the_service_is_away_is_configured() {
    // Nobody listens there any more.
    let hook = Hook::raw(|review| review.clone()).await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let kubeconfig = hook.kubeconfig().replace(&hook.address.to_string(), &gone.to_string());
    for default_allow in [true, false] {
        let retry_backoff = Duration::from_millis(1);
        let policy = ImagePolicy { default_allow, retry_backoff, ..ImagePolicy::new(&*kubeconfig) };
        let (server, kept) = judged(policy).await;
        let pods: Api<Pod> = Api::default_namespaced(server.client());
        let result = pods.create(&PostParams::default(), &pod("p")).await;
        match default_allow {
            true => {
                result.unwrap();
                let key = "imagepolicywebhook.image-policy.k8s.io/failed-open";
                assert_eq!(kept.annotations()[key], "true");
            }
            false => {
                let (code, message) = refusal(result);
                assert_eq!(code, 403);
                assert!(message.starts_with("pods \"p\" is forbidden: "), "{message}");
            }
        }
    }
}

// === What looks at nodes ===

async fn node(server: &ApiServer) {
    let labels = json!({
        "kubernetes.io/os": "linux",
        "topology.kubernetes.io/zone": "z1",
        "topology.kubernetes.io/region": "r1",
        "other": "x",
    });
    created(server, "/api/v1/nodes", json!({ "metadata": { "name": "n", "labels": labels } }))
        .await;
    let status = json!({
        "status": { "allocatable": { "cpu": "2", "memory": "1Gi", "pods": "10" } },
    });
    let request = Request::patch("/api/v1/nodes/n/status")
        .header("content-type", "application/merge-patch+json");
    let answer = send(server, request, status.to_string().into_bytes()).await;
    assert_eq!(answer.code, 200, "{}", answer.body);
}

async fn bind(server: &ApiServer, name: &str) {
    let target = json!({ "kind": "Node", "name": "n" });
    let binding = json!({ "metadata": { "name": name }, "target": target });
    created(server, &format!("{PODS}/{name}/binding"), binding).await;
}

#[tokio::test]
async fn a_pod_that_is_bound_learns_where_its_node_is() {
    let server = common::server().await;
    node(&server).await;
    let mut own = json!(pod("own"));
    own["metadata"]["labels"] = json!({ "topology.kubernetes.io/zone": "mine" });
    for pod in [json!(pod("plain")), own] {
        created(&server, PODS, pod).await;
    }
    bind(&server, "plain").await;
    bind(&server, "own").await;
    let labels = async |name: &str| {
        get(&server, &format!("{PODS}/{name}")).await.body["metadata"]["labels"].clone()
    };
    let region = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone");
    assert_eq!(labels("plain").await, json!({ region.0: "r1", region.1: "z1" }));
    assert_eq!(labels("own").await, json!({ region.0: "r1", region.1: "mine" }));
    let mut placed = json!(pod("placed"));
    placed["spec"]["nodeName"] = "n".into();
    let placed = created(&server, PODS, placed).await;
    assert_eq!(placed["metadata"]["labels"][region.1], "z1");
}

#[tokio::test]
async fn a_pod_is_resized_only_to_what_its_node_has_and_can_do() {
    let server = common::server().await;
    node(&server).await;
    let resources = |cpu: &str| json!({ "requests": { "cpu": cpu, "memory": "1Mi" } });
    let mut pod = json!(pod("p"));
    pod["spec"]["containers"][0]["resources"] = resources("1");
    created(&server, PODS, pod).await;
    bind(&server, "p").await;
    let resize = async |more: Value| {
        let mut container = json!({ "name": "c" });
        container["resources"] = more;
        let body = json!({ "spec": { "containers": [container] } });
        let request = Request::patch(format!("{PODS}/p/resize"))
            .header("content-type", "application/strategic-merge-patch+json");
        send(&server, request, body.to_string().into_bytes()).await
    };
    let grown = resize(resources("1500m")).await;
    assert_eq!(grown.code, 200, "{}", grown.body);
    let refused = resize(resources("3")).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.body["message"],
        "pods \"p\" is forbidden: Node didn't have enough allocatable resources: cpu, requested: \
         3000, allocatable: 2000"
    );

    let mut sure = json!(common::pod("sure"));
    let all = |cpu: &str| {
        let list = json!({ "cpu": cpu, "memory": "1Mi" });
        json!({ "requests": list, "limits": list })
    };
    sure["spec"]["containers"][0]["resources"] = all("1");
    created(&server, PODS, sure).await;
    bind(&server, "sure").await;
    let body = json!({ "spec": { "containers": [{ "name": "c", "resources": all("1500m") }] } });
    let grow = async || {
        let request = Request::patch(format!("{PODS}/sure/resize"))
            .header("content-type", "application/strategic-merge-patch+json");
        send(&server, request, body.to_string().into_bytes()).await
    };
    assert_eq!(
        grow().await.body["message"],
        "pods \"sure\" is forbidden: pod update requires features GuaranteedQoSPodCPUResize which \
         are not available on node \"n\""
    );
    let declared = json!({ "status": { "declaredFeatures": ["GuaranteedQoSPodCPUResize"] } });
    let request = Request::patch("/api/v1/nodes/n/status")
        .header("content-type", "application/merge-patch+json");
    send(&server, request, declared.to_string().into_bytes()).await;
    let grown = grow().await;
    assert_eq!(grown.code, 200, "{}", grown.body);
}
