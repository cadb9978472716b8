//! The other side: a connection to somebody who serves SPDY, with all its streams opened at once.
//! That is how `kubectl` and a kubelet begin a session, whose streams never change.

use std::{collections::HashMap, io};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    sync::mpsc,
    task::JoinHandle,
};

use super::{
    FRAMES_MAX, Input, Output, PIECES_MAX, READ_BYTES,
    frame::{self, Decoder, Frame},
    headers::HeaderWriter,
    write_frames,
};

/// A connection as its client holds it. Dropping it ends it and its streams at once.
#[derive(Debug)]
pub(crate) struct ClientConnection {
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
    }
}

/// Opens a stream for each of the `headers`, in their order. Must be called within a tokio runtime.
///
/// # Errors
/// The connection has ended already.
pub(crate) async fn open<const N: usize>(
    io: impl AsyncRead + AsyncWrite + Send + 'static,
    headers: [&[(&str, &str)]; N],
) -> io::Result<(ClientConnection, [(Input, Output); N])> {
    let (read, write) = tokio::io::split(io);
    let (frames, outgoing) = mpsc::channel(FRAMES_MAX);
    let mut inputs = HashMap::new();
    let mut header_writer = HeaderWriter::new();
    let mut opening = Vec::new();
    let mut number = 0;
    let streams = headers.map(|headers| {
        // A client's streams have odd numbers.
        let id = 2 * number + 1;
        number += 1;
        opening.push((id, headers));
        let (sender, input) = mpsc::channel(PIECES_MAX);
        inputs.insert(id, sender);
        (Input(input), Output { id, frames: frames.clone() })
    });
    let connection = ClientConnection {
        reader: tokio::spawn(read_frames(read, inputs, frames.clone())),
        writer: tokio::spawn(write_frames(write, outgoing)),
    };
    for (id, headers) in opening {
        let block = header_writer.write(headers)?;
        let frame = frame::syn_stream(id, &block);
        frames.send(frame).await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
    }
    Ok((connection, streams))
}

/// Hands out what comes until the other side hangs up.
async fn read_frames(
    mut io: impl AsyncRead + Unpin,
    mut inputs: HashMap<u32, mpsc::Sender<Bytes>>,
    frames: mpsc::Sender<Bytes>,
) {
    let mut decoder = Decoder::default();
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    loop {
        match decoder.next(&mut buffer) {
            Ok(Some(Frame::Data { id, data, fin })) => {
                if let Some(input) = inputs.get(&id) {
                    let kept = data.is_empty() || input.send(data).await.is_ok();
                    if fin || !kept {
                        inputs.remove(&id);
                    }
                }
            }
            Ok(Some(Frame::Reset { id })) => drop(inputs.remove(&id)),
            // A server's pings have even numbers; odd ones would be answers to ours.
            Ok(Some(Frame::Ping { id })) if id.is_multiple_of(2) => {
                if frames.send(frame::ping(id)).await.is_err() {
                    return;
                }
            }
            Ok(Some(Frame::SynStream { id, .. })) => {
                if frames.send(frame::refuse(id)).await.is_err() {
                    return;
                }
            }
            // Replies say nothing: a stream that is refused is reset. Their headers need not be
            // read, as no later ones are.
            Ok(Some(Frame::Headers { .. } | Frame::Ping { .. } | Frame::Other)) => {}
            Ok(None) => {
                buffer.reserve(READ_BYTES);
                if !matches!(io.read_buf(&mut buffer).await, Ok(1..)) {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a SPDY connection ends");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Connection, *};

    #[tokio::test(start_paused = true)]
    async fn streams_reach_the_server_in_their_order_and_carry_data_both_ways() {
        let (near, far) = tokio::io::duplex(1024);
        let mut server = Connection::new(far);
        let headers: [&[(&str, &str)]; 2] =
            [&[("streamtype", "error")], &[("streamtype", "data"), ("port", "80")]];
        let (connection, [mut error, mut data]) = open(near, headers).await.unwrap();

        let served = [server.accept().await.unwrap(), server.accept().await.unwrap()];
        assert_eq!(served[0].headers.get("streamtype"), Some("error"));
        assert_eq!(served[1].headers.get("port"), Some("80"));
        let [served_error, mut served_data] = served;

        data.1.send(b"question").await.unwrap();
        data.1.finish().await;
        assert_eq!(served_data.input.next().await.unwrap(), "question");
        assert_eq!(served_data.input.next().await, None);
        served_data.output.send(b"answer").await.unwrap();
        served_data.output.finish().await;
        assert_eq!(data.0.next().await.unwrap(), "answer");
        assert_eq!(data.0.next().await, None);

        served_error.output.send(b"why").await.unwrap();
        drop(server);
        drop(connection);
        // What came before the end is not lost, and the end is seen.
        while let Some(piece) = error.0.next().await {
            assert_eq!(piece, "why");
        }
    }
}
