//! Namespaces: their finalizers, their status, and what goes with them.

use rk::{
    k8s_openapi::api::core::v1::{Namespace, Pod, Service},
    kube::{
        Api, ResourceExt,
        api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    },
};
use serde_json::json;

use crate::cluster::{TestCluster, from_json, until};

fn namespaces(t: &TestCluster) -> Api<Namespace> {
    Api::all(t.client())
}

fn finalizers(namespace: &Namespace) -> Vec<String> {
    namespace.spec.clone().and_then(|spec| spec.finalizers).unwrap_or_default()
}

// Conformance: Namespace, apply finalizer to a namespace
#[tokio::test(start_paused = true)]
async fn a_finalizer_of_a_namespace_comes_and_goes() {
    const FAKE: &str = "e2e.example.com/fakeFinalizer";
    let t = TestCluster::start().await;
    let api = namespaces(&t);
    let mut namespace = t.make_namespace("finalized").await;
    assert_eq!(finalizers(&namespace), ["kubernetes"]);

    let finalize = async |namespace: &Namespace| -> Namespace {
        let params = PostParams::default();
        let answer = api.replace_subresource("finalize", "finalized", &params, namespace).await;
        answer.expect("finalized")
    };
    let list = namespace.spec.get_or_insert_default().finalizers.get_or_insert_default();
    list.push(FAKE.to_owned());
    let mut changed = finalize(&namespace).await;
    assert_eq!(finalizers(&changed), ["kubernetes", FAKE]);

    let list = changed.spec.get_or_insert_default().finalizers.get_or_insert_default();
    list.retain(|finalizer| finalizer != FAKE);
    assert_eq!(finalizers(&finalize(&changed).await), ["kubernetes"]);
    assert_eq!(finalizers(&api.get("finalized").await.expect("read")), ["kubernetes"]);
}

// Conformance: Namespace, apply update to a namespace
#[tokio::test(start_paused = true)]
async fn a_namespace_is_updated() {
    let t = TestCluster::start().await;
    let api = namespaces(&t);
    let mut namespace = api.get(&t.namespace).await.expect("read");
    namespace.labels_mut().insert("updated".into(), "yes".into());
    let updated = api.replace(&t.namespace, &PostParams::default(), &namespace).await;
    assert_eq!(updated.expect("updated").labels()["updated"], "yes");
    assert_eq!(api.get(&t.namespace).await.expect("read").labels()["updated"], "yes");
}

// Conformance: Namespace patching
#[tokio::test(start_paused = true)]
async fn a_namespace_is_patched() {
    let t = TestCluster::start().await;
    let api = namespaces(&t);
    t.make_namespace("patched").await;
    let patch = Patch::Strategic(json!({"metadata": {"labels": {"testLabel": "testValue"}}}));
    api.patch("patched", &PatchParams::default(), &patch).await.expect("patched");
    assert_eq!(api.get("patched").await.expect("read").labels()["testLabel"], "testValue");
}

// Conformance: Namespace, apply changes to a namespace status
#[tokio::test(start_paused = true)]
async fn the_status_of_a_namespace_is_patched_and_updated() {
    let t = TestCluster::start().await;
    let api = namespaces(&t);
    let types = |namespace: &Namespace| -> Vec<String> {
        let conditions = namespace.status.clone().and_then(|status| status.conditions);
        conditions.unwrap_or_default().into_iter().map(|condition| condition.type_).collect()
    };
    let read = api.get_status(&t.namespace).await.expect("read");
    assert_eq!(read.status.and_then(|status| status.phase).as_deref(), Some("Active"));

    let condition = |type_: &str| {
        json!({"type": type_, "status": "True", "reason": "E2E", "message": "Set from the test",
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let patch = Patch::Merge(json!({"status": {"conditions": [condition("StatusPatch")]}}));
    let patched = api.patch_status(&t.namespace, &PatchParams::default(), &patch).await;
    assert_eq!(types(&patched.expect("patched")), ["StatusPatch"]);

    let mut namespace = api.get(&t.namespace).await.expect("read");
    let conditions = namespace.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.push(from_json(condition("StatusUpdate")));
    let updated = api.replace_status(&t.namespace, &PostParams::default(), &namespace).await;
    assert_eq!(types(&updated.expect("updated")), ["StatusPatch", "StatusUpdate"]);
    let status = api.get(&t.namespace).await.expect("read");
    assert_eq!(types(&status), ["StatusPatch", "StatusUpdate"]);
}

async fn delete_and_make_again(t: &TestCluster, name: &str) {
    let api = namespaces(t);
    api.delete(name, &DeleteParams::default()).await.expect("deleted");
    until("no namespace", async || api.get_opt(name).await.expect("asked").is_none().then_some(()))
        .await;
    t.make_namespace(name).await;
}

// Conformance: namespace-deletion-removes-pods
#[tokio::test(start_paused = true)]
async fn the_pods_of_a_namespace_go_with_it() {
    let t = TestCluster::start().await;
    t.make_namespace("goes").await;
    let pods: Api<Pod> = Api::namespaced(t.client(), "goes");
    let pod = from_json(json!({
        "metadata": {"name": "test-pod"},
        "spec": {"containers": [{"name": "nginx", "image": "nginx"}]},
    }));
    pods.create(&PostParams::default(), &pod).await.expect("created");
    until("a running Pod", async || {
        let status = pods.get("test-pod").await.expect("read").status;
        (status.and_then(|status| status.phase).as_deref() == Some("Running")).then_some(())
    })
    .await;
    delete_and_make_again(&t, "goes").await;
    assert!(pods.list(&ListParams::default()).await.expect("listed").items.is_empty());
}

// Conformance: namespace-deletion-removes-services
#[tokio::test(start_paused = true)]
async fn the_services_of_a_namespace_go_with_it() {
    let t = TestCluster::start().await;
    t.make_namespace("goes").await;
    let services: Api<Service> = Api::namespaced(t.client(), "goes");
    let service = from_json(json!({
        "metadata": {"name": "test-service"},
        "spec": {"selector": {"app": "x"}, "ports": [{"port": 80, "targetPort": 80}]},
    }));
    services.create(&PostParams::default(), &service).await.expect("created");
    delete_and_make_again(&t, "goes").await;
    assert!(services.list(&ListParams::default()).await.expect("listed").items.is_empty());
}
