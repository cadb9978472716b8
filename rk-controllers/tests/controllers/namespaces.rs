//! Namespaces and what each has from the start: scenarios S63, S83.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use rk_controllers::{TokenRequest, TokenSigner};
use serde_json::{Value, json};

use crate::cluster::{TestCluster, from_json};

async fn make_namespace(cluster: &TestCluster, name: &str) {
    let namespace: Namespace = from_json(json!({"metadata": {"name": name}}));
    Api::all(cluster.client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    cluster.settle().await;
}

async fn namespace(cluster: &TestCluster, name: &str) -> Option<Namespace> {
    Api::all(cluster.client.clone()).get_opt(name).await.unwrap()
}

fn web() -> Deployment {
    from_json(json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}},
    }))
}

#[tokio::test(start_paused = true)]
async fn a_deleted_namespace_loses_everything_and_goes() {
    let cluster = TestCluster::start().await;
    make_namespace(&cluster, "shop").await;
    let deployments = Api::<Deployment>::namespaced(cluster.client.clone(), "shop");
    deployments.create(&PostParams::default(), &web()).await.unwrap();
    let config: ConfigMap = from_json(json!({"metadata": {"name": "c"}}));
    Api::namespaced(cluster.client.clone(), "shop")
        .create(&PostParams::default(), &config)
        .await
        .unwrap();
    cluster.settle().await;
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), "shop");
    assert_eq!(pods.list(&ListParams::default()).await.unwrap().items.len(), 2);

    Api::<Namespace>::all(cluster.client.clone())
        .delete("shop", &DeleteParams::default())
        .await
        .unwrap();
    cluster.wait(20).await;

    assert_eq!(namespace(&cluster, "shop").await, None, "{}", cluster.history().await);
    assert!(pods.list(&ListParams::default()).await.unwrap().items.is_empty());
    assert!(deployments.list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_namespace_says_what_it_waits_for() {
    let cluster = TestCluster::start().await;
    make_namespace(&cluster, "shop").await;
    let configs = Api::<ConfigMap>::namespaced(cluster.client.clone(), "shop");
    let held: ConfigMap =
        from_json(json!({"metadata": {"name": "held", "finalizers": ["example.com/wait"]}}));
    configs.create(&PostParams::default(), &held).await.unwrap();

    Api::<Namespace>::all(cluster.client.clone())
        .delete("shop", &DeleteParams::default())
        .await
        .unwrap();
    cluster.settle().await;

    let waiting = namespace(&cluster, "shop").await.unwrap().status.unwrap();
    assert_eq!(waiting.phase.as_deref(), Some("Terminating"));
    let message = |kind: &str| {
        let conditions = waiting.conditions.iter().flatten();
        conditions
            .clone()
            .find(|condition| condition.type_ == kind && condition.status == "True")
            .and_then(|condition| condition.message.clone())
    };
    assert_eq!(
        message("NamespaceContentRemaining").unwrap(),
        "Some resources are remaining: configmaps. has 1 resource instances"
    );
    assert_eq!(
        message("NamespaceFinalizersRemaining").unwrap(),
        "Some content in the namespace has finalizers remaining: example.com/wait in 1 resource instances"
    );

    let patch = kube::api::Patch::Merge(json!({"metadata": {"finalizers": null}}));
    configs.patch("held", &Default::default(), &patch).await.unwrap();
    cluster.wait(10).await;
    assert_eq!(namespace(&cluster, "shop").await, None);
}

#[tokio::test(start_paused = true)]
async fn every_namespace_has_a_default_service_account() {
    let cluster = TestCluster::start().await;
    make_namespace(&cluster, "shop").await;
    let accounts = Api::<ServiceAccount>::namespaced(cluster.client.clone(), "shop");
    let first = accounts.get("default").await.unwrap();

    accounts.delete("default", &DeleteParams::default()).await.unwrap();
    cluster.settle().await;
    assert_ne!(accounts.get("default").await.unwrap().uid(), first.uid());
}

#[tokio::test(start_paused = true)]
async fn the_root_certificate_is_published_and_put_right() {
    let cluster = TestCluster::start_with("*", |builder| builder.root_ca("PEM")).await;
    let configs = Api::<ConfigMap>::namespaced(cluster.client.clone(), "kube-public");
    let published =
        async || configs.get("kube-root-ca.crt").await.unwrap().data.unwrap()["ca.crt"].clone();
    assert_eq!(published().await, "PEM");

    let patch = kube::api::Patch::Merge(json!({"data": {"ca.crt": "forged"}}));
    configs.patch("kube-root-ca.crt", &Default::default(), &patch).await.unwrap();
    cluster.settle().await;
    assert_eq!(published().await, "PEM");

    configs.delete("kube-root-ca.crt", &DeleteParams::default()).await.unwrap();
    cluster.settle().await;
    assert_eq!(published().await, "PEM");
}

#[derive(Debug)]
struct PlainSigner;

#[async_trait]
impl TokenSigner for PlainSigner {
    async fn sign(
        &self,
        request: &TokenRequest,
    ) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        Ok(format!("token of {}/{}", request.namespace, request.account))
    }
}

async fn token_secrets(cluster: &TestCluster, namespace: &str) -> Vec<Secret> {
    let all = Api::<Secret>::namespaced(cluster.client.clone(), namespace)
        .list(&ListParams::default())
        .await
        .unwrap();
    all.items
        .into_iter()
        .filter(|secret| secret.type_.as_deref() == Some("kubernetes.io/service-account-token"))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn with_legacy_tokens_a_namespace_has_a_secret_that_goes_with_its_account() {
    let signer = Arc::new(PlainSigner);
    let cluster = TestCluster::start_with("*", |builder| {
        builder.root_ca("PEM").token_signer(signer).legacy_token_secrets(true)
    })
    .await;
    make_namespace(&cluster, "shop").await;

    let secrets = token_secrets(&cluster, "shop").await;
    let [secret] = &secrets[..] else { panic!("{secrets:?}") };
    assert!(secret.name_any().starts_with("default-token-"));
    let text = |key: &str| String::from_utf8(secret.data.as_ref().unwrap()[key].0.clone()).unwrap();
    assert_eq!(
        (text("ca.crt"), text("namespace"), text("token")),
        ("PEM".into(), "shop".into(), "token of shop/default".into())
    );
    assert_eq!(secret.data.as_ref().unwrap().len(), 3);
    let accounts = Api::<ServiceAccount>::namespaced(cluster.client.clone(), "shop");
    let account = accounts.get("default").await.unwrap();
    assert_eq!(account.secrets.unwrap()[0].name, Some(secret.name_any()));

    accounts.delete("default", &DeleteParams::default()).await.unwrap();
    cluster.settle().await;
    let after = token_secrets(&cluster, "shop").await;
    assert!(after.iter().all(|other| other.name_any() != secret.name_any()), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_asks_for_a_token_gets_it() {
    let cluster =
        TestCluster::start_with("*", |builder| builder.token_signer(Arc::new(PlainSigner))).await;
    let annotations: Value = json!({"kubernetes.io/service-account.name": "default"});
    cluster
        .create::<Secret>(json!({
            "metadata": {"name": "mine", "annotations": annotations}, "type": "kubernetes.io/service-account-token",
        }))
        .await;
    cluster.settle().await;
    let secret = cluster.get::<Secret>("mine").await.unwrap();
    assert_eq!(secret.data.unwrap()["token"].0, b"token of default/default");
    assert_eq!(token_secrets(&cluster, "kube-public").await.len(), 0, "none is made unasked");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_nobody_uses_is_marked_and_then_deleted() {
    const DAY: u64 = 24 * 60 * 60;
    let controllers = "legacy-service-account-token-cleaner,serviceaccount-token";
    let cluster = TestCluster::start_with(controllers, |builder| {
        let period = Duration::from_secs(2 * DAY);
        builder.token_signer(Arc::new(PlainSigner)).legacy_token_clean_up_period(period)
    })
    .await;
    let listed = json!([{"name": "unused"}, {"name": "mounted"}]);
    let account = json!({"metadata": {"name": "robot"}, "secrets": listed});
    cluster.create::<ServiceAccount>(account).await;
    for name in ["unused", "mounted", "by-hand"] {
        let of = json!({"kubernetes.io/service-account.name": "robot"});
        let secret = json!({"metadata": {"name": name, "annotations": of},
            "type": "kubernetes.io/service-account-token"});
        cluster.create::<Secret>(secret).await;
    }
    let pod = json!({"metadata": {"name": "p"}, "spec": {
        "automountServiceAccountToken": false, "serviceAccountName": "robot",
        "containers": [{"name": "c", "image": "nginx"}],
        "volumes": [{"name": "v", "secret": {"secretName": "mounted"}}]}});
    cluster.create::<Pod>(pod).await;
    let marked = async |name: &str| {
        let secret = cluster.get::<Secret>(name).await?;
        Some(secret.labels().contains_key("kubernetes.io/legacy-token-invalid-since"))
    };

    cluster.wait(DAY + 3600).await;
    assert_eq!(marked("unused").await, Some(false), "uses are not noted for long enough");
    cluster.wait(2 * DAY).await;
    assert_eq!(marked("unused").await, Some(true));
    cluster.wait(3 * DAY).await;
    assert_eq!(marked("unused").await, None, "it is deleted");
    for name in ["mounted", "by-hand"] {
        assert_eq!(marked(name).await, Some(false), "{name}");
    }
}
