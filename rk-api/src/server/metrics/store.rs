//! How long the store takes, under the names that kube-apiserver has for etcd.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use rk_store::{Expect, Range, RangeResponse, Revision, Store, StoreError, Versioned, WatchStream};
use tokio::time::Instant;

/// Upper bounds of the buckets, in seconds: kube-apiserver's, and one below them for a store that is
/// in the same process.
const BUCKETS: [f64; 15] =
    [0.001, 0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    operation: &'static str,
    r#type: String,
}

/// What is counted.
#[derive(Clone, Debug)]
pub(in crate::server) struct StoreMetrics {
    latency: Family<Labels, Histogram>,
    requests: Family<Labels, Counter>,
    errors: Family<Labels, Counter>,
}

impl StoreMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let latency = Family::<Labels, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        let (requests, errors) = <(Family<_, _>, Family<_, _>)>::default();
        let help = "Seconds that the store took, by operation and resource";
        registry.register("etcd_request_duration_seconds", help, latency.clone());
        registry.register("etcd_requests", "Requests to the store", requests.clone());
        registry.register("etcd_request_errors", "Those that failed", errors.clone());
        Self { latency, requests, errors }
    }

    fn done<T>(
        &self,
        operation: &'static str,
        key: &str,
        began: Instant,
        result: &Result<T, StoreError>,
    ) {
        let labels = Labels { operation, r#type: resource(key).to_owned() };
        let took: Duration = began.elapsed();
        self.latency.get_or_create(&labels).observe(took.as_secs_f64());
        self.requests.get_or_create(&labels).inc();
        // That somebody else was faster is an answer.
        if matches!(result, Err(error) if !matches!(error, StoreError::Conflict { .. })) {
            self.errors.get_or_create(&labels).inc();
        }
    }
}

/// What a key below `/registry/` is of: `pods`, `example.com/widgets`. Names, of which there are any
/// number, are not in it.
fn resource(key: &str) -> &str {
    let path = key.strip_prefix("/registry/").unwrap_or(key);
    let first = path.find('/').unwrap_or(path.len());
    if !path[..first].contains('.') {
        return &path[..first];
    }
    // Groups that have a dot have their resource in the next part.
    let rest = path[first..].strip_prefix('/').unwrap_or_default();
    let second = rest.find('/').unwrap_or(rest.len());
    &path[..(first + 1 + second).min(path.len())]
}

/// A store that is measured.
#[derive(Clone, Debug)]
pub(in crate::server) struct Measured {
    store: Arc<dyn Store>,
    metrics: StoreMetrics,
}

impl Measured {
    pub(in crate::server) fn new(store: Arc<dyn Store>, metrics: StoreMetrics) -> Self {
        Self { store, metrics }
    }
}

#[async_trait]
impl Store for Measured {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        let began = Instant::now();
        let result = self.store.get(key).await;
        self.metrics.done("get", key, began, &result);
        result
    }

    async fn range(&self, range: Range<'_>) -> Result<RangeResponse, StoreError> {
        let (began, from) = (Instant::now(), range.prefix);
        let result = self.store.range(range).await;
        self.metrics.done("list", from, began, &result);
        result
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        ttl: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        let operation = if matches!(expect, Expect::Absent) { "create" } else { "update" };
        let began = Instant::now();
        let result = self.store.put(key, value, expect, ttl).await;
        self.metrics.done(operation, key, began, &result);
        result
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(Revision, Versioned), StoreError> {
        let began = Instant::now();
        let result = self.store.delete(key, expect).await;
        self.metrics.done("delete", key, began, &result);
        result
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.store.revision().await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        self.store.watch(prefix, from).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.store.compact(revision).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_of_a_resource_and_not_of_an_object() {
        for (key, expected) in [
            ("/registry/pods/default/web", "pods"),
            ("/registry/namespaces/default", "namespaces"),
            ("/registry/pods/", "pods"),
            (
                "/registry/apiregistration.k8s.io/apiservices/v1.",
                "apiregistration.k8s.io/apiservices",
            ),
            ("/registry/example.com/widgets/default/w", "example.com/widgets"),
            ("/registry/example.com", "example.com"),
            ("/registry/", ""),
        ] {
            assert_eq!(resource(key), expected, "{key}");
        }
    }
}
