//! What a namespace's rules let in: quotas, limits, security standards, default classes.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{config_map, pod, server};
use k8s_openapi::{
    api::{
        core::v1::{
            ComponentStatus, ConfigMap, LimitRange, Namespace, PersistentVolumeClaim, Pod,
            ResourceQuota,
        },
        storage::v1::StorageClass,
    },
    kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn of<T: DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).unwrap()
}

/// A quota with the status that its controller would give it.
async fn quota(client: &Client, hard: Value, used: Value) -> Api<ResourceQuota> {
    let quotas: Api<ResourceQuota> = Api::default_namespaced(client.clone());
    let quota = of(json!({ "metadata": { "name": "q" }, "spec": { "hard": hard } }));
    quotas.create(&PostParams::default(), &quota).await.unwrap();
    let status = json!({ "status": { "hard": hard, "used": used } });
    quotas.patch_status("q", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    quotas
}

#[track_caller]
fn refusal<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> String {
    let Err(kube::Error::Api(status)) = result else { panic!("{result:?}") };
    assert_eq!((status.code, status.reason.as_str()), (403, "Forbidden"));
    status.message
}

#[tokio::test]
async fn a_quota_holds_however_many_create_at_once() {
    let server = server().await;
    let quotas =
        quota(&server.client(), json!({ "configmaps": "5" }), json!({ "configmaps": "0" })).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());

    let create = |i: usize| {
        let maps = maps.clone();
        tokio::spawn(async move {
            let map = config_map(&format!("m-{i}"), "1");
            maps.create(&PostParams::default(), &map).await.is_ok()
        })
    };
    let tasks: Vec<_> = (0..20).map(create).collect();
    let mut created = 0;
    for task in tasks {
        created += usize::from(task.await.unwrap());
    }

    assert_eq!(created, 5);
    assert_eq!(maps.list(&ListParams::default()).await.unwrap().items.len(), 5);
    let used = quotas.get("q").await.unwrap().status.unwrap().used.unwrap();
    assert_eq!(used["configmaps"].0, "5");
    let message = refusal(maps.create(&PostParams::default(), &config_map("x", "1")).await);
    assert_eq!(
        message,
        "configmaps \"x\" is forbidden: exceeded quota: q, requested: configmaps=1, used: \
         configmaps=5, limited: configmaps=5"
    );
}

#[tokio::test]
async fn a_dry_run_counts_nothing() {
    let server = server().await;
    let quotas = quota(&server.client(), json!({ "pods": "1" }), json!({ "pods": "0" })).await;
    let pods: Api<Pod> = Api::default_namespaced(server.client());
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    pods.create(&dry, &pod("a")).await.unwrap();
    pods.create(&dry, &pod("b")).await.unwrap();
    let used = quotas.get("q").await.unwrap().status.unwrap().used.unwrap();
    assert_eq!(used["pods"].0, "0");
}

#[tokio::test]
async fn a_range_counts_from_the_moment_that_it_is_there() {
    let server = server().await;
    let ranges: Api<LimitRange> = Api::default_namespaced(server.client());
    let limits = json!([{ "type": "Container", "default": { "cpu": "1" }, "max": { "cpu": "2" } }]);
    let range = json!({ "metadata": { "name": "r" }, "spec": { "limits": limits } });
    ranges.create(&PostParams::default(), &of(range)).await.unwrap();

    let pods: Api<Pod> = Api::default_namespaced(server.client());
    let created = pods.create(&PostParams::default(), &pod("a")).await.unwrap();
    let resources = created.spec.unwrap().containers[0].resources.clone().unwrap();
    assert_eq!(resources.limits.unwrap()["cpu"].0, "1");

    let mut large = pod("b");
    large.spec.as_mut().unwrap().containers[0].resources =
        Some(of(json!({ "limits": { "cpu": "3" } })));
    assert_eq!(
        refusal(pods.create(&PostParams::default(), &large).await),
        "pods \"b\" is forbidden: maximum cpu usage per Container is 2, but limit is 3"
    );
}

#[tokio::test]
async fn a_namespace_names_the_standard_of_its_pods() {
    let server = server().await;
    let namespaces: Api<Namespace> = Api::all(server.client());
    let label = |level: &str| json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": level } } });
    let patch = |level: &str| {
        let (namespaces, label) = (namespaces.clone(), label(level));
        async move { namespaces.patch("default", &PatchParams::default(), &Patch::Merge(label)).await }
    };
    let Err(kube::Error::Api(status)) = patch("nope").await else { panic!() };
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    patch("baseline").await.unwrap();

    let pods: Api<Pod> = Api::default_namespaced(server.client());
    pods.create(&PostParams::default(), &pod("a")).await.unwrap();
    let mut host = pod("b");
    host.spec.as_mut().unwrap().host_network = Some(true);
    assert_eq!(
        refusal(pods.create(&PostParams::default(), &host).await),
        "pods \"b\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces \
         (hostNetwork=true)"
    );
}

#[tokio::test]
async fn a_claim_without_a_class_gets_the_default_one_and_grows_if_that_may() {
    let server = server().await;
    let client = server.client();
    let classes: Api<StorageClass> = Api::all(client.clone());
    let mark = json!({ "storageclass.kubernetes.io/is-default-class": "true" });
    let class = json!({
        "metadata": { "name": "fast", "annotations": mark },
        "provisioner": "example.com/p",
    });
    classes.create(&PostParams::default(), &of(class)).await.unwrap();
    // The plug-in reads the cache, which a consistent read waits for.
    classes.get("fast").await.unwrap();

    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client);
    let claim = json!({
        "metadata": { "name": "c" },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "1Gi" } },
        },
    });
    let created = claims.create(&PostParams::default(), &of(claim)).await.unwrap();
    assert_eq!(created.spec.unwrap().storage_class_name.unwrap(), "fast");

    let grow = json!({ "spec": { "resources": { "requests": { "storage": "2Gi" } } } });
    let grown = claims.patch("c", &PatchParams::default(), &Patch::Merge(grow)).await;
    assert!(grown.is_err(), "{grown:?}");
}

#[tokio::test]
async fn the_server_says_how_its_store_is() {
    let server = server().await;
    let components: Api<ComponentStatus> = Api::all(server.client());
    let all = components.list(&ListParams::default()).await.unwrap().items;
    let names: Vec<_> = all.iter().map(|item| item.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, ["etcd-0"]);
    let etcd = components.get("etcd-0").await.unwrap();
    let condition = &etcd.conditions.unwrap()[0];
    assert_eq!((condition.type_.as_str(), condition.status.as_str()), ("Healthy", "True"));
    assert!(components.get_opt("scheduler").await.unwrap().is_none());
}

#[tokio::test]
async fn every_version_that_is_served_has_an_api_service() {
    let server = server().await;
    let services: Api<APIService> = Api::all(server.client());
    for name in ["v1.", "v1.apps", "v1.apiregistration.k8s.io"] {
        let service = services.get(name).await.unwrap();
        let available = &service.status.unwrap().conditions.unwrap()[0];
        assert_eq!((available.type_.as_str(), available.status.as_str()), ("Available", "True"));
    }
}
