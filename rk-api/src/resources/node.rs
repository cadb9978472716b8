//! Node.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::core::v1::{Node, NodeSpec, NodeStatus, Taint},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Fields, Kind, Part, Resource,
    check::{Errors, ResourceList, list, round_to_millis, text},
    pod::validation::TAINT_EFFECTS,
    row::{PROXY_VERBS, Row},
};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::{
        addresses, conditions, names,
        table::{NONE, age, list_or_none, name},
    },
};

/// The row of Node.
pub(super) fn row() -> Resource {
    Row::of::<Nodes>()
        .short(&["no"])
        .stored_in("minions")
        .sub("proxy", "NodeProxyOptions", PROXY_VERBS)
        .status()
        .columns(COLUMNS)
        .done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Status", "string", "Whether the node can run Pods."),
    Column::new("Roles", "string", "What the node is for."),
    Column::AGE,
    Column::new("Version", "string", "The version of its agent."),
    Column::wide("Internal-IP", "string", "Its address within the cluster."),
    Column::wide("External-IP", "string", "Its address outside the cluster."),
    Column::wide("OS-Image", "string", "Its operating system."),
    Column::wide("Kernel-Version", "string", "Its kernel."),
    Column::wide("Container-Runtime", "string", "Its container runtime."),
];

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE: &str = "kubernetes.io/role";

/// How a Node behaves.
#[derive(Debug, Default)]
pub(super) struct Nodes;

impl Kind for Nodes {
    type Object = Node;

    fn default(node: &mut Node) {
        let spec = node.spec.get_or_insert_default();
        match (text(&spec.pod_cidr), list(&spec.pod_cidrs)) {
            ("", [first, ..]) => spec.pod_cidr = Some(first.clone()),
            (cidr, []) if !cidr.is_empty() => spec.pod_cidrs = Some(vec![cidr.to_owned()]),
            _ => {}
        }
        let status = node.status.get_or_insert_default();
        status.node_info.get_or_insert_default();
        status.daemon_endpoints.get_or_insert_default().kubelet_endpoint.get_or_insert_default();
        round_to_millis(&mut status.capacity);
        round_to_millis(&mut status.allocatable);
        if status.allocatable.is_none() {
            status.allocatable = status.capacity.clone();
        }
    }

    fn prepare_create(node: &mut Node) {
        if let Some(spec) = &mut node.spec {
            spec.config_source = None;
        }
    }

    fn prepare_update(new: &mut Node, old: &Node, part: Part) {
        if part == Part::Status {
            new.spec = old.spec.clone();
        } else {
            new.status = old.status.clone();
        }
        // Configuration from the API is no more: what is there may go, but none comes.
        let source = |node: &Node| node.spec.as_ref().and_then(|spec| spec.config_source.clone());
        if let Some(spec) = new.spec.as_mut().filter(|_| source(old).is_none()) {
            spec.config_source = None;
        }
    }

    fn validate(node: &Node) -> ErrorList {
        let mut errors = Errors::default();
        let spec = node.spec.clone().unwrap_or_default();
        // The taints are checked with the metadata, where they once were an annotation.
        taints(&mut errors, list(&spec.taints), &Path::new("metadata.taints"));
        let status = node.status.clone().unwrap_or_default();
        amounts(&mut errors, status.capacity.as_ref(), &Path::new("status.capacity"));
        amounts(&mut errors, status.allocatable.as_ref(), &Path::new("status.allocatable"));
        pod_cidrs(&mut errors, list(&spec.pod_cidrs), &Path::new("spec.podCIDRs"));
        errors.0
    }

    fn validate_update(new: &Node, old: &Node, part: Part) -> ErrorList {
        let mut errors = Errors::default();
        let status = new.status.clone().unwrap_or_default();
        if part == Part::Status {
            amounts(&mut errors, status.capacity.as_ref(), &Path::new("status.capacity"));
            amounts(&mut errors, status.allocatable.as_ref(), &Path::new("status.allocatable"));
        }
        let mut seen = BTreeSet::new();
        for (i, address) in list(&status.addresses).iter().enumerate() {
            if !seen.insert((&address.type_, &address.address)) {
                let at = Path::new("status.addresses").index(i);
                errors.push(FieldError::duplicate(&at, json!(address)));
            }
        }
        let none = NodeSpec::default();
        let (new, old) = (new.spec.as_ref().unwrap_or(&none), old.spec.as_ref().unwrap_or(&none));
        let (cidrs, provider) = (list(&old.pod_cidrs), text(&old.provider_id));
        let path = Path::new("spec");
        if !cidrs.is_empty() && cidrs != list(&new.pod_cidrs) {
            let wrong = "node updates may not change podCIDR except from \"\" to valid";
            errors.forbidden(&path.child("podCIDRs"), wrong);
        }
        if !provider.is_empty() && provider != text(&new.provider_id) {
            let wrong = "node updates may not change providerID except from \"\" to valid";
            errors.forbidden(&path.child("providerID"), wrong);
        }
        if text(&new.external_id) != text(&old.external_id) {
            errors.forbidden(&path.child("externalID"), "may not be updated");
        }
        errors.0
    }

    fn warnings(node: &Node, _: Option<&Node>) -> Vec<String> {
        let Some(spec) = &node.spec else { return Vec::new() };
        let mut all = Vec::new();
        if spec.config_source.is_some() {
            all.push("spec.configSource: the feature is removed".to_owned());
        }
        if !text(&spec.external_id).is_empty() {
            all.push(
                "spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned(),
            );
        }
        for (i, cidr) in list(&spec.pod_cidrs).iter().enumerate() {
            let at = Path::new("spec.podCIDRs").index(i);
            all.extend(addresses::cidr_warnings(&at, cidr));
        }
        all
    }

    fn fields(node: &Node) -> Fields {
        let off = node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true));
        Fields::from_iter([("spec.unschedulable", off.to_string())])
    }

    const FIELDS: &'static [&'static str] = &["spec.unschedulable"];

    fn cells(node: &Node, now: Timestamp) -> Vec<Value> {
        let status = node.status.clone().unwrap_or_default();
        let info = status.node_info.clone().unwrap_or_default();
        let or_unknown =
            |text: &str| if text.is_empty() { "<unknown>".to_owned() } else { text.to_owned() };
        vec![
            json!(name(&node.metadata)),
            json!(summary(node, &status)),
            json!(list_or_none(roles(node))),
            json!(age(&node.metadata, now)),
            json!(info.kubelet_version),
            json!(address(&status, "InternalIP")),
            json!(address(&status, "ExternalIP")),
            json!(or_unknown(&info.os_image)),
            json!(or_unknown(&info.kernel_version)),
            json!(or_unknown(&info.container_runtime_version)),
        ]
    }
}

/// `Ready`, `NotReady,SchedulingDisabled` and so on.
fn summary(node: &Node, status: &NodeStatus) -> String {
    let ready = match conditions::get(list(&status.conditions), "Ready") {
        Some(condition) if condition.status == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    match &node.spec {
        Some(spec) if spec.unschedulable == Some(true) => format!("{ready},SchedulingDisabled"),
        _ => ready.to_owned(),
    }
}

fn roles(node: &Node) -> BTreeSet<&str> {
    let labels = node.metadata.labels.iter().flatten();
    labels
        .filter_map(|(key, value)| match key.strip_prefix(ROLE_PREFIX) {
            Some(role) => Some(role),
            None if key == ROLE => Some(value.as_str()),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect()
}

fn address(status: &NodeStatus, type_: &str) -> String {
    let found = list(&status.addresses).iter().find(|address| address.type_ == type_);
    found.map_or(NONE, |address| address.address.as_str()).to_owned()
}

/// One block of addresses of each family at most.
fn pod_cidrs(errors: &mut Errors, cidrs: &[String], path: &Path) {
    for (i, cidr) in cidrs.iter().enumerate() {
        errors.form(&path.index(i), cidr.as_str(), names::cidr(cidr));
    }
    let is_v4 = |cidr: &String| names::parse_cidr(cidr).map(|(ip, _)| ip.is_ipv4());
    let is_dual = cidrs.len() == 2 && is_v4(&cidrs[0]) != is_v4(&cidrs[1]);
    if cidrs.len() > 1 && !is_dual {
        errors.invalid(path, json!(cidrs), "may specify no more than one CIDR for each IP family");
    }
    for (i, cidr) in cidrs.iter().enumerate() {
        if cidrs[..i].contains(cidr) {
            errors.push(FieldError::duplicate(&path.index(i), cidr.as_str()));
        }
    }
}

fn taints(errors: &mut Errors, taints: &[Taint], path: &Path) {
    let mut seen = BTreeSet::new();
    for (i, taint) in taints.iter().enumerate() {
        let at = path.index(i);
        errors.label_key(&at.child("key"), &taint.key);
        let wrong = names::label_value(text(&taint.value));
        if !wrong.is_empty() {
            errors.invalid(&at.child("value"), text(&taint.value), wrong.join(";"));
        }
        errors.required_one_of(&at.child("effect"), &taint.effect, TAINT_EFFECTS);
        if !seen.insert((&taint.key, &taint.effect)) {
            let mut error = FieldError::duplicate(&at, json!(taint));
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
}

fn amounts(errors: &mut Errors, amounts: Option<&ResourceList>, path: &Path) {
    for (resource, amount) in amounts.into_iter().flatten() {
        errors.amount(&path.child(resource), resource, amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_says_what_the_node_is_and_whether_it_works() {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {
                "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "edge",
                "node-role.kubernetes.io/": "",
            }},
            "spec": {"unschedulable": true},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
            },
        }))
        .unwrap();
        let cells = Nodes::cells(&node, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1], "Ready,SchedulingDisabled");
        assert_eq!(cells[2], "control-plane,edge");
        assert_eq!(cells[5], "192.0.2.1");
        assert_eq!(cells[6], "<none>");
    }

    #[test]
    fn what_was_given_to_a_node_stays() {
        let node = |spec: Value, status: Value| -> Node {
            let json = json!({"metadata": {"name": "n"}, "spec": spec, "status": status});
            serde_json::from_value(json).unwrap()
        };
        #[track_caller]
        fn check(old: &Node, mut new: Node, part: Part, wrong: &[&str]) {
            Nodes::prepare_update(&mut new, old, part);
            let errors = Nodes::validate_update(&new, old, part);
            let messages: Vec<_> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(messages, wrong);
        }
        let given = json!({"podCIDRs": ["10.0.0.0/24"], "providerID": "a", "externalID": "x"});
        let old = node(given.clone(), json!({}));
        let changeable =
            json!({"unschedulable": true, "taints": [{"key": "a", "effect": "NoExecute"}]});
        let mut more = given.clone();
        more.as_object_mut().unwrap().extend(changeable.as_object().unwrap().clone());
        check(&old, node(more, json!({})), Part::Main, &[]);
        check(
            &node(json!({}), json!({})),
            node(
                json!({"podCIDRs": ["10.0.0.0/24"],
            "providerID": "a"}),
                json!({}),
            ),
            Part::Main,
            &[],
        );
        check(
            &old,
            node(
                json!({"podCIDRs": ["10.0.1.0/24"], "providerID": "b", "externalID": "y"}),
                json!({}),
            ),
            Part::Main,
            &[
                "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to \
                 valid",
                "spec.providerID: Forbidden: node updates may not change providerID except from \
                 \"\" to valid",
                "spec.externalID: Forbidden: may not be updated",
            ],
        );
        let address = json!({"type": "InternalIP", "address": "192.0.2.1"});
        check(
            &old,
            node(json!({}), json!({"addresses": [address, address], "capacity": {"pods": "-1"}})),
            Part::Status,
            &[
                "status.capacity.pods: Invalid value: \"-1\": must be greater than or equal to 0",
                "status.addresses[1]: Duplicate value: \
                 {\"address\":\"192.0.2.1\",\"type\":\"InternalIP\"}",
            ],
        );
    }
}
