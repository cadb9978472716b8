//! Answers per second: of the zone alone, from packet to packet, and over loopback.
//!
//! `cargo bench -p rk-net`

#![allow(clippy::unwrap_used, reason = "a benchmark may fail anywhere")]

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use divan::{Bencher, counter::ItemsCount};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use rk_net::dns::{Answer, Known, Name, Now, Question, Records, Server, Transport, Type, Zone};
use tokio::{
    net::{TcpListener, UdpSocket},
    runtime::Runtime,
};
use tokio_util::sync::CancellationToken;

fn main() {
    divan::main();
}

const SERVICES: u16 = 10_000;
/// Questions on their way at a time.
const WINDOW: usize = 64;

/// A cluster of so many Services in one namespace.
#[derive(Debug)]
struct Cluster {
    zone: Zone,
    services: HashMap<String, Arc<Service>>,
}

impl Cluster {
    fn new() -> Self {
        let service = |i: u16| {
            let [high, low] = i.to_be_bytes();
            let name = format!("service-{i}");
            let service = serde_json::json!({
                "metadata": {"name": name, "namespace": "default"},
                "spec": {
                    "clusterIP": format!("10.96.{high}.{low}"),
                    "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
                },
            });
            (name, Arc::new(serde_json::from_value(service).unwrap()))
        };
        let zone = Zone::new(Name::parse("cluster.local").unwrap(), ("kube-system", "kube-dns"));
        Self { zone, services: (0..SERVICES).map(service).collect() }
    }
}

impl Known for Cluster {
    fn has_namespace(&self, name: &str) -> bool {
        name == "default"
    }
    fn service(&self, _: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(name).cloned()
    }
    fn slices(&self, _: &str, _: &str) -> Vec<Arc<EndpointSlice>> {
        Vec::new()
    }
    fn services_at(&self, _: IpAddr) -> Vec<Arc<Service>> {
        Vec::new()
    }
    fn slices_at(&self, _: IpAddr) -> Vec<Arc<EndpointSlice>> {
        Vec::new()
    }
    fn serial(&self) -> u32 {
        1
    }
}

impl Records for Cluster {
    fn answer(&self, question: &Question) -> Option<Answer> {
        self.zone.answer(self, question)
    }
}

/// A query for the address of a Service.
fn query(i: u16) -> Vec<u8> {
    let mut bytes = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [&*format!("service-{i}"), "default", "svc", "cluster", "local"] {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

#[divan::bench]
fn zone(bencher: Bencher<'_, '_>) {
    let cluster = Cluster::new();
    let name = Name::parse("service-77.default.svc.cluster.local").unwrap();
    let question = Question { name, kind: Type::A };
    bencher.counter(ItemsCount::new(1_u32)).bench(|| cluster.answer(&question));
}

#[divan::bench]
fn packet_to_packet(bencher: Bencher<'_, '_>) {
    let server = Server::new([Arc::new(Cluster::new()) as Arc<dyn Records>], None);
    let query = query(77);
    bencher.counter(ItemsCount::new(1_u32)).bench(|| {
        match server.consider(&query, Transport::Udp) {
            Now::Send(answer) => answer,
            other => panic!("{other:?}"),
        }
    });
}

#[divan::bench]
fn over_loopback(bencher: Bencher<'_, '_>) {
    let runtime = Runtime::new().unwrap();
    let server = Server::new([Arc::new(Cluster::new()) as Arc<dyn Records>], None);
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let stop = CancellationToken::new();
    let client = runtime.block_on(async {
        let (udp, tcp) =
            (UdpSocket::bind(any).await.unwrap(), TcpListener::bind(any).await.unwrap());
        let client = UdpSocket::bind(any).await.unwrap();
        client.connect(udp.local_addr().unwrap()).await.unwrap();
        tokio::spawn(server.run(udp, tcp, stop.clone()));
        client
    });
    let queries: Vec<_> = (0..SERVICES).take(WINDOW).map(query).collect();
    bencher.counter(ItemsCount::new(WINDOW)).bench_local(|| {
        runtime.block_on(async {
            for query in &queries {
                client.send(query).await.unwrap();
            }
            let mut answer = [0; 512];
            for _ in &queries {
                client.recv(&mut answer).await.unwrap();
            }
        });
    });
    stop.cancel();
}
