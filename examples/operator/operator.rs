//! The reconciler: reads caches, lets `plan.rs` decide, writes.

use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;
use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Service},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, CustomResourceExt, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::NamespaceResourceScope,
    runtime::wait::{await_condition, conditions::is_crd_established},
};
use rk::{
    api::client::{EventRecorder, EventType, Informer, Informers, object_ref},
    controllers::{
        Action, Controller, Error, Metrics, ObjectKey, Reconciler, finalizers, predicates, update,
    },
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{names::Names, plan, site::Site};

/// Keeps a site until its name is taken back.
pub const FINALIZER: &str = "rk.example.com/name";

/// Who manages the fields that are applied, and reports events.
const NAME: &str = "site-operator";

/// Makes the kind known, and waits until it is served. What is there already is brought up to date.
pub async fn install(client: &Client) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    let params = PatchParams::apply(NAME).force();
    definitions.patch(Site::crd_name(), &params, &Patch::Apply(Site::crd())).await?;
    await_condition(definitions, Site::crd_name(), is_crd_established()).await?;
    Ok(())
}

/// The controller, wired up.
pub fn controller(client: Client, names: Arc<dyn Names>, metrics: &Metrics) -> Controller {
    let informers = Informers::new(client.clone());
    let (sites, deployments) = (informers.of::<Site>(), informers.of::<Deployment>());
    let operator = Operator {
        recorder: EventRecorder::new(client.clone(), NAME),
        client,
        names,
        sites: sites.clone(),
        deployments: deployments.clone(),
    };
    Controller::new("site", operator)
        // Not for each status that it writes itself.
        .reconciles_if(&sites, predicates::generation_changed)
        .owns::<_, Site>(&deployments)
        .owns::<_, Site>(&informers.of::<Service>())
        .workers(2)
        .metrics(metrics)
}

struct Operator {
    client: Client,
    recorder: EventRecorder,
    names: Arc<dyn Names>,
    sites: Informer<Site>,
    deployments: Informer<Deployment>,
}

#[async_trait]
impl Reconciler for Operator {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(site) = self.sites.get(&key.namespace, &key.name) else {
            return Ok(Action::Wait);
        };
        let sites = Api::<Site>::namespaced(self.client.clone(), &key.namespace);
        if finalizers::is_deleting(&*site) {
            return self.clean_up(&sites, &site).await;
        }
        // Before there is anything to clean up.
        let site = finalizers::add(&sites, &site, FINALIZER).await?;

        self.apply(plan::deployment(&site)).await?;
        let service = self.apply(plan::service(&site)).await?;
        let address = service.spec.and_then(|spec| spec.cluster_ip).unwrap_or_default();
        let published = self.names.publish(&site.spec.host, &address).await;
        let published = published.map_err(|error| error.to_string());

        let deployment = self.deployments.get(&key.namespace, &key.name);
        let mut after = site.clone();
        after.status = Some(plan::status(&site, deployment.as_deref(), &published));
        update::status(&sites, &site, &after).await?;
        self.report(&site, &after, &published);
        // A name that was not published is tried again, with backoff.
        published.map(|()| Action::Wait).map_err(Error::NotYet)
    }
}

impl Operator {
    /// Takes back what is outside. Children go with the site: the garbage collector sees to it.
    async fn clean_up(&self, sites: &Api<Site>, site: &Site) -> Result<Action, Error> {
        if finalizers::has(site, FINALIZER) {
            let withdrawn = self.names.withdraw(&site.spec.host).await;
            withdrawn.map_err(|error| Error::NotYet(error.to_string()))?;
            finalizers::remove(sites, site, FINALIZER).await?;
        }
        Ok(Action::Wait)
    }

    /// Makes a child what it should be, and leaves alone the fields that others set.
    async fn apply<K>(&self, child: K) -> Result<K, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let namespace = child.namespace().unwrap_or_default();
        let api = Api::<K>::namespaced(self.client.clone(), &namespace);
        let params = PatchParams::apply(NAME).force();
        Ok(api.patch(&child.name_any(), &params, &Patch::Apply(&child)).await?)
    }

    /// Events for what a user wants to hear of.
    fn report(&self, before: &Site, after: &Site, published: &Result<(), String>) {
        let about = object_ref(after);
        if let Err(why) = published {
            self.recorder.event(&about, EventType::Warning, "PublishingFailed", why.clone());
        }
        if plan::is_ready(after.status.as_ref()) && !plan::is_ready(before.status.as_ref()) {
            let message = format!("http://{} is served", after.spec.host);
            self.recorder.event(&about, EventType::Normal, "Ready", message);
        }
    }
}
