//! WebSocket upgrades with Kubernetes' channel subprotocols: each message begins with the number of
//! its channel.

use std::future::Future;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

use super::{KubeletBody, Refusal};

/// The connection after the upgrade.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// How messages are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// `channel.k8s.io`: errors are text.
    V1,
    /// `v4.channel.k8s.io`: how it ended is a `Status`.
    V4,
    /// `v5.channel.k8s.io`: a client can close a channel.
    V5,
}

const PROTOCOLS: [(&str, Protocol); 3] = [
    ("v5.channel.k8s.io", Protocol::V5),
    ("v4.channel.k8s.io", Protocol::V4),
    ("channel.k8s.io", Protocol::V1),
];

/// Answers an upgrade request, and hands the connection to `talk` once it is upgraded.
pub(super) fn upgrade<B, F, Fut>(
    request: &mut Request<B>,
    talk: F,
) -> Result<Response<KubeletBody>, Refusal>
where
    F: FnOnce(Socket, Protocol) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let refuse = |why: &str| Err((StatusCode::BAD_REQUEST, why.to_string()));
    let headers = request.headers();
    let value = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    match value(header::UPGRADE) {
        Some(upgrade) if upgrade.eq_ignore_ascii_case("websocket") => {}
        Some(other) => {
            return refuse(&format!(
                "unable to upgrade: {other} is neither websocket nor SPDY/3.1"
            ));
        }
        None => return refuse("unable to upgrade: missing upgrade headers in request"),
    }
    let Some(key) = value(header::SEC_WEBSOCKET_KEY) else {
        return refuse("unable to upgrade: no Sec-WebSocket-Key");
    };
    let accept = derive_accept_key(key.as_bytes());
    // The client's order decides; a client that names none means the first version.
    let offers = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let offers: Vec<&str> = offers
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .collect();
    let known = |offer: &&str| PROTOCOLS.iter().find(|(name, _)| name == offer);
    let chosen = offers.iter().find_map(known);
    if chosen.is_none() && !offers.is_empty() {
        let why = format!("unable to upgrade: none of the subprotocols {offers:?} is supported");
        return refuse(&why);
    }

    let upgraded = hyper::upgrade::on(request);
    let protocol = chosen.map_or(Protocol::V1, |(_, protocol)| *protocol);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(connection) => {
                let io = TokioIo::new(connection);
                talk(WebSocketStream::from_raw_socket(io, Role::Server, None).await, protocol)
                    .await;
            }
            Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
        }
    });
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::UPGRADE, "websocket")
        .header(header::CONNECTION, "Upgrade")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some((name, _)) = chosen {
        response = response.header(header::SEC_WEBSOCKET_PROTOCOL, *name);
    }
    let body = Empty::<Bytes>::new().boxed_unsync();
    response.body(body).map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}
