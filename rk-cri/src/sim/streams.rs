//! Byte streams of simulated containers.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

use super::{
    Life, SimRuntime,
    program::{Program, Step},
};
use crate::runtime::{ExecRequest, RuntimeError, Session};

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 3\r\nconnection: close\r\n\r\nok\n";

/// A connection to a simulated port: answers one HTTP/1 request with 200 and closes. Costs no task.
#[derive(Default)]
pub(super) struct Port {
    seen: Vec<u8>,
    sent: usize,
    reader: Option<Waker>,
}

impl Port {
    fn asked(&self) -> bool {
        self.seen.ends_with(b"\r\n\r\n")
    }
}

impl AsyncRead for Port {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.asked() {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let rest = &ANSWER[self.sent..];
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        self.sent += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Port {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Only the end of a request's head matters: four bytes of it.
        self.seen.extend_from_slice(buf);
        let surplus = self.seen.len().saturating_sub(4);
        self.seen.drain(..surplus);
        if self.asked()
            && let Some(reader) = self.reader.take()
        {
            reader.wake();
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Runs a program with its streams open.
pub(super) fn session(program: Program, request: &ExecRequest) -> Session {
    let (stdin, mut program_in) = pipe(request.stdin);
    let (stdout, mut program_out) = pipe(true);
    let (stderr, mut program_err) = pipe(!request.tty);
    let run = async move {
        let mut cursor = 0;
        while let Some(step) = program.steps.get(cursor) {
            cursor += 1;
            match step {
                Step::Print { error, text } => {
                    let to = if *error { program_err.as_mut() } else { None };
                    if let Some(to) = to.or(program_out.as_mut()) {
                        to.write_all(text.as_bytes()).await.ok();
                    }
                }
                Step::Sleep(time) => tokio::time::sleep(*time).await,
                Step::Cat => copy(program_in.as_mut(), program_out.as_mut()).await,
                Step::Loop(to) => cursor = *to,
                Step::Exit(code) => return *code,
                Step::Forever => std::future::pending().await,
                Step::Trap(_) => {}
            }
        }
        0
    };
    let task = AbortOnDrop(tokio::spawn(run));
    Session {
        stdin: stdin.map(|end| Box::pin(end) as _),
        stdout: stdout.map(|end| Box::pin(end) as _),
        stderr: stderr.map(|end| Box::pin(end) as _),
        resize: request.tty.then(|| Box::new(|_, _| {}) as _),
        exit: Box::pin(async move {
            let mut task = task;
            let ended = (&mut task.0).await;
            ended.map_err(|_| RuntimeError::Invalid("the command was cancelled".into()))
        }),
    }
}

/// Follows what a running container prints, until it ends.
pub(super) fn attach(runtime: SimRuntime, id: String, tty: bool) -> Session {
    let (stdin, mut sink) = pipe(true);
    let (stdout, mut program_out) = pipe(true);
    let follow = async move {
        let mut seen: Option<String> = None;
        loop {
            let changed = runtime.node.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let now = runtime.node.with_container(&id, |_, _, container| {
                let log: Vec<u8> = container.log.iter().copied().collect();
                let code = match &container.life {
                    Life::Exited(end) => Some(end.exit_code),
                    _ => None,
                };
                Ok((String::from_utf8_lossy(&log).into_owned(), code))
            });
            let Ok((log, code)) = now else { return 137 };
            // Lines are known by their time; what was there before the attach is not shown.
            let newest =
                log.lines().last().and_then(|line| line.split(' ').next()).map(String::from);
            if let (Some(seen), Some(out)) = (&seen, program_out.as_mut()) {
                for line in log.lines().filter(|line| line.split(' ').next() > Some(seen)) {
                    let text = line.splitn(4, ' ').nth(3).unwrap_or_default();
                    let end = if tty { "\r\n" } else { "\n" };
                    if out.write_all(format!("{text}{end}").as_bytes()).await.is_err() {
                        return 0;
                    }
                }
            }
            seen = newest.or(seen).or(Some(String::new()));
            if let Some(code) = code {
                return code;
            }
            changed.await;
        }
    };
    // What is typed goes nowhere, but must not block whoever types.
    tokio::spawn(async move {
        if let Some(sink) = &mut sink {
            tokio::io::copy(sink, &mut tokio::io::sink()).await.ok();
        }
    });
    let task = AbortOnDrop(tokio::spawn(follow));
    Session {
        stdin: stdin.map(|end| Box::pin(end) as _),
        stdout: stdout.map(|end| Box::pin(end) as _),
        stderr: None,
        resize: tty.then(|| Box::new(|_, _| {}) as _),
        exit: Box::pin(async move {
            let mut task = task;
            let ended = (&mut task.0).await;
            ended.map_err(|_| RuntimeError::Invalid("the session was cancelled".into()))
        }),
    }
}

/// All that a stream gives until it ends.
pub(super) async fn read_all(stream: Option<Pin<Box<dyn AsyncRead + Send>>>) -> bytes::Bytes {
    let mut all = Vec::new();
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut all).await.ok();
    }
    all.into()
}

fn pipe(open: bool) -> (Option<DuplexStream>, Option<DuplexStream>) {
    if !open {
        return (None, None);
    }
    let (near, far) = tokio::io::duplex(16 * 1024);
    (Some(near), Some(far))
}

async fn copy(from: Option<&mut DuplexStream>, to: Option<&mut DuplexStream>) {
    let (Some(from), Some(to)) = (from, to) else { return };
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<i32>);
impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
