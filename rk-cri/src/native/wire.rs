//! Messages between the agent, the zygote and the shims: JSON in the packets of a local socket,
//! with file descriptors beside it.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    accept_with, bind, connect, listen, recvmsg, sendmsg, socket_with, socketpair,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::unix::AsyncFd;

use super::disk::Exit;

/// The largest message. Only a command to run can be long; Linux caps one argument at this too.
const MESSAGE_BYTES_MAX: usize = 128 << 10;
/// The most descriptors beside a message.
const DESCRIPTORS_MAX: usize = 4;

/// What the zygote is asked: to fork a shim. The shim's first connection comes beside it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Spawn {
    /// The sandbox's directory, with its record in it.
    pub(super) directory: PathBuf,
}

/// What a shim is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Stay, also when this connection ends: the sandbox is complete. Only on the first connection.
    Commit,
    /// Report every container that ends, from now on.
    Watch,
    /// Start the container in this directory.
    Start { directory: PathBuf },
    /// Send a signal to a container's first process.
    Signal { container: String, signal: i32 },
    /// Kill all of a container's processes.
    Kill { container: String },
    /// Run a command in a container. Beside it: its three standard streams, or none with a terminal.
    Exec { container: String, command: Vec<String>, tty: bool },
    /// Copy a container's output here. Beside it: where standard output goes, where standard error
    /// goes, and where standard input comes from if `stdin`.
    Attach { container: String, stdin: bool },
    /// Set the size of a container's terminal.
    Resize { container: String, columns: u16, rows: u16 },
    /// Open a container's log file anew: the one before was moved away.
    ReopenLog { container: String },
    /// Kill everything and end.
    Shutdown,
}

/// What a shim answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// The shim is up, and holds the sandbox's namespaces under this process id.
    Ready { pid: i32 },
    /// Done.
    Done,
    /// A container or a command runs. Beside it: a command's terminal.
    Started { pid: i32 },
    /// The command, or the attached container, ended.
    Ended { code: i32 },
    /// A container ended; its record is on the disk.
    Exited { container: String, exit: Exit },
    /// It did not work.
    Failed { message: String },
}

/// One end of a connection that keeps the bounds of messages.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

impl Channel {
    /// Two connected ends.
    pub(super) fn pair() -> io::Result<(Self, Self)> {
        let (a, b) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(a), Self(b)))
    }

    /// Takes over a descriptor that is such an end.
    pub(super) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The descriptor.
    pub(super) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Connects to the socket `name` in `directory`. Goes through the directory's descriptor: a
    /// socket's path may have 107 bytes only.
    pub(super) fn connect(directory: &Path, name: &str) -> io::Result<Self> {
        let directory = super::sys::open_dir(directory)?;
        let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
        let socket = seqpacket()?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(socket))
    }

    /// Whether the other end reads no more, or whether messages wait, is for poll to say.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Makes later calls fail with `WouldBlock` instead of waiting.
    pub(super) fn set_nonblocking(&self) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.0, true)?)
    }

    /// Sends a message.
    pub(super) fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the command is too long: {} bytes", bytes.len()),
            ));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Receives a message; `None` when the other end has closed.
    pub(super) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        let message = match message {
            Ok(message) => message,
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut fds = Vec::new();
        for ancillary in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = ancillary {
                fds.extend(received);
            }
        }
        if message.bytes == 0 {
            return Ok(None);
        }
        if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
        }
        Ok(Some((serde_json::from_slice(&bytes[..message.bytes])?, fds)))
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn seqpacket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Listens on the socket `name` in the working directory.
pub(super) fn listen_here(name: &str, kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
    let _ = std::fs::remove_file(name);
    bind(&socket, &SocketAddrUnix::new(name)?)?;
    listen(&socket, 64)?;
    Ok(socket)
}

/// Accepts a connection if one waits.
pub(super) fn accept(listener: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(accept_with(listener, SocketFlags::CLOEXEC)?)
}

/// Receives one descriptor over a stream socket, as libcontainer sends a terminal.
pub(super) fn receive_descriptor(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let mut bytes = [0; 256];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut received) = ancillary
            && let Some(fd) = received.next()
        {
            return Ok(fd);
        }
    }
    Err(io::Error::other("no terminal was sent"))
}

/// A [`Channel`] on the agent's side, for async code.
#[derive(Debug)]
pub(super) struct AsyncChannel(AsyncFd<Channel>);

impl AsyncChannel {
    /// Takes over a channel. Needs a tokio runtime.
    pub(super) fn new(channel: Channel) -> io::Result<Self> {
        channel.set_nonblocking()?;
        // SAFETY: the channel owns its descriptor and keeps it open and the same until it is dropped.
        Ok(Self(unsafe { AsyncFd::register(channel) }?))
    }

    /// Sends a message.
    pub(super) async fn send(
        &self,
        message: &impl Serialize,
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        loop {
            let mut ready = self.0.writable().await?;
            if let Ok(result) = ready.try_io(|channel| channel.get_ref().send(message, fds)) {
                return result;
            }
        }
    }

    /// Receives a message; `None` when the other end has closed.
    pub(super) async fn receive<T: DeserializeOwned>(
        &self,
    ) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(result) = ready.try_io(|channel| channel.get_ref().receive()) {
                return result;
            }
        }
    }
}
