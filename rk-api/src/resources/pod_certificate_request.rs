//! PodCertificateRequest: a node asks for a certificate that a Pod is to have (KEP-4317).
//!
//! What is inside the certificates is looked at by admission (`server/admission/pod_certificates.rs`),
//! which has an X.509 parser.

use k8s_openapi::{
    api::certificates::v1::{PodCertificateRequest, PodCertificateRequestStatus},
    apimachinery::pkg::apis::meta::v1::Condition,
    jiff::{SignedDuration, Timestamp},
};
use serde_json::{Value, json};

use super::{
    Column, Fields, Kind, Part, Resource,
    check::{Errors, list},
    row::Row,
};
use crate::{
    clock,
    field::{ErrorList, FieldError, Path},
    meta::{
        names,
        table::{age, name},
    },
};

/// The row of PodCertificateRequest.
pub(super) fn row() -> Resource {
    Row::of::<PodCertificateRequests>().short(&["pcr"]).status().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("PodName", "string", "The Pod that is to have the certificate."),
    Column::new("ServiceAccountName", "string", "The account that the Pod runs as."),
    Column::new("NodeName", "string", "The node that the Pod is on."),
    Column::new("SignerName", "string", "Who is to sign it."),
    Column::new("State", "string", "Whether it is issued."),
    Column::AGE,
];

/// The lifetime of certificates whose request does not say, in seconds.
const LIFETIME: i32 = 24 * 60 * 60;
/// What lifetimes a request may ask for, in seconds: of Kubernetes' own signers, and of others.
const LIFETIME_MIN: i32 = 60 * 60;
const LIFETIME_MAX_OWN: i32 = LIFETIME;
const LIFETIME_MAX: i32 = 91 * 24 * 60 * 60;

/// The longest of each, in bytes.
const UID_MAX: usize = 128;
const REQUEST_MAX: usize = 10 * 1024;
const ANNOTATIONS_MAX: usize = 256 * 1024;
const CHAIN_MAX: usize = 100 * 1024;

/// How far `notBefore` may be from now, and `beginRefreshAt` must be from both ends.
const NEAR: SignedDuration = SignedDuration::from_mins(5);
const MARGIN: SignedDuration = SignedDuration::from_mins(10);

/// How a request can end: with one of these conditions, after which nothing changes.
const ENDS: &[&str] = &["Issued", "Denied", "Failed"];

/// How a PodCertificateRequest behaves.
#[derive(Debug, Default)]
pub(super) struct PodCertificateRequests;

impl Kind for PodCertificateRequests {
    type Object = PodCertificateRequest;

    fn default(request: &mut PodCertificateRequest) {
        request.spec.max_expiration_seconds.get_or_insert(LIFETIME);
    }

    fn prepare_create(request: &mut PodCertificateRequest) {
        request.status = None;
    }

    fn prepare_update(new: &mut PodCertificateRequest, old: &PodCertificateRequest, part: Part) {
        if part == Part::Status {
            new.spec = old.spec.clone();
        } else {
            new.status = old.status.clone();
        }
    }

    fn validate_create(request: &PodCertificateRequest) -> ErrorList {
        let (spec, path) = (&request.spec, Path::new("spec"));
        let mut errors = Errors::default();
        let signer = spec.signer_name.as_str();
        let at = path.child("signerName");
        errors.required_form(&at, signer, names::domain_prefixed_path);
        let annotations = spec.unverified_user_annotations.iter().flatten();
        let at = path.child("unverifiedUserAnnotations");
        let mut size = 0;
        for (key, value) in annotations {
            size += key.len() + value.len();
            errors.form(&at.key(key), key.as_str(), names::domain_prefixed_path(key));
        }
        if size > ANNOTATIONS_MAX {
            errors.push(FieldError::too_long(&at, ANNOTATIONS_MAX));
        }
        for (field, value) in [
            ("podName", &spec.pod_name),
            ("serviceAccountName", &spec.service_account_name),
            ("nodeName", &spec.node_name),
        ] {
            let wrong = names::dns_subdomain(value, false);
            errors.form(&path.child(field), value.as_str(), wrong);
        }
        for (field, value) in [
            ("podUID", &spec.pod_uid),
            ("serviceAccountUID", &spec.service_account_uid),
            ("nodeUID", &spec.node_uid),
        ] {
            if value.is_empty() {
                errors.invalid(&path.child(field), "", "must not be empty");
            } else if value.len() > UID_MAX {
                errors.push(FieldError::too_long(&path.child(field), UID_MAX));
            }
        }
        let seconds = spec.max_expiration_seconds.unwrap_or(LIFETIME);
        let own = signer.starts_with("kubernetes.io/") || signer.contains(".kubernetes.io/");
        let longest = if own { LIFETIME_MAX_OWN } else { LIFETIME_MAX };
        if !(LIFETIME_MIN..=longest).contains(&seconds) {
            let wrong = format!("must be in the range [{LIFETIME_MIN}, {longest}]");
            errors.invalid(&path.child("maxExpirationSeconds"), seconds, wrong);
        }
        let at = path.child("stubPKCS10Request");
        if spec.stub_pkc_s10_request.0.is_empty() {
            errors.required(&at, "must be set");
        } else if spec.stub_pkc_s10_request.0.len() > REQUEST_MAX {
            errors.push(FieldError::too_long(&at, REQUEST_MAX));
        }
        errors.0
    }

    fn validate_update(
        new: &PodCertificateRequest,
        old: &PodCertificateRequest,
        part: Part,
    ) -> ErrorList {
        let mut errors = Errors::default();
        if part == Part::Status {
            status(&mut errors, new, old);
        } else {
            errors.immutable(&Path::new("spec"), &new.spec, &old.spec);
        }
        errors.0
    }

    fn fields(request: &PodCertificateRequest) -> Fields {
        Fields::from_iter([
            ("spec.signerName", request.spec.signer_name.clone()),
            ("spec.podName", request.spec.pod_name.clone()),
            ("spec.nodeName", request.spec.node_name.clone()),
        ])
    }

    const FIELDS: &'static [&'static str] = &["spec.signerName", "spec.podName", "spec.nodeName"];

    fn cells(request: &PodCertificateRequest, now: Timestamp) -> Vec<Value> {
        let spec = &request.spec;
        vec![
            json!(name(&request.metadata)),
            json!(spec.pod_name),
            json!(spec.service_account_name),
            json!(spec.node_name),
            json!(spec.signer_name),
            json!(end(request).unwrap_or("Pending")),
            json!(age(&request.metadata, now)),
        ]
    }
}

fn conditions(request: &PodCertificateRequest) -> &[Condition] {
    request.status.as_ref().map_or(&[], |status| list(&status.conditions))
}

/// How the request has ended.
fn end(request: &PodCertificateRequest) -> Option<&str> {
    let mut ends = conditions(request).iter().map(|condition| condition.type_.as_str());
    ends.find(|type_| ENDS.contains(type_))
}

fn status(errors: &mut Errors, new: &PodCertificateRequest, old: &PodCertificateRequest) {
    let path = Path::new("status");
    conditions_are_ends(errors, conditions(new), &path.child("conditions"));
    if !errors.0.is_empty() {
        return;
    }
    let empty = PodCertificateRequestStatus::default();
    let (now, before) = (new.status.as_ref(), old.status.as_ref());
    let now = now.unwrap_or(&empty);
    if end(old).is_some() {
        if now != before.unwrap_or(&empty) {
            let wrong = "immutable after PodCertificateRequest is issued, denied, or failed";
            errors.invalid(&path, json!(now), wrong);
        }
        return;
    }
    let only_conditions =
        PodCertificateRequestStatus { conditions: now.conditions.clone(), ..empty.clone() };
    match end(new) {
        Some("Issued") => issued(errors, now, &path),
        Some(_) if *now != only_conditions => errors.invalid(
            &path,
            json!(now),
            "non-condition status fields must be empty when denying or failing the \
             PodCertificateRequest",
        ),
        None if *now != only_conditions => errors.invalid(
            &path,
            json!(now),
            "non-condition status fields must be empty when the PodCertificateRequest is not \
             issued",
        ),
        _ => {}
    }
}

/// There is at most one condition, it is an end, and it is true.
fn conditions_are_ends(errors: &mut Errors, conditions: &[Condition], path: &Path) {
    for (i, condition) in conditions.iter().enumerate() {
        let at = path.index(i);
        let type_ = condition.type_.as_str();
        errors.one_of(&at.child("type"), type_, ENDS);
        if i > 0 && ENDS.contains(&type_) {
            let wrong = "There may be at most one condition with type \"Issued\", \"Denied\", or \
                         \"Failed\"";
            errors.invalid(&at.child("type"), type_, wrong);
        }
        errors.one_of(&at.child("status"), &condition.status, &["True"]);
        if condition.reason.is_empty() {
            errors.required(&at.child("reason"), "must be set");
        }
    }
}

/// The times of an issued certificate are there and in order. That they are the certificate's own
/// is for admission to see.
fn issued(errors: &mut Errors, status: &PodCertificateRequestStatus, path: &Path) {
    let chain = status.certificate_chain.as_deref().unwrap_or_default();
    if chain.len() > CHAIN_MAX {
        errors.push(FieldError::too_long(&path.child("certificateChain"), CHAIN_MAX));
        return;
    }
    let consistent = "must be present and consistent with the issued certificate";
    let time = |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
        time.as_ref().map(|time| time.0)
    };
    let (from, refresh, until) =
        (time(&status.not_before), time(&status.begin_refresh_at), time(&status.not_after));
    let (Some(from), Some(refresh), Some(until)) = (from, refresh, until) else {
        for (field, missing, wrong) in [
            ("notBefore", from.is_none(), consistent),
            ("notAfter", until.is_none(), consistent),
            (
                "beginRefreshAt",
                refresh.is_none(),
                "must be present and in the range [notbefore+10min, notafter-10min]",
            ),
        ] {
            if missing {
                errors.required(&path.child(field), wrong);
            }
        }
        return;
    };
    if from.duration_since(clock::now()).abs() > NEAR {
        let wrong = "must be set to within 5 minutes of kube-apiserver's current time";
        errors.invalid(&path.child("notBefore"), from.to_string(), wrong);
    }
    let at = path.child("beginRefreshAt");
    if refresh.duration_since(from) < MARGIN {
        let wrong = "must be at least 10 minutes after status.notBefore";
        errors.invalid(&at, refresh.to_string(), wrong);
    } else if until.duration_since(refresh) < MARGIN {
        let wrong = "must be at least 10 minutes before status.notAfter";
        errors.invalid(&at, refresh.to_string(), wrong);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(spec: Value, status: Value) -> PodCertificateRequest {
        let mut all = json!({
            "signerName": "example.com/signer",
            "podName": "web-0", "podUID": "1",
            "serviceAccountName": "default", "serviceAccountUID": "2",
            "nodeName": "n1", "nodeUID": "3",
            "stubPKCS10Request": "MAA=",
        });
        for (field, value) in spec.as_object().unwrap() {
            all[field] = value.clone();
        }
        let mut request = serde_json::from_value(json!({ "spec": all, "status": status })).unwrap();
        <PodCertificateRequests as Kind>::default(&mut request);
        request
    }

    #[track_caller]
    fn create(spec: Value, wrong: &[&str]) {
        let errors = PodCertificateRequests::validate_create(&request(spec, json!({})));
        let fields: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(fields, wrong, "{errors:?}");
    }

    #[test]
    fn a_request_says_whose_certificate_it_is_and_for_how_long() {
        create(json!({}), &[]);
        create(json!({"signerName": ""}), &["spec.signerName"]);
        create(json!({"signerName": "nobody"}), &["spec.signerName"]);
        create(json!({"podName": "A"}), &["spec.podName"]);
        create(json!({"nodeUID": ""}), &["spec.nodeUID"]);
        create(json!({"podUID": "x".repeat(129)}), &["spec.podUID"]);
        create(json!({"stubPKCS10Request": ""}), &["spec.stubPKCS10Request"]);
        create(json!({"maxExpirationSeconds": 3599}), &["spec.maxExpirationSeconds"]);
        create(json!({"maxExpirationSeconds": 7_862_400}), &[]);
        create(
            json!({"signerName": "kubernetes.io/x", "maxExpirationSeconds": 86401}),
            &["spec.maxExpirationSeconds"],
        );
        create(
            json!({"unverifiedUserAnnotations": {"plain": ""}}),
            &["spec.unverifiedUserAnnotations[plain]"],
        );
    }

    #[track_caller]
    fn change(old: Value, new: Value, wrong: &[&str]) {
        let (old, new) = (request(json!({}), old), request(json!({}), new));
        let errors = PodCertificateRequests::validate_update(&new, &old, Part::Status);
        let fields: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(fields, wrong, "{errors:?}");
    }

    #[test]
    fn a_request_ends_once() {
        let now = clock::now();
        let at = |minutes: i64| (now + SignedDuration::from_mins(minutes)).to_string();
        let end = |type_: &str| {
            json!([{"type": type_, "status": "True", "reason": "R", "message": "",
                    "lastTransitionTime": at(0)}])
        };
        let issued = json!({
            "conditions": end("Issued"), "certificateChain": "PEM",
            "notBefore": at(0), "beginRefreshAt": at(60), "notAfter": at(120),
        });
        let denied = json!({"conditions": end("Denied")});
        change(json!({}), issued.clone(), &[]);
        change(json!({}), denied.clone(), &[]);
        change(denied.clone(), denied.clone(), &[]);
        change(denied.clone(), issued.clone(), &["status"]);
        change(issued.clone(), json!({}), &["status"]);
        change(json!({}), json!({"certificateChain": "PEM"}), &["status"]);
        change(
            json!({}),
            json!({"conditions": end("Issued")}),
            &["status.notBefore", "status.notAfter", "status.beginRefreshAt"],
        );
        let mut late = issued.clone();
        late["beginRefreshAt"] = json!(at(115));
        change(json!({}), late, &["status.beginRefreshAt"]);
        let mut old = issued;
        old["notBefore"] = json!(at(-6));
        change(json!({}), old, &["status.notBefore"]);
        change(json!({}), json!({"conditions": end("Ready")}), &["status.conditions[0].type"]);
    }
}
