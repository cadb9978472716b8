//! `exec` and `attach`: a command's or a container's streams, over a WebSocket or over SPDY.

use std::{pin::Pin, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, future::BoxFuture, stream::SplitSink};
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use super::{
    KubeletApi, KubeletBody, Query, Refusal, spdy,
    websocket::{self, Socket},
};
use crate::runtime::{ExecRequest, RuntimeError, Session};

mod over_spdy;
mod over_websocket;

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
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
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
        let runtime = self.core.runtime.clone();
        let exec = ExecRequest { command, stdin: wanted.stdin, tty: wanted.tty };
        answer(request, wanted, async move { runtime.exec(&id, exec).await })
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
        let runtime = self.core.runtime.clone();
        answer(request, Wanted::of(query)?, async move { runtime.attach(&found.id).await })
    }
}

/// Answers an upgrade request: the session is opened and carried once the connection is upgraded.
pub(crate) fn answer<B>(
    request: &mut Request<B>,
    wanted: Wanted,
    open: impl Future<Output = Result<Session, RuntimeError>> + Send + 'static,
) -> Result<Response<KubeletBody>, Refusal> {
    if spdy::is_asked(request) {
        return spdy::upgrade(request, over_spdy::PROTOCOLS, move |connection, protocol| {
            over_spdy::talk(connection, protocol, wanted, open)
        });
    }
    websocket::upgrade(request, move |socket, protocol| async move {
        over_websocket::talk(socket, protocol, wanted, open.await).await;
    })
}

type Stdin = Option<Pin<Box<dyn AsyncWrite + Send>>>;
type Resize = Option<Box<dyn Fn(u16, u16) + Send + Sync>>;

/// Standard input, as long as the command takes it.
struct Feed(Stdin);

impl Feed {
    async fn write(&mut self, data: &[u8]) {
        let Some(writer) = &mut self.0 else { return };
        let written = async {
            writer.write_all(data).await?;
            writer.flush().await
        };
        // A command that closed its input may run on.
        if written.await.is_err() {
            self.0 = None;
        }
    }

    async fn close(&mut self) {
        if let Some(mut writer) = self.0.take() {
            writer.shutdown().await.ok();
        }
    }
}

/// The columns and rows of a terminal.
fn parse_size(size: &Value) -> Option<(u16, u16)> {
    let side = |name: &str| u16::try_from(size.get(name)?.as_u64()?).ok();
    Some((side("Width")?, side("Height")?))
}

/// Where output goes.
enum Client {
    WebSocket(SplitSink<Socket, Message>),
    Spdy { stdout: Option<spdy::Output>, stderr: Option<spdy::Output> },
}

impl Client {
    /// Sends output: the number of its channel, then data.
    async fn send(&mut self, message: Bytes) -> Result<(), spdy::Gone> {
        match self {
            Client::WebSocket(sink) => {
                sink.send(Message::Binary(message)).await.map_err(|_| spdy::Gone)
            }
            Client::Spdy { stdout, stderr } => {
                let output = if message[0] == STDOUT { stdout } else { stderr };
                match output {
                    Some(output) => output.send(&message[1..]).await,
                    None => Ok(()),
                }
            }
        }
    }
}

type Output = Option<Pin<Box<dyn AsyncRead + Send>>>;

struct Outputs {
    stdout: Output,
    stderr: Output,
}

impl Outputs {
    fn new(wanted: Wanted, stdout: Output, stderr: Output) -> Self {
        Self { stdout: stdout.filter(|_| wanted.stdout), stderr: stderr.filter(|_| wanted.stderr) }
    }

    /// Sends what is printed until the command has ended and its output is read; the code.
    async fn carry(
        mut self,
        client: &mut Client,
        mut exit: BoxFuture<'static, Result<i32, RuntimeError>>,
    ) -> Result<Result<i32, RuntimeError>, spdy::Gone> {
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
                client.send(frame).await?;
                // A slow client is to have all of it: only silence ends it.
                if code.is_some() {
                    deadline.as_mut().reset(tokio::time::Instant::now() + DRAIN);
                }
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

/// How a client is told the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A `Status`: from version 4 of the protocols on.
    Status,
    /// Nothing, or what went wrong.
    Text,
}

/// What a client is told of the end.
fn outcome(ended: &Result<i32, RuntimeError>, form: Form) -> Vec<u8> {
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
    match (form, ended) {
        (Form::Text, Ok(0)) => Vec::new(),
        (Form::Text, _) => status["message"].as_str().unwrap_or_default().as_bytes().to_vec(),
        _ => status.to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_a_status_or_a_text() {
        let of = |ended: Result<i32, RuntimeError>, form| {
            String::from_utf8(outcome(&ended, form)).unwrap()
        };
        assert_eq!(of(Ok(0), Form::Status), r#"{"metadata":{},"status":"Success"}"#);
        let failed: Value = serde_json::from_str(&of(Ok(3), Form::Status)).unwrap();
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(failed["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
        assert_eq!(of(Ok(0), Form::Text), "");
        assert_eq!(
            of(Ok(3), Form::Text),
            "command terminated with non-zero exit code: exit status 3"
        );
    }
}
