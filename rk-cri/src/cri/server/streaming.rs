//! The HTTP server behind the URLs of `Exec`, `Attach` and `PortForward`.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::Instant,
};
use tonic::Status;

use crate::{
    agent::{KubeletBody, Refusal, port_forward, session, text},
    runtime::{ExecRequest, Runtime},
};

/// How long a URL can be used.
const USE_WITHIN: Duration = Duration::from_secs(60);
/// How many URLs wait to be used.
const WAITING_MAX: usize = 1000;

/// What a URL stands for.
#[derive(Debug)]
pub(super) enum Target {
    Exec { id: String, exec: ExecRequest, wanted: session::Wanted },
    Attach { id: String, wanted: session::Wanted },
    PortForward { sandbox: String, ports: Vec<String> },
}

/// The server. It ends with its last owner.
#[derive(Debug)]
pub(super) struct Streaming {
    address: SocketAddr,
    waiting: Arc<Waiting>,
    server: AbortHandle,
}

/// URLs that were given out, by their secret.
#[derive(Debug, Default)]
struct Waiting(Mutex<HashMap<String, (Instant, Target)>>);

impl Waiting {
    fn add(&self, target: Target, now: Instant) -> Option<String> {
        let mut waiting = self.0.lock();
        waiting.retain(|_, (since, _)| now.duration_since(*since) < USE_WITHIN);
        if waiting.len() >= WAITING_MAX {
            return None;
        }
        // Not from the seed of a simulation: it is a secret.
        let token = rk_api::rng::Rng::from_os().uuid();
        waiting.insert(token.clone(), (now, target));
        Some(token)
    }

    /// What a secret stands for; it is used up.
    fn take(&self, token: &str, now: Instant) -> Option<Target> {
        let (since, target) = self.0.lock().remove(token)?;
        (now.duration_since(since) < USE_WITHIN).then_some(target)
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Streaming {
    /// Listens on the loopback interface.
    pub(super) async fn start(runtime: Arc<dyn Runtime>) -> io::Result<Arc<Self>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let waiting = Arc::<Waiting>::default();
        let server = tokio::spawn(run(listener, runtime, waiting.clone())).abort_handle();
        Ok(Arc::new(Self { address, waiting, server }))
    }

    /// A URL for `target`.
    pub(super) fn url(&self, target: Target) -> Result<String, Status> {
        let verb = match &target {
            Target::Exec { .. } => "exec",
            Target::Attach { .. } => "attach",
            Target::PortForward { .. } => "portforward",
        };
        match self.waiting.add(target, Instant::now()) {
            Some(token) => Ok(format!("http://{}/{verb}/{token}", self.address)),
            None => Err(Status::resource_exhausted("too many streams wait to be opened")),
        }
    }
}

async fn run(listener: TcpListener, runtime: Arc<dyn Runtime>, waiting: Arc<Waiting>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! { biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, runtime.clone(), waiting.clone()));
                }
                // Out of descriptors, for example: that passes.
                Err(error) => {
                    tracing::warn!(%error, "a connection for streams was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

async fn connection(stream: TcpStream, runtime: Arc<dyn Runtime>, waiting: Arc<Waiting>) {
    stream.set_nodelay(true).ok();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let answer = answer(request, runtime.clone(), &waiting);
        let answer = answer.unwrap_or_else(|(status, why)| text(status, why));
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let server = hyper::server::conn::http1::Builder::new();
    let connection = server.serve_connection(TokioIo::new(stream), service).with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection for streams ends");
    }
}

fn answer(
    mut request: Request<Incoming>,
    runtime: Arc<dyn Runtime>,
    waiting: &Waiting,
) -> Result<Response<KubeletBody>, Refusal> {
    let unknown = || (StatusCode::NOT_FOUND, "404 page not found".to_owned());
    let token = request.uri().path().rsplit('/').next().unwrap_or_default();
    match waiting.take(token, Instant::now()).ok_or_else(unknown)? {
        Target::Exec { id, exec, wanted } => {
            let open = async move { runtime.exec(&id, exec).await };
            session::answer(&mut request, wanted, open)
        }
        Target::Attach { id, wanted } => {
            let open = async move { runtime.attach(&id).await };
            session::answer(&mut request, wanted, open)
        }
        Target::PortForward { sandbox, ports } => {
            let ports = ports.iter().map(String::as_str);
            port_forward::answer(&mut request, ports, runtime, sandbox)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target::PortForward { sandbox: "s".into(), ports: Vec::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_url_works_once_and_for_a_minute() {
        let waiting = Waiting::default();
        let (now, later) = (Instant::now(), Instant::now() + USE_WITHIN);
        let token = waiting.add(target(), now).unwrap();
        assert!(waiting.take(&token, now).is_some());
        assert!(waiting.take(&token, now).is_none(), "twice");
        let token = waiting.add(target(), now).unwrap();
        assert!(waiting.take(&token, later).is_none(), "too late");
        assert!(waiting.take("", now).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_an_end_to_urls_that_nobody_uses() {
        let waiting = Waiting::default();
        let now = Instant::now();
        for _ in 0..WAITING_MAX {
            assert!(waiting.add(target(), now).is_some());
        }
        assert!(waiting.add(target(), now).is_none());
        assert!(waiting.add(target(), now + USE_WITHIN).is_some(), "the old ones are forgotten");
    }
}
