//! Signing requests: approved, signed, cleared away. Scenarios S26, S27.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use rk_api::server::{ApiServer, Pki, UserInfo};
use rk_controllers::{CertificateRequest, CertificateSigner, Manager};
use rk_store::EmbeddedStore;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cluster::from_json;

/// `O=system:nodes, CN=system:node:a`.
const NODE_A: &str = include_str!("../../src/certificates/testdata/node-a.csr");
const KUBELET: &str = "kubernetes.io/kube-apiserver-client-kubelet";

#[derive(Debug)]
struct Issuer(Pki);

#[async_trait]
impl CertificateSigner for Issuer {
    async fn sign(
        &self,
        request: &CertificateRequest,
    ) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.sign_request(&request.pem, &request.usages, request.lifetime)?)
    }
}

struct Cluster {
    server: ApiServer,
    _stop: DropGuard,
}

impl Cluster {
    async fn start() -> Self {
        let server =
            ApiServer::builder(Arc::new(EmbeddedStore::in_memory())).start().await.unwrap();
        server.roles_ready().await;
        // Each controller has no more rights than its default role gives.
        let accounts = server.clone();
        let manager = Manager::builder(server.client())
            .controllers("csrapproving,csrsigning,csrcleaner")
            .credentials(move |name| {
                accounts.client_as(UserInfo::service_account("kube-system", name))
            })
            .certificate_signer(Arc::new(Issuer(Pki::generate().unwrap())));
        let stop = CancellationToken::new();
        tokio::spawn(manager.build().unwrap().run(stop.clone()));
        Self { server, _stop: stop.drop_guard() }
    }

    /// Creates a request as a user.
    async fn ask(&self, client: Client, name: &str, signer: &str, usages: &[&str]) {
        let mut request: CertificateSigningRequest = from_json(json!({
            "metadata": {"name": name},
            "spec": {"request": "", "signerName": signer, "usages": usages},
        }));
        request.spec.request = k8s_openapi::ByteString(NODE_A.as_bytes().to_vec());
        Api::all(client).create(&PostParams::default(), &request).await.unwrap();
    }

    async fn approve(&self, name: &str) {
        let api = Api::<CertificateSigningRequest>::all(self.server.client());
        let approved = json!({"status": {"conditions": [{
            "type": "Approved", "status": "True", "reason": "ByTest", "message": "m",
        }]}});
        api.patch_approval(name, &PatchParams::default(), &Patch::Merge(approved)).await.unwrap();
    }

    async fn wait(&self, seconds: u64) {
        tokio::time::sleep(std::time::Duration::from_secs(seconds)).await;
    }

    /// Its conditions by type and message, and whether it has a certificate; null when it is gone.
    async fn state(&self, name: &str) -> Value {
        let api = Api::<CertificateSigningRequest>::all(self.server.client());
        let Some(request) = api.get_opt(name).await.unwrap() else { return Value::Null };
        let status = request.status.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let told: Vec<_> = conditions.iter().map(|it| (&it.type_, &it.message)).collect();
        json!([told, status.certificate.is_some()])
    }
}

const CLIENT: [&str; 2] = ["digital signature", "client auth"];

#[tokio::test(start_paused = true)]
async fn a_request_gets_its_certificate_when_it_is_approved_and_not_before() {
    let cluster = Cluster::start().await;
    // Who asks may do so, and may have nothing approved.
    let other = cluster.server.client_as(UserInfo::node("other"));
    cluster.ask(other, "r", KUBELET, &CLIENT).await;
    cluster.wait(60).await;
    assert_eq!(cluster.state("r").await, json!([[], false]));

    cluster.approve("r").await;
    cluster.wait(5).await;
    assert_eq!(cluster.state("r").await, json!([[["Approved", "m"]], true]));
    cluster.wait(3700).await;
    assert_eq!(cluster.state("r").await, Value::Null, "it is done and cleared away");
}

#[tokio::test(start_paused = true)]
async fn a_node_renews_its_own_certificate_without_anybody() {
    let cluster = Cluster::start().await;
    let role = json!({
        "metadata": {"name": "renew"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}],
    });
    let node = |name: &str| {
        let user = UserInfo::new(format!("system:node:{name}").as_str(), ["system:nodes"]);
        cluster.server.client_as(user)
    };
    cluster.ask(node("a"), "own", KUBELET, &CLIENT).await;
    cluster.ask(node("b"), "others", KUBELET, &CLIENT).await;
    cluster.wait(5).await;
    assert_eq!(cluster.state("own").await, json!([[], false]), "nothing is granted yet");

    let bindings =
        Api::<k8s_openapi::api::rbac::v1::ClusterRoleBinding>::all(cluster.server.client());
    bindings.create(&PostParams::default(), &from_json(role)).await.unwrap();
    cluster.wait(60).await;
    let message = "Auto approving self kubelet client certificate after SubjectAccessReview.";
    assert_eq!(cluster.state("own").await, json!([[["Approved", message]], true]));
    assert_eq!(cluster.state("others").await, json!([[], false]), "it is not its own");
}

#[tokio::test(start_paused = true)]
async fn what_a_signer_does_not_give_fails_with_the_reason() {
    let cluster = Cluster::start().await;
    cluster.ask(cluster.server.client(), "r", KUBELET, &["server auth"]).await;
    cluster.ask(cluster.server.client(), "other", "example.com/s", &CLIENT).await;
    cluster.approve("r").await;
    cluster.approve("other").await;
    cluster.wait(5).await;
    let why = "usages did not match [client auth digital signature key encipherment]";
    assert_eq!(cluster.state("r").await, json!([[["Approved", "m"], ["Failed", why]], false]));
    assert_eq!(cluster.state("other").await, json!([[["Approved", "m"]], false]));
}
