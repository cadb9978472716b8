//! The kubelet's API over HTTPS, for those who may ask.

use std::{convert::Infallible, sync::Arc};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use rk_api::server::{ServerTls, serve_https};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    KubeletApi, KubeletBody,
    access::{Access, Denied},
    text,
};

impl KubeletApi {
    /// Serves HTTPS until `shutdown`. Every request is judged by `access` first: who shows a
    /// certificate of the authority that `tls` trusts is known by it.
    pub async fn serve_https(
        self,
        listener: TcpListener,
        tls: ServerTls,
        access: Access,
        shutdown: CancellationToken,
    ) {
        let access = Arc::new(access);
        let answer = move |request: Request<Incoming>| {
            let (api, access) = (self.clone(), access.clone());
            async move { Ok::<_, Infallible>(api.answer_for(&access, request).await) }
        };
        serve_https(listener, tls, answer, shutdown).await;
    }

    async fn answer_for(
        self,
        access: &Access,
        request: Request<Incoming>,
    ) -> Response<KubeletBody> {
        let (parts, body) = request.into_parts();
        match access.check(&parts).await {
            Ok(()) => self.answer(Request::from_parts(parts, body)).await,
            Err(Denied::Unauthenticated(why)) => {
                tracing::debug!(why, "a request to the kubelet is not authenticated");
                text(StatusCode::UNAUTHORIZED, "Unauthorized")
            }
            Err(Denied::Forbidden(why)) => text(StatusCode::FORBIDDEN, why),
            Err(Denied::Unknown(why)) => text(StatusCode::INTERNAL_SERVER_ERROR, why),
        }
    }
}
