//! `grpc`: one call of `grpc.health.v1.Health/Check`. Request and answer are so small that they are
//! written and read by hand: a string as field 1, and a number as field 1.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{Dial, Verdict};

const SERVING: u64 = 1;
const UNIMPLEMENTED: &str = "12";
/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Asks a server whether a service is healthy; the empty name is the server as a whole.
pub(super) async fn check(dial: Dial<'_>, address: SocketAddr, service: &str) -> Verdict {
    let (status, body) = match call(dial, address, service).await {
        Ok(answer) => answer,
        Err(why) => return Verdict::Failure(format!("error: health rpc probe failed: {why}")),
    };
    match status.as_str() {
        "0" => {}
        UNIMPLEMENTED => {
            return Verdict::Failure(
                "error: this server does not implement the grpc health protocol \
                 (grpc.health.v1.Health)"
                    .into(),
            );
        }
        code => {
            return Verdict::Failure(format!(
                "error: health rpc probe failed: rpc error: code = {code}"
            ));
        }
    }
    match serving_status(&body) {
        Some(SERVING) => Verdict::Success,
        Some(status) => {
            let name = match status {
                0 => "UNKNOWN",
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "an unknown status",
            };
            Verdict::Failure(format!("service unhealthy (responded with {name:?})"))
        }
        None => Verdict::Failure("error: health rpc probe failed: the answer is damaged".into()),
    }
}

/// The call's status code, and the message that came.
async fn call(
    dial: Dial<'_>,
    address: SocketAddr,
    service: &str,
) -> Result<(String, Bytes), String> {
    let text = |error: hyper::Error| error.to_string();
    let stream = TokioIo::new(dial(address).await?);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.map_err(text)?;
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::USER_AGENT, "kube-probe/1.37")
        .header(header::TE, "trailers")
        .body(Full::new(question(service)))
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(text)?;
        let early = grpc_status(response.headers());
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?;
        let status = early.or_else(|| grpc_status(body.trailers()?));
        Ok((status.ok_or("the answer has no status")?, body.to_bytes()))
    };
    // The connection is driven here, so that it ends with the probe.
    tokio::select! { biased;
        answer = exchange => answer,
        ended = connection => Err(ended.err().map_or("EOF".into(), text)),
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<String> {
    headers.get("grpc-status").map(HeaderValue::to_str)?.ok().map(str::to_owned)
}

/// A `HealthCheckRequest` in gRPC's frame: not compressed, its length, the message.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8(length as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.extend_from_slice(&message);
    frame.freeze()
}

/// The status of a `HealthCheckResponse`; a field that is not there is 0.
fn serving_status(frame: &[u8]) -> Option<u64> {
    let (head, message) = frame.split_at_checked(5)?;
    if head[0] != 0 {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, varint @ ..] => {
            let end = varint.iter().position(|byte| byte & 0x80 == 0)?;
            let parts = varint[..=end].iter().take(9).enumerate();
            Some(parts.fold(0, |sum, (at, byte)| sum | u64::from(byte & 0x7f) << (7 * at)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::FutureExt;
    use http_body_util::StreamBody;
    use hyper::{body::Frame, service::service_fn};

    use super::*;
    use crate::runtime::Io;

    /// A server that knows the whole server, `good` and `bad`.
    async fn health(service: &str) -> Verdict {
        let dial = |_: SocketAddr| {
            let (near, far) = tokio::io::duplex(4096);
            let service = service_fn(|request: Request<hyper::body::Incoming>| async {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let asked = request.into_body().collect().await.unwrap().to_bytes();
                let (code, answer): (_, &'static [u8]) = match &asked[5..] {
                    b"" | b"\x0a\x04good" => ("0", b"\0\0\0\0\x02\x08\x01"),
                    b"\x0a\x03bad" => ("0", b"\0\0\0\0\x02\x08\x02"),
                    b"\x0a\x03old" => (UNIMPLEMENTED, b""),
                    _ => ("5", b""),
                };
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static(code));
                let frames = [Frame::data(Bytes::from_static(answer)), Frame::trailers(trailers)];
                let body = StreamBody::new(futures::stream::iter(frames.map(Ok::<_, Infallible>)));
                Ok::<_, Infallible>(http::Response::new(body))
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(far), service));
            async { Ok(Box::new(near) as Box<dyn Io>) }.boxed()
        };
        check(&dial, "10.0.0.1:9000".parse().unwrap(), service).await
    }

    #[tokio::test]
    async fn the_health_service_is_asked() {
        assert_eq!(health("").await, Verdict::Success);
        assert_eq!(health("good").await, Verdict::Success);
        let failure = async |service: &str| match health(service).await {
            Verdict::Failure(why) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(failure("bad").await, "service unhealthy (responded with \"NOT_SERVING\")");
        assert!(failure("old").await.contains("does not implement the grpc health protocol"));
        assert!(failure("none").await.contains("code = 5"));
    }

    #[test]
    fn damaged_answers_say_nothing() {
        for answer in [&b""[..], b"\x01\0\0\0\0", b"\0\0\0\0\x02\x08\x80", b"\0\0\0\0\x01\x12"] {
            assert_eq!(serving_status(answer), None, "{answer:?}");
        }
        assert_eq!(serving_status(b"\0\0\0\0\0"), Some(0));
    }
}
