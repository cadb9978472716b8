//! Admission by webhooks: real HTTPS servers, asked by a real API server.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/hooks.rs"]
mod hooks;

use common::{config_map, pod, server};
use hooks::{Hook, patch};
use http::Request;
use k8s_openapi::{
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        apps::v1::Deployment,
        core::v1::{ConfigMap, Namespace, Pod},
    },
    apimachinery::pkg::apis::meta::v1::Status,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn of<T: DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).unwrap()
}

/// A webhook's entry in a configuration: asked about ConfigMaps, by every operation.
fn entry(hook: &Hook, changes: Value) -> Value {
    let mut entry = json!({
        "name": "hook.example.com",
        "clientConfig": hook.client(),
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "rules": [{
            "operations": ["*"],
            "apiGroups": [""],
            "apiVersions": ["v1"],
            "resources": ["configmaps"],
        }],
    });
    for (key, value) in changes.as_object().unwrap() {
        entry[key] = value.clone();
    }
    entry
}

async fn mutating(client: &Client, name: &str, webhooks: Value) {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let configuration = of(json!({ "metadata": { "name": name }, "webhooks": webhooks }));
    api.create(&PostParams::default(), &configuration).await.unwrap();
}

async fn validating(client: &Client, name: &str, webhooks: Value) {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let configuration = of(json!({ "metadata": { "name": name }, "webhooks": webhooks }));
    api.create(&PostParams::default(), &configuration).await.unwrap();
}

fn maps(client: &Client) -> Api<ConfigMap> {
    Api::default_namespaced(client.clone())
}

async fn create(client: &Client, name: &str) -> Result<ConfigMap, kube::Error> {
    maps(client).create(&PostParams::default(), &config_map(name, "1")).await
}

fn allow() -> Value {
    json!({ "allowed": true })
}

#[track_caller]
fn refusal<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> (u16, String, String) {
    let Err(kube::Error::Api(status)) = result else { panic!("{result:?}") };
    (status.code, status.reason, status.message)
}

#[track_caller]
fn denied<T: std::fmt::Debug>(result: Result<T, kube::Error>, why: &str) {
    let (_, _, message) = refusal(result);
    assert_eq!(
        message,
        format!("admission webhook \"hook.example.com\" denied the request: {why}")
    );
}

fn deny(why: &str) -> Value {
    json!({ "allowed": false, "status": { "message": why } })
}

/// Conformance: Admission webhook, deny create
#[tokio::test]
async fn a_validating_webhook_refuses() {
    let client = server().await.client();
    let hook = Hook::new(|request| match request["object"]["data"]["k"].as_str() {
        Some("bad") => json!({
            "allowed": false,
            "status": { "code": 402, "reason": "Payment", "message": "pay first" },
        }),
        _ => allow(),
    })
    .await;
    validating(&client, "v", json!([entry(&hook, json!({}))])).await;

    create(&client, "good").await.unwrap();
    let bad = maps(&client).create(&PostParams::default(), &config_map("b", "bad")).await;
    assert_eq!(
        refusal(bad),
        (
            402,
            "Payment".to_owned(),
            "admission webhook \"hook.example.com\" denied the request: pay first".to_owned()
        )
    );
    assert!(maps(&client).get_opt("b").await.unwrap().is_none());
    let update = json!({ "data": { "k": "bad" } });
    let update = maps(&client).patch("good", &PatchParams::default(), &Patch::Merge(update)).await;
    assert_eq!(refusal(update).0, 402);
}

#[tokio::test]
async fn a_review_tells_all_about_a_request() {
    let client = server().await.client();
    let hook = Hook::new(|_| allow()).await;
    validating(&client, "v", json!([entry(&hook, json!({}))])).await;

    let parameters = PostParams { field_manager: Some("me".to_owned()), ..PostParams::default() };
    maps(&client).create(&parameters, &config_map("m", "1")).await.unwrap();
    let change = Patch::Merge(json!({ "data": { "k": "2" } }));
    maps(&client).patch("m", &PatchParams::apply("you"), &change).await.unwrap();
    maps(&client).delete("m", &DeleteParams::background()).await.unwrap();

    let asked = hook.requests();
    let [created, updated, deleted] = asked.as_slice() else { panic!("{asked:?}") };
    let kind = json!({ "group": "", "version": "v1", "kind": "ConfigMap" });
    let resource = json!({ "group": "", "version": "v1", "resource": "configmaps" });
    for (request, operation) in [(created, "CREATE"), (updated, "UPDATE"), (deleted, "DELETE")] {
        assert_eq!(request["operation"], operation);
        assert_eq!((&request["kind"], &request["requestKind"]), (&kind, &kind));
        assert_eq!((&request["resource"], &request["requestResource"]), (&resource, &resource));
        assert_eq!((&request["name"], &request["namespace"]), (&json!("m"), &json!("default")));
        assert_eq!(request["userInfo"]["username"], "system:admin");
        assert_eq!(request["dryRun"], false);
    }
    assert_eq!(created["oldObject"], Value::Null);
    assert_eq!(created["object"]["data"]["k"], "1");
    assert_eq!(created["object"]["metadata"]["managedFields"][0]["manager"], "me");
    assert_eq!(
        created["options"],
        json!({ "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "me" })
    );
    assert_eq!(
        (&updated["oldObject"]["data"]["k"], &updated["object"]["data"]["k"]),
        (&json!("1"), &json!("2"))
    );
    assert_eq!(updated["options"]["kind"], "UpdateOptions");
    assert_eq!(deleted["object"], Value::Null);
    assert_eq!(deleted["oldObject"]["data"]["k"], "2");
    assert_eq!(deleted["options"]["propagationPolicy"], "Background");
    assert_ne!(created["uid"], updated["uid"]);
}

/// Conformance: Admission webhook, ordered mutation
#[tokio::test]
async fn mutating_webhooks_change_objects_one_after_the_other() {
    let client = server().await.client();
    let add = |key: &'static str| {
        Hook::new(move |request| {
            let had = request["object"]["data"].as_object().unwrap().len();
            let path = format!("/data/{key}");
            patch(json!([{ "op": "add", "path": path, "value": had.to_string() }]))
        })
    };
    let (first, second) = (add("first").await, add("second").await);
    // By the names of the configurations, whichever came first.
    mutating(&client, "b", json!([entry(&second, json!({}))])).await;
    mutating(&client, "a", json!([entry(&first, json!({}))])).await;

    let created = create(&client, "m").await.unwrap().data.unwrap();
    assert_eq!((created["first"].as_str(), created["second"].as_str()), ("1", "2"));
}

/// Conformance: Admission webhook, mutation with defaulting
#[tokio::test]
async fn what_a_webhook_adds_is_defaulted() {
    let client = server().await.client();
    let container = json!({ "name": "added", "image": "image", "terminationMessagePolicy": "" });
    let operation = json!({ "op": "add", "path": "/spec/containers/-", "value": container });
    let hook = Hook::new(move |_| patch(json!([operation]))).await;
    let rules = json!([{
        "operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"],
    }]);
    mutating(&client, "m", json!([entry(&hook, json!({ "rules": rules }))])).await;

    let pods: Api<Pod> = Api::default_namespaced(client);
    let created = pods.create(&PostParams::default(), &pod("p")).await.unwrap();
    let added = created.spec.unwrap().containers.pop().unwrap();
    assert_eq!(added.name, "added");
    assert_eq!(added.termination_message_policy.as_deref(), Some("File"));
}

#[tokio::test]
async fn who_asked_for_it_is_asked_again_after_a_change() {
    let client = server().await.client();
    let counting = || {
        Hook::new(|request| {
            let asked = request["object"]["data"]["asked"].as_str().unwrap_or("0");
            let asked: u32 = asked.parse().unwrap();
            patch(json!([{ "op": "add", "path": "/data/asked", "value": (asked + 1).to_string() }]))
        })
    };
    let (first, last) = (counting().await, counting().await);
    let again = json!({ "reinvocationPolicy": "IfNeeded", "name": "first.example.com" });
    mutating(&client, "m", json!([entry(&first, again), entry(&last, json!({}))])).await;

    let created = create(&client, "m").await.unwrap();
    assert_eq!(created.data.unwrap()["asked"], "3");
    assert_eq!((first.requests().len(), last.requests().len()), (2, 1));
}

/// Conformance: Admission webhook, fail closed
#[tokio::test]
async fn a_webhook_that_fails_is_a_failure_unless_it_may_fail() {
    let client = server().await.client();
    let mut hook = Hook::new(|_| allow()).await;
    hook.address.set_port(1);
    let url = format!("https://{}/review", hook.address);
    validating(&client, "v", json!([entry(&hook, json!({ "failurePolicy": "Fail" }))])).await;
    assert_eq!(
        refusal(create(&client, "m").await),
        (
            500,
            "InternalError".to_owned(),
            format!(
                "Internal error occurred: failed calling webhook \"hook.example.com\": failed to \
                 call webhook: Post \"{url}?timeout=10s\": dial tcp 127.0.0.1:1: connect: \
                 connection refused"
            )
        )
    );

    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let ignore =
        json!([{ "op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore" }]);
    let ignore = Patch::Json::<()>(serde_json::from_value(ignore).unwrap());
    configurations.patch("v", &PatchParams::default(), &ignore).await.unwrap();
    create(&client, "m").await.unwrap();
}

/// Conformance: Admission webhook, honor timeout
#[tokio::test]
async fn a_webhook_is_waited_for_as_long_as_it_says() {
    let client = server().await.client();
    let hook = Hook::raw(|_| Value::Null).await;
    validating(&client, "v", json!([entry(&hook, json!({ "timeoutSeconds": 1 }))])).await;
    let (code, _, message) = refusal(create(&client, "m").await);
    assert_eq!(code, 500);
    assert!(message.ends_with("?timeout=1s\": context deadline exceeded"), "{message}");
}

#[tokio::test]
async fn nonsense_is_no_answer() {
    let client = server().await.client();
    let hook = Hook::raw(|review| match review["request"]["name"].as_str() {
        Some("other") => json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "response": { "uid": "other", "allowed": true },
        }),
        _ => json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview" }),
    })
    .await;
    validating(&client, "v", json!([entry(&hook, json!({}))])).await;
    let called = "Internal error occurred: failed calling webhook \"hook.example.com\": received \
                  invalid webhook response: ";
    let (_, _, message) = refusal(create(&client, "m").await);
    assert_eq!(message, format!("{called}webhook response was absent"));
    let (_, _, message) = refusal(create(&client, "other").await);
    let uid = hook.requests()[1]["uid"].clone();
    assert_eq!(message, format!("{called}expected response.uid={uid}, got \"other\""));
}

#[tokio::test]
async fn old_reviews_are_spoken_too() {
    let client = server().await.client();
    let hook = Hook::new(|_| allow()).await;
    let versions = json!({ "admissionReviewVersions": ["v0", "v1beta1", "v1"] });
    validating(&client, "v", json!([entry(&hook, versions)])).await;
    create(&client, "m").await.unwrap();
    assert_eq!(hook.asked.lock()[0]["apiVersion"], "admission.k8s.io/v1beta1");
}

#[tokio::test]
async fn selectors_say_which_objects_are_meant() {
    let client = server().await.client();
    let hook = Hook::new(|_| deny("no")).await;
    let selectors = json!({
        "namespaceSelector": { "matchLabels": { "watched": "yes" } },
        "objectSelector": { "matchExpressions": [{ "key": "free", "operator": "DoesNotExist" }] },
    });
    validating(&client, "v", json!([entry(&hook, selectors)])).await;
    create(&client, "elsewhere").await.unwrap();

    let namespaces: Api<Namespace> = Api::all(client.clone());
    let watched = of(json!({ "metadata": { "name": "w", "labels": { "watched": "yes" } } }));
    namespaces.create(&PostParams::default(), &watched).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client, "w");
    denied(maps.create(&PostParams::default(), &config_map("m", "1")).await, "no");
    let mut free = config_map("free", "1");
    free.metadata.labels = Some([("free".to_owned(), String::new())].into());
    maps.create(&PostParams::default(), &free).await.unwrap();
    // An object that loses the label is still one that had it, and one that gets it had none.
    let bound = Patch::Merge(json!({ "metadata": { "labels": { "free": null } } }));
    denied(maps.patch("free", &PatchParams::default(), &bound).await, "no");
}

#[tokio::test]
async fn rules_reach_other_versions_of_what_they_name() {
    let client = server().await.client();
    let hook = Hook::new(|_| allow()).await;
    let rules = json!([{
        "operations": ["CREATE"],
        "apiGroups": ["policy"],
        "apiVersions": ["v1"],
        "resources": ["poddisruptionbudgets"],
    }]);
    let exact = json!({ "rules": rules, "matchPolicy": "Exact", "name": "exact.example.com" });
    let never = Hook::new(|_| deny("never asked")).await;
    let equivalent = json!({ "rules": rules });
    validating(&client, "v", json!([entry(&never, exact), entry(&hook, equivalent)])).await;

    let budget = json!({
        "apiVersion": "policy/v1beta1",
        "kind": "PodDisruptionBudget",
        "metadata": { "name": "b" },
        "spec": { "minAvailable": 1, "selector": { "matchLabels": { "a": "b" } } },
    });
    let path = "/apis/policy/v1beta1/namespaces/default/poddisruptionbudgets";
    let request = Request::post(path).header("content-type", "application/json");
    let request = request.body(serde_json::to_vec(&budget).unwrap()).unwrap();
    client.request::<Value>(request).await.unwrap();

    let asked = hook.requests();
    assert_eq!(asked[0]["kind"]["version"], "v1");
    assert_eq!(asked[0]["object"]["apiVersion"], "policy/v1");
    assert_eq!(asked[0]["requestKind"]["version"], "v1beta1");
    assert_eq!(asked[0]["requestResource"]["version"], "v1beta1");
}

#[tokio::test]
async fn subresources_are_named_by_rules() {
    let client = server().await.client();
    let hook = Hook::new(|request| match request["object"]["spec"]["replicas"].as_i64() {
        Some(replicas) if replicas > 3 => deny("too many"),
        _ => patch(json!([{ "op": "replace", "path": "/spec/replicas", "value": 2 }])),
    })
    .await;
    let rules = json!([{
        "operations": ["UPDATE"],
        "apiGroups": ["apps"],
        "apiVersions": ["v1"],
        "resources": ["deployments/scale"],
    }]);
    mutating(&client, "m", json!([entry(&hook, json!({ "rules": rules }))])).await;

    let deployments: Api<Deployment> = Api::default_namespaced(client);
    let template = json!({
        "metadata": { "labels": { "a": "b" } },
        "spec": { "containers": [{ "name": "c", "image": "i" }] },
    });
    let deployment = of(json!({
        "metadata": { "name": "d" },
        "spec": { "selector": { "matchLabels": { "a": "b" } }, "template": template },
    }));
    deployments.create(&PostParams::default(), &deployment).await.unwrap();
    let scale = |replicas: i32| {
        let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
        let deployments = deployments.clone();
        async move { deployments.patch_scale("d", &PatchParams::default(), &patch).await }
    };
    assert_eq!(scale(1).await.unwrap().spec.unwrap().replicas, Some(2));
    denied(scale(4).await, "too many");
    let asked = hook.requests();
    assert_eq!(
        asked[0]["kind"],
        json!({ "group": "autoscaling", "version": "v1", "kind": "Scale" })
    );
    assert_eq!(asked[0]["subResource"], "scale");
    assert_eq!(asked[0]["resource"]["resource"], "deployments");
}

/// Conformance: Admission webhook, deny attach
#[tokio::test]
async fn connections_and_evictions_are_asked_about() {
    let client = server().await.client();
    let hook = Hook::new(|_| deny("no way in")).await;
    let rules = json!([{
        "operations": ["CONNECT", "CREATE"],
        "apiGroups": ["*"],
        "apiVersions": ["*"],
        "resources": ["pods/*"],
    }]);
    validating(&client, "v", json!([entry(&hook, json!({ "rules": rules }))])).await;

    let body = json!({ "metadata": { "name": "p" } }).to_string().into_bytes();
    let path = "/api/v1/namespaces/default/pods/p";
    for (method, path, body) in [
        ("GET", format!("{path}/exec?command=sh&stdin=true"), Vec::new()),
        ("POST", format!("{path}/eviction"), body),
    ] {
        let request = Request::builder().method(method).uri(path);
        denied(client.request::<Value>(request.body(body).unwrap()).await, "no way in");
    }
    let asked = hook.requests();
    assert_eq!(
        (&asked[0]["operation"], &asked[0]["kind"]["kind"]),
        (&json!("CONNECT"), &json!("PodExecOptions"))
    );
    assert_eq!(asked[0]["object"]["command"], json!(["sh"]));
    assert_eq!(
        (&asked[1]["operation"], &asked[1]["kind"]["kind"]),
        (&json!("CREATE"), &json!("Eviction"))
    );
}

#[tokio::test]
async fn what_is_not_kept_is_asked_about_too() {
    let client = server().await.client();
    let post = async |path: &str, body: Value| {
        let request = Request::post(path).header("content-type", "application/json");
        let request = request.body(body.to_string().into_bytes()).unwrap();
        client.request::<Value>(request).await
    };
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    post(accounts, json!({ "metadata": { "name": "a" } })).await.unwrap();
    let hook = Hook::new(|_| deny("nobody asks")).await;
    let rules = json!([{
        "operations": ["CREATE"], "apiVersions": ["*"],
        "apiGroups": ["", "authentication.k8s.io", "authorization.k8s.io"],
        "resources": ["*/*"],
    }]);
    validating(&client, "v", json!([entry(&hook, json!({ "rules": rules }))])).await;

    let attributes = json!({ "verb": "get", "resource": "pods", "namespace": "default" });
    let access = json!({ "spec": { "user": "ann", "resourceAttributes": attributes } });
    let own = json!({ "spec": { "resourceAttributes": attributes } });
    let rules = json!({ "spec": { "namespace": "default" } });
    let target = json!({ "kind": "Node", "name": "n" });
    let binding = json!({ "metadata": { "name": "p" }, "target": target });
    let (authn, authz) = ("/apis/authentication.k8s.io/v1", "/apis/authorization.k8s.io/v1");
    let cases = [
        (format!("{authn}/tokenreviews"), json!({ "spec": { "token": "t" } }), "TokenReview"),
        (format!("{authn}/selfsubjectreviews"), json!({}), "SelfSubjectReview"),
        (format!("{authz}/subjectaccessreviews"), access.clone(), "SubjectAccessReview"),
        (format!("{authz}/selfsubjectaccessreviews"), own, "SelfSubjectAccessReview"),
        (format!("{authz}/selfsubjectrulesreviews"), rules, "SelfSubjectRulesReview"),
        (
            format!("{authz}/namespaces/default/localsubjectaccessreviews"),
            access,
            "LocalSubjectAccessReview",
        ),
        (format!("{accounts}/a/token"), json!({ "spec": { "audiences": [] } }), "TokenRequest"),
        ("/api/v1/namespaces/default/bindings".to_owned(), binding.clone(), "Binding"),
        ("/api/v1/namespaces/default/pods/p/binding".to_owned(), binding, "Binding"),
    ];
    for (path, body, kind) in cases {
        denied(post(&path, body).await, "nobody asks");
        let asked = hook.requests().pop().unwrap();
        assert_eq!((&asked["operation"], &asked["kind"]["kind"]), (&json!("CREATE"), &json!(kind)));
        assert_eq!(asked["object"]["kind"], kind);
    }
}

#[tokio::test]
async fn a_webhook_can_change_what_is_asked() {
    let client = server().await.client();
    let group = json!([{ "op": "add", "path": "/spec/groups", "value": ["system:masters"] }]);
    let hook = Hook::new(move |_| patch(group.clone())).await;
    let rules = json!([{
        "operations": ["CREATE"], "apiGroups": ["authorization.k8s.io"], "apiVersions": ["v1"],
        "resources": ["subjectaccessreviews"],
    }]);
    let attributes = json!({ "verb": "get", "resource": "pods", "namespace": "default" });
    let review = json!({ "spec": { "user": "ann", "resourceAttributes": attributes } });
    let allowed = async || {
        let request = Request::post("/apis/authorization.k8s.io/v1/subjectaccessreviews")
            .header("content-type", "application/json");
        let request = request.body(review.to_string().into_bytes()).unwrap();
        let answer: Value = client.request(request).await.unwrap();
        answer["status"]["allowed"].as_bool().unwrap()
    };
    assert!(!allowed().await);
    mutating(&client, "m", json!([entry(&hook, json!({ "rules": rules }))])).await;
    assert!(allowed().await);
}

/// Conformance: Admission webhook, deny custom resource create and delete
#[tokio::test]
async fn each_object_of_a_collection_is_asked_about() {
    let client = server().await.client();
    create(&client, "a").await.unwrap();
    create(&client, "b").await.unwrap();
    let hook = Hook::new(|request| match request["name"].as_str() {
        Some("b") => deny("b stays"),
        _ => allow(),
    })
    .await;
    let rules = json!([{
        "operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
    }]);
    validating(&client, "v", json!([entry(&hook, json!({ "rules": rules }))])).await;
    let deleted =
        maps(&client).delete_collection(&DeleteParams::default(), &ListParams::default()).await;
    denied(deleted.map(|_| ()), "b stays");
    assert!(maps(&client).get_opt("a").await.unwrap().is_none());
    assert!(maps(&client).get_opt("b").await.unwrap().is_some());
}

#[tokio::test]
async fn a_dry_run_has_no_side_effects() {
    let client = server().await.client();
    let hook = Hook::new(|_| allow()).await;
    validating(&client, "v", json!([entry(&hook, json!({ "sideEffects": "NoneOnDryRun" }))])).await;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    maps(&client).create(&dry, &config_map("m", "1")).await.unwrap();
    let asked = hook.requests();
    assert_eq!(asked[0]["dryRun"], true);
    assert_eq!(asked[0]["options"]["dryRun"], json!(["All"]));
}

/// Conformance: Admission webhook, admission control not allowed on webhook configuration objects
#[tokio::test]
async fn no_webhook_is_asked_about_webhooks() {
    let client = server().await.client();
    let hook = Hook::new(|_| deny("everything")).await;
    let rules = json!([{
        "operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"],
    }]);
    let all = json!({ "rules": rules });
    validating(&client, "v", json!([entry(&hook, all.clone())])).await;
    mutating(&client, "m", json!([entry(&hook, all)])).await;
    denied(create(&client, "m").await, "everything");
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    api.delete("v", &DeleteParams::default()).await.unwrap();
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    api.delete("m", &DeleteParams::default()).await.unwrap();
    create(&client, "m").await.unwrap();
}

#[tokio::test]
async fn a_validating_webhook_changes_nothing() {
    let client = server().await.client();
    let hook = Hook::new(|_| patch(json!([{ "op": "remove", "path": "/data" }]))).await;
    validating(&client, "v", json!([entry(&hook, json!({}))])).await;
    let (_, _, message) = refusal(create(&client, "m").await);
    assert!(message.ends_with("validating webhook may not return response.patch"), "{message}");
}

#[tokio::test]
async fn a_webhook_can_warn() {
    let client = server().await.client();
    let hook = Hook::new(|_| json!({ "allowed": true, "warnings": ["careful", "look out"] })).await;
    validating(&client, "v", json!([entry(&hook, json!({}))])).await;
    let map = serde_json::to_vec(&config_map("m", "1")).unwrap();
    let request = Request::post("/api/v1/namespaces/default/configmaps")
        .header("content-type", "application/json")
        .body(kube::client::Body::from(map))
        .unwrap();
    let answer = client.send(request).await.unwrap();
    let warnings: Vec<_> = answer.headers().get_all("warning").iter().collect();
    assert_eq!(warnings, ["299 - \"careful\"", "299 - \"look out\""]);
}

#[tokio::test]
async fn a_patch_that_does_not_fit_is_an_error() {
    let client = server().await.client();
    let hook = Hook::new(|_| patch(json!([{ "op": "remove", "path": "/data/none" }]))).await;
    mutating(&client, "m", json!([entry(&hook, json!({}))])).await;
    let (code, reason, _) = refusal(create(&client, "m").await);
    assert_eq!((code, reason.as_str()), (500, "InternalError"));
    let deleted: Result<_, _> = maps(&client).delete("m", &DeleteParams::default()).await;
    assert_eq!(refusal(deleted.map(|_| Status::default())).0, 404);
}

#[tokio::test]
async fn what_webhooks_did_is_counted() {
    let server = server().await;
    let client = server.client();
    let hook = Hook::new(|_| deny("no")).await;
    validating(&client, "v", json!([entry(&hook, json!({}))])).await;
    denied(create(&client, "m").await, "no");
    let metrics = client.request_text(Request::get("/metrics").body(Vec::new()).unwrap()).await;
    let metrics = metrics.unwrap();
    for line in [
        "apiserver_admission_webhook_rejection_count{name=\"hook.example.com\",\
         type=\"validating\",operation=\"CREATE\",error_type=\"no_error\",rejection_code=\"400\"} 1",
        "apiserver_admission_webhook_request_total{name=\"hook.example.com\",type=\"validating\",\
         operation=\"CREATE\",code=\"400\",rejected=\"true\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}
