//! What Services see of their Pods.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::{Endpoint, EndpointSlice},
};
use proptest::prelude::*;
use rk_api::testing::{PodBuilder, pod};
use serde_json::{Value, json};

use super::{
    common,
    plan::{ENDPOINTS_MAX, MANAGED_BY, Plan, SERVICE_NAME, plan},
    targets::{Group, groups},
};

fn service(spec: Value) -> Service {
    let mut spec = spec;
    spec["selector"] = json!({"app": "web"});
    serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "default", "uid": "s", "labels": {"team": "a"}}, "spec": spec})).unwrap()
}

fn http() -> Service {
    service(json!({"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}))
}

fn ready(name: &str, ip: &str) -> PodBuilder {
    pod(name).uid(name).label("app", "web").node("n1").ip(ip).ready_since(1)
}

fn endpoints_of(service: &Service, pods: &[Pod]) -> Vec<Group> {
    groups(service, pods, |node| (node == "n1").then(|| "zone-a".to_owned()))
}

fn only(service: &Service, pod: PodBuilder) -> Endpoint {
    let groups = endpoints_of(service, &[pod.build()]);
    groups.into_iter().next().unwrap().endpoints.into_iter().next().unwrap()
}

#[track_caller]
fn check_conditions(service: &Service, pod: PodBuilder, expected: [bool; 3]) {
    let conditions = only(service, pod).conditions.unwrap();
    let found = [conditions.ready, conditions.serving, conditions.terminating].map(Option::unwrap);
    assert_eq!(found, expected, "[ready, serving, terminating]");
}

#[test]
fn an_endpoint_says_where_its_pod_is_and_what_to_send_it() {
    let endpoint = only(&http(), ready("a", "10.0.0.1"));
    assert_eq!(endpoint.addresses, ["10.0.0.1"]);
    assert_eq!(
        (endpoint.node_name.as_deref(), endpoint.zone.as_deref()),
        (Some("n1"), Some("zone-a"))
    );
    let target = endpoint.target_ref.unwrap();
    assert_eq!(
        (target.kind.as_deref(), target.name.as_deref(), target.uid.as_deref()),
        (Some("Pod"), Some("a"), Some("a"))
    );

    check_conditions(&http(), ready("a", "10.0.0.1"), [true, true, false]);
    check_conditions(&http(), ready("a", "10.0.0.1").deleting(), [false, true, true]);
    check_conditions(&http(), pod("a").phase("Running").ip("10.0.0.1"), [false, false, false]);
    let impatient = service(json!({"publishNotReadyAddresses": true, "ports": [{"port": 80}]}));
    check_conditions(&impatient, pod("a").phase("Running").ip("10.0.0.1"), [true, false, false]);
}

#[test]
fn ended_pods_and_pods_without_address_are_no_endpoints() {
    let pods = [ready("a", "10.0.0.1").phase("Failed").build(), pod("b").build()];
    let groups = endpoints_of(&http(), &pods);
    assert_eq!(groups.len(), 1);
    assert!(groups[0].endpoints.is_empty());
}

#[test]
fn a_named_target_port_is_looked_up_in_each_pod() {
    let service = service(json!({"ports": [{"name": "http", "port": 80, "targetPort": "web"}]}));
    let with_port = |name: &str, ip: &str, number: i32| {
        ready(name, ip).with(|pod| {
            let containers = &mut pod.spec.as_mut().unwrap().containers;
            containers.clear();
            containers.push(
                serde_json::from_value(
                    json!({"name": "c", "ports": [{"name": "web", "containerPort": number}]}),
                )
                .unwrap(),
            );
        })
    };
    let pods = [
        with_port("a", "10.0.0.1", 8080).build(),
        with_port("b", "10.0.0.2", 9090).build(),
        ready("c", "10.0.0.3").build(),
    ];

    let ports: Vec<_> =
        endpoints_of(&service, &pods).iter().map(|group| group.ports[0].port.unwrap()).collect();
    assert_eq!(
        ports,
        [8080, 9090],
        "one group for each number, none for the Pod without such a port"
    );
}

#[test]
fn a_headless_service_without_ports_still_has_endpoints() {
    let service = service(json!({"clusterIP": "None"}));
    let groups = endpoints_of(&service, &[ready("a", "10.0.0.1").build()]);
    assert_eq!((groups[0].ports.len(), groups[0].endpoints.len()), (0, 1));
    assert!(common(&service).labels.contains_key(super::HEADLESS));
}

#[test]
fn the_hostname_is_published_for_pods_of_this_subdomain() {
    let named = |subdomain: &str| {
        ready("a", "10.0.0.1").with(|pod| {
            let spec = pod.spec.as_mut().unwrap();
            spec.hostname = Some("web-0".into());
            spec.subdomain = Some(subdomain.into());
        })
    };
    assert_eq!(only(&http(), named("web")).hostname.as_deref(), Some("web-0"));
    assert_eq!(only(&http(), named("other")).hostname, None);
}

#[test]
fn slices_carry_the_labels_that_clients_look_for() {
    let plan = plan(&common(&http()), endpoints_of(&http(), &[]), &[]);
    let slice = &plan.create[0];
    let labels = slice.metadata.labels.as_ref().unwrap();
    assert_eq!(labels[SERVICE_NAME], "web");
    assert_eq!(labels[MANAGED_BY], "endpointslice-controller.k8s.io");
    assert_eq!(labels["team"], "a");
    assert!(slice.metadata.name.as_ref().unwrap().starts_with("web-"));
    assert_eq!(
        slice.endpoints.as_deref(),
        Some([].as_slice()),
        "one empty slice says that there is nothing"
    );
}

fn many(numbers: impl IntoIterator<Item = u32>) -> Vec<Pod> {
    numbers
        .into_iter()
        .map(|n| {
            ready(&format!("p{n}"), &format!("10.{}.{}.{}", n / 65536, n / 256 % 256, n % 256))
                .build()
        })
        .collect()
}

/// What the server has after a plan.
fn carry_out(plan: Plan, slices: &mut Vec<Arc<EndpointSlice>>) -> usize {
    let writes = plan.create.len() + plan.update.len() + plan.delete.len();
    slices.retain(|slice| !plan.delete.iter().any(|gone| Arc::ptr_eq(gone, slice)));
    for (before, after) in plan.update {
        let position = slices.iter().position(|slice| Arc::ptr_eq(slice, &before)).unwrap();
        slices[position] = Arc::new(after);
    }
    slices.extend(plan.create.into_iter().map(Arc::new));
    writes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However Pods come and go: each is in one slice exactly, none has more than 100, and a
    /// second look finds nothing to do.
    #[test]
    fn every_pod_is_in_exactly_one_slice(rounds in prop::collection::vec(prop::collection::btree_set(0..400u32, 0..300), 1..6)) {
        let mut slices = Vec::new();
        for numbers in rounds {
            let pods = many(numbers.iter().copied());
            let wanted = endpoints_of(&http(), &pods);
            carry_out(plan(&common(&http()), wanted.clone(), &slices), &mut slices);

            let all: Vec<&Endpoint> = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten()).collect();
            let distinct: BTreeSet<_> = all.iter().map(|endpoint| endpoint.addresses[0].clone()).collect();
            prop_assert_eq!((all.len(), distinct.len()), (numbers.len(), numbers.len()));
            prop_assert!(!slices.is_empty());
            prop_assert!(slices.iter().all(|slice| slice.endpoints.as_ref().unwrap().len() <= ENDPOINTS_MAX));
            prop_assert_eq!(carry_out(plan(&common(&http()), wanted, &slices), &mut slices), 0);
        }
    }
}

#[test]
fn one_pod_more_costs_one_write() {
    let mut slices = Vec::new();
    carry_out(plan(&common(&http()), endpoints_of(&http(), &many(0..250)), &[]), &mut slices);
    assert_eq!(slices.len(), 3);
    assert_eq!(
        carry_out(
            plan(&common(&http()), endpoints_of(&http(), &many(0..251)), &slices),
            &mut slices
        ),
        1
    );
}
