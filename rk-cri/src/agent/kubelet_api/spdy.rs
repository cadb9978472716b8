//! SPDY/3.1, as far as Kubernetes' clients speak it: the client opens streams over one upgraded
//! connection, each a pipe in both directions that begins with headers.
//!
//! Clients before Kubernetes 1.29 use it for exec and attach; `kubectl port-forward` uses it to this
//! day, by way of a WebSocket that the API server unpacks.
//!
//! # Flow control
//! The clients (all of them use one library) neither send `WINDOW_UPDATE` nor wait for it, so a
//! window kept here would end every stream after 64 KiB. What holds a sender back is the connection:
//! a stream that is not read stops the reading of them all once [`PIECES_MAX`] pieces wait.

use std::{collections::HashMap, future::Future, io, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    task::JoinHandle,
};

pub(super) use self::headers::Headers;
use self::{
    frame::{Decoder, Frame},
    headers::{HeaderReader, HeaderWriter},
};
use super::{KubeletBody, Refusal};

pub(crate) mod client;
mod frame;
mod headers;

/// How many streams one connection carries at a time.
const STREAMS_MAX: usize = 1024;
/// How many pieces of data wait for the reader of a stream.
const PIECES_MAX: usize = 4;
/// How many frames wait for the connection to take them.
const FRAMES_MAX: usize = 16;
/// How much is read at a time.
const READ_BYTES: usize = 32 * 1024;
/// How long a client has to hang up after it was told the end.
const HANG_UP_WITHIN: Duration = Duration::from_secs(5);

/// The header in which both sides name the protocol that they speak over the streams.
const PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// Whether a request asks for SPDY.
pub(super) fn is_asked<B>(request: &Request<B>) -> bool {
    let upgrade = request.headers().get(header::UPGRADE);
    upgrade.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"SPDY/3.1"))
}

/// Answers an upgrade request, and hands the connection with the chosen protocol to `talk` once it
/// is upgraded. A client that names no protocol means the last of `protocols`.
pub(super) fn upgrade<B, F, Fut>(
    request: &mut Request<B>,
    protocols: &'static [&'static str],
    talk: F,
) -> Result<Response<KubeletBody>, Refusal>
where
    F: FnOnce(Connection, &'static str) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let offers = request.headers().get_all(PROTOCOL);
    let offers: Vec<&str> = offers
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .collect();
    let chosen = offers.iter().find_map(|offer| protocols.iter().find(|known| *known == offer));
    if chosen.is_none() && !offers.is_empty() {
        let why = format!(
            "unable to upgrade: unable to negotiate protocol: client supports {offers:?}, server accepts {protocols:?}"
        );
        return Err((StatusCode::FORBIDDEN, why));
    }
    let protocol = chosen.or(protocols.last()).copied().unwrap_or_default();
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(connection) => talk(Connection::new(TokioIo::new(connection)), protocol).await,
            Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
        }
    });
    let mut response = Response::new(Empty::<Bytes>::new().boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert(PROTOCOL, HeaderValue::from_static(protocol));
    Ok(response)
}

/// A connection whose streams the other side opens. Dropping it ends it and them at once.
#[derive(Debug)]
pub(super) struct Connection {
    streams: mpsc::Receiver<Stream>,
    frames: mpsc::Sender<Bytes>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

/// A stream that the other side opened.
#[derive(Debug)]
pub(super) struct Stream {
    /// Its number: odd, and larger than those of earlier streams.
    pub(super) id: u32,
    /// What it begins with.
    pub(super) headers: Headers,
    /// What the other side sends, until it has no more.
    pub(super) input: Input,
    /// What it is sent.
    pub(super) output: Output,
}

/// What comes on a stream.
#[derive(Debug)]
pub(crate) struct Input(mpsc::Receiver<Bytes>);

impl Input {
    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }
}

/// The way back on a stream. It is to be ended with [`Output::finish`].
#[derive(Debug)]
pub(crate) struct Output {
    id: u32,
    frames: mpsc::Sender<Bytes>,
}

/// The connection has ended.
#[derive(Debug)]
pub(crate) struct Gone;

impl Output {
    /// Sends data; waits while the connection takes none.
    pub(crate) async fn send(&self, data: &[u8]) -> Result<(), Gone> {
        self.frames.send(frame::data(self.id, data, false)).await.map_err(|_| Gone)
    }

    /// Says that there is no more to come.
    pub(crate) async fn finish(self) {
        self.frames.send(frame::data(self.id, &[], true)).await.ok();
    }
}

impl Connection {
    /// Begins to serve a connection. Must be called within a tokio runtime.
    pub(super) fn new(io: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        let (read, write) = tokio::io::split(io);
        let (frames, outgoing) = mpsc::channel(FRAMES_MAX);
        let (opened, streams) = mpsc::channel(1);
        let reader = Reader {
            opened: Some(opened),
            frames: frames.clone(),
            inputs: HashMap::new(),
            header_reader: HeaderReader::new(),
            header_writer: HeaderWriter::new(),
            last: 0,
        };
        Self {
            streams,
            frames,
            reader: tokio::spawn(reader.run(read)),
            writer: tokio::spawn(write_frames(write, outgoing)),
        }
    }

    /// The next stream; `None` once the other side has hung up.
    pub(super) async fn accept(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }

    /// Resolves when the other side has hung up. Streams that it still opens are dropped.
    pub(super) async fn closed(&mut self) {
        while self.accept().await.is_some() {}
    }

    /// Says goodbye, sees to it that everything is sent, and gives the other side a while to hang
    /// up: what it has not read would be lost if we did.
    pub(super) async fn close(mut self) {
        self.frames.send(frame::go_away()).await.ok();
        tokio::time::timeout(HANG_UP_WITHIN, self.closed()).await.ok();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
    }
}

async fn write_frames(mut io: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Bytes>) {
    while let Some(frame) = frames.recv().await {
        if io.write_all(&frame).await.is_err() {
            return;
        }
        if frames.is_empty() && io.flush().await.is_err() {
            return;
        }
    }
    io.shutdown().await.ok();
}

/// Takes in what the other side sends.
struct Reader {
    opened: Option<mpsc::Sender<Stream>>,
    frames: mpsc::Sender<Bytes>,
    /// Where the data of open streams goes.
    inputs: HashMap<u32, mpsc::Sender<Bytes>>,
    header_reader: HeaderReader,
    header_writer: HeaderWriter,
    /// The newest stream.
    last: u32,
}

impl Reader {
    async fn run(mut self, mut io: impl AsyncRead + Unpin) {
        let mut decoder = Decoder::default();
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(frame)) => {
                    if let Err(error) = self.take(frame).await {
                        tracing::debug!(%error, "a SPDY connection ends");
                        return;
                    }
                }
                Ok(None) => {
                    buffer.reserve(READ_BYTES);
                    if !matches!(io.read_buf(&mut buffer).await, Ok(1..)) {
                        return;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "a SPDY connection ends");
                    self.frames.send(frame::go_away()).await.ok();
                    return;
                }
            }
        }
    }

    async fn take(&mut self, frame: Frame) -> io::Result<()> {
        match frame {
            Frame::SynStream { id, fin, headers } => {
                let headers = self.header_reader.read(&headers)?;
                self.open(id, fin, headers).await
            }
            // Nothing is done with them, but the compression goes on from block to block.
            Frame::Headers { headers } => self.header_reader.read(&headers).map(drop),
            Frame::Data { id, data, fin } => {
                if let Some(input) = self.inputs.get(&id) {
                    let kept = data.is_empty() || input.send(data).await.is_ok();
                    if fin || !kept {
                        self.inputs.remove(&id);
                    }
                }
                Ok(())
            }
            Frame::Reset { id } => {
                self.inputs.remove(&id);
                Ok(())
            }
            Frame::Ping { id } if id % 2 == 1 => self.reply(frame::ping(id)).await,
            Frame::Ping { .. } | Frame::Other => Ok(()),
        }
    }

    async fn open(&mut self, id: u32, fin: bool, headers: Headers) -> io::Result<()> {
        if id.is_multiple_of(2) || id <= self.last {
            return Err(io::Error::other(format!("stream {id} cannot be opened")));
        }
        self.last = id;
        if self.inputs.len() >= STREAMS_MAX {
            // Those whose reader has left do not count.
            self.inputs.retain(|_, input| !input.is_closed());
        }
        if self.inputs.len() >= STREAMS_MAX {
            return self.reply(frame::refuse(id)).await;
        }
        let (sender, input) = mpsc::channel(PIECES_MAX);
        if !fin {
            self.inputs.insert(id, sender);
        }
        let block = self.header_writer.write(&[])?;
        self.reply(frame::syn_reply(id, &block)).await?;
        let output = Output { id, frames: self.frames.clone() };
        let stream = Stream { id, headers, input: Input(input), output };
        if let Some(opened) = &self.opened
            && opened.send(stream).await.is_err()
        {
            self.opened = None;
        }
        Ok(())
    }

    async fn reply(&self, frame: Bytes) -> io::Result<()> {
        self.frames.send(frame).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests;
