//! Discovery, versions, and what is not there to be had.

use http::Request;
use rk::kube::Discovery;
use serde_json::{Value, json};

use crate::cluster::TestCluster;

/// Groups, versions, and a resource of each that must be there.
const EXPECTED: &[(&str, &str, &str)] = &[
    ("", "v1", "namespaces"),
    ("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "v1", "apiservices"),
    ("apps", "v1", "deployments"),
    ("authentication.k8s.io", "v1", "tokenreviews"),
    ("authorization.k8s.io", "v1", "selfsubjectaccessreviews"),
    ("autoscaling", "v1", "horizontalpodautoscalers"),
    ("autoscaling", "v2", "horizontalpodautoscalers"),
    ("batch", "v1", "jobs"),
    ("certificates.k8s.io", "v1", "certificatesigningrequests"),
    ("coordination.k8s.io", "v1", "leases"),
    ("discovery.k8s.io", "v1", "endpointslices"),
    ("events.k8s.io", "v1", "events"),
    ("networking.k8s.io", "v1", "ingresses"),
    ("node.k8s.io", "v1", "runtimeclasses"),
    ("policy", "v1", "poddisruptionbudgets"),
    ("scheduling.k8s.io", "v1", "priorityclasses"),
    ("storage.k8s.io", "v1", "csinodes"),
];

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn has(values: &[Value], key: &str, wanted: &str) -> bool {
    values.iter().any(|value| value[key] == wanted)
}

// Conformance: Discovery, confirm the PreferredVersion for each api group
#[tokio::test]
async fn each_group_has_the_version_that_it_prefers() {
    let t = TestCluster::start().await;
    let groups = t.get("/apis").await;
    assert!(!list(&groups, "groups").is_empty());
    for group in list(&groups, "groups") {
        let name = group["name"].as_str().expect("a name");
        let alone = t.get(&format!("/apis/{name}")).await;
        assert_eq!(alone["preferredVersion"], group["preferredVersion"], "{name}");
        assert_eq!(alone["versions"], group["versions"], "{name}");
        let preferred = &group["preferredVersion"];
        assert!(list(group, "versions").contains(preferred), "{name}");
        let version = preferred["version"].as_str().expect("a version");
        assert_eq!(preferred["groupVersion"], json!(format!("{name}/{version}")));
        t.get(&format!("/apis/{name}/{version}")).await;
    }
}

// Conformance: Discovery, confirm the groupVersion and a resource from each apiGroup
#[tokio::test]
async fn each_group_has_its_resources() {
    let t = TestCluster::start().await;
    let groups = t.get("/apis").await;
    for (group, version, resource) in EXPECTED {
        let path = match *group {
            "" => {
                let versions = t.get("/api").await;
                assert!(list(&versions, "versions").contains(&json!(version)));
                format!("/api/{version}")
            }
            group => {
                assert!(has(list(&groups, "groups"), "name", group), "{group}");
                format!("/apis/{group}/{version}")
            }
        };
        let resources = t.get(&path).await;
        let group_version = path.trim_start_matches("/apis/").trim_start_matches("/api/");
        assert_eq!(resources["groupVersion"], group_version);
        assert!(has(list(&resources, "resources"), "name", resource), "{path}: {resource}");
    }
}

// Conformance: Aggregated Discovery Endpoint Accept Headers
#[tokio::test]
async fn discovery_comes_in_one_document() {
    let t = TestCluster::start().await;
    let read = async |path: &str| {
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let (code, body) =
            t.request(Request::get(path).header("accept", accept), Value::Null).await;
        assert_eq!((code, &body["kind"]), (200, &json!("APIGroupDiscoveryList")));
        assert_eq!(body["apiVersion"], "apidiscovery.k8s.io/v2");
        body
    };
    let (core, groups) = (read("/api").await, read("/apis").await);
    for (group, version, resource) in EXPECTED {
        let document = if group.is_empty() { &core } else { &groups };
        let found = list(document, "items").iter().find(|item| match *group {
            "" => item["metadata"].get("name").is_none_or(|name| name == ""),
            group => item["metadata"]["name"] == group,
        });
        let found = found.unwrap_or_else(|| panic!("{group} is not there"));
        let versions = list(found, "versions");
        let served = versions.iter().find(|served| served["version"] == *version);
        let served = served.unwrap_or_else(|| panic!("{group}/{version} is not there"));
        assert!(has(list(served, "resources"), "resource", resource), "{group}: {resource}");
    }
}

// Conformance: Aggregated Discovery Interface
#[tokio::test]
async fn a_client_finds_all_kinds_by_aggregated_discovery() {
    let t = TestCluster::start().await;
    let found = Discovery::new(t.client()).run_aggregated().await.expect("discovered");
    for (group, version, resource) in EXPECTED {
        let found = found.get(group).unwrap_or_else(|| panic!("{group} is not there"));
        assert!(found.versions().any(|served| served == *version), "{group}/{version}");
        let resources = found.versioned_resources(version);
        assert!(resources.iter().any(|(found, _)| found.plural == *resource), "{resource}");
    }
}

// Conformance: API metadata HTTP return
#[tokio::test]
async fn what_has_no_metadata_is_no_table() {
    let t = TestCluster::start().await;
    let request = Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .header("content-type", "application/json");
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"namespace": t.namespace, "verb": "get", "resource": "pods"}},
    });
    let (code, body) = t.request(request, review).await;
    assert_eq!(code, 406, "{body}");
}

// Conformance: Confirm a server version
#[tokio::test]
async fn the_server_has_a_version() {
    let t = TestCluster::start().await;
    let version = t.client().apiserver_version().await.expect("a version");
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    assert!(is_number(&version.major), "{version:?}");
    assert!(is_number(version.minor.trim_end_matches('+')), "{version:?}");
}
