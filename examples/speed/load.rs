//! A load generator: many connections, each asking again as soon as it is answered.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{net::TcpStream, time::Instant};

/// Whatever goes wrong while measuring.
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// The token that the measured servers accept.
pub(crate) const TOKEN: &str = "speed";

/// Answers and how long each took.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    sorted: Vec<Duration>,
    elapsed: Duration,
}

impl Latencies {
    /// From the latency of each call and the time that they took all together.
    pub(crate) fn new(mut calls: Vec<Duration>, elapsed: Duration) -> Self {
        calls.sort_unstable();
        Self { sorted: calls, elapsed }
    }

    /// Calls per second.
    pub(crate) fn rate(&self) -> f64 {
        self.sorted.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that 99 of 100 calls stayed below.
    pub(crate) fn p99(&self) -> Duration {
        let index = self.sorted.len().saturating_sub(1) * 99 / 100;
        self.sorted.get(index).copied().unwrap_or_default()
    }
}

/// An HTTPS connection to the API server.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    /// Connects, trusting the CA of this kubeconfig.
    pub(crate) async fn open(address: SocketAddr, ca: &[u8]) -> Result<Self, Error> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(address.ip());
        let stream =
            tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, host: address.to_string() })
    }

    /// Asks, and returns the answer with its body still to be read.
    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Error> {
        // A PATCH is a server-side apply.
        let content = match method {
            "PATCH" => "application/apply-patch+yaml",
            _ => "application/json",
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("accept", "application/json")
            .header("content-type", content)
            .body(Full::new(body))?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    /// Asks, and reads the whole answer, which must have this status.
    pub(crate) async fn call(
        &mut self,
        method: &str,
        path: &str,
        body: Bytes,
        status: StatusCode,
    ) -> Result<Bytes, Error> {
        let response = self.send(method, path, body).await?;
        let found = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if found == status {
            Ok(body)
        } else {
            Err(format!("{method} {path}: {found}: {}", String::from_utf8_lossy(&body)).into())
        }
    }
}

/// Runs `workers` loops at once, `calls` calls in all; `call` makes call number n of worker w.
pub(crate) async fn run<C, F>(workers: usize, calls: usize, make: C) -> Result<Latencies, Error>
where
    C: Fn(usize) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Box<dyn Caller>, Error>> + Send,
{
    let mut callers = Vec::with_capacity(workers);
    for worker in 0..workers {
        callers.push(make(worker).await?);
    }
    let begin = Instant::now();
    let tasks: Vec<_> = callers
        .into_iter()
        .enumerate()
        .map(|(worker, mut caller)| {
            tokio::spawn(async move {
                let mut latencies = Vec::with_capacity(calls / workers + 1);
                for n in (worker..calls).step_by(workers) {
                    let begin = Instant::now();
                    caller.call(n).await?;
                    latencies.push(begin.elapsed());
                }
                Ok::<_, Error>(latencies)
            })
        })
        .collect();
    let mut latencies = Vec::with_capacity(calls);
    for task in tasks {
        latencies.extend(task.await??);
    }
    Ok(Latencies::new(latencies, begin.elapsed()))
}

/// One worker of [`run`].
#[async_trait::async_trait]
pub(crate) trait Caller: Send {
    /// Makes call number `n`.
    async fn call(&mut self, n: usize) -> Result<(), Error>;
}

/// A Pod like those of the reference figures: some 2 KB of JSON when stored.
pub(crate) fn pod(name: &str) -> Bytes {
    let value = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "speed", "tier": "backend", "release": "r1"},
            "annotations": {"example.com/checksum": "0123456789abcdef0123456789abcdef"}},
        "spec": {"containers": [
            {"name": "app", "image": "registry.example.com/team/app:v1.2.3",
             "command": ["/app", "--listen=:8080", "--log-level=info"],
             "env": [{"name": "A", "value": "one"}, {"name": "B", "value": "two"},
                     {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
             "ports": [{"name": "http", "containerPort": 8080}],
             "resources": {"requests": {"cpu": "100m", "memory": "128Mi"},
                           "limits": {"cpu": "500m", "memory": "256Mi"}},
             "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}}}],
            "tolerations": [{"key": "example.com/pool", "operator": "Exists"}]}
    });
    Bytes::from(value.to_string())
}
