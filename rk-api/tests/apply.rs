//! Server-side apply and managed fields through an in-process client.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{config_map, pod, server, server_in_memory};
use http::Request;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Pod},
    },
    apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use rk_api::server::{ApiServer, UserInfo};
use serde_json::{Value, json};

fn map(data: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "x" }, "data": data })
}

fn deployment(replicas: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "x" },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": { "app": "x" } },
            "template": {
                "metadata": { "labels": { "app": "x" } },
                "spec": { "containers": [{ "name": "c", "image": "i" }] },
            },
        },
    })
}

async fn maps() -> (ApiServer, Api<ConfigMap>) {
    maps_of(server().await)
}

fn maps_of(server: ApiServer) -> (ApiServer, Api<ConfigMap>) {
    let maps = Api::default_namespaced(server.client());
    (server, maps)
}

/// The entries as `manager/operation[/subresource] fields`.
fn entries(meta: &ObjectMeta) -> Vec<String> {
    let entry = |entry: &ManagedFieldsEntry| {
        let sub = entry.subresource.as_ref().map(|sub| format!("/{sub}")).unwrap_or_default();
        let fields = entry.fields_v1.as_ref().map(|fields| fields.0.to_string());
        format!(
            "{}/{}{sub} {}",
            entry.manager.as_deref().unwrap_or_default(),
            entry.operation.as_deref().unwrap_or_default(),
            fields.unwrap_or_default()
        )
    };
    meta.managed_fields.iter().flatten().map(entry).collect()
}

fn as_manager(manager: &str) -> PatchParams {
    PatchParams::apply(manager)
}

async fn send(client: &Client, request: Request<Vec<u8>>) -> Result<Value, kube::core::Status> {
    client.request(request).await.map_err(|error| match error {
        kube::Error::Api(status) => *status,
        other => panic!("{other}"),
    })
}

fn apply_request(path: &str, body: &Value) -> Request<Vec<u8>> {
    Request::patch(path)
        .header("content-type", "application/apply-patch+yaml")
        .body(body.to_string().into_bytes())
        .unwrap()
}

#[tokio::test]
async fn an_application_creates_and_then_changes() {
    let (_server, maps) = maps().await;

    let created =
        maps.patch("x", &as_manager("a"), &Patch::Apply(map(json!({"k": "v", "l": "w"})))).await;
    assert_eq!(entries(&created.unwrap().metadata), [r#"a/Apply {"f:data":{"f:k":{},"f:l":{}}}"#]);

    let changed = maps.patch("x", &as_manager("a"), &Patch::Apply(map(json!({"k": "w"})))).await;
    let changed = changed.unwrap();
    assert_eq!(serde_json::to_value(changed.data).unwrap(), json!({"k": "w"}));
    assert_eq!(entries(&changed.metadata), [r#"a/Apply {"f:data":{"f:k":{}}}"#]);
}

#[tokio::test(start_paused = true)]
async fn applying_the_same_again_writes_nothing() {
    let (_server, maps) = maps_of(server_in_memory().await);
    let once =
        maps.patch("x", &as_manager("a"), &Patch::Apply(map(json!({"k": "v"})))).await.unwrap();
    tokio::time::advance(Duration::from_secs(60)).await;
    let twice =
        maps.patch("x", &as_manager("a"), &Patch::Apply(map(json!({"k": "v"})))).await.unwrap();
    assert_eq!(once, twice);
}

#[tokio::test]
async fn a_conflict_names_managers_and_fields() {
    let (server, maps) = maps().await;
    let parameters =
        PostParams { field_manager: Some("poster".to_owned()), ..PostParams::default() };
    maps.create(&parameters, &config_map("x", "v")).await.unwrap();

    let path = "/api/v1/namespaces/default/configmaps/x?fieldManager=b";
    let error =
        send(&server.client(), apply_request(path, &map(json!({"k": "w"})))).await.unwrap_err();

    assert_eq!((error.code, error.reason.as_str()), (409, "Conflict"));
    assert_eq!(
        error.message,
        r#"Apply failed with 1 conflict: conflict with "poster" using v1: .data.k"#
    );
    let cause = &error.details.unwrap().causes[0];
    assert_eq!(
        (cause.reason.as_str(), cause.message.as_str(), cause.field.as_str()),
        ("FieldManagerConflict", r#"conflict with "poster" using v1"#, ".data.k")
    );
    let forced =
        maps.patch("x", &as_manager("b").force(), &Patch::Apply(map(json!({"k": "w"})))).await;
    assert_eq!(
        entries(&forced.unwrap().metadata),
        [r#"b/Apply {"f:data":{"f:k":{}}}"#, r#"poster/Update {"f:data":{}}"#]
    );
}

#[tokio::test]
async fn every_write_is_recorded() {
    let server = server().await;
    let client = server.client_as(UserInfo::new("system:kube-scheduler", ["system:masters"]));
    let pods: Api<Pod> = Api::default_namespaced(client);
    let created = pods.create(&PostParams::default(), &pod("p")).await.unwrap();
    let spec = r#"{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{},"f:imagePullPolicy":{},"f:name":{},"f:resources":{},"f:terminationMessagePath":{},"f:terminationMessagePolicy":{}}},"f:dnsPolicy":{},"f:enableServiceLinks":{},"f:restartPolicy":{},"f:schedulerName":{},"f:securityContext":{},"f:terminationGracePeriodSeconds":{}}}"#;
    assert_eq!(entries(&created.metadata), [format!("kube-scheduler/Update {spec}")]);

    let agent = PatchParams { field_manager: Some("kubelet".to_owned()), ..PatchParams::default() };
    let status = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }], "phase": "Running" } });
    let running = pods.patch_status("p", &agent, &Patch::Strategic(status)).await.unwrap();
    assert_eq!(
        entries(&running.metadata)[1],
        r#"kubelet/Update/status {"f:status":{"f:conditions":{".":{},"k:{\"type\":\"Ready\"}":{".":{},"f:status":{},"f:type":{}}},"f:phase":{}}}"#
    );

    let mut labelled = running.clone();
    labelled.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    let parameters =
        PostParams { field_manager: Some("labels".to_owned()), ..PostParams::default() };
    let labelled = pods.replace("p", &parameters, &labelled).await.unwrap();
    let entry = r#"labels/Update {"f:metadata":{"f:labels":{".":{},"f:a":{}}}}"#;
    assert!(
        entries(&labelled.metadata).iter().any(|found| found == entry),
        "{:?}",
        entries(&labelled.metadata)
    );
}

#[tokio::test]
async fn an_empty_list_or_entry_forgets_the_managers() {
    let (_server, maps) = maps().await;
    for managed in [json!([]), json!([{}])] {
        maps.patch("x", &as_manager("a").force(), &Patch::Apply(map(json!({"k": "v"}))))
            .await
            .unwrap();
        let reset = Patch::Merge(json!({ "metadata": { "managedFields": managed } }));
        let reset = maps.patch("x", &PatchParams::default(), &reset).await.unwrap();
        assert_eq!(reset.metadata.managed_fields, None);
    }
    // Nobody manages it now, so neither does an update.
    let data = Patch::Merge(json!({ "data": { "k": "w" } }));
    let updated = maps.patch("x", &PatchParams::default(), &data).await.unwrap();
    assert_eq!(updated.metadata.managed_fields, None);
    let applied =
        maps.patch("x", &as_manager("a").force(), &Patch::Apply(map(json!({"k": "v"})))).await;
    let applied = entries(&applied.unwrap().metadata);
    assert_eq!(applied[1], r#"before-first-apply/Update {"f:data":{}}"#);
}

#[tokio::test]
async fn managed_fields_that_make_no_sense_change_nothing() {
    let (_server, maps) = maps().await;
    let before =
        maps.patch("x", &as_manager("a"), &Patch::Apply(map(json!({"k": "v"})))).await.unwrap();
    let entry = json!({ "manager": "m", "operation": "Guess", "apiVersion": "v1", "fieldsType": "FieldsV1" });
    let patch = Patch::Merge(json!({ "metadata": { "managedFields": [entry] } }));
    let after = maps.patch("x", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(after, before);
}

#[tokio::test]
async fn what_an_application_needs_is_checked() {
    let server = server().await;
    let client = server.client();
    let path = "/api/v1/namespaces/default/configmaps/x";
    let check = async |path: &str, body: Value, code: u16, message: &str| {
        let error = send(&client, apply_request(path, &body)).await.unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (code, message));
    };
    let managed = format!("{path}?fieldManager=a");
    let good = map(json!({"k": "v"}));
    check(path, good.clone(), 422, "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch").await;
    check(&managed, json!([]), 400, "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal array into Go value of type map[string]interface {}").await;
    check(
        &managed,
        json!({ "apiVersion": "apps/v1", "kind": "Deployment" }),
        400,
        "invalid object type: apps/v1, Kind=Deployment",
    )
    .await;
    check(&managed, json!({ "kind": "ConfigMap" }), 400, "invalid object type: /, Kind=ConfigMap")
        .await;
    let mut with_managed = good.clone();
    with_managed["metadata"]["managedFields"] = json!([]);
    check(&managed, with_managed, 400, "metadata.managedFields must be nil").await;
    let mut unknown = good.clone();
    unknown["nosuch"] = json!(1);
    check(&managed, unknown, 500, "failed to create typed patch object (/x; /v1, Kind=ConfigMap): .nosuch: field not declared in schema").await;
    let mut with_uid = good.clone();
    with_uid["metadata"]["uid"] = json!("1");
    check(&managed, with_uid, 409, "Operation cannot be fulfilled on configmaps \"x\": uid mismatch: the provided object specified uid 1, and no existing object was found").await;
    check(
        &format!("{path}/status?fieldManager=a"),
        good,
        404,
        "the server could not find the requested resource",
    )
    .await;
}

#[tokio::test]
async fn a_dry_run_shows_and_stores_nothing() {
    let (_server, maps) = maps().await;
    let dry = PatchParams { dry_run: true, ..as_manager("a") };
    let shown = maps.patch("x", &dry, &Patch::Apply(map(json!({"k": "v"})))).await.unwrap();
    assert_eq!(entries(&shown.metadata).len(), 1);
    assert!(maps.get_opt("x").await.unwrap().is_none());
}

#[tokio::test]
async fn the_status_has_owners_of_its_own() {
    let server = server().await;
    let deployments: Api<Deployment> = Api::default_namespaced(server.client());
    deployments.patch("x", &as_manager("a"), &Patch::Apply(deployment(json!(1)))).await.unwrap();
    let status = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "x" },
        "spec": { "replicas": 9 }, "status": { "replicas": 1, "observedGeneration": 1 } });
    let with_status =
        deployments.patch_status("x", &as_manager("c"), &Patch::Apply(status)).await.unwrap();
    let found = entries(&with_status.metadata);
    assert_eq!(
        found[1],
        r#"c/Apply/status {"f:status":{"f:observedGeneration":{},"f:replicas":{}}}"#
    );
    assert_eq!(with_status.spec.replicas, Some(1));
}

#[tokio::test]
async fn scaling_takes_the_replicas_over() {
    let server = server().await;
    let deployments: Api<Deployment> = Api::default_namespaced(server.client());
    deployments.patch("x", &as_manager("a"), &Patch::Apply(deployment(json!(1)))).await.unwrap();
    let scaler = PatchParams { field_manager: Some("scaler".to_owned()), ..PatchParams::default() };
    let scale = Patch::Merge(json!({ "spec": { "replicas": 3 } }));
    deployments.patch_scale("x", &scaler, &scale).await.unwrap();

    let found = deployments.get("x").await.unwrap();
    let owners = entries(&found.metadata);
    assert!(!owners[0].contains("f:replicas"), "{owners:?}");
    assert_eq!(owners[1], r#"scaler/Update/scale {"f:spec":{"f:replicas":{}}}"#);
    let version = found.metadata.managed_fields.unwrap()[1].api_version.clone();
    assert_eq!(version.as_deref(), Some("apps/v1"));

    let path = "/apis/apps/v1/namespaces/default/deployments/x?fieldManager=a";
    let error =
        send(&server.client(), apply_request(path, &deployment(json!(1)))).await.unwrap_err();
    assert_eq!(
        error.message,
        r#"Apply failed with 1 conflict: conflict with "scaler" with subresource "scale" using apps/v1: .spec.replicas"#
    );
    let scale = json!({ "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": { "name": "x" }, "spec": { "replicas": 4 } });
    let path = "/apis/apps/v1/namespaces/default/deployments/x/scale?fieldManager=b";
    let error = send(&server.client(), apply_request(path, &scale)).await.unwrap_err();
    assert_eq!(error.code, 409, "{error}");
    let path = format!("{path}&force=true");
    let scaled = send(&server.client(), apply_request(&path, &scale)).await.unwrap();
    assert_eq!(scaled["spec"]["replicas"], 4);
    let owners = entries(&deployments.get("x").await.unwrap().metadata);
    assert!(
        owners.contains(&r#"b/Apply/scale {"f:spec":{"f:replicas":{}}}"#.to_owned()),
        "{owners:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_entry_keeps_its_time_until_its_fields_change() {
    let (_server, maps) = maps_of(server_in_memory().await);
    let created = maps.create(&PostParams::default(), &config_map("x", "v")).await.unwrap();
    tokio::time::advance(Duration::from_secs(60)).await;
    let other = PatchParams { field_manager: Some("other".to_owned()), ..PatchParams::default() };
    let data = Patch::Merge(json!({ "data": { "l": "w" } }));
    let changed = maps.patch("x", &other, &data).await.unwrap();
    let time =
        |meta: &ObjectMeta, at: usize| meta.managed_fields.as_ref().unwrap()[at].time.clone();
    assert_eq!(time(&changed.metadata, 0), time(&created.metadata, 0));
    assert!(time(&changed.metadata, 1).unwrap().0 > time(&created.metadata, 0).unwrap().0);
}

#[tokio::test]
async fn who_may_patch_but_not_create_cannot_create_by_applying() {
    #[derive(Debug)]
    struct NoCreates;
    #[async_trait::async_trait]
    impl rk_api::server::authz::Authorizer for NoCreates {
        async fn authorize(
            &self,
            _user: &UserInfo,
            request: &rk_api::server::RequestInfo,
        ) -> rk_api::server::authz::Decision {
            match request.verb.as_ref() {
                "create" => rk_api::server::authz::Decision::NoOpinion(String::new()),
                _ => rk_api::server::authz::Decision::Allow,
            }
        }
    }
    let store = std::sync::Arc::new(rk_store::EmbeddedStore::in_memory());
    let server =
        ApiServer::builder(store).authorizer(std::sync::Arc::new(NoCreates)).start().await.unwrap();
    let client = server.client_as(UserInfo::new("somebody", ["system:authenticated"]));
    let path = "/api/v1/namespaces/default/configmaps/x?fieldManager=a";
    let error = send(&client, apply_request(path, &map(json!({"k": "v"})))).await.unwrap_err();
    assert_eq!(error.code, 403);
    assert!(error.message.contains("cannot create resource \"configmaps\""), "{}", error.message);
}
