//! A cluster for each test, and how to wait in it.

use std::{fmt::Debug, time::Duration};

use rk::kube::api::{ListParams, PostParams};
use rk::{
    Cluster, ClusterBuilder,
    k8s_openapi::{
        NamespaceResourceScope,
        api::core::v1::{Namespace, ServiceAccount},
    },
    kube::{
        Api, Client, Resource,
        api::{DeleteParams, Preconditions, PropagationPolicy},
    },
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// How long something may take to become so, of virtual time.
const PATIENCE: Duration = Duration::from_secs(120);

/// A cluster with simulated nodes and a namespace to work in.
pub struct TestCluster {
    pub cluster: Cluster,
    pub namespace: String,
}

impl TestCluster {
    pub async fn start() -> Self {
        Self::start_with(Cluster::builder().nodes(2)).await
    }

    pub async fn start_with(builder: ClusterBuilder) -> Self {
        let cluster = builder.start().await.expect("it starts");
        let test = Self { cluster, namespace: "conformance".to_owned() };
        test.make_namespace("conformance").await;
        test
    }

    pub fn client(&self) -> Client {
        self.cluster.client()
    }

    /// Makes a namespace, and waits for the account that Pods in it need.
    pub async fn make_namespace(&self, name: &str) -> Namespace {
        let namespace = from_json(json!({"metadata": {"name": name}}));
        let made = Api::all(self.client()).create(&PostParams::default(), &namespace).await;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), name);
        until("the default service account", async || {
            accounts.get_opt("default").await.expect("asked")
        })
        .await;
        made.expect("created")
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client(), &self.namespace)
    }

    pub async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        let object = from_json::<K>(object);
        self.api().create(&PostParams::default(), &object).await.expect("created")
    }

    pub async fn list<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        self.api().list(&ListParams::default()).await.expect("listed").items
    }

    /// Sends a request as it is: the status code and the body, null if that is no JSON.
    pub async fn request(&self, request: http::request::Builder, body: Value) -> (u16, Value) {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = request.body(body.into()).expect("a request");
        let response = self.client().send(request).await.expect("an answer");
        let code = response.status().as_u16();
        let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("a body");
        (code, serde_json::from_slice(&body.to_bytes()).unwrap_or_default())
    }

    /// What reading a path gives.
    pub async fn get(&self, path: &str) -> Value {
        let (code, body) = self.request(http::Request::get(path), Value::Null).await;
        assert_eq!(code, 200, "{path}: {body}");
        body
    }
}

/// Asks again until there is an answer. `what` says in a failure what was waited for.
pub async fn until<T, F: AsyncFnMut() -> Option<T>>(what: &str, mut ask: F) -> T {
    let begin = tokio::time::Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begin.elapsed() < PATIENCE, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

pub fn from_json<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object")
}

/// Deletes only this very object, and treats what it owns like this.
pub fn delete(policy: PropagationPolicy, uid: Option<&str>) -> DeleteParams {
    DeleteParams {
        propagation_policy: Some(policy),
        preconditions: Some(Preconditions {
            uid: uid.map(ToOwned::to_owned),
            ..Preconditions::default()
        }),
        ..DeleteParams::default()
    }
}

/// Time passes.
pub async fn wait(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}
