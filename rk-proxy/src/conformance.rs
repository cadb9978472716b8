//! Holds a [`ServiceProxy`] to its contract, with real connections where the backend makes rules
//! for a real node.
//!
//! Who tests a backend brings a [`World`]: a node with the backend, servers behind it, and ways to
//! open a connection from several places. [`run`] does the rest. A backend that is not on a real
//! node can answer [`World::request`] from what it knows.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;

use crate::{
    How, NodeView, Rules, ServiceProxy, plan,
    testing::{SliceBuilder, endpoint_slice, service},
};

/// A node with servers and clients, for one backend.
#[async_trait]
pub trait World: Send + Sync {
    /// A new instance of the backend, for the one node; as after a restart of the process.
    fn backend(&self) -> Arc<dyn ServiceProxy>;

    /// The node that rules are made for.
    fn node(&self) -> NodeView;

    /// An address of the node that serves node ports, and that all origins reach.
    fn node_address(&self) -> IpAddr;

    /// Two TCP servers, as pods of this node. They are at one port.
    fn servers(&self) -> [SocketAddr; 2];

    /// Opens a TCP connection and says how that ended. Takes at most about a second.
    async fn request(&self, from: Origin, to: SocketAddr) -> Answer;
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A host outside the cluster that reaches service addresses through the node.
    Outside,
    /// The node itself.
    Node,
    /// The pod of a server.
    Server(usize),
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A server answered.
    Served {
        /// Which one.
        by: SocketAddr,
        /// The client's address, as the server saw it.
        client: IpAddr,
    },
    /// The connection was refused at once.
    Refused,
    /// Nothing came back.
    Silence,
}

const CLUSTER_IP: &str = "10.96.0.10";
const OTHER_IP: &str = "10.96.0.11";
const PORT: u16 = 80;
const NODE_PORT: u16 = 30_080;
/// Both of two servers are missed with a probability below one in 10⁹.
const TRIES: usize = 32;

/// Runs every check. Panics with what went wrong.
pub async fn run(world: &dyn World) {
    a_repeat_changes_nothing(world).await;
    a_new_instance_takes_over(world).await;
    a_cluster_ip_reaches_every_endpoint(world).await;
    a_node_port_reaches_every_endpoint(world).await;
    without_endpoints_connections_are_refused(world).await;
    a_port_that_the_service_lacks_is_refused(world).await;
    without_local_endpoints_external_traffic_meets_silence(world).await;
    a_pod_reaches_itself(world).await;
    affinity_keeps_a_client_at_its_endpoint(world).await;
    endpoints_come_and_go(world).await;
    a_changed_cluster_ip_moves(world).await;
    two_services_with_one_external_address_do_not_break_a_third(world).await;
    teardown_leaves_nothing(world).await;
}

/// Rules that are in force are applied again.
pub async fn a_repeat_changes_nothing(world: &dyn World) {
    let proxy = fresh(world).await;
    let rules = web(world);

    assert_eq!(apply(&*proxy, &rules).await, How::Full, "the first apply makes everything");
    assert_eq!(apply(&*proxy, &rules.clone()).await, How::Unchanged);
    assert_eq!(apply(&*proxy, &web(world)).await, How::Unchanged, "equal rules, made anew");
}

/// The process restarts, with other rules and with the same.
pub async fn a_new_instance_takes_over(world: &dyn World) {
    apply(&*fresh(world).await, &web(world)).await;

    let second = world.backend();
    apply(&*second, &web(world)).await;
    expect_both(world, Origin::Node, cluster_ip()).await;

    let third = world.backend();
    apply(&*third, &rules(world, [], false)).await;
    expect_refused(world, Origin::Node, cluster_ip()).await;
}

/// From everywhere.
pub async fn a_cluster_ip_reaches_every_endpoint(world: &dyn World) {
    let proxy = fresh(world).await;

    apply(&*proxy, &web(world)).await;

    expect_both(world, Origin::Node, cluster_ip()).await;
    expect_both(world, Origin::Server(0), cluster_ip()).await;
    expect_both(world, Origin::Outside, cluster_ip()).await;
}

/// From outside and from the node; the client's address is hidden from the endpoint, which may be
/// on another node.
pub async fn a_node_port_reaches_every_endpoint(world: &dyn World) {
    let proxy = fresh(world).await;

    apply(&*proxy, &web(world)).await;

    expect_both(world, Origin::Outside, node_port(world)).await;
    expect_both(world, Origin::Node, node_port(world)).await;
    expect_both(world, Origin::Server(0), node_port(world)).await;
}

/// Not after a time-out, but at once.
pub async fn without_endpoints_connections_are_refused(world: &dyn World) {
    let proxy = fresh(world).await;

    apply(&*proxy, &rules(world, [], false)).await;

    for origin in [Origin::Outside, Origin::Node, Origin::Server(0)] {
        expect_refused(world, origin, cluster_ip()).await;
        expect_refused(world, origin, node_port(world)).await;
    }
}

/// The cluster IP answers for its ports only, and does not leak to the outside with others.
pub async fn a_port_that_the_service_lacks_is_refused(world: &dyn World) {
    let proxy = fresh(world).await;

    apply(&*proxy, &web(world)).await;

    expect_refused(world, Origin::Outside, SocketAddr::new(cluster_ip().ip(), PORT + 1)).await;
    expect_refused(world, Origin::Node, SocketAddr::new(cluster_ip().ip(), PORT + 1)).await;
}

/// `externalTrafficPolicy: Local` and endpoints on other nodes only: balancers must try those
/// nodes, so nothing is refused. The node itself is not bound by the policy.
pub async fn without_local_endpoints_external_traffic_meets_silence(world: &dyn World) {
    let proxy = fresh(world).await;
    let web = service("web").cluster_ip(CLUSTER_IP).port(PORT).node_port(NODE_PORT);
    let web = web.spec(|spec| spec.external_traffic_policy = Some("Local".to_owned()));

    let local = plan::plan([&*web], [&*slice(world, [0, 1], "this")], &world.node());
    let remote = plan::plan([&*web], [&*slice(world, [0, 1], "elsewhere")], &world.node());

    apply(&*proxy, &local).await;
    expect_both(world, Origin::Outside, node_port(world)).await;
    apply(&*proxy, &remote).await;
    assert_eq!(world.request(Origin::Outside, node_port(world)).await, Answer::Silence);
    expect_both(world, Origin::Node, node_port(world)).await;
    expect_both(world, Origin::Node, cluster_ip()).await;
}

/// Through the Service, when it is the endpoint that is chosen ("hairpin").
pub async fn a_pod_reaches_itself(world: &dyn World) {
    let proxy = fresh(world).await;

    apply(&*proxy, &rules(world, [0], false)).await;

    let itself = world.servers()[0];
    match world.request(Origin::Server(0), cluster_ip()).await {
        Answer::Served { by, client } => {
            assert_eq!(by, itself);
            assert_ne!(client, itself.ip(), "the answer would not go through the node");
        }
        answer => panic!("the pod should reach itself: {answer:?}"),
    }
}

/// `sessionAffinity: ClientIP`.
pub async fn affinity_keeps_a_client_at_its_endpoint(world: &dyn World) {
    let proxy = fresh(world).await;

    apply(&*proxy, &rules(world, [0, 1], true)).await;

    let servers = served_by(world, Origin::Node, cluster_ip()).await;
    assert_eq!(servers.len(), 1, "one client, one endpoint: {servers:?}");

    // The endpoint that the client has goes: it gets the other one.
    let other = usize::from(servers.contains(&world.servers()[0]));
    apply(&*proxy, &rules(world, [other], true)).await;
    let servers = served_by(world, Origin::Node, cluster_ip()).await;
    assert_eq!(servers, BTreeSet::from([world.servers()[other]]));
}

/// The address stays, what is behind it changes.
pub async fn endpoints_come_and_go(world: &dyn World) {
    let proxy = fresh(world).await;
    for endpoints in [&[0][..], &[0, 1], &[1], &[], &[1, 0]] {
        apply(&*proxy, &rules(world, endpoints.iter().copied(), false)).await;

        let wanted: BTreeSet<_> = endpoints.iter().map(|i| world.servers()[*i]).collect();
        assert_eq!(served_by(world, Origin::Outside, cluster_ip()).await, wanted);
        assert_eq!(served_by(world, Origin::Node, node_port(world)).await, wanted);
    }
}

/// A Service that is made anew under its name has another address.
pub async fn a_changed_cluster_ip_moves(world: &dyn World) {
    let proxy = fresh(world).await;
    apply(&*proxy, &web(world)).await;

    let moved = service("web").cluster_ip(OTHER_IP).port(PORT);
    let moved = plan::plan([&*moved], [&*slice(world, [0, 1], "this")], &world.node());
    assert_eq!(apply(&*proxy, &moved).await, How::Incremental);

    expect_both(world, Origin::Node, SocketAddr::new(parse(OTHER_IP), PORT)).await;
    let old = world.request(Origin::Outside, cluster_ip()).await;
    assert!(!matches!(old, Answer::Served { .. }), "the old address still answers: {old:?}");
    let old = world.request(Origin::Outside, node_port(world)).await;
    assert_eq!(old, Answer::Refused, "the node port is nobody's now");
}

/// The first by name has the address; when it goes, the other one gets it.
pub async fn two_services_with_one_external_address_do_not_break_a_third(world: &dyn World) {
    let proxy = fresh(world).await;
    let node = world.node();
    let claims = |name: &str, address: &str| {
        service(name).cluster_ip(address).port(PORT).spec(|spec| {
            spec.external_ips = Some(vec!["203.0.113.7".to_owned()]);
        })
    };
    let (first, second) = (claims("a", CLUSTER_IP), claims("b", OTHER_IP));
    let third = service("c").cluster_ip("10.96.0.12").port(PORT);
    let slices = [
        slice_of("a", world, [0], "this"),
        slice_of("b", world, [1], "this"),
        slice_of("c", world, [0, 1], "this"),
    ];
    let slices = || slices.iter().map(|slice| &**slice);
    let [zero, one] = world.servers();
    let shared = SocketAddr::new(parse("203.0.113.7"), PORT);

    apply(&*proxy, &plan::plan([&*second, &*third], slices(), &node)).await;
    assert_eq!(served_by(world, Origin::Outside, shared).await, BTreeSet::from([one]));
    apply(&*proxy, &plan::plan([&*first, &*second, &*third], slices(), &node)).await;
    assert_eq!(served_by(world, Origin::Outside, shared).await, BTreeSet::from([zero]));
    apply(&*proxy, &plan::plan([&*second, &*third], slices(), &node)).await;
    assert_eq!(served_by(world, Origin::Outside, shared).await, BTreeSet::from([one]));
    expect_both(world, Origin::Outside, SocketAddr::new(parse("10.96.0.12"), PORT)).await;
}

/// Also by an instance that made nothing, and when there is nothing.
pub async fn teardown_leaves_nothing(world: &dyn World) {
    let proxy = fresh(world).await;
    apply(&*proxy, &web(world)).await;

    world.backend().teardown().await.expect("teardown by another instance");
    world.backend().teardown().await.expect("teardown of nothing");

    let answer = world.request(Origin::Node, cluster_ip()).await;
    assert!(!matches!(answer, Answer::Served { .. }), "still served: {answer:?}");
    // The first instance does not know. It must notice, and make everything again.
    assert_eq!(apply(&*proxy, &web(world)).await, How::Full);
    expect_both(world, Origin::Node, cluster_ip()).await;
    proxy.teardown().await.expect("teardown");
}

async fn fresh(world: &dyn World) -> Arc<dyn ServiceProxy> {
    let proxy = world.backend();
    proxy.teardown().await.expect("teardown");
    proxy
}

async fn apply(proxy: &dyn ServiceProxy, rules: &Rules) -> How {
    proxy.apply(rules).await.expect("the rules can be applied").how
}

fn web(world: &dyn World) -> Rules {
    rules(world, [0, 1], false)
}

/// A Service with a node port and these of the servers.
fn rules(world: &dyn World, servers: impl IntoIterator<Item = usize>, affinity: bool) -> Rules {
    let mut web = service("web").cluster_ip(CLUSTER_IP).port(PORT).node_port(NODE_PORT);
    if affinity {
        web = web.affinity(60);
    }
    plan::plan([&*web], [&*slice(world, servers, "this")], &world.node())
}

fn slice(world: &dyn World, servers: impl IntoIterator<Item = usize>, on: &str) -> SliceBuilder {
    slice_of("web", world, servers, on)
}

fn slice_of(
    name: &str,
    world: &dyn World,
    servers: impl IntoIterator<Item = usize>,
    on: &str,
) -> SliceBuilder {
    let all = world.servers();
    let node = world.node().name;
    let node = if on == "this" { node.as_str() } else { on };
    let slice = endpoint_slice(name).port(all[0].port());
    servers.into_iter().fold(slice, |slice, i| slice.ready(&all[i].ip().to_string()).on(node))
}

fn parse(address: &str) -> IpAddr {
    address.parse().expect("an address")
}

fn cluster_ip() -> SocketAddr {
    SocketAddr::new(parse(CLUSTER_IP), PORT)
}

fn node_port(world: &dyn World) -> SocketAddr {
    SocketAddr::new(world.node_address(), NODE_PORT)
}

/// The servers that answer, over many connections.
async fn served_by(world: &dyn World, from: Origin, to: SocketAddr) -> BTreeSet<SocketAddr> {
    let mut servers = BTreeSet::new();
    for _ in 0..TRIES {
        match world.request(from, to).await {
            Answer::Served { by, .. } => servers.insert(by),
            // Without an endpoint a second try tells nothing new.
            Answer::Refused | Answer::Silence => break,
        };
    }
    servers
}

fn both(world: &dyn World) -> BTreeSet<SocketAddr> {
    BTreeSet::from(world.servers())
}

async fn expect_both(world: &dyn World, from: Origin, to: SocketAddr) {
    let servers = served_by(world, from, to).await;
    assert_eq!(servers, both(world), "{to} from {from:?}");
}

async fn expect_refused(world: &dyn World, from: Origin, to: SocketAddr) {
    let answer = world.request(from, to).await;
    assert_eq!(answer, Answer::Refused, "{to} from {from:?}");
}
