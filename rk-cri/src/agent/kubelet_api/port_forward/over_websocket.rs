//! Ports over a WebSocket: two channels for each, data and error. The first message of each is the
//! port, as two bytes, the lower one first.

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};
use tokio_tungstenite::tungstenite::Message;

use super::{super::websocket::Socket, Pod};

/// How many messages wait in each direction.
const MESSAGES_MAX: usize = 16;

/// Carries ports until all connections to them have ended or the client goes.
pub(super) async fn carry(pod: Pod, socket: Socket, ports: Vec<u16>) {
    let (mut sink, mut stream) = socket.split();
    let (to_client, mut outgoing) = mpsc::channel::<Bytes>(MESSAGES_MAX);
    let mut inputs = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for (number, port) in ports.into_iter().enumerate() {
        let (input, incoming) = mpsc::channel::<Bytes>(MESSAGES_MAX);
        inputs.push(input);
        let channel = (number * 2) as u8;
        tasks.spawn(one(pod.clone(), port, channel, incoming, to_client.clone()));
    }
    drop(to_client);
    let send = async {
        while let Some(message) = outgoing.recv().await {
            if sink.send(Message::Binary(message)).await.is_err() {
                return;
            }
        }
        sink.close().await.ok();
    };
    let receive = async {
        while let Some(Ok(message)) = stream.next().await {
            let data = match message {
                Message::Binary(data) => data,
                Message::Close(_) => return,
                _ => continue,
            };
            let Some(&channel) = data.first() else { continue };
            // Odd channels are for errors, which only we report.
            if channel % 2 == 0
                && let Some(input) = inputs.get(usize::from(channel / 2))
            {
                input.send(data.slice(1..)).await.ok();
            }
        }
    };
    tokio::select! { biased;
        () = send => {}
        () = receive => {}
    }
}

/// Carries one port.
async fn one(
    pod: Pod,
    port: u16,
    channel: u8,
    mut incoming: mpsc::Receiver<Bytes>,
    to_client: mpsc::Sender<Bytes>,
) {
    let message = |channel: u8, data: &[u8]| {
        let mut message = BytesMut::with_capacity(data.len() + 1);
        message.put_u8(channel);
        message.extend_from_slice(data);
        message.freeze()
    };
    for channel in [channel, channel + 1] {
        to_client.send(message(channel, &port.to_le_bytes())).await.ok();
    }
    let connection = match pod.connect_to(port).await {
        Ok(connection) => connection,
        Err(why) => {
            to_client.send(message(channel + 1, why.as_bytes())).await.ok();
            return;
        }
    };
    let (mut from_pod, mut to_pod) = tokio::io::split(connection);
    let up = async {
        while let Some(data) = incoming.recv().await {
            if to_pod.write_all(&data).await.is_err() || to_pod.flush().await.is_err() {
                break;
            }
        }
        to_pod.shutdown().await.ok();
        // The pod may have more to say, or what is wrong.
        std::future::pending::<()>().await
    };
    let down = async {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let sent = match from_pod.read(&mut buffer).await {
                Ok(0) => return,
                Ok(count) => to_client.send(message(channel, &buffer[..count])).await,
                Err(error) => {
                    if let Some(why) = pod.refused(port, &error) {
                        to_client.send(message(channel + 1, why.as_bytes())).await.ok();
                    }
                    return;
                }
            };
            if sent.is_err() {
                return;
            }
        }
    };
    tokio::select! { biased;
        () = down => {}
        () = up => {}
    }
}
