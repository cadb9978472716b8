//! ResourceClaim and ResourceClaimTemplate: devices that somebody wants.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::resource::v1::{
        CapacityRequirements, DeviceClaim, DeviceConstraint, DeviceDerivedAttribute, DeviceRequest,
        DeviceSelector, DeviceSubRequest, DeviceToleration, ExactDeviceRequest, ResourceClaim,
        ResourceClaimSpec, ResourceClaimStatus, ResourceClaimTemplate,
    },
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    super::{
        Kind, Part, Resource,
        check::{Errors, default_text, labels, list, text},
        row::Row,
        typed::keep_metadata,
    },
    Column, allocation, forms,
};
use crate::{
    field::{ErrorList, Path},
    meta::{
        names,
        object::validate_annotations,
        table::{age, name, name_and_age},
    },
};

/// The rows of ResourceClaim and ResourceClaimTemplate.
pub(super) fn rows() -> [Resource; 2] {
    const COLUMNS: &[Column] = &[
        Column::NAME,
        Column::new("State", "string", "Whether it has its devices, and whether they are used."),
        Column::AGE,
    ];
    [
        Row::of::<ResourceClaims>().status().columns(COLUMNS).done(),
        Row::of::<ResourceClaimTemplates>().done(),
    ]
}

const REQUESTS_MAX: usize = 32;
const CONSTRAINTS_MAX: usize = 32;
const ALTERNATIVES_MAX: usize = 8;

/// How a ResourceClaim behaves.
#[derive(Debug, Default)]
pub(super) struct ResourceClaims;

impl Kind for ResourceClaims {
    type Object = ResourceClaim;

    fn default(claim: &mut ResourceClaim) {
        default_spec(claim.spec.get_or_insert_default());
        claim.status.get_or_insert_default();
    }

    fn prepare_create(claim: &mut ResourceClaim) {
        claim.status = Some(ResourceClaimStatus::default());
    }

    fn prepare_update(new: &mut ResourceClaim, old: &ResourceClaim, part: Part) {
        if part == Part::Status {
            new.spec = old.spec.clone();
            keep_metadata(&mut new.metadata, &old.metadata);
            allocation::drop_deallocated(new, old);
        } else {
            new.status = old.status.clone();
        }
    }

    fn validate_create(claim: &ResourceClaim) -> ErrorList {
        let mut errors = Errors::default();
        spec(&mut errors, claim.spec.as_ref(), &Path::new("spec"));
        errors.0
    }

    fn validate_update(new: &ResourceClaim, old: &ResourceClaim, part: Part) -> ErrorList {
        let mut errors = Errors::default();
        if part == Part::Status {
            let names = requests(new.spec.as_ref().and_then(|spec| spec.devices.as_ref()));
            allocation::status(&mut errors, new, old, &names);
        } else {
            // What was judged once stays as it is, so only a change of it can be wrong.
            errors.immutable(&Path::new("spec"), &new.spec, &old.spec);
        }
        errors.0
    }

    fn cells(claim: &ResourceClaim, now: Timestamp) -> Vec<Value> {
        vec![json!(name(&claim.metadata)), json!(state(claim)), json!(age(&claim.metadata, now))]
    }
}

/// How a ResourceClaimTemplate behaves.
#[derive(Debug, Default)]
pub(super) struct ResourceClaimTemplates;

impl Kind for ResourceClaimTemplates {
    type Object = ResourceClaimTemplate;

    fn default(template: &mut ResourceClaimTemplate) {
        let spec = template.spec.get_or_insert_default();
        spec.metadata.get_or_insert_default();
        default_spec(spec.spec.get_or_insert_default());
    }

    fn validate_create(template: &ResourceClaimTemplate) -> ErrorList {
        let mut errors = Errors::default();
        let (Some(spec), path) = (&template.spec, Path::new("spec")) else { return errors.0 };
        if let Some(meta) = &spec.metadata {
            let at = path.child("metadata");
            errors
                .extend(validate_annotations(meta.annotations.as_ref(), &at.child("annotations")));
            errors.extend(labels(meta.labels.as_ref(), &at.child("labels")));
        }
        self::spec(&mut errors, spec.spec.as_ref(), &path.child("spec"));
        errors.0
    }

    fn validate_update(
        new: &ResourceClaimTemplate,
        old: &ResourceClaimTemplate,
        _: Part,
    ) -> ErrorList {
        let mut errors = Errors::default();
        errors.immutable(&Path::new("spec"), &new.spec, &old.spec);
        errors.0
    }

    fn cells(template: &ResourceClaimTemplate, now: Timestamp) -> Vec<Value> {
        name_and_age(&template.metadata, now)
    }
}

/// The claim in a word or two, as the table shows it.
fn state(claim: &ResourceClaim) -> String {
    let none = ResourceClaimStatus::default();
    let status = claim.status.as_ref().unwrap_or(&none);
    let is_deleted = claim.metadata.deletion_timestamp.is_some();
    let mut words = Vec::new();
    if is_deleted {
        words.push("deleted");
    }
    match (&status.allocation, list(&status.reserved_for)) {
        (None, _) if !is_deleted => words.push("pending"),
        (None, _) => {}
        (Some(_), []) => words.push("allocated"),
        (Some(_), _) => words.extend(["allocated", "reserved"]),
    }
    words.join(",")
}

fn default_spec(spec: &mut ResourceClaimSpec) {
    let devices = spec.devices.get_or_insert_default();
    for request in devices.requests.iter_mut().flatten() {
        if let Some(exactly) = &mut request.exactly {
            default_count(&mut exactly.allocation_mode, &mut exactly.count);
            default_tolerations(&mut exactly.tolerations);
        }
        for alternative in request.first_available.iter_mut().flatten() {
            default_count(&mut alternative.allocation_mode, &mut alternative.count);
            default_tolerations(&mut alternative.tolerations);
        }
    }
}

fn default_count(mode: &mut Option<String>, count: &mut Option<i64>) {
    default_text(mode, "ExactCount");
    if text(mode) == "ExactCount" && count.unwrap_or(0) == 0 {
        *count = Some(1);
    }
}

fn default_tolerations(tolerations: &mut Option<Vec<DeviceToleration>>) {
    for toleration in tolerations.iter_mut().flatten() {
        default_text(&mut toleration.operator, "Equal");
    }
}

/// The names of a claim's requests, with those of their alternatives.
pub(super) type Requests<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

fn requests(devices: Option<&DeviceClaim>) -> Requests<'_> {
    let requests = devices.map_or(&[][..], |devices| list(&devices.requests));
    requests
        .iter()
        .map(|request| {
            let alternatives = list(&request.first_available).iter();
            (request.name.as_str(), alternatives.map(|sub| sub.name.as_str()).collect())
        })
        .collect()
}

/// A name of a request, or of a request and an alternative: `gpu`, `gpu/large`.
pub(super) fn request_ref(errors: &mut Errors, name: &str, known: &Requests<'_>, path: &Path) {
    let wrong = "must be the name of a request in the claim or the name of a request and a \
                 subrequest separated by '/'";
    let (request, alternative) = match name.split_once('/') {
        Some((_, alternative)) if alternative.contains('/') => {
            return errors.invalid(path, name, wrong);
        }
        Some((request, alternative)) => (request, Some(alternative)),
        None => (name, None),
    };
    for part in [Some(request), alternative].into_iter().flatten() {
        forms::label(errors, path, part);
    }
    let is_known = known
        .get(request)
        .is_some_and(|alternatives| alternative.is_none_or(|name| alternatives.contains(name)));
    if !is_known {
        errors.invalid(path, name, wrong);
    }
}

/// References to requests, each once.
pub(super) fn request_refs(
    errors: &mut Errors,
    refs: &[String],
    known: &Requests<'_>,
    path: &Path,
) {
    if forms::fits(errors, refs, REQUESTS_MAX, path) {
        for (i, name) in refs.iter().enumerate() {
            request_ref(errors, name, known, &path.index(i));
        }
        forms::unique(errors, refs.iter().map(String::as_str), path);
    }
}

fn spec(errors: &mut Errors, spec: Option<&ResourceClaimSpec>, path: &Path) {
    let path = path.child("devices");
    let Some(devices) = spec.and_then(|spec| spec.devices.as_ref()) else { return };
    let known = requests(Some(devices));
    let constraints = list(&devices.constraints);
    let (asked, at) = (list(&devices.requests), path.child("requests"));
    if forms::fits(errors, asked, REQUESTS_MAX, &at) {
        for (i, request) in asked.iter().enumerate() {
            self::request(errors, request, constraints, &at.index(i));
        }
        forms::unique(errors, asked.iter().map(|request| request.name.as_str()), &at);
    }
    let at = path.child("constraints");
    if forms::fits(errors, constraints, CONSTRAINTS_MAX, &at) {
        for (i, constraint) in constraints.iter().enumerate() {
            self::constraint(errors, constraint, &known, &at.index(i));
        }
    }
    let (config, at) = (list(&devices.config), path.child("config"));
    if forms::fits(errors, config, forms::CONFIG_MAX, &at) {
        for (i, config) in config.iter().enumerate() {
            let at = at.index(i);
            request_refs(errors, list(&config.requests), &known, &at.child("requests"));
            forms::configuration(errors, config.opaque.as_ref(), &at);
        }
    }
}

/// What a request and an alternative both say.
struct Wanted<'a> {
    class: &'a str,
    selectors: &'a [DeviceSelector],
    mode: &'a str,
    count: i64,
    tolerations: &'a [DeviceToleration],
    derived: &'a [DeviceDerivedAttribute],
    capacity: Option<&'a CapacityRequirements>,
}

impl<'a> From<&'a ExactDeviceRequest> for Wanted<'a> {
    fn from(request: &'a ExactDeviceRequest) -> Self {
        Self {
            class: &request.device_class_name,
            selectors: list(&request.selectors),
            mode: text(&request.allocation_mode),
            count: request.count.unwrap_or(0),
            tolerations: list(&request.tolerations),
            derived: list(&request.derived_attributes),
            capacity: request.capacity.as_ref(),
        }
    }
}

impl<'a> From<&'a DeviceSubRequest> for Wanted<'a> {
    fn from(request: &'a DeviceSubRequest) -> Self {
        Self {
            class: &request.device_class_name,
            selectors: list(&request.selectors),
            mode: text(&request.allocation_mode),
            count: request.count.unwrap_or(0),
            tolerations: list(&request.tolerations),
            derived: list(&request.derived_attributes),
            capacity: request.capacity.as_ref(),
        }
    }
}

fn request(
    errors: &mut Errors,
    request: &DeviceRequest,
    constraints: &[DeviceConstraint],
    path: &Path,
) {
    forms::label(errors, &path.child("name"), &request.name);
    let alternatives = list(&request.first_available);
    match (&request.exactly, alternatives) {
        (None, []) => {
            errors.required(path, "exactly one of `exactly` or `firstAvailable` is required");
        }
        (Some(_), [_, ..]) => errors.invalid(
            path,
            Value::Null,
            "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
        ),
        (Some(exactly), []) => {
            let at = path.child("exactly");
            wanted(errors, &exactly.into(), &request.name, constraints, &at);
        }
        (None, alternatives) => {
            let at = path.child("firstAvailable");
            if !forms::fits(errors, alternatives, ALTERNATIVES_MAX, &at) {
                return;
            }
            for (i, alternative) in alternatives.iter().enumerate() {
                let at = at.index(i);
                forms::label(errors, &at.child("name"), &alternative.name);
                let name = format!("{}/{}", request.name, alternative.name);
                wanted(errors, &alternative.into(), &name, constraints, &at);
            }
            forms::unique(errors, alternatives.iter().map(|sub| sub.name.as_str()), &at);
        }
    }
}

fn wanted(
    errors: &mut Errors,
    wanted: &Wanted<'_>,
    name: &str,
    constraints: &[DeviceConstraint],
    path: &Path,
) {
    let form = |name: &str| names::dns_subdomain(name, false);
    errors.required_form(&path.child("deviceClassName"), wanted.class, form);
    forms::selectors(errors, wanted.selectors, &path.child("selectors"));
    let at = path.child("derivedAttributes");
    for (i, attribute) in wanted.derived.iter().enumerate() {
        if !attribute.name.is_empty() && !is_constrained(&attribute.name, name, constraints) {
            errors.invalid(
                &at.index(i).child("name"),
                attribute.name.as_str(),
                "must be referenced by at least one matchAttribute or distinctAttribute \
                 constraint targeting this request",
            );
        }
        for (field, value) in [("name", &attribute.name), ("expression", &attribute.expression)] {
            if value.is_empty() {
                errors.required(&at.index(i).child(field), "");
            }
        }
    }
    forms::unique(errors, wanted.derived.iter().map(|attribute| attribute.name.as_str()), &at);
    let at = path.child("count");
    match wanted.mode {
        "All" if wanted.count != 0 => {
            let wrong = "must not be specified when allocationMode is 'All'";
            errors.invalid(&at, wanted.count, wrong);
        }
        "ExactCount" if wanted.count <= 0 => {
            errors.invalid(&at, wanted.count, "must be greater than zero");
        }
        "All" | "ExactCount" => {}
        other => errors.one_of(&path.child("allocationMode"), other, &["All", "ExactCount"]),
    }
    let capacity = wanted.capacity.and_then(|capacity| capacity.requests.as_ref());
    for (name, amount) in capacity.into_iter().flatten() {
        let at = path.child("capacity.requests").key(name);
        forms::qualified(errors, &at, name);
        errors.amount(&at, "storage", amount);
    }
    forms::tolerations(errors, wanted.tolerations, &path.child("tolerations"));
}

/// Whether a constraint on the request, or on all of them, is about the attribute.
fn is_constrained(attribute: &str, request: &str, constraints: &[DeviceConstraint]) -> bool {
    let parent = request.split('/').next().unwrap_or(request);
    constraints.iter().any(|constraint| {
        let about = constraint.match_attribute.as_ref().or(constraint.distinct_attribute.as_ref());
        let targets = list(&constraint.requests);
        about.is_some_and(|about| about == attribute)
            && (targets.is_empty() || targets.iter().any(|t| t == request || t == parent))
    })
}

fn constraint(
    errors: &mut Errors,
    constraint: &DeviceConstraint,
    known: &Requests<'_>,
    path: &Path,
) {
    request_refs(errors, list(&constraint.requests), known, &path.child("requests"));
    match (&constraint.match_attribute, &constraint.distinct_attribute) {
        (Some(name), _) => forms::fully_qualified(errors, &path.child("matchAttribute"), name),
        (None, Some(name)) => {
            forms::fully_qualified(errors, &path.child("distinctAttribute"), name);
        }
        (None, None) => errors.required(
            path,
            "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple \
             fields are set",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(devices: Value) -> ResourceClaim {
        let mut claim: ResourceClaim =
            serde_json::from_value(json!({ "spec": { "devices": devices } })).unwrap();
        <ResourceClaims as Kind>::default(&mut claim);
        claim
    }

    #[track_caller]
    fn check(devices: Value, wrong: &[&str]) {
        let errors = ResourceClaims::validate_create(&claim(devices));
        let paths: Vec<_> = errors.iter().map(|error| error.path.to_string()).collect();
        assert_eq!(paths, wrong);
    }

    #[test]
    fn a_request_is_exact_or_has_alternatives() {
        let exactly = json!({ "deviceClassName": "gpu" });
        check(json!({ "requests": [{ "name": "a", "exactly": exactly }] }), &[]);
        check(json!({ "requests": [{ "name": "a" }] }), &["spec.devices.requests[0]"]);
        let sub = json!({ "name": "s", "deviceClassName": "gpu" });
        check(json!({ "requests": [{ "name": "a", "firstAvailable": [sub] }] }), &[]);
        check(
            json!({ "requests": [{ "name": "a", "firstAvailable": [sub], "exactly": exactly }] }),
            &["spec.devices.requests[0]"],
        );
        check(
            json!({ "requests": [
                { "name": "a", "exactly": exactly },
                { "name": "a", "exactly": { "deviceClassName": "" } },
            ] }),
            &["spec.devices.requests[1].exactly.deviceClassName", "spec.devices.requests[1]"],
        );
    }

    #[test]
    fn constraints_name_requests_that_there_are() {
        let request = json!({
            "name": "a",
            "firstAvailable": [{ "name": "s", "deviceClassName": "gpu" }],
        });
        let with = |name: &str| {
            json!({
                "requests": [request],
                "constraints": [{ "requests": [name], "matchAttribute": "example.com/model" }],
            })
        };
        check(with("a"), &[]);
        check(with("a/s"), &[]);
        for name in ["b", "a/t", "a/s/t"] {
            check(with(name), &["spec.devices.constraints[0].requests[0]"]);
        }
    }

    #[test]
    fn exactly_one_device_is_wanted_unless_all_are() {
        let count = |mode: Value| {
            let exactly = json!({ "deviceClassName": "gpu", "allocationMode": mode });
            let claim = claim(json!({ "requests": [{ "name": "a", "exactly": exactly }] }));
            let requests = claim.spec.unwrap().devices.unwrap().requests.unwrap();
            requests[0].exactly.as_ref().unwrap().count
        };
        assert_eq!((count(Value::Null), count(json!("All"))), (Some(1), None));
    }
}
