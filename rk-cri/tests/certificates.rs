//! A node asks for its certificate until it has one, on a paused clock.
#![allow(clippy::unwrap_used, reason = "what fails here is the test")]

use std::{sync::Arc, time::Duration};

use k8s_openapi::{ByteString, api::certificates::v1::CertificateSigningRequest};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use rk_api::{
    clock,
    server::{ApiServer, pki::Pki},
};
use rk_cri::agent::certificates::{NodeCertificate, Purpose};
use rk_store::EmbeddedStore;
use serde_json::json;

/// How long the signer's certificates are good.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Approves and signs all requests, as controllers do.
async fn sign_all(client: Client, pki: Pki) {
    let api: Api<CertificateSigningRequest> = Api::all(client);
    loop {
        for mut request in api.list(&ListParams::default()).await.unwrap() {
            if request.status.as_ref().is_some_and(|status| status.certificate.is_some()) {
                continue;
            }
            let name = request.metadata.name.clone().unwrap();
            let usages = request.spec.usages.clone().unwrap_or_default();
            let signed = pki.sign_request(&request.spec.request.0, &usages, LIFETIME).unwrap();
            let approved = json!([{"type": "Approved", "status": "True", "reason": "Test"}]);
            let status = request.status.get_or_insert_default();
            status.conditions = Some(serde_json::from_value(approved).unwrap());
            let params = PostParams::default();
            let mut request =
                api.replace_subresource("approval", &name, &params, &request).await.unwrap();
            request.status.get_or_insert_default().certificate =
                Some(ByteString(signed.into_bytes()));
            api.replace_status(&name, &params, &request).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_missing_is_asked_for_at_once_and_a_denial_is_tried_again() {
    let pki = Pki::generate().unwrap();
    let store = Arc::new(EmbeddedStore::in_memory());
    let server = ApiServer::builder(store).require_service_accounts(false).start().await.unwrap();
    let client = server.client();
    let directory = tempfile::tempdir().unwrap();
    let certificate = NodeCertificate::new("n1", directory.path(), Purpose::Client);
    let asking = tokio::spawn({
        let (certificate, client) = (certificate.clone(), client.clone());
        async move { certificate.renewed(None, &client).await }
    });

    // The first one is denied.
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let mut first = loop {
        if let Some(found) = api.list(&ListParams::default()).await.unwrap().items.pop() {
            break found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let denied = json!([{"type": "Denied", "status": "True", "reason": "Test"}]);
    first.status.get_or_insert_default().conditions = Some(serde_json::from_value(denied).unwrap());
    let name = first.metadata.name.clone().unwrap();
    api.replace_subresource("approval", &name, &PostParams::default(), &first).await.unwrap();
    while api.list(&ListParams::default()).await.unwrap().items.len() < 2 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    api.delete(&name, &Default::default()).await.unwrap();
    let signer = tokio::spawn(sign_all(client.clone(), pki));
    let identity = asking.await.unwrap();
    assert!(identity.validity().unwrap().until > clock::now());
    signer.abort();
}
