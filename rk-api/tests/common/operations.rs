//! All that clients can do with objects of a kind, as Kubernetes' own tests of kinds do it.

use std::pin::pin;

use futures::StreamExt;
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchParams},
    core::{ApiResource, DynamicObject, GroupVersionKind, WatchEvent},
};
use rk_api::server::ApiServer;
use serde_json::{Value, json};

use crate::common::{get, server};

/// A kind of a cluster's own objects, in version v1 of its group.
pub struct Kind<'a> {
    pub group: &'a str,
    pub plural: &'a str,
    pub name: &'a str,
    /// What an object's `spec` may be.
    pub spec: Value,
}

impl Kind<'_> {
    fn api(&self, server: &ApiServer) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk(self.group, "v1", self.name);
        Api::all_with(server.client(), &ApiResource::from_gvk_with_plural(&kind, self.plural))
    }

    fn object(&self, name: &str) -> DynamicObject {
        let object = json!({
            "apiVersion": format!("{}/v1", self.group), "kind": self.name,
            "metadata": { "name": name, "labels": { "test": "yes" } },
            "spec": self.spec,
        });
        serde_json::from_value(object).unwrap()
    }

    async fn is_discovered(&self, server: &ApiServer, has_status: bool) {
        let group = self.group;
        let groups = get(server, "/apis").await.body;
        let groups = groups["groups"].as_array().unwrap();
        assert!(groups.iter().any(|found| found["name"] == group));
        let found = get(server, &format!("/apis/{group}")).await.body;
        assert_eq!(found["preferredVersion"]["version"], "v1");
        let list = get(server, &format!("/apis/{group}/v1")).await.body;
        let resources = list["resources"].as_array().unwrap();
        let has = |name: String| resources.iter().any(|resource| resource["name"] == name);
        assert!(has(self.plural.to_owned()));
        assert_eq!(has(format!("{}/status", self.plural)), has_status);
    }
}

/// Does with objects of a kind all that can be done with them, on a server of its own. `condition` is
/// a type of condition for the `status`, of a kind that has one.
pub async fn every_operation(kind: Kind<'_>, condition: Option<&str>) {
    let server = server().await;
    kind.is_discovered(&server, condition.is_some()).await;
    let api = kind.api(&server);
    let labelled = ListParams::default().labels("test=yes");
    let params = PostParams::default();

    let created = api.create(&params, &kind.object("a")).await.unwrap();
    assert_eq!(api.get("a").await.unwrap().metadata.uid, created.metadata.uid);
    let list = api.list(&labelled).await.unwrap();
    assert_eq!(list.items.len(), 1);
    let since = list.metadata.resource_version.unwrap();
    let watch = WatchParams::default().labels("test=yes").timeout(120);
    let mut watch = pin!(api.watch(&watch, &since).await.unwrap());

    let annotate = json!({ "metadata": { "annotations": { "patched": "true" } } });
    let patched = api.patch("a", &PatchParams::default(), &Patch::Merge(annotate)).await.unwrap();
    assert_eq!(annotations(&patched), ["patched"]);
    let updated = loop {
        let mut read = api.get("a").await.unwrap();
        read.metadata.annotations.as_mut().unwrap().insert("updated".into(), "true".into());
        if let Some(updated) = unless_conflict(api.replace("a", &params, &read).await) {
            break updated;
        }
    };
    assert_eq!(annotations(&updated), ["patched", "updated"]);
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last: &Vec<String>| last.len() != 2) {
        match watch.next().await.expect("the watch goes on").unwrap() {
            WatchEvent::Modified(object) => seen.push(annotations(&object)),
            other => assert!(matches!(other, WatchEvent::Bookmark(_)), "{other:?}"),
        }
    }
    assert!(seen.contains(&vec!["patched".to_owned()]), "{seen:?}");

    if let Some(condition) = condition {
        the_status_is_written(&api, condition).await;
    }

    api.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(api.get_opt("a").await.unwrap().is_none());
    loop {
        match watch.next().await.expect("the watch goes on").unwrap() {
            WatchEvent::Deleted(object) => {
                assert_eq!(object.metadata.uid, created.metadata.uid);
                break;
            }
            WatchEvent::Modified(_) | WatchEvent::Bookmark(_) => {}
            other => panic!("{other:?}"),
        }
    }
    for name in ["b", "c"] {
        api.create(&params, &kind.object(name)).await.unwrap();
    }
    api.delete_collection(&DeleteParams::default(), &labelled).await.unwrap();
    assert!(api.list(&labelled).await.unwrap().items.is_empty());
}

async fn the_status_is_written(api: &Api<DynamicObject>, condition: &str) {
    let since = "2026-01-01T00:00:00Z";
    let conditions = json!([{
        "type": condition, "status": "True", "reason": "PatchStatus", "message": "patched",
        "lastTransitionTime": since,
    }]);
    let patch = Patch::Merge(json!({ "status": { "conditions": conditions } }));
    let patched = api.patch_status("a", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(reason(&patched, condition), "PatchStatus");
    let updated = loop {
        let mut read = api.get_status("a").await.unwrap();
        let conditions = read.data["status"]["conditions"].as_array_mut().unwrap();
        let of_test = conditions.iter_mut().find(|found| found["type"] == condition);
        of_test.unwrap()["reason"] = "UpdateStatus".into();
        let result = api.replace_status("a", &PostParams::default(), &read).await;
        if let Some(updated) = unless_conflict(result) {
            break updated;
        }
    };
    assert_eq!(reason(&updated, condition), "UpdateStatus");
}

fn annotations(object: &DynamicObject) -> Vec<String> {
    object.metadata.annotations.iter().flatten().map(|(name, _)| name.clone()).collect()
}

fn reason<'a>(object: &'a DynamicObject, condition: &str) -> &'a str {
    let conditions = object.data["status"]["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|found| found["type"] == condition).unwrap();
    found["reason"].as_str().unwrap()
}

/// What was written; `None` if the server itself, which keeps the status of some kinds, came first.
fn unless_conflict<T>(result: kube::Result<T>) -> Option<T> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 409 => None,
        result => Some(result.unwrap()),
    }
}
