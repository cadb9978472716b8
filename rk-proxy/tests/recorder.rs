//! The kit against a backend that is rules in memory, and a world that follows them by the book.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use rk_proxy::{
    NodeView, ServicePort, ServiceProxy, TrafficPolicy,
    conformance::{self, Answer, Origin, World},
    testing::Recorder,
};

#[derive(Default)]
struct Book {
    recorder: Recorder,
    turn: AtomicUsize,
}

impl Book {
    fn endpoints<'a>(
        &self,
        port: &'a ServicePort,
        policy: TrafficPolicy,
        free: bool,
    ) -> &'a [SocketAddr] {
        match policy {
            TrafficPolicy::Local if !free => &port.endpoints.local,
            _ => &port.endpoints.cluster,
        }
    }
}

#[async_trait]
impl World for Book {
    fn backend(&self) -> Arc<dyn ServiceProxy> {
        Arc::new(self.recorder.clone())
    }

    fn node(&self) -> NodeView {
        NodeView { addresses: vec![self.node_address()], ..NodeView::new("node") }
    }

    fn node_address(&self) -> IpAddr {
        IpAddr::from([192, 0, 2, 1])
    }

    fn servers(&self) -> [SocketAddr; 2] {
        [([10, 244, 0, 2], 8080).into(), ([10, 244, 1, 2], 8080).into()]
    }

    async fn request(&self, from: Origin, to: SocketAddr) -> Answer {
        let rules = self.recorder.rules();
        let at = |port: &ServicePort, addresses: &[IpAddr]| {
            addresses.contains(&to.ip()) && port.port == to.port()
        };
        let found = rules.iter().find_map(|port| {
            let free = from == Origin::Node;
            if at(port, &[port.cluster_ip]) {
                Some((port, self.endpoints(port, port.internal_policy, false)))
            } else if at(port, &port.external_ips)
                || (to.ip() == self.node_address() && port.node_port == Some(to.port()))
            {
                Some((port, self.endpoints(port, port.external_policy, free)))
            } else {
                None
            }
        });
        let Some((port, endpoints)) = found else {
            let known = rules.iter().any(|port| port.cluster_ip == to.ip());
            let closed = known || to.ip() == self.node_address();
            return if closed { Answer::Refused } else { Answer::Silence };
        };
        if endpoints.is_empty() {
            return if port.endpoints.anywhere { Answer::Silence } else { Answer::Refused };
        }
        let turn =
            if port.affinity.is_some() { 0 } else { self.turn.fetch_add(1, Ordering::Relaxed) };
        Answer::Served { by: endpoints[turn % endpoints.len()], client: self.node_address() }
    }
}

#[tokio::test]
async fn the_recorder_conforms() {
    conformance::run(&Book::default()).await;
}
