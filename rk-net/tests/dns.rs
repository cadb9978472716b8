//! The DNS server over loopback, with an API server behind it and servers of the test's own beside.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::core::v1::Service;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use rk_api::{client::Informers, server::ApiServer};
use rk_net::dns::{
    Answer, ClusterRecords, Code, Data, Name, Question, Record, Records, Server, Type, Upstream,
    Zone,
};
use rk_store::EmbeddedStore;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server at a free port of loopback, the same for UDP and TCP, until it is dropped.
struct Running {
    address: SocketAddr,
    _stop: DropGuard,
}

async fn run(server: Server) -> Running {
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        // Somebody else may have the other one.
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(server.run(udp, tcp, stop.clone()));
    Running { address, _stop: stop.drop_guard() }
}

/// A query of some length limit, by hand.
fn query(name: &str, kind: Type) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, kind.0 as u8, 0, 1]);
    bytes
}

impl Running {
    async fn udp(&self, message: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.send_to(message, self.address).await.unwrap();
        let mut answer = vec![0; 4096];
        let received = timeout(PATIENCE, socket.recv(&mut answer)).await;
        answer.truncate(received.expect("an answer").unwrap());
        answer
    }

    async fn ask(&self, name: &str, kind: Type) -> Vec<u8> {
        self.udp(&query(name, kind)).await
    }

    /// Asks until this is how it is answered.
    async fn until(&self, name: &str, wanted: Code) {
        let waiting = async {
            while code(&self.ask(name, Type::A).await) != wanted as u8 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(timeout(PATIENCE, waiting).await.is_ok(), "{name} is not {wanted:?}");
    }

    async fn tcp(&self, messages: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        for message in messages {
            stream.write_u16(message.len() as u16).await.unwrap();
            stream.write_all(message).await.unwrap();
        }
        let mut answers = Vec::new();
        for _ in messages {
            let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut answer).await.unwrap();
            answers.push(answer);
        }
        answers
    }
}

fn code(answer: &[u8]) -> u8 {
    answer[3] & 0xf
}

fn is_truncated(answer: &[u8]) -> bool {
    answer[2] & 2 != 0
}

fn answers(answer: &[u8]) -> u8 {
    answer[7]
}

/// Answers questions for one name with so many addresses.
#[derive(Debug)]
struct Fixed(&'static str, u8);

impl Records for Fixed {
    fn answer(&self, question: &Question) -> Option<Answer> {
        let record = |last| Record {
            name: question.name.clone(),
            ttl: 60,
            data: Data::A([192, 0, 2, last].into()),
        };
        (question.name == Name::parse(self.0).unwrap())
            .then(|| Answer::of((0..self.1).map(record).collect()))
    }
}

/// An alias of a name elsewhere.
#[derive(Debug)]
struct Alias(&'static str, &'static str);

impl Records for Alias {
    fn answer(&self, question: &Question) -> Option<Answer> {
        let target = Name::parse(self.1).unwrap();
        let data = Data::Cname(target.clone());
        let alias = Record { name: question.name.clone(), ttl: 30, data };
        (question.name == Name::parse(self.0).unwrap())
            .then(|| Answer { elsewhere: Some(target), ..Answer::of(vec![alias]) })
    }
}

/// Counts how often it is asked, and leaves all to the next.
#[derive(Debug, Default)]
struct Counter(AtomicUsize);

impl Records for Counter {
    fn answer(&self, _: &Question) -> Option<Answer> {
        self.0.fetch_add(1, Ordering::SeqCst);
        None
    }
}

fn server(records: impl IntoIterator<Item = Arc<dyn Records>>, upstream: &[SocketAddr]) -> Server {
    Server::new(records, Upstream::new(upstream.iter().copied()))
}

#[tokio::test]
async fn names_follow_the_objects_of_an_api_server() {
    let api = ApiServer::builder(Arc::new(EmbeddedStore::in_memory())).start().await.unwrap();
    let informers = Informers::new(api.client());
    let zone = Zone::new(Name::parse("cluster.local").unwrap(), ("kube-system", "kube-dns"));
    let names: Arc<dyn Records> = Arc::new(ClusterRecords::new(zone, &informers));
    let dns = run(server([names], &[])).await;

    let name = "web.default.svc.cluster.local";
    // At first it may not have heard of anything; that is no answer that a client may keep.
    let first = code(&dns.ask(name, Type::A).await);
    assert!(first == Code::ServFail as u8 || first == Code::NxDomain as u8, "{first}");
    dns.until(name, Code::NxDomain).await;

    let services = Api::<Service>::default_namespaced(api.client());
    let service = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "web"}, "spec": {"clusterIP": "10.96.0.77", "ports": [{"port": 80}]},
    }));
    services.create(&PostParams::default(), &service.unwrap()).await.unwrap();
    dns.until(name, Code::NoError).await;
    let answer = dns.ask(name, Type::A).await;
    assert_eq!(answer[answer.len() - 4..], [10, 96, 0, 77]);
    assert!(answer[2] & 4 != 0, "authoritative");
    let reverse = dns.ask("77.0.96.10.in-addr.arpa", Type::PTR).await;
    assert_eq!((code(&reverse), answers(&reverse)), (0, 1));

    services.delete("web", &DeleteParams::default()).await.unwrap();
    dns.until(name, Code::NxDomain).await;
    assert_eq!(code(&dns.ask("www.example.com", Type::A).await), Code::Refused as u8);
    api.shutdown().await;
}

#[tokio::test]
async fn what_does_not_fit_a_packet_comes_by_tcp() {
    let dns = run(server([Arc::new(Fixed("big.example", 200)) as Arc<dyn Records>], &[])).await;
    let question = query("big.example", Type::A);
    let short = dns.udp(&question).await;
    assert!(is_truncated(&short) && short.len() <= 512);
    // Two questions on one connection.
    for answer in dns.tcp(&[&question, &question]).await {
        assert_eq!((is_truncated(&answer), answers(&answer)), (false, 200));
    }
}

#[tokio::test]
async fn ones_own_records_come_first() {
    let first: Arc<dyn Records> = Arc::new(Fixed("web.example", 1));
    let dns = run(server(
        [first, Arc::new(Fixed("web.example", 2)), Arc::new(Fixed("db.example", 3))],
        &[],
    ))
    .await;
    assert_eq!(answers(&dns.ask("web.example", Type::A).await), 1);
    assert_eq!(answers(&dns.ask("DB.example", Type::A).await), 3);
}

#[tokio::test]
async fn nothing_that_is_sent_ends_the_server() {
    let dns = run(server([Arc::new(Fixed("web.example", 1)) as Arc<dyn Records>], &[])).await;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let good = query("web.example", Type::A);
    for end in 0..good.len() {
        socket.send_to(&good[..end], dns.address).await.unwrap();
    }
    socket.send_to(&[0xff; 4000], dns.address).await.unwrap();
    let mut stream = TcpStream::connect(dns.address).await.unwrap();
    stream.write_all(&[0, 3, 1, 2, 3]).await.unwrap();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0, "the connection is over");
    assert_eq!(answers(&dns.ask("web.example", Type::A).await), 1);
}

#[tokio::test]
async fn other_names_are_asked_elsewhere_and_kept_for_a_while() {
    let counter = Arc::new(Counter::default());
    let known: Arc<dyn Records> = Arc::new(Fixed("www.example.com", 100));
    let other = run(server([counter.clone() as Arc<dyn Records>, known], &[])).await;
    // Nobody answers at the first address: this socket never reads.
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let alias: Arc<dyn Records> = Arc::new(Alias("web.cluster.local", "www.example.com"));
    let lost: Arc<dyn Records> = Arc::new(Alias("lost.cluster.local", "missing.example.com"));
    let servers = [silent.local_addr().unwrap(), other.address];
    let dns = run(server([alias, lost], &servers)).await;
    let asked = || counter.0.load(Ordering::SeqCst);

    let question = query("www.example.com", Type::A);
    let [first] = &dns.tcp(&[&question]).await[..] else { panic!("one answer") };
    assert_eq!((code(first), answers(first), &first[..2]), (0, 100, &question[..2]));
    assert!(first[2] & 4 != 0 && asked() == 1);

    // From what is kept, in the case and with the id that it is asked for with.
    let mut again = query("WWW.example.com", Type::A);
    again[0] = 0x11;
    let [kept] = &dns.tcp(&[&again]).await[..] else { panic!("one answer") };
    assert_eq!((answers(kept), asked()), (100, 1));
    assert_eq!(kept[..2], again[..2]);
    assert_eq!(kept[12..again.len()], again[12..]);
    let ttl_at = again.len() + 6;
    assert!(kept[ttl_at..ttl_at + 3] == [0; 3] && kept[ttl_at + 3] <= 30, "at most half a minute");

    // An alias comes with what it leads to, though that came by TCP, and alone if nobody knows that.
    let alias = &dns.tcp(&[&query("web.cluster.local", Type::A)]).await[0];
    assert_eq!((code(alias), answers(alias)), (0, 101));
    let lost = &dns.ask("lost.cluster.local", Type::A).await;
    assert_eq!((code(lost), answers(lost)), (0, 1));
    // What the other one says is passed on, too.
    assert_eq!(code(&dns.ask("missing.example.com", Type::A).await), Code::Refused as u8);
}

#[tokio::test]
async fn a_server_that_nobody_answers_says_so() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let dns = run(server([], &[silent.local_addr().unwrap()])).await;
    assert_eq!(code(&dns.ask("www.example.com", Type::A).await), Code::ServFail as u8);
}

#[tokio::test]
async fn an_answer_to_another_question_is_not_taken() {
    let liar = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = liar.local_addr().unwrap();
    let lying = tokio::spawn(async move {
        let mut packet = [0; 512];
        loop {
            let (length, from) = liar.recv_from(&mut packet).await.unwrap();
            let answer = |change: fn(&mut [u8])| {
                let mut answer = packet[..length].to_vec();
                answer[2] |= 0x80;
                change(&mut answer);
                answer
            };
            // Another id, another name, no answer at all; and then the true one: no such name.
            for message in [
                answer(|bytes| bytes[0] ^= 1),
                answer(|bytes| bytes[13] = b'x'),
                answer(|bytes| bytes[2] &= 0x7f),
                answer(|bytes| bytes[3] |= 3),
            ] {
                liar.send_to(&message, from).await.unwrap();
            }
        }
    });
    let dns = run(server([], &[address])).await;
    assert_eq!(code(&dns.ask("www.example.com", Type::A).await), Code::NxDomain as u8);
    lying.abort();
}
