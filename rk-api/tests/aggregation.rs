//! Aggregation: groups that other servers serve, with a real server behind this one.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use common::{Answer, get, send};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use rk_api::{
    io::Io,
    server::{
        ApiServer, Dialer, ExtensionAuthentication, UserInfo,
        authn::{RequestHeaders, TokenList},
        pki::Pki,
    },
};
use rk_store::EmbeddedStore;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const GROUP: &str = "wardle.example.com";

/// Asks until it is so, for half a minute at most.
async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A server with an API of its own, which believes who shows a certificate of its proxy.
struct Extension {
    address: SocketAddr,
    ca_pem: String,
    task: tokio::task::JoinHandle<()>,
}

impl Extension {
    async fn start(proxies: &Pki) -> Self {
        let pki = Pki::generate().unwrap();
        let identity = pki.server("wardle", &["api.wardle.svc".to_owned()]).unwrap();
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(proxies.ca_pem().as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let clients =
            WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build();
        let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.unwrap())
            .with_single_cert(chain.map(Result::unwrap).collect(), key)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(tls))));
        Self { address, ca_pem: pki.ca_pem().to_owned(), task }
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        connections.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let server = auto::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service_fn(extension)).await;
        });
    }
}

async fn extension(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = match path.as_str() {
        "/apis/wardle.example.com/v1alpha1" => json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1alpha1",
            "resources": [{
                "name": "flunders", "singularName": "flunder", "namespaced": true,
                "kind": "Flunder", "verbs": ["create", "get", "list"],
            }],
        }),
        "/openapi/v2" => json!({
            "swagger": "2.0",
            "paths": { "/apis/wardle.example.com/v1alpha1/flunders": { "get": {} } },
            "definitions": { "com.example.wardle.Flunder": { "type": "object" } },
        }),
        "/openapi/v3" => json!({ "paths": { "apis/wardle.example.com/v1alpha1": {
            "serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=1",
        }}}),
        "/openapi/v3/apis/wardle.example.com/v1alpha1" => json!({ "openapi": "3.0.0" }),
        "/apis/wardle.example.com/v1alpha1/moved" => {
            let answer = Response::builder().status(302).header("location", "https://example.com/");
            return Ok(answer.body(Full::default()).unwrap());
        }
        path if path.starts_with("/apis/wardle.example.com/v1alpha1/") => {
            let headers = request.headers().iter();
            let remote: Vec<String> = headers
                .filter(|(name, _)| name.as_str().starts_with("x-remote-"))
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
                .collect();
            let (method, uri) = (request.method().to_string(), request.uri().to_string());
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let body = String::from_utf8(body.to_vec()).unwrap();
            json!({ "method": method, "uri": uri, "remote": remote, "body": body })
        }
        _ => {
            let missing = Response::builder().status(StatusCode::NOT_FOUND);
            return Ok(missing.body(Full::default()).unwrap());
        }
    };
    let answer = Response::builder().header("content-type", "application/json");
    Ok(answer.body(Full::from(body.to_string())).unwrap())
}

/// Leads everywhere to the extension, and keeps where that was.
#[derive(Debug)]
struct Everywhere {
    address: SocketAddr,
    dialled: Mutex<Vec<String>>,
}

#[async_trait]
impl Dialer for Everywhere {
    async fn dial(&self, host: &str, port: u16) -> io::Result<Box<dyn Io>> {
        self.dialled.lock().unwrap().push(format!("{host}:{port}"));
        Ok(Box::new(TcpStream::connect(self.address).await?))
    }
}

struct Cluster {
    server: ApiServer,
    extension: Extension,
    dialer: Arc<Everywhere>,
}

async fn cluster(to_endpoints: bool) -> Cluster {
    let proxies = Pki::generate().unwrap();
    let extension = Extension::start(&proxies).await;
    let dialer = Arc::new(Everywhere { address: extension.address, dialled: Mutex::default() });
    let mut bob = UserInfo::new("bob", ["devs"]);
    bob.uid = "42".to_owned();
    bob.extra.insert("scopes".to_owned(), vec!["read".to_owned(), "write".to_owned()]);
    let headers = RequestHeaders {
        allowed_names: vec!["front-proxy-client".to_owned()],
        ..RequestHeaders::default()
    };
    let server = ApiServer::builder(Arc::new(EmbeddedStore::in_memory()))
        .authenticator(Arc::new(TokenList::default().with("secret", bob)))
        .dialer(dialer.clone())
        .route_to_endpoints(to_endpoints)
        .proxy_client(proxies.client("front-proxy-client", &[]).unwrap())
        .request_headers(headers)
        .extension_authentication(ExtensionAuthentication {
            client_ca_pem: proxies.ca_pem().to_owned(),
            request_header_ca_pem: proxies.ca_pem().to_owned(),
        })
        .start()
        .await
        .unwrap();
    server.roles_ready().await;
    Cluster { server, extension, dialer }
}

impl Cluster {
    async fn post(&self, path: &str, body: Value) -> Answer {
        let request = Request::post(path).header("content-type", "application/json");
        let answer = send(&self.server, request, body.to_string().into_bytes()).await;
        assert_eq!(answer.code, 201, "{path}: {}", answer.body);
        answer
    }

    async fn register(&self) {
        let service = json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": { "name": format!("v1alpha1.{GROUP}") },
            "spec": {
                "group": GROUP, "version": "v1alpha1",
                "groupPriorityMinimum": 2000, "versionPriority": 200,
                "service": { "namespace": "wardle", "name": "api" },
                "caBundle": STANDARD.encode(&self.extension.ca_pem),
            },
        });
        self.post("/apis/apiregistration.k8s.io/v1/apiservices", service).await;
    }

    async fn run_extension(&self) {
        self.post("/api/v1/namespaces", json!({ "metadata": { "name": "wardle" } })).await;
        let ports = json!([{ "port": 443, "targetPort": 8443 }]);
        let spec = json!({ "clusterIP": "10.96.7.7", "ports": ports });
        let service = json!({ "metadata": { "name": "api" }, "spec": spec });
        self.post("/api/v1/namespaces/wardle/services", service).await;
        let labels = json!({ "kubernetes.io/service-name": "api" });
        let slice = json!({
            "metadata": { "name": "api-1", "labels": labels },
            "addressType": "IPv4",
            "ports": [{ "name": "", "port": 8443 }],
            "endpoints": [{ "addresses": ["10.0.0.5"], "conditions": { "ready": true } }],
        });
        let slices = "/apis/discovery.k8s.io/v1/namespaces/wardle/endpointslices";
        self.post(slices, slice).await;
    }

    fn services(&self) -> Api<APIService> {
        Api::all(self.server.client())
    }

    /// Waits until the condition has this reason, and returns its message.
    async fn reason(&self, reason: &str) -> String {
        let name = format!("v1alpha1.{GROUP}");
        eventually(reason, async || {
            let service = self.services().get(&name).await.unwrap();
            let mut conditions = service.status.unwrap_or_default().conditions.unwrap_or_default();
            let is_it = conditions.first().is_some_and(|it| it.reason.as_deref() == Some(reason));
            is_it.then(|| conditions.remove(0).message.unwrap())
        })
        .await
    }

    /// Waits until a document at `path` is as it should be.
    async fn until(&self, path: &str, accept: &str, is_right: impl Fn(&Value) -> bool) -> Value {
        eventually(path, async || {
            let request = Request::get(path).header("accept", accept);
            let found = send(&self.server, request, Vec::new()).await.body;
            is_right(&found).then_some(found)
        })
        .await
    }
}

const FLUNDERS: &str = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

#[tokio::test]
async fn an_api_service_says_what_it_lacks_until_it_is_available() {
    let cluster = cluster(false).await;
    cluster.register().await;
    let missing = cluster.reason("ServiceNotFound").await;
    assert_eq!(missing, "service/api in \"wardle\" is not present");
    let answer = get(&cluster.server, FLUNDERS).await;
    assert_eq!(answer.code, 503);
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");

    cluster.run_extension().await;
    assert_eq!(cluster.reason("Passed").await, "all checks passed");
    assert_eq!(get(&cluster.server, FLUNDERS).await.code, 200);

    cluster.extension.task.abort();
    let ready =
        json!({ "endpoints": [{ "addresses": ["10.0.0.5"], "conditions": { "ready": false } }] });
    let path = "/apis/discovery.k8s.io/v1/namespaces/wardle/endpointslices/api-1";
    let request = Request::patch(path).header("content-type", "application/merge-patch+json");
    send(&cluster.server, request, ready.to_string().into_bytes()).await;
    cluster.reason("MissingEndpoints").await;
    let stale = cluster
        .until("/apis", AGGREGATED, |list| {
            let items = list["items"].as_array().into_iter().flatten();
            items.clone().any(|item| item["versions"][0]["freshness"] == "Stale")
        })
        .await;
    let items = stale["items"].as_array().unwrap();
    let wardle = items.iter().find(|item| item["metadata"]["name"] == GROUP).unwrap();
    assert_eq!(wardle["versions"][0]["resources"][0]["resource"], "flunders", "it is remembered");
}

#[tokio::test]
async fn s38_a_registered_group_is_discovered_and_its_requests_are_passed_on_with_the_user() {
    let cluster = cluster(false).await;
    cluster.run_extension().await;
    cluster.register().await;
    cluster.reason("Passed").await;

    let answer = get(&cluster.server, &format!("{FLUNDERS}?limit=5")).await;
    assert_eq!(
        answer.body["uri"].as_str().unwrap().split_once("/apis").unwrap().1,
        format!("{}?limit=5", &FLUNDERS[5..])
    );
    let remote: Vec<&str> =
        answer.body["remote"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(
        remote,
        [
            "x-remote-user: system:admin",
            "x-remote-group: system:masters",
            "x-remote-group: system:authenticated",
        ]
    );
    let posted = Request::post(FLUNDERS).header("content-type", "application/json");
    let posted = send(&cluster.server, posted, b"{\"a\":1}".to_vec()).await;
    assert_eq!(
        (&posted.body["method"], &posted.body["body"]),
        (&json!("POST"), &json!("{\"a\":1}"))
    );
    assert_eq!(cluster.dialer.dialled.lock().unwrap().last().unwrap(), "10.96.7.7:443");

    let moved = get(&cluster.server, "/apis/wardle.example.com/v1alpha1/moved").await;
    assert_eq!(moved.code, 502, "a backend sends nobody elsewhere");

    let groups = get(&cluster.server, "/apis").await.body;
    let groups = groups["groups"].as_array().unwrap();
    let wardle = groups.iter().find(|group| group["name"] == GROUP).unwrap();
    assert_eq!(wardle["preferredVersion"]["version"], "v1alpha1");
    let group = get(&cluster.server, &format!("/apis/{GROUP}")).await.body;
    assert_eq!(group["kind"], "APIGroup");
    let list = get(&cluster.server, &format!("/apis/{GROUP}/v1alpha1")).await.body;
    assert_eq!(list["resources"][0]["name"], "flunders");
    cluster
        .until("/apis", AGGREGATED, |list| {
            let items = list["items"].as_array().into_iter().flatten();
            let mut wardle = items.filter(|item| item["metadata"]["name"] == GROUP);
            wardle.any(|item| item["versions"][0]["resources"][0]["resource"] == "flunders")
        })
        .await;
    cluster
        .until("/openapi/v3", "application/json", |index| {
            index["paths"]["apis/wardle.example.com/v1alpha1"].is_object()
                && index["paths"]["api/v1"].is_object()
        })
        .await;
    let document =
        get(&cluster.server, "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=1").await;
    assert_eq!(document.body["openapi"], "3.0.0");
    let swagger = get(&cluster.server, "/openapi/v2").await.body;
    assert!(swagger["paths"]["/apis/wardle.example.com/v1alpha1/flunders"].is_object());
    assert!(swagger["definitions"]["com.example.wardle.Flunder"].is_object());
    assert!(swagger["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
}

#[tokio::test]
async fn the_user_is_authorized_first_and_nobody_else_says_who_it_is() {
    let cluster = cluster(true).await;
    cluster.run_extension().await;
    cluster.register().await;
    cluster.reason("Passed").await;
    let endpoint = cluster.dialer.dialled.lock().unwrap().last().unwrap().clone();
    assert_eq!(endpoint, "10.0.0.5:8443", "an endpoint and not the Service's address");

    let ask = async || {
        let request = Request::get(FLUNDERS)
            .header("authorization", "Bearer secret")
            .header("x-remote-user", "root")
            .header("x-remote-group", "system:masters")
            .body(Full::<Bytes>::default())
            .unwrap();
        let answer = tower::ServiceExt::oneshot(cluster.server.clone(), request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice::<Value>(&body).unwrap())
    };
    let (status, body) = ask().await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let message = "flunders.wardle.example.com is forbidden: User \"bob\" cannot list resource \
                   \"flunders\" in API group \"wardle.example.com\" in the namespace \"default\"";
    assert_eq!(body["message"], message);

    let rule = json!({ "apiGroups": [GROUP], "resources": ["*"], "verbs": ["*"] });
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({ "metadata": { "name": "wardle" }, "rules": [rule] });
    cluster.post(&format!("{rbac}/clusterroles"), role).await;
    let binding = json!({
        "metadata": { "name": "wardle" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "wardle" },
        "subjects": [{ "kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "bob" }],
    });
    cluster.post(&format!("{rbac}/clusterrolebindings"), binding).await;
    let (status, body) = ask().await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let mut remote: Vec<&str> =
        body["remote"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    remote.sort();
    assert_eq!(
        remote,
        [
            "x-remote-extra-scopes: read",
            "x-remote-extra-scopes: write",
            "x-remote-group: devs",
            "x-remote-group: system:authenticated",
            "x-remote-uid: 42",
            "x-remote-user: bob",
        ]
    );
}

#[tokio::test]
async fn a_backend_that_proves_nothing_is_not_believed() {
    let cluster = cluster(false).await;
    cluster.run_extension().await;
    cluster.register().await;
    cluster.reason("Passed").await;
    let other = Pki::generate().unwrap();
    let patch = json!({ "spec": { "caBundle": STANDARD.encode(other.ca_pem()) } });
    let name = format!("v1alpha1.{GROUP}");
    let params = PatchParams::default();
    cluster.services().patch(&name, &params, &Patch::Merge(patch)).await.unwrap();
    let is = async |code: u16| {
        eventually("the code", async || {
            (get(&cluster.server, FLUNDERS).await.code == code).then_some(())
        })
        .await;
    };
    is(503).await;
    let patch = json!({ "spec": { "caBundle": null, "insecureSkipTLSVerify": true } });
    cluster.services().patch(&name, &params, &Patch::Merge(patch)).await.unwrap();
    is(200).await;
}

#[tokio::test]
async fn every_version_that_is_served_here_has_a_service() {
    let cluster = cluster(false).await;
    let services = cluster.services().list(&ListParams::default()).await.unwrap().items;
    let apps = services.iter().find(|it| it.metadata.name.as_deref() == Some("v1.apps")).unwrap();
    let condition = &apps.status.as_ref().unwrap().conditions.as_ref().unwrap()[0];
    assert_eq!(condition.reason.as_deref(), Some("Local"));
    assert_eq!(condition.message.as_deref(), Some("Local APIServices are always available"));
    let label = "kube-aggregator.kubernetes.io/automanaged";
    assert_eq!(apps.metadata.labels.as_ref().unwrap()[label], "onstart");

    let crd = json!({
        "metadata": { "name": "widgets.example.com" },
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": { "plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList" },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object" } },
            }],
        },
    });
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    cluster.post(crds, crd).await;
    let services = cluster.services();
    let custom = eventually("a service for the custom group", async || {
        services.get_opt("v1.example.com").await.unwrap()
    })
    .await;
    assert_eq!(custom.metadata.labels.as_ref().unwrap()[label], "true");
    let spec = custom.spec.unwrap();
    assert_eq!((spec.group_priority_minimum, spec.version_priority), (1000, 100));
    let patch = json!({ "spec": { "versions": [{
        "name": "v1", "served": false, "storage": true,
        "schema": { "openAPIV3Schema": { "type": "object" } },
    }]}});
    let unserve = Request::patch(format!("{crds}/widgets.example.com"));
    let unserve = unserve.header("content-type", "application/merge-patch+json");
    let unserved = send(&cluster.server, unserve, patch.to_string().into_bytes()).await;
    assert_eq!(unserved.code, 200, "{}", unserved.body);
    eventually("the service goes with its version", async || {
        services.get_opt("v1.example.com").await.unwrap().is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn other_servers_are_told_whom_to_believe() {
    let cluster = cluster(false).await;
    let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let map = eventually("the map", async || {
        let found = get(&cluster.server, path).await;
        (found.code == 200).then_some(found.body)
    })
    .await;
    let data = &map["data"];
    assert_eq!(data["requestheader-allowed-names"], "[\"front-proxy-client\"]");
    assert_eq!(data["requestheader-username-headers"], "[\"X-Remote-User\"]");
    assert_eq!(data["requestheader-extra-headers-prefix"], "[\"X-Remote-Extra-\"]");
    assert!(data["client-ca-file"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    let role = "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/roles/extension-apiserver-authentication-reader";
    assert_eq!(get(&cluster.server, role).await.code, 200);
}
