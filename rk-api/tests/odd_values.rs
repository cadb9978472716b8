//! What is let in with a warning, or only because it was there before, and what a status may not say.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::{Answer, get, send};
use http::{Method, Request};
use rk_api::server::ApiServer;
use rk_store::{EmbeddedStore, Expect, Store};
use serde_json::{Value, json};

async fn write(server: &ApiServer, method: Method, path: &str, body: &Value) -> Answer {
    let request = Request::builder().method(method).uri(path);
    let request = request.header("content-type", "application/json");
    send(server, request, body.to_string().into_bytes()).await
}

async fn post(server: &ApiServer, path: &str, body: Value) -> Answer {
    let answer = write(server, Method::POST, path, &body).await;
    assert_eq!(answer.code, 201, "{path}: {}", answer.body);
    answer
}

/// The texts of the warnings.
fn warnings(answer: &Answer) -> Vec<String> {
    let values = answer.headers.get_all("warning").iter();
    let text = |value: &http::HeaderValue| {
        let quoted = value.to_str().unwrap().strip_prefix("299 - \"").unwrap().to_owned();
        quoted.strip_suffix('"').unwrap().replace("\\\"", "\"")
    };
    values.map(text).collect()
}

const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const INGRESSES: &str = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";

fn policy(cidr: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "p", "namespace": "default" },
        "spec": {
            "podSelector": {},
            "egress": [{ "to": [{ "ipBlock": { "cidr": cidr } }] }],
            "policyTypes": ["Egress"],
        },
    })
}

#[tokio::test]
async fn who_writes_an_address_in_an_odd_way_is_warned() {
    let server = common::server_in_memory().await;
    let (odd, block) = ("2001:DB8::1", "2001:DB8::/64");
    let ip = |field: &str| {
        format!(
            "{field}: IPv6 address \"{odd}\" should be in RFC 5952 canonical format \
             (\"2001:db8::1\")"
        )
    };
    let cidr = |field: &str| {
        format!(
            "{field}: IPv6 CIDR value \"{block}\" should be in RFC 5952 canonical format \
             (\"2001:db8::/64\")"
        )
    };
    let answer = post(&server, POLICIES, policy(block)).await;
    assert_eq!(warnings(&answer), [cidr("spec.egress[0].to[0].ipBlock.cidr")]);

    let service = json!({
        "metadata": { "name": "s" },
        "spec": {
            "ports": [{ "port": 80 }], "type": "LoadBalancer", "externalIPs": [odd],
            "loadBalancerSourceRanges": [block],
        },
    });
    let answer = post(&server, SERVICES, service).await;
    let all = [ip("spec.externalIPs[0]"), cidr("spec.loadBalancerSourceRanges[0]")];
    assert_eq!(warnings(&answer), all);

    let node =
        json!({ "metadata": { "name": "n" }, "spec": { "podCIDRs": [block], "podCIDR": block } });
    assert_eq!(warnings(&post(&server, "/api/v1/nodes", node).await), [cidr("spec.podCIDRs[0]")]);

    let mut slice = json!({
        "metadata": { "name": "e" }, "addressType": "IPv6", "endpoints": [{ "addresses": [odd] }],
    });
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let answer = post(&server, slices, slice.clone()).await;
    assert_eq!(warnings(&answer), [ip("endpoints[0].addresses[0]")]);
    slice["metadata"] = json!({
        "name": "copied",
        "labels": { "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io" },
    });
    assert_eq!(warnings(&post(&server, slices, slice).await), [""; 0]);

    let spec = json!({
        "containers": [{ "name": "c", "image": "i" }],
        "hostAliases": [{ "ip": odd, "hostnames": ["h"] }],
        "dnsPolicy": "None", "dnsConfig": { "nameservers": [odd] },
    });
    let labels = json!({ "app": "web" });
    let deployment = json!({
        "metadata": { "name": "d" },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": spec },
        },
    });
    let answer = post(&server, "/apis/apps/v1/namespaces/default/deployments", deployment).await;
    let of_template = |field: &str| ip(&format!("spec.template.spec.{field}"));
    let all = [of_template("dnsConfig.nameservers[0]"), of_template("hostAliases[0].ip")];
    assert_eq!(warnings(&answer), all);
}

#[tokio::test]
async fn an_address_that_is_refused_by_now_may_stay_where_it_is() {
    let store = Arc::new(EmbeddedStore::in_memory());
    let key = "/registry/networkpolicies/default/p";
    let mut old = policy("10.1.2.3/8");
    old["metadata"]["uid"] = json!("0f0f0f0f-0000-4000-8000-000000000000");
    store.put(key, old.to_string().into(), Expect::Absent, None).await.unwrap();
    let server = ApiServer::builder(store).start().await.unwrap();
    let path = format!("{POLICIES}/p");

    let mut found = get(&server, &path).await.body;
    found["metadata"]["labels"] = json!({ "seen": "yes" });
    let kept = write(&server, Method::PUT, &path, &found).await;
    assert_eq!(kept.code, 200, "{}", kept.body);
    let told = "spec.egress[0].to[0].ipBlock.cidr: CIDR value \"10.1.2.3/8\" is ambiguous in this \
                context (should be \"10.0.0.0/8\" or \"10.1.2.3/32\"?)";
    assert_eq!(warnings(&kept), [told]);

    found = kept.body;
    found["spec"] = policy("10.1.2.3/16")["spec"].clone();
    let refused = write(&server, Method::PUT, &path, &found).await;
    assert_eq!(refused.code, 422);
    assert_eq!(
        refused.body["message"],
        "NetworkPolicy.networking.k8s.io \"p\" is invalid: spec.egress[0].to[0].ipBlock.cidr: \
         Invalid value: \"10.1.2.3/16\": must not have bits set beyond the prefix length"
    );
}

/// Writes what a load balancer says of itself; the answer.
async fn balanced(server: &ApiServer, path: &str, points: Value) -> Answer {
    let patch = json!({ "status": { "loadBalancer": { "ingress": points } } });
    let request = Request::patch(format!("{path}/status"));
    let request = request.header("content-type", "application/merge-patch+json");
    send(server, request, patch.to_string().into_bytes()).await
}

#[track_caller]
fn refused(answer: &Answer, why: &str) {
    assert_eq!(answer.code, 422, "{}", answer.body);
    let message = answer.body["message"].as_str().unwrap();
    assert!(message.ends_with(why), "{message}");
}

#[tokio::test]
async fn a_load_balancer_says_where_it_is() {
    let server = common::server_in_memory().await;
    let service = |name: &str, type_: &str| json!({ "metadata": { "name": name }, "spec": { "type": type_, "ports": [{ "port": 80 }] } });
    post(&server, SERVICES, service("inside", "ClusterIP")).await;
    post(&server, SERVICES, service("outside", "LoadBalancer")).await;
    let (inside, outside) = (format!("{SERVICES}/inside"), format!("{SERVICES}/outside"));
    let at = "status.loadBalancer.ingress";

    let wrong = balanced(&server, &inside, json!([{ "ip": "192.0.2.1" }])).await;
    refused(
        &wrong,
        &format!("{at}: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"),
    );
    let wrong = balanced(&server, &outside, json!([{ "ip": "192.0.2.01", "ipMode": "VIP" }])).await;
    refused(&wrong, "[0].ip: Invalid value: \"192.0.2.01\": must not have leading 0s");
    let wrong = balanced(&server, &outside, json!([{ "ip": "192.0.2.1", "ipMode": "Odd" }])).await;
    refused(&wrong, "[0].ipMode: Unsupported value: \"Odd\": supported values: \"Proxy\", \"VIP\"");
    let wrong = balanced(&server, &outside, json!([{ "hostname": "h", "ipMode": "VIP" }])).await;
    refused(&wrong, "[0].ipMode: Forbidden: may not be specified when `ip` is not set");

    let told = balanced(&server, &outside, json!([{ "ip": "192.0.2.1" }])).await;
    assert_eq!(told.code, 200, "{}", told.body);
    let points = &told.body["status"]["loadBalancer"]["ingress"];
    assert_eq!(*points, json!([{ "ip": "192.0.2.1", "ipMode": "VIP" }]));

    // Where there is none any more, nobody is told of it.
    let mut found = told.body;
    found["spec"]["type"] = json!("ClusterIP");
    let changed = write(&server, Method::PUT, &outside, &found).await;
    assert_eq!(changed.code, 200, "{}", changed.body);
    assert_eq!(changed.body["status"]["loadBalancer"], json!({}));
}

#[tokio::test]
async fn an_ingress_is_found_at_an_address_or_a_name() {
    let server = common::server_in_memory().await;
    let backend = json!({ "service": { "name": "s", "port": { "number": 80 } } });
    let ingress = json!({ "metadata": { "name": "i" }, "spec": { "defaultBackend": backend } });
    post(&server, INGRESSES, ingress).await;
    let path = format!("{INGRESSES}/i");

    let wrong = balanced(&server, &path, json!([{ "ip": "here" }])).await;
    let what = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
    refused(&wrong, &format!("ingress[0].ip: Invalid value: \"here\": {what}"));
    let wrong = balanced(&server, &path, json!([{ "hostname": "192.0.2.1" }])).await;
    refused(
        &wrong,
        "[0].hostname: Invalid value: \"192.0.2.1\": must be a DNS name, not an IP address",
    );
    let fine = json!([{ "ip": "192.0.2.1" }, { "hostname": "example.com" }]);
    let told = balanced(&server, &path, fine.clone()).await;
    assert_eq!(told.code, 200, "{}", told.body);
    assert_eq!(told.body["status"]["loadBalancer"]["ingress"], fine);
}

#[tokio::test]
async fn a_certificate_that_does_not_belong_to_its_key_is_told_of() {
    let server = common::server_in_memory().await;
    let tls = |name: &str| {
        json!({
            "metadata": { "name": name }, "type": "kubernetes.io/tls",
            "stringData": { "tls.crt": "", "tls.key": "" },
        })
    };
    let answer = post(&server, "/api/v1/namespaces/default/secrets", tls("s")).await;
    let told = "tls: failed to find any PEM data in certificate input";
    assert_eq!(warnings(&answer), [told]);
}
