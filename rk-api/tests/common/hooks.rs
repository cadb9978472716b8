//! Webhooks for tests: HTTPS servers on loopback, with an authority of their own.

#![allow(dead_code, reason = "each test file uses a part")]

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use rk_api::server::Pki;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A webhook that listens.
pub struct Hook {
    /// Where.
    pub address: SocketAddr,
    /// The reviews that it was asked, in order.
    pub asked: Arc<Mutex<Vec<Value>>>,
    ca_pem: String,
}

/// How a webhook answers a review: with a whole review.
type Answer = Arc<dyn Fn(&Value) -> Value + Send + Sync>;

impl Hook {
    /// A webhook that answers each request (`review.request`) with this response.
    pub async fn new(respond: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        Self::raw(move |review| {
            let mut response = respond(&review["request"]);
            response["uid"] = review["request"]["uid"].clone();
            json!({
                "apiVersion": review["apiVersion"],
                "kind": "AdmissionReview",
                "response": response,
            })
        })
        .await
    }

    /// A webhook that answers reviews with whatever this says. Null is no answer at all, a number a
    /// status without a body.
    pub async fn raw(answer: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        let pki = Pki::generate().unwrap();
        let names = ["127.0.0.1".to_owned(), "hook.default.svc".to_owned()];
        let identity = pki.server("hook", &names).unwrap();
        let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
        let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.map(Result::unwrap).collect(), key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(serve(listener, Arc::new(tls), Arc::new(answer), asked.clone()));
        Self { address, asked, ca_pem: pki.ca_pem().to_owned() }
    }

    /// The authority, as configurations hold it.
    pub fn ca_bundle(&self) -> String {
        STANDARD.encode(&self.ca_pem)
    }

    /// A webhook configuration's `clientConfig` that reaches it by URL.
    pub fn client(&self) -> Value {
        let url = format!("https://{}/review", self.address);
        json!({ "url": url, "caBundle": self.ca_bundle() })
    }

    /// A kubeconfig whose cluster it is.
    pub fn kubeconfig(&self) -> String {
        let url = format!("https://{}/ask?from=test", self.address);
        let cluster = json!({ "server": url, "certificate-authority-data": self.ca_bundle() });
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{ "name": "c", "cluster": cluster }],
            "users": [{ "name": "c", "user": {} }],
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "c" } }],
        })
        .to_string()
    }

    /// The requests that it was asked about.
    pub fn requests(&self) -> Vec<Value> {
        self.asked.lock().iter().map(|review| review["request"].clone()).collect()
    }
}

async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    answer: Answer,
    asked: Arc<Mutex<Vec<Value>>>,
) {
    let acceptor = TlsAcceptor::from(tls);
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, answer, asked) = (acceptor.clone(), answer.clone(), asked.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request: Request<Incoming>| {
                let (answer, asked) = (answer.clone(), asked.clone());
                async move {
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let review: Value = serde_json::from_slice(&body).unwrap();
                    asked.lock().push(review.clone());
                    let reply = answer(&review);
                    if reply.is_null() {
                        tokio::time::sleep(Duration::from_secs(3600)).await;
                    }
                    let status = reply.as_u64().and_then(|code| u16::try_from(code).ok());
                    let body = match status {
                        Some(_) => Full::default(),
                        None => Full::new(Bytes::from(reply.to_string())),
                    };
                    let answer = Response::builder().status(status.unwrap_or(200));
                    Ok::<_, Infallible>(answer.body(body).unwrap())
                }
            });
            let server = auto::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// A JSON patch as an answer carries it.
pub fn patch(operations: Value) -> Value {
    let patch = STANDARD.encode(operations.to_string());
    json!({ "allowed": true, "patch": patch, "patchType": "JSONPatch" })
}
