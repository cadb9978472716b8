//! The operator against a whole cluster in this process, under virtual time.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use async_trait::async_trait;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Event, Service},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::wait::await_condition,
};
use parking_lot::Mutex;
use rk::{Cluster, api::meta::conditions, controllers::Metrics};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    names::Names,
    operator::{self, FINALIZER},
    plan,
    site::{PUBLISHED, Site, SiteSpec},
};

/// Names in memory, which may be out of order.
#[derive(Default)]
struct Memory {
    names: Mutex<BTreeMap<String, String>>,
    broken: Mutex<bool>,
}

#[async_trait]
impl Names for Memory {
    async fn publish(&self, host: &str, address: &str) -> io::Result<()> {
        self.works()?;
        self.names.lock().insert(host.to_owned(), address.to_owned());
        Ok(())
    }

    async fn withdraw(&self, host: &str) -> io::Result<()> {
        self.works()?;
        self.names.lock().remove(host);
        Ok(())
    }
}

impl Memory {
    fn works(&self) -> io::Result<()> {
        if *self.broken.lock() { Err(io::Error::other("no answer")) } else { Ok(()) }
    }

    fn of(&self, host: &str) -> Option<String> {
        self.names.lock().get(host).cloned()
    }
}

/// A cluster with the operator.
struct Lab {
    cluster: Cluster,
    sites: Api<Site>,
    names: Arc<Memory>,
    stop: CancellationToken,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// How long the clock may go on until something holds: virtual time, which costs nothing.
const PATIENCE: Duration = Duration::from_secs(3600);

impl Lab {
    async fn start() -> Self {
        let cluster = Cluster::builder().start().await.unwrap();
        operator::install(&cluster.client()).await.unwrap();
        let (names, stop) = (Arc::new(Memory::default()), CancellationToken::new());
        let controller = operator::controller(cluster.client(), names.clone(), &Metrics::default());
        tokio::spawn(controller.run(stop.clone()));
        let sites = Api::default_namespaced(cluster.client());
        Self { cluster, sites, names, stop }
    }

    async fn create(&self, replicas: i32) -> Result<Site, kube::Error> {
        let spec = SiteSpec { image: "nginx".into(), replicas, host: "a.example".into() };
        self.sites.create(&PostParams::default(), &Site::new("a", spec)).await
    }

    async fn change(&self, patch: Value) -> Result<Site, kube::Error> {
        self.sites.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await
    }

    /// Waits until the site `a`, or that there is none, is as `so`.
    async fn until(&self, so: impl Fn(Option<&Site>) -> bool + Send) {
        let waiting = await_condition(self.sites.clone(), "a", move |site: Option<&Site>| so(site));
        tokio::time::timeout(PATIENCE, waiting).await.expect("in time").expect("watched");
    }

    /// Waits until the site serves this many replicas and says so of its newest specification.
    async fn ready(&self, replicas: i32) {
        self.until(|site| {
            let Some(site) = site else { return false };
            let status = site.status.as_ref();
            plan::is_ready(status)
                && status.is_some_and(|status| {
                    status.ready_replicas == replicas
                        && Some(status.observed_generation) == site.metadata.generation
                })
        })
        .await;
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::default_namespaced(self.cluster.client())
    }
}

#[tokio::test(start_paused = true)]
async fn a_site_becomes_a_deployment_a_service_and_a_name() {
    let lab = Lab::start().await;
    lab.create(2).await.unwrap();
    lab.ready(2).await;

    let service = lab.api::<Service>().get("a").await.unwrap();
    assert_eq!(lab.names.of("a.example"), service.spec.unwrap().cluster_ip);
    let site = lab.sites.get("a").await.unwrap();
    assert_eq!(site.finalizers(), [FINALIZER]);
    // The cluster shows it as the kind says.
    let request = http::Request::get("/apis/rk.example.com/v1/namespaces/default/sites")
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Vec::new())
        .unwrap();
    let table: Value = lab.cluster.client().request(request).await.unwrap();
    let columns = table["columnDefinitions"].as_array().unwrap();
    let columns: Vec<_> = columns.iter().map(|column| column["name"].as_str().unwrap()).collect();
    assert_eq!(columns, ["Name", "Host", "Ready", "Replicas", "Age"]);
    assert_eq!(table["rows"][0]["cells"][2], "True");

    let events = async || {
        let events = lab.api::<Event>().list(&ListParams::default()).await.unwrap();
        events.items.into_iter().any(|event| {
            event.reason.as_deref() == Some("Ready")
                && event.involved_object.kind.as_deref() == Some("Site")
        })
    };
    let told = async {
        while !events().await {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("there is an event");
}

#[tokio::test(start_paused = true)]
async fn what_somebody_changes_is_put_right_and_what_the_user_changes_is_followed() {
    let lab = Lab::start().await;
    lab.create(1).await.unwrap();
    lab.ready(1).await;
    let deployments = lab.api::<Deployment>();
    let uid = deployments.get("a").await.unwrap().uid();

    deployments.delete("a", &DeleteParams::default()).await.unwrap();
    let again = await_condition(deployments.clone(), "a", move |found: Option<&Deployment>| {
        found.is_some_and(|found| found.uid() != uid)
    });
    tokio::time::timeout(PATIENCE, again).await.expect("in time").expect("watched");
    lab.change(json!({"spec": {"replicas": 3}})).await.unwrap();
    lab.ready(3).await;
    assert_eq!(deployments.get("a").await.unwrap().spec.replicas, Some(3));
}

#[tokio::test(start_paused = true)]
async fn rules_are_kept_by_the_api_server() {
    let lab = Lab::start().await;
    let refused = lab.create(11).await.unwrap_err().to_string();
    assert!(refused.contains("must be 0 to 10"), "{refused}");
    lab.create(0).await.unwrap();
    let refused = lab.change(json!({"spec": {"host": "b.example"}})).await.unwrap_err();
    assert!(refused.to_string().contains("cannot be changed"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_site_stays_until_its_name_is_taken_back() {
    let lab = Lab::start().await;
    lab.create(1).await.unwrap();
    lab.ready(1).await;

    *lab.names.broken.lock() = true;
    lab.sites.delete("a", &DeleteParams::default()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(lab.sites.get_opt("a").await.unwrap().is_some(), "the name is still there");
    *lab.names.broken.lock() = false;
    lab.until(|site| site.is_none()).await;
    assert_eq!(lab.names.of("a.example"), None);
    let gone =
        await_condition(lab.api::<Deployment>(), "a", |it: Option<&Deployment>| it.is_none());
    tokio::time::timeout(PATIENCE, gone).await.expect("in time").expect("watched");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_cannot_be_published_is_told_of_and_tried_again() {
    let lab = Lab::start().await;
    *lab.names.broken.lock() = true;
    lab.create(1).await.unwrap();
    lab.until(|site| {
        let status = site.and_then(|site| site.status.as_ref());
        let condition = status.and_then(|status| conditions::get(&status.conditions, PUBLISHED));
        condition.is_some_and(|it| it.status == "False" && it.message == "no answer")
    })
    .await;
    *lab.names.broken.lock() = false;
    lab.ready(1).await;
    assert!(lab.names.of("a.example").is_some());
}
