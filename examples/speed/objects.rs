//! Rows about server-side apply, custom resources and many objects.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use rk::Cluster;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    load::{Connection, Error},
    rows::{Served, api_only, memchr_lines, millis, over_tls, rate, resident_mib, thousands},
};

const APPLIES: usize = 10_000;
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// Each of 64 workers applies a Deployment of its own again and again, each time with another
/// image.
pub(crate) async fn applies() -> Result<String, Error> {
    let server = Arc::new(Served::start(api_only()).await?);
    let latencies = over_tls(&server, APPLIES, |n| {
        let name = format!("web-{}", n % 64);
        let path = format!("{DEPLOYMENTS}/{name}?fieldManager=speed&force=true");
        let made = if n < 64 { StatusCode::CREATED } else { StatusCode::OK };
        ("PATCH", path, deployment(&name, n), made)
    })
    .await?;
    Ok(rate(&latencies))
}

/// A Deployment with 50 fields set.
fn deployment(name: &str, version: usize) -> Bytes {
    let env = |n: usize| json!({"name": format!("VARIABLE_{n}"), "value": format!("value {n}")});
    let container = |name: &str| {
        json!({
            "name": name,
            "image": format!("registry.example.com/team/{name}:v{version}"),
            "command": ["/app"],
            "args": ["--listen=:8080"],
            "env": (0..5).map(env).collect::<Vec<_>>(),
            "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"},
                          "limits": {"cpu": "500m", "memory": "256Mi"}},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 5},
        })
    };
    let labels = json!({"app": name, "tier": "backend"});
    let value = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": 3,
            "revisionHistoryLimit": 5,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate",
                         "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": labels, "annotations": {"example.com/owner": "team"}},
                "spec": {"containers": [container("app"), container("proxy")],
                         "serviceAccountName": "default",
                         "terminationGracePeriodSeconds": 10},
            },
        },
    });
    Bytes::from(value.to_string())
}

const CUSTOM: usize = 5_000;
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A custom kind of a group of its own, with a schema as operators have them.
fn definition(n: usize) -> Bytes {
    let text = || json!({"type": "string", "maxLength": 256});
    let value = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("widgets.g{n}.example.com")},
        "spec": {
            "group": format!("g{n}.example.com"),
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "scope": "Namespaced",
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "required": ["size"], "properties": {
                        "size": {"type": "integer", "minimum": 0, "maximum": 1000},
                        "color": {"type": "string", "default": "red"},
                        "owner": {"type": "object", "properties": {"name": text(), "team": text()}},
                        "parts": {"type": "array", "maxItems": 64, "items": {
                            "type": "object",
                            "properties": {"name": text(), "count": {"type": "integer"}}}},
                    }},
                    "status": {"type": "object",
                               "properties": {"ready": {"type": "integer"}, "message": text()}},
                }}},
            }],
        },
    });
    Bytes::from(value.to_string())
}

fn widget(name: &str) -> Bytes {
    let value = json!({
        "apiVersion": "g0.example.com/v1", "kind": "Widget",
        "metadata": {"name": name, "labels": {"app": "speed"}},
        "spec": {"size": 3, "owner": {"name": "someone", "team": "some team"},
                 "parts": [{"name": "wheel", "count": 4}, {"name": "axle", "count": 2}]},
    });
    Bytes::from(value.to_string())
}

const WIDGETS: &str = "/apis/g0.example.com/v1/namespaces/default/widgets";

/// Asks for the objects of a kind until it is served.
async fn served(connection: &mut Connection, path: &str) -> Result<(), Error> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let response = connection.send("GET", path, Bytes::new()).await?;
        let status = response.status();
        response.into_body().collect().await?;
        if status == StatusCode::OK {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("{path} is not served after 10 s: {status}").into());
        }
    }
}

async fn define(connection: &mut Connection, n: usize) -> Result<(), Error> {
    connection.call("POST", CRDS, definition(n), StatusCode::CREATED).await?;
    served(connection, &format!("/apis/g{n}.example.com/v1/widgets")).await
}

/// The median of eleven: from the request that creates the definition to the first answer of the
/// new kind.
pub(crate) async fn first_custom_request() -> Result<String, Error> {
    let server = Served::start(api_only()).await?;
    let mut connection = server.connect().await?;
    let mut took = Vec::new();
    for n in 0..11 {
        let begin = Instant::now();
        define(&mut connection, n).await?;
        took.push(begin.elapsed());
    }
    took.sort_unstable();
    Ok(format!("{:.1} ms", millis(took[took.len() / 2])))
}

/// Creates custom objects while one watcher follows, then lists them.
pub(crate) async fn custom_objects() -> Result<String, Error> {
    let server = Arc::new(Served::start(api_only()).await?);
    let mut connection = server.connect().await?;
    define(&mut connection, 0).await?;
    let mut watcher = server.connect().await?;
    let begin = Instant::now();
    let watch = watcher.send("GET", &format!("{WIDGETS}?watch=1"), Bytes::new()).await?;
    let watched = tokio::spawn(async move {
        let _connection = watcher;
        let (mut body, mut seen) = (watch.into_body(), 0);
        while seen < CUSTOM {
            let Some(Ok(frame)) = body.frame().await else { break };
            seen += frame.data_ref().map_or(0, |data| memchr_lines(data));
        }
        (seen, Instant::now())
    });
    let latencies = over_tls(&server, CUSTOM, |n| {
        ("POST", WIDGETS.to_owned(), widget(&format!("w-{n}")), StatusCode::CREATED)
    })
    .await?;
    let (seen, last) = tokio::time::timeout(Duration::from_secs(30), watched).await??;
    if seen < CUSTOM {
        return Err(format!("the watch ended after {seen} of {CUSTOM} objects").into());
    }
    let listing = Instant::now();
    let bytes = connection.call("GET", WIDGETS, Bytes::new(), StatusCode::OK).await?.len();
    Ok(format!(
        "{} created/s (p99 {:.1} ms), all watched after {:.0} ms, listed in {:.1} ms ({:.1} MB)",
        thousands(latencies.rate()),
        millis(latencies.p99()),
        millis(last.duration_since(begin)),
        millis(listing.elapsed()),
        bytes as f64 / 1e6
    ))
}

const MAPS: usize = 100_000;

/// ConfigMaps of 1 kB of data each.
pub(crate) async fn many_config_maps() -> Result<String, Error> {
    let server = Arc::new(Served::start(api_only()).await?);
    let before = resident_mib()?;
    over_tls(&server, MAPS, |n| {
        let map: Value = json!({
            "metadata": {"name": format!("m-{n}")},
            "data": {"text": "x".repeat(1_000)},
        });
        let path = "/api/v1/namespaces/default/configmaps";
        ("POST", path.to_owned(), Bytes::from(map.to_string()), StatusCode::CREATED)
    })
    .await?;
    let after = resident_mib()?;
    let each = (after - before) * 1024.0 * 1024.0 / MAPS as f64;
    Ok(format!("{after:.0} MiB ({each:.0} B each)"))
}

const KINDS: usize = 300;

/// Custom kinds that are served, each without objects.
pub(crate) async fn many_kinds() -> Result<String, Error> {
    let server = Served::start(Cluster::builder().components([])).await?;
    let before = resident_mib()?;
    let mut connection = server.connect().await?;
    for n in 0..KINDS {
        define(&mut connection, n).await?;
    }
    // Clients read these documents after each change.
    for path in ["/openapi/v3", "/openapi/v2", "/apis"] {
        connection.call("GET", path, Bytes::new(), StatusCode::OK).await?;
    }
    let after = resident_mib()?;
    let each = (after - before) * 1024.0 / KINDS as f64;
    Ok(format!("{after:.0} MiB ({each:.0} KiB each)"))
}
