//! What is read as a body otherwise, as messages of a WebSocket: how browsers follow logs. There is no
//! channel number in front, unlike in exec's protocols.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

use crate::server::{
    body::ResponseBody,
    status::{ApiError, Result},
};

/// The subprotocols, and whether messages are base64 in text rather than bytes.
const PROTOCOLS: [(&str, bool); 2] = [("binary.k8s.io", false), ("base64.binary.k8s.io", true)];

/// A client's wish to read from a WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reader {
    accept: String,
    protocol: Option<&'static str>,
    base64: bool,
}

impl Reader {
    /// What a request asks for; `None` if it is for a plain answer.
    ///
    /// # Errors
    /// When none of the protocols that it names is known.
    pub(super) fn asked(headers: &HeaderMap) -> Result<Option<Self>> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let is_websocket =
            text(header::UPGRADE).is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"));
        let key = text(header::SEC_WEBSOCKET_KEY).filter(|_| is_websocket);
        let Some(key) = key else { return Ok(None) };
        let accept = derive_accept_key(key.as_bytes());
        let offers = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
        let offers: Vec<&str> = offers
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(',').map(str::trim))
            .collect();
        if offers.is_empty() {
            return Ok(Some(Self { accept, protocol: None, base64: false }));
        }
        let known = |offer: &&str| PROTOCOLS.into_iter().find(|(name, _)| name == offer);
        match offers.iter().find_map(known) {
            Some((name, base64)) => Ok(Some(Self { accept, protocol: Some(name), base64 })),
            None => {
                let why = format!("unable to upgrade: none of {offers:?} is supported");
                Err(ApiError::bad_request(why))
            }
        }
    }

    /// How the client is answered.
    pub(super) fn answer(&self) -> Response<ResponseBody> {
        let mut answer = Response::new(ResponseBody::empty());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::try_from(&self.accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(protocol) = self.protocol {
            let protocol = HeaderValue::from_static(protocol);
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        answer
    }

    /// Sends a body until it ends or the client goes.
    pub(super) async fn carry<B>(self, client: OnUpgrade, body: B)
    where
        B: Body<Data = Bytes> + Unpin,
    {
        match client.await {
            Ok(client) => {
                let client = TokioIo::new(client);
                let socket = WebSocketStream::from_raw_socket(client, Role::Server, None).await;
                self.send(socket, body).await;
            }
            Err(error) => tracing::debug!(%error, "an upgrade failed"),
        }
    }

    async fn send<S, B>(self, socket: WebSocketStream<S>, mut body: B)
    where
        S: AsyncRead + AsyncWrite + Unpin,
        B: Body<Data = Bytes> + Unpin,
    {
        let (mut to_client, mut from_client) = socket.split();
        let message = |data: Bytes| match self.base64 {
            true => Message::Text(BASE64_STANDARD.encode(&data).into()),
            false => Message::Binary(data),
        };
        let down = async {
            // Tells the client that the connection stands.
            if to_client.send(message(Bytes::new())).await.is_err() {
                return;
            }
            while let Some(Ok(frame)) = body.frame().await {
                let Ok(data) = frame.into_data() else { continue };
                if to_client.send(message(data)).await.is_err() {
                    return;
                }
            }
            let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            to_client.send(Message::Close(Some(normal))).await.ok();
        };
        // What it says is of no interest, but that it goes.
        let gone = async { while let Some(Ok(_)) = from_client.next().await {} };
        tokio::select! { biased;
            () = down => {}
            () = gone => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| {
                let name = http::HeaderName::from_static(name);
                (name, HeaderValue::from_static(value))
            })
            .collect()
    }

    fn asked(protocols: Option<&'static str>) -> Result<Option<Reader>> {
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let mut list = vec![("upgrade", "WebSocket"), key];
        list.extend(protocols.map(|protocols| ("sec-websocket-protocol", protocols)));
        Reader::asked(&headers(&list))
    }

    #[test]
    fn the_first_protocol_that_is_known_is_taken() {
        assert_eq!(Reader::asked(&headers(&[("accept", "*/*")])).unwrap(), None);
        assert_eq!(Reader::asked(&headers(&[("upgrade", "SPDY/3.1")])).unwrap(), None);
        let of = |protocols| asked(protocols).unwrap().unwrap();
        assert_eq!((of(None).protocol, of(None).base64), (None, false));
        let chosen = of(Some("v5.channel.k8s.io, base64.binary.k8s.io, binary.k8s.io"));
        assert_eq!((chosen.protocol, chosen.base64), (Some("base64.binary.k8s.io"), true));
        let answer = chosen.answer();
        assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer.headers()["sec-websocket-protocol"], "base64.binary.k8s.io");
        assert_eq!(asked(Some("v5.channel.k8s.io")).unwrap_err().code, 400);
    }

    #[tokio::test]
    async fn a_body_comes_as_messages_and_then_the_end() {
        for (protocol, expected) in [
            ("binary.k8s.io", Message::Binary(Bytes::from_static(b"line\n"))),
            ("base64.binary.k8s.io", Message::Text("bGluZQo=".into())),
        ] {
            let reader = asked(Some(protocol)).unwrap().unwrap();
            let (near, far) = tokio::io::duplex(4096);
            let server = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
            let client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
            let body = Full::new(Bytes::from_static(b"line\n"));
            let (_, got) = tokio::join!(reader.send(server, body), client.collect::<Vec<_>>());
            let mut got = got.into_iter().map_while(std::result::Result::ok);
            assert!(got.next().unwrap().is_empty(), "the connection stands");
            assert_eq!(got.next(), Some(expected));
            assert!(got.next().unwrap().is_close());
        }
    }
}
