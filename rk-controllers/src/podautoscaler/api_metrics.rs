//! Measurements from metrics APIs, whoever serves them behind the API server.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::{
    api::autoscaling::v2::CrossVersionObjectReference,
    apimachinery::pkg::{api::resource::Quantity as ApiQuantity, apis::meta::v1::LabelSelector},
};
use kube::Client;
use rk_api::meta::{
    duration,
    quantity::Quantity,
    selectors::{LabelOperator, LabelQuery},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    metrics::{MetricsClient, MetricsError, PodMetric, PodMetrics},
    target::Targets,
};
use crate::error;

/// The time that a custom metric of a Pod stands for, unless it says.
const USUAL_WINDOW: Duration = Duration::from_secs(60);

/// Versions of custom.metrics.k8s.io, the better one first.
const CUSTOM_VERSIONS: [&str; 2] = ["v1beta2", "v1beta1"];

/// Reads metrics.k8s.io, custom.metrics.k8s.io and external.metrics.k8s.io.
pub(super) struct ApiMetrics {
    client: Client,
    targets: Targets,
}

#[derive(Deserialize)]
struct List<T> {
    items: Vec<T>,
}

#[derive(Deserialize)]
struct OfPod {
    metadata: Name,
    timestamp: Timestamp,
    window: String,
    containers: Vec<OfContainer>,
}

#[derive(Deserialize)]
struct Name {
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Deserialize)]
struct OfContainer {
    name: String,
    usage: std::collections::BTreeMap<String, ApiQuantity>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Custom {
    described_object: Name,
    timestamp: Timestamp,
    window_seconds: Option<u64>,
    value: ApiQuantity,
}

#[derive(Deserialize)]
struct External {
    value: ApiQuantity,
}

impl ApiMetrics {
    pub fn new(client: Client) -> Self {
        Self { targets: Targets::new(client.clone()), client }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, kube::Error> {
        let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        self.client.request(request).await
    }

    /// Asks the newest version of custom.metrics.k8s.io that is served.
    async fn custom(&self, path: &str, resource: &str) -> Result<Vec<Custom>, MetricsError> {
        let mut missing = None;
        for version in CUSTOM_VERSIONS {
            let url = format!("/apis/custom.metrics.k8s.io/{version}/{path}");
            match self.get::<List<Custom>>(&url).await {
                Ok(list) if list.items.is_empty() => {
                    return Err(none("custom"));
                }
                Ok(list) => return Ok(list.items),
                Err(error) if error::is_not_found(&error) => missing = Some(error),
                Err(error) => return Err(failed("custom", &error, resource)),
            }
        }
        let resource = format!("{resource}.custom.metrics.k8s.io");
        Err(missing.map_or_else(|| none("custom"), |error| failed("custom", &error, &resource)))
    }
}

#[async_trait]
impl MetricsClient for ApiMetrics {
    async fn resource(
        &self,
        namespace: &str,
        resource: &str,
        selector: &str,
        container: Option<&str>,
    ) -> Result<PodMetrics, MetricsError> {
        let path = format!(
            "/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={}",
            encoded(selector)
        );
        let list: List<OfPod> = self
            .get(&path)
            .await
            .map_err(|error| failed("resource", &error, "pods.metrics.k8s.io"))?;
        if list.items.is_empty() {
            return Err(none("resource"));
        }
        let mut metrics = PodMetrics::new();
        for pod in list.items {
            if let Some(value) = usage(&pod, namespace, resource, container)? {
                let window = duration::parse(&pod.window).unwrap_or(USUAL_WINDOW);
                let metric = PodMetric { timestamp: pod.timestamp, window, value };
                metrics.insert(pod.metadata.name, metric);
            }
        }
        Ok(metrics)
    }

    async fn pods(
        &self,
        namespace: &str,
        metric: &str,
        selector: &str,
        metric_selector: Option<&LabelSelector>,
    ) -> Result<PodMetrics, MetricsError> {
        let path = format!(
            "namespaces/{namespace}/pods/*/{}?labelSelector={}&metricLabelSelector={}",
            encoded(metric),
            encoded(selector),
            encoded(&text(metric_selector))
        );
        let items = self.custom(&path, &format!("pods/{metric}")).await?;
        let of_pod = |item: Custom| {
            let window = item.window_seconds.map_or(USUAL_WINDOW, Duration::from_secs);
            let metric =
                PodMetric { timestamp: item.timestamp, window, value: millis(&item.value) };
            (item.described_object.name, metric)
        };
        Ok(items.into_iter().map(of_pod).collect())
    }

    async fn object(
        &self,
        namespace: &str,
        metric: &str,
        object: &CrossVersionObjectReference,
        metric_selector: Option<&LabelSelector>,
    ) -> Result<i64, MetricsError> {
        let api_version = object.api_version.as_deref().unwrap_or_default();
        let (name, metric) = (encoded(&object.name), encoded(metric));
        let selected = format!("metricLabelSelector={}", encoded(&text(metric_selector)));
        // A Namespace has metrics of its own, elsewhere than those of what is in it.
        let path = if object.kind == "Namespace" && !api_version.contains('/') {
            format!("namespaces/{name}/metrics/{metric}?{selected}")
        } else {
            let served = self.targets.kind(api_version, &object.kind).await.map_err(|why| {
                MetricsError(format!("unable to fetch metrics from custom metrics API: {why}"))
            })?;
            let resource = match served.group.as_str() {
                "" => served.plural.clone(),
                group => format!("{}.{group}", served.plural),
            };
            let place =
                if served.namespaced { format!("namespaces/{namespace}/") } else { String::new() };
            format!("{place}{resource}/{name}/{metric}?{selected}")
        };
        let items = self.custom(&path, &object.kind).await?;
        items.first().map(|item| millis(&item.value)).ok_or_else(|| none("custom"))
    }

    async fn external(
        &self,
        namespace: &str,
        metric: &str,
        metric_selector: Option<&LabelSelector>,
    ) -> Result<Vec<i64>, MetricsError> {
        let path = format!(
            "/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{}?labelSelector={}",
            encoded(metric),
            encoded(&text(metric_selector))
        );
        let resource = format!("{metric}.external.metrics.k8s.io");
        let list: List<External> =
            self.get(&path).await.map_err(|error| failed("external", &error, &resource))?;
        if list.items.is_empty() {
            return Err(none("external"));
        }
        Ok(list.items.iter().map(|item| millis(&item.value)).collect())
    }
}

/// What a Pod uses of a resource. `None` if that was not measured for each container asked for.
fn usage(
    pod: &OfPod,
    namespace: &str,
    resource: &str,
    container: Option<&str>,
) -> Result<Option<i64>, MetricsError> {
    let of = |each: &OfContainer| each.usage.get(resource).map(millis);
    let Some(container) = container else {
        let mut values = pod.containers.iter().map(of);
        return Ok(values.try_fold(0_i64, |sum, value| Some(sum.saturating_add(value?))));
    };
    let found = pod.containers.iter().find(|each| each.name == container).ok_or_else(|| {
        let namespace = match pod.metadata.namespace.as_str() {
            "" => namespace,
            stated => stated,
        };
        let pod = &pod.metadata.name;
        MetricsError(format!(
            "container {container} not present in metrics for pod {namespace}/{pod}"
        ))
    })?;
    Ok(of(found))
}

fn millis(quantity: &ApiQuantity) -> i64 {
    Quantity::try_from(quantity).map_or(0, |quantity| quantity.millis())
}

fn none(api: &str) -> MetricsError {
    MetricsError(format!("no metrics returned from {api} metrics API"))
}

fn failed(api: &str, error: &kube::Error, resource: &str) -> MetricsError {
    let why = match error {
        // Nobody serves the group: what answers is not the words of an API.
        kube::Error::Api(status) if status.code == 404 && status.reason != "NotFound" => {
            format!("the server could not find the requested resource (get {resource})")
        }
        error => error::message(error),
    };
    MetricsError(format!("unable to fetch metrics from {api} metrics API: {why}"))
}

/// A selector as a query has it.
fn text(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return String::new() };
    let query = LabelQuery::from_selector(selector);
    let each = query.requirements().iter().map(|requirement| {
        let key = &requirement.key;
        match &requirement.operator {
            LabelOperator::Equals(value) => format!("{key}={value}"),
            LabelOperator::In(values) => format!("{key} in ({})", values.join(",")),
            LabelOperator::NotIn(values) => format!("{key} notin ({})", values.join(",")),
            LabelOperator::Exists => key.clone(),
            _ => format!("!{key}"),
        }
    });
    each.collect::<Vec<_>>().join(",")
}

/// Percent-encoded, all but what stands for itself everywhere in a URL (RFC 3986, 2.3).
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> OfPod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "a", "namespace": "ns"},
            "timestamp": "2026-01-01T00:00:00Z", "window": "15.2s",
            "containers": [
                {"name": "web", "usage": {"cpu": "250m", "memory": "1Ki"}},
                {"name": "side", "usage": {"cpu": "1"}},
            ],
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_uses_what_its_containers_use_if_all_were_measured() {
        assert_eq!(usage(&pod(), "ns", "cpu", None), Ok(Some(1250)));
        assert_eq!(usage(&pod(), "ns", "memory", None), Ok(None));
        assert_eq!(usage(&pod(), "ns", "memory", Some("web")), Ok(Some(1_024_000)));
        assert_eq!(
            usage(&pod(), "ns", "cpu", Some("no")).unwrap_err().to_string(),
            "container no not present in metrics for pod ns/a"
        );
    }

    #[test]
    fn a_selector_is_written_as_the_api_reads_it() {
        let selector: LabelSelector = serde_json::from_value(serde_json::json!({
            "matchLabels": {"verb": "GET"},
            "matchExpressions": [
                {"key": "code", "operator": "NotIn", "values": ["500", "404"]},
                {"key": "zone", "operator": "DoesNotExist"},
            ],
        }))
        .unwrap();
        let written = text(Some(&selector));
        assert_eq!(written, "code notin (404,500),verb=GET,!zone");
        assert_eq!(LabelQuery::parse(&written).map(|query| query.requirements().len()), Ok(3));
        assert_eq!(encoded("a in (b,c)"), "a%20in%20%28b%2Cc%29");
    }
}
