//! CertificateSigningRequest.

use std::collections::BTreeSet;

use base64::{Engine, prelude::BASE64_STANDARD};
use k8s_openapi::{
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestStatus},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Fields, Kind, Part, Resource,
    check::{Errors, list, list_mut, text},
    row::Row,
};
use crate::{
    clock,
    field::{ErrorList, FieldError, Path},
    meta::{
        names,
        table::{NONE, age, human_duration, name},
    },
};

/// The row of CertificateSigningRequest.
pub(super) fn row() -> Resource {
    Row::of::<CertificateSigningRequests>()
        .short(&["csr"])
        .sub("approval", "CertificateSigningRequest", &["get", "patch", "update"])
        .status()
        .columns(COLUMNS)
        .done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::AGE,
    Column::new("SignerName", "string", "Who is to sign it."),
    Column::new("Requestor", "string", "Who asked for it."),
    Column::new("RequestedDuration", "string", "How long the certificate is to be valid."),
    Column::new("Condition", "string", "Whether it is approved, and whether signed."),
];

const PEM_BEGIN: &str = "-----BEGIN CERTIFICATE REQUEST-----";
const PEM_END: &str = "-----END CERTIFICATE REQUEST-----";
/// The signer of v1beta1 requests that name none.
pub(super) const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
/// Conditions that only the `approval` subresource sets.
const APPROVAL: &[&str] = &["Approved", "Denied"];

/// Conditions that are true, and stay.
const TERMINAL: &[&str] = &["Approved", "Denied", "Failed"];

/// How a CertificateSigningRequest behaves.
#[derive(Debug, Default)]
pub(super) struct CertificateSigningRequests;

impl Kind for CertificateSigningRequests {
    type Object = CertificateSigningRequest;

    fn default(request: &mut CertificateSigningRequest) {
        let status = request.status.get_or_insert_default();
        for condition in status.conditions.iter_mut().flatten() {
            if condition.status.is_empty() {
                condition.status = "True".to_owned();
            }
        }
    }

    fn prepare_create(request: &mut CertificateSigningRequest) {
        request.status = Some(CertificateSigningRequestStatus::default());
    }

    fn prepare_update(
        new: &mut CertificateSigningRequest,
        old: &CertificateSigningRequest,
        part: Part,
    ) {
        // The request is what was judged: it never changes.
        new.spec = old.spec.clone();
        if !matches!(part, Part::Status | Part::Approval) {
            new.status = old.status.clone();
            return;
        }
        // An approval may set any condition; a status leaves those of the approval as they are.
        let mut set = conditions(new, |_| true);
        if part == Part::Approval {
            new.status = old.status.clone();
        } else {
            let mut kept = conditions(old, |type_| APPROVAL.contains(&type_));
            set.retain_mut(|condition| {
                let is_it = |kept: &Condition| kept.type_ == condition.type_;
                match kept.iter().position(is_it) {
                    Some(at) => *condition = kept.remove(at),
                    None if APPROVAL.contains(&condition.type_.as_str()) => return false,
                    None => {}
                }
                true
            });
            set.splice(0..0, kept);
        }
        let status = new.status.get_or_insert_default();
        status.conditions = some(set);
        stamp(list_mut(&mut status.conditions), &conditions(old, |_| true));
    }

    fn validate(request: &CertificateSigningRequest) -> ErrorList {
        let (spec, path) = (&request.spec, Path::new("spec"));
        let mut errors = Errors::default();
        let pem = String::from_utf8_lossy(&spec.request.0);
        if !pem.contains(PEM_BEGIN) || !pem.contains(PEM_END) {
            errors.invalid(
                &path.child("request"),
                json!(spec.request),
                "PEM block type must be CERTIFICATE REQUEST",
            );
        }
        if list(&spec.usages).is_empty() {
            errors.required(&path.child("usages"), "usages must be provided");
        }
        let at = path.child("signerName");
        match spec.signer_name.split_once('/') {
            _ if spec.signer_name.is_empty() => {
                errors.required(&at, "signerName must be provided");
            }
            Some((domain, rest))
                if names::dns_subdomain(domain, false).is_empty()
                    && names::dns_subdomain(rest, false).is_empty() => {}
            _ => errors.invalid(
                &at,
                spec.signer_name.as_str(),
                "must be a fully qualified domain and path of the form 'example.com/signer-name'",
            ),
        }
        if let Some(seconds) = spec.expiration_seconds.filter(|seconds| *seconds < 600) {
            errors.invalid(
                &path.child("expirationSeconds"),
                seconds,
                "may not specify a duration less than 600 seconds (10 minutes)",
            );
        }
        self::status(&mut errors, request, &Path::new("status"));
        errors.0
    }

    fn validate_update(
        new: &CertificateSigningRequest,
        old: &CertificateSigningRequest,
        part: Part,
    ) -> ErrorList {
        let mut errors = Errors::default();
        if part == Part::Status {
            errors.extend(Self::validate(new));
        }
        for type_ in TERMINAL {
            let count = |request| conditions(request, |other| other == *type_).len();
            if count(new) < count(old) {
                let wrong = format!("updates may not remove a condition of type {type_:?}");
                errors.forbidden(&Path::new("status.conditions"), &wrong);
            }
        }
        let certificate = |request: &CertificateSigningRequest| {
            let certificate = request.status.as_ref().and_then(|all| all.certificate.clone());
            certificate.filter(|certificate| !certificate.0.is_empty())
        };
        let issued = certificate(old);
        if issued.is_some() && certificate(new) != issued {
            let wrong = "updates may not modify existing certificate content";
            errors.forbidden(&Path::new("status.certificate"), wrong);
        }
        errors.0
    }

    fn validate_create(request: &CertificateSigningRequest) -> ErrorList {
        let mut errors = Errors::default();
        let signer = &request.spec.signer_name;
        if signer == LEGACY_SIGNER {
            let wrong = "the legacy signerName is not allowed via this API version";
            errors.invalid(&Path::new("spec.signerName"), signer.as_str(), wrong);
        }
        errors.0
    }

    fn validate_name(name: &str, generate_prefix: bool) -> Vec<String> {
        names::path_segment(name, generate_prefix)
    }

    fn fields(request: &CertificateSigningRequest) -> Fields {
        Fields::from_iter([("spec.signerName", request.spec.signer_name.clone())])
    }

    const FIELDS: &'static [&'static str] = &["spec.signerName"];

    fn cells(request: &CertificateSigningRequest, now: Timestamp) -> Vec<Value> {
        let spec = &request.spec;
        let asked = spec.expiration_seconds.map(|seconds| human_duration(i64::from(seconds)));
        vec![
            json!(name(&request.metadata)),
            json!(age(&request.metadata, now)),
            json!(spec.signer_name),
            json!(text(&spec.username)),
            json!(asked.unwrap_or_else(|| NONE.to_owned())),
            json!(summary(request)),
        ]
    }
}

type Condition = k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition;

fn conditions(
    request: &CertificateSigningRequest,
    wanted: impl Fn(&str) -> bool,
) -> Vec<Condition> {
    let all = request.status.as_ref().map_or(&[][..], |status| list(&status.conditions));
    all.iter().filter(|condition| wanted(&condition.type_)).cloned().collect()
}

fn some(conditions: Vec<Condition>) -> Option<Vec<Condition>> {
    Some(conditions).filter(|conditions| !conditions.is_empty())
}

/// Says when conditions were set, where nobody did: those that stayed as they were, when they were.
fn stamp(conditions: &mut [Condition], old: &[Condition]) {
    for condition in conditions {
        condition.last_update_time.get_or_insert_with(clock::now_seconds);
        let before = old.iter().find(|old| {
            old.type_ == condition.type_
                && old.status == condition.status
                && old.last_transition_time.is_some()
        });
        condition.last_transition_time.get_or_insert_with(|| {
            let before = before.and_then(|old| old.last_transition_time.clone());
            before.unwrap_or_else(clock::now_seconds)
        });
    }
}

fn status(errors: &mut Errors, request: &CertificateSigningRequest, path: &Path) {
    let Some(status) = &request.status else { return };
    let at = path.child("conditions");
    let mut seen = BTreeSet::new();
    for (i, condition) in list(&status.conditions).iter().enumerate() {
        let (at, type_) = (at.index(i), condition.type_.as_str());
        if type_.is_empty() {
            errors.required(&at.child("type"), "");
        }
        let supported: &[&str] =
            if TERMINAL.contains(&type_) { &["True"] } else { &["False", "True", "Unknown"] };
        errors.required_one_of(&at.child("status"), &condition.status, supported);
        if !seen.insert(type_) {
            errors.push(FieldError::duplicate(&at.child("type"), type_));
        }
    }
    if APPROVAL.iter().all(|type_| seen.contains(type_)) {
        let wrong = "Approved and Denied conditions are mutually exclusive";
        errors.invalid(&at, json!(APPROVAL), wrong);
    }
    let certificate = status.certificate.as_ref().filter(|pem| !pem.0.is_empty());
    if let Some(Err(wrong)) = certificate.map(|pem| certificates(&pem.0)) {
        errors.invalid(&path.child("certificate"), "<certificate data>", wrong);
    }
}

/// Whether this is a chain of certificates in PEM (RFC 7468), and what is wrong if not. What the
/// blocks hold is for those to judge who use them.
fn certificates(pem: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(pem);
    let (mut rest, mut blocks) = (text.as_ref(), 0);
    while let Some((_, begun)) = rest.split_once("-----BEGIN ") {
        let Some((label, body)) = begun.split_once("-----") else { break };
        let Some((body, after)) = body.split_once(&format!("-----END {label}-----")) else { break };
        if label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {label:?}"));
        }
        if body.contains(':') {
            return Err("no PEM block headers are permitted".to_owned());
        }
        let body: String = body.split_whitespace().collect();
        match BASE64_STANDARD.decode(body) {
            Ok(der) if !der.is_empty() => {}
            _ => {
                let wrong = "found CERTIFICATE PEM block containing 0 certificates";
                return Err(wrong.to_owned());
            }
        }
        blocks += 1;
        rest = after;
    }
    if blocks == 0 {
        return Err("must contain at least one CERTIFICATE PEM block".to_owned());
    }
    Ok(())
}

fn summary(request: &CertificateSigningRequest) -> String {
    let has = |type_: &str| !conditions(request, |other| other == type_).is_empty();
    let mut summary = match () {
        () if has("Denied") => "Denied",
        () if has("Approved") => "Approved",
        () => "Pending",
    }
    .to_owned();
    if has("Failed") {
        summary.push_str(",Failed");
    }
    let certificate = request.status.as_ref().and_then(|status| status.certificate.as_ref());
    if certificate.is_some_and(|certificate| !certificate.0.is_empty()) {
        summary.push_str(",Issued");
    }
    summary
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_pem_and_nothing_else() {
        let block = |label: &str, body: &str| {
            format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
        };
        let check = |pem: &str| certificates(pem.as_bytes()).err().unwrap_or_default();
        assert_eq!(check(&block("CERTIFICATE", "AAAA").repeat(2)), "");
        assert_eq!(check("x"), "must contain at least one CERTIFICATE PEM block");
        assert_eq!(
            check(&block("PRIVATE KEY", "AAAA")),
            "only CERTIFICATE PEM blocks are allowed, found \"PRIVATE KEY\""
        );
        assert_eq!(
            check(&block("CERTIFICATE", "a: b\n\nAAAA")),
            "no PEM block headers are permitted"
        );
        assert_eq!(
            check(&block("CERTIFICATE", "")),
            "found CERTIFICATE PEM block containing 0 certificates"
        );
    }

    fn request(conditions: Value) -> CertificateSigningRequest {
        serde_json::from_value(json!({
            "metadata": {"name": "r"},
            "spec": {"request": "", "signerName": "example.com/s"},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    #[test]
    fn a_status_leaves_the_approval_alone() {
        let old = request(json!([{"type": "Approved", "status": "True"}]));
        let other = json!({"type": "Other", "status": "True"});
        let mut new = request(json!([other, {"type": "Denied", "status": "True"}]));
        CertificateSigningRequests::prepare_update(&mut new, &old, Part::Status);
        let found = conditions(&new, |_| true);
        let types: Vec<_> = found.iter().map(|condition| condition.type_.as_str()).collect();
        assert_eq!(types, ["Approved", "Other"]);
    }

    #[test]
    fn an_approval_is_dated_and_final() {
        let old = request(json!([]));
        let approved = json!({"type": "Approved", "status": "True"});
        let mut new = request(json!([approved, {"type": "Failed", "status": "True"}]));
        CertificateSigningRequests::prepare_update(&mut new, &old, Part::Approval);
        let conditions = new.status.clone().unwrap().conditions.unwrap();
        assert_eq!(conditions.len(), 2);
        assert!(conditions[0].last_update_time.is_some());
        assert!(conditions[0].last_transition_time.is_some());

        let mut denied = request(json!([{"type": "Denied", "status": "True"}]));
        CertificateSigningRequests::prepare_update(&mut denied, &new, Part::Approval);
        let errors = CertificateSigningRequests::validate_update(&denied, &new, Part::Approval);
        let details: Vec<_> = errors.iter().map(|error| error.detail.as_str()).collect();
        let removed = |type_: &str| format!("updates may not remove a condition of type {type_:?}");
        assert_eq!(details, [removed("Approved"), removed("Failed")]);
    }

    #[test]
    fn an_approval_cannot_be_false() {
        let mut errors = Errors::default();
        let request = request(json!([{"type": "Approved", "status": "False"}]));
        status(&mut errors, &request, &Path::new("status"));
        assert_eq!(errors.0[0].path.to_string(), "status.conditions[0].status");
    }
}
