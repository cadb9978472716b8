//! Objects through an in-process client: created, read, changed, deleted.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{config_map, pod, server};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

#[tokio::test]
async fn an_object_is_created_read_replaced_and_deleted() {
    let server = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());

    let created = maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    assert!(created.metadata.uid.is_some() && created.metadata.creation_timestamp.is_some());
    let read = maps.get("a").await.unwrap();
    assert_eq!(read, created);

    let mut changed = read.clone();
    changed.data = config_map("a", "2").data;
    let replaced = maps.replace("a", &PostParams::default(), &changed).await.unwrap();
    assert_ne!(replaced.metadata.resource_version, created.metadata.resource_version);
    assert_eq!(maps.get("a").await.unwrap(), replaced);

    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn an_update_of_an_old_version_is_a_conflict() {
    let server = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    let old = maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let mut newer = old.clone();
    newer.data = None;
    maps.replace("a", &PostParams::default(), &newer).await.unwrap();

    let error = maps.replace("a", &PostParams::default(), &old).await.unwrap_err();

    let kube::Error::Api(status) = error else { panic!("{error}") };
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    assert_eq!(
        status.message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please \
         apply your changes to the latest version and try again"
    );
}

#[tokio::test]
async fn an_update_that_changes_nothing_keeps_the_version() {
    let server = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    let created = maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let same = maps.replace("a", &PostParams::default(), &created).await.unwrap();
    assert_eq!(same, created);
}

#[tokio::test]
async fn names_are_generated() {
    let server = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    let mut map = config_map("", "1");
    map.metadata.name = None;
    map.metadata.generate_name = Some("web-".into());
    let created = maps.create(&PostParams::default(), &map).await.unwrap();
    let name = created.metadata.name.unwrap();
    assert_eq!((name.len(), &name[..4]), (9, "web-"));
}

#[tokio::test]
async fn finalizers_keep_an_object_until_they_are_gone() {
    let server = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    let mut map = config_map("a", "1");
    map.metadata.finalizers = Some(vec!["example.com/wait".into()]);
    maps.create(&PostParams::default(), &map).await.unwrap();

    maps.delete("a", &DeleteParams::default()).await.unwrap();
    let marked = maps.get("a").await.unwrap();
    assert!(marked.metadata.deletion_timestamp.is_some());

    let patch = json!({ "metadata": { "finalizers": null } });
    maps.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let server = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let answer = maps.create(&dry, &config_map("a", "1")).await.unwrap();
    assert!(answer.metadata.uid.is_some());
    assert!(maps.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn lists_come_in_pages_of_one_version() {
    let server = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    for name in ["a", "b", "c", "d", "e"] {
        maps.create(&PostParams::default(), &config_map(name, "1")).await.unwrap();
    }
    let first = maps.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!(first.metadata.remaining_item_count, Some(3));
    maps.delete("c", &DeleteParams::default()).await.unwrap();
    maps.create(&PostParams::default(), &config_map("cc", "1")).await.unwrap();

    let next = ListParams::default().limit(9).continue_token(&first.metadata.continue_.unwrap());
    let second = maps.list(&next).await.unwrap();

    let names: Vec<_> = second.items.iter().map(|map| map.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, ["c", "d", "e"]);
    assert_eq!(second.metadata.resource_version, first.metadata.resource_version);
}

#[tokio::test]
async fn a_namespace_is_terminating_until_it_is_finalized() {
    let server = server().await;
    let namespaces: Api<Namespace> = Api::all(server.client());
    let made: Namespace =
        serde_json::from_value(json!({ "metadata": { "name": "work" } })).unwrap();
    let made = namespaces.create(&PostParams::default(), &made).await.unwrap();
    assert_eq!(made.spec.unwrap().finalizers.unwrap(), ["kubernetes"]);

    namespaces.delete("work", &DeleteParams::default()).await.unwrap();

    let marked = namespaces.get("work").await.unwrap();
    assert_eq!(marked.status.unwrap().phase.as_deref(), Some("Terminating"));
}

#[tokio::test]
async fn an_unscheduled_pod_is_deleted_at_once() {
    let server = server().await;
    let pods: Api<Pod> = Api::default_namespaced(server.client());
    pods.create(&PostParams::default(), &pod("a")).await.unwrap();
    pods.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(pods.get_opt("a").await.unwrap().is_none());
}
