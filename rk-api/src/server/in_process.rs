//! Clients of this process: their requests are calls.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use kube::client::Body;

use super::{ApiServer, ResponseBody, UserInfo, context::Identity};

/// The namespace of a client's objects that name none.
const DEFAULT_NAMESPACE: &str = "default";

impl ApiServer {
    /// A client of this server, as its administrator. It must be made on a tokio runtime.
    pub fn client(&self) -> kube::Client {
        self.client_as(UserInfo::admin())
    }

    /// A client of this server as another user, for example `system:kube-scheduler`.
    pub fn client_as(&self, user: UserInfo) -> kube::Client {
        let service = InProcess { server: self.clone(), user: Arc::new(user) };
        kube::Client::new(service, DEFAULT_NAMESPACE)
    }
}

/// The transport of an in-process client: no socket, no TLS, no HTTP framing.
#[derive(Clone, Debug)]
struct InProcess {
    server: ApiServer,
    user: Arc<UserInfo>,
}

impl tower::Service<Request<Body>> for InProcess {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<ResponseBody>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.extensions_mut().insert(Identity(self.user.clone()));
        self.server.call(request)
    }
}
