//! The cluster whose nodes speak CRI to simulated runtimes: nothing of the agent is made for one
//! runtime.

use std::{net::Ipv4Addr, path::Path, sync::Arc};

use rk::{
    Cluster, RuntimeNode,
    cri::{
        SimRuntime,
        cri::{CriRuntime, serve},
    },
    k8s_openapi::api::core::v1::Node,
    kube::Api,
};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::{Running, start as start_cluster};

/// As many as the cluster without CRI has, by the same names.
const NODES: u8 = 3;

/// Starts it; the sockets and the nodes' files are in `directory`. Its endpoints end with the
/// runtime.
pub(super) async fn start(directory: &Path) -> Result<Running, String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    std::fs::create_dir_all(directory).map_err(|error| said(&error))?;
    let running = start_cluster(Cluster::builder().nodes(0), directory.join("kubeconfig")).await?;
    for number in 1..=NODES {
        let address = Ipv4Addr::new(10, 0, 0, number);
        let simulated = SimRuntime::builder()
            .pod_cidr(format!("10.244.{number}.0/24"))
            .node_ip(address.into())
            .missing_images(["missing/httpd:3"])
            .build()
            .map_err(|error| said(&error))?;
        let socket = directory.join(format!("{number}.sock"));
        let listener = UnixListener::bind(&socket).map_err(|error| said(&error))?;
        tokio::spawn(serve(Arc::new(simulated), listener, CancellationToken::new()));
        let runtime = CriRuntime::connect(format!("unix://{}", socket.display()))
            .await
            .map_err(|error| said(&error))?;
        let name = format!("node-{number}");
        let node = RuntimeNode::new(&name, Arc::new(runtime), directory.join(&name))
            .addresses([address.into()]);
        running.cluster.run_node(node).map_err(|error| said(&error))?;
    }
    let nodes: Api<Node> = Api::all(running.cluster.client());
    let ready = crate::lab::eventually(|| async {
        let list = nodes.list(&Default::default()).await.ok()?;
        let ready = list.iter().filter(|node| {
            let conditions = node.status.iter().filter_map(|status| status.conditions.as_ref());
            conditions.flatten().any(|it| it.type_ == "Ready" && it.status == "True")
        });
        (ready.count() == usize::from(NODES)).then_some(())
    });
    ready.await;
    Ok(running)
}
