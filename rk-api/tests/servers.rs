//! Several API servers on one store, and what they find there that others wrote.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use k8s_openapi::api::{
    core::v1::{ConfigMap, Endpoints, Event, Service},
    discovery::v1::EndpointSlice,
    networking::v1::{IPAddress, ServiceCIDR},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use rk_api::server::ApiServer;
use rk_store::{EmbeddedStore, Expect, Range, Store};
use serde_json::{Value, json};

fn store() -> Arc<dyn Store> {
    Arc::new(EmbeddedStore::in_memory())
}

async fn server(store: &Arc<dyn Store>, range: &str) -> ApiServer {
    let builder = ApiServer::builder(store.clone()).service_cidr(range);
    builder.node_port_range(30000..=30099).start().await.unwrap()
}

fn services(server: &ApiServer) -> Api<Service> {
    Api::default_namespaced(server.client())
}

fn service(name: &str, spec: Value) -> Service {
    let mut service = json!({ "metadata": { "name": name }, "spec": spec });
    service["spec"]["ports"] = json!([{ "port": 80 }]);
    service["spec"]["selector"] = json!({ "app": name });
    serde_json::from_value(service).unwrap()
}

async fn create(api: &Api<Service>, name: &str, spec: Value) -> kube::Result<Service> {
    api.create(&PostParams::default(), &service(name, spec)).await
}

fn address(service: &Service) -> String {
    service.spec.as_ref().unwrap().cluster_ip.clone().unwrap()
}

fn port(service: &Service) -> i32 {
    service.spec.as_ref().unwrap().ports.as_ref().unwrap()[0].node_port.unwrap()
}

async fn accounts(server: &ApiServer) -> BTreeSet<String> {
    let all = Api::<IPAddress>::all(server.client()).list(&Default::default()).await.unwrap();
    all.items.into_iter().map(|address| address.metadata.name.unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn services_made_through_two_servers_share_no_address_and_no_port() {
    let store = store();
    let servers = [server(&store, "10.0.0.0/25").await, server(&store, "10.0.0.0/25").await];
    let made = (0..100).map(|number| {
        let api = services(&servers[number % 2]);
        tokio::spawn(async move {
            let spec = json!({ "type": "NodePort" });
            create(&api, &format!("s-{number}"), spec).await.unwrap()
        })
    });
    let made: Vec<Service> = join_all(made).await.into_iter().map(Result::unwrap).collect();
    let addresses: BTreeSet<_> = made.iter().map(address).collect();
    let ports: BTreeSet<_> = made.iter().map(port).collect();
    assert_eq!((addresses.len(), ports.len()), (100, 100));
    let mut taken = addresses.clone();
    taken.insert("10.0.0.1".to_owned());
    assert_eq!(accounts(&servers[0]).await, taken);

    let full = create(&services(&servers[0]), "one-more", json!({ "type": "NodePort" })).await;
    let message = full.unwrap_err().to_string();
    assert!(message.contains("range is full"), "{message}");
    assert_eq!(accounts(&servers[1]).await, taken, "what is refused keeps nothing");

    services(&servers[0]).delete("s-0", &DeleteParams::default()).await.unwrap();
    let again = create(&services(&servers[1]), "again", json!({ "type": "NodePort" })).await;
    assert_eq!(port(&again.unwrap()), port(&made[0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_servers_that_want_one_address_one_gets_it() {
    let store = store();
    let servers = [server(&store, "10.0.0.0/24").await, server(&store, "10.0.0.0/24").await];
    for number in 2..30 {
        let wanted = format!("10.0.0.{number}");
        let spec = || json!({ "clusterIP": wanted });
        let (one, other) = (services(&servers[0]), services(&servers[1]));
        let (first, second) = (format!("a-{number}"), format!("b-{number}"));
        let both = tokio::join!(create(&one, &first, spec()), create(&other, &second, spec()));
        assert_ne!(both.0.is_ok(), both.1.is_ok(), "{wanted}");
        let lost = both.0.and(both.1).unwrap_err().to_string();
        assert!(lost.contains("provided IP is already allocated"), "{lost}");
    }
}

#[tokio::test]
async fn what_a_service_leaves_behind_is_free_again() {
    let store = store();
    let server = server(&store, "10.0.0.0/24").await;
    let api = services(&server);
    let made = create(&api, "web", json!({ "type": "NodePort" })).await.unwrap();

    // A dry run takes nothing.
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let other = service("other", json!({ "type": "NodePort" }));
    let shown = api.create(&dry_run, &other).await.unwrap();
    assert!(port(&shown) >= 30000 && !accounts(&server).await.contains(&address(&shown)));

    // It needs no node port any more, and then no address.
    let patch = |spec: Value| Patch::Merge(json!({ "spec": spec }));
    let params = PatchParams::default();
    api.patch("web", &params, &patch(json!({ "type": "ClusterIP" }))).await.unwrap();
    let spec = json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": port(&made) }] });
    let mut taker = service("taker", json!({}));
    taker.spec = serde_json::from_value(spec).unwrap();
    api.create(&PostParams::default(), &taker).await.unwrap();
    let external = json!({ "type": "ExternalName", "externalName": "x.org" });
    api.patch("web", &params, &patch(external)).await.unwrap();
    assert!(!accounts(&server).await.contains(&address(&made)));
}

#[tokio::test]
async fn a_cluster_of_both_families_gives_an_address_of_each() {
    let server = server(&store(), "10.0.0.0/24,fd00::/112").await;
    let api = services(&server);
    let one = create(&api, "one", json!({})).await.unwrap().spec.unwrap();
    assert_eq!(one.ip_families.unwrap(), ["IPv4"]);
    let both = create(&api, "both", json!({ "ipFamilyPolicy": "PreferDualStack" })).await.unwrap();
    let both = both.spec.unwrap();
    let addresses = both.cluster_ips.unwrap();
    assert_eq!(both.ip_families.unwrap(), ["IPv4", "IPv6"]);
    assert!(addresses[0].starts_with("10.0.0.") && addresses[1].starts_with("fd00::"));
    assert!(addresses.iter().all(|ip| !ip.is_empty()));
    let taken = accounts(&server).await;
    assert!(addresses.iter().all(|address| taken.contains(address)), "{taken:?}");
    let ranges = Api::<ServiceCIDR>::all(server.client()).get("kubernetes").await.unwrap();
    assert_eq!(ranges.spec.unwrap().cidrs.unwrap(), ["10.0.0.0/24", "fd00::/112"]);
    let ready = ranges.status.unwrap().conditions.unwrap();
    assert_eq!((ready[0].type_.as_str(), ready[0].status.as_str()), ("Ready", "True"));
}

#[tokio::test(start_paused = true)]
async fn what_a_crash_left_is_set_right() {
    let store = store();
    let before = server(&store, "10.0.0.0/24").await;
    let made = create(&services(&before), "web", json!({ "type": "NodePort" })).await.unwrap();
    before.shutdown().await;
    drop(before);
    // A server died between an address and its Service, an older one kept no account, and somebody
    // lost the ports.
    let key = |address: &str| format!("/registry/ipaddresses/{address}");
    let orphan = json!({
        "kind": "IPAddress", "apiVersion": "networking.k8s.io/v1",
        "metadata": {
            "name": "10.0.0.99", "uid": "u", "creationTimestamp": "2020-01-01T00:00:00Z",
            "labels": { "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io" },
        },
        "spec": { "parentRef": { "resource": "services", "namespace": "default", "name": "gone" } },
    });
    let orphan = Bytes::from(orphan.to_string());
    store.put(&key("10.0.0.99"), orphan, Expect::Absent, None).await.unwrap();
    store.delete(&key(&address(&made)), Expect::Any).await.unwrap();
    store.delete("/registry/ranges/servicenodeports", Expect::Any).await.unwrap();

    let after = server(&store, "10.0.0.0/24").await;
    let expected: BTreeSet<_> = ["10.0.0.1".to_owned(), address(&made)].into();
    assert_eq!(accounts(&after).await, expected);
    let mut thief = service("thief", json!({}));
    let spec = json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": port(&made) }] });
    thief.spec = serde_json::from_value(spec).unwrap();
    let taken = services(&after).create(&PostParams::default(), &thief).await.unwrap_err();
    assert!(taken.to_string().contains("provided port is already allocated"), "{taken}");
}

/// The reasons and words of the events about Services, in order.
async fn told(server: &ApiServer) -> BTreeSet<(String, String)> {
    let events: Api<Event> = Api::default_namespaced(server.client());
    let events = events.list(&Default::default()).await.unwrap().items.into_iter();
    let of_services =
        events.filter(|event| event.involved_object.kind.as_deref() == Some("Service"));
    of_services.map(|event| (event.reason.unwrap(), event.message.unwrap())).collect()
}

#[tokio::test]
async fn what_is_set_right_is_told_in_events() {
    let store = store();
    let before = server(&store, "10.0.0.0/24").await;
    let exposed = create(&services(&before), "s", json!({ "type": "NodePort" })).await.unwrap();
    let other = create(&services(&before), "other", json!({})).await.unwrap();
    before.shutdown().await;
    drop(before);
    // The account of one address is gone, that of the other names somebody else.
    let key = |service: &Service| format!("/registry/ipaddresses/{}", address(service));
    store.delete(&key(&exposed), Expect::Any).await.unwrap();
    let stolen = store.get(&key(&other)).await.unwrap().unwrap().value;
    let stolen = String::from_utf8(stolen.to_vec()).unwrap().replace("\"other\"", "\"nobody\"");
    store.put(&key(&other), stolen.into(), Expect::Any, None).await.unwrap();
    let ports = "/registry/ranges/servicenodeports";
    store.delete(ports, Expect::Any).await.unwrap();

    let after = server(&store, "10.0.0.0/24").await;
    let (at, others, port) = (address(&exposed), address(&other), port(&exposed));
    let expected = [
        ("ClusterIPNotAllocated", format!("Cluster IP [IPv4]: {at} is not allocated; repairing")),
        (
            "ClusterIPNotAllocated",
            format!(
                "the ClusterIP [IPv4]: {others} for Service default/other has a wrong reference; repairing"
            ),
        ),
        ("PortNotAllocated", format!("Port {port} is not allocated; repairing")),
    ];
    let expected = expected.map(|(reason, words)| (reason.to_owned(), words));
    assert_eq!(told(&after).await, expected.into());
    let addresses = Api::<IPAddress>::all(after.client());
    for service in [&exposed, &other] {
        let account = addresses.get(&address(service)).await.unwrap();
        assert_eq!(Some(account.spec.parent_ref.name), service.metadata.name);
    }
    let again = json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": port }] });
    let again: Service =
        serde_json::from_value(json!({ "metadata": { "name": "again" }, "spec": again })).unwrap();
    let refused = services(&after).create(&PostParams::default(), &again).await.unwrap_err();
    assert!(refused.to_string().contains("provided port is already allocated"), "{refused}");
}

#[tokio::test]
async fn every_range_that_is_ready_has_addresses() {
    let store = store();
    let server = server(&store, "10.0.0.0/30").await;
    let services = services(&server);
    // The other one of the two addresses is that of `kubernetes`.
    create(&services, "first", json!({})).await.unwrap();
    let full = create(&services, "second", json!({})).await.unwrap_err();
    assert!(full.to_string().contains("range is full"), "{full}");

    let ranges: Api<ServiceCIDR> = Api::all(server.client());
    let range = |cidr: &str| -> ServiceCIDR {
        let object = json!({ "metadata": { "name": "more" }, "spec": { "cidrs": [cidr] } });
        serde_json::from_value(object).unwrap()
    };
    ranges.create(&PostParams::default(), &range("10.9.0.0/30")).await.unwrap();
    let second = create(&services, "second", json!({})).await.unwrap();
    assert!(address(&second).starts_with("10.9.0."), "{}", address(&second));
    create(&services, "third", json!({})).await.unwrap();
    assert!(create(&services, "fourth", json!({})).await.is_err(), "both are full");

    services.delete("second", &DeleteParams::default()).await.unwrap();
    let not_ready = json!({ "status": { "conditions": [{
        "type": "Ready", "status": "False", "reason": "R", "message": "m",
        "lastTransitionTime": "2030-01-01T00:00:00Z",
    }]}});
    let patch = Patch::Merge(not_ready);
    ranges.patch_status("more", &PatchParams::default(), &patch).await.unwrap();
    assert!(create(&services, "fourth", json!({})).await.is_err(), "it gives out nothing");
}

#[tokio::test(start_paused = true)]
async fn the_endpoints_of_kubernetes_are_the_servers_that_live() {
    let store = store();
    let start = async |address: &str| {
        let address: SocketAddr = address.parse().unwrap();
        ApiServer::builder(store.clone()).advertise(address).start().await.unwrap()
    };
    let first = start("10.1.0.1:6443").await;
    let second = start("10.1.0.2:6443").await;
    let third = start("10.1.0.3:6443").await;
    let client = first.client();
    let shown = async || {
        let endpoints = Api::<Endpoints>::default_namespaced(client.clone());
        let endpoints = endpoints.get("kubernetes").await.unwrap();
        let slices = Api::<EndpointSlice>::default_namespaced(client.clone());
        let slice = slices.get("kubernetes").await.unwrap();
        let addresses = endpoints.subsets.into_iter().flatten().flat_map(|s| s.addresses.unwrap());
        let addresses: Vec<String> = addresses.map(|address| address.ip).collect();
        let of_slice: Vec<String> =
            slice.endpoints.into_iter().flatten().flat_map(|endpoint| endpoint.addresses).collect();
        assert_eq!(of_slice, addresses);
        addresses
    };
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(shown().await, ["10.1.0.1", "10.1.0.2", "10.1.0.3"]);

    // One leaves in order, and is gone at once; one vanishes, and is gone after a while.
    second.shutdown().await;
    assert_eq!(shown().await, ["10.1.0.1", "10.1.0.3"]);
    drop(third);
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(shown().await, ["10.1.0.1"]);
}

/// As kube-apiserver 1.32 with `--storage-media-type=application/json` writes it.
const THEIRS: &str = concat!(
    r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"theirs","namespace":"default","#,
    r#""uid":"8a4f6f0e-7f5c-4c0c-9d3e-0a3f4f6a9f3b","creationTimestamp":"2025-01-01T00:00:00Z","#,
    r#""managedFields":[{"manager":"kubectl-create","operation":"Update","apiVersion":"v1","#,
    r#""time":"2025-01-01T00:00:00Z","fieldsType":"FieldsV1","#,
    r#""fieldsV1":{"f:data":{".":{},"f:a":{}}}}]},"data":{"a":"1"}}"#,
    "\n",
);

#[tokio::test]
async fn the_objects_of_a_kube_apiserver_are_taken_over_and_handed_back() {
    let store = store();
    let key = "/registry/configmaps/default/theirs";
    store.put(key, Bytes::from(THEIRS), Expect::Absent, None).await.unwrap();
    let server = server(&store, "10.0.0.0/24").await;
    let api = Api::<ConfigMap>::default_namespaced(server.client());
    let managers = |map: &ConfigMap| -> Vec<String> {
        let entries = map.metadata.managed_fields.iter().flatten();
        let mut names: Vec<_> = entries.filter_map(|entry| entry.manager.clone()).collect();
        names.sort();
        names
    };
    let found = api.get("theirs").await.unwrap();
    assert_eq!(found.metadata.uid.as_deref(), Some("8a4f6f0e-7f5c-4c0c-9d3e-0a3f4f6a9f3b"));
    assert_eq!(managers(&found), ["kubectl-create"]);

    let patch = Patch::Apply(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": { "b": "2" },
    }));
    let changed = api.patch("theirs", &PatchParams::apply("ours"), &patch).await.unwrap();
    assert_eq!(managers(&changed), ["kubectl-create", "ours"]);

    // What is in the store now is what kube-apiserver would have there: the object with its type,
    // its managed fields among its metadata, and neither its version nor a link to itself.
    let stored = store.get(key).await.unwrap().unwrap();
    let stored: Value = serde_json::from_slice(&stored.value).unwrap();
    assert_eq!((&stored["kind"], &stored["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    assert_eq!(stored["data"], json!({ "a": "1", "b": "2" }));
    let metadata = stored["metadata"].as_object().unwrap();
    let mut names: Vec<_> = metadata.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["creationTimestamp", "managedFields", "name", "namespace", "uid"]);
    assert_eq!(metadata["managedFields"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn keys_are_laid_out_as_kube_apiserver_lays_them_out() {
    let store = store();
    let server = server(&store, "10.0.0.0/24").await;
    server.roles_ready().await;
    create(&services(&server), "web", json!({ "type": "NodePort" })).await.unwrap();
    let all = store.range(Range { prefix: "/", ..Range::default() }).await.unwrap();
    let keys: BTreeSet<&str> = all.items.iter().map(|item| &*item.key).collect();
    for key in [
        "/registry/namespaces/default",
        "/registry/services/specs/default/web",
        "/registry/ipaddresses/10.0.0.1",
        "/registry/servicecidrs/kubernetes",
        "/registry/ranges/servicenodeports",
        "/registry/priorityclasses/system-node-critical",
        "/registry/clusterroles/cluster-admin",
        "/registry/roles/kube-system/system:controller:token-cleaner",
        "/registry/apiregistration.k8s.io/apiservices/v1.apps",
        "/registry/flowschemas/exempt",
    ] {
        assert!(keys.contains(key), "{key}");
    }
    assert!(keys.iter().all(|key| key.starts_with("/registry/")));
    for item in &all.items {
        let object: Value = serde_json::from_slice(&item.value).unwrap();
        assert!(object["kind"].is_string() && object["apiVersion"].is_string(), "{}", item.key);
        assert!(object["metadata"].get("resourceVersion").is_none(), "{}", item.key);
        assert!(object["metadata"].get("selfLink").is_none(), "{}", item.key);
    }
}
