//! Clears away signing requests that are of no use any more.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{Api, Client};
use rk_api::{client::Informer, clock};
use x509_parser::pem::parse_x509_pem;

use super::{APPROVED, DENIED, FAILED, certificate, conditions};
use crate::{
    controller::{Action, Controller, Reconciler},
    error::Error,
    key::ObjectKey,
    manager::Context,
    write,
};

/// How long a request stays after it was decided, or failed.
const DECIDED: SignedDuration = SignedDuration::from_hours(1);

/// How long a request stays that nobody decides.
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// When a request can go; `None` when that is for others to say: it is approved, and nobody has
/// signed it yet.
fn goes_at(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let after = |from: Timestamp, time| from.checked_add(time).unwrap_or(Timestamp::MAX);
    let issued = certificate(request);
    let mut times = Vec::new();
    let mut undecided = true;
    for condition in conditions(request) {
        undecided = false;
        let counts = match condition.type_.as_str() {
            APPROVED => issued.is_some(),
            DENIED | FAILED => true,
            _ => false,
        };
        if let Some(updated) = condition.last_update_time.as_ref().filter(|_| counts) {
            times.push(after(updated.0, DECIDED));
        }
    }
    if undecided && let Some(created) = &request.metadata.creation_timestamp {
        times.push(after(created.0, PENDING));
    }
    times.extend(issued.and_then(ends));
    times.into_iter().min()
}

/// When a certificate (PEM) ends.
fn ends(pem: &[u8]) -> Option<Timestamp> {
    let (_, pem) = parse_x509_pem(pem).ok()?;
    let certificate = pem.parse_x509().ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

struct Cleaner {
    client: Client,
    requests: Informer<CertificateSigningRequest>,
}

#[async_trait]
impl Reconciler for Cleaner {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(request) = self.requests.get("", &key.name) else { return Ok(Action::Wait) };
        let Some(goes_at) = goes_at(&request) else { return Ok(Action::Wait) };
        let left = goes_at.duration_since(clock::now());
        if left.is_positive() {
            return Ok(Action::RequeueAfter(left.try_into().unwrap_or_default()));
        }
        write::delete(&Api::all(self.client.clone()), &*request).await?;
        Ok(Action::Wait)
    }
}

/// The controller, wired up.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let requests = context.informers.of::<CertificateSigningRequest>();
    let reconciler = Cleaner { client: context.client.clone(), requests: requests.clone() };
    Controller::new(name, reconciler).reconciles(&requests)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(conditions: &[(&str, &str)], issued: bool, expected: Option<&str>) {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(type_, at)| json!({"type": type_, "status": "True", "lastUpdateTime": at}))
            .collect();
        let mut request: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {"name": "r", "creationTimestamp": "2030-01-01T00:00:00Z"},
            "spec": {"request": "", "signerName": "example.com/s"},
            "status": {"conditions": conditions},
        }))
        .unwrap();
        if issued {
            let status = request.status.get_or_insert_default();
            status.certificate = Some(ByteString(b"not read".to_vec()));
        }
        assert_eq!(goes_at(&request), expected.map(|at| at.parse().unwrap()));
    }

    #[test]
    fn a_request_goes_when_it_is_done_or_nobody_cares() {
        check(&[], false, Some("2030-01-02T00:00:00Z"));
        check(&[(DENIED, "2030-01-01T05:00:00Z")], false, Some("2030-01-01T06:00:00Z"));
        check(&[(APPROVED, "2030-01-01T05:00:00Z")], true, Some("2030-01-01T06:00:00Z"));
        check(&[(APPROVED, "2030-01-01T05:00:00Z")], false, None);
        let failed = [(APPROVED, "2030-01-01T05:00:00Z"), (FAILED, "2030-01-01T07:00:00Z")];
        check(&failed, false, Some("2030-01-01T08:00:00Z"));
    }
}
