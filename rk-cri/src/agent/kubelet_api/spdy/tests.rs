use super::{headers::HeaderWriter, *};

/// The other side: opens streams as a client does.
struct Client {
    io: tokio::io::DuplexStream,
    decoder: Decoder,
    buffer: BytesMut,
    headers: HeaderWriter,
}

impl Client {
    fn new() -> (Self, Connection) {
        let (near, far) = tokio::io::duplex(1024);
        let client = Self {
            io: near,
            decoder: Decoder::default(),
            buffer: BytesMut::new(),
            headers: HeaderWriter::new(),
        };
        (client, Connection::new(far))
    }

    async fn open(&mut self, id: u32, headers: &[(&str, &str)]) {
        let block = self.headers.write(headers).unwrap();
        let mut frame = vec![0x80, 3, 0, 1];
        frame.extend((block.len() as u32 + 10).to_be_bytes());
        frame.extend(id.to_be_bytes());
        frame.extend([0; 6]);
        frame.extend(block);
        self.io.write_all(&frame).await.unwrap();
    }

    async fn send(&mut self, frame: Bytes) {
        self.io.write_all(&frame).await.unwrap();
    }

    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next(&mut self.buffer).unwrap() {
                return Some(frame);
            }
            if self.io.read_buf(&mut self.buffer).await.unwrap() == 0 {
                return None;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_carries_data_both_ways() {
    let (mut client, mut connection) = Client::new();
    client.open(1, &[("streamtype", "data"), ("port", "80")]).await;
    let mut stream = connection.accept().await.unwrap();
    assert_eq!((stream.id, stream.headers.get("port")), (1, Some("80")));
    assert!(matches!(client.next().await, Some(Frame::Headers { .. })), "the reply");

    client.send(frame::data(1, b"question", true)).await;
    assert_eq!(stream.input.next().await.unwrap(), "question");
    assert_eq!(stream.input.next().await, None);
    stream.output.send(b"answer").await.unwrap();
    stream.output.finish().await;
    let answer = Frame::Data { id: 1, data: Bytes::from_static(b"answer"), fin: false };
    assert_eq!(client.next().await, Some(answer));
    assert_eq!(client.next().await, Some(Frame::Data { id: 1, data: Bytes::new(), fin: true }));

    client.send(frame::ping(3)).await;
    assert_eq!(client.next().await, Some(Frame::Ping { id: 3 }));
    drop(client);
    assert!(connection.accept().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_reset_ends_a_stream_and_leaves_the_others() {
    let (mut client, mut connection) = Client::new();
    client.open(1, &[]).await;
    client.open(3, &[]).await;
    let (mut one, mut three) =
        (connection.accept().await.unwrap(), connection.accept().await.unwrap());
    client.send(frame::refuse(1)).await;
    client.send(frame::data(3, b"still here", false)).await;
    assert_eq!(one.input.next().await, None);
    assert_eq!(three.input.next().await.unwrap(), "still here");
}

#[tokio::test(start_paused = true)]
async fn streams_beyond_the_limit_are_refused() {
    let (mut client, mut connection) = Client::new();
    let mut streams = Vec::new();
    for number in 0..STREAMS_MAX as u32 {
        client.open(2 * number + 1, &[]).await;
        streams.push(connection.accept().await.unwrap());
        client.next().await.unwrap();
    }
    let next = 2 * STREAMS_MAX as u32 + 1;
    client.open(next, &[]).await;
    assert_eq!(client.next().await, Some(Frame::Reset { id: next }));
    // One that was left makes room, though the client has not ended it.
    streams.pop();
    client.open(next + 2, &[]).await;
    assert_eq!(connection.accept().await.unwrap().id, next + 2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_the_rules_ends() {
    let (mut client, mut connection) = Client::new();
    client.open(2, &[]).await;
    assert!(connection.accept().await.is_none(), "streams of clients are odd");
    let (mut client, mut connection) = Client::new();
    client
        .send(Bytes::from_static(b"GET / HTTP/1.1\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff"))
        .await;
    drop(client);
    assert!(connection.accept().await.is_none(), "not SPDY");
}

#[tokio::test(start_paused = true)]
async fn closing_sends_what_is_left_and_waits_for_the_client() {
    let (mut client, mut connection) = Client::new();
    client.open(1, &[]).await;
    let stream = connection.accept().await.unwrap();
    let sending = tokio::spawn(async move {
        let bytes = vec![7; 100_000];
        stream.output.send(&bytes).await.unwrap();
        stream.output.finish().await;
        connection.close().await;
    });
    let mut received = 0;
    loop {
        let Frame::Data { data, fin, .. } = client.next().await.unwrap() else { continue };
        received += data.len();
        if fin {
            break;
        }
    }
    assert_eq!(received, 100_000);
    drop(client);
    sending.await.unwrap();
}
