//! CertificateSigningRequest v1beta1: usages and signer need not be said.

use serde_json::{Value, json};

use super::{Conversion, Rules, tree};
use crate::resources::certificate_signing_request::LEGACY_SIGNER;

/// v1beta1.
pub(super) const V1BETA1: Conversion = Conversion { read, write: |_| {} };

/// The signer of requests that name none is only known there.
pub(super) const V1BETA1_RULES: Rules = Rules {
    fields: &[],
    judge: None,
    judge_change: None,
    tolerates: |error| {
        error.path == "spec.signerName"
            && error.value.as_ref().is_some_and(|value| value == LEGACY_SIGNER)
    },
};

fn read(request: &mut Value, _: &mut Vec<String>) {
    if let Some(spec) = tree::object(request, &["spec"]) {
        tree::default(spec, "usages", json!(["digital signature", "key encipherment"]));
        tree::default(spec, "signerName", LEGACY_SIGNER);
    }
    let conditions = tree::object(request, &["status"]).and_then(|s| s.get_mut("conditions"));
    for (_, condition) in tree::items(conditions) {
        let Some(condition) = condition.as_object_mut() else { continue };
        if condition.get("status").is_some_and(|status| status == "") {
            condition.remove("status");
        }
        tree::default(condition, "status", "True");
    }
}
