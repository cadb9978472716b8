use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use super::*;
use crate::{resources::Resources, testing::arbitrary};

/// What a version makes of an object in the other form: as it is stored, and as it is shown.
#[track_caller]
fn check(at: &str, plural: &str, shown: Value, stored: Value) {
    let resources = Resources::builtin();
    let (group, version) = at.split_once('/').unwrap();
    let row = resources.get(group, version, plural).unwrap();
    let with = |form: &Value, api_version: &str| {
        let mut object = json!({
            "apiVersion": api_version, "kind": row.kind, "metadata": {"name": "x"},
        });
        for (field, value) in form.as_object().unwrap() {
            object[field] = value.clone();
        }
        object
    };
    let of = VERSIONS.iter().find(|v| v.at == at && v.kind == row.kind).unwrap().of;
    let (shown, stored) = (with(&shown, at), with(&stored, of));

    let read = row.strategy.decode(shown.to_string().as_bytes()).unwrap();
    assert_eq!(read.strict_errors, Vec::<String>::new());
    let kept = read.object.encode().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&kept).unwrap(), stored);
    assert_eq!(read.object.to_value().unwrap(), shown);
    let again = row.strategy.shown(&kept).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&again).unwrap(), shown);
}

#[track_caller]
fn unknown(at: &str, plural: &str, object: Value, fields: &[&str]) {
    let resources = Resources::builtin();
    let (group, version) = at.split_once('/').unwrap();
    let row = resources.get(group, version, plural).unwrap();
    let decoded = row.strategy.decode(object.to_string().as_bytes()).unwrap();
    let fields: Vec<_> = fields.iter().map(|path| format!("unknown field \"{path}\"")).collect();
    assert_eq!(decoded.strict_errors, fields);
}

#[test]
fn only_the_version_differs_of_a_cron_job() {
    let spec = json!({"schedule": "* * * * *", "jobTemplate": {}});
    check("batch/v1beta1", "cronjobs", json!({"spec": spec}), json!({"spec": spec}));
}

#[test]
fn the_version_of_stored_bytes_is_exchanged_in_place() {
    let retyped = |json: &str| {
        retyped(json.as_bytes(), "batch/v1", "batch/v1beta1")
            .map(|json| String::from_utf8(json).unwrap())
    };
    assert_eq!(
        retyped(r#"{"apiVersion":"batch/v1","kind":"CronJob","metadata":{}}"#).unwrap(),
        r#"{"apiVersion":"batch/v1beta1","kind":"CronJob","metadata":{}}"#
    );
    assert_eq!(
        retyped(r#"{"kind":"CronJob","apiVersion":"batch/v1","metadata":{}}"#).unwrap(),
        r#"{"kind":"CronJob","apiVersion":"batch/v1beta1","metadata":{}}"#
    );
    for other in ["", "{}", r#"{"apiVersion":"batch/v1"#, r#"{"apiVersion":"batch/v10"}"#] {
        assert_eq!(retyped(other), None, "{other}");
    }
}

#[test]
fn an_event_is_kept_in_the_core_form() {
    for at in ["events.k8s.io/v1", "events.k8s.io/v1beta1"] {
        check(
            at,
            "events",
            json!({
                "eventTime": "2020-01-02T03:04:05.000006Z",
                "regarding": {"kind": "Pod", "name": "p"},
                "reason": "R", "action": "A", "note": "n", "type": "Normal",
                "reportingController": "example.com/c", "reportingInstance": "i",
                "deprecatedCount": 2,
                "series": {"count": 2, "lastObservedTime": "2020-01-02T03:04:05.000006Z"},
            }),
            json!({
                "eventTime": "2020-01-02T03:04:05.000006Z",
                "involvedObject": {"kind": "Pod", "name": "p"},
                "reason": "R", "action": "A", "message": "n", "type": "Normal",
                "reportingComponent": "example.com/c", "reportingInstance": "i",
                "count": 2,
                "series": {"count": 2, "lastObservedTime": "2020-01-02T03:04:05.000006Z"},
            }),
        );
    }
    let old = json!({"kind": "Event", "metadata": {}, "message": "m", "foo": 1});
    unknown("events.k8s.io/v1", "events", old, &["message", "foo"]);
    let resources = Resources::builtin();
    let events = resources.get("events.k8s.io", "v1", "events").unwrap();
    let twice = events.strategy.decode(br#"{"note":"n","note":"m"}"#).unwrap();
    assert_eq!(twice.strict_errors, ["duplicate field \"note\""]);
    assert_eq!(events.strategy.stored_field("regarding.name"), "involvedObject.name");
    assert_eq!(events.strategy.stored_field("metadata.name"), "metadata.name");
}

#[test]
fn a_backend_of_an_old_ingress_is_flat() {
    let shown = |port: Value| {
        json!({"spec": {
            "backend": {"serviceName": "s", "servicePort": port},
            "rules": [{"host": "h", "http": {"paths": [
                {"path": "/", "pathType": "Prefix",
                 "backend": {"serviceName": "t", "servicePort": port}},
            ]}}],
        }})
    };
    let stored = |port: Value| {
        json!({"spec": {
            "defaultBackend": {"service": {"name": "s", "port": port}},
            "rules": [{"host": "h", "http": {"paths": [
                {"path": "/", "pathType": "Prefix",
                 "backend": {"service": {"name": "t", "port": port}}},
            ]}}],
        }})
    };
    for at in ["networking.k8s.io/v1beta1", "extensions/v1beta1"] {
        check(at, "ingresses", shown(json!(80)), stored(json!({"number": 80})));
        check(at, "ingresses", shown(json!("http")), stored(json!({"name": "http"})));
        let resource = json!({"resource": {"kind": "K", "name": "n"}});
        check(
            at,
            "ingresses",
            json!({"spec": {"backend": resource}}),
            json!({"spec": {"defaultBackend": resource}}),
        );
    }
    let new = json!({"kind": "Ingress", "metadata": {}, "spec": {
        "defaultBackend": {}, "backend": {"service": {"name": "s"}}}});
    unknown(
        "extensions/v1beta1",
        "ingresses",
        new,
        &["spec.defaultBackend", "spec.backend.service"],
    );
}

#[test]
fn an_old_path_needs_no_type() {
    let resources = Resources::builtin();
    let row = resources.get("extensions", "v1beta1", "ingresses").unwrap();
    let json = json!({"metadata": {}, "spec": {"rules": [
        {"http": {"paths": [{"backend": {"serviceName": "s", "servicePort": 1}}]}}]}});
    let read = row.strategy.decode(json.to_string().as_bytes()).unwrap().object.to_value().unwrap();
    assert_eq!(read["spec"]["rules"][0]["http"]["paths"][0]["pathType"], "ImplementationSpecific");
}

#[test]
fn topology_tells_where_an_old_endpoint_is() {
    let slice = |endpoint: Value| {
        let mut slice = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]});
        for (field, value) in endpoint.as_object().unwrap() {
            slice["endpoints"][0][field] = value.clone();
        }
        slice
    };
    let at = "discovery.k8s.io/v1beta1";
    check(
        at,
        "endpointslices",
        slice(json!({
            "nodeName": "n",
            "topology": {"topology.kubernetes.io/zone": "z", "kubernetes.io/hostname": "n", "a": "b"},
        })),
        slice(json!({"nodeName": "n", "zone": "z", "deprecatedTopology": {"a": "b"}})),
    );
    check(
        at,
        "endpointslices",
        slice(json!({"nodeName": "n", "topology": {"kubernetes.io/hostname": "other"}})),
        slice(json!({
            "nodeName": "n", "deprecatedTopology": {"kubernetes.io/hostname": "other"},
        })),
    );
}

#[test]
fn an_empty_selector_of_an_old_budget_selects_nothing() {
    let at = "policy/v1beta1";
    let label = |operator: &str| {
        let key = "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match";
        json!({"spec": {"selector": {"matchExpressions": [{"key": key, "operator": operator}]}}})
    };
    let empty = json!({"spec": {"selector": {}}});
    check(at, "poddisruptionbudgets", empty.clone(), label("Exists"));
    check(at, "poddisruptionbudgets", label("DoesNotExist"), empty);
    let usual = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}});
    check(at, "poddisruptionbudgets", usual.clone(), usual);
    check(at, "poddisruptionbudgets", json!({"spec": {}}), json!({"spec": {}}));
}

#[test]
fn an_autoscaler_of_v1_has_annotations_for_what_it_does_not_know() {
    let resource = |name: &str, target: Value| json!({"type": "Resource", "resource": {"name": name, "target": target}});
    let target = json!({"kind": "Deployment", "name": "d"});
    let time = "2024-01-02T03:04:05Z";
    check(
        "autoscaling/v1",
        "horizontalpodautoscalers",
        json!({
            "metadata": {"name": "x", "annotations": {
                "autoscaling.alpha.kubernetes.io/metrics": json!([{
                    "type": "Object",
                    "object": {
                        "target": {"kind": "Service", "name": "s"}, "metricName": "hits",
                        "targetValue": "2k",
                    },
                }]).to_string(),
                "autoscaling.alpha.kubernetes.io/current-metrics": json!([{
                    "type": "Resource",
                    "resource": {
                        "name": "cpu", "currentAverageUtilization": 40,
                        "currentAverageValue": "400m",
                    },
                }]).to_string(),
                "autoscaling.alpha.kubernetes.io/conditions": json!([{
                    "type": "AbleToScale", "status": "True", "lastTransitionTime": time,
                }]).to_string(),
                "autoscaling.alpha.kubernetes.io/behavior": json!({
                    "ScaleDown": null,
                    "ScaleUp": {
                        "Policies": [{"PeriodSeconds": 15, "Type": "Pods", "Value": 4}],
                        "SelectPolicy": null, "StabilizationWindowSeconds": 0, "Tolerance": null,
                    },
                }).to_string(),
            }},
            "spec": {
                "maxReplicas": 3, "scaleTargetRef": target, "targetCPUUtilizationPercentage": 50,
            },
            "status": {"currentReplicas": 1, "desiredReplicas": 2,
                "currentCPUUtilizationPercentage": 40},
        }),
        json!({
            "spec": {
                "maxReplicas": 3, "scaleTargetRef": target,
                "metrics": [
                    {"type": "Object", "object": {
                        "describedObject": {"kind": "Service", "name": "s"},
                        "metric": {"name": "hits"},
                        "target": {"type": "Value", "value": "2k"},
                    }},
                    resource("cpu", json!({"type": "Utilization", "averageUtilization": 50})),
                ],
                "behavior": {"scaleUp": {
                    "stabilizationWindowSeconds": 0,
                    "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}],
                }},
            },
            "status": {
                "currentReplicas": 1, "desiredReplicas": 2,
                "currentMetrics": [{"type": "Resource", "resource": {
                    "name": "cpu",
                    "current": {"averageUtilization": 40, "averageValue": "400m"},
                }}],
                "conditions": [
                    {"type": "AbleToScale", "status": "True", "lastTransitionTime": time},
                ],
            },
        }),
    );
}

#[test]
fn deprecation_is_told_in_kubernetes_words() {
    let resources = Resources::builtin();
    let told = |group: &str, version: &str, plural: &str| {
        let row = resources.get(group, version, plural).unwrap();
        row.strategy.deprecation().unwrap_or_default().to_owned()
    };
    assert_eq!(
        told("batch", "v1beta1", "cronjobs"),
        "batch/v1beta1 CronJob is deprecated in v1.21+, unavailable in v1.25+; use batch/v1 CronJob"
    );
    assert_eq!(
        told("events.k8s.io", "v1beta1", "events"),
        "events.k8s.io/v1beta1 Event is deprecated in v1.22+, unavailable in v1.25+"
    );
    assert_eq!(told("events.k8s.io", "v1", "events"), "");
    assert_eq!(told("autoscaling", "v1", "horizontalpodautoscalers"), "");
    assert_eq!(
        told("", "v1", "endpoints"),
        "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"
    );
}

#[test]
fn an_object_of_another_version_or_kind_is_refused() {
    let resources = Resources::builtin();
    let row = resources.get("batch", "v1beta1", "cronjobs").unwrap();
    let decode = |json: &str| row.strategy.decode(json.as_bytes());
    assert!(decode(r#"{"apiVersion":"batch/v2","kind":"CronJob"}"#).is_err());
    assert!(decode(r#"{"apiVersion":"batch/v1beta1","kind":"Job"}"#).is_err());
    assert!(decode("[]").is_err());
    assert!(decode("{").is_err());
    assert!(decode(r#"{"apiVersion":1}"#).is_err());
    assert!(decode("{}").is_ok());
}

// === nothing is lost ===

/// An object as it could be stored: what no valid object holds, and the other version could not
/// tell, is taken away.
fn storable(row: &Resource, choices: &[u8]) -> Value {
    let mut object = arbitrary(&row.schema, choices);
    object["apiVersion"] = row.api_version().into();
    object["kind"] = row.kind.as_ref().into();
    if let Some(metadata) = tree::object(&mut object, &["metadata"]) {
        metadata.remove("managedFields");
    }
    let choice = usize::from(choices.first().copied().unwrap_or_default());
    match row.kind.as_ref() {
        "Ingress" => with_one_port_each(&mut object, choice),
        "HorizontalPodAutoscaler" => with_one_target_each(&mut object, choice),
        "CertificateSigningRequest" => {
            tree::default(object["spec"].as_object_mut().unwrap(), "usages", json!(["any"]));
        }
        // Left out by v1 when it is false.
        "CustomResourceDefinition" => {
            if let Some(spec) = tree::object(&mut object, &["spec"]) {
                spec.remove("preserveUnknownFields");
            }
        }
        // Whose defaults differ.
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
            (webhook::V1BETA1.read)(&mut object, &mut Vec::new());
        }
        _ => {}
    }
    object
}

fn with_one_port_each(ingress: &mut Value, choice: usize) {
    visit(ingress, &mut |field, value| {
        if field == "service" {
            value["port"] = if choice.is_multiple_of(2) {
                json!({"number": 80})
            } else {
                json!({"name": "http"})
            };
        }
    });
}

fn with_one_target_each(autoscaler: &mut Value, choice: usize) {
    visit(autoscaler, &mut |source, value| {
        let keep = match source {
            "pods" => &["averageValue"][..],
            "resource" | "containerResource" => &["averageUtilization", "averageValue"],
            "object" | "external" => &["value", "averageValue"],
            _ => return,
        };
        if let Some(current) = tree::object(value, &["current"]) {
            current.retain(|field, _| keep.contains(&field.as_str()));
            // What v1 cannot leave out.
            current.insert("averageValue".into(), "3".into());
            if keep.contains(&"value") {
                current.insert("value".into(), "4".into());
            }
        }
        if value.get("target").is_some() {
            let field = keep[choice % keep.len()];
            let (kind, amount) = match field {
                "averageUtilization" => ("Utilization", json!(7)),
                "averageValue" => ("AverageValue", json!("5")),
                _ => ("Value", json!("6")),
            };
            value["target"] = json!({"type": kind});
            value["target"][field] = amount;
        }
    });
    // The metric that v1 has a field for comes last there.
    if choice.is_multiple_of(3)
        && let Some(metrics) = autoscaler["spec"].get_mut("metrics")
    {
        let target = json!({"type": "Utilization", "averageUtilization": 50});
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
        metrics.as_array_mut().unwrap().push(cpu);
    }
}

/// Every member of every object in the tree.
fn visit(tree: &mut Value, see: &mut impl FnMut(&str, &mut Value)) {
    match tree {
        Value::Object(fields) => {
            for (field, value) in fields {
                see(field, value);
                visit(value, see);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| visit(item, see)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_version_loses_anything(choices in vec(any::<u8>(), 0..600)) {
        let resources = Resources::builtin();
        for row in resources.iter().filter(|row| !row.strategy.is_shown_as_stored()) {
            let stored = resources
                .iter()
                .find(|other| {
                    other.key_prefix == row.key_prefix && other.strategy.is_shown_as_stored()
                })
                .unwrap();
            let tree = storable(stored, &choices);
            let object = stored.strategy.decode(tree.to_string().as_bytes()).unwrap();
            prop_assert_eq!(&object.strict_errors, &Vec::<String>::new());
            let kept = object.object.encode().unwrap();

            let shown = row.strategy.shown(&kept).unwrap();
            let head: Head<'_> = serde_json::from_slice(&shown).unwrap();
            prop_assert_eq!(&head.api_version, &row.api_version());
            let again = row.strategy.decode(&shown).unwrap();

            prop_assert_eq!(&again.strict_errors, &Vec::<String>::new());
            let encoded = again.object.encode().unwrap();
            let [encoded, kept] = [&encoded, &kept].map(|json| {
                serde_json::from_slice::<Value>(json).unwrap()
            });
            prop_assert_eq!(encoded, kept, "{}, by way of {}", row.kind, String::from_utf8_lossy(&shown));
        }
    }
}
