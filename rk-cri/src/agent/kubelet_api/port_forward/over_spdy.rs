//! Ports over SPDY: the client opens two streams for each connection that it takes, one for data and
//! one for what goes wrong. A number that both name brings them together.

use std::{collections::HashMap, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::Instant,
};

use super::{
    super::spdy::{Connection, Headers, Stream},
    Pod,
};

/// What is spoken over the streams.
pub(super) const PROTOCOLS: &[&str] = &["portforward.k8s.io"];

/// How long the second stream of a pair may take to come.
const PAIR_WITHIN: Duration = Duration::from_secs(30);
/// How many streams wait for the other one of their pair.
const WAITING_MAX: usize = 256;
/// How much is read from a pod at a time.
const READ_BYTES: usize = 32 * 1024;

/// Streams whose pair is not complete.
#[derive(Default)]
struct Pairs(HashMap<String, (Instant, Half)>);

enum Half {
    Data(Stream),
    Error(Stream),
}

/// The two streams of one connection to a port.
struct Pair {
    data: Stream,
    error: Stream,
    port: u16,
}

/// What brings two streams together. Clients before Kubernetes 1.3 named no number, but opened the
/// stream for data right after the one for errors.
fn request_id(id: u32, headers: &Headers, is_data: bool) -> String {
    match headers.get("requestid") {
        Some(request) => request.to_owned(),
        None => format!("#{}", if is_data { id.saturating_sub(2) } else { id }),
    }
}

impl Pairs {
    /// Takes in a stream; the pair that it completes. A stream that makes no sense is dropped.
    fn add(&mut self, stream: Stream, now: Instant) -> Option<Pair> {
        self.0.retain(|_, (since, _)| now.duration_since(*since) < PAIR_WITHIN);
        let half = match stream.headers.get("streamtype")? {
            "data" => Half::Data,
            "error" => Half::Error,
            _ => return None,
        };
        let is_data = stream.headers.get("streamtype") == Some("data");
        let request = request_id(stream.id, &stream.headers, is_data);
        let (data, error) = match (half(stream), self.0.remove(&request)) {
            (Half::Data(data), Some((_, Half::Error(error))))
            | (Half::Error(error), Some((_, Half::Data(data)))) => (data, error),
            (half, _) => {
                if self.0.len() < WAITING_MAX {
                    self.0.insert(request, (now, half));
                }
                return None;
            }
        };
        let port = data.headers.get("port")?.parse().ok()?;
        Some(Pair { data, error, port })
    }
}

/// Carries connections until the client hangs up.
pub(super) async fn carry(pod: Pod, mut connection: Connection) {
    let mut pairs = Pairs::default();
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! { biased;
            Some(_) = tasks.join_next() => {}
            stream = connection.accept() => match stream {
                Some(stream) => {
                    if let Some(pair) = pairs.add(stream, Instant::now()) {
                        tasks.spawn(one(pod.clone(), pair));
                    }
                }
                None => return,
            },
        }
    }
}

/// Carries one connection.
async fn one(pod: Pod, pair: Pair) {
    let Pair { data, error, port } = pair;
    let Stream { mut input, output, .. } = data;
    // Nothing is expected on the way in of the stream for errors.
    let errors = error.output;
    match pod.connect_to(port).await {
        Ok(connection) => {
            let (mut from_pod, mut to_pod) = tokio::io::split(connection);
            let up = async {
                while let Some(data) = input.next().await {
                    if to_pod.write_all(&data).await.is_err() || to_pod.flush().await.is_err() {
                        break;
                    }
                }
                to_pod.shutdown().await.ok();
                // The pod may have more to say, or what is wrong.
                std::future::pending::<()>().await
            };
            let down = async {
                let mut buffer = vec![0; READ_BYTES];
                loop {
                    let sent = match from_pod.read(&mut buffer).await {
                        Ok(0) => return,
                        Ok(count) => output.send(&buffer[..count]).await.is_ok(),
                        Err(error) => {
                            if let Some(why) = pod.refused(port, &error) {
                                errors.send(why.as_bytes()).await.ok();
                            }
                            return;
                        }
                    };
                    if !sent {
                        return;
                    }
                }
            };
            tokio::select! { biased;
                () = down => {}
                () = up => {}
            }
        }
        Err(why) => {
            errors.send(why.as_bytes()).await.ok();
        }
    }
    output.finish().await;
    errors.finish().await;
}
