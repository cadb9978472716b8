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

/// Approves and signs all requests, as controllers do, looking for them this often.
async fn sign_all(client: Client, pki: Pki, every: Duration) {
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
        tokio::time::sleep(every).await;
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
    let signer = tokio::spawn(sign_all(client.clone(), pki, Duration::from_millis(500)));
    let identity = asking.await.unwrap();
    assert!(identity.validity().unwrap().until > clock::now());
    signer.abort();
}

/// A server, and a signer that approves everything.
async fn signing_server() -> (Client, tokio::task::JoinHandle<()>) {
    let pki = Pki::generate().unwrap();
    let store = Arc::new(EmbeddedStore::in_memory());
    let server = ApiServer::builder(store).require_service_accounts(false).start().await.unwrap();
    let client = server.client();
    let signer = tokio::spawn(sign_all(client.clone(), pki, Duration::from_secs(60)));
    (client, signer)
}

#[tokio::test(start_paused = true)]
async fn certificates_are_renewed_in_their_last_third_as_often_as_it_takes() {
    let (client, signer) = signing_server().await;
    let directory = tempfile::tempdir().unwrap();
    let serving =
        Purpose::Serving { names: vec!["n1".into()], addresses: vec!["10.0.0.7".parse().unwrap()] };
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    for (purpose, signer_name) in [
        (Purpose::Client, "kubernetes.io/kube-apiserver-client-kubelet"),
        (serving, "kubernetes.io/kubelet-serving"),
    ] {
        let certificate = NodeCertificate::new("n1", directory.path(), purpose);
        let mut current = certificate.renewed(None, &client).await;
        for _ in 0..2 {
            let before = current.validity().unwrap();
            let next = certificate.renewed(Some(&current), &client).await;
            let now = clock::now();
            let passed = now.duration_since(before.from).as_secs_f64();
            let whole = before.until.duration_since(before.from).as_secs_f64();
            // Signing takes a minute, and certificates begin a little before they are made.
            assert!((0.68..0.92).contains(&(passed / whole)), "{passed} of {whole}");
            assert!(next.validity().unwrap().until > before.until);
            assert_ne!(next.key_pem, current.key_pem, "with a key of its own");
            let kept = certificate.load().unwrap();
            assert!(kept.certificate_pem.contains(next.certificate_pem.trim()));
            current = next;
        }
        let requests = api.list(&ListParams::default()).await.unwrap().items;
        let ours = requests.iter().filter(|it| it.spec.signer_name == signer_name).count();
        assert_eq!(ours, 3, "one each time");
    }
    signer.abort();
}

#[tokio::test(start_paused = true)]
async fn one_that_is_over_is_not_shown_and_the_next_node_process_asks_for_another() {
    let (client, signer) = signing_server().await;
    let directory = tempfile::tempdir().unwrap();
    let certificate = NodeCertificate::new("n1", directory.path(), Purpose::Client);
    let first = certificate.renewed(None, &client).await;
    assert!(certificate.load().is_some());
    // The node was off for as long as it is good.
    tokio::time::sleep(LIFETIME + Duration::from_secs(1)).await;
    assert!(certificate.load().is_none());
    let second = certificate.renewed(certificate.load().as_ref(), &client).await;
    assert!(second.validity().unwrap().until > first.validity().unwrap().until);
    signer.abort();
}
