//! HorizontalPodAutoscalers through the API, with measurements of the test's own.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        autoscaling::v2::{CrossVersionObjectReference, HorizontalPodAutoscaler},
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use parking_lot::Mutex;
use rk_api::clock;
use rk_controllers::{MetricsClient, MetricsError, PodMetric, PodMetrics};
use serde_json::{Value, json};

use crate::cluster::TestCluster;

/// A load that all replicas share equally.
#[derive(Clone, Default)]
struct Load(Arc<Mutex<Shared>>);

#[derive(Default)]
struct Shared {
    cluster: Option<kube::Client>,
    /// In millicores; not measured at all without one.
    cpu: Option<i64>,
    /// What the queue outside holds.
    queue: Option<i64>,
}

impl Load {
    fn set(&self, cpu: i64) {
        self.0.lock().cpu = Some(cpu);
    }
}

fn silence() -> MetricsError {
    MetricsError("no metrics returned from resource metrics API".into())
}

#[async_trait]
impl MetricsClient for Load {
    async fn resource(
        &self,
        namespace: &str,
        _: &str,
        selector: &str,
        _: Option<&str>,
    ) -> Result<PodMetrics, MetricsError> {
        let (client, cpu) = {
            let shared = self.0.lock();
            (shared.cluster.clone().ok_or_else(silence)?, shared.cpu.ok_or_else(silence)?)
        };
        let api = kube::Api::<k8s_openapi::api::core::v1::Pod>::namespaced(client, namespace);
        let pods = api.list(&kube::api::ListParams::default().labels(selector)).await;
        let pods = pods.map_err(|error| MetricsError(error.to_string()))?.items;
        let (timestamp, window) = (clock::now(), Duration::from_secs(15));
        let value = cpu / pods.len().max(1) as i64;
        let metric = PodMetric { timestamp, window, value };
        Ok(pods.into_iter().filter_map(|pod| Some((pod.metadata.name?, metric))).collect())
    }

    async fn pods(
        &self,
        _: &str,
        _: &str,
        _: &str,
        _: Option<&LabelSelector>,
    ) -> Result<PodMetrics, MetricsError> {
        Err(silence())
    }

    async fn object(
        &self,
        _: &str,
        _: &str,
        _: &CrossVersionObjectReference,
        _: Option<&LabelSelector>,
    ) -> Result<i64, MetricsError> {
        Err(silence())
    }

    async fn external(
        &self,
        _: &str,
        _: &str,
        _: Option<&LabelSelector>,
    ) -> Result<Vec<i64>, MetricsError> {
        self.0.lock().queue.map(|queue| vec![queue]).ok_or_else(silence)
    }
}

async fn start() -> (TestCluster, Load) {
    let load = Load::default();
    let metrics = Arc::new(load.clone());
    let cluster = TestCluster::start_with("*", |builder| builder.metrics_client(metrics)).await;
    load.0.lock().cluster = Some(cluster.client.clone());
    (cluster, load)
}

async fn deploy(cluster: &TestCluster, name: &str, replicas: i32) {
    let web = json!({"name": "web", "image": "web", "resources": {"requests": {"cpu": "100m"}}});
    cluster
        .create::<Deployment>(json!({"metadata": {"name": name}, "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [web]}},
        }}))
        .await;
    cluster.settle().await;
}

async fn autoscale(cluster: &TestCluster, name: &str, target: &str, more: Value) {
    let mut spec = json!({
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target},
        "minReplicas": 1, "maxReplicas": 10,
        "metrics": [{"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50},
        }}],
    });
    let Value::Object(more) = more else { panic!("{more}") };
    spec.as_object_mut().unwrap().extend(more);
    cluster
        .create::<HorizontalPodAutoscaler>(json!({"metadata": {"name": name}, "spec": spec}))
        .await;
}

async fn replicas(cluster: &TestCluster, name: &str) -> i32 {
    cluster.get::<Deployment>(name).await.unwrap().spec.replicas.unwrap()
}

/// `Type=Status Reason: message` of a condition.
async fn condition(cluster: &TestCluster, name: &str, kind: &str) -> String {
    let status = cluster.get::<HorizontalPodAutoscaler>(name).await.unwrap().status.unwrap();
    let conditions = status.conditions.unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition.type_ == kind);
    found.map_or_else(String::new, |found| {
        let (reason, message) = (found.reason.unwrap(), found.message.unwrap());
        format!("{} {reason}: {message}", found.status)
    })
}

#[tokio::test(start_paused = true)]
async fn replicas_follow_the_load_up_at_once_and_down_after_five_quiet_minutes() {
    let (cluster, load) = start().await;
    deploy(&cluster, "web", 1).await;
    cluster.wait(360).await;
    load.set(50);
    autoscale(&cluster, "web", "web", json!({})).await;
    cluster.wait(20).await;
    assert_eq!(replicas(&cluster, "web").await, 1);
    assert_eq!(
        condition(&cluster, "web", "ScalingActive").await,
        "True ValidMetricFound: the HPA was able to successfully calculate a replica count from \
         cpu resource utilization (percentage of request)"
    );

    load.set(400);
    cluster.wait(20).await;
    assert_eq!(replicas(&cluster, "web").await, 4, "twice as many, but always up to four");
    let status = cluster.get::<HorizontalPodAutoscaler>("web").await.unwrap().status.unwrap();
    let current = &status.current_metrics.as_ref().unwrap()[0].resource.as_ref().unwrap().current;
    assert_eq!(current.average_utilization, Some(400));
    assert_eq!(current.average_value.as_ref().unwrap().0, "400m");
    assert!(status.last_scale_time.is_some());
    let events = cluster.events("SuccessfulRescale").await;
    let message =
        "New size: 4; reason: cpu resource utilization (percentage of request) above target";
    assert_eq!(events, [message]);

    // New Pods count as idle while they start: the load they share is 100% of each of four.
    cluster.wait(400).await;
    assert_eq!(replicas(&cluster, "web").await, 8);

    load.set(100);
    cluster.wait(240).await;
    assert_eq!(replicas(&cluster, "web").await, 8);
    let able = condition(&cluster, "web", "AbleToScale").await;
    assert!(able.starts_with("True ScaleDownStabilized: "), "{able}");
    cluster.wait(120).await;
    assert_eq!(replicas(&cluster, "web").await, 2);
    let events = cluster.events("SuccessfulRescale").await;
    assert_eq!(events.last().unwrap(), "New size: 2; reason: All metrics below target");
}

#[tokio::test(start_paused = true)]
async fn without_measurements_nothing_is_done_and_a_condition_says_why() {
    let (cluster, _load) = start().await;
    deploy(&cluster, "web", 3).await;
    autoscale(&cluster, "web", "web", json!({})).await;
    cluster.wait(60).await;
    assert_eq!(replicas(&cluster, "web").await, 3);
    let why = "failed to get cpu utilization: unable to get metrics for resource cpu: no metrics \
               returned from resource metrics API";
    assert_eq!(
        condition(&cluster, "web", "ScalingActive").await,
        format!(
            "False FailedGetResourceMetric: the HPA was unable to compute the replica count: {why}"
        )
    );
    assert_eq!(cluster.events("FailedGetResourceMetric").await, [why]);
    assert_eq!(
        cluster.events("FailedComputeMetricsReplicas").await,
        [format!(
            "invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource \
             metric value: {why}"
        )]
    );
    assert_eq!(
        condition(&cluster, "web", "AbleToScale").await,
        "True SucceededGetScale: the HPA controller was able to get the target's current scale"
    );
}

#[tokio::test(start_paused = true)]
async fn bounds_count_before_any_metric_and_zero_switches_it_off() {
    let (cluster, _load) = start().await;
    deploy(&cluster, "small", 1).await;
    deploy(&cluster, "large", 12).await;
    deploy(&cluster, "off", 0).await;
    for name in ["small", "large", "off"] {
        autoscale(&cluster, name, name, json!({"minReplicas": 3})).await;
    }
    cluster.settle().await;
    assert_eq!(replicas(&cluster, "small").await, 3);
    assert_eq!(replicas(&cluster, "large").await, 10);
    assert_eq!(replicas(&cluster, "off").await, 0);
    let mut events = cluster.events("SuccessfulRescale").await;
    events.sort();
    assert_eq!(
        events,
        [
            "New size: 10; reason: Current number of replicas above Spec.MaxReplicas",
            "New size: 3; reason: Current number of replicas below Spec.MinReplicas",
        ]
    );
    assert_eq!(
        condition(&cluster, "off", "ScalingActive").await,
        "False ScalingDisabled: scaling is disabled since the replica count of the target is zero"
    );
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_not_there_is_an_event_and_a_condition() {
    let (cluster, _load) = start().await;
    autoscale(&cluster, "web", "gone", json!({})).await;
    let nothing =
        json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Nothing", "name": "x"}});
    autoscale(&cluster, "odd", "x", nothing).await;
    cluster.settle().await;
    let able = condition(&cluster, "web", "AbleToScale").await;
    let expected = "False FailedGetScale: the HPA controller was unable to get the target's current \
                    scale: ";
    assert!(able.starts_with(expected) && able.ends_with("\"gone\" not found"), "{able}");
    let able = condition(&cluster, "odd", "AbleToScale").await;
    assert_eq!(able, format!("{expected}no matches for kind \"Nothing\" in group \"apps\""));

    deploy(&cluster, "gone", 1).await;
    cluster.wait(20).await;
    let able = condition(&cluster, "web", "AbleToScale").await;
    assert!(able.starts_with("True "), "{able}");
}

#[tokio::test(start_paused = true)]
async fn two_autoscalers_with_pods_in_common_do_nothing() {
    let (cluster, load) = start().await;
    deploy(&cluster, "web", 2).await;
    load.set(1000);
    autoscale(&cluster, "one", "web", json!({"maxReplicas": 2})).await;
    cluster.settle().await;
    autoscale(&cluster, "two", "web", json!({})).await;
    cluster.wait(400).await;
    assert_eq!(replicas(&cluster, "web").await, 2);
    for name in ["one", "two"] {
        assert_eq!(
            condition(&cluster, name, "ScalingActive").await,
            "False AmbiguousSelector: pods by selector app=web are controlled by more than one HPA \
             (e.g. [{one default} {two default}])"
        );
    }
    cluster.delete::<HorizontalPodAutoscaler>("one", &Default::default()).await;
    cluster.wait(20).await;
    assert!(replicas(&cluster, "web").await >= 4);
}

#[tokio::test(start_paused = true)]
async fn the_largest_of_several_metrics_counts_and_a_broken_one_holds_off_steps_down() {
    let (cluster, load) = start().await;
    deploy(&cluster, "web", 2).await;
    cluster.wait(360).await;
    load.set(100);
    load.0.lock().queue = Some(30_000);
    let metrics = json!({"metrics": [
        {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
        {"type": "External", "external": {"metric": {"name": "queue"}, "target": {"type": "AverageValue", "averageValue": "10"}}},
    ]});
    autoscale(&cluster, "web", "web", metrics).await;
    cluster.settle().await;
    assert_eq!(replicas(&cluster, "web").await, 3);
    let events = cluster.events("SuccessfulRescale").await;
    assert_eq!(events, ["New size: 3; reason: external metric queue(nil) above target"]);

    load.0.lock().queue = None;
    cluster.wait(600).await;
    assert_eq!(replicas(&cluster, "web").await, 3);
    let active = condition(&cluster, "web", "ScalingActive").await;
    assert!(active.starts_with("False FailedGetExternalMetric: "), "{active}");
}

#[tokio::test(start_paused = true)]
async fn a_behavior_sets_the_pace() {
    let (cluster, load) = start().await;
    deploy(&cluster, "web", 1).await;
    cluster.wait(360).await;
    load.set(1000);
    let one_a_minute = |window: i32| {
        json!({"stabilizationWindowSeconds": window, "policies": [
            {"type": "Pods", "value": 1, "periodSeconds": 60},
        ]})
    };
    let behavior = json!({"scaleUp": one_a_minute(0), "scaleDown": one_a_minute(30)});
    autoscale(&cluster, "web", "web", json!({"behavior": behavior})).await;
    cluster.wait(5).await;
    assert_eq!(replicas(&cluster, "web").await, 2);
    let limited = condition(&cluster, "web", "ScalingLimited").await;
    assert!(limited.starts_with("True ScaleUpLimit: "), "{limited}");
    cluster.wait(60).await;
    assert_eq!(replicas(&cluster, "web").await, 3);
    load.set(150);
    cluster.wait(120).await;
    assert_eq!(replicas(&cluster, "web").await, 3);
    load.set(0);
    cluster.wait(75).await;
    assert_eq!(replicas(&cluster, "web").await, 2);
    cluster.wait(60).await;
    assert_eq!(replicas(&cluster, "web").await, 1);
}
