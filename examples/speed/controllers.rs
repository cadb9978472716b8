//! Rows about controllers: how fast they bring things about, what they keep, and what an idle
//! cluster costs when time is wound forward.

use std::time::Duration;

use futures::StreamExt;
use rk::{
    Cluster, Component,
    controllers::Manager,
    k8s_openapi::{
        NamespaceResourceScope,
        api::{
            apps::v1::{Deployment, StatefulSet},
            core::v1::{ConfigMap, Namespace, Node},
        },
    },
    kube::{
        self, Api, Client, Resource, ResourceExt,
        api::{DeleteParams, ListParams, PostParams},
    },
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    load::Error,
    rows::{api_only, create_pods, resident_mib, thousands},
};

/// How long a row may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often a row looks whether it is done.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Asks until the answer is yes.
async fn until<F>(what: &str, mut done: impl FnMut() -> F) -> Result<(), Error>
where
    F: Future<Output = Result<bool, Error>> + Send,
{
    let deadline = Instant::now() + PATIENCE;
    while !done().await? {
        if Instant::now() > deadline {
            return Err(format!("{what}: not after {PATIENCE:?}").into());
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

async fn create<K>(api: &Api<K>, object: Value) -> Result<K, Error>
where
    K: Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    Ok(api.create(&PostParams::default(), &serde_json::from_value(object)?).await?)
}

/// What a workload of `replicas` is made of.
fn workload(name: &str, replicas: i32) -> Value {
    json!({
        "replicas": replicas,
        "selector": {"matchLabels": {"app": name}},
        "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": "nginx"}]},
        },
    })
}

fn per_second(count: usize, took: Duration) -> String {
    thousands(count as f64 / took.as_secs_f64())
}

const REPLICAS: i32 = 5_000;

/// From the request to the last Pod that is available, and the same for another image.
pub(crate) async fn deployment() -> Result<String, Error> {
    let cluster = Cluster::builder().nodes(100).start().await?;
    let deployments: Api<Deployment> = Api::default_namespaced(cluster.client());
    let mut spec = workload("web", REPLICAS);
    let begin = Instant::now();
    create(&deployments, json!({"metadata": {"name": "web"}, "spec": spec})).await?;
    until("the Pods are available", || available(&deployments)).await?;
    let first = begin.elapsed();

    spec["template"]["spec"]["containers"][0]["image"] = json!("nginx:2");
    let begin = Instant::now();
    let patch = kube::api::Patch::Merge(json!({"spec": {"template": spec["template"]}}));
    deployments.patch("web", &Default::default(), &patch).await?;
    until("the update is rolled out", || available(&deployments)).await?;
    let update = begin.elapsed();
    Ok(format!(
        "{} ({:.1} s); an update of all {:.1} s",
        per_second(REPLICAS as usize, first),
        first.as_secs_f64(),
        update.as_secs_f64()
    ))
}

async fn available(deployments: &Api<Deployment>) -> Result<bool, Error> {
    let web = deployments.get("web").await?;
    let status = web.status.unwrap_or_default();
    Ok(status.observed_generation == web.metadata.generation
        && status.replicas == Some(REPLICAS)
        && status.updated_replicas == Some(REPLICAS)
        && status.available_replicas == Some(REPLICAS))
}

const STATEFUL: i32 = 500;

/// A StatefulSet from the request to its last ready Pod, for both policies.
pub(crate) async fn stateful_sets() -> Result<String, Error> {
    let mut took = Vec::new();
    for policy in ["Parallel", "OrderedReady"] {
        let cluster = Cluster::builder().nodes(10).start().await?;
        let sets: Api<StatefulSet> = Api::default_namespaced(cluster.client());
        let mut spec = workload("db", STATEFUL);
        spec["serviceName"] = json!("db");
        spec["podManagementPolicy"] = json!(policy);
        let begin = Instant::now();
        create(&sets, json!({"metadata": {"name": "db"}, "spec": spec})).await?;
        until("the Pods are ready", || async {
            let status = sets.get("db").await?.status;
            Ok(status.and_then(|status| status.ready_replicas) == Some(STATEFUL))
        })
        .await?;
        took.push(begin.elapsed().as_secs_f64());
        cluster.shutdown().await;
    }
    Ok(format!("Parallel {:.2} s, OrderedReady {:.2} s", took[0], took[1]))
}

/// Creates so many ConfigMaps in process, 64 at a time, named by their number.
async fn create_maps(
    client: &Client,
    namespace: &str,
    count: usize,
    metadata: Value,
) -> Result<(), Error> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let template: ConfigMap =
        serde_json::from_value(json!({"metadata": metadata, "data": {"key": "value"}}))?;
    let create = |n: usize| {
        let (maps, mut map) = (maps.clone(), template.clone());
        map.metadata.name = Some(format!("m-{n}"));
        async move { maps.create(&PostParams::default(), &map).await.map(drop) }
    };
    let mut creating = futures::stream::iter((0..count).map(create)).buffer_unordered(64);
    while let Some(created) = creating.next().await {
        created?;
    }
    Ok(())
}

async fn is_empty<K>(api: &Api<K>) -> Result<bool, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let first = ListParams::default().labels("of=speed").limit(1);
    Ok(api.list_metadata(&first).await?.items.is_empty())
}

const OBJECTS: usize = 10_000;

/// From the request to the moment that the namespace is gone.
pub(crate) async fn namespace_deletion() -> Result<String, Error> {
    let cluster = Cluster::builder().components([Component::Controllers]).start().await?;
    let client = cluster.client();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    create(&namespaces, json!({"metadata": {"name": "full"}})).await?;
    create_maps(&client, "full", OBJECTS, json!({})).await?;
    let begin = Instant::now();
    namespaces.delete("full", &DeleteParams::default()).await?;
    until("the namespace is gone", || async { Ok(namespaces.get_opt("full").await?.is_none()) })
        .await?;
    let took = begin.elapsed();
    Ok(format!("{:.2} s ({} objects/s)", took.as_secs_f64(), per_second(OBJECTS, took)))
}

const DEPENDENTS: usize = 50_000;

/// From the deletion of the owner to that of its last dependent.
pub(crate) async fn garbage_collection() -> Result<String, Error> {
    let cluster = Cluster::builder().components([Component::Controllers]).start().await?;
    let client = cluster.client();
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let owner = create(&maps, json!({"metadata": {"name": "owner"}})).await?;
    let reference = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.uid(),
    });
    let metadata = json!({"labels": {"of": "speed"}, "ownerReferences": [reference]});
    create_maps(&client, "default", DEPENDENTS, metadata).await?;
    let begin = Instant::now();
    maps.delete("owner", &DeleteParams::background()).await?;
    until("the dependents are gone", || is_empty(&maps)).await?;
    let took = begin.elapsed();
    Ok(format!("{:.2} s ({} objects/s)", took.as_secs_f64(), per_second(DEPENDENTS, took)))
}

const PODS: usize = 50_000;

/// What the process grows by when all controllers start beside 50,000 Pods.
pub(crate) async fn controllers_memory() -> Result<String, Error> {
    let cluster = api_only().start().await?;
    create_pods(&cluster, PODS).await?;
    let before = resident_mib()?;
    let manager = Manager::builder(cluster.client()).build()?;
    let stop = CancellationToken::new();
    let running = tokio::spawn(manager.run(stop.clone()));
    sleep(Duration::from_secs(10)).await;
    let grown = resident_mib()? - before;
    stop.cancel();
    running.await?;
    Ok(format!("{grown:.0} MiB ({:.1} KiB a Pod)", grown * 1024.0 / PODS as f64))
}

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// A week of 1,000 nodes on a paused clock, which only moves when nothing is left to be done.
pub(crate) async fn week() -> Result<String, Error> {
    let week = || -> Result<Duration, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()?;
        let begin = std::time::Instant::now();
        runtime.block_on(async {
            let cluster = Cluster::builder().nodes(1_000).shared_node_lease(true).start().await?;
            sleep(WEEK).await;
            let nodes: Api<Node> = Api::all(cluster.client());
            let ready = |node: &Node| {
                let status = node.status.as_ref();
                let conditions = status.and_then(|status| status.conditions.as_deref());
                conditions.is_some_and(|all| {
                    all.iter().any(|one| one.type_ == "Ready" && one.status == "True")
                })
            };
            match nodes.list(&ListParams::default()).await?.iter().all(ready) {
                true => Ok(()),
                false => Err(Error::from("not every node is Ready after a week")),
            }
        })?;
        Ok(begin.elapsed())
    };
    let took = tokio::task::spawn_blocking(week).await??;
    let times = WEEK.as_secs_f64() / took.as_secs_f64();
    Ok(format!("{:.1} s ({} times as fast as life)", took.as_secs_f64(), thousands(times)))
}
