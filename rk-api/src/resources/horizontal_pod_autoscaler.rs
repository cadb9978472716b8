//! HorizontalPodAutoscaler.

use k8s_openapi::{
    api::autoscaling::v2::{
        HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus,
        MetricSpec, MetricStatus, MetricTarget, MetricValueStatus, ResourceMetricSource,
    },
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, list},
    row::Row,
};
use crate::{
    field::{ErrorList, Path},
    meta::{
        names,
        quantity::Quantity,
        table::{NONE, age, name},
    },
};

/// The row of HorizontalPodAutoscaler.
pub(super) fn row() -> Resource {
    Row::of::<HorizontalPodAutoscalers>().short(&["hpa"]).in_all().status().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Reference", "string", "What it scales."),
    Column::new("Targets", "string", "What is measured, and what it should be."),
    Column::new("MinPods", "string", "It scales to no fewer."),
    Column::new("MaxPods", "string", "It scales to no more."),
    Column::new("Replicas", "string", "How many there are."),
    Column::AGE,
];

const METRIC_TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
/// Without metrics, CPU is to be used to this percentage.
const CPU_PERCENT: i32 = 80;
const UNKNOWN: &str = "<unknown>";

/// How a HorizontalPodAutoscaler behaves.
#[derive(Debug, Default)]
pub(super) struct HorizontalPodAutoscalers;

impl Kind for HorizontalPodAutoscalers {
    type Object = HorizontalPodAutoscaler;

    fn default(autoscaler: &mut HorizontalPodAutoscaler) {
        let spec = &mut autoscaler.spec;
        spec.min_replicas.get_or_insert(1);
        if list(&spec.metrics).is_empty() {
            spec.metrics = Some(vec![cpu_metric()]);
        }
        if let Some(behavior) = &mut spec.behavior {
            let percent =
                || HPAScalingPolicy { type_: "Percent".to_owned(), value: 100, period_seconds: 15 };
            let pods = HPAScalingPolicy { type_: "Pods".to_owned(), value: 4, period_seconds: 15 };
            let up = behavior.scale_up.get_or_insert_default();
            up.stabilization_window_seconds.get_or_insert(0);
            default_rules(up, vec![pods, percent()]);
            let down = behavior.scale_down.get_or_insert_default();
            default_rules(down, vec![percent()]);
        }
        let status = autoscaler.status.get_or_insert_default();
        status.current_replicas.get_or_insert(0);
    }

    fn prepare_create(autoscaler: &mut HorizontalPodAutoscaler) {
        autoscaler.status = Some(HorizontalPodAutoscalerStatus {
            current_replicas: Some(0),
            ..HorizontalPodAutoscalerStatus::default()
        });
    }

    fn prepare_update(
        new: &mut HorizontalPodAutoscaler,
        old: &HorizontalPodAutoscaler,
        part: Part,
    ) {
        if part == Part::Status {
            new.spec = old.spec.clone();
        } else {
            new.status = old.status.clone();
        }
    }

    fn validate(autoscaler: &HorizontalPodAutoscaler) -> ErrorList {
        let (spec, path) = (&autoscaler.spec, Path::new("spec"));
        let mut errors = Errors::default();
        let (min, max) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
        if min < 1 {
            errors.invalid(&path.child("minReplicas"), min, "must be greater than or equal to 1");
        }
        let at = path.child("maxReplicas");
        if max < 1 {
            errors.invalid(&at, max, "must be greater than 0");
        }
        if max < min {
            errors.invalid(&at, max, "must be greater than or equal to `minReplicas`");
        }
        let target = &spec.scale_target_ref;
        for (field, value) in [("kind", &target.kind), ("name", &target.name)] {
            let at = path.child("scaleTargetRef").child(field);
            errors.required_form(&at, value, |value| names::path_segment(value, false));
        }
        for (i, spec) in list(&spec.metrics).iter().enumerate() {
            metric(&mut errors, spec, &path.child("metrics").index(i));
        }
        if let Some(behavior) = &spec.behavior {
            for (field, rules) in
                [("scaleUp", &behavior.scale_up), ("scaleDown", &behavior.scale_down)]
            {
                if let Some(rules) = rules {
                    self::rules(&mut errors, rules, &path.child("behavior").child(field));
                }
            }
        }
        errors.0
    }

    fn validate_update(
        new: &HorizontalPodAutoscaler,
        _: &HorizontalPodAutoscaler,
        part: Part,
    ) -> ErrorList {
        let mut errors = Errors::default();
        if let Some(status) = new.status.as_ref().filter(|_| part == Part::Status) {
            let path = Path::new("status");
            errors.opt_not_negative(&path.child("currentReplicas"), status.current_replicas);
            errors.not_negative(&path.child("desiredReplicas"), status.desired_replicas);
        }
        errors.0
    }

    fn cells(autoscaler: &HorizontalPodAutoscaler, now: Timestamp) -> Vec<Value> {
        let spec = &autoscaler.spec;
        let status = autoscaler.status.clone().unwrap_or_default();
        let target = &spec.scale_target_ref;
        let min = spec.min_replicas.map(|min| min.to_string());
        vec![
            json!(name(&autoscaler.metadata)),
            json!(format!("{}/{}", target.kind, target.name)),
            json!(targets(list(&spec.metrics), list(&status.current_metrics))),
            json!(min.unwrap_or_else(|| "<unset>".to_owned())),
            json!(spec.max_replicas),
            json!(status.current_replicas.unwrap_or(0)),
            json!(age(&autoscaler.metadata, now)),
        ]
    }
}

fn cpu_metric() -> MetricSpec {
    let target = MetricTarget {
        type_: "Utilization".to_owned(),
        average_utilization: Some(CPU_PERCENT),
        ..MetricTarget::default()
    };
    MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricSource { name: "cpu".to_owned(), target }),
        ..MetricSpec::default()
    }
}

fn default_rules(rules: &mut HPAScalingRules, policies: Vec<HPAScalingPolicy>) {
    rules.select_policy.get_or_insert_with(|| "Max".to_owned());
    if list(&rules.policies).is_empty() {
        rules.policies = Some(policies);
    }
}

/// The target of a metric, and the name of the field that holds it.
fn target_of(metric: &MetricSpec) -> Option<(&'static str, &MetricTarget)> {
    match metric.type_.as_str() {
        "ContainerResource" => {
            metric.container_resource.as_ref().map(|source| ("containerResource", &source.target))
        }
        "External" => metric.external.as_ref().map(|source| ("external", &source.target)),
        "Object" => metric.object.as_ref().map(|source| ("object", &source.target)),
        "Pods" => metric.pods.as_ref().map(|source| ("pods", &source.target)),
        "Resource" => metric.resource.as_ref().map(|source| ("resource", &source.target)),
        _ => None,
    }
}

fn metric(errors: &mut Errors, metric: &MetricSpec, path: &Path) {
    let at = path.child("type");
    if metric.type_.is_empty() {
        return errors.required(&at, "must specify a metric source type");
    }
    if !METRIC_TYPES.contains(&metric.type_.as_str()) {
        // Kubernetes says so twice: the type is none, and has no source.
        errors.one_of(&at, &metric.type_, METRIC_TYPES);
        return errors.one_of(&at, &metric.type_, METRIC_TYPES);
    }
    let Some((field, target)) = target_of(metric) else {
        let mut field = metric.type_.clone();
        field[..1].make_ascii_lowercase();
        let wrong = "must populate information for the given metric source";
        return errors.required(&path.child(&field), wrong);
    };
    let at = path.child(field).child("target");
    if let Some(percent) = target.average_utilization.filter(|percent| *percent < 1) {
        errors.invalid(&at.child("averageUtilization"), percent, "must be greater than 0");
    }
    for (field, amount) in [("value", &target.value), ("averageValue", &target.average_value)] {
        let amount = amount.as_ref().and_then(|amount| Quantity::try_from(amount).ok());
        if let Some(amount) = amount.filter(|amount| *amount <= Quantity::ZERO) {
            errors.invalid(&at.child(field), amount.to_string(), "must be positive");
        }
    }
    let resource = matches!(field, "resource" | "containerResource");
    match (target.average_utilization, &target.average_value, &target.value) {
        (None, None, _) if resource => errors.required(
            &at.child("averageUtilization"),
            "must set either a target raw value or a target utilization",
        ),
        (Some(_), Some(_), _) if resource => errors.forbidden(
            &at.child("averageValue"),
            "may not set both a target raw value and a target utilization",
        ),
        (None, None, None) => errors.required(
            &at.child("averageValue"),
            "must set either a target value for metric or a per-pod target",
        ),
        _ => {}
    }
}

fn rules(errors: &mut Errors, rules: &HPAScalingRules, path: &Path) {
    const WINDOW_MAX_SECONDS: i32 = 3600;
    const PERIOD_MAX_SECONDS: i32 = 1800;
    if let Some(seconds) = rules.stabilization_window_seconds {
        let at = path.child("stabilizationWindowSeconds");
        if seconds < 0 {
            errors.invalid(&at, seconds, "must be greater than or equal to zero");
        }
        if seconds > WINDOW_MAX_SECONDS {
            errors.invalid(&at, seconds, "must be less than or equal to 3600");
        }
    }
    if let Some(policy) = &rules.select_policy {
        errors.one_of(&path.child("selectPolicy"), policy, &["Disabled", "Max", "Min"]);
    }
    if let Some(tolerance) = &rules.tolerance
        && Quantity::try_from(tolerance).is_ok_and(|tolerance| tolerance < Quantity::ZERO)
    {
        let wrong = "must be greater than or equal to 0";
        errors.invalid(&path.child("tolerance"), tolerance.0.clone(), wrong);
    }
    let policies = list(&rules.policies);
    if policies.is_empty() {
        errors.required(&path.child("policies"), "must specify at least one Policy");
    }
    for (i, policy) in policies.iter().enumerate() {
        let at = path.child("policies").index(i);
        errors.one_of(&at.child("type"), &policy.type_, &["Percent", "Pods"]);
        if policy.value <= 0 {
            errors.invalid(&at.child("value"), policy.value, "must be greater than zero");
        }
        let period_at = at.child("periodSeconds");
        if policy.period_seconds <= 0 {
            errors.invalid(&period_at, policy.period_seconds, "must be greater than zero");
        }
        if policy.period_seconds > PERIOD_MAX_SECONDS {
            errors.invalid(&period_at, policy.period_seconds, "must be less than or equal to 1800");
        }
    }
}

/// `cpu: 40%/80%`, two at most and how many more there are.
fn targets(metrics: &[MetricSpec], statuses: &[MetricStatus]) -> String {
    if metrics.is_empty() {
        return NONE.to_owned();
    }
    let shown: Vec<String> = metrics
        .iter()
        .take(2)
        .enumerate()
        .map(|(i, metric)| target_and_current(metric, statuses.get(i)))
        .collect();
    match metrics.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} + {more} more...", shown.join(", ")),
    }
}

fn target_and_current(metric: &MetricSpec, status: Option<&MetricStatus>) -> String {
    let Some((field, target)) = target_of(metric) else { return "<unknown type>".to_owned() };
    let current = status.and_then(|status| current_of(status, field));
    let amount = |amount: Option<&ApiQuantity>| amount.map_or(UNKNOWN, |a| a.0.as_str()).to_owned();
    let name = match field {
        "resource" => metric.resource.as_ref().map(|source| format!("{}: ", source.name)),
        "containerResource" => {
            metric.container_resource.as_ref().map(|source| format!("{}: ", source.name))
        }
        _ => None,
    }
    .unwrap_or_default();
    if let Some(percent) = target.average_utilization {
        let current = current.and_then(|current| current.average_utilization);
        let current = current.map_or(UNKNOWN.to_owned(), |current| format!("{current}%"));
        return format!("{name}{current}/{percent}%");
    }
    if let Some(average) = &target.average_value {
        let current = amount(current.and_then(|current| current.average_value.as_ref()));
        let note = if matches!(field, "external" | "object") { " (avg)" } else { "" };
        return format!("{name}{current}/{}{note}", average.0);
    }
    let current = amount(current.and_then(|current| current.value.as_ref()));
    format!("{name}{current}/{}", amount(target.value.as_ref()))
}

fn current_of<'a>(status: &'a MetricStatus, field: &str) -> Option<&'a MetricValueStatus> {
    match field {
        "containerResource" => status.container_resource.as_ref().map(|status| &status.current),
        "external" => status.external.as_ref().map(|status| &status.current),
        "object" => status.object.as_ref().map(|status| &status.current),
        "pods" => status.pods.as_ref().map(|status| &status.current),
        _ => status.resource.as_ref().map(|status| &status.current),
    }
}
