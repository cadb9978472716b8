//! Requests for certificates, and reviews of who may do what.

use std::pin::pin;

use futures::TryStreamExt;
use http::Request;
use rk::{
    api::server::UserInfo,
    k8s_openapi::api::{
        authorization::v1::{LocalSubjectAccessReview, SubjectAccessReview},
        certificates::v1::CertificateSigningRequest,
        core::v1::{ConfigMap, ServiceAccount},
    },
    kube::{
        Api, ResourceExt,
        api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    },
};
use serde_json::{Value, json};

use crate::cluster::{TestCluster, from_json};

/// A request, as `openssl req -new -newkey ec` makes it.
const REQUEST: &str = include_str!("request.pem");
/// Some certificate: nobody checks here that it answers the request.
const CERTIFICATE: &[u8] = include_bytes!("certificate.pem");
const SIGNER: &str = "example.com/e2e-test";

fn signing_request(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"e2e": "csr"}},
        "spec": {
            "request": base64(REQUEST.as_bytes()), "signerName": SIGNER, "expirationSeconds": 3600,
            "usages": ["digital signature", "key encipherment", "server auth"],
        },
    })
}

fn base64(bytes: &[u8]) -> Value {
    json!(rk::k8s_openapi::ByteString(bytes.to_vec()))
}

async fn next(
    stream: &mut (
             impl futures::Stream<Item = rk::kube::Result<WatchEvent<CertificateSigningRequest>>> + Unpin
         ),
) -> (&'static str, CertificateSigningRequest) {
    let event = tokio::time::timeout(std::time::Duration::from_secs(30), stream.try_next()).await;
    match event.expect("in time").expect("watched").expect("an event") {
        WatchEvent::Added(request) => ("ADDED", request),
        WatchEvent::Modified(request) => ("MODIFIED", request),
        WatchEvent::Deleted(request) => ("DELETED", request),
        other => panic!("{other:?}"),
    }
}

async fn group_is_discovered(t: &TestCluster) {
    let group = t.get("/apis/certificates.k8s.io").await;
    assert!(group["versions"].as_array().expect("versions").iter().any(|v| v["version"] == "v1"));
    let resources = t.get("/apis/certificates.k8s.io/v1").await;
    let resources = resources["resources"].as_array().expect("resources").clone();
    for name in ["", "/approval", "/status"] {
        let name = format!("certificatesigningrequests{name}");
        assert!(resources.iter().any(|resource| resource["name"] == name), "{name}");
    }
}

// Conformance: CertificateSigningRequest API
#[tokio::test]
async fn requests_for_certificates_are_made_approved_signed_and_deleted() {
    let t = TestCluster::start().await;
    group_is_discovered(&t).await;
    let api: Api<CertificateSigningRequest> = Api::all(t.client());
    let params = PatchParams::default();
    let list = ListParams::default().labels("e2e=csr");
    let version = api.list(&list).await.expect("listed").metadata.resource_version;
    let watching = WatchParams { bookmarks: false, ..WatchParams::default().labels("e2e=csr") };
    let mut events =
        pin!(api.watch(&watching, &version.expect("a version")).await.expect("watched"));

    for name in ["a", "b", "c"] {
        let request = from_json(signing_request(name));
        api.create(&PostParams::default(), &request).await.expect("created");
    }
    let read = api.get("a").await.expect("read");
    assert_eq!(read.spec.expiration_seconds, Some(3600));
    assert_eq!(api.list(&list).await.expect("listed").items.len(), 3);
    for name in ["a", "b", "c"] {
        let (type_, request) = next(&mut events).await;
        assert_eq!((type_, request.name_any().as_str()), ("ADDED", name));
    }

    let merge = |patch| Patch::Merge(patch);
    let patch = merge(json!({"metadata": {"annotations": {"patched": "true"}}}));
    api.patch("a", &params, &patch).await.expect("patched");
    let mut updated = api.get("a").await.expect("read");
    updated.annotations_mut().insert("updated".into(), "true".into());
    let updated = api.replace("a", &PostParams::default(), &updated).await.expect("updated");
    assert_eq!(updated.annotations().len(), 2);
    for (annotations, version) in [(1, None), (2, updated.resource_version())] {
        let (type_, request) = next(&mut events).await;
        assert_eq!((type_, request.annotations().len()), ("MODIFIED", annotations));
        assert!(version.is_none_or(|version| request.resource_version() == Some(version)));
    }

    // Approval is a subresource of its own, and so is the status.
    let approval: CertificateSigningRequest =
        api.get_subresource("approval", "a").await.expect("read");
    assert_eq!(approval.name_any(), "a");
    let condition = |type_: &str| json!([{"type": type_, "status": "True", "reason": "E2E", "message": "Set from an e2e test"}]);
    let patch = merge(json!({
        "metadata": {"annotations": {"patchedapproval": "true"}},
        "status": {"conditions": condition("ApprovalPatch")},
    }));
    let patched = api.patch_subresource("approval", "a", &params, &patch).await.expect("patched");
    assert_eq!(types(&patched), ["ApprovalPatch"]);
    let mut approved = patched;
    let conditions = approved.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.extend(from_json::<Vec<_>>(condition("Approved")));
    let approved: CertificateSigningRequest = api
        .replace_subresource("approval", "a", &PostParams::default(), &approved)
        .await
        .expect("approved");
    assert_eq!(types(&approved), ["ApprovalPatch", "Approved"]);

    assert_eq!(api.get_status("a").await.expect("read").name_any(), "a");
    let certificate = rk::k8s_openapi::ByteString(CERTIFICATE.to_vec());
    let patch = merge(json!({"status": {"certificate": certificate}}));
    let signed = api.patch_status("a", &params, &patch).await.expect("signed");
    assert!(signed.status.as_ref().is_some_and(|status| status.certificate.is_some()));
    let mut signed = signed;
    let conditions = signed.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.extend(from_json::<Vec<_>>(condition("StatusUpdate")));
    let signed = api.replace_status("a", &PostParams::default(), &signed).await.expect("updated");
    assert_eq!(types(&signed), ["ApprovalPatch", "Approved", "StatusUpdate"]);

    api.delete("a", &DeleteParams::default()).await.expect("deleted");
    assert!(api.get_opt("a").await.expect("asked").is_none());
    assert_eq!(api.list(&list).await.expect("listed").items.len(), 2);
    api.delete_collection(&DeleteParams::default(), &list).await.expect("deleted");
    assert!(api.list(&list).await.expect("listed").items.is_empty());
}

fn types(request: &CertificateSigningRequest) -> Vec<String> {
    let conditions = request.status.clone().and_then(|status| status.conditions);
    conditions.unwrap_or_default().into_iter().map(|condition| condition.type_).collect()
}

// Conformance: SubjectReview, API Operations
#[tokio::test]
async fn reviews_say_what_a_service_account_may_do() {
    let t = TestCluster::start().await;
    let account = t.create::<ServiceAccount>(json!({"metadata": {"name": "reviewed"}})).await;
    let user = format!("system:serviceaccount:{}:{}", t.namespace, account.name_any());
    let resource = json!({"verb": "list", "resource": "configmaps", "namespace": t.namespace, "version": "v1"});
    let spec = json!({"user": user, "resourceAttributes": resource});
    let agrees = async || {
        let itself = t.cluster.server().client_as(UserInfo::new(&user, []));
        let maps: Api<ConfigMap> = Api::namespaced(itself, &t.namespace);
        let can = match maps.list(&ListParams::default()).await {
            Ok(_) => true,
            Err(rk::kube::Error::Api(status)) if status.code == 403 => false,
            Err(other) => panic!("{other}"),
        };
        let review: SubjectAccessReview = from_json(json!({"spec": spec}));
        let everywhere: Api<SubjectAccessReview> = Api::all(t.client());
        let review = everywhere.create(&PostParams::default(), &review).await.expect("reviewed");
        assert_eq!(review.status.expect("a status").allowed, can);
        let metadata = json!({"namespace": t.namespace});
        let review: LocalSubjectAccessReview =
            from_json(json!({"metadata": metadata, "spec": spec}));
        let here: Api<LocalSubjectAccessReview> = t.api();
        let review = here.create(&PostParams::default(), &review).await.expect("reviewed");
        assert_eq!(review.status.expect("a status").allowed, can);
        can
    };
    assert!(!agrees().await);

    let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}", t.namespace);
    let post = |kind: &str| {
        Request::post(format!("{path}/{kind}")).header("content-type", "application/json")
    };
    let role = json!({"metadata": {"name": "r"}, "rules": [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]},
    ]});
    assert_eq!(t.request(post("roles"), role).await.0, 201);
    let binding = json!({
        "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "name": "reviewed", "namespace": t.namespace}],
    });
    assert_eq!(t.request(post("rolebindings"), binding).await.0, 201);
    assert!(agrees().await);
}
