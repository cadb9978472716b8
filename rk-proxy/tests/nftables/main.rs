//! The nftables backend with real packets, in network namespaces of its own.

#![cfg(target_os = "linux")]

mod lab;

use lab::Lab;
use rk_proxy::{
    Applied, How, NodeView, Rules, ServiceProxy,
    conformance::{self, Answer, Origin, World},
    nftables::PodTraffic,
    plan,
    testing::{endpoint_slice, service},
};

/// The lab, unless this machine cannot have one.
macro_rules! lab_or_skip {
    ($name:literal) => {
        match Lab::new().await {
            Ok(lab) => lab,
            Err(reason) => {
                let required = std::env::var("RK_REQUIRE").is_ok_and(|value| value == "all");
                assert!(!required, "{}: {reason}", $name);
                println!("SKIP {}: {reason}", $name);
                return;
            }
        }
    };
}

fn web(lab: &Lab) -> Rules {
    let web = service("web").cluster_ip("10.96.0.10").port(80);
    let [one, two] = lab.servers();
    let slice = endpoint_slice("web").port(one.port());
    let slice = slice.ready(&one.ip().to_string()).ready(&two.ip().to_string());
    plan::plan([&*web], [&*slice], &lab.node())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nftables_conforms() {
    let lab = lab_or_skip!("nftables_conforms");
    conformance::run(&lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nftables_conforms_with_node_ports_at_every_address() {
    let mut lab = lab_or_skip!("nftables_conforms_with_node_ports_at_every_address");
    lab.any_node_address = true;
    conformance::a_node_port_reaches_every_endpoint(&lab).await;
    conformance::without_endpoints_connections_are_refused(&lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_leaves_a_right_table_alone() {
    let lab = lab_or_skip!("a_restart_leaves_a_right_table_alone");
    let rules = web(&lab);
    lab.backend().apply(&rules).await.unwrap();
    // A mark that a table made anew would not have.
    lab.nft("add chain ip rk-proxy still-the-same-table").await;

    let applied = lab.backend().apply(&rules).await.unwrap();

    assert_eq!(applied, Applied { how: How::Unchanged, changed: 1 });
    assert!(lab.ruleset().await.contains("still-the-same-table"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_outlives_a_table_made_anew() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let lab = lab_or_skip!("a_connection_outlives_a_table_made_anew");
    let rules = web(&lab);
    lab.backend().apply(&rules).await.unwrap();
    let mut connection = lab.connect(Origin::Outside, "10.96.0.10:80".parse().unwrap()).await;
    connection.write_all(b"one\n").await.unwrap();
    let mut greeting = [0; 256];
    assert!(connection.read(&mut greeting).await.unwrap() > 0);

    lab.nft("delete table ip rk-proxy").await;
    assert_eq!(lab.backend().apply(&rules).await.unwrap().how, How::Full);

    connection.write_all(b"two\n").await.unwrap();
    let mut echo = [0; 4];
    connection.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"two\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_somebody_broke_is_made_anew() {
    let lab = lab_or_skip!("a_table_that_somebody_broke_is_made_anew");
    let proxy = lab.backend();
    proxy.apply(&web(&lab)).await.unwrap();

    lab.nft("flush ruleset").await;
    assert_eq!(proxy.apply(&web(&lab)).await.unwrap().how, How::Full, "nothing to change");

    lab.nft("flush ruleset").await;
    assert_eq!(proxy.apply(&Rules::new()).await.unwrap().how, How::Full, "something to change");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_others_are_left_alone() {
    let lab = lab_or_skip!("tables_of_others_are_left_alone");
    lab.nft("add table ip theirs\nadd chain ip theirs kept").await;
    let before = lab.ruleset().await;

    let proxy = lab.backend();
    proxy.apply(&web(&lab)).await.unwrap();
    proxy.apply(&Rules::new()).await.unwrap();
    proxy.teardown().await.unwrap();

    assert_eq!(lab.ruleset().await, before, "our table is gone, theirs is as it was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_from_outside_to_a_cluster_ip_is_masqueraded_and_that_of_pods_is_not() {
    let mut lab = lab_or_skip!("traffic_from_outside_to_a_cluster_ip_is_masqueraded");
    lab.config.pod_traffic = PodTraffic::From(vec!["10.244.0.0/16".parse().unwrap()]);
    lab.backend().apply(&only_second(&lab)).await.unwrap();
    let client = async |origin| match lab.request(origin, "10.96.0.10:80".parse().unwrap()).await {
        Answer::Served { client, .. } => client,
        answer => panic!("{origin:?}: {answer:?}"),
    };

    assert_ne!(client(Origin::Outside).await, lab.outside());
    assert_eq!(client(Origin::Server(0)).await, lab.servers()[0].ip());
}

/// More endpoints than are chosen among by single rules: a verdict map chooses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_endpoints_are_all_chosen_sometimes() {
    let lab = lab_or_skip!("many_endpoints_are_all_chosen_sometimes");
    let web = service("web").cluster_ip("10.96.0.10").port(80);
    let [one, two] = lab.servers();
    let slice = endpoint_slice("web").port(one.port()).ready(&one.ip().to_string());
    let ports = 1..=9_u16;
    // The others are closed ports of the second server.
    let closed = ports.map(|port| {
        let slice = endpoint_slice("web").port(port).ready(&two.ip().to_string());
        slice.with(|slice| slice.metadata.name = Some(format!("web-{port}")))
    });
    let slices: Vec<_> = closed.chain([slice]).collect();
    let rules = plan::plan([&*web], slices.iter().map(|slice| &**slice), &lab.node());
    lab.backend().apply(&rules).await.unwrap();

    let mut answers = Vec::new();
    for _ in 0..200 {
        answers.push(lab.request(Origin::Node, "10.96.0.10:80".parse().unwrap()).await);
    }
    assert!(answers.contains(&Answer::Refused), "{answers:?}");
    assert!(answers.iter().any(|a| matches!(a, Answer::Served { .. })), "{answers:?}");
}

fn only_second(lab: &Lab) -> Rules {
    let web = service("web").cluster_ip("10.96.0.10").port(80);
    let two = lab.servers()[1];
    let slice = endpoint_slice("web").port(two.port()).ready(&two.ip().to_string());
    plan::plan([&*web], [&*slice], &lab.node())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn source_ranges_keep_others_from_a_load_balancer_address() {
    use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, ServiceStatus};

    let lab = lab_or_skip!("source_ranges_keep_others_from_a_load_balancer_address");
    let to = "203.0.113.9:80".parse().unwrap();
    let rules = |range: &str| {
        let ingress =
            LoadBalancerIngress { ip: Some("203.0.113.9".to_owned()), ..Default::default() };
        let status = LoadBalancerStatus { ingress: Some(vec![ingress]) };
        let balanced = service("web").cluster_ip("10.96.0.10").port(80);
        let balanced = balanced
            .spec(|spec| spec.load_balancer_source_ranges = Some(vec![range.to_owned()]))
            .with(|service| {
                service.status =
                    Some(ServiceStatus { load_balancer: Some(status), ..Default::default() });
            });
        let one = lab.servers()[0];
        let slice = endpoint_slice("web").port(one.port()).ready(&one.ip().to_string());
        plan::plan([&*balanced], [&*slice], &NodeView::new("other"))
    };
    let proxy = lab.backend();

    proxy.apply(&rules("192.0.2.0/24")).await.unwrap();
    assert!(matches!(lab.request(Origin::Outside, to).await, Answer::Served { .. }));
    proxy.apply(&rules("198.51.100.0/24")).await.unwrap();
    assert_eq!(lab.request(Origin::Outside, to).await, Answer::Silence);
}

#[tokio::test]
async fn a_machine_without_nft_is_told_so() {
    let config =
        rk_proxy::nftables::NftablesConfig { nft: "/nonexistent/nft".into(), ..Default::default() };
    let error = rk_proxy::nftables::NftablesProxy::new(config).apply(&Rules::new()).await;
    let error = error.unwrap_err().to_string();
    assert_eq!(error, "this node lacks the command /nonexistent/nft");
}
