//! Over HTTPS: certificates, tokens, HTTP/2, compression, and an orderly end.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{net::Ipv4Addr, sync::Arc};

use common::config_map;
use futures::StreamExt;
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
use tokio::{net::TcpListener, task::JoinHandle};
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
