//! Client machinery against the real API server, in process.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ConfigMap, Event, ObjectReference},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use rk_api::{
    client::{
        Change, EventRecorder, EventType, Informers, LeaderElectionConfig, LeaderElector,
        Subscription,
    },
    server::ApiServer,
};
use rk_store::EmbeddedStore;
use serde_json::json;
use tokio_util::sync::CancellationToken;

async fn server() -> ApiServer {
    ApiServer::builder(Arc::new(EmbeddedStore::in_memory())).start().await.unwrap()
}

fn map(name: &str, value: &str) -> ConfigMap {
    let map = json!({"metadata": {"name": name}, "data": {"v": value}});
    serde_json::from_value(map).unwrap()
}

fn maps(client: &Client) -> Api<ConfigMap> {
    Api::default_namespaced(client.clone())
}

async fn next(changes: &mut Subscription<ConfigMap>) -> String {
    let change = tokio::time::timeout(Duration::from_secs(30), changes.next_change()).await;
    let change = change.expect("a change in time");
    let show = |map: &ConfigMap| {
        format!("{}={}", map.metadata.name.as_ref().unwrap(), map.data.as_ref().unwrap()["v"])
    };
    match &change {
        Change::Added(map) => format!("+{}", show(map)),
        Change::Updated { old, new } => format!("{} -> {}", show(old), show(new)),
        Change::Deleted(map) => format!("-{}", show(map)),
    }
}

#[tokio::test]
async fn an_informer_follows_the_server() {
    let server = server().await;
    let client = server.client();
    maps(&client).create(&PostParams::default(), &map("a", "1")).await.unwrap();
    let informers = Informers::new(client.clone());
    let label = informers.selected::<ConfigMap>(Some("app=web"), None);
    let field = informers.selected::<ConfigMap>(None, Some("metadata.name=a"));
    let all = informers.selected::<ConfigMap>(None, Some("metadata.namespace=default"));
    informers.synced().await;
    let mut changes = all.subscribe();
    assert_eq!(next(&mut changes).await, "+a=1");

    maps(&client).create(&PostParams::default(), &map("b", "1")).await.unwrap();
    assert_eq!(next(&mut changes).await, "+b=1");
    let params = PatchParams::default();
    let patch = json!({"data": {"v": "2"}, "metadata": {"labels": {"app": "web"}}});
    maps(&client).patch("b", &params, &Patch::Merge(patch)).await.unwrap();
    assert_eq!(next(&mut changes).await, "b=1 -> b=2");
    let mut labelled = label.subscribe();
    assert_eq!(next(&mut labelled).await, "+b=2", "it came into the selection");
    let patch = json!({"metadata": {"labels": {"app": null}}});
    maps(&client).patch("b", &params, &Patch::Merge(patch)).await.unwrap();
    assert_eq!(next(&mut labelled).await, "-b=2", "it left the selection");
    assert_eq!(next(&mut changes).await, "b=2 -> b=2");
    maps(&client).delete("b", &DeleteParams::default()).await.unwrap();
    assert_eq!(next(&mut changes).await, "-b=2");

    assert_eq!(field.len(), 1);
    assert_eq!(all.list_in("default").len(), 1);
}

#[tokio::test]
async fn repeated_events_are_one_object_on_the_server() {
    let server = server().await;
    let recorder = EventRecorder::new(server.client(), "tester");
    let about = ObjectReference {
        kind: Some("Pod".to_owned()),
        api_version: Some("v1".to_owned()),
        namespace: Some("default".to_owned()),
        name: Some("web".to_owned()),
        uid: Some("u".to_owned()),
        ..ObjectReference::default()
    };
    for _ in 0..3 {
        recorder.event(&about, EventType::Warning, "BackOff", "again");
    }
    let node = ObjectReference { namespace: None, kind: Some("Node".to_owned()), ..about };
    recorder.event(&node, EventType::Normal, "Ready", "it is");
    recorder.flush().await;
    assert_eq!((recorder.sent(), recorder.dropped()), (4, 0));

    let events: Api<Event> = Api::default_namespaced(server.client());
    let events = events.list(&ListParams::default()).await.unwrap().items;
    let mut shown: Vec<_> = events
        .iter()
        .map(|it| (it.reason.as_deref().unwrap(), it.count.unwrap(), it.type_.as_deref().unwrap()))
        .collect();
    shown.sort();
    assert_eq!(shown, [("BackOff", 3, "Warning"), ("Ready", 1, "Normal")]);
}

#[tokio::test]
async fn one_of_two_candidates_leads_and_hands_over() {
    let server = server().await;
    let elect = |identity: &str, stop: &CancellationToken| {
        let config = LeaderElectionConfig {
            identity: identity.to_owned(),
            lease_duration: Duration::from_secs(3),
            renew_deadline: Duration::from_secs(2),
            retry_period: Duration::from_millis(50),
            ..LeaderElectionConfig::new("test")
        };
        config.validate().unwrap();
        let elector = LeaderElector::new(server.client(), config);
        let work = |token: CancellationToken| async move { token.cancelled().await };
        tokio::spawn(elector.run(stop.clone(), work))
    };
    let leases: Api<Lease> = Api::namespaced(server.client(), "kube-system");
    let holder_is = async |identity: &str| {
        for _ in 0..500 {
            let lease = leases.get_opt("test").await.unwrap();
            let holder = lease.and_then(|lease| lease.spec?.holder_identity);
            if holder.as_deref() == Some(identity) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{identity} does not lead");
    };
    let (first_stop, second_stop) = (CancellationToken::new(), CancellationToken::new());

    let first = elect("first", &first_stop);
    holder_is("first").await;
    let second = elect("second", &second_stop);
    tokio::time::sleep(Duration::from_millis(200)).await;
    holder_is("first").await;

    first_stop.cancel();
    assert_eq!(first.await.unwrap(), Some(()));
    holder_is("second").await;
    second_stop.cancel();
    second.await.unwrap();
}
