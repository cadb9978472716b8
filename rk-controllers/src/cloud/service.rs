//! Load balancers for Services of that type.
//!
//! # What it promises
//! - A Service of type LoadBalancer without a class gets a load balancer, and its address in
//!   `status.loadBalancer`. One with a class is somebody else's.
//! - The finalizer `service.kubernetes.io/load-balancer-cleanup` is there before the load balancer
//!   is, and goes when it is gone: no Service ends before what it costs.
//! - Load balancers are in front of all nodes but those that are going, that are marked for it, or
//!   that carry the label `node.kubernetes.io/exclude-from-external-load-balancers`. Whether a node
//!   is ready does not matter (KEP-3458): load balancers have checks of their own.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{LoadBalancerStatus, Node, Service};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use rk_api::client::{Change, EventRecorder, EventType, Informer, RateLimit, object_ref};

use super::{CloudError, CloudProvider, LoadBalancers};
use crate::{
    controller::{Action, Controller, Reconciler},
    error::{self, Error},
    key::ObjectKey,
    manager::Context,
    write::{self, Part},
};

mod plan;

use plan::{Step, is_in_front_of, news, step};

const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
const RETRIES: RateLimit = RateLimit { min: Duration::from_secs(5), max: Duration::from_secs(300) };

struct Balancers {
    client: Client,
    recorder: EventRecorder,
    services: Informer<Service>,
    nodes: Informer<Node>,
    cloud: Arc<dyn CloudProvider>,
    done: Mutex<HashMap<ObjectKey, Done>>,
}

/// What was done last for a Service.
#[derive(Clone, Debug)]
struct Done {
    service: Arc<Service>,
    nodes: Vec<String>,
}

#[async_trait]
impl Reconciler for Balancers {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(balancers) = self.cloud.load_balancers() else { return Ok(Action::Wait) };
        let done = self.done.lock().get(key).cloned();
        let Some(service) = self.services.get(&key.namespace, &key.name) else {
            // Somebody took the finalizer away.
            if let Some(done) = done {
                self.delete_orphan(balancers, &done.service).await?;
                self.done.lock().remove(key);
            }
            return Ok(Action::Wait);
        };
        if let Some(done) = done.as_ref().filter(|done| done.service.uid() != service.uid()) {
            self.delete_orphan(balancers, &done.service).await?;
        }
        let mut nodes = self.nodes.list();
        nodes.retain(|node| is_in_front_of(node));
        let names: Vec<String> = nodes.iter().map(|node| node.name_any()).collect();
        let before = done.as_ref().map(|done| (&*done.service, done.nodes.as_slice()));
        match step(&service, &names, before) {
            Step::Nothing => return Ok(Action::Wait),
            Step::Update => self.update(balancers, &service, &nodes).await?,
            Step::Ensure => {
                let ensured = self.ensure(balancers, &service, &nodes).await;
                ensured.map_err(|why| self.failed(&service, &why))?;
            }
            Step::Delete => {
                let deleted = self.delete(balancers, &service).await;
                deleted.map_err(|why| self.failed(&service, &why))?;
                self.done.lock().remove(key);
                return Ok(Action::Wait);
            }
        }
        self.done.lock().insert(key.clone(), Done { service, nodes: names });
        Ok(Action::Wait)
    }
}

impl Balancers {
    async fn ensure(
        &self,
        balancers: &dyn LoadBalancers,
        service: &Service,
        nodes: &[Arc<Node>],
    ) -> Result<(), String> {
        self.event(service, EventType::Normal, "EnsuringLoadBalancer", "Ensuring load balancer");
        let mut held = service.clone();
        if !held.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
            held.finalizers_mut().push(FINALIZER.to_owned());
        }
        let held = self.write(service, &held).await.map_err(|error| {
            format!("failed to add load balancer cleanup finalizer: {}", error::message(&error))
        })?;
        self.warn_without_nodes(service, nodes);
        let status = match balancers.ensure(&held, nodes).await {
            Ok(status) => status,
            Err(CloudError::ImplementedElsewhere) => return Ok(()),
            Err(error) => return Err(format!("failed to ensure load balancer: {error}")),
        };
        self.event(service, EventType::Normal, "EnsuredLoadBalancer", "Ensured load balancer");
        self.say(&held, status).await
    }

    async fn update(
        &self,
        balancers: &dyn LoadBalancers,
        service: &Service,
        nodes: &[Arc<Node>],
    ) -> Result<(), Error> {
        match balancers.update(service, nodes).await {
            Ok(()) if nodes.is_empty() => self.warn_without_nodes(service, nodes),
            Ok(()) => {
                let message = "Updated load balancer with new hosts";
                self.event(service, EventType::Normal, "UpdatedLoadBalancer", message);
            }
            Err(CloudError::ImplementedElsewhere) => {}
            Err(error) => {
                let names: Vec<String> =
                    nodes.iter().map(|node| format!("{}:{{}}", node.name_any())).collect();
                let message = format!(
                    "Error updating load balancer with new hosts map[{}]: {error}",
                    names.join(" ")
                );
                self.event(service, EventType::Warning, "UpdateLoadBalancerFailed", &message);
                return Err(Error::NotYet(message));
            }
        }
        Ok(())
    }

    async fn delete(&self, balancers: &dyn LoadBalancers, service: &Service) -> Result<(), String> {
        let there = balancers.get(service).await.map_err(|error| {
            format!("failed to check if load balancer exists before cleanup: {error}")
        })?;
        if there.is_some() {
            let message = "Deleting load balancer";
            self.event(service, EventType::Normal, "DeletingLoadBalancer", message);
            let deleted = balancers.delete(service).await;
            deleted.map_err(|error| format!("failed to delete load balancer: {error}"))?;
        }
        let mut free = service.clone();
        free.finalizers_mut().retain(|finalizer| finalizer != FINALIZER);
        // The status first: nobody is to read an address that is no longer there.
        free.status.get_or_insert_default().load_balancer = Some(LoadBalancerStatus::default());
        match self.write(service, &free).await {
            Err(error) if !error::is_not_found(&error) => {
                let why = error::message(&error);
                return Err(format!("failed to remove load balancer cleanup finalizer: {why}"));
            }
            _ => {}
        }
        self.event(service, EventType::Normal, "DeletedLoadBalancer", "Deleted load balancer");
        Ok(())
    }

    /// The load balancer of a Service that is no longer there.
    async fn delete_orphan(
        &self,
        balancers: &dyn LoadBalancers,
        service: &Service,
    ) -> Result<(), Error> {
        self.event(service, EventType::Normal, "DeletingLoadBalancer", "Deleting load balancer");
        balancers.delete(service).await.map_err(|error| {
            let message = format!("Error deleting load balancer: {error}");
            self.event(service, EventType::Warning, "DeleteLoadBalancerFailed", &message);
            Error::NotYet(message)
        })?;
        self.event(service, EventType::Normal, "DeletedLoadBalancer", "Deleted load balancer");
        Ok(())
    }

    async fn say(&self, service: &Service, status: LoadBalancerStatus) -> Result<(), String> {
        let mut after = service.clone();
        after.status.get_or_insert_default().load_balancer = Some(status);
        match self.write(service, &after).await {
            Err(error) if !error::is_not_found(&error) => {
                Err(format!("failed to update load balancer status: {}", error::message(&error)))
            }
            _ => Ok(()),
        }
    }

    /// Finalizers go with the status, which is all that the controller's role may write.
    async fn write(&self, before: &Service, after: &Service) -> Result<Service, kube::Error> {
        let namespace = before.namespace().unwrap_or_default();
        let api = Api::<Service>::namespaced(self.client.clone(), &namespace);
        write::update(&api, before, after, Part::Status).await
    }

    fn warn_without_nodes(&self, service: &Service, nodes: &[Arc<Node>]) {
        if nodes.is_empty() {
            let message = "There are no available nodes for LoadBalancer";
            self.event(service, EventType::Warning, "UnAvailableLoadBalancer", message);
        }
    }

    fn failed(&self, service: &Service, why: &str) -> Error {
        let message = format!("Error syncing load balancer: {why}");
        self.event(service, EventType::Warning, "SyncLoadBalancerFailed", &message);
        Error::NotYet(message)
    }

    fn event(&self, service: &Service, kind: EventType, reason: &str, message: &str) {
        self.recorder.event(&object_ref(service), kind, reason, message);
    }
}

/// The controller, wired up; none without load balancers to make.
pub(crate) fn controller(name: &'static str, context: &Context) -> Option<Controller> {
    let cloud = context.settings.cloud.clone()?;
    cloud.load_balancers()?;
    let (services, nodes) = (context.informers.of::<Service>(), context.informers.of::<Node>());
    let recorder = context.recorder("service-controller");
    let reconciler = Balancers {
        client: context.client.clone(),
        recorder: recorder.clone(),
        services: services.clone(),
        nodes: nodes.clone(),
        cloud,
        done: Mutex::default(),
    };
    let all = services.clone();
    let controller = Controller::new(name, reconciler)
        .rate_limit(RETRIES)
        .reconciles_if(&services, move |change| {
            if let Change::Updated { old, new } = change {
                for (reason, message) in news(old, new) {
                    recorder.event(&object_ref(&**new), EventType::Normal, reason, message);
                }
            }
            true
        })
        .watches(&nodes, move |change| {
            let matters = match change {
                Change::Updated { old, new } => is_in_front_of(old) != is_in_front_of(new),
                Change::Added(node) | Change::Deleted(node) => is_in_front_of(node),
            };
            let services = if matters { all.list() } else { Vec::new() };
            services.iter().map(|service| ObjectKey::of(&**service)).collect()
        })
        .workers(context.settings.workers);
    Some(controller)
}
