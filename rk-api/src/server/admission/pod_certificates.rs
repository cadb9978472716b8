//! What is inside the certificates of a PodCertificateRequest: the request that a node makes is signed
//! with the key that it names, and what a signer issues is for that key and for the times it says
//! (KEP-4317; in Kubernetes the validation of the kind does this).

use async_trait::async_trait;
use k8s_openapi::{api::certificates::v1::PodCertificateRequest, jiff::SignedDuration};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{
    certification_request::X509CertificationRequest,
    der_parser::oid,
    prelude::{FromDer, X509Certificate},
    public_key::PublicKey,
    x509::SubjectPublicKeyInfo,
};

use super::{Admission, AdmissionRequest, Operation};
use crate::{
    field::{FieldError, Path},
    server::status::{ApiError, Result, Subject},
};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct PodCertificates;

#[async_trait]
impl Admission for PodCertificates {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.resource.plural == "podcertificaterequests"
            && match request.operation {
                Operation::Create => true,
                Operation::Update => request.subresource == "status",
                _ => false,
            }
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let object = request.object().map(|object| object.as_any());
        let Some(object) = object.and_then(|any| any.downcast_ref::<PodCertificateRequest>())
        else {
            return Ok(());
        };
        let found = match request.operation {
            Operation::Create => requested(object),
            _ => issued(object),
        };
        found.map_err(|error| {
            ApiError::invalid(&Subject::kind(request.resource), request.name, &vec![error])
        })
    }
}

/// The request inside is signed by a key of a kind that is taken.
fn requested(request: &PodCertificateRequest) -> Result<(), FieldError> {
    let path = Path::new("spec.stubPKCS10Request");
    let wrong = |what: &str| FieldError::invalid(&path, "<value omitted>", what);
    let (_, inner) = X509CertificationRequest::from_der(&request.spec.stub_pkc_s10_request.0)
        .map_err(|_| wrong("must be a valid PKCS#10 request in DER form"))?;
    key_is_taken(&inner.certification_request_info.subject_pki).map_err(wrong)?;
    inner.verify_signature().map_err(|_| wrong("could not verify the signature of the request"))
}

/// RSA of 3072 and 4096 bits, the curves P-256, P-384 and P-521, and Ed25519.
fn key_is_taken(key: &SubjectPublicKeyInfo<'_>) -> Result<(), &'static str> {
    match key.parsed() {
        Ok(PublicKey::RSA(key)) if [3072, 4096].contains(&key.key_size()) => Ok(()),
        Ok(PublicKey::RSA(_)) => Err("RSA keys must have modulus size 3072 or 4096"),
        Ok(PublicKey::EC(point)) if [256, 384, 521, 528].contains(&point.key_size()) => Ok(()),
        Ok(PublicKey::EC(_)) => Err("elliptic public keys must use curve P256, P384 or P521"),
        _ if key.algorithm.algorithm == oid!(1.3.101.112) => Ok(()),
        _ => Err("unknown public key type; supported types are Ed25519, ECDSA, and RSA"),
    }
}

/// The first certificate of an issued chain is for the requested key and the times of the status.
fn issued(request: &PodCertificateRequest) -> Result<(), FieldError> {
    let Some(status) = request.status.as_ref() else { return Ok(()) };
    let Some(chain) = status.certificate_chain.as_deref() else { return Ok(()) };
    let path = Path::new("status");
    let at = path.child("certificateChain");
    let wrong = |what: &str| FieldError::invalid(&at, "<value omitted>", what);
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().map_err(
            |_| wrong("issued certificate chain must consist entirely of CERTIFICATE PEM blocks"),
        )?;
    let Some(leaf) = chain.first() else {
        return Err(wrong("issued certificate chain must contain at least one certificate"));
    };
    let (_, leaf) = X509Certificate::from_der(leaf)
        .map_err(|_| wrong("leaf certificate does not parse as valid X.509"))?;
    if chain[1..].iter().any(|other| X509Certificate::from_der(other).is_err()) {
        return Err(wrong("intermediate certificate does not parse as valid X.509"));
    }
    if let Ok((_, inner)) = X509CertificationRequest::from_der(&request.spec.stub_pkc_s10_request.0)
        && inner.certification_request_info.subject_pki.raw != leaf.public_key().raw
    {
        return Err(wrong("leaf certificate was not issued to the requested public key"));
    }
    let validity = leaf.validity();
    let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    for (field, said, found, which) in [
        ("notBefore", &status.not_before, from, "NotBefore"),
        ("notAfter", &status.not_after, until, "NotAfter"),
    ] {
        if said.as_ref().is_some_and(|said| said.0.as_second() != found) {
            let what = format!("must be set to the {which} time encoded in the leaf certificate");
            return Err(FieldError::invalid(&path.child(field), found, what));
        }
    }
    let lifetime = SignedDuration::from_secs(until - from);
    if lifetime < SignedDuration::from_hours(1) {
        return Err(wrong("leaf certificate lifetime must be >= 1 hour"));
    }
    let longest = request.spec.max_expiration_seconds.unwrap_or_default();
    if lifetime > SignedDuration::from_secs(longest.into()) {
        let what =
            format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({longest})");
        return Err(wrong(&what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::{ByteString, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn request(key: &KeyPair) -> PodCertificateRequest {
        let stub = CertificateParams::default().serialize_request(key).unwrap();
        let mut request = PodCertificateRequest::default();
        request.spec.stub_pkc_s10_request = ByteString(stub.der().to_vec());
        request.spec.max_expiration_seconds = Some(7200);
        request
    }

    #[test]
    fn a_request_is_signed_by_its_own_key() {
        let mut request = request(&KeyPair::generate().unwrap());
        assert!(requested(&request).is_ok());
        let last = request.spec.stub_pkc_s10_request.0.len() - 1;
        request.spec.stub_pkc_s10_request.0[last] ^= 1;
        assert!(requested(&request).unwrap_err().message().contains("signature"));
        request.spec.stub_pkc_s10_request.0.truncate(20);
        assert!(requested(&request).unwrap_err().message().contains("PKCS#10"));
    }

    #[test]
    fn a_certificate_is_for_the_requested_key_and_times() {
        let (own, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let issue = |key: &KeyPair, hours: i64| {
            let mut params = CertificateParams::default();
            params.not_before = rcgen::date_time_ymd(2030, 1, 1);
            params.not_after = params.not_before + Duration::from_secs(hours as u64 * 3600);
            let time = |seconds| Some(Time(Timestamp::from_second(seconds).unwrap()));
            let mut request = request(&own);
            let status = request.status.get_or_insert_default();
            status.certificate_chain = Some(params.self_signed(key).unwrap().pem());
            status.not_before = time(params.not_before.unix_timestamp());
            status.not_after = time(params.not_after.unix_timestamp());
            request
        };
        let refused = |request| issued(&request).unwrap_err().message();
        assert!(issued(&issue(&own, 2)).is_ok());
        assert!(refused(issue(&other, 2)).contains("requested public key"));
        assert!(refused(issue(&own, 3)).contains("<= spec.maxExpirationSeconds (7200)"));
        assert!(refused(issue(&own, 0)).contains(">= 1 hour"));
        let mut early = issue(&own, 2);
        let status = early.status.get_or_insert_default();
        status.not_after = status.not_before.clone();
        assert!(refused(early).contains("NotAfter"));
        let mut broken = issue(&own, 2);
        broken.status.get_or_insert_default().certificate_chain = Some("x".to_owned());
        assert!(refused(broken).contains("at least one certificate"));
    }
}
