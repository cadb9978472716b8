//! SPDY inside a WebSocket (KEP-4006): what `kubectl port-forward` asks for since Kubernetes 1.30, as
//! proxies let WebSockets through. The agent is asked for plain SPDY; its bytes go to the client as
//! binary messages, cut anywhere, and the client's messages to the agent as bytes.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

use crate::server::status::{ApiError, Result};

/// What the names of tunnelled protocols begin with.
const PREFIX: &str = "SPDY/3.1+";
const SUFFIX: &str = ".k8s.io";
/// The header in which SPDY's peers name the protocol that they speak over its streams.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// How much of the agent's bytes go into one message.
const MESSAGE_BYTES: usize = 32 * 1024;

/// A client's wish for a tunnel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tunnel {
    accept: String,
    /// What is to be spoken over SPDY's streams, by the client's preference.
    protocols: Vec<HeaderValue>,
}

impl Tunnel {
    /// The tunnel that a request asks for, if it does.
    ///
    /// # Errors
    /// When the request is half a WebSocket upgrade.
    pub(super) fn asked(headers: &HeaderMap) -> Result<Option<Self>> {
        let offers = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
        let offers = offers.iter().filter_map(|value| value.to_str().ok());
        let protocols: Vec<_> = offers
            .flat_map(|value| value.split(',').map(str::trim))
            .filter(|offer| offer.ends_with(SUFFIX))
            .filter_map(|offer| HeaderValue::from_str(offer.strip_prefix(PREFIX)?).ok())
            .collect();
        if protocols.is_empty() {
            return Ok(None);
        }
        let upgrade = headers.get(header::UPGRADE);
        let websocket =
            upgrade.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
        match headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| websocket) {
            Some(key) => Ok(Some(Self { accept: derive_accept_key(key.as_bytes()), protocols })),
            None => Err(ApiError::bad_request("unable to upgrade: no WebSocket handshake")),
        }
    }

    /// How the agent is asked.
    pub(super) fn agent_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        for protocol in &self.protocols {
            headers.append(STREAM_PROTOCOL, protocol.clone());
        }
        headers
    }

    /// How the client is answered once the agent has taken one of the protocols.
    pub(super) fn client_headers(&self, agent: &HeaderMap) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.extend(
            HeaderValue::try_from(&self.accept)
                .ok()
                .map(|accept| (header::SEC_WEBSOCKET_ACCEPT, accept)),
        );
        let chosen = agent.get(STREAM_PROTOCOL).and_then(|protocol| protocol.to_str().ok());
        let chosen =
            chosen.and_then(|protocol| HeaderValue::try_from(format!("{PREFIX}{protocol}")).ok());
        headers.extend(chosen.map(|chosen| (header::SEC_WEBSOCKET_PROTOCOL, chosen)));
        headers
    }
}

/// Carries bytes between the two until one of them hangs up.
pub(super) async fn carry(client: OnUpgrade, agent: OnUpgrade) {
    match futures::future::try_join(client, agent).await {
        Ok((client, agent)) => {
            let client = TokioIo::new(client);
            let socket = WebSocketStream::from_raw_socket(client, Role::Server, None).await;
            relay(socket, TokioIo::new(agent)).await;
        }
        Err(error) => tracing::debug!(%error, "an upgrade failed"),
    }
}

async fn relay<S, A>(socket: WebSocketStream<S>, agent: A)
where
    S: AsyncRead + AsyncWrite + Unpin,
    A: AsyncRead + AsyncWrite,
{
    let (mut to_client, mut from_client) = socket.split();
    let (mut from_agent, mut to_agent) = tokio::io::split(agent);
    let down = async {
        let mut buffer = vec![0; MESSAGE_BYTES];
        while let Ok(count @ 1..) = from_agent.read(&mut buffer).await {
            let message = Message::Binary(Bytes::copy_from_slice(&buffer[..count]));
            if to_client.send(message).await.is_err() {
                return;
            }
        }
        let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        to_client.send(Message::Close(Some(normal))).await.ok();
    };
    let up = async {
        while let Some(Ok(message)) = from_client.next().await {
            let data = match message {
                Message::Binary(data) => data,
                Message::Close(_) => return,
                _ => continue,
            };
            if to_agent.write_all(&data).await.is_err() || to_agent.flush().await.is_err() {
                return;
            }
        }
    };
    tokio::select! { biased;
        () = down => {}
        () = up => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let entry = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        list.iter().map(entry).collect()
    }

    #[test]
    fn a_tunnel_is_asked_for_by_its_subprotocol() {
        let wanted = headers(&[
            ("upgrade", "websocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "SPDY/3.1+portforward.k8s.io"),
        ]);
        let tunnel = Tunnel::asked(&wanted).unwrap().unwrap();
        assert_eq!(tunnel.agent_headers()["x-stream-protocol-version"], "portforward.k8s.io");
        assert_eq!(tunnel.agent_headers()["upgrade"], "SPDY/3.1");
        let answer =
            tunnel.client_headers(&headers(&[("x-stream-protocol-version", "portforward.k8s.io")]));
        assert_eq!(answer["sec-websocket-protocol"], "SPDY/3.1+portforward.k8s.io");
        // The example of RFC 6455, section 1.3.
        assert_eq!(answer["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");

        let other = headers(&[("sec-websocket-protocol", "v5.channel.k8s.io, SPDY/3.1+x")]);
        assert_eq!(Tunnel::asked(&other).unwrap(), None);
        let half = headers(&[("sec-websocket-protocol", "SPDY/3.1+portforward.k8s.io")]);
        assert!(Tunnel::asked(&half).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_become_messages_and_messages_bytes() {
        let ((near_client, far_client), (near_agent, far_agent)) =
            (tokio::io::duplex(4096), tokio::io::duplex(4096));
        let server = WebSocketStream::from_raw_socket(far_client, Role::Server, None).await;
        let relaying = tokio::spawn(relay(server, far_agent));
        let mut client = WebSocketStream::from_raw_socket(near_client, Role::Client, None).await;
        let mut agent = near_agent;
        client.send(Message::Binary(Bytes::from_static(b"up"))).await.unwrap();
        let mut read = [0; 2];
        agent.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"up");
        agent.write_all(b"down").await.unwrap();
        assert_eq!(
            client.next().await.unwrap().unwrap(),
            Message::Binary(Bytes::from_static(b"down"))
        );
        drop(agent);
        assert!(matches!(client.next().await.unwrap().unwrap(), Message::Close(_)));
        relaying.await.unwrap();
    }
}
