//! One metric of an autoscaler: read it, compare it, and say what was found.

use std::{fmt::Write, sync::Arc};

use k8s_openapi::{
    api::{
        autoscaling::v2::{
            ContainerResourceMetricStatus, ExternalMetricSource, ExternalMetricStatus,
            HorizontalPodAutoscaler, MetricIdentifier, MetricSpec, MetricStatus, MetricTarget,
            MetricValueStatus, ObjectMetricSource, ObjectMetricStatus, PodsMetricSource,
            PodsMetricStatus, ResourceMetricStatus,
        },
        core::v1::Pod,
    },
    apimachinery::pkg::{api::resource::Quantity as ApiQuantity, apis::meta::v1::LabelSelector},
};
use rk_api::meta::quantity::{Format, Quantity};

use super::{
    calculator::{self, Proposal, Readiness, Target, Tolerances},
    metrics::MetricsClient,
};

/// What is scaled, as it is now.
pub(super) struct Subject<'a> {
    pub namespace: &'a str,
    /// What the scale asks for, and how many there are by its status.
    pub wanted: i32,
    pub reported: i32,
    /// The scale's selector, and the Pods it finds.
    pub selector: &'a str,
    pub pods: &'a [Arc<Pod>],
    pub tolerances: Tolerances,
    pub readiness: Readiness,
}

/// What a metric asks for.
#[derive(Debug)]
pub(super) struct Evaluated {
    pub replicas: i32,
    /// How events and conditions call the metric.
    pub name: String,
    pub status: MetricStatus,
}

/// Why a metric asks for nothing.
#[derive(Debug)]
pub(super) struct Failure {
    /// The reason of the condition and the event.
    pub reason: &'static str,
    /// What went wrong, for them.
    pub why: String,
    /// The same with where it happened, for the sum of all metrics.
    pub error: String,
}

/// Evaluates one metric.
pub(super) async fn evaluate(
    client: &dyn MetricsClient,
    spec: &MetricSpec,
    subject: &Subject<'_>,
) -> Result<Evaluated, Failure> {
    match (spec.type_.as_str(), spec) {
        ("Resource", MetricSpec { resource: Some(source), .. }) => {
            let found = resource(client, &source.name, None, &source.target, subject).await;
            let (replicas, name, current) = found.map_err(|why| Failure {
                reason: "FailedGetResourceMetric",
                error: format!("failed to get {} resource metric value: {why}", source.name),
                why,
            })?;
            let status = ResourceMetricStatus { name: source.name.clone(), current };
            let status = MetricStatus { resource: Some(status), ..of_type(spec) };
            Ok(Evaluated { replicas, name, status })
        }
        ("ContainerResource", MetricSpec { container_resource: Some(source), .. }) => {
            let container = Some(source.container.as_str());
            let found = resource(client, &source.name, container, &source.target, subject).await;
            let (replicas, name, current) = found.map_err(|why| Failure {
                reason: "FailedGetContainerResourceMetric",
                error: format!("failed to get {} container metric value: {why}", source.container),
                why,
            })?;
            let status = ContainerResourceMetricStatus {
                name: source.name.clone(),
                container: source.container.clone(),
                current,
            };
            let status = MetricStatus { container_resource: Some(status), ..of_type(spec) };
            Ok(Evaluated { replicas, name, status })
        }
        ("Pods", MetricSpec { pods: Some(source), .. }) => {
            pods(client, source, spec, subject).await
        }
        ("Object", MetricSpec { object: Some(source), .. }) => {
            object(client, source, spec, subject).await
        }
        ("External", MetricSpec { external: Some(source), .. }) => {
            external(client, source, spec, subject).await
        }
        (other, _) => {
            let why = format!("unknown metric source type \"{other}\"");
            Err(Failure { reason: "InvalidMetricSourceType", error: why.clone(), why })
        }
    }
}

/// A resource of the Pods, or of one container of each.
async fn resource(
    client: &dyn MetricsClient,
    resource: &str,
    container: Option<&str>,
    target: &MetricTarget,
    subject: &Subject<'_>,
) -> Result<(i32, String, MetricValueStatus), String> {
    let average = target.average_value.as_ref().map(millis);
    let (target, what) = match (average, target.average_utilization) {
        (Some(millis), _) => (Target::Average { millis, resource: Some(resource) }, "usage"),
        (None, Some(percent)) => {
            (Target::Utilization { percent, resource, container }, "utilization")
        }
        (None, None) => {
            return Err(
                "invalid resource metric source: neither an average utilization target nor \
                        an average value (usage) target was set"
                    .to_owned(),
            );
        }
    };
    let failed = |why: String| format!("failed to get {resource} {what}: {why}");
    let metrics =
        client.resource(subject.namespace, resource, subject.selector, container).await.map_err(
            |why| failed(format!("unable to get metrics for resource {resource}: {why}")),
        )?;
    let proposal = over_pods(metrics, target, subject).map_err(failed)?;
    let name = match (what, container) {
        ("usage", _) => format!("{resource} resource"),
        (_, None) => format!("{resource} resource utilization (percentage of request)"),
        (_, Some(_)) => {
            format!("{resource} container resource utilization (percentage of request)")
        }
    };
    let format = if resource == "memory" { Format::BinarySi } else { Format::DecimalSi };
    let current = MetricValueStatus {
        average_utilization: proposal.utilization,
        average_value: Some(quantity(proposal.measured, format)),
        value: None,
    };
    Ok((proposal.replicas, name, current))
}

async fn pods(
    client: &dyn MetricsClient,
    source: &PodsMetricSource,
    spec: &MetricSpec,
    subject: &Subject<'_>,
) -> Result<Evaluated, Failure> {
    let failed = |why: String| Failure {
        reason: "FailedGetPodsMetric",
        error: format!("failed to get pods metric value: {why}"),
        why,
    };
    let (metric, selector) = (&source.metric.name, source.metric.selector.as_ref());
    let metrics = client
        .pods(subject.namespace, metric, subject.selector, selector)
        .await
        .map_err(|why| failed(format!("unable to get metric {metric}: {why}")))?;
    let millis = source.target.average_value.as_ref().map_or(0, millis);
    let proposal =
        over_pods(metrics, Target::Average { millis, resource: None }, subject).map_err(failed)?;
    let current = average(proposal.measured);
    let status = PodsMetricStatus { current, metric: source.metric.clone() };
    Ok(Evaluated {
        replicas: proposal.replicas,
        name: format!("pods metric {metric}"),
        status: MetricStatus { pods: Some(status), ..of_type(spec) },
    })
}

async fn object(
    client: &dyn MetricsClient,
    source: &ObjectMetricSource,
    spec: &MetricSpec,
    subject: &Subject<'_>,
) -> Result<Evaluated, Failure> {
    let (metric, object) = (&source.metric.name, &source.described_object);
    let per_pod = source.target.type_ == "AverageValue";
    let failed = |why: String| Failure {
        reason: "FailedGetObjectMetric",
        error: match per_pod {
            true => format!(
                "failed to get object metric value: failed to get {metric} object metric: {why}"
            ),
            false => format!("failed to get object metric value: {why}"),
        },
        why,
    };
    let Some(Goal { target, per_pod }) = goal(&source.target, per_pod) else {
        return Err(failed(
            "invalid object metric source: neither a value target nor an average value target was \
             set"
            .to_owned(),
        ));
    };
    let measured = client
        .object(subject.namespace, metric, object, source.metric.selector.as_ref())
        .await
        .map_err(|why| {
            let (namespace, kind, name) = (subject.namespace, &object.kind, &object.name);
            failed(format!("unable to get metric {metric}: {why} on {kind} {namespace}/{name}"))
        })?;
    let (proposal, current) = shared(measured, target, per_pod, subject).map_err(failed)?;
    let status = ObjectMetricStatus {
        current,
        described_object: object.clone(),
        metric: source.metric.clone(),
    };
    let name = match per_pod {
        // Kubernetes calls it so.
        true => external_name(&source.metric),
        false => format!("{} metric {metric}", object.kind),
    };
    let status = MetricStatus { object: Some(status), ..of_type(spec) };
    Ok(Evaluated { replicas: proposal.replicas, name, status })
}

async fn external(
    client: &dyn MetricsClient,
    source: &ExternalMetricSource,
    spec: &MetricSpec,
    subject: &Subject<'_>,
) -> Result<Evaluated, Failure> {
    let metric = &source.metric.name;
    let per_pod = source.target.average_value.is_some();
    let failed = |why: String| {
        let inner = match per_pod {
            true => format!("failed to get {metric} external metric: {why}"),
            false => format!("failed to get external metric {metric}: {why}"),
        };
        Failure {
            reason: "FailedGetExternalMetric",
            error: format!("failed to get {metric} external metric value: {inner}"),
            why,
        }
    };
    let Some(Goal { target, per_pod }) = goal(&source.target, per_pod) else {
        return Err(failed(
            "invalid external metric source: neither a value target nor an average value target \
             was set"
                .to_owned(),
        ));
    };
    let values = client
        .external(subject.namespace, metric, source.metric.selector.as_ref())
        .await
        .map_err(|why| {
            let selector = go_selector(source.metric.selector.as_ref());
            let namespace = subject.namespace;
            failed(format!("unable to get external metric {namespace}/{metric}/{selector}: {why}"))
        })?;
    let measured = values.into_iter().fold(0_i64, i64::saturating_add);
    let (proposal, current) = shared(measured, target, per_pod, subject).map_err(failed)?;
    let status = ExternalMetricStatus { current, metric: source.metric.clone() };
    Ok(Evaluated {
        replicas: proposal.replicas,
        name: external_name(&source.metric),
        status: MetricStatus { external: Some(status), ..of_type(spec) },
    })
}

/// The number to reach, in thousandths: by all replicas together or by each.
struct Goal {
    target: i64,
    per_pod: bool,
}

fn goal(target: &MetricTarget, per_pod: bool) -> Option<Goal> {
    let amount = if per_pod { &target.average_value } else { &target.value };
    Some(Goal { target: millis(amount.as_ref()?), per_pod })
}

fn shared(
    measured: i64,
    target: i64,
    per_pod: bool,
    subject: &Subject<'_>,
) -> Result<(Proposal, MetricValueStatus), String> {
    let Subject { wanted, reported, pods, tolerances, .. } = *subject;
    Ok(if per_pod {
        let proposal = calculator::per_pod(reported, measured, target, tolerances);
        (proposal, average(proposal.measured))
    } else {
        let proposal = calculator::whole(wanted, measured, target, pods, tolerances)?;
        let value = Some(quantity(proposal.measured, Format::DecimalSi));
        (proposal, MetricValueStatus { value, ..MetricValueStatus::default() })
    })
}

fn over_pods(
    metrics: super::PodMetrics,
    target: Target<'_>,
    subject: &Subject<'_>,
) -> Result<Proposal, String> {
    let Subject { wanted, pods, tolerances, readiness, .. } = subject;
    calculator::over_pods(*wanted, metrics, pods, target, *tolerances, readiness)
}

fn of_type(spec: &MetricSpec) -> MetricStatus {
    MetricStatus { type_: spec.type_.clone(), ..MetricStatus::default() }
}

fn average(millis: i64) -> MetricValueStatus {
    let average_value = Some(quantity(millis, Format::DecimalSi));
    MetricValueStatus { average_value, ..MetricValueStatus::default() }
}

fn quantity(millis: i64, format: Format) -> ApiQuantity {
    Quantity::from_millis(millis).with_format(format).into()
}

fn millis(quantity: &ApiQuantity) -> i64 {
    Quantity::try_from(quantity).map_or(0, |quantity| quantity.millis())
}

fn external_name(metric: &MetricIdentifier) -> String {
    format!("external metric {}({})", metric.name, go_selector(metric.selector.as_ref()))
}

/// A selector as Go prints it, which Kubernetes puts into messages.
fn go_selector(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".to_owned() };
    let mut out = "&LabelSelector{MatchLabels:map[string]string{".to_owned();
    for (key, value) in selector.match_labels.iter().flatten() {
        let _ = write!(out, "{key}: {value},");
    }
    out.push_str("},MatchExpressions:[]LabelSelectorRequirement{");
    for expression in selector.match_expressions.iter().flatten() {
        let values = expression.values.as_deref().unwrap_or_default().join(" ");
        let _ = write!(
            out,
            "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},",
            expression.key, expression.operator
        );
    }
    out.push_str("},}");
    out
}

/// What an autoscaler tolerates: what its behaviour says for each direction (KEP-4951).
pub(super) fn tolerances(autoscaler: &HorizontalPodAutoscaler, usual: f64) -> Tolerances {
    let behavior = autoscaler.spec.behavior.as_ref();
    let of = |rules: Option<&k8s_openapi::api::autoscaling::v2::HPAScalingRules>| {
        let tolerance = rules?.tolerance.as_ref()?;
        Quantity::try_from(tolerance).ok().map(|tolerance| tolerance.approximate())
    };
    Tolerances {
        up: behavior.and_then(|b| of(b.scale_up.as_ref())).unwrap_or(usual),
        down: behavior.and_then(|b| of(b.scale_down.as_ref())).unwrap_or(usual),
    }
}
