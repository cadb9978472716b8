//! The Metrics API's documents: discovery, lists, single objects and tables.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};
use kube::{Resource, ResourceExt};
use rk_api::{
    clock,
    meta::{
        quantity::{Format, Quantity},
        selectors::LabelQuery,
    },
};
use serde_json::{Value, json};

use super::windows::{Usage, Windows};
use crate::pods;

/// What is asked: the path behind the group's version, and the query.
pub(super) struct Question<'a> {
    pub path: &'a str,
    pub query: &'a str,
    /// Whether a table is preferred, as kubectl does.
    pub table: bool,
}

/// An answer's status code and its body.
pub(super) type Answer = (u16, Value);

const API_VERSION: &str = "metrics.k8s.io/v1beta1";

/// What there is to measure, and what was measured.
pub(super) struct Known<'a> {
    pub windows: &'a Windows,
    pub nodes: Vec<Arc<Node>>,
    pub pods: Vec<Arc<Pod>>,
}

impl Question<'_> {
    /// Whether measurements are asked for, and not only what there is.
    pub fn is_about_metrics(&self) -> bool {
        self.path.strip_prefix("/apis/metrics.k8s.io/v1beta1/").is_some_and(|rest| !rest.is_empty())
    }

    /// Answers it.
    pub fn answer(&self, known: &Known<'_>) -> Answer {
        let parts: Vec<&str> = self.path.trim_matches('/').split('/').collect();
        let labels = match self.parameter("labelSelector").map(|text| LabelQuery::parse(&text)) {
            None => LabelQuery::everything(),
            Some(Ok(labels)) => labels,
            Some(Err(error)) => return failure(400, "BadRequest", &error.to_string(), "", ""),
        };
        let field = self.parameter("fieldSelector").unwrap_or_default();
        let chosen = |metadata: &dyn Fn(&str) -> Option<String>| fields_match(&field, metadata);
        match parts[..] {
            ["apis"] => {
                (200, json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group()]}))
            }
            ["apis", "metrics.k8s.io"] => (200, group()),
            ["apis", "metrics.k8s.io", "v1beta1"] => (200, resources()),
            ["apis", "metrics.k8s.io", "v1beta1", "nodes"] => {
                let nodes = known.nodes.iter().filter(|node| {
                    labels.matches(node.labels()) && chosen(&|field| named(&***node, field))
                });
                self.list("NodeMetrics", nodes.filter_map(|node| of_node(node, known)).collect())
            }
            ["apis", "metrics.k8s.io", "v1beta1", "nodes", name] => {
                let node = known.nodes.iter().find(|node| node.name_any() == name);
                self.one(node.and_then(|node| of_node(node, known)), "nodes", name)
            }
            ["apis", "metrics.k8s.io", "v1beta1", "pods"] => {
                let pods = known.pods.iter().filter(|pod| {
                    labels.matches(pod.labels()) && chosen(&|field| named(&***pod, field))
                });
                self.list("PodMetrics", pods.filter_map(|pod| of_pod(pod, known)).collect())
            }
            ["apis", "metrics.k8s.io", "v1beta1", "namespaces", namespace, "pods"] => {
                let pods = known.pods.iter().filter(|pod| {
                    pod.namespace().as_deref() == Some(namespace)
                        && labels.matches(pod.labels())
                        && chosen(&|field| named(&***pod, field))
                });
                self.list("PodMetrics", pods.filter_map(|pod| of_pod(pod, known)).collect())
            }
            ["apis", "metrics.k8s.io", "v1beta1", "namespaces", namespace, "pods", name] => {
                let pod = known.pods.iter().find(|pod| {
                    pod.namespace().as_deref() == Some(namespace) && pod.name_any() == name
                });
                let name = format!("{namespace}/{name}");
                self.one(pod.and_then(|pod| of_pod(pod, known)), "pods", &name)
            }
            _ => {
                failure(404, "NotFound", "the server could not find the requested resource", "", "")
            }
        }
    }

    fn list(&self, kind: &str, items: Vec<Value>) -> Answer {
        if self.table {
            return (200, table(&items));
        }
        let list = json!({
            "kind": format!("{kind}List"), "apiVersion": API_VERSION, "metadata": {}, "items": items,
        });
        (200, list)
    }

    fn one(&self, found: Option<Value>, plural: &str, name: &str) -> Answer {
        match found {
            Some(found) if self.table => (200, table(&[found])),
            Some(found) => (200, found),
            None => {
                let message = format!("{plural}.metrics.k8s.io \"{name}\" not found");
                failure(404, "NotFound", &message, plural, name)
            }
        }
    }

    fn parameter(&self, name: &str) -> Option<String> {
        let mut pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| decoded(value))
    }
}

/// A query's value (`application/x-www-form-urlencoded`).
fn decoded(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, others @ ..] = rest {
        rest = others;
        let hex = |byte: u8| char::from(byte).to_digit(16);
        match (first, others) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, others @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    bytes.push((high * 16 + low) as u8);
                    rest = others;
                }
                _ => bytes.push(b'%'),
            },
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether `metadata.name` and `metadata.namespace` are as a field selector says; other fields are
/// nobody's.
fn fields_match(selector: &str, field: &dyn Fn(&str) -> Option<String>) -> bool {
    selector.split(',').filter(|term| !term.is_empty()).all(|term| {
        if let Some((key, value)) = term.split_once("!=") {
            return field(key).as_deref() != Some(value);
        }
        let (key, value) = term.split_once('=').unwrap_or((term, ""));
        field(key).as_deref() == Some(value.trim_start_matches('='))
    })
}

fn named<K: Resource>(object: &K, field: &str) -> Option<String> {
    match field {
        "metadata.name" => Some(object.name_any()),
        "metadata.namespace" => Some(object.namespace().unwrap_or_default()),
        _ => None,
    }
}

fn of_node(node: &Node, known: &Known<'_>) -> Option<Value> {
    let usage = known.windows.node(&node.name_any())?;
    let mut object = head("NodeMetrics", node, &usage);
    object["usage"] = amounts(&usage);
    Some(object)
}

fn of_pod(pod: &Pod, known: &Known<'_>) -> Option<Value> {
    if pods::phase(pod) != "Running" {
        return None;
    }
    let key = (pod.namespace().unwrap_or_default(), pod.name_any());
    let containers = known.windows.pod(pods::node_name(pod)?, &key)?;
    // Of the times of its containers that which is true for all.
    let earliest = containers.values().min_by_key(|usage| usage.at)?;
    let mut object = head("PodMetrics", pod, earliest);
    let containers = containers.iter();
    let containers = containers.map(|(name, usage)| json!({"name": name, "usage": amounts(usage)}));
    object["containers"] = containers.collect();
    Some(object)
}

fn head<K: Resource>(kind: &str, object: &K, usage: &Usage) -> Value {
    let mut metadata =
        json!({"name": object.name_any(), "creationTimestamp": clock::now_seconds()});
    if let Some(namespace) = object.namespace() {
        metadata["namespace"] = json!(namespace);
    }
    if !object.labels().is_empty() {
        metadata["labels"] = json!(object.labels());
    }
    let seconds = (usage.window.as_secs_f64() * 1000.0).round() / 1000.0;
    json!({
        "kind": kind,
        "apiVersion": API_VERSION,
        "metadata": metadata,
        "timestamp": crate::time::whole_seconds(usage.at),
        "window": go_seconds(seconds),
    })
}

/// A time as Go writes it.
fn go_seconds(seconds: f64) -> String {
    let minutes = (seconds / 60.0).floor();
    match minutes >= 1.0 {
        true => format!("{minutes}m{}s", ((seconds - minutes * 60.0) * 1000.0).round() / 1000.0),
        false => format!("{seconds}s"),
    }
}

fn amounts(usage: &Usage) -> Value {
    let cpu = Quantity::new(i64::try_from(usage.cpu_nanocores).unwrap_or(i64::MAX), -9);
    let memory = i64::try_from(usage.memory_bytes).unwrap_or(i64::MAX);
    let memory = Quantity::new(memory, 0).with_format(Format::BinarySi);
    json!({"cpu": ApiQuantity::from(cpu), "memory": ApiQuantity::from(memory)})
}

/// One row for each object; a Pod's is the sum of its containers.
fn table(items: &[Value]) -> Value {
    let column = |name: &str, format: &str| json!({"name": name, "type": "string", "format": format, "description": "", "priority": 0});
    let row = |item: &Value| {
        let mut sums: BTreeMap<&str, Quantity> = BTreeMap::new();
        let each = item["containers"].as_array().map_or_else(
            || vec![&item["usage"]],
            |containers| containers.iter().map(|container| &container["usage"]).collect(),
        );
        for usage in each {
            for name in ["cpu", "memory"] {
                let amount = usage[name].as_str().and_then(|text| Quantity::parse(text).ok());
                let amount = amount.unwrap_or(Quantity::ZERO);
                sums.entry(name).and_modify(|sum| *sum = sum.plus(&amount)).or_insert(amount);
            }
        }
        let shown = |name: &str| sums.get(name).map(ToString::to_string).unwrap_or_default();
        json!({
            "cells": [item["metadata"]["name"], shown("cpu"), shown("memory"), item["window"]],
            "object": {
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                "metadata": item["metadata"],
            },
        })
    };
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": [
            column("Name", "name"), column("cpu", ""), column("memory", ""),
            column("Window", "duration"),
        ],
        "rows": items.iter().map(row).collect::<Vec<_>>(),
    })
}

fn group() -> Value {
    let version = json!({"groupVersion": API_VERSION, "version": "v1beta1"});
    json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": "metrics.k8s.io",
        "versions": [version], "preferredVersion": version,
    })
}

fn resources() -> Value {
    let resource = |name: &str, kind: &str, namespaced: bool| {
        json!({
            "name": name, "singularName": "", "namespaced": namespaced, "kind": kind,
            "verbs": ["get", "list"],
        })
    };
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": API_VERSION,
        "resources": [resource("nodes", "NodeMetrics", false), resource("pods", "PodMetrics", true)],
    })
}

fn failure(code: u16, reason: &str, message: &str, plural: &str, name: &str) -> Answer {
    let mut status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    });
    if !plural.is_empty() {
        status["details"] = json!({"name": name, "group": "metrics.k8s.io", "kind": plural});
    }
    (code, status)
}
