//! A request that a backend serves.

use std::{sync::Arc, time::Duration};

use http::{Response, StatusCode};

use super::backend::{Backend, plain_error, set_user};
use crate::server::{
    Inner,
    body::{self, ResponseBody},
    context::Identity,
    layers::Req,
    outbound::OutboundError,
    proxy::{Exchange, Target},
    user::UserInfo,
};

/// How long a backend may take for the document of a version: clients ask for all of them, and one
/// must not hold up the others.
const DISCOVERED_WITHIN: Duration = Duration::from_secs(5);

/// Passes a request on and its answer back.
pub(in crate::server) async fn serve(
    server: &Inner,
    backend: &Backend,
    request: Req,
) -> Response<ResponseBody> {
    if !backend.is_available() {
        return plain_error(StatusCode::SERVICE_UNAVAILABLE, "service unavailable");
    }
    let Some(Identity(user)) = request.extensions().get::<Identity>().cloned() else {
        return plain_error(StatusCode::INTERNAL_SERVER_ERROR, "missing user");
    };
    let uri = request.uri();
    let is_openapi = uri.path().starts_with("/openapi/");
    let is_discovery = uri.path().trim_matches('/').split('/').count() == 3;
    let target = Target {
        path: uri.path_and_query().map_or_else(|| uri.path().to_owned(), ToString::to_string),
        prefix: String::new(),
        host: backend.host(),
        may_redirect: false,
    };
    let headers = request.headers().clone();
    let (mut request, pending) = match Exchange::of(request).outgoing(target) {
        Ok(outgoing) => outgoing,
        Err(error) => return body::failure(&headers, &error),
    };
    // Who may see this server's documents may see all of them.
    let user = match is_openapi {
        true => Arc::new(UserInfo::new("system:aggregator", ["system:masters"])),
        false => user,
    };
    set_user(request.headers_mut(), &user);
    let asked = server.outbound.request(backend.endpoint(), request);
    let answer = match is_discovery {
        true => tokio::time::timeout(DISCOVERED_WITHIN, asked).await,
        false => Ok(asked.await),
    };
    let why = match answer {
        Ok(Ok(answer)) => return pending.answer(answer),
        Ok(Err(OutboundError::Call { cause, .. })) => cause.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "context deadline exceeded".to_owned(),
    };
    let text = format!("error trying to reach service: {why}");
    plain_error(StatusCode::SERVICE_UNAVAILABLE, &text)
}
