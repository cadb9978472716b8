//! Metrics in the Prometheus text format, under kube-apiserver's names.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::{admission::AdmissionMetrics, cache::Cache, flow_control, info::RequestInfo};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerbLabels {
    verb: &'static str,
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabels {
    resource: String,
}

/// Upper bounds of the latency buckets, in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

/// What the server counts.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    latency: Family<VerbLabels, Histogram>,
    watches: Family<ResourceLabels, Gauge>,
    objects: Family<ResourceLabels, Gauge>,
    /// Those of priority and fairness.
    pub(super) flow_control: flow_control::Metrics,
    /// What admission counts.
    pub admission: AdmissionMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let latency =
            Family::<VerbLabels, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        let (watches, objects) = (Family::default(), Family::default());
        // The library appends `_total` to counters.
        registry.register(
            "apiserver_request",
            "Requests, by what they did and how they ended",
            requests.clone(),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "Seconds until the answer began",
            latency.clone(),
        );
        registry.register(
            "apiserver_registered_watchers",
            "Watches that are open",
            watches.clone(),
        );
        registry.register("apiserver_storage_objects", "Objects that are stored", objects.clone());
        let flow_control = flow_control::Metrics::register(&mut registry);
        let admission = AdmissionMetrics::register(&mut registry);
        Self { registry, requests, latency, watches, objects, flow_control, admission }
    }
}

impl Metrics {
    /// Counts one request.
    pub(super) fn request(&self, info: &RequestInfo, code: u16, took: Duration) {
        let verb = match info.verb.as_ref() {
            "create" | "post" => "POST",
            "update" | "put" => "PUT",
            "get" => "GET",
            "list" => "LIST",
            "watch" => "WATCH",
            "patch" => "PATCH",
            "delete" => "DELETE",
            "deletecollection" => "DELETECOLLECTION",
            _ => "OTHER",
        };
        // Names that no row has would let clients create series without bound.
        let known = code != 404 || info.is_resource && !info.name.is_empty();
        let name = |text: &str| if known { text.to_owned() } else { String::new() };
        let labels = RequestLabels {
            verb,
            group: name(&info.group),
            version: name(&info.version),
            resource: name(&info.resource),
            subresource: name(&info.subresource),
            code,
        };
        self.requests.get_or_create(&labels).inc();
        if verb != "WATCH" {
            let labels = VerbLabels { verb, resource: labels.resource };
            self.latency.get_or_create(&labels).observe(took.as_secs_f64());
        }
    }

    /// All metrics as text.
    pub(super) fn text(&self, cache: &Cache) -> String {
        for table in cache.tables() {
            let labels = ResourceLabels { resource: table.resource.qualified() };
            self.watches.get_or_create(&labels).set(table.watch_count() as i64);
            self.objects.get_or_create(&labels).set(table.len() as i64);
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
