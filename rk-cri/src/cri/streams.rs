//! The streams of commands, containers and ports: an HTTP server of the runtime's has them, at a URL
//! that it gives out for each.
//!
//! Of the protocols that such servers speak, this is SPDY's `v4.channel.k8s.io`: the one that all of
//! them know, and the only one in which containerd 1.6 lets a client close standard input while it
//! reads on. It carries the terminal's size and the exit code.

use std::{io, net::SocketAddr, path::PathBuf, pin::Pin, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rk_net::netns;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    sync::mpsc,
};
use tokio_util::io::StreamReader;

use crate::{
    agent::spdy::{
        Input, Output,
        client::{ClientConnection, open},
    },
    runtime::{Io, RuntimeError, Session},
};

/// How long a connection and its upgrade may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);
/// How much is read from a writer at a time.
const PIECE_BYTES: usize = 32 * 1024;
/// The longest text that says how a session ended.
const OUTCOME_BYTES_MAX: usize = 64 * 1024;
/// How many changes of a terminal's size wait to be sent; only the newest matters.
const SIZES_MAX: usize = 64;

const EXEC_PROTOCOLS: &str = "v4.channel.k8s.io";
const PORT_PROTOCOL: &str = "portforward.k8s.io";

/// What a session is made of. Output is always wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) tty: bool,
}

fn fail(what: impl Into<String>) -> impl FnOnce(io::Error) -> RuntimeError {
    let what = what.into();
    move |source| RuntimeError::Io { what, source }
}

/// Where a URL leads.
fn address(url: &str) -> Result<(Uri, String), RuntimeError> {
    let uri: Uri = url.parse().map_err(|error| {
        RuntimeError::Invalid(format!("the runtime's streaming address {url:?} is no URL: {error}"))
    })?;
    if uri.scheme_str() != Some("http") {
        let why = format!("the runtime's streaming server is at {url}: only http is spoken");
        return Err(RuntimeError::Unsupported(why));
    }
    let Some(authority) = uri.authority() else {
        let why = format!("the runtime's streaming address {url:?} names no host");
        return Err(RuntimeError::Invalid(why));
    };
    let host = match authority.host() {
        "localhost" => "127.0.0.1",
        host => host,
    };
    let host = format!("{host}:{}", authority.port_u16().unwrap_or(80));
    Ok((uri, host))
}

/// Connects to a URL and turns the connection into one of SPDY.
async fn upgrade(
    url: &str,
    netns: Option<PathBuf>,
    protocol: &str,
) -> Result<TokioIo<hyper::upgrade::Upgraded>, RuntimeError> {
    let (uri, host) = address(url)?;
    let what = format!("cannot stream from the runtime at {host}");
    let target: SocketAddr =
        host.parse().map_err(|error| fail(what.clone())(io::Error::other(error)))?;
    let exchange = async {
        let tcp = netns::connect(netns, target, CONNECT_WITHIN).await?;
        tcp.set_nodelay(true)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp))
            .await
            .map_err(io::Error::other)?;
        // Ends with the upgraded stream.
        tokio::spawn(connection.with_upgrades());
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let request = Request::post(path)
            .header(header::HOST, &host)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "SPDY/3.1")
            .header("X-Stream-Protocol-Version", protocol)
            .body(Empty::<Bytes>::new())
            .map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let status = response.status();
            let body = Limited::new(response.into_body(), OUTCOME_BYTES_MAX).collect().await;
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            let why = String::from_utf8_lossy(&body).trim().to_owned();
            return Err(io::Error::other(format!("{status}: {why}")));
        }
        hyper::upgrade::on(response).await.map_err(io::Error::other)
    };
    match tokio::time::timeout(CONNECT_WITHIN, exchange).await {
        Ok(upgraded) => upgraded.map(TokioIo::new).map_err(fail(what)),
        Err(_) => Err(RuntimeError::Timeout(CONNECT_WITHIN)),
    }
}

/// Opens the session that a URL stands for.
pub(super) async fn session(
    url: &str,
    netns: Option<PathBuf>,
    wanted: Wanted,
) -> Result<Session, RuntimeError> {
    let io = upgrade(url, netns, EXEC_PROTOCOLS).await?;
    begin(io, wanted).await.map_err(fail("cannot open the streams of a session"))
}

async fn begin(
    io: impl AsyncRead + AsyncWrite + Send + 'static,
    wanted: Wanted,
) -> io::Result<Session> {
    const ERROR: &[(&str, &str)] = &[("streamtype", "error")];
    const STDIN: &[(&str, &str)] = &[("streamtype", "stdin")];
    const STDOUT: &[(&str, &str)] = &[("streamtype", "stdout")];
    const STDERR: &[(&str, &str)] = &[("streamtype", "stderr")];
    const RESIZE: &[(&str, &str)] = &[("streamtype", "resize")];
    // The server waits for exactly those that the runtime was asked for.
    let (connection, error, stdin, stdout, stderr, resize) = match (wanted.stdin, wanted.tty) {
        (true, true) => {
            let (c, [error, stdin, out, size]) = open(io, [ERROR, STDIN, STDOUT, RESIZE]).await?;
            (c, error, Some(stdin), out, None, Some(size))
        }
        (true, false) => {
            let (c, [error, stdin, out, err]) = open(io, [ERROR, STDIN, STDOUT, STDERR]).await?;
            (c, error, Some(stdin), out, Some(err), None)
        }
        (false, true) => {
            let (c, [error, out, size]) = open(io, [ERROR, STDOUT, RESIZE]).await?;
            (c, error, None, out, None, Some(size))
        }
        (false, false) => {
            let (c, [error, out, err]) = open(io, [ERROR, STDOUT, STDERR]).await?;
            (c, error, None, out, Some(err), None)
        }
    };
    Ok(Session {
        stdin: stdin.map(|(_, output)| writer(output)),
        stdout: Some(reader(stdout.0)),
        stderr: stderr.map(|(input, _)| reader(input)),
        resize: resize.map(|(_, output)| sizes(output)),
        exit: exit(error.0, connection).boxed(),
    })
}

/// A stream to be read from.
fn reader(input: Input) -> Pin<Box<dyn AsyncRead + Send>> {
    let pieces = stream::unfold(input, |mut input| async move {
        input.next().await.map(|piece| (Ok::<_, io::Error>(piece), input))
    });
    Box::pin(StreamReader::new(pieces.boxed()))
}

/// A stream to be written to. Shutting it down or dropping it tells the other side the end.
fn writer(output: Output) -> Pin<Box<dyn AsyncWrite + Send>> {
    let (near, mut far) = tokio::io::duplex(PIECE_BYTES);
    tokio::spawn(async move {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = far.read(&mut buffer).await {
            if output.send(&buffer[..count]).await.is_err() {
                return;
            }
        }
        output.finish().await;
    });
    Box::pin(near)
}

/// Sends a terminal's size whenever it is set.
fn sizes(output: Output) -> Box<dyn Fn(u16, u16) + Send + Sync> {
    let (sender, mut sizes) = mpsc::channel::<(u16, u16)>(SIZES_MAX);
    tokio::spawn(async move {
        while let Some((columns, rows)) = sizes.recv().await {
            let size = json!({"Width": columns, "Height": rows}).to_string();
            if output.send(size.as_bytes()).await.is_err() {
                return;
            }
        }
        output.finish().await;
    });
    Box::new(move |columns, rows| {
        sender.try_send((columns, rows)).ok();
    })
}

/// Waits for the word on how it ended. Holds the connection: giving the session up ends it.
async fn exit(mut error: Input, connection: ClientConnection) -> Result<i32, RuntimeError> {
    let text = all(&mut error).await;
    drop(connection);
    outcome(&text)
}

/// All that comes on a stream, as far as it is of sensible length.
async fn all(input: &mut Input) -> Vec<u8> {
    let mut text = Vec::new();
    while let Some(piece) = input.next().await {
        let room = OUTCOME_BYTES_MAX.saturating_sub(text.len());
        text.extend_from_slice(&piece[..piece.len().min(room)]);
    }
    text
}

/// The exit code that a `Status` tells.
fn outcome(text: &[u8]) -> Result<i32, RuntimeError> {
    let broken = || RuntimeError::Io {
        what: "the session broke off".to_owned(),
        source: io::ErrorKind::ConnectionReset.into(),
    };
    if text.is_empty() {
        return Err(broken());
    }
    let status: Value = serde_json::from_slice(text).map_err(|_| broken())?;
    if status["status"] == "Success" {
        return Ok(0);
    }
    let message = status["message"].as_str().unwrap_or_default().to_owned();
    if status["reason"] != "NonZeroExitCode" {
        return Err(RuntimeError::Start(message));
    }
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    let code = causes
        .filter(|cause| cause["reason"] == "ExitCode")
        .find_map(|cause| cause["message"].as_str()?.parse().ok());
    code.ok_or(RuntimeError::Start(message))
}

/// Connects to the port that a URL stands for.
pub(super) async fn port(
    url: &str,
    netns: Option<PathBuf>,
    port: u16,
) -> Result<Box<dyn Io>, RuntimeError> {
    let io = upgrade(url, netns, PORT_PROTOCOL).await?;
    let number = port.to_string();
    let error: &[_] = &[("streamtype", "error"), ("port", &number), ("requestid", "0")];
    let data: &[_] = &[("streamtype", "data"), ("port", &number), ("requestid", "0")];
    let opened = open(io, [error, data]).await;
    let (connection, [errors, data]) = opened.map_err(fail(format!("cannot reach port {port}")))?;
    // Nothing is sent on the stream of errors.
    errors.1.finish().await;
    Ok(Box::new(tokio::io::join(port_reader(data.0, errors.0, connection), writer(data.1))))
}

/// What comes from a port; an error when the server says at the end that there was one.
fn port_reader(
    data: Input,
    errors: Input,
    connection: ClientConnection,
) -> Pin<Box<dyn AsyncRead + Send>> {
    let pieces = stream::unfold(Some((data, errors, connection)), |state| async move {
        let (mut data, mut errors, connection) = state?;
        if let Some(piece) = data.next().await {
            return Some((Ok(piece), Some((data, errors, connection))));
        }
        let why = all(&mut errors).await;
        match why.is_empty() {
            true => None,
            false => {
                let why = String::from_utf8_lossy(&why).into_owned();
                Some((Err(io::Error::new(io::ErrorKind::ConnectionRefused, why)), None))
            }
        }
    });
    Box::pin(StreamReader::new(pieces.boxed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_session_is_its_exit_code() {
        assert_eq!(outcome(br#"{"status":"Success"}"#).unwrap(), 0);
        let failed = json!({
            "status": "Failure",
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": "42"}]},
        });
        assert_eq!(outcome(failed.to_string().as_bytes()).unwrap(), 42);
        let not_started = json!({"status": "Failure", "reason": "InternalError", "message": "no"});
        let error = outcome(not_started.to_string().as_bytes());
        assert!(matches!(error, Err(RuntimeError::Start(why)) if why == "no"));
        for broken in [&b""[..], b"{", b"text"] {
            assert!(matches!(outcome(broken), Err(RuntimeError::Io { .. })), "{broken:?}");
        }
    }

    #[test]
    fn only_plain_http_is_spoken() {
        assert_eq!(address("http://localhost:1234/exec/x").unwrap().1, "127.0.0.1:1234");
        assert_eq!(address("http://[::1]:1234/exec/x").unwrap().1, "[::1]:1234");
        assert!(matches!(address("https://127.0.0.1:1/x"), Err(RuntimeError::Unsupported(_))));
        assert!(matches!(address("/exec/x"), Err(RuntimeError::Unsupported(_))));
        assert!(matches!(address("http://a b"), Err(RuntimeError::Invalid(_))));
    }
}
