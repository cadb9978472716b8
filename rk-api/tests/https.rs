//! Over HTTPS: certificates, tokens, HTTP/2, compression, and an orderly end.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{net::Ipv4Addr, sync::Arc};

use bytes::Bytes;
use common::config_map;
use futures::StreamExt;
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::{
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec},
        core::v1::{ConfigMap, ServiceAccount},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Config,
    api::{ListParams, PostParams, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use rk_api::server::{
    ApiServer,
    pki::{Credentials, Pki},
};
use rk_store::EmbeddedStore;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

struct Served {
    server: ApiServer,
    pki: Pki,
    url: String,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

async fn serve() -> Served {
    let pki = Pki::generate().unwrap();
    let server = ApiServer::builder(Arc::new(EmbeddedStore::in_memory()))
        .token_key(pki.token_key())
        .start()
        .await
        .unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let shutdown = CancellationToken::new();
    let (serving, tls, stop) = (server.clone(), pki.server_tls(&[]).unwrap(), shutdown.clone());
    let task = tokio::spawn(async move { serving.serve(listener, tls, stop).await });
    Served { server, pki, url, shutdown, task }
}

impl Served {
    async fn client(&self, credentials: Credentials<'_>) -> Client {
        let kubeconfig = self.pki.kubeconfig(&self.url, &credentials).unwrap();
        let kubeconfig = Kubeconfig::from_yaml(&kubeconfig).unwrap();
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
        Client::try_from(config).unwrap()
    }
}

fn code(error: kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_client_certificate_names_user_and_groups() {
    let served = serve().await;
    let admin = Credentials::Certificate { user: "ann", groups: &["system:masters"] };
    let maps: Api<ConfigMap> = Api::default_namespaced(served.client(admin).await);
    maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    assert_eq!(maps.list(&ListParams::default()).await.unwrap().items.len(), 1);

    let nobody = Credentials::Certificate { user: "bob", groups: &[] };
    let maps: Api<ConfigMap> = Api::default_namespaced(served.client(nobody).await);
    assert_eq!(code(maps.get("a").await.unwrap_err()), 403);
}

#[tokio::test]
async fn a_service_account_token_is_good_as_long_as_its_account() {
    let served = serve().await;
    let accounts: Api<ServiceAccount> = Api::namespaced(served.server.client(), "kube-system");
    let account = ServiceAccount {
        metadata: ObjectMeta { name: Some("robot".into()), ..ObjectMeta::default() },
        ..ServiceAccount::default()
    };
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let request =
        TokenRequest { spec: Some(TokenRequestSpec::default()), ..TokenRequest::default() };
    let params = PostParams::default();
    let made = accounts.create_token_request("robot", &params, &request);
    let token = made.await.unwrap().status.unwrap().token.unwrap();

    let maps: Api<ConfigMap> =
        Api::default_namespaced(served.client(Credentials::Token(&token)).await);
    assert_eq!(code(maps.get("a").await.unwrap_err()), 403);
    accounts.delete("robot", &Default::default()).await.unwrap();
    assert_eq!(code(maps.get("a").await.unwrap_err()), 401);
}

#[tokio::test]
async fn the_server_ends_watches_when_it_stops() {
    let served = serve().await;
    let admin = Credentials::Certificate { user: "ann", groups: &["system:masters"] };
    let maps: Api<ConfigMap> = Api::default_namespaced(served.client(admin).await);
    let mut watch = std::pin::pin!(maps.watch(&WatchParams::default(), "0").await.unwrap());

    // The bookmark that ends the objects that there are.
    assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Bookmark(_)))));
    served.shutdown.cancel();

    assert!(watch.next().await.is_none());
    served.task.await.unwrap();
}

/// A connection of its own that speaks HTTP/2, with the administrator's certificate.
async fn connect(
    served: &Served,
) -> (SendRequest<Empty<Bytes>>, impl Future<Output = hyper::Result<()>> + use<>) {
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(der(served.pki.ca_pem())).unwrap();
    let admin = served.pki.client("ann", &["system:masters"]).unwrap();
    let key = PrivateKeyDer::from_pem_slice(admin.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![der(&admin.certificate_pem)], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(served.url.trim_start_matches("https://")).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect("127.0.0.1".try_into().unwrap(), stream).await.unwrap();
    hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap()
}

#[tokio::test]
async fn every_answer_names_its_audit_events() {
    let served = serve().await;
    let (mut sender, connection) = connect(&served).await;
    tokio::spawn(connection);
    let mut ask = async |chosen: Option<&str>| {
        let mut request = Request::get(format!("{}/api", served.url));
        if let Some(chosen) = chosen {
            request = request.header("audit-id", chosen);
        }
        let answer = sender.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
        assert_eq!(answer.version(), http::Version::HTTP_2);
        answer.headers()["audit-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(ask(Some("mine")).await, "mine");
    let (one, other) = (ask(None).await, ask(None).await);
    assert!(one.len() == 36 && one != other, "{one}, {other}");
}

#[tokio::test]
async fn connections_are_told_to_go_away_when_the_server_stops() {
    let served = serve().await;
    let (mut sender, connection) = connect(&served).await;
    let connection = tokio::spawn(connection);
    let watch = "api/v1/configmaps?watch=1&resourceVersion=0";
    let request = Request::get(format!("{}/{watch}", served.url)).body(Empty::new()).unwrap();
    let watch = sender.send_request(request).await.unwrap();
    assert_eq!(watch.status(), 200);

    served.shutdown.cancel();
    // The watch ends in order, then the connection does, and nothing was torn off.
    let rest = http_body_util::BodyExt::collect(watch.into_body()).await;
    rest.unwrap();
    connection.await.unwrap().unwrap();
    served.task.await.unwrap();
    let request = Request::get(format!("{}/api", served.url)).body(Empty::new()).unwrap();
    assert!(sender.send_request(request).await.is_err());
}
