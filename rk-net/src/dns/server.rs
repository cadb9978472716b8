//! Answers over UDP and TCP.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rk_api::rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Records, Upstream,
    message::{Query, Transport, UDP_MAX, Unanswerable},
    record::{Answer, Code},
};

/// Questions that other servers are asked at a time; further ones are refused. It is kubeadm's
/// `max_concurrent`.
const ASKED_MAX: usize = 1000;
/// Connections at a time; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 256;
/// How long a connection may be silent, or take to read an answer.
const IDLE: Duration = Duration::from_secs(10);
/// How long to leave a socket alone that gives an error: it may be out of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(50);

/// A DNS server: asks its [`Records`] in their order, then [`Upstream`], and refuses what neither
/// knows. Clones are the same server.
#[derive(Clone, Debug)]
pub struct Server(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    records: Vec<Arc<dyn Records>>,
    upstream: Option<Upstream>,
    asked: Arc<Semaphore>,
}

/// What is to be done about a message.
#[derive(Debug)]
pub enum Now {
    /// Nothing.
    Ignore,
    /// This is to be sent back.
    Send(Vec<u8>),
    /// Another server has to be asked for the answer, or the rest of this one.
    Ask(Query, Option<Answer>),
}

impl Server {
    /// A server of these records. Without `upstream` it knows nothing else.
    pub fn new(
        records: impl IntoIterator<Item = Arc<dyn Records>>,
        upstream: Option<Upstream>,
    ) -> Self {
        let asked = Arc::new(Semaphore::new(ASKED_MAX));
        Self(Arc::new(Inner { records: records.into_iter().collect(), upstream, asked }))
    }

    /// What is to be done about a message, whatever it is.
    pub fn consider(&self, message: &[u8], transport: Transport) -> Now {
        let query = match Query::read(message) {
            Ok(query) => query,
            Err(Unanswerable::Ignored) => return Now::Ignore,
            Err(Unanswerable::Told(answer)) => return Now::Send(answer),
        };
        let records = &self.0.records;
        let known = records.iter().find_map(|records| records.answer(&query.question));
        match known {
            Some(answer) if answer.elsewhere.is_some() && self.recursion() => {
                Now::Ask(query, Some(answer))
            }
            None if self.recursion() => Now::Ask(query, None),
            known => {
                let answer = known.unwrap_or_else(|| Answer::error(Code::Refused));
                Now::Send(self.write(&query, message, answer, transport))
            }
        }
    }

    /// Answers what comes to these sockets until `stop`.
    pub async fn run(self, udp: UdpSocket, tcp: TcpListener, stop: CancellationToken) {
        tokio::select! { biased;
            () = stop.cancelled() => {}
            () = self.serve_packets(Arc::new(udp)) => {}
            () = self.serve_connections(tcp) => {}
        }
    }

    fn recursion(&self) -> bool {
        self.0.upstream.is_some()
    }

    fn write(
        &self,
        query: &Query,
        message: &[u8],
        mut answer: Answer,
        transport: Transport,
    ) -> Vec<u8> {
        answer.shuffle(rng::below);
        query.write(message, &answer, transport, self.recursion())
    }

    async fn serve_packets(&self, socket: Arc<UdpSocket>) {
        let mut packet = vec![0; UDP_MAX];
        // They end with the server.
        let mut asking = JoinSet::new();
        loop {
            let (length, client) = match socket.recv_from(&mut packet).await {
                Ok(received) => received,
                Err(error) => {
                    pause("receive", &error).await;
                    continue;
                }
            };
            let message = &packet[..length];
            match self.consider(message, Transport::Udp) {
                Now::Ignore => {}
                Now::Send(answer) => send(&socket, &answer, client).await,
                Now::Ask(query, begun) => match self.0.asked.clone().try_acquire_owned() {
                    Ok(permit) => {
                        let (server, socket) = (self.clone(), socket.clone());
                        let message = message.to_vec();
                        asking.spawn(async move {
                            let _permit = permit;
                            let answer = server.ask(&query, &message, begun, Transport::Udp).await;
                            send(&socket, &answer, client).await;
                        });
                    }
                    Err(_) => {
                        let refused = Answer::error(Code::Refused);
                        let answer = self.write(&query, message, refused, Transport::Udp);
                        send(&socket, &answer, client).await;
                    }
                },
            }
            while asking.try_join_next().is_some() {}
        }
    }

    async fn serve_connections(&self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            while connections.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = self.clone();
                    connections.spawn(async move {
                        let _place = place;
                        if let Err(error) = server.serve_connection(stream).await {
                            tracing::debug!(%error, "a connection to the DNS server ended");
                        }
                    });
                }
                Err(error) => pause("accept", &error).await,
            }
        }
    }

    /// Answers one question after the other, in order (RFC 7766, section 6.2.1.1).
    async fn serve_connection(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut message = Vec::new();
        while let Ok(length) = timeout(IDLE, stream.read_u16()).await {
            message.resize(usize::from(length?), 0);
            timeout(IDLE, stream.read_exact(&mut message)).await??;
            let answer = match self.consider(&message, Transport::Tcp) {
                Now::Ignore => return Ok(()),
                Now::Send(answer) => answer,
                Now::Ask(query, begun) => match self.0.asked.try_acquire() {
                    Ok(_permit) => self.ask(&query, &message, begun, Transport::Tcp).await,
                    Err(_) => {
                        let refused = Answer::error(Code::Refused);
                        self.write(&query, &message, refused, Transport::Tcp)
                    }
                },
            };
            let mut framed = u16::try_from(answer.len()).unwrap_or_default().to_be_bytes().to_vec();
            framed.extend(answer);
            timeout(IDLE, stream.write_all(&framed)).await??;
        }
        Ok(())
    }

    /// The answer that another server gives, or with what it says of where `begun` goes on.
    async fn ask(
        &self,
        query: &Query,
        message: &[u8],
        begun: Option<Answer>,
        transport: Transport,
    ) -> Vec<u8> {
        let Some(upstream) = &self.0.upstream else { return Vec::new() };
        let Some(mut answer) = begun else {
            let passed_on = upstream.pass_on(message, query.question_end, transport).await;
            let fail = || self.write(query, message, Answer::error(Code::ServFail), transport);
            return passed_on.unwrap_or_else(fail);
        };
        // An alias is an answer even if nobody knows what it leads to.
        if let Some(target) = answer.elsewhere.take() {
            answer.answers.extend(upstream.addresses(target, query.question.kind).await);
        }
        self.write(query, message, answer, transport)
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(answer, client).await {
        tracing::debug!(%error, %client, "a DNS answer could not be sent");
    }
}

async fn pause(doing: &str, error: &io::Error) {
    // What the kernel heard of an earlier answer: its receiver is gone.
    if error.kind() != io::ErrorKind::ConnectionRefused {
        tracing::warn!(%error, "the DNS server cannot {doing}");
        tokio::time::sleep(PAUSE).await;
    }
}
