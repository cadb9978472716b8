//! The proxy against an API server: what it applies, when, and what it does after failures.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use rk_api::{client::Informers, server::ApiServer};
use rk_proxy::{
    How, Proxy, ProxyError, ProxyStatus,
    testing::{Recorder, SliceBuilder, endpoint_slice, service},
};
use rk_store::EmbeddedStore;
use serde_json::json;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

struct World {
    client: kube::Client,
    recorder: Recorder,
    status: watch::Receiver<ProxyStatus>,
    task: JoinHandle<()>,
    stop: DropGuard,
}

async fn client() -> kube::Client {
    let store = Arc::new(EmbeddedStore::in_memory());
    ApiServer::builder(store).start().await.expect("an API server").client()
}

/// A proxy for `node-1` that runs; with what is in the API server of `client`.
fn start(client: kube::Client, recorder: Recorder) -> World {
    let proxy = Proxy::builder(Informers::new(client.clone()), "node-1")
        .backend(Arc::new(recorder.clone()))
        .build()
        .expect("a backend");
    let status = proxy.status();
    let stop = CancellationToken::new();
    let task = tokio::spawn(proxy.run(stop.clone()));
    World { client, recorder, status, task, stop: stop.drop_guard() }
}

impl World {
    /// Waits for rules in force that are so.
    async fn until(&mut self, what: &str, is: impl Fn(&ProxyStatus) -> bool) {
        let wait = self.status.wait_for(|status| status.revision > 0 && is(status));
        let done = tokio::time::timeout(Duration::from_secs(60), wait).await.map(|r| r.is_ok());
        assert!(matches!(done, Ok(true)), "not {what}: {:?}", *self.status.borrow());
    }

    async fn until_endpoints(&mut self, expected: &[&str]) {
        self.until("the endpoints", |status| {
            let rules = status.rules.iter().filter(|port| port.key.service == "web");
            let found = rules.flat_map(|port| &port.endpoints.cluster);
            let found: Vec<_> = found.map(|endpoint| endpoint.ip().to_string()).collect();
            found == expected
        })
        .await;
    }

    async fn create_service(&self) {
        let api: Api<Service> = Api::namespaced(self.client.clone(), "default");
        let web = service("web").port(80).build();
        api.create(&PostParams::default(), &web).await.expect("created");
    }

    async fn put_slice(&self, slice: SliceBuilder) {
        put_slice(&self.client, slice).await;
    }
}

async fn put_slice(client: &kube::Client, slice: SliceBuilder) {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    let slice = slice.build();
    let name = slice.metadata.name.clone().expect("a name");
    if api.get_opt(&name).await.expect("an answer").is_some() {
        api.delete(&name, &DeleteParams::default()).await.expect("deleted");
    }
    api.create(&PostParams::default(), &slice).await.expect("created");
}

fn slice() -> SliceBuilder {
    endpoint_slice("web").port(8080)
}

#[tokio::test(start_paused = true)]
async fn rules_follow_services_and_endpoints() {
    let mut world = start(client().await, Recorder::new());

    world.create_service().await;
    world.until("known", |s| s.rules.iter().any(|port| port.key.service == "web")).await;
    world.put_slice(slice().ready("10.244.0.2")).await;
    world.until_endpoints(&["10.244.0.2"]).await;
    world.put_slice(slice().ready("10.244.0.2").ready("10.244.1.2")).await;
    world.until_endpoints(&["10.244.0.2", "10.244.1.2"]).await;

    let api: Api<Service> = Api::namespaced(world.client.clone(), "default");
    api.delete("web", &DeleteParams::default()).await.expect("deleted");
    world.until("gone", |s| s.rules.iter().all(|port| port.key.service != "web")).await;
    let same = world.recorder.rules() == world.status.borrow().rules;
    assert!(same, "what is in force is what the status says");
}

#[tokio::test(start_paused = true)]
async fn the_first_apply_has_all_objects() {
    let client = client().await;
    let api: Api<Service> = Api::namespaced(client.clone(), "default");
    for i in 0..20 {
        let service = service(&format!("s{i}")).port(80).build();
        api.create(&PostParams::default(), &service).await.expect("created");
    }

    let mut world = start(client, Recorder::new());
    world.until("anything", |_| true).await;

    let first = world.recorder.applied()[0];
    // And the Service `kubernetes`.
    assert_eq!((first.how, first.changed), (How::Full, 21));
}

#[tokio::test(start_paused = true)]
async fn many_changes_are_few_applies() {
    let mut world = start(client().await, Recorder::new());
    world.until("anything", |_| true).await;
    let before = world.recorder.applied().len();

    let api: Api<Service> = Api::namespaced(world.client.clone(), "default");
    for i in 0..50 {
        let service = service(&format!("s{i}")).port(80).build();
        api.create(&PostParams::default(), &service).await.expect("created");
    }
    world.until("all", |status| status.rules.len() == 51).await;

    let applies = world.recorder.applied().len() - before;
    assert!(applies < 50, "{applies} applies for 50 Services");
}

#[tokio::test(start_paused = true)]
async fn a_failed_apply_is_tried_again_with_the_newest_objects() {
    let recorder = Recorder::new();
    for _ in 0..3 {
        recorder.fail_next(ProxyError::Rejected("no".to_owned()));
    }
    let client = client().await;
    let api: Api<Service> = Api::namespaced(client.clone(), "default");
    api.create(&PostParams::default(), &service("web").port(80).build()).await.expect("created");
    let mut world = start(client.clone(), recorder);

    world.status.wait_for(|status| status.error.is_some()).await.expect("a failure");
    put_slice(&client, slice().ready("10.244.0.2")).await;
    world.until_endpoints(&["10.244.0.2"]).await;

    assert_eq!(world.status.borrow().error, None);
}

#[tokio::test(start_paused = true)]
async fn a_backend_is_asked_to_check_what_it_left() {
    let mut world = start(client().await, Recorder::new());
    world.until("anything", |_| true).await;

    world.until("asked again", |status| status.revision >= 2).await;

    let last = *world.recorder.applied().last().expect("an apply");
    assert_eq!((last.how, last.changed), (How::Unchanged, 0));
}

#[tokio::test(start_paused = true)]
async fn the_zone_of_the_node_changes_the_choice() {
    let client = client().await;
    let nodes: Api<Node> = Api::all(client.clone());
    let node = rk_api::testing::node("node-1").build();
    nodes.create(&PostParams::default(), &node).await.expect("created");
    let mut world = start(client, Recorder::new());
    world.create_service().await;
    let hint = |slice: SliceBuilder, zone: &str| {
        slice.with(|slice| {
            let endpoint = slice.endpoints.as_mut().and_then(|e| e.last_mut()).expect("one");
            endpoint.hints =
                serde_json::from_value(json!({"forZones": [{"name": zone}]})).expect("hints");
        })
    };
    let slice = hint(hint(slice().ready("10.244.0.2"), "a").ready("10.244.1.2"), "b");
    world.put_slice(slice).await;
    world.until_endpoints(&["10.244.0.2", "10.244.1.2"]).await;

    let zone = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "b"}}});
    nodes.patch("node-1", &PatchParams::default(), &Patch::Merge(zone)).await.expect("patched");
    world.until_endpoints(&["10.244.1.2"]).await;
}

#[tokio::test(start_paused = true)]
async fn the_rules_stay_when_the_proxy_ends() {
    let mut world = start(client().await, Recorder::new());
    world.create_service().await;
    world.until("known", |s| s.rules.iter().any(|port| port.key.service == "web")).await;
    let World { recorder, task, stop, .. } = world;

    drop(stop);
    task.await.expect("ends");

    assert!(recorder.rules().iter().any(|port| port.key.service == "web"));
}
