//! Where measurements come from: the seam between the autoscaler and metrics APIs.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::{
    api::autoscaling::v2::CrossVersionObjectReference,
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

/// What was measured at one Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodMetric {
    /// When the measurement ended.
    pub timestamp: Timestamp,
    /// How long it took.
    pub window: Duration,
    /// The value, in thousandths (millicores, thousandths of a byte).
    pub value: i64,
}

/// Measurements by the Pod's name. Pods that were not measured are left out.
pub type PodMetrics = BTreeMap<String, PodMetric>;

/// Why there is no measurement, in words that end up in conditions and events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MetricsError(pub String);

/// Reads measurements for the HorizontalPodAutoscaler controller.
///
/// # Contract
/// - Values are in thousandths.
/// - An answer without any measurement is an error: nobody is scaled on nothing.
/// - Selectors are texts as the API takes them; an empty one selects everything.
#[async_trait]
pub trait MetricsClient: Send + Sync + 'static {
    /// How much of a resource each Pod uses (metrics.k8s.io): all its containers together, or the
    /// one that is named.
    async fn resource(
        &self,
        namespace: &str,
        resource: &str,
        selector: &str,
        container: Option<&str>,
    ) -> Result<PodMetrics, MetricsError>;

    /// A metric of each Pod (custom.metrics.k8s.io).
    async fn pods(
        &self,
        namespace: &str,
        metric: &str,
        selector: &str,
        metric_selector: Option<&LabelSelector>,
    ) -> Result<PodMetrics, MetricsError>;

    /// A metric of one object (custom.metrics.k8s.io).
    async fn object(
        &self,
        namespace: &str,
        metric: &str,
        object: &CrossVersionObjectReference,
        metric_selector: Option<&LabelSelector>,
    ) -> Result<i64, MetricsError>;

    /// All values of a metric that has nothing to do with the cluster (external.metrics.k8s.io).
    async fn external(
        &self,
        namespace: &str,
        metric: &str,
        metric_selector: Option<&LabelSelector>,
    ) -> Result<Vec<i64>, MetricsError>;
}
