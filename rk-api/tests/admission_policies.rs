//! Admission by policies: expressions that refuse, warn and change.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{sync::Arc, time::Duration};

use common::{config_map, pod, server};
use http::Request;
use k8s_openapi::api::{
    admissionregistration::v1::{
        MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, ValidatingAdmissionPolicy,
        ValidatingAdmissionPolicyBinding,
    },
    core::v1::{ConfigMap, Namespace, Node, Pod},
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use rk_api::server::{ApiServer, StartError, UserInfo, admission::PluginError};
use rk_store::EmbeddedStore;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn of<T: DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).unwrap()
}

fn rules(resource: &str) -> Value {
    json!([{
        "operations": ["CREATE", "UPDATE"],
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "resources": [resource],
    }])
}

/// A policy about ConfigMaps with these fields besides, and a binding that denies.
async fn policy(client: &Client, name: &str, spec: Value) {
    policy_bound(client, name, spec, json!({ "validationActions": ["Deny"] })).await;
}

async fn policy_bound(client: &Client, name: &str, spec: Value, binding: Value) {
    write_policy(client, name, spec).await.unwrap();
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
    let mut binding = binding;
    binding["policyName"] = name.into();
    let binding = of(json!({ "metadata": { "name": format!("{name}-b") }, "spec": binding }));
    bindings.create(&PostParams::default(), &binding).await.unwrap();
}

async fn write_policy(
    client: &Client,
    name: &str,
    mut spec: Value,
) -> Result<ValidatingAdmissionPolicy, kube::Error> {
    if spec["matchConstraints"].is_null() {
        spec["matchConstraints"] = json!({ "resourceRules": rules("configmaps") });
    }
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    let policy = of(json!({ "metadata": { "name": name }, "spec": spec }));
    policies.create(&PostParams::default(), &policy).await
}

async fn mutation(client: &Client, name: &str, mut spec: Value) {
    if spec["matchConstraints"].is_null() {
        spec["matchConstraints"] = json!({ "resourceRules": rules("configmaps") });
    }
    if spec["reinvocationPolicy"].is_null() {
        spec["reinvocationPolicy"] = "Never".into();
    }
    let policies: Api<MutatingAdmissionPolicy> = Api::all(client.clone());
    let policy = of(json!({ "metadata": { "name": name }, "spec": spec }));
    policies.create(&PostParams::default(), &policy).await.unwrap();
    let bindings: Api<MutatingAdmissionPolicyBinding> = Api::all(client.clone());
    let binding =
        of(json!({ "metadata": { "name": format!("{name}-b") }, "spec": { "policyName": name } }));
    bindings.create(&PostParams::default(), &binding).await.unwrap();
}

fn maps(client: &Client) -> Api<ConfigMap> {
    Api::default_namespaced(client.clone())
}

async fn create(client: &Client, name: &str, value: &str) -> Result<ConfigMap, kube::Error> {
    maps(client).create(&PostParams::default(), &config_map(name, value)).await
}

#[track_caller]
fn refusal<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> (u16, String, String) {
    let Err(kube::Error::Api(status)) = result else { panic!("{result:?}") };
    (status.code, status.reason, status.message)
}

#[track_caller]
fn denied<T: std::fmt::Debug>(result: Result<T, kube::Error>, why: &str) {
    let (_, _, message) = refusal(result);
    assert!(message.ends_with(why), "{message}\nshould end with {why}");
}

/// Conformance: ValidatingAdmissionPolicy
#[tokio::test]
async fn a_policy_refuses_what_its_expressions_do_not_hold_for() {
    let client = server().await.client();
    let validations = json!([{ "expression": "object.data.k == 'good'" }]);
    policy(&client, "good-only", json!({ "validations": validations })).await;
    create(&client, "a", "good").await.unwrap();
    assert_eq!(
        refusal(create(&client, "b", "bad").await),
        (
            422,
            "Invalid".to_owned(),
            "configmaps \"b\" is forbidden: ValidatingAdmissionPolicy 'good-only' with binding \
             'good-only-b' denied request: failed expression: object.data.k == 'good'"
                .to_owned()
        )
    );
    let update = Patch::Merge(json!({ "data": { "k": "bad" } }));
    let update = maps(&client).patch("a", &PatchParams::default(), &update).await;
    assert_eq!(refusal(update).0, 422);

    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
    bindings.delete("good-only-b", &DeleteParams::default()).await.unwrap();
    create(&client, "b", "bad").await.unwrap();
}

#[tokio::test]
async fn a_violation_says_what_the_policy_says() {
    let client = server().await.client();
    let validations = json!([{
        "expression": "variables.value.size() < 3",
        "messageExpression": "'too long: ' + variables.value",
        "message": "unused",
        "reason": "Forbidden",
    }]);
    let variables = json!([
        { "name": "data", "expression": "object.data" },
        { "name": "value", "expression": "variables.data.k" },
        { "name": "broken", "expression": "object.nothing.here" },
    ]);
    policy(&client, "short", json!({ "variables": variables, "validations": validations })).await;
    create(&client, "a", "ok").await.unwrap();
    let refused = refusal(create(&client, "b", "long").await);
    assert_eq!((refused.0, refused.1.as_str()), (403, "Forbidden"));
    assert!(refused.2.ends_with("denied request: too long: long"), "{}", refused.2);
}

#[tokio::test]
async fn what_cannot_be_evaluated_fails_or_is_let_through() {
    let client = server().await.client();
    let validations = json!([{ "expression": "object.data.missing == 'x'" }]);
    let ignoring = json!({ "validations": validations, "failurePolicy": "Ignore" });
    policy(&client, "ignoring", ignoring).await;
    create(&client, "a", "1").await.unwrap();
    let variables = json!([{ "name": "v", "expression": "object.data.missing" }]);
    let validations = json!([{ "expression": "variables.v == 'x'" }]);
    policy(&client, "failing", json!({ "variables": variables, "validations": validations })).await;
    denied(
        create(&client, "b", "1").await,
        "denied request: expression 'variables.v == 'x'' resulted in error: composited variable \
         \"v\" fails to evaluate: no such key: missing",
    );
}

#[tokio::test]
async fn what_expressions_may_cost_is_limited_for_a_policy() {
    let client = server().await.client();
    // With a long text, each costs most of what one may, and all of them more than all may.
    let list = format!("[{}]", vec!["0"; 80].join(","));
    let costly = format!("{list}.all(each, !object.data.k.contains('yy'))");
    let spec = json!({ "validations": vec![json!({ "expression": costly }); 15] });
    policy(&client, "costly", spec).await;
    create(&client, "short", "x").await.unwrap();
    denied(
        create(&client, "long", &"x".repeat(100_000)).await,
        "denied request: validation failed due to running out of cost budget, no further \
         validation rules will be run",
    );
}

#[tokio::test]
async fn a_binding_can_warn_and_audit_instead() {
    let client = server().await.client();
    let validations = json!([{ "expression": "false", "message": "careful" }]);
    let spec = json!({ "validations": validations });
    let actions = json!({ "validationActions": ["Warn", "Audit"] });
    policy_bound(&client, "p", spec, actions).await;
    let map = serde_json::to_vec(&config_map("m", "1")).unwrap();
    let request = Request::post("/api/v1/namespaces/default/configmaps")
        .header("content-type", "application/json")
        .body(kube::client::Body::from(map))
        .unwrap();
    let answer = client.send(request).await.unwrap();
    assert_eq!(answer.status(), 201);
    let warnings: Vec<_> = answer.headers().get_all("warning").iter().collect();
    assert_eq!(
        warnings,
        [
            "299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'p-b': careful\""
        ]
    );
}

#[tokio::test]
async fn parameters_come_from_objects_of_any_kind() {
    let client = server().await.client();
    let parameters = of(json!({ "metadata": { "name": "limits" }, "data": { "max": "2" } }));
    maps(&client).create(&PostParams::default(), &parameters).await.unwrap();
    let spec = json!({
        "paramKind": { "apiVersion": "v1", "kind": "ConfigMap" },
        "validations": [{ "expression": "size(object.data.k) <= int(params.data.max)" }],
    });
    let reference = json!({ "name": "limits", "parameterNotFoundAction": "Deny" });
    let binding = json!({ "validationActions": ["Deny"], "paramRef": reference });
    policy_bound(&client, "p", spec, binding).await;
    create(&client, "a", "12").await.unwrap();
    denied(create(&client, "b", "123").await, "size(object.data.k) <= int(params.data.max)");

    maps(&client).delete("limits", &DeleteParams::default()).await.unwrap();
    denied(
        create(&client, "b", "1").await,
        "denied request: failed to configure binding: no params found for policy binding with \
         `Deny` parameterNotFoundAction",
    );
}

#[tokio::test]
async fn parameters_that_a_label_selects_must_all_agree() {
    let client = server().await.client();
    for (name, max) in [("a", "5"), ("b", "2")] {
        let meta = json!({ "name": name, "labels": { "limit": "yes" } });
        let parameters = of(json!({ "metadata": meta, "data": { "max": max } }));
        maps(&client).create(&PostParams::default(), &parameters).await.unwrap();
    }
    let spec = json!({
        "paramKind": { "apiVersion": "v1", "kind": "ConfigMap" },
        "validations": [{ "expression": "!has(object.data.k) || size(object.data.k) <= int(params.data.max)" }],
    });
    let selector = json!({ "matchLabels": { "limit": "yes" } });
    let reference = json!({ "selector": selector, "parameterNotFoundAction": "Allow" });
    let binding = json!({ "validationActions": ["Deny"], "paramRef": reference });
    policy_bound(&client, "p", spec, binding).await;
    create(&client, "fits", "12").await.unwrap();
    assert_eq!(refusal(create(&client, "x", "123").await).0, 422);
}

#[tokio::test]
async fn conditions_exclusions_and_bindings_narrow_a_policy() {
    let client = server().await.client();
    let excluded = json!([{
        "operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
        "resourceNames": ["free"],
    }]);
    let spec = json!({
        "matchConstraints": {
            "resourceRules": rules("configmaps"),
            "excludeResourceRules": excluded,
        },
        "matchConditions": [{ "name": "watched", "expression": "object.data.k != 'skip'" }],
        "validations": [{ "expression": "request.operation == 'UPDATE'" }],
    });
    let selector = json!({ "matchLabels": { "env": "prod" } });
    let resources = json!({ "namespaceSelector": selector });
    let binding = json!({ "validationActions": ["Deny"], "matchResources": resources });
    policy_bound(&client, "p", spec, binding).await;
    create(&client, "elsewhere", "1").await.unwrap();

    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = of(json!({ "metadata": { "name": "prod", "labels": { "env": "prod" } } }));
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let prod: Api<ConfigMap> = Api::namespaced(client, "prod");
    let create = |name: &str, value: &str| {
        let (prod, map) = (prod.clone(), config_map(name, value));
        async move { prod.create(&PostParams::default(), &map).await }
    };
    assert_eq!(refusal(create("a", "1").await).0, 422);
    create("skipped", "skip").await.unwrap();
    create("free", "1").await.unwrap();
}

#[tokio::test]
async fn expressions_see_the_request_the_namespace_and_the_authorizer() {
    let server = server().await;
    let client = server.client();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let label = Patch::Merge(json!({ "metadata": { "labels": { "team": "a" } } }));
    namespaces.patch("default", &PatchParams::default(), &label).await.unwrap();
    let spec = json!({ "validations": [
        { "expression": "request.kind.kind == 'ConfigMap' && request.namespace == 'default'" },
        { "expression": "namespaceObject.metadata.labels['team'] == 'a'" },
        { "expression": "request.userInfo.groups.exists(g, g == 'system:masters')" },
        { "expression": "authorizer.group('').resource('pods').namespace('x').check('list').allowed()" },
        { "expression": "authorizer.requestResource.check('custom').allowed()" },
        { "expression": "!authorizer.serviceAccount('a', 'b').path('/x').check('get').allowed()" },
    ] });
    policy(&client, "p", spec).await;
    create(&client, "m", "1").await.unwrap();

    let other = server.client_as(UserInfo::new("jane", ["dev"]));
    let refused = refusal(create(&other, "n", "1").await);
    // RBAC comes first.
    assert_eq!(refused.0, 403);
}

#[tokio::test]
async fn a_policy_that_makes_no_sense_is_not_written() {
    let client = server().await.client();
    let (code, _, message) = refusal(
        write_policy(&client, "p", json!({ "validations": [{ "expression": "object.x == " }] }))
            .await,
    );
    assert_eq!(code, 422);
    assert!(
        message.contains("spec.validations[0].expression: Invalid value: \"object.x ==\": compilation failed: ERROR: <input>:1:"),
        "{message}"
    );
    let (_, _, message) = refusal(
        write_policy(&client, "p", json!({ "validations": [{ "expression": "1 + 1" }] })).await,
    );
    assert!(message.contains("must evaluate to bool but got int"), "{message}");
    let unknown = json!({ "validations": [{ "expression": "params.x == 1" }] });
    let (_, _, message) = refusal(write_policy(&client, "p", unknown).await);
    assert!(message.contains("undeclared reference to 'params'"), "{message}");
}

/// The e2e test of type checking, which is no requirement.
#[tokio::test]
async fn the_status_of_a_policy_tells_what_does_not_fit() {
    let client = server().await.client();
    let spec = json!({
        "matchConstraints": { "resourceRules": [{
            "apiGroups": ["apps"],
            "apiVersions": ["v1"],
            "operations": ["CREATE", "UPDATE"],
            "resources": ["deployments"],
        }] },
        "validations": [{ "expression": "object.foo == 1" }],
    });
    write_policy(&client, "p", spec).await.unwrap();
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client);
    let checked = async {
        loop {
            let status = policies.get("p").await.unwrap().status.unwrap_or_default();
            if status.observed_generation == Some(1) {
                return status.type_checking.unwrap().expression_warnings.unwrap();
            }
            tokio::task::yield_now().await;
        }
    };
    let warnings = tokio::time::timeout(Duration::from_secs(60), checked).await.unwrap();
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].field_ref, "spec.validations[0].expression");
    assert!(warnings[0].warning.contains("undefined field 'foo'"), "{}", warnings[0].warning);
}

#[tokio::test]
async fn a_mutation_lays_fields_over_an_object() {
    let client = server().await.client();
    let expression = "Object{metadata: Object.metadata{labels: Object.metadata.labels{team: \
                      'a'}}, spec: Object.spec{containers: [Object.spec.containers{name: 'c', \
                      imagePullPolicy: 'Never'}]}}";
    let spec = json!({
        "matchConstraints": { "resourceRules": rules("pods") },
        "mutations": [{
            "patchType": "ApplyConfiguration",
            "applyConfiguration": { "expression": expression },
        }],
    });
    mutation(&client, "m", spec).await;
    let pods: Api<Pod> = Api::default_namespaced(client);
    let created = pods.create(&PostParams::default(), &pod("p")).await.unwrap();
    assert_eq!(created.metadata.labels.unwrap()["team"], "a");
    let container = &created.spec.unwrap().containers[0];
    assert_eq!(container.image_pull_policy.as_deref(), Some("Never"));
    assert_eq!(container.image.as_deref(), Some("image"));
}

#[tokio::test]
async fn a_mutation_patches_an_object() {
    let client = server().await.client();
    let expression = "[JSONPatch{op: 'test', path: '/data/k', value: 'go'}, JSONPatch{op: 'add', \
                      path: '/metadata/labels', value: {'a': 'b'}}, JSONPatch{op: 'add', path: \
                      '/metadata/labels/' + jsonpatch.escapeKey('x/y'), value: request.operation}]";
    let spec = json!({ "mutations": [{
        "patchType": "JSONPatch",
        "jsonPatch": { "expression": expression },
    }] });
    mutation(&client, "m", spec).await;
    let created = create(&client, "a", "go").await.unwrap();
    assert_eq!(created.metadata.labels.unwrap()["x/y"], "CREATE");
    let untouched = create(&client, "b", "stay").await.unwrap();
    assert_eq!(untouched.metadata.labels, None);
}

#[tokio::test]
async fn mutations_see_each_others_work_and_can_be_asked_again() {
    let client = server().await.client();
    let count = |name: &str| {
        let expression = format!(
            "[JSONPatch{{op: 'add', path: '/data/{name}', value: string(size(object.data))}}]"
        );
        json!([{ "patchType": "JSONPatch", "jsonPatch": { "expression": expression } }])
    };
    let again = json!({ "mutations": count("first"), "reinvocationPolicy": "IfNeeded" });
    mutation(&client, "a", again).await;
    mutation(&client, "b", json!({ "mutations": count("second") })).await;
    let created = create(&client, "m", "1").await.unwrap().data.unwrap();
    // The first one was asked again after the second, when there were three values.
    assert_eq!((created["first"].as_str(), created["second"].as_str()), ("3", "2"));
}

#[tokio::test]
async fn a_mutation_that_fails_is_a_refusal() {
    let client = server().await.client();
    let expression = "Object{spec: Object.spec{tolerations: [Object.spec.tolerations{key: 'a'}]}}";
    let spec = json!({
        "matchConstraints": { "resourceRules": rules("pods") },
        "mutations": [{
            "patchType": "ApplyConfiguration",
            "applyConfiguration": { "expression": expression },
        }],
    });
    mutation(&client, "m", spec).await;
    let pods: Api<Pod> = Api::default_namespaced(client);
    let refused = refusal(pods.create(&PostParams::default(), &pod("p")).await);
    assert_eq!(
        refused.2,
        "policy 'm' with binding 'm-b' denied request: error applying patch: invalid \
         ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.tolerations"
    );
}

#[tokio::test]
async fn plug_ins_are_turned_on_and_off_by_name() {
    let builder = || ApiServer::builder(Arc::new(EmbeddedStore::in_memory()));
    let unknown = builder().admission_plugins(&["Nope"], &[]).start().await;
    assert!(matches!(
        unknown,
        Err(StartError::Plugins(PluginError::Unknown { list: "enable-admission-plugins", .. }))
    ));
    let on = ["AlwaysPullImages", "NamespaceAutoProvision"];
    let server = builder().admission_plugins(&on, &["ServiceAccount"]).start().await.unwrap();
    let pods: Api<Pod> = Api::namespaced(server.client(), "new");
    let created = pods.create(&PostParams::default(), &pod("p")).await.unwrap();
    let container = &created.spec.unwrap().containers[0];
    assert_eq!(container.image_pull_policy.as_deref(), Some("Always"));
    let namespaces: Api<Namespace> = Api::all(server.client());
    assert!(namespaces.get_opt("new").await.unwrap().is_some());

    let server = builder().admission_plugins(&["AlwaysDeny"], &[]).start().await.unwrap();
    let nodes: Api<Node> = Api::all(server.client());
    let node = of(json!({ "metadata": { "name": "n" } }));
    denied(
        nodes.create(&PostParams::default(), &node).await,
        "admission control is denying all modifications",
    );
}

#[tokio::test]
async fn pod_security_warns_of_pods_and_of_what_makes_them() {
    let client = server().await.client();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let labels = json!({ "pod-security.kubernetes.io/warn": "baseline" });
    let namespace = of(json!({ "metadata": { "name": "w", "labels": labels } }));
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let mut host = pod("p");
    host.spec.as_mut().unwrap().host_network = Some(true);
    let template = json!({
        "metadata": { "labels": { "a": "b" } },
        "spec": host.spec,
    });
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": "d" },
        "spec": { "selector": { "matchLabels": { "a": "b" } }, "template": template },
    });
    for (path, object) in [
        ("/api/v1/namespaces/w/pods", serde_json::to_vec(&host).unwrap()),
        ("/apis/apps/v1/namespaces/w/deployments", serde_json::to_vec(&deployment).unwrap()),
    ] {
        let request = Request::post(path)
            .header("content-type", "application/json")
            .body(kube::client::Body::from(object))
            .unwrap();
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.status(), 201);
        let warnings: Vec<_> = answer.headers().get_all("warning").iter().collect();
        assert_eq!(
            warnings,
            ["299 - \"would violate PodSecurity \\\"baseline:latest\\\": host namespaces \
              (hostNetwork=true)\""]
        );
    }
}

#[tokio::test]
async fn no_policy_keeps_anybody_from_asking_who_may_do_what() {
    let client = server().await.client();
    let rules = json!([{
        "operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"],
    }]);
    let spec = json!({
        "matchConstraints": { "resourceRules": rules },
        "validations": [{ "expression": "false" }],
    });
    policy(&client, "p", spec).await;
    assert_eq!(refusal(create(&client, "a", "1").await).0, 422);
    let request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .header("content-type", "application/json");
    let request = request.body(b"{}".to_vec()).unwrap();
    let review: Value = client.request(request).await.unwrap();
    assert_eq!(review["status"]["userInfo"]["username"], "system:admin");
}
