//! EndpointSlices that mirror Endpoints which somebody wrote for a Service without a selector, so
//! that clients need to know slices only.
//!
//! # What it promises
//! - Every address of such Endpoints is in a slice with the ports of its subset.
//! - Endpoints labelled `endpointslice.kubernetes.io/skip-mirror: "true"`, those used for leader
//!   election, and those without a Service or with one that has a selector are not mirrored; slices
//!   made for them before are removed.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use async_trait::async_trait;
use k8s_openapi::api::{
    core::v1::{EndpointAddress, Endpoints, Service},
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
};
use kube::{Client, ResourceExt};
use rk_api::client::Informer;

use crate::{
    controller::{Action, Controller, Reconciler},
    endpointslice::{
        apply,
        plan::{self, Common, HEADLESS, MANAGED_BY, SERVICE_NAME},
        targets::Group,
    },
    error::Error,
    expectations::{Expectations, LOOK_AGAIN_AFTER},
    key::ObjectKey,
    manager::Context,
    owners::controller_ref,
};

/// Value of the managed-by label of our slices.
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Set to `true` it keeps Endpoints from being mirrored.
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// At most so many addresses of one subset are mirrored.
const ADDRESSES_MAX: usize = 1000;

struct Mirror {
    client: Client,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
    expectations: Arc<Expectations<ObjectKey>>,
}

#[async_trait]
impl Reconciler for Mirror {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        if !self.expectations.satisfied(key) {
            return Ok(Action::RequeueAfter(LOOK_AGAIN_AFTER));
        }
        let mut existing = self.slices.list_in(&key.namespace);
        existing.retain(|slice| {
            let label = |name: &str| slice.labels().get(name).map(String::as_str);
            label(SERVICE_NAME) == Some(&key.name)
                && label(MANAGED_BY) == Some(MANAGER)
                && slice.metadata.deletion_timestamp.is_none()
        });
        let endpoints = self.endpoints.get(&key.namespace, &key.name);
        let service = self.services.get(&key.namespace, &key.name);
        let plan = match (endpoints, service) {
            (Some(endpoints), Some(service)) if is_mirrored(&endpoints, &service) => {
                plan::plan(&common(&endpoints), groups(&endpoints), &existing)
            }
            _ => plan::Plan { delete: existing, ..Default::default() },
        };
        apply::apply(&self.client, key, plan, &self.expectations).await?;
        Ok(Action::Wait)
    }
}

fn is_mirrored(endpoints: &Endpoints, service: &Service) -> bool {
    let skipped = endpoints.labels().get(SKIP_MIRROR).is_some_and(|value| value == "true");
    let selects = service
        .spec
        .as_ref()
        .and_then(|spec| spec.selector.as_ref())
        .is_some_and(|selector| !selector.is_empty());
    let going = endpoints.metadata.deletion_timestamp.is_some();
    !skipped && !selects && !going && !endpoints.annotations().contains_key(LEADER)
}

fn common(endpoints: &Endpoints) -> Common {
    let mut labels = endpoints.labels().clone();
    labels.remove(HEADLESS);
    labels.insert(SERVICE_NAME.into(), endpoints.name_any());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    let annotations =
        endpoints.annotations().iter().filter(|(key, _)| key.as_str() != LAST_APPLIED);
    Common {
        namespace: endpoints.namespace().unwrap_or_default(),
        base_name: endpoints.name_any(),
        labels,
        annotations: annotations
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect::<BTreeMap<_, _>>(),
        owner: controller_ref(endpoints),
    }
}

/// One group for each subset and address family.
fn groups(endpoints: &Endpoints) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let port = |port: &k8s_openapi::api::core::v1::EndpointPort| EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(port.port),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
            app_protocol: port.app_protocol.clone(),
        };
        let ports: Vec<EndpointPort> = subset.ports.iter().flatten().map(port).collect();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(unready).take(ADDRESSES_MAX) {
            let address_type = match address.ip.parse() {
                Ok(IpAddr::V4(_)) => "IPv4",
                Ok(IpAddr::V6(_)) => "IPv6",
                Err(_) => continue,
            };
            let endpoint = mirrored(address, ready);
            match groups
                .iter_mut()
                .find(|group| group.address_type == address_type && group.ports == ports)
            {
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(Group {
                    address_type: address_type.into(),
                    ports: ports.clone(),
                    endpoints: vec![endpoint],
                }),
            }
        }
    }
    groups
}

fn mirrored(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: None,
            terminating: None,
        }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        zone: None,
        deprecated_topology: None,
        hints: None,
    }
}

/// The controller, wired up.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let services = context.informers.of::<Service>();
    let endpoints = context.informers.of::<Endpoints>();
    let slices = context.informers.of::<EndpointSlice>();
    let expectations = Arc::new(Expectations::new());
    let reconciler = Mirror {
        client: context.client.clone(),
        services: services.clone(),
        endpoints: endpoints.clone(),
        slices: slices.clone(),
        expectations: expectations.clone(),
    };
    Controller::new(name, reconciler)
        .reconciles(&endpoints)
        .reconciles(&services)
        .watches(&slices, move |change| apply::wake(change, MANAGER, &expectations))
        .workers(context.settings.workers)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written_by_a_user() -> Endpoints {
        serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "default", "uid": "e", "labels": {"x": "y"}, "annotations": {LAST_APPLIED: "{}"}},
            "subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.0.0.2"}], "ports": [{"port": 5432}]}],
        }))
        .unwrap()
    }

    fn service(selector: serde_json::Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "db"}, "spec": {"selector": selector}}))
            .unwrap()
    }

    #[test]
    fn addresses_are_mirrored_by_family_with_their_ports() {
        let endpoints = written_by_a_user();
        let plan = plan::plan(&common(&endpoints), groups(&endpoints), &[]);

        let [v4, v6] = &plan.create[..] else { panic!("{plan:?}") };
        assert_eq!((v4.address_type.as_str(), v6.address_type.as_str()), ("IPv4", "IPv6"));
        let ready = |slice: &EndpointSlice| {
            let endpoints = slice.endpoints.as_ref().unwrap().iter();
            endpoints
                .map(|endpoint| {
                    (
                        endpoint.addresses[0].clone(),
                        endpoint.conditions.clone().unwrap().ready.unwrap(),
                    )
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(ready(v4), [("10.0.0.1".to_owned(), true), ("10.0.0.2".to_owned(), false)]);
        assert_eq!(v4.ports.as_ref().unwrap()[0].port, Some(5432));
        assert_eq!(v4.labels()[MANAGED_BY], MANAGER);
        assert_eq!(v4.labels()[SERVICE_NAME], "db");
        assert!(v4.metadata.annotations.is_none());
        assert_eq!(v4.metadata.owner_references.as_ref().unwrap()[0].kind, "Endpoints");
    }

    #[test]
    fn only_endpoints_of_services_without_selector_are_mirrored() {
        let mut endpoints = written_by_a_user();
        assert!(is_mirrored(&endpoints, &service(json!(null))));
        assert!(!is_mirrored(&endpoints, &service(json!({"app": "db"}))));
        endpoints.metadata.labels.get_or_insert_default().insert(SKIP_MIRROR.into(), "true".into());
        assert!(!is_mirrored(&endpoints, &service(json!(null))));
    }
}
