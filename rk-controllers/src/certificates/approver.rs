//! Approves the client certificates of nodes, if RBAC says that whoever asks may have one.

use async_trait::async_trait;
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    certificates::v1::CertificateSigningRequest,
};
use kube::{Api, Client, ResourceExt, api::PostParams};
use rk_api::client::{Informer, RateLimit};
use std::time::Duration;

use super::{
    APPROVED, DENIED, add_condition, certificate, has,
    request::{KUBELET_CLIENT, kubelet_client, parse},
};
use crate::{
    controller::{Action, Controller, Reconciler},
    error::Error,
    key::ObjectKey,
    manager::Context,
};

/// What a request is recognized as, and what that takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Recognized {
    /// The subresource of signing requests that the requestor must be allowed to create.
    permission: &'static str,
    message: &'static str,
}

const SELF_NODE_CLIENT: Recognized = Recognized {
    permission: "selfnodeclient",
    message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
};
const NODE_CLIENT: Recognized = Recognized {
    permission: "nodeclient",
    message: "Auto approving kubelet client certificate after SubjectAccessReview.",
};

/// What an undecided request may be approved as, the narrower permission first.
fn recognize(request: &CertificateSigningRequest) -> Result<Vec<Recognized>, String> {
    if certificate(request).is_some() || has(request, APPROVED) || has(request, DENIED) {
        return Ok(Vec::new());
    }
    let asked = parse(&request.spec.request.0)?;
    let usages = request.spec.usages.as_deref().unwrap_or_default();
    if request.spec.signer_name != KUBELET_CLIENT || kubelet_client(&asked, usages).is_err() {
        return Ok(Vec::new());
    }
    let own = request.spec.username.as_deref() == Some(&asked.common_name);
    Ok(own.then_some(SELF_NODE_CLIENT).into_iter().chain([NODE_CLIENT]).collect())
}

struct Approver {
    client: Client,
    requests: Informer<CertificateSigningRequest>,
}

#[async_trait]
impl Reconciler for Approver {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(request) = self.requests.get("", &key.name) else { return Ok(Action::Wait) };
        let recognized = recognize(&request)
            .map_err(|error| Error::Terminal(format!("unable to parse csr {key}: {error}")))?;
        for kind in &recognized {
            if self.may(&request, kind.permission).await? {
                let mut approved = request.as_ref().clone();
                add_condition(&mut approved, APPROVED, "AutoApproved", kind.message);
                let api = Api::<CertificateSigningRequest>::all(self.client.clone());
                let options = PostParams::default();
                api.replace_subresource("approval", &request.name_any(), &options, &approved)
                    .await?;
                return Ok(Action::Wait);
            }
        }
        match recognized.is_empty() {
            true => Ok(Action::Wait),
            // The right may be granted later.
            false => Err(Error::NotYet(format!(
                "csr {key} is a node's but whoever asked may not have it approved"
            ))),
        }
    }
}

impl Approver {
    /// Whether RBAC lets the requestor create a subresource of signing requests.
    async fn may(
        &self,
        request: &CertificateSigningRequest,
        permission: &str,
    ) -> Result<bool, Error> {
        let spec = &request.spec;
        let attributes = ResourceAttributes {
            group: Some("certificates.k8s.io".to_owned()),
            version: Some("*".to_owned()),
            resource: Some("certificatesigningrequests".to_owned()),
            subresource: Some(permission.to_owned()),
            verb: Some("create".to_owned()),
            ..ResourceAttributes::default()
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                uid: spec.uid.clone(),
                groups: spec.groups.clone(),
                extra: spec.extra.clone(),
                resource_attributes: Some(attributes),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api = Api::<SubjectAccessReview>::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

/// The controller, wired up.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let requests = context.informers.of::<CertificateSigningRequest>();
    let reconciler = Approver { client: context.client.clone(), requests: requests.clone() };
    Controller::new(name, reconciler)
        // Somebody has to grant a right first: asking more often does not help.
        .rate_limit(RateLimit { min: Duration::from_millis(200), max: Duration::from_secs(1000) })
        .reconciles(&requests)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;

    /// `O=system:nodes, CN=system:node:a`, made by OpenSSL with a P-256 key.
    const NODE_A: &str = include_str!("testdata/node-a.csr");

    fn request(username: &str) -> CertificateSigningRequest {
        let mut request: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {"name": "r"},
            "spec": {
                "request": "", "signerName": KUBELET_CLIENT, "username": username,
                "usages": ["digital signature", "client auth"],
            },
        }))
        .unwrap();
        request.spec.request = ByteString(NODE_A.as_bytes().to_vec());
        request
    }

    #[test]
    fn a_node_may_ask_for_itself_and_a_bootstrapper_for_any_node() {
        let own = recognize(&request("system:node:a")).unwrap();
        assert_eq!(own, [SELF_NODE_CLIENT, NODE_CLIENT]);
        let other = recognize(&request("kubelet-bootstrap")).unwrap();
        assert_eq!(other, [NODE_CLIENT]);
    }

    #[test]
    fn what_is_decided_or_for_something_else_is_left_alone() {
        let mut decided = request("system:node:a");
        add_condition(&mut decided, DENIED, "r", "m");
        assert_eq!(recognize(&decided).unwrap(), []);
        let mut serving = request("system:node:a");
        serving.spec.usages = Some(vec!["digital signature".into(), "server auth".into()]);
        assert_eq!(recognize(&serving).unwrap(), []);
        let mut signer = request("system:node:a");
        signer.spec.signer_name = "example.com/s".to_owned();
        assert_eq!(recognize(&signer).unwrap(), []);
    }
}
