//! AdmissionReview: what a webhook is asked, and what its answer means.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::{AdmissionRequest, shown::Seen};
use crate::server::status::ApiError;

/// The group of reviews.
const GROUP: &str = "admission.k8s.io";

/// A version of AdmissionReview.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    /// Which asks the same, and whose answers are not held to their uid and kind.
    V1beta1,
}

impl Version {
    /// The version of this name, if it is known.
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "v1" => Some(Self::V1),
            "v1beta1" => Some(Self::V1beta1),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V1beta1 => "v1beta1",
        }
    }
}

/// The review that asks about a request.
pub(super) fn question(
    version: Version,
    uid: &str,
    request: &AdmissionRequest<'_>,
    seen: &Seen,
) -> Value {
    let mut asked = seen.facts(request);
    asked.insert("uid".to_owned(), uid.into());
    asked.insert("object".to_owned(), seen.object.clone());
    asked.insert("oldObject".to_owned(), seen.old.clone());
    json!({
        "kind": "AdmissionReview",
        "apiVersion": format!("{GROUP}/{}", version.as_str()),
        "request": asked,
    })
}

/// What a webhook says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Verdict {
    pub allowed: bool,
    /// Why not.
    pub status: Option<Status>,
    /// What it changes: a JSON patch (RFC 6902).
    pub patch: Option<Vec<u8>>,
    pub warnings: Vec<String>,
    pub annotations: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    response: Option<Response>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Response {
    uid: String,
    allowed: bool,
    status: Option<Status>,
    patch: Option<String>,
    patch_type: Option<String>,
    warnings: Option<Vec<String>>,
    audit_annotations: Option<BTreeMap<String, String>>,
}

/// Why an answer does not count.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// It is no review.
    Undecodable(String),
    /// It is one, but not an answer to what was asked.
    Invalid(String),
    /// Its patch is none.
    Patch(String),
}

/// What an answer means (kube-apiserver's `VerifyAdmissionResponse`).
pub(super) fn verdict(
    version: Version,
    uid: &str,
    mutating: bool,
    answer: &[u8],
) -> Result<Verdict, Unusable> {
    let review: Review = serde_json::from_slice(answer).map_err(|error| {
        Unusable::Undecodable(format!("couldn't get version/kind; json parse error: {error}"))
    })?;
    let invalid = |why: String| Err(Unusable::Invalid(why));
    let Some(response) = review.response else {
        return invalid("webhook response was absent".to_owned());
    };
    let patch = response.patch.filter(|patch| !patch.is_empty());
    if version == Version::V1 {
        if response.uid != uid {
            return invalid(format!("expected response.uid={uid:?}, got {:?}", response.uid));
        }
        let expected = format!("{GROUP}/v1");
        if (review.api_version.as_str(), review.kind.as_str()) != (&expected, "AdmissionReview") {
            let found = match review.api_version.contains('/') {
                true => review.api_version,
                false => format!("/{}", review.api_version),
            };
            return invalid(format!(
                "expected webhook response of {expected}, Kind=AdmissionReview, got {found}, \
                 Kind={}",
                review.kind
            ));
        }
        check_patch(mutating, patch.is_some(), response.patch_type.as_deref())?;
    }
    let patch = patch.filter(|_| mutating).map(|patch| decode_patch(&patch)).transpose()?;
    Ok(Verdict {
        allowed: response.allowed,
        status: response.status,
        patch: patch.flatten(),
        warnings: response.warnings.unwrap_or_default(),
        annotations: response.audit_annotations.unwrap_or_default(),
    })
}

fn check_patch(mutating: bool, has_patch: bool, kind: Option<&str>) -> Result<(), Unusable> {
    let why = match (mutating, has_patch, kind) {
        (true, true, None) => "webhook returned response.patch but not response.patchType",
        (true, false, Some(_)) => "webhook returned response.patchType but not response.patch",
        (true, true, Some("")) => "webhook returned invalid response.patchType of \"\"",
        (true, true, Some(kind)) if kind != "JSONPatch" => {
            return Err(Unusable::Patch(format!("unsupported patch type {kind:?}")));
        }
        (false, true, _) => "validating webhook may not return response.patch",
        (false, false, Some(_)) => "validating webhook may not return response.patchType",
        _ => return Ok(()),
    };
    Err(Unusable::Invalid(why.to_owned()))
}

/// The patch in an answer; `None` when it changes nothing.
fn decode_patch(patch: &str) -> Result<Option<Vec<u8>>, Unusable> {
    let undecodable = |why: String| {
        Unusable::Patch(format!("received undecodable patch in webhook response: {why}"))
    };
    let patch = STANDARD.decode(patch).map_err(|error| undecodable(error.to_string()))?;
    let operations: Vec<Value> =
        serde_json::from_slice(&patch).map_err(|error| undecodable(error.to_string()))?;
    Ok((!operations.is_empty()).then_some(patch))
}

impl Verdict {
    /// The failure that tells the client of a refusal.
    pub(super) fn refusal(&self, webhook: &str) -> ApiError {
        let denied = format!("admission webhook {webhook:?} denied the request");
        let status = self.status.clone().unwrap_or_default();
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let reason = given(status.reason);
        let message = match (given(status.message), &reason) {
            (Some(message), _) => format!("{denied}: {message}"),
            (None, Some(reason)) => format!("{denied}: {reason}"),
            (None, None) => format!("{denied} without explanation"),
        };
        let code = status.code.and_then(|code| u16::try_from(code).ok());
        let code = code.filter(|code| (400..600).contains(code)).unwrap_or(400);
        let mut error = ApiError::new(code, reason.unwrap_or_default(), message);
        error.details = status.details.map(Box::new);
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(response: Value) -> Vec<u8> {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "response": response,
        });
        serde_json::to_vec(&review).unwrap()
    }

    #[track_caller]
    fn refused(mutating: bool, answer: &[u8], expected: &str) {
        match verdict(Version::V1, "u", mutating, answer).unwrap_err() {
            Unusable::Undecodable(why) | Unusable::Invalid(why) | Unusable::Patch(why) => {
                assert_eq!(why, expected);
            }
        }
    }

    #[test]
    fn an_answer_must_be_one_to_the_question() {
        let patch = STANDARD.encode("[]");
        refused(true, b"{}", "webhook response was absent");
        refused(true, &answer(json!({ "uid": "v" })), "expected response.uid=\"u\", got \"v\"");
        refused(
            true,
            br#"{"response":{"uid":"u"}}"#,
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /, Kind=",
        );
        refused(
            true,
            &answer(json!({ "uid": "u", "patch": patch })),
            "webhook returned response.patch but not response.patchType",
        );
        refused(
            true,
            &answer(json!({ "uid": "u", "patchType": "JSONPatch" })),
            "webhook returned response.patchType but not response.patch",
        );
        refused(
            false,
            &answer(json!({ "uid": "u", "patch": patch, "patchType": "JSONPatch" })),
            "validating webhook may not return response.patch",
        );
        refused(
            true,
            &answer(json!({ "uid": "u", "patch": patch, "patchType": "Merge" })),
            "unsupported patch type \"Merge\"",
        );
    }

    #[test]
    fn an_old_answer_is_taken_as_it_is() {
        let patch = r#"[{"op":"remove","path":"/a"}]"#;
        let old = json!({ "response": { "allowed": true, "patch": STANDARD.encode(patch) } });
        let old = serde_json::to_vec(&old).unwrap();
        let found = verdict(Version::V1beta1, "u", true, &old).unwrap();
        assert!(found.allowed);
        assert_eq!(found.patch.as_deref(), Some(patch.as_bytes()));
        assert_eq!(verdict(Version::V1beta1, "u", false, &old).unwrap().patch, None);
    }

    #[test]
    fn a_refusal_says_what_the_webhook_said() {
        #[track_caller]
        fn check(status: Value, code: u16, reason: &str, message: &str) {
            let status = serde_json::from_value(status).unwrap();
            let error = Verdict { status, ..Verdict::default() }.refusal("w.x.y");
            assert_eq!((error.code, &*error.reason), (code, reason));
            assert_eq!(
                error.message,
                format!("admission webhook \"w.x.y\" denied the request{message}")
            );
        }
        check(Value::Null, 400, "", " without explanation");
        check(json!({ "code": 200 }), 400, "", " without explanation");
        check(json!({ "reason": "Nope" }), 400, "Nope", ": Nope");
        check(json!({ "code": 402, "reason": "Nope", "message": "no" }), 402, "Nope", ": no");
    }
}
