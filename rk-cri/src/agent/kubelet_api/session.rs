//! `exec` and `attach`: a command's or a container's streams over a WebSocket.

use std::{pin::Pin, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use futures::{Sink, SinkExt, StreamExt, stream::SplitStream};
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{
    Error, Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use super::{
    KubeletApi, KubeletBody, Query, Refusal,
    websocket::{Protocol, Socket, upgrade},
};
use crate::runtime::{ExecRequest, RuntimeError, Session};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// In version 5, followed by the number of the channel that the client closes.
const CLOSE: u8 = 255;

/// After a command's end, how long output that something else holds open is waited for.
const DRAIN: Duration = Duration::from_secs(1);

/// Which streams a client wants.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Wanted {
    fn of(query: &Query) -> Result<Self, Refusal> {
        let tty = query.flag(&["tty"]);
        let wanted = Self {
            stdin: query.flag(&["input", "stdin"]),
            stdout: query.flag(&["output", "stdout"]),
            // A terminal has one output.
            stderr: query.flag(&["error", "stderr"]) && !tty,
            tty,
        };
        if !(wanted.stdin || wanted.stdout || wanted.stderr) {
            let why = "you must specify at least 1 of stdin, stdout, stderr";
            return Err((StatusCode::BAD_REQUEST, why.into()));
        }
        Ok(wanted)
    }
}

impl KubeletApi {
    pub(super) async fn exec<B>(
        self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
        request: &mut Request<B>,
    ) -> Result<Response<KubeletBody>, Refusal> {
        let wanted = Wanted::of(query)?;
        let id = self.running(namespace, pod, container).await?.id;
        let command: Vec<String> = query.all("command").map(str::to_string).collect();
        upgrade(request, move |socket, protocol| async move {
            let request = ExecRequest { command, stdin: wanted.stdin, tty: wanted.tty };
            let session = self.core.runtime.exec(&id, request).await;
            talk(socket, protocol, wanted, session).await;
        })
    }

    pub(super) async fn attach<B>(
        self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
        request: &mut Request<B>,
    ) -> Result<Response<KubeletBody>, Refusal> {
        let found = self.running(namespace, pod, container).await?;
        // Whether there is a terminal is the container's matter, not the client's.
        let wanted = Wanted { tty: found.config.tty, ..Wanted::of(query)? };
        upgrade(request, move |socket, protocol| async move {
            let session = self.core.runtime.attach(&found.id).await;
            talk(socket, protocol, wanted, session).await;
        })
    }
}

/// Carries a session until the command ends or the client goes.
async fn talk(
    socket: Socket,
    protocol: Protocol,
    wanted: Wanted,
    session: Result<Session, RuntimeError>,
) {
    let (mut sink, stream) = socket.split();
    // Tells the client that the connection stands.
    let lowest = if wanted.stdout {
        STDOUT
    } else if wanted.stderr {
        STDERR
    } else {
        ERROR
    };
    if sink.send(Message::Binary(Bytes::copy_from_slice(&[lowest]))).await.is_err() {
        return;
    }
    let ended = match session {
        Ok(session) => {
            let Session { stdin, stdout, stderr, resize, exit } = session;
            let stdin = stdin.filter(|_| wanted.stdin);
            let outputs = Outputs {
                stdout: stdout.filter(|_| wanted.stdout),
                stderr: stderr.filter(|_| wanted.stderr),
            };
            tokio::select! { biased;
                code = outputs.carry(&mut sink, exit) => match code {
                    Ok(code) => code,
                    // The client is gone.
                    Err(_) => return,
                },
                () = inputs(stream, stdin, resize, protocol) => return,
            }
        }
        Err(error) => Err(error),
    };
    let mut message = BytesMut::from(&[ERROR][..]);
    message.extend_from_slice(&outcome(&ended, protocol));
    if message.len() > 1 && sink.send(Message::Binary(message.freeze())).await.is_err() {
        return;
    }
    // client-go takes any other code, and a frame without one, for a broken connection.
    let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    sink.send(Message::Close(Some(normal))).await.ok();
    sink.close().await.ok();
}

/// Takes in what the client sends, until it goes.
async fn inputs(
    mut stream: SplitStream<Socket>,
    mut stdin: Option<Pin<Box<dyn tokio::io::AsyncWrite + Send>>>,
    resize: Option<Box<dyn Fn(u16, u16) + Send + Sync>>,
    protocol: Protocol,
) {
    while let Some(Ok(message)) = stream.next().await {
        let data: Bytes = match message {
            Message::Binary(data) => data,
            Message::Text(text) => text.into(),
            Message::Close(_) => return,
            _ => continue,
        };
        let Some((&channel, data)) = data.split_first() else { continue };
        match channel {
            STDIN => {
                if let Some(writer) = &mut stdin {
                    let written = async {
                        writer.write_all(data).await?;
                        writer.flush().await
                    };
                    // A command that closed its input may run on.
                    if written.await.is_err() {
                        stdin = None;
                    }
                }
            }
            RESIZE => {
                let size: Option<Value> = serde_json::from_slice(data).ok();
                let side = |name: &str| {
                    let value = size.as_ref()?.get(name)?.as_u64()?;
                    u16::try_from(value).ok()
                };
                if let (Some(resize), Some(width), Some(height)) =
                    (&resize, side("Width"), side("Height"))
                {
                    resize(width, height);
                }
            }
            CLOSE if protocol == Protocol::V5 && data == [STDIN] => {
                if let Some(mut writer) = stdin.take() {
                    writer.shutdown().await.ok();
                }
            }
            _ => {}
        }
    }
}

type Output = Option<Pin<Box<dyn AsyncRead + Send>>>;

struct Outputs {
    stdout: Output,
    stderr: Output,
}

impl Outputs {
    /// Sends what is printed until the command has ended and its output is read; the code.
    async fn carry(
        mut self,
        sink: &mut (impl Sink<Message, Error = Error> + Unpin),
        mut exit: futures::future::BoxFuture<'static, Result<i32, RuntimeError>>,
    ) -> Result<Result<i32, RuntimeError>, Error> {
        let mut code = None;
        let deadline = tokio::time::sleep(Duration::MAX / 4);
        tokio::pin!(deadline);
        loop {
            if self.stdout.is_none() && self.stderr.is_none() {
                return Ok(match code {
                    Some(code) => code,
                    None => exit.await,
                });
            }
            let (out, err) = (self.stdout.is_some(), self.stderr.is_some());
            let frame = tokio::select! { biased;
                frame = read(&mut self.stdout, STDOUT), if out => frame,
                frame = read(&mut self.stderr, STDERR), if err => frame,
                ended = &mut exit, if code.is_none() => {
                    code = Some(ended);
                    deadline.as_mut().reset(tokio::time::Instant::now() + DRAIN);
                    continue;
                }
                () = &mut deadline => {
                    (self.stdout, self.stderr) = (None, None);
                    continue;
                }
            };
            if let Some(frame) = frame {
                sink.send(Message::Binary(frame)).await?;
            }
        }
    }
}

/// The next message of an output; `None` when that has ended.
async fn read(output: &mut Output, channel: u8) -> Option<Bytes> {
    let reader = output.as_mut()?;
    let mut buffer = BytesMut::with_capacity(32 * 1024);
    buffer.put_u8(channel);
    match reader.read_buf(&mut buffer).await {
        Ok(1..) => Some(buffer.freeze()),
        _ => {
            *output = None;
            None
        }
    }
}

/// What the error channel says of the end: a `Status`, or before version 4 a text if it failed.
fn outcome(ended: &Result<i32, RuntimeError>, protocol: Protocol) -> Vec<u8> {
    let status = match ended {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(error) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("Internal error occurred: {}", crate::agent::handler::describe(error)),
            "reason": "InternalError",
            "details": {"causes": [{"message": crate::agent::handler::describe(error)}]},
            "code": 500,
        }),
    };
    match (protocol, ended) {
        (Protocol::V1, Ok(0)) => Vec::new(),
        (Protocol::V1, _) => status["message"].as_str().unwrap_or_default().as_bytes().to_vec(),
        _ => status.to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_a_status_from_version_4_on() {
        let of = |ended: Result<i32, RuntimeError>, protocol| {
            String::from_utf8(outcome(&ended, protocol)).unwrap()
        };
        assert_eq!(of(Ok(0), Protocol::V5), r#"{"metadata":{},"status":"Success"}"#);
        let failed: Value = serde_json::from_str(&of(Ok(3), Protocol::V4)).unwrap();
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(failed["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
        assert_eq!(of(Ok(0), Protocol::V1), "");
        assert_eq!(
            of(Ok(3), Protocol::V1),
            "command terminated with non-zero exit code: exit status 3"
        );
    }
}
