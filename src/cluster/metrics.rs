//! The metrics server as a part of a cluster: an aggregated API server that runs in the process of
//! the API server, behind an APIService like any other.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use k8s_openapi::{
    api::rbac::v1::{ClusterRole, ClusterRoleBinding},
    kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};
use kube::{Api, Client, api::PostParams, core::ClusterResourceScope};
use rk_api::{client::Informers, io::Io, server::UserInfo};
use rk_controllers::MetricsServer;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// The namespace and name of the Service that its APIService names. It does not exist: nothing in
/// the cluster could reach it, and the API server need not look for it.
pub(super) const SERVICE: (&str, &str) = ("kube-system", "metrics-server");

const BUFFER: usize = 64 * 1024;

/// Its service account, whose rights it has.
pub(super) fn user() -> UserInfo {
    let (namespace, name) = SERVICE;
    UserInfo::service_account(namespace, name)
}

/// A metrics server that asks through `client`.
pub(super) fn server(client: Client, informers: &Informers) -> MetricsServer {
    MetricsServer::new(client, informers)
}

/// Makes its APIService and its roles, as far as they are missing. They are those of the usual
/// manifest, and who changes them keeps the change. Where the kinds for that are not served nothing
/// is measured.
pub(super) async fn install(client: &Client) -> Result<(), kube::Error> {
    match create_all(client).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => result,
    }
}

async fn create_all(client: &Client) -> Result<(), kube::Error> {
    let (namespace, name) = SERVICE;
    let measured = json!({
        "apiGroups": ["metrics.k8s.io"], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"],
    });
    let aggregated =
        |role: &str| (format!("rbac.authorization.k8s.io/aggregate-to-{role}"), json!("true"));
    let labels: serde_json::Map<String, Value> =
        ["admin", "edit", "view"].map(aggregated).into_iter().collect();
    create::<ClusterRole>(
        client,
        json!({
            "metadata": {"name": "system:aggregated-metrics-reader", "labels": labels},
            "rules": [measured],
        }),
    )
    .await?;
    create::<ClusterRole>(client, json!({
        "metadata": {"name": "system:metrics-server"},
        "rules": [
            {"apiGroups": [""], "resources": ["nodes/metrics", "nodes/proxy"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]},
        ],
    }))
    .await?;
    create::<ClusterRoleBinding>(client, json!({
        "metadata": {"name": "system:metrics-server"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:metrics-server",
        },
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    }))
    .await?;
    create::<APIService>(
        client,
        json!({
            "metadata": {"name": "v1beta1.metrics.k8s.io", "labels": {"k8s-app": name}},
            "spec": {
                "group": "metrics.k8s.io", "version": "v1beta1",
                "groupPriorityMinimum": 100, "versionPriority": 100,
                "insecureSkipTLSVerify": true,
                "service": {"name": name, "namespace": namespace},
            },
        }),
    )
    .await
}

async fn create<K>(client: &Client, object: Value) -> Result<(), kube::Error>
where
    K: kube::Resource<DynamicType = (), Scope = ClusterResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    let object: K = rk_api::json::from_value(&object).map_err(kube::Error::SerdeError)?;
    match Api::<K>::all(client.clone()).create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        result => result.map(drop),
    }
}

/// A connection to it, with HTTP/1.1 served at its other end.
pub(super) fn connect(server: Arc<MetricsServer>) -> Box<dyn Io> {
    let (near, far) = tokio::io::duplex(BUFFER);
    tokio::spawn(async move {
        let service = service_fn(move |request| answer(server.clone(), request));
        let connection = hyper::server::conn::http1::Builder::new();
        if let Err(error) = connection.serve_connection(TokioIo::new(far), service).await {
            tracing::debug!(%error, "a connection to the metrics server ended");
        }
    });
    Box::new(near)
}

async fn answer(
    server: Arc<MetricsServer>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let query = request.uri().query().unwrap_or_default();
    let answer = server.answer(request.uri().path(), query, accept.unwrap_or_default());
    let (code, body) = answer.await;
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}
