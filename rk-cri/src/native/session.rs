//! The agent's side of exec and attach: streams over descriptors shared with a shim.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use rustix::{
    fs::{Mode, OFlags},
    termios::{Winsize, tcsetwinsize},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, unix::AsyncFd},
    net::unix::pipe,
};

use super::{
    create,
    disk::SOCKET,
    pods::{Inner, fail, unexpected},
    wire::{AsyncChannel, Channel, Reply, Request},
};
use crate::runtime::{ContainerState, ExecOutput, ExecRequest, RuntimeError, Session};

/// The most output of each kind that [`collect`] keeps, as containerd does.
const OUTPUT_BYTES_MAX: u64 = 16 << 20;
/// How long output may still come after the command ended: a child of it may hold the stream open.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

fn check_running(inner: &Inner, id: &str) -> Result<bool, RuntimeError> {
    let status = inner.container_status(id)?;
    match status.state {
        ContainerState::Running => Ok(status.config.tty),
        state => Err(RuntimeError::State {
            what: "container",
            id: id.to_owned(),
            state: format!("{state:?}").to_lowercase(),
        }),
    }
}

/// Starts a command.
pub(super) async fn exec(
    inner: &Arc<Inner>,
    id: &str,
    request: ExecRequest,
) -> Result<Session, RuntimeError> {
    check_running(inner, id)?;
    let (channel, _) = inner.shim_of(id)?;
    let ExecRequest { command, stdin, tty } = request;
    let asked = Request::Exec { container: id.to_owned(), command, tty };
    if tty {
        let mut fds = start(&channel, &asked, &[]).await?;
        let terminal = fds.pop().ok_or_else(|| {
            fail("the command has no terminal")(io::ErrorKind::UnexpectedEof.into())
        })?;
        return terminal_session(channel, terminal, stdin).map_err(fail("cannot use a terminal"));
    }
    let streams = || -> io::Result<_> {
        let (input_in, input_out) = match stdin {
            true => {
                let (reader, writer) = create::pipe()?;
                (reader, Some(pipe::Sender::from_owned_fd(writer)?))
            }
            false => (null()?, None),
        };
        let (stdout, stdout_in) = create::pipe()?;
        let (stderr, stderr_in) = create::pipe()?;
        Ok((
            [input_in, stdout_in, stderr_in],
            input_out,
            pipe::Receiver::from_owned_fd(stdout)?,
            pipe::Receiver::from_owned_fd(stderr)?,
        ))
    };
    let (theirs, input, stdout, stderr) = streams().map_err(fail("cannot make pipes"))?;
    let fds: Vec<BorrowedFd<'_>> = theirs.iter().map(AsFd::as_fd).collect();
    start(&channel, &asked, &fds).await?;
    drop(theirs);
    Ok(Session {
        stdin: input.map(|input| Box::pin(input) as _),
        stdout: Some(Box::pin(stdout)),
        stderr: Some(Box::pin(stderr)),
        resize: None,
        exit: exit_of(channel),
    })
}

/// Sends a request and waits until its command runs.
async fn start(
    channel: &AsyncChannel,
    request: &Request,
    fds: &[BorrowedFd<'_>],
) -> Result<Vec<OwnedFd>, RuntimeError> {
    channel.send(request, fds).await.map_err(fail("cannot reach the container's supervisor"))?;
    match channel.receive::<Reply>().await {
        Ok(Some((Reply::Started { .. } | Reply::Done, fds))) => Ok(fds),
        Ok(Some((Reply::Failed { message }, _))) => Err(RuntimeError::Start(format!(
            "OCI runtime exec failed: exec failed: unable to start container process: {message}"
        ))),
        Ok(Some((other, _))) => Err(unexpected(&other)),
        Ok(None) => {
            Err(fail("the container's supervisor died")(io::ErrorKind::ConnectionReset.into()))
        }
        Err(error) => Err(fail("the container's supervisor died")(error)),
    }
}

/// Resolves when the command or container ends. Holds the connection that keeps a command alive.
fn exit_of(channel: AsyncChannel) -> BoxFuture<'static, Result<i32, RuntimeError>> {
    async move {
        match channel.receive::<Reply>().await {
            Ok(Some((Reply::Ended { code }, _))) => Ok(code),
            Ok(Some((other, _))) => Err(unexpected(&other)),
            Ok(None) => {
                Err(fail("the container's supervisor died")(io::ErrorKind::ConnectionReset.into()))
            }
            Err(error) => Err(fail("the container's supervisor died")(error)),
        }
    }
    .boxed()
}

fn terminal_session(channel: AsyncChannel, terminal: OwnedFd, stdin: bool) -> io::Result<Session> {
    rustix::io::ioctl_fionbio(&terminal, true)?;
    // SAFETY: an `OwnedFd` keeps its descriptor open and the same until it is dropped.
    let terminal = Arc::new(unsafe { AsyncFd::register(terminal) }?);
    let size = terminal.clone();
    Ok(Session {
        stdin: stdin.then(|| Box::pin(Terminal(terminal.clone())) as _),
        stdout: Some(Box::pin(Terminal(terminal))),
        stderr: None,
        resize: Some(Box::new(move |columns, rows| {
            let size_ = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            let _ = tcsetwinsize(size.get_ref(), size_);
        })),
        exit: exit_of(channel),
    })
}

/// Opens the streams of a running container.
pub(super) async fn attach(inner: &Arc<Inner>, id: &str) -> Result<Session, RuntimeError> {
    let tty = check_running(inner, id)?;
    let has_stdin = inner.container_status(id)?.config.stdin;
    let (channel, directory) = inner.shim_of(id)?;
    let streams = || -> io::Result<_> {
        let (stdout, stdout_in) = UnixStream::pair()?;
        let (stderr, stderr_in) = UnixStream::pair()?;
        let (stdin, stdin_out) = UnixStream::pair()?;
        for stream in [&stdout, &stderr, &stdin] {
            stream.set_nonblocking(true)?;
        }
        Ok((
            [stdout_in, stderr_in, stdin_out],
            tokio::net::UnixStream::from_std(stdout)?,
            tokio::net::UnixStream::from_std(stderr)?,
            tokio::net::UnixStream::from_std(stdin)?,
        ))
    };
    let (theirs, stdout, stderr, stdin) = streams().map_err(fail("cannot make sockets"))?;
    let fds: Vec<BorrowedFd<'_>> = theirs.iter().map(AsFd::as_fd).collect();
    let request = Request::Attach { container: id.to_owned(), stdin: has_stdin };
    start(&channel, &request, &fds).await?;
    drop(theirs);
    let container = id.to_owned();
    let resize = move |columns, rows| {
        let request = Request::Resize { container: container.clone(), columns, rows };
        if let Ok(channel) = Channel::connect(&directory, SOCKET) {
            let _ = channel.send(&request, &[]);
        }
    };
    Ok(Session {
        stdin: has_stdin.then(|| Box::pin(stdin) as _),
        stdout: Some(Box::pin(stdout)),
        stderr: match tty {
            true => None,
            false => Some(Box::pin(stderr)),
        },
        resize: match tty {
            true => Some(Box::new(resize)),
            false => None,
        },
        exit: exit_of(channel),
    })
}

/// Waits for a command's end and keeps what it printed.
pub(super) async fn collect(session: Session) -> Result<ExecOutput, RuntimeError> {
    let Session { stdout, stderr, exit, .. } = session;
    let read = async |stream: Option<Pin<Box<dyn AsyncRead + Send>>>, all: &mut Vec<u8>| {
        if let Some(mut stream) = stream {
            let _ = (&mut stream).take(OUTPUT_BYTES_MAX).read_to_end(all).await;
            // A writer that finds nobody reading would be killed.
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        }
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = {
        let mut reading =
            std::pin::pin!(futures::future::join(read(stdout, &mut out), read(stderr, &mut err)));
        let mut exit = exit;
        let code = tokio::select! {
            biased;
            _ = &mut reading => None,
            code = &mut exit => Some(code?),
        };
        match code {
            None => exit.await?,
            Some(code) => {
                let _ = tokio::time::timeout(DRAIN_TIMEOUT, reading).await;
                code
            }
        }
    };
    Ok(ExecOutput { stdout: Bytes::from(out), stderr: Bytes::from(err), exit_code: code })
}

fn null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// A terminal's other side as a stream. Its end shows as an error of the kernel.
#[derive(Debug)]
struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl AsyncRead for Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let read = guard.try_io(|fd| {
                let length = rustix::io::read(fd.get_ref(), buffer.initialize_unfilled())?;
                Ok(length)
            });
            match read {
                Ok(Ok(length)) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            if let Ok(written) = guard.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), data)?)) {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
