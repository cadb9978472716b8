//! HorizontalPodAutoscaler v1 and v2beta2.
//!
//! v1 knows one metric, the share of CPU that Pods use. What else there is, v1 clients see as
//! annotations, and keep by sending them back.

use serde_json::{Map, Value, json};

use super::{Conversion, tree};

/// v1.
pub(super) const V1: Conversion = Conversion { read, write };
/// v2beta2: v2 without tolerances.
pub(super) const V2BETA2: Conversion = Conversion { read: read_v2beta2, write: write_v2beta2 };

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
/// The direction of scaling, and the annotation that holds its tolerance.
const TOLERANCES: &[(&str, &str)] = &[
    ("scaleDown", "autoscaling.alpha.kubernetes.io/scale-down-tolerance"),
    ("scaleUp", "autoscaling.alpha.kubernetes.io/scale-up-tolerance"),
];

const SPEC: &[&str] = &["spec"];
const STATUS: &[&str] = &["status"];

fn read(autoscaler: &mut Value, unknown: &mut Vec<String>) {
    let metrics = annotated(autoscaler, METRICS).map(|metrics| map(metrics, metric_from_v1));
    let current = annotated(autoscaler, CURRENT_METRICS).map(|all| map(all, status_from_v1));
    let conditions = annotated(autoscaler, CONDITIONS);
    let behavior = annotated(autoscaler, BEHAVIOR).map(|behavior| with_names(behavior, lowered));
    if let Some(spec) = tree::object(autoscaler, SPEC) {
        for field in ["metrics", "behavior"] {
            tree::refuse(spec, field, "spec.", unknown);
        }
        let mut all = match metrics {
            Some(Value::Array(metrics)) => metrics,
            _ => Vec::new(),
        };
        if let Some(percent) = tree::take(spec, "targetCPUUtilizationPercentage") {
            let target = json!({"type": "Utilization", "averageUtilization": percent});
            all.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
        }
        if !all.is_empty() {
            spec.insert("metrics".to_owned(), all.into());
        }
        if let Some(behavior) = behavior {
            spec.insert("behavior".to_owned(), behavior);
        }
    }
    let told = current.is_some() || conditions.is_some();
    if told && let Some(root) = autoscaler.as_object_mut() {
        tree::default(root, "status", Map::new());
    }
    if let Some(status) = tree::object(autoscaler, STATUS) {
        for field in ["currentMetrics", "conditions"] {
            tree::refuse(status, field, "status.", unknown);
        }
        let percent = tree::take(status, "currentCPUUtilizationPercentage");
        let current = current.or_else(|| {
            let current = json!({"averageUtilization": percent?});
            Some(json!([{"type": "Resource", "resource": {"name": "cpu", "current": current}}]))
        });
        for (field, value) in [("currentMetrics", current), ("conditions", conditions)] {
            if let Some(value) = value {
                status.insert(field.to_owned(), value);
            }
        }
    }
}

fn write(autoscaler: &mut Value) {
    for name in [METRICS, CURRENT_METRICS, CONDITIONS, BEHAVIOR] {
        tree::take_annotation(autoscaler, name);
    }
    let (mut metrics, mut behavior) = (None, None);
    if let Some(spec) = tree::object(autoscaler, SPEC) {
        metrics = tree::take(spec, "metrics");
        behavior = tree::take(spec, "behavior");
        if let Some(Value::Array(all)) = &mut metrics {
            // The one metric that v1 knows. Only the first of its kind can be that field.
            let cpu = all.iter().position(|metric| utilization(metric, "target").is_some());
            if let Some(cpu) = cpu {
                let metric = all.remove(cpu);
                if let Some(percent) = utilization(&metric, "target") {
                    spec.insert("targetCPUUtilizationPercentage".to_owned(), percent.clone());
                }
            }
        }
    }
    let (mut current, mut conditions) = (None, None);
    if let Some(status) = tree::object(autoscaler, STATUS) {
        current = tree::take(status, "currentMetrics");
        conditions = tree::take(status, "conditions");
        let percent = current.as_ref().and_then(Value::as_array).and_then(|all| {
            all.iter().rev().find_map(|metric| utilization(metric, "current")).cloned()
        });
        if let Some(percent) = percent {
            status.insert("currentCPUUtilizationPercentage".to_owned(), percent);
        }
    }
    let metrics = metrics.map(|metrics| map(metrics, metric_to_v1));
    let current = current.map(|current| map(current, status_to_v1));
    let behavior = behavior.map(|behavior| with_names(full_behavior(behavior), raised));
    for (name, value) in [
        (METRICS, metrics),
        (CURRENT_METRICS, current),
        (CONDITIONS, conditions),
        (BEHAVIOR, behavior),
    ] {
        if let Some(value) = value.filter(|value| *value != json!([])) {
            tree::annotate(autoscaler, name, value.to_string());
        }
    }
}

/// The JSON in an annotation. What is no JSON says nothing.
fn annotated(autoscaler: &mut Value, name: &str) -> Option<Value> {
    let text = tree::take_annotation(autoscaler, name)?;
    serde_json::from_str(&text).ok().filter(|value: &Value| !value.is_null())
}

fn map(mut list: Value, convert: fn(&mut Value)) -> Value {
    for (_, item) in tree::items(Some(&mut list)) {
        convert(item);
    }
    list
}

/// The share of CPU that a metric is about.
fn utilization<'a>(metric: &'a Value, field: &str) -> Option<&'a Value> {
    let resource = metric.get("resource").filter(|resource| resource["name"] == "cpu")?;
    let percent = resource.get(field)?.get("averageUtilization")?;
    (metric["type"] == "Resource" && !percent.is_null()).then_some(percent)
}

// === metrics ===

/// How the source of a metric is written in v1: the fields of its identifier and of its target or
/// current value lie flat, under these names.
struct Flat {
    source: &'static str,
    /// v1's name, and the field of v2's `metric`.
    metric: &'static [(&'static str, &'static str)],
    /// v1's name, and the field of v2's `target`.
    target: &'static [(&'static str, &'static str)],
    /// v1's name, and the field of v2's `current`.
    current: &'static [(&'static str, &'static str)],
}

const FLAT: &[Flat] = &[
    Flat {
        source: "object",
        metric: &[("metricName", "name"), ("selector", "selector")],
        target: &[("targetValue", "value"), ("averageValue", "averageValue")],
        current: &[("currentValue", "value"), ("averageValue", "averageValue")],
    },
    Flat {
        source: "pods",
        metric: &[("metricName", "name"), ("selector", "selector")],
        target: &[("targetAverageValue", "averageValue")],
        current: &[("currentAverageValue", "averageValue")],
    },
    Flat {
        source: "resource",
        metric: &[],
        target: &[
            ("targetAverageUtilization", "averageUtilization"),
            ("targetAverageValue", "averageValue"),
        ],
        current: &[
            ("currentAverageUtilization", "averageUtilization"),
            ("currentAverageValue", "averageValue"),
        ],
    },
    Flat {
        source: "containerResource",
        metric: &[],
        target: &[
            ("targetAverageUtilization", "averageUtilization"),
            ("targetAverageValue", "averageValue"),
        ],
        current: &[
            ("currentAverageUtilization", "averageUtilization"),
            ("currentAverageValue", "averageValue"),
        ],
    },
    Flat {
        source: "external",
        metric: &[("metricName", "name"), ("metricSelector", "selector")],
        target: &[("targetValue", "value"), ("targetAverageValue", "averageValue")],
        current: &[("currentValue", "value"), ("currentAverageValue", "averageValue")],
    },
];

/// Quantities that v1 always has: absent in v2, they are zero.
const NEVER_ABSENT: &[(&str, &str)] = &[
    ("object", "targetValue"),
    ("object", "currentValue"),
    ("pods", "targetAverageValue"),
    ("pods", "currentAverageValue"),
    ("resource", "currentAverageValue"),
    ("containerResource", "currentAverageValue"),
    ("external", "currentValue"),
];

fn metric_to_v1(metric: &mut Value) {
    flatten(metric, "target", |flat| flat.target);
}

fn status_to_v1(metric: &mut Value) {
    flatten(metric, "current", |flat| flat.current);
}

fn metric_from_v1(metric: &mut Value) {
    unflatten(metric, "target", |flat| flat.target);
}

fn status_from_v1(metric: &mut Value) {
    unflatten(metric, "current", |flat| flat.current);
}

fn flatten(
    metric: &mut Value,
    amount: &str,
    names: fn(&Flat) -> &'static [(&'static str, &'static str)],
) {
    for flat in FLAT {
        let Some(source) = tree::object(metric, &[flat.source]) else { continue };
        let described = tree::take(source, "describedObject");
        for (group, names) in [("metric", flat.metric), (amount, names(flat))] {
            let Some(Value::Object(mut group)) = tree::take(source, group) else { continue };
            for (v1, v2) in names {
                if let Some(value) = tree::take(&mut group, v2) {
                    source.insert((*v1).to_owned(), value);
                }
            }
        }
        for (_, v1) in NEVER_ABSENT.iter().filter(|(source, _)| *source == flat.source) {
            if names(flat).iter().any(|(name, _)| name == v1) {
                tree::default(source, v1, "0");
            }
        }
        if let Some(described) = described {
            source.insert("target".to_owned(), described);
        }
    }
}

fn unflatten(
    metric: &mut Value,
    amount: &str,
    names: fn(&Flat) -> &'static [(&'static str, &'static str)],
) {
    for flat in FLAT {
        let Some(source) = tree::object(metric, &[flat.source]) else { continue };
        if flat.source == "object"
            && let Some(described) = tree::take(source, "target")
        {
            source.insert("describedObject".to_owned(), described);
        }
        let mut collect = |names: &[(&str, &str)]| {
            let mut group = Map::new();
            for (v1, v2) in names {
                let Some(value) = tree::take(source, v1) else { continue };
                // A zero that v1 cannot leave out beside what is really meant.
                let filler = value == "0" && NEVER_ABSENT.contains(&(flat.source, v1));
                if !(filler && names.iter().any(|(other, _)| other != v1)) {
                    group.insert((*v2).to_owned(), value);
                }
            }
            group
        };
        let mut target = collect(names(flat));
        let identifier = collect(flat.metric);
        if amount == "target" {
            let kind = match () {
                () if target.contains_key("averageUtilization") => "Utilization",
                () if target.contains_key("averageValue") => "AverageValue",
                () => "Value",
            };
            target.insert("type".to_owned(), kind.into());
        }
        source.insert(amount.to_owned(), target.into());
        if !flat.metric.is_empty() {
            source.insert("metric".to_owned(), identifier.into());
        }
    }
}

// === behavior ===

/// The annotation holds the behavior as Go writes a type without names for JSON: every field is
/// there, and begins with a capital letter.
fn full_behavior(mut behavior: Value) -> Value {
    let Some(directions) = behavior.as_object_mut() else { return behavior };
    for direction in ["scaleUp", "scaleDown"] {
        tree::default(directions, direction, Value::Null);
        let Some(rules) = directions.get_mut(direction).and_then(Value::as_object_mut) else {
            continue;
        };
        for field in ["stabilizationWindowSeconds", "selectPolicy", "policies", "tolerance"] {
            tree::default(rules, field, Value::Null);
        }
    }
    behavior
}

/// The value with the names of all fields changed, and without what is null if names become
/// lower.
fn with_names(value: Value, name: fn(&str) -> Option<String>) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter_map(|(field, value)| {
                let named = name(&field).unwrap_or(field);
                let keep = !value.is_null() || named.starts_with(char::is_uppercase);
                keep.then(|| (named, with_names(value, name)))
            });
            Value::Object(fields.collect())
        }
        Value::Array(items) => items.into_iter().map(|item| with_names(item, name)).collect(),
        value => value,
    }
}

fn raised(field: &str) -> Option<String> {
    let first = field.chars().next()?;
    Some(format!("{}{}", first.to_ascii_uppercase(), &field[first.len_utf8()..]))
}

fn lowered(field: &str) -> Option<String> {
    let first = field.chars().next()?;
    Some(format!("{}{}", first.to_ascii_lowercase(), &field[first.len_utf8()..]))
}

// === v2beta2 ===

fn read_v2beta2(autoscaler: &mut Value, unknown: &mut Vec<String>) {
    for (direction, annotation) in TOLERANCES {
        let behavior = ["spec", "behavior", direction];
        if let Some(rules) = tree::object(autoscaler, &behavior) {
            tree::refuse(rules, "tolerance", &format!("{}.", behavior.join(".")), unknown);
        }
        let Some(tolerance) = tree::take_annotation(autoscaler, annotation) else { continue };
        let Some(spec) = tree::object(autoscaler, SPEC) else { continue };
        tree::default(spec, "behavior", Map::new());
        let Some(directions) = tree::object(autoscaler, &behavior[..2]) else { continue };
        tree::default(directions, direction, Map::new());
        if let Some(rules) = tree::object(autoscaler, &behavior) {
            rules.insert("tolerance".to_owned(), tolerance.into());
        }
    }
}

fn write_v2beta2(autoscaler: &mut Value) {
    for (direction, annotation) in TOLERANCES {
        tree::take_annotation(autoscaler, annotation);
        let rules = tree::object(autoscaler, &["spec", "behavior", direction]);
        let tolerance = rules.and_then(|rules| tree::take(rules, "tolerance"));
        if let Some(Value::String(tolerance)) = tolerance {
            tree::annotate(autoscaler, annotation, tolerance);
        }
    }
}
