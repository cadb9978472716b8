//! Messages to the DNS server, given anything, with a small cluster behind it. What it sends back is
//! an answer to the message that came, of a size that the client takes, and no question itself.
#![no_main]

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use libfuzzer_sys::fuzz_target;
use rk_net::dns::{
    Answer, Known, Name, Now, Query, Question, Records, Server, Transport, Unanswerable, Zone,
};
use serde_json::json;

/// A headless Service `web` with an endpoint, in the only namespace, `default`.
#[derive(Debug)]
struct Cluster {
    zone: Zone,
    service: Arc<Service>,
    slice: Arc<EndpointSlice>,
}

impl Known for Cluster {
    fn has_namespace(&self, name: &str) -> bool {
        name == "default"
    }
    fn service(&self, _: &str, name: &str) -> Option<Arc<Service>> {
        (name == "web").then(|| self.service.clone())
    }
    fn slices(&self, _: &str, _: &str) -> Vec<Arc<EndpointSlice>> {
        vec![self.slice.clone()]
    }
    fn services_at(&self, _: IpAddr) -> Vec<Arc<Service>> {
        Vec::new()
    }
    fn slices_at(&self, _: IpAddr) -> Vec<Arc<EndpointSlice>> {
        vec![self.slice.clone()]
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

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let service = json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
        });
        let slice = json!({
            "metadata": {
                "name": "web-1",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.244.0.7"], "hostname": "web-0"}, {"addresses": ["10.244.0.8"]}],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        });
        let cluster = Cluster {
            zone: Zone::new(Name::parse("cluster.local").expect("a name"), ("default", "web")),
            service: Arc::new(serde_json::from_value(service).expect("a Service")),
            slice: Arc::new(serde_json::from_value(slice).expect("a slice")),
        };
        Server::new([Arc::new(cluster) as Arc<dyn Records>], None)
    })
}

fuzz_target!(|message: &[u8]| {
    for transport in [Transport::Udp, Transport::Tcp] {
        match server().consider(message, transport) {
            Now::Ignore => {}
            Now::Send(answer) => {
                assert_eq!(answer[..2], message[..2]);
                assert!(transport == Transport::Tcp || answer.len() <= 4096);
                assert_eq!(Query::read(&answer), Err(Unanswerable::Ignored));
            }
            Now::Ask(..) => panic!("there is nobody to ask"),
        }
    }
});
