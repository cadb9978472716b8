//! A session over a WebSocket: each message begins with the number of its channel.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use super::{
    super::websocket::{Protocol, Socket},
    CLOSE, Client, ERROR, Form, Outputs, RESIZE, Resize, STDERR, STDIN, STDOUT, Stdin, Wanted,
    outcome, parse_size,
};
use crate::runtime::{RuntimeError, Session};

/// client-go begins to read before it has made its streams, and drops what comes for them until then:
/// a command that is over at once would have said nothing.
const HEAD_START: Duration = Duration::from_millis(10);
/// How long a client has to hang up after it was told the end.
const HANG_UP_WITHIN: Duration = Duration::from_secs(5);

/// Carries a session until the command ends or the client goes.
pub(super) async fn talk(
    socket: Socket,
    protocol: Protocol,
    wanted: Wanted,
    session: Result<Session, RuntimeError>,
) {
    let (mut sink, mut stream) = socket.split();
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
    tokio::time::sleep(HEAD_START).await;
    let mut client = Client::WebSocket(sink);
    let ended = match session {
        Ok(session) => {
            let Session { stdin, stdout, stderr, resize, exit } = session;
            let stdin = stdin.filter(|_| wanted.stdin);
            let outputs = Outputs::new(wanted, stdout, stderr);
            tokio::select! { biased;
                code = outputs.carry(&mut client, exit) => match code {
                    Ok(code) => code,
                    // The client is gone.
                    Err(_) => return,
                },
                () = inputs(&mut stream, stdin, resize, protocol) => return,
            }
        }
        Err(error) => Err(error),
    };
    let Client::WebSocket(sink) = client else { return };
    finish(sink, &ended, protocol).await;
    // A connection that is closed with something unread is reset, and the client may lose what it has
    // not read: it is to hang up first.
    let hung_up = async { while let Some(Ok(_)) = stream.next().await {} };
    tokio::time::timeout(HANG_UP_WITHIN, hung_up).await.ok();
}

/// Tells the client how it ended.
async fn finish(
    mut sink: SplitSink<Socket, Message>,
    ended: &Result<i32, RuntimeError>,
    protocol: Protocol,
) {
    let form = if protocol == Protocol::V1 { Form::Text } else { Form::Status };
    let mut message = BytesMut::from(&[ERROR][..]);
    message.extend_from_slice(&outcome(ended, form));
    if message.len() > 1 && sink.send(Message::Binary(message.freeze())).await.is_err() {
        return;
    }
    // client-go takes any other code, and a frame without one, for a broken connection.
    let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    sink.send(Message::Close(Some(normal))).await.ok();
}

/// Takes in what the client sends, until it goes.
async fn inputs(
    stream: &mut SplitStream<Socket>,
    stdin: Stdin,
    resize: Resize,
    protocol: Protocol,
) {
    let mut stdin = super::Feed(stdin);
    while let Some(Ok(message)) = stream.next().await {
        let data: Bytes = match message {
            Message::Binary(data) => data,
            Message::Text(text) => text.into(),
            Message::Close(_) => return,
            _ => continue,
        };
        let Some((&channel, data)) = data.split_first() else { continue };
        match channel {
            STDIN => stdin.write(data).await,
            RESIZE => {
                let size = serde_json::from_slice(data).ok();
                if let (Some(resize), Some((width, height))) =
                    (&resize, size.as_ref().and_then(parse_size))
                {
                    resize(width, height);
                }
            }
            CLOSE if protocol == Protocol::V5 && data == [STDIN] => stdin.close().await,
            _ => {}
        }
    }
}
