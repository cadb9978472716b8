//! What typed objects do not have is refused where that is asked for.

use http::Request;
use serde_json::Value;

use crate::cluster::TestCluster;

async fn refused(t: &TestCluster, body: &str) -> String {
    let path = format!(
        "/apis/apps/v1/namespaces/{}/deployments?fieldManager=field_validation_mgr&fieldValidation=Strict",
        t.namespace
    );
    let request = Request::post(path).header("content-type", "application/json");
    // As text: what says a thing twice is no value.
    let request = request.body(body.as_bytes().to_vec().into()).expect("a request");
    let response = t.client().send(request).await.expect("an answer");
    assert_eq!(response.status(), 400);
    let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("a body");
    let status: Value = serde_json::from_slice(&body.to_bytes()).expect("a status");
    status["message"].as_str().expect("a message").to_owned()
}

/// A deployment with something more in its metadata and its spec.
fn deployment(metadata: &str, spec: &str) -> String {
    format!(
        r#"{{
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {{"name": "my-dep", {metadata} "labels": {{"app": "nginx"}}}},
            "spec": {{
                {spec}
                "selector": {{"matchLabels": {{"app": "nginx"}}}},
                "template": {{
                    "metadata": {{"labels": {{"app": "nginx"}}}},
                    "spec": {{"containers": [{{"name": "nginx", "image": "nginx:latest"}}]}}
                }}
            }}
        }}"#
    )
}

// Conformance: Server side field validation, typed object
#[tokio::test]
async fn unknown_and_duplicate_fields_are_told() {
    let t = TestCluster::start().await;
    let body = deployment("", r#""unknownField": "foo", "replicas": 2, "replicas": 3,"#);
    let message = refused(&t, &body).await;
    let why = r#"strict decoding error: unknown field "spec.unknownField", duplicate field "spec.replicas""#;
    assert!(message.contains(why), "{message}");
}

// Conformance: Server side field validation, typed unknown metadata
#[tokio::test]
async fn unknown_fields_of_the_metadata_are_told() {
    let t = TestCluster::start().await;
    let message = refused(&t, &deployment(r#""unknownMeta": "foo","#, "")).await;
    assert!(
        message.contains(r#"strict decoding error: unknown field "metadata.unknownMeta""#),
        "{message}"
    );
}
