use std::{convert::Infallible, net::SocketAddr};

use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::{rt::TokioIo, server::conn::auto};
use rk_store::EmbeddedStore;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    resources::Resources,
    server::{cache::Cache, pki::Pki, reader::Reader},
};

/// Reaches everybody at one address, whatever they are called.
#[derive(Debug)]
struct Always(SocketAddr);

#[async_trait]
impl Dialer for Always {
    async fn dial(&self, _: &str, _: u16) -> io::Result<Box<dyn Io>> {
        Ok(Box::new(TcpStream::connect(self.0).await?))
    }
}

/// Serves HTTPS as `name`, answering each request with its path, and a path `/<code>` with that.
async fn serve(pki: &Pki, name: &str) -> SocketAddr {
    let identity = pki.server(name, &[name.to_owned()]).unwrap();
    let tls = crate::server::ServerTls::new(&identity, pki.ca_pem()).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(ServerConfig::clone(&tls.config)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let answer = service_fn(|request: Request<Incoming>| async move {
                    let path = request.uri().path_and_query().unwrap().to_string();
                    let code = request.uri().path()[1..].parse().unwrap_or(200);
                    let answer = Response::builder().status(code).header("location", "/200");
                    Ok::<_, Infallible>(answer.body(Full::new(Bytes::from(path))).unwrap())
                });
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
    address
}

async fn outbound(dialer: impl Dialer) -> Outbound {
    let store = Arc::new(EmbeddedStore::in_memory());
    let resources = Resources::builtin();
    let cache = Cache::start(store, &resources, Default::default()).await.unwrap();
    let reader = Reader { cache, resources };
    Outbound::new(Arc::new(dialer), Services::of(&reader, false))
}

async fn ask(outbound: &Outbound, endpoint: &Endpoint) -> Result<String, String> {
    let answer = outbound.post_json(endpoint, Duration::from_secs(10), Bytes::from("{}")).await;
    answer
        .map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
        .map_err(|error| error.to_string())
}

fn trust(pki: &Pki) -> Trust {
    Trust::Authorities(pki.ca_pem().into())
}

#[tokio::test]
async fn an_endpoint_proves_who_it_is() {
    let (pki, other) = (Pki::generate().unwrap(), Pki::generate().unwrap());
    let outbound = outbound(Always(serve(&pki, "hook.example.com").await)).await;
    let at =
        |host: &str, trust| Endpoint::url(&format!("https://{host}/x")).unwrap().trusting(trust);

    let known = at("hook.example.com", trust(&pki));
    assert_eq!(ask(&outbound, &known).await.unwrap(), "/x?timeout=10s");
    let anybody = at("elsewhere", Trust::Anybody);
    assert_eq!(ask(&outbound, &anybody).await.unwrap(), "/x?timeout=10s");

    let stranger = at("hook.example.com", trust(&other));
    assert_eq!(
        ask(&outbound, &stranger).await.unwrap_err(),
        "Post \"https://hook.example.com/x?timeout=10s\": tls: failed to verify certificate: x509: \
         certificate signed by unknown authority"
    );
    let misnamed = at("elsewhere", trust(&pki));
    assert_eq!(
        ask(&outbound, &misnamed).await.unwrap_err(),
        "Post \"https://elsewhere/x?timeout=10s\": tls: failed to verify certificate: x509: \
         certificate is valid for hook.example.com, not elsewhere"
    );
}

#[tokio::test]
async fn a_certificate_in_the_bundle_needs_no_authority() {
    let pki = Pki::generate().unwrap();
    let identity = pki.server("hook", &["hook".to_owned()]).unwrap();
    let acceptor = crate::server::ServerTls::new(&identity, pki.ca_pem()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(acceptor.config.clone());
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    let bundle = Trust::Authorities(identity.certificate_pem.into());
    for (host, fits) in [("hook", true), ("other", false)] {
        let reach = Reach {
            dialer: Arc::new(Always(address)),
            services: outbound(TcpDialer).await.services,
            service: None,
        };
        let connector = Connector::new(reach, tls::config(&bundle, None).unwrap());
        let uri: Uri = format!("https://{host}/").parse().unwrap();
        assert_eq!(connector.open(&uri).await.is_ok(), fits, "{host}");
    }
}

#[tokio::test]
async fn answers_that_are_no_success_are_errors() {
    let pki = Pki::generate().unwrap();
    let outbound = outbound(Always(serve(&pki, "hook").await)).await;
    let at =
        |path: &str| Endpoint::url(&format!("https://hook/{path}")).unwrap().trusting(trust(&pki));
    for (path, expected) in [
        ("404", "the server could not find the requested resource"),
        (
            "500",
            "an error on the server (\"/500?timeout=10s\") has prevented the request from succeeding",
        ),
        (
            "302",
            "the server responded with the status code 302 but did not return more information",
        ),
    ] {
        assert_eq!(ask(&outbound, &at(path)).await.unwrap_err(), expected);
    }
}

#[tokio::test]
async fn who_is_not_reached_is_named() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let outbound = outbound(TcpDialer).await;
    let refused = Endpoint::url(&format!("https://{closed}/")).unwrap();
    assert_eq!(
        ask(&outbound, &refused).await.unwrap_err(),
        format!(
            "Post \"https://{closed}/?timeout=10s\": dial tcp {closed}: connect: connection refused"
        )
    );
    let service = Endpoint::service("ns", "hook", 443, "check");
    assert_eq!(
        ask(&outbound, &service).await.unwrap_err(),
        "Post \"https://hook.ns.svc:443/check?timeout=10s\": service \"hook\" not found"
    );
    let unusable =
        Endpoint::url("https://h/").unwrap().trusting(Trust::Authorities(b"no".to_vec()));
    assert!(ask(&outbound, &unusable).await.unwrap_err().contains("unable to parse"));
    assert!(Endpoint::url("/path").is_err());
}

#[tokio::test]
async fn a_silent_endpoint_is_waited_for_only_so_long() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let outbound = outbound(TcpDialer).await;
    let silent = Endpoint::url(&format!("http://{address}/")).unwrap();
    let asked = outbound.post_json(&silent, Duration::from_millis(50), Bytes::new()).await;
    assert_eq!(
        asked.unwrap_err().to_string(),
        format!("Post \"http://{address}/?timeout=50ms\": context deadline exceeded")
    );
}

#[tokio::test]
async fn a_request_is_passed_on_as_it_is() {
    let pki = Pki::generate().unwrap();
    let outbound = outbound(Always(serve(&pki, "api").await)).await;
    let endpoint = Endpoint::url("https://api").unwrap().trusting(trust(&pki));
    let body = Full::new(Bytes::new());
    let request = Request::get("/apis?x=1").body(body.clone()).unwrap();
    let answer = outbound.request(&endpoint, request).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "/apis?x=1");
    let upgrade = Request::get("/204").header(header::UPGRADE, "x").body(body).unwrap();
    assert_eq!(outbound.request(&endpoint, upgrade).await.unwrap().status(), 204);
}

#[test]
fn times_are_written_as_in_go() {
    for (millis, text) in [(10_000, "10s"), (50, "50ms"), (1500, "1.5s"), (60_000, "1m0s")] {
        assert_eq!(go_duration(Duration::from_millis(millis)), text);
    }
}
