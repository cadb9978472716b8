//! Lists and where watches begin: which version a client gets for which parameters, page by page,
//! across writes and after compaction (KEP-365, KEP-2340, KEP-3157).
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use common::{Answer, config_map, get, server, server_in_memory};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use proptest::prelude::*;
use rk_api::server::ApiServer;
use rk_store::{
    EmbeddedStore, Expect, Range, RangeResponse, Revision, Store, StoreError, Versioned,
    WatchStream,
};
use serde_json::{Value, json};
use tokio::sync::watch;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn maps(server: &ApiServer) -> Api<ConfigMap> {
    Api::default_namespaced(server.client())
}

/// Creates maps of these names and returns the version of each.
async fn create(server: &ApiServer, names: &[&str]) -> Vec<String> {
    let mut versions = Vec::new();
    for name in names {
        let map = maps(server).create(&PostParams::default(), &config_map(name, "v")).await;
        versions.push(map.unwrap().metadata.resource_version.unwrap());
    }
    versions
}

fn names(answer: &Answer) -> Vec<&str> {
    assert_eq!(answer.code, 200, "{}", answer.body);
    let items = answer.body["items"].as_array().unwrap();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

fn meta<'a>(answer: &'a Answer, key: &str) -> &'a Value {
    &answer.body["metadata"][key]
}

async fn list(server: &ApiServer, query: &str) -> Answer {
    get(server, &format!("{MAPS}?{query}")).await
}

#[tokio::test]
async fn a_version_is_exact_or_the_least() {
    let server = server().await;
    let at = create(&server, &["a", "b", "c", "d"]).await;
    let second = &at[1];

    let exact =
        list(&server, &format!("resourceVersion={second}&resourceVersionMatch=Exact")).await;
    assert_eq!((names(&exact), meta(&exact, "resourceVersion")), (vec!["a", "b"], &json!(second)));
    let limited = list(&server, &format!("resourceVersion={second}&limit=1")).await;
    assert_eq!(names(&limited), ["a"]);
    assert_eq!(meta(&limited, "resourceVersion"), &json!(second));
    assert_eq!(meta(&limited, "remainingItemCount"), &json!(1));

    for query in [
        format!("resourceVersion={second}&resourceVersionMatch=NotOlderThan"),
        format!("resourceVersion={second}"),
        "resourceVersion=0".to_owned(),
        "resourceVersion=0&resourceVersionMatch=NotOlderThan".to_owned(),
        String::new(),
    ] {
        assert_eq!(names(&list(&server, &query).await), ["a", "b", "c", "d"], "{query}");
    }
    let least = format!("resourceVersion={second}&resourceVersionMatch=NotOlderThan&limit=3");
    let least = list(&server, &least).await;
    assert_eq!(names(&least), ["a", "b", "c"]);
    assert!(meta(&least, "resourceVersion") != second);
}

#[tokio::test]
async fn a_list_of_any_version_comes_whole() {
    let server = server().await;
    create(&server, &["a", "b", "c"]).await;
    let all = list(&server, "resourceVersion=0&limit=1").await;
    assert_eq!(names(&all), ["a", "b", "c"]);
    assert!(meta(&all, "continue").is_null() && meta(&all, "remainingItemCount").is_null());
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_still_to_come_is_waited_for_and_then_refused() {
    let server = server_in_memory().await;
    for query in ["resourceVersion=999999", "resourceVersion=999999&resourceVersionMatch=Exact"] {
        let answer = list(&server, query).await;
        assert_eq!((answer.code, &answer.body["reason"]), (504, &json!("Timeout")));
        let message = answer.body["message"].as_str().unwrap();
        assert!(
            message.starts_with("Timeout: Too large resource version: 999999, current: "),
            "{message}"
        );
        let details = &answer.body["details"];
        assert_eq!(details["causes"][0]["reason"], "ResourceVersionTooLarge");
        assert_eq!(details["retryAfterSeconds"], 1);
    }
}

#[tokio::test]
async fn a_version_that_is_no_number_is_refused() {
    let server = server().await;
    let why = "resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid \
               syntax";
    let listed = list(&server, "resourceVersion=x").await;
    let message = json!(format!("invalid resource version: {why}"));
    assert_eq!((listed.code, &listed.body["message"]), (400, &message));
    let watched = list(&server, "watch=1&resourceVersion=x").await;
    assert_eq!((watched.code, &watched.body["message"]), (500, &json!(why)));
}

#[tokio::test]
async fn how_many_remain_is_told_unless_a_selector_hides_it() {
    let server = server().await;
    create(&server, &["a", "b", "c"]).await;
    let page = list(&server, "limit=1").await;
    assert_eq!(meta(&page, "remainingItemCount"), &json!(2));
    for selector in ["labelSelector=!x", "fieldSelector=metadata.name!%3Dz"] {
        let page = list(&server, &format!("limit=1&{selector}")).await;
        assert!(meta(&page, "continue").is_string(), "{}", page.body);
        assert!(meta(&page, "remainingItemCount").is_null(), "{}", page.body);
    }
    let one = list(&server, "limit=1&fieldSelector=metadata.name%3Db").await;
    assert_eq!(names(&one), ["b"]);
    assert!(meta(&one, "continue").is_null());
}

#[tokio::test]
async fn pages_show_one_moment_whatever_happens_between_them() {
    let server = server().await;
    create(&server, &["a", "c", "e", "g"]).await;
    let mut page = list(&server, "limit=1").await;
    let version = meta(&page, "resourceVersion").clone();
    let mut seen = vec![names(&page)[0].to_owned()];
    for new in ["b", "d", "f", "h"] {
        let Some(token) = meta(&page, "continue").as_str() else { break };
        let token = token.to_owned();
        create(&server, &[new]).await;
        maps(&server).delete(&seen[seen.len() - 1], &DeleteParams::default()).await.unwrap();
        page = list(&server, &format!("limit=1&continue={token}")).await;
        assert_eq!(meta(&page, "resourceVersion"), &version);
        seen.extend(names(&page).into_iter().map(ToOwned::to_owned));
    }
    assert_eq!(seen, ["a", "c", "e", "g"]);
    assert!(meta(&page, "continue").is_null());
}

#[tokio::test]
async fn a_token_and_a_version_do_not_go_together() {
    let server = server().await;
    create(&server, &["a", "b"]).await;
    let page = list(&server, "limit=1").await;
    let token = meta(&page, "continue").as_str().unwrap();
    let refused = list(&server, &format!("continue={token}&resourceVersion=1")).await;
    let message = json!("specifying resource version is not allowed when using continue");
    assert_eq!((refused.code, &refused.body["message"]), (400, &message));
    let whole = list(&server, &format!("continue={token}&resourceVersion=0")).await;
    assert_eq!(names(&whole), ["b"]);
}

#[tokio::test]
async fn after_compaction_a_list_can_go_on_with_what_there_is_now() {
    let store = Arc::new(EmbeddedStore::in_memory());
    let server = ApiServer::builder(store.clone()).start().await.unwrap();
    let first = create(&server, &["a", "b", "c", "d"]).await;
    let page = list(&server, "limit=1").await;
    let token = meta(&page, "continue").as_str().unwrap().to_owned();
    maps(&server).delete("b", &DeleteParams::default()).await.unwrap();
    create(&server, &["e"]).await;
    store.compact(store.revision().await.unwrap()).await.unwrap();

    let expired = list(&server, &format!("limit=1&continue={token}")).await;
    assert_eq!((expired.code, &expired.body["reason"]), (410, &json!("Expired")));
    let message = expired.body["message"].as_str().unwrap();
    assert!(message.contains("or use the continue token in this response"), "{message}");
    let fresh = meta(&expired, "continue").as_str().unwrap();
    assert_ne!(fresh, token);

    let rest = list(&server, &format!("limit=2&continue={fresh}")).await;
    assert_eq!(names(&rest), ["c", "d"]);
    let token = meta(&rest, "continue").as_str().unwrap();
    let last = list(&server, &format!("limit=2&continue={token}")).await;
    assert_eq!(names(&last), ["e"]);
    // From here on the pages are consistent again.
    assert_eq!(meta(&last, "resourceVersion"), meta(&rest, "resourceVersion"));

    let exact = format!("resourceVersion={}&resourceVersionMatch=Exact", first[1]);
    let exact = list(&server, &exact).await;
    let message = json!("The resourceVersion for the provided list is too old.");
    assert_eq!((exact.code, &exact.body["message"]), (410, &message));
    assert!(meta(&exact, "continue").is_null());
}

/// The events that a watch sends within its time.
async fn watched(server: &ApiServer, query: &str) -> Vec<Value> {
    let path = format!("{MAPS}?watch=1&timeoutSeconds=1&{query}");
    let request = http::Request::get(path).body(Vec::<u8>::new().into()).unwrap();
    let response = server.client().send(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    body.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn shown(events: &[Value]) -> Vec<String> {
    let shown = |event: &Value| {
        let metadata = &event["object"]["metadata"];
        let name = metadata["name"].as_str().unwrap_or_default();
        let end = metadata["annotations"]["k8s.io/initial-events-end"].as_str();
        let end = if end == Some("true") { "end" } else { "" };
        format!("{} {name}{end}", event["type"].as_str().unwrap())
    };
    events.iter().map(shown).collect()
}

#[tokio::test(start_paused = true)]
async fn a_watch_begins_where_it_is_asked_to() {
    let server = server_in_memory().await;
    let at = create(&server, &["a", "b", "c"]).await;
    let check = async |query: &str, expected: &[&str]| {
        assert_eq!(shown(&watched(&server, query).await), expected, "{query}");
    };
    let all: &[&str] = &["ADDED a", "ADDED b", "ADDED c"];
    let all_and_end: &[&str] = &["ADDED a", "ADDED b", "ADDED c", "BOOKMARK end"];
    check("", all).await;
    check("resourceVersion=0", all).await;
    check(&format!("resourceVersion={}", at[0]), &["ADDED b", "ADDED c"]).await;
    check("fieldSelector=metadata.name%3Db", &["ADDED b"]).await;

    let initial = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    check(initial, all).await;
    check(&format!("{initial}&allowWatchBookmarks=true&resourceVersion={}", at[1]), all_and_end)
        .await;
    let none = "sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
    check(none, &[]).await;
    check(&format!("{none}&resourceVersion=0"), &[]).await;
    check(&format!("{none}&resourceVersion={}", at[1]), &["ADDED c"]).await;
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_initial_events_has_the_version_to_go_on_from() {
    let server = server_in_memory().await;
    create(&server, &["a"]).await;
    for query in
        ["resourceVersion=0", "", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan"]
    {
        let events = watched(&server, &format!("{query}&allowWatchBookmarks=true")).await;
        assert_eq!(shown(&events)[..2], ["ADDED a", "BOOKMARK end"], "{query}");
        let end = events[1]["object"]["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        let name = format!("later{}", end);
        create(&server, &[&name]).await;
        let later = watched(&server, &format!("resourceVersion={end}")).await;
        assert_eq!(shown(&later), [format!("ADDED {name}")]);
        maps(&server).delete(&name, &DeleteParams::default()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn once_a_watch_is_understood_its_failure_is_an_event() {
    let server = server_in_memory().await;
    let initial = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let events = watched(&server, &format!("{initial}&resourceVersion=999999")).await;
    assert_eq!(shown(&events), ["ERROR "]);
    assert_eq!(events[0]["object"]["code"], 504);
    let message = events[0]["object"]["message"].as_str().unwrap();
    assert!(message.starts_with("Timeout: Too large resource version: 999999"), "{message}");
}

/// A store whose watches stand still until they are let go.
#[derive(Debug)]
struct Slow {
    store: EmbeddedStore,
    go: watch::Receiver<bool>,
}

#[async_trait]
impl Store for Slow {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        self.store.get(key).await
    }
    async fn range(&self, range: Range<'_>) -> Result<RangeResponse, StoreError> {
        self.store.range(range).await
    }
    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        ttl: Option<std::time::Duration>,
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
        let batches = self.store.watch(prefix, from).await?;
        let go = self.go.clone();
        let held = batches.then(move |batch| {
            let mut go = go.clone();
            async move {
                let _ = go.wait_for(|go| *go).await;
                batch
            }
        });
        Ok(held.boxed())
    }
    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.store.compact(revision).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_consistent_list_does_without_a_cache_that_stands_still() {
    let (stand_still, go) = watch::channel(true);
    let store = Arc::new(Slow { store: EmbeddedStore::in_memory(), go });
    let server = ApiServer::builder(store.clone()).start().await.unwrap();
    server.roles_ready().await;
    create(&server, &["a"]).await;
    stand_still.send_replace(false);
    let stored = store.get("/registry/configmaps/default/a").await.unwrap().unwrap();
    for name in ["b", "c"] {
        let key = format!("/registry/configmaps/default/{name}");
        let value = String::from_utf8_lossy(&stored.value).replace("\"a\"", &format!("\"{name}\""));
        store.put(&key, value.into(), Expect::Absent, None).await.unwrap();
    }

    let first = list(&server, "limit=2").await;
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(meta(&first, "remainingItemCount"), &json!(1));
    assert_eq!(names(&list(&server, "resourceVersion=0").await), ["a"]);
    stand_still.send_replace(true);
    let token = meta(&first, "continue").as_str().unwrap();
    assert_eq!(names(&list(&server, &format!("limit=2&continue={token}")).await), ["c"]);
}

/// What a list as of each version must show: the slow, obvious model.
type History = Vec<(u64, BTreeMap<String, String>)>;

async fn write(server: &ApiServer, history: &mut History, name: &str, deletes: bool) {
    let mut state = history.last().map(|(_, state)| state.clone()).unwrap_or_default();
    let maps = maps(server);
    let version = match (state.contains_key(name), deletes) {
        (true, true) => {
            maps.delete(name, &DeleteParams::default()).await.unwrap();
            state.remove(name);
            let list = get(server, &format!("{MAPS}?limit=1")).await;
            meta(&list, "resourceVersion").as_str().unwrap().to_owned()
        }
        (exists, _) => {
            let value = history.len().to_string();
            let map = config_map(name, &value);
            let map = match exists {
                true => maps.replace(name, &PostParams::default(), &map).await.unwrap(),
                false => maps.create(&PostParams::default(), &map).await.unwrap(),
            };
            state.insert(name.to_owned(), value);
            map.metadata.resource_version.unwrap()
        }
    };
    history.push((version.parse().unwrap(), state));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn every_version_is_listed_as_it_was(
        writes in proptest::collection::vec((0_u8..6, any::<bool>()), 1..20),
        limit in 1_usize..4,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = server().await;
            server.roles_ready().await;
            let mut history = History::new();
            for (name, deletes) in writes {
                write(&server, &mut history, &format!("m{name}"), deletes).await;
            }
            for (version, state) in history {
                let mut query = format!("resourceVersion={version}&resourceVersionMatch=Exact");
                let mut listed = BTreeMap::new();
                loop {
                    let page = list(&server, &format!("{query}&limit={limit}")).await;
                    assert!(names(&page).len() <= limit);
                    for item in page.body["items"].as_array().unwrap() {
                        let name = item["metadata"]["name"].as_str().unwrap().to_owned();
                        listed.insert(name, item["data"]["k"].as_str().unwrap().to_owned());
                    }
                    match meta(&page, "continue").as_str() {
                        Some(token) => query = format!("continue={token}"),
                        None => break,
                    }
                }
                assert_eq!(listed, state, "as of {version}");
            }
        });
    }
}
