//! The layers that every request passes before its handler, outermost first, in kube-apiserver's
//! order. Each is a `tower` service around the next.

pub mod authentication;
pub mod authorization;
pub mod metrics;
pub mod panic_guard;
pub mod request_info;
pub mod timeout;

use std::convert::Infallible;

use futures::future::BoxFuture;
use http::{Request, Response};

use super::body::{RequestBody, ResponseBody};

/// What a layer takes.
pub type Req = Request<RequestBody>;

/// What a layer gives: failures are answers too.
pub type Res = Result<Response<ResponseBody>, Infallible>;

/// The future of a layer that awaits something of its own.
pub type LayerFuture = BoxFuture<'static, Res>;

/// A service that a layer wraps.
pub trait Next:
    tower::Service<Req, Response = Response<ResponseBody>, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Next for S where
    S: tower::Service<
            Req,
            Response = Response<ResponseBody>,
            Error = Infallible,
            Future: Send + 'static,
        > + Clone
        + Send
        + Sync
        + 'static
{
}
