//! Other servers, for the names that are not the cluster's.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rk_api::rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::{Instant, timeout},
};

use super::{
    Name,
    message::{self, HEADER, Reply, Transport, UDP_MAX},
    record::{Question, Record, Type},
};

/// How long a server may take before the next one is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an answer is kept at most, as by kubeadm's `cache 30`.
const KEPT: Duration = Duration::from_secs(30);
/// How many answers are kept. Where there are more, those that are too old go, or all.
const KEPT_MAX: usize = 10_000;

/// Servers that are asked one after the other, beginning with any of them, until one answers; what
/// they answer is kept for as long as it holds, at most 30 s. Clones share that.
///
/// Each question has a random id and goes out from a port of the kernel's choice, so that whoever
/// does not see it has 2³² answers to guess from (RFC 5452).
#[derive(Clone, Debug)]
pub struct Upstream {
    servers: Arc<[SocketAddr]>,
    kept: Arc<Mutex<HashMap<Vec<u8>, Kept>>>,
}

#[derive(Debug)]
struct Kept {
    reply: Vec<u8>,
    since: Instant,
    until: Instant,
}

impl Upstream {
    /// Asks these servers, of which there must be one.
    pub fn new(servers: impl IntoIterator<Item = SocketAddr>) -> Option<Self> {
        let servers: Arc<[_]> = servers.into_iter().collect();
        (!servers.is_empty()).then(|| Self { servers, kept: Arc::default() })
    }

    /// Asks the servers that a `resolv.conf` names, if it does.
    pub fn of_resolv_conf(text: &str) -> Option<Self> {
        Self::new(text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let is_server = words.next() == Some("nameserver");
            let address: IpAddr = words.next().filter(|_| is_server)?.parse().ok()?;
            Some(SocketAddr::new(address, 53))
        }))
    }

    /// The answer to a client's query, as a message for it. `None` if no server gives one.
    pub(super) async fn pass_on(
        &self,
        query: &[u8],
        question_end: usize,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let key = key(query, question_end, transport);
        if let Some(reply) = self.kept(&key, query, question_end) {
            return Some(reply);
        }
        let mut reply = self.ask(query, question_end, transport).await?;
        self.keep(key, question_end, &reply);
        reply[..2].copy_from_slice(&query[..2]);
        Some(reply)
    }

    /// The addresses of a name, with the aliases that lead to them. None where nobody answers.
    pub(super) async fn addresses(&self, name: Name, kind: Type) -> Vec<Record> {
        let query = message::ask(0, &Question { name, kind });
        let end = query.len();
        let mut reply = self.pass_on(&query, end, Transport::Udp).await;
        let is_truncated = |reply: &Vec<u8>| {
            Reply::to(&query, end, reply).is_none_or(|reply| reply.is_truncated())
        };
        if reply.as_ref().is_some_and(is_truncated) {
            reply = self.pass_on(&query, end, Transport::Tcp).await;
        }
        let reply = reply.as_deref().and_then(|reply| Reply::to(&query, end, reply));
        reply.map(|reply| reply.addresses(end)).unwrap_or_default()
    }

    /// Asks the servers under an id of our own, which the answer has, too.
    async fn ask(
        &self,
        query: &[u8],
        question_end: usize,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let mut query = query.to_vec();
        let first = usize::try_from(rng::below(self.servers.len() as u64)).unwrap_or_default();
        for server in self.servers.iter().cycle().skip(first).take(self.servers.len()) {
            let [high, low, ..] = rng::next_u64().to_le_bytes();
            query[..2].copy_from_slice(&[high, low]);
            let asking = async {
                match transport {
                    Transport::Udp => over_udp(*server, &query, question_end).await,
                    Transport::Tcp => over_tcp(*server, &query).await,
                }
            };
            match timeout(PATIENCE, asking).await.unwrap_or_else(|late| Err(late.into())) {
                Ok(reply) if Reply::to(&query, question_end, &reply).is_some() => {
                    return Some(reply);
                }
                Ok(_) => tracing::debug!(%server, "a DNS server answered something else"),
                Err(error) => tracing::debug!(%server, %error, "a DNS server does not answer"),
            }
        }
        None
    }

    fn kept(&self, key: &[u8], query: &[u8], question_end: usize) -> Option<Vec<u8>> {
        let kept = self.kept.lock();
        let now = Instant::now();
        let found = kept.get(key).filter(|kept| now < kept.until)?;
        let mut reply = found.reply.clone();
        let age = u32::try_from((now - found.since).as_secs()).unwrap_or(u32::MAX);
        drop(kept);
        set_ttls(&mut reply, question_end, |ttl| ttl.saturating_sub(age))?;
        // The id, and the question in the case that it is asked in.
        reply[..2].copy_from_slice(&query[..2]);
        reply[HEADER..question_end].copy_from_slice(&query[HEADER..question_end]);
        Some(reply)
    }

    fn keep(&self, key: Vec<u8>, question_end: usize, reply: &[u8]) {
        let parsed = Reply(reply);
        if !parsed.is_definite() || parsed.is_truncated() {
            return;
        }
        let heads = parsed.heads(question_end).unwrap_or_default();
        // Without records nothing says for how long it holds.
        let Some(ttl) = heads.iter().map(|head| head.ttl).min() else { return };
        let ttl = Duration::from_secs(ttl.into()).min(KEPT);
        let since = Instant::now();
        let mut reply = reply.to_vec();
        let most = u32::try_from(KEPT.as_secs()).unwrap_or(u32::MAX);
        if ttl.is_zero() || set_ttls(&mut reply, question_end, |ttl| ttl.min(most)).is_none() {
            return;
        }
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, kept| since < kept.until);
        }
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(key, Kept { reply, since, until: since + ttl });
    }
}

/// What two queries have in common that get the same answer: all but the id and the case of the name,
/// and how they came.
fn key(query: &[u8], question_end: usize, transport: Transport) -> Vec<u8> {
    let mut key = query.to_vec();
    key[HEADER..question_end].make_ascii_lowercase();
    key[..2].copy_from_slice(&[0, u8::from(transport == Transport::Tcp)]);
    key
}

fn set_ttls(reply: &mut [u8], question_end: usize, to: impl Fn(u32) -> u32) -> Option<()> {
    for head in Reply(reply).heads(question_end)? {
        reply
            .get_mut(head.ttl_at..)?
            .first_chunk_mut()
            .map(|ttl| *ttl = to(head.ttl).to_be_bytes())?;
    }
    Some(())
}

async fn over_udp(server: SocketAddr, query: &[u8], question_end: usize) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut reply = vec![0; UDP_MAX];
    loop {
        let length = socket.recv(&mut reply).await?;
        // Another one may be a guess, and the true one still on its way.
        if Reply::to(query, question_end, &reply[..length]).is_some() {
            reply.truncate(length);
            return Ok(reply);
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], query].concat()).await?;
    let mut reply = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut reply).await?;
    Ok(reply)
}
