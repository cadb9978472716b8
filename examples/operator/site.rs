//! The kind: what a user asks for, and what the operator says of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The Deployment and the Service are there and all replicas answer.
pub const READY: &str = "Ready";

/// The host name leads to the Service.
pub const PUBLISHED: &str = "Published";

/// A web site: some replicas of an image, and a host name that leads to them.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "rk.example.com",
    version = "v1",
    kind = "Site",
    namespaced,
    status = "SiteStatus",
    printcolumn = r#"{"name": "Host", "type": "string", "jsonPath": ".spec.host"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name": "Replicas", "type": "integer", "jsonPath": ".status.readyReplicas"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct SiteSpec {
    /// What the replicas run: it listens on port 80.
    pub image: String,

    /// How many there are.
    #[serde(default = "one")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 10").message("must be 0 to 10"))]
    pub replicas: i32,

    /// The name outside the cluster. Others know the site by it, so it never changes.
    #[x_kube(validation = Rule::new("self == oldSelf").message("cannot be changed: make another site"))]
    pub host: String,
}

/// What there is of a site.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SiteStatus {
    /// Which `metadata.generation` the rest is about.
    #[serde(default)]
    pub observed_generation: i64,
    /// Replicas that answer.
    #[serde(default)]
    pub ready_replicas: i32,
    /// `Ready` and `Published`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

fn one() -> i32 {
    1
}
