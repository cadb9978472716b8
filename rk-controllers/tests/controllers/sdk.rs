//! The SDK as a user meets it: an own controller, retries, leader election.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use rk_controllers::{Action, Controller, Error, Manager, ObjectKey, Reconciler, finalizers};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::cluster::TestCluster;

/// Greets every ConfigMap that asks for it; the first two tries fail, one by a panic.
struct Greeter {
    client: Client,
    tries: Arc<AtomicUsize>,
}

#[async_trait]
impl Reconciler for Greeter {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        if key.name != "greet-me" {
            return Ok(Action::Wait);
        }
        match self.tries.fetch_add(1, Relaxed) {
            0 => return Err(Error::NotYet("not in the mood".into())),
            1 => panic!("a bug"),
            _ => {}
        }
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), &key.namespace);
        api.patch(
            &key.name,
            &PatchParams::default(),
            &Patch::Merge(json!({"data": {"hello": "world"}})),
        )
        .await?;
        Ok(Action::RequeueAfter(Duration::from_secs(3600)))
    }
}

#[tokio::test(start_paused = true)]
async fn an_own_controller_runs_beside_the_others_and_is_retried() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counter = tries.clone();
    let cluster = TestCluster::start_with("serviceaccount", |builder| {
        builder.with(|context| {
            let greeter = Greeter { client: context.client.clone(), tries: counter };
            Controller::new("greeter", greeter).reconciles(&context.informers.of::<ConfigMap>())
        })
    })
    .await;
    cluster.create::<ConfigMap>(json!({"metadata": {"name": "greet-me"}})).await;
    cluster.settle().await;

    assert_eq!(cluster.get::<ConfigMap>("greet-me").await.unwrap().data.unwrap()["hello"], "world");
    let tried = tries.load(Relaxed);
    assert!(tried >= 3, "{tried}");
    cluster.wait(3600).await;
    assert!(tries.load(Relaxed) > tried, "asked to be called again");
}

#[tokio::test(start_paused = true)]
async fn of_two_managers_one_leads_and_the_other_takes_over() {
    let cluster = TestCluster::start_with("", |builder| builder).await;
    let start = |token: CancellationToken| {
        let manager = Manager::builder(cluster.client.clone())
            .controllers("serviceaccount")
            .leader_elect(true)
            .build()
            .unwrap();
        let metrics = manager.metrics();
        (tokio::spawn(manager.run(token)), metrics)
    };
    let (first_token, second_token) = (CancellationToken::new(), CancellationToken::new());
    let (first, first_metrics) = start(first_token.clone());
    cluster.settle().await;
    let (second, second_metrics) = start(second_token.clone());
    cluster.wait(30).await;
    assert!(first_metrics.render().contains("serviceaccount-controller"));
    assert!(second_metrics.render().is_empty(), "waits for its turn");

    first_token.cancel();
    first.await.unwrap();
    cluster.wait(30).await;
    assert!(second_metrics.render().contains("result=\"success\""));
    second_token.cancel();
    second.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_work_is_refused_when_a_manager_is_built() {
    let cluster = TestCluster::start_with("", |builder| builder).await;
    let refused = |adapt: fn(rk_controllers::ManagerBuilder) -> rk_controllers::ManagerBuilder| {
        adapt(Manager::builder(cluster.client.clone())).build().unwrap_err().to_string()
    };
    assert!(refused(|builder| builder.controllers("nonsense")).contains("nonsense"));
    assert!(refused(|builder| builder.cluster_cidr("10.0.0.0", 24)).contains("cluster_cidr"));
    assert!(refused(|builder| builder.legacy_token_secrets(true)).contains("token_signer"));
    assert!(
        refused(|builder| builder.node_monitor_period(Duration::from_secs(60)))
            .contains("node_monitor_grace_period")
    );
}

#[tokio::test(start_paused = true)]
async fn a_manager_stops_when_told() {
    let cluster = TestCluster::start_with("", |builder| builder).await;
    let token = CancellationToken::new();
    let manager = Manager::builder(cluster.client.clone()).build().unwrap();
    let running = tokio::spawn(manager.run(token.clone()));
    cluster.wait(60).await;
    token.cancel();
    tokio::time::timeout(Duration::from_secs(10), running).await.expect("stops in time").unwrap();
}

/// Keeps a list of what exists elsewhere.
struct Outside {
    api: Api<ConfigMap>,
    maps: rk_api::client::Informer<ConfigMap>,
    made: Arc<parking_lot::Mutex<std::collections::BTreeSet<String>>>,
}

const FINALIZER: &str = "example.com/outside";

#[async_trait]
impl Reconciler for Outside {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(map) = self.maps.get(&key.namespace, &key.name) else { return Ok(Action::Wait) };
        if finalizers::is_deleting(&*map) {
            if finalizers::has(&*map, FINALIZER) {
                self.made.lock().remove(&key.name);
                finalizers::remove(&self.api, &map, FINALIZER).await?;
            }
            return Ok(Action::Wait);
        }
        finalizers::add(&self.api, &map, FINALIZER).await?;
        self.made.lock().insert(key.name.clone());
        Ok(Action::Wait)
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_stays_until_what_was_made_for_it_elsewhere_is_gone() {
    let made = Arc::new(parking_lot::Mutex::new(std::collections::BTreeSet::new()));
    let outside = made.clone();
    let cluster = TestCluster::start_with("", |builder| {
        builder.with(|context| {
            // Others are made by the API server itself.
            let maps = context.informers.selected(Some("outside=yes"), None);
            let api = Api::namespaced(context.client.clone(), "default");
            let reconciler = Outside { api, maps: maps.clone(), made: outside };
            Controller::new("outside", reconciler).reconciles(&maps)
        })
    })
    .await;
    let map = json!({"metadata": {"name": "a", "labels": {"outside": "yes"}}});
    cluster.create::<ConfigMap>(map).await;
    cluster.settle().await;
    assert!(made.lock().contains("a"));
    let map = cluster.get::<ConfigMap>("a").await.unwrap();
    assert_eq!(map.metadata.finalizers.unwrap(), [FINALIZER]);

    cluster.api::<ConfigMap>().delete("a", &DeleteParams::default()).await.unwrap();
    cluster.settle().await;
    assert!(made.lock().is_empty());
    assert!(cluster.get::<ConfigMap>("a").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn cluster_info_is_signed_with_the_tokens_that_there_are() {
    let cluster = TestCluster::start_with("bootstrapsigner,tokencleaner", |builder| builder).await;
    let secrets = Api::<Secret>::namespaced(cluster.client.clone(), "kube-system");
    let infos = Api::<ConfigMap>::namespaced(cluster.client.clone(), "kube-public");
    let info =
        json!({"metadata": {"name": "cluster-info"}, "data": {"kubeconfig": "kind: Config"}});
    let info: ConfigMap = serde_json::from_value(info).unwrap();
    infos.create(&PostParams::default(), &info).await.unwrap();
    let expires = rk_api::clock::now() + Duration::from_secs(600);
    for (id, expiration) in [("lasts0", None), ("soon00", Some(expires.to_string()))] {
        let secret: Secret = serde_json::from_value(json!({
            "metadata": {"name": format!("bootstrap-token-{id}")},
            "type": "bootstrap.kubernetes.io/token",
            "stringData": {
                "token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true",
                "expiration": expiration.unwrap_or_default(),
            },
        }))
        .unwrap();
        secrets.create(&PostParams::default(), &secret).await.unwrap();
    }
    let keys = async || -> Vec<String> {
        cluster.settle().await;
        infos.get("cluster-info").await.unwrap().data.unwrap().into_keys().collect()
    };
    assert_eq!(keys().await, ["jws-kubeconfig-lasts0", "jws-kubeconfig-soon00", "kubeconfig"]);
    cluster.wait(600).await;
    assert_eq!(keys().await, ["jws-kubeconfig-lasts0", "kubeconfig"]);
    secrets.delete("bootstrap-token-lasts0", &DeleteParams::default()).await.unwrap();
    assert_eq!(keys().await, ["kubeconfig"]);
}
