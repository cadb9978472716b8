//! EndpointSlices of Services that select Pods.
//!
//! # What it promises
//! - Every selected Pod that has an address and has not ended is in exactly one slice per address
//!   family: ready, serving and terminating tell what to send it.
//! - At most 100 endpoints in a slice; all endpoints of a slice have the same ports.
//! - Slices of Services without a selector, and slices of other managers, are left alone. Slices
//!   go with their Service through their owner reference.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Client, ResourceExt};
use rk_api::client::{Change, Informer};

use crate::{
    controller::{Action, Controller, Reconciler},
    error::Error,
    expectations::{Expectations, LOOK_AGAIN_AFTER},
    key::ObjectKey,
    manager::Context,
    owners::controller_ref,
};

pub(crate) mod apply;
pub(crate) mod plan;
pub(crate) mod targets;

use plan::{Common, HEADLESS, MANAGED_BY, SERVICE_NAME};

/// Value of the managed-by label of our slices.
const MANAGER: &str = "endpointslice-controller.k8s.io";

struct EndpointSlices {
    client: Client,
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    expectations: Arc<Expectations<ObjectKey>>,
}

#[async_trait]
impl Reconciler for EndpointSlices {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(service) = self.services.get(&key.namespace, &key.name) else {
            self.expectations.forget(key);
            return Ok(Action::Wait);
        };
        let Some(selector) = targets::selector(&service) else { return Ok(Action::Wait) };
        if service.metadata.deletion_timestamp.is_some() {
            return Ok(Action::Wait);
        }
        if !self.expectations.satisfied(key) {
            return Ok(Action::RequeueAfter(LOOK_AGAIN_AFTER));
        }
        let pods = self.pods.list_in(&key.namespace);
        let selected: Vec<&Pod> = pods
            .iter()
            .map(|pod| &**pod)
            .filter(|pod| targets::selects(selector, pod.labels()))
            .collect();
        let zone = |node: &str| targets::zone_of(&*self.nodes.get("", node)?);
        let groups = targets::groups(&service, selected, zone);

        let plan = plan::plan(&common(&service), groups, &self.existing(key));
        apply::apply(&self.client, key, plan, &self.expectations).await?;
        Ok(Action::Wait)
    }
}

impl EndpointSlices {
    fn existing(&self, key: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
        let mut slices = self.slices.list_in(&key.namespace);
        slices.retain(|slice| {
            let label = |name: &str| slice.labels().get(name).map(String::as_str);
            label(SERVICE_NAME) == Some(&key.name)
                && label(MANAGED_BY) == Some(MANAGER)
                && slice.metadata.deletion_timestamp.is_none()
        });
        slices
    }
}

fn common(service: &Service) -> Common {
    let mut labels = service.labels().clone();
    labels.remove(HEADLESS);
    if targets::is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), service.name_any());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    Common {
        namespace: service.namespace().unwrap_or_default(),
        base_name: service.name_any(),
        labels,
        annotations: BTreeMap::new(),
        owner: controller_ref(service),
    }
}

/// Services whose endpoints a change of a Pod may touch: those that select its labels, old or new.
pub(crate) fn services_for_pod(
    change: &Change<Pod>,
    services: &Informer<Service>,
) -> Vec<ObjectKey> {
    let pod = change.object();
    let old = match change {
        Change::Updated { old, new } => {
            if !matters(old, new) {
                return Vec::new();
            }
            Some(old)
        }
        _ => None,
    };
    let services = services.list_in(&pod.namespace().unwrap_or_default());
    let concerned = services.iter().filter(|service| {
        targets::selector(service).is_some_and(|selector| {
            targets::selects(selector, pod.labels())
                || old.is_some_and(|old| targets::selects(selector, old.labels()))
        })
    });
    concerned.map(|service| ObjectKey::of(&**service)).collect()
}

/// Whether a Pod changed in anything that its endpoints show.
fn matters(old: &Pod, new: &Pod) -> bool {
    let seen = |pod: &Pod| {
        let status = pod.status.as_ref();
        (
            crate::pods::is_ready(pod),
            crate::pods::is_terminal(pod),
            crate::pods::is_deleting(pod),
            crate::pods::node_name(pod).map(str::to_owned),
            status.map(|status| (status.pod_ip.clone(), status.pod_ips.clone())),
        )
    };
    seen(old) != seen(new) || old.labels() != new.labels()
}

/// The controller, wired up.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let services = context.informers.of::<Service>();
    let pods = context.informers.of::<Pod>();
    let nodes = context.informers.of::<Node>();
    let slices = context.informers.of::<EndpointSlice>();
    let expectations = Arc::new(Expectations::new());
    let reconciler = EndpointSlices {
        client: context.client.clone(),
        services: services.clone(),
        pods: pods.clone(),
        nodes: nodes.clone(),
        slices: slices.clone(),
        expectations: expectations.clone(),
    };
    let by_pod = services.clone();
    Controller::new(name, reconciler)
        .reconciles(&services)
        .watches(&pods, move |change| services_for_pod(change, &by_pod))
        .watches(&slices, move |change| apply::wake(change, MANAGER, &expectations))
        .reads(&nodes)
        .workers(context.settings.workers)
}

#[cfg(test)]
mod tests;
