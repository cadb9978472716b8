//! What the Swagger document says of custom kinds, and when it stops to.

use http::Request;
use rk::{
    k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    kube::{
        Api,
        api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    },
};
use serde_json::{Value, json};

use crate::cluster::{TestCluster, from_json, until};

fn definitions(t: &TestCluster) -> Api<CustomResourceDefinition> {
    Api::all(t.client())
}

fn foo() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    json!({
        "type": "object", "description": "Foo CRD for Testing", "properties": {
            "spec": {"type": "object", "description": "Specification of Foo", "properties": {
                "bars": {
                    "type": "array", "description": "List of Bars and their specs.",
                    "items": {"type": "object", "required": ["name"], "properties": {
                        "name": text("Name of Bar."),
                        "age": text("Age of Bar."),
                        "feeling": {
                            "type": "string", "description": "Whether Bar is feeling great.",
                            "enum": ["Great", "Down"],
                        },
                        "bazs": {
                            "type": "array", "description": "List of Bazs.",
                            "items": {"type": "string"},
                        },
                    }},
                },
            }},
            "status": {"type": "object", "description": "Status of Foo", "properties": {
                "available": {"type": "boolean", "description": "Whether the Bar is installed."},
                "quxType": {
                    "type": "string", "description": "Indicates to external qux type.",
                    "pattern": "in-tree|out-of-tree",
                },
            }},
        },
    })
}

fn waldo() -> Value {
    json!({
        "type": "object", "description": "Waldo CRD for Testing", "properties": {
            "spec": {"type": "object", "description": "Specification of Waldo", "properties": {
                "dummy": {"type": "object", "description": "Dummy property."},
            }},
        },
    })
}

/// A definition of a kind in the group `com.example.{suffix}`, of which the first version is stored.
struct Defined {
    group: String,
    kind: &'static str,
    schema: Value,
}

impl Defined {
    fn new(suffix: &str, kind: &'static str, schema: Value) -> Self {
        Self { group: format!("{suffix}.example.com"), kind, schema }
    }

    fn name(&self) -> String {
        format!("{}s.{}", self.kind.to_lowercase(), self.group)
    }

    async fn create(&self, t: &TestCluster, versions: &[&str]) {
        let version = |(n, name): (usize, &&str)| {
            json!({
                "name": name, "served": true, "storage": n == 0,
                "schema": {"openAPIV3Schema": self.schema},
            })
        };
        let plural = format!("{}s", self.kind.to_lowercase());
        let definition = json!({
            "metadata": {"name": self.name()},
            "spec": {
                "group": self.group, "scope": "Namespaced",
                "names": {"plural": plural, "kind": self.kind},
                "versions": versions.iter().enumerate().map(version).collect::<Vec<_>>(),
            },
        });
        let made = definitions(t).create(&PostParams::default(), &from_json(definition)).await;
        made.expect("created");
        for version in versions {
            self.is_published(t, version).await;
        }
    }

    /// The name of its schema: the group's parts from behind, the version, the kind.
    fn schema_name(&self, version: &str) -> String {
        let group: Vec<_> = self.group.rsplit('.').collect();
        format!("{}.{version}.{}", group.join("."), self.kind)
    }

    /// The document comes to have the very schema, but for what every kind has.
    async fn is_published(&self, t: &TestCluster, version: &str) {
        let name = self.schema_name(version);
        until(&name, async || {
            let mut document = swagger(t).await;
            let mut schema = document["definitions"].as_object_mut()?.remove(&name)?;
            let marks = schema.as_object_mut()?.remove("x-kubernetes-group-version-kind");
            let mark = json!([{"group": self.group, "version": version, "kind": self.kind}]);
            assert_eq!(marks, Some(mark));
            let properties = schema["properties"].as_object_mut()?;
            for member in ["apiVersion", "kind", "metadata"] {
                assert!(properties.remove(member).is_some(), "{member}");
            }
            (schema == self.schema).then_some(())
        })
        .await;
    }

    async fn is_withdrawn(&self, t: &TestCluster, version: &str) {
        let name = self.schema_name(version);
        until(&format!("{name} to go"), async || {
            swagger(t).await["definitions"].get(&name).is_none().then_some(())
        })
        .await;
    }

    async fn delete(&self, t: &TestCluster, versions: &[&str]) {
        definitions(t).delete(&self.name(), &DeleteParams::default()).await.expect("deleted");
        for version in versions {
            self.is_withdrawn(t, version).await;
        }
    }
}

async fn swagger(t: &TestCluster) -> Value {
    let (code, document) = t.request(Request::get("/openapi/v2"), Value::Null).await;
    assert_eq!(code, 200);
    document
}

// Conformance: Custom Resource OpenAPI Publish, varying groups
#[tokio::test(start_paused = true)]
async fn kinds_of_different_groups_are_published() {
    let t = TestCluster::start().await;
    let foo = Defined::new("foo", "Foo", foo());
    let waldo = Defined::new("waldo", "Waldo", waldo());
    foo.create(&t, &["v1"]).await;
    waldo.create(&t, &["v1beta1"]).await;
    foo.is_published(&t, "v1").await;
    foo.delete(&t, &["v1"]).await;
    waldo.is_published(&t, "v1beta1").await;
    waldo.delete(&t, &["v1beta1"]).await;
}

// Conformance: Custom Resource OpenAPI Publish, varying versions
#[tokio::test(start_paused = true)]
async fn versions_of_one_definition_and_of_several_are_published() {
    let t = TestCluster::start().await;
    let several = Defined::new("multi-ver", "Foo", foo());
    several.create(&t, &["v2", "v3"]).await;
    several.delete(&t, &["v2", "v3"]).await;

    let foo = Defined::new("common-group", "Foo", foo());
    let waldo = Defined::new("common-group", "Waldo", waldo());
    foo.create(&t, &["v4"]).await;
    waldo.create(&t, &["v5"]).await;
    foo.is_published(&t, "v4").await;
    foo.delete(&t, &["v4"]).await;
    waldo.is_published(&t, "v5").await;
    waldo.delete(&t, &["v5"]).await;
}

// Conformance: Custom Resource OpenAPI Publish, varying kinds
#[tokio::test(start_paused = true)]
async fn kinds_of_one_version_are_published() {
    let t = TestCluster::start().await;
    let foo = Defined::new("common-group", "Foo", foo());
    let waldo = Defined::new("common-group", "Waldo", waldo());
    foo.create(&t, &["v6"]).await;
    waldo.create(&t, &["v6"]).await;
    foo.is_published(&t, "v6").await;
    foo.delete(&t, &["v6"]).await;
    waldo.is_published(&t, "v6").await;
    waldo.delete(&t, &["v6"]).await;
}

// Conformance: Custom Resource OpenAPI Publish, version rename
#[tokio::test(start_paused = true)]
async fn a_version_that_is_renamed_is_published_by_its_new_name() {
    let t = TestCluster::start().await;
    let several = Defined::new("multi-ver", "Foo", foo());
    several.create(&t, &["v2", "v3"]).await;
    let patch = json!([
        {"op": "test", "path": "/spec/versions/1/name", "value": "v3"},
        {"op": "replace", "path": "/spec/versions/1/name", "value": "v4"},
    ]);
    let patch = Patch::Json::<()>(from_json(patch));
    let patched = definitions(&t).patch(&several.name(), &PatchParams::default(), &patch).await;
    patched.expect("patched");
    several.is_published(&t, "v4").await;
    several.is_withdrawn(&t, "v3").await;
    several.is_published(&t, "v2").await;
    several.delete(&t, &["v2", "v4"]).await;
}

// Conformance: Custom Resource OpenAPI Publish, stop serving version
#[tokio::test(start_paused = true)]
async fn a_version_that_is_not_served_any_more_is_not_published() {
    let t = TestCluster::start().await;
    let several = Defined::new("multi-to-single-ver", "Foo", foo());
    several.create(&t, &["v5", "v6alpha1"]).await;
    let mut found = definitions(&t).get(&several.name()).await.expect("read");
    found.spec.versions[1].served = false;
    let replaced = definitions(&t).replace(&several.name(), &PostParams::default(), &found).await;
    replaced.expect("replaced");
    several.is_withdrawn(&t, "v6alpha1").await;
    several.is_published(&t, "v5").await;
    several.delete(&t, &["v5"]).await;
}

// Conformance: Custom Resource Definition, create
#[tokio::test(start_paused = true)]
async fn a_definition_is_created_and_deleted() {
    let t = TestCluster::start().await;
    let foo = Defined::new("created", "Foo", foo());
    foo.create(&t, &["v1"]).await;
    foo.delete(&t, &["v1"]).await;
    until("the definition to go", async || {
        definitions(&t).get_opt(&foo.name()).await.expect("asked").is_none().then_some(())
    })
    .await;
}

// Conformance: Custom Resource Definition, list
#[tokio::test(start_paused = true)]
async fn definitions_are_listed_and_deleted_by_their_labels() {
    let t = TestCluster::start().await;
    let label = "e2e-list-test-uuid=crds";
    for n in 0..10 {
        let made = Defined::new(&format!("n{n}"), "Foo", foo());
        made.create(&t, &["v1"]).await;
        let labels = json!({"metadata": {"labels": {"e2e-list-test-uuid": "crds"}}});
        let patched = definitions(&t)
            .patch(&made.name(), &PatchParams::default(), &Patch::Merge(labels))
            .await;
        patched.expect("labelled");
    }
    let params = ListParams::default().labels(label);
    let listed = definitions(&t).list(&params).await.expect("listed");
    assert_eq!(listed.items.len(), 10);
    let deleted = definitions(&t).delete_collection(&DeleteParams::default(), &params).await;
    deleted.expect("deleted");
    until("the definitions to go", async || {
        let left = definitions(&t).list(&params).await.expect("listed");
        left.items.is_empty().then_some(())
    })
    .await;
}
