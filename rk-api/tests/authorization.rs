//! Who may do what: RBAC, nodes, reviews, as clients meet them.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use rk_api::server::{ApiServer, UserInfo, authn::TokenList, authz::AlwaysAllow};
use rk_store::EmbeddedStore;
use serde_json::{Value, json};
use tower::ServiceExt;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

async fn server() -> ApiServer {
    let admins = TokenList::default()
        .with("admin", UserInfo::admin())
        .with("ann", UserInfo::new("ann", ["devs"]))
        .with("node-a", UserInfo::node("a"))
        .with("node-b", UserInfo::node("b"));
    let server = ApiServer::builder(Arc::new(EmbeddedStore::in_memory()))
        .authenticator(Arc::new(admins))
        .bootstrap_tokens(true)
        .start()
        .await
        .unwrap();
    server.roles_ready().await;
    server
}

/// Sends a request with a bearer token (empty: none) and returns the code and the answer.
async fn send(
    server: &ApiServer,
    token: &str,
    method: Method,
    path: &str,
    body: &Value,
) -> (u16, Value) {
    let mut request =
        Request::builder().method(method).uri(path).header("content-type", "application/json");
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let Ok(response) = server.clone().oneshot(request.body(Full::new(body)).unwrap()).await;
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

async fn get(server: &ApiServer, token: &str, path: &str) -> (u16, Value) {
    send(server, token, Method::GET, path, &Value::Null).await
}

#[track_caller]
fn made(answer: (u16, Value)) -> Value {
    assert_eq!(answer.0, 201, "{}", answer.1);
    answer.1
}

async fn admin_creates(server: &ApiServer, path: &str, body: Value) -> Value {
    made(send(server, "admin", Method::POST, path, &body).await)
}

fn role(name: &str, rules: Value) -> Value {
    json!({ "metadata": { "name": name }, "rules": rules })
}

fn binding(name: &str, kind: &str, role: &str, subject: Value) -> Value {
    json!({
        "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role },
        "subjects": [subject],
    })
}

fn ann() -> Value {
    json!({ "kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io" })
}

#[tokio::test]
async fn a_binding_counts_at_once_in_its_namespace_and_its_deletion_too() {
    let server = server().await;
    let rules = json!([{ "apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"] }]);
    admin_creates(&server, &format!("{RBAC}/namespaces/default/roles"), role("r", rules)).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    assert_eq!(get(&server, "ann", maps).await.0, 403);

    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    admin_creates(&server, &bindings, binding("b", "Role", "r", ann())).await;
    assert_eq!(get(&server, "ann", maps).await.0, 200);
    assert_eq!(get(&server, "ann", "/api/v1/namespaces/kube-system/configmaps").await.0, 403);

    let one = format!("{bindings}/b");
    assert_eq!(send(&server, "admin", Method::DELETE, &one, &Value::Null).await.0, 200);
    assert_eq!(get(&server, "ann", maps).await.0, 403);
}

#[tokio::test]
async fn s28_a_binding_for_anonymous_lets_everybody_in_while_it_is_there() {
    let server = server().await;
    let (code, answer) = get(&server, "", "/api/v1/namespaces").await;
    assert_eq!(code, 403);
    assert_eq!(
        answer["message"],
        "namespaces is forbidden: User \"system:anonymous\" cannot list resource \"namespaces\" in \
         API group \"\" at the cluster scope"
    );
    let bindings = format!("{RBAC}/clusterrolebindings");
    let anonymous = json!({ "kind": "User", "name": "system:anonymous" });
    let everything = binding("cluster-system-anonymous", "ClusterRole", "cluster-admin", anonymous);
    admin_creates(&server, &bindings, everything).await;
    assert_eq!(get(&server, "", "/api/v1/namespaces").await.0, 200);
    let one = format!("{bindings}/cluster-system-anonymous");
    assert_eq!(send(&server, "admin", Method::DELETE, &one, &Value::Null).await.0, 200);
    assert_eq!(get(&server, "", "/api/v1/namespaces").await.0, 403);
    assert_eq!(get(&server, "wrong", "/api/v1/namespaces").await.0, 401);
}

#[tokio::test]
async fn without_anonymous_access_nobody_gets_in_without_credentials() {
    let store = Arc::new(EmbeddedStore::in_memory());
    let server = ApiServer::builder(store).anonymous(false).start().await.unwrap();
    assert_eq!(get(&server, "", "/version").await.0, 401);
}

#[tokio::test]
async fn another_authorizer_can_take_the_place_of_the_default_ones() {
    let store = Arc::new(EmbeddedStore::in_memory());
    let server = ApiServer::builder(store).authorizer(Arc::new(AlwaysAllow)).start().await.unwrap();
    assert_eq!(get(&server, "", "/api/v1/secrets").await.0, 200);
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_hold() {
    let server = server().await;
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let rules = json!([
        { "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] },
        { "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"],
          "verbs": ["create", "update", "patch"] },
    ]);
    admin_creates(&server, &roles, role("granter", rules)).await;
    admin_creates(&server, &bindings, binding("granter", "Role", "granter", ann())).await;

    let secrets = json!([{ "apiGroups": [""], "resources": ["secrets"], "verbs": ["get"] }]);
    let (code, answer) =
        send(&server, "ann", Method::POST, &roles, &role("more", secrets.clone())).await;
    assert_eq!(code, 403);
    assert_eq!(
        answer["message"],
        "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"ann\" (groups=[\"devs\" \
         \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}"
    );
    let pods = json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] }]);
    made(send(&server, "ann", Method::POST, &roles, &role("less", pods)).await);
    let more = json!({ "rules": secrets });
    let request = Request::patch(format!("{roles}/less"))
        .header("authorization", "Bearer ann")
        .header("content-type", "application/merge-patch+json")
        .body(Full::new(Bytes::from(more.to_string())))
        .unwrap();
    let Ok(patched) = server.clone().oneshot(request).await;
    assert_eq!(patched.status().as_u16(), 403);

    let bob = json!({ "kind": "User", "name": "bob" });
    let admin = binding("x", "ClusterRole", "cluster-admin", bob.clone());
    assert_eq!(send(&server, "ann", Method::POST, &bindings, &admin).await.0, 403);
    let missing = binding("x", "Role", "nosuch", bob.clone());
    let (code, answer) = send(&server, "ann", Method::POST, &bindings, &missing).await;
    assert_eq!(
        (code, answer["message"].as_str().unwrap()),
        (404, "roles.rbac.authorization.k8s.io \"nosuch\" not found")
    );
    made(
        send(&server, "ann", Method::POST, &bindings, &binding("x", "Role", "less", bob.clone()))
            .await,
    );

    // The verbs `bind` and `escalate` lift both.
    let rules = json!([
        { "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"],
          "resourceNames": ["cluster-admin"], "verbs": ["bind"] },
        { "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["escalate"] },
    ]);
    admin_creates(&server, &roles, role("lifted", rules)).await;
    admin_creates(&server, &bindings, binding("lifted", "Role", "lifted", ann())).await;
    let secrets = json!([{ "apiGroups": [""], "resources": ["secrets"], "verbs": ["get"] }]);
    made(send(&server, "ann", Method::POST, &roles, &role("more", secrets)).await);
    let admin = binding("y", "ClusterRole", "cluster-admin", bob);
    made(send(&server, "ann", Method::POST, &bindings, &admin).await);
}

#[tokio::test]
async fn a_role_of_a_missing_name_is_told_to_those_it_was_given_to() {
    let server = server().await;
    let bindings = format!("{RBAC}/clusterrolebindings");
    admin_creates(&server, &bindings, binding("b", "ClusterRole", "nosuch", ann())).await;
    let (_, answer) = get(&server, "ann", "/api/v1/nodes").await;
    assert_eq!(
        answer["message"],
        "nodes is forbidden: User \"ann\" cannot list resource \"nodes\" in API group \"\" at the \
         cluster scope: RBAC: clusterrole.rbac.authorization.k8s.io \"nosuch\" not found"
    );
}

#[tokio::test]
async fn the_default_roles_come_back_complete() {
    let store = Arc::new(EmbeddedStore::in_memory());
    let first = ApiServer::builder(store.clone()).start().await.unwrap();
    first.roles_ready().await;
    let client = first.client();
    let roles: kube::Api<k8s_openapi::api::rbac::v1::ClusterRole> = kube::Api::all(client);
    let mut discovery = roles.get("system:discovery").await.unwrap();
    discovery.rules = None;
    roles.replace("system:discovery", &Default::default(), &discovery).await.unwrap();
    roles.delete("system:node", &Default::default()).await.unwrap();
    let mut kept = roles.get("system:monitoring").await.unwrap();
    kept.rules = None;
    let autoupdate = "rbac.authorization.kubernetes.io/autoupdate".to_owned();
    kept.metadata.annotations.get_or_insert_default().insert(autoupdate, "false".into());
    roles.replace("system:monitoring", &Default::default(), &kept).await.unwrap();

    let second = ApiServer::builder(store).start().await.unwrap();
    second.roles_ready().await;
    let roles: kube::Api<k8s_openapi::api::rbac::v1::ClusterRole> = kube::Api::all(second.client());
    assert!(roles.get("system:discovery").await.unwrap().rules.is_some());
    assert!(roles.get_opt("system:node").await.unwrap().is_some());
    assert!(roles.get("system:monitoring").await.unwrap().rules.is_none());
}

async fn place_pod(server: &ApiServer, name: &str, node: &str, secret: &str) {
    let pod = json!({
        "metadata": { "name": name },
        "spec": {
            "nodeName": node,
            "containers": [{ "name": "c", "image": "i", "envFrom": [{ "configMapRef": { "name": format!("map-{secret}") } }] }],
            "volumes": [{ "name": "v", "secret": { "secretName": secret } }],
        },
    });
    let pods = "/api/v1/namespaces/default/pods";
    admin_creates(server, pods, pod).await;
    // A node hears of its Pods by watching them: by then the cache has them.
    assert_eq!(get(server, "admin", &format!("{pods}/{name}")).await.0, 200);
}

#[tokio::test]
async fn s30_a_node_reads_what_its_pods_refer_to_and_writes_only_its_own() {
    let server = server().await;
    for secret in ["of-a", "of-b"] {
        let secret = json!({ "metadata": { "name": secret } });
        admin_creates(&server, "/api/v1/namespaces/default/secrets", secret).await;
    }
    place_pod(&server, "pa", "a", "of-a").await;
    place_pod(&server, "pb", "b", "of-b").await;

    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(get(&server, "node-a", &format!("{secrets}/of-a")).await.0, 200);
    assert_eq!(
        get(&server, "node-a", &format!("{secrets}?fieldSelector=metadata.name%3Dof-a")).await.0,
        200
    );
    let (code, answer) = get(&server, "node-a", &format!("{secrets}/of-b")).await;
    assert_eq!(code, 403);
    assert_eq!(
        answer["message"],
        "secrets \"of-b\" is forbidden: User \"system:node:a\" cannot get resource \"secrets\" in \
         API group \"\" in the namespace \"default\": no relationship found between node 'a' and \
         this object"
    );
    let maps = "/api/v1/namespaces/default/configmaps";
    assert_eq!(get(&server, "node-a", &format!("{maps}/map-of-a")).await.0, 404);
    assert_eq!(get(&server, "node-a", &format!("{maps}/map-of-b")).await.0, 403);
    assert_eq!(get(&server, "node-a", secrets).await.0, 403);
    assert_eq!(get(&server, "node-a", "/api/v1/pods").await.0, 403);
    assert_eq!(get(&server, "node-a", "/api/v1/pods?fieldSelector=spec.nodeName%3Da").await.0, 200);
    assert_eq!(get(&server, "node-a", "/api/v1/namespaces/default/pods/pb").await.0, 403);

    let node = |name: &str| json!({ "metadata": { "name": name } });
    made(send(&server, "node-a", Method::POST, "/api/v1/nodes", &node("a")).await);
    let (code, answer) = send(&server, "node-a", Method::POST, "/api/v1/nodes", &node("b")).await;
    assert_eq!(code, 403);
    assert_eq!(
        answer["message"],
        "nodes \"b\" is forbidden: node \"a\" is not allowed to modify node \"b\""
    );
    let status = |pod: &str| {
        let path = format!("/api/v1/namespaces/default/pods/{pod}/status");
        Request::patch(path)
            .header("authorization", "Bearer node-a")
            .header("content-type", "application/merge-patch+json")
            .body(Full::new(Bytes::from(json!({ "status": { "phase": "Running" } }).to_string())))
            .unwrap()
    };
    let Ok(own) = server.clone().oneshot(status("pa")).await;
    assert_eq!(own.status().as_u16(), 200);
    let Ok(other) = server.clone().oneshot(status("pb")).await;
    assert_eq!(other.status().as_u16(), 403);

    let gone = send(
        &server,
        "admin",
        Method::DELETE,
        "/api/v1/namespaces/default/pods/pa?gracePeriodSeconds=0",
        &Value::Null,
    );
    assert_eq!(gone.await.0, 200);
    for _ in 0..100 {
        if get(&server, "node-a", &format!("{secrets}/of-a")).await.0 == 403 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the node still reads what its Pod referred to");
}

#[tokio::test]
async fn a_node_asks_for_certificates_of_its_own_pods() {
    let server = server().await;
    place_pod(&server, "pa", "a", "s").await;
    place_pod(&server, "pb", "b", "s").await;
    let key = rcgen::KeyPair::generate().unwrap();
    let stub = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    let stub = k8s_openapi::ByteString(stub.der().to_vec());
    let ask = async |pod: &str, node: &str| {
        let path = format!("/api/v1/namespaces/default/pods/{pod}");
        let (_, pod) = get(&server, "admin", &path).await;
        let request = json!({
            "metadata": { "generateName": "req-" },
            "spec": {
                "signerName": "example.com/pods",
                "podName": pod["metadata"]["name"],
                "podUID": pod["metadata"]["uid"],
                "serviceAccountName": pod["spec"]["serviceAccountName"],
                "serviceAccountUID": "u",
                "nodeName": node,
                "nodeUID": "u",
                "stubPKCS10Request": stub,
            },
        });
        let path = "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests";
        send(&server, "node-a", Method::POST, path, &request).await
    };
    let request = made(ask("pa", "a").await);
    assert_eq!(request["spec"]["maxExpirationSeconds"], 86400);
    assert_eq!(ask("pa", "b").await.0, 403);
    let (code, answer) = ask("pb", "a").await;
    assert_eq!(code, 403);
    let message = answer["message"].as_str().unwrap();
    assert!(message.ends_with("pod \"pb\" is not bound to node \"a\""), "{message}");

    // It reads its own requests, and no others.
    let requests = "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests";
    let name = request["metadata"]["name"].as_str().unwrap();
    assert_eq!(get(&server, "node-a", &format!("{requests}/{name}")).await.0, 200);
    assert_eq!(get(&server, "node-b", &format!("{requests}/{name}")).await.0, 403);
    let own = format!("{requests}?fieldSelector=spec.nodeName%3Da");
    let (code, list) = get(&server, "node-a", &own).await;
    assert_eq!((code, list["items"].as_array().unwrap().len()), (200, 1));
    for path in [requests.to_owned(), format!("{requests}?fieldSelector=spec.nodeName%3Db")] {
        let (code, answer) = get(&server, "node-a", &path).await;
        assert_eq!(code, 403);
        let message = answer["message"].as_str().unwrap();
        let why = "can only list/watch podcertificaterequests with nodeName field selector";
        assert!(message.contains(why), "{message}");
    }
}

#[tokio::test]
async fn a_node_reads_the_accounts_of_its_pods() {
    let server = server().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    place_pod(&server, "pa", "a", "s").await;
    let (_, pod) = get(&server, "admin", "/api/v1/namespaces/default/pods/pa").await;
    let used = pod["spec"]["serviceAccountName"].as_str().unwrap();
    admin_creates(&server, accounts, json!({ "metadata": { "name": "other" } })).await;
    assert_eq!(get(&server, "node-a", &format!("{accounts}/{used}")).await.0, 200);
    assert_eq!(get(&server, "node-a", &format!("{accounts}/other")).await.0, 403);
    assert_eq!(get(&server, "node-a", accounts).await.0, 403);
}

#[tokio::test]
async fn s25_a_bootstrap_token_is_good_while_its_secret_says_so() {
    let server = server().await;
    let token = "abcdef.0123456789abcdef";
    assert_eq!(get(&server, token, "/api").await.0, 401);
    let secret = json!({
        "metadata": { "name": "bootstrap-token-abcdef" },
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": "abcdef",
            "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true",
        },
    });
    admin_creates(&server, "/api/v1/namespaces/kube-system/secrets", secret).await;
    let reviews = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let review = made(send(&server, token, Method::POST, reviews, &json!({})).await);
    assert_eq!(review["status"]["userInfo"]["username"], "system:bootstrap:abcdef");
    assert_eq!(
        review["status"]["userInfo"]["groups"],
        json!(["system:bootstrappers", "system:authenticated"])
    );
    let off = json!({ "stringData": { "usage-bootstrap-authentication": "false" } });
    let request = Request::patch("/api/v1/namespaces/kube-system/secrets/bootstrap-token-abcdef")
        .header("authorization", "Bearer admin")
        .header("content-type", "application/merge-patch+json")
        .body(Full::new(Bytes::from(off.to_string())))
        .unwrap();
    let Ok(patched) = server.clone().oneshot(request).await;
    assert_eq!(patched.status().as_u16(), 200);
    for _ in 0..100 {
        if get(&server, token, "/api").await.0 == 401 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the token is still good");
}

#[tokio::test]
async fn reviews_tell_what_somebody_may_do() {
    let server = server().await;
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let devs = json!({ "kind": "Group", "name": "devs" });
    let rules = json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] }]);
    admin_creates(&server, &format!("{RBAC}/clusterroles"), role("reader", rules.clone())).await;
    admin_creates(&server, &bindings, binding("b", "ClusterRole", "reader", devs)).await;
    let authorization = "/apis/authorization.k8s.io/v1";
    let about = json!({ "namespace": "default", "verb": "get", "resource": "pods" });

    let spec = json!({ "spec": { "resourceAttributes": about } });
    let own = format!("{authorization}/selfsubjectaccessreviews");
    let review = made(send(&server, "ann", Method::POST, &own, &spec).await);
    let reason =
        "RBAC: allowed by RoleBinding \"b/default\" of ClusterRole \"reader\" to Group \"devs\"";
    assert_eq!(review["status"], json!({ "allowed": true, "reason": reason }));

    let others = format!("{authorization}/subjectaccessreviews");
    assert_eq!(send(&server, "ann", Method::POST, &others, &spec).await.0, 403);
    let spec = json!({ "spec": { "user": "bob", "resourceAttributes": about } });
    let review = made(send(&server, "admin", Method::POST, &others, &spec).await);
    assert_eq!(review["status"], json!({ "allowed": false }));
    assert_eq!(send(&server, "admin", Method::POST, &others, &json!({ "spec": {} })).await.0, 422);

    let path =
        json!({ "spec": { "nonResourceAttributes": { "path": "/version", "verb": "get" } } });
    let review = made(send(&server, "ann", Method::POST, &own, &path).await);
    assert_eq!(review["status"]["allowed"], true);

    let local = format!("{authorization}/namespaces/default/localsubjectaccessreviews");
    let elsewhere = json!({ "spec": { "user": "bob", "resourceAttributes": {
        "namespace": "kube-system", "verb": "get", "resource": "pods" } } });
    assert_eq!(send(&server, "admin", Method::POST, &local, &elsewhere).await.0, 422);

    let all = format!("{authorization}/selfsubjectrulesreviews");
    let spec = json!({ "spec": { "namespace": "default" } });
    let review = made(send(&server, "ann", Method::POST, &all, &spec).await);
    assert_eq!(review["status"]["incomplete"], false);
    assert!(review["status"]["resourceRules"].as_array().unwrap().contains(&rules[0]));
    assert_eq!(send(&server, "ann", Method::POST, &all, &json!({ "spec": {} })).await.0, 400);
}

#[tokio::test]
async fn a_token_review_tells_whose_token_it_is() {
    let server = server().await;
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    admin_creates(&server, accounts, json!({ "metadata": { "name": "robot" } })).await;
    let request = json!({ "spec": { "audiences": ["vault"] } });
    let token = admin_creates(&server, &format!("{accounts}/robot/token"), request).await;
    let token = token["status"]["token"].as_str().unwrap();
    let ask = |spec: Value| {
        let server = server.clone();
        async move {
            made(send(&server, "admin", Method::POST, reviews, &json!({ "spec": spec })).await)
        }
    };

    let review = ask(json!({ "token": token, "audiences": ["vault", "other"] })).await;
    assert_eq!(review["status"]["authenticated"], true);
    assert_eq!(review["status"]["audiences"], json!(["vault"]));
    assert_eq!(review["status"]["user"]["username"], "system:serviceaccount:default:robot");
    let review = ask(json!({ "token": token })).await;
    assert_eq!(review["status"]["authenticated"], Value::Null);
    assert_eq!(get(&server, token, "/api").await.0, 401);
    let review = ask(json!({ "token": "ann" })).await;
    assert_eq!(review["status"]["user"]["username"], "ann");
    let review = ask(json!({ "token": "nope" })).await;
    assert_eq!(review["status"]["user"], json!({}));
}

#[tokio::test]
async fn acting_as_others_can_be_limited_to_what_is_done_then() {
    let server = server().await;
    let authentication = "authentication.k8s.io";
    let rules = json!([
        { "apiGroups": [authentication], "resources": ["users"], "verbs": ["impersonate:user-info"], "resourceNames": ["bob"] },
        { "apiGroups": [authentication], "resources": ["nodes"], "verbs": ["impersonate:arbitrary-node"] },
        { "apiGroups": [""], "resources": ["configmaps"], "verbs": ["impersonate-on:user-info:list"] },
        { "apiGroups": [""], "resources": ["nodes"], "verbs": ["impersonate-on:arbitrary-node:get"] },
    ]);
    admin_creates(&server, &format!("{RBAC}/clusterroles"), role("as-bob", rules)).await;
    let bindings = format!("{RBAC}/clusterrolebindings");
    admin_creates(&server, &bindings, binding("as-bob", "ClusterRole", "as-bob", ann())).await;
    let rules =
        json!([{ "apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"] }]);
    admin_creates(&server, &format!("{RBAC}/clusterroles"), role("reads", rules)).await;
    let bob = json!({ "kind": "User", "name": "bob" });
    admin_creates(&server, &bindings, binding("reads", "ClusterRole", "reads", bob)).await;
    let node = json!({ "metadata": { "name": "n1" } });
    admin_creates(&server, "/api/v1/nodes", node).await;

    let act = async |user: &str, path: &str| {
        let request = Request::get(path)
            .header("authorization", "Bearer ann")
            .header("impersonate-user", user);
        let request = request.body(Full::new(Bytes::new())).unwrap();
        let Ok(response) = server.clone().oneshot(request).await;
        let code = response.status().as_u16();
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        (code, body["message"].as_str().unwrap_or_default().to_owned())
    };
    let maps = "/api/v1/namespaces/default/configmaps";
    assert_eq!(act("bob", maps).await.0, 200);
    // Bob may, but not ann as bob.
    assert_eq!(
        act("bob", &format!("{maps}/m")).await,
        (
            403,
            "configmaps \"m\" is forbidden: User \"ann\" cannot impersonate-on:user-info:get \
             resource \"configmaps\" in API group \"\" in the namespace \"default\""
                .to_owned()
        )
    );
    assert_eq!(
        act("eve", maps).await,
        (
            403,
            "users.authentication.k8s.io \"eve\" is forbidden: User \"ann\" cannot \
             impersonate:user-info resource \"users\" in API group \"authentication.k8s.io\" at the \
             cluster scope"
                .to_owned()
        )
    );
    assert_eq!(act("system:node:n1", "/api/v1/nodes/n1").await.0, 200);
    assert_eq!(act("system:node:n1", "/api/v1/nodes").await.0, 403);
}

#[tokio::test]
async fn acting_as_others_takes_the_right_to() {
    let server = server().await;
    let rules = json!([
        { "apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"], "resourceNames": ["bob"] },
        { "apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scopes"], "verbs": ["impersonate"] },
    ]);
    admin_creates(&server, &format!("{RBAC}/clusterroles"), role("as-bob", rules)).await;
    let bindings = format!("{RBAC}/clusterrolebindings");
    admin_creates(&server, &bindings, binding("as-bob", "ClusterRole", "as-bob", ann())).await;
    for (headers, code) in [
        (&[("impersonate-user", "bob")][..], 201),
        (&[("impersonate-user", "bob"), ("impersonate-extra-scopes", "x")][..], 201),
        (&[("impersonate-user", "eve")][..], 403),
        (&[("impersonate-user", "bob"), ("impersonate-group", "system:masters")][..], 403),
        (&[("impersonate-user", "bob"), ("impersonate-uid", "7")][..], 403),
        (&[("impersonate-user", "system:serviceaccount:default:robot")][..], 403),
    ] {
        let mut request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
            .header("authorization", "Bearer ann")
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from_static(b"{}"))).unwrap();
        let Ok(response) = server.clone().oneshot(request).await;
        assert_eq!(response.status().as_u16(), code, "{headers:?}");
    }
}
