//! Who is asking: certificates, proxies, tokens of others, keys that change.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{net::Ipv4Addr, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::Request;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use rk_api::server::{
    ApiServer, ServerTls, TokenKey, UserInfo,
    authn::{Oidc, OidcConfig, RequestHeaders, TokenList, WebhookTokens},
    authz::WebhookAuthorizer,
    pki::{Credentials, Pki},
};
use rk_store::EmbeddedStore;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_util::sync::{CancellationToken, DropGuard};

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
    (listener, url)
}

fn serve(server: &ApiServer, listener: TcpListener, tls: ServerTls) -> DropGuard {
    let (server, stop) = (server.clone(), CancellationToken::new());
    let serving = stop.clone();
    tokio::spawn(async move { server.serve(listener, tls, serving).await });
    stop.drop_guard()
}

/// A client that trusts `server` and has a certificate of `own`.
async fn client(server: &Pki, own: &Pki, url: &str, user: &str) -> Client {
    let credentials = Credentials::Certificate { user, groups: &["devs"] };
    let text = own.kubeconfig(url, &credentials).unwrap();
    let authority = |pki: &Pki| STANDARD.encode(pki.ca_pem());
    let text = text.replace(
        &format!("certificate-authority-data: {}", authority(own)),
        &format!("certificate-authority-data: {}", authority(server)),
    );
    let kubeconfig = Kubeconfig::from_yaml(&text).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    Client::try_from(config).unwrap()
}

/// Who the server thinks the client is; the code of its refusal otherwise.
async fn whoami(client: &Client, headers: &[(&str, &str)]) -> Result<Value, u16> {
    let mut request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    match client.request::<Value>(request.body(b"{}".to_vec()).unwrap()).await {
        Ok(review) => Ok(review["status"]["userInfo"].clone()),
        Err(kube::Error::Api(status)) => Err(status.code),
        Err(other) => panic!("{other}"),
    }
}

async fn started(builder: rk_api::server::Builder) -> ApiServer {
    let server = builder.start().await.unwrap();
    server.roles_ready().await;
    server
}

fn in_memory() -> rk_api::server::Builder {
    ApiServer::builder(Arc::new(EmbeddedStore::in_memory()))
}

#[tokio::test]
async fn s23_a_certificate_of_another_authority_gets_a_401() {
    let (pki, other) = (Pki::generate().unwrap(), Pki::generate().unwrap());
    let server = started(in_memory()).await;
    let (listener, url) = listen().await;
    let _guard = serve(&server, listener, pki.server_tls(&[]).unwrap());

    let own = whoami(&client(&pki, &pki, &url, "ann").await, &[]).await.unwrap();
    assert_eq!(own["username"], "ann");
    assert_eq!(own["groups"], json!(["devs", "system:authenticated"]));
    assert_eq!(whoami(&client(&pki, &other, &url, "ann").await, &[]).await, Err(401));
}

#[tokio::test]
async fn only_a_proxy_with_the_right_certificate_and_name_speaks_for_others() {
    let (pki, proxies) = (Pki::generate().unwrap(), Pki::generate().unwrap());
    let headers = RequestHeaders { allowed_names: vec!["front".into()], ..Default::default() };
    let server = started(in_memory().request_headers(headers)).await;
    let (listener, url) = listen().await;
    let tls = pki.server_tls(&[]).unwrap().with_proxies(proxies.ca_pem()).unwrap();
    let _guard = serve(&server, listener, tls);
    let said = [("x-remote-user", "ann"), ("x-remote-group", "ops"), ("x-remote-extra-a", "b")];

    let front = client(&pki, &proxies, &url, "front").await;
    let user = whoami(&front, &said).await.unwrap();
    assert_eq!(user["username"], "ann");
    assert_eq!(user["groups"], json!(["ops", "system:authenticated"]));
    assert_eq!(user["extra"], json!({ "a": ["b"] }));
    assert_eq!(whoami(&front, &[]).await, Err(401));
    let other = client(&pki, &proxies, &url, "back").await;
    assert_eq!(whoami(&other, &said).await, Err(401));
    let bob = client(&pki, &pki, &url, "bob").await;
    assert_eq!(whoami(&bob, &said).await.unwrap()["username"], "bob");
}

#[tokio::test]
async fn tokens_of_an_openid_provider_name_users_of_its_own() {
    // The provider is another cluster: its tokens are OpenID Connect tokens.
    let pki = Pki::generate().unwrap();
    let (listener, issuer) = listen().await;
    let key = TokenKey::generate().unwrap().with_issuer(&issuer);
    let provider = started(in_memory().token_key(key)).await;
    let _guard = serve(&provider, listener, pki.server_tls(&[]).unwrap());
    let admin = provider.client();
    let post = |path: &str, body: Value| {
        let request = Request::post(path).header("content-type", "application/json");
        let request = request.body(body.to_string().into_bytes()).unwrap();
        let admin = admin.clone();
        async move { admin.request::<Value>(request).await.unwrap() }
    };
    let binding = json!({
        "metadata": { "name": "open-discovery" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "system:service-account-issuer-discovery" },
        "subjects": [{ "kind": "Group", "name": "system:unauthenticated" }],
    });
    post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    post(accounts, json!({ "metadata": { "name": "robot" } })).await;
    let token =
        post(&format!("{accounts}/robot/token"), json!({ "spec": { "audiences": ["rk"] } }));
    let token = token.await["status"]["token"].as_str().unwrap().to_owned();

    let config = OidcConfig {
        issuer_url: issuer.clone(),
        client_id: "rk".into(),
        username_prefix: Some("oidc:".into()),
        ca_pem: Some(pki.ca_pem().to_owned()),
        ..OidcConfig::default()
    };
    let trusting = in_memory().authenticator(Arc::new(Oidc::new(config).unwrap()));
    let trusting = started(trusting).await;
    let (listener, url) = listen().await;
    let _guard = serve(&trusting, listener, pki.server_tls(&[]).unwrap());
    let with = |token: &str| {
        let mut config = Config::new(url.parse().unwrap());
        config.accept_invalid_certs = true;
        config.auth_info.token = Some(token.to_owned().into());
        Client::try_from(config).unwrap()
    };
    let user = whoami(&with(&token), &[]).await.unwrap();
    assert_eq!(user["username"], "oidc:system:serviceaccount:default:robot");
    let forged = format!("{}A", &token[..token.len() - 1]);
    let forged = if forged == token { format!("{}B", &token[..token.len() - 1]) } else { forged };
    assert_eq!(whoami(&with(&forged), &[]).await, Err(401));
}

/// A service that answers every POST with what `answer` makes of it.
async fn hook(answer: fn(Value) -> Value) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
                let question: Value = loop {
                    let Ok(count @ 1..) = stream.read(&mut buffer).await else { return };
                    text.extend_from_slice(&buffer[..count]);
                    let found = text.windows(4).position(|four| four == b"\r\n\r\n");
                    let body = found.map(|at| serde_json::from_slice(&text[at + 4..]));
                    if let Some(Ok(question)) = body {
                        break question;
                    }
                };
                let body = answer(question).to_string();
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
                let text = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(text.as_bytes()).await;
            });
        }
    });
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: c\n  cluster: \
         {{server: 'http://127.0.0.1:{port}/ask'}}\nusers:\n- name: u\n  user: {{}}\ncontexts:\n\
         - name: c\n  context: {{cluster: c, user: u}}\n"
    )
}

#[tokio::test]
async fn webhooks_tell_users_and_decide() {
    let tokens = hook(|mut review| {
        let known = review["spec"]["token"] == "of-ann";
        let user = json!({ "username": "ann", "groups": ["devs"] });
        review["status"] = json!({ "authenticated": known, "user": user });
        review
    });
    let decisions = hook(|mut review| {
        let about = &review["spec"]["resourceAttributes"];
        let allowed = about["resource"] == "configmaps" && review["spec"]["user"] == "ann";
        review["status"] = json!({ "allowed": allowed });
        review
    });
    let authenticator = WebhookTokens::new(&tokens.await).await.unwrap();
    let authorizer = WebhookAuthorizer::new(&decisions.await).await.unwrap();
    let listed = TokenList::default().with("of-bob", UserInfo::new("bob", []));
    let server = in_memory()
        .authenticator(Arc::new(listed))
        .authenticator(Arc::new(authenticator))
        .also_authorize(Arc::new(authorizer));
    let server = started(server).await;
    let code = |token: &str, path: &str| {
        let request = Request::get(path).header("authorization", format!("Bearer {token}"));
        let request = request.body(http_body_util::Full::<bytes::Bytes>::default()).unwrap();
        let server = server.clone();
        async move {
            let Ok(response) = tower::ServiceExt::oneshot(server, request).await;
            response.status().as_u16()
        }
    };
    let maps = "/api/v1/namespaces/default/configmaps";
    assert_eq!(code("of-ann", maps).await, 200);
    assert_eq!(code("of-ann", "/api/v1/namespaces/default/secrets").await, 403);
    assert_eq!(code("of-ann", "/api").await, 200);
    assert_eq!(code("of-bob", maps).await, 403);
    assert_eq!(code("of-eve", maps).await, 401);
}

#[tokio::test]
async fn s24_a_token_file_names_users_and_groups() {
    let file = "c47ffb939f5ca36231d9e3121a252940,kubelet-bootstrap,10001,\"system:node-bootstrapper\"\n\
                other,ann,2,\"devs,ops\"\n";
    let server = in_memory().authenticator(Arc::new(TokenList::parse(file).unwrap()));
    let server = started(server).await;
    let pki = Pki::generate().unwrap();
    let (listener, url) = listen().await;
    let _guard = serve(&server, listener, pki.server_tls(&[]).unwrap());
    let with = |token: &str| {
        let mut config = Config::new(url.parse().unwrap());
        config.accept_invalid_certs = true;
        config.auth_info.token = Some(token.to_owned().into());
        Client::try_from(config).unwrap()
    };
    let user = whoami(&with("c47ffb939f5ca36231d9e3121a252940"), &[]).await.unwrap();
    assert_eq!((&user["username"], &user["uid"]), (&json!("kubelet-bootstrap"), &json!("10001")));
    assert_eq!(user["groups"], json!(["system:node-bootstrapper", "system:authenticated"]));
    let user = whoami(&with("other"), &[]).await.unwrap();
    assert_eq!(user["groups"], json!(["devs", "ops", "system:authenticated"]));
    assert_eq!(whoami(&with("unlisted"), &[]).await, Err(401));
}
