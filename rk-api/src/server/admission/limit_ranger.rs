//! LimitRanger: what a container, a Pod or a claim may ask for in its namespace, and what a
//! container asks for that says nothing.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::{
    api::core::v1::{
        Container, LimitRange, LimitRangeItem, PersistentVolumeClaim, Pod, ResourceRequirements,
    },
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};

use super::{Admission, AdmissionRequest, Operation, first_look::FirstLook};
use crate::{
    meta::quantity::Quantity,
    quota::pod_resources::{self, Amounts, amounts},
    server::{reader::Reader, status::Result},
};

/// Says what was filled in.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct LimitRanger {
    reader: Reader,
    looks: FirstLook,
}

impl LimitRanger {
    pub(super) fn new(reader: Reader) -> Self {
        Self { reader, looks: FirstLook::default() }
    }

    async fn ranges(&self, request: &AdmissionRequest<'_>) -> Result<Vec<LimitRange>> {
        match request.namespace {
            Some(namespace) => self.looks.list(&self.reader, namespace).await,
            None => Ok(Vec::new()),
        }
    }
}

#[async_trait]
impl Admission for LimitRanger {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        let is_core = request.resource.group.is_empty();
        let sub = request.subresource;
        match (request.operation, request.resource.plural.as_ref()) {
            // The containers of a Pod change only where it is resized.
            (Operation::Create, "pods") => is_core && sub.is_empty(),
            (Operation::Update, "pods") => is_core && sub == "resize",
            (Operation::Create | Operation::Update, "persistentvolumeclaims") => {
                is_core && sub.is_empty()
            }
            _ => false,
        }
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        let ranges = self.ranges(request).await?;
        let is_new = request.operation == Operation::Create;
        if let Some(pod) = request.object_as::<Pod>().filter(|_| is_new) {
            for range in &ranges {
                fill_in(pod, range);
            }
        }
        Ok(())
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let Some(object) = request.object() else { return Ok(()) };
        // What is on its way out may still lose its finalizers.
        if request.old.is_some_and(|old| old.meta().deletion_timestamp.is_some()) {
            return Ok(());
        }
        for range in self.ranges(request).await? {
            let limits = range.spec.map(|spec| spec.limits).unwrap_or_default();
            let any = object.as_any();
            let wrong = match (any.downcast_ref(), any.downcast_ref()) {
                (Some(pod), _) => pod_violations(pod, &limits),
                (_, Some(claim)) => claim_violations(claim, &limits),
                _ => Vec::new(),
            };
            match wrong.as_slice() {
                [] => {}
                [one] => return Err(request.forbidden(one)),
                all => return Err(request.forbidden(&format!("[{}]", all.join(", ")))),
            }
        }
        Ok(())
    }
}

/// Fills in what containers leave out, and says so.
fn fill_in(pod: &mut Pod, range: &LimitRange) {
    let items = range.spec.iter().flat_map(|spec| &spec.limits);
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    for item in items.filter(|item| item.type_ == "Container") {
        requests.extend(item.default_request.clone().unwrap_or_default());
        limits.extend(item.default.clone().unwrap_or_default());
    }
    let Some(spec) = pod.spec.as_mut() else { return };
    let mut notes = Vec::new();
    for container in &mut spec.containers {
        merge(container, &requests, &limits, "container", &mut notes);
    }
    for container in spec.init_containers.iter_mut().flatten() {
        merge(container, &requests, &limits, "init container", &mut notes);
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(ANNOTATION.to_owned(), note);
    }
}

type ResourceList = BTreeMap<String, ApiQuantity>;

fn merge(
    container: &mut Container,
    requests: &ResourceList,
    limits: &ResourceList,
    what: &str,
    notes: &mut Vec<String>,
) {
    let fill = |list: &mut Option<ResourceList>, defaults: &ResourceList| -> Vec<String> {
        let known = list.clone().unwrap_or_default();
        let missing: Vec<_> =
            defaults.iter().filter(|(name, _)| !known.contains_key(*name)).collect();
        if !missing.is_empty() {
            let list = list.get_or_insert_default();
            list.extend(missing.iter().map(|(name, amount)| ((*name).clone(), (*amount).clone())));
        }
        missing.into_iter().map(|(name, _)| name.clone()).collect()
    };
    let mut resources = container.resources.take().unwrap_or_default();
    let set = [
        ("request", fill(&mut resources.requests, requests)),
        ("limit", fill(&mut resources.limits, limits)),
    ];
    container.resources = Some(resources);
    for (kind, names) in set.into_iter().filter(|(_, names)| !names.is_empty()) {
        notes.push(format!("{} {kind} for {what} {}", names.join(", "), container.name));
    }
}

/// What is wrong with a Pod.
fn pod_violations(pod: &Pod, limits: &[LimitRangeItem]) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let none = ResourceRequirements::default();
    let mut wrong = Vec::new();
    for item in limits {
        match item.type_.as_str() {
            "Container" => {
                for container in spec.containers.iter().chain(spec.init_containers.iter().flatten())
                {
                    let resources = container.resources.as_ref().unwrap_or(&none);
                    let requests = amounts(resources.requests.as_ref());
                    let limits = amounts(resources.limits.as_ref());
                    wrong.extend(violations(item, &requests, &limits));
                }
            }
            "Pod" => {
                let (requests, limits) = (pod_resources::requests(pod), pod_resources::limits(pod));
                wrong.extend(violations(item, &requests, &limits));
            }
            _ => {}
        }
    }
    wrong
}

/// What is wrong with a claim. It has no limits, so its request is held to both ends.
fn claim_violations(claim: &PersistentVolumeClaim, limits: &[LimitRangeItem]) -> Vec<String> {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let requests = amounts(resources.and_then(|resources| resources.requests.as_ref()));
    let mut wrong = Vec::new();
    for item in limits.iter().filter(|item| item.type_ == "PersistentVolumeClaim") {
        for (name, min) in amounts(item.min.as_ref()) {
            wrong.extend(below_min(&item.type_, &name, &min, &requests, &Amounts::new()));
        }
        for (name, max) in amounts(item.max.as_ref()) {
            let start = format!("maximum {name} usage per {} is {max}", item.type_);
            match requests.get(&name) {
                None => wrong.push(format!("{start}.  No request is specified")),
                Some(request) if *request > max => {
                    wrong.push(format!("{start}, but request is {request}"));
                }
                Some(_) => {}
            }
        }
    }
    wrong
}

fn violations(item: &LimitRangeItem, requests: &Amounts, limits: &Amounts) -> Vec<String> {
    let type_ = item.type_.as_str();
    let mut wrong = Vec::new();
    for (name, min) in amounts(item.min.as_ref()) {
        wrong.extend(below_min(type_, &name, &min, requests, limits));
    }
    for (name, max) in amounts(item.max.as_ref()) {
        wrong.extend(above_max(type_, &name, &max, requests, limits));
    }
    for (name, ratio) in amounts(item.max_limit_request_ratio.as_ref()) {
        wrong.extend(above_ratio(type_, &name, &ratio, requests, limits));
    }
    wrong
}

fn below_min(
    type_: &str,
    name: &str,
    min: &Quantity,
    requests: &Amounts,
    limits: &Amounts,
) -> Option<String> {
    let start = format!("minimum {name} usage per {type_} is {min}");
    match (requests.get(name), limits.get(name)) {
        (None, _) => Some(format!("{start}.  No request is specified")),
        (Some(request), _) if request < min => Some(format!("{start}, but request is {request}")),
        (_, Some(limit)) if limit < min => Some(format!("{start}, but limit is {limit}")),
        _ => None,
    }
}

fn above_max(
    type_: &str,
    name: &str,
    max: &Quantity,
    requests: &Amounts,
    limits: &Amounts,
) -> Option<String> {
    let start = format!("maximum {name} usage per {type_} is {max}");
    match (limits.get(name), requests.get(name)) {
        (None, _) => Some(format!("{start}.  No limit is specified")),
        (Some(limit), _) if limit > max => Some(format!("{start}, but limit is {limit}")),
        (_, Some(request)) if request > max => Some(format!("{start}, but request is {request}")),
        _ => None,
    }
}

fn above_ratio(
    type_: &str,
    name: &str,
    max: &Quantity,
    requests: &Amounts,
    limits: &Amounts,
) -> Option<String> {
    let start = format!("{name} max limit to request ratio per {type_} is {max}");
    let millis = |list: &Amounts| list.get(name).map(Quantity::millis).filter(|millis| *millis > 0);
    match (millis(requests), millis(limits)) {
        (None, _) => Some(format!("{start}, but no request is specified or request is 0")),
        (_, None) => Some(format!("{start}, but no limit is specified or limit is 0")),
        (Some(request), Some(limit)) => {
            let ratio = limit as f64 / request as f64;
            (ratio * 1000.0 > max.millis() as f64)
                .then(|| format!("{start}, but provided ratio is {ratio:.6}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(resources: Value) -> Pod {
        let container = json!({ "name": "c", "resources": resources });
        serde_json::from_value(json!({ "spec": { "containers": [container] } })).unwrap()
    }

    #[track_caller]
    fn check(item: Value, resources: Value, wrong: &[&str]) {
        let items: Vec<LimitRangeItem> = serde_json::from_value(json!([item])).unwrap();
        assert_eq!(pod_violations(&pod(resources), &items), wrong);
    }

    #[test]
    fn requests_and_limits_lie_within_the_range() {
        let range = json!({ "type": "Container", "min": { "cpu": "100m" }, "max": { "cpu": "1" } });
        let of = |request: &str, limit: &str| json!({ "requests": { "cpu": request }, "limits": { "cpu": limit } });
        check(range.clone(), of("100m", "1"), &[]);
        check(
            range.clone(),
            of("50m", "1"),
            &["minimum cpu usage per Container is 100m, but request is 50m"],
        );
        check(
            range.clone(),
            of("100m", "2"),
            &["maximum cpu usage per Container is 1, but limit is 2"],
        );
        check(
            range,
            json!({}),
            &[
                "minimum cpu usage per Container is 100m.  No request is specified",
                "maximum cpu usage per Container is 1.  No limit is specified",
            ],
        );
    }

    #[test]
    fn a_limit_is_not_too_far_above_the_request() {
        let item = json!({ "type": "Container", "maxLimitRequestRatio": { "cpu": "1500m" } });
        let of = |limit: &str| json!({ "requests": { "cpu": "100m" }, "limits": { "cpu": limit } });
        check(item.clone(), of("150m"), &[]);
        check(
            item,
            of("1"),
            &["cpu max limit to request ratio per Container is 1500m, but provided ratio is \
               10.000000"],
        );
    }

    #[test]
    fn what_is_left_out_is_filled_in_and_noted() {
        let range: LimitRange = serde_json::from_value(json!({ "spec": { "limits": [{
            "type": "Container",
            "default": { "cpu": "500m", "memory": "1Gi" },
            "defaultRequest": { "cpu": "100m", "memory": "1Gi" },
        }] } }))
        .unwrap();
        let mut some = pod(json!({ "requests": { "cpu": "1" }, "limits": { "cpu": "1" } }));
        fill_in(&mut some, &range);
        assert_eq!(
            some.metadata.annotations.unwrap()[ANNOTATION],
            "LimitRanger plugin set: memory request for container c; memory limit for container c"
        );
        let resources = some.spec.unwrap().containers[0].resources.clone().unwrap();
        assert_eq!(resources.requests.unwrap()["cpu"].0, "1");
        assert_eq!(resources.limits.unwrap()["memory"].0, "1Gi");
    }
}
