use std::time::Duration;

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde_json::{Value, json};

use super::*;
use crate::client::fake::{Reply, Script, status};

fn map(name: &str, version: u32, data: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"v": data},
        "metadata": {"namespace": "default", "name": name, "uid": format!("uid-{name}"),
            "resourceVersion": version.to_string()}})
}

fn list(version: u32, items: &[Value]) -> Reply {
    let list = json!({"kind": "ConfigMapList", "apiVersion": "v1",
        "metadata": {"resourceVersion": version.to_string()}, "items": items});
    Reply::Json(200, list)
}

fn event(kind: &str, object: Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

fn expired() -> String {
    event("ERROR", json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "old"}))
}

/// `+a1 ~a1>2 -a2`: what happened, to which object, with which data.
fn show(changes: &[Change<ConfigMap>]) -> String {
    let data = |object: &ConfigMap| object.data.as_ref().unwrap()["v"].clone();
    let name = |object: &ConfigMap| object.metadata.name.clone().unwrap();
    let shown: Vec<_> = changes
        .iter()
        .map(|change| match change {
            Change::Added(object) => format!("+{}{}", name(object), data(object)),
            Change::Updated { old, new } => format!("~{}{}>{}", name(new), data(old), data(new)),
            Change::Deleted(object) => format!("-{}{}", name(object), data(object)),
        })
        .collect();
    shown.join(" ")
}

async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

fn drain(subscription: &mut Subscription<ConfigMap>) -> String {
    let changes: Vec<_> = std::iter::from_fn(|| subscription.try_next()).collect();
    show(&changes)
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_sees_the_list_in_order_and_then_every_change() {
    let script = Script::default();
    script.reply(list(5, &[map("b", 3, "1"), map("a", 2, "1")]));
    let watch = script.watch();
    let informer = Informers::new(script.client()).of::<ConfigMap>();
    let mut subscription = informer.subscribe();
    informer.synced().await;

    assert_eq!(drain(&mut subscription), "+b1 +a1", "in the order of the list");
    assert_eq!(drain(&mut informer.subscribe()), "+a1 +b1", "in the order of the keys");

    watch.send(event("MODIFIED", map("a", 6, "2"))).unwrap();
    watch.send(event("ADDED", map("c", 7, "1"))).unwrap();
    watch.send(event("DELETED", map("b", 8, "9"))).unwrap();
    settle().await;

    assert_eq!(drain(&mut subscription), "~a1>2 +c1 -b9");
    let names: Vec<_> = informer.list().iter().map(|o| o.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, ["a", "c"]);
    assert_eq!(informer.list_in("default").len(), 2);
    assert!(informer.list_in("other").is_empty());
    assert!(informer.get("default", "b").is_none());
}

#[tokio::test(start_paused = true)]
async fn objects_come_without_managed_fields_from_lists_and_watches() {
    let managed = |name: &str, version: u32| {
        let mut object = map(name, version, "1");
        object["metadata"]["managedFields"] = json!([{"manager": "m", "fieldsV1": {"f:data": {}}}]);
        object
    };
    let script = Script::default();
    script.reply(list(5, &[managed("a", 3)]));
    let watch = script.watch();
    let informer = Informers::new(script.client()).of::<ConfigMap>();
    informer.synced().await;
    watch.send(event("ADDED", managed("b", 6))).unwrap();
    settle().await;

    let objects = informer.list();
    assert_eq!(objects.len(), 2);
    assert!(objects.iter().all(|object| object.metadata.managed_fields.is_none()));
}

#[tokio::test(start_paused = true)]
async fn a_slow_subscriber_sees_the_newest_state_once() {
    let script = Script::default();
    script.reply(list(1, &[map("a", 1, "1")]));
    let watch = script.watch();
    let informer = Informers::new(script.client()).of::<ConfigMap>();
    informer.synced().await;
    let mut subscription = informer.subscribe();
    assert_eq!(drain(&mut subscription), "+a1");

    for version in 2..100 {
        watch.send(event("MODIFIED", map("a", version, &version.to_string()))).unwrap();
    }
    watch.send(event("ADDED", map("b", 100, "1"))).unwrap();
    watch.send(event("DELETED", map("b", 101, "1"))).unwrap();
    settle().await;

    assert_eq!(drain(&mut subscription), "~a1>99");
}

#[tokio::test(start_paused = true)]
async fn an_object_replaced_under_its_name_is_deleted_and_added() {
    let script = Script::default();
    script.reply(list(1, &[map("a", 1, "1")]));
    let watch = script.watch();
    let informer = Informers::new(script.client()).of::<ConfigMap>();
    informer.synced().await;
    let mut subscription = informer.subscribe();
    assert_eq!(drain(&mut subscription), "+a1");

    watch.send(event("DELETED", map("a", 2, "final"))).unwrap();
    let mut again = map("a", 3, "new");
    again["metadata"]["uid"] = "another".into();
    watch.send(event("ADDED", again)).unwrap();
    settle().await;

    assert_eq!(drain(&mut subscription), "-afinal +anew");
}

#[tokio::test(start_paused = true)]
async fn an_expired_watch_lists_again_and_shows_only_the_difference() {
    let script = Script::default();
    script.reply(list(5, &[map("a", 1, "1"), map("b", 2, "1"), map("c", 3, "1")]));
    let watch = script.watch();
    let informer = Informers::new(script.client()).of::<ConfigMap>();
    let mut subscription = informer.subscribe();
    settle().await;
    drain(&mut subscription);

    script.reply(list(20, &[map("a", 1, "1"), map("b", 12, "2"), map("d", 13, "1")]));
    let _second = script.watch();
    watch.send(expired()).unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;

    assert_eq!(drain(&mut subscription), "-c1 ~b1>2 +d1");
    let queries: Vec<_> = script.calls().into_iter().map(|call| call.query).collect();
    assert_eq!(queries[0], "resourceVersion=0");
    assert!(queries[1].contains("resourceVersion=5&"), "{queries:?}");
    assert_eq!(queries[2], "limit=0", "the newest state, not just any");
    assert!(queries[3].contains("resourceVersion=20&"), "{queries:?}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_goes_on_from_the_last_version_or_bookmark() {
    let script = Script::default();
    script.reply(list(5, &[]));
    let watch = script.watch();
    let informer = Informers::new(script.client()).of::<ConfigMap>();
    settle().await;

    let _second = script.watch();
    watch.send(event("ADDED", map("a", 6, "1"))).unwrap();
    let bookmark = json!({"kind": "ConfigMap", "apiVersion": "v1",
        "metadata": {"resourceVersion": "9", "creationTimestamp": null}});
    watch.send(event("BOOKMARK", bookmark)).unwrap();
    settle().await;
    drop(watch);
    settle().await;

    let calls = script.calls();
    assert_eq!(calls.len(), 3);
    assert!(calls[2].query.contains("resourceVersion=9&"), "{}", calls[2].query);
    assert_eq!(informer.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn failures_are_retried_with_growing_pauses() {
    let script = Script::default();
    for _ in 0..6 {
        script.reply(status(503, "ServiceUnavailable"));
    }
    script.reply(list(5, &[map("a", 1, "1")]));
    let informers = Informers::new(script.client());
    let informer = informers.of::<ConfigMap>();
    let start = tokio::time::Instant::now();

    informers.synced().await;

    let waited = start.elapsed().as_secs_f64();
    assert!((0.8 * 63.0 * 0.7..60.0 * 6.0).contains(&waited), "{waited}");
    assert_eq!(informer.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn lines_may_come_in_pieces_and_several_at_once() {
    let script = Script::default();
    script.reply(list(5, &[]));
    let watch = script.watch();
    let informer = Informers::new(script.client()).of::<ConfigMap>();
    let text: String =
        (0..20).map(|n| event("ADDED", map(&format!("m{n:02}"), n + 6, "x"))).collect();

    let (head, tail) = text.split_at(text.len() / 3 + 7);
    watch.send(head.to_owned()).unwrap();
    settle().await;
    watch.send(tail[..1].to_owned()).unwrap();
    watch.send(tail[1..].to_owned()).unwrap();
    settle().await;

    assert_eq!(informer.len(), 20);
}

#[tokio::test(start_paused = true)]
async fn one_object_of_unexpected_form_does_not_hide_the_others() {
    let script = Script::default();
    let broken = json!({"metadata": {"name": "x", "resourceVersion": "4"}, "data": 7});
    script.reply(list(5, &[map("a", 1, "1"), broken.clone(), map("b", 2, "1")]));
    let watch = script.watch();
    let informer = Informers::new(script.client()).of::<ConfigMap>();
    informer.synced().await;

    watch.send(event("MODIFIED", broken)).unwrap();
    watch.send(event("ADDED", map("c", 8, "1"))).unwrap();
    settle().await;

    assert_eq!(informer.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_index_follows_changes() {
    let script = Script::default();
    script.reply(list(5, &[map("b", 1, "x"), map("a", 2, "x")]));
    let watch = script.watch();
    let informer = Informers::new(script.client()).of::<ConfigMap>();
    informer.add_index("data", |map| map.data.iter().flat_map(|d| d.values().cloned()).collect());
    informer.synced().await;
    let names = |value: &str| -> Vec<String> {
        informer.by_index("data", value).iter().filter_map(|o| o.metadata.name.clone()).collect()
    };
    assert_eq!(names("x"), ["a", "b"]);

    watch.send(event("MODIFIED", map("a", 6, "y"))).unwrap();
    watch.send(event("DELETED", map("b", 7, "x"))).unwrap();
    settle().await;

    assert!(names("x").is_empty());
    assert_eq!(names("y"), ["a"]);
    assert!(informer.by_index("unknown", "y").is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_informer_serves_all_and_ends_with_the_last_handle() {
    let script = Script::default();
    script.reply(list(5, &[]));
    let watch = script.watch();
    let informers = Informers::new(script.client());
    let first = informers.of::<ConfigMap>();
    let second = informers.of::<ConfigMap>();
    settle().await;
    assert_eq!(script.calls().len(), 2, "one list and one watch");

    let subscription = second.subscribe();
    drop((first, second));
    settle().await;
    assert!(!watch.is_closed(), "the subscription keeps it");

    drop(subscription);
    settle().await;
    assert!(watch.is_closed());
    assert_eq!(script.calls().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn selectors_are_sent_escaped() {
    let script = Script::default();
    let informers = Informers::new(script.client());
    let _informer = informers.selected::<ConfigMap>(Some("a in (b,c)"), Some("metadata.name=x"));
    settle().await;

    let query = &script.calls()[0].query;
    assert_eq!(
        query,
        "resourceVersion=0&labelSelector=a%20in%20%28b%2Cc%29&fieldSelector=metadata.name%3Dx"
    );
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_this_process_lasts_for_hours_and_asks_for_no_bookmarks() {
    let of_watch = async |informers: fn(kube::Client) -> Informers| {
        let script = Script::default();
        script.reply(list(5, &[]));
        let _informer = informers(script.client()).of::<ConfigMap>();
        settle().await;
        let query = script.calls()[1].query.clone();
        let (query, seconds) = query.rsplit_once("timeoutSeconds=").unwrap();
        (query.contains("allowWatchBookmarks"), seconds.parse::<u32>().unwrap())
    };
    let (bookmarks, seconds) = of_watch(Informers::new).await;
    assert!(bookmarks && (300..=600).contains(&seconds), "{bookmarks} {seconds}");
    let (bookmarks, seconds) = of_watch(Informers::in_process).await;
    assert!(!bookmarks && (14_400..=28_800).contains(&seconds), "{bookmarks} {seconds}");
}

/// Writes down what it takes in.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn note(&self, what: &str, objects: &[ObjectMeta]) {
        let names: Vec<_> = objects.iter().map(|object| object.name.as_deref().unwrap()).collect();
        self.0.lock().push(format!("{what} {}", names.join(",")));
    }
}

impl MetadataSink for Notes {
    fn replace(&self, all: Vec<ObjectMeta>) {
        self.note("all", &all);
    }

    fn put(&self, object: ObjectMeta) {
        self.note("put", &[object]);
    }

    fn remove(&self, object: ObjectMeta) {
        self.note("remove", &[object]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_metadata_of_any_kind_is_followed_through_a_gap() {
    let widgets = kube::core::ApiResource {
        group: "example.com".into(),
        version: "v1".into(),
        api_version: "example.com/v1".into(),
        kind: "Widget".into(),
        plural: "widgets".into(),
    };
    let script = Script::default();
    script.reply(list(5, &[map("a", 2, "1"), map("b", 3, "1")]));
    let watch = script.watch();
    script.reply(list(9, &[map("c", 8, "1")]));
    let notes = Notes::default();
    let informers = Informers::new(script.client());
    let follow = informers.follow_metadata(script.client(), &widgets, notes.clone());
    let follow = tokio::spawn(follow);
    settle().await;
    watch.send(event("ADDED", map("c", 6, "1"))).unwrap();
    watch.send(event("DELETED", map("b", 7, "1"))).unwrap();
    watch.send(expired()).unwrap();
    settle().await;

    assert_eq!(*notes.0.lock(), ["all a,b", "put c", "remove b", "all c"]);
    assert_eq!(script.calls()[0].path, "/apis/example.com/v1/widgets");
    follow.abort();
}
