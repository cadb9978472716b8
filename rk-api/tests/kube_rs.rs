//! What programs written with kube-rs do: reflectors, controllers, finalizers, apply, metadata,
//! discovery, events and leases, as its examples show them.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::BTreeSet,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use common::{config_map, server};
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Event, ObjectReference, Pod, Secret},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client, Discovery, Resource, ResourceExt,
    api::{
        DeleteParams, DynamicObject, GetParams, ListParams, Patch, PatchParams, PostParams,
        ValidationDirective,
    },
    core::{GroupVersionKind, PartialObjectMeta, PartialObjectMetaExt, TypeMeta},
    discovery::{Scope, verbs},
    runtime::{
        Controller, WatchStreamExt,
        controller::Action,
        events::{Event as NewEvent, EventType, Recorder, Reporter},
        finalizer::{Event as Finalizer, finalizer},
        predicates, reflector,
        reflector::ObjectRef,
        wait::{Condition, await_condition, conditions},
        watcher,
    },
};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(30);

fn maps(client: &Client) -> Api<ConfigMap> {
    Api::default_namespaced(client.clone())
}

async fn create(client: &Client, name: &str, value: &str) {
    maps(client).create(&PostParams::default(), &config_map(name, value)).await.unwrap();
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap()
}

/// The next events of a watch, shown in short, until the one that is `last`.
async fn events_until<K: Resource>(
    stream: &mut (impl Stream<Item = watcher::Result<watcher::Event<K>>> + Unpin),
    last: &str,
) -> Vec<String> {
    let mut shown = Vec::new();
    while shown.last().is_none_or(|event| event != last) {
        shown.push(match soon(stream.try_next()).await.unwrap().unwrap() {
            watcher::Event::Init => "init".to_owned(),
            watcher::Event::InitApply(object) => format!("+{}", object.name_any()),
            watcher::Event::InitDone => "done".to_owned(),
            watcher::Event::Apply(object) => format!("={}", object.name_any()),
            watcher::Event::Delete(object) => format!("-{}", object.name_any()),
        });
    }
    shown
}

async fn follows(config: watcher::Config) {
    let server = server().await;
    let client = server.client();
    create(&client, "a", "1").await;
    create(&client, "b", "1").await;
    let mut stream = pin!(watcher(maps(&client), config));
    let initial = events_until(&mut stream, "done").await;
    assert_eq!(initial, ["init", "+a", "+b", "done"]);

    create(&client, "c", "1").await;
    maps(&client).delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(events_until(&mut stream, "-a").await, ["=c", "-a"]);
}

#[tokio::test]
async fn a_watcher_lists_and_watches() {
    follows(watcher::Config::default()).await;
    follows(watcher::Config::default().any_semantic()).await;
    follows(watcher::Config::default().page_size(1)).await;
}

#[tokio::test]
async fn a_watcher_streams_its_list() {
    follows(watcher::Config::default().streaming_lists()).await;
}

#[tokio::test]
async fn a_streamed_list_of_what_there_is_not_ends_too() {
    let server = server().await;
    let client = server.client();
    create(&client, "a", "1").await;
    let config = watcher::Config::default().streaming_lists().labels("app=none");
    let mut stream = pin!(watcher(maps(&client), config));
    assert_eq!(events_until(&mut stream, "done").await, ["init", "done"]);
}

#[tokio::test]
async fn a_streamed_list_of_many_is_whole() {
    let server = server().await;
    let client = server.client();
    for number in 0..300 {
        create(&client, &format!("m{number:03}"), &"x".repeat(2_000)).await;
    }
    let config = watcher::Config::default().streaming_lists();
    let mut stream = pin!(watcher(maps(&client), config));
    let events = events_until(&mut stream, "done").await;
    assert_eq!(events.len(), 302);
    assert!(events[1..301].is_sorted());
}

#[tokio::test]
async fn metadata_alone_can_be_watched() {
    let server = server().await;
    let client = server.client();
    create(&client, "a", &"x".repeat(10_000)).await;
    let api: Api<PartialObjectMeta<ConfigMap>> = Api::default_namespaced(client.clone());
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut stream = pin!(watcher(api.clone(), config));
        assert_eq!(events_until(&mut stream, "done").await, ["init", "+a", "done"]);
    }
}

#[tokio::test]
async fn a_reflector_keeps_a_store_up_to_date() {
    let server = server().await;
    let client = server.client();
    create(&client, "a", "1").await;
    let (reader, writer) = reflector::store();
    let stream = watcher(maps(&client), watcher::Config::default().streaming_lists());
    let stream = stream
        .default_backoff()
        .modify(|map| map.managed_fields_mut().clear())
        .reflect(writer)
        .applied_objects()
        .predicate_filter(predicates::resource_version, Default::default());
    let mut stream = pin!(stream);

    let first = soon(stream.try_next()).await.unwrap().unwrap();
    assert_eq!(first.name_any(), "a");
    create(&client, "b", "2").await;
    soon(stream.try_next()).await.unwrap().unwrap();
    soon(reader.wait_until_ready()).await.unwrap();
    let found = reader.get(&ObjectRef::new("b").within("default")).unwrap();
    assert_eq!(found.data.as_ref().unwrap()["k"], "2");
    assert!(found.managed_fields().is_empty());
    assert_eq!(reader.len(), 2);
}

#[tokio::test]
async fn a_change_of_the_status_alone_does_not_pass_a_generation_predicate() {
    let server = server().await;
    let api: Api<Deployment> = Api::default_namespaced(server.client());
    let deployment = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]},
        }},
    }));
    api.create(&PostParams::default(), &deployment.unwrap()).await.unwrap();
    let stream = watcher(api.clone(), watcher::Config::default())
        .applied_objects()
        .predicate_filter(predicates::generation, Default::default());
    let mut stream = pin!(stream);
    soon(stream.try_next()).await.unwrap().unwrap();

    let merge = |patch| Patch::Merge(patch);
    let status = merge(json!({"status": {"replicas": 1}}));
    api.patch_status("web", &PatchParams::default(), &status).await.unwrap();
    let spec = merge(json!({"spec": {"replicas": 3}}));
    api.patch("web", &PatchParams::default(), &spec).await.unwrap();
    let next = soon(stream.try_next()).await.unwrap().unwrap();
    assert_eq!(next.spec.replicas, Some(3));
}

#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Failed(#[from] kube::Error);

struct Shared {
    client: Client,
    reconciled: AtomicUsize,
}

/// Makes a Secret for each ConfigMap, as kube's `configmapgen` example does.
async fn make_secret(map: Arc<ConfigMap>, shared: Arc<Shared>) -> Result<Action, Failed> {
    let owner = map.controller_owner_ref(&()).into_iter().collect();
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(map.name_any()),
            owner_references: Some(owner),
            ..ObjectMeta::default()
        },
        string_data: map.data.clone(),
        ..Secret::default()
    };
    let secrets: Api<Secret> = Api::default_namespaced(shared.client.clone());
    let params = PatchParams::apply("maps.example.com").force();
    secrets.patch(&map.name_any(), &params, &Patch::Apply(&secret)).await?;
    shared.reconciled.fetch_add(1, SeqCst);
    Ok(Action::requeue(Duration::from_secs(300)))
}

#[tokio::test]
async fn a_controller_makes_what_it_owns_and_makes_it_again() {
    let server = server().await;
    let client = server.client();
    let selected = watcher::Config::default().labels("secret=yes");
    let shared = Arc::new(Shared { client: client.clone(), reconciled: AtomicUsize::new(0) });
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    let controller = Controller::new(maps(&client), selected)
        .owns(secrets.clone(), watcher::Config::default().streaming_lists())
        .run(make_secret, |_, _, _| Action::requeue(Duration::from_secs(1)), shared.clone())
        .for_each(|_| futures::future::ready(()));
    let running = tokio::spawn(controller);

    create(&client, "other", "1").await;
    let mut map = config_map("mine", "1");
    map.labels_mut().insert("secret".into(), "yes".into());
    maps(&client).create(&PostParams::default(), &map).await.unwrap();
    let exists = |secret: Option<&Secret>| secret.is_some();
    let made = soon(await_condition(secrets.clone(), "mine", exists)).await.unwrap().unwrap();
    assert_eq!(made.data.unwrap()["k"].0, b"1");
    assert!(secrets.get_opt("other").await.unwrap().is_none());

    secrets.delete("mine", &DeleteParams::default()).await.unwrap();
    let uid = made.metadata.uid.unwrap();
    let again = |secret: Option<&Secret>| {
        secret.is_some_and(|secret| secret.metadata.uid.as_deref() != Some(&uid))
    };
    soon(await_condition(secrets.clone(), "mine", again)).await.unwrap();
    assert!(shared.reconciled.load(SeqCst) >= 2);
    running.abort();
}

#[tokio::test]
async fn a_finalizer_is_put_on_first_and_taken_off_last() {
    const NAME: &str = "example.com/cleanup";
    let server = server().await;
    let client = server.client();
    let api = maps(&client);
    create(&client, "a", "1").await;
    let step = async || {
        let map = Arc::new(api.get("a").await.unwrap());
        let seen = std::sync::Mutex::new("");
        let outcome = finalizer(&api, NAME, map, |event| {
            *seen.lock().unwrap() = match event {
                Finalizer::Apply(_) => "apply",
                Finalizer::Cleanup(_) => "cleanup",
            };
            async { Ok::<_, Failed>(Action::await_change()) }
        });
        outcome.await.unwrap();
        seen.into_inner().unwrap()
    };
    assert_eq!(step().await, "");
    assert_eq!(api.get("a").await.unwrap().finalizers(), [NAME]);
    assert_eq!(step().await, "apply");

    let deleting = api.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(deleting.left().unwrap().metadata.deletion_timestamp.is_some());
    assert_eq!(step().await, "cleanup");
    assert!(api.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn apply_creates_and_owns_and_tells_of_conflicts() {
    let server = server().await;
    let api = maps(&server.client());
    let applied = |manager: &str, value: &str| {
        let metadata = json!({"name": "a"});
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"k": value},
        });
        let (api, params) = (api.clone(), PatchParams::apply(manager));
        async move { api.patch("a", &params, &Patch::Apply(map)).await }
    };
    assert!(applied("one", "1").await.is_ok());
    assert!(applied("one", "2").await.is_ok());
    let kube::Error::Api(status) = applied("two", "3").await.unwrap_err() else { panic!() };
    assert!(status.is_conflict());
    assert_eq!(status.details.unwrap().causes[0].field, ".data.k");
    assert!(applied("two", "2").await.is_ok());
    let managers: BTreeSet<_> = api
        .get("a")
        .await
        .unwrap()
        .managed_fields()
        .iter()
        .map(|entry| entry.manager.clone().unwrap())
        .collect();
    assert_eq!(managers, BTreeSet::from(["one".to_owned(), "two".to_owned()]));

    let strict = PatchParams {
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply("one")
    };
    let metadata = json!({"name": "a"});
    let unknown = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "foo": 1});
    assert!(api.patch("a", &strict, &Patch::Apply(unknown)).await.is_err());
    let dry = PatchParams::apply("one").dry_run();
    let other = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"l": "1"},
    });
    assert_eq!(api.patch("a", &dry, &Patch::Apply(other)).await.unwrap().data.unwrap()["k"], "2");
}

#[tokio::test]
async fn metadata_is_read_and_written_alone() {
    let server = server().await;
    let client = server.client();
    create(&client, "a", "1").await;
    let api = maps(&client);
    let meta = api.get_metadata("a").await.unwrap();
    assert_eq!(meta.types, Some(TypeMeta::list::<PartialObjectMeta<ConfigMap>>().singular()));
    assert_eq!(api.list_metadata(&ListParams::default()).await.unwrap().items.len(), 1);
    let labelled =
        ObjectMeta { labels: Some([("a".into(), "b".into())].into()), ..Default::default() };
    let params = PatchParams::apply("labels");
    let patch = Patch::Apply(labelled.into_request_partial::<ConfigMap>());
    let patched = api.patch_metadata("a", &params, &patch).await.unwrap();
    assert_eq!(patched.labels()["a"], "b");
    assert_eq!(api.get("a").await.unwrap().data.unwrap()["k"], "1");
}

trait Singular {
    fn singular(self) -> Self;
}

impl Singular for TypeMeta {
    fn singular(self) -> Self {
        TypeMeta { api_version: "meta.k8s.io/v1".into(), kind: "PartialObjectMetadata".into() }
    }
}

#[tokio::test]
async fn entries_are_changed_in_place() {
    let server = server().await;
    let client = server.client();
    let api = maps(&client);
    let entry = api.entry("a").await.unwrap().or_insert(|| config_map("a", "1"));
    let mut entry = entry;
    entry.commit(&PostParams::default()).await.unwrap();
    let mut entry = api.entry("a").await.unwrap().and_modify(|map| {
        map.data.get_or_insert_default().insert("l".into(), "2".into());
    });
    if let kube::api::entry::Entry::Occupied(entry) = &mut entry {
        entry.commit(&PostParams::default()).await.unwrap();
    }
    assert_eq!(api.get("a").await.unwrap().data.unwrap().len(), 2);
}

#[tokio::test]
async fn versions_of_reads_are_minded() {
    let server = server().await;
    let client = server.client();
    create(&client, "a", "1").await;
    let any = GetParams::any();
    assert_eq!(maps(&client).get_with("a", &any).await.unwrap().name_any(), "a");
    let version = maps(&client).get("a").await.unwrap().resource_version().unwrap();
    let at = GetParams::at(&version);
    assert_eq!(maps(&client).get_with("a", &at).await.unwrap().resource_version(), Some(version));
}

async fn discovered(discovery: Discovery) {
    let groups: BTreeSet<&str> = discovery.groups().map(|group| group.name()).collect();
    for group in ["", "apps", "batch", "rbac.authorization.k8s.io", "coordination.k8s.io"] {
        assert!(groups.contains(group), "{groups:?}");
    }
    let gvk = GroupVersionKind::gvk("apps", "v1", "Deployment");
    let (resource, capabilities) = discovery.resolve_gvk(&gvk).unwrap();
    assert_eq!(resource.plural, "deployments");
    assert_eq!(capabilities.scope, Scope::Namespaced);
    assert!(capabilities.supports_operation(verbs::PATCH));
    let subresources: BTreeSet<_> =
        capabilities.subresources.iter().map(|(resource, _)| resource.plural.clone()).collect();
    assert_eq!(subresources, BTreeSet::from(["scale".to_owned(), "status".to_owned()]));
    let (node, capabilities) = discovery.get("").unwrap().recommended_kind("Node").unwrap();
    assert_eq!((node.version.as_str(), capabilities.scope), ("v1", Scope::Cluster));
    assert_eq!(discovery.get("autoscaling").unwrap().preferred_version_or_latest(), "v2");
}

#[tokio::test]
async fn discovery_finds_all_kinds_one_way_or_the_other() {
    let server = server().await;
    discovered(Discovery::new(server.client()).run().await.unwrap()).await;
    discovered(Discovery::new(server.client()).run_aggregated().await.unwrap()).await;
}

#[tokio::test]
async fn objects_of_kinds_found_at_run_time() {
    let server = server().await;
    let client = server.client();
    let discovery = Discovery::new(client.clone()).filter(&["apps"]).run().await.unwrap();
    let gvk = GroupVersionKind::gvk("apps", "v1", "Deployment");
    let (resource, _) = discovery.resolve_gvk(&gvk).unwrap();
    let api: Api<DynamicObject> = Api::default_namespaced_with(client, &resource);
    let object = DynamicObject::new("web", &resource).data(json!({"spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}},
    }}));
    let params = PatchParams::apply("test");
    let made = api.patch("web", &params, &Patch::Apply(&object)).await.unwrap();
    assert_eq!(made.data["spec"]["replicas"], 1);
    let scale = api.get_scale("web").await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(1));
    let deleted = api.delete_collection(&DeleteParams::background(), &ListParams::default()).await;
    assert_eq!(deleted.unwrap().left().unwrap().items.len(), 1);
}

#[tokio::test]
async fn events_are_recorded_and_counted() {
    let server = server().await;
    let client = server.client();
    create(&client, "a", "1").await;
    let map = maps(&client).get("a").await.unwrap();
    let reporter = Reporter { controller: "tester".into(), instance: Some("one".into()) };
    let recorder = Recorder::new(client.clone(), reporter);
    let event = NewEvent {
        type_: EventType::Warning,
        reason: "Tested".into(),
        note: Some("it was tested".into()),
        action: "Testing".into(),
        secondary: None,
    };
    let about: ObjectReference = map.object_ref(&());
    for _ in 0..2 {
        recorder.publish(&event, &about).await.unwrap();
    }
    // What was written as events.k8s.io/v1 reads as core/v1 too.
    let events: Api<Event> = Api::default_namespaced(client);
    let events = events.list(&ListParams::default()).await.unwrap().items;
    let [event] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(event.involved_object.name.as_deref(), Some("a"));
    assert_eq!(event.message.as_deref(), Some("it was tested"));
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    assert_eq!(event.reporting_component.as_deref(), Some("tester"));
    assert_eq!(event.series.as_ref().and_then(|series| series.count), Some(2));
}

#[tokio::test]
async fn a_lease_is_taken_by_one_at_a_time() {
    use k8s_openapi::api::coordination::v1::Lease;
    let server = server().await;
    let api: Api<Lease> = Api::default_namespaced(server.client());
    let take = |holder: &'static str, version: Option<String>| {
        let api = api.clone();
        async move {
            let now: MicroTime = rk_api::clock::now_micros();
            let lease: Lease = serde_json::from_value(json!({
                "metadata": {"name": "leader", "resourceVersion": version},
                "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": now},
            }))
            .unwrap();
            match lease.resource_version() {
                None => api.create(&PostParams::default(), &lease).await,
                Some(_) => api.replace("leader", &PostParams::default(), &lease).await,
            }
        }
    };
    let lease = take("one", None).await.unwrap();
    let kube::Error::Api(status) = take("two", None).await.unwrap_err() else { panic!() };
    assert!(status.is_already_exists());
    let version = lease.resource_version();
    let (one, two) = tokio::join!(take("one", version.clone()), take("two", version));
    assert_eq!(usize::from(one.is_ok()) + usize::from(two.is_ok()), 1);
    let failed = one.err().or(two.err()).unwrap();
    let kube::Error::Api(status) = failed else { panic!() };
    assert!(status.is_conflict());
}

#[tokio::test]
async fn conditions_are_waited_for() {
    let server = server().await;
    let client = server.client();
    let pods: Api<Pod> = Api::default_namespaced(client);
    let params = DeleteParams::default().grace_period(0);
    let made = pods.create(&PostParams::default(), &common::pod("p")).await.unwrap();
    let uid = made.metadata.uid.unwrap();
    let waiting = tokio::spawn(await_condition(pods.clone(), "p", conditions::is_pod_running()));
    let running = Patch::Merge(json!({"status": {"phase": "Running"}}));
    pods.patch_status("p", &PatchParams::default(), &running).await.unwrap();
    let running = soon(waiting).await.unwrap().unwrap();
    assert!(conditions::is_pod_running().matches_object(running.as_ref()));
    let gone = await_condition(pods.clone(), "p", conditions::is_deleted(&uid));
    let (gone, deleted) = tokio::join!(soon(gone), pods.delete("p", &params));
    assert!(gone.is_ok() && deleted.is_ok());
}
