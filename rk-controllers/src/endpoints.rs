//! Endpoints of Services that select Pods, for clients that do not know EndpointSlices.
//!
//! # What it promises
//! - One Endpoints object per Service with a selector, of the same name, with the ready and the
//!   not ready addresses of the selected Pods; at most 1000, then marked as over capacity.
//! - It goes with its Service. Endpoints of Services without a selector belong to the user, and
//!   those of the Service `kubernetes` to the API server: both are left alone.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams},
};
use rk_api::client::Informer;

use crate::{
    controller::{Action, Controller, Reconciler},
    endpointslice::{services_for_pod, targets},
    error::{self, Error},
    key::ObjectKey,
    manager::Context,
    write::{self, Part},
};

mod plan;

struct EndpointsController {
    client: Client,
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
}

#[async_trait]
impl Reconciler for EndpointsController {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let api = Api::<Endpoints>::namespaced(self.client.clone(), &key.namespace);
        let current = self.endpoints.get(&key.namespace, &key.name);
        let Some(service) = self.services.get(&key.namespace, &key.name) else {
            if current.is_some_and(|current| is_ours(&current)) {
                match api.delete(&key.name, &DeleteParams::default()).await {
                    Err(gone) if error::is_not_found(&gone) => {}
                    result => drop(result?),
                }
            }
            return Ok(Action::Wait);
        };
        let Some(selector) = targets::selector(&service) else { return Ok(Action::Wait) };
        if service.metadata.deletion_timestamp.is_some() {
            return Ok(Action::Wait);
        }
        let pods = self.pods.list_in(&key.namespace);
        let selected: Vec<&Pod> = pods
            .iter()
            .map(|pod| &**pod)
            .filter(|pod| targets::selects(selector, pod.labels()))
            .collect();

        let wanted = plan::plan(&service, &selected, current.as_deref());
        match current {
            Some(current) => drop(write::update(&api, &current, &wanted, Part::Main).await?),
            None => match api.create(&PostParams::default(), &wanted).await {
                Err(terminating) if error::is_namespace_terminating(&terminating) => {}
                result => drop(result?),
            },
        }
        Ok(Action::Wait)
    }
}

/// Made by this controller rather than by a user or the API server.
fn is_ours(endpoints: &Endpoints) -> bool {
    endpoints.labels().get(plan::MANAGED_BY).is_some_and(|manager| manager == plan::MANAGER)
}

/// The controller, wired up.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let services = context.informers.of::<Service>();
    let pods = context.informers.of::<Pod>();
    let endpoints = context.informers.of::<Endpoints>();
    let reconciler = EndpointsController {
        client: context.client.clone(),
        services: services.clone(),
        pods: pods.clone(),
        endpoints: endpoints.clone(),
    };
    let by_pod = services.clone();
    Controller::new(name, reconciler)
        .reconciles(&services)
        .watches(&pods, move |change| services_for_pod(change, &by_pod))
        // Its key is the Service's: an Endpoints object that was removed or edited is put right,
        // one that outlived its Service while nobody looked is removed.
        .reconciles(&endpoints)
        .workers(context.settings.workers)
}

#[cfg(test)]
mod tests;
