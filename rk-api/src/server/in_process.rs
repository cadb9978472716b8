//! Clients of this process: their requests are calls.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt, TryFutureExt, future::BoxFuture};
use http::{HeaderValue, Request, Response, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use kube::client::Body;
use tower::Service;

use super::{ApiServer, BoxError, ResponseBody, UserInfo, context::Identity};

/// How much of an upgraded stream is buffered in each direction.
const STREAM_BYTES: usize = 64 * 1024;

/// The namespace of a client's objects that name none.
const DEFAULT_NAMESPACE: &str = "default";

impl ApiServer {
    /// A client of this server, as its administrator. It must be made on a tokio runtime.
    pub fn client(&self) -> kube::Client {
        self.client_as(UserInfo::admin())
    }

    /// A client of this server as another user, for example `system:kube-scheduler`.
    pub fn client_as(&self, user: UserInfo) -> kube::Client {
        kube::Client::new(self.transport_as(user), DEFAULT_NAMESPACE)
    }

    /// What [`ApiServer::client_as`] makes a client of, to put layers around it before
    /// [`kube::Client::new`] does.
    pub fn transport_as(&self, user: UserInfo) -> InProcess {
        let agent = HeaderValue::from_str(manager(&user)).ok();
        InProcess { server: self.clone(), user: Arc::new(user), agent }
    }
}

/// The transport of an in-process client: no socket, no TLS, no HTTP framing.
#[derive(Clone, Debug)]
pub struct InProcess {
    server: ApiServer,
    user: Arc<UserInfo>,
    /// The user agent of requests that name none: it manages the fields that they set.
    agent: Option<HeaderValue>,
}

/// Under which name a user manages fields: `kube-scheduler` is what `system:kube-scheduler` runs,
/// and service accounts and nodes have names at the end as well.
fn manager(user: &UserInfo) -> &str {
    user.name.rsplit(':').next().unwrap_or_default()
}

impl tower::Service<Request<Body>> for InProcess {
    type Response = Response<ResponseBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<ResponseBody>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(agent) = &self.agent {
            request.headers_mut().entry(header::USER_AGENT).or_insert_with(|| agent.clone());
        }
        if request.headers().contains_key(header::UPGRADE) {
            return Box::pin(upgrade(self.clone(), request));
        }
        request.extensions_mut().insert(Identity(self.user.clone()));
        self.server.call(request).map_err(BoxError::from).boxed()
    }
}

/// A request that is to become a stream needs a connection: one in memory.
async fn upgrade(
    InProcess { server, user, .. }: InProcess,
    mut request: Request<Body>,
) -> Result<Response<ResponseBody>, BoxError> {
    let (client_end, server_end) = tokio::io::duplex(STREAM_BYTES);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Identity(user.clone()));
        server.clone().call(request)
    });
    let serving = http1::Builder::new().serve_connection(TokioIo::new(server_end), service);
    // Both end with the stream, or with the answer when there is none.
    tokio::spawn(serving.with_upgrades());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(client_end)).await?;
    tokio::spawn(connection.with_upgrades());
    request.headers_mut().entry(header::HOST).or_insert(HeaderValue::from_static("localhost"));
    let response = sender.send_request(request).await?;
    Ok(response.map(ResponseBody::stream))
}
