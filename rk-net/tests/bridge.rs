//! The bridge network with real namespaces, links and packets. Needs root.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rk_net::{
    AttachRequest, AttachResult, CniError, CniPlugin, NodeNetwork,
    cni::{Loopback, PortMapping},
    netlink::Netlink,
    netns,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Says by name that a test is skipped, or fails when everything is required.
fn can_run(test: &str) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let root = status.lines().any(|line| line.starts_with("Uid:\t0"));
    let admin = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .is_some_and(|capabilities| capabilities & (1 << 21) != 0 && capabilities & (1 << 12) != 0);
    if root && admin {
        return true;
    }
    let reason = "needs root with CAP_SYS_ADMIN and CAP_NET_ADMIN";
    assert!(std::env::var("RK_REQUIRE").as_deref() != Ok("all"), "{test}: {reason}");
    println!("SKIP {test}: {reason}");
    false
}

/// A network and its pods' namespaces, gone when dropped.
struct Lab {
    directory: tempfile::TempDir,
    network: NodeNetwork,
}

impl Lab {
    async fn new() -> Self {
        Self::of("10.244.7.0/24").await
    }

    async fn of(pods: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let network =
            NodeNetwork::builder(directory.path(), pods.parse().unwrap()).build().await.unwrap();
        Self { directory, network }
    }

    fn pod_netns(&self, id: &str) -> PathBuf {
        self.directory.path().join("pods").join(id)
    }

    fn request(&self, id: &str) -> AttachRequest {
        AttachRequest {
            container_id: id.to_owned(),
            netns: self.pod_netns(id),
            interface: "eth0".to_owned(),
            ..AttachRequest::default()
        }
    }

    /// Makes a pod's namespace and attaches it.
    async fn pod(&self, id: &str, ports: Vec<PortMapping>) -> Result<AttachResult, CniError> {
        netns::create(&self.pod_netns(id)).unwrap();
        let request = AttachRequest { port_mappings: ports, ..self.request(id) };
        Loopback.add(&request).await.unwrap();
        self.network.plugin().add(&request).await
    }

    fn node(&self) -> Option<PathBuf> {
        self.network.netns().map(Path::to_owned)
    }

    async fn node_links(&self) -> Vec<String> {
        let netlink = Netlink::open(self.network.netns()).await.unwrap();
        netlink.links().await.unwrap().into_iter().map(|link| link.name).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.directory.path().join("pods")).into_iter().flatten() {
            let _ = netns::delete(&entry.unwrap().path());
        }
        if let Some(path) = self.network.netns() {
            let _ = netns::delete(path);
        }
    }
}

/// Answers every connection in `netns` with its peer's address.
async fn serve(netns: PathBuf, port: u16) {
    let address = SocketAddr::new("0.0.0.0".parse().unwrap(), port);
    let listener = netns::listen(Some(netns), address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, peer)) = listener.accept().await {
            let _ = stream.write_all(peer.ip().to_string().as_bytes()).await;
        }
    });
}

/// What the server at `address` answers to a client in `netns`.
async fn ask(netns: Option<PathBuf>, address: &str) -> io::Result<String> {
    let mut stream = netns::connect(netns, address.parse().unwrap(), TIMEOUT).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn mapping(host_port: u16, container_port: u16, host_ip: Option<&str>) -> PortMapping {
    PortMapping {
        host_port,
        container_port,
        protocol: "tcp".to_owned(),
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
    }
}

#[tokio::test]
async fn pods_reach_each_other_and_the_node_reaches_them() {
    if !can_run("pods_reach_each_other_and_the_node_reaches_them") {
        return;
    }
    let lab = Lab::new().await;
    let first = lab.pod("first", Vec::new()).await.unwrap();
    let second = lab.pod("second", Vec::new()).await.unwrap();
    assert_eq!(first.ips, [("10.244.7.2".parse::<IpAddr>().unwrap(), 24)]);
    assert_eq!(second.ips[0].0.to_string(), "10.244.7.3");
    assert_eq!(first.gateway.unwrap().to_string(), "10.244.7.1");
    assert_eq!(first.mac.unwrap(), "0a:58:0a:f4:07:02");

    serve(lab.pod_netns("second"), 80).await;

    let from_pod = ask(Some(lab.pod_netns("first")), "10.244.7.3:80").await.unwrap();
    assert_eq!(from_pod, "10.244.7.2");
    let from_node = ask(lab.node(), "10.244.7.3:80").await.unwrap();
    assert_eq!(from_node, "10.244.7.1");
    lab.network.plugin().check(&lab.request("first")).await.unwrap();
}

#[tokio::test]
async fn nothing_shows_in_the_machines_own_network() {
    if !can_run("nothing_shows_in_the_machines_own_network") {
        return;
    }
    let own = async || {
        let netlink = Netlink::open(None).await.unwrap();
        let mut names: Vec<String> =
            netlink.links().await.unwrap().into_iter().map(|link| link.name).collect();
        names.sort();
        let routes = std::fs::read_to_string("/proc/net/route").unwrap();
        (names, routes)
    };
    let before = own().await;
    let lab = Lab::new().await;
    lab.pod("pod", vec![mapping(80, 80, None)]).await.unwrap();
    assert_eq!(own().await, before);
}

#[tokio::test]
async fn a_host_port_answers_at_the_node_and_from_the_pod_itself() {
    if !can_run("a_host_port_answers_at_the_node_and_from_the_pod_itself") {
        return;
    }
    let lab = Lab::new().await;
    lab.pod("web", vec![mapping(8080, 80, None), mapping(9090, 80, Some("10.244.7.1"))])
        .await
        .unwrap();
    lab.pod("other", Vec::new()).await.unwrap();
    serve(lab.pod_netns("web"), 80).await;

    for (from, address) in [
        (lab.node(), "10.244.7.1:8080"),
        (lab.node(), "127.0.0.1:8080"),
        (lab.node(), "10.244.7.1:9090"),
        (Some(lab.pod_netns("other")), "10.244.7.1:8080"),
        (Some(lab.pod_netns("web")), "10.244.7.1:8080"),
    ] {
        let answer = ask(from.clone(), address).await;
        assert!(answer.is_ok(), "{address} from {from:?}: {answer:?}");
    }
    let other_address = ask(lab.node(), "127.0.0.1:9090").await;
    assert!(other_address.is_err(), "only the asked address listens: {other_address:?}");

    lab.network.plugin().del(&lab.request("web")).await.unwrap();
    assert!(ask(lab.node(), "10.244.7.1:8080").await.is_err());
}

#[tokio::test]
async fn del_frees_everything_and_may_be_repeated() {
    if !can_run("del_frees_everything_and_may_be_repeated") {
        return;
    }
    let lab = Lab::new().await;
    let before = lab.node_links().await;
    lab.pod("pod", vec![mapping(80, 80, None)]).await.unwrap();
    assert_eq!(lab.node_links().await.len(), before.len() + 1);

    for _ in 0..2 {
        lab.network.plugin().del(&lab.request("pod")).await.unwrap();
        assert_eq!(lab.node_links().await, before);
        assert!(lab.network.plugin().ipam().list().unwrap().is_empty());
    }
    // Also when the namespace went first.
    lab.pod("gone", Vec::new()).await.unwrap();
    netns::delete(&lab.pod_netns("gone")).unwrap();
    lab.network.plugin().del(&lab.request("gone")).await.unwrap();
    assert_eq!(lab.node_links().await, before);
}

#[tokio::test]
async fn a_failed_add_leaves_nothing() {
    if !can_run("a_failed_add_leaves_nothing") {
        return;
    }
    let lab = Lab::new().await;
    let before = lab.node_links().await;

    let error = lab.network.plugin().add(&lab.request("nowhere")).await.unwrap_err();
    assert!(matches!(error, CniError::UnknownNamespace(_)), "{error}");

    // A namespace that has an interface of that name already.
    lab.pod("twice", Vec::new()).await.unwrap();
    let request = AttachRequest { container_id: "another".to_owned(), ..lab.request("twice") };
    lab.network.plugin().add(&request).await.unwrap_err();
    assert_eq!(lab.network.plugin().ipam().list().unwrap().len(), 1);
    assert_eq!(lab.node_links().await.len(), before.len() + 1);

    // A host port that nft refuses takes address and link back.
    let bad = PortMapping { host_ip: Some("::1".parse().unwrap()), ..mapping(80, 80, None) };
    lab.pod("refused", vec![bad]).await.unwrap_err();
    assert_eq!(lab.network.plugin().ipam().list().unwrap().len(), 1);
    assert_eq!(lab.node_links().await.len(), before.len() + 1);
}

#[tokio::test]
async fn concurrent_adds_get_distinct_addresses_until_none_is_left() {
    if !can_run("concurrent_adds_get_distinct_addresses_until_none_is_left") {
        return;
    }
    let lab = Lab::of("10.244.7.0/29").await;
    let ids: Vec<String> = (0..7).map(|n| format!("pod{n}")).collect();
    let results = futures::future::join_all(ids.iter().map(|id| lab.pod(id, Vec::new()))).await;
    let mut addresses: Vec<IpAddr> =
        results.iter().flatten().map(|result| result.ips[0].0).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 5, "five addresses are left of eight");
    let failures: Vec<&CniError> = results.iter().filter_map(|r| r.as_ref().err()).collect();
    assert_eq!(failures.len(), 2);
    assert!(failures.iter().all(|error| matches!(error, CniError::NoAddress { .. })));
}

#[tokio::test]
async fn gc_keeps_the_valid_and_a_restart_keeps_everything() {
    if !can_run("gc_keeps_the_valid_and_a_restart_keeps_everything") {
        return;
    }
    let lab = Lab::new().await;
    lab.pod("kept", Vec::new()).await.unwrap();
    lab.pod("lost", vec![mapping(80, 80, None)]).await.unwrap();
    serve(lab.pod_netns("kept"), 80).await;

    let again = NodeNetwork::builder(lab.directory.path(), "10.244.7.0/24".parse().unwrap())
        .build()
        .await
        .unwrap();
    again.plugin().gc(&["kept".to_owned()]).await.unwrap();

    assert!(ask(lab.node(), "10.244.7.2:80").await.is_ok());
    again.plugin().check(&lab.request("kept")).await.unwrap();
    let error = again.plugin().check(&lab.request("lost")).await.unwrap_err();
    assert_eq!(error.code(), 3);
    assert_eq!(again.plugin().ipam().list().unwrap().len(), 1);
}

#[tokio::test]
async fn the_node_has_its_own_address_and_status_tells_whether_it_is_there() {
    if !can_run("the_node_has_its_own_address_and_status_tells_whether_it_is_there") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let network = NodeNetwork::builder(directory.path(), "10.244.7.0/24".parse().unwrap())
        .node_address("172.30.0.1".parse().unwrap())
        .build()
        .await
        .unwrap();
    assert_eq!(network.node_ips()[0].to_string(), "172.30.0.1");
    let path = network.netns().map(Path::to_owned);
    let listener = netns::listen(path.clone(), "172.30.0.1:80".parse().unwrap()).await.unwrap();
    assert!(listener.as_raw_fd() > 0);
    let connected = netns::connect(path.clone(), "172.30.0.1:80".parse().unwrap(), TIMEOUT).await;
    assert!(connected.is_ok(), "{connected:?}");
    network.plugin().status().await.unwrap();

    network.delete().await.unwrap();

    assert!(!netns::is_namespace(&path.unwrap()));
    assert!(network.delete().await.is_ok(), "a repeat is no error");
}
