//! Gives approved requests of Kubernetes' own signers their certificates.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use k8s_openapi::{ByteString, api::certificates::v1::CertificateSigningRequest};
use kube::{Api, Client, ResourceExt, api::PostParams};
use rk_api::client::{Informer, RateLimit};

use super::{
    APPROVED, CertificateRequest, CertificateSigner, DENIED, FAILED, add_condition, certificate,
    has,
    request::{check, parse},
};
use crate::{
    controller::{Action, Controller, Reconciler},
    error::Error,
    key::ObjectKey,
    manager::Context,
};

/// How long they last at least.
const LIFETIME_MIN: Duration = Duration::from_secs(10 * 60);

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Plan {
    /// Not ours, not approved, or done.
    Nothing,
    /// It can never get a certificate.
    Fail(String),
    /// It gets one.
    Sign(CertificateRequest),
}

fn plan(request: &CertificateSigningRequest, longest: Duration) -> Result<Plan, String> {
    let approved = has(request, APPROVED) && !has(request, DENIED) && !has(request, FAILED);
    if !approved || certificate(request).is_some() {
        return Ok(Plan::Nothing);
    }
    let spec = &request.spec;
    let usages = spec.usages.clone().unwrap_or_default();
    let asked = parse(&spec.request.0)?;
    Ok(match check(&spec.signer_name, &asked, &usages) {
        None => Plan::Nothing,
        Some(Err(wrong)) => Plan::Fail(wrong),
        Some(Ok(())) => Plan::Sign(CertificateRequest {
            signer_name: spec.signer_name.clone(),
            pem: spec.request.0.clone(),
            usages,
            lifetime: lifetime(spec.expiration_seconds, longest),
        }),
    })
}

fn lifetime(asked_seconds: Option<i32>, longest: Duration) -> Duration {
    asked_seconds.map_or(longest, |seconds| {
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).max(LIFETIME_MIN).min(longest)
    })
}

struct Signer {
    client: Client,
    signer: Arc<dyn CertificateSigner>,
    /// How long certificates last at most, and when a request does not say.
    longest: Duration,
    requests: Informer<CertificateSigningRequest>,
}

#[async_trait]
impl Reconciler for Signer {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(request) = self.requests.get("", &key.name) else { return Ok(Action::Wait) };
        let plan = plan(&request, self.longest)
            .map_err(|error| Error::Terminal(format!("unable to parse csr {key}: {error}")))?;
        let mut done = request.as_ref().clone();
        match plan {
            Plan::Nothing => return Ok(Action::Wait),
            Plan::Fail(why) => add_condition(&mut done, FAILED, "SignerValidationFailure", why),
            Plan::Sign(asked) => {
                let signed = self.signer.sign(&asked).await;
                let pem = signed.map_err(|error| Error::NotYet(error.to_string()))?;
                let status = done.status.get_or_insert_default();
                status.certificate = Some(ByteString(pem.into_bytes()));
            }
        }
        let api = Api::<CertificateSigningRequest>::all(self.client.clone());
        api.replace_status(&request.name_any(), &PostParams::default(), &done).await?;
        Ok(Action::Wait)
    }
}

/// The controller, wired up, if there is somebody who signs.
pub(crate) fn controller(name: &'static str, context: &Context) -> Option<Controller> {
    let signer = context.settings.certificate_signer.clone()?;
    let requests = context.informers.of::<CertificateSigningRequest>();
    let reconciler = Signer {
        client: context.client.clone(),
        signer,
        longest: context.settings.certificate_duration,
        requests: requests.clone(),
    };
    let controller = Controller::new(name, reconciler)
        .rate_limit(RateLimit { min: Duration::from_millis(200), max: Duration::from_secs(1000) })
        .reconciles(&requests);
    Some(controller)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

    const NODE_A: &str = include_str!("testdata/node-a.csr");

    fn request(conditions: &[&str]) -> CertificateSigningRequest {
        let conditions: Vec<_> =
            conditions.iter().map(|type_| json!({"type": type_, "status": "True"})).collect();
        let mut request: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {"name": "r"},
            "spec": {
                "request": "", "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
                "usages": ["digital signature", "client auth"],
            },
            "status": {"conditions": conditions},
        }))
        .unwrap();
        request.spec.request = ByteString(NODE_A.as_bytes().to_vec());
        request
    }

    #[test]
    fn only_what_is_approved_is_signed() {
        assert!(matches!(plan(&request(&[APPROVED]), YEAR), Ok(Plan::Sign(_))));
        assert_eq!(plan(&request(&[]), YEAR), Ok(Plan::Nothing));
        assert_eq!(plan(&request(&[DENIED]), YEAR), Ok(Plan::Nothing));
        assert_eq!(plan(&request(&[APPROVED, FAILED]), YEAR), Ok(Plan::Nothing));
        let mut done = request(&[APPROVED]);
        done.status.get_or_insert_default().certificate = Some(ByteString(b"pem".to_vec()));
        assert_eq!(plan(&done, YEAR), Ok(Plan::Nothing));
        let mut others = request(&[APPROVED]);
        others.spec.signer_name = "example.com/s".to_owned();
        assert_eq!(plan(&others, YEAR), Ok(Plan::Nothing));
    }

    #[test]
    fn what_a_signer_does_not_give_fails_for_good() {
        let mut wrong = request(&[APPROVED]);
        wrong.spec.usages = Some(vec!["server auth".to_owned()]);
        let words = "usages did not match [client auth digital signature key encipherment]";
        assert_eq!(plan(&wrong, YEAR), Ok(Plan::Fail(words.to_owned())));
    }

    #[test]
    fn a_certificate_lasts_as_long_as_was_asked_for_within_bounds() {
        assert_eq!(lifetime(None, YEAR), YEAR);
        assert_eq!(lifetime(Some(3600), YEAR), Duration::from_secs(3600));
        assert_eq!(lifetime(Some(1), YEAR), LIFETIME_MIN);
        assert_eq!(lifetime(Some(i32::MAX), YEAR), YEAR);
    }
}
