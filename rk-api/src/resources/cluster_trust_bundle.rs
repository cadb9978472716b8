//! ClusterTrustBundle: certificates that Pods can be told to trust.

use std::collections::BTreeSet;

use base64::{Engine, prelude::BASE64_STANDARD};
use k8s_openapi::{api::certificates::v1::ClusterTrustBundle, jiff::Timestamp};
use serde_json::{Value, json};

use super::{
    Column, Fields, Kind, Part, Resource,
    check::{Errors, text},
    row::Row,
};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::{names, table::name},
};

/// The row of ClusterTrustBundle.
pub(super) fn row() -> Resource {
    Row::of::<ClusterTrustBundles>().columns(COLUMNS).done()
}

const COLUMNS: &[Column] =
    &[Column::NAME, Column::new("SignerName", "string", "The signer that it belongs to.")];

/// The longest bundle, in bytes.
const BUNDLE_MAX: usize = 1024 * 1024;

/// How a ClusterTrustBundle behaves.
#[derive(Debug, Default)]
pub(super) struct ClusterTrustBundles;

impl Kind for ClusterTrustBundles {
    type Object = ClusterTrustBundle;

    fn validate(bundle: &ClusterTrustBundle) -> ErrorList {
        let mut errors = Errors::default();
        let (signer, own_name) = (text(&bundle.spec.signer_name), name(&bundle.metadata));
        if !own_name.is_empty() {
            errors.form(&Path::new("metadata.name"), own_name, named_after(signer, own_name));
        }
        let is_domain = |part: &str| names::dns_subdomain(part, false).is_empty();
        let is_signer = |name: &str| {
            name.split_once('/').is_some_and(|(domain, rest)| is_domain(domain) && is_domain(rest))
        };
        if !signer.is_empty() && !is_signer(signer) {
            let wrong =
                "must be a fully qualified domain and path of the form 'example.com/signer-name'";
            errors.invalid(&Path::new("spec.signerName"), signer, wrong);
        }
        let path = Path::new("spec.trustBundle");
        if bundle.spec.trust_bundle.len() > BUNDLE_MAX {
            errors.push(FieldError::too_long(&path, BUNDLE_MAX));
        } else if let Err(wrong) = anchors(&bundle.spec.trust_bundle) {
            errors.invalid(&path, "<value omitted>", wrong);
        }
        errors.0
    }

    fn validate_update(new: &ClusterTrustBundle, old: &ClusterTrustBundle, _: Part) -> ErrorList {
        let mut errors = Errors::default();
        errors.immutable(
            &Path::new("spec.signerName"),
            &new.spec.signer_name,
            &old.spec.signer_name,
        );
        errors.0
    }

    fn validate_name(name: &str, generate_prefix: bool) -> Vec<String> {
        names::path_segment(name, generate_prefix)
    }

    fn fields(bundle: &ClusterTrustBundle) -> Fields {
        Fields::from_iter([("spec.signerName", text(&bundle.spec.signer_name).to_owned())])
    }

    const FIELDS: &'static [&'static str] = &["spec.signerName"];

    fn cells(bundle: &ClusterTrustBundle, _: Timestamp) -> Vec<Value> {
        let signer = match text(&bundle.spec.signer_name) {
            "" => "<none>",
            signer => signer,
        };
        vec![json!(name(&bundle.metadata)), json!(signer)]
    }
}

/// A signer's bundles begin with its name, so that it can be told whose they are.
fn named_after(signer: &str, name: &str) -> Vec<String> {
    if signer.is_empty() {
        if name.contains(':') {
            let wrong = "ClusterTrustBundle without signer name must not have \":\" in its name";
            return vec![wrong.to_owned()];
        }
        return names::dns_subdomain(name, false);
    }
    let prefix = format!("{}:", signer.replace('/', ":"));
    match name.strip_prefix(&prefix) {
        Some(rest) => names::dns_subdomain(rest, false),
        None => vec![format!(
            "ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}"
        )],
    }
}

/// A bundle is PEM blocks of certificates, each once. What is between them is a comment.
fn anchors(bundle: &str) -> Result<(), String> {
    let mut known = BTreeSet::new();
    for (i, block) in bundle.split("-----BEGIN ").skip(1).enumerate() {
        let (type_, rest) = block.split_once("-----").unwrap_or((block, ""));
        if type_ != "CERTIFICATE" {
            return Err(format!("entry {i} has bad block type: {type_}"));
        }
        let body = rest.split("-----END CERTIFICATE-----").next().unwrap_or(rest);
        if body.contains(':') {
            return Err(format!("entry {i} has PEM block headers"));
        }
        let body: String = body.split_whitespace().collect();
        let decoded = BASE64_STANDARD.decode(&body).ok();
        // A certificate is an ASN.1 sequence.
        if decoded.as_ref().and_then(|der| der.first()) != Some(&0x30) {
            return Err(format!("entry {i} does not parse as X.509: malformed certificate"));
        }
        if !known.insert(decoded) {
            return Err(format!("duplicate trust anchor (index {i})"));
        }
    }
    if known.is_empty() {
        return Err("at least one trust anchor must be provided".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_named_after_its_signer() {
        assert_eq!(named_after("", "roots"), Vec::<String>::new());
        assert_eq!(named_after("", "a:b").len(), 1);
        assert_eq!(named_after("example.com/s", "example.com:s:v1"), Vec::<String>::new());
        assert_eq!(named_after("example.com/s", "v1").len(), 1);
    }

    #[test]
    fn a_bundle_holds_certificates() {
        let block = |type_: &str, body: &str| {
            format!("-----BEGIN {type_}-----\n{body}\n-----END {type_}-----\n")
        };
        let (one, other) = (block("CERTIFICATE", "MAA="), block("CERTIFICATE", "MAEA"));
        assert!(anchors(&one).is_ok());
        assert!(anchors(&format!("# the root\n{one}{other}")).is_ok());
        assert!(anchors("").is_err());
        assert!(anchors(&format!("{one}{one}")).is_err());
        assert!(anchors(&block("PRIVATE KEY", "MAA=")).is_err());
        assert!(anchors(&block("CERTIFICATE", "eA==")).is_err());
    }
}
