//! Metrics APIs of others, behind the API server, as the autoscaler reads them.

use std::{io, sync::Arc};

use async_trait::async_trait;
use k8s_openapi::{
    api::{apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler},
    kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};
use kube::{Api, api::PostParams};
use parking_lot::Mutex;
use rk_api::{clock, io::Io, server::Dialer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cluster::{TestCluster, from_json};

/// An adapter for custom and external metrics, in a few lines of HTTP.
#[derive(Clone, Debug, Default)]
struct Adapter {
    asked: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Dialer for Adapter {
    async fn dial(&self, _: &str, _: u16) -> io::Result<Box<dyn Io>> {
        Err(io::ErrorKind::HostUnreachable.into())
    }

    fn is_in_process(&self, namespace: &str, name: &str) -> bool {
        (namespace, name) == ("monitoring", "adapter")
    }

    fn in_process(&self, namespace: &str, name: &str, _: u16) -> Option<Box<dyn Io>> {
        if !self.is_in_process(namespace, name) {
            return None;
        }
        let (near, far) = tokio::io::duplex(64 * 1024);
        tokio::spawn(self.clone().serve(far));
        Some(Box::new(near))
    }
}

impl Adapter {
    async fn serve(self, mut stream: tokio::io::DuplexStream) {
        let mut read = Vec::new();
        while let Ok(byte) = stream.read_u8().await {
            read.push(byte);
            if !read.ends_with(b"\r\n\r\n") {
                continue;
            }
            let head = String::from_utf8(std::mem::take(&mut read)).unwrap();
            let target = head.split(' ').nth(1).unwrap().to_owned();
            let (code, body) = answer(&target);
            if target.contains("/namespaces/") {
                self.asked.lock().push(target);
            }
            let body = body.to_string();
            let head = format!(
                "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(body.as_bytes()).await.unwrap();
        }
    }
}

fn answer(target: &str) -> (u16, Value) {
    let path = target.split('?').next().unwrap();
    let of_object = |kind: &str, name: &str, value: &str| {
        let object = json!({"kind": kind, "name": name, "namespace": "default"});
        json!({"describedObject": object, "timestamp": clock::now_seconds(), "value": value})
    };
    let items = match path {
        "/apis/custom.metrics.k8s.io/v1beta1" | "/apis/external.metrics.k8s.io/v1beta1" => {
            let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": path[6..], "resources": []});
            return (200, list);
        }
        "/apis/custom.metrics.k8s.io/v1beta1/namespaces/default/deployments.apps/web/requests" => {
            json!([of_object("Deployment", "web", "250")])
        }
        "/apis/custom.metrics.k8s.io/v1beta1/namespaces/default/metrics/quota" => {
            json!([of_object("Namespace", "default", "100m")])
        }
        "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/queue" => {
            json!([{"value": "20"}, {"value": "15500m"}])
        }
        _ => {
            return (
                404,
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound", "message": "no such metric"}),
            );
        }
    };
    (200, json!({"kind": "MetricValueList", "items": items}))
}

#[tokio::test(start_paused = true)]
async fn custom_and_external_metrics_come_from_whoever_serves_them() {
    let adapter = Adapter::default();
    let dialer = Arc::new(adapter.clone());
    let cluster =
        TestCluster::start_on(|server| server.dialer(dialer), "*", |builder| builder).await;
    for group in ["custom.metrics.k8s.io", "external.metrics.k8s.io"] {
        let service: APIService = from_json(json!({
            "metadata": {"name": format!("v1beta1.{group}")},
            "spec": {
                "group": group, "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
                "insecureSkipTLSVerify": true, "service": {"namespace": "monitoring", "name": "adapter"},
            },
        }));
        Api::all(cluster.client.clone()).create(&PostParams::default(), &service).await.unwrap();
    }
    cluster
        .create::<Deployment>(json!({"metadata": {"name": "web"}, "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web"}]},
            },
        }}))
        .await;
    cluster.settle().await;
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    cluster
        .create::<HorizontalPodAutoscaler>(json!({"metadata": {"name": "web"}, "spec": {
            "scaleTargetRef": deployment, "minReplicas": 1, "maxReplicas": 10,
            "metrics": [
                {"type": "Object", "object": {
                    "describedObject": deployment, "metric": {"name": "requests"},
                    "target": {"type": "AverageValue", "averageValue": "100"},
                }},
                {"type": "Object", "object": {
                    "describedObject": {"apiVersion": "v1", "kind": "Namespace", "name": "default"},
                    "metric": {"name": "quota"}, "target": {"type": "Value", "value": "1"},
                }},
                {"type": "External", "external": {
                    "metric": {"name": "queue", "selector": {"matchLabels": {"of": "orders"}}},
                    "target": {"type": "AverageValue", "averageValue": "10"},
                }},
            ],
        }}))
        .await;
    cluster.settle().await;
    let replicas = cluster.get::<Deployment>("web").await.unwrap().spec.replicas;
    assert_eq!(replicas, Some(4), "{}", cluster.history().await);
    let reasons = cluster.events("SuccessfulRescale").await;
    let metric = "external metric queue(&LabelSelector{MatchLabels:map[string]string{of: orders,},\
                  MatchExpressions:[]LabelSelectorRequirement{},})";
    assert_eq!(reasons, [format!("New size: 4; reason: {metric} above target")]);

    let status = cluster.get::<HorizontalPodAutoscaler>("web").await.unwrap().status.unwrap();
    let current = json!(status.current_metrics);
    assert_eq!(current[0]["object"]["current"]["averageValue"], "125");
    assert_eq!(current[1]["object"]["current"]["value"], "100m");
    assert_eq!(current[2]["external"]["current"]["averageValue"], "17750m");
    let asked = adapter.asked.lock().clone();
    let queue =
        "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/queue?labelSelector=of%3Dorders";
    assert!(asked.contains(&queue.to_owned()), "{asked:?}");
}
