use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use kube::ResourceExt;
use proptest::prelude::*;
use rk_api::testing::pod;
use serde_json::json;

use super::plan::plan;

fn service() -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "labels": {"team": "a"}},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    }))
    .unwrap()
}

fn pods(ready: u32, unready: u32) -> Vec<Pod> {
    let ip = |n: u32| format!("10.0.{}.{}", n / 250, n % 250 + 1);
    let ready_pods =
        (0..ready).map(|n| pod(&format!("r{n}")).node("n").ip(&ip(n)).ready_since(1).build());
    let unready_pods = (ready..ready + unready)
        .map(|n| pod(&format!("u{n}")).node("n").ip(&ip(n)).phase("Running").build());
    ready_pods.chain(unready_pods).collect()
}

fn planned(pods: &[Pod], current: Option<&Endpoints>) -> Endpoints {
    plan(&service(), &pods.iter().collect::<Vec<_>>(), current)
}

#[test]
fn ready_and_unready_addresses_are_kept_apart() {
    let endpoints = planned(&pods(2, 1), None);
    let [subset] = &endpoints.subsets.clone().unwrap()[..] else { panic!("{endpoints:?}") };
    let ips = |addresses: &Option<Vec<k8s_openapi::api::core::v1::EndpointAddress>>| {
        addresses.iter().flatten().map(|address| address.ip.clone()).collect::<Vec<_>>()
    };
    assert_eq!(ips(&subset.addresses), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(ips(&subset.not_ready_addresses), ["10.0.0.3"]);
    assert_eq!(
        (subset.ports.as_ref().unwrap()[0].port, endpoints.labels()["team"].as_str()),
        (8080, "a")
    );
}

#[test]
fn a_second_look_changes_nothing() {
    let first = planned(&pods(2, 1), None);
    assert_eq!(planned(&pods(2, 1), Some(&first)), first);
}

#[test]
fn without_pods_there_are_no_subsets() {
    assert_eq!(planned(&[], None).subsets, None);
}

#[test]
fn beyond_a_thousand_addresses_the_ready_ones_stay_and_a_mark_says_so() {
    let endpoints = planned(&pods(900, 200), None);
    let subset = &endpoints.subsets.as_ref().unwrap()[0];
    assert_eq!(subset.addresses.as_ref().unwrap().len(), 900);
    assert_eq!(subset.not_ready_addresses.as_ref().unwrap().len(), 100);
    assert_eq!(endpoints.annotations()["endpoints.kubernetes.io/over-capacity"], "truncated");

    let fewer = planned(&pods(1, 0), Some(&endpoints));
    assert!(!fewer.annotations().contains_key("endpoints.kubernetes.io/over-capacity"));
}

proptest! {
    /// Every Pod with an address that may be shown is shown once, ready or not as it is; nothing
    /// else is; and a second look changes nothing.
    #[test]
    fn endpoints_are_the_addresses_of_the_pods(
        pods in prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>(), 0..4u8), 0..30),
        publishes_unready in any::<bool>(),
    ) {
        let mut service = service();
        let spec = service.spec.as_mut().unwrap();
        spec.publish_not_ready_addresses = Some(publishes_unready);
        let pods: Vec<Pod> = pods
            .iter()
            .enumerate()
            .map(|(n, (ready, deleting, ended, phase))| {
                let mut pod = pod(&format!("p{n}")).node("n");
                if *phase > 0 {
                    pod = pod.ip(&format!("10.0.0.{n}"));
                }
                pod = if *ready { pod.ready_since(1) } else { pod.phase("Running") };
                if *ended {
                    pod = pod.phase("Failed");
                }
                if *deleting {
                    pod = pod.deleting();
                }
                pod.build()
            })
            .collect();
        let selected: Vec<&Pod> = pods.iter().collect();
        let endpoints = plan(&service, &selected, None);
        prop_assert_eq!(&plan(&service, &selected, Some(&endpoints)), &endpoints);

        let mut shown = Vec::new();
        for subset in endpoints.subsets.iter().flatten() {
            let lists = [(&subset.addresses, true), (&subset.not_ready_addresses, false)];
            for (addresses, ready) in lists {
                shown.extend(addresses.iter().flatten().map(|it| (it.ip.clone(), ready)));
            }
        }
        shown.sort();
        let mut expected: Vec<_> = pods
            .iter()
            .filter(|pod| !crate::pods::is_terminal(pod))
            .filter(|pod| publishes_unready || !crate::pods::is_deleting(pod))
            .filter_map(|pod| {
                let ip = pod.status.as_ref()?.pod_ip.clone()?;
                Some((ip, publishes_unready || crate::pods::is_ready(pod)))
            })
            .collect();
        expected.sort();
        prop_assert_eq!(shown, expected);
    }
}
