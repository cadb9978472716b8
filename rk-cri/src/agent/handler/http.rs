//! `httpGet`: one GET, with what redirects lead to on the same host.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::Dial;

/// How many redirects are followed.
const REDIRECTS_MAX: usize = 10;

/// Where a GET goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) https: bool,
    pub(super) host: IpAddr,
    pub(super) port: u16,
    pub(super) path: String,
}

impl Target {
    pub(super) fn new(get: &HTTPGetAction, address: SocketAddr) -> Self {
        let path = get.path.as_deref().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        Self {
            https: get.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
            host: address.ip(),
            port: address.port(),
            path: format!("{slash}{path}"),
        }
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }

    /// Where a redirect leads; `None` when that is another host, or no address at all.
    fn redirected(&self, location: &str) -> Option<Self> {
        let location = location.split('#').next().unwrap_or_default();
        let full = match location {
            _ if location.contains("://") => location.to_owned(),
            _ if location.starts_with("//") => format!("{}:{location}", self.scheme()),
            _ if location.starts_with('/') => self.with_path(location),
            _ => {
                let path = self.path.split('?').next().unwrap_or_default();
                let directory = &path[..=path.rfind('/').unwrap_or(0)];
                self.with_path(&format!("{directory}{location}"))
            }
        };
        let uri: Uri = full.parse().ok()?;
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
        let https = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        (host.parse() == Ok(self.host)).then_some(Self { https, host: self.host, port, path })
    }

    fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    fn with_path(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme(), self.address())
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.with_path(&self.path))
    }
}

/// The headers of a request: the kubelet's own, with those of the probe in their place. An empty
/// value takes a header away.
pub(super) fn headers(get: &HTTPGetAction) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for own in get.http_headers.iter().flatten() {
        let name = HeaderName::try_from(own.name.to_lowercase());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(&own.value)) {
            headers.append(name, value);
        }
    }
    let defaults = [(header::USER_AGENT, "kube-probe/1.37"), (header::ACCEPT, "*/*")];
    for (name, value) in defaults {
        match headers.get(&name) {
            None => drop(headers.insert(name, HeaderValue::from_static(value))),
            Some(value) if value.is_empty() => drop(headers.remove(&name)),
            Some(_) => {}
        }
    }
    headers
}

/// The status of a GET: the last one when there were redirects. An error is what went wrong.
pub(super) async fn get(
    dial: Dial<'_>,
    mut target: Target,
    headers: &HeaderMap,
) -> Result<StatusCode, String> {
    for _ in 0..=REDIRECTS_MAX {
        let (status, location) = once(dial, &target, headers).await?;
        let moved = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
        let next = location.filter(|_| moved).and_then(|location| target.redirected(&location));
        match next {
            Some(next) => target = next,
            // A redirect to another host is an answer, too.
            None => return Ok(status),
        }
    }
    Err(format!("stopped after {REDIRECTS_MAX} redirects"))
}

async fn once(
    dial: Dial<'_>,
    target: &Target,
    headers: &HeaderMap,
) -> Result<(StatusCode, Option<String>), String> {
    let stream = dial(target.address()).await?;
    if !target.https {
        return exchange(stream, target, headers).await;
    }
    let name = ServerName::IpAddress(target.host.into());
    let tls = TlsConnector::from(any_certificate()?).connect(name, stream).await;
    exchange(tls.map_err(|error| format!("tls: {error}"))?, target, headers).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    target: &Target,
    headers: &HeaderMap,
) -> Result<(StatusCode, Option<String>), String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let mut request = Request::new(Empty::<bytes::Bytes>::new());
    *request.uri_mut() = target.path.parse().map_err(|_| "invalid path".to_string())?;
    *request.headers_mut() = headers.clone();
    let headers = request.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    if let (false, Ok(host)) =
        (headers.contains_key(header::HOST), HeaderValue::try_from(target.address().to_string()))
    {
        headers.insert(header::HOST, host);
    }
    // The connection is driven here, so that it ends with the probe.
    let answer = sender.send_request(request);
    tokio::pin!(answer, connection);
    let response = tokio::select! { biased;
        response = &mut answer => response,
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(error),
        },
    };
    match response {
        Ok(response) => {
            let location = response.headers().get(header::LOCATION);
            let location = location.and_then(|value| value.to_str().ok()).map(str::to_owned);
            Ok((response.status(), location))
        }
        Err(error) if error.is_incomplete_message() => Err("EOF".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// TLS that takes any certificate: a probe asks whether a server answers, not who it is.
fn any_certificate() -> Result<Arc<ClientConfig>, String> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(config.clone());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    Ok(CONFIG.get_or_init(|| Arc::new(config)).clone())
}

#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use rustls::pki_types::PrivateKeyDer;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::runtime::Io;

    fn action(value: serde_json::Value) -> HTTPGetAction {
        serde_json::from_value(value).unwrap()
    }

    fn target(path: &str) -> Target {
        Target { https: false, host: [10, 0, 0, 1].into(), port: 8080, path: path.into() }
    }

    /// Answers a request by its first line and headers.
    async fn serve(mut io: impl AsyncRead + AsyncWrite + Unpin, answer: fn(&str) -> String) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(io.read_u8().await.unwrap());
        }
        io.write_all(answer(&String::from_utf8(request).unwrap()).as_bytes()).await.unwrap();
        io.shutdown().await.unwrap();
    }

    async fn ask(
        target: Target,
        headers: &HeaderMap,
        answer: fn(&str) -> String,
    ) -> Result<StatusCode, String> {
        let dial = |_: SocketAddr| {
            let (near, far) = tokio::io::duplex(4096);
            tokio::spawn(serve(far, answer));
            async { Ok(Box::new(near) as Box<dyn Io>) }.boxed()
        };
        get(&dial, target, headers).await
    }

    #[tokio::test]
    async fn headers_are_the_probes_and_ours() {
        let get = action(json!({"port": 1, "httpHeaders": [
            {"name": "Host", "value": "shop.example"}, {"name": "X-A", "value": "1"},
            {"name": "X-A", "value": "2"}, {"name": "Accept", "value": ""}]}));
        let headers = headers(&get);
        let status = ask(target("/x"), &headers, |request| {
            let good = request.starts_with("GET /x HTTP/1.1\r\n")
                && request.contains("host: shop.example\r\n")
                && request.contains("x-a: 1\r\nx-a: 2\r\n")
                && request.contains("user-agent: kube-probe/")
                && !request.contains("accept");
            format!("HTTP/1.1 {} X\r\n\r\n", if good { 200 } else { 400 })
        });
        assert_eq!(status.await, Ok(StatusCode::OK));
    }

    #[tokio::test]
    async fn redirects_are_followed_on_the_same_host_only() {
        let answer: fn(&str) -> String = |request| match request.split(' ').nth(1) {
            Some("/a/one") => "HTTP/1.1 302 X\r\nlocation: two?x=1\r\n\r\n".into(),
            Some("/a/two?x=1") => "HTTP/1.1 301 X\r\nlocation: http://10.0.0.1/end\r\n\r\n".into(),
            Some("/end") => "HTTP/1.1 503 X\r\n\r\n".into(),
            Some("/away") => "HTTP/1.1 302 X\r\nlocation: https://example.com/\r\n\r\n".into(),
            _ => "HTTP/1.1 302 X\r\nlocation: /again\r\n\r\n".into(),
        };
        let none = HeaderMap::new();
        assert_eq!(ask(target("/a/one"), &none, answer).await, Ok(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(ask(target("/away"), &none, answer).await, Ok(StatusCode::FOUND));
        let endless = ask(target("/again"), &none, answer).await;
        assert_eq!(endless, Err("stopped after 10 redirects".into()));
    }

    #[tokio::test]
    async fn https_takes_any_certificate() {
        let made = rcgen::generate_simple_self_signed(["elsewhere.example".to_string()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key)
                .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let dial = |_: SocketAddr| {
            let (near, far) = tokio::io::duplex(4096);
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let io = acceptor.accept(far).await.unwrap();
                serve(io, |_| "HTTP/1.1 204 X\r\n\r\n".into()).await;
            });
            async { Ok(Box::new(near) as Box<dyn Io>) }.boxed()
        };
        let get_it = action(json!({"port": 1, "scheme": "HTTPS", "path": "healthz"}));
        let target = Target::new(&get_it, "10.0.0.1:8443".parse().unwrap());
        assert_eq!(target.to_string(), "https://10.0.0.1:8443/healthz");
        assert_eq!(get(&dial, target, &HeaderMap::new()).await, Ok(StatusCode::NO_CONTENT));
    }
}
