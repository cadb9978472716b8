//! Metrics in the Prometheus text format, under kube-apiserver's names.

mod process;
mod store;
mod tokens;

use std::{sync::atomic::AtomicI64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use self::{process::Process, store::StoreMetrics};
pub(super) use self::{store::Measured, tokens::TokenMetrics};
use super::{admission::AdmissionMetrics, cache::Cache, flow_control, info::RequestInfo};

/// What a request was about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AboutLabels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    #[prometheus(flatten)]
    about: AboutLabels,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabels {
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    request_kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    major: &'static str,
    minor: &'static str,
    git_version: &'static str,
}

/// Upper bounds of the latency buckets in seconds, kube-apiserver's.
const BUCKETS: [f64; 22] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 60.0,
];

/// The component that all of this is of.
const COMPONENT: &str = "apiserver";

/// What the server counts.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    latency: Family<AboutLabels, Histogram>,
    long_running: Family<AboutLabels, Gauge>,
    reading: Gauge,
    writing: Gauge,
    watches: Family<ResourceLabels, Gauge>,
    objects: Family<ResourceLabels, Gauge>,
    /// Those of priority and fairness.
    pub(super) flow_control: flow_control::Metrics,
    /// What admission counts.
    pub admission: AdmissionMetrics,
    /// What is asked of the store.
    pub(super) store: StoreMetrics,
    /// Which tokens are used.
    pub(super) tokens: TokenMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let latency =
            Family::<AboutLabels, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        let (long_running, watches, objects) =
            <(Family<_, _>, Family<_, _>, Family<_, _>)>::default();
        let in_flight = Family::<KindLabels, Gauge>::default();
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
            "apiserver_longrunning_requests",
            "Requests that last, and are open",
            long_running.clone(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests that are being answered, but for those that last",
            in_flight.clone(),
        );
        registry.register(
            "apiserver_registered_watchers",
            "Watches that are open",
            watches.clone(),
        );
        registry.register("apiserver_storage_objects", "Objects that are stored", objects.clone());
        let build = Family::<BuildLabels, Gauge>::default();
        registry.register("kubernetes_build_info", "The version that is served", build.clone());
        let version = BuildLabels { major: "1", minor: "37", git_version: "v1.37.0" };
        build.get_or_create(&version).set(1);
        registry.register_collector(Box::new(Process));
        let kind = |request_kind| in_flight.get_or_create_owned(&KindLabels { request_kind });
        Self {
            requests,
            latency,
            long_running,
            reading: kind("readOnly"),
            writing: kind("mutating"),
            watches,
            objects,
            flow_control: flow_control::Metrics::register(&mut registry),
            admission: AdmissionMetrics::register(&mut registry),
            store: StoreMetrics::register(&mut registry),
            tokens: TokenMetrics::register(&mut registry),
            registry,
        }
    }
}

/// A request that is being answered counts until this is dropped.
#[derive(Debug)]
pub(super) struct InFlight(Gauge<i64, AtomicI64>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// A request that is being answered.
    pub(super) fn in_flight(&self, info: &RequestInfo) -> InFlight {
        let reads = matches!(info.verb.as_ref(), "get" | "list" | "watch");
        let gauge = if reads { &self.reading } else { &self.writing };
        gauge.inc();
        InFlight(gauge.clone())
    }

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
        let about = AboutLabels {
            verb,
            group: name(&info.group),
            version: name(&info.version),
            resource: name(&info.resource),
            subresource: name(&info.subresource),
            scope: scope(info),
            component: COMPONENT,
        };
        if verb != "WATCH" {
            self.latency.get_or_create(&about).observe(took.as_secs_f64());
        }
        self.requests.get_or_create(&RequestLabels { about, code }).inc();
    }

    /// All metrics as text.
    pub(super) fn text(&self, cache: &Cache) -> String {
        for table in cache.tables() {
            let labels = ResourceLabels { resource: table.resource.qualified() };
            self.watches.get_or_create(&labels).set(table.watch_count() as i64);
            self.objects.get_or_create(&labels).set(table.len() as i64);
            let row = &table.resource;
            let about = AboutLabels {
                verb: "WATCH",
                group: row.group.to_string(),
                version: row.version.to_string(),
                resource: row.plural.to_string(),
                subresource: String::new(),
                scope: "cluster",
                component: COMPONENT,
            };
            self.long_running.get_or_create(&about).set(table.watch_count() as i64);
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// How much a request is about, in kube-apiserver's words.
fn scope(info: &RequestInfo) -> &'static str {
    match info {
        _ if !info.is_resource => "",
        _ if !info.name.is_empty() || info.verb == "create" => "resource",
        _ if !info.namespace.is_empty() => "namespace",
        _ => "cluster",
    }
}
