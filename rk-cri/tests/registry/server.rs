//! A registry in this process: what it has, what it asks for, and what it does wrong.

use std::{collections::HashMap, convert::Infallible, io::Write, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rk_cri::images::Digest;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

type Body = BoxBody<Bytes, std::io::Error>;

/// What it does wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answers everything with this status.
    Status(u16),
    /// Breaks the connection in the middle of a large blob, so many times.
    Truncate { times: usize },
    /// Answers requests for a range with the whole.
    IgnoreRanges,
    /// Answers requests for a range with an error.
    RefuseRanges,
    /// Sends this blob with one bit changed.
    Flip(Digest),
    /// Sends this blob with something after it.
    Lengthen(Digest),
    /// Sends another manifest than the one asked for by digest.
    OtherManifest,
    /// Sends those who want blobs to another host.
    RedirectBlobs(String),
}

/// What it wants to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    Basic,
    Token,
}

#[derive(Default)]
struct State {
    blobs: HashMap<Digest, Bytes>,
    manifests: HashMap<String, (String, Bytes)>,
    faults: Vec<Fault>,
    login: Option<Login>,
    requests: Vec<String>,
    authorizations: Vec<String>,
    ranges: Vec<u64>,
    sent: HashMap<Digest, u64>,
}

/// It ends when it is dropped.
pub struct Server {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    tls: Option<String>,
    _stop: DropGuard,
}

impl Server {
    pub async fn start() -> Self {
        Self::listen(None).await
    }

    pub async fn start_tls() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.unwrap())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Self::listen(Some((acceptor, made.cert.pem()))).await
    }

    async fn listen(tls: Option<(TlsAcceptor, String)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let stop = CancellationToken::new();
        let (acceptor, ca) = tls.unzip();
        let serving = serve(listener, acceptor, state.clone());
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(serving).await });
        Self { state, address, tls: ca, _stop: stop.drop_guard() }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    pub fn ca(&self) -> &str {
        self.tls.as_deref().unwrap()
    }

    /// The whole name of an image here.
    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }

    pub fn put_blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.state.lock().blobs.insert(digest.clone(), Bytes::copy_from_slice(bytes));
        digest
    }

    /// Keeps a manifest by tag and by digest.
    pub fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        media: &str,
        document: &Value,
    ) -> Digest {
        let bytes = Bytes::from(serde_json::to_vec(document).unwrap());
        let digest = Digest::of(&bytes);
        let mut state = self.state.lock();
        for reference in [tag.to_owned(), digest.to_string()] {
            let key = format!("{repository}/manifests/{reference}");
            state.manifests.insert(key, (media.to_owned(), bytes.clone()));
        }
        digest
    }

    /// Keeps an image of these layers, which may be compressed.
    pub fn push(&self, repository: &str, tag: &str, layers: &[Vec<u8>]) -> Digest {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(&plain(layer))).collect();
        let config = json!({"os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = serde_json::to_vec(&config).unwrap();
        let described: Vec<Value> = layers
            .iter()
            .map(|layer| json!({"digest": self.put_blob(layer), "size": layer.len()}))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": self.put_blob(&config), "size": config.len(),
            },
            "layers": described,
        });
        let media = "application/vnd.oci.image.manifest.v1+json";
        self.put_manifest(repository, tag, media, &manifest)
    }

    pub fn manifest(&self, digest: &Digest) -> Value {
        let state = self.state.lock();
        let mut found = state.manifests.values().filter(|(_, bytes)| Digest::of(bytes) == *digest);
        serde_json::from_slice(&found.next().unwrap().1).unwrap()
    }

    pub fn size(&self, digest: &Digest) -> usize {
        serde_json::to_vec(&self.manifest(digest)).unwrap().len()
    }

    pub fn fault(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    pub fn well_again(&self) {
        self.state.lock().faults.clear();
    }

    pub fn login(&self, login: Login) {
        self.state.lock().login = Some(login);
    }

    /// Methods and paths so far.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().requests.clone()
    }

    pub fn authorizations(&self) -> Vec<String> {
        self.state.lock().authorizations.clone()
    }

    /// Where requests for a range began.
    pub fn ranges(&self) -> Vec<u64> {
        self.state.lock().ranges.clone()
    }

    /// How often a blob was asked for.
    pub fn fetched(&self, digest: &Digest) -> usize {
        let end = format!("/blobs/{digest}");
        let requests = self.requests();
        requests.iter().filter(|line| line.split('?').next().unwrap().ends_with(&end)).count()
    }

    /// How many bytes of a blob were sent.
    pub fn sent(&self, digest: &Digest) -> u64 {
        self.state.lock().sent.get(digest).copied().unwrap_or_default()
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<Mutex<State>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (tls, state) = (tls.clone(), state.clone());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let state = state.clone();
                async move { Ok::<_, Infallible>(answer(&state, request).await) }
            });
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            match tls {
                Some(tls) => {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                }
                None => {
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                }
            }
        });
    }
}

async fn answer(state: &Mutex<State>, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let host = parts.headers[header::HOST].to_str().unwrap().to_owned();
    let shown = parts.headers.get(header::AUTHORIZATION);
    let shown = shown.map(|value| value.to_str().unwrap().to_owned());
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut state = state.lock();
    state.requests.push(format!("{} {}", parts.method, parts.uri));
    state.authorizations.extend(shown.clone());
    let fault =
        |wanted: fn(&Fault) -> bool| state.faults.iter().find(|fault| wanted(fault)).cloned();
    if let Some(Fault::Status(status)) = fault(|fault| matches!(fault, Fault::Status(_))) {
        let errors = json!({"errors": [{"code": "FAULT", "message": "as told"}]});
        return reply(status, &[], Bytes::from(errors.to_string()));
    }
    if path == "/token" {
        let named = shown.as_deref() == Some(ALICE);
        let refreshed = String::from_utf8_lossy(&body).contains("refresh_token=refresh-me");
        return match named || refreshed {
            true => reply(200, &[], Bytes::from(json!({"token": "let-me-in"}).to_string())),
            false => reply(401, &[], Bytes::new()),
        };
    }
    let wanted = match state.login {
        None => None,
        Some(Login::Basic) => Some((ALICE, "Basic realm=\"test\"".to_owned())),
        Some(Login::Token) => Some((
            "Bearer let-me-in",
            format!("Bearer realm=\"http://{host}/token\",service=\"test\""),
        )),
    };
    if let Some((wanted, challenge)) = wanted
        && shown.as_deref() != Some(wanted)
    {
        return reply(401, &[("www-authenticate", challenge)], Bytes::new());
    }
    let rest = path.strip_prefix("/v2/").unwrap_or_default();
    if let Some((_, digest)) = rest.split_once("/blobs/") {
        let redirect = fault(|fault| matches!(fault, Fault::RedirectBlobs(_)));
        if let Some(Fault::RedirectBlobs(host)) = redirect {
            return reply(307, &[("location", format!("http://{host}{path}"))], Bytes::new());
        }
        let range = parts.headers.get(header::RANGE).map(|value| value.to_str().unwrap());
        return blob(&mut state, digest, range);
    }
    let other = fault(|fault| matches!(fault, Fault::OtherManifest)).is_some();
    match state.manifests.get(rest) {
        Some(_) if other && rest.contains("sha256:") => reply(200, &[], Bytes::from("{}")),
        Some((media, bytes)) => {
            let digest = Digest::of(bytes).to_string();
            let headers = [("docker-content-digest", digest), ("content-type", media.clone())];
            let head = parts.method == http::Method::HEAD;
            reply(200, &headers, if head { Bytes::new() } else { bytes.clone() })
        }
        None => reply(404, &[], Bytes::new()),
    }
}

const ALICE: &str = "Basic YWxpY2U6c2VjcmV0";

fn blob(state: &mut State, digest: &str, range: Option<&str>) -> Response<Body> {
    let digest: Digest = digest.parse().unwrap();
    let Some(mut bytes) = state.blobs.get(&digest).cloned() else {
        return reply(404, &[], Bytes::new());
    };
    let mut status = 200;
    let mut headers = Vec::new();
    let has = |state: &State, fault: Fault| state.faults.contains(&fault);
    if let Some(start) =
        range.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
    {
        if has(state, Fault::RefuseRanges) {
            return reply(503, &[], Bytes::new());
        }
        if !has(state, Fault::IgnoreRanges) {
            state.ranges.push(start);
            let all = bytes.len();
            bytes = bytes.slice(start as usize..);
            status = 206;
            headers.push(("content-range", format!("bytes {start}-{}/{all}", all - 1)));
        }
    }
    if has(state, Fault::Flip(digest.clone())) {
        let mut changed = bytes.to_vec();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        bytes = changed.into();
    }
    if has(state, Fault::Lengthen(digest.clone())) {
        bytes = [&bytes[..], b"more"].concat().into();
    }
    let mut cut = None;
    for fault in &mut state.faults {
        if let Fault::Truncate { times } = fault
            && *times > 0
            && bytes.len() > 10_000
        {
            *times -= 1;
            cut = Some(bytes.len() / 4);
        }
    }
    let Some(cut) = cut else {
        *state.sent.entry(digest).or_default() += bytes.len() as u64;
        return reply(status, &headers, bytes);
    };
    *state.sent.entry(digest).or_default() += cut as u64;
    headers.push(("content-length", bytes.len().to_string()));
    let mut response = reply(status, &headers, Bytes::new());
    let broken = Err(std::io::Error::other("broken off"));
    // What goes before is written before the connection breaks.
    let frames = stream::iter([Ok(Frame::data(bytes.slice(..cut)))]).chain(stream::once(async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        broken
    }));
    *response.body_mut() = BodyExt::boxed(StreamBody::new(frames.boxed_sync()));
    response
}

trait BoxedSync: Sized {
    fn boxed_sync(self) -> SyncStream;
}

type SyncStream = std::pin::Pin<
    Box<dyn futures::Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send + Sync>,
>;

impl<S> BoxedSync for S
where
    S: futures::Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send + Sync + 'static,
{
    fn boxed_sync(self) -> SyncStream {
        Box::pin(self)
    }
}

fn reply(status: u16, headers: &[(&str, String)], body: Bytes) -> Response<Body> {
    let mut response = Response::builder().status(StatusCode::from_u16(status).unwrap());
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    let body = http_body_util::Full::new(body).map_err(|never| match never {});
    response.body(BodyExt::boxed(body)).unwrap()
}

/// A layer with one file.
pub fn tar_of(name: &str, content: &str) -> Vec<u8> {
    raw_tar(name.as_bytes(), tar::EntryType::Regular, b"", content.as_bytes())
}

/// A layer with one entry, whose names no library checks.
pub fn raw_tar(name: &[u8], kind: tar::EntryType, link: &[u8], content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    header.set_device_major(0).unwrap();
    header.set_device_minor(0).unwrap();
    let raw = header.as_gnu_mut().unwrap();
    raw.name[..name.len()].copy_from_slice(name);
    raw.linkname[..link.len()].copy_from_slice(link);
    header.set_cksum();
    let mut archive = header.as_bytes().to_vec();
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A layer as the archive that it is.
fn plain(layer: &[u8]) -> Vec<u8> {
    use std::io::Read;
    let mut content = Vec::new();
    let read = match layer {
        [0x1f, 0x8b, ..] => flate2::read::GzDecoder::new(layer).read_to_end(&mut content),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            ruzstd::decoding::StreamingDecoder::new(layer).unwrap().read_to_end(&mut content)
        }
        _ => return layer.to_vec(),
    };
    read.unwrap();
    content
}
