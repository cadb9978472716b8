//! The layers that every request passes before its handler, outermost first, in kube-apiserver's
//! order. Each is a `tower` service around the next.

pub(super) mod audit;
pub(super) mod authentication;
pub(super) mod authorization;
pub(super) mod flow_control;
pub(super) mod impersonation;
pub(super) mod metrics;
pub(super) mod panic_guard;
pub(super) mod request_info;
pub(super) mod timeout;

use std::convert::Infallible;

use futures::future::BoxFuture;
use http::{Request, Response};

use super::body::{RequestBody, ResponseBody};

/// What a layer takes.
pub(super) type Req = Request<RequestBody>;

/// What a layer gives: failures are answers too.
pub(super) type Res = Result<Response<ResponseBody>, Infallible>;

/// The future of a layer that awaits something of its own.
pub(super) type LayerFuture = BoxFuture<'static, Res>;

/// A service that a layer wraps.
pub(super) trait Next:
    tower::Service<Req, Response = Response<ResponseBody>, Error = Infallible, Future = LayerFuture>
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
            Future = LayerFuture,
        > + Clone
        + Send
        + Sync
        + 'static
{
}
