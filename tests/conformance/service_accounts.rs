//! Service accounts: their life, their tokens, and what lets others check these.

use std::pin::pin;

use futures::TryStreamExt;
use rk::{
    api::server::UserInfo,
    k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount},
    kube::{
        Api, ResourceExt,
        api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    },
};
use serde_json::{Value, json};

use crate::cluster::{TestCluster, until};

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn mounts_token(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref().expect("a spec");
    let mounts =
        spec.containers.iter().flat_map(|container| container.volume_mounts.iter().flatten());
    mounts.into_iter().any(|mount| mount.mount_path == TOKEN_PATH)
}

// Conformance: Service account tokens auto mount optionally
#[tokio::test(start_paused = true)]
async fn a_token_is_mounted_unless_the_pod_or_else_the_account_declines() {
    let t = TestCluster::start().await;
    let accounts = [("default-mount", None), ("mount", Some(true)), ("nomount", Some(false))];
    for (name, automount) in accounts {
        let account =
            json!({"metadata": {"name": name}, "automountServiceAccountToken": automount});
        t.create::<ServiceAccount>(account).await;
    }
    for (account, by_account) in accounts {
        for by_pod in [None, Some(true), Some(false)] {
            let name = format!("{account}-{by_pod:?}").to_lowercase().replace(['(', ')'], "");
            let pod: Pod = t
                .create(json!({
                    "metadata": {"name": name},
                    "spec": {
                        "serviceAccountName": account, "automountServiceAccountToken": by_pod,
                        "containers": [{"name": "token-test", "image": "pause"}],
                    },
                }))
                .await;
            let expected = by_pod.or(by_account).unwrap_or(true);
            assert_eq!(mounts_token(&pod), expected, "account {by_account:?}, Pod {by_pod:?}");
        }
    }
}

// Conformance: RootCA ConfigMap test
#[tokio::test(start_paused = true)]
async fn every_namespace_has_the_root_certificate() {
    const NAME: &str = "kube-root-ca.crt";
    // Only a cluster that listens has a certificate authority.
    let cluster =
        rk::Cluster::builder().listen(([127, 0, 0, 1], 0)).start().await.expect("it starts");
    let t = TestCluster { cluster, namespace: "conformance".to_owned() };
    t.make_namespace("conformance").await;
    let maps = t.api::<ConfigMap>();
    let right = async || {
        until("the certificate", async || {
            let map = maps.get_opt(NAME).await.expect("asked")?;
            let data = map.data.clone().unwrap_or_default();
            let is_right =
                data.len() == 1 && data.get("ca.crt").map(String::as_str) == t.cluster.ca_pem();
            is_right.then_some(map)
        })
        .await
    };
    let first = right().await;
    maps.delete(NAME, &DeleteParams::default()).await.expect("deleted");
    assert_ne!(right().await.uid(), first.uid());
    let wrong = Patch::Merge(json!({"data": {"ca.crt": null, "other": ""}}));
    maps.patch(NAME, &PatchParams::default(), &wrong).await.expect("patched");
    right().await;
}

// Conformance: ServiceAccount lifecycle test
#[tokio::test(start_paused = true)]
async fn an_account_is_watched_patched_listed_and_deleted() {
    const LABEL: &str = "test-serviceaccount-static=true";
    let t = TestCluster::start().await;
    let accounts = t.api::<ServiceAccount>();
    let everywhere: Api<ServiceAccount> = Api::all(t.client());
    let labelled = ListParams::default().labels(LABEL);
    let version = everywhere.list(&labelled).await.expect("listed").metadata.resource_version;
    let params = WatchParams { bookmarks: false, ..WatchParams::default().labels(LABEL) };
    let mut events =
        pin!(everywhere.watch(&params, &version.expect("a version")).await.expect("watched"));

    let labels = json!({"test-serviceaccount-static": "true"});
    t.create::<ServiceAccount>(
        json!({"metadata": {"name": "testserviceaccount", "labels": labels}}),
    )
    .await;
    let added = events.try_next().await.expect("watched");
    assert!(
        matches!(added, Some(WatchEvent::Added(account)) if account.name_any() == "testserviceaccount")
    );

    let patch = Patch::Strategic(json!({"automountServiceAccountToken": false}));
    accounts.patch("testserviceaccount", &PatchParams::default(), &patch).await.expect("patched");
    assert!(matches!(events.try_next().await.expect("watched"), Some(WatchEvent::Modified(_))));
    let listed = everywhere.list(&labelled).await.expect("listed").items;
    let [account] = listed.as_slice() else { panic!("{listed:?}") };
    assert_eq!(account.automount_service_account_token, Some(false));

    accounts.delete_collection(&DeleteParams::default(), &labelled).await.expect("deleted");
    let deleted = events.try_next().await.expect("watched");
    assert!(
        matches!(deleted, Some(WatchEvent::Deleted(account)) if account.name_any() == "testserviceaccount")
    );
}

// Conformance: ServiceAccount, update a ServiceAccount
#[tokio::test(start_paused = true)]
async fn an_account_is_updated() {
    let t = TestCluster::start().await;
    let accounts = t.api::<ServiceAccount>();
    t.create::<ServiceAccount>(json!({"metadata": {"name": "e2e-sa"}})).await;
    let mut account = accounts.get("e2e-sa").await.expect("read");
    account.automount_service_account_token = Some(true);
    let updated = accounts.replace("e2e-sa", &PostParams::default(), &account).await;
    assert_eq!(updated.expect("updated").automount_service_account_token, Some(true));
}

fn decoded(part: &str) -> Vec<u8> {
    // The standard alphabet is what the API's byte strings have.
    let mut text = part.replace('-', "+").replace('_', "/");
    text.extend(std::iter::repeat_n('=', (4 - text.len() % 4) % 4));
    let bytes: rk::k8s_openapi::ByteString = serde_json::from_value(json!(text)).expect("base64");
    bytes.0
}

fn json_part(part: &str) -> Value {
    serde_json::from_slice(&decoded(part)).expect("JSON")
}

// Conformance: OIDC Discovery (ServiceAccountIssuerDiscovery)
#[tokio::test]
async fn who_knows_only_the_issuer_can_check_a_token() {
    let t = TestCluster::start().await;
    t.cluster.server().roles_ready().await;
    let accounts = t.api::<ServiceAccount>();
    let request = json!({"spec": {"audiences": ["oidc-discovery-test"], "expirationSeconds": 600}});
    let answer: Value = accounts
        .create_subresource("token", "default", &PostParams::default(), &request)
        .await
        .expect("a token");
    let token = answer["status"]["token"].as_str().expect("a token").to_owned();
    let parts: Vec<&str> = token.split('.').collect();
    let (header, claims) = (json_part(parts[0]), json_part(parts[1]));
    assert_eq!(claims["aud"], json!(["oidc-discovery-test"]));
    assert_eq!(claims["sub"], json!(format!("system:serviceaccount:{}:default", t.namespace)));

    // As a Pod of that account reads it.
    let user = format!("system:serviceaccount:{}:default", t.namespace);
    let groups = ["system:serviceaccounts", "system:authenticated"];
    let client = t.cluster.server().client_as(UserInfo::new(&user, groups));
    let read = async |path: &str| -> Value {
        let request = http::Request::get(path).body(Vec::new()).expect("a request");
        client.request(request).await.expect("read")
    };
    let configuration = read("/.well-known/openid-configuration").await;
    assert_eq!(configuration["issuer"], claims["iss"]);
    assert_eq!(configuration["subject_types_supported"], json!(["public"]));
    let algorithms = configuration["id_token_signing_alg_values_supported"].as_array();
    assert!(algorithms.expect("algorithms").contains(&header["alg"]));
    let keys = configuration["jwks_uri"].as_str().expect("where the keys are");
    assert!(keys.ends_with("/openid/v1/jwks"), "{keys}");

    let keys = read("/openid/v1/jwks").await;
    let keys = keys["keys"].as_array().expect("keys").clone();
    let key = keys.iter().find(|key| key["kid"] == header["kid"]).expect("the token's key");
    assert_eq!((&key["kty"], &header["alg"]), (&json!("EC"), &json!("ES256")));
    let coordinate = |name: &str| decoded(key[name].as_str().expect("a coordinate"));
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    let algorithm = &ring::signature::ECDSA_P256_SHA256_FIXED;
    let key = ring::signature::UnparsedPublicKey::new(algorithm, point);
    let signed = token.rsplit_once('.').expect("a signature").0;
    key.verify(signed.as_bytes(), &decoded(parts[2])).expect("the signature is right");
}
