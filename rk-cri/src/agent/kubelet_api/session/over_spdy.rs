//! A session over SPDY: a stream for each of standard input, output, error, the terminal's size, and
//! how it ended. The client opens them all before the command is run.

use std::{future::Future, time::Duration};

use serde_json::Value;

use super::{
    super::spdy::{Connection, Input, Output, Stream},
    Client, Form, Outputs, Resize, Stdin, Wanted, outcome, parse_size,
};
use crate::runtime::{RuntimeError, Session};

/// The versions of the protocol, the newest first. Version 4 says how it ended as a `Status`, the
/// earlier ones as a text; version 3 brought the size of the terminal.
pub(super) const PROTOCOLS: &[&str] =
    &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// How long a client may take to open its streams.
const OPEN_WITHIN: Duration = Duration::from_secs(30);
/// The longest text that tells a terminal's size.
const SIZE_BYTES_MAX: usize = 4096;

/// The streams of a client.
#[derive(Default)]
struct Streams {
    error: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

impl Streams {
    /// Waits for the client to open those that it asked for; `None` when it does not.
    async fn accept(
        connection: &mut Connection,
        wanted: Wanted,
        protocol: &str,
    ) -> Option<Streams> {
        let resize = wanted.tty && matches!(protocol, "v4.channel.k8s.io" | "v3.channel.k8s.io");
        let mut streams = Streams::default();
        loop {
            let there = [
                (true, &streams.error),
                (wanted.stdin, &streams.stdin),
                (wanted.stdout, &streams.stdout),
                (wanted.stderr, &streams.stderr),
                (resize, &streams.resize),
            ];
            if there.into_iter().all(|(wanted, stream)| !wanted || stream.is_some()) {
                return Some(streams);
            }
            let stream = connection.accept().await?;
            let slot = match stream.headers.get("streamtype") {
                Some("error") => &mut streams.error,
                Some("stdin") => &mut streams.stdin,
                Some("stdout") => &mut streams.stdout,
                Some("stderr") => &mut streams.stderr,
                Some("resize") => &mut streams.resize,
                _ => return None,
            };
            *slot = Some(stream);
        }
    }
}

/// Carries the session that `open` makes until the command ends or the client goes.
pub(super) async fn talk(
    mut connection: Connection,
    protocol: &'static str,
    wanted: Wanted,
    open: impl Future<Output = Result<Session, RuntimeError>> + Send,
) {
    let accepted = Streams::accept(&mut connection, wanted, protocol);
    let Ok(Some(streams)) = tokio::time::timeout(OPEN_WITHIN, accepted).await else { return };
    let (input, stdin_back) = streams.stdin.map(|stream| (stream.input, stream.output)).unzip();
    let error = streams.error.map(|stream| stream.output);
    let sizes = streams.resize.map(|stream| stream.input);
    let mut client = Client::Spdy {
        stdout: streams.stdout.map(|stream| stream.output),
        stderr: streams.stderr.map(|stream| stream.output),
    };

    let ended = match open.await {
        Ok(Session { stdin, stdout, stderr, resize, exit }) => {
            let outputs = Outputs::new(wanted, stdout, stderr);
            tokio::select! { biased;
                code = outputs.carry(&mut client, exit) => match code {
                    Ok(code) => code,
                    Err(_) => return,
                },
                () = inputs(input, stdin, sizes, resize) => return,
                () = connection.closed() => return,
            }
        }
        Err(error) => Err(error),
    };

    let form = if protocol == "v4.channel.k8s.io" { Form::Status } else { Form::Text };
    let Client::Spdy { stdout, stderr } = client else { return };
    // The client has seen all output when it learns of the end.
    let outputs = [stdout, stderr, stdin_back];
    for output in outputs.into_iter().flatten() {
        output.finish().await;
    }
    if let Some(error) = error {
        finish(error, &outcome(&ended, form)).await;
    }
    connection.close().await;
}

async fn finish(output: Output, text: &[u8]) {
    if text.is_empty() || output.send(text).await.is_ok() {
        output.finish().await;
    }
}

/// Takes in what the client sends; never ends, as a client may stop to send and go on to read.
async fn inputs(input: Option<Input>, stdin: Stdin, sizes: Option<Input>, resize: Resize) {
    let typed = async {
        let Some(mut input) = input else { return };
        let mut stdin = super::Feed(stdin);
        while let Some(data) = input.next().await {
            stdin.write(&data).await;
        }
        stdin.close().await;
    };
    let sized = async {
        let (Some(mut sizes), Some(resize)) = (sizes, resize) else { return };
        let mut text = Vec::new();
        while let Some(data) = sizes.next().await {
            text.extend_from_slice(&data);
            for (width, height) in take_sizes(&mut text) {
                resize(width, height);
            }
            if text.len() > SIZE_BYTES_MAX {
                return;
            }
        }
    };
    tokio::join!(typed, sized);
    std::future::pending().await
}

/// Takes the sizes that are complete out of a text of JSON objects one after the other.
fn take_sizes(text: &mut Vec<u8>) -> Vec<(u16, u16)> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<Value>();
    let mut sizes = Vec::new();
    while let Some(Ok(value)) = values.next() {
        sizes.extend(parse_size(&value));
    }
    let read = values.byte_offset();
    text.drain(..read.min(text.len()));
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_taken_as_they_become_complete() {
        let mut text = b"{\"Width\":80,\"Height\":24}\n{\"Width\":1".to_vec();
        assert_eq!(take_sizes(&mut text), [(80, 24)]);
        text.extend_from_slice(b"00,\"Height\":30}\n");
        assert_eq!(take_sizes(&mut text), [(100, 30)]);
        assert_eq!(take_sizes(&mut text), []);
    }
}
