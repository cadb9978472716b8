//! CertificateSigningRequest.

use k8s_openapi::{
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestStatus},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Fields, Kind, Part, Resource,
    check::{Errors, list, text},
    row::Row,
};
use crate::{
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
        match part {
            Part::Status => {
                let kept = conditions(old, |type_| APPROVAL.contains(&type_));
                let set = conditions(new, |type_| !APPROVAL.contains(&type_));
                let status = new.status.get_or_insert_default();
                status.conditions = some(kept.into_iter().chain(set).collect());
            }
            Part::Approval => {
                let kept = conditions(old, |type_| !APPROVAL.contains(&type_));
                let set = conditions(new, |type_| APPROVAL.contains(&type_));
                new.status = old.status.clone();
                let status = new.status.get_or_insert_default();
                status.conditions = some(kept.into_iter().chain(set).collect());
            }
            _ => new.status = old.status.clone(),
        }
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
        errors.extend(contradictions(request));
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

fn contradictions(request: &CertificateSigningRequest) -> ErrorList {
    let has = |type_: &str| !conditions(request, |other| other == type_).is_empty();
    if has("Approved") && has("Denied") {
        let wrong = "Approved and Denied conditions are mutually exclusive";
        let at = Path::new("status.conditions");
        return vec![FieldError::invalid(&at, json!(["Approved", "Denied"]), wrong)];
    }
    ErrorList::new()
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
