//! How kinds come and go with their definitions: what is served while a definition is looked at,
//! while the store fails, and while definitions of one name follow each other.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use common::get;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use rk_api::server::ApiServer;
use rk_store::{
    EmbeddedStore, Expect, Range, RangeResponse, Revision, Store, StoreError, Versioned,
    WatchStream,
};
use serde_json::json;
use tokio::sync::watch;

/// How a store answers who lists the objects of the group `slow.example.com`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Silent,
    Failing,
    Well,
}

#[derive(Debug)]
struct Moody {
    store: EmbeddedStore,
    mood: watch::Receiver<Mood>,
}

#[async_trait]
impl Store for Moody {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        self.store.get(key).await
    }
    async fn range(&self, range: Range<'_>) -> Result<RangeResponse, StoreError> {
        if range.prefix.contains("/slow.example.com/") {
            let mut mood = self.mood.clone();
            let mood = *mood.wait_for(|mood| *mood != Mood::Silent).await.unwrap();
            if mood == Mood::Failing {
                return Err(StoreError::Unavailable { reason: "not its day".into() });
            }
        }
        self.store.range(range).await
    }
    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        ttl: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        self.store.put(key, value, expect, ttl).await
    }
    async fn delete(&self, key: &str, expect: Expect) -> Result<(Revision, Versioned), StoreError> {
        self.store.delete(key, expect).await
    }
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.store.revision().await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        self.store.watch(prefix, from).await
    }
    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.store.compact(revision).await
    }
}

async fn moody(mood: Mood) -> (ApiServer, watch::Sender<Mood>) {
    let (sender, mood) = watch::channel(mood);
    let store = Moody { store: EmbeddedStore::in_memory(), mood };
    (ApiServer::builder(Arc::new(store)).start().await.unwrap(), sender)
}

fn definition(group: &str) -> CustomResourceDefinition {
    let definition = json!({
        "metadata": { "name": format!("things.{group}") },
        "spec": {
            "group": group, "scope": "Cluster",
            "names": { "plural": "things", "kind": "Thing" },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object" } },
            }],
        },
    });
    serde_json::from_value(definition).unwrap()
}

fn definitions(client: Client) -> Api<CustomResourceDefinition> {
    Api::all(client)
}

async fn is_established(server: &ApiServer, group: &str) -> bool {
    let found = definitions(server.client()).get(&format!("things.{group}")).await.unwrap();
    let conditions = found.status.into_iter().flat_map(|status| status.conditions.into_iter());
    conditions.flatten().any(|it| it.type_ == "Established" && it.status == "True")
}

async fn established(server: &ApiServer, group: &str) {
    while !is_established(server, group).await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_seen_established_can_use_the_kind_however_slow_the_store_is() {
    let (server, mood) = moody(Mood::Silent).await;
    for group in ["fast.example.com", "slow.example.com"] {
        let made = definition(group);
        definitions(server.client()).create(&PostParams::default(), &made).await.unwrap();
    }
    let mut seen = 0;
    for second in 0..20 {
        if second == 10 {
            mood.send(Mood::Well).unwrap();
        }
        for group in ["fast.example.com", "slow.example.com"] {
            if is_established(&server, group).await {
                seen += 1;
                let path = format!("/apis/{group}/v1/things");
                assert_eq!(get(&server, &path).await.code, 200, "{path} in second {second}");
                let path = format!("/openapi/v3/apis/{group}/v1");
                assert_eq!(get(&server, &path).await.code, 200, "{path} in second {second}");
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(seen >= 2, "both were established in the end");
}

#[tokio::test(start_paused = true)]
async fn a_definition_whose_objects_cannot_be_read_holds_up_no_other() {
    let (server, mood) = moody(Mood::Failing).await;
    for group in ["slow.example.com", "fast.example.com"] {
        let made = definition(group);
        definitions(server.client()).create(&PostParams::default(), &made).await.unwrap();
    }
    established(&server, "fast.example.com").await;
    assert!(!is_established(&server, "slow.example.com").await);
    assert_eq!(get(&server, "/apis/slow.example.com/v1/things").await.code, 404);

    mood.send(Mood::Well).unwrap();
    established(&server, "slow.example.com").await;
    assert_eq!(get(&server, "/apis/slow.example.com/v1/things").await.code, 200);
}

#[tokio::test(start_paused = true)]
async fn definitions_of_one_name_come_and_go_one_after_the_other() {
    let (server, _mood) = moody(Mood::Well).await;
    let api = definitions(server.client());
    for round in 0..20 {
        let made = definition("fast.example.com");
        let uid = api.create(&PostParams::default(), &made).await.unwrap().uid();
        // Some are deleted before they are served.
        if round % 3 > 0 {
            established(&server, "fast.example.com").await;
        }
        api.delete("things.fast.example.com", &DeleteParams::default()).await.unwrap();
        let gone = async {
            while api.get_opt("things.fast.example.com").await.unwrap().is_some() {
                tokio::task::yield_now().await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let gone = tokio::time::timeout(Duration::from_secs(300), gone).await;
        assert!(gone.is_ok(), "{uid:?} of round {round} stayed");
    }
    assert!(api.list(&ListParams::default()).await.unwrap().items.is_empty());
    assert_eq!(get(&server, "/apis/fast.example.com/v1/things").await.code, 404);
}
