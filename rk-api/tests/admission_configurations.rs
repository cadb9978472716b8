//! The objects that say whom admission asks, webhooks and policies, as clients handle them: what is
//! written in them counts, and what is deleted does not.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/hooks.rs"]
mod hooks;
#[path = "common/operations.rs"]
mod operations;

use std::time::Duration;

use common::{config_map, get, server};
use hooks::{Hook, patch};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use operations::{Kind, every_operation};
use serde_json::{Value, json};

const GROUP: &str = "admissionregistration.k8s.io";

/// Which kind of webhooks a test is about.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Mutating,
    Validating,
}

/// A server, and a webhook that adds a value to ConfigMaps, or refuses them.
struct Test {
    client: Client,
    hook: Hook,
    way: Way,
}

impl Test {
    async fn start(way: Way) -> Self {
        let hook = match way {
            Way::Mutating => {
                let add = json!([{ "op": "add", "path": "/data/added", "value": "yes" }]);
                Hook::new(move |_| patch(add.clone())).await
            }
            Way::Validating => {
                let refusal = json!({ "allowed": false, "status": { "message": "unwanted" } });
                Hook::new(move |_| refusal.clone()).await
            }
        };
        Self { client: server().await.client(), hook, way }
    }

    fn api(&self) -> Api<DynamicObject> {
        let kind = format!("{:?}WebhookConfiguration", self.way);
        let plural = kind.to_lowercase() + "s";
        let kind = GroupVersionKind::gvk(GROUP, "v1", &kind);
        Api::all_with(self.client.clone(), &ApiResource::from_gvk_with_plural(&kind, &plural))
    }

    /// A configuration that has the webhook asked about new ConfigMaps.
    fn configuration(&self, name: &str, conditions: Value) -> DynamicObject {
        let configuration = json!({
            "apiVersion": format!("{GROUP}/v1"),
            "kind": format!("{:?}WebhookConfiguration", self.way),
            "metadata": { "name": name, "labels": { "test": "yes" } },
            "webhooks": [{
                "name": "hook.example.com",
                "clientConfig": self.hook.client(),
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "rules": [{
                    "operations": ["CREATE"],
                    "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
                }],
                "matchConditions": conditions,
            }],
        });
        serde_json::from_value(configuration).unwrap()
    }

    async fn create(&self, name: &str, conditions: Value) -> kube::Result<DynamicObject> {
        self.api().create(&PostParams::default(), &self.configuration(name, conditions)).await
    }

    /// What comes of a new ConfigMap: whether the webhook did to it what it does.
    async fn is_asked_about(&self, name: &str) -> bool {
        let maps: Api<ConfigMap> = Api::default_namespaced(self.client.clone());
        let made = maps.create(&PostParams::default(), &config_map(name, "1")).await;
        match (self.way, made) {
            (Way::Mutating, Ok(map)) => {
                maps.delete(name, &DeleteParams::default()).await.unwrap();
                map.data.unwrap().contains_key("added")
            }
            (Way::Validating, Ok(_)) => {
                maps.delete(name, &DeleteParams::default()).await.unwrap();
                false
            }
            (Way::Validating, Err(kube::Error::Api(status))) => {
                assert!(status.message.ends_with("denied the request: unwanted"), "{status:?}");
                true
            }
            (way, Err(error)) => panic!("{way:?}: {error}"),
        }
    }

    /// Waits until the webhook is asked about a ConfigMap, or is not.
    async fn until_asked(&self, asked: bool) {
        let comes = async {
            while self.is_asked_about("map").await != asked {
                tokio::task::yield_now().await;
            }
        };
        let comes = tokio::time::timeout(Duration::from_secs(60), comes).await;
        assert!(comes.is_ok(), "{:?} webhooks are asked: {}", self.way, !asked);
    }
}

// Conformance: Admission webhook, discovery document
#[tokio::test]
async fn discovery_tells_of_webhook_configurations() {
    let server = server().await;
    let groups = get(&server, "/apis").await.body;
    let group = groups["groups"].as_array().unwrap().iter().find(|group| group["name"] == GROUP);
    let v1 = json!({ "groupVersion": format!("{GROUP}/v1"), "version": "v1" });
    assert!(group.unwrap()["versions"].as_array().unwrap().contains(&v1));

    let group = get(&server, &format!("/apis/{GROUP}")).await.body;
    assert!(group["versions"].as_array().unwrap().contains(&v1));
    let resources = get(&server, &format!("/apis/{GROUP}/v1")).await.body;
    let resources = resources["resources"].as_array().unwrap();
    for name in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
        assert!(resources.iter().any(|resource| resource["name"] == name), "{name}");
    }
}

async fn a_collection_is_listed_and_deleted(way: Way) {
    let test = Test::start(way).await;
    for number in 0..10 {
        test.create(&format!("c{number}"), json!([])).await.unwrap();
    }
    let labelled = ListParams::default().labels("test=yes");
    assert_eq!(test.api().list(&labelled).await.unwrap().items.len(), 10);
    test.until_asked(true).await;

    test.api().delete_collection(&DeleteParams::default(), &labelled).await.unwrap();
    assert!(test.api().list(&labelled).await.unwrap().items.is_empty());
    test.until_asked(false).await;
}

// Conformance: Admission webhook, list mutating webhooks
#[tokio::test]
async fn mutating_webhooks_are_listed_and_end_with_their_collection() {
    a_collection_is_listed_and_deleted(Way::Mutating).await;
}

// Conformance: Admission webhook, list validating webhooks
#[tokio::test]
async fn validating_webhooks_are_listed_and_end_with_their_collection() {
    a_collection_is_listed_and_deleted(Way::Validating).await;
}

async fn rules_are_changed(way: Way) {
    let test = Test::start(way).await;
    test.create("c", json!([])).await.unwrap();
    test.until_asked(true).await;

    let mut read = test.api().get("c").await.unwrap();
    read.data["webhooks"][0]["rules"][0]["operations"] = json!(["UPDATE"]);
    test.api().replace("c", &PostParams::default(), &read).await.unwrap();
    test.until_asked(false).await;

    let path = "/webhooks/0/rules/0/operations";
    let operation = json!([{ "op": "replace", "path": path, "value": ["CREATE"] }]);
    let operation = Patch::Json::<()>(serde_json::from_value(operation).unwrap());
    test.api().patch("c", &PatchParams::default(), &operation).await.unwrap();
    test.until_asked(true).await;
}

// Conformance: Admission webhook, update mutating webhook
#[tokio::test]
async fn the_rules_of_a_mutating_webhook_can_be_changed() {
    rules_are_changed(Way::Mutating).await;
}

// Conformance: Admission webhook, update validating webhook
#[tokio::test]
async fn the_rules_of_a_validating_webhook_can_be_changed() {
    rules_are_changed(Way::Validating).await;
}

/// That conditions are kept as they were written, can be changed, and count.
async fn conditions_are_written_and_changed(way: Way) {
    let test = Test::start(way).await;
    let first = json!([
        { "name": "maps", "expression": "request.resource.resource == 'configmaps'" },
        { "name": "not-skipped", "expression": "object.metadata.name != 'skip-me'" },
    ]);
    let created = test.create("c", first.clone()).await.unwrap();
    assert_eq!(created.data["webhooks"][0]["matchConditions"], first);
    let mut read = test.api().get("c").await.unwrap();
    assert_eq!(read.data["webhooks"][0]["matchConditions"], first);
    test.until_asked(true).await;
    assert!(!test.is_asked_about("skip-me").await);

    let second = json!([{ "name": "skipped", "expression": "object.metadata.name == 'skip-me'" }]);
    read.data["webhooks"][0]["matchConditions"] = second.clone();
    test.api().replace("c", &PostParams::default(), &read).await.unwrap();
    let read = test.api().get("c").await.unwrap();
    assert_eq!(read.data["webhooks"][0]["matchConditions"], second);
    test.until_asked(false).await;
    assert!(test.is_asked_about("skip-me").await);
}

// Conformance: Mutating Admission webhook, create and update mutating webhook configuration with matchConditions
#[tokio::test]
async fn conditions_of_a_mutating_webhook_are_written_and_changed() {
    conditions_are_written_and_changed(Way::Mutating).await;
}

// Conformance: Validating Admission webhook, create and update validating webhook configuration with matchConditions
#[tokio::test]
async fn conditions_of_a_validating_webhook_are_written_and_changed() {
    conditions_are_written_and_changed(Way::Validating).await;
}

// Conformance: Mutating Admission webhook, mutating webhook excluding object with specific name
#[tokio::test]
async fn a_condition_excludes_an_object_by_its_name() {
    let test = Test::start(Way::Mutating).await;
    let condition = json!([{
        "name": "skip-me", "expression": "object.metadata.name != 'skip-me'",
    }]);
    test.create("c", condition).await.unwrap();
    test.until_asked(true).await;
    assert!(!test.is_asked_about("skip-me").await);
    assert!(test.hook.requests().iter().all(|request| request["name"] != "skip-me"));
}

async fn conditions_that_make_no_sense_are_refused(way: Way) {
    let test = Test::start(way).await;
    let expressions = ["... [] bad expression", "object.metadata.name == "];
    for expression in expressions {
        let conditions = json!([
            { "name": "fine", "expression": "true" }, { "name": "bad", "expression": expression },
        ]);
        let refused = test.create("c", conditions).await;
        let Err(kube::Error::Api(status)) = refused else { panic!("{refused:?}") };
        assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
        let place = "webhooks[0].matchConditions[1].expression: Invalid value: ";
        assert!(status.message.contains(place), "{}", status.message);
        assert!(status.message.contains("compilation failed"), "{}", status.message);
        assert!(test.api().get_opt("c").await.unwrap().is_none());
    }
}

// Conformance: Mutating Admission webhook, reject mutating webhook configurations with invalid matchConditions
#[tokio::test]
async fn a_mutating_webhook_with_conditions_that_make_no_sense_is_refused() {
    conditions_that_make_no_sense_are_refused(Way::Mutating).await;
}

// Conformance: Validating Admission webhook, reject validating webhook configurations with invalid matchConditions
#[tokio::test]
async fn a_validating_webhook_with_conditions_that_make_no_sense_is_refused() {
    conditions_that_make_no_sense_are_refused(Way::Validating).await;
}

fn constraints() -> Value {
    json!({ "resourceRules": [{
        "operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"],
        "resources": ["deployments"],
    }] })
}

// Conformance: ValidatingAdmissionPolicy API
#[tokio::test]
async fn policies_have_every_operation() {
    let spec = json!({
        "matchConstraints": constraints(), "validations": [{ "expression": "object.spec.replicas > 1" }],
    });
    let (plural, name) = ("validatingadmissionpolicies", "ValidatingAdmissionPolicy");
    every_operation(Kind { group: GROUP, plural, name, spec }, Some("Tested")).await;
}

// Conformance: ValidatingAdmissionPolicyBinding API
#[tokio::test]
async fn bindings_of_policies_have_every_operation() {
    let spec = json!({ "policyName": "none.example.com", "validationActions": ["Deny"] });
    let (plural, name) = ("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding");
    every_operation(Kind { group: GROUP, plural, name, spec }, None).await;
}

#[tokio::test]
async fn mutating_policies_have_every_operation() {
    let expression = "Object{metadata: Object.metadata{labels: {'a': 'b'}}}";
    let spec = json!({
        "matchConstraints": constraints(), "reinvocationPolicy": "Never",
        "mutations": [{
            "patchType": "ApplyConfiguration", "applyConfiguration": { "expression": expression },
        }],
    });
    let (plural, name) = ("mutatingadmissionpolicies", "MutatingAdmissionPolicy");
    every_operation(Kind { group: GROUP, plural, name, spec }, None).await;
}

#[tokio::test]
async fn bindings_of_mutating_policies_have_every_operation() {
    let spec = json!({ "policyName": "none.example.com" });
    let (plural, name) = ("mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding");
    every_operation(Kind { group: GROUP, plural, name, spec }, None).await;
}
